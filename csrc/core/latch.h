/*
 * Waiting for I/O threads: a mutex, a condition and a count of requests in flight.
 *
 * An operation made of several requests (get, put, reader) owns one latch and keeps its `locked`
 * fields under latch->mutex. Waits are bounded so that a caller can look for signals in between.
 */
#ifndef S3D_CORE_LATCH_H
#define S3D_CORE_LATCH_H

#include "core/error.h"

#include <pthread.h>

struct s3d_latch {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    size_t in_flight; /* locked{mutex} */
};

S3D_MUST_USE enum s3d_code s3d_latch_init(struct s3d_latch *latch, struct s3d_error *error);
void s3d_latch_fini(struct s3d_latch *latch);
static inline void s3d_latch_lock(struct s3d_latch *latch)
{
    pthread_mutex_lock(&latch->mutex);
}
static inline void s3d_latch_unlock(struct s3d_latch *latch)
{
    pthread_mutex_unlock(&latch->mutex);
}
void s3d_latch_notify_locked(struct s3d_latch *latch);
/* False when deadline_ms (s3d_now_ms) passed; may wake early. Negative: no deadline. */
bool s3d_latch_wait_locked(struct s3d_latch *latch, int64_t deadline_ms);

/* Monotonic. */
int64_t s3d_now_ms(void);
int64_t s3d_now_us(void);
/* Timeouts are relative milliseconds, negative for none. */
int64_t s3d_deadline_ms(int64_t timeout_ms);
/* The timeout that is left until a deadline: 0 once it has passed. */
int64_t s3d_left_ms(int64_t deadline_ms);

#endif
