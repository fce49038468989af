#include "bind/calls.h"

#include "bind/buffers.h"
#include "bind/errors.h"
#include "bind/request.h"
#include "bind/wait.h"
#include "core/get.h"
#include "core/reader.h"

/* --- a range into memory ------------------------------------------------------------------ */

/* Where to read from, and how. */
struct source {
    const struct bind_target *target;
    const struct bind_transfer *transfer;
    const char *etag;   /* NULL or "": any version */
    int64_t latency_us; /* of a request before; 0: there was none */
};

static enum s3d_code step_get(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    return s3d_get_wait_all(context, timeout_ms, error);
}

static enum s3d_code start_get(struct s3d_get **get, const struct source *source,
                               const struct s3d_segment *segment, struct s3d_error *error)
{
    bool whole = segment->length_bytes < source->transfer->threshold_bytes; /* one request */
    struct s3d_get_plan plan = {
        .key = source->target->uri.key,
        .segments = segment,
        .segment_count = 1,
        .part_bytes = whole ? segment->length_bytes : source->transfer->part_bytes,
        .part_max_bytes = whole ? 0 : source->transfer->part_max_bytes,
        .concurrency = whole ? 1 : source->transfer->concurrency,
        .latency_us = source->latency_us,
        .if_match = source->etag && source->etag[0] ? source->etag : NULL,
    };
    return s3d_get_new(get, source->target->store, &plan, error);
}

/* Reads a range into data; afterwards nothing writes there. 0, or -1 with an exception. */
static int run_get(const struct bind_state *state, const struct source *source, void *data,
                   uint64_t offset, uint64_t length)
{
    struct s3d_segment segment = {offset, length, data};
    struct s3d_get *get = NULL;
    struct s3d_error error;
    enum s3d_code code;
    if (!length) {
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS
    code = start_get(&get, source, &segment, &error);
    Py_END_ALLOW_THREADS
    if (!code) {
        code = bind_wait(step_get, get, &error);
        Py_BEGIN_ALLOW_THREADS
        s3d_get_free(get);
        Py_END_ALLOW_THREADS
    }
    if (code && code != S3D_AGAIN) {
        bind_raise(state, &error, bind_target_text(source->target));
    }
    return code ? -1 : 0;
}

/* --- get_into ----------------------------------------------------------------------------- */

struct into_arguments {
    PyObject *uri, *buffer, *length, *part_size, *max_concurrency;
    uint64_t offset;
};

/* A count of bytes, 0 to 2^64 - 1; anything else is a ValueError naming argument and URI. */
static int parse_bytes(PyObject *argument, const char *name, PyObject *uri, uint64_t *bytes)
{
    PyObject *index = PyNumber_Index(argument);
    if (!index) {
        return -1;
    }
    *bytes = PyLong_AsUnsignedLongLong(index);
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%S: %s is %S, but must lie between 0 and 2**64 - 1", uri,
                     name, index);
    }
    Py_DECREF(index);
    return PyErr_Occurred() ? -1 : 0;
}

static int parse_into(struct into_arguments *a, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"uri",       "buffer",          "offset", "length",
                                        "part_size", "max_concurrency", NULL};
    PyObject *offset = NULL;
    *a = (struct into_arguments){.length = Py_None};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO|$OOOO:get_into", BIND_NAMES(names),
                                     &a->uri, &a->buffer, &offset, &a->length, &a->part_size,
                                     &a->max_concurrency)) {
        return -1;
    }
    return offset ? parse_bytes(offset, "offset", a->uri, &a->offset) : 0;
}

/* How many bytes are wanted: the argument, or all from offset on (asking for the size; *object
 * is filled then). */
static int wanted_bytes(const struct bind_state *state, const struct bind_target *target,
                        const struct into_arguments *a, uint64_t *bytes,
                        struct s3d_object *object)
{
    if (a->length != Py_None) {
        if (parse_bytes(a->length, "length", a->uri, bytes)) {
            return -1;
        }
        if (*bytes) {
            return 0;
        }
    }
    struct s3d_call *call = bind_request_new(state, target, S3D_VERB_STAT);
    int failed = call ? bind_request_run(state, target, call) : -1;
    if (!failed) {
        *object = call->request.result.object;
    }
    bind_request_free(call);
    if (!failed && a->offset > object->size_bytes) {
        struct s3d_error error;
        s3d_fail(&error, S3D_RANGE, "offset %llu lies past the end: the object has %llu bytes",
                 (unsigned long long)a->offset, (unsigned long long)object->size_bytes);
        bind_raise(state, &error, bind_target_text(target));
        return -1;
    }
    if (!failed && a->length == Py_None) {
        *bytes = object->size_bytes - a->offset;
    }
    return failed;
}

static PyObject *get_into_view(const struct bind_state *state, const struct bind_target *target,
                               const struct into_arguments *a, const Py_buffer *view)
{
    struct bind_transfer transfer;
    struct s3d_object object = {0};
    uint64_t bytes = 0;
    if (bind_transfer_load(&transfer, state, bind_target_text(target), BIND_READ, a->part_size,
                           a->max_concurrency) ||
        wanted_bytes(state, target, a, &bytes, &object)) {
        return NULL;
    }
    if (bytes > (uint64_t)view->len) {
        return PyErr_Format(
            PyExc_ValueError,
            "%s: %llu bytes do not fit into a buffer of %zd: give a larger one or "
            "a smaller length=",
            bind_target_text(target), (unsigned long long)bytes, view->len);
    }
    struct source source = {target, &transfer, object.etag, 0};
    return run_get(state, &source, view->buf, a->offset, bytes)
               ? NULL
               : PyLong_FromUnsignedLongLong(bytes);
}

PyObject *bind_get_into(PyObject *module, PyObject *args, PyObject *keywords)
{
    const struct bind_state *state = PyModule_GetState(module);
    struct into_arguments arguments;
    struct bind_target target;
    Py_buffer view;
    PyObject *result = NULL;
    if (parse_into(&arguments, args, keywords) ||
        bind_buffer_to_fill(arguments.buffer, &view, "get_into()")) {
        return NULL;
    }
    if (!bind_target_open(&target, state, arguments.uri, true)) {
        result = get_into_view(state, &target, &arguments, &view);
        bind_target_fini(&target);
    }
    PyBuffer_Release(&view);
    return result;
}

/* --- a whole object into new memory ------------------------------------------------------- */

/*
 * The object's tail tells its size and version, and is all of a small object, in one request.
 * The rest of a large one then goes by parallel ranges, of that version, into the memory made
 * for it.
 */
struct whole {
    struct s3d_reader *reader;
    struct s3d_object object;
    /* of the copy out of the tail */
    void *data;
    size_t got;
};

static enum s3d_code step_open(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    return s3d_reader_wait_open(((struct whole *)context)->reader, timeout_ms, error);
}

static enum s3d_code step_tail(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    struct whole *whole = context;
    return s3d_reader_read(whole->reader, 0, whole->data, (size_t)whole->object.size_bytes,
                           &whole->got, timeout_ms, error);
}

static int whole_open(struct whole *whole, const struct bind_state *state,
                      const struct bind_target *target, const struct bind_transfer *transfer)
{
    struct s3d_error error;
    enum s3d_code code;
    struct s3d_reader_plan plan = {.key = target->uri.key,
                                   .part_bytes = transfer->part_bytes,
                                   .part_max_bytes = transfer->part_max_bytes,
                                   .concurrency = transfer->concurrency};
    *whole = (struct whole){0};
    Py_BEGIN_ALLOW_THREADS
    code = s3d_reader_new(&whole->reader, target->store, &plan, &error);
    Py_END_ALLOW_THREADS
    if (code) {
        whole->reader = NULL;
    } else {
        code = bind_wait(step_open, whole, &error);
    }
    if (!code) {
        whole->object = *s3d_reader_object(whole->reader);
        if (whole->object.size_bytes > PY_SSIZE_T_MAX) {
            code = s3d_fail(&error, S3D_NO_MEMORY, "the object has %llu bytes",
                            (unsigned long long)whole->object.size_bytes);
        }
    }
    if (code && code != S3D_AGAIN) {
        bind_raise(state, &error, bind_target_text(target));
    }
    return code ? -1 : 0;
}

static void whole_fini(struct whole *whole)
{
    struct s3d_reader *reader = whole->reader;
    Py_BEGIN_ALLOW_THREADS
    s3d_reader_free(reader);
    Py_END_ALLOW_THREADS
}

static int whole_fill(struct whole *whole, const struct bind_state *state,
                      const struct bind_target *target, const struct bind_transfer *transfer,
                      void *data)
{
    uint64_t size = whole->object.size_bytes;
    struct s3d_error error;
    if (!size) {
        return 0;
    }
    if (s3d_reader_buffered(whole->reader, 0) < size) {
        struct source source = {target, transfer, whole->object.etag,
                                s3d_reader_latency_us(whole->reader)};
        return run_get(state, &source, data, 0, size);
    }
    whole->data = data;
    enum s3d_code code = bind_wait(step_tail, whole, &error);
    if (code && code != S3D_AGAIN) {
        bind_raise(state, &error, bind_target_text(target));
    }
    return code ? -1 : 0;
}

/* Memory for `bytes` and the Python object that owns it. */
typedef PyObject *new_memory(const struct bind_state *state, size_t bytes, void **data);

static PyObject *new_bytes(const struct bind_state *Py_UNUSED(state), size_t bytes, void **data)
{
    PyObject *object = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes);
    if (object) {
        *data = PyBytes_AS_STRING(object);
    }
    return object;
}

static PyObject *get_whole(const struct bind_state *state, PyObject *uri, PyObject *part_size,
                           PyObject *max_concurrency, new_memory *allocate)
{
    struct bind_target target;
    struct bind_transfer transfer;
    struct whole whole = {0};
    PyObject *memory = NULL;
    void *data = NULL;
    if (bind_target_open(&target, state, uri, true)) {
        return NULL;
    }
    if (!bind_transfer_load(&transfer, state, bind_target_text(&target), BIND_READ, part_size,
                            max_concurrency) &&
        !whole_open(&whole, state, &target, &transfer)) {
        memory = allocate(state, (size_t)whole.object.size_bytes, &data);
        if (memory && whole_fill(&whole, state, &target, &transfer, data)) {
            Py_CLEAR(memory);
        }
    }
    whole_fini(&whole);
    bind_target_fini(&target);
    return memory;
}

PyObject *bind_get_bytes(PyObject *module, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"uri", "part_size", "max_concurrency", NULL};
    PyObject *uri, *part_size = NULL, *max_concurrency = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$OO:get_bytes", BIND_NAMES(names), &uri,
                                     &part_size, &max_concurrency)) {
        return NULL;
    }
    return get_whole(PyModule_GetState(module), uri, part_size, max_concurrency, new_bytes);
}

PyObject *bind_get_view(PyObject *module, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"uri", "writable", "part_size", "max_concurrency",
                                        NULL};
    PyObject *uri, *part_size = NULL, *max_concurrency = NULL;
    int writable = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$pOO:get_view", BIND_NAMES(names), &uri,
                                     &writable, &part_size, &max_concurrency)) {
        return NULL;
    }
    PyObject *pages =
        get_whole(PyModule_GetState(module), uri, part_size, max_concurrency, bind_pages_new);
    return pages ? bind_pages_view(pages, writable != 0) : NULL;
}
