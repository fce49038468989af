/*
 * Reads one contiguous range of an object into the caller's memory, in parallel ranges.
 *
 * Every range is placed by its absolute offset; all ranges must come from one version of the
 * object (If-Match, or else equal ETags), otherwise CHANGED. Completion is told in order of
 * offset too: s3d_get_ready_bytes is how much of the front is final, so a consumer can start
 * while the rest arrives.
 */
#ifndef S3D_CORE_GET_H
#define S3D_CORE_GET_H

#include "core/store.h"

struct s3d_get;

struct s3d_get_plan {
    const char *key;       /* copied */
    uint64_t offset_bytes;
    uint64_t length_bytes; /* the range must exist whole: a shorter object is RANGE */
    void *data;            /* length_bytes; the caller's until the get is freed */
    uint64_t part_bytes;
    unsigned concurrency;  /* ranges in flight at once */
    const char *if_match;  /* copied; NULL: whatever version answers first */
};

/* Starts it. Holds a reference to the store. */
S3D_MUST_USE enum s3d_code s3d_get_new(struct s3d_get **get, struct s3d_store *store,
                                       const struct s3d_get_plan *plan, struct s3d_error *error);
/* OK when at least `bytes` from the front are there (pass plan.length_bytes for all), AGAIN after
 * timeout_ms, or the first error. */
S3D_MUST_USE enum s3d_code s3d_get_wait(struct s3d_get *get, uint64_t bytes, int64_t timeout_ms,
                                        struct s3d_error *error);
/* After OK for all: the version that was read. Valid until the get is freed. */
const struct s3d_object *s3d_get_object(const struct s3d_get *get);
/* Cancels and joins what still runs: afterwards nothing writes into data. NULL is allowed. */
void s3d_get_free(struct s3d_get *get);

#endif
