#include "bind/credentials.h"

#include "backends/open.h"
#include "bind/errors.h"
#include "bind/wait.h"

#include <string.h>

PyObject *bind_credentials_open(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    uint64_t number = 0;
    struct s3d_error error;
    enum s3d_code code;
    Py_BEGIN_ALLOW_THREADS
    code = s3d_callback_open(&number, &error);
    Py_END_ALLOW_THREADS
    if (code) {
        return bind_raise(PyModule_GetState(module), &error, NULL);
    }
    return PyLong_FromUnsignedLongLong(number);
}

PyObject *bind_credentials_remove(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    Py_BEGIN_ALLOW_THREADS
    s3d_callback_remove();
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static enum s3d_code step_wait(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    return s3d_callback_wait(*(const uint64_t *)context, timeout_ms, error);
}

PyObject *bind_credentials_wait(PyObject *module, PyObject *argument)
{
    struct s3d_error error;
    uint64_t number = PyLong_AsUnsignedLongLong(argument);
    if (PyErr_Occurred()) {
        return NULL;
    }
    enum s3d_code code = bind_wait(step_wait, &number, &error);
    if (code == S3D_AGAIN) { /* a signal handler raised */
        return NULL;
    }
    if (code && code != S3D_CLOSED) {
        return bind_raise(PyModule_GetState(module), &error, NULL);
    }
    return PyBool_FromLong(code == S3D_OK);
}

PyObject *bind_credentials_answer(PyObject *module, PyObject *args)
{
    unsigned long long number;
    const char *access_key, *secret_key, *session_token;
    long long expires_s;
    struct s3d_error error;
    enum s3d_code code;
    if (!PyArg_ParseTuple(args, "KsszL:credentials_answer", &number, &access_key, &secret_key,
                          &session_token, &expires_s)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    code =
        s3d_callback_answer(number, access_key, secret_key, session_token, expires_s, &error);
    Py_END_ALLOW_THREADS
    if (code) {
        return bind_raise(PyModule_GetState(module), &error, NULL);
    }
    Py_RETURN_NONE;
}

PyObject *bind_credentials_refuse(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long number;
    const char *why;
    struct s3d_error error;
    if (!PyArg_ParseTuple(args, "Ks:credentials_refuse", &number, &why)) {
        return NULL;
    }
    s3d_fail(&error, S3D_NO_CREDENTIALS, "the credentials callback failed: %.300s", why);
    Py_BEGIN_ALLOW_THREADS
    s3d_callback_refuse(number, &error);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}
