#include "bind/note.h"

/* 0, or -1 with an exception. */
static int warn(PyObject *text)
{
    const char *utf8 = PyUnicode_AsUTF8(text);
    return utf8 ? PyErr_WarnEx(PyExc_RuntimeWarning, utf8, 1) : -1;
}

static int add_note(PyObject *exception, PyObject *text)
{
    PyObject *done = PyObject_CallMethod(exception, "add_note", "O", text);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* Steals text; NULL: an exception is set. */
static int note(PyObject *exception, PyObject *text)
{
    bool beside = exception && PyExceptionInstance_Check(exception);
    int failed = -1;
    if (text && beside && PyObject_HasAttrString(exception, "add_note")) {
        failed = add_note(exception, text);
    } else if (text) {
        failed = warn(text);
    }
    if (failed && beside) {
        PyErr_WriteUnraisable(text);
        failed = 0;
    }
    Py_XDECREF(text);
    return failed;
}

int bind_note_remains(PyObject *exception, const struct s3d_put *put, PyObject *uri)
{
    struct s3d_put_remains remains = {0};
    int failed = 0;
    if (put) {
        s3d_put_remains(put, &remains);
    }
    if (remains.unclear) {
        failed = note(
            exception,
            PyUnicode_FromFormat("%U: the answer to the request that makes it visible did not "
                                 "come: it is not known whether it was written",
                                 uri));
    }
    if (!failed && remains.upload_id) {
        const char *code = remains.why->server_code;
        failed =
            note(exception,
                 PyUnicode_FromFormat(
                     "%U: its multipart upload %s could not be removed (%s%s%s): it keeps "
                     "its parts, which are paid for, until somebody aborts it",
                     uri, remains.upload_id, code, code[0] ? ": " : "", remains.why->message));
    }
    return failed;
}
