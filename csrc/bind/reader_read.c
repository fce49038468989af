#include "bind/reader_state.h"

#include "bind/buffers.h"

#include <string.h>

enum {
    SMALL_BYTES = 4096,   /* buffered reads up to this size keep the GIL */
    LINE_BYTES = 512,     /* most lines fit */
    CHUNK_BYTES = 65536,  /* read1() and peek() without a size */
    PEEK_BYTES = 1048576, /* peek() copies no more than this */
};

/* --- bytes from anywhere ------------------------------------------------------------------- */

void bind_reader_learn_size(struct bind_reader *self)
{
    if (self->inflate) {
        bind_inflate_size(self->inflate, &self->object.size_bytes);
    }
}

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

/* Bytes at offset that a read need not wait for. */
static size_t buffered_at(const struct bind_reader *self, uint64_t offset)
{
    return self->inflate ? bind_inflate_buffered(self->inflate, offset)
                         : s3d_reader_buffered(self->reader, offset);
}

Py_ssize_t bind_reader_fill(struct bind_reader *self, uint64_t offset, void *data,
                            size_t length)
{
    struct s3d_error error;
    struct s3d_reader *reader = self->reader;
    struct read_step step = {reader, self->inflate, offset, data, length, 0};
    enum s3d_code code = S3D_AGAIN;
    if (!length) {
        return 0;
    }
    bool sized = bind_reader_is_sized(self);
    if (length <= SMALL_BYTES && buffered_at(self, step.offset) >= length) {
        code = step_read(&step, 0, &error);
    }
    if (code == S3D_AGAIN) {
        code = bind_wait(step_read, &step, &error);
    }
    bind_reader_learn_size(self);
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

/* --- from the position on ------------------------------------------------------------------ */

static uint64_t remaining(const struct bind_reader *self)
{
    return self->position < self->object.size_bytes ? self->object.size_bytes - self->position
                                                    : 0;
}

/* What is left `ahead` bytes further on. */
static uint64_t remaining_after(const struct bind_reader *self, uint64_t ahead)
{
    uint64_t left = remaining(self);
    return ahead < left ? left - ahead : 0;
}

static size_t at_most(uint64_t bytes, size_t limit)
{
    return bytes < limit ? (size_t)bytes : limit;
}

static Py_ssize_t fill(struct bind_reader *self, uint64_t ahead, void *data, size_t length)
{
    return bind_reader_fill(self, self->position + ahead, data, length);
}

/* length bytes from the position on, straight into a bytes object's own memory. */
static PyObject *read_bytes(struct bind_reader *self, size_t length)
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
static PyObject *read_growing(struct bind_reader *self, size_t length)
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

static PyObject *read_and_advance(struct bind_reader *self, size_t length)
{
    bool at_once = bind_reader_is_sized(self) || length <= CHUNK_BYTES;
    PyObject *bytes = at_once ? read_bytes(self, length) : read_growing(self, length);
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

PyObject *bind_reader_read(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct bind_reader *self = (struct bind_reader *)object;
    Py_ssize_t size;
    if (size_argument(args, count, "read", &size) || bind_reader_enter(self)) {
        return NULL;
    }
    PyObject *bytes = NULL;
    uint64_t left = remaining(self);
    if (size < 0 && left > PY_SSIZE_T_MAX && bind_reader_is_sized(self)) {
        PyErr_SetString(PyExc_OverflowError, "the object is too large for memory");
    } else {
        bytes = read_and_advance(self, at_most(left, size < 0 ? PY_SSIZE_T_MAX : (size_t)size));
    }
    bind_stream_leave(&self->stream);
    return bytes;
}

/* The same into page memory, which is aligned as Arrow and BLAS like it. */
static PyObject *read_pages_and_advance(struct bind_reader *self, size_t length)
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

PyObject *bind_reader_read_buffer(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct bind_reader *self = (struct bind_reader *)object;
    Py_ssize_t size;
    if (size_argument(args, count, "read_buffer", &size) || bind_reader_enter(self)) {
        return NULL;
    }
    size_t length = at_most(remaining(self), size < 0 ? PY_SSIZE_T_MAX : (size_t)size);
    PyObject *view = NULL;
    if (bind_reader_is_sized(self) && length >= CHUNK_BYTES) {
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
static size_t one_wait(struct bind_reader *self, size_t limit)
{
    size_t buffered = buffered_at(self, self->position);
    return at_most(remaining(self), at_most(buffered ? buffered : CHUNK_BYTES, limit));
}

PyObject *bind_reader_read1(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct bind_reader *self = (struct bind_reader *)object;
    Py_ssize_t size;
    if (size_argument(args, count, "read1", &size) || bind_reader_enter(self)) {
        return NULL;
    }
    PyObject *bytes =
        read_and_advance(self, one_wait(self, size < 0 ? CHUNK_BYTES : (size_t)size));
    bind_stream_leave(&self->stream);
    return bytes;
}

static PyObject *read_into(struct bind_reader *self, PyObject *buffer, const char *what,
                           bool single_wait)
{
    Py_buffer view;
    if (bind_buffer_to_fill(buffer, &view, what)) {
        return NULL;
    }
    PyObject *result = NULL;
    if (!bind_reader_enter(self)) {
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

PyObject *bind_reader_readinto(PyObject *object, PyObject *buffer)
{
    return read_into((struct bind_reader *)object, buffer, "readinto()", false);
}

PyObject *bind_reader_readinto1(PyObject *object, PyObject *buffer)
{
    return read_into((struct bind_reader *)object, buffer, "readinto1()", true);
}

/* What is in memory at the position, at most `want`; waits only when there is nothing. */
static PyObject *peek(struct bind_reader *self, size_t want)
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

PyObject *bind_reader_peek(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct bind_reader *self = (struct bind_reader *)object;
    Py_ssize_t size;
    if (size_argument(args, count, "peek", &size) || bind_reader_enter(self)) {
        return NULL;
    }
    PyObject *bytes = peek(self, size <= 0 ? CHUNK_BYTES : at_most((uint64_t)size, PEEK_BYTES));
    bind_stream_leave(&self->stream);
    return bytes;
}

/* --- lines -------------------------------------------------------------------------------- */

/* The rest of a line that is longer than LINE_BYTES; the block doubles until the newline is in
 * it. */
static PyObject *read_long_line(struct bind_reader *self, size_t limit)
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

static PyObject *read_line(struct bind_reader *self, size_t limit)
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

PyObject *bind_reader_readline(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct bind_reader *self = (struct bind_reader *)object;
    Py_ssize_t size;
    if (size_argument(args, count, "readline", &size) || bind_reader_enter(self)) {
        return NULL;
    }
    size_t limit = size < 0 ? PY_SSIZE_T_MAX : (size_t)size;
    PyObject *line = read_line(self, at_most(remaining(self), limit));
    bind_stream_leave(&self->stream);
    return line;
}
