#include "bind/arrays.h"

#include "bind/buffers.h"
#include "bind/errors.h"
#include "bind/fetch.h"
#include "bind/reader.h"
#include "bind/sums.h"
#include "formats/crc.h"
#include "formats/npy.h"

#include <string.h>

enum { RANK_MAX = 64 /* NumPy's own, from 2.0 on; 32 before */ };

/* --- memory and sums ----------------------------------------------------------------------- */

PyObject *bind_allocate(PyObject *module, PyObject *nbytes)
{
    void *data;
    size_t bytes = PyLong_AsSize_t(nbytes);
    if (bytes == (size_t)-1 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *pages = bind_pages_new(PyModule_GetState(module), bytes, &data);
    return pages ? bind_pages_view(pages, true) : NULL;
}

/* Contiguous bytes; 0 or -1. */
static int open_bytes(PyObject *object, Py_buffer *view, const char *what)
{
    if (bind_buffer_to_read(object, view, what, false)) {
        return -1;
    }
    if (!PyBuffer_IsContiguous(view, 'A')) {
        PyErr_Format(PyExc_ValueError, "%s needs contiguous memory", what);
        PyBuffer_Release(view);
        return -1;
    }
    return 0;
}

PyObject *bind_crc32(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *buffer;
    unsigned int crc = 0;
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "O|I:crc32", &buffer, &crc) ||
        open_bytes(buffer, &view, "crc32()")) {
        return NULL;
    }
    crc = bind_sum(crc, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(crc);
}

/* CRC-32 is linear: what the first part does to the whole's sum can be taken out of it. */
PyObject *bind_crc32_behind(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned int whole, first;
    unsigned long long length;
    if (!PyArg_ParseTuple(args, "IIK:crc32_behind", &whole, &first, &length)) {
        return NULL;
    }
    return PyLong_FromUnsignedLong(whole ^ s3d_crc32_combine(first, 0, length));
}

/* --- fetching ------------------------------------------------------------------------------ */

static int check_damage(const struct bind_state *state, PyObject *stream,
                        const struct bind_fetch_item *item)
{
    uint32_t sum = bind_sum(0, item->data, (size_t)item->size_bytes);
    struct s3d_error error;
    if (!item->has_crc || sum == item->crc) {
        return 0;
    }
    s3d_fail(&error, S3D_INTEGRITY,
             "%s is damaged: its CRC-32 is %08x, but the archive says %08x", item->name, sum,
             item->crc);
    bind_raise(state, &error, bind_reader_uri(stream));
    return -1;
}

/* What is in memory already needs no request: it is copied now, and nothing is left to fetch. */
static int take_buffered(const struct bind_state *state, PyObject *stream,
                         struct bind_fetch_item *item)
{
    size_t buffered;
    if (bind_reader_buffered(stream, item->offset_bytes, &buffered)) {
        return -1;
    }
    if (buffered < item->size_bytes) {
        return 0;
    }
    if (bind_reader_read_at(stream, item->offset_bytes, item->data, (size_t)item->size_bytes) ||
        check_damage(state, stream, item)) {
        return -1;
    }
    item->size_bytes = 0;
    item->has_crc = false;
    return 0;
}

static int parse_crc(PyObject *object, struct bind_fetch_item *item)
{
    if (object == Py_None) {
        return 0;
    }
    unsigned long crc = PyLong_AsUnsignedLong(object);
    if (PyErr_Occurred()) {
        return -1;
    }
    item->has_crc = true;
    item->crc = (uint32_t)crc;
    return 0;
}

/* A view keeps the memory where it is until the fetch has ended. */
static int open_target(PyObject *buffer, struct bind_fetch_item *item)
{
    Py_buffer view;
    PyObject *target = PyMemoryView_FromObject(buffer);
    if (!target || bind_buffer_to_fill(target, &view, "fetch_arrays()")) {
        Py_XDECREF(target);
        return -1;
    }
    item->target = target;
    item->data = view.buf;
    item->size_bytes = (uint64_t)view.len;
    PyBuffer_Release(&view); /* target holds another */
    return 0;
}

/* part: (name, offset, buffer, crc). 0 or -1. */
static int fill_item(const struct bind_state *state, PyObject *stream, PyObject *part,
                     struct bind_fetch_item *item)
{
    PyObject *name, *buffer, *crc;
    unsigned long long offset;
    uint64_t object_bytes;
    if (!PyTuple_Check(part)) {
        PyErr_SetString(PyExc_TypeError, "a part must be (name, offset, buffer, crc)");
        return -1;
    }
    if (!PyArg_ParseTuple(part, "UKOO;a part must be (name, offset, buffer, crc)", &name,
                          &offset, &buffer, &crc)) {
        return -1;
    }
    item->name = PyUnicode_AsUTF8(name); /* kept by the part */
    if (!item->name || bind_reader_size(stream, &object_bytes) || parse_crc(crc, item) ||
        open_target(buffer, item)) {
        return -1;
    }
    if (offset > object_bytes || item->size_bytes > object_bytes - offset) {
        PyErr_Format(PyExc_ValueError, "%U: bytes %llu to %llu are not all in the object", name,
                     offset, offset + item->size_bytes);
        return -1;
    }
    item->offset_bytes = offset;
    return take_buffered(state, stream, item);
}

PyObject *bind_fetch_arrays(PyObject *module, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"", "", "fresh", NULL};
    const struct bind_state *state = PyModule_GetState(module);
    PyObject *stream, *parts; /* a tuple: nobody changes it while it is read, or fetched */
    int fresh = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!O!|$p:fetch_arrays", BIND_NAMES(names),
                                     state->reader_type, &stream, &PyTuple_Type, &parts,
                                     &fresh)) {
        return NULL;
    }
    size_t count = (size_t)PyTuple_GET_SIZE(parts);
    struct bind_fetch_item *items = PyMem_RawCalloc(count + 1, sizeof *items);
    if (!items) {
        return PyErr_NoMemory();
    }
    for (size_t i = 0; i < count; i++) {
        if (fill_item(state, stream, PyTuple_GET_ITEM(parts, (Py_ssize_t)i), &items[i])) {
            bind_fetch_drop(items, count);
            return NULL;
        }
        items[i].fresh = fresh != 0;
    }
    return bind_fetch_new(state, stream, parts, items, count);
}

/* --- sending ------------------------------------------------------------------------------- */

PyObject *bind_send_array(PyObject *module, PyObject *args)
{
    const struct bind_state *state = PyModule_GetState(module);
    PyObject *stream, *buffer, *before;
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "O!OO:send_array", state->writer_type, &stream, &buffer,
                          &before)) {
        return NULL;
    }
    bool summed = before != Py_None;
    unsigned long start = summed ? PyLong_AsUnsignedLong(before) : 0;
    if (PyErr_Occurred()) {
        return NULL;
    }
    uint32_t crc = (uint32_t)start;
    PyObject *owner = PyMemoryView_FromObject(buffer); /* keeps the memory in place */
    if (!owner || open_bytes(owner, &view, "send_array()")) {
        Py_XDECREF(owner);
        return NULL;
    }
    int failed =
        bind_sum_and_refer(stream, owner, view.buf, (size_t)view.len, summed ? &crc : NULL);
    PyBuffer_Release(&view);
    Py_DECREF(owner);
    if (failed) {
        return NULL;
    }
    return summed ? PyLong_FromUnsignedLong(crc) : Py_NewRef(Py_None);
}

/* --- .npy ---------------------------------------------------------------------------------- */

PyObject *bind_npy_prefix(PyObject *module, PyObject *args)
{
    PyObject *where = NULL;
    Py_buffer head;
    unsigned long long available, text_max;
    struct s3d_npy npy;
    uint64_t need;
    struct s3d_error error;
    if (!PyArg_ParseTuple(args, "O&y*KK:npy_prefix", PyUnicode_FSConverter, &where, &head,
                          &available, &text_max)) {
        return NULL;
    }
    enum s3d_code code =
        s3d_npy_prefix(&npy, head.buf, (size_t)head.len, available, text_max, &need, &error);
    PyBuffer_Release(&head);
    PyObject *result = NULL;
    if (code && code != S3D_AGAIN) {
        bind_raise(PyModule_GetState(module), &error, PyBytes_AS_STRING(where));
    } else {
        result = Py_BuildValue("(InKK)", npy.major, (Py_ssize_t)npy.text_offset,
                               (unsigned long long)npy.data_offset, (unsigned long long)need);
    }
    Py_DECREF(where);
    return result;
}

/* The dimensions; one that does not fit is as wrong as a negative one. */
static int parse_shape(const char *where, PyObject *shape, uint64_t dimensions[RANK_MAX])
{
    Py_ssize_t rank = PyTuple_GET_SIZE(shape);
    if (rank > RANK_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: %zd dimensions, more than NumPy has", where, rank);
        return -1;
    }
    for (Py_ssize_t i = 0; i < rank; i++) {
        PyObject *dimension = PyTuple_GET_ITEM(shape, i);
        dimensions[i] = PyLong_AsUnsignedLongLong(dimension);
        if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError,
                         "%s: a dimension of %S: negative dimensions are not allowed, nor such "
                         "beyond 2**64 - 1",
                         where, dimension);
        }
        if (PyErr_Occurred()) {
            return -1;
        }
    }
    return 0;
}

PyObject *bind_npy_bytes(PyObject *module, PyObject *args)
{
    PyObject *where = NULL, *shape, *result = NULL;
    unsigned long long item_bytes, available;
    uint64_t dimensions[RANK_MAX], bytes;
    struct s3d_error error;
    if (!PyArg_ParseTuple(args, "O&O!KK:npy_bytes", PyUnicode_FSConverter, &where,
                          &PyTuple_Type, &shape, &item_bytes, &available)) {
        return NULL;
    }
    const char *text = PyBytes_AS_STRING(where);
    if (!parse_shape(text, shape, dimensions)) {
        result = s3d_npy_bytes(dimensions, (size_t)PyTuple_GET_SIZE(shape), item_bytes,
                               available, &bytes, &error)
                     ? bind_raise(PyModule_GetState(module), &error, text)
                     : PyLong_FromUnsignedLongLong(bytes);
    }
    Py_DECREF(where);
    return result;
}
