/*
 * Reads a whole object whose size nobody knows yet, without a request for the size alone.
 *
 * The first request asks for the object's head: its first bytes, or all of them when there are no
 * more. The headers of the answer tell size and version; memory is then asked for, and the rest, if
 * any, can be fetched by parallel ranges while the head's body still arrives.
 *
 * Threads: one caller; `place` runs on an I/O thread.
 */
#ifndef S3D_CORE_WHOLE_H
#define S3D_CORE_WHOLE_H

#include "core/get.h"

struct s3d_whole;

struct s3d_whole_plan {
    const char *key;         /* copied */
    uint64_t head_bytes;     /* what the first request asks for */
    uint64_t part_bytes;     /* of the ranges of the rest */
    uint64_t part_max_bytes; /* as in struct s3d_get_plan */
    unsigned concurrency;
    bool fresh; /* head and rest go into pages of s3d_pages_alloc that nobody has touched */
    /* Memory for the head: the lesser of size and head_bytes. Called once, when an object that is
     * not empty begins to arrive; NULL: there is none. It stays valid until s3d_whole_free. */
    char *(*place)(void *context, uint64_t size_bytes);
    void *context;
};

/* Sends the first request. Holds a reference to the store. */
S3D_MUST_USE enum s3d_code s3d_whole_new(struct s3d_whole **whole, struct s3d_store *store,
                                         const struct s3d_whole_plan *plan,
                                         struct s3d_error *error);
/* OK once size and version are known, and all of a smaller object than the head is there; AGAIN
 * after timeout_ms. */
S3D_MUST_USE enum s3d_code s3d_whole_wait_size(struct s3d_whole *whole, uint64_t *size_bytes,
                                               int64_t timeout_ms, struct s3d_error *error);
/* For an object larger than its head: starts fetching the rest into `rest`. */
S3D_MUST_USE enum s3d_code s3d_whole_fetch_rest(struct s3d_whole *whole, char *rest,
                                                struct s3d_error *error);
/* OK when the head, and the rest that was started, are there. */
S3D_MUST_USE enum s3d_code s3d_whole_wait(struct s3d_whole *whole, int64_t timeout_ms,
                                          struct s3d_error *error);
/* After s3d_whole_wait_size. */
const struct s3d_object *s3d_whole_object(const struct s3d_whole *whole);
/* Cancels and joins: afterwards nothing writes into any memory. NULL is allowed. */
void s3d_whole_free(struct s3d_whole *whole);

#endif
