/*
 * Writes one object as a stream of unknown length, atomically.
 *
 * Bytes are gathered into part buffers and sent as a multipart upload, or as one PUT when they fit
 * into a single part. A write longer than all the parts in flight is sent straight from the
 * caller's memory, except for its last parts, which are copied so that the write can return while
 * they are under way. Memory that outlives the call is referred to instead (s3d_put_refer): parts
 * are then lists of spans over it. Nothing is visible before s3d_put_finish returns OK; every other end aborts.
 *
 * Threads: calls exclude each other, so that the engine may abort a put at shutdown whatever its
 * owner is doing. s3d_put_write and s3d_put_finish wait at most timeout_ms and then return AGAIN;
 * the caller calls again, or aborts.
 *
 * After the first failure the put is poisoned: write and finish return that same error.
 */
#ifndef S3D_CORE_PUT_H
#define S3D_CORE_PUT_H

#include "core/store.h"

struct s3d_put;

enum {
    S3D_REFER_MIN_BYTES = 64 * 1024 /* shorter pieces are copied: lists of spans stay short */
};

struct s3d_put_plan {
    const char *key;     /* copied */
    uint64_t part_bytes; /* the first parts' size; INVALID when the store does not allow it */
    uint64_t part_max_bytes; /* as large parts may become when the store is far; 0: they stay */
    unsigned concurrency;    /* parts in flight at once */
    uint64_t
        expected_bytes; /* the object's size where it is known: parts are made large enough for
                              * it; 0: not known, parts grow on the way */
    const struct s3d_put_options *options; /* deep-copied; NULL: none */
};

/* Sends nothing yet. Holds a reference to the store. */
S3D_MUST_USE enum s3d_code s3d_put_new(struct s3d_put **put, struct s3d_store *store,
                                       const struct s3d_put_plan *plan,
                                       struct s3d_error *error);

/*
 * Appends `length` bytes. *written is 0 at first and counts what was taken. OK: all of it, and
 * nothing refers to `data` any more. AGAIN: call again with the same data, length and *written, or
 * s3d_put_abort, before the memory goes away.
 */
S3D_MUST_USE enum s3d_code s3d_put_write(struct s3d_put *put, const void *data, size_t length,
                                         size_t *written, int64_t timeout_ms,
                                         struct s3d_error *error);

/*
 * The same without a copy: `data` must stay valid and unchanged until s3d_put_stored_bytes has
 * passed its end, or the put has finished or been aborted. OK only says that all of it is taken.
 */
S3D_MUST_USE enum s3d_code s3d_put_refer(struct s3d_put *put, const void *data, size_t length,
                                         size_t *written, int64_t timeout_ms,
                                         struct s3d_error *error);

/*
 * The object will have about so many bytes, and what is referred to never waits for parts to be
 * stored before it comes (as a ring of buffers would). Then parts of references may become large
 * where the store is far, and the last ones are cut so that all connections end together. A hint:
 * another number of bytes is fine.
 */
void s3d_put_expect(struct s3d_put *put, uint64_t bytes);

/*
 * OK: nothing refers to memory given before position `end_bytes` any more, whose bytes the store
 * has, or which have been copied because they wait for their part to become full. AGAIN as above.
 */
S3D_MUST_USE enum s3d_code s3d_put_let_go(struct s3d_put *put, uint64_t end_bytes,
                                          int64_t timeout_ms, struct s3d_error *error);

/* How many bytes from the front the store has: memory referred to before that may go. */
uint64_t s3d_put_stored_bytes(struct s3d_put *put);

/* Sends the rest and makes the object visible. Idempotent: after OK it returns OK again. */
S3D_MUST_USE enum s3d_code s3d_put_finish(struct s3d_put *put, int64_t timeout_ms,
                                          struct s3d_error *error);

/*
 * Cancels and joins what is in flight, removes the upload from the store (trying as often as any
 * request), frees the buffers. Blocks for that long. `why` is what later calls will report (NULL:
 * CANCELLED). Does nothing after a successful finish or an earlier abort. In a forked child it
 * only forgets: the upload is the parent's.
 */
void s3d_put_abort(struct s3d_put *put, const struct s3d_error *why);

/* Aborts unless finished. NULL is allowed. */
void s3d_put_free(struct s3d_put *put);

uint64_t s3d_put_bytes(const struct s3d_put *put);   /* bytes taken so far */
const char *s3d_put_etag(const struct s3d_put *put); /* after finish; "" before */
bool s3d_put_finished(const struct s3d_put *put);

/* What an abort, or the end after a failure, could not settle; valid as long as the put. */
struct s3d_put_remains {
    const char *upload_id;       /* NULL: no upload stays that was to be removed */
    const struct s3d_error *why; /* it could not be */
    bool
        unclear; /* the last request was sent, and it is not known whether the object was written */
};
void s3d_put_remains(const struct s3d_put *put, struct s3d_put_remains *remains);

/* For engine.c, under its lock: the list of open uploads. */
void s3d_put_link(struct s3d_put *put, struct s3d_put **list);
void s3d_put_unlink(struct s3d_put *put);
/* For engine.c: keeps a put that its owner may free meanwhile. */
struct s3d_put *s3d_put_acquire(struct s3d_put *put);
void s3d_put_release(struct s3d_put *put);

#endif
