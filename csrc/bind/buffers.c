#include "bind/buffers.h"

#include "core/mem.h"

#include <string.h>

/* --- callers' buffers --------------------------------------------------------------------- */

/* Replaces the exporter's own words, which differ from one to the next, by ours. */
static void explain(PyObject *object, const char *what, bool fill)
{
    Py_buffer view;
    if (!PyErr_ExceptionMatches(PyExc_BufferError) &&
        !PyErr_ExceptionMatches(PyExc_ValueError)) {
        return;
    }
    PyObject *cause = bind_take_exception();
    if (PyObject_GetBuffer(object, &view, PyBUF_FULL_RO)) {
        bind_restore_exception(cause);
        return;
    }
    bool contiguous = PyBuffer_IsContiguous(&view, 'A');
    bool readonly = view.readonly;
    PyBuffer_Release(&view);
    if (!contiguous) {
        Py_XDECREF(cause);
        PyErr_Format(PyExc_ValueError,
                     "%s needs contiguous memory, and this %.200s is not: pass "
                     "np.ascontiguousarray(it)%s",
                     what, Py_TYPE(object)->tp_name, fill ? " and copy back" : "");
    } else if (fill && readonly) {
        Py_XDECREF(cause);
        PyErr_Format(PyExc_TypeError, "%s needs writable memory, and this %.200s is read-only",
                     what, Py_TYPE(object)->tp_name);
    } else {
        bind_restore_exception(cause);
    }
}

/* True for arrays whose bytes are pointers to Python objects, and views of such; -1: exception. */
static int holds_objects(PyObject *object)
{
    if (PyMemoryView_Check(object)) {
        const char *format = PyMemoryView_GET_BUFFER(object)->format;
        return format && strchr(format, 'O') != NULL;
    }
    PyObject *dtype = PyObject_GetAttrString(object, "dtype");
    PyObject *answer = dtype ? PyObject_GetAttrString(dtype, "hasobject") : NULL;
    int holds = answer ? PyObject_IsTrue(answer) : 0;
    if (!answer && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* no array */
    }
    Py_XDECREF(dtype);
    Py_XDECREF(answer);
    return PyErr_Occurred() ? -1 : holds;
}

static int refuse_objects(PyObject *object, const char *what)
{
    int holds = holds_objects(object);
    if (holds > 0) {
        PyErr_Format(PyExc_TypeError,
                     "%s: an array of Python objects has no bytes of its own: use pickle, or "
                     "np.save and np.load with allow_pickle=True",
                     what);
    }
    return holds ? -1 : 0;
}

static int get_buffer(PyObject *object, Py_buffer *view, const char *what, bool fill)
{
    if (!PyObject_CheckBuffer(object)) {
        PyErr_Format(PyExc_TypeError, "%s needs a bytes-like object, not %.200s", what,
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    if (refuse_objects(object, what)) {
        return -1;
    }
    if (PyObject_GetBuffer(object, view,
                           PyBUF_ANY_CONTIGUOUS | (fill ? PyBUF_WRITABLE : PyBUF_SIMPLE))) {
        explain(object, what, fill);
        return -1;
    }
    return 0;
}

int bind_buffer_to_read(PyObject *object, Py_buffer *view, const char *what)
{
    return get_buffer(object, view, what, false);
}

int bind_buffer_to_fill(PyObject *object, Py_buffer *view, const char *what)
{
    return get_buffer(object, view, what, true);
}

/* --- pages -------------------------------------------------------------------------------- */

struct pages_object {
    PyObject_HEAD
    void *data;
    size_t bytes;
    bool writable; /* frozen once a view exists */
};

static int pages_get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    struct pages_object *self = (struct pages_object *)object;
    return PyBuffer_FillInfo(view, object, self->data, (Py_ssize_t)self->bytes, !self->writable,
                             flags);
}

static void pages_dealloc(PyObject *object)
{
    struct pages_object *self = (struct pages_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    void *data = self->data;
    size_t bytes = self->bytes;
    /* Unmapping gigabytes takes milliseconds. */
    Py_BEGIN_ALLOW_THREADS
    s3d_pages_free(data, bytes);
    Py_END_ALLOW_THREADS
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot pages_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t) "Page memory that an object was read into."},
    {Py_tp_dealloc, pages_dealloc},
    {Py_bf_getbuffer, pages_get_buffer},
    {0, NULL},
};

static PyType_Spec pages_spec = {
    .name = "s3dlio_np._native.Pages",
    .basicsize = sizeof(struct pages_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pages_slots,
};

int bind_pages_init(PyObject *module, struct bind_state *state)
{
    state->pages_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &pages_spec, NULL);
    return state->pages_type ? 0 : -1;
}

PyObject *bind_pages_new(const struct bind_state *state, size_t bytes, void **data)
{
    if (bytes > PY_SSIZE_T_MAX) {
        return PyErr_NoMemory();
    }
    struct pages_object *self =
        (struct pages_object *)state->pages_type->tp_alloc(state->pages_type, 0);
    if (!self) {
        return NULL;
    }
    self->writable = true;
    self->data = s3d_pages_alloc(bytes);
    if (!self->data) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    self->bytes = bytes;
    *data = self->data;
    return (PyObject *)self;
}

PyObject *bind_pages_view(PyObject *pages, bool writable)
{
    ((struct pages_object *)pages)->writable = writable;
    PyObject *view = PyMemoryView_FromObject(pages);
    Py_DECREF(pages);
    return view;
}
