#include "bind/safetensors.h"

#include "bind/errors.h"
#include "bind/fetch.h"
#include "bind/reader.h"
#include "bind/writer.h"
#include "formats/safetensors.h"

/* --- the header as Python objects ---------------------------------------------------------- */

static PyObject *text_object(const struct s3d_safetensors_text *text)
{
    return PyUnicode_DecodeUTF8(text->data, (Py_ssize_t)text->length, NULL);
}

static PyObject *shape_object(const struct s3d_safetensor *tensor)
{
    PyObject *shape = PyTuple_New((Py_ssize_t)tensor->rank);
    for (size_t i = 0; shape && i < tensor->rank; i++) {
        PyObject *dim = PyLong_FromUnsignedLongLong(tensor->shape[i]);
        if (dim) {
            PyTuple_SET_ITEM(shape, (Py_ssize_t)i, dim);
        } else {
            Py_CLEAR(shape);
        }
    }
    return shape;
}

static PyObject *tensor_object(const struct s3d_safetensor *tensor)
{
    PyObject *name = text_object(&tensor->name);
    PyObject *shape = name ? shape_object(tensor) : NULL;
    PyObject *object = NULL;
    if (shape) {
        object = Py_BuildValue("(OsOKK)", name, s3d_safetensors_dtype_name(tensor->dtype),
                               shape, (unsigned long long)tensor->begin,
                               (unsigned long long)(tensor->end - tensor->begin));
    }
    Py_XDECREF(name);
    Py_XDECREF(shape);
    return object;
}

static PyObject *tensors_object(const struct s3d_safetensors *file)
{
    PyObject *list = PyList_New((Py_ssize_t)file->count);
    for (size_t i = 0; list && i < file->count; i++) {
        PyObject *tensor = tensor_object(&file->tensors[i]);
        if (tensor) {
            PyList_SET_ITEM(list, (Py_ssize_t)i, tensor);
        } else {
            Py_CLEAR(list);
        }
    }
    return list;
}

static PyObject *metadata_object(const struct s3d_safetensors *file)
{
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict && i < file->metadata_count; i++) {
        PyObject *key = text_object(&file->metadata[i].key);
        PyObject *value = key ? text_object(&file->metadata[i].value) : NULL;
        if (!value || PyDict_SetItem(dict, key, value)) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return dict;
}

static PyObject *header_object(const struct s3d_safetensors *file, uint64_t data_offset)
{
    PyObject *tensors = tensors_object(file);
    PyObject *metadata = tensors ? metadata_object(file) : NULL;
    PyObject *header =
        metadata ? Py_BuildValue("(KOO)", (unsigned long long)data_offset, tensors, metadata)
                 : NULL;
    Py_XDECREF(tensors);
    Py_XDECREF(metadata);
    return header;
}

/* --- reading it ---------------------------------------------------------------------------- */

static PyObject *raise_at(const struct bind_state *state, const struct s3d_error *error,
                          PyObject *stream)
{
    return bind_raise(state, error, bind_reader_uri(stream));
}

/* 0, or -1 with an exception. */
static int read_length(const struct bind_state *state, PyObject *stream, uint64_t *header_bytes)
{
    char bytes[S3D_SAFETENSORS_LENGTH_BYTES] = {0};
    uint64_t size;
    struct s3d_error error;
    if (bind_reader_size(stream, &size)) {
        return -1;
    }
    size_t length = size < sizeof bytes ? (size_t)size : sizeof bytes;
    if (bind_reader_read_at(stream, 0, bytes, length)) {
        return -1;
    }
    if (s3d_safetensors_header_bytes(bytes, size, header_bytes, &error)) {
        raise_at(state, &error, stream);
        return -1;
    }
    return 0;
}

static PyObject *parse_header(const struct bind_state *state, PyObject *stream, char *header,
                              size_t length)
{
    uint64_t data_offset = length + S3D_SAFETENSORS_LENGTH_BYTES;
    uint64_t size;
    struct s3d_safetensors file;
    struct s3d_error error;
    enum s3d_code code;
    if (bind_reader_size(stream, &size) ||
        bind_reader_read_at(stream, S3D_SAFETENSORS_LENGTH_BYTES, header, length)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    code = s3d_safetensors_parse(&file, header, length, size - data_offset, &error);
    Py_END_ALLOW_THREADS
    if (code) {
        return raise_at(state, &error, stream);
    }
    PyObject *object = header_object(&file, data_offset);
    s3d_safetensors_close(&file);
    return object;
}

static int check_stream(PyObject *stream, PyTypeObject *type)
{
    if (PyObject_TypeCheck(stream, type)) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "the stream must be %s, not %.200s", type->tp_name,
                 Py_TYPE(stream)->tp_name);
    return -1;
}

PyObject *bind_safetensors_header(PyObject *module, PyObject *stream)
{
    const struct bind_state *state = PyModule_GetState(module);
    uint64_t length;
    if (check_stream(stream, state->reader_type) || read_length(state, stream, &length)) {
        return NULL;
    }
    char *header = PyMem_RawMalloc(length ? (size_t)length : 1);
    if (!header) {
        return PyErr_NoMemory();
    }
    PyObject *object = parse_header(state, stream, header, (size_t)length);
    PyMem_RawFree(header);
    return object;
}

/* --- parts --------------------------------------------------------------------------------- */

/* part: (name, offset, storage); the item is for the whole storage. 0 or -1. */
static int fill_item(struct bind_fetch_item *item, PyObject *part, uint64_t object_bytes,
                     bool fresh)
{
    const char *name;
    unsigned long long offset;
    PyObject *target;
    if (!PyTuple_Check(part)) {
        PyErr_SetString(PyExc_TypeError, "a part must be (name, offset, storage)");
        return -1;
    }
    PyObject *text; /* kept by the part, and so are its bytes */
    if (!PyArg_ParseTuple(part, "UKO;a part must be (name, offset, storage)", &text, &offset,
                          &target)) {
        return -1;
    }
    name = PyUnicode_AsUTF8(text);
    if (!name || bind_storage_memory(target, &item->data, &item->size_bytes)) {
        return -1;
    }
    if (offset > object_bytes || item->size_bytes > object_bytes - offset) {
        PyErr_Format(PyExc_ValueError, "%s: bytes %llu to %llu are not all in the object", name,
                     offset, offset + item->size_bytes);
        return -1;
    }
    item->target = Py_NewRef(target);
    item->offset_bytes = offset;
    item->fresh = fresh;
    item->name = name;
    return 0;
}

PyObject *bind_fetch_parts(PyObject *module, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"", "", "fresh", "sums", NULL};
    const struct bind_state *state = PyModule_GetState(module);
    PyObject *stream, *parts; /* a tuple: nobody changes it while it is read, or fetched */
    int fresh = 0, sums = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!O!|$pp:fetch", BIND_NAMES(names),
                                     state->reader_type, &stream, &PyTuple_Type, &parts, &fresh,
                                     &sums)) {
        return NULL;
    }
    uint64_t object_bytes;
    if (bind_reader_size(stream, &object_bytes)) {
        return NULL;
    }
    size_t count = (size_t)PyTuple_GET_SIZE(parts);
    struct bind_fetch_item *items = PyMem_RawCalloc(count + 1, sizeof *items);
    if (!items) {
        return PyErr_NoMemory();
    }
    for (size_t i = 0; i < count; i++) {
        if (fill_item(&items[i], PyTuple_GET_ITEM(parts, (Py_ssize_t)i), object_bytes, fresh)) {
            bind_fetch_drop(items, count);
            return NULL;
        }
        items[i].sums = sums;
    }
    return bind_fetch_new(state, stream, parts, items, count);
}

PyObject *bind_send_part(PyObject *module, PyObject *args)
{
    const struct bind_state *state = PyModule_GetState(module);
    PyObject *stream, *storage;
    unsigned long long offset, length;
    char *data;
    uint64_t size;
    if (!PyArg_ParseTuple(args, "O!OKK:send", state->writer_type, &stream, &storage, &offset,
                          &length) ||
        bind_storage_memory(storage, &data, &size)) {
        return NULL;
    }
    if (offset > size || length > size - offset || (length && !data)) {
        return PyErr_Format(PyExc_ValueError,
                            "%llu bytes at %llu are not all in a storage of %llu", length,
                            offset, (unsigned long long)size);
    }
    if (length && bind_writer_refer(stream, storage, data + offset, (size_t)length)) {
        return NULL;
    }
    Py_RETURN_NONE;
}
