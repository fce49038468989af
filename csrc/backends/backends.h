/* The constructors that open.c chooses from. */
#ifndef S3D_BACKENDS_BACKENDS_H
#define S3D_BACKENDS_BACKENDS_H

#include "core/config.h"
#include "core/store.h"

S3D_MUST_USE enum s3d_code s3d_s3_open(struct s3d_store **store, struct s3d_engine *engine,
                                       const struct s3d_config *config, const char *bucket,
                                       struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_file_open(struct s3d_store **store, struct s3d_engine *engine,
                                         const struct s3d_config *config,
                                         struct s3d_error *error);

#endif
