/*
 * When a GET is late enough to be asked for again, and how often that may happen.
 *
 * A few of a store's answers take many times as long as the others: a slow disk, a lost packet, a
 * front end that restarts. A second request is then usually answered at once. Late means: one and a
 * half times as long as all but a twentieth of the store's latest answers took to begin, and never
 * less than `floor_ms`. So about one request in twenty would be late on a store whose answers vary
 * much; a bucket allows for no more than that (a hedge costs twenty tokens, an answer brings one),
 * so that a store which has become slow as a whole is not asked twice for everything.
 *
 * Thread-safe.
 */
#ifndef S3D_CORE_HEDGE_H
#define S3D_CORE_HEDGE_H

#include "core/error.h"

#include <pthread.h>

enum {
    S3D_HEDGE_SITES = 16, /* buckets of stores; those that share a number share what is known */
    S3D_HEDGE_STEPS = 64, /* waits in quarters of octaves, up to two minutes */
    S3D_HEDGES_MAX = 3    /* of one request, each after twice the wait of the one before */
};

/* How many answers began within each step of milliseconds; older ones count less and less. */
struct s3d_hedge_site {
    uint32_t waits[S3D_HEDGE_STEPS];
    uint32_t total;
};

struct s3d_hedge {
    int64_t floor_ms; /* frozen; 0: never hedge */
    /* locked{mutex} */
    pthread_mutex_t mutex;
    struct s3d_hedge_site sites[S3D_HEDGE_SITES];
    int tokens;
};

void s3d_hedge_init(struct s3d_hedge *hedge, uint64_t floor_ms);
void s3d_hedge_fini(struct s3d_hedge *hedge);

/* An answer began after wait_ms. */
void s3d_hedge_answered(struct s3d_hedge *hedge, uint64_t site, int64_t wait_ms);
/* How long an attempt may wait for its answer to begin; negative: however long it takes, as too little
 * is known, or answers take that long that asking again helps nobody. */
int64_t s3d_hedge_limit_ms(struct s3d_hedge *hedge, uint64_t site);
/* Whether one that has waited so long is asked for again; takes its tokens. */
bool s3d_hedge_allowed(struct s3d_hedge *hedge, uint64_t site, int64_t waited_ms);

#endif
