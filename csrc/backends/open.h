/* From a URI to a store: the one door from bind/ into the backends. */
#ifndef S3D_BACKENDS_OPEN_H
#define S3D_BACKENDS_OPEN_H

#include "core/store.h"
#include "core/uri.h"

/*
 * Opens the store that `uri` lies in, with the settings of this moment (s3d_config_load). Sends
 * nothing. May read profile files, so call it without the GIL. The caller owns one reference.
 */
S3D_MUST_USE enum s3d_code s3d_store_open(struct s3d_store **store, const struct s3d_uri *uri,
                                          struct s3d_error *error);

#endif
