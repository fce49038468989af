/*
 * What the module s3dlio_np._native owns: its exceptions and types. No process-wide state: that
 * is the engine's (core/engine.h).
 *
 * Objects of this module hold a strong reference to it, so `state` stays valid as long as they.
 */
#ifndef S3D_BIND_STATE_H
#define S3D_BIND_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

struct bind_state {
    PyObject *storage_error; /* StorageError(OSError) and its subclasses */
    PyObject *not_found_error;
    PyObject *denied_error;
    PyObject *exists_error;
    PyObject *changed_error;
    PyObject *integrity_error;
    PyObject *unsupported_error; /* io.UnsupportedOperation */
    PyObject *buffered_base;     /* _io._BufferedIOBase */
    PyTypeObject *reader_type;
    PyTypeObject *writer_type;
    PyTypeObject *pages_type;
    PyTypeObject *fetch_type;
    PyTypeObject *plain_type;
    PyObject *spare_landing; /* of gets.c: bytes that nothing has been written to, or NULL */
};

extern struct PyModuleDef bind_np_module;

/* The state and (borrowed) module behind a type of this module or a subclass; NULL with a
 * TypeError for any other type. */
struct bind_state *bind_state_of_type(PyTypeObject *type, PyObject **module);

/* Argument names, which CPython before 3.13 wants as plain char **. */
#define BIND_NAMES(names) ((char **)(uintptr_t)(names))

/* The raised exception as one object (NULL if there is none), and back. */
static inline PyObject *bind_take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (!type) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback) {
        PyException_SetTraceback(value, traceback);
    }
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

static inline void bind_restore_exception(PyObject *exception)
{
    PyErr_Clear();
    if (!exception) {
        return;
    }
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exception);
#else
    PyObject *type = (PyObject *)Py_TYPE(exception);
    Py_INCREF(type);
    PyErr_Restore(type, exception, PyException_GetTraceback(exception));
#endif
}

#endif
