#include "core/window.h"

#include <string.h>

enum { START_SIZE = 4, FAR_START_SIZE = 16, ROUNDS_BETWEEN_TRIALS = 16 };

void s3d_window_init(struct s3d_window *window, unsigned max)
{
    memset(window, 0, sizeof *window);
    window->max = max;
    window->size = window->settled = max < START_SIZE ? max : START_SIZE;
}

void s3d_window_far(struct s3d_window *window)
{
    unsigned start = window->max < FAR_START_SIZE ? window->max : FAR_START_SIZE;
    if (window->settled < start) {
        window->size = window->settled = start;
    }
}

void s3d_window_open(struct s3d_window *window)
{
    window->size = window->settled = window->max;
}

void s3d_window_wait(struct s3d_window *window)
{
    window->limited = true;
}

static void start_round(struct s3d_window *window, int64_t now_us)
{
    window->count = 0;
    window->bytes = 0;
    window->limited = false;
    window->start_us = now_us;
}

static void start_trial(struct s3d_window *window)
{
    window->size = window->settled > window->max / 2 ? window->max : window->settled * 2;
}

static void end_round(struct s3d_window *window, uint64_t rate)
{
    bool on_trial = window->size > window->settled;
    bool better = rate / 7 > window->settled_rate / 6;
    if (on_trial && !better) {
        window->size = window->settled;
        window->rounds_left = ROUNDS_BETWEEN_TRIALS;
        return;
    }
    window->settled = window->size;
    window->settled_rate = rate;
    if (window->rounds_left) {
        window->rounds_left--;
    } else {
        start_trial(window);
    }
}

void s3d_window_done(struct s3d_window *window, uint64_t bytes, bool throttled, int64_t now_us)
{
    if (throttled) {
        window->size = window->settled = window->settled > 1 ? window->settled / 2 : 1;
        window->rounds_left = ROUNDS_BETWEEN_TRIALS;
        start_round(window, now_us);
        return;
    }
    if (!window->start_us) {
        start_round(window, now_us); /* the first one holds connecting: not a measure */
        return;
    }
    window->count++;
    window->bytes += bytes;
    if (window->count < window->size) {
        return;
    }
    int64_t elapsed_us = now_us > window->start_us ? now_us - window->start_us : 1;
    if (window->limited) {
        end_round(window, window->bytes * 1000 / (uint64_t)elapsed_us * 1000);
    }
    start_round(window, now_us);
}
