/* The module's functions: requests without a stream (calls.c), whole objects into memory
 * (gets.c), their checksums (verify.c), settings and counters (settings.c). Python's wrappers in s3dlio_np document
 * them. */
#ifndef S3D_BIND_CALLS_H
#define S3D_BIND_CALLS_H

#include "bind/state.h"

/* METH_VARARGS | METH_KEYWORDS */
PyObject *bind_stat(PyObject *module, PyObject *args, PyObject *keywords);
PyObject *bind_delete(PyObject *module, PyObject *args, PyObject *keywords);
PyObject *bind_list(PyObject *module, PyObject *args, PyObject *keywords);
PyObject *bind_get_into(PyObject *module, PyObject *args, PyObject *keywords);
PyObject *bind_get_bytes(PyObject *module, PyObject *args, PyObject *keywords);
PyObject *bind_get_view(PyObject *module, PyObject *args, PyObject *keywords);
PyObject *bind_verify(PyObject *module, PyObject *args, PyObject *keywords);
PyObject *bind_configure(PyObject *module, PyObject *args, PyObject *keywords);
/* METH_NOARGS */
PyObject *bind_stats(PyObject *module, PyObject *ignored);

int bind_calls_init(void); /* 0, or -1 with an exception */

#endif
