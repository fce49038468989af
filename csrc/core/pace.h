/*
 * How far away a store is, as its answers tell, and how many bytes a request should carry then.
 *
 * Each request costs a wait for the first byte in which its connection carries nothing. Near by
 * that is nothing next to a part's transfer. From a far store 8 MiB may take 100 ms after 30 ms of
 * waiting, and a quarter of every connection is lost. So where the wait is long, requests grow
 * until it is a sixteenth of their time, and the work that is left is shared out so that all
 * connections end together.
 *
 * Not thread-safe: kept under its owner's latch.
 */
#ifndef S3D_CORE_PACE_H
#define S3D_CORE_PACE_H

#include "core/error.h"

enum {
    S3D_PACE_PART_MAX_BYTES = 64 * 1024 * 1024
}; /* what a failed attempt may cost at most */

struct s3d_pace {
    int64_t latency_us; /* the shortest wait for an answer so far; 0: not known */
    uint64_t rate; /* bytes per second of one connection that carries bytes; 0: not known */
};

/* What is to be done, when the next request is cut. */
struct s3d_pace_work {
    uint64_t left_bytes;    /* not in any request yet */
    uint64_t running_bytes; /* still to come in those in flight, see s3d_pace_rest */
    unsigned connections;   /* requests in flight at once */
    uint64_t base_bytes;    /* a request of a near store */
    uint64_t min_bytes;     /* shorter ones are not worth a request */
    uint64_t max_bytes;     /* a request must not be longer */
};

/* An answer without a body sent began after answer_us; times of 0 say nothing. */
void s3d_pace_answered(struct s3d_pace *pace, int64_t answer_us);
/* A request moved `bytes` in elapsed_us, the wait for its answer included. */
void s3d_pace_moved(struct s3d_pace *pace, uint64_t bytes, int64_t elapsed_us);

bool s3d_pace_is_far(const struct s3d_pace *pace);
/* How many of the bytes of a request that began elapsed_us ago are likely still to come. */
uint64_t s3d_pace_rest(const struct s3d_pace *pace, uint64_t bytes, int64_t elapsed_us);
/* How many bytes the wait deserves: base_bytes from a near store, more from a far one. */
uint64_t s3d_pace_part(const struct s3d_pace *pace, uint64_t base_bytes, uint64_t max_bytes);
/* How many bytes the next request should carry; may be more than are left. */
uint64_t s3d_pace_next(const struct s3d_pace *pace, const struct s3d_pace_work *work);

#endif
