#include "bind/format.h"

#include "bind/errors.h"
#include "bind/stream.h"

void *bind_format_new(PyTypeObject *type, PyObject *stream)
{
    PyObject *module;
    struct bind_state *state = bind_state_of_type(type, &module);
    struct bind_format *format = state ? (struct bind_format *)type->tp_alloc(type, 0) : NULL;
    if (format) {
        format->state = state;
        format->module = Py_NewRef(module);
        format->stream = Py_NewRef(stream);
    }
    return format;
}

int bind_format_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct bind_format *format = (struct bind_format *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(format->module);
    Py_VISIT(format->stream);
    return 0;
}

void bind_format_dealloc(PyObject *self)
{
    struct bind_format *format = (struct bind_format *)self;
    PyTypeObject *type = Py_TYPE(self);
    Py_CLEAR(format->stream);
    Py_CLEAR(format->module);
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject *bind_format_raise(const struct bind_format *format, const struct s3d_error *error)
{
    return bind_raise(format->state, error,
                      bind_stream_uri((struct bind_stream *)format->stream));
}

int bind_format_add(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int failed = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    return failed;
}
