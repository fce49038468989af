/*
 * NpzReader: the directory of a .npz archive over an ObjectReader, and Inflater: one of its deflated
 * members as a stream.
 */
#ifndef S3D_BIND_NPZ_READER_H
#define S3D_BIND_NPZ_READER_H

#include "bind/state.h"

int bind_npz_reader_init(PyObject *module, struct bind_state *state);

#endif
