#include "core/get.h"

#include "core/engine.h"
#include "core/latch.h"
#include "core/mem.h"
#include "core/plan.h"

#include <string.h>

/* One range in flight; used again for later ranges. */
struct slot {
    struct s3d_get *get;
    struct s3d_request request;
    struct s3d_span span;
    size_t range;  /* which one; locked{latch} */
    bool active;   /* locked{latch} */
};

struct s3d_get {
    /* frozen */
    struct s3d_store *store;
    char *key;
    char *if_match;
    char *data;
    uint64_t offset_bytes, length_bytes, range_bytes;
    size_t range_count;
    size_t slot_count;
    struct slot *slots;
    /* locked{latch} */
    struct s3d_latch latch;
    size_t next_range;    /* the first one not started yet */
    size_t ready_count;   /* ranges done from the front without a gap */
    unsigned char *ready; /* range_count flags */
    struct s3d_object object; /* the version of the first answer */
    struct s3d_error failure; /* the first one */
    bool stopping;
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Points the slot at the next range; false when there is none to start. */
static bool assign_locked(struct slot *slot)
{
    struct s3d_get *get = slot->get;
    slot->active = !get->stopping && !get->failure.code && get->next_range < get->range_count;
    if (!slot->active) {
        return false;
    }
    slot->range = get->next_range++;
    uint64_t start = slot->range * get->range_bytes;
    slot->span.data = get->data + start;
    slot->span.length_bytes = least(get->range_bytes, get->length_bytes - start);
    slot->request.offset_bytes = get->offset_bytes + start;
    slot->request.length_bytes = slot->span.length_bytes;
    s3d_request_reset(&slot->request);
    get->latch.in_flight++;
    return true;
}

static void cancel_all_locked(struct s3d_get *get)
{
    for (size_t i = 0; i < get->slot_count; i++) {
        if (get->slots[i].active) {
            s3d_pool_cancel(get->store->pool, &get->slots[i].request);
        }
    }
}

static void fail_locked(struct s3d_get *get, const struct s3d_error *error)
{
    if (!get->failure.code) {
        get->failure = *error;
        cancel_all_locked(get);
    }
}

/* Whether the range is whole and of the version that the others are of. */
static enum s3d_code check_range_locked(const struct s3d_get *get, const struct slot *slot,
                                        struct s3d_error *error)
{
    const char *etag = slot->request.result.object.etag;
    const char *expected = get->object.etag[0] ? get->object.etag : get->if_match;
    if (expected && strcmp(expected, etag) != 0) {
        return s3d_fail(error, S3D_CHANGED,
                        "the object was replaced while it was read: ETag %s, then %s", expected,
                        etag);
    }
    if (slot->request.result.received_bytes != slot->span.length_bytes) {
        return s3d_fail(error, S3D_RANGE, "only %llu of %zu bytes at offset %llu were sent",
                        (unsigned long long)slot->request.result.received_bytes,
                        slot->span.length_bytes, (unsigned long long)slot->request.offset_bytes);
    }
    return S3D_OK;
}

static void accept_locked(struct s3d_get *get, const struct slot *slot)
{
    struct s3d_error error;
    if (check_range_locked(get, slot, &error)) {
        s3d_error_set_operation(&error, "%s", s3d_verb_name(slot->request.verb));
        fail_locked(get, &error);
        return;
    }
    get->object = slot->request.result.object;
    get->ready[slot->range] = 1;
    while (get->ready_count < get->range_count && get->ready[get->ready_count]) {
        get->ready_count++;
    }
}

static void range_done(struct s3d_request *request)
{
    struct slot *slot = request->owner;
    struct s3d_get *get = slot->get;
    s3d_latch_lock(&get->latch);
    slot->active = false;
    if (request->result.code) {
        fail_locked(get, &request->result.error);
    } else {
        accept_locked(get, slot);
    }
    bool more = assign_locked(slot);
    get->latch.in_flight--;
    s3d_latch_notify_locked(&get->latch);
    s3d_latch_unlock(&get->latch);
    if (more) {
        s3d_pool_submit(get->store->pool, request);
    }
}

static enum s3d_code get_init(struct s3d_get *get, const struct s3d_get_plan *plan,
                              struct s3d_error *error)
{
    get->key = s3d_copy_string(plan->key);
    get->if_match = s3d_copy_string(plan->if_match);
    get->data = plan->data;
    get->offset_bytes = plan->offset_bytes;
    get->length_bytes = plan->length_bytes;
    get->range_bytes = s3d_plan_range(plan->length_bytes, plan->part_bytes, plan->concurrency);
    get->range_count =
        (size_t)(plan->length_bytes / get->range_bytes + (plan->length_bytes % get->range_bytes != 0));
    get->slot_count = (size_t)least(plan->concurrency, get->range_count);
    get->slots = s3d_alloc_zeroed(get->slot_count, sizeof *get->slots);
    get->ready = s3d_alloc_zeroed(get->range_count, 1);
    if (!get->key || (plan->if_match && !get->if_match) || !get->slots || !get->ready) {
        return s3d_fail_memory(error, get->slot_count * sizeof *get->slots);
    }
    for (size_t i = 0; i < get->slot_count; i++) {
        struct slot *slot = &get->slots[i];
        slot->get = get;
        slot->request.verb = S3D_VERB_GET;
        slot->request.store = get->store;
        slot->request.key = get->key;
        slot->request.if_match = get->if_match;
        slot->request.spans = &slot->span;
        slot->request.span_count = 1;
        slot->request.done = range_done;
        slot->request.owner = slot;
    }
    return S3D_OK;
}

static void get_destroy(struct s3d_get *get)
{
    s3d_latch_fini(&get->latch);
    s3d_store_release(get->store);
    s3d_free(get->key);
    s3d_free(get->if_match);
    s3d_free(get->slots);
    s3d_free(get->ready);
    s3d_free(get);
}

enum s3d_code s3d_get_new(struct s3d_get **out, struct s3d_store *store,
                          const struct s3d_get_plan *plan, struct s3d_error *error)
{
    if (!plan->part_bytes || !plan->concurrency) {
        return s3d_fail(error, S3D_INVALID, "part size and concurrency must be at least 1");
    }
    enum s3d_code code = s3d_engine_check(store->engine, error);
    if (code) {
        return code; /* in a forked child the pool's lock may be held for ever */
    }
    struct s3d_get *get = s3d_alloc_zeroed(1, sizeof *get);
    if (!get) {
        return s3d_fail_memory(error, sizeof *get);
    }
    code = s3d_latch_init(&get->latch, error);
    if (code) {
        s3d_free(get);
        return code;
    }
    get->store = s3d_store_acquire(store);
    code = get_init(get, plan, error);
    if (code) {
        get_destroy(get);
        return code;
    }
    for (size_t i = 0; i < get->slot_count; i++) {
        s3d_latch_lock(&get->latch);
        bool start = assign_locked(&get->slots[i]);
        s3d_latch_unlock(&get->latch);
        if (start) {
            s3d_pool_submit(store->pool, &get->slots[i].request);
        }
    }
    *out = get;
    return S3D_OK;
}

static bool is_ready_locked(const struct s3d_get *get, uint64_t bytes)
{
    return get->ready_count == get->range_count || get->ready_count * get->range_bytes >= bytes;
}

enum s3d_code s3d_get_wait(struct s3d_get *get, uint64_t bytes, int64_t timeout_ms,
                           struct s3d_error *error)
{
    enum s3d_code code = s3d_engine_check(get->store->engine, error);
    if (code) {
        return code;
    }
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    s3d_latch_lock(&get->latch);
    while (!get->failure.code && !is_ready_locked(get, bytes) &&
           s3d_latch_wait_locked(&get->latch, deadline_ms)) {
    }
    if (get->failure.code) {
        code = s3d_error_copy(error, &get->failure);
    } else {
        code = is_ready_locked(get, bytes) ? S3D_OK : S3D_AGAIN;
    }
    s3d_latch_unlock(&get->latch);
    return code;
}

const struct s3d_object *s3d_get_object(const struct s3d_get *get)
{
    return &get->object;
}

void s3d_get_free(struct s3d_get *get)
{
    if (!get || s3d_engine_check(get->store->engine, NULL) == S3D_FORKED) {
        return; /* a forked child leaves the parent's requests alone */
    }
    s3d_latch_lock(&get->latch);
    get->stopping = true;
    cancel_all_locked(get);
    while (get->latch.in_flight) {
        s3d_latch_wait_locked(&get->latch, -1);
    }
    s3d_latch_unlock(&get->latch);
    get_destroy(get);
}
