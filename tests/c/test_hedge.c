/* Stragglers: what counts as late, how often it is asked for again, and how the pool does it. */
#include "fake_store.h"
#include "test.h"

#include "core/hedge.h"
#include "core/latch.h"
#include "core/pool.h"

#include <unistd.h>

/* ---- what is late ---- */

static void answer(struct s3d_hedge *hedge, uint64_t site, unsigned count, int64_t wait_ms)
{
    for (unsigned i = 0; i < count; i++) {
        s3d_hedge_answered(hedge, site, wait_ms);
    }
}

static void test_limit(void)
{
    struct s3d_hedge hedge;
    s3d_hedge_init(&hedge, 100);
    answer(&hedge, 1, 15, 400);
    CHECK(s3d_hedge_limit_ms(&hedge, 1) < 0); /* nobody knows yet */
    answer(&hedge, 1, 1, 400);
    int64_t limit_ms = s3d_hedge_limit_ms(&hedge, 1);
    CHECK(limit_ms > 600 && limit_ms <= 750);
    CHECK(s3d_hedge_limit_ms(&hedge, 2) < 0);                   /* another store */
    CHECK(s3d_hedge_limit_ms(&hedge, 1 + S3D_HEDGE_SITES) > 0); /* one that shares the number */
    answer(&hedge, 2, 100, 0);
    CHECK(s3d_hedge_limit_ms(&hedge, 2) == 100);
    answer(&hedge, 3, 100, 9000);
    CHECK(s3d_hedge_limit_ms(&hedge, 3) < 0); /* slow, not late */
    answer(&hedge, 4, 100, INT64_MAX);
    answer(&hedge, 4, 1, -1);
    CHECK(s3d_hedge_limit_ms(&hedge, 4) < 0);
    s3d_hedge_fini(&hedge);
}

/* Every wait falls into a step whose end is behind it, by a quarter at most. */
static void test_steps(void)
{
    for (int64_t wait_ms = 1; wait_ms < 6000; wait_ms++) {
        struct s3d_hedge hedge;
        s3d_hedge_init(&hedge, 1);
        answer(&hedge, 0, 16, wait_ms);
        int64_t limit_ms = s3d_hedge_limit_ms(&hedge, 0);
        if (wait_ms < 5000) {
            CHECK(limit_ms >= (wait_ms + 1) * 3 / 2);
            CHECK(limit_ms <= (wait_ms + 1 + wait_ms / 4) * 3 / 2);
        }
        s3d_hedge_fini(&hedge);
    }
}

/* One answer in a hundred that takes long changes nothing; one in ten does. */
static void test_tail(void)
{
    struct s3d_hedge hedge;
    s3d_hedge_init(&hedge, 50);
    for (unsigned i = 0; i < 20; i++) {
        answer(&hedge, 0, 99, 20);
        answer(&hedge, 0, 1, 5000);
    }
    CHECK(s3d_hedge_limit_ms(&hedge, 0) == 50);
    for (unsigned i = 0; i < 200; i++) {
        answer(&hedge, 0, 9, 20);
        answer(&hedge, 0, 1, 5000);
    }
    CHECK(s3d_hedge_limit_ms(&hedge, 0) > 5000);
    answer(&hedge, 0, 10000, 20); /* and is forgotten */
    CHECK(s3d_hedge_limit_ms(&hedge, 0) == 50);
    s3d_hedge_fini(&hedge);
}

/* Ten at once, then one for every twenty answers. */
static void test_bucket(void)
{
    struct s3d_hedge hedge;
    s3d_hedge_init(&hedge, 100);
    answer(&hedge, 0, 1000, 1);
    for (unsigned i = 0; i < 10; i++) {
        CHECK(s3d_hedge_allowed(&hedge, 0, 100));
    }
    CHECK(!s3d_hedge_allowed(&hedge, 0, 100));
    answer(&hedge, 0, 19, 1);
    CHECK(!s3d_hedge_allowed(&hedge, 0, 100));
    answer(&hedge, 0, 1, 1);
    CHECK(s3d_hedge_allowed(&hedge, 0, 100));
    CHECK(!s3d_hedge_allowed(&hedge, 0, 100));
    s3d_hedge_fini(&hedge);
}

/* A store that has become slow is learned of from hedges alone, before any slow answer has come. */
static void test_cut_short(void)
{
    struct s3d_hedge hedge;
    s3d_hedge_init(&hedge, 10);
    answer(&hedge, 0, 100, 1);
    for (unsigned i = 0; i < 10; i++) {
        CHECK(s3d_hedge_allowed(&hedge, 0, 300));
    }
    CHECK(s3d_hedge_limit_ms(&hedge, 0) > 300);
    s3d_hedge_fini(&hedge);
}

/* ---- in the pool ---- */

enum { JOBS = 400 };

struct job {
    struct s3d_request request;
    struct s3d_span span;
    char byte;
};

static struct s3d_latch latch;
static struct job jobs[JOBS];

static void job_done(struct s3d_request *request)
{
    (void)request;
    s3d_latch_lock(&latch);
    latch.in_flight--;
    s3d_latch_notify_locked(&latch);
    s3d_latch_unlock(&latch);
}

static void submit(struct fake_store *fake, unsigned first, unsigned count)
{
    for (unsigned i = first; i < first + count; i++) {
        struct job *job = &jobs[i];
        memset(job, 0, sizeof *job);
        job->span = (struct s3d_span){&job->byte, 1};
        job->request = (struct s3d_request){.verb = S3D_VERB_GET,
                                            .store = fake_base(fake),
                                            .key = "object",
                                            .offset_bytes = i,
                                            .length_bytes = 1,
                                            .spans = &job->span,
                                            .span_count = 1,
                                            .done = job_done,
                                            .owner = job};
        s3d_request_reset(&job->request);
        s3d_latch_lock(&latch);
        latch.in_flight++;
        s3d_latch_unlock(&latch);
        s3d_pool_submit(fake_base(fake)->pool, &job->request);
    }
}

static void wait_all(unsigned first, unsigned count)
{
    s3d_latch_lock(&latch);
    while (latch.in_flight) {
        s3d_latch_wait_locked(&latch, -1);
    }
    s3d_latch_unlock(&latch);
    for (unsigned i = first; i < first + count; i++) {
        CHECK_CODE(jobs[i].request.result.code, S3D_OK);
        CHECK(fake_pattern_is(&jobs[i].byte, 1, 1, i));
    }
}

static void run_jobs(struct fake_store *fake, unsigned first, unsigned count)
{
    submit(fake, first, count);
    wait_all(first, count);
}

static struct fake_store *open_watched(const char *settings)
{
    static char data[JOBS];
    fake_set_capacity(0);
    fake_engine(settings);
    struct fake_store *fake = fake_open();
    fake_pattern(data, sizeof data, 1);
    fake_put_object(fake, "object", data, sizeof data);
    fake_set_watched(fake, true);
    return fake;
}

static uint64_t hedges(void)
{
    return atomic_load(&fake_running_engine()->stats.hedges);
}

static struct fake_rule hold_rule(uint64_t offset, unsigned times)
{
    return (struct fake_rule){.verb = S3D_VERB_GET,
                              .times = times,
                              .at_offset = true,
                              .offset = offset,
                              .hold = true};
}

/* The first attempt never ends; the second one does, and is not called a retry. */
static void test_reissue(void)
{
    struct fake_store *fake = open_watched("S3DLIO_HEDGE=10");
    run_jobs(fake, 0, 100);
    unsigned held = fake_rule(fake, hold_rule(150, 1));
    run_jobs(fake, 100, 100);
    struct s3d_stats *stats = &fake_running_engine()->stats;
    CHECK(fake_fired(fake, held) == 1);
    CHECK(hedges() >= 1 && jobs[150].request.hedges >= 1);
    CHECK(jobs[150].request.attempts == 1 && atomic_load(&stats->retries) == 0);
    CHECK(atomic_load(&stats->requests) == 200 + hedges());
    fake_close(fake);
}

/* A hedge that fails is a failed attempt, and is tried again as ever. */
static void test_hedge_fails(void)
{
    struct fake_store *fake = open_watched("S3DLIO_HEDGE=10");
    run_jobs(fake, 0, 100);
    struct fake_rule failing = hold_rule(100, 1);
    failing.hold = false;
    failing.code = S3D_NETWORK;
    unsigned failed = fake_rule(fake, failing);
    unsigned held = fake_rule(fake, hold_rule(100, 1));
    run_jobs(fake, 100, 1);
    CHECK(fake_fired(fake, held) == 1 && fake_fired(fake, failed) == 1);
    CHECK(jobs[100].request.attempts == 2);
    CHECK(atomic_load(&fake_running_engine()->stats.retries) == 1);
    fake_close(fake);
}

/* Each hedge waits twice as long as the one before, and after three of them the last attempt has all
 * the time it wants. */
static void test_at_most_three(void)
{
    struct fake_store *fake = open_watched("S3DLIO_HEDGE=5");
    run_jobs(fake, 0, 100);
    unsigned held = fake_rule(fake, hold_rule(100, 1000));
    submit(fake, 100, 1);
    while (fake_fired(fake, held) < 1 + S3D_HEDGES_MAX) {
        usleep(500);
    }
    usleep(300 * 1000); /* several looks */
    CHECK(fake_fired(fake, held) == 1 + S3D_HEDGES_MAX);
    fake_release(fake);
    wait_all(100, 1);
    CHECK(jobs[100].request.hedges == S3D_HEDGES_MAX && jobs[100].request.attempts == 1);
    fake_close(fake);
}

static void check_never(const char *settings, unsigned known, bool watched)
{
    struct fake_store *fake = open_watched(settings);
    fake_set_watched(fake, watched);
    run_jobs(fake, 0, known);
    unsigned held = fake_rule(fake, hold_rule(known, 1));
    submit(fake, known, 1);
    fake_wait_held(fake, 1);
    usleep(100 * 1000);
    CHECK(fake_fired(fake, held) == 1 && hedges() == 0);
    fake_release(fake);
    wait_all(known, 1);
    CHECK(hedges() == 0);
    fake_close(fake);
}

static void test_never(void)
{
    check_never("S3DLIO_HEDGE=0", 100, true);
    check_never("S3DLIO_HEDGE=5", 3, true);    /* too little is known */
    check_never("S3DLIO_HEDGE=5", 100, false); /* a driver that does not tell */
}

/* Quick at first, then every answer takes long: not all of it is asked for twice. */
static void test_slow_store(void)
{
    struct fake_store *fake = open_watched("S3DLIO_HEDGE=5");
    run_jobs(fake, 0, 50);
    unsigned slow = fake_rule(
        fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 10000, .delay_ms = 60});
    run_jobs(fake, 50, JOBS - 50);
    CHECK(fake_fired(fake, slow) == JOBS - 50 + hedges());
    CHECK(hedges() >= 1);
    CHECK(hedges() * 20 <= 200 + JOBS);
    fake_close(fake);
}

/* A cancel ends a request for good, whatever is being done about its lateness. */
static void test_cancel(void)
{
    struct fake_store *fake = open_watched("S3DLIO_HEDGE=1");
    run_jobs(fake, 0, 100);
    for (unsigned i = 100; i < 150; i++) {
        fake_rule(fake, hold_rule(i, 1000));
        submit(fake, i, 1);
        usleep(i * 20);
        s3d_pool_cancel(fake_base(fake)->pool, &jobs[i].request);
        s3d_latch_lock(&latch);
        while (latch.in_flight) {
            s3d_latch_wait_locked(&latch, -1);
        }
        s3d_latch_unlock(&latch);
        CHECK_CODE(jobs[i].request.result.code, S3D_CANCELLED);
        fake_rules_clear(fake);
    }
    run_jobs(fake, 150, 50);
    fake_close(fake);
}

int main(void)
{
    alarm(60);
    CHECK_CODE(s3d_latch_init(&latch, NULL), S3D_OK);
    RUN(test_limit);
    RUN(test_steps);
    RUN(test_tail);
    RUN(test_bucket);
    RUN(test_cut_short);
    RUN(test_reissue);
    RUN(test_hedge_fails);
    RUN(test_at_most_three);
    RUN(test_never);
    RUN(test_slow_store);
    RUN(test_cancel);
    s3d_engine_shutdown();
    s3d_latch_fini(&latch);
    return 0;
}
