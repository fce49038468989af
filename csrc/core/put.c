#include "core/put.h"

#include "core/mem.h"
#include "core/plan.h"
#include "core/put_options.h"
#include "core/put_state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum {
    SMALL_CHUNK_BYTES = 256 * 1024, /* for what lies between memory referred to */
    ABORT_GRACE_MS = 5000,  /* for a create or complete under way: its outcome matters */
    ABORT_LIMIT_MS = 30000, /* for the request that removes the upload */
    REMARK_MAX = 256,
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

void s3d_put_unlink(struct s3d_put *put)
{
    if (put->link_open) {
        *put->link_open = put->next_open;
        if (put->next_open) {
            put->next_open->link_open = put->link_open;
        }
        put->link_open = NULL;
    }
}

/* ---- writing ---- */

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

/* Sends a whole part straight from a write's memory. The draft is empty before and after. */
static enum s3d_code send_in_place(struct s3d_put *put, const char *data, size_t part,
                                   size_t *written, int64_t deadline_ms,
                                   struct s3d_error *error)
{
    enum s3d_code code = s3d_draft_refer(&put->draft, data, part, error);
    if (!code) {
        code = s3d_put_send_draft(put, true, deadline_ms, error);
    }
    if (code) {
        s3d_draft_clear(&put->draft);
    } else {
        *written += part;
        put->taken_bytes += part;
    }
    return code;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* How write and refer differ: where a piece of the caller's data goes. */
enum taking { TAKE_COPY, TAKE_REFERENCE };

/*
 * Decides how large the draft is to become. What is copied needs a buffer of that size at once. What
 * is only referred to can wait until a part can leave, and is cut by what is known of the store then.
 */
static enum s3d_code plan_draft(struct s3d_put *put, uint64_t at_hand, int64_t deadline_ms)
{
    if (!put->draft.bytes) {
        put->draft_part = s3d_put_next_part(put, at_hand);
        put->draft_planned = !put->refers || !put->lasting;
    }
    if (put->draft_planned || put->draft.bytes < put->draft_part) {
        return S3D_OK;
    }
    enum s3d_code code = s3d_put_wait_slot(put, deadline_ms);
    if (!code) {
        put->draft_part = s3d_put_next_part(put, at_hand + put->draft.bytes);
        put->draft_planned = true;
    }
    return code;
}

/* Takes the next piece of `data`. */
static enum s3d_code take_piece(struct s3d_put *put, enum taking taking, const char *data,
                                size_t length, size_t *written, int64_t deadline_ms,
                                struct s3d_error *error)
{
    size_t left = length - *written;
    enum s3d_code code = plan_draft(put, left, deadline_ms);
    if (code) {
        return code;
    }
    size_t part = (size_t)put->draft_part;
    if (put->draft.bytes >= part) {
        return s3d_put_send_draft(put, false, deadline_ms, error);
    }
    size_t piece = least(left, part - (size_t)put->draft.bytes);
    if (taking == TAKE_REFERENCE && length >= S3D_REFER_MIN_BYTES) {
        code = s3d_draft_refer(&put->draft, data + *written, piece, error);
    } else {
        bool in_place = !put->draft.bytes && left / put->concurrency >= part && left > part;
        size_t chunk =
            taking == TAKE_COPY ? part - (size_t)put->draft.bytes : SMALL_CHUNK_BYTES;
        code = in_place ? S3D_AGAIN : s3d_put_fit_chunk(put, chunk, left < part, error);
        if (code == S3D_AGAIN && !put->draft.bytes && left >= part) {
            return send_in_place(put, data + *written, part, written, deadline_ms, error);
        }
        piece = code ? piece : least(piece, s3d_draft_room(&put->draft));
        code = code ? code : s3d_draft_copy(&put->draft, data + *written, piece, error);
    }
    if (!code) {
        *written += piece;
        put->taken_bytes += piece;
    }
    return code;
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
    case S3D_PUT_FAILED: return s3d_error_copy(error, &put->failure);
    case S3D_PUT_FINISHED: return s3d_fail(error, S3D_CLOSED, "write after close");
    case S3D_PUT_OPEN: break;
    }
    return s3d_engine_check(put->store->engine, error);
}

/* What a call that took or waited returns: a failure ends the put. */
static enum s3d_code settle(struct s3d_put *put, enum s3d_code code,
                            const struct s3d_error *own, struct s3d_error *error)
{
    if (code != S3D_AGAIN && failure_code(put)) {
        code = failure_code(put);
    }
    return code && code != S3D_AGAIN ? report_failure(put, code, own, error) : code;
}

static enum s3d_code take(struct s3d_put *put, enum taking taking, const void *data,
                          size_t length, size_t *written, int64_t timeout_ms,
                          struct s3d_error *error)
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
    if (taking == TAKE_REFERENCE && !put->refers) {
        put->refers = true;
        s3d_put_open_window(put); /* such parts cost no memory */
    }
    while (!code && *written < length) {
        code = take_piece(put, taking, data, length, written, deadline_ms, &own);
        if (code == S3D_AGAIN && s3d_put_wait_change(put, deadline_ms)) {
            code = S3D_OK;
        }
    }
    if (!code && !s3d_put_wait_returned(put, deadline_ms)) {
        code = S3D_AGAIN;
    }
    code = settle(put, code, &own, error);
    pthread_mutex_unlock(&put->entry);
    return code;
}

enum s3d_code s3d_put_write(struct s3d_put *put, const void *data, size_t length,
                            size_t *written, int64_t timeout_ms, struct s3d_error *error)
{
    return take(put, TAKE_COPY, data, length, written, timeout_ms, error);
}

enum s3d_code s3d_put_refer(struct s3d_put *put, const void *data, size_t length,
                            size_t *written, int64_t timeout_ms, struct s3d_error *error)
{
    return take(put, TAKE_REFERENCE, data, length, written, timeout_ms, error);
}

void s3d_put_expect(struct s3d_put *put, uint64_t bytes)
{
    if (s3d_engine_check(put->store->engine, NULL) == S3D_FORKED) {
        return; /* a thread of the parent may have held the lock */
    }
    pthread_mutex_lock(&put->entry);
    put->expected_bytes = bytes;
    put->lasting = true;
    pthread_mutex_unlock(&put->entry);
}

/* A part that is not full would never be sent by waiting for it, so it is copied. */
static enum s3d_code let_go(struct s3d_put *put, uint64_t end_bytes, int64_t deadline_ms,
                            struct s3d_error *own)
{
    enum s3d_code code = S3D_OK;
    if (end_bytes > put->sent_offset) {
        while ((code = s3d_put_own_draft(put, own)) == S3D_AGAIN) {
            if (failure_code(put)) {
                return failure_code(put);
            }
            if (!s3d_put_wait_change(put, deadline_ms)) {
                return S3D_AGAIN;
            }
        }
        end_bytes = put->sent_offset;
    }
    if (!code && !s3d_put_wait_stored(put, end_bytes, deadline_ms)) {
        code = S3D_AGAIN;
    }
    return code;
}

enum s3d_code s3d_put_let_go(struct s3d_put *put, uint64_t end_bytes, int64_t timeout_ms,
                             struct s3d_error *error)
{
    struct s3d_error own = {0};
    enum s3d_code code = s3d_engine_check(put->store->engine, error);
    if (code == S3D_FORKED) {
        return code; /* a thread of the parent may have held the lock */
    }
    pthread_mutex_lock(&put->entry);
    code = check_open(put, error);
    if (!code) {
        code = let_go(put, end_bytes, s3d_deadline_ms(timeout_ms), &own);
        code = settle(put, code, &own, error);
    }
    pthread_mutex_unlock(&put->entry);
    return code;
}

static void became_visible(struct s3d_put *put)
{
    memcpy(put->etag, put->control.result.object.etag, sizeof put->etag);
    if (!put->etag[0] && put->part_count && put->store->ops->upload_etag) {
        /* Ceph 16 completes an upload without a word on its ETag. */
        if (!put->store->ops->upload_etag(put->parts, put->part_count, put->etag)) {
            put->etag[0] = '\0';
        }
    }
    put->state = S3D_PUT_FINISHED;
    s3d_count(&put->store->engine->stats.objects_written, 1);
    s3d_put_release_chunks(put);
    s3d_engine_remove_put(put);
}

/* One step of finishing; OK means the object is visible. */
static enum s3d_code finish_step(struct s3d_put *put, int64_t deadline_ms,
                                 struct s3d_error *own)
{
    if (!put->completing) {
        if (put->part_count && put->draft.bytes) {
            enum s3d_code code = s3d_put_send_draft(put, false, deadline_ms, own);
            if (code) {
                return code;
            }
        }
        if (put->part_count && !s3d_put_wait_idle(put, deadline_ms)) {
            return S3D_AGAIN;
        }
        if (failure_code(put)) {
            return failure_code(put);
        }
        s3d_put_start_commit(put);
    }
    return s3d_put_end_commit(put, deadline_ms, own);
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
    if (put->state != S3D_PUT_FINISHED) {
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

/* After this nothing of the put is in flight. */
static void join_requests(struct s3d_put *put)
{
    s3d_latch_lock(&put->latch);
    s3d_put_cancel_parts_locked(put);
    s3d_latch_unlock(&put->latch);
    if (!s3d_put_wait_idle(put, s3d_deadline_ms(ABORT_GRACE_MS))) {
        s3d_put_cancel_control(put);
        s3d_put_wait_idle(put, -1);
    }
}

/* Removes the upload; what could not be removed is said in the put's failure. */
static void remove_upload(struct s3d_put *put)
{
    s3d_put_submit_control(put, S3D_VERB_UPLOAD_ABORT);
    if (!s3d_put_wait_idle(put, s3d_deadline_ms(ABORT_LIMIT_MS))) {
        s3d_put_cancel_control(put);
        s3d_put_wait_idle(put, -1);
    }
    put->left_upload = put->control.result.code != S3D_OK;
    if (put->left_upload) {
        char remark[REMARK_MAX];
        int length = snprintf(remark, sizeof remark,
                              "; its multipart upload %.128s could not be removed (%.64s)",
                              put->upload_id, put->control.result.error.message);
        size_t room = sizeof put->failure.message - 1 - (size_t)length;
        size_t used = strlen(put->failure.message);
        memcpy(put->failure.message + (used < room ? used : room), remark, (size_t)length + 1);
    } else {
        s3d_count(&put->store->engine->stats.uploads_aborted, 1);
    }
}

/* What came of a commit that an abort has met; OK: the object is there, and whole. */
static enum s3d_code end_commit(struct s3d_put *put)
{
    struct s3d_error own;
    enum s3d_code code = s3d_put_end_commit(put, s3d_deadline_ms(ABORT_GRACE_MS), &own);
    if (code == S3D_AGAIN) {
        s3d_put_cancel_control(put);
        s3d_put_wait_idle(put, -1);
    }
    put->unclear = put->control.attempts &&
                   (code == S3D_AGAIN || code == S3D_CANCELLED || code == S3D_UNDECIDED);
    return code;
}

static void abort_put(struct s3d_put *put, const struct s3d_error *why)
{
    struct s3d_error cancelled;
    if (!why) {
        s3d_fail(&cancelled, S3D_CANCELLED, "cancelled before close(): nothing was written");
        why = &cancelled;
    }
    s3d_latch_lock(&put->latch);
    s3d_put_fail_locked(put, why);
    s3d_latch_unlock(&put->latch);
    join_requests(put);
    if (put->completing && end_commit(put) == S3D_OK) {
        became_visible(put); /* the abort came too late */
        return;
    }
    if (put->created) {
        remove_upload(put);
    }
    put->state = S3D_PUT_FAILED;
    s3d_put_release_chunks(put);
    s3d_engine_remove_put(put);
}

void s3d_put_abort(struct s3d_put *put, const struct s3d_error *why)
{
    if (s3d_engine_check(put->store->engine, NULL) == S3D_FORKED) {
        return; /* the upload and its threads are the parent's */
    }
    pthread_mutex_lock(&put->entry);
    if (put->state == S3D_PUT_OPEN) {
        abort_put(put, why);
    }
    pthread_mutex_unlock(&put->entry);
}

/* ---- life ---- */

/* A conditional write must know its own object again: one of equal bytes can be another writer's. */
static enum s3d_code set_write_id(struct s3d_put *put, struct s3d_error *error)
{
    unsigned char random[(S3D_WRITE_ID_MAX - 1) / 2];
    bool conditional = put->options.if_none_match || put->options.if_match;
    if (!conditional || !put->store->ops->keeps_write_id) {
        return S3D_OK;
    }
    /* So few bytes are never cut short. */
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
        return s3d_fail_errno(error, errno, "getrandom");
    }
    for (size_t i = 0; i < sizeof random; i++) {
        snprintf(put->write_id + 2 * i, 3, "%02x", random[i]);
    }
    put->options.write_id = put->write_id;
    return S3D_OK;
}

static enum s3d_code put_init(struct s3d_put *put, const struct s3d_put_plan *plan,
                              struct s3d_error *error)
{
    enum s3d_code code = s3d_plan_known_part(&put->store->limits, plan->part_bytes,
                                             plan->expected_bytes, &put->part_bytes, error);
    if (code) {
        return code;
    }
    put->part_max_bytes = plan->part_max_bytes;
    put->expected_bytes = plan->expected_bytes;
    put->concurrency = plan->concurrency;
    s3d_window_init(&put->window, plan->concurrency);
    put->key = s3d_copy_string(plan->key);
    put->slots = s3d_alloc_zeroed(plan->concurrency, sizeof *put->slots);
    if (!put->key || !put->slots) {
        return s3d_fail_memory(error, plan->concurrency * sizeof *put->slots);
    }
    s3d_put_init_requests(put);
    code = s3d_put_options_copy(&put->options, plan->options, error);
    return code ? code : set_write_id(put, error);
}

static void put_destroy(struct s3d_put *put)
{
    pthread_mutex_destroy(&put->entry);
    s3d_latch_fini(&put->latch);
    s3d_put_options_fini(&put->options);
    s3d_store_release(put->store);
    for (unsigned i = 0; put->slots && i < put->concurrency; i++) {
        s3d_draft_fini(&put->slots[i].draft);
    }
    s3d_draft_fini(&put->draft);
    s3d_free(put->key);
    s3d_free(put->slots);
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
    s3d_engine_remove_put(put);
    s3d_put_release(put);
}

uint64_t s3d_put_stored_bytes(struct s3d_put *put)
{
    if (s3d_engine_check(put->store->engine, NULL) == S3D_FORKED) {
        return 0; /* a thread of the parent may have held the lock */
    }
    s3d_latch_lock(&put->latch);
    uint64_t bytes = s3d_put_stored_locked(put);
    s3d_latch_unlock(&put->latch);
    return bytes;
}

uint64_t s3d_put_bytes(const struct s3d_put *put)
{
    return put->taken_bytes;
}

const char *s3d_put_etag(const struct s3d_put *put)
{
    return put->etag;
}

void s3d_put_remains(const struct s3d_put *put, struct s3d_put_remains *remains)
{
    *remains = (struct s3d_put_remains){
        .upload_id = put->left_upload ? put->upload_id : NULL,
        .why = put->left_upload ? &put->control.result.error : NULL,
        .unclear = put->unclear,
    };
}

bool s3d_put_finished(const struct s3d_put *put)
{
    return put->state == S3D_PUT_FINISHED;
}
