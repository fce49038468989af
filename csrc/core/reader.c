#include "core/reader_state.h"

#include "core/engine.h"
#include "core/mem.h"

#include <string.h>

enum {
    TAIL_BYTES = 256 * 1024,
    DIRECT_MIN_BYTES = 1024 * 1024, /* from here on a read goes straight to its destination */
    NEAR_BYTES = 64 * 1024,         /* a skip that still counts as sequential */
    LOOK_BYTES = 64 * 1024          /* more than a look at what kind of file it is */
};

/* ---- opening ---- */

static void opening_done(struct s3d_request *request)
{
    struct s3d_reader *reader = request->owner;
    s3d_latch_lock(&reader->latch);
    reader->opening_active = false;
    s3d_latch_notify_locked(&reader->latch);
    s3d_latch_unlock(&reader->latch);
}

static void start_opening(struct s3d_reader *reader, enum s3d_verb verb)
{
    s3d_latch_lock(&reader->latch);
    reader->opening.verb = verb;
    s3d_request_reset(&reader->opening);
    reader->opening_active = true;
    s3d_latch_unlock(&reader->latch);
    s3d_pool_submit(reader->store->pool, &reader->opening);
}

static enum s3d_code reader_init(struct s3d_reader *reader, const struct s3d_reader_plan *plan,
                                 struct s3d_error *error)
{
    reader->part_bytes = plan->part_bytes;
    reader->part_max_bytes = plan->part_max_bytes;
    reader->concurrency = plan->concurrency;
    reader->block_count = (size_t)plan->concurrency + 1;
    s3d_window_init(&reader->window, plan->concurrency);
    reader->key = s3d_copy_string(plan->key);
    reader->tail = s3d_alloc(TAIL_BYTES);
    reader->blocks = s3d_alloc_zeroed(reader->block_count, sizeof *reader->blocks);
    if (!reader->key || !reader->tail || !reader->blocks) {
        return s3d_fail_memory(error, reader->block_count * sizeof *reader->blocks);
    }
    if (!plan->unchecked) {
        enum s3d_code code = s3d_check_new(&reader->check, reader->store, plan->key, error);
        if (code) {
            return code;
        }
    }
    s3d_reader_init_blocks(reader);
    reader->tail_span = (struct s3d_span){reader->tail, TAIL_BYTES};
    reader->opening.store = reader->store;
    reader->opening.key = reader->key;
    reader->opening.suffix = true;
    reader->opening.compare = reader->check != NULL;
    reader->opening.length_bytes = TAIL_BYTES;
    reader->opening.spans = &reader->tail_span;
    reader->opening.span_count = 1;
    reader->opening.done = opening_done;
    reader->opening.owner = reader;
    return S3D_OK;
}

static void reader_destroy(struct s3d_reader *reader)
{
    s3d_reader_drop_buffers(reader);
    s3d_latch_fini(&reader->latch);
    s3d_check_release(reader->check);
    s3d_store_release(reader->store);
    s3d_free(reader->key);
    s3d_free(reader->tail);
    s3d_free(reader->blocks);
    s3d_free(reader);
}

enum s3d_code s3d_reader_new(struct s3d_reader **out, struct s3d_store *store,
                             const struct s3d_reader_plan *plan, struct s3d_error *error)
{
    if (!plan->part_bytes || !plan->concurrency) {
        return s3d_fail(error, S3D_INVALID, "part_size and max_concurrency must be at least 1");
    }
    enum s3d_code code = s3d_engine_check(store->engine, error);
    if (code) {
        return code; /* in a forked child the pool's lock may be held for ever */
    }
    struct s3d_reader *reader = s3d_alloc_zeroed(1, sizeof *reader);
    if (!reader) {
        return s3d_fail_memory(error, sizeof *reader);
    }
    code = s3d_latch_init(&reader->latch, error);
    if (code) {
        s3d_free(reader);
        return code;
    }
    reader->store = s3d_store_acquire(store);
    code = reader_init(reader, plan, error);
    if (code) {
        reader_destroy(reader);
        return code;
    }
    start_opening(reader, S3D_VERB_GET);
    *out = reader;
    return S3D_OK;
}

static bool wait_opening(struct s3d_reader *reader, int64_t deadline_ms)
{
    s3d_latch_lock(&reader->latch);
    while (reader->opening_active && s3d_latch_wait_locked(&reader->latch, deadline_ms)) {
    }
    bool ended = !reader->opening_active;
    s3d_latch_unlock(&reader->latch);
    return ended;
}

/* ---- checking ---- */

static void give_up_check(struct s3d_reader *reader)
{
    s3d_check_release(reader->check);
    reader->check = NULL;
}

/* Bytes at `offset` go to the caller: those that go on where the last ones ended are added. */
static enum s3d_code check_bytes(struct s3d_reader *reader, const struct s3d_object *object,
                                 uint64_t offset, const char *data, uint64_t length,
                                 struct s3d_error *error)
{
    uint64_t from = reader->checked_to;
    if (!reader->check || offset > from || offset + length <= from) {
        return S3D_OK;
    }
    enum s3d_code code = s3d_check_add(reader->check, from, data + (from - offset),
                                       offset + length - from, error);
    if (!code) {
        reader->checked_to = offset + length;
    }
    if (!code &&
        (reader->checked_to >= LOOK_BYTES || reader->checked_to == object->size_bytes)) {
        code = s3d_check_learn(reader->check, object, error);
    }
    return code;
}

/* Compares once all of the object has been added. */
static enum s3d_code end_check(struct s3d_reader *reader, const struct s3d_object *object,
                               int64_t deadline_ms, struct s3d_error *error)
{
    if (!reader->check || reader->checked_to != object->size_bytes || !object->size_bytes) {
        return S3D_OK;
    }
    enum s3d_code code =
        s3d_check_end(reader->check, object->size_bytes, s3d_left_ms(deadline_ms), error);
    if (!code) {
        give_up_check(reader); /* it is done */
    }
    return code;
}

/* An object that the opening brought whole. */
static enum s3d_code check_opening(struct s3d_reader *reader, int64_t deadline_ms,
                                   struct s3d_error *error)
{
    const struct s3d_object *object = &reader->opening.result.object;
    uint64_t got = reader->opening.result.received_bytes;
    if (!got || got != object->size_bytes) {
        return S3D_OK;
    }
    if (reader->opening.result.compared) {
        give_up_check(reader); /* it is done */
        return S3D_OK;
    }
    enum s3d_code code = check_bytes(reader, object, 0, reader->tail, got, error);
    return code ? code : end_check(reader, object, deadline_ms, error);
}

/* Takes over what the opening request brought. */
static void become_open(struct s3d_reader *reader)
{
    reader->object = reader->opening.result.object;
    reader->tail_bytes = (size_t)reader->opening.result.received_bytes;
    reader->open = true;
    const char *if_match = reader->object.etag[0] ? reader->object.etag : NULL;
    for (size_t i = 0; i < reader->block_count; i++) {
        reader->blocks[i].request.if_match = if_match;
    }
    s3d_pace_answered(&reader->pace, reader->opening.result.answer_us);
    reader->far = s3d_pace_is_far(&reader->pace);
    if (reader->far) {
        s3d_window_far(&reader->window);
    }
    s3d_count(&reader->store->engine->stats.objects_opened, 1);
}

enum s3d_code s3d_reader_wait_open(struct s3d_reader *reader, int64_t timeout_ms,
                                   struct s3d_error *error)
{
    enum s3d_code code = s3d_engine_check(reader->store->engine, error);
    if (code || reader->open) {
        return code;
    }
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    for (;;) {
        if (!wait_opening(reader, deadline_ms)) {
            return S3D_AGAIN;
        }
        code = reader->opening.result.code;
        if (code != S3D_RANGE || reader->opening.verb != S3D_VERB_GET) {
            break;
        }
        /* Some stores refuse the last bytes of an empty object without telling its size. */
        start_opening(reader, S3D_VERB_STAT);
    }
    if (code) {
        return s3d_error_copy(error, &reader->opening.result.error);
    }
    uint64_t size = reader->opening.result.object.size_bytes;
    uint64_t got = reader->opening.result.received_bytes;
    if (reader->opening.verb == S3D_VERB_GET && got != least(size, TAIL_BYTES)) {
        return s3d_fail(error, S3D_PROTOCOL, "the last %llu of %llu bytes were sent, not %llu",
                        (unsigned long long)got, (unsigned long long)size,
                        (unsigned long long)least(size, TAIL_BYTES));
    }
    code = check_opening(reader, deadline_ms, error);
    if (code) {
        return code;
    }
    become_open(reader);
    return S3D_OK;
}

const struct s3d_object *s3d_reader_object(const struct s3d_reader *reader)
{
    return &reader->object;
}

int64_t s3d_reader_latency_us(const struct s3d_reader *reader)
{
    return reader->opening.result.answer_us;
}

/* ---- reading ---- */

/* What every get of this object has in common. */
static void complete_plan(const struct s3d_reader *reader, struct s3d_get_plan *plan)
{
    plan->key = reader->key;
    plan->part_bytes = reader->part_bytes;
    plan->part_max_bytes = reader->part_max_bytes;
    plan->concurrency = reader->concurrency;
    plan->latency_us = s3d_reader_latency_us(reader);
    plan->if_match = reader->object.etag[0] ? reader->object.etag : NULL;
}

static uint64_t segments_end(const struct s3d_get_plan *plan)
{
    return s3d_segment_end(&plan->segments[plan->segment_count - 1]);
}

/* Whether a get brings all that has not been read in order yet, but for the tail, which is here. */
static bool completes_check(const struct s3d_reader *reader, const struct s3d_get_plan *plan)
{
    if (!reader->check || !plan->segment_count ||
        plan->segments[0].offset_bytes > reader->checked_to ||
        segments_end(plan) <= reader->checked_to) {
        return false;
    }
    for (size_t i = 1; i < plan->segment_count; i++) {
        if (s3d_segment_end(&plan->segments[i - 1]) != plan->segments[i].offset_bytes) {
            return false;
        }
    }
    return segments_end(plan) == s3d_reader_tail_offset(reader) ||
           segments_end(plan) == reader->object.size_bytes;
}

enum s3d_code s3d_reader_fetch(struct s3d_get **get, struct s3d_reader *reader,
                               const struct s3d_get_plan *wanted, struct s3d_error *error)
{
    struct s3d_get_plan plan = *wanted;
    complete_plan(reader, &plan);
    if (completes_check(reader, &plan)) {
        plan.check = reader->check;
        plan.check_from_bytes = reader->checked_to;
        plan.ends_check = true;
    }
    enum s3d_code code = S3D_OK;
    if (plan.check && segments_end(&plan) < reader->object.size_bytes) {
        code = s3d_check_add(plan.check, s3d_reader_tail_offset(reader), reader->tail,
                             reader->tail_bytes, error);
    }
    code = code ? code : s3d_get_new(get, reader->store, &plan, error);
    if (plan.check) {
        give_up_check(reader); /* the get's from here on */
    }
    return code;
}

static enum s3d_code start_direct(struct s3d_reader *reader, uint64_t offset, char *to,
                                  uint64_t length, struct s3d_error *error)
{
    struct s3d_segment segment = {offset, length, to};
    s3d_latch_lock(&reader->latch);
    size_t blocks = reader->latch.in_flight;
    s3d_latch_unlock(&reader->latch);
    if (blocks >= reader->concurrency) {
        return S3D_AGAIN;
    }
    unsigned spare = reader->concurrency - (unsigned)blocks;
    reader->direct_bytes = length;
    struct s3d_get_plan plan = {.segments = &segment, .segment_count = 1};
    complete_plan(reader, &plan);
    /* One is left for what follows: in a zip that is the neighbour's header. */
    plan.concurrency = spare > 1 ? spare - 1 : 1;
    reader->direct_is_checked = reader->check && offset == reader->checked_to;
    plan.check = reader->direct_is_checked ? reader->check : NULL;
    return s3d_get_new(&reader->direct, reader->store, &plan, error);
}

/* A range that did not come whole has added some of its pieces: they cannot be added again. */
static void end_direct(struct s3d_reader *reader, bool whole)
{
    s3d_get_free(reader->direct);
    if (reader->direct && reader->direct_is_checked) {
        reader->checked_to += whole ? reader->direct_bytes : 0;
        if (!whole) {
            give_up_check(reader);
        }
    }
    reader->direct_is_checked = false;
    reader->direct = NULL;
}

static enum s3d_code finish_direct(struct s3d_reader *reader, size_t *copied,
                                   int64_t deadline_ms, struct s3d_error *error)
{
    enum s3d_code code = s3d_get_wait_all(reader->direct, s3d_left_ms(deadline_ms), error);
    if (code != S3D_AGAIN) {
        end_direct(reader, !code);
        *copied = code ? 0 : (size_t)reader->direct_bytes;
    }
    return code;
}

/*
 * Whether a long read goes by blocks, too. In a sequential run from a far store it does: its own
 * requests would each wait long, and nothing would be under way between two reads. A read that
 * keeps all connections busy for long by itself needs no such help.
 */
static bool goes_by_blocks(const struct s3d_reader *reader, uint64_t length)
{
    return reader->far && reader->in_sequence &&
           length / reader->concurrency < reader->part_bytes;
}

/* One step: some bytes at `offset` into `to`. */
static enum s3d_code read_step(struct s3d_reader *reader, uint64_t offset, char *to,
                               size_t wanted, size_t *copied, int64_t deadline_ms,
                               struct s3d_error *error)
{
    *copied = 0;
    if (reader->direct) {
        return finish_direct(reader, copied, deadline_ms, error);
    }
    if (offset >= s3d_reader_tail_offset(reader)) {
        memcpy(to, reader->tail + (offset - s3d_reader_tail_offset(reader)), wanted);
        *copied = wanted;
        return S3D_OK;
    }
    s3d_latch_lock(&reader->latch);
    struct s3d_reader_block *block = s3d_reader_find_locked(reader, offset);
    uint64_t gap = s3d_reader_next_covered_locked(reader, offset, offset + wanted) - offset;
    s3d_latch_unlock(&reader->latch);
    if (block) {
        return s3d_reader_copy(reader, block, offset, to, wanted, copied, deadline_ms, error);
    }
    bool direct = gap >= DIRECT_MIN_BYTES && !goes_by_blocks(reader, gap);
    enum s3d_code code = direct ? start_direct(reader, offset, to, gap, error)
                                : s3d_reader_load(reader, offset, offset + wanted, true, error);
    return code == S3D_AGAIN ? s3d_reader_wait_blocks(reader, deadline_ms) : code;
}

/* At the start of a read: notes whether it goes on where the last one ended, and reads ahead. */
static void begin_read(struct s3d_reader *reader, uint64_t offset, size_t length)
{
    s3d_reader_forget_failed(reader);
    reader->in_read = true;
    reader->at_offset = offset;
    if (offset >= s3d_reader_tail_offset(reader)) {
        return; /* a look at the directory does not end a run */
    }
    bool near = offset + NEAR_BYTES >= reader->next_offset &&
                offset <= reader->next_offset + NEAR_BYTES;
    uint64_t counts = length < DIRECT_MIN_BYTES || (reader->far && near) ? length : 0;
    reader->run_bytes = near ? reader->run_bytes + counts : counts;
    reader->in_sequence = near && reader->next_offset;
    reader->ahead_to = near ? reader->ahead_to : 0;
    reader->next_offset = offset + length;
}

/* Reads ahead: in a run as far as it is long, up to a full window; after a long read that went its own
 * way just what follows it, in a zip its neighbour's header. */
static void read_on(struct s3d_reader *reader, uint64_t offset, size_t length, size_t got)
{
    bool by_blocks = length < DIRECT_MIN_BYTES || goes_by_blocks(reader, length);
    s3d_latch_lock(&reader->latch);
    uint64_t most = reader->window.size * s3d_reader_block_size(reader);
    s3d_latch_unlock(&reader->latch);
    uint64_t ahead = by_blocks ? least(reader->run_bytes, most) : S3D_BLOCK_MIN_BYTES;
    uint64_t from = by_blocks && length >= DIRECT_MIN_BYTES ? got : length;
    s3d_reader_read_ahead(reader, offset + from, offset + length + ahead);
}

enum s3d_code s3d_reader_read(struct s3d_reader *reader, uint64_t offset, void *data,
                              size_t length, size_t *got, int64_t timeout_ms,
                              struct s3d_error *error)
{
    enum s3d_code code = s3d_reader_wait_open(reader, timeout_ms, error);
    if (code || offset >= reader->object.size_bytes) {
        return code;
    }
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    length = (size_t)least(length, reader->object.size_bytes - offset);
    if (!reader->in_read) {
        begin_read(reader, offset, length);
    }
    while (!code && *got < length) {
        size_t copied;
        code = read_step(reader, offset + *got, (char *)data + *got, length - *got, &copied,
                         deadline_ms, error);
        if (!code && copied) {
            code = check_bytes(reader, &reader->object, offset + *got, (char *)data + *got,
                               copied, error);
        }
        *got += copied;
        reader->at_offset = offset + *got;
        if (!code && !copied) {
            /* Something was started: now is the time to send more after it. */
            read_on(reader, offset, length, *got);
        }
    }
    if (!code) {
        read_on(reader, offset, length, *got);
        code = end_check(reader, &reader->object, deadline_ms, error);
    }
    if (code != S3D_AGAIN) {
        reader->in_read = false;
    }
    return code;
}

void s3d_reader_cancel(struct s3d_reader *reader)
{
    end_direct(reader, false);
    reader->in_read = false;
}

void s3d_reader_free(struct s3d_reader *reader)
{
    if (!reader || s3d_engine_check(reader->store->engine, NULL) == S3D_FORKED) {
        return;
    }
    s3d_reader_cancel(reader);
    s3d_latch_lock(&reader->latch);
    if (reader->opening_active) {
        s3d_pool_cancel(reader->store->pool, &reader->opening);
    }
    for (size_t i = 0; i < reader->block_count; i++) {
        if (reader->blocks[i].state == S3D_BLOCK_LOADING) {
            s3d_pool_cancel(reader->store->pool, &reader->blocks[i].request);
        }
    }
    while (reader->opening_active || reader->latch.in_flight) {
        s3d_latch_wait_locked(&reader->latch, -1);
    }
    s3d_latch_unlock(&reader->latch);
    reader_destroy(reader);
}
