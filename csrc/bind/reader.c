#include "bind/reader_state.h"

#include "bind/buffers.h"
#include "bind/errors.h"

#include <string.h>

/* --- open and close ----------------------------------------------------------------------- */

static enum s3d_code step_open(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    return s3d_reader_wait_open(context, timeout_ms, error);
}

enum s3d_code bind_reader_begin(struct s3d_reader **reader, const struct bind_target *target,
                                const struct bind_transfer *transfer, bool unchecked,
                                struct s3d_error *error)
{
    enum s3d_code code;
    struct s3d_reader_plan plan = {
        .key = target->uri.key,
        .part_bytes = transfer->part_bytes,
        .part_max_bytes = transfer->part_max_bytes,
        .concurrency = transfer->concurrency,
        .unchecked = unchecked,
    };
    Py_BEGIN_ALLOW_THREADS
    code = s3d_reader_new(reader, target->store, &plan, error);
    Py_END_ALLOW_THREADS
    if (code) {
        *reader = NULL;
        return code;
    }
    return bind_wait(step_open, *reader, error);
}

static void free_reader(struct bind_reader *self)
{
    struct s3d_reader *reader = self->reader;
    struct bind_inflate *inflate = self->inflate;
    self->reader = NULL;
    self->inflate = NULL;
    if (reader) {
        Py_BEGIN_ALLOW_THREADS
        s3d_reader_free(reader);
        bind_inflate_free(inflate);
        Py_END_ALLOW_THREADS
    }
}

static enum s3d_code step_inflate_open(void *context, int64_t timeout_ms,
                                       struct s3d_error *error)
{
    return bind_inflate_open(context, timeout_ms, error);
}

/* decompress: None by the object's Content-Encoding, True in any case, False never. */
static enum s3d_code open_inflate(struct bind_reader *self, PyObject *decompress,
                                  struct s3d_error *error)
{
    bool is_zstd = bind_inflate_is_wanted(self->object.content_encoding);
    if (decompress == Py_False || (decompress != Py_True && !is_zstd)) {
        return S3D_OK;
    }
    enum s3d_code code = bind_inflate_new(&self->inflate, self->reader, error);
    if (!code) {
        code = bind_wait(step_inflate_open, self->inflate, error);
        bind_reader_learn_size(self);
    }
    return code;
}

static int open_reader(struct bind_reader *self, const struct bind_target *target,
                       const struct bind_transfer *transfer, PyObject *decompress)
{
    struct s3d_error error;
    enum s3d_code code = bind_reader_begin(&self->reader, target, transfer, false, &error);
    if (!code) {
        self->object = *s3d_reader_object(self->reader);
        code = open_inflate(self, decompress, &error);
    }
    if (code == S3D_AGAIN) {
        return -1;
    }
    if (code) {
        bind_raise(self->stream.state, &error, bind_target_text(target));
        return -1;
    }
    return 0;
}

int bind_parse_decompress(PyObject *decompress)
{
    if (!decompress || decompress == Py_None || PyBool_Check(decompress)) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "decompress must be None, True or False, not %R", decompress);
    return -1;
}

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"uri", "part_size", "max_concurrency", "decompress",
                                        NULL};
    PyObject *uri, *part_size = NULL, *max_concurrency = NULL, *decompress = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$OOO:ObjectReader", BIND_NAMES(names),
                                     &uri, &part_size, &max_concurrency, &decompress) ||
        bind_parse_decompress(decompress)) {
        return NULL;
    }
    struct bind_state *state = bind_state_of_type(type, NULL);
    struct bind_target target;
    struct bind_transfer transfer;
    if (!state || bind_target_open(&target, state, uri, true)) {
        return NULL;
    }
    struct bind_reader *self = NULL;
    if (!bind_transfer_load(&transfer, state, bind_target_text(&target), BIND_READ, part_size,
                            max_concurrency)) {
        self = (struct bind_reader *)type->tp_alloc(type, 0);
    }
    if (self && (bind_stream_init(&self->stream, target.name, target.bytes) ||
                 open_reader(self, &target, &transfer, decompress))) {
        Py_CLEAR(self);
    }
    bind_target_fini(&target);
    return (PyObject *)self;
}

/* The inherited finaliser would call close(), which a subclass may have made to do more. */
static void reader_finalize(PyObject *object)
{
    PyObject *exception = bind_take_exception();
    struct bind_reader *self = (struct bind_reader *)object;
    self->stream.closed = true;
    free_reader(self);
    bind_restore_exception(exception);
}

static void reader_dealloc(PyObject *object)
{
    if (PyObject_CallFinalizerFromDealloc(object) < 0) {
        return;
    }
    PyObject_GC_UnTrack(object);
    bind_stream_dealloc(object);
}

static PyObject *reader_close(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct bind_reader *self = (struct bind_reader *)object;
    if (self->stream.closed) {
        Py_RETURN_NONE;
    }
    /* In a forked child the lock may be held by a thread that is not there. */
    bool forked = bind_stream_forked(&self->stream);
    if (!forked && bind_lock_enter(&self->stream.lock, object)) {
        return NULL;
    }
    self->stream.closed = true;
    free_reader(self);
    if (!forked) {
        bind_lock_leave(&self->stream.lock);
    }
    Py_RETURN_NONE;
}

int bind_reader_enter(struct bind_reader *self)
{
    if (bind_stream_enter(&self->stream)) {
        return -1;
    }
    if (self->stream.closed) {
        bind_stream_leave(&self->stream);
        bind_stream_raise_closed();
        return -1;
    }
    return 0;
}

/* --- position ----------------------------------------------------------------------------- */

static int parse_offset(PyObject *argument, int64_t *offset)
{
    PyObject *index = PyNumber_Index(argument);
    if (!index) {
        return -1;
    }
    *offset = PyLong_AsLongLong(index);
    Py_DECREF(index);
    return *offset == -1 && PyErr_Occurred() ? -1 : 0;
}

/* Where the size is told by the end alone: reads to there. 0, or -1 with an exception. */
static int require_size(struct bind_reader *self)
{
    char none;
    bool known =
        bind_reader_is_sized(self) || bind_reader_fill(self, UINT64_MAX - 1, &none, 1) >= 0;
    return known ? 0 : -1;
}

static int seek_to(struct bind_reader *self, int64_t offset, long whence)
{
    if (whence == SEEK_END && require_size(self)) {
        return -1;
    }
    uint64_t base = whence == SEEK_SET   ? 0
                    : whence == SEEK_CUR ? self->position
                                         : self->object.size_bytes;
    int64_t target;
    if (whence != SEEK_SET && whence != SEEK_CUR && whence != SEEK_END) {
        PyErr_Format(PyExc_ValueError, "whence must be 0, 1 or 2, not %ld", whence);
        return -1;
    }
    if (base > INT64_MAX || __builtin_add_overflow((int64_t)base, offset, &target)) {
        PyErr_SetString(PyExc_OverflowError, "seek target too large");
        return -1;
    }
    if (target < 0) {
        /* Both OSError, as a file says and zipfile expects, and ValueError, as BytesIO says. */
        PyErr_Format(self->stream.state->unsupported_error,
                     "%U: cannot seek to %lld, before the start (the object has %llu bytes)",
                     self->stream.name, (long long)target,
                     (unsigned long long)self->object.size_bytes);
        return -1;
    }
    self->position = (uint64_t)target;
    return 0;
}

static PyObject *reader_seek(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct bind_reader *self = (struct bind_reader *)object;
    if (count < 1 || count > 2) {
        PyErr_Format(PyExc_TypeError, "seek() takes 1 or 2 arguments (%zd given)", count);
        return NULL;
    }
    int64_t offset;
    long whence = count > 1 ? PyLong_AsLong(args[1]) : SEEK_SET;
    if ((whence == -1 && PyErr_Occurred()) || parse_offset(args[0], &offset) ||
        bind_reader_enter(self)) {
        return NULL;
    }
    PyObject *result =
        seek_to(self, offset, whence) ? NULL : PyLong_FromUnsignedLongLong(self->position);
    bind_stream_leave(&self->stream);
    return result;
}

static PyObject *reader_tell(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct bind_reader *self = (struct bind_reader *)object;
    if (bind_reader_enter(self)) {
        return NULL;
    }
    PyObject *result = PyLong_FromUnsignedLongLong(self->position);
    bind_stream_leave(&self->stream);
    return result;
}

/* --- what it is --------------------------------------------------------------------------- */

static PyObject *get_mode(PyObject *Py_UNUSED(object), void *Py_UNUSED(closure))
{
    return PyUnicode_FromString("rb");
}

static PyObject *get_size(PyObject *object, void *Py_UNUSED(closure))
{
    uint64_t size;
    return bind_reader_size(object, &size) ? NULL : PyLong_FromUnsignedLongLong(size);
}

static PyObject *get_compression(PyObject *object, void *Py_UNUSED(closure))
{
    return bind_reader_is_inflated(object) ? PyUnicode_FromString("zstd") : Py_NewRef(Py_None);
}

static PyObject *get_etag(PyObject *object, void *Py_UNUSED(closure))
{
    const char *etag = ((struct bind_reader *)object)->object.etag;
    return PyUnicode_DecodeUTF8(etag, (Py_ssize_t)strlen(etag), "backslashreplace");
}

static PyMethodDef reader_methods[] = {
    {"read", BIND_FAST(bind_reader_read), METH_FASTCALL,
     "read(size=-1, /)\n--\n\nReads size bytes, fewer only at the end; all that is left when "
     "None or negative."},
    {"read1", BIND_FAST(bind_reader_read1), METH_FASTCALL,
     "read1(size=-1, /)\n--\n\nReads up to size bytes with at most one wait."},
    {"readinto", bind_reader_readinto, METH_O,
     "readinto(buffer, /)\n--\n\nFills a writable contiguous buffer of any dtype, without a "
     "copy in between.\n\nReturns the number of bytes, less than its size only at the end."},
    {"readinto1", bind_reader_readinto1, METH_O,
     "readinto1(buffer, /)\n--\n\nLike readinto() with at most one wait."},
    {"read_buffer", BIND_FAST(bind_reader_read_buffer), METH_FASTCALL,
     "read_buffer(size=-1, /)\n--\n\nLike read(), but a read-only memoryview; from 64 KiB on of page "
     "memory of its own. (pyarrow asks for it.)"},
    {"peek", BIND_FAST(bind_reader_peek), METH_FASTCALL,
     "peek(size=0, /)\n--\n\nBytes from the position on that are in memory, without moving."},
    {"readline", BIND_FAST(bind_reader_readline), METH_FASTCALL,
     "readline(size=-1, /)\n--\n\nReads to and with the next newline, at most size bytes."},
    {"seek", BIND_FAST(reader_seek), METH_FASTCALL,
     "seek(offset, whence=0, /)\n--\n\nMoves the position, sends nothing. Past the end is "
     "allowed."},
    {"tell", reader_tell, METH_NOARGS, "tell()\n--\n\nThe position in bytes."},
    {"close", reader_close, METH_NOARGS, "close()\n--\n\nEnds reading. Again does nothing."},
    {"readable", bind_stream_yes, METH_NOARGS, "readable()\n--\n\nTrue."},
    {"seekable", bind_stream_yes, METH_NOARGS, "seekable()\n--\n\nTrue."},
    {"writable", bind_stream_no, METH_NOARGS, "writable()\n--\n\nFalse."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef reader_getters[] = {
    {"mode", get_mode, NULL, "\"rb\"", NULL},
    {"size", get_size, NULL,
     "Its size in bytes, decompressed; where a compressed object does not tell, it is read through.",
     NULL},
    {"compression", get_compression, NULL, "\"zstd\" where reading decompresses, else None.",
     NULL},
    {"etag", get_etag, NULL, "The version that is read, as the store names it.", NULL},
    BIND_STREAM_GETTERS,
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc,
     (void
          *)(uintptr_t)"ObjectReader(uri, *, part_size=None, max_concurrency=None, "
                       "decompress=None)\n"
                       "--\n\nAn object as a seekable binary file: what open(uri, \"rb\") returns, "
                       "and whose arguments\nand exceptions these are. Any thread may read; one "
                       "at a time does."},
    {Py_tp_new, reader_new},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_finalize, reader_finalize},
    {Py_tp_traverse, bind_stream_traverse},
    {Py_tp_clear, bind_stream_clear},
    {Py_tp_repr, bind_stream_repr},
    {Py_tp_str, bind_stream_str},
    {Py_tp_methods, reader_methods},
    {Py_tp_getset, reader_getters},
    {0, NULL},
};

static PyType_Spec reader_spec = {
    .name = "s3dlio_np._native.ObjectReader",
    .basicsize = sizeof(struct bind_reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = reader_slots,
};

/* --- from C -------------------------------------------------------------------------------- */

int bind_reader_read_at(PyObject *object, uint64_t offset, void *data, size_t length)
{
    struct bind_reader *self = (struct bind_reader *)object;
    if (bind_reader_enter(self)) {
        return -1;
    }
    Py_ssize_t got = -1;
    bool fits = offset <= self->object.size_bytes && length <= self->object.size_bytes - offset;
    if (fits) {
        got = bind_reader_fill(self, offset, data, length);
    }
    if (!fits || (got >= 0 && (size_t)got < length)) {
        struct s3d_error error;
        s3d_fail(&error, S3D_INTERNAL, "a read beyond the end of the object");
        bind_stream_fail(&self->stream, &error);
        got = -1;
    }
    bind_stream_leave(&self->stream);
    return got < 0 ? -1 : 0;
}

int bind_reader_buffered(PyObject *object, uint64_t offset, size_t *bytes)
{
    struct bind_reader *self = (struct bind_reader *)object;
    if (bind_reader_enter(self)) {
        return -1;
    }
    *bytes = bind_reader_is_inflated(object) ? 0 : s3d_reader_buffered(self->reader, offset);
    bind_stream_leave(&self->stream);
    return 0;
}

int bind_reader_fetch(PyObject *object, struct s3d_get **get, const struct s3d_get_plan *wanted)
{
    struct bind_reader *self = (struct bind_reader *)object;
    struct s3d_error error;
    enum s3d_code code;
    *get = NULL;
    if (bind_reader_enter(self)) {
        return -1;
    }
    struct s3d_reader *reader = self->reader;
    Py_BEGIN_ALLOW_THREADS
    code = s3d_reader_fetch(get, reader, wanted, &error);
    Py_END_ALLOW_THREADS
    if (code) {
        bind_stream_fail(&self->stream, &error);
    }
    bind_stream_leave(&self->stream);
    return code ? -1 : 0;
}

int bind_reader_size(PyObject *object, uint64_t *size_bytes)
{
    struct bind_reader *self = (struct bind_reader *)object;
    int failed = 0;
    if (!bind_reader_is_sized(self)) {
        if (bind_reader_enter(self)) {
            return -1;
        }
        failed = require_size(self);
        bind_stream_leave(&self->stream);
    }
    *size_bytes = self->object.size_bytes;
    return failed;
}

bool bind_reader_is_inflated(PyObject *object)
{
    return ((struct bind_reader *)object)->inflate != NULL;
}

PyObject *bind_reader_pages(const struct bind_state *state, PyObject *object)
{
    uint64_t size;
    void *data;
    if (bind_reader_size(object, &size)) {
        return NULL;
    }
    if (size > PY_SSIZE_T_MAX) {
        return PyErr_NoMemory();
    }
    PyObject *pages = bind_pages_new(state, (size_t)size, &data);
    if (pages && bind_reader_read_at(object, 0, data, (size_t)size)) {
        Py_CLEAR(pages);
    }
    return pages;
}

PyObject *bind_reader_open(const struct bind_state *state, PyObject *uri, PyObject *part_size,
                           PyObject *max_concurrency)
{
    PyObject *args = PyTuple_Pack(1, uri);
    PyObject *keywords = Py_BuildValue(
        "{s:O,s:O,s:O}", "part_size", part_size ? part_size : Py_None, "max_concurrency",
        max_concurrency ? max_concurrency : Py_None, "decompress", Py_True);
    PyObject *reader =
        args && keywords ? PyObject_Call((PyObject *)state->reader_type, args, keywords) : NULL;
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    return reader;
}

const char *bind_reader_uri(PyObject *object)
{
    return bind_stream_uri((struct bind_stream *)object);
}

int bind_reader_init(PyObject *module, struct bind_state *state)
{
    state->reader_type = bind_stream_type(module, state, &reader_spec);
    return state->reader_type ? PyModule_AddType(module, state->reader_type) : -1;
}
