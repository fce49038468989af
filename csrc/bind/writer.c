#include "bind/writer_state.h"

#include "bind/errors.h"
#include "bind/note.h"
#include "bind/target.h"

/*
 * How a writer ends:
 *
 *   close()          commits once, and returns the same dict each time
 *   failed write     aborts at once; then write() and close() raise that first error each time
 *   signal handler   the same: aborted, first error CANCELLED (its exception goes up as it is)
 *   abort(), error   aborts; write() raises "closed file", close() raises CANCELLED: that must
 *   in `with`        not look like a commit
 *   no reference     aborts, with a ResourceWarning
 *   exit             the engine aborts (core/engine.h); later calls raise what it says
 */

/* --- open --------------------------------------------------------------------------------- */

struct arguments {
    PyObject *uri, *part_size, *max_concurrency, *metadata;
    unsigned long long expected_bytes;
    int zstd_level; /* 0: no compression */
    struct s3d_put_options options;
};

static int open_put(struct bind_writer *self, const struct bind_target *target,
                    const struct bind_transfer *transfer, const struct arguments *arguments)
{
    struct s3d_error error;
    enum s3d_code code;
    struct s3d_put_plan plan = {
        .key = target->uri.key,
        .part_bytes = transfer->part_bytes,
        .part_max_bytes = transfer->part_max_bytes,
        .concurrency = transfer->concurrency,
        .expected_bytes = arguments->expected_bytes,
        .options = &arguments->options,
    };
    Py_BEGIN_ALLOW_THREADS
    code = s3d_put_new(&self->put, target->store, &plan, &error);
    Py_END_ALLOW_THREADS
    if (code) {
        self->put = NULL;
    } else if (arguments->zstd_level) {
        Py_BEGIN_ALLOW_THREADS
        code = bind_compress_new(&self->compress, arguments->zstd_level, transfer->threads,
                                 &error);
        Py_END_ALLOW_THREADS
    }
    if (code) {
        bind_raise(self->stream.state, &error, bind_target_text(target));
        return -1;
    }
    return 0;
}

static int parse_arguments(struct arguments *arguments, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"uri",
                                        "part_size",
                                        "max_concurrency",
                                        "content_type",
                                        "content_encoding",
                                        "storage_class",
                                        "metadata",
                                        "if_none_match",
                                        "expected_size",
                                        "checksum",
                                        "zstd_level",
                                        "if_match",
                                        NULL};
    const char *checksum = NULL;
    int if_none_match = 0;
    *arguments = (struct arguments){NULL};
    if (!PyArg_ParseTupleAndKeywords(
            args, keywords, "O|$OOzzzOpKziz:ObjectWriter", BIND_NAMES(names), &arguments->uri,
            &arguments->part_size, &arguments->max_concurrency,
            &arguments->options.content_type, &arguments->options.content_encoding,
            &arguments->options.storage_class, &arguments->metadata, &if_none_match,
            &arguments->expected_bytes, &checksum, &arguments->zstd_level,
            &arguments->options.if_match)) {
        return -1;
    }
    arguments->options.if_none_match = if_none_match != 0;
    return bind_checksum_load(&arguments->options, checksum);
}

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    struct arguments arguments;
    struct bind_state *state = bind_state_of_type(type, NULL);
    struct bind_target target;
    struct bind_transfer transfer;
    if (!state || parse_arguments(&arguments, args, keywords) ||
        bind_target_open(&target, state, arguments.uri, true)) {
        return NULL;
    }
    struct bind_writer *self = NULL;
    const char *uri = bind_target_text(&target);
    if (!bind_transfer_load(&transfer, state, uri, BIND_WRITE, arguments.part_size,
                            arguments.max_concurrency) &&
        !bind_options_load(&arguments.options, uri, arguments.metadata)) {
        self = (struct bind_writer *)type->tp_alloc(type, 0);
    }
    if (self && (bind_stream_init(&self->stream, target.name, target.bytes) ||
                 open_put(self, &target, &transfer, &arguments))) {
        Py_CLEAR(self);
    }
    bind_options_fini(&arguments.options);
    bind_target_fini(&target);
    return (PyObject *)self;
}

/* --- ends --------------------------------------------------------------------------------- */

static void abort_put(struct bind_writer *self, const struct s3d_error *why)
{
    struct s3d_put *put = self->put;
    if (put) {
        Py_BEGIN_ALLOW_THREADS
        s3d_put_abort(put, why);
        Py_END_ALLOW_THREADS
    }
}

static void free_put(struct bind_writer *self)
{
    struct s3d_put *put = self->put;
    struct bind_compress *compress = bind_stream_forked(&self->stream) ? NULL : self->compress;
    self->put = NULL;
    self->compress = NULL;
    if (put) {
        Py_BEGIN_ALLOW_THREADS
        s3d_put_free(put); /* joins: nothing refers to the kept objects' memory afterwards */
        bind_compress_free(compress);
        Py_END_ALLOW_THREADS
    }
    if (!bind_stream_forked(&self->stream)) {
        bind_writer_release_kept(self, UINT64_MAX);
    }
}

PyObject *bind_writer_poison(struct bind_writer *self, enum s3d_code code,
                             const struct s3d_error *error)
{
    if (code != S3D_AGAIN) {
        abort_put(self, error);
        return bind_stream_fail(&self->stream, error);
    }
    PyObject *exception = bind_take_exception();
    struct s3d_error why;
    s3d_fail(&why, S3D_CANCELLED, "interrupted: the object was not written");
    abort_put(self, &why);
    bind_note_remains(exception, self->put, self->stream.name);
    bind_restore_exception(exception);
    /* It may have been committed in the last moment: then close() says so. */
    if (!self->put || !s3d_put_finished(self->put)) {
        bind_stream_interrupted(&self->stream);
    }
    return NULL;
}

static PyObject *raise_first_failure(struct bind_writer *self)
{
    return bind_raise(self->stream.state, &self->stream.failure.error,
                      bind_stream_uri(&self->stream));
}

int bind_writer_check(struct bind_writer *self)
{
    if (self->stream.failure.error.code) {
        raise_first_failure(self);
        return -1;
    }
    if (self->stream.closed) {
        bind_stream_raise_closed();
        return -1;
    }
    return 0;
}

static void warn_unclosed(PyObject *object)
{
    if (PyErr_ResourceWarning(object, 1,
                              "unclosed %R: the upload was aborted, nothing was written. Use "
                              "`with`, or call close()",
                              object)) {
        if (PyErr_ExceptionMatches(PyExc_Warning)) {
            PyErr_WriteUnraisable(object);
        }
        PyErr_Clear();
    }
}

/* Never commits: an object half written must not become visible because its writer was
 * dropped. */
static void writer_finalize(PyObject *object)
{
    struct bind_writer *self = (struct bind_writer *)object;
    PyObject *exception = bind_take_exception();
    if (self->put && !self->stream.closed) {
        if (!self->stream.failure.error.code && !bind_stream_forked(&self->stream) &&
            !s3d_put_finished(self->put)) {
            warn_unclosed(object);
            abort_put(self, NULL);
            if (bind_note_remains(NULL, self->put, self->stream.name)) {
                PyErr_WriteUnraisable(object);
            }
        }
        self->aborted = true;
        self->stream.closed = true;
    }
    free_put(self);
    bind_restore_exception(exception);
}

static void writer_dealloc(PyObject *object)
{
    if (PyObject_CallFinalizerFromDealloc(object) < 0) {
        return;
    }
    PyObject_GC_UnTrack(object);
    Py_CLEAR(((struct bind_writer *)object)->metadata);
    PyMem_Free(((struct bind_writer *)object)->kept);
    bind_stream_dealloc(object);
}

static int writer_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct bind_writer *self = (struct bind_writer *)object;
    Py_VISIT(self->metadata);
    for (size_t i = self->kept_first; i < self->kept_count; i++) {
        Py_VISIT(self->kept[i].owner);
    }
    return bind_stream_traverse(object, visit, arg);
}

static int writer_clear(PyObject *object)
{
    Py_CLEAR(((struct bind_writer *)object)->metadata);
    return bind_stream_clear(object);
}

/* --- close and abort ---------------------------------------------------------------------- */

static enum s3d_code step_finish(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    struct bind_writer *self = context;
    enum s3d_code code = S3D_OK;
    if (self->compress) {
        code = bind_compress_finish(self->compress, self->put, timeout_ms, error);
    }
    return code ? code : s3d_put_finish(self->put, timeout_ms, error);
}

static PyObject *new_metadata(const struct bind_writer *self)
{
    unsigned long long bytes = s3d_put_bytes(self->put);
    return Py_BuildValue("{s:K,s:K,s:s,s:O}", "size", bytes, "bytes_written",
                         (unsigned long long)self->position, "etag", s3d_put_etag(self->put),
                         "uri", self->stream.name);
}

static PyObject *raise_aborted(struct bind_writer *self)
{
    struct s3d_error error;
    s3d_fail(&error, S3D_CANCELLED,
             "the write was aborted before close(): nothing was written");
    return bind_raise(self->stream.state, &error, bind_stream_uri(&self->stream));
}

static PyObject *commit(struct bind_writer *self)
{
    struct s3d_error error;
    enum s3d_code code = bind_wait(step_finish, self, &error);
    if (code) {
        bind_writer_poison(self, code, &error);
        if (self->stream.failure.error.code) {
            self->stream.closed = true;
        }
        return NULL;
    }
    self->metadata = new_metadata(self);
    if (!self->metadata) {
        return NULL; /* no memory; committed all the same, and close() may be called again */
    }
    self->stream.closed = true;
    free_put(self);
    return Py_NewRef(self->metadata);
}

static PyObject *close_locked(struct bind_writer *self)
{
    if (self->metadata) {
        return Py_NewRef(self->metadata);
    }
    if (self->stream.failure.error.code) {
        self->stream.closed = true;
        free_put(self);
        return raise_first_failure(self);
    }
    return self->aborted ? raise_aborted(self) : commit(self);
}

static PyObject *writer_close(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct bind_writer *self = (struct bind_writer *)object;
    if (self->metadata) {
        return Py_NewRef(self->metadata);
    }
    if (bind_stream_enter(&self->stream)) {
        return NULL;
    }
    PyObject *result = close_locked(self);
    bind_stream_leave(&self->stream);
    return result;
}

/* A close() that Ctrl-C left just after the commit: too late to abort, close() has to tell. */
static int keep_late_commit(struct bind_writer *self, bool forked)
{
    if (forked || self->metadata || !self->put || !s3d_put_finished(self->put)) {
        return 0;
    }
    self->metadata = new_metadata(self);
    return self->metadata ? 0 : -1;
}

/* Nothing to do when it has ended before: committed, failed, aborted. `exception`: why, or NULL. */
static int abort_writer(struct bind_writer *self, PyObject *exception)
{
    bool forked =
        bind_stream_forked(&self->stream); /* then core only forgets; no lock: see reader */
    if (!forked && bind_lock_enter(&self->stream.lock, (PyObject *)self)) {
        return -1;
    }
    int failed = keep_late_commit(self, forked);
    if (!self->metadata && !self->stream.failure.error.code) {
        self->aborted = true;
        abort_put(self, NULL);
        if (!forked && bind_note_remains(exception, self->put, self->stream.name)) {
            failed = -1;
        }
    }
    self->stream.closed = true;
    free_put(self);
    if (!forked) {
        bind_stream_leave(&self->stream);
    }
    return failed;
}

static PyObject *writer_abort(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    if (abort_writer((struct bind_writer *)object, NULL)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/*
 * zipfile and torch go on after a Ctrl-C, fail on the stream that it has ended, and let that failure
 * out of the `with` body: then the interrupt is raised in its place. 0, or -1 with the exception.
 */
static int raise_hidden_interrupt(const struct bind_writer *self, PyObject *passing)
{
    PyObject *interrupt = self->stream.failure.interrupt;
    if (!interrupt || interrupt == passing ||
        PyErr_GivenExceptionMatches(interrupt, PyExc_Exception)) {
        return 0;
    }
    if (PyExceptionInstance_Check(passing)) {
        PyException_SetCause(interrupt, Py_NewRef(passing));
    }
    PyErr_SetObject((PyObject *)Py_TYPE(interrupt), interrupt);
    return -1;
}

static PyObject *writer_exit(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct bind_writer *self = (struct bind_writer *)object;
    if (count != 3) {
        PyErr_Format(PyExc_TypeError, "__exit__() takes 3 arguments (%zd given)", count);
        return NULL;
    }
    if (args[0] != Py_None) {
        /* An abort looks for no signals: one that came meanwhile would be left to who comes next. */
        if (abort_writer(self, args[1]) || raise_hidden_interrupt(self, args[1]) ||
            PyErr_CheckSignals()) {
            return NULL;
        }
    } else if (!self->aborted) {
        PyObject *done = PyObject_CallMethod(object, "close", NULL);
        if (!done) {
            return NULL;
        }
        Py_DECREF(done);
    }
    Py_RETURN_FALSE;
}

/* --- what it is --------------------------------------------------------------------------- */

/* Nothing to flush before close(): torch flushes even after a failure, so it must not
 * commit. */
static PyObject *writer_flush(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    if (((struct bind_stream *)object)->closed) {
        return bind_stream_raise_closed();
    }
    Py_RETURN_NONE;
}

static PyObject *writer_tell(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct bind_writer *self = (struct bind_writer *)object;
    if (self->stream.closed) {
        return bind_stream_raise_closed();
    }
    return PyLong_FromUnsignedLongLong(self->position);
}

/* zipfile takes a stream whose seek() raises this as unseekable; ValueError would break it. */
static PyObject *refuse(PyObject *object, PyObject *const *Py_UNUSED(args),
                        Py_ssize_t Py_UNUSED(count))
{
    struct bind_stream *stream = (struct bind_stream *)object;
    if (stream->closed) {
        return bind_stream_raise_closed();
    }
    PyErr_Format(
        stream->state->unsupported_error,
        "%U: open for writing from start to end only; it cannot be read, sought or cut",
        stream->name);
    return NULL;
}

static PyObject *get_stored_bytes(PyObject *object, void *Py_UNUSED(closure))
{
    struct bind_writer *self = (struct bind_writer *)object;
    /* Freed once committed, and then the store has all; or after a failure, and then nothing. */
    uint64_t bytes = self->put        ? s3d_put_stored_bytes(self->put)
                     : self->metadata ? self->position
                                      : 0;
    return PyLong_FromUnsignedLongLong(bytes);
}

static PyObject *get_mode(PyObject *Py_UNUSED(object), void *Py_UNUSED(closure))
{
    return PyUnicode_FromString("wb");
}

static PyMethodDef writer_methods[] = {
    {"write", bind_writer_write, METH_O,
     "write(buffer, /)\n--\n\nTakes all of a buffer of any dtype: in memory order where it is C- or "
     "F-contiguous, else in its logical (C) order.\n\nAn object without a buffer that has tobytes() "
     "is taken by that. Text and all else is a TypeError, and changes nothing. Nothing refers to "
     "the memory afterwards. Returns the size in bytes."},
    {"_write_or_encode", bind_writer_write_or_encode, METH_O,
     "_write_or_encode(data, /)\n--\n\nThe same; str, and what has encode(), is encoded."},
    {"close", writer_close, METH_NOARGS,
     "close()\n--\n\nMakes the object visible and returns {size, bytes_written, etag, uri}.\n\n"
     "Again returns the same dict. After a failure it raises that failure, each time."},
    {"abort", writer_abort, METH_NOARGS,
     "abort()\n--\n\nEnds without writing the object; nothing of it stays in the store."},
    {"expect", bind_writer_expect, METH_O,
     "expect(nbytes, /)\n--\n\nTells how many bytes are about to come (a hint), all of them from "
     "memory that is filled already: for a far store they are then shared out over the connections "
     "in larger parts."},
    {"flush", writer_flush, METH_NOARGS,
     "flush()\n--\n\nDoes nothing: an object becomes visible by close() alone."},
    {"tell", writer_tell, METH_NOARGS, "tell()\n--\n\nBytes written so far."},
    {"let_go", bind_writer_let_go, METH_O,
     "let_go(end, /)\n--\n\nReturns once no memory that was given before position `end` is in use "
     "any more: its bytes are in the store, or were copied for a part that is not full yet."},
    {"read", BIND_FAST(refuse), METH_FASTCALL, "Not for writers: io.UnsupportedOperation."},
    {"read1", BIND_FAST(refuse), METH_FASTCALL, "Not for writers: io.UnsupportedOperation."},
    {"readinto", BIND_FAST(refuse), METH_FASTCALL, "Not for writers: io.UnsupportedOperation."},
    {"readinto1", BIND_FAST(refuse), METH_FASTCALL,
     "Not for writers: io.UnsupportedOperation."},
    {"readline", BIND_FAST(refuse), METH_FASTCALL, "Not for writers: io.UnsupportedOperation."},
    {"seek", BIND_FAST(refuse), METH_FASTCALL, "Not for writers: io.UnsupportedOperation."},
    {"truncate", BIND_FAST(refuse), METH_FASTCALL, "Not for writers: io.UnsupportedOperation."},
    {"readable", bind_stream_no, METH_NOARGS, "readable()\n--\n\nFalse."},
    {"seekable", bind_stream_no, METH_NOARGS, "seekable()\n--\n\nFalse."},
    {"writable", bind_stream_yes, METH_NOARGS, "writable()\n--\n\nTrue."},
    {"__exit__", BIND_FAST(writer_exit), METH_FASTCALL,
     "Commits after a clean body, aborts after an exception, which goes on."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef writer_getters[] = {
    {"mode", get_mode, NULL, "\"wb\"", NULL},
    {"stored_bytes", get_stored_bytes, NULL, "How many bytes from the front the store has.",
     NULL},
    BIND_STREAM_GETTERS,
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_doc,
     (void
          *)(uintptr_t)"ObjectWriter(uri, *, part_size=None, max_concurrency=None, "
                       "content_type=None, content_encoding=None, storage_class=None, "
                       "metadata=None, if_none_match=False, expected_size=0, "
                       "checksum=None, zstd_level=0, if_match=None)\n"
                       "--\n\nAn object being written; close() makes it visible: what open(uri, "
                       "\"wb\") returns. Its\nfurther arguments are made of WriterOptions."},
    {Py_tp_new, writer_new},
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_finalize, writer_finalize},
    {Py_tp_traverse, writer_traverse},
    {Py_tp_clear, writer_clear},
    {Py_tp_repr, bind_stream_repr},
    {Py_tp_str, bind_stream_str},
    {Py_tp_methods, writer_methods},
    {Py_tp_getset, writer_getters},
    {0, NULL},
};

static PyType_Spec writer_spec = {
    .name = "s3dlio_np._native.ObjectWriter",
    .basicsize = sizeof(struct bind_writer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = writer_slots,
};

int bind_writer_init(PyObject *module, struct bind_state *state)
{
    state->writer_type = bind_stream_type(module, state, &writer_spec);
    return state->writer_type ? PyModule_AddType(module, state->writer_type) : -1;
}
