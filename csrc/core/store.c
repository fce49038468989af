#include "core/store.h"

#include "core/engine.h"

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
