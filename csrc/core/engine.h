/*
 * The engine: one per process, started by first use.
 *
 * It owns the I/O threads (one pool per driver, started when first needed), the memory budget,
 * the retry quota and the counters. After fork() a child has no engine: handles from before the
 * fork fail with FORKED, new ones start a new engine. The parent's is left as it is in the child
 * (its threads do not exist there; touching its connections would break the parent's).
 */
#ifndef S3D_CORE_ENGINE_H
#define S3D_CORE_ENGINE_H

#include "core/budget.h"
#include "core/config.h"
#include "core/pool.h"
#include "core/retry.h"
#include "core/stats.h"

struct s3d_put;

struct s3d_engine {
    /* frozen */
    struct s3d_config config; /* as it was at the start: threads, connections, memory */
    uint64_t generation;      /* how many forks deep */
    /* own locks inside */
    struct s3d_budget budget;
    struct s3d_retry retry;
    struct s3d_stats stats;
    /* locked{mutex} in engine.c */
    struct s3d_pool *pools[4];
    const struct s3d_driver_ops *pool_drivers[4];
    struct s3d_put *open_puts; /* uploads that interpreter exit must abort */
    struct s3d_engine *next_retired;
};

/* The running engine, started if there is none. Borrowed: it lives until s3d_engine_shutdown. */
S3D_MUST_USE enum s3d_code s3d_engine_get(struct s3d_engine **engine, struct s3d_error *error);

/* Aborts open uploads, joins all threads. Later s3d_engine_get calls fail with CLOSED until
 * s3d_engine_restart; for interpreter exit and tests. Handles stay valid to free. */
void s3d_engine_shutdown(void);
void s3d_engine_restart(void);

/* The pool for a driver, its threads started. */
S3D_MUST_USE enum s3d_code s3d_engine_pool(struct s3d_engine *engine,
                                           const struct s3d_driver_ops *driver,
                                           struct s3d_pool **pool, struct s3d_error *error);

/* False in a child of the process that started it, or after shutdown. */
bool s3d_engine_alive(const struct s3d_engine *engine);
/* FORKED or CLOSED unless alive. */
S3D_MUST_USE enum s3d_code s3d_engine_check(const struct s3d_engine *engine,
                                            struct s3d_error *error);

/* For put.c: the list of uploads that shutdown aborts, linked through s3d_put_link/unlink. */
/* CLOSED once shutdown has begun. */
S3D_MUST_USE enum s3d_code s3d_engine_add_put(struct s3d_engine *engine, struct s3d_put *put,
                                              struct s3d_error *error);
void s3d_engine_remove_put(struct s3d_put *put);

#endif
