#include "core/whole.h"

#include "core/engine.h"
#include "core/latch.h"
#include "core/mem.h"

#include <string.h>

struct s3d_whole {
    /* frozen */
    struct s3d_store *store;
    char *key;
    struct s3d_whole_plan plan;
    struct s3d_check *check; /* NULL: none is wanted */
    /* the caller's */
    struct s3d_get *rest;
    /* the request's while it is active */
    struct s3d_request head;
    struct s3d_span span;
    /* locked{latch} */
    struct s3d_latch latch;
    struct s3d_object object; /* once known */
    bool known, active;
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Notes what the headers say of the object; a later attempt must say the same. True: for the first
 * time. */
static bool learn_locked(struct s3d_whole *whole)
{
    if (whole->known) {
        return false;
    }
    whole->object = whole->head.result.object;
    whole->known = true;
    return true;
}

/* Only then there is something to do before the head has come: nobody is woken for less. */
static bool has_rest_locked(const struct s3d_whole *whole)
{
    return whole->known && whole->object.size_bytes > whole->plan.head_bytes;
}

static enum s3d_code check_version(const struct s3d_whole *whole, struct s3d_error *error)
{
    const struct s3d_object *now = &whole->head.result.object;
    if (strcmp(now->etag, whole->object.etag) == 0 &&
        now->size_bytes == whole->object.size_bytes) {
        return S3D_OK;
    }
    return s3d_fail_replaced(error, whole->object.etag, now->etag);
}

/* The headers of an attempt are there, its body is not: the moment to say where it goes. */
static enum s3d_code head_begins(struct s3d_request *request, struct s3d_error *error)
{
    struct s3d_whole *whole = request->owner;
    uint64_t size = request->result.object.size_bytes;
    if (!whole->span.data) {
        whole->span.data = whole->plan.place(whole->plan.context, size);
        whole->span.length_bytes = (size_t)least(size, whole->plan.head_bytes);
    }
    if (!whole->span.data) {
        return s3d_fail_memory(error, (size_t)size);
    }
    s3d_latch_lock(&whole->latch);
    learn_locked(whole);
    enum s3d_code code = check_version(whole, error);
    if (has_rest_locked(whole)) {
        s3d_latch_notify_locked(&whole->latch);
    }
    s3d_latch_unlock(&whole->latch);
    return code;
}

/* A head that is all of the object is the first to tell the check what the object is. */
static enum s3d_code check_head(struct s3d_whole *whole, struct s3d_error *error)
{
    const struct s3d_request *head = &whole->head;
    if (!whole->check || head->verb != S3D_VERB_GET || !head->result.received_bytes) {
        return S3D_OK;
    }
    if (head->result.compared) {
        s3d_check_drop(whole->check); /* it is done */
        return S3D_OK;
    }
    enum s3d_code code = s3d_check_learn(whole->check, &head->result.object, error);
    return code ? code
                : s3d_check_add(whole->check, 0, whole->span.data, head->result.received_bytes,
                                error);
}

static void head_done(struct s3d_request *request)
{
    struct s3d_whole *whole = request->owner;
    struct s3d_error *error = &request->result.error;
    if (!request->result.code) {
        request->result.code = check_head(whole, error);
    }
    s3d_latch_lock(&whole->latch);
    if (!request->result.code) {
        learn_locked(whole); /* an empty object has no body that begins */
        request->result.code = check_version(whole, error);
    }
    uint64_t expected = least(whole->object.size_bytes, whole->plan.head_bytes);
    if (!request->result.code && request->verb == S3D_VERB_GET &&
        request->result.received_bytes != expected) {
        request->result.code = s3d_fail(error, S3D_RANGE, "only %llu of %llu bytes were sent",
                                        (unsigned long long)request->result.received_bytes,
                                        (unsigned long long)expected);
    }
    if (!request->result.code) {
        s3d_count(&whole->store->engine->stats.objects_opened, 1);
    }
    if (request->result.code && !error->operation[0]) {
        s3d_error_set_operation(error, "%s", s3d_verb_name(request->verb));
    }
    whole->active = false;
    s3d_latch_notify_locked(&whole->latch);
    s3d_latch_unlock(&whole->latch);
}

static void start_head(struct s3d_whole *whole, enum s3d_verb verb)
{
    s3d_latch_lock(&whole->latch);
    whole->head.verb = verb;
    s3d_request_reset(&whole->head);
    whole->active = true;
    s3d_latch_unlock(&whole->latch);
    s3d_pool_submit(whole->store->pool, &whole->head);
}

static void whole_destroy(struct s3d_whole *whole)
{
    s3d_latch_fini(&whole->latch);
    s3d_check_release(whole->check);
    s3d_store_release(whole->store);
    s3d_free(whole->key);
    s3d_free(whole);
}

enum s3d_code s3d_whole_new(struct s3d_whole **out, struct s3d_store *store,
                            const struct s3d_whole_plan *plan, struct s3d_error *error)
{
    if (!plan->head_bytes || !plan->part_bytes || !plan->concurrency) {
        return s3d_fail(error, S3D_INVALID, "part size and concurrency must be at least 1");
    }
    enum s3d_code code = s3d_engine_check(store->engine, error);
    if (code) {
        return code; /* in a forked child the pool's lock may be held for ever */
    }
    struct s3d_whole *whole = s3d_alloc_zeroed(1, sizeof *whole);
    if (!whole) {
        return s3d_fail_memory(error, sizeof *whole);
    }
    code = s3d_latch_init(&whole->latch, error);
    if (code) {
        s3d_free(whole);
        return code;
    }
    whole->store = s3d_store_acquire(store);
    whole->plan = *plan;
    whole->key = s3d_copy_string(plan->key);
    if (!whole->key) {
        whole_destroy(whole);
        return s3d_fail_memory(error, strlen(plan->key) + 1);
    }
    code = s3d_check_new(&whole->check, store, plan->key, error);
    if (code) {
        whole_destroy(whole);
        return code;
    }
    whole->head.store = store;
    whole->head.compare = whole->check != NULL;
    whole->head.key = whole->key;
    whole->head.length_bytes = plan->head_bytes;
    whole->head.at_most = true;
    whole->head.fresh = plan->fresh;
    whole->head.spans = &whole->span;
    whole->head.span_count = 1;
    whole->head.begins = head_begins;
    whole->head.done = head_done;
    whole->head.owner = whole;
    start_head(whole, S3D_VERB_GET);
    *out = whole;
    return S3D_OK;
}

/* Waits until the head has ended, or it is known that there is a rest. False after the deadline. */
static bool wait_head(struct s3d_whole *whole, bool end, int64_t deadline_ms)
{
    s3d_latch_lock(&whole->latch);
    while (whole->active && (end || !has_rest_locked(whole)) &&
           s3d_latch_wait_locked(&whole->latch, deadline_ms)) {
    }
    bool reached = !whole->active || (!end && has_rest_locked(whole));
    s3d_latch_unlock(&whole->latch);
    return reached;
}

/* How the head ended, when it has; OK while it goes on. */
static enum s3d_code head_result(struct s3d_whole *whole, struct s3d_error *error)
{
    s3d_latch_lock(&whole->latch);
    enum s3d_code code = whole->active ? S3D_OK : whole->head.result.code;
    if (code) {
        s3d_error_copy(error, &whole->head.result.error);
    }
    s3d_latch_unlock(&whole->latch);
    return code;
}

enum s3d_code s3d_whole_wait_size(struct s3d_whole *whole, uint64_t *size_bytes,
                                  int64_t timeout_ms, struct s3d_error *error)
{
    enum s3d_code code = s3d_engine_check(whole->store->engine, error);
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    while (!code) {
        if (!wait_head(whole, false, deadline_ms)) {
            return S3D_AGAIN;
        }
        code = head_result(whole, error);
        if (code != S3D_RANGE || whole->known || whole->head.verb != S3D_VERB_GET) {
            break;
        }
        /* Some stores refuse a range of an empty object without telling its size. */
        start_head(whole, S3D_VERB_STAT);
        code = S3D_OK;
    }
    if (!code && whole->head.verb == S3D_VERB_STAT && whole->object.size_bytes) {
        code = s3d_fail(error, S3D_PROTOCOL, "bytes 0-%llu of an object of %llu were refused",
                        (unsigned long long)whole->plan.head_bytes - 1,
                        (unsigned long long)whole->object.size_bytes);
    }
    if (!code) {
        *size_bytes = whole->object.size_bytes;
    }
    return code;
}

enum s3d_code s3d_whole_fetch_rest(struct s3d_whole *whole, char *rest, struct s3d_error *error)
{
    uint64_t head = whole->plan.head_bytes;
    struct s3d_segment segment = {head, whole->object.size_bytes - head, rest};
    struct s3d_get_plan plan = {
        .key = whole->key,
        .segments = &segment,
        .segment_count = 1,
        .part_bytes = whole->plan.part_bytes,
        .part_max_bytes = whole->plan.part_max_bytes,
        .concurrency = whole->plan.concurrency,
        .fresh = whole->plan.fresh,
        .if_match = whole->object.etag[0] ? whole->object.etag : NULL,
        .check = whole->check,
    };
    /* Now, so that what is stored has been told when the last bytes have come. */
    enum s3d_code code = s3d_check_learn(whole->check, &whole->object, error);
    return code ? code : s3d_get_new(&whole->rest, whole->store, &plan, error);
}

enum s3d_code s3d_whole_wait(struct s3d_whole *whole, int64_t timeout_ms,
                             struct s3d_error *error)
{
    enum s3d_code code = s3d_engine_check(whole->store->engine, error);
    if (!code) {
        code = head_result(whole, error); /* before a long wait for a rest that is in vain */
    }
    if (!code && whole->rest) {
        code = s3d_get_wait_all(whole->rest, timeout_ms, error);
    }
    if (code) {
        return code;
    }
    if (!wait_head(whole, true, s3d_deadline_ms(timeout_ms))) {
        return S3D_AGAIN;
    }
    code = head_result(whole, error);
    return code ? code
                : s3d_check_end(whole->check, whole->object.size_bytes, timeout_ms, error);
}

const struct s3d_object *s3d_whole_object(const struct s3d_whole *whole)
{
    return &whole->object;
}

void s3d_whole_free(struct s3d_whole *whole)
{
    if (!whole || s3d_engine_check(whole->store->engine, NULL) == S3D_FORKED) {
        return;
    }
    s3d_latch_lock(&whole->latch);
    if (whole->active) {
        s3d_pool_cancel(whole->store->pool, &whole->head);
    }
    s3d_latch_unlock(&whole->latch);
    s3d_get_free(whole->rest);
    wait_head(whole, true, -1);
    whole_destroy(whole);
}
