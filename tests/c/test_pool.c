/* The pool: order, shares, retries, cancelling, stopping. */
#include "fake_store.h"
#include "test.h"

#include "core/latch.h"
#include "core/pool.h"

#include <limits.h>
#include <unistd.h>

enum { JOBS_MAX = 256 };

struct job {
    struct s3d_request request;
    unsigned ended; /* locked{latch}: how often `done` ran; in which order it ended last */
    unsigned order;
    char byte;
    struct s3d_span span;
};

static struct s3d_latch latch;
static unsigned ended_count; /* locked{latch} */
static struct job jobs[JOBS_MAX];

static void job_done(struct s3d_request *request)
{
    struct job *job = request->owner;
    s3d_latch_lock(&latch);
    job->ended++;
    job->order = ended_count++;
    s3d_latch_notify_locked(&latch);
    s3d_latch_unlock(&latch);
}

/* Makes jobs 0 .. count - 1 ready: GETs of one byte at offset i of "object". */
static void prepare(struct fake_store *fake, unsigned count)
{
    s3d_latch_lock(&latch);
    ended_count = 0;
    for (unsigned i = 0; i < count; i++) {
        struct job *job = &jobs[i];
        memset(job, 0, sizeof *job);
        job->span = (struct s3d_span){&job->byte, 1};
        job->request.verb = S3D_VERB_GET;
        job->request.store = fake_base(fake);
        job->request.key = "object";
        job->request.offset_bytes = i;
        job->request.length_bytes = 1;
        job->request.spans = &job->span;
        job->request.span_count = 1;
        job->request.done = job_done;
        job->request.owner = job;
        s3d_request_reset(&job->request);
    }
    s3d_latch_unlock(&latch);
}

static void wait_ended(unsigned count)
{
    s3d_latch_lock(&latch);
    while (ended_count < count) {
        s3d_latch_wait_locked(&latch, -1);
    }
    s3d_latch_unlock(&latch);
}

static struct s3d_pool *pool_of(struct fake_store *fake)
{
    return fake_base(fake)->pool;
}

static struct fake_store *open_with_object(const char *settings, unsigned capacity)
{
    static char data[JOBS_MAX];
    fake_set_capacity(capacity);
    fake_engine(settings);
    struct fake_store *fake = fake_open();
    fake_pattern(data, sizeof data, 1);
    fake_put_object(fake, "object", data, sizeof data);
    return fake;
}

static void submit(struct fake_store *fake, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        s3d_pool_submit(pool_of(fake), &jobs[i].request);
    }
}

static void check_all_ok(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        CHECK(jobs[i].ended == 1);
        CHECK_CODE(jobs[i].request.result.code, S3D_OK);
        CHECK(jobs[i].request.result.error.code == S3D_OK);
        CHECK(fake_pattern_is(&jobs[i].byte, 1, 1, i));
    }
}

static void test_many(void)
{
    struct fake_store *fake = open_with_object("", 0);
    for (unsigned round = 0; round < 20; round++) {
        prepare(fake, JOBS_MAX);
        submit(fake, JOBS_MAX);
        wait_ended(JOBS_MAX);
        check_all_ok(JOBS_MAX);
    }
    fake_close(fake);
}

/* One thread, one attempt at a time: first come, first served. */
static void test_order(void)
{
    struct fake_store *fake = open_with_object("S3DLIO_RT_THREADS=1", 1);
    prepare(fake, 50);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1, .hold = true});
    submit(fake, 50);
    fake_wait_held(fake, 1);
    fake_release(fake);
    wait_ended(50);
    check_all_ok(50);
    for (unsigned i = 0; i < 50; i++) {
        CHECK(jobs[i].order == i);
    }
    CHECK(fake_peak_of_driver(fake) == 1);
    fake_close(fake);
}

/* Attempts that end within start() must not leave queued requests waiting for a wake. */
static void test_blocking_driver(void)
{
    for (unsigned threads = 1; threads <= 2; threads++) {
        struct fake_store *fake =
            open_with_object(threads == 1 ? "S3DLIO_RT_THREADS=1 AWS_MAX_ATTEMPTS=9"
                                          : "S3DLIO_RT_THREADS=2 AWS_MAX_ATTEMPTS=9",
                             1);
        fake_set_blocking(fake, true);
        prepare(fake, 100);
        unsigned rule = fake_rule(
            fake, (struct fake_rule){
                      .verb = S3D_VERB_GET, .times = 4, .skip = 5, .code = S3D_NETWORK});
        unsigned slow = fake_rule(
            fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1, .delay_ms = 20});
        submit(fake, 100);
        wait_ended(100);
        check_all_ok(100);
        CHECK(fake_fired(fake, rule) == 4 && fake_fired(fake, slow) == 1);
        fake_close(fake);
    }
}

/* A retry that fails within start(), when nothing else would end the poll. */
static void test_blocking_retry(void)
{
    struct fake_store *fake = open_with_object("S3DLIO_RT_THREADS=1", 1);
    fake_set_blocking(fake, true);
    unsigned rule = fake_rule(
        fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 2, .code = S3D_SERVER});
    prepare(fake, 1);
    submit(fake, 1);
    wait_ended(1);
    check_all_ok(1);
    CHECK(fake_fired(fake, rule) == 2 && jobs[0].request.attempts == 3);
    fake_close(fake);
}

/* 8 held requests over 2 threads: 4 each, so the second one was woken. */
static void test_fair_share(void)
{
    for (unsigned round = 0; round < 10; round++) {
        struct fake_store *fake = open_with_object("S3DLIO_RT_THREADS=2", 0);
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 8, .hold = true});
        prepare(fake, 8);
        submit(fake, 8);
        fake_wait_held(fake, 8);
        CHECK(fake_held_by(fake, 0) == 4 && fake_held_by(fake, 1) == 4);
        fake_release(fake);
        wait_ended(8);
        check_all_ok(8);
        fake_close(fake);
    }
}

static void test_capacity(void)
{
    struct fake_store *fake = open_with_object("S3DLIO_RT_THREADS=2", 3);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1000, .delay_ms = 2});
    prepare(fake, 60);
    submit(fake, 60);
    wait_ended(60);
    check_all_ok(60);
    CHECK(fake_peak_of_driver(fake) == 3 && fake_peak(fake, S3D_VERB_GET) == 6);
    fake_close(fake);
}

static void test_retry(void)
{
    struct fake_store *fake = open_with_object("", 0);
    unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                       .times = 2,
                                                       .at_offset = true,
                                                       .offset = 3,
                                                       .code = S3D_NETWORK});
    prepare(fake, 6);
    submit(fake, 6);
    wait_ended(6);
    check_all_ok(6);
    CHECK(fake_fired(fake, rule) == 2 && fake_attempts(fake, S3D_VERB_GET) == 8);
    CHECK(jobs[3].request.attempts == 3 && jobs[2].request.attempts == 1);
    fake_close(fake);
}

/* Every attempt fails: the first cause is told, with the number of attempts. */
static void test_attempts_run_out(void)
{
    struct fake_store *fake = open_with_object("AWS_MAX_ATTEMPTS=4", 0);
    unsigned later = fake_rule(
        fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 100, .code = S3D_SERVER});
    unsigned first = fake_rule(
        fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1, .code = S3D_NETWORK});
    prepare(fake, 1);
    submit(fake, 1);
    wait_ended(1);
    const struct s3d_error *error = &jobs[0].request.result.error;
    CHECK_CODE(jobs[0].request.result.code, S3D_NETWORK);
    CHECK_CODE(error->code, S3D_NETWORK);
    CHECK(error->attempts == 4);
    CHECK_TEXT(error->operation, "GetObject");
    CHECK_TEXT(error->message, "scripted by rule 1");
    CHECK(fake_fired(fake, first) == 1 && fake_fired(fake, later) == 3);
    struct s3d_stats *stats = &fake_running_engine()->stats;
    CHECK(atomic_load(&stats->requests) == 4 && atomic_load(&stats->retries) == 3 &&
          atomic_load(&stats->failures) == 1);
    fake_close(fake);
}

/* A verdict that no retry can change says more than the failure before it. */
static void test_final_verdict(void)
{
    struct fake_store *fake = open_with_object("", 0);
    unsigned last = fake_rule(
        fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1, .code = S3D_DENIED});
    unsigned first = fake_rule(
        fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1, .code = S3D_NETWORK});
    prepare(fake, 1);
    submit(fake, 1);
    wait_ended(1);
    CHECK_CODE(jobs[0].request.result.code, S3D_DENIED);
    CHECK_TEXT(jobs[0].request.result.error.message, "scripted by rule 0");
    CHECK(jobs[0].request.result.error.attempts == 2);
    CHECK(fake_fired(fake, first) == 1 && fake_fired(fake, last) == 1);
    fake_close(fake);
}

static void test_no_retry(void)
{
    struct fake_store *fake = open_with_object("", 0);
    prepare(fake, 1);
    jobs[0].request.offset_bytes = 1000000;
    submit(fake, 1);
    wait_ended(1);
    CHECK_CODE(jobs[0].request.result.code, S3D_RANGE);
    CHECK(fake_attempts(fake, S3D_VERB_GET) == 1);
    fake_close(fake);
}

/* The server's Retry-After holds the retry back; a cancel does not wait for it. */
static void test_cancel_waiting(void)
{
    struct fake_store *fake = open_with_object("", 0);
    unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                       .times = 1,
                                                       .code = S3D_THROTTLED,
                                                       .retry_after_ms = 300000});
    prepare(fake, 1);
    submit(fake, 1);
    while (!fake_fired(fake, rule)) {
        usleep(200);
    }
    usleep(2000); /* most likely it waits by now; either way it must end */
    s3d_pool_cancel(pool_of(fake), &jobs[0].request);
    wait_ended(1);
    CHECK_CODE(jobs[0].request.result.code, S3D_CANCELLED);
    CHECK_CODE(jobs[0].request.result.error.code, S3D_CANCELLED);
    CHECK(fake_attempts(fake, S3D_VERB_GET) == 1);
    fake_close(fake);
}

static void test_cancel_running(void)
{
    struct fake_store *fake = open_with_object("", 0);
    fake_rule(
        fake,
        (struct fake_rule){
            .verb = S3D_VERB_GET, .times = 1, .at_offset = true, .offset = 1, .hold = true});
    prepare(fake, 3);
    submit(fake, 3);
    fake_wait_held(fake, 1);
    s3d_pool_cancel(pool_of(fake), &jobs[1].request);
    wait_ended(3);
    CHECK_CODE(jobs[1].request.result.code, S3D_CANCELLED);
    CHECK_TEXT(jobs[1].request.result.error.operation, "GetObject");
    CHECK_CODE(jobs[0].request.result.code, S3D_OK);
    CHECK_CODE(jobs[2].request.result.code, S3D_OK);
    CHECK(jobs[1].ended == 1);
    fake_close(fake);
}

/* One is running, the rest is queued; some of the queue is cancelled, from front to back. */
static void test_cancel_queued(void)
{
    struct fake_store *fake = open_with_object("S3DLIO_RT_THREADS=1", 1);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1, .hold = true});
    prepare(fake, 20);
    submit(fake, 20);
    fake_wait_held(fake, 1);
    s3d_pool_cancel(pool_of(fake), &jobs[1].request);
    s3d_pool_cancel(pool_of(fake), &jobs[10].request);
    s3d_pool_cancel(pool_of(fake), &jobs[19].request);
    wait_ended(3);
    fake_release(fake);
    wait_ended(20);
    for (unsigned i = 0; i < 20; i++) {
        bool cancelled = i == 1 || i == 10 || i == 19;
        CHECK(jobs[i].ended == 1);
        CHECK_CODE(jobs[i].request.result.code, cancelled ? S3D_CANCELLED : S3D_OK);
    }
    CHECK(fake_attempts(fake, S3D_VERB_GET) == 17);
    fake_close(fake);
}

/* Cancels that hit requests anywhere on their way: each ends exactly once, none hangs. */
static void test_cancel_races(void)
{
    for (unsigned round = 0; round < 60; round++) {
        struct fake_store *fake;
        if (round % 20 == 0) {
            fake =
                open_with_object(round == 20 ? "S3DLIO_RT_THREADS=1" : "", round == 40 ? 0 : 2);
        } else {
            fake = fake_open();
            static char data[JOBS_MAX];
            fake_put_object(fake, "object", data, sizeof data);
        }
        fake_set_blocking(fake, round % 2);
        prepare(fake, 100);
        for (unsigned i = 0; i < 100; i++) {
            s3d_pool_submit(pool_of(fake), &jobs[i].request);
            if (i % 3 == 0) {
                s3d_pool_cancel(pool_of(fake), &jobs[i / 2].request);
            }
        }
        wait_ended(100);
        for (unsigned i = 0; i < 100; i++) {
            CHECK(jobs[i].ended == 1);
            CHECK(jobs[i].request.result.code == S3D_OK ||
                  jobs[i].request.result.code == S3D_CANCELLED);
        }
        fake_close(fake);
    }
}

/* ---- a pool of one's own ---- */

static struct s3d_config config;
static struct s3d_retry retry;
static struct s3d_stats stats;

static struct s3d_pool *own_pool(unsigned threads)
{
    struct s3d_pool *pool;
    memset(&config, 0, sizeof config);
    config.threads = threads;
    s3d_retry_init(&retry, 3, 64);
    CHECK_CODE(s3d_pool_new(&pool, &fake_driver, &config, &retry, &stats, NULL), S3D_OK);
    return pool;
}

/* Requests queued, running and backing off when the pool stops. */
static void test_stop(void)
{
    struct fake_store *fake = open_with_object("", 2);
    struct s3d_pool *pool = own_pool(2);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 100, .hold = true});
    unsigned throttled = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                            .times = 1,
                                                            .code = S3D_THROTTLED,
                                                            .retry_after_ms = 300000});
    prepare(fake, 10);
    for (unsigned i = 0; i < 9; i++) {
        s3d_pool_submit(pool, &jobs[i].request);
    }
    fake_wait_held(fake, 3);
    CHECK(fake_fired(fake, throttled) == 1);
    s3d_pool_stop(pool);
    CHECK(ended_count == 9);
    for (unsigned i = 0; i < 9; i++) {
        CHECK(jobs[i].ended == 1);
        CHECK_CODE(jobs[i].request.result.code, S3D_CANCELLED);
    }
    s3d_pool_submit(pool, &jobs[9].request);
    CHECK(jobs[9].ended == 1);
    CHECK_CODE(jobs[9].request.result.code, S3D_CANCELLED);
    s3d_pool_cancel(pool, &jobs[9].request);
    s3d_pool_stop(pool);
    s3d_pool_free(pool);
    s3d_pool_free(NULL);
    fake_close(fake);
}

/* A stop that races with threads that are busy: none may lose its driver under the waker. */
static void test_stop_races(void)
{
    struct fake_store *fake = open_with_object("", 0);
    for (unsigned round = 0; round < 200; round++) {
        struct s3d_pool *pool = own_pool(3);
        prepare(fake, 20);
        for (unsigned i = 0; i < 20; i++) {
            s3d_pool_submit(pool, &jobs[i].request);
        }
        s3d_pool_free(pool);
        CHECK(ended_count == 20);
    }
    fake_close(fake);
}

/* `done` submits again, until the pool stops: the last submit must still end. */
static struct s3d_pool *again_pool;

static void submit_again(struct s3d_request *request)
{
    if (request->result.code == S3D_CANCELLED) {
        job_done(request);
        return;
    }
    s3d_request_reset(request);
    s3d_pool_submit(again_pool, request);
}

static void test_submit_from_done(void)
{
    struct fake_store *fake = open_with_object("", 0);
    again_pool = own_pool(2);
    prepare(fake, 4);
    /* By hand, as the store's log is finite: a short time only. */
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 100000, .delay_ms = 1});
    for (unsigned i = 0; i < 4; i++) {
        jobs[i].request.done = submit_again;
        s3d_pool_submit(again_pool, &jobs[i].request);
    }
    while (fake_attempts(fake, S3D_VERB_GET) < 40) {
        usleep(500);
    }
    s3d_pool_stop(again_pool);
    CHECK(ended_count == 4);
    s3d_pool_free(again_pool);
    fake_close(fake);
}

static void test_driver_does_not_open(void)
{
    struct s3d_pool *pool = NULL;
    struct s3d_error error;
    config.threads = 3;
    s3d_retry_init(&retry, 3, 64);
    fake_fail_open(S3D_TLS);
    CHECK_CODE(s3d_pool_new(&pool, &fake_driver, &config, &retry, &stats, &error), S3D_TLS);
    CHECK_CODE(error.code, S3D_TLS);
    CHECK(!pool);
    fake_fail_open(S3D_OK);
}

static enum s3d_code make_pool(void)
{
    struct s3d_pool *pool = NULL;
    struct s3d_error error;
    config.threads = 2;
    enum s3d_code code = s3d_pool_new(&pool, &fake_driver, &config, &retry, &stats, &error);
    CHECK(!code || error.code == code);
    s3d_pool_free(pool);
    return code;
}

/* --- stores that are not ready --- */

static atomic_uint asked, ready_at; /* how often it was asked; from when on it is ready */
static enum s3d_code unready_code;  /* AGAIN, or what it says once before that */

static enum s3d_code ask_ready(struct s3d_store *store, uint64_t *ticket,
                               struct s3d_error *error)
{
    (void)store;
    unsigned before = atomic_fetch_add(&asked, 1);
    if (before >= atomic_load(&ready_at)) {
        return S3D_OK;
    }
    if (unready_code != S3D_AGAIN) {
        *ticket = 0;
        return s3d_fail(error, unready_code, "no keys");
    }
    ++*ticket;
    return S3D_AGAIN;
}

/* The fake's operations, with a readiness of this file's. */
static struct fake_store *open_unready(enum s3d_code code, unsigned from, const char *settings)
{
    static struct s3d_store_ops ops;
    struct fake_store *fake = open_with_object(settings, 0);
    ops = *fake_base(fake)->ops;
    ops.ready = ask_ready;
    fake_base(fake)->ops = &ops;
    unready_code = code;
    atomic_store(&asked, 0);
    atomic_store(&ready_at, from);
    return fake;
}

/* Requests wait without an attempt, each with a ticket of its own, and nobody need wake the pool. */
static void test_not_ready(void)
{
    struct fake_store *fake = open_unready(S3D_AGAIN, 100, "");
    prepare(fake, 8);
    submit(fake, 8);
    wait_ended(8);
    check_all_ok(8);
    unsigned tickets = 0;
    for (unsigned i = 0; i < 8; i++) {
        CHECK(jobs[i].request.attempts == 1);
        tickets += (unsigned)jobs[i].request.ticket;
    }
    CHECK(atomic_load(&asked) == 108 && tickets == 100);
    fake_close(fake);
}

static void test_never_ready(void)
{
    struct fake_store *fake = open_unready(S3D_NO_CREDENTIALS, UINT_MAX, "");
    prepare(fake, 4);
    submit(fake, 4);
    wait_ended(4);
    for (unsigned i = 0; i < 4; i++) {
        CHECK_CODE(jobs[i].request.result.code, S3D_NO_CREDENTIALS);
        CHECK_TEXT(jobs[i].request.result.error.message, "no keys");
        CHECK_TEXT(jobs[i].request.result.error.operation, "GetObject");
    }
    CHECK(atomic_load(&asked) == 4);
    fake_close(fake);
}

/* What may pass is tried again, as often as any attempt. */
static void test_ready_after_failures(void)
{
    struct fake_store *fake = open_unready(S3D_NETWORK, 2, "AWS_MAX_ATTEMPTS=5");
    prepare(fake, 1);
    submit(fake, 1);
    wait_ended(1);
    check_all_ok(1);
    CHECK(jobs[0].request.attempts == 3);
    atomic_store(&asked, 0);
    atomic_store(&ready_at, UINT_MAX);
    prepare(fake, 1);
    submit(fake, 1);
    wait_ended(1);
    CHECK_CODE(jobs[0].request.result.code, S3D_NETWORK);
    CHECK(atomic_load(&asked) == 5 && jobs[0].request.result.error.attempts == 5);
    fake_close(fake);
}

static void test_cancel_not_ready(void)
{
    struct fake_store *fake = open_unready(S3D_AGAIN, UINT_MAX, "");
    prepare(fake, 8);
    submit(fake, 8);
    while (atomic_load(&asked) < 20) {
        usleep(1000);
    }
    for (unsigned i = 0; i < 8; i++) {
        s3d_pool_cancel(pool_of(fake), &jobs[i].request);
    }
    wait_ended(8);
    for (unsigned i = 0; i < 8; i++) {
        CHECK_CODE(jobs[i].request.result.code, S3D_CANCELLED);
    }
    fake_close(fake);
}

static void test_out_of_memory(void)
{
    CHECK(test_torture(make_pool, 0) == 2);
}

int main(void)
{
    alarm(60);
    setvbuf(stdout, NULL, _IONBF, 0);
    CHECK_CODE(s3d_latch_init(&latch, NULL), S3D_OK);
    RUN(test_many);
    RUN(test_order);
    RUN(test_blocking_driver);
    RUN(test_blocking_retry);
    RUN(test_fair_share);
    RUN(test_capacity);
    RUN(test_retry);
    RUN(test_attempts_run_out);
    RUN(test_final_verdict);
    RUN(test_no_retry);
    RUN(test_cancel_waiting);
    RUN(test_cancel_running);
    RUN(test_cancel_queued);
    RUN(test_cancel_races);
    RUN(test_stop);
    RUN(test_stop_races);
    RUN(test_submit_from_done);
    RUN(test_driver_does_not_open);
    RUN(test_not_ready);
    RUN(test_never_ready);
    RUN(test_ready_after_failures);
    RUN(test_cancel_not_ready);
    RUN(test_out_of_memory);
    s3d_engine_shutdown();
    return 0;
}
