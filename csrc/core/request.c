#include "core/request.h"

#include <string.h>

const char *s3d_verb_name(enum s3d_verb verb)
{
    static const char *const names[] = {
#define X(verb, name) name,
        S3D_VERBS(X)
#undef X
    };
    return (size_t)verb < sizeof names / sizeof *names ? names[verb] : "request";
}

void s3d_request_reset(struct s3d_request *request)
{
    atomic_store(&request->cancelled, false);
    request->next = NULL;
    request->attempt = NULL;
    request->attempts = 0;
    request->throttled = request->conflicted = false;
    request->ticket = request->signed_with = 0;
    request->resigned = request->redirected = false;
    request->signed_for = NULL;
    request->due_ms = 0;
    request->heard_ms = request->wait_ms = 0;
    request->suspected = request->reissued = false;
    request->hedges = 0;
    memset(&request->last, 0, sizeof request->last);
    memset(&request->result, 0, sizeof request->result);
}

enum s3d_code s3d_request_check(const struct s3d_request *request, const char *etag,
                                struct s3d_error *error)
{
    enum s3d_code code = S3D_OK;
    if (etag && strcmp(etag, request->result.object.etag) != 0) {
        code = s3d_fail_replaced(error, etag, request->result.object.etag);
    } else if (request->result.received_bytes != request->length_bytes) {
        code = s3d_fail(error, S3D_RANGE, "only %llu of %llu bytes at offset %llu were sent",
                        (unsigned long long)request->result.received_bytes,
                        (unsigned long long)request->length_bytes,
                        (unsigned long long)request->offset_bytes);
    }
    if (code) {
        s3d_error_set_operation(error, "%s", s3d_verb_name(request->verb));
    }
    return code;
}

uint64_t s3d_spans_bytes(const struct s3d_span *spans, size_t count)
{
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        total += spans[i].length_bytes;
    }
    return total;
}
