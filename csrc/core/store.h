/*
 * A store: one bucket, container or the local file system, as core sees it.
 *
 * A backend embeds `struct s3d_store` first in its own struct and fills it in its open function.
 * A store is immutable once open (credentials rotate behind the backend's own lock) and counted:
 * each reader, writer or call holds one reference. Core never looks behind `ops`.
 */
#ifndef S3D_CORE_STORE_H
#define S3D_CORE_STORE_H

#include "core/request.h"

struct s3d_engine;
struct s3d_pool;
struct s3d_driver_ops;

/* What a store's multipart upload allows. */
struct s3d_limits {
    uint64_t part_min_bytes; /* every part but the last */
    uint64_t part_max_bytes;
    uint32_t parts_max;
    uint64_t object_max_bytes;
    bool equal_parts; /* all parts but the last must be of one size */
};

struct s3d_store_ops {
    const struct s3d_driver_ops *driver;    /* which kind of I/O thread serves it */
    void (*close)(struct s3d_store *store); /* frees the backend's struct */
    /* Whether requests can be sent now (NULL: always). AGAIN: not yet, ask again soon with the same
     * *ticket, 0 at first. Never blocks; any thread. */
    S3D_MUST_USE enum s3d_code (*ready)(struct s3d_store *store, uint64_t *ticket,
                                        struct s3d_error *error);
    /* The ETag that an upload of these parts gets, where the store has such a rule (NULL: none). It
     * tells whether a commit whose answer was lost took place. False: not to be told from these. */
    bool (*upload_etag)(const struct s3d_part *parts, size_t count, char etag[S3D_ETAG_MAX]);
    /* The same by a checksum that was sent with the request's parts and options, and kept with the
     * object. NULL: the store has none. */
    bool (*upload_sum_is)(const struct s3d_request *request, const struct s3d_object *object);
    bool keeps_write_id; /* with the object; STAT tells it */
};

struct s3d_store {
    const struct s3d_store_ops *ops;
    struct s3d_limits limits;
    /* What whole objects are checked against when they are read: S3D_SUM_KINDS of them. NULL: they
     * are not. */
    const struct s3d_sum_kind *const *check_kinds;
    uint64_t site;             /* a number that stores with the same servers have in common */
    struct s3d_engine *engine; /* borrowed: the engine outlives every store */
    struct s3d_pool *pool;     /* where its requests run; set by s3d_store_init */
    atomic_uint references;
};

/* For backends: one reference, the pool of ops->driver. */
S3D_MUST_USE enum s3d_code s3d_store_init(struct s3d_store *store,
                                          const struct s3d_store_ops *ops,
                                          struct s3d_engine *engine, struct s3d_error *error);
struct s3d_store *s3d_store_acquire(struct s3d_store *store);
void s3d_store_release(struct s3d_store *store); /* NULL is allowed */

/* Waits until requests can be sent, at most timeout_ms, then AGAIN. Keep *ticket, 0 at first, from
 * call to call. */
S3D_MUST_USE enum s3d_code s3d_store_wait(struct s3d_store *store, uint64_t *ticket,
                                          int64_t timeout_ms, struct s3d_error *error);

#endif
