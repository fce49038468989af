/* ObjectReader: an object as a seekable binary file, over core/reader.h. */
#ifndef S3D_BIND_READER_H
#define S3D_BIND_READER_H

#include "bind/state.h"
#include "core/get.h"

int bind_reader_init(PyObject *module, struct bind_state *state);

/* From C, for readers of formats; `reader` is an ObjectReader. 0, or -1 with an exception. */
/* All of [offset, offset + length), which must exist; the stream's position stays. */
int bind_reader_read_at(PyObject *reader, uint64_t offset, void *data, size_t length);
/* s3d_reader_fetch. */
int bind_reader_fetch(PyObject *reader, struct s3d_get **get, const struct s3d_get_plan *wanted);
uint64_t bind_reader_size(PyObject *reader);
const char *bind_reader_uri(PyObject *reader);

#endif
