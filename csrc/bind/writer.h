/* ObjectWriter: an object being written, over core/put.h. Only a clean close() makes it
 * visible. */
#ifndef S3D_BIND_WRITER_H
#define S3D_BIND_WRITER_H

#include "bind/state.h"

int bind_writer_init(PyObject *module, struct bind_state *state);

#endif
