/*
 * Headers that settings add to requests of the S3 backend: who pays, whose bucket it must be, how
 * the store encrypts.
 * Source: Amazon S3 API Reference, the request headers of each operation; Amazon S3 User Guide,
 * "Using server-side encryption with customer-provided keys (SSE-C)".
 */
#ifndef S3D_BACKENDS_S3_EXTRAS_H
#define S3D_BACKENDS_S3_EXTRAS_H

#include "backends/auth.h"
#include "core/config.h"

enum { S3D_S3_EXTRAS_MAX = 9 };

/* One header, and a bit (1 << verb) for each request that has it. */
struct s3d_s3_extra {
    const char *name;
    char *value;
    unsigned verbs;
    bool secret;
};

struct s3d_s3_extras {
    struct s3d_s3_extra headers[S3D_S3_EXTRAS_MAX];
    size_t count;
};

/* Checks the settings. private_channel: nobody can read along between here and the endpoint. Release
 * it with s3d_s3_extras_fini, also after a failure. */
S3D_MUST_USE enum s3d_code s3d_s3_extras_load(struct s3d_s3_extras *extras,
                                              const struct s3d_config *config,
                                              bool private_channel, struct s3d_error *error);
/* Wipes. */
void s3d_s3_extras_fini(struct s3d_s3_extras *extras);

#endif
