/*
 * URIs: s3://bucket/key, file:///path, plain paths.
 *
 * s3 keys are taken as they stand, every byte after the bucket's slash, without percent-decoding
 * (the AWS CLI's rule). file:// paths are percent-decoded as RFC 8089 says. A text without
 * "scheme://" is a local path.
 */
#ifndef S3D_CORE_URI_H
#define S3D_CORE_URI_H

#include "core/error.h"

enum { S3D_KEY_MAX = 1024 /* bytes in a key, as S3 has it */ };

enum s3d_scheme { S3D_SCHEME_FILE, S3D_SCHEME_S3 };

struct s3d_uri {
    enum s3d_scheme scheme;
    char *container; /* bucket; NULL for files */
    char *key;       /* object key or path; never NULL, may be empty for s3://bucket/ */
};

/* INVALID for an unknown scheme, an empty or malformed bucket, NUL bytes (length tells), a remote
 * file host. An empty key passes: s3d_uri_require_key refuses it where an object is meant. */
S3D_MUST_USE enum s3d_code s3d_uri_parse(struct s3d_uri *uri, const char *text, size_t length,
                                         struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_uri_require_key(const struct s3d_uri *uri,
                                               struct s3d_error *error);
void s3d_uri_fini(struct s3d_uri *uri);

#endif
