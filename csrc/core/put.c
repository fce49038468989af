#include "core/put.h"

#include "core/engine.h"
#include "core/latch.h"
#include "core/mem.h"
#include "core/plan.h"
#include "core/put_options.h"
#include "core/window.h"

#include <stdio.h>
#include <string.h>

enum {
    ABORT_GRACE_MS = 5000,   /* for a create or complete under way: its outcome is worth knowing */
    ABORT_LIMIT_MS = 30000,  /* for the request that removes the upload */
    BUFFERS_PER_SLOT = 2     /* a put's own share of the budget: 2 x concurrency x part */
};

enum state {
    STATE_OPEN,     /* taking bytes */
    STATE_FINISHED, /* the object is visible */
    STATE_FAILED    /* poisoned; everything is cleaned up */
};

/* A part in flight; used again for later parts. */
struct slot {
    struct s3d_put *put;
    struct s3d_request request;
    struct s3d_span span;
    void *buffer;        /* NULL: the part is sent from the caller's memory */
    size_t buffer_bytes;
    bool active;         /* locked{latch} */
    bool held_back;      /* locked{latch}: waits for the upload id */
};

struct buffer {
    void *data;
    size_t bytes;
};

struct s3d_put {
    /* frozen */
    struct s3d_store *store;
    char *key;
    uint64_t part_bytes;
    unsigned concurrency;
    struct s3d_put_options options;
    /* locked{entry}: the caller's side */
    pthread_mutex_t entry;
    enum state state;
    bool closing;          /* finish has been called: no more bytes */
    struct buffer current; /* being filled */
    size_t fill_bytes;
    uint64_t taken_bytes;
    uint64_t sent_offset;  /* where the next part begins */
    uint64_t held_bytes;   /* in buffers, wherever they are */
    /* locked{latch} */
    struct s3d_latch latch;
    struct slot *slots;         /* concurrency of them */
    struct s3d_window window;   /* how many of them to use */
    size_t active_count;
    size_t direct_count;        /* of them, how many send from the caller's memory */
    struct buffer *spare;       /* concurrency + 1 places */
    size_t spare_count;
    struct s3d_part *parts;
    size_t part_count, part_capacity;
    struct s3d_error failure;   /* the first one */
    bool created, completing;   /* the upload has an id; its outcome is being decided */
    char upload_id[S3D_UPLOAD_ID_MAX];
    struct s3d_request control; /* create, complete, abort, or a single PUT: one at a time */
    struct s3d_span control_span;
    bool control_active;
    char etag[S3D_ETAG_MAX];
    /* locked{engine}: see s3d_put_link */
    struct s3d_put *next_open, **link_open;
    /* any thread */
    atomic_uint references; /* the owner's, and the engine's while it aborts the put */
};

void s3d_put_link(struct s3d_put *put, struct s3d_put **list)
{
    put->next_open = *list;
    put->link_open = list;
    if (put->next_open) {
        put->next_open->link_open = &put->next_open;
    }
    *list = put;
}

void s3d_put_unlink(struct s3d_put *put, struct s3d_put **list)
{
    (void)list;
    if (put->link_open) {
        *put->link_open = put->next_open;
        if (put->next_open) {
            put->next_open->link_open = put->link_open;
        }
        put->link_open = NULL;
    }
}

/* ---- failing ---- */

static void cancel_parts_locked(struct s3d_put *put)
{
    for (unsigned i = 0; i < put->concurrency; i++) {
        struct slot *slot = &put->slots[i];
        if (slot->active && !slot->held_back) {
            s3d_pool_cancel(put->store->pool, &slot->request);
        }
    }
}

static void fail_locked(struct s3d_put *put, const struct s3d_error *error)
{
    if (!put->failure.code) {
        put->failure = *error;
        cancel_parts_locked(put);
    }
    s3d_latch_notify_locked(&put->latch);
}

/* ---- buffers ---- */

static void release_buffer(struct s3d_put *put, struct buffer *buffer)
{
    if (buffer->data) {
        s3d_budget_give(&put->store->engine->budget, buffer->data, buffer->bytes);
        put->held_bytes -= buffer->bytes;
        *buffer = (struct buffer){0};
    }
}

/* A spare one that is large enough, or one from the budget. AGAIN: none is free yet. */
static enum s3d_code take_buffer(struct s3d_put *put, size_t bytes, int64_t timeout_ms,
                                 struct s3d_error *error)
{
    s3d_latch_lock(&put->latch);
    struct buffer found = {0};
    while (put->spare_count && !found.data) {
        found = put->spare[--put->spare_count];
        if (found.bytes < bytes) {
            release_buffer(put, &found); /* parts have grown: replaced by a larger one below */
        }
    }
    bool all_busy = put->held_bytes && put->held_bytes + bytes >
                                           BUFFERS_PER_SLOT * put->concurrency * put->part_bytes;
    s3d_latch_unlock(&put->latch);
    if (found.data) {
        put->current = found;
        return S3D_OK;
    }
    if (all_busy) {
        return S3D_AGAIN;
    }
    void *data;
    enum s3d_code code = s3d_budget_take(&put->store->engine->budget, bytes, put->held_bytes == 0,
                                         timeout_ms, &data, error);
    if (!code) {
        put->held_bytes += bytes;
        put->current = (struct buffer){data, bytes};
    }
    return code;
}

/* ---- parts ---- */

static void part_done(struct s3d_request *request)
{
    struct slot *slot = request->owner;
    struct s3d_put *put = slot->put;
    s3d_latch_lock(&put->latch);
    if (request->result.code) {
        fail_locked(put, &request->result.error);
    } else {
        memcpy(put->parts[request->part_number - 1].etag, request->result.object.etag,
               S3D_ETAG_MAX);
    }
    if (slot->buffer) {
        put->spare[put->spare_count++] = (struct buffer){slot->buffer, slot->buffer_bytes};
        slot->buffer = NULL;
    } else {
        put->direct_count--;
    }
    s3d_window_done(&put->window, request->length_bytes, request->throttled,
                    s3d_now_us());
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
        struct slot *slot = &put->slots[i];
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
        fail_locked(put, &request->result.error);
    } else {
        put->created = true;
        memcpy(put->upload_id, request->result.upload_id, sizeof put->upload_id);
    }
    s3d_latch_unlock(&put->latch);
    release_held_back(put);
    control_done(request); /* last: it lets an abort go on, and the put go away */
}

static void submit_control(struct s3d_put *put, enum s3d_verb verb,
                           void (*done)(struct s3d_request *))
{
    struct s3d_request *request = &put->control;
    s3d_latch_lock(&put->latch);
    request->verb = verb;
    request->done = done;
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

/* A free slot with the next part number in it, or NULL. */
static struct slot *claim_slot_locked(struct s3d_put *put, size_t length)
{
    struct slot *slot = put->slots;
    while (slot->active) {
        slot++;
    }
    struct s3d_part *part = &put->parts[put->part_count++];
    *part = (struct s3d_part){.number = (uint32_t)put->part_count,
                              .offset_bytes = put->sent_offset,
                              .size_bytes = length};
    slot->active = true;
    slot->held_back = !put->created;
    put->active_count++;
    slot->request.part_number = part->number;
    slot->request.offset_bytes = part->offset_bytes;
    slot->request.length_bytes = length;
    slot->span.length_bytes = length;
    s3d_request_reset(&slot->request);
    put->sent_offset += length;
    return slot;
}

/*
 * Sends [data, data + length) as the next part: from `buffer`, which then belongs to the part, or
 * (buffer NULL) from the caller's memory. AGAIN: all slots are busy.
 */
static enum s3d_code send_part(struct s3d_put *put, struct buffer *buffer, const char *data,
                               size_t length, int64_t deadline_ms, struct s3d_error *error)
{
    enum s3d_code code = S3D_OK;
    bool first = false, submit = false;
    struct slot *slot = NULL;
    s3d_latch_lock(&put->latch);
    bool full = put->active_count >= put->window.size;
    while (!put->failure.code && full) {
        s3d_window_wait(&put->window);
        bool in_time = s3d_latch_wait_locked(&put->latch, deadline_ms);
        full = put->active_count >= put->window.size;
        if (!in_time) {
            break;
        }
    }
    if (put->failure.code) {
        code = put->failure.code;
    } else if (full) {
        code = S3D_AGAIN;
    } else {
        code = grow_parts_locked(put, error);
    }
    if (!code) {
        first = put->part_count == 0;
        slot = claim_slot_locked(put, length);
        /* The part is only read from: the span's type serves both directions. */
        slot->span.data = (char *)(uintptr_t)data;
        slot->buffer = buffer ? buffer->data : NULL;
        slot->buffer_bytes = buffer ? buffer->bytes : 0;
        put->direct_count += buffer ? 0 : 1;
        submit = !slot->held_back;
    }
    s3d_latch_unlock(&put->latch);
    if (buffer && !code) {
        *buffer = (struct buffer){0};
    }
    if (first) {
        submit_control(put, S3D_VERB_UPLOAD_CREATE, create_done);
    } else if (submit) {
        s3d_pool_submit(put->store->pool, &slot->request);
    }
    return code;
}

static enum s3d_code send_current(struct s3d_put *put, int64_t deadline_ms,
                                  struct s3d_error *error)
{
    enum s3d_code code =
        send_part(put, &put->current, put->current.data, put->fill_bytes, deadline_ms, error);
    if (!code) {
        put->fill_bytes = 0;
    }
    return code;
}

/* ---- the caller's side ---- */

/* Cleans up after a failure and reports it; also the way out for errors of the caller's own. */
static void abort_put(struct s3d_put *put, const struct s3d_error *why);

static enum s3d_code report_failure(struct s3d_put *put, enum s3d_code code,
                                    const struct s3d_error *own, struct s3d_error *error)
{
    s3d_latch_lock(&put->latch);
    bool own_is_first = !put->failure.code && code == own->code;
    s3d_latch_unlock(&put->latch);
    abort_put(put, own_is_first ? own : NULL);
    s3d_error_copy(error, &put->failure);
    return put->failure.code;
}

/* Takes the next piece of `data`: a whole part sent in place, or a copy into the current buffer. */
static enum s3d_code take_piece(struct s3d_put *put, const char *data, size_t length,
                                size_t *written, int64_t deadline_ms, struct s3d_error *error)
{
    uint64_t part =
        s3d_plan_growing_part(&put->store->limits, put->part_bytes, put->sent_offset);
    size_t left = length - *written;
    enum s3d_code code = S3D_OK;
    if (put->current.data && put->fill_bytes >= part) {
        return send_current(put, deadline_ms, error);
    }
    if (!put->current.data) {
        bool in_place = left / put->concurrency >= part && left > part;
        if (!in_place) {
            code = take_buffer(put, (size_t)part, 0, error);
            in_place = code == S3D_AGAIN && left >= part;
        }
        if (in_place) {
            code = send_part(put, NULL, data + *written, (size_t)part, deadline_ms, error);
            *written += code ? 0 : (size_t)part;
            put->taken_bytes += code ? 0 : part;
            return code;
        }
        if (code) {
            return code;
        }
    }
    size_t room = (size_t)part - put->fill_bytes;
    size_t piece = left < room ? left : room;
    memcpy((char *)put->current.data + put->fill_bytes, data + *written, piece);
    put->fill_bytes += piece;
    put->taken_bytes += piece;
    *written += piece;
    return S3D_OK;
}

/* Waits a little for a buffer or a slot; false when the deadline has come. */
static bool wait_change(struct s3d_put *put, int64_t deadline_ms)
{
    s3d_latch_lock(&put->latch);
    if (!put->failure.code && !put->spare_count) {
        /* Buffers of other streams come free without a word to this latch: look again soon. */
        int64_t soon_ms = s3d_deadline_ms(10);
        s3d_latch_wait_locked(&put->latch,
                              deadline_ms >= 0 && deadline_ms < soon_ms ? deadline_ms : soon_ms);
    }
    s3d_latch_unlock(&put->latch);
    return deadline_ms < 0 || s3d_now_ms() < deadline_ms;
}

static bool wait_direct(struct s3d_put *put, int64_t deadline_ms)
{
    s3d_latch_lock(&put->latch);
    while (put->direct_count && s3d_latch_wait_locked(&put->latch, deadline_ms)) {
    }
    bool drained = put->direct_count == 0;
    s3d_latch_unlock(&put->latch);
    return drained;
}

static enum s3d_code failure_code(struct s3d_put *put)
{
    s3d_latch_lock(&put->latch);
    enum s3d_code code = put->failure.code;
    s3d_latch_unlock(&put->latch);
    return code;
}

/* OK when the put is still to be finished. */
static enum s3d_code check_open(struct s3d_put *put, struct s3d_error *error)
{
    switch (put->state) {
    case STATE_FAILED: return s3d_error_copy(error, &put->failure);
    case STATE_FINISHED: return s3d_fail(error, S3D_CLOSED, "write after close");
    case STATE_OPEN: break;
    }
    return s3d_engine_check(put->store->engine, error);
}

enum s3d_code s3d_put_write(struct s3d_put *put, const void *data, size_t length, size_t *written,
                            int64_t timeout_ms, struct s3d_error *error)
{
    struct s3d_error own = {0};
    enum s3d_code code = s3d_engine_check(put->store->engine, error);
    if (code == S3D_FORKED) {
        return code; /* a thread of the parent may have held the lock */
    }
    pthread_mutex_lock(&put->entry);
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    code = check_open(put, error);
    if (!code && put->closing) {
        code = s3d_fail(error, S3D_CLOSED, "write after close");
    }
    if (code) {
        pthread_mutex_unlock(&put->entry);
        return code;
    }
    while (!code && *written < length) {
        code = take_piece(put, data, length, written, deadline_ms, &own);
        if (code == S3D_AGAIN && wait_change(put, deadline_ms)) {
            code = S3D_OK;
        }
    }
    if (!code && !wait_direct(put, deadline_ms)) {
        code = S3D_AGAIN;
    }
    if (code != S3D_AGAIN && failure_code(put)) {
        code = failure_code(put);
    }
    if (code && code != S3D_AGAIN) {
        code = report_failure(put, code, &own, error);
    }
    pthread_mutex_unlock(&put->entry);
    return code;
}

/* Waits until no part and no control request is in flight. */
static bool wait_idle(struct s3d_put *put, int64_t deadline_ms)
{
    s3d_latch_lock(&put->latch);
    while ((put->active_count || put->control_active) &&
           s3d_latch_wait_locked(&put->latch, deadline_ms)) {
    }
    bool idle = !put->active_count && !put->control_active;
    s3d_latch_unlock(&put->latch);
    return idle;
}

static void single_put(struct s3d_put *put)
{
    put->control_span.data = put->current.data;
    put->control_span.length_bytes = put->fill_bytes;
    put->control.length_bytes = put->fill_bytes;
    submit_control(put, S3D_VERB_PUT, control_done);
}

static void release_buffers(struct s3d_put *put)
{
    release_buffer(put, &put->current);
    while (put->spare_count) {
        release_buffer(put, &put->spare[--put->spare_count]);
    }
}

static void became_visible(struct s3d_put *put)
{
    memcpy(put->etag, put->control.result.object.etag, sizeof put->etag);
    put->state = STATE_FINISHED;
    s3d_count(&put->store->engine->stats.objects_written, 1);
    release_buffers(put);
    s3d_engine_remove_put(put->store->engine, put);
}

/* One step of finishing; OK means the object is visible. */
static enum s3d_code finish_step(struct s3d_put *put, int64_t deadline_ms, struct s3d_error *own)
{
    if (!put->completing) {
        if (put->part_count && put->fill_bytes) {
            enum s3d_code code = send_current(put, deadline_ms, own);
            if (code) {
                return code;
            }
        }
        if (put->part_count && !wait_idle(put, deadline_ms)) {
            return S3D_AGAIN;
        }
        if (failure_code(put)) {
            return failure_code(put);
        }
        put->completing = true;
        if (put->part_count) {
            submit_control(put, S3D_VERB_UPLOAD_COMPLETE, control_done);
        } else {
            single_put(put);
        }
    }
    if (!wait_idle(put, deadline_ms)) {
        return S3D_AGAIN;
    }
    if (put->control.result.code) {
        *own = put->control.result.error;
    }
    return put->control.result.code;
}

enum s3d_code s3d_put_finish(struct s3d_put *put, int64_t timeout_ms, struct s3d_error *error)
{
    struct s3d_error own = {0};
    enum s3d_code code = s3d_engine_check(put->store->engine, error);
    if (code == S3D_FORKED) {
        return code; /* a thread of the parent may have held the lock */
    }
    code = S3D_OK;
    pthread_mutex_lock(&put->entry);
    if (put->state != STATE_FINISHED) {
        code = check_open(put, error);
        if (!code) {
            put->closing = true;
            code = finish_step(put, s3d_deadline_ms(timeout_ms), &own);
            if (!code) {
                became_visible(put);
            } else if (code != S3D_AGAIN) {
                code = report_failure(put, code, &own, error);
            }
        }
    }
    pthread_mutex_unlock(&put->entry);
    return code;
}

/* ---- abort ---- */

static void cancel_control(struct s3d_put *put)
{
    s3d_latch_lock(&put->latch);
    if (put->control_active) {
        s3d_pool_cancel(put->store->pool, &put->control);
    }
    s3d_latch_unlock(&put->latch);
}

/* After this nothing of the put is in flight. */
static void join_requests(struct s3d_put *put)
{
    s3d_latch_lock(&put->latch);
    cancel_parts_locked(put);
    s3d_latch_unlock(&put->latch);
    if (!wait_idle(put, s3d_deadline_ms(ABORT_GRACE_MS))) {
        cancel_control(put);
        wait_idle(put, -1);
    }
}

/* Removes the upload; what could not be removed is said in the put's failure. */
static void remove_upload(struct s3d_put *put)
{
    submit_control(put, S3D_VERB_UPLOAD_ABORT, control_done);
    if (!wait_idle(put, s3d_deadline_ms(ABORT_LIMIT_MS))) {
        cancel_control(put);
        wait_idle(put, -1);
    }
    if (put->control.result.code) {
        size_t used = strlen(put->failure.message);
        snprintf(put->failure.message + used, sizeof put->failure.message - used,
                 "; its multipart upload %.128s could not be removed (%.64s)", put->upload_id,
                 put->control.result.error.message);
    } else {
        s3d_count(&put->store->engine->stats.uploads_aborted, 1);
    }
}

static void abort_put(struct s3d_put *put, const struct s3d_error *why)
{
    struct s3d_error cancelled;
    if (!why) {
        s3d_fail(&cancelled, S3D_CANCELLED, "cancelled before close(): nothing was written");
        why = &cancelled;
    }
    s3d_latch_lock(&put->latch);
    fail_locked(put, why);
    s3d_latch_unlock(&put->latch);
    join_requests(put);
    if (put->completing && put->control.result.code == S3D_OK) {
        became_visible(put); /* the abort came too late: the object is there, and whole */
        return;
    }
    if (put->created) {
        remove_upload(put);
    }
    put->state = STATE_FAILED;
    release_buffers(put);
    s3d_engine_remove_put(put->store->engine, put);
}

void s3d_put_abort(struct s3d_put *put, const struct s3d_error *why)
{
    if (s3d_engine_check(put->store->engine, NULL) == S3D_FORKED) {
        return; /* the upload and its threads are the parent's */
    }
    pthread_mutex_lock(&put->entry);
    if (put->state == STATE_OPEN) {
        abort_put(put, why);
    }
    pthread_mutex_unlock(&put->entry);
}

/* ---- life ---- */

static enum s3d_code put_init(struct s3d_put *put, const struct s3d_put_plan *plan,
                              struct s3d_error *error)
{
    put->part_bytes = plan->part_bytes;
    put->concurrency = plan->concurrency;
    s3d_window_init(&put->window, plan->concurrency);
    put->key = s3d_copy_string(plan->key);
    put->slots = s3d_alloc_zeroed(plan->concurrency, sizeof *put->slots);
    put->spare = s3d_alloc_zeroed(plan->concurrency + (size_t)1, sizeof *put->spare);
    if (!put->key || !put->slots || !put->spare) {
        return s3d_fail_memory(error, plan->concurrency * sizeof *put->slots);
    }
    put->control.store = put->store;
    put->control.key = put->key;
    put->control.options = &put->options;
    put->control.spans = &put->control_span;
    put->control.span_count = 1;
    put->control.owner = put;
    for (unsigned i = 0; i < put->concurrency; i++) {
        struct slot *slot = &put->slots[i];
        slot->put = put;
        slot->request.verb = S3D_VERB_UPLOAD_PART;
        slot->request.store = put->store;
        slot->request.key = put->key;
        slot->request.upload_id = put->upload_id;
        slot->request.spans = &slot->span;
        slot->request.span_count = 1;
        slot->request.done = part_done;
        slot->request.owner = slot;
    }
    return s3d_put_options_copy(&put->options, plan->options, error);
}

static void put_destroy(struct s3d_put *put)
{
    pthread_mutex_destroy(&put->entry);
    s3d_latch_fini(&put->latch);
    s3d_put_options_fini(&put->options);
    s3d_store_release(put->store);
    s3d_free(put->key);
    s3d_free(put->slots);
    s3d_free(put->spare);
    s3d_free(put->parts);
    s3d_free(put);
}

enum s3d_code s3d_put_new(struct s3d_put **out, struct s3d_store *store,
                          const struct s3d_put_plan *plan, struct s3d_error *error)
{
    enum s3d_code code = s3d_engine_check(store->engine, error);
    if (!code) {
        code = s3d_plan_check_part(&store->limits, plan->part_bytes, error);
    }
    if (code) {
        return code;
    }
    if (!plan->concurrency) {
        return s3d_fail(error, S3D_INVALID, "max_concurrency must be at least 1");
    }
    struct s3d_put *put = s3d_alloc_zeroed(1, sizeof *put);
    if (!put) {
        return s3d_fail_memory(error, sizeof *put);
    }
    code = s3d_latch_init(&put->latch, error);
    if (code) {
        s3d_free(put);
        return code;
    }
    pthread_mutex_init(&put->entry, NULL);
    atomic_init(&put->references, 1);
    put->store = s3d_store_acquire(store);
    code = put_init(put, plan, error);
    if (!code) {
        code = s3d_engine_add_put(store->engine, put, error);
    }
    if (code) {
        put_destroy(put);
        return code;
    }
    *out = put;
    return S3D_OK;
}

struct s3d_put *s3d_put_acquire(struct s3d_put *put)
{
    atomic_fetch_add_explicit(&put->references, 1, memory_order_relaxed);
    return put;
}

void s3d_put_release(struct s3d_put *put)
{
    if (atomic_fetch_sub_explicit(&put->references, 1, memory_order_acq_rel) == 1) {
        put_destroy(put);
    }
}

void s3d_put_free(struct s3d_put *put)
{
    if (!put || s3d_engine_check(put->store->engine, NULL) == S3D_FORKED) {
        return;
    }
    s3d_put_abort(put, NULL);
    s3d_engine_remove_put(put->store->engine, put);
    s3d_put_release(put);
}

uint64_t s3d_put_bytes(const struct s3d_put *put)
{
    return put->taken_bytes;
}

const char *s3d_put_etag(const struct s3d_put *put)
{
    return put->etag;
}

bool s3d_put_finished(const struct s3d_put *put)
{
    return put->state == STATE_FINISHED;
}
