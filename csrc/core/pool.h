/*
 * A pool of I/O threads of one kind, and the driver that moves bytes on them.
 *
 * Submitted requests wait in one queue, first come first served. A thread takes as many as its
 * fair share of what is outstanding, starts them through its driver, waits in driver->poll, and
 * for each attempt that ends decides: done, or again after a back-off (core/retry.h). It looks after
 * stragglers, too (core/hedge.h). So retries, hedges and cancelling are written once, and a driver
 * knows single attempts only.
 *
 * Threads: submit, cancel and free may be called from any thread; drivers run on their own thread
 * except `wake`. Requests' `done` runs on an I/O thread without any lock held.
 */
#ifndef S3D_CORE_POOL_H
#define S3D_CORE_POOL_H

#include "core/request.h"

struct s3d_pool;
struct s3d_config;
struct s3d_stats;
struct s3d_retry;

/* One I/O thread's driver; backends embed it first. */
struct s3d_driver {
    const struct s3d_driver_ops *ops;
    struct s3d_worker *worker; /* for s3d_attempt_done; set by the pool */
};

struct s3d_driver_ops {
    const char *name;
    /* Attempts that one thread keeps in flight at most; at least 1. */
    unsigned (*capacity)(const struct s3d_config *config, unsigned threads);
    /* On the new thread. */
    S3D_MUST_USE enum s3d_code (*open)(struct s3d_driver **driver,
                                       const struct s3d_config *config, unsigned capacity,
                                       struct s3d_error *error);
    /* Begins one attempt. It ends with s3d_attempt_done, called within start or a later poll. */
    void (*start)(struct s3d_driver *driver, struct s3d_request *request);
    /* Drops a running attempt at once; no s3d_attempt_done follows. */
    void (*cancel)(struct s3d_driver *driver, struct s3d_request *request);
    /* Moves bytes; returns on progress, on wake, or after timeout_ms. */
    void (*poll)(struct s3d_driver *driver, int timeout_ms);
    void (*wake)(struct s3d_driver *driver); /* from any thread; never lost */
    void (*close)(struct s3d_driver *driver);
};

/*
 * Called by a driver on its thread when an attempt ended. On OK the request's result is filled;
 * otherwise request->last holds the error (its code equals `code`).
 */
void s3d_attempt_done(struct s3d_driver *driver, struct s3d_request *request,
                      enum s3d_code code);

/*
 * For drivers that can tell how an attempt is doing, on their thread: it has begun; something of its
 * answer has come. A watched GET that hears nothing for much longer than is usual is cancelled and
 * started again (core/hedge.h), which costs it no attempt.
 */
void s3d_attempt_watch(struct s3d_request *request);
void s3d_attempt_heard(struct s3d_request *request);

/* Starts the threads. */
S3D_MUST_USE enum s3d_code s3d_pool_new(struct s3d_pool **pool,
                                        const struct s3d_driver_ops *ops,
                                        const struct s3d_config *config,
                                        struct s3d_retry *retry, struct s3d_stats *stats,
                                        struct s3d_error *error);
/* Cancels what is left, joins the threads. Later submits end at once with CANCELLED. */
void s3d_pool_stop(struct s3d_pool *pool);
/* Stops and frees. NULL is allowed. */
void s3d_pool_free(struct s3d_pool *pool);

/* Never fails and never blocks for I/O: what goes wrong is told by request->done, which runs within
 * this call when the pool has stopped: so never submit under a lock that `done` takes. */
void s3d_pool_submit(struct s3d_pool *pool, struct s3d_request *request);

/* Makes a submitted request end soon; `done` runs as always (with CANCELLED, unless it had ended). */
void s3d_pool_cancel(struct s3d_pool *pool, struct s3d_request *request);

#endif
