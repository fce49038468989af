/*
 * How many requests a stream keeps in flight: as many as bring more bytes per second, no more.
 *
 * Each buffered part in flight costs a buffer. On a near server four keep the line full; on a far
 * one sixty-four may not. The window starts small and doubles after each round (as many requests
 * as it holds) in which it was the limit, as long as the new size moves bytes at least a sixth
 * faster than the old one; otherwise it goes back to the old size and tries again much later. Any
 * throttled answer halves it.
 *
 * Not thread-safe: kept under its owner's latch.
 */
#ifndef S3D_CORE_WINDOW_H
#define S3D_CORE_WINDOW_H

#include "core/error.h"

struct s3d_window {
    unsigned max;
    unsigned size;         /* requests that may be in flight now */
    unsigned settled;      /* the best size so far; size is larger while one is on trial */
    uint64_t settled_rate; /* bytes per second at that size; 0: not measured */
    unsigned rounds_left;  /* before the next trial */
    /* the running round */
    unsigned count;
    uint64_t bytes;
    int64_t start_us;
    bool limited; /* somebody waited for the window */
};

void s3d_window_init(struct s3d_window *window, unsigned max);
/* The store is far: begins with sixteen, as to climb there would take many long waits. */
void s3d_window_far(struct s3d_window *window);
/* All requests at once: for an owner whose requests in flight cost no memory. */
void s3d_window_open(struct s3d_window *window);
/* The owner has something to send, but the window is full. */
void s3d_window_wait(struct s3d_window *window);
/* A request ended; `throttled`: the store asked for fewer of them on the way. */
void s3d_window_done(struct s3d_window *window, uint64_t bytes, bool throttled, int64_t now_us);

#endif
