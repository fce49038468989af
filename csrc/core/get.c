#include "core/get.h"

#include "core/engine.h"
#include "core/latch.h"
#include "core/mem.h"
#include "core/pace.h"
#include "core/plan.h"

#include <string.h>

enum {
    GAP_MAX_BYTES = 64 *
        1024, /* segments closer than this are read by one request, and what lies
                                * between them is dropped */
    RANGE_MIN_BYTES = 1024 * 1024
};

/* What one request reads: [offset, offset + length), from `first_segment` on. */
struct range {
    uint64_t offset_bytes, length_bytes;
    size_t first_segment;
};

/* How far the segments have been cut into ranges. */
struct cursor {
    uint64_t at;
    size_t segment; /* the first one that ends after `at` */
    size_t run_end; /* the first segment that is not read together with that one */
};

/* One range in flight; used again for later ranges. */
struct slot {
    struct s3d_get *get;
    struct s3d_request request;
    struct s3d_span *spans;
    size_t span_capacity;
    char *gap; /* where bytes between segments go; NULL when there are none */
    /* locked{latch} */
    struct range range;
    int64_t start_us;
    bool active;
};

struct s3d_get {
    /* frozen */
    struct s3d_store *store;
    char *key;
    char *if_match;
    s3d_get_piece *piece;
    void *context;
    struct s3d_check *check;
    uint64_t check_from_bytes;
    bool is_all_if_whole, ends_check;
    bool fresh;
    struct s3d_segment *segments;
    size_t segment_count;
    uint64_t range_bytes, range_max_bytes; /* the usual length, and the longest */
    struct slot *slots;
    size_t slot_count;
    /* locked{latch} */
    struct s3d_latch latch;
    struct cursor cursor;
    uint64_t left_bytes; /* to be read, from the cursor on */
    struct s3d_pace pace;
    struct s3d_object object; /* the version of the first answer */
    struct s3d_error failure; /* the first one */
    bool stopping;
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- planning ---- */

static enum s3d_code check_segments(const struct s3d_get_plan *plan, struct s3d_error *error)
{
    uint64_t at = 0;
    for (size_t i = 0; i < plan->segment_count; i++) {
        const struct s3d_segment *segment = &plan->segments[i];
        if (segment->offset_bytes < at ||
            segment->length_bytes > UINT64_MAX - segment->offset_bytes) {
            return s3d_fail(error, S3D_INVALID, "segment %zu lies before the end of the last",
                            i);
        }
        at = s3d_segment_end(segment);
    }
    return S3D_OK;
}

/* The first segment after `i` that does not belong to its run of neighbours. Empty segments need no
 * request: they neither join others nor part them. */
static size_t run_end(const struct s3d_get *get, size_t i)
{
    uint64_t end = s3d_segment_end(&get->segments[i]);
    for (i++; i < get->segment_count; i++) {
        const struct s3d_segment *next = &get->segments[i];
        if (next->length_bytes && next->offset_bytes - end > GAP_MAX_BYTES) {
            break;
        }
        end = next->length_bytes ? s3d_segment_end(next) : end;
    }
    return i;
}

/* Moves on to the next byte that is wanted: a range begins with a segment's byte, not in a gap. False
 * when there is none. */
static bool find_next(const struct s3d_get *get, struct cursor *cursor)
{
    while (cursor->segment < get->segment_count) {
        const struct s3d_segment *segment = &get->segments[cursor->segment];
        if (segment->length_bytes && s3d_segment_end(segment) > cursor->at) {
            break;
        }
        cursor->segment++;
    }
    if (cursor->segment == get->segment_count) {
        return false;
    }
    if (cursor->segment >= cursor->run_end) {
        cursor->run_end = run_end(get, cursor->segment);
    }
    uint64_t start = get->segments[cursor->segment].offset_bytes;
    cursor->at = cursor->at < start ? start : cursor->at;
    return true;
}

/* Cuts the next range off, of `length` bytes or what is left of the run. False: there is none. */
static bool cut_range(const struct s3d_get *get, struct cursor *cursor, uint64_t length,
                      struct range *range)
{
    if (!find_next(get, cursor)) {
        return false;
    }
    size_t last = cursor->run_end - 1;
    while (!get->segments[last].length_bytes) {
        last--;
    }
    uint64_t left = s3d_segment_end(&get->segments[last]) - cursor->at;
    *range = (struct range){cursor->at, least(length, left), cursor->segment};
    cursor->at += range->length_bytes;
    return true;
}

/*
 * Splits a range into spans: pieces of segments, and the gaps between them, which all go to `gap`.
 * Counts them, and writes them where `spans` is not NULL.
 */
static size_t split_range(const struct s3d_get *get, const struct range *range,
                          struct s3d_span *spans, char *gap)
{
    uint64_t at = range->offset_bytes, stop = at + range->length_bytes;
    size_t count = 0;
    for (size_t i = range->first_segment; at < stop; i++) {
        const struct s3d_segment *segment = &get->segments[i];
        if (at < segment->offset_bytes) {
            uint64_t length = least(segment->offset_bytes, stop) - at;
            if (spans) {
                spans[count] = (struct s3d_span){gap, length};
            }
            at += length;
            count++;
        }
        uint64_t end = least(s3d_segment_end(segment), stop);
        if (at < end) {
            if (spans) {
                spans[count] =
                    (struct s3d_span){segment->data + (at - segment->offset_bytes), end - at};
            }
            at = end;
            count++;
        }
    }
    return count;
}

static bool has_gaps(const struct s3d_get *get)
{
    for (size_t i = 1; i < get->segment_count; i++) {
        if (s3d_segment_end(&get->segments[i - 1]) != get->segments[i].offset_bytes) {
            return true;
        }
    }
    return false;
}

/* ---- running ---- */

/* How long the next range should be. */
static uint64_t next_length_locked(const struct s3d_get *get, int64_t now_us)
{
    struct s3d_pace_work work = {
        .left_bytes = get->left_bytes,
        .connections = (unsigned)get->slot_count,
        .base_bytes = get->range_bytes,
        .min_bytes = RANGE_MIN_BYTES,
        .max_bytes = get->range_max_bytes,
    };
    for (size_t i = 0; s3d_pace_is_far(&get->pace) && i < get->slot_count; i++) {
        const struct slot *slot = &get->slots[i];
        work.running_bytes += slot->active ? s3d_pace_rest(&get->pace, slot->range.length_bytes,
                                                           now_us - slot->start_us)
                                           : 0;
    }
    return s3d_pace_next(&get->pace, &work);
}

/* Fills in the spans of the slot's range; one longer than usual may need more room for them. */
static enum s3d_code fill_spans(struct slot *slot, struct s3d_error *error)
{
    size_t count = split_range(slot->get, &slot->range, NULL, NULL);
    if (count > slot->span_capacity) {
        size_t bytes;
        struct s3d_span *spans =
            s3d_size_mul(count, sizeof *spans, &bytes) ? s3d_resize(slot->spans, bytes) : NULL;
        if (!spans) {
            return s3d_fail_memory(error, count * sizeof *spans);
        }
        slot->spans = spans;
        slot->span_capacity = count;
    }
    slot->request.spans = slot->spans;
    slot->request.span_count = split_range(slot->get, &slot->range, slot->spans, slot->gap);
    return S3D_OK;
}

/* Points the slot at the next range. AGAIN: there is none to start. */
static enum s3d_code assign_locked(struct slot *slot, struct s3d_error *error)
{
    struct s3d_get *get = slot->get;
    int64_t now_us = s3d_now_us();
    if (get->stopping || get->failure.code ||
        !cut_range(get, &get->cursor, next_length_locked(get, now_us), &slot->range)) {
        return S3D_AGAIN;
    }
    enum s3d_code code = fill_spans(slot, error);
    if (code) {
        return code;
    }
    get->left_bytes -= least(get->left_bytes, slot->range.length_bytes);
    slot->request.offset_bytes = slot->range.offset_bytes;
    slot->request.length_bytes = slot->range.length_bytes;
    s3d_request_reset(&slot->request);
    slot->start_us = now_us;
    slot->active = true;
    get->latch.in_flight++;
    return S3D_OK;
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

/* Tells of the pieces that a finished range brought. */
static enum s3d_code tell_pieces(const struct slot *slot, struct s3d_error *error)
{
    const struct s3d_get *get = slot->get;
    uint64_t at = slot->request.offset_bytes, stop = at + slot->request.length_bytes;
    enum s3d_code code = S3D_OK;
    for (size_t i = slot->range.first_segment; !code && at < stop && i < get->segment_count;
         i++) {
        const struct s3d_segment *segment = &get->segments[i];
        uint64_t start = at > segment->offset_bytes ? at : segment->offset_bytes;
        uint64_t end = least(s3d_segment_end(segment), stop);
        if (start < end) {
            uint64_t skip = start - segment->offset_bytes;
            code = get->piece(get->context, i, skip, segment->data + skip, end - start, error);
        }
        at = end > at ? end : at;
    }
    return code;
}

/* The first answer tells what the check compares with, or that the object is longer than what is read. */
static enum s3d_code begin_check(struct s3d_get *get, const struct s3d_object *object,
                                 struct s3d_error *error)
{
    if (get->is_all_if_whole &&
        object->size_bytes != s3d_segment_end(&get->segments[get->segment_count - 1])) {
        s3d_check_drop(get->check);
    }
    return s3d_check_learn(get->check, object, error);
}

/* Adds what a finished range brought; there are no gaps, so the spans follow each other. */
static enum s3d_code add_to_check(const struct s3d_get *get, const struct slot *slot,
                                  struct s3d_error *error)
{
    const struct s3d_request *request = &slot->request;
    uint64_t at = request->offset_bytes, from = get->check_from_bytes;
    enum s3d_code code = S3D_OK;
    for (size_t i = 0; !code && i < request->span_count; i++) {
        const struct s3d_span *span = &request->spans[i];
        uint64_t skip = at < from ? least(from - at, span->length_bytes) : 0;
        code = s3d_check_add(get->check, at + skip, span->data + skip,
                             span->length_bytes - skip, error);
        at += span->length_bytes;
    }
    return code;
}

/* Looks at a finished range before anybody may rely on its bytes. */
static enum s3d_code accept_range(struct s3d_get *get, const struct slot *slot,
                                  struct s3d_error *error)
{
    char seen[S3D_ETAG_MAX];
    s3d_latch_lock(&get->latch);
    memcpy(seen, get->object.etag, sizeof seen);
    if (!seen[0]) {
        get->object = slot->request.result.object;
    }
    s3d_latch_unlock(&get->latch);
    const char *etag = get->if_match ? get->if_match : seen;
    enum s3d_code code = s3d_request_check(&slot->request, etag[0] ? etag : NULL, error);
    if (!code && get->check && slot->request.result.compared) {
        s3d_check_drop(get->check); /* it is done */
    } else if (!code && get->check) {
        code = begin_check(get, &slot->request.result.object, error);
        code = code ? code : add_to_check(get, slot, error);
    }
    return code || !get->piece ? code : tell_pieces(slot, error);
}

static void range_done(struct s3d_request *request)
{
    struct slot *slot = request->owner;
    struct s3d_get *get = slot->get;
    struct s3d_error error = {0};
    enum s3d_code code = request->result.code ? s3d_error_copy(&error, &request->result.error)
                                              : accept_range(get, slot, &error);
    s3d_latch_lock(&get->latch);
    slot->active = false;
    s3d_pace_answered(&get->pace, request->result.answer_us);
    s3d_pace_moved(&get->pace, request->result.received_bytes, request->result.elapsed_us);
    if (code) {
        error.code = code;
        fail_locked(get, &error);
    }
    code = assign_locked(slot, &error);
    if (code && code != S3D_AGAIN) {
        fail_locked(get, &error);
    }
    bool more = !code;
    get->latch.in_flight--;
    s3d_latch_notify_locked(&get->latch);
    s3d_latch_unlock(&get->latch);
    if (more) {
        s3d_pool_submit(get->store->pool, request);
    }
}

/* ---- life ---- */

static void plan_ranges(struct s3d_get *get, const struct s3d_get_plan *plan)
{
    uint64_t total = 0;
    for (size_t i = 0; i < plan->segment_count; i++) {
        total += plan->segments[i].length_bytes;
    }
    get->range_bytes = s3d_plan_range(total, plan->part_bytes, plan->concurrency);
    get->range_max_bytes = plan->part_max_bytes;
    s3d_pace_answered(&get->pace, plan->latency_us);
}

/* How many requests of the usual length it takes, and how many spans the most scattered one. Takes
 * down how many bytes they bring, those between segments included. */
static size_t count_ranges(struct s3d_get *get, size_t *spans_max)
{
    struct cursor cursor = get->cursor;
    struct range range;
    size_t count = 0;
    *spans_max = 0;
    get->left_bytes = 0;
    while (cut_range(get, &cursor, get->range_bytes, &range)) {
        size_t spans = split_range(get, &range, NULL, NULL);
        *spans_max = spans > *spans_max ? spans : *spans_max;
        get->left_bytes += range.length_bytes;
        count++;
    }
    return count;
}

static enum s3d_code slot_init(struct slot *slot, struct s3d_get *get, size_t spans, bool gaps,
                               struct s3d_error *error)
{
    slot->get = get;
    slot->spans = s3d_alloc_zeroed(spans, sizeof *slot->spans);
    slot->span_capacity = spans;
    slot->gap = gaps ? s3d_alloc(GAP_MAX_BYTES) : NULL;
    if (!slot->spans || (gaps && !slot->gap)) {
        return s3d_fail_memory(error, spans * sizeof *slot->spans);
    }
    slot->request.verb = S3D_VERB_GET;
    slot->request.store = get->store;
    slot->request.key = get->key;
    slot->request.if_match = get->if_match;
    slot->request.fresh = get->fresh;
    slot->request.compare = get->check && !gaps; /* all gaps share their memory */
    slot->request.done = range_done;
    slot->request.owner = slot;
    return S3D_OK;
}

static enum s3d_code get_init(struct s3d_get *get, const struct s3d_get_plan *plan,
                              struct s3d_error *error)
{
    get->piece = plan->piece;
    get->context = plan->context;
    get->check = s3d_check_acquire(plan->check);
    get->check_from_bytes = plan->check_from_bytes;
    get->is_all_if_whole = plan->is_all_if_whole;
    get->ends_check = plan->ends_check;
    get->fresh = plan->fresh;
    get->key = s3d_copy_string(plan->key);
    get->if_match = s3d_copy_string(plan->if_match);
    get->segment_count = plan->segment_count;
    get->segments = s3d_alloc_zeroed(plan->segment_count, sizeof *get->segments);
    if (!get->key || (plan->if_match && !get->if_match) || !get->segments) {
        return s3d_fail_memory(error, plan->segment_count * sizeof *get->segments);
    }
    if (plan->segment_count) {
        memcpy(get->segments, plan->segments, plan->segment_count * sizeof *get->segments);
    }
    plan_ranges(get, plan);
    size_t spans;
    size_t slots = (size_t)least(count_ranges(get, &spans), plan->concurrency);
    get->slots = s3d_alloc_zeroed(slots, sizeof *get->slots);
    if (!get->slots) {
        return s3d_fail_memory(error, slots * sizeof *get->slots);
    }
    get->slot_count = slots;
    bool gaps = has_gaps(get);
    enum s3d_code code = S3D_OK;
    for (size_t i = 0; !code && i < slots; i++) {
        code = slot_init(&get->slots[i], get, spans, gaps, error);
    }
    return code;
}

static void get_destroy(struct s3d_get *get)
{
    for (size_t i = 0; i < get->slot_count; i++) {
        s3d_free(get->slots[i].spans);
        s3d_free(get->slots[i].gap);
    }
    s3d_latch_fini(&get->latch);
    s3d_check_release(get->check);
    s3d_store_release(get->store);
    s3d_free(get->key);
    s3d_free(get->if_match);
    s3d_free(get->segments);
    s3d_free(get->slots);
    s3d_free(get);
}

static enum s3d_code start_slots(struct s3d_get *get, struct s3d_error *error)
{
    enum s3d_code code = S3D_OK;
    for (size_t i = 0; !code && i < get->slot_count; i++) {
        s3d_latch_lock(&get->latch);
        code = assign_locked(&get->slots[i], error);
        s3d_latch_unlock(&get->latch);
        if (!code) {
            s3d_pool_submit(get->store->pool, &get->slots[i].request);
        }
    }
    return code == S3D_AGAIN ? S3D_OK : code;
}

enum s3d_code s3d_get_new(struct s3d_get **out, struct s3d_store *store,
                          const struct s3d_get_plan *plan, struct s3d_error *error)
{
    if (!plan->part_bytes || !plan->concurrency) {
        return s3d_fail(error, S3D_INVALID, "part size and concurrency must be at least 1");
    }
    enum s3d_code code = s3d_engine_check(store->engine, error);
    if (!code) { /* in a forked child the pool's lock may be held for ever */
        code = check_segments(plan, error);
    }
    if (code) {
        return code;
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
    code = start_slots(get, error);
    if (code) {
        s3d_get_free(get);
        return code;
    }
    *out = get;
    return S3D_OK;
}

/* ---- waiting ---- */

/* Whether all wanted bytes of [start, end) are there: cut into ranges, none of which is on its way.
 * Not after a failure. */
static bool is_ready_locked(const struct s3d_get *get, uint64_t start, uint64_t end)
{
    struct cursor cursor = get->cursor;
    if (start == end) {
        return true;
    }
    if (cursor.at < end && find_next(get, &cursor) && cursor.at < end) {
        return false;
    }
    for (size_t i = 0; i < get->slot_count; i++) {
        const struct slot *slot = &get->slots[i];
        if (slot->active && slot->range.offset_bytes < end &&
            slot->range.offset_bytes + slot->range.length_bytes > start) {
            return false;
        }
    }
    return true;
}

/* All ranges are there: what is left is to compare. */
static enum s3d_code end_check(struct s3d_get *get, int64_t deadline_ms,
                               struct s3d_error *error)
{
    struct s3d_error own = {0};
    enum s3d_code code =
        s3d_check_end(get->check, get->object.size_bytes, s3d_left_ms(deadline_ms), &own);
    if (code && code != S3D_AGAIN) {
        s3d_latch_lock(&get->latch);
        fail_locked(get, &own);
        s3d_latch_unlock(&get->latch);
        s3d_error_copy(error, &own);
    }
    return code;
}

enum s3d_code s3d_get_wait(struct s3d_get *get, size_t first, size_t count, int64_t timeout_ms,
                           struct s3d_error *error)
{
    enum s3d_code code = s3d_engine_check(get->store->engine, error);
    if (code) {
        return code;
    }
    if (first > get->segment_count || count > get->segment_count - first) {
        return s3d_fail(error, S3D_INVALID, "there are %zu segments", get->segment_count);
    }
    uint64_t start = count ? get->segments[first].offset_bytes : 0;
    uint64_t end = count ? s3d_segment_end(&get->segments[first + count - 1]) : 0;
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    s3d_latch_lock(&get->latch);
    bool ready = is_ready_locked(get, start, end);
    while (!get->failure.code && !ready && s3d_latch_wait_locked(&get->latch, deadline_ms)) {
        ready = is_ready_locked(get, start, end);
    }
    if (get->failure.code) {
        code = s3d_error_copy(error, &get->failure);
    } else {
        code = ready || is_ready_locked(get, start, end) ? S3D_OK : S3D_AGAIN;
    }
    bool ends = !code && get->check && get->ends_check && is_ready_locked(get, 0, UINT64_MAX);
    s3d_latch_unlock(&get->latch);
    return ends ? end_check(get, deadline_ms, error) : code;
}

enum s3d_code s3d_get_wait_all(struct s3d_get *get, int64_t timeout_ms, struct s3d_error *error)
{
    return s3d_get_wait(get, 0, get->segment_count, timeout_ms, error);
}

size_t s3d_get_requests(const struct s3d_get *get)
{
    return get->slot_count;
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
