/*
 * Credentials from a Python callable: what s3dlio_np/_credentials.py needs to serve them from a
 * Python thread. No C code ever calls the callable.
 */
#ifndef S3D_BIND_CREDENTIALS_H
#define S3D_BIND_CREDENTIALS_H

#include "bind/state.h"

PyObject *bind_credentials_open(PyObject *module, PyObject *ignored); /* -> number of the box */
PyObject *bind_credentials_remove(PyObject *module, PyObject *ignored);
PyObject *bind_credentials_wait(PyObject *module, PyObject *number); /* -> asked; False: over */
PyObject *bind_credentials_answer(PyObject *module, PyObject *args);
PyObject *bind_credentials_refuse(PyObject *module, PyObject *args);

#endif
