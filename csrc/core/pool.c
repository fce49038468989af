#include "core/pool.h"

#include "core/config.h"
#include "core/hedge.h"
#include "core/latch.h"
#include "core/mem.h"
#include "core/retry.h"
#include "core/stats.h"
#include "core/store.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum {
    THREADS_DEFAULT_MAX = 16,
    IDLE_POLL_MS = 60000,
    NOT_READY_MS = 5,
    LOOK_MS = 250,      /* stragglers are looked for at least so often */
    STALL_MIN_MS = 1000 /* a body that has begun may pause for so long */
};

/* A singly linked queue through request->next. */
struct queue {
    struct s3d_request *first;
    struct s3d_request **last; /* where the next one is hooked in */
};

struct s3d_worker {
    /* frozen */
    struct s3d_pool *pool;
    struct s3d_driver *driver;
    pthread_t thread;
    /* locked{pool->mutex} */
    unsigned active; /* requests this worker has taken and not finished */
    /* loop */
    struct s3d_request *running; /* attempts under way */
    struct s3d_request *waiting; /* backing off until due_ms */
    int64_t look_ms;             /* when to look for stragglers again */
    bool progress; /* something ended since the queue was last looked at: do not wait in poll */
    enum s3d_code opened;
};

struct s3d_pool {
    /* frozen */
    const struct s3d_driver_ops *ops;
    const struct s3d_config *config;
    struct s3d_retry *retry;
    struct s3d_stats *stats;
    struct s3d_hedge hedge; /* a lock of its own inside */
    unsigned capacity;      /* of one worker */
    unsigned worker_count;
    struct s3d_worker *workers; /* worker_count of them run */
    /* locked{latch} */
    struct s3d_latch latch;
    struct queue queue;
    unsigned outstanding; /* queued and active */
    unsigned opened_count;
    struct s3d_error open_error;
    bool stopping;
    /* Raised by s3d_pool_cancel so that workers look through their lists; any thread. */
    atomic_uint cancel_epoch;
};

static void queue_init(struct queue *queue)
{
    queue->first = NULL;
    queue->last = &queue->first;
}

static void queue_push(struct queue *queue, struct s3d_request *request)
{
    request->next = NULL;
    *queue->last = request;
    queue->last = &request->next;
}

static struct s3d_request *queue_pop(struct queue *queue)
{
    struct s3d_request *request = queue->first;
    queue->first = request->next;
    if (!queue->first) {
        queue->last = &queue->first;
    }
    return request;
}

static void list_remove(struct s3d_request **list, struct s3d_request *request)
{
    while (*list != request) {
        list = &(*list)->next;
    }
    *list = request->next;
}

static void list_push(struct s3d_request **list, struct s3d_request *request)
{
    request->next = *list;
    *list = request;
}

/* Ends a request that is in no list any more. */
static void finish(struct s3d_pool *pool, struct s3d_worker *worker,
                   struct s3d_request *request, enum s3d_code code)
{
    request->result.code = code;
    if (code) {
        request->result.error.code = code;
        request->result.error.attempts = request->attempts;
        s3d_count(&pool->stats->failures, 1);
    }
    s3d_latch_lock(&pool->latch);
    pool->outstanding--;
    s3d_latch_unlock(&pool->latch);
    request->done(request);
    if (worker) {
        /* Only now: while `done` ran, others were the ones to wake for new requests. */
        s3d_latch_lock(&pool->latch);
        worker->active--;
        worker->progress = true;
        s3d_latch_unlock(&pool->latch);
    }
}

static void finish_cancelled(struct s3d_pool *pool, struct s3d_worker *worker,
                             struct s3d_request *request)
{
    if (!request->result.error.code) {
        s3d_fail(&request->result.error, S3D_CANCELLED, "cancelled");
        s3d_error_set_operation(&request->result.error, "%s", s3d_verb_name(request->verb));
    }
    finish(pool, worker, request, S3D_CANCELLED);
}

static void name_operation(struct s3d_request *request)
{
    if (request->verb == S3D_VERB_UPLOAD_PART) {
        s3d_error_set_operation(&request->last, "UploadPart %u", request->part_number);
    } else {
        s3d_error_set_operation(&request->last, "%s", s3d_verb_name(request->verb));
    }
}

void s3d_attempt_done(struct s3d_driver *driver, struct s3d_request *request,
                      enum s3d_code code)
{
    struct s3d_worker *worker = driver->worker;
    struct s3d_pool *pool = worker->pool;
    list_remove(&worker->running, request);
    worker->progress = true;
    if (code == S3D_OK) {
        if (request->heard_ms && request->wait_ms >= 0 && request->verb == S3D_VERB_GET) {
            s3d_hedge_answered(&pool->hedge, request->store->site, request->wait_ms);
        }
        memset(&request->result.error, 0, sizeof request->result.error);
        s3d_retry_succeeded(pool->retry);
        s3d_count(&pool->stats->bytes_received, request->result.received_bytes);
        if (request->verb == S3D_VERB_PUT || request->verb == S3D_VERB_UPLOAD_PART) {
            s3d_count(&pool->stats->bytes_sent, request->length_bytes);
        }
        finish(pool, worker, request, S3D_OK);
        return;
    }
    if (code == S3D_CANCELLED) {
        finish_cancelled(pool, worker, request);
        return;
    }
    request->last.code = code;
    request->throttled = request->throttled || code == S3D_THROTTLED;
    request->conflicted = request->conflicted || code == S3D_CONFLICT;
    name_operation(request);
    /* No fault of the server's: at once, and at nobody's cost. */
    if (code == S3D_EXPIRED || code == S3D_ELSEWHERE) {
        request->due_ms = (uint64_t)s3d_now_ms();
        list_push(&worker->waiting, request);
        return;
    }
    uint64_t delay_ms;
    if (s3d_retry_allowed(pool->retry, request->attempts, &request->last, &delay_ms)) {
        if (!request->result.error.code) {
            request->result.error = request->last;
        }
        request->due_ms = (uint64_t)s3d_now_ms() + delay_ms;
        list_push(&worker->waiting, request);
        return;
    }
    /* The first cause is what the user can act on, unless a later attempt got a final verdict
     * (a 403 after a reset says more than the reset). */
    if (!request->result.error.code || !s3d_code_retryable(code)) {
        request->result.error = request->last;
    }
    finish(pool, worker, request, request->result.error.code);
}

void s3d_attempt_watch(struct s3d_request *request)
{
    request->heard_ms = s3d_now_ms();
    request->wait_ms = -1;
}

void s3d_attempt_heard(struct s3d_request *request)
{
    int64_t now_ms = s3d_now_ms();
    if (request->wait_ms < 0) {
        request->wait_ms = now_ms - request->heard_ms;
    }
    request->heard_ms = now_ms;
    request->suspected = false;
}

static void look_soon(struct s3d_worker *worker)
{
    int64_t floor_ms = worker->pool->hedge.floor_ms;
    int64_t look_ms = s3d_now_ms() + floor_ms;
    if (floor_ms && look_ms < worker->look_ms) {
        worker->look_ms = look_ms;
    }
}

static void start_attempt(struct s3d_worker *worker, struct s3d_request *request)
{
    request->attempts++;
    s3d_count(&worker->pool->stats->requests, 1);
    if (request->attempts > 1 && !request->reissued) {
        s3d_count(&worker->pool->stats->retries, 1);
    }
    request->heard_ms = 0;
    request->suspected = request->reissued = false;
    if (request->verb == S3D_VERB_GET) {
        look_soon(worker);
    }
    memset(&request->last, 0, sizeof request->last);
    list_push(&worker->running, request);
    worker->driver->ops->start(worker->driver, request);
}

/* Starts an attempt, or has it wait for its store to be ready. */
static void start_when_ready(struct s3d_worker *worker, struct s3d_request *request)
{
    struct s3d_store *store = request->store;
    enum s3d_code code = store && store->ops && store->ops->ready
                             ? store->ops->ready(store, &request->ticket, &request->last)
                             : S3D_OK;
    if (code == S3D_AGAIN) {
        request->due_ms = (uint64_t)s3d_now_ms() + NOT_READY_MS;
        list_push(&worker->waiting, request);
    } else if (code) {
        request->attempts++;
        list_push(&worker->running, request);
        s3d_attempt_done(worker->driver, request, code);
    } else {
        start_attempt(worker, request);
    }
}

static struct s3d_worker *idlest_locked(struct s3d_pool *pool)
{
    struct s3d_worker *idlest = &pool->workers[0];
    for (unsigned i = 1; i < pool->worker_count; i++) {
        if (pool->workers[i].active < idlest->active) {
            idlest = &pool->workers[i];
        }
    }
    return idlest;
}

/* Takes the worker's fair share of what is queued. *helper: whom to wake for the rest, or NULL. */
static struct s3d_request *take_locked(struct s3d_pool *pool, struct s3d_worker *worker,
                                       struct s3d_worker **helper)
{
    struct queue taken;
    queue_init(&taken);
    while (pool->queue.first) {
        unsigned share = (pool->outstanding + pool->worker_count - 1) / pool->worker_count;
        if (worker->active >= pool->capacity || worker->active >= share) {
            break;
        }
        worker->active++;
        queue_push(&taken, queue_pop(&pool->queue));
    }
    *helper = NULL;
    if (pool->queue.first) {
        struct s3d_worker *idlest = idlest_locked(pool);
        *helper = idlest != worker && idlest->active < pool->capacity ? idlest : NULL;
    }
    return taken.first;
}

static void start_taken(struct s3d_worker *worker, struct s3d_request *taken)
{
    while (taken) {
        struct s3d_request *request = taken;
        taken = request->next;
        if (atomic_load(&request->cancelled)) {
            finish_cancelled(worker->pool, worker, request);
        } else {
            start_when_ready(worker, request);
        }
    }
}

/* Starts what is due. */
static void start_due(struct s3d_worker *worker)
{
    uint64_t now_ms = (uint64_t)s3d_now_ms();
    struct s3d_request *due = NULL;
    for (struct s3d_request **link = &worker->waiting; *link;) {
        struct s3d_request *request = *link;
        if (request->due_ms <= now_ms) {
            *link = request->next;
            list_push(&due, request);
        } else {
            link = &request->next;
        }
    }
    start_taken(worker, due);
}

/* How long until the next one is due, in ms. */
static int time_until_due(const struct s3d_worker *worker)
{
    uint64_t now_ms = (uint64_t)s3d_now_ms();
    uint64_t next_ms = now_ms + IDLE_POLL_MS;
    for (const struct s3d_request *request = worker->waiting; request;
         request = request->next) {
        next_ms = request->due_ms < next_ms ? request->due_ms : next_ms;
    }
    return next_ms > now_ms ? (int)(next_ms - now_ms) : 0;
}

/* Moves the cancelled ones of *list to *cancelled. */
static void sift_cancelled(struct s3d_request **list, struct s3d_request **cancelled, bool all)
{
    for (struct s3d_request **link = list; *link;) {
        struct s3d_request *request = *link;
        if (all || atomic_load(&request->cancelled)) {
            *link = request->next;
            list_push(cancelled, request);
        } else {
            link = &request->next;
        }
    }
}

/* Takes the cancelled ones out of the pool's queue. */
static struct s3d_request *sift_queue(struct s3d_pool *pool)
{
    struct s3d_request *cancelled = NULL;
    s3d_latch_lock(&pool->latch);
    sift_cancelled(&pool->queue.first, &cancelled, false);
    pool->queue.last = &pool->queue.first;
    while (*pool->queue.last) {
        pool->queue.last = &(*pool->queue.last)->next;
    }
    s3d_latch_unlock(&pool->latch);
    return cancelled;
}

static void end_cancelled(struct s3d_worker *worker, bool all)
{
    struct s3d_request *queued = sift_queue(worker->pool);
    while (queued) {
        struct s3d_request *request = queued;
        queued = request->next;
        finish_cancelled(worker->pool, NULL, request);
    }
    struct s3d_request *running = NULL, *waiting = NULL;
    sift_cancelled(&worker->running, &running, all);
    sift_cancelled(&worker->waiting, &waiting, all);
    while (running) {
        struct s3d_request *request = running;
        running = request->next;
        worker->driver->ops->cancel(worker->driver, request);
        finish_cancelled(worker->pool, worker, request);
    }
    while (waiting) {
        struct s3d_request *request = waiting;
        waiting = request->next;
        finish_cancelled(worker->pool, worker, request);
    }
}

/* ---- stragglers ---- */

/* How long a running attempt may hear nothing; negative: for ever. */
static int64_t quiet_limit_ms(struct s3d_pool *pool, const struct s3d_request *request)
{
    if (request->verb != S3D_VERB_GET || !request->heard_ms ||
        request->hedges >= S3D_HEDGES_MAX) {
        return -1;
    }
    int64_t limit_ms = s3d_hedge_limit_ms(&pool->hedge, request->store->site);
    if (limit_ms >= 0 && request->wait_ms >= 0) {
        limit_ms = 2 * limit_ms < STALL_MIN_MS ? STALL_MIN_MS : 2 * limit_ms;
    }
    return limit_ms < 0 ? -1 : limit_ms << request->hedges;
}

/*
 * Whether a running attempt is to be given up for another. Late is only one that is late twice, with
 * a poll in between: this thread itself may not have run for a while, and the answer may lie in the
 * socket. *look_ms: when to look again, at most what it was.
 */
static bool is_straggler(struct s3d_worker *worker, struct s3d_request *request, int64_t now_ms,
                         int64_t *look_ms)
{
    if (!request->heard_ms) {
        return false;
    }
    int64_t limit_ms = quiet_limit_ms(worker->pool, request);
    int64_t due_ms = request->heard_ms + limit_ms;
    int64_t next_ms = limit_ms >= 0 && due_ms > now_ms && due_ms < now_ms + LOOK_MS
                          ? due_ms
                          : now_ms + LOOK_MS;
    bool late = limit_ms >= 0 && due_ms <= now_ms;
    if (late && request->suspected) {
        late = s3d_hedge_allowed(&worker->pool->hedge, request->store->site,
                                 now_ms - request->heard_ms);
    } else if (late) {
        request->suspected = worker->progress = true;
        late = false;
        next_ms = now_ms;
    }
    *look_ms = next_ms < *look_ms ? next_ms : *look_ms;
    return late;
}

/* Gives late attempts up and starts each anew. The old one's connection is closed first, so nothing
 * of its answer can come into memory that the new one writes to. */
static void reissue_stragglers(struct s3d_worker *worker)
{
    int64_t now_ms = s3d_now_ms();
    if (now_ms < worker->look_ms) {
        return;
    }
    worker->look_ms = INT64_MAX;
    struct s3d_request *late = NULL;
    for (struct s3d_request **link = &worker->running; *link;) {
        struct s3d_request *request = *link;
        if (is_straggler(worker, request, now_ms, &worker->look_ms)) {
            *link = request->next;
            list_push(&late, request);
        } else {
            link = &request->next;
        }
    }
    while (late) {
        struct s3d_request *request = late;
        late = request->next;
        worker->driver->ops->cancel(worker->driver, request);
        s3d_count(&worker->pool->stats->hedges, 1);
        request->hedges++;
        request->attempts--;
        request->reissued = true;
        start_when_ready(worker, request);
    }
}

/* How long the driver may poll, in ms. */
static int poll_time(const struct s3d_worker *worker)
{
    int due_ms = time_until_due(worker);
    int64_t look_ms = worker->look_ms - s3d_now_ms();
    return worker->progress || look_ms <= 0 ? 0 : look_ms < due_ms ? (int)look_ms : due_ms;
}

static void run(struct s3d_worker *worker)
{
    struct s3d_pool *pool = worker->pool;
    unsigned seen_epoch = atomic_load(&pool->cancel_epoch);
    for (;;) {
        s3d_latch_lock(&pool->latch);
        bool stopping = pool->stopping;
        struct s3d_worker *helper = NULL;
        struct s3d_request *taken = stopping ? NULL : take_locked(pool, worker, &helper);
        if (helper) {
            pool->ops->wake(helper->driver);
        }
        s3d_latch_unlock(&pool->latch);
        if (stopping) {
            end_cancelled(worker, true);
            return;
        }
        worker->progress = false;
        start_taken(worker, taken);
        start_due(worker); /* some may go back to wait: a store can be not ready still */
        reissue_stragglers(worker);
        unsigned epoch = atomic_load(&pool->cancel_epoch);
        if (epoch != seen_epoch) {
            seen_epoch = epoch;
            end_cancelled(worker, false);
        }
        /* What ended within start() left room for queued requests, or a retry to wait for. */
        worker->driver->ops->poll(worker->driver, poll_time(worker));
    }
}

static void *worker_main(void *argument)
{
    struct s3d_worker *worker = argument;
    struct s3d_pool *pool = worker->pool;
    pthread_setname_np(pthread_self(), "s3dlio-io");
    struct s3d_error error;
    worker->look_ms = INT64_MAX;
    enum s3d_code code = pool->ops->open(&worker->driver, pool->config, pool->capacity, &error);
    if (!code) {
        worker->driver->ops = pool->ops;
        worker->driver->worker = worker;
    }
    s3d_latch_lock(&pool->latch);
    worker->opened = code;
    if (code) {
        pool->open_error = error;
    }
    pool->opened_count++;
    s3d_latch_notify_locked(&pool->latch);
    s3d_latch_unlock(&pool->latch);
    if (!code) {
        run(worker);
        pool->ops->close(worker->driver);
    }
    return NULL;
}

static void wake_all(struct s3d_pool *pool)
{
    for (unsigned i = 0; i < pool->worker_count; i++) {
        if (pool->workers[i].driver) {
            pool->ops->wake(pool->workers[i].driver);
        }
    }
}

/* Waits until every started thread has opened its driver. */
static enum s3d_code wait_opened(struct s3d_pool *pool, struct s3d_error *error)
{
    enum s3d_code code = S3D_OK;
    s3d_latch_lock(&pool->latch);
    while (pool->opened_count < pool->worker_count) {
        s3d_latch_wait_locked(&pool->latch, -1);
    }
    for (unsigned i = 0; !code && i < pool->worker_count; i++) {
        code = pool->workers[i].opened;
    }
    if (code) {
        s3d_error_copy(error, &pool->open_error);
    }
    s3d_latch_unlock(&pool->latch);
    return code;
}

/* Starts a thread that takes no signals: they are for the program's own threads. Those that a fault
 * raises in the thread itself stay. */
static int start_thread(struct s3d_worker *worker)
{
    sigset_t all, before;
    sigfillset(&all);
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        sigdelset(&all, own[i]);
    }
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = pthread_create(&worker->thread, NULL, worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failure;
}

static unsigned thread_count(const struct s3d_config *config)
{
    if (config->threads) {
        return (unsigned)config->threads;
    }
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores < 1 ? 1 : cores > THREADS_DEFAULT_MAX ? THREADS_DEFAULT_MAX : (unsigned)cores;
}

enum s3d_code s3d_pool_new(struct s3d_pool **out, const struct s3d_driver_ops *ops,
                           const struct s3d_config *config, struct s3d_retry *retry,
                           struct s3d_stats *stats, struct s3d_error *error)
{
    unsigned threads = thread_count(config);
    struct s3d_pool *pool = s3d_alloc_zeroed(1, sizeof *pool);
    if (!pool) {
        return s3d_fail_memory(error, sizeof *pool);
    }
    enum s3d_code code = s3d_latch_init(&pool->latch, error);
    if (code) {
        s3d_free(pool);
        return code;
    }
    queue_init(&pool->queue);
    pool->ops = ops;
    pool->config = config;
    pool->retry = retry;
    pool->stats = stats;
    s3d_hedge_init(&pool->hedge, config->hedge_ms);
    pool->capacity = ops->capacity(config, threads);
    pool->workers = s3d_alloc_zeroed(threads, sizeof *pool->workers);
    if (!pool->workers) {
        code = s3d_fail_memory(error, threads * sizeof *pool->workers);
        goto done;
    }
    for (unsigned i = 0; i < threads; i++) {
        pool->workers[i].pool = pool;
        int failure = start_thread(&pool->workers[i]);
        if (failure) {
            code = s3d_fail_errno(error, failure, "could not start I/O thread %u of %u", i + 1,
                                  threads);
            break;
        }
        s3d_latch_lock(&pool->latch);
        pool->worker_count++;
        s3d_latch_unlock(&pool->latch);
    }
    enum s3d_code opened = wait_opened(pool, code ? NULL : error);
    code = code ? code : opened;

done:
    if (code) {
        s3d_pool_free(pool);
    } else {
        *out = pool;
    }
    return code;
}

void s3d_pool_stop(struct s3d_pool *pool)
{
    s3d_latch_lock(&pool->latch);
    bool stopped = pool->stopping;
    pool->stopping = true;
    struct s3d_request *queued = pool->queue.first;
    queue_init(&pool->queue);
    if (!stopped) {
        wake_all(pool); /* under the lock: a thread that sees `stopping` closes its driver */
    }
    s3d_latch_unlock(&pool->latch);
    while (queued) {
        struct s3d_request *request = queued;
        queued = request->next;
        finish_cancelled(pool, NULL, request);
    }
    if (stopped) {
        return;
    }
    for (unsigned i = 0; i < pool->worker_count; i++) {
        pthread_join(pool->workers[i].thread, NULL);
        pool->workers[i].driver = NULL;
    }
}

void s3d_pool_free(struct s3d_pool *pool)
{
    if (!pool) {
        return;
    }
    s3d_pool_stop(pool);
    s3d_latch_fini(&pool->latch);
    s3d_hedge_fini(&pool->hedge);
    s3d_free(pool->workers);
    s3d_free(pool);
}

void s3d_pool_submit(struct s3d_pool *pool, struct s3d_request *request)
{
    s3d_latch_lock(&pool->latch);
    pool->outstanding++;
    if (pool->stopping) {
        s3d_latch_unlock(&pool->latch);
        finish_cancelled(pool, NULL, request);
        return;
    }
    queue_push(&pool->queue, request);
    /* Under the lock: a stop that begins now waits for it before it closes the driver. */
    pool->ops->wake(idlest_locked(pool)->driver);
    s3d_latch_unlock(&pool->latch);
}

void s3d_pool_cancel(struct s3d_pool *pool, struct s3d_request *request)
{
    atomic_store(&request->cancelled, true);
    atomic_fetch_add(&pool->cancel_epoch, 1);
    s3d_latch_lock(&pool->latch);
    if (!pool->stopping) {
        wake_all(pool);
    }
    s3d_latch_unlock(&pool->latch);
}
