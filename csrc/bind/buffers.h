/*
 * Buffers in both directions: callers' objects as spans of bytes, and our page memory as a
 * Python object.
 */
#ifndef S3D_BIND_BUFFERS_H
#define S3D_BIND_BUFFERS_H

#include "bind/state.h"

/*
 * The bytes of a buffer, whatever its dtype: view->len bytes at view->buf in memory order where it is
 * C- or F-contiguous (PyBuffer_IsContiguous), else to be gathered in logical order (bind/gather.h).
 * What has no buffer, or refuses it, is asked for tobytes(); with `encode` after that for encode().
 * Text without `encode` is a TypeError, as is all else; `what` names the method for messages. 0 or
 * -1; release with PyBuffer_Release.
 */
int bind_buffer_to_read(PyObject *object, Py_buffer *view, const char *what, bool encode);
/* Contiguous memory to be written into. No buffer, or read-only memory: TypeError; not contiguous:
 * ValueError saying what to do. */
int bind_buffer_to_fill(PyObject *object, Py_buffer *view, const char *what);

int bind_pages_init(PyObject *module, struct bind_state *state);

/* A Pages object over `bytes` of fresh page memory, which it owns; *data is where. Writable
 * until bind_pages_view. */
PyObject *bind_pages_new(const struct bind_state *state, size_t bytes, void **data);
/* The same over *memory from s3d_pages_alloc, which it takes over and sets to NULL. */
PyObject *bind_pages_adopt(const struct bind_state *state, void **memory, size_t bytes);
/* A memoryview of it (stealing the reference), which nobody can write through unless
 * `writable`. */
PyObject *bind_pages_view(PyObject *pages, bool writable);

#endif
