#include "bind/request.h"

#include "bind/errors.h"
#include "bind/wait.h"

struct s3d_call *bind_request_new(const struct bind_state *state,
                                  const struct bind_target *target, enum s3d_verb verb)
{
    struct s3d_call *call;
    struct s3d_error error;
    if (s3d_call_new(&call, target->store, &error)) {
        bind_raise(state, &error, bind_target_text(target));
        return NULL;
    }
    call->request.verb = verb;
    call->request.key = target->uri.key;
    return call;
}

static enum s3d_code step_call(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    return s3d_call_wait(context, timeout_ms, error);
}

int bind_request_run(const struct bind_state *state, const struct bind_target *target,
                     struct s3d_call *call)
{
    struct s3d_error error;
    Py_BEGIN_ALLOW_THREADS
    s3d_call_start(call);
    Py_END_ALLOW_THREADS
    enum s3d_code code = bind_wait(step_call, call, &error);
    if (code && code != S3D_AGAIN) {
        bind_raise(state, &error, bind_target_text(target));
    }
    return code ? -1 : 0;
}

void bind_request_free(struct s3d_call *call)
{
    if (call) {
        Py_BEGIN_ALLOW_THREADS
        s3d_call_free(call);
        Py_END_ALLOW_THREADS
    }
}
