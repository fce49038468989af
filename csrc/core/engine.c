#include "core/engine.h"

#include "core/mem.h"
#include "core/put.h"

#include <pthread.h>

enum { POOLS_MAX = 4 };

/* locked{mutex} */
static struct s3d_engine *running;
static struct s3d_engine *retired; /* shut down; kept, as handles may still ask after it */
static bool shut_down;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
/* Counts forks; read from any thread, written only in a fresh child with one thread. */
static _Atomic uint64_t generation;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* Around fork the mutex is held, so that the child finds the globals whole. */
static void before_fork(void)
{
    pthread_mutex_lock(&mutex);
}

static void after_fork_parent(void)
{
    pthread_mutex_unlock(&mutex);
}

static void after_fork_child(void)
{
    running = NULL; /* the parent's threads are not here; its memory is left alone */
    shut_down = false;
    atomic_fetch_add(&generation, 1);
    pthread_mutex_unlock(&mutex);
}

static void watch_forks(void)
{
    s3d_config_watch_forks();
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

static uint64_t memory_limit(const struct s3d_config *config)
{
    if (config->memory_limit_bytes) {
        return config->memory_limit_bytes;
    }
    uint64_t put = config->put_inflight * config->put_part_bytes;
    uint64_t get = config->get_inflight * config->get_part_bytes;
    return 2 * (put > get ? put : get);
}

static enum s3d_code engine_new(struct s3d_engine **out, struct s3d_error *error)
{
    struct s3d_engine *engine = s3d_alloc_zeroed(1, sizeof *engine);
    if (!engine) {
        return s3d_fail_memory(error, sizeof *engine);
    }
    enum s3d_code code = s3d_config_load(&engine->config, error);
    if (code) {
        goto done;
    }
    code = s3d_budget_init(&engine->budget, memory_limit(&engine->config), error);
    if (code) {
        s3d_config_fini(&engine->config);
        goto done;
    }
    s3d_retry_init(&engine->retry, (unsigned)engine->config.max_attempts,
                   (unsigned)engine->config.max_connections);
    engine->generation = atomic_load(&generation);

done:
    if (code) {
        s3d_free(engine);
    } else {
        *out = engine;
    }
    return code;
}

enum s3d_code s3d_engine_get(struct s3d_engine **engine, struct s3d_error *error)
{
    pthread_once(&fork_once, watch_forks);
    pthread_mutex_lock(&mutex);
    enum s3d_code code = S3D_OK;
    if (shut_down) {
        code =
            s3d_fail(error, S3D_CLOSED, "the engine has shut down: the interpreter is exiting");
    } else if (!running) {
        code = engine_new(&running, error);
    }
    if (!code) {
        *engine = running;
    }
    pthread_mutex_unlock(&mutex);
    return code;
}

enum s3d_code s3d_engine_pool(struct s3d_engine *engine, const struct s3d_driver_ops *driver,
                              struct s3d_pool **pool, struct s3d_error *error)
{
    pthread_mutex_lock(&mutex);
    enum s3d_code code =
        engine == running ? S3D_OK : s3d_fail(error, S3D_CLOSED, "the engine has shut down");
    size_t i = 0;
    while (!code && i < POOLS_MAX && engine->pools[i] && engine->pool_drivers[i] != driver) {
        i++;
    }
    if (!code && i == POOLS_MAX) {
        code = s3d_fail(error, S3D_INTERNAL, "more than %d drivers", POOLS_MAX);
    }
    if (!code && !engine->pools[i]) {
        code = s3d_pool_new(&engine->pools[i], driver, &engine->config, &engine->retry,
                            &engine->stats, error);
        engine->pool_drivers[i] = driver;
    }
    if (!code) {
        *pool = engine->pools[i];
    }
    pthread_mutex_unlock(&mutex);
    return code;
}

bool s3d_engine_alive(const struct s3d_engine *engine)
{
    return s3d_engine_check(engine, NULL) == S3D_OK;
}

enum s3d_code s3d_engine_check(const struct s3d_engine *engine, struct s3d_error *error)
{
    /* The generation first: a dead engine's own memory is never freed, so it may be read. */
    if (engine->generation != atomic_load(&generation)) {
        return s3d_fail(error, S3D_FORKED,
                        "opened before fork() and used in the child: open it again there");
    }
    pthread_mutex_lock(&mutex);
    bool alive = engine == running;
    pthread_mutex_unlock(&mutex);
    return alive ? S3D_OK : s3d_fail(error, S3D_CLOSED, "the engine has shut down");
}

/* The next upload to abort at shutdown, acquired, or NULL. */
static struct s3d_put *first_open_put(struct s3d_engine *engine)
{
    pthread_mutex_lock(&mutex);
    struct s3d_put *put = engine->open_puts ? s3d_put_acquire(engine->open_puts) : NULL;
    pthread_mutex_unlock(&mutex);
    return put;
}

void s3d_engine_shutdown(void)
{
    pthread_mutex_lock(&mutex);
    struct s3d_engine *engine = running;
    shut_down = true;
    pthread_mutex_unlock(&mutex);
    if (!engine) {
        return;
    }
    struct s3d_error why;
    s3d_fail(&why, S3D_CANCELLED, "the interpreter exited before close(): nothing was written");
    for (struct s3d_put *put; (put = first_open_put(engine));) {
        s3d_put_abort(put, &why); /* takes itself out of the list */
        s3d_put_release(put);
    }
    pthread_mutex_lock(&mutex);
    running = NULL;
    engine->next_retired = retired;
    retired = engine;
    pthread_mutex_unlock(&mutex);
    for (size_t i = 0; i < POOLS_MAX; i++) {
        if (engine->pools[i]) {
            s3d_pool_stop(engine->pools[i]);
        }
    }
}

void s3d_engine_restart(void)
{
    pthread_mutex_lock(&mutex);
    shut_down = false;
    pthread_mutex_unlock(&mutex);
}

enum s3d_code s3d_engine_add_put(struct s3d_engine *engine, struct s3d_put *put,
                                 struct s3d_error *error)
{
    pthread_mutex_lock(&mutex);
    bool open = engine == running && !shut_down;
    if (open) {
        s3d_put_link(put, &engine->open_puts);
    }
    pthread_mutex_unlock(&mutex);
    return open ? S3D_OK : s3d_fail(error, S3D_CLOSED, "the engine has shut down");
}

void s3d_engine_remove_put(struct s3d_put *put)
{
    pthread_mutex_lock(&mutex);
    s3d_put_unlink(put);
    pthread_mutex_unlock(&mutex);
}
