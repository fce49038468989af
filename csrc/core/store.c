#include "core/store.h"

#include "core/engine.h"

#include <time.h>

enum { LOOK_MS = 5 };

enum s3d_code s3d_store_init(struct s3d_store *store, const struct s3d_store_ops *ops,
                             struct s3d_engine *engine, struct s3d_error *error)
{
    store->ops = ops;
    store->engine = engine;
    atomic_init(&store->references, 1);
    return s3d_engine_pool(engine, ops->driver, &store->pool, error);
}

struct s3d_store *s3d_store_acquire(struct s3d_store *store)
{
    atomic_fetch_add_explicit(&store->references, 1, memory_order_relaxed);
    return store;
}

void s3d_store_release(struct s3d_store *store)
{
    if (store && atomic_fetch_sub_explicit(&store->references, 1, memory_order_acq_rel) == 1) {
        store->ops->close(store);
    }
}

enum s3d_code s3d_store_wait(struct s3d_store *store, uint64_t *ticket, int64_t timeout_ms,
                             struct s3d_error *error)
{
    const struct timespec slice = {.tv_nsec = LOOK_MS * 1000000L};
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    for (;;) {
        enum s3d_code code =
            store->ops->ready ? store->ops->ready(store, ticket, error) : S3D_OK;
        if (code != S3D_AGAIN || (deadline_ms >= 0 && s3d_now_ms() >= deadline_ms)) {
            return code;
        }
        nanosleep(&slice, NULL);
    }
}
