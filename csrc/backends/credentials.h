/*
 * One set of S3 credentials, and those that lie ready without asking anyone: settings, environment,
 * keys in the shared credentials and config files. What has to be asked for, and what is renewed, is
 * identity.h's.
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

/*
 * The order: anonymous ("1"; "0" or NULL: off), then the access key of settings or environment,
 * then the profile. An explicit key wins over a profile, named or not, as AWS_ACCESS_KEY_ID wins
 * over AWS_PROFILE in AWS's tools; a session token without a key is passed over. Of the files the
 * credentials file wins; key, secret and token always come from one source.
 *
 * NO_CREDENTIALS, saying where was looked, when there are none. A half (key without secret) or a
 * named profile that does not exist is INVALID. The files are ~/.aws/credentials and
 * ~/.aws/config unless config names others; sections "[name]" and "[profile name]". A
 * missing file is an empty one; one that cannot be read or parsed is an error that names it.
 */
S3D_MUST_USE enum s3d_code s3d_credentials_load(struct s3d_credentials *credentials,
                                                const struct s3d_config *config,
                                                struct s3d_error *error);
void s3d_credentials_fini(struct s3d_credentials *credentials); /* wipes the secrets */

/* The profile's `region` or `endpoint_url`, to be freed with s3d_free; NULL value when not set. A
 * named profile must exist here too. */
S3D_MUST_USE enum s3d_code s3d_profile_setting(const struct s3d_config *config, const char *name,
                                               char **value, struct s3d_error *error);

#endif
