/* ObjectReader: an object as a seekable binary file, over core/reader.h. */
#ifndef S3D_BIND_READER_H
#define S3D_BIND_READER_H

#include "bind/state.h"

int bind_reader_init(PyObject *module, struct bind_state *state);

#endif
