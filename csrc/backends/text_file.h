/* Small files that hold settings, tokens or secrets. */
#ifndef S3D_BACKENDS_TEXT_FILE_H
#define S3D_BACKENDS_TEXT_FILE_H

#include "core/str.h"

/* A leading "~/" stands for HOME. Leaves *path empty when HOME is needed and not set. */
S3D_MUST_USE enum s3d_code s3d_home_path(const char *text, struct s3d_str *path,
                                         struct s3d_error *error);

/*
 * All of a file, terminated, for s3d_text_free; *data is NULL when there is no such file. Pipes are
 * refused, since they could block. INVALID for one longer than max_bytes or with a NUL in it.
 */
S3D_MUST_USE enum s3d_code s3d_text_file_read(const char *path, size_t max_bytes, char **data,
                                              size_t *length, struct s3d_error *error);
void s3d_text_free(char *data, size_t length); /* wipes; NULL is allowed */

#endif
