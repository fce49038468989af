/*
 * What the types that read or write a format on a stream begin with: torch archives, .npz files and
 * their deflated members.
 */
#ifndef S3D_BIND_FORMAT_H
#define S3D_BIND_FORMAT_H

#include "bind/state.h"
#include "core/error.h"

/* frozen after tp_new */
struct bind_format {
    PyObject_HEAD
    struct bind_state *state;
    PyObject *module; /* keeps state alive */
    PyObject *stream; /* an ObjectReader or ObjectWriter */
};

/* tp_alloc, and its three fields; the rest is zero. NULL with an exception. */
void *bind_format_new(PyTypeObject *type, PyObject *stream);
/* tp_traverse. There is no tp_clear, so that `stream` always is one: a cycle leads through what the
 * stream's own clears. */
int bind_format_traverse(PyObject *self, visitproc visit, void *arg);
/* The end of tp_dealloc, which begins with PyObject_GC_UnTrack. */
void bind_format_dealloc(PyObject *self);
/* bind_raise for the stream's object; returns NULL. */
PyObject *bind_format_raise(const struct bind_format *format, const struct s3d_error *error);
/* Makes the type and adds it to the module. 0, or -1 with an exception. */
int bind_format_add(PyObject *module, PyType_Spec *spec);

#endif
