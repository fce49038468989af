#include "core/retry.h"

#include <time.h>

enum {
    TOKENS_MIN = 500,
    RETRY_COST = 5,
    TIMEOUT_COST = 10,
    BASE_MS = 50,
    THROTTLED_BASE_MS = 1000,
    DELAY_MAX_MS = 20000,
    RETRY_AFTER_MAX_MS = 300000
};

void s3d_retry_init(struct s3d_retry *retry, unsigned max_attempts, unsigned connections)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    bool many = connections > TOKENS_MIN / RETRY_COST;
    retry->max_attempts = max_attempts;
    retry->tokens_max = many ? (int)connections * RETRY_COST : TOKENS_MIN;
    atomic_init(&retry->tokens, retry->tokens_max);
    atomic_init(&retry->random, (uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 32);
}

/* splitmix64 over a shared counter: no lock, good enough to spread clients. */
static uint64_t next_random(struct s3d_retry *retry)
{
    uint64_t x = atomic_fetch_add(&retry->random, 0x9E3779B97F4A7C15u) + 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static bool take_tokens(struct s3d_retry *retry, int cost)
{
    int tokens = atomic_load(&retry->tokens);
    while (tokens >= cost) {
        if (atomic_compare_exchange_weak(&retry->tokens, &tokens, tokens - cost)) {
            return true;
        }
    }
    return false;
}

/* Tokens spare a server that fails; one that cannot be reached hears nothing of it. */
static int cost_of(const struct s3d_error *error)
{
    return error->unreached ? 0 : error->code == S3D_TIMEOUT ? TIMEOUT_COST : RETRY_COST;
}

bool s3d_retry_allowed(struct s3d_retry *retry, unsigned attempts,
                       const struct s3d_error *error, uint64_t *delay_ms)
{
    if (!s3d_code_retryable(error->code) || attempts >= retry->max_attempts ||
        !take_tokens(retry, cost_of(error))) {
        return false;
    }
    uint64_t ceiling_ms = error->code == S3D_THROTTLED ? THROTTLED_BASE_MS : BASE_MS;
    for (unsigned i = 1; i < attempts && ceiling_ms < DELAY_MAX_MS; i++) {
        ceiling_ms *= 2;
    }
    if (ceiling_ms > DELAY_MAX_MS) {
        ceiling_ms = DELAY_MAX_MS;
    }
    *delay_ms = next_random(retry) % (ceiling_ms + 1);
    uint64_t after_ms = error->retry_after_ms;
    if (after_ms > RETRY_AFTER_MAX_MS) {
        after_ms = RETRY_AFTER_MAX_MS;
    }
    if (*delay_ms < after_ms) {
        *delay_ms = after_ms;
    }
    return true;
}

void s3d_retry_succeeded(struct s3d_retry *retry)
{
    int tokens = atomic_load(&retry->tokens);
    while (tokens < retry->tokens_max &&
           !atomic_compare_exchange_weak(&retry->tokens, &tokens, tokens + 1)) {
    }
}
