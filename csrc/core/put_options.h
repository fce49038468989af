/* An owned copy of struct s3d_put_options. */
#ifndef S3D_CORE_PUT_OPTIONS_H
#define S3D_CORE_PUT_OPTIONS_H

#include "core/request.h"

/* `from` NULL: no options. Release with s3d_put_options_fini, also after a failure. */
S3D_MUST_USE enum s3d_code s3d_put_options_copy(struct s3d_put_options *to,
                                                const struct s3d_put_options *from,
                                                struct s3d_error *error);
void s3d_put_options_fini(struct s3d_put_options *options);

#endif
