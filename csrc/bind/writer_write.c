#include "bind/writer_state.h"

#include "bind/buffers.h"
#include "bind/gather.h"

#include <string.h>

enum { GATHER_BYTES = 256 * 1024 /* of strided memory, gathered at once */ };

/* --- writing ------------------------------------------------------------------------------ */

struct write_step {
    struct s3d_put *put;
    struct bind_compress *compress;
    const void *data;
    size_t length;
    size_t written;
};

static enum s3d_code step_write(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    struct write_step *step = context;
    return s3d_put_write(step->put, step->data, step->length, &step->written, timeout_ms,
                         error);
}

static enum s3d_code step_compress(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    struct write_step *step = context;
    return bind_compress_write(step->compress, step->put, step->data, step->length,
                               &step->written, timeout_ms, error);
}

/* `how`, unless the bytes are compressed on the way. */
static enum s3d_code run_write(struct bind_writer *self, bind_step *how, const void *data,
                               size_t length, struct s3d_error *error)
{
    struct write_step step = {self->put, self->compress, data, length, 0};
    return bind_wait(self->compress ? step_compress : how, &step, error);
}

static enum s3d_code write_bytes(struct bind_writer *self, const void *data, size_t length,
                                 struct s3d_error *error)
{
    return run_write(self, step_write, data, length, error);
}

static size_t gather_next(struct bind_gather *gather, char *scratch)
{
    size_t piece;
    Py_BEGIN_ALLOW_THREADS
    piece = bind_gather_next(gather, scratch, GATHER_BYTES);
    Py_END_ALLOW_THREADS
    return piece;
}

static enum s3d_code write_strided(struct bind_writer *self, const Py_buffer *view,
                                   struct s3d_error *error)
{
    struct bind_gather gather;
    enum s3d_code code = S3D_OK;
    char *scratch = PyMem_RawMalloc(GATHER_BYTES);
    if (!scratch) {
        return s3d_fail_memory(error, GATHER_BYTES);
    }
    bind_gather_init(&gather, view);
    for (size_t piece; !code && (piece = gather_next(&gather, scratch)) > 0;) {
        code = write_bytes(self, scratch, piece, error);
    }
    PyMem_RawFree(scratch);
    return code;
}

static PyObject *write_view(struct bind_writer *self, const Py_buffer *view)
{
    struct s3d_error error;
    enum s3d_code code = S3D_OK;
    if (bind_writer_check(self)) {
        return NULL;
    }
    if (view->len) {
        code = PyBuffer_IsContiguous(view, 'A')
                   ? write_bytes(self, view->buf, (size_t)view->len, &error)
                   : write_strided(self, view, &error);
    }
    if (code) {
        return bind_writer_poison(self, code, &error);
    }
    self->position += (uint64_t)view->len;
    return PyLong_FromSsize_t(view->len);
}

static PyObject *write_object(PyObject *object, PyObject *data, bool encode)
{
    struct bind_writer *self = (struct bind_writer *)object;
    Py_buffer view;
    if (bind_buffer_to_read(data, &view, "write()", encode)) {
        return NULL;
    }
    PyObject *result = NULL;
    if (!bind_stream_enter(&self->stream)) {
        result = write_view(self, &view);
        bind_stream_leave(&self->stream);
    }
    PyBuffer_Release(&view);
    return result;
}

PyObject *bind_writer_write(PyObject *object, PyObject *data)
{
    return write_object(object, data, false);
}

PyObject *bind_writer_write_or_encode(PyObject *object, PyObject *data)
{
    return write_object(object, data, true);
}

/* --- appending from C ---------------------------------------------------------------------- */

static enum s3d_code step_refer(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    struct write_step *step = context;
    return s3d_put_refer(step->put, step->data, step->length, &step->written, timeout_ms,
                         error);
}

void bind_writer_release_kept(struct bind_writer *self, uint64_t end)
{
    while (self->kept_first < self->kept_count && self->kept[self->kept_first].end <= end) {
        PyObject *owner = self->kept[self->kept_first++].owner;
        Py_DECREF(owner);
    }
}

static int keep(struct bind_writer *self, PyObject *owner, uint64_t end)
{
    bind_writer_release_kept(self, s3d_put_stored_bytes(self->put));
    size_t waiting = self->kept_count - self->kept_first;
    if (self->kept_first > waiting) { /* not only when nothing waits: that may never be */
        memmove(self->kept, self->kept + self->kept_first, waiting * sizeof *self->kept);
        self->kept_first = 0;
        self->kept_count = waiting;
    }
    if (self->kept_count == self->kept_capacity) {
        size_t capacity = self->kept_capacity ? self->kept_capacity * 2 : 64;
        struct bind_kept *larger = PyMem_Realloc(self->kept, capacity * sizeof *larger);
        if (!larger) {
            PyErr_NoMemory();
            return -1;
        }
        self->kept = larger;
        self->kept_capacity = capacity;
    }
    self->kept[self->kept_count++] = (struct bind_kept){Py_NewRef(owner), end};
    return 0;
}

static int append_locked(struct bind_writer *self, PyObject *owner, const void *data,
                         size_t length, bind_step *how)
{
    struct s3d_error error;
    if (bind_writer_check(self) ||
        (owner && !self->compress && keep(self, owner, self->position + length))) {
        return -1;
    }
    enum s3d_code code = length ? run_write(self, how, data, length, &error) : S3D_OK;
    if (code) {
        bind_writer_poison(self, code, &error);
        return -1;
    }
    self->position += length;
    return 0;
}

static int append(PyObject *writer, PyObject *owner, const void *data, size_t length,
                  bind_step *how)
{
    struct bind_writer *self = (struct bind_writer *)writer;
    if (bind_stream_enter(&self->stream)) {
        return -1;
    }
    int failed = append_locked(self, owner, data, length, how);
    bind_stream_leave(&self->stream);
    return failed;
}

int bind_writer_copy(PyObject *writer, const void *data, size_t length)
{
    return append(writer, NULL, data, length, step_write);
}

int bind_writer_refer(PyObject *writer, PyObject *owner, const void *data, size_t length)
{
    return append(writer, owner, data, length, step_refer);
}

PyObject *bind_refer_buffer(PyObject *module, PyObject *args)
{
    const struct bind_state *state = PyModule_GetState(module);
    PyObject *writer, *data;
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "O!O:refer", state->writer_type, &writer, &data) ||
        bind_buffer_to_read(data, &view, "refer()", false)) {
        return NULL;
    }
    size_t length = (size_t)view.len;
    bool as_it_lies = length >= S3D_REFER_MIN_BYTES && PyBuffer_IsContiguous(&view, 'A');
    PyObject *result = NULL;
    /* A memoryview holds the buffer itself: nobody can resize what it lies in. */
    PyObject *owner = as_it_lies && view.obj ? PyMemoryView_FromObject(view.obj) : NULL;
    if (owner && !bind_writer_refer(writer, owner, view.buf, length)) {
        result = PyLong_FromSize_t(length);
    } else if (!owner) {
        PyErr_Clear(); /* datetime64 has no such view */
        result = write_object(writer, data, false);
    }
    Py_XDECREF(owner);
    PyBuffer_Release(&view);
    return result;
}

int bind_writer_zeros(PyObject *writer, uint64_t length)
{
    static const char zeros[1024 * 1024]; /* lives as long as any stream */
    while (length) {
        size_t piece = length < sizeof zeros ? (size_t)length : sizeof zeros;
        if (append(writer, NULL, zeros, piece, step_refer)) {
            return -1;
        }
        length -= piece;
    }
    return 0;
}

PyObject *bind_writer_expect(PyObject *object, PyObject *argument)
{
    struct bind_writer *self = (struct bind_writer *)object;
    unsigned long long bytes = PyLong_AsUnsignedLongLong(argument);
    if ((bytes == (unsigned long long)-1 && PyErr_Occurred()) ||
        bind_stream_enter(&self->stream)) {
        return NULL;
    }
    int failed = bind_writer_check(self);
    struct s3d_put *put = self->put;
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        s3d_put_expect(put, bytes);
        Py_END_ALLOW_THREADS
    }
    bind_stream_leave(&self->stream);
    return failed ? NULL : Py_NewRef(Py_None);
}

/* --- taking memory back -------------------------------------------------------------------- */

struct let_go_step {
    struct s3d_put *put;
    uint64_t end;
};

static enum s3d_code step_let_go(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    const struct let_go_step *step = context;
    return s3d_put_let_go(step->put, step->end, timeout_ms, error);
}

static PyObject *let_go_locked(struct bind_writer *self, uint64_t end)
{
    struct s3d_error error;
    struct let_go_step step = {self->put, end};
    if (bind_writer_check(self)) {
        return NULL;
    }
    enum s3d_code code = bind_wait(step_let_go, &step, &error);
    if (code) {
        return bind_writer_poison(self, code, &error);
    }
    bind_writer_release_kept(self, end);
    Py_RETURN_NONE;
}

PyObject *bind_writer_let_go(PyObject *object, PyObject *argument)
{
    struct bind_writer *self = (struct bind_writer *)object;
    unsigned long long end = PyLong_AsUnsignedLongLong(argument);
    if ((end == (unsigned long long)-1 && PyErr_Occurred()) ||
        bind_stream_enter(&self->stream)) {
        return NULL;
    }
    PyObject *result = let_go_locked(self, end);
    bind_stream_leave(&self->stream);
    return result;
}
