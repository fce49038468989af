#include "bind/calls.h"

#include "bind/errors.h"
#include "bind/reader.h"
#include "bind/request.h"
#include "bind/wait.h"
#include "core/latch.h"
#include "core/reader.h"

#include <string.h>

enum { PIECE_BYTES = 512 * 1024 }; /* short enough to go by blocks, which are read far ahead */

/* An object on its way past, in order and in bounded memory. */
struct pass {
    struct s3d_reader *reader;
    const struct s3d_sum_kind *kind;
    char *data; /* PIECE_BYTES */
    size_t got; /* of the piece under way */
    uint64_t offset, sum;
};

static enum s3d_code step_sum(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    struct pass *pass = context;
    uint64_t size = s3d_reader_object(pass->reader)->size_bytes;
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    enum s3d_code code = S3D_OK;
    while (!code && pass->offset < size) {
        code = s3d_now_ms() >= deadline_ms
                   ? S3D_AGAIN /* for a look at Ctrl-C */
                   : s3d_reader_read(pass->reader, pass->offset, pass->data, PIECE_BYTES,
                                     &pass->got, timeout_ms, error);
        if (!code) {
            pass->sum = pass->kind->update(pass->sum, pass->data, pass->got);
            pass->offset += pass->got;
            pass->got = 0;
        }
    }
    return code;
}

static enum s3d_code check_version(const struct s3d_object *asked,
                                   const struct s3d_object *read, struct s3d_error *error)
{
    if (strcmp(asked->etag, read->etag) == 0) {
        return S3D_OK;
    }
    return s3d_fail_replaced(error, asked->etag, read->etag);
}

/* Sums up all bytes of the version that `object` is. AGAIN: a Python exception is set. */
static enum s3d_code run_pass(struct pass *pass, const struct bind_target *target,
                              const struct bind_transfer *transfer,
                              const struct s3d_object *object, struct s3d_error *error)
{
    enum s3d_code code = bind_reader_begin(&pass->reader, target, transfer, true, error);
    code = code ? code : check_version(object, s3d_reader_object(pass->reader), error);
    code = code ? code : bind_wait(step_sum, pass, error);
    Py_BEGIN_ALLOW_THREADS
    s3d_reader_free(pass->reader);
    Py_END_ALLOW_THREADS
    return code;
}

static PyObject *report(const struct bind_target *target, const struct s3d_object *object,
                        const struct pass *pass)
{
    char computed[S3D_SUM_TEXT];
    pass->kind->write(pass->sum, computed);
    return Py_BuildValue("(OKssss)", target->name, (unsigned long long)object->size_bytes,
                         object->etag, pass->kind->name, object->sum, computed);
}

static PyObject *verify_object(const struct bind_state *state, const struct bind_target *target,
                               const struct bind_transfer *transfer,
                               const struct s3d_object *object)
{
    struct pass pass = {.kind = object->sum_kind, .data = PyMem_RawMalloc(PIECE_BYTES)};
    struct s3d_error error;
    PyObject *result = NULL;
    if (!pass.data) {
        return PyErr_NoMemory();
    }
    enum s3d_code code =
        object->size_bytes ? run_pass(&pass, target, transfer, object, &error) : S3D_OK;
    if (!code) {
        result = report(target, object, &pass);
    } else if (code != S3D_AGAIN) {
        bind_raise(state, &error, bind_target_text(target));
    }
    PyMem_RawFree(pass.data);
    return result;
}

/* What is stored, by a request that asks for it. 0 or -1. */
static int ask_stored(const struct bind_state *state, const struct bind_target *target,
                      struct s3d_object *object)
{
    struct s3d_call *call = bind_request_new(state, target, S3D_VERB_STAT);
    int failed = -1;
    if (call) {
        call->request.wants_sum = true;
        failed = bind_request_run(state, target, call);
        *object = call->request.result.object;
    }
    bind_request_free(call);
    return failed;
}

PyObject *bind_verify(PyObject *module, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"uri", "part_size", "max_concurrency", NULL};
    const struct bind_state *state = PyModule_GetState(module);
    struct bind_target target;
    struct bind_transfer transfer;
    struct s3d_object object;
    PyObject *uri, *part_size = NULL, *max_concurrency = NULL, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$OO:verify", BIND_NAMES(names), &uri,
                                     &part_size, &max_concurrency) ||
        bind_target_open(&target, state, uri, true)) {
        return NULL;
    }
    if (!bind_transfer_load(&transfer, state, bind_target_text(&target), BIND_READ, part_size,
                            max_concurrency) &&
        !ask_stored(state, &target, &object)) {
        result = object.sum_kind ? verify_object(state, &target, &transfer, &object)
                                 : Py_NewRef(Py_None);
    }
    bind_target_fini(&target);
    return result;
}
