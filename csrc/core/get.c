#include "core/get.h"

#include "core/engine.h"
#include "core/latch.h"
#include "core/mem.h"
#include "core/plan.h"

#include <string.h>

/* Segments closer than this are read by one request, and what lies between them is dropped. */
enum { GAP_MAX_BYTES = 64 * 1024 };

/* What one request reads: [offset, offset + length), from `segment` on. */
struct range {
    uint64_t offset_bytes, length_bytes;
    size_t first_segment;
    bool ready; /* locked{latch} */
};

/* One range in flight; used again for later ranges. */
struct slot {
    struct s3d_get *get;
    struct s3d_request request;
    struct s3d_span *spans; /* get->spans_max of them */
    char *gap;              /* where bytes between segments go; NULL when there are none */
    struct range *range;    /* locked{latch} */
    bool active;            /* locked{latch} */
};

struct s3d_get {
    /* frozen */
    struct s3d_store *store;
    char *key;
    char *if_match;
    s3d_get_piece *piece;
    void *context;
    bool fresh;
    struct s3d_segment *segments;
    size_t segment_count;
    struct range *ranges; /* ascending */
    size_t range_count;
    size_t spans_max;
    struct slot *slots;
    size_t slot_count;
    /* locked{latch} */
    struct s3d_latch latch;
    size_t next_range;        /* the first one not started yet */
    struct s3d_object object; /* the version of the first answer */
    struct s3d_error failure; /* the first one */
    bool stopping;
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t segment_end(const struct s3d_segment *segment)
{
    return segment->offset_bytes + segment->length_bytes;
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
        at = segment_end(segment);
    }
    return S3D_OK;
}

/* The first segment after `i` that does not belong to its run of neighbours. Empty segments need no
 * request: they neither join others nor part them. */
static size_t run_end(const struct s3d_get_plan *plan, size_t i)
{
    uint64_t end = segment_end(&plan->segments[i]);
    for (i++; i < plan->segment_count; i++) {
        const struct s3d_segment *next = &plan->segments[i];
        if (next->length_bytes && next->offset_bytes - end > GAP_MAX_BYTES) {
            break;
        }
        end = next->length_bytes ? segment_end(next) : end;
    }
    return i;
}

/* Cuts one run into ranges: counts them, and writes them where `ranges` is not NULL. */
static size_t cut_run(const struct s3d_get_plan *plan, size_t first, size_t end,
                      uint64_t range_bytes, struct range *ranges)
{
    while (end > first && !plan->segments[end - 1].length_bytes) {
        end--;
    }
    if (end == first) {
        return 0;
    }
    uint64_t at = plan->segments[first].offset_bytes;
    uint64_t stop = segment_end(&plan->segments[end - 1]);
    size_t count = 0;
    while (at < stop) {
        while (!plan->segments[first].length_bytes ||
               segment_end(&plan->segments[first]) <= at) {
            first++;
        }
        /* A range begins with a segment's byte, not in a gap. */
        at = at < plan->segments[first].offset_bytes ? plan->segments[first].offset_bytes : at;
        uint64_t length = least(range_bytes, stop - at);
        if (ranges) {
            ranges[count] = (struct range){at, length, first, false};
        }
        at += length;
        count++;
    }
    return count;
}

static size_t cut_all(const struct s3d_get_plan *plan, uint64_t range_bytes,
                      struct range *ranges)
{
    size_t count = 0;
    for (size_t first = 0; first < plan->segment_count;) {
        size_t end = run_end(plan, first);
        count += cut_run(plan, first, end, range_bytes, ranges ? ranges + count : NULL);
        first = end;
    }
    return count;
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
        uint64_t end = least(segment_end(segment), stop);
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
        if (segment_end(&get->segments[i - 1]) != get->segments[i].offset_bytes) {
            return true;
        }
    }
    return false;
}

/* ---- running ---- */

/* Points the slot at the next range; false when there is none to start. */
static bool assign_locked(struct slot *slot)
{
    struct s3d_get *get = slot->get;
    slot->active = !get->stopping && !get->failure.code && get->next_range < get->range_count;
    if (!slot->active) {
        return false;
    }
    slot->range = &get->ranges[get->next_range++];
    slot->request.offset_bytes = slot->range->offset_bytes;
    slot->request.length_bytes = slot->range->length_bytes;
    slot->request.span_count = split_range(get, slot->range, slot->spans, slot->gap);
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
static enum s3d_code check_range(const struct s3d_get *get, const struct slot *slot,
                                 const char *seen, struct s3d_error *error)
{
    const struct s3d_request *request = &slot->request;
    const char *expected = get->if_match ? get->if_match : seen;
    enum s3d_code code = S3D_OK;
    if (expected[0] && strcmp(expected, request->result.object.etag) != 0) {
        code = s3d_fail(error, S3D_CHANGED,
                        "the object was replaced while it was read: ETag %s, then %s", expected,
                        request->result.object.etag);
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

/* Tells of the pieces that a finished range brought. */
static enum s3d_code tell_pieces(const struct slot *slot, struct s3d_error *error)
{
    const struct s3d_get *get = slot->get;
    uint64_t at = slot->request.offset_bytes, stop = at + slot->request.length_bytes;
    enum s3d_code code = S3D_OK;
    for (size_t i = slot->range->first_segment; !code && at < stop && i < get->segment_count;
         i++) {
        const struct s3d_segment *segment = &get->segments[i];
        uint64_t start = at > segment->offset_bytes ? at : segment->offset_bytes;
        uint64_t end = least(segment_end(segment), stop);
        if (start < end) {
            uint64_t skip = start - segment->offset_bytes;
            code = get->piece(get->context, i, skip, segment->data + skip, end - start, error);
        }
        at = end > at ? end : at;
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
    enum s3d_code code = check_range(get, slot, seen, error);
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
    if (code) {
        error.code = code;
        fail_locked(get, &error);
    } else {
        slot->range->ready = true;
    }
    bool more = assign_locked(slot);
    get->latch.in_flight--;
    s3d_latch_notify_locked(&get->latch);
    s3d_latch_unlock(&get->latch);
    if (more) {
        s3d_pool_submit(get->store->pool, request);
    }
}

/* ---- life ---- */

static enum s3d_code plan_ranges(struct s3d_get *get, const struct s3d_get_plan *plan,
                                 struct s3d_error *error)
{
    uint64_t total = 0;
    for (size_t i = 0; i < plan->segment_count; i++) {
        total += plan->segments[i].length_bytes;
    }
    uint64_t range_bytes = s3d_plan_range(total, plan->part_bytes, plan->concurrency);
    get->range_count = cut_all(plan, range_bytes, NULL);
    get->ranges = s3d_alloc_zeroed(get->range_count, sizeof *get->ranges);
    if (!get->ranges) {
        return s3d_fail_memory(error, get->range_count * sizeof *get->ranges);
    }
    cut_all(plan, range_bytes, get->ranges);
    for (size_t i = 0; i < get->range_count; i++) {
        size_t spans = split_range(get, &get->ranges[i], NULL, NULL);
        get->spans_max = spans > get->spans_max ? spans : get->spans_max;
    }
    return S3D_OK;
}

static enum s3d_code slot_init(struct slot *slot, struct s3d_get *get, bool gaps,
                               struct s3d_error *error)
{
    slot->get = get;
    slot->spans = s3d_alloc_zeroed(get->spans_max, sizeof *slot->spans);
    slot->gap = gaps ? s3d_alloc(GAP_MAX_BYTES) : NULL;
    if (!slot->spans || (gaps && !slot->gap)) {
        return s3d_fail_memory(error, get->spans_max * sizeof *slot->spans);
    }
    slot->request.verb = S3D_VERB_GET;
    slot->request.store = get->store;
    slot->request.key = get->key;
    slot->request.if_match = get->if_match;
    slot->request.spans = slot->spans;
    slot->request.fresh = get->fresh;
    slot->request.done = range_done;
    slot->request.owner = slot;
    return S3D_OK;
}

static enum s3d_code get_init(struct s3d_get *get, const struct s3d_get_plan *plan,
                              struct s3d_error *error)
{
    get->piece = plan->piece;
    get->context = plan->context;
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
    enum s3d_code code = plan_ranges(get, plan, error);
    if (code) {
        return code;
    }
    size_t slots = (size_t)least(plan->concurrency, get->range_count);
    get->slots = s3d_alloc_zeroed(slots, sizeof *get->slots);
    if (!get->slots) {
        return s3d_fail_memory(error, slots * sizeof *get->slots);
    }
    get->slot_count = slots;
    bool gaps = has_gaps(get);
    for (size_t i = 0; !code && i < slots; i++) {
        code = slot_init(&get->slots[i], get, gaps, error);
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
    s3d_store_release(get->store);
    s3d_free(get->key);
    s3d_free(get->if_match);
    s3d_free(get->segments);
    s3d_free(get->ranges);
    s3d_free(get->slots);
    s3d_free(get);
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

/* ---- waiting ---- */

/* The first range that ends after offset. */
static size_t find_range(const struct s3d_get *get, uint64_t offset)
{
    size_t low = 0, high = get->range_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (get->ranges[middle].offset_bytes + get->ranges[middle].length_bytes > offset) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

/* Whether all ranges from *range on that touch bytes before `end` are ready; *range moves on to
 * the first that is not. */
static bool are_ready_locked(const struct s3d_get *get, size_t *range, uint64_t end)
{
    while (*range < get->range_count && get->ranges[*range].offset_bytes < end) {
        if (!get->ranges[*range].ready) {
            return false;
        }
        ++*range;
    }
    return true;
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
    size_t range =
        count ? find_range(get, get->segments[first].offset_bytes) : get->range_count;
    uint64_t end = count ? segment_end(&get->segments[first + count - 1]) : 0;
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    s3d_latch_lock(&get->latch);
    bool ready = are_ready_locked(get, &range, end);
    while (!get->failure.code && !ready && s3d_latch_wait_locked(&get->latch, deadline_ms)) {
        ready = are_ready_locked(get, &range, end);
    }
    if (get->failure.code) {
        code = s3d_error_copy(error, &get->failure);
    } else {
        code = ready || are_ready_locked(get, &range, end) ? S3D_OK : S3D_AGAIN;
    }
    s3d_latch_unlock(&get->latch);
    return code;
}

enum s3d_code s3d_get_wait_all(struct s3d_get *get, int64_t timeout_ms, struct s3d_error *error)
{
    return s3d_get_wait(get, 0, get->segment_count, timeout_ms, error);
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
