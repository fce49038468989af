/*
 * Buffers in both directions: callers' objects as spans of bytes, and our page memory as a
 * Python object.
 */
#ifndef S3D_BIND_BUFFERS_H
#define S3D_BIND_BUFFERS_H

#include "bind/state.h"

/*
 * The memory of any C- or F-contiguous buffer, view->len bytes at view->buf in memory order,
 * whatever its dtype. `what` names the method for messages. No buffer (str among them):
 * TypeError; not contiguous: ValueError saying what to do. 0 or -1; release with
 * PyBuffer_Release.
 */
int bind_buffer_to_read(PyObject *object, Py_buffer *view, const char *what);
/* The same for memory to be written into; read-only memory is a TypeError. */
int bind_buffer_to_fill(PyObject *object, Py_buffer *view, const char *what);

int bind_pages_init(PyObject *module, struct bind_state *state);

/* A Pages object over `bytes` of fresh page memory, which it owns; *data is where. Writable
 * until bind_pages_view. */
PyObject *bind_pages_new(const struct bind_state *state, size_t bytes, void **data);
/* A memoryview of it (stealing the reference), which nobody can write through unless
 * `writable`. */
PyObject *bind_pages_view(PyObject *pages, bool writable);

#endif
