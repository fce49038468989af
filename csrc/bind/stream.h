/*
 * What the reader and the writer share: their C base, argument parsing, the memory of the first
 * failure, and the check for fork.
 */
#ifndef S3D_BIND_STREAM_H
#define S3D_BIND_STREAM_H

#include "bind/state.h"
#include "bind/wait.h"
#include "core/error.h"

#include <sys/types.h>

/* The layout of _io._BufferedIOBase, whose methods reach its two fields. bind_stream_type
 * checks that this is the running Python's layout. */
struct bind_iobase {
    PyObject_HEAD
    PyObject *dict;
    PyObject *weak_references;
};

/*
 * The first thing that went wrong. torch and zipfile hide what a stream's method raised behind
 * errors of their own; `failure` on the stream gives it back.
 */
struct bind_failure {
    struct s3d_error error; /* code OK: nothing failed */
    PyObject *interrupt;    /* what a signal handler raised (KeyboardInterrupt), or NULL */
};

struct bind_stream {
    struct bind_iobase base;
    /* frozen after tp_new */
    PyObject *module; /* keeps state alive */
    struct bind_state *state;
    PyObject *name;  /* str: the URI as given */
    PyObject *bytes; /* the same for core */
    pid_t process;   /* that opened it */
    struct bind_lock lock;
    /* locked{lock} */
    struct bind_failure failure;
    bool closed;
};

/* The heap type for spec on _io._BufferedIOBase, registered as io.BufferedIOBase; NULL with an
 * exception. */
PyTypeObject *bind_stream_type(PyObject *module, struct bind_state *state, PyType_Spec *spec);

/* After tp_alloc: takes over name and bytes. 0 or -1; on failure the object is to be
 * DECREFed. */
int bind_stream_init(struct bind_stream *stream, PyObject *name, PyObject *bytes);
/* tp_traverse and tp_clear, or parts of them; the end of tp_dealloc. */
int bind_stream_traverse(PyObject *self, visitproc visit, void *arg);
int bind_stream_clear(PyObject *self);
void bind_stream_dealloc(PyObject *self);

const char *bind_stream_uri(const struct bind_stream *stream);
/* True in a child of the process that opened it: its lock may be held for ever, its engine is
 * gone. */
bool bind_stream_forked(const struct bind_stream *stream);
/* The stream's lock. 0, or -1 with an exception: opened before a fork, or reentrant. */
int bind_stream_enter(struct bind_stream *stream);
void bind_stream_leave(struct bind_stream *stream);
/* "I/O operation on closed file."; returns NULL. */
PyObject *bind_stream_raise_closed(void);

/* Keeps the first failure and raises this one; returns NULL. */
PyObject *bind_stream_fail(struct bind_stream *stream, const struct s3d_error *error);
/* Keeps the raised exception of a signal handler as the first failure; it stays raised. */
void bind_stream_interrupted(struct bind_stream *stream);

PyObject *bind_stream_repr(PyObject *self);
/* tp_str: the URI. Keras looks at str(file) for the ".keras" of a name. */
PyObject *bind_stream_str(PyObject *self);
/* True and False, while it is open: readable() and the like. */
PyObject *bind_stream_yes(PyObject *self, PyObject *ignored);
PyObject *bind_stream_no(PyObject *self, PyObject *ignored);
/* Getters that both types list. */
PyObject *bind_stream_get_name(PyObject *self, void *closure);
PyObject *bind_stream_get_closed(PyObject *self, void *closure);
PyObject *bind_stream_get_failure(PyObject *self, void *closure);

/* clang-format off */
#define BIND_STREAM_GETTERS                                                                    \
    {"name", bind_stream_get_name, NULL, "The URI, as io's file objects call it.", NULL},      \
    {"uri", bind_stream_get_name, NULL, "The URI as it was given.", NULL},                     \
    {"closed", bind_stream_get_closed, NULL, "Whether close() or abort() ended it.", NULL},    \
    {"failure", bind_stream_get_failure, NULL,                                                 \
     "The first exception that an operation raised, or None.", NULL}
/* clang-format on */

/* A METH_FASTCALL function as PyMethodDef wants it. */
#define BIND_FAST(function) ((PyCFunction)(void (*)(void))(function))

/* None or an integer: -1 for None and negative numbers. 0 or -1 with an exception. */
int bind_parse_size(PyObject *argument, Py_ssize_t *size);

#endif
