/*
 * Inside a reader: its state, shared by reader.c (opening, reading, checking) and reader_blocks.c (the
 * cache of blocks and what is read ahead into it). Nobody else includes this.
 */
#ifndef S3D_CORE_READER_STATE_H
#define S3D_CORE_READER_STATE_H

#include "core/latch.h"
#include "core/pace.h"
#include "core/reader.h"
#include "core/window.h"

enum { S3D_BLOCK_MIN_BYTES = 256 * 1024 };

enum s3d_block_state { S3D_BLOCK_EMPTY, S3D_BLOCK_LOADING, S3D_BLOCK_READY, S3D_BLOCK_FAILED };

/* A cached piece of the object: [offset, offset + length). */
struct s3d_reader_block {
    struct s3d_reader *reader;
    struct s3d_request request;
    struct s3d_span span;
    /* the caller's; buffer and span are the request's while LOADING */
    void *buffer;
    size_t capacity_bytes;
    uint64_t offset_bytes;
    size_t length_bytes;
    uint64_t last_used;         /* in ticks, for eviction */
    enum s3d_block_state state; /* locked{latch} */
};

struct s3d_reader {
    /* frozen */
    struct s3d_store *store;
    char *key;
    uint64_t part_bytes, part_max_bytes;
    unsigned concurrency;
    size_t block_count;
    /* the caller's */
    struct s3d_reader_block *blocks;
    uint64_t ticks;
    uint64_t at_offset;     /* how far the current read has come */
    uint64_t next_offset;   /* where it ends */
    bool in_sequence;       /* it began about where the one before ended */
    uint64_t run_bytes;     /* read in sequence: by small reads, from a far store by all */
    uint64_t ahead_to;      /* how far the read-ahead has been sent; 0: not yet */
    bool in_read;           /* a read returned AGAIN and will be called again */
    struct s3d_get *direct; /* under way into the read's destination */
    uint64_t direct_bytes;
    struct s3d_check *check; /* NULL: none is wanted, or it can no longer be */
    uint64_t checked_to;     /* how far what was read in order has been added to it */
    bool direct_is_checked;  /* the direct range adds itself */
    /* once open */
    bool open;
    bool far; /* each request costs a long wait */
    struct s3d_object object;
    char *tail; /* the object's last tail_bytes */
    size_t tail_bytes;
    /* locked{latch} */
    struct s3d_latch latch;
    struct s3d_window window; /* how many blocks to keep ahead */
    struct s3d_pace pace;
    struct s3d_request opening; /* the tail; STAT where a store refuses ranges of nothing */
    struct s3d_span tail_span;
    bool opening_active;
};

static inline uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t s3d_reader_tail_offset(const struct s3d_reader *reader)
{
    return reader->object.size_bytes - reader->tail_bytes;
}

/* ---- reader_blocks.c ---- */

void s3d_reader_init_blocks(struct s3d_reader *reader);
void s3d_reader_drop_buffers(struct s3d_reader *reader);

/* The block that covers `offset`, in whatever state; or NULL. */
struct s3d_reader_block *s3d_reader_find_locked(struct s3d_reader *reader, uint64_t offset);
/* Where the cache covers the object again after offset (itself uncovered), at most `end`. */
uint64_t s3d_reader_next_covered_locked(struct s3d_reader *reader, uint64_t offset,
                                        uint64_t end);
/* The size of the next block: half of the sequential run, in powers of two, so that several
 * are on their way at once and little is fetched in vain when the run ends. */
uint64_t s3d_reader_block_size(const struct s3d_reader *reader);

/* Starts loading at `offset`, which no block covers. Cached blocks in [at_offset, keep_to) are kept,
 * unless the load is `needed` by a read: then one of them must go if nothing else can, as an idle
 * stream may hold all other memory for ever. AGAIN: no block or no memory is free. */
S3D_MUST_USE enum s3d_code s3d_reader_load(struct s3d_reader *reader, uint64_t offset,
                                           uint64_t keep_to, bool needed,
                                           struct s3d_error *error);
/* Keeps [from, end) under way. */
void s3d_reader_read_ahead(struct s3d_reader *reader, uint64_t from, uint64_t end);
/* Copies from the block at `offset`, waiting for it. */
S3D_MUST_USE enum s3d_code s3d_reader_copy(struct s3d_reader *reader,
                                           struct s3d_reader_block *block, uint64_t offset,
                                           char *to, size_t wanted, size_t *copied,
                                           int64_t deadline_ms, struct s3d_error *error);
/* Waits for any block to end, so that one can be taken. */
S3D_MUST_USE enum s3d_code s3d_reader_wait_blocks(struct s3d_reader *reader,
                                                  int64_t deadline_ms);
/* A read ahead that failed says nothing about the read that now comes to it: it tries anew. */
void s3d_reader_forget_failed(struct s3d_reader *reader);

#endif
