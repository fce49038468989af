#include "core/mem.h"
#include "core/plan.h"
#include "core/put_state.h"

#include <string.h>

enum { PARTS_PER_SLOT = 2 /* a put's own share of the budget: 2 x concurrency x part */ };

/* ---- failing ---- */

void s3d_put_cancel_parts_locked(struct s3d_put *put)
{
    for (unsigned i = 0; i < put->concurrency; i++) {
        struct s3d_put_slot *slot = &put->slots[i];
        if (slot->active && !slot->held_back) {
            s3d_pool_cancel(put->store->pool, &slot->request);
        }
    }
}

void s3d_put_fail_locked(struct s3d_put *put, const struct s3d_error *error)
{
    if (!put->failure.code) {
        put->failure = *error;
        s3d_put_cancel_parts_locked(put);
    }
    s3d_latch_notify_locked(&put->latch);
}

/* ---- chunks ---- */

static void keep_chunk_locked(struct s3d_put *put, struct s3d_chunk chunk)
{
    struct s3d_put_spare *spare = (struct s3d_put_spare *)(void *)chunk.data;
    *spare = (struct s3d_put_spare){put->spares, chunk.size_bytes};
    put->spares = spare;
}

static struct s3d_chunk take_spare_locked(struct s3d_put *put)
{
    struct s3d_put_spare *spare = put->spares;
    put->spares = spare->next;
    return (struct s3d_chunk){(char *)spare, spare->size_bytes};
}

static struct s3d_budget *budget_of(struct s3d_put *put)
{
    return &put->store->engine->budget;
}

static void release_chunk(struct s3d_put *put, struct s3d_chunk chunk)
{
    atomic_fetch_sub(&put->held_bytes, chunk.size_bytes);
    s3d_budget_give(budget_of(put), chunk.data, chunk.size_bytes);
}

/* A spare chunk that is large enough, or one from the budget. AGAIN: none is free yet. */
static enum s3d_code take_chunk(struct s3d_put *put, size_t bytes, struct s3d_chunk *chunk,
                                struct s3d_error *error)
{
    *chunk = (struct s3d_chunk){0};
    s3d_latch_lock(&put->latch);
    while (put->spares && !chunk->data) {
        *chunk = take_spare_locked(put);
        if (chunk->size_bytes < bytes) {
            release_chunk(put, *chunk); /* parts have grown: a larger one takes its place */
            *chunk = (struct s3d_chunk){0};
        }
    }
    /* With nothing under way no memory of its own will come free: then it has a claim. */
    bool alone = put->active_count == 0;
    s3d_latch_unlock(&put->latch);
    if (chunk->data || !alone) {
        s3d_budget_withdraw(budget_of(put), &put->claim);
    }
    if (chunk->data) {
        return S3D_OK;
    }
    if (!alone && atomic_load(&put->held_bytes) + bytes >
                      PARTS_PER_SLOT * put->concurrency * put->part_bytes) {
        return S3D_AGAIN;
    }
    void *data = NULL;
    enum s3d_code code =
        s3d_budget_take(budget_of(put), bytes, alone ? &put->claim : NULL, 0, &data, error);
    if (code == S3D_AGAIN && alone && bytes <= S3D_BUDGET_SMALL_BYTES) {
        s3d_budget_withdraw(budget_of(put), &put->claim);
        code = s3d_budget_take_small(budget_of(put), bytes, &data, error);
    }
    if (!code) {
        atomic_fetch_add(&put->held_bytes, bytes);
        *chunk = (struct s3d_chunk){data, bytes};
    }
    return code;
}

static bool is_alone(struct s3d_put *put)
{
    s3d_latch_lock(&put->latch);
    bool alone = put->active_count == 0;
    s3d_latch_unlock(&put->latch);
    return alone;
}

enum s3d_code s3d_put_fit_chunk(struct s3d_put *put, size_t bytes, bool or_small,
                                struct s3d_error *error)
{
    if (s3d_draft_room(&put->draft)) {
        return S3D_OK;
    }
    struct s3d_chunk chunk;
    enum s3d_code code = take_chunk(put, bytes, &chunk, error);
    if (code == S3D_AGAIN && or_small && !put->draft.bytes && is_alone(put)) {
        code = take_chunk(put, S3D_BUDGET_SMALL_BYTES, &chunk, error);
    }
    if (!code) {
        code = s3d_draft_add_chunk(&put->draft, chunk, error);
        if (code) {
            release_chunk(put, chunk);
        }
    }
    return code;
}

static void drop_draft(struct s3d_put *put, struct s3d_draft *draft)
{
    s3d_latch_lock(&put->latch);
    for (struct s3d_chunk chunk; s3d_draft_take_chunk(draft, &chunk);) {
        keep_chunk_locked(put, chunk);
    }
    s3d_latch_unlock(&put->latch);
    s3d_draft_fini(draft);
}

enum s3d_code s3d_put_own_draft(struct s3d_put *put, struct s3d_error *error)
{
    struct s3d_chunk chunk;
    struct s3d_draft copy = {0};
    if (!put->draft.referred_bytes) {
        return S3D_OK;
    }
    enum s3d_code code = take_chunk(put, (size_t)put->draft.bytes, &chunk, error);
    if (code) {
        return code;
    }
    code = s3d_draft_add_chunk(&copy, chunk, error);
    if (code) {
        release_chunk(put, chunk);
    } else {
        code = s3d_draft_own(&put->draft, &copy, error);
    }
    drop_draft(put, &copy);
    return code;
}

void s3d_put_release_chunks(struct s3d_put *put)
{
    s3d_budget_withdraw(budget_of(put), &put->claim);
    s3d_budget_rests(budget_of(put), put->moving_bytes);
    put->moving_bytes = 0;
    for (struct s3d_chunk chunk; s3d_draft_take_chunk(&put->draft, &chunk);) {
        release_chunk(put, chunk);
    }
    s3d_draft_clear(&put->draft);
    while (put->spares) {
        release_chunk(put, take_spare_locked(put));
    }
}

/* ---- parts ---- */

/* The chunks of a part that has ended go to streams that have none, or else are kept. */
static void share_chunks(struct s3d_put *put, struct s3d_put_slot *slot)
{
    struct s3d_chunk chunk;
    while (s3d_budget_wanted(budget_of(put)) && s3d_draft_take_chunk(&slot->draft, &chunk)) {
        release_chunk(put, chunk);
    }
    s3d_budget_rests(budget_of(put), slot->moving_bytes);
}

static void part_done(struct s3d_request *request)
{
    struct s3d_put_slot *slot = request->owner;
    struct s3d_put *put = slot->put;
    share_chunks(put, slot);
    s3d_latch_lock(&put->latch);
    if (request->result.code) {
        s3d_put_fail_locked(put, &request->result.error);
    } else {
        s3d_pace_moved(&put->pace, request->length_bytes, request->result.elapsed_us);
        struct s3d_part *part = &put->parts[request->part_number - 1];
        memcpy(part->etag, request->result.object.etag, S3D_ETAG_MAX);
        part->checksum = request->result.checksum;
        part->stored = true;
        while (put->stored_count < put->part_count && put->parts[put->stored_count].stored) {
            put->stored_count++;
        }
    }
    for (struct s3d_chunk chunk; s3d_draft_take_chunk(&slot->draft, &chunk);) {
        keep_chunk_locked(put, chunk);
    }
    s3d_draft_clear(&slot->draft);
    put->borrowing_count -= slot->borrows ? 1 : 0;
    s3d_window_done(&put->window, request->length_bytes, request->throttled, s3d_now_us());
    slot->active = false;
    put->active_count--;
    s3d_latch_notify_locked(&put->latch);
    s3d_latch_unlock(&put->latch);
}

static void control_done(struct s3d_request *request)
{
    struct s3d_put *put = request->owner;
    s3d_latch_lock(&put->latch);
    put->control_active = false;
    s3d_latch_notify_locked(&put->latch);
    s3d_latch_unlock(&put->latch);
}

/* Sends the parts that waited for the upload id, or drops them after a failure. */
static void release_held_back(struct s3d_put *put)
{
    for (unsigned i = 0; i < put->concurrency; i++) {
        struct s3d_put_slot *slot = &put->slots[i];
        s3d_latch_lock(&put->latch);
        bool held_back = slot->active && slot->held_back;
        slot->held_back = false; /* from here on a failure cancels the part */
        bool send = !put->failure.code;
        if (held_back && !send) {
            slot->request.result.code = S3D_CANCELLED;
            slot->request.result.error = put->failure;
        }
        s3d_latch_unlock(&put->latch);
        if (held_back && send) {
            s3d_pool_submit(put->store->pool, &slot->request);
        } else if (held_back) {
            part_done(&slot->request);
        }
    }
}

static void create_done(struct s3d_request *request)
{
    struct s3d_put *put = request->owner;
    s3d_latch_lock(&put->latch);
    if (request->result.code) {
        s3d_put_fail_locked(put, &request->result.error);
    } else {
        put->created = true;
        /* Next to nothing was sent and came: all of it was waiting. */
        s3d_pace_answered(&put->pace, request->result.elapsed_us);
        if (s3d_pace_is_far(&put->pace)) {
            s3d_window_far(&put->window);
        }
        memcpy(put->upload_id, request->result.upload_id, sizeof put->upload_id);
    }
    s3d_latch_unlock(&put->latch);
    release_held_back(put);
    control_done(request); /* last: it lets an abort go on, and the put go away */
}

void s3d_put_submit_control(struct s3d_put *put, enum s3d_verb verb)
{
    struct s3d_request *request = &put->control;
    s3d_latch_lock(&put->latch);
    request->verb = verb;
    request->done = verb == S3D_VERB_UPLOAD_CREATE ? create_done : control_done;
    request->upload_id = put->upload_id;
    request->parts = put->parts;
    request->part_count = put->part_count;
    s3d_request_reset(request);
    put->control_active = true;
    s3d_latch_unlock(&put->latch);
    s3d_pool_submit(put->store->pool, request);
}

/* Makes room for one more part; under the latch, as part_done writes into the array. */
static enum s3d_code grow_parts_locked(struct s3d_put *put, struct s3d_error *error)
{
    if (put->part_count >= put->store->limits.parts_max) {
        return s3d_fail(error, S3D_INVALID,
                        "the object needs more than %u parts: open it with a larger part_size "
                        "(now %llu bytes)",
                        put->store->limits.parts_max, (unsigned long long)put->part_bytes);
    }
    if (put->part_count < put->part_capacity) {
        return S3D_OK;
    }
    size_t capacity = put->part_capacity ? put->part_capacity * 2 : 64;
    struct s3d_part *parts = s3d_resize(put->parts, capacity * sizeof *parts);
    if (!parts) {
        return s3d_fail_memory(error, capacity * sizeof *parts);
    }
    put->parts = parts;
    put->part_capacity = capacity;
    return S3D_OK;
}

/* A free slot, the draft and the next part number moved into it. */
static struct s3d_put_slot *claim_slot_locked(struct s3d_put *put, bool borrows)
{
    struct s3d_put_slot *slot = put->slots;
    while (slot->active) {
        slot++;
    }
    struct s3d_part *part = &put->parts[put->part_count++];
    *part = (struct s3d_part){.number = (uint32_t)put->part_count,
                              .offset_bytes = put->sent_offset,
                              .size_bytes = put->draft.bytes};
    s3d_draft_swap(&slot->draft, &put->draft);
    slot->start_us = s3d_now_us();
    slot->moving_bytes = s3d_draft_chunk_bytes(&slot->draft);
    s3d_budget_moves(budget_of(put), slot->moving_bytes);
    slot->borrows = borrows;
    slot->active = true;
    slot->held_back = !put->created;
    put->active_count++;
    put->borrowing_count += borrows ? 1 : 0;
    slot->request.part_number = part->number;
    slot->request.offset_bytes = part->offset_bytes;
    slot->request.length_bytes = part->size_bytes;
    slot->request.spans = slot->draft.spans;
    slot->request.span_count = slot->draft.span_count;
    s3d_request_reset(&slot->request);
    put->sent_offset += part->size_bytes;
    return slot;
}

/* Bytes of the parts in flight that are likely still to come. */
static uint64_t running_bytes_locked(const struct s3d_put *put)
{
    int64_t now_us = s3d_now_us();
    uint64_t bytes = 0;
    for (unsigned i = 0; i < put->concurrency; i++) {
        const struct s3d_put_slot *slot = &put->slots[i];
        if (slot->active) {
            bytes +=
                s3d_pace_rest(&put->pace, slot->request.length_bytes, now_us - slot->start_us);
        }
    }
    return bytes;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* As large as copied parts may become so that all in flight and the next one fit the put's share. */
static uint64_t buffered_part(const struct s3d_put *put)
{
    return PARTS_PER_SLOT * put->concurrency * put->part_bytes / (put->concurrency + 1);
}

static uint64_t far_part_locked(const struct s3d_put *put, uint64_t base, uint64_t at_hand)
{
    uint64_t most =
        put->refers ? put->part_max_bytes : least(put->part_max_bytes, buffered_part(put));
    if (put->refers && !put->lasting) {
        return base; /* its memory may wait for parts to be stored, so no part waits for more */
    }
    if (put->expected_bytes > put->sent_offset) {
        struct s3d_pace_work work = {
            .left_bytes = put->expected_bytes - put->sent_offset,
            .running_bytes = running_bytes_locked(put),
            .connections = put->concurrency,
            .base_bytes = base,
            .min_bytes = base,
            .max_bytes = most,
        };
        return s3d_pace_next(&put->pace, &work);
    }
    /* A long write is sent from where it lies, and needs no buffer. */
    uint64_t part = s3d_pace_part(&put->pace, base, put->part_max_bytes);
    return at_hand / put->concurrency >= part ? part : s3d_pace_part(&put->pace, base, most);
}

uint64_t s3d_put_next_part(struct s3d_put *put, uint64_t at_hand)
{
    const struct s3d_limits *limits = &put->store->limits;
    uint64_t part = s3d_plan_growing_part(limits, put->part_bytes, put->sent_offset);
    s3d_latch_lock(&put->latch);
    if (s3d_pace_is_far(&put->pace) && part < put->part_max_bytes && !limits->equal_parts) {
        part = far_part_locked(put, part, at_hand);
    }
    s3d_latch_unlock(&put->latch);
    return least(part, limits->part_max_bytes);
}

/* Large parts of references are planned by what the upload's creation tells of the store. */
static bool has_room_locked(const struct s3d_put *put)
{
    bool must_know = put->refers && put->lasting && put->part_count && !put->created;
    return put->active_count < put->window.size && !must_know;
}

/* Waits until the window has room for a part. */
static enum s3d_code wait_slot_locked(struct s3d_put *put, int64_t deadline_ms)
{
    while (!put->failure.code && !has_room_locked(put)) {
        s3d_window_wait(&put->window);
        if (!s3d_latch_wait_locked(&put->latch, deadline_ms)) {
            break;
        }
    }
    if (put->failure.code) {
        return put->failure.code;
    }
    return has_room_locked(put) ? S3D_OK : S3D_AGAIN;
}

enum s3d_code s3d_put_wait_slot(struct s3d_put *put, int64_t deadline_ms)
{
    s3d_latch_lock(&put->latch);
    enum s3d_code code = wait_slot_locked(put, deadline_ms);
    s3d_latch_unlock(&put->latch);
    return code;
}

/* Sends the draft as the next part. AGAIN: no slot is free, and the draft is as it was. */
enum s3d_code s3d_put_send_draft(struct s3d_put *put, bool borrows, int64_t deadline_ms,
                                 struct s3d_error *error)
{
    struct s3d_put_slot *slot = NULL;
    bool first = false, submit = false;
    s3d_latch_lock(&put->latch);
    enum s3d_code code = wait_slot_locked(put, deadline_ms);
    if (!code) {
        code = grow_parts_locked(put, error);
    }
    if (!code) {
        first = put->part_count == 0;
        slot = claim_slot_locked(put, borrows);
        submit = !slot->held_back;
    }
    s3d_latch_unlock(&put->latch);
    if (first) {
        s3d_put_submit_control(put, S3D_VERB_UPLOAD_CREATE);
    } else if (submit) {
        s3d_pool_submit(put->store->pool, &slot->request);
    }
    return code;
}

void s3d_put_cancel_control(struct s3d_put *put)
{
    s3d_latch_lock(&put->latch);
    if (put->control_active) {
        s3d_pool_cancel(put->store->pool, &put->control);
    }
    s3d_latch_unlock(&put->latch);
}

void s3d_put_init_requests(struct s3d_put *put)
{
    put->control.store = put->store;
    put->control.key = put->key;
    put->control.options = &put->options;
    put->control.owner = put;
    for (unsigned i = 0; i < put->concurrency; i++) {
        struct s3d_put_slot *slot = &put->slots[i];
        slot->put = put;
        slot->request.verb = S3D_VERB_UPLOAD_PART;
        slot->request.store = put->store;
        slot->request.key = put->key;
        slot->request.options = &put->options;
        slot->request.upload_id = put->upload_id;
        slot->request.done = part_done;
        slot->request.owner = slot;
    }
}

void s3d_put_open_window(struct s3d_put *put)
{
    s3d_latch_lock(&put->latch);
    s3d_window_open(&put->window);
    s3d_latch_unlock(&put->latch);
}

/* ---- waiting ---- */

/* Waits a little for memory or a slot; false when the deadline has come. */
bool s3d_put_wait_change(struct s3d_put *put, int64_t deadline_ms)
{
    s3d_latch_lock(&put->latch);
    if (!put->failure.code && !put->spares) {
        /* Memory of other streams comes free without a word to this latch: look again soon. */
        int64_t soon_ms = s3d_deadline_ms(10);
        s3d_latch_wait_locked(
            &put->latch, deadline_ms >= 0 && deadline_ms < soon_ms ? deadline_ms : soon_ms);
    }
    s3d_latch_unlock(&put->latch);
    return deadline_ms < 0 || s3d_now_ms() < deadline_ms;
}

/* Waits until no part refers to a write's memory any more. */
bool s3d_put_wait_returned(struct s3d_put *put, int64_t deadline_ms)
{
    s3d_latch_lock(&put->latch);
    while (put->borrowing_count && s3d_latch_wait_locked(&put->latch, deadline_ms)) {
    }
    bool drained = put->borrowing_count == 0;
    s3d_latch_unlock(&put->latch);
    return drained;
}

uint64_t s3d_put_stored_locked(const struct s3d_put *put)
{
    const struct s3d_part *last = put->stored_count ? &put->parts[put->stored_count - 1] : NULL;
    return last ? last->offset_bytes + last->size_bytes : 0;
}

/* Waits until the store has the first `end_bytes` bytes; true as well when it never will. */
bool s3d_put_wait_stored(struct s3d_put *put, uint64_t end_bytes, int64_t deadline_ms)
{
    s3d_latch_lock(&put->latch);
    while (!put->failure.code && s3d_put_stored_locked(put) < end_bytes &&
           s3d_latch_wait_locked(&put->latch, deadline_ms)) {
    }
    bool stored = put->failure.code || s3d_put_stored_locked(put) >= end_bytes;
    s3d_latch_unlock(&put->latch);
    return stored;
}

/* Waits until no part and no control request is in flight. */
bool s3d_put_wait_idle(struct s3d_put *put, int64_t deadline_ms)
{
    s3d_latch_lock(&put->latch);
    while ((put->active_count || put->control_active) &&
           s3d_latch_wait_locked(&put->latch, deadline_ms)) {
    }
    bool idle = !put->active_count && !put->control_active;
    s3d_latch_unlock(&put->latch);
    return idle;
}
