#include "core/hedge.h"

#include <string.h>

enum {
    KNOWN_FROM = 16,      /* so many answers tell what is usual */
    FORGET_AT = 1024,     /* then all of them count half */
    LATE_FRACTION = 20,   /* all but a twentieth are in time */
    POINTLESS_MS = 10000, /* a store that is waited for so long is slow, not late */
    HEDGE_COST = 20,
    TOKENS_MAX = 10 * HEDGE_COST
};

void s3d_hedge_init(struct s3d_hedge *hedge, uint64_t floor_ms)
{
    memset(hedge, 0, sizeof *hedge);
    pthread_mutex_init(&hedge->mutex, NULL);
    hedge->floor_ms = (int64_t)floor_ms;
    hedge->tokens = TOKENS_MAX;
}

void s3d_hedge_fini(struct s3d_hedge *hedge)
{
    pthread_mutex_destroy(&hedge->mutex);
}

/* 0, 1, 2, 3 ms each have a step; from there on each octave has four. */
static size_t step_of(int64_t wait_ms)
{
    uint64_t wait = wait_ms < 0 ? 0 : (uint64_t)wait_ms;
    if (wait < 4) {
        return (size_t)wait;
    }
    size_t octave = 63 - (size_t)__builtin_clzll(wait);
    size_t step = 4 * (octave - 1) + (size_t)(wait >> (octave - 2) & 3);
    return step < S3D_HEDGE_STEPS ? step : S3D_HEDGE_STEPS - 1;
}

/* The first millisecond behind a step. */
static int64_t end_of(size_t step)
{
    size_t octave = step / 4 + 1;
    return step < 4 ? (int64_t)step + 1 : (int64_t)(5 + step % 4) << (octave - 2);
}

static void add_wait_locked(struct s3d_hedge_site *site, int64_t wait_ms)
{
    site->waits[step_of(wait_ms)]++;
    site->total++;
    if (site->total < FORGET_AT) {
        return;
    }
    site->total = 0;
    for (size_t i = 0; i < S3D_HEDGE_STEPS; i++) {
        site->waits[i] /= 2;
        site->total += site->waits[i];
    }
}

/* How long all but the latest twentieth waited at most. */
static int64_t usual_wait_locked(const struct s3d_hedge_site *site)
{
    size_t step = S3D_HEDGE_STEPS - 1;
    for (uint32_t later = site->waits[step]; step && later <= site->total / LATE_FRACTION;) {
        later += site->waits[--step];
    }
    return end_of(step);
}

void s3d_hedge_answered(struct s3d_hedge *hedge, uint64_t site, int64_t wait_ms)
{
    pthread_mutex_lock(&hedge->mutex);
    add_wait_locked(&hedge->sites[site % S3D_HEDGE_SITES], wait_ms);
    hedge->tokens += hedge->tokens < TOKENS_MAX ? 1 : 0;
    pthread_mutex_unlock(&hedge->mutex);
}

int64_t s3d_hedge_limit_ms(struct s3d_hedge *hedge, uint64_t number)
{
    const struct s3d_hedge_site *site = &hedge->sites[number % S3D_HEDGE_SITES];
    pthread_mutex_lock(&hedge->mutex);
    int64_t limit_ms = site->total < KNOWN_FROM ? -1 : usual_wait_locked(site) * 3 / 2;
    pthread_mutex_unlock(&hedge->mutex);
    if (limit_ms < 0 || limit_ms > POINTLESS_MS) {
        return -1;
    }
    return limit_ms < hedge->floor_ms ? hedge->floor_ms : limit_ms;
}

bool s3d_hedge_allowed(struct s3d_hedge *hedge, uint64_t site, int64_t waited_ms)
{
    pthread_mutex_lock(&hedge->mutex);
    bool allowed = hedge->tokens >= HEDGE_COST;
    if (allowed) {
        hedge->tokens -= HEDGE_COST;
        /* Nobody will learn how long the answer would have taken; so long it did at least. Without
         * this a store that has become slow would never be found out to be. */
        add_wait_locked(&hedge->sites[site % S3D_HEDGE_SITES], waited_ms);
    }
    pthread_mutex_unlock(&hedge->mutex);
    return allowed;
}
