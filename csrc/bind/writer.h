/* ObjectWriter: an object being written, over core/put.h. Only a clean close() makes it
 * visible. */
#ifndef S3D_BIND_WRITER_H
#define S3D_BIND_WRITER_H

#include "bind/state.h"

int bind_writer_init(PyObject *module, struct bind_state *state);

/*
 * Appending from C, for writers of formats; `writer` is an ObjectWriter. 0, or -1 with an
 * exception, after which the stream is poisoned like after any failed write.
 */
/* Copies, like write(). */
int bind_writer_copy(PyObject *writer, const void *data, size_t length);
/* Sends pieces of 64 KiB and more from where they lie; `owner` keeps that memory, and is kept until
 * the store has it. Smaller ones are copied, and need no owner (NULL). */
int bind_writer_refer(PyObject *writer, PyObject *owner, const void *data, size_t length);
int bind_writer_zeros(PyObject *writer, uint64_t length);
/* The same for Python's buffers. */
PyObject *bind_refer_buffer(PyObject *module, PyObject *args);

#endif
