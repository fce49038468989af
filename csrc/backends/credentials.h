/*
 * One set of S3 credentials, and what a profile says besides keys. Where keys come from is source.h's,
 * what has to be asked for and is renewed, identity.h's.
 */
#ifndef S3D_BACKENDS_CREDENTIALS_H
#define S3D_BACKENDS_CREDENTIALS_H

#include "core/config.h"

struct s3d_credentials {
    bool anonymous;
    char *access_key;
    char *secret_key;
    char *session_token; /* NULL: none */
    int64_t expires_s;   /* Unix time; 0: never */
};

void s3d_credentials_fini(struct s3d_credentials *credentials); /* wipes the secrets */

/* The profile's `region` or `endpoint_url`, to be freed with s3d_free; NULL value when not set. A
 * named profile must exist here too. */
S3D_MUST_USE enum s3d_code s3d_profile_setting(const struct s3d_config *config,
                                               const char *name, char **value,
                                               struct s3d_error *error);

#endif
