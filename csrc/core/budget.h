/*
 * The memory budget: how many bytes of part buffers the process may hold.
 *
 * A stream takes whole buffers and gives them back; when the budget is spent, taking waits. So
 * that idle streams cannot starve a busy one, a stream that holds nothing always gets its first
 * buffer (overdraft of one buffer per stream).
 */
#ifndef S3D_CORE_BUDGET_H
#define S3D_CORE_BUDGET_H

#include "core/latch.h"

struct s3d_budget {
    struct s3d_latch latch;
    uint64_t limit_bytes; /* frozen */
    uint64_t held_bytes;  /* locked{latch} */
    uint64_t peak_bytes;  /* locked{latch} */
};

S3D_MUST_USE enum s3d_code s3d_budget_init(struct s3d_budget *budget, uint64_t limit_bytes,
                                           struct s3d_error *error);
void s3d_budget_fini(struct s3d_budget *budget);

/* A buffer of `bytes` from s3d_pages_alloc. AGAIN: none was free until timeout_ms (0: do not
 * wait). `first`: the caller holds no other buffer. */
S3D_MUST_USE enum s3d_code s3d_budget_take(struct s3d_budget *budget, size_t bytes, bool first,
                                           int64_t timeout_ms, void **buffer,
                                           struct s3d_error *error);
void s3d_budget_give(struct s3d_budget *budget, void *buffer, size_t bytes); /* NULL is allowed */

#endif
