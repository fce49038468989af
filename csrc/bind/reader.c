#include "bind/reader.h"

#include "bind/buffers.h"
#include "bind/errors.h"
#include "bind/inflate.h"
#include "bind/stream.h"
#include "bind/target.h"
#include "core/reader.h"

#include <string.h>

enum {
    SMALL_BYTES = 4096,   /* buffered reads up to this size keep the GIL */
    LINE_BYTES = 512,     /* most lines fit */
    CHUNK_BYTES = 65536,  /* read1() and peek() without a size */
    PEEK_BYTES = 1048576, /* peek() copies no more than this */
};

struct reader_object {
    struct bind_stream stream;
    struct s3d_reader *reader;
    struct bind_inflate *inflate; /* NULL: the bytes are as they are stored */
    struct s3d_object object;     /* frozen once open, but for size_bytes where `inflate` does not
                                   * know it yet: UINT64_MAX until then */
    uint64_t position;            /* locked{stream.lock}; may lie past the end */
};

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

static void free_reader(struct reader_object *self)
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

static void learn_size(struct reader_object *self)
{
    if (self->inflate) {
        bind_inflate_size(self->inflate, &self->object.size_bytes);
    }
}

/* decompress: None by the object's Content-Encoding, True in any case, False never. */
static enum s3d_code open_inflate(struct reader_object *self, PyObject *decompress,
                                  struct s3d_error *error)
{
    bool is_zstd = bind_inflate_is_wanted(self->object.content_encoding);
    if (decompress == Py_False || (decompress != Py_True && !is_zstd)) {
        return S3D_OK;
    }
    enum s3d_code code = bind_inflate_new(&self->inflate, self->reader, error);
    if (!code) {
        code = bind_wait(step_inflate_open, self->inflate, error);
        learn_size(self);
    }
    return code;
}

static int open_reader(struct reader_object *self, const struct bind_target *target,
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
    struct reader_object *self = NULL;
    if (!bind_transfer_load(&transfer, state, bind_target_text(&target), BIND_READ, part_size,
                            max_concurrency)) {
        self = (struct reader_object *)type->tp_alloc(type, 0);
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
    struct reader_object *self = (struct reader_object *)object;
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
    struct reader_object *self = (struct reader_object *)object;
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

/* The stream's lock, for an operation that needs it open. 0 or -1 with an exception. */
static int enter(struct reader_object *self)
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

/* --- reading ------------------------------------------------------------------------------ */

struct read_step {
    struct s3d_reader *reader;
    struct bind_inflate *inflate;
    uint64_t offset;
    void *data;
    size_t length;
    size_t got;
};

static enum s3d_code step_read(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    struct read_step *step = context;
    if (step->inflate) {
        return bind_inflate_read(step->inflate, step->offset, step->data, step->length,
                                 &step->got, timeout_ms, error);
    }
    return s3d_reader_read(step->reader, step->offset, step->data, step->length, &step->got,
                           timeout_ms, error);
}

static uint64_t remaining(const struct reader_object *self)
{
    return self->position < self->object.size_bytes ? self->object.size_bytes - self->position
                                                    : 0;
}

/* What is left `ahead` bytes further on. */
static uint64_t remaining_after(const struct reader_object *self, uint64_t ahead)
{
    uint64_t left = remaining(self);
    return ahead < left ? left - ahead : 0;
}

static size_t at_most(uint64_t bytes, size_t limit)
{
    return bytes < limit ? (size_t)bytes : limit;
}

/* Bytes at offset that a read need not wait for. */
static size_t buffered_at(const struct reader_object *self, uint64_t offset)
{
    return self->inflate ? bind_inflate_buffered(self->inflate, offset)
                         : s3d_reader_buffered(self->reader, offset);
}

static bool is_sized(const struct reader_object *self)
{
    return self->object.size_bytes != UINT64_MAX;
}

/* Fills data with [offset, offset + length), cut at the end where the size was not known before.
 * Does not move the position. How many bytes, or -1 with an exception. */
static Py_ssize_t fill_from(struct reader_object *self, uint64_t offset, void *data,
                            size_t length)
{
    struct s3d_error error;
    struct s3d_reader *reader = self->reader;
    struct read_step step = {reader, self->inflate, offset, data, length, 0};
    enum s3d_code code = S3D_AGAIN;
    if (!length) {
        return 0;
    }
    bool sized = is_sized(self);
    if (length <= SMALL_BYTES && buffered_at(self, step.offset) >= length) {
        code = step_read(&step, 0, &error);
    }
    if (code == S3D_AGAIN) {
        code = bind_wait(step_read, &step, &error);
    }
    learn_size(self);
    if (!code && sized && step.got != length) {
        code = s3d_fail(&error, S3D_INTERNAL, "read %zu bytes of %zu", step.got, length);
    }
    if (!code) {
        return (Py_ssize_t)step.got;
    }
    /* After this nothing writes into data any more, which may go away. */
    Py_BEGIN_ALLOW_THREADS
    s3d_reader_cancel(reader);
    Py_END_ALLOW_THREADS
    if (self->inflate) {
        bind_inflate_cancel(self->inflate);
    }
    if (code == S3D_AGAIN) {
        bind_stream_interrupted(&self->stream);
    } else {
        bind_stream_fail(&self->stream, &error);
    }
    return -1;
}

static Py_ssize_t fill(struct reader_object *self, uint64_t ahead, void *data, size_t length)
{
    return fill_from(self, self->position + ahead, data, length);
}

/* length bytes from the position on, straight into a bytes object's own memory. */
static PyObject *read_bytes(struct reader_object *self, size_t length)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    Py_ssize_t got = bytes ? fill(self, 0, PyBytes_AS_STRING(bytes), length) : -1;
    if (got < 0) {
        Py_CLEAR(bytes);
    } else if ((size_t)got < length) {
        _PyBytes_Resize(&bytes, got);
    }
    return bytes;
}

/* Up to length bytes of an object whose size is not known: memory grows with what comes. */
static PyObject *read_growing(struct reader_object *self, size_t length)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, 0);
    size_t used = 0, block = CHUNK_BYTES;
    while (bytes && used < length && remaining_after(self, used)) {
        block = at_most(length - used, used < block ? block : used);
        if (_PyBytes_Resize(&bytes, (Py_ssize_t)(used + block))) {
            return NULL;
        }
        Py_ssize_t got = fill(self, used, PyBytes_AS_STRING(bytes) + used, block);
        if (got < 0) {
            Py_DECREF(bytes);
            return NULL;
        }
        used += (size_t)got;
    }
    if (bytes) {
        _PyBytes_Resize(&bytes, (Py_ssize_t)used);
    }
    return bytes;
}

static PyObject *read_and_advance(struct reader_object *self, size_t length)
{
    PyObject *bytes = is_sized(self) || length <= CHUNK_BYTES ? read_bytes(self, length)
                                                              : read_growing(self, length);
    if (bytes) {
        self->position += (uint64_t)PyBytes_GET_SIZE(bytes);
    }
    return bytes;
}

/* The optional size argument of read(), readline() and the like. */
static int size_argument(PyObject *const *args, Py_ssize_t count, const char *method,
                         Py_ssize_t *size)
{
    if (count > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument (%zd given)", method,
                     count);
        return -1;
    }
    return bind_parse_size(count ? args[0] : NULL, size);
}

static PyObject *reader_read(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct reader_object *self = (struct reader_object *)object;
    Py_ssize_t size;
    if (size_argument(args, count, "read", &size) || enter(self)) {
        return NULL;
    }
    PyObject *bytes = NULL;
    uint64_t left = remaining(self);
    if (size < 0 && left > PY_SSIZE_T_MAX && is_sized(self)) {
        PyErr_SetString(PyExc_OverflowError, "the object is too large for memory");
    } else {
        bytes = read_and_advance(self, at_most(left, size < 0 ? PY_SSIZE_T_MAX : (size_t)size));
    }
    bind_stream_leave(&self->stream);
    return bytes;
}

/* The same into page memory, which is aligned as Arrow and BLAS like it. */
static PyObject *read_pages_and_advance(struct reader_object *self, size_t length)
{
    void *data;
    PyObject *pages = bind_pages_new(self->stream.state, length, &data);
    if (!pages || fill(self, 0, data, length) < 0) {
        Py_XDECREF(pages);
        return NULL;
    }
    self->position += length;
    return bind_pages_view(pages, false);
}

static PyObject *reader_read_buffer(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct reader_object *self = (struct reader_object *)object;
    Py_ssize_t size;
    if (size_argument(args, count, "read_buffer", &size) || enter(self)) {
        return NULL;
    }
    size_t length = at_most(remaining(self), size < 0 ? PY_SSIZE_T_MAX : (size_t)size);
    PyObject *view = NULL;
    if (is_sized(self) && length >= CHUNK_BYTES) {
        view = read_pages_and_advance(self, length);
    } else {
        PyObject *bytes = read_and_advance(self, length);
        view = bytes ? PyMemoryView_FromObject(bytes) : NULL;
        Py_XDECREF(bytes);
    }
    bind_stream_leave(&self->stream);
    return view;
}

/* How many bytes one wait can give, at most `limit`: what is in memory, or else a chunk. */
static size_t one_wait(struct reader_object *self, size_t limit)
{
    size_t buffered = buffered_at(self, self->position);
    return at_most(remaining(self), at_most(buffered ? buffered : CHUNK_BYTES, limit));
}

static PyObject *reader_read1(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct reader_object *self = (struct reader_object *)object;
    Py_ssize_t size;
    if (size_argument(args, count, "read1", &size) || enter(self)) {
        return NULL;
    }
    PyObject *bytes =
        read_and_advance(self, one_wait(self, size < 0 ? CHUNK_BYTES : (size_t)size));
    bind_stream_leave(&self->stream);
    return bytes;
}

static PyObject *read_into(struct reader_object *self, PyObject *buffer, const char *what,
                           bool single_wait)
{
    Py_buffer view;
    if (bind_buffer_to_fill(buffer, &view, what)) {
        return NULL;
    }
    PyObject *result = NULL;
    if (!enter(self)) {
        size_t length = (size_t)view.len;
        length = single_wait ? one_wait(self, length) : at_most(remaining(self), length);
        Py_ssize_t got = fill(self, 0, view.buf, length);
        if (got >= 0) {
            self->position += (uint64_t)got;
            result = PyLong_FromSsize_t(got);
        }
        bind_stream_leave(&self->stream);
    }
    PyBuffer_Release(&view);
    return result;
}

static PyObject *reader_readinto(PyObject *object, PyObject *buffer)
{
    return read_into((struct reader_object *)object, buffer, "readinto()", false);
}

static PyObject *reader_readinto1(PyObject *object, PyObject *buffer)
{
    return read_into((struct reader_object *)object, buffer, "readinto1()", true);
}

/* What is in memory at the position, at most `want`; waits only when there is nothing. */
static PyObject *peek(struct reader_object *self, size_t want)
{
    char first;
    if (!remaining(self)) {
        return PyBytes_FromStringAndSize(NULL, 0);
    }
    if (!buffered_at(self, self->position) && fill(self, 0, &first, 1) < 0) {
        return NULL;
    }
    size_t buffered = buffered_at(self, self->position);
    return read_bytes(self, at_most(remaining(self), at_most(buffered ? buffered : 1, want)));
}

static PyObject *reader_peek(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct reader_object *self = (struct reader_object *)object;
    Py_ssize_t size;
    if (size_argument(args, count, "peek", &size) || enter(self)) {
        return NULL;
    }
    PyObject *bytes = peek(self, size <= 0 ? CHUNK_BYTES : at_most((uint64_t)size, PEEK_BYTES));
    bind_stream_leave(&self->stream);
    return bytes;
}

/* --- lines -------------------------------------------------------------------------------- */

/* The rest of a line that is longer than LINE_BYTES; the block doubles until the newline is in
 * it. */
static PyObject *read_long_line(struct reader_object *self, size_t limit)
{
    PyObject *line = PyBytes_FromStringAndSize(NULL, 0);
    size_t used = 0;
    while (line && used < limit) {
        size_t block = at_most(used < SMALL_BYTES ? SMALL_BYTES : used, limit - used);
        if (_PyBytes_Resize(&line, (Py_ssize_t)(used + block))) {
            return NULL;
        }
        char *data = PyBytes_AS_STRING(line) + used;
        Py_ssize_t got = fill(self, used, data, block);
        if (got < 0) {
            Py_DECREF(line);
            return NULL;
        }
        const char *newline = memchr(data, '\n', (size_t)got);
        used += newline ? (size_t)(newline - data) + 1 : (size_t)got;
        if (newline || (size_t)got < block) {
            break;
        }
    }
    if (line && _PyBytes_Resize(&line, (Py_ssize_t)used)) {
        return NULL;
    }
    return line;
}

static PyObject *read_line(struct reader_object *self, size_t limit)
{
    char block[LINE_BYTES];
    size_t length = at_most(limit, sizeof block);
    Py_ssize_t got = fill(self, 0, block, length);
    if (got < 0) {
        return NULL;
    }
    limit = (size_t)got < length ? (size_t)got : limit; /* the end has come */
    length = (size_t)got;
    const char *newline = memchr(block, '\n', length);
    PyObject *line;
    if (newline || length == limit) {
        length = newline ? (size_t)(newline - block) + 1 : length;
        line = PyBytes_FromStringAndSize(block, (Py_ssize_t)length);
    } else {
        line = read_long_line(self, limit);
    }
    if (line) {
        self->position += (uint64_t)PyBytes_GET_SIZE(line);
    }
    return line;
}

static PyObject *reader_readline(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct reader_object *self = (struct reader_object *)object;
    Py_ssize_t size;
    if (size_argument(args, count, "readline", &size) || enter(self)) {
        return NULL;
    }
    size_t limit = size < 0 ? PY_SSIZE_T_MAX : (size_t)size;
    PyObject *line = read_line(self, at_most(remaining(self), limit));
    bind_stream_leave(&self->stream);
    return line;
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
static int require_size(struct reader_object *self)
{
    char none;
    return is_sized(self) || fill_from(self, UINT64_MAX - 1, &none, 1) >= 0 ? 0 : -1;
}

static int seek_to(struct reader_object *self, int64_t offset, long whence)
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
    struct reader_object *self = (struct reader_object *)object;
    if (count < 1 || count > 2) {
        PyErr_Format(PyExc_TypeError, "seek() takes 1 or 2 arguments (%zd given)", count);
        return NULL;
    }
    int64_t offset;
    long whence = count > 1 ? PyLong_AsLong(args[1]) : SEEK_SET;
    if ((whence == -1 && PyErr_Occurred()) || parse_offset(args[0], &offset) || enter(self)) {
        return NULL;
    }
    PyObject *result =
        seek_to(self, offset, whence) ? NULL : PyLong_FromUnsignedLongLong(self->position);
    bind_stream_leave(&self->stream);
    return result;
}

static PyObject *reader_tell(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct reader_object *self = (struct reader_object *)object;
    if (enter(self)) {
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
    const char *etag = ((struct reader_object *)object)->object.etag;
    return PyUnicode_DecodeUTF8(etag, (Py_ssize_t)strlen(etag), "backslashreplace");
}

static PyMethodDef reader_methods[] = {
    {"read", BIND_FAST(reader_read), METH_FASTCALL,
     "read(size=-1, /)\n--\n\nReads size bytes, fewer only at the end; all that is left when "
     "None or negative."},
    {"read1", BIND_FAST(reader_read1), METH_FASTCALL,
     "read1(size=-1, /)\n--\n\nReads up to size bytes with at most one wait."},
    {"readinto", reader_readinto, METH_O,
     "readinto(buffer, /)\n--\n\nFills a writable contiguous buffer of any dtype, without a "
     "copy in between.\n\nReturns the number of bytes, less than its size only at the end."},
    {"readinto1", reader_readinto1, METH_O,
     "readinto1(buffer, /)\n--\n\nLike readinto() with at most one wait."},
    {"read_buffer", BIND_FAST(reader_read_buffer), METH_FASTCALL,
     "read_buffer(size=-1, /)\n--\n\nLike read(), but a read-only memoryview; from 64 KiB on of page "
     "memory of its own. (pyarrow asks for it.)"},
    {"peek", BIND_FAST(reader_peek), METH_FASTCALL,
     "peek(size=0, /)\n--\n\nBytes from the position on that are in memory, without moving."},
    {"readline", BIND_FAST(reader_readline), METH_FASTCALL,
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
    {"compression", get_compression, NULL,
     "\"zstd\" where reading decompresses, else None.", NULL},
    {"etag", get_etag, NULL, "The version that is read, as the store names it.", NULL},
    BIND_STREAM_GETTERS,
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc,
     (void *)(uintptr_t) "ObjectReader(uri, *, part_size=None, max_concurrency=None)\n"
                         "--\n\nAn object as a seekable binary file."},
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
    .basicsize = sizeof(struct reader_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = reader_slots,
};

/* --- from C -------------------------------------------------------------------------------- */

int bind_reader_read_at(PyObject *object, uint64_t offset, void *data, size_t length)
{
    struct reader_object *self = (struct reader_object *)object;
    if (enter(self)) {
        return -1;
    }
    Py_ssize_t got = -1;
    bool fits = offset <= self->object.size_bytes && length <= self->object.size_bytes - offset;
    if (fits) {
        got = fill_from(self, offset, data, length);
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
    struct reader_object *self = (struct reader_object *)object;
    if (enter(self)) {
        return -1;
    }
    *bytes = bind_reader_is_inflated(object) ? 0 : s3d_reader_buffered(self->reader, offset);
    bind_stream_leave(&self->stream);
    return 0;
}

int bind_reader_fetch(PyObject *object, struct s3d_get **get, const struct s3d_get_plan *wanted)
{
    struct reader_object *self = (struct reader_object *)object;
    struct s3d_error error;
    enum s3d_code code;
    *get = NULL;
    if (enter(self)) {
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
    struct reader_object *self = (struct reader_object *)object;
    int failed = 0;
    if (!is_sized(self)) {
        if (enter(self)) {
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
    return ((struct reader_object *)object)->inflate != NULL;
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
    PyObject *reader = args && keywords
                           ? PyObject_Call((PyObject *)state->reader_type, args, keywords)
                           : NULL;
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
