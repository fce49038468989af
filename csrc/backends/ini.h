/*
 * One of AWS's two profile files. Values are pieces of the file's own bytes, so that secrets lie in
 * one place, which s3d_ini_fini wipes.
 */
#ifndef S3D_BACKENDS_INI_H
#define S3D_BACKENDS_INI_H

#include "core/str.h"

struct s3d_piece {
    const char *text; /* not terminated; NULL: absent */
    size_t length;
};

struct s3d_ini {
    struct s3d_str path;
    char *data; /* NULL: no such file */
    size_t length;
    bool is_config; /* sections are "[profile name]", but for "[default]" */
};

/* "profile" and "sso-session": the kinds of section that are looked into. */
#define S3D_INI_PROFILE     "profile"
#define S3D_INI_SSO_SESSION "sso-session"

/* Reads `configured`, or `fallback` where that is not set; "~/" stands for HOME. A missing file is
 * an empty one. Fit for s3d_ini_fini whatever the result. */
S3D_MUST_USE enum s3d_code s3d_ini_load(struct s3d_ini *file, const char *configured,
                                        const char *fallback, bool is_config,
                                        struct s3d_error *error);
void s3d_ini_fini(struct s3d_ini *file);

/*
 * Looks `name` up in a section: value->text is NULL when it is not there or empty. `name` NULL asks
 * for the section alone. *exists (nullable) becomes true when the file has the section, and stays
 * as it was otherwise. INVALID, with the line's number but never its text, when any line is broken.
 */
S3D_MUST_USE enum s3d_code s3d_ini_find(const struct s3d_ini *file, const char *kind,
                                        const char *section, const char *name,
                                        struct s3d_piece *value, bool *exists,
                                        struct s3d_error *error);

#endif
