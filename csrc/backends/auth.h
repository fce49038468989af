/*
 * Signing: AWS Signature Version 4, headers only. The only user of OpenSSL's digests.
 * Source: AWS General Reference, "Signature Version 4 signing process".
 */
#ifndef S3D_BACKENDS_AUTH_H
#define S3D_BACKENDS_AUTH_H

#include "core/request.h"
#include "core/str.h"

enum { S3D_SHA256_HEX = 65, S3D_AMZ_DATE = 17 };

/* Lower-case hex of SHA-256 over the spans, terminated. */
S3D_MUST_USE enum s3d_code s3d_sha256_hex(char hex[S3D_SHA256_HEX],
                                          const struct s3d_span *spans, size_t count,
                                          struct s3d_error *error);

/* Lower-case hex of MD5, for ETags that stores define by it, never for security. False: not to be
 * had, as where the system allows no MD5. */
enum { S3D_MD5_BYTES = 16, S3D_MD5_HEX = 33 };
bool s3d_md5_hex(char hex[S3D_MD5_HEX], const void *data, size_t length);

/* Lower-case hex of SHA-1, by which AWS's tools name their token files; never for security. */
enum { S3D_SHA1_HEX = 41 };
S3D_MUST_USE enum s3d_code s3d_sha1_hex(char hex[S3D_SHA1_HEX], const void *data, size_t length,
                                        struct s3d_error *error);

/* Base64 with padding, terminated; text has room for 4 bytes for every 3 begun, and one. */
void s3d_base64(char *text, const unsigned char *data, size_t length);

/* MD5 of a 256-bit key that is given in base64, in base64: how a store knows that a key came whole.
 * INVALID for any other text. */
enum { S3D_MD5_BASE64 = 25 };
S3D_MUST_USE enum s3d_code s3d_key_digest(char digest[S3D_MD5_BASE64], const char *key,
                                          struct s3d_error *error);

/* "20260131T235959Z" */
void s3d_amz_date(char date[S3D_AMZ_DATE], int64_t unix_s);

struct s3d_header {
    const char *name; /* lower case */
    const char *value;
};

struct s3d_sigv4 {
    const char *access_key;
    const char *secret_key;
    const char *region;
    const char *service; /* "s3" */
    const char *method;
    const char *path;  /* percent-encoded as it goes over the wire; starts with '/' */
    const char *query; /* canonical: encoded, sorted by name; "" for none */
    const struct s3d_header *headers; /* to be signed: host, x-amz-* and more, sorted by name */
    size_t header_count;
    const char *payload; /* SHA-256 hex or "UNSIGNED-PAYLOAD" */
    const char *date;    /* s3d_amz_date */
};

/* Appends the value of the Authorization header. */
S3D_MUST_USE enum s3d_code s3d_sigv4_authorize(const struct s3d_sigv4 *request,
                                               struct s3d_str *authorization,
                                               struct s3d_error *error);

#endif
