#include "core/pace.h"

enum {
    FAR_US = 5000,          /* a near store begins its answer sooner */
    WAITS_PER_REQUEST = 16, /* a request should last so many waits */
    FIRST_ROUNDS = 2,       /* while the rate is not known: share the work out in so many */
    ROUND_TO_BYTES = 64 * 1024
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t greatest(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t divide_up(uint64_t value, uint64_t by)
{
    return value / by + (value % by != 0);
}

/* What a connection carries in a time. */
static uint64_t carried(uint64_t rate, int64_t us)
{
    double bytes = us > 0 ? (double)rate * (double)us / 1e6 : 0;
    return bytes < 1e18 ? (uint64_t)bytes : (uint64_t)1e18;
}

void s3d_pace_answered(struct s3d_pace *pace, int64_t answer_us)
{
    /* The shortest: a busy machine only ever adds to the wait. */
    if (answer_us > 0 && (!pace->latency_us || answer_us < pace->latency_us)) {
        pace->latency_us = answer_us;
    }
}

void s3d_pace_moved(struct s3d_pace *pace, uint64_t bytes, int64_t elapsed_us)
{
    int64_t moving_us = elapsed_us - pace->latency_us;
    if (!bytes || elapsed_us <= 0) {
        return;
    }
    uint64_t rate = (uint64_t)((double)bytes * 1e6 / (double)(moving_us > 1 ? moving_us : 1));
    pace->rate = pace->rate ? pace->rate - pace->rate / 4 + rate / 4 : rate;
}

bool s3d_pace_is_far(const struct s3d_pace *pace)
{
    return pace->latency_us >= FAR_US;
}

uint64_t s3d_pace_rest(const struct s3d_pace *pace, uint64_t bytes, int64_t elapsed_us)
{
    return bytes - least(bytes, carried(pace->rate, elapsed_us - pace->latency_us));
}

uint64_t s3d_pace_part(const struct s3d_pace *pace, uint64_t base_bytes, uint64_t max_bytes)
{
    uint64_t deserved =
        s3d_pace_is_far(pace) ? carried(pace->rate, WAITS_PER_REQUEST * pace->latency_us) : 0;
    return least(greatest(base_bytes, deserved), greatest(base_bytes, max_bytes));
}

uint64_t s3d_pace_next(const struct s3d_pace *pace, const struct s3d_pace_work *work)
{
    if (!s3d_pace_is_far(pace) || work->max_bytes <= work->base_bytes) {
        return work->base_bytes;
    }
    uint64_t share = divide_up(work->left_bytes + work->running_bytes, work->connections);
    uint64_t rounds = FIRST_ROUNDS;
    if (pace->rate) {
        rounds = divide_up(share, s3d_pace_part(pace, work->base_bytes, work->max_bytes));
    }
    /* Not below the usual size only to have more rounds. */
    uint64_t part =
        greatest(divide_up(share, rounds ? rounds : 1), least(share, work->base_bytes));
    part = divide_up(part, ROUND_TO_BYTES) * ROUND_TO_BYTES;
    return least(greatest(part, work->min_bytes), work->max_bytes);
}
