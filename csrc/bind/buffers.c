#include "bind/buffers.h"

#include "core/mem.h"

#include <string.h>

/* --- callers' buffers --------------------------------------------------------------------- */

/* Replaces the exporter's own words, which differ from one to the next, by ours. */
static void explain_fill(PyObject *object, const char *what)
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
                     "np.ascontiguousarray(it) and copy back",
                     what, Py_TYPE(object)->tp_name);
    } else if (readonly) {
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

static int refuse_kind(PyObject *object, const char *what)
{
    PyErr_Format(PyExc_TypeError, "%s needs a bytes-like object, not %.200s", what,
                 Py_TYPE(object)->tp_name);
    return -1;
}

/* 1: *view is filled; 0: it gives no buffer; -1: an exception that is none of the exporter's
 * "not like this". Formats are not asked for: datetime64 and bfloat16 have none. */
static int take_buffer(PyObject *object, Py_buffer *view)
{
    static const int wishes[] = {PyBUF_ANY_CONTIGUOUS, PyBUF_INDIRECT};
    if (!PyObject_CheckBuffer(object)) {
        return 0;
    }
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) {
        if (!PyObject_GetBuffer(object, view, wishes[i])) {
            return 1;
        }
        if (!PyErr_ExceptionMatches(PyExc_BufferError) &&
            !PyErr_ExceptionMatches(PyExc_ValueError)) {
            return -1;
        }
        PyErr_Clear();
    }
    return 0;
}

/* The same for what a method without arguments returns; 0: there is no such method. */
static int take_result(PyObject *object, const char *name, Py_buffer *view, const char *what)
{
    PyObject *method = PyObject_GetAttrString(object, name);
    if (!method) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    PyObject *bytes = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    if (!bytes) {
        return -1;
    }
    int taken = -1;
    if (!PyBytes_Check(bytes) && !PyByteArray_Check(bytes)) {
        PyErr_Format(PyExc_TypeError, "%s: %s() of %.200s gave %.200s, not bytes", what, name,
                     Py_TYPE(object)->tp_name, Py_TYPE(bytes)->tp_name);
    } else if (!PyObject_GetBuffer(bytes, view, PyBUF_SIMPLE)) {
        taken = 1;
    }
    Py_DECREF(bytes); /* the view holds it */
    return taken;
}

int bind_buffer_to_read(PyObject *object, Py_buffer *view, const char *what, bool encode)
{
    bool is_text = PyUnicode_Check(object); /* numpy.str_ has buffer and tobytes(), in UCS-4 */
    if (refuse_objects(object, what) || (is_text && !encode)) {
        return PyErr_Occurred() ? -1 : refuse_kind(object, what);
    }
    int taken = is_text ? 0 : take_buffer(object, view);
    if (!taken && !is_text) {
        taken = take_result(object, "tobytes", view, what);
    }
    if (!taken && encode) {
        taken = take_result(object, "encode", view, what);
    }
    if (!taken) {
        return refuse_kind(object, what);
    }
    return taken < 0 ? -1 : 0;
}

int bind_buffer_to_fill(PyObject *object, Py_buffer *view, const char *what)
{
    if (!PyObject_CheckBuffer(object)) {
        return refuse_kind(object, what);
    }
    if (refuse_objects(object, what)) {
        return -1;
    }
    if (PyObject_GetBuffer(object, view, PyBUF_ANY_CONTIGUOUS | PyBUF_WRITABLE)) {
        explain_fill(object, what);
        return -1;
    }
    return 0;
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
    {Py_tp_doc, (void *)(uintptr_t)"Page memory that an object was read into."},
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

PyObject *bind_pages_adopt(const struct bind_state *state, void **memory, size_t bytes)
{
    struct pages_object *self =
        (struct pages_object *)state->pages_type->tp_alloc(state->pages_type, 0);
    if (self) {
        self->writable = true;
        self->data = *memory;
        self->bytes = bytes;
        *memory = NULL;
    }
    return (PyObject *)self;
}

PyObject *bind_pages_new(const struct bind_state *state, size_t bytes, void **data)
{
    void *memory = bytes > PY_SSIZE_T_MAX ? NULL : s3d_pages_alloc(bytes);
    if (!memory) {
        return PyErr_NoMemory();
    }
    *data = memory;
    PyObject *pages = bind_pages_adopt(state, &memory, bytes);
    s3d_pages_free(memory, bytes); /* only where it was not taken over */
    return pages;
}

PyObject *bind_pages_view(PyObject *pages, bool writable)
{
    ((struct pages_object *)pages)->writable = writable;
    PyObject *view = PyMemoryView_FromObject(pages);
    Py_DECREF(pages);
    return view;
}
