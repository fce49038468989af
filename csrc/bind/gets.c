#include "bind/calls.h"

#include "bind/buffers.h"
#include "bind/errors.h"
#include "bind/inflate.h"
#include "bind/reader.h"
#include "bind/request.h"
#include "bind/wait.h"
#include "core/get.h"
#include "core/mem.h"
#include "core/whole.h"

#include <string.h>

/* --- a range into memory ------------------------------------------------------------------ */

/* Where to read from, and how. */
struct source {
    const struct bind_target *target;
    const struct bind_transfer *transfer;
    const struct s3d_object *known; /* what a request before has told; NULL: there was none */
};

static enum s3d_code step_get(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    return s3d_get_wait_all(context, timeout_ms, error);
}

/* For what may be all of the object. */
static enum s3d_code start_check(const struct source *source, const struct s3d_segment *segment,
                                 struct s3d_check **check, struct s3d_error *error)
{
    const struct s3d_object *known = source->known;
    if (segment->offset_bytes || (known && known->size_bytes != segment->length_bytes)) {
        return S3D_OK;
    }
    enum s3d_code code =
        s3d_check_new(check, source->target->store, source->target->uri.key, error);
    return code || !known ? code : s3d_check_learn(*check, known, error);
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
        .if_match = source->known && source->known->etag[0] ? source->known->etag : NULL,
        .is_all_if_whole = true,
        .ends_check = true,
    };
    enum s3d_code code = start_check(source, segment, &plan.check, error);
    code = code ? code : s3d_get_new(get, source->target->store, &plan, error);
    s3d_check_release(plan.check); /* the get has its own */
    return code;
}

/* Reads a range into data; afterwards nothing writes there. *seen: what it was of. AGAIN: a Python
 * exception is set. */
static enum s3d_code try_get(const struct source *source, void *data, uint64_t offset,
                             uint64_t length, struct s3d_object *seen, struct s3d_error *error)
{
    struct s3d_segment segment = {offset, length, data};
    struct s3d_get *get = NULL;
    enum s3d_code code;
    if (!length) {
        return S3D_OK;
    }
    Py_BEGIN_ALLOW_THREADS
    code = start_get(&get, source, &segment, error);
    Py_END_ALLOW_THREADS
    if (!code) {
        code = bind_wait(step_get, get, error);
        if (!code) {
            *seen = *s3d_get_object(get);
        }
        Py_BEGIN_ALLOW_THREADS
        s3d_get_free(get);
        Py_END_ALLOW_THREADS
    }
    return code;
}

static int raise_code(const struct bind_state *state, const struct bind_target *target,
                      enum s3d_code code, const struct s3d_error *error)
{
    if (code && code != S3D_AGAIN) {
        bind_raise(state, error, bind_target_text(target));
    }
    return code ? -1 : 0;
}

/* --- get_into ----------------------------------------------------------------------------- */

struct into_arguments {
    PyObject *uri, *buffer, *length, *part_size, *max_concurrency, *decompress;
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
        PyErr_Format(PyExc_ValueError, "%S: %s is %S, but must lie between 0 and 2**64 - 1",
                     uri, name, index);
    }
    Py_DECREF(index);
    return PyErr_Occurred() ? -1 : 0;
}

static int parse_into(struct into_arguments *a, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"uri",       "buffer",          "offset",     "length",
                                        "part_size", "max_concurrency", "decompress", NULL};
    PyObject *offset = NULL;
    *a = (struct into_arguments){.length = Py_None};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO|$OOOOO:get_into", BIND_NAMES(names),
                                     &a->uri, &a->buffer, &offset, &a->length, &a->part_size,
                                     &a->max_concurrency, &a->decompress) ||
        bind_parse_decompress(a->decompress)) {
        return -1;
    }
    return offset ? parse_bytes(offset, "offset", a->uri, &a->offset) : 0;
}

static bool is_inflated(const struct into_arguments *a, const struct s3d_object *object)
{
    return a->decompress == Py_True ||
           (a->decompress != Py_False && bind_inflate_is_wanted(object->content_encoding));
}

/* *bytes when all from offset on are wanted; and that they are there. 0 or -1. */
static int cut_to_object(const struct bind_state *state, const struct bind_target *target,
                         const struct into_arguments *a, uint64_t *bytes, uint64_t object_bytes)
{
    struct s3d_error error;
    uint64_t left = a->offset <= object_bytes ? object_bytes - a->offset : 0;
    if (a->length == Py_None) {
        *bytes = left;
    }
    if (a->offset <= object_bytes && *bytes <= left) {
        return 0;
    }
    s3d_fail(&error, S3D_RANGE, "%s %llu lies past the end: the object has %llu bytes",
             a->offset > object_bytes ? "offset" : "the end of the range",
             (unsigned long long)(a->offset > object_bytes ? a->offset : a->offset + *bytes),
             (unsigned long long)object_bytes);
    bind_raise(state, &error, bind_target_text(target));
    return -1;
}

static int check_room(const struct bind_target *target, uint64_t bytes, const Py_buffer *view)
{
    if (bytes <= (uint64_t)view->len) {
        return 0;
    }
    PyErr_Format(PyExc_ValueError,
                 "%s: %llu bytes do not fit into a buffer of %zd: give a larger one or "
                 "a smaller length=",
                 bind_target_text(target), (unsigned long long)bytes, view->len);
    return -1;
}

static int ask_object(const struct bind_state *state, const struct bind_target *target,
                      struct s3d_object *object)
{
    struct s3d_call *call = bind_request_new(state, target, S3D_VERB_STAT);
    int failed = call ? bind_request_run(state, target, call) : -1;
    if (!failed) {
        *object = call->request.result.object;
    }
    bind_request_free(call);
    return failed;
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
    int failed = ask_object(state, target, object);
    return failed || is_inflated(a, object)
               ? failed
               : cut_to_object(state, target, a, bytes, object->size_bytes);
}

/* Where the object is compressed, ranges of what is stored are of no use: offset and length count
 * in its content. */
static PyObject *inflate_into(const struct bind_state *state, const struct bind_target *target,
                              const struct into_arguments *a, const Py_buffer *view,
                              uint64_t bytes)
{
    uint64_t size;
    PyObject *reader = bind_reader_open(state, a->uri, a->part_size, a->max_concurrency);
    if (!reader || bind_reader_size(reader, &size) ||
        cut_to_object(state, target, a, &bytes, size) || check_room(target, bytes, view) ||
        bind_reader_read_at(reader, a->offset, view->buf, (size_t)bytes)) {
        Py_XDECREF(reader);
        return NULL;
    }
    Py_DECREF(reader);
    return PyLong_FromUnsignedLongLong(bytes);
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
    if (is_inflated(a, &object)) {
        return inflate_into(state, target, a, view, bytes);
    }
    struct s3d_object known = object;
    struct source source = {target, &transfer, known.etag[0] ? &known : NULL};
    struct s3d_error error;
    if (check_room(target, bytes, view)) {
        return NULL;
    }
    enum s3d_code code = try_get(&source, view->buf, a->offset, bytes, &object, &error);
    /* Without a request for the size only the answers tell that it is compressed; and none does to a
     * range that what is stored does not have. */
    if (code == S3D_RANGE && ask_object(state, target, &object)) {
        return NULL;
    }
    if ((!code || code == S3D_RANGE) && is_inflated(a, &object)) {
        return inflate_into(state, target, a, view, bytes);
    }
    return raise_code(state, target, code, &error) ? NULL : PyLong_FromUnsignedLongLong(bytes);
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

enum {
    HEAD_BYTES = 1024 * 1024,            /* of an object that is to be read in ranges anyway */
    HEAD_MAX_BYTES = 1024 * 1024 * 1024, /* memory for more is not taken on suspicion */
    SMALL_BYTES = 256 * 1024,            /* copied once rather than landed in a large block */
};

/* Where the bytes go. Pages get their memory when the size is known, on an I/O thread; a bytes
 * object cannot be made there, so one as large as the head is made before. */
struct whole {
    struct bind_state *state;
    const struct bind_target *target;
    struct bind_transfer transfer;
    uint64_t head_bytes;
    bool pages;
    bool as_stored; /* never decompressed */
    struct s3d_whole *get;
    uint64_t size;
    PyObject *landing; /* bytes of head_bytes */
    PyObject *large;   /* bytes of the object's size, until they are returned */
    bool landed;       /* it has been written to */
    char *small;       /* where a small object lands instead: memory in recent use */
    void *page_memory; /* the object's size, until a Pages object owns it */
};

enum concurrent { CONCURRENT_AUTO, CONCURRENT_NO, CONCURRENT_YES };

static char *place_in_pages(void *context, uint64_t size)
{
    struct whole *whole = context;
    if (size > PY_SSIZE_T_MAX) {
        return NULL;
    }
    whole->size = size;
    whole->page_memory = s3d_pages_alloc((size_t)size);
    return whole->page_memory;
}

static char *place_in_landing(void *context, uint64_t size)
{
    struct whole *whole = context;
    if (size <= SMALL_BYTES && size <= whole->head_bytes) {
        whole->small = PyMem_RawMalloc((size_t)size);
        return whole->small;
    }
    whole->landed = true;
    return PyBytes_AS_STRING(whole->landing);
}

/* Mapping a landing takes longer than reading a small object into other memory, so one that was
 * not needed is kept for the next call. -1: no memory. */
static int take_landing(struct whole *whole)
{
    PyObject *spare = whole->state->spare_landing;
    whole->state->spare_landing = NULL;
    if (spare && (uint64_t)PyBytes_GET_SIZE(spare) != whole->head_bytes) {
        Py_CLEAR(spare);
    }
    whole->landing =
        spare ? spare : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)whole->head_bytes);
    return whole->landing ? 0 : -1;
}

static void leave_landing(struct whole *whole)
{
    if (!whole->landed && !whole->state->spare_landing) {
        whole->state->spare_landing = whole->landing;
        whole->landing = NULL;
    }
    Py_CLEAR(whole->landing);
}

static enum s3d_code step_size(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    struct whole *whole = context;
    return s3d_whole_wait_size(whole->get, &whole->size, timeout_ms, error);
}

static enum s3d_code step_whole(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    return s3d_whole_wait(((struct whole *)context)->get, timeout_ms, error);
}

/* Raises what a step has returned. 0 or -1. */
static int judge(const struct whole *whole, enum s3d_code code, const struct s3d_error *error)
{
    return raise_code(whole->state, whole->target, code, error);
}

/* Sends for the head and waits for the size. */
static int begin_whole(struct whole *whole)
{
    struct s3d_error error;
    enum s3d_code code;
    struct s3d_whole_plan plan = {
        .key = whole->target->uri.key,
        .head_bytes = whole->head_bytes,
        .part_bytes = whole->transfer.part_bytes,
        .part_max_bytes = whole->transfer.part_max_bytes,
        .concurrency = whole->transfer.concurrency,
        .fresh = whole->pages,
        .place = whole->pages ? place_in_pages : place_in_landing,
        .context = whole,
    };
    if (!whole->pages && take_landing(whole)) {
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    code = s3d_whole_new(&whole->get, whole->target->store, &plan, &error);
    Py_END_ALLOW_THREADS
    if (code) {
        whole->get = NULL;
    } else {
        code = bind_wait(step_size, whole, &error);
    }
    if (!code && whole->size > PY_SSIZE_T_MAX) {
        code = s3d_fail(&error, S3D_NO_MEMORY, "the object has %llu bytes",
                        (unsigned long long)whole->size);
    }
    return judge(whole, code, &error);
}

/* The rest, after the head, into `rest`; then waits for both. */
static int finish_whole(struct whole *whole, char *rest)
{
    struct s3d_error error;
    enum s3d_code code = S3D_OK;
    if (rest) {
        Py_BEGIN_ALLOW_THREADS
        code = s3d_whole_fetch_rest(whole->get, rest, &error);
        Py_END_ALLOW_THREADS
    }
    if (!code) {
        code = bind_wait(step_whole, whole, &error);
    }
    return judge(whole, code, &error);
}

static PyObject *whole_as_pages(struct whole *whole)
{
    char *memory = whole->page_memory;
    bool more = whole->size > whole->head_bytes;
    if (finish_whole(whole, more ? memory + whole->head_bytes : NULL)) {
        return NULL;
    }
    void *none;
    return whole->size
               ? bind_pages_adopt(whole->state, &whole->page_memory, (size_t)whole->size)
               : bind_pages_new(whole->state, 0, &none);
}

/* An object that is larger than its head: the rest goes to its place, the head is copied there. */
static PyObject *large_bytes(struct whole *whole)
{
    whole->large = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)whole->size);
    char *data = whole->large ? PyBytes_AS_STRING(whole->large) : NULL;
    if (!data || finish_whole(whole, data + whole->head_bytes)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    memcpy(data, PyBytes_AS_STRING(whole->landing), (size_t)whole->head_bytes);
    Py_END_ALLOW_THREADS
    PyObject *bytes = whole->large;
    whole->large = NULL;
    return bytes;
}

static PyObject *whole_as_bytes(struct whole *whole)
{
    if (whole->size > whole->head_bytes) {
        return large_bytes(whole);
    }
    if (finish_whole(whole, NULL)) {
        return NULL;
    }
    if (whole->small || !whole->size) {
        return PyBytes_FromStringAndSize(whole->small, (Py_ssize_t)whole->size);
    }
    PyObject *bytes = whole->landing;
    whole->landing = NULL;
    _PyBytes_Resize(&bytes, (Py_ssize_t)whole->size); /* cut off: nothing moves */
    return bytes;
}

static void whole_fini(struct whole *whole)
{
    Py_BEGIN_ALLOW_THREADS
    s3d_whole_free(whole->get); /* joins: afterwards nothing places, nor writes */
    s3d_pages_free(whole->page_memory, (size_t)whole->size);
    Py_END_ALLOW_THREADS
    leave_landing(whole);
    Py_XDECREF(whole->large);
    PyMem_RawFree(whole->small);
}

/* None stands for an object that has to be read another way. */
static bool is_compressed(const struct whole *whole, const struct s3d_object *object)
{
    return !whole->as_stored && bind_inflate_is_wanted(object->content_encoding);
}

/* By one request for the size and one for all the bytes. */
static PyObject *get_sized(const struct whole *whole)
{
    struct bind_transfer single = whole->transfer;
    struct into_arguments all = {.length = Py_None, .decompress = Py_False};
    struct s3d_object object = {0};
    uint64_t size;
    void *data = NULL;
    if (wanted_bytes(whole->state, whole->target, &all, &size, &object)) {
        return NULL;
    }
    if (is_compressed(whole, &object)) {
        return Py_NewRef(Py_None);
    }
    if (size > PY_SSIZE_T_MAX) {
        return PyErr_NoMemory();
    }
    PyObject *memory = whole->pages ? bind_pages_new(whole->state, (size_t)size, &data)
                                    : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (memory && !whole->pages) {
        data = PyBytes_AS_STRING(memory);
    }
    single.threshold_bytes = UINT64_MAX;
    struct s3d_object known = object;
    struct source source = {whole->target, &single, &known};
    struct s3d_error error;
    if (memory && judge(whole, try_get(&source, data, 0, size, &object, &error), &error)) {
        Py_CLEAR(memory);
    }
    return memory;
}

static PyObject *get_unsized(struct whole *whole)
{
    PyObject *memory = NULL;
    if (!begin_whole(whole)) {
        memory = is_compressed(whole, s3d_whole_object(whole->get)) ? Py_NewRef(Py_None)
                 : whole->pages                                     ? whole_as_pages(whole)
                                                                    : whole_as_bytes(whole);
    }
    whole_fini(whole);
    return memory;
}

/* What the first request asks for; 0: all there is, after a request for the size. */
static uint64_t head_bytes(const struct bind_transfer *transfer, enum concurrent concurrent)
{
    uint64_t part = transfer->part_bytes < HEAD_BYTES ? transfer->part_bytes : HEAD_BYTES;
    uint64_t threshold = transfer->threshold_bytes;
    if (concurrent == CONCURRENT_NO || threshold > HEAD_MAX_BYTES) {
        return concurrent == CONCURRENT_YES ? part : 0;
    }
    return concurrent == CONCURRENT_YES || threshold <= part ? part : threshold - 1;
}

static int parse_concurrent(PyObject *argument, enum concurrent *concurrent)
{
    *concurrent = CONCURRENT_AUTO;
    if (argument == Py_True || argument == Py_False) {
        *concurrent = argument == Py_True ? CONCURRENT_YES : CONCURRENT_NO;
    } else if (argument && argument != Py_None) {
        PyErr_Format(
            PyExc_TypeError,
            "concurrent must be None, True or False, not %R: the number of requests in "
            "flight is max_concurrency",
            argument);
        return -1;
    }
    return 0;
}

struct whole_arguments {
    PyObject *uri, *concurrent, *part_size, *max_concurrency, *decompress;
};

/* What a compressed object holds: its size is known late, so it comes in order. */
static PyObject *get_inflated(const struct bind_state *state, const struct whole_arguments *a,
                              bool pages)
{
    PyObject *reader = bind_reader_open(state, a->uri, a->part_size, a->max_concurrency);
    PyObject *memory = NULL;
    if (reader) {
        memory = pages ? bind_reader_pages(state, reader)
                       : PyObject_CallMethod(reader, "read", NULL);
        Py_DECREF(reader);
    }
    return memory;
}

static PyObject *get_whole(struct bind_state *state, const struct whole_arguments *a,
                           bool pages)
{
    struct bind_target target;
    struct whole whole = {.state = state,
                          .target = &target,
                          .pages = pages,
                          .as_stored = a->decompress == Py_False};
    enum concurrent concurrent;
    PyObject *memory = NULL;
    if (parse_concurrent(a->concurrent, &concurrent) || bind_parse_decompress(a->decompress)) {
        return NULL;
    }
    if (a->decompress == Py_True) {
        return get_inflated(state, a, pages);
    }
    if (bind_target_open(&target, state, a->uri, true)) {
        return NULL;
    }
    if (!bind_transfer_load(&whole.transfer, state, bind_target_text(&target), BIND_READ,
                            a->part_size, a->max_concurrency)) {
        whole.head_bytes = head_bytes(&whole.transfer, concurrent);
        memory = whole.head_bytes ? get_unsized(&whole) : get_sized(&whole);
    }
    bind_target_fini(&target);
    if (memory == Py_None) {
        Py_DECREF(memory);
        return get_inflated(state, a, pages);
    }
    return memory;
}

PyObject *bind_get_bytes(PyObject *module, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {
        "uri", "concurrent", "part_size", "max_concurrency", "decompress", NULL};
    struct whole_arguments a = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$OOOO:get_bytes", BIND_NAMES(names),
                                     &a.uri, &a.concurrent, &a.part_size, &a.max_concurrency,
                                     &a.decompress)) {
        return NULL;
    }
    return get_whole(PyModule_GetState(module), &a, false);
}

PyObject *bind_get_view(PyObject *module, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {
        "uri", "writable", "concurrent", "part_size", "max_concurrency", "decompress", NULL};
    struct whole_arguments a = {NULL};
    int writable = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$pOOOO:get_view", BIND_NAMES(names),
                                     &a.uri, &writable, &a.concurrent, &a.part_size,
                                     &a.max_concurrency, &a.decompress)) {
        return NULL;
    }
    PyObject *pages = get_whole(PyModule_GetState(module), &a, true);
    return pages ? bind_pages_view(pages, writable != 0) : NULL;
}
