#include "core/call.h"

#include "core/engine.h"
#include "core/mem.h"
#include "core/store.h"

static void call_done(struct s3d_request *request)
{
    struct s3d_call *call = request->owner;
    s3d_latch_lock(&call->latch);
    call->latch.in_flight--;
    s3d_latch_notify_locked(&call->latch);
    s3d_latch_unlock(&call->latch);
}

enum s3d_code s3d_call_new(struct s3d_call **out, struct s3d_store *store,
                           struct s3d_error *error)
{
    struct s3d_call *call = s3d_alloc_zeroed(1, sizeof *call);
    if (!call) {
        return s3d_fail_memory(error, sizeof *call);
    }
    enum s3d_code code = s3d_latch_init(&call->latch, error);
    if (code) {
        s3d_free(call);
        return code;
    }
    call->request.store = s3d_store_acquire(store);
    call->request.owner = call;
    call->request.done = call_done;
    *out = call;
    return S3D_OK;
}

void s3d_call_start(struct s3d_call *call)
{
    if (s3d_engine_check(call->request.store->engine, NULL) == S3D_FORKED) {
        return; /* its wait says so */
    }
    s3d_latch_lock(&call->latch);
    s3d_request_reset(&call->request);
    call->latch.in_flight = 1;
    s3d_latch_unlock(&call->latch);
    s3d_pool_submit(call->request.store->pool, &call->request);
}

enum s3d_code s3d_call_wait(struct s3d_call *call, int64_t timeout_ms, struct s3d_error *error)
{
    enum s3d_code code = s3d_engine_check(call->request.store->engine, error);
    if (code == S3D_FORKED) {
        return code;
    }
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    s3d_latch_lock(&call->latch);
    while (call->latch.in_flight && s3d_latch_wait_locked(&call->latch, deadline_ms)) {
    }
    bool done = call->latch.in_flight == 0;
    s3d_latch_unlock(&call->latch);
    if (!done) {
        return S3D_AGAIN;
    }
    code = call->request.result.code;
    if (code) {
        s3d_error_copy(error, &call->request.result.error);
    }
    return code;
}

void s3d_call_free(struct s3d_call *call)
{
    if (!call || s3d_engine_check(call->request.store->engine, NULL) == S3D_FORKED) {
        return; /* a forked child leaves the parent's request alone */
    }
    s3d_latch_lock(&call->latch);
    if (call->latch.in_flight) {
        s3d_pool_cancel(call->request.store->pool, &call->request);
    }
    while (call->latch.in_flight) {
        s3d_latch_wait_locked(&call->latch, -1);
    }
    s3d_latch_unlock(&call->latch);
    s3d_latch_fini(&call->latch);
    s3d_store_release(call->request.store);
    s3d_free(call);
}
