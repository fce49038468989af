#include "core/reader_state.h"

#include "core/engine.h"
#include "core/mem.h"

#include <string.h>

enum {
    HISTORY_BLOCKS = 2 /* consumed ones kept for backward seeks */
};

/* ---- their requests and buffers ---- */

static void block_done(struct s3d_request *request)
{
    struct s3d_reader_block *block = request->owner;
    struct s3d_reader *reader = block->reader;
    s3d_latch_lock(&reader->latch);
    if (!request->result.code) {
        request->result.code =
            s3d_request_check(request, reader->object.etag, &request->result.error);
    }
    block->state = request->result.code ? S3D_BLOCK_FAILED : S3D_BLOCK_READY;
    s3d_window_done(&reader->window, request->length_bytes, request->throttled, s3d_now_us());
    s3d_pace_answered(&reader->pace, request->result.answer_us);
    s3d_pace_moved(&reader->pace, request->result.received_bytes, request->result.elapsed_us);
    reader->latch.in_flight--;
    s3d_latch_notify_locked(&reader->latch);
    s3d_latch_unlock(&reader->latch);
}

void s3d_reader_init_blocks(struct s3d_reader *reader)
{
    for (size_t i = 0; i < reader->block_count; i++) {
        struct s3d_reader_block *block = &reader->blocks[i];
        block->reader = reader;
        block->request.verb = S3D_VERB_GET;
        block->request.store = reader->store;
        block->request.key = reader->key;
        block->request.spans = &block->span;
        block->request.span_count = 1;
        block->request.done = block_done;
        block->request.owner = block;
    }
}

static void drop_buffer(struct s3d_reader *reader, struct s3d_reader_block *block)
{
    s3d_budget_give(&reader->store->engine->budget, block->buffer, block->capacity_bytes);
    block->buffer = NULL;
    block->capacity_bytes = 0;
}

void s3d_reader_drop_buffers(struct s3d_reader *reader)
{
    for (size_t i = 0; reader->blocks && i < reader->block_count; i++) {
        drop_buffer(reader, &reader->blocks[i]);
    }
}

/* ---- which is where ---- */

static bool covers(const struct s3d_reader_block *block, uint64_t offset)
{
    return block->state != S3D_BLOCK_EMPTY && offset >= block->offset_bytes &&
           offset - block->offset_bytes < block->length_bytes;
}

struct s3d_reader_block *s3d_reader_find_locked(struct s3d_reader *reader, uint64_t offset)
{
    for (size_t i = 0; i < reader->block_count; i++) {
        if (covers(&reader->blocks[i], offset)) {
            return &reader->blocks[i];
        }
    }
    return NULL;
}

uint64_t s3d_reader_next_covered_locked(struct s3d_reader *reader, uint64_t offset,
                                        uint64_t end)
{
    end = least(end, s3d_reader_tail_offset(reader));
    for (size_t i = 0; i < reader->block_count; i++) {
        const struct s3d_reader_block *block = &reader->blocks[i];
        if (block->state != S3D_BLOCK_EMPTY && block->offset_bytes > offset) {
            end = least(end, block->offset_bytes);
        }
    }
    return end;
}

/* Of the blocks that are cached, not loading, and outside [keep_from, keep_to), the one longest
 * unused; or NULL. */
static struct s3d_reader_block *oldest_locked(struct s3d_reader *reader, uint64_t keep_from,
                                              uint64_t keep_to)
{
    struct s3d_reader_block *oldest = NULL;
    for (size_t i = 0; i < reader->block_count; i++) {
        struct s3d_reader_block *block = &reader->blocks[i];
        bool kept = block->offset_bytes < keep_to &&
                    block->offset_bytes + block->length_bytes > keep_from;
        bool idle = block->state == S3D_BLOCK_READY || block->state == S3D_BLOCK_FAILED;
        if (idle && !kept && (!oldest || block->last_used < oldest->last_used)) {
            oldest = block;
        }
    }
    return oldest;
}

/* The block to load into, or NULL while all are busy. Blocks within [keep_from, keep_to) are kept.
 * The longest unused one goes first once the window and a little history have buffers: memory
 * touched for the first time is dear. */
static struct s3d_reader_block *victim_locked(struct s3d_reader *reader, uint64_t keep_from,
                                              uint64_t keep_to)
{
    struct s3d_reader_block *oldest = oldest_locked(reader, keep_from, keep_to), *empty = NULL;
    size_t buffers = 0;
    for (size_t i = 0; i < reader->block_count; i++) {
        struct s3d_reader_block *block = &reader->blocks[i];
        buffers += block->buffer != NULL;
        if (block->state == S3D_BLOCK_EMPTY) {
            empty = !empty || block->buffer ? block : empty;
        }
    }
    bool enough = buffers >= (size_t)reader->window.size + HISTORY_BLOCKS;
    bool take_oldest = oldest && (!empty || (enough && !empty->buffer));
    return take_oldest ? oldest : empty;
}

/* Moves the buffer of a cached block, which is dropped, to `block`; false: there is none to take. */
static bool take_over_buffer(struct s3d_reader *reader, struct s3d_reader_block *block,
                             uint64_t keep_from, uint64_t keep_to)
{
    s3d_latch_lock(&reader->latch);
    struct s3d_reader_block *donor = oldest_locked(reader, keep_from, keep_to);
    if (donor) {
        donor->state = S3D_BLOCK_EMPTY;
        block->buffer = donor->buffer;
        block->capacity_bytes = donor->capacity_bytes;
        donor->buffer = NULL;
        donor->capacity_bytes = 0;
    }
    s3d_latch_unlock(&reader->latch);
    return donor != NULL;
}

/* Gives the block a buffer of `bytes`, or the one it has when the budget is spent. AGAIN: it has
 * none either. */
static enum s3d_code fit_buffer(struct s3d_reader *reader, struct s3d_reader_block *block,
                                size_t bytes, struct s3d_error *error)
{
    if (block->capacity_bytes >= bytes) {
        return S3D_OK;
    }
    bool first = true;
    for (size_t i = 0; i < reader->block_count; i++) {
        first = first && !reader->blocks[i].buffer;
    }
    struct s3d_budget *budget = &reader->store->engine->budget;
    void *buffer;
    enum s3d_code code = s3d_budget_take(budget, bytes, NULL, 0, &buffer, error);
    if (code == S3D_AGAIN && first) {
        bytes = (size_t)least(bytes, S3D_BUDGET_SMALL_BYTES);
        code = s3d_budget_take_small(budget, bytes, &buffer, error);
    }
    if (!code) {
        s3d_budget_give(budget, block->buffer, block->capacity_bytes);
        block->buffer = buffer;
        block->capacity_bytes = bytes;
    }
    return code == S3D_AGAIN && block->buffer ? S3D_OK : code;
}

uint64_t s3d_reader_block_size(const struct s3d_reader *reader)
{
    uint64_t size = S3D_BLOCK_MIN_BYTES;
    while (size * 4 <= reader->run_bytes && size * 2 <= reader->part_bytes) {
        size *= 2;
    }
    return size;
}

/* Whether max_concurrency allows another block beside what is in flight. */
static bool may_load_locked(const struct s3d_reader *reader)
{
    size_t direct = reader->direct ? s3d_get_requests(reader->direct) : 0;
    return reader->latch.in_flight + direct < reader->concurrency;
}

enum s3d_code s3d_reader_load(struct s3d_reader *reader, uint64_t offset, uint64_t keep_to,
                              bool needed, struct s3d_error *error)
{
    uint64_t size = s3d_reader_block_size(reader), keep_from = reader->at_offset;
    s3d_latch_lock(&reader->latch);
    uint64_t length = s3d_reader_next_covered_locked(reader, offset, offset + size) - offset;
    bool may_load = may_load_locked(reader);
    struct s3d_reader_block *block =
        may_load ? victim_locked(reader, keep_from, keep_to) : NULL;
    if (!block && needed && may_load) {
        block = oldest_locked(reader, 0, 0);
    }
    if (block) {
        block->state = S3D_BLOCK_EMPTY;
    }
    s3d_latch_unlock(&reader->latch);
    if (!block) {
        return S3D_AGAIN;
    }
    if (!needed && s3d_budget_wanted(&reader->store->engine->budget)) {
        drop_buffer(reader, block); /* others have nothing, and this can wait */
        return S3D_AGAIN;
    }
    enum s3d_code code = fit_buffer(reader, block, (size_t)size, error);
    if (code == S3D_AGAIN && (take_over_buffer(reader, block, keep_from, keep_to) ||
                              (needed && take_over_buffer(reader, block, 0, 0)))) {
        code = S3D_OK;
    }
    if (code) {
        return code;
    }
    length = least(length, block->capacity_bytes);
    s3d_latch_lock(&reader->latch);
    block->offset_bytes = offset;
    block->length_bytes = (size_t)length;
    block->last_used = ++reader->ticks;
    block->span = (struct s3d_span){block->buffer, block->length_bytes};
    block->request.offset_bytes = offset;
    block->request.length_bytes = length;
    block->state = S3D_BLOCK_LOADING;
    s3d_request_reset(&block->request);
    reader->latch.in_flight++;
    s3d_latch_unlock(&reader->latch);
    s3d_pool_submit(reader->store->pool, &block->request);
    return S3D_OK;
}

void s3d_reader_read_ahead(struct s3d_reader *reader, uint64_t from, uint64_t end)
{
    end = least(end, s3d_reader_tail_offset(reader));
    if (end < reader->ahead_to + s3d_reader_block_size(reader) / 2) {
        return; /* still well ahead */
    }
    uint64_t at = from;
    while (at < end) {
        s3d_latch_lock(&reader->latch);
        const struct s3d_reader_block *block = s3d_reader_find_locked(reader, at);
        uint64_t covered_to = block ? block->offset_bytes + block->length_bytes : 0;
        s3d_latch_unlock(&reader->latch);
        if (block) {
            at = covered_to;
        } else if (s3d_reader_load(reader, at, end, false, NULL)) {
            return; /* no block or memory to spare: a later read will ask again */
        }
        reader->ahead_to = at;
    }
}

/* ---- using them ---- */

size_t s3d_reader_buffered(struct s3d_reader *reader, uint64_t offset)
{
    if (!reader->open || offset >= reader->object.size_bytes ||
        s3d_engine_check(reader->store->engine, NULL) == S3D_FORKED) {
        return 0;
    }
    if (offset >= s3d_reader_tail_offset(reader)) {
        return (size_t)(reader->object.size_bytes - offset);
    }
    s3d_latch_lock(&reader->latch);
    const struct s3d_reader_block *block = s3d_reader_find_locked(reader, offset);
    size_t bytes = block && block->state == S3D_BLOCK_READY
                       ? (size_t)(block->offset_bytes + block->length_bytes - offset)
                       : 0;
    s3d_latch_unlock(&reader->latch);
    return bytes;
}

enum s3d_code s3d_reader_copy(struct s3d_reader *reader, struct s3d_reader_block *block,
                              uint64_t offset, char *to, size_t wanted, size_t *copied,
                              int64_t deadline_ms, struct s3d_error *error)
{
    s3d_latch_lock(&reader->latch);
    if (block->state == S3D_BLOCK_LOADING) {
        s3d_window_wait(&reader->window);
    }
    while (block->state == S3D_BLOCK_LOADING &&
           s3d_latch_wait_locked(&reader->latch, deadline_ms)) {
    }
    enum s3d_block_state state = block->state;
    if (state == S3D_BLOCK_FAILED) {
        block->state = S3D_BLOCK_EMPTY; /* a later read tries anew */
    }
    s3d_latch_unlock(&reader->latch);
    if (state == S3D_BLOCK_LOADING) {
        return S3D_AGAIN;
    }
    if (state == S3D_BLOCK_FAILED) {
        return s3d_error_copy(error, &block->request.result.error);
    }
    size_t skip = (size_t)(offset - block->offset_bytes);
    *copied = (size_t)least(wanted, block->length_bytes - skip);
    memcpy(to, (const char *)block->buffer + skip, *copied);
    block->last_used = ++reader->ticks;
    return S3D_OK;
}

enum s3d_code s3d_reader_wait_blocks(struct s3d_reader *reader, int64_t deadline_ms)
{
    s3d_latch_lock(&reader->latch);
    int64_t soon_ms = s3d_deadline_ms(10); /* memory may come free in other streams, unheard */
    s3d_latch_wait_locked(&reader->latch,
                          deadline_ms >= 0 && deadline_ms < soon_ms ? deadline_ms : soon_ms);
    s3d_latch_unlock(&reader->latch);
    return deadline_ms >= 0 && s3d_now_ms() >= deadline_ms ? S3D_AGAIN : S3D_OK;
}

void s3d_reader_forget_failed(struct s3d_reader *reader)
{
    s3d_latch_lock(&reader->latch);
    for (size_t i = 0; i < reader->block_count; i++) {
        if (reader->blocks[i].state == S3D_BLOCK_FAILED) {
            reader->blocks[i].state = S3D_BLOCK_EMPTY;
        }
    }
    s3d_latch_unlock(&reader->latch);
}
