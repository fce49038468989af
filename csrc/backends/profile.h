/*
 * A profile: one name in AWS's two files, ~/.aws/credentials and ~/.aws/config unless settings name
 * others; sections "[name]" and "[profile name]". A missing file is an empty one; one that cannot be
 * read or parsed is an error that names it. Of the files the credentials file wins; key, secret and
 * token always come from one of them. A half (key without secret) is INVALID.
 */
#ifndef S3D_BACKENDS_PROFILE_H
#define S3D_BACKENDS_PROFILE_H

#include "backends/credentials.h"
#include "backends/ini.h"

struct s3d_profile {
    const char *name; /* borrowed from the settings */
    bool exists;
    struct s3d_ini files[2]; /* credentials, config: the first that tells wins */
};

/* A profile that the settings name must exist. Fit for s3d_profile_fini whatever the result. */
S3D_MUST_USE enum s3d_code s3d_profile_load(struct s3d_profile *profile,
                                            const struct s3d_config *config,
                                            struct s3d_error *error);
void s3d_profile_fini(struct s3d_profile *profile);

/* A copy of one setting of any profile in these files, for s3d_free; NULL when not set. */
S3D_MUST_USE enum s3d_code s3d_profile_text(const struct s3d_profile *profile,
                                            const char *section, const char *name, char **value,
                                            struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_profile_has(const struct s3d_profile *profile,
                                           const char *section, bool *exists,
                                           struct s3d_error *error);
/* The keys that one of the two files has for it, if any: access_key stays NULL otherwise. */
S3D_MUST_USE enum s3d_code s3d_profile_keys(const struct s3d_profile *profile,
                                            const char *section, size_t file,
                                            struct s3d_credentials *credentials,
                                            struct s3d_error *error);
/* The file's path, as messages show it. */
const char *s3d_profile_path(const struct s3d_profile *profile, size_t file);

/* --- keys of settings and environment --- */

/* NULL counts as off. */
S3D_MUST_USE enum s3d_code s3d_read_anonymous(const char *text, bool *anonymous,
                                              struct s3d_error *error);
bool s3d_has_explicit_keys(const struct s3d_config *config);
S3D_MUST_USE enum s3d_code s3d_take_explicit_keys(struct s3d_credentials *credentials,
                                                  const struct s3d_config *config,
                                                  struct s3d_error *error);

#endif
