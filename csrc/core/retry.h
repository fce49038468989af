/*
 * When to try again, and when to stop.
 *
 * Exponential back-off with full jitter, from 50 ms (1 s when throttled) doubling to 20 s; the
 * server's Retry-After is a lower bound. A quota shared by the process (500 tokens, or one retry for each
 * connection, as a server that restarts breaks all of them; a retry costs 5, 10 after a timeout, none
 * where nobody accepted the connection; a success returns 1) keeps a failing server from being flooded, as in the AWS SDKs'
 * standard mode.
 */
#ifndef S3D_CORE_RETRY_H
#define S3D_CORE_RETRY_H

#include "core/error.h"

#include <stdatomic.h>

struct s3d_retry {
    unsigned max_attempts; /* frozen, like the next */
    int tokens_max;
    atomic_int tokens;
    _Atomic uint64_t random; /* state of the jitter */
};

/* connections: of the process, 65536 at most. */
void s3d_retry_init(struct s3d_retry *retry, unsigned max_attempts, unsigned connections);

/* Whether a request that failed `attempts` times, last with *error, is tried again; *delay_ms says
 * when. Takes its tokens. */
bool s3d_retry_allowed(struct s3d_retry *retry, unsigned attempts,
                       const struct s3d_error *error, uint64_t *delay_ms);
void s3d_retry_succeeded(struct s3d_retry *retry);

#endif
