/*
 * The memory budget: how many bytes of part buffers the process may hold.
 *
 * A stream takes whole buffers and gives them back; when the budget is spent, taking waits. A stream
 * that holds nothing, and so will get nothing back by waiting for its own requests, stakes a claim:
 * claims are served in their order and before anybody who has buffers already, and while there are
 * any, streams give back what they would else keep for their next part (s3d_budget_wanted).
 *
 * What lies in requests comes back by itself. But buffers may also lie in streams that nobody writes
 * to at the moment, or that wait for the very thread that waits here. So when nothing is on its way
 * and nothing has come back for a while, the first claim is granted over the limit: once, as the
 * limit stays so much higher until the streams could do without. A stream's first few bytes are not
 * worth that: S3D_BUDGET_SMALL_BYTES are to be had at once.
 *
 * So there is held, at most: the limit, a small buffer for each stream, and, where streams that
 * nobody goes on with hold all of the limit in parts that are not full, one part for each further
 * stream that is treated so, and one that passes from stream to stream among the others.
 */
#ifndef S3D_CORE_BUDGET_H
#define S3D_CORE_BUDGET_H

#include "core/latch.h"

#include <stdatomic.h>

enum {
    S3D_BUDGET_SMALL_BYTES = 256 * 1024,
    S3D_BUDGET_STUCK_MS = 200 /* so long nothing has come back before the limit is raised */
};

/* A stream's wait for its first buffer; zeroed at first, the budget's while it waits. */
struct s3d_claim {
    struct s3d_claim *next, **link; /* locked{latch}; link NULL: it does not wait */
    size_t bytes;
    int64_t since_ms, asked_ms;
};

struct s3d_budget {
    struct s3d_latch latch;
    uint64_t limit_bytes; /* frozen */
    /* locked{latch} */
    uint64_t held_bytes;
    uint64_t peak_bytes;
    uint64_t extra_bytes; /* that claims may take over the limit */
    int64_t changed_ms;   /* when a buffer last came back, or the limit was raised */
    struct s3d_claim *claims, **last_claim;
    /* any thread */
    atomic_uint claim_count;
    _Atomic uint64_t moving_bytes; /* of buffers in requests that are under way */
};

S3D_MUST_USE enum s3d_code s3d_budget_init(struct s3d_budget *budget, uint64_t limit_bytes,
                                           struct s3d_error *error);
void s3d_budget_fini(struct s3d_budget *budget);

/* A buffer of `bytes` from s3d_pages_alloc. AGAIN: none was free until timeout_ms (0: do not
 * wait). `claim`: the stream's, which has no buffer under way; NULL: it has. A claim that got AGAIN
 * waits: its owner asks again soon, or it loses its place, and withdraws it in the end. */
S3D_MUST_USE enum s3d_code s3d_budget_take(struct s3d_budget *budget, size_t bytes,
                                           struct s3d_claim *claim, int64_t timeout_ms,
                                           void **buffer, struct s3d_error *error);
/* At most S3D_BUDGET_SMALL_BYTES, over the limit if need be: for a stream without a buffer. */
S3D_MUST_USE enum s3d_code s3d_budget_take_small(struct s3d_budget *budget, size_t bytes,
                                                 void **buffer, struct s3d_error *error);
/* NULL is allowed. */
void s3d_budget_give(struct s3d_budget *budget, void *buffer, size_t bytes);
/* One that does not wait is allowed. */
void s3d_budget_withdraw(struct s3d_budget *budget, struct s3d_claim *claim);
/* Whether somebody waits who has nothing: what is only kept for later should be given back. */
bool s3d_budget_wanted(struct s3d_budget *budget);
/* Buffers of so many bytes have gone into a request that is under way; it has ended. */
void s3d_budget_moves(struct s3d_budget *budget, uint64_t bytes);
void s3d_budget_rests(struct s3d_budget *budget, uint64_t bytes);

#endif
