#include "bind/stream.h"

#include "bind/errors.h"

#include <unistd.h>

/* --- the type ----------------------------------------------------------------------------- */

static int register_as_buffered(PyObject *type)
{
    PyObject *io = PyImport_ImportModule("io");
    PyObject *abc = io ? PyObject_GetAttrString(io, "BufferedIOBase") : NULL;
    PyObject *done = abc ? PyObject_CallMethod(abc, "register", "O", type) : NULL;
    Py_XDECREF(io);
    Py_XDECREF(abc);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static int load_base(struct bind_state *state)
{
    if (state->buffered_base) {
        return 0;
    }
    PyObject *io = PyImport_ImportModule("_io");
    PyObject *base = io ? PyObject_GetAttrString(io, "_BufferedIOBase") : NULL;
    Py_XDECREF(io);
    if (!base) {
        return -1;
    }
    if (!PyType_Check(base) ||
        ((PyTypeObject *)base)->tp_basicsize != sizeof(struct bind_iobase)) {
        Py_DECREF(base);
        PyErr_SetString(PyExc_ImportError,
                        "s3dlio_np._native does not know this Python's _io._BufferedIOBase");
        return -1;
    }
    state->buffered_base = base;
    return 0;
}

PyTypeObject *bind_stream_type(PyObject *module, struct bind_state *state, PyType_Spec *spec)
{
    if (load_base(state)) {
        return NULL;
    }
    PyObject *bases = PyTuple_Pack(1, state->buffered_base);
    PyObject *type = bases ? PyType_FromModuleAndSpec(module, spec, bases) : NULL;
    Py_XDECREF(bases);
    if (type && register_as_buffered(type)) {
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}

/* --- life --------------------------------------------------------------------------------- */

int bind_stream_init(struct bind_stream *stream, PyObject *name, PyObject *bytes)
{
    stream->name = name;
    Py_INCREF(name);
    stream->bytes = bytes;
    Py_INCREF(bytes);
    stream->process = getpid();
    stream->state = bind_state_of_type(Py_TYPE(stream), &stream->module);
    if (!stream->state) {
        return -1;
    }
    Py_INCREF(stream->module);
    return bind_lock_init(&stream->lock);
}

int bind_stream_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct bind_stream *stream = (struct bind_stream *)self;
    Py_VISIT(Py_TYPE(stream));
    Py_VISIT(stream->base.dict);
    Py_VISIT(stream->module);
    Py_VISIT(stream->failure.interrupt);
    return 0;
}

int bind_stream_clear(PyObject *self)
{
    struct bind_stream *stream = (struct bind_stream *)self;
    Py_CLEAR(stream->base.dict);
    Py_CLEAR(stream->failure.interrupt); /* its traceback may lead back here */
    return 0;
}

void bind_stream_dealloc(PyObject *self)
{
    struct bind_stream *stream = (struct bind_stream *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (stream->base.weak_references) {
        PyObject_ClearWeakRefs(self);
    }
    bind_stream_clear(self);
    Py_CLEAR(stream->name);
    Py_CLEAR(stream->bytes);
    Py_CLEAR(stream->module);
    bind_lock_fini(&stream->lock);
    type->tp_free(self);
    Py_DECREF(type);
}

const char *bind_stream_uri(const struct bind_stream *stream)
{
    return PyBytes_AS_STRING(stream->bytes);
}

/* --- failures ----------------------------------------------------------------------------- */

bool bind_stream_forked(const struct bind_stream *stream)
{
    return stream->process != getpid();
}

static void raise_forked(const struct bind_stream *stream)
{
    struct s3d_error error;
    s3d_fail(&error, S3D_FORKED,
             "opened before fork() and used in the child: open it again there");
    bind_raise(stream->state, &error, bind_stream_uri(stream));
}

int bind_stream_enter(struct bind_stream *stream)
{
    if (!stream->closed && bind_stream_forked(stream)) {
        raise_forked(stream);
        return -1;
    }
    return bind_lock_enter(&stream->lock, (PyObject *)stream);
}

void bind_stream_leave(struct bind_stream *stream)
{
    bind_lock_leave(&stream->lock);
}

PyObject *bind_stream_raise_closed(void)
{
    PyErr_SetString(PyExc_ValueError, "I/O operation on closed file.");
    return NULL;
}

PyObject *bind_stream_fail(struct bind_stream *stream, const struct s3d_error *error)
{
    if (!stream->failure.error.code) {
        stream->failure.error = *error;
    }
    return bind_raise(stream->state, error, bind_stream_uri(stream));
}

void bind_stream_interrupted(struct bind_stream *stream)
{
    if (stream->failure.error.code) {
        return;
    }
    s3d_fail(&stream->failure.error, S3D_CANCELLED, "interrupted");
    PyObject *exception = bind_take_exception();
    Py_XINCREF(exception);
    stream->failure.interrupt = exception;
    bind_restore_exception(exception);
}

/* --- what it is ------------------------------------------------------------------------------ */

PyObject *bind_stream_get_name(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((struct bind_stream *)self)->name);
}

PyObject *bind_stream_repr(PyObject *self)
{
    const struct bind_stream *stream = (struct bind_stream *)self;
    return PyUnicode_FromFormat("<%s %U%s>", Py_TYPE(self)->tp_name, stream->name,
                                stream->closed ? " (closed)" : "");
}

PyObject *bind_stream_str(PyObject *self)
{
    return bind_stream_get_name(self, NULL);
}

static PyObject *when_open(PyObject *self, bool answer)
{
    return ((struct bind_stream *)self)->closed ? bind_stream_raise_closed()
                                                : PyBool_FromLong(answer);
}

PyObject *bind_stream_yes(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return when_open(self, true);
}

PyObject *bind_stream_no(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return when_open(self, false);
}

/* Read without the lock: text wrappers ask before each line. */
PyObject *bind_stream_get_closed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((struct bind_stream *)self)->closed);
}

PyObject *bind_stream_get_failure(PyObject *self, void *Py_UNUSED(closure))
{
    struct bind_stream *stream = (struct bind_stream *)self;
    if (stream->failure.interrupt) {
        return Py_NewRef(stream->failure.interrupt);
    }
    if (stream->failure.error.code) {
        return bind_error_object(stream->state, &stream->failure.error,
                                 bind_stream_uri(stream));
    }
    Py_RETURN_NONE;
}

int bind_parse_size(PyObject *argument, Py_ssize_t *size)
{
    *size = -1;
    if (!argument || argument == Py_None) {
        return 0;
    }
    *size = PyNumber_AsSsize_t(argument, PyExc_OverflowError);
    if (*size == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (*size < 0) {
        *size = -1;
    }
    return 0;
}
