/* A zip's directory, read from an ObjectReader's object: of torch archives and of .npz files. */
#ifndef S3D_BIND_ZIP_DIRECTORY_H
#define S3D_BIND_ZIP_DIRECTORY_H

#include "bind/state.h"
#include "formats/zip_read.h"

/* Opens *zip, which is empty before, reading the object's end as far back as the directory reaches.
 * 0, or -1 with an exception; either way it is to be closed by s3d_zip_close. */
int bind_zip_directory(const struct bind_state *state, PyObject *stream, struct s3d_zip *zip);

#endif
