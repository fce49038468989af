/* Parallel ranged reads into memory: splitting, waiting, pieces, failures, far stores. */
#include "get_test.h"

#include <pthread.h>
#include <unistd.h>

/* Reads [offset, offset + length) and checks every byte and what lies around it. */
static void read_and_check(struct fake_store *fake, uint64_t offset, uint64_t length,
                           unsigned concurrency)
{
    char *data = fake_memory(length + 2);
    memset(data, 0x55, length + 2);
    struct s3d_segment segment = {offset, length, data + 1};
    fake_counters_clear(fake);
    struct s3d_get *get = start(fake, &segment, 1, concurrency);
    CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_OK);
    CHECK(fake_pattern_is(data + 1, length, 1, offset));
    CHECK(data[0] == 0x55 && data[length + 1] == 0x55);
    CHECK(fake_attempts(fake, S3D_VERB_GET) == (length + PART - 1) / PART);
    CHECK(fake_peak(fake, S3D_VERB_GET) <= concurrency);
    s3d_get_free(get);
    free(data);
}

static void test_splits(void)
{
    static const uint64_t lengths[] = {
        0, 1, PART - 1, PART, PART + 1, 2 * PART - 1, 2 * PART, 7 * PART / 2, 10 * PART + 1};
    static const uint64_t offsets[] = {0, 1, PART - 1, PART, 12345};
    static const unsigned concurrencies[] = {1, 2, 3, 64};
    struct fake_store *fake = fake_open_with(16 * PART, 1);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (size_t j = 0; j < sizeof offsets / sizeof *offsets; j++) {
            for (size_t k = 0; k < sizeof concurrencies / sizeof *concurrencies; k++) {
                read_and_check(fake, offsets[j], lengths[i], concurrencies[k]);
            }
        }
    }
    fake_set_blocking(fake, true);
    read_and_check(fake, 5, 10 * PART + 1, 4);
    fake_close(fake);
}

/* ---- waiting ---- */

/* `concurrency` ranges at once, never more, and as many as that. */
static void test_concurrency(void)
{
    struct fake_store *fake = fake_open_with(40 * PART, 1);
    char *data = fake_memory(40 * PART);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 5, .hold = true});
    struct s3d_segment segment = {0, 40 * PART, data};
    struct s3d_get *get = start(fake, &segment, 1, 5);
    fake_wait_held(fake, 5);
    CHECK_CODE(s3d_get_wait(get, 0, 1, 0, NULL), S3D_AGAIN);
    CHECK_CODE(s3d_get_wait_all(get, 1, NULL), S3D_AGAIN);
    fake_release(fake);
    CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_OK);
    CHECK(fake_peak(fake, S3D_VERB_GET) == 5 && fake_attempts(fake, S3D_VERB_GET) == 40);
    CHECK(fake_pattern_is(data, 40 * PART, 1, 0));
    s3d_get_free(get);
    free(data);
    fake_close(fake);
}

/* One range is held: all segments that do not touch it are there, before it and behind. */
static void test_one_late_range(void)
{
    struct fake_store *fake = fake_open_with(10 * PART, 1);
    char *data = fake_memory(10 * PART);
    struct s3d_segment segments[10];
    cut_in_parts(segments, 10, data);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                       .times = 1,
                                       .at_offset = true,
                                       .offset = 3 * PART,
                                       .hold = true});
    struct s3d_get *get = start(fake, segments, 10, 4);
    CHECK_CODE(s3d_get_wait(get, 0, 0, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_get_wait(get, 3, 0, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_get_wait(get, 10, 0, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_get_wait(get, 0, 3, -1, NULL), S3D_OK);
    CHECK(fake_pattern_is(data, 3 * PART, 1, 0));
    CHECK_CODE(s3d_get_wait(get, 4, 6, -1, NULL), S3D_OK);
    CHECK(fake_pattern_is(data + 4 * PART, 6 * PART, 1, 4 * PART));
    CHECK_CODE(s3d_get_wait(get, 3, 1, 20, NULL), S3D_AGAIN);
    CHECK_CODE(s3d_get_wait(get, 2, 3, 0, NULL), S3D_AGAIN);
    CHECK_CODE(s3d_get_wait_all(get, 1, NULL), S3D_AGAIN);
    fake_release(fake);
    CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_OK);
    CHECK(fake_pattern_is(data, 10 * PART, 1, 0));
    s3d_get_free(get);
    free(data);
    fake_close(fake);
}

/* Ranges that end in every order: each segment is there when its own last range has ended. */
static void test_ends_in_any_order(void)
{
    enum { COUNT = 4 };
    struct fake_store *fake = fake_open_with(COUNT * PART, 1);
    char *data = fake_memory(COUNT * PART);
    /* Segment 1 lies in ranges 0 and 1, segment 2 in 1, 2 and 3. */
    struct s3d_segment segments[] = {{0, PART / 2, data},
                                     {PART / 2, PART, data + PART / 2},
                                     {3 * PART / 2, 2 * PART, data + 3 * PART / 2},
                                     {7 * PART / 2, PART / 2, data + 7 * PART / 2}};
    static const unsigned needs[] = {1, 1 | 2, 2 | 4 | 8, 8};
    for (unsigned order = 0; order < COUNT * COUNT * COUNT * COUNT; order++) {
        unsigned turns[COUNT], seen = 0;
        for (unsigned i = 0, left = order; i < COUNT; i++, left /= COUNT) {
            turns[i] = left % COUNT;
            seen |= 1u << turns[i];
        }
        if (seen != 15) {
            continue; /* no permutation */
        }
        fake_rules_clear(fake);
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = COUNT, .hold = true});
        struct s3d_get *get = start(fake, segments, COUNT, COUNT);
        fake_wait_held(fake, COUNT);
        for (unsigned i = 0, ended = 0; i < COUNT; i++) {
            for (unsigned j = 0; j < COUNT; j++) {
                bool there = (needs[j] & ended) == needs[j];
                CHECK_CODE(s3d_get_wait(get, j, 1, there ? -1 : 0, NULL),
                           there ? S3D_OK : S3D_AGAIN);
            }
            fake_release_offset(fake, turns[i] * PART);
            ended |= 1u << turns[i];
        }
        CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_OK);
        s3d_get_free(get);
        CHECK(fake_pattern_is(data, COUNT * PART, 1, 0));
        memset(data, 0, COUNT * PART);
    }
    free(data);
    fake_close(fake);
}

static void test_wait_out_of_bounds(void)
{
    struct fake_store *fake = fake_open_with(10 * PART, 1);
    char *data = fake_memory(10 * PART);
    struct s3d_segment segments[10];
    struct s3d_error error;
    cut_in_parts(segments, 10, data);
    struct s3d_get *get = start(fake, segments, 10, 4);
    CHECK_CODE(s3d_get_wait(get, 11, 0, -1, &error), S3D_INVALID);
    CHECK_CODE(s3d_get_wait(get, 0, 11, -1, &error), S3D_INVALID);
    CHECK_CODE(s3d_get_wait(get, 9, 2, -1, &error), S3D_INVALID);
    CHECK_CODE(s3d_get_wait(get, 1, SIZE_MAX, -1, &error), S3D_INVALID);
    CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_OK); /* no harm done */
    s3d_get_free(get);
    free(data);
    fake_close(fake);
}

/* ---- pieces ---- */

struct piece_script {
    atomic_uint calls;
    unsigned fail_at;            /* the call that fails; 0: none */
    pthread_barrier_t *together; /* calls wait for each other */
};

static enum s3d_code scripted_piece(void *context, size_t segment, uint64_t offset,
                                    const char *data, uint64_t length, struct s3d_error *error)
{
    (void)data;
    (void)offset;
    (void)length;
    struct piece_script *script = context;
    if (script->together) {
        pthread_barrier_wait(script->together);
    }
    if (atomic_fetch_add(&script->calls, 1) + 1 == script->fail_at) {
        return s3d_fail(error, S3D_INTEGRITY, "segment %zu is garbled", segment);
    }
    return S3D_OK;
}

/* Two threads are inside `piece` at once: each waits there for the other. */
static void test_pieces_at_once(void)
{
    struct fake_store *fake = fake_open_with(2 * PART, 1);
    char *data = fake_memory(2 * PART);
    struct s3d_segment segments[2];
    cut_in_parts(segments, 2, data);
    pthread_barrier_t together;
    CHECK(pthread_barrier_init(&together, NULL, 2) == 0);
    for (int round = 0; round < 20; round++) {
        struct piece_script script = {.together = &together};
        struct s3d_get_plan plan = plan_for(segments, 2, 2);
        plan.piece = scripted_piece;
        plan.context = &script;
        fake_rules_clear(fake);
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 2, .hold = true});
        struct s3d_get *get;
        CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
        fake_wait_held(fake, 2);
        CHECK(fake_held_by(fake, 0) == 1 && fake_held_by(fake, 1) == 1);
        fake_release(fake);
        CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_OK);
        CHECK(atomic_load(&script.calls) == 2);
        s3d_get_free(get);
    }
    pthread_barrier_destroy(&together);
    free(data);
    fake_close(fake);
}

/* A piece that is refused fails the get, and the ranges that would never end are cancelled. */
static void test_piece_refused(void)
{
    struct fake_store *fake = fake_open_with(20 * PART, 1);
    char *data = fake_memory(20 * PART);
    struct s3d_segment segments[20];
    cut_in_parts(segments, 20, data);
    for (unsigned fail_at = 1; fail_at <= 20; fail_at += fail_at < 4 ? 1 : 8) {
        struct piece_script script = {.fail_at = fail_at};
        struct s3d_get_plan plan = plan_for(segments, 20, 4);
        plan.piece = scripted_piece;
        plan.context = &script;
        fake_rules_clear(fake);
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_GET, .skip = fail_at, .times = 100, .hold = true});
        struct s3d_get *get;
        struct s3d_error error, again;
        CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
        CHECK_CODE(s3d_get_wait_all(get, -1, &error), S3D_INTEGRITY);
        CHECK(strstr(error.message, "is garbled") != NULL);
        CHECK(atomic_load(&script.calls) == fail_at);
        CHECK_CODE(s3d_get_wait(get, 19, 1, -1, &again), S3D_INTEGRITY);
        CHECK_TEXT(again.message, error.message);
        s3d_get_free(get);
        CHECK(atomic_load(&script.calls) == fail_at);
    }
    free(data);
    fake_close(fake);
}

/* The refusal is the first of several pieces of one range: the later ones are not told. */
static void test_refused_within_a_range(void)
{
    struct fake_store *fake = fake_open_with(PART, 1);
    char *data = fake_memory(PART);
    struct s3d_segment segments[8];
    for (size_t i = 0; i < 8; i++) {
        segments[i] = (struct s3d_segment){i * 100, 50, data + i * 50};
    }
    struct piece_script script = {.fail_at = 3};
    struct s3d_get_plan plan = plan_for(segments, 8, 4);
    plan.piece = scripted_piece;
    plan.context = &script;
    struct s3d_get *get;
    struct s3d_error error;
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
    CHECK_CODE(s3d_get_wait(get, 0, 1, -1, &error), S3D_INTEGRITY);
    CHECK_TEXT(error.message, "segment 2 is garbled");
    CHECK(atomic_load(&script.calls) == 3);
    s3d_get_free(get);
    free(data);
    fake_close(fake);
}

/* Pieces of a range that is short or of another version are not told of. */
static void test_no_wrong_pieces(void)
{
    struct fake_store *fake = fake_open_with(PART, 1);
    char *data = fake_memory(PART);
    struct s3d_segment segment = {0, PART, data};
    for (int wrong_etag = 0; wrong_etag <= 1; wrong_etag++) {
        struct piece_script script = {0};
        struct s3d_get_plan plan = plan_for(&segment, 1, 1);
        plan.piece = scripted_piece;
        plan.context = &script;
        plan.if_match = "\"v1\"";
        fake_rules_clear(fake);
        unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                           .times = 1,
                                                           .wrong_etag = wrong_etag,
                                                           .missing = !wrong_etag});
        struct s3d_get *get;
        CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
        CHECK_CODE(s3d_get_wait_all(get, -1, NULL), wrong_etag ? S3D_CHANGED : S3D_RANGE);
        CHECK(fake_fired(fake, rule) == 1 && atomic_load(&script.calls) == 0);
        s3d_get_free(get);
    }
    free(data);
    fake_close(fake);
}

/* ---- failures ---- */

static void expect_failure(struct fake_store *fake, const struct s3d_get_plan *plan,
                           enum s3d_code expected, struct s3d_error *error)
{
    struct s3d_get *get;
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), plan, error), S3D_OK);
    CHECK_CODE(s3d_get_wait_all(get, -1, error), expected);
    CHECK_CODE(error->code, expected);
    struct s3d_error again;
    CHECK_CODE(s3d_get_wait_all(get, 0, &again), expected);
    CHECK_TEXT(again.message, error->message);
    s3d_get_free(get);
}

/* Another ETag in one range: never a mixture of two versions. */
static void test_changed(void)
{
    struct fake_store *fake = fake_open_with(10 * PART, 1);
    char *data = fake_memory(10 * PART);
    struct s3d_segment segment = {0, 10 * PART, data};
    struct s3d_get_plan plan = plan_for(&segment, 1, 4);
    struct s3d_error error;
    unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                       .times = 1,
                                                       .at_offset = true,
                                                       .offset = 7 * PART,
                                                       .wrong_etag = true});
    expect_failure(fake, &plan, S3D_CHANGED, &error);
    CHECK(fake_fired(fake, rule) == 1);
    fake_rules_clear(fake);
    plan.if_match = "\"v0\"";
    expect_failure(fake, &plan, S3D_CHANGED, &error);
    /* A store that does not look at If-Match does not get away with another version. */
    fake_set_ignore_if_match(fake, true);
    expect_failure(fake, &plan, S3D_CHANGED, &error);
    free(data);
    fake_close(fake);
}

/* A range that fails ends the others, and its error is the one that is told. */
static void test_failing_range(void)
{
    struct fake_store *fake = fake_open_with(64 * PART, 1);
    char *data = fake_memory(64 * PART);
    struct s3d_segment segment = {0, 64 * PART, data};
    struct s3d_get_plan plan = plan_for(&segment, 1, 8);
    struct s3d_error error;
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1000, .hold = true});
    unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                       .times = 1,
                                                       .at_offset = true,
                                                       .offset = 2 * PART,
                                                       .delay_ms = 5,
                                                       .code = S3D_DENIED});
    expect_failure(fake, &plan, S3D_DENIED, &error); /* the held ones never end by themselves */
    CHECK_TEXT(error.message, "scripted by rule 1");
    CHECK_TEXT(error.operation, "GetObject");
    CHECK(fake_fired(fake, rule) == 1);
    CHECK(fake_attempts(fake, S3D_VERB_GET) <= 8);
    free(data);
    fake_close(fake);
}

static void test_retried_range(void)
{
    struct fake_store *fake = fake_open_with(10 * PART, 1);
    unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                       .times = 2,
                                                       .at_offset = true,
                                                       .offset = 2 * PART,
                                                       .code = S3D_NETWORK});
    char *data = fake_memory(10 * PART);
    struct s3d_segment segments[10];
    cut_in_parts(segments, 10, data);
    struct s3d_get *get = start(fake, segments, 10, 4);
    CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_OK);
    CHECK(fake_fired(fake, rule) == 2 && fake_pattern_is(data, 10 * PART, 1, 0));
    s3d_get_free(get);
    free(data);
    fake_close(fake);
}

static void test_beyond_the_end(void)
{
    struct fake_store *fake = fake_open_with(10 * PART, 1);
    char *data = fake_memory(10 * PART);
    struct s3d_error error;
    struct s3d_segment segment = {1, 10 * PART, data};
    struct s3d_get_plan plan = plan_for(&segment, 1, 4);
    expect_failure(fake, &plan, S3D_RANGE, &error);
    segment = (struct s3d_segment){100 * PART, 1, data};
    expect_failure(fake, &plan, S3D_RANGE, &error);
    struct s3d_segment last_is_wrong[] = {
        {0, 10, data}, {20, PART, data + 10}, {10 * PART - 5, 6, data + 10 + PART}};
    plan = plan_for(last_is_wrong, 3, 4);
    expect_failure(fake, &plan, S3D_RANGE, &error);
    plan.key = "other";
    expect_failure(fake, &plan, S3D_NOT_FOUND, &error);
    free(data);
    fake_close(fake);
}

/* A driver that says OK but brought less than asked: an error, never stale memory. */
static void test_short_answer(void)
{
    struct fake_store *fake = fake_open_with(10 * PART, 1);
    char *data = fake_memory(10 * PART);
    struct s3d_error error;
    struct s3d_segment segment = {0, 10 * PART, data};
    struct s3d_get_plan plan = plan_for(&segment, 1, 4);
    unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                       .times = 1,
                                                       .at_offset = true,
                                                       .offset = 5 * PART,
                                                       .missing = 1});
    expect_failure(fake, &plan, S3D_RANGE, &error);
    CHECK(fake_fired(fake, rule) == 1);
    free(data);
    fake_close(fake);
}

/* Freed while ranges run: joined, and the memory may go away at once. */
static void test_free_while_running(void)
{
    struct fake_store *fake = fake_open_with(64 * PART, 1);
    for (unsigned round = 0; round < 30; round++) {
        bool hold = round % 3 == 0;
        fake_counters_clear(fake);
        fake_rules_clear(fake);
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                           .times = 1000,
                                           .hold = hold,
                                           .skip = hold ? 3 : 0,
                                           .delay_ms = hold ? 0 : 1});
        char *data = fake_memory(64 * PART);
        struct s3d_segment segments[64];
        cut_in_parts(segments, 64, data);
        struct s3d_get *get = start(fake, segments, 64, 8);
        memset(segments, 0, sizeof segments); /* they were copied */
        if (hold) {
            fake_wait_held(fake, 8);
        } else if (round % 3 == 1) {
            CHECK_CODE(s3d_get_wait(get, 0, 8, -1, NULL), S3D_OK);
        }
        s3d_get_free(get);
        memset(data, 0x55, 64 * PART);
        fake_release(fake);
        usleep(300);
        for (size_t i = 0; i < 64 * PART; i += 64) {
            CHECK(data[i] == 0x55);
        }
        free(data);
    }
    s3d_get_free(NULL);
    fake_close(fake);
}

static void test_invalid(void)
{
    struct fake_store *fake = fake_open_with(1, 1);
    struct s3d_get *get;
    struct s3d_error error;
    struct s3d_get_plan plan = plan_for(NULL, 0, 0);
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, &error), S3D_INVALID);
    plan = plan_for(NULL, 0, 1);
    plan.part_bytes = 0;
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_INVALID);
    fake_close(fake);
}

static void test_shutdown(void)
{
    struct fake_store *fake = fake_open_with(10 * PART, 1);
    char *data = fake_memory(10 * PART);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1000, .hold = true});
    struct s3d_segment segment = {0, 10 * PART, data};
    struct s3d_get *get = start(fake, &segment, 1, 4);
    fake_wait_held(fake, 4);
    s3d_engine_shutdown();
    CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_CLOSED);
    s3d_get_free(get);
    struct s3d_get_plan plan = plan_for(&segment, 1, 4);
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_CLOSED);
    free(data);
    fake_close(fake);
    fake_engine("");
}

static struct fake_store *torture_fake;
static uint64_t torture_gap;

static enum s3d_code get_once(void)
{
    char *data = fake_memory(10 * PART);
    struct s3d_segment segments[10];
    cut_in_parts(segments, 10, data);
    for (size_t i = 0; i < 10; i++) {
        segments[i].length_bytes -= torture_gap;
    }
    struct s3d_get_plan plan = plan_for(segments, 10, 4);
    plan.if_match = "\"v1\"";
    struct s3d_error error = {0};
    struct s3d_get *get = NULL;
    enum s3d_code code = s3d_get_new(&get, fake_base(torture_fake), &plan, &error);
    if (!code) {
        code = s3d_get_wait_all(get, -1, &error);
    }
    CHECK(code == error.code);
    for (size_t i = 0; !code && i < 10; i++) {
        CHECK(fake_pattern_is(data + i * PART, PART - torture_gap, 1, i * PART));
    }
    s3d_get_free(get);
    free(data);
    return code;
}

static void test_out_of_memory(void)
{
    torture_fake = fake_open_with(10 * PART, 1);
    torture_gap = 0;
    CHECK(test_torture(get_once, 0) == 5 + 4); /* its own, and each slot's spans */
    torture_gap = 1;
    CHECK(test_torture(get_once, 0) == 5 + 4 + 4); /* and each slot's gap */
    fake_close(torture_fake);
}

/* ---- far stores ---- */

enum { FAR_US = 10000, FAR_RATE = 100000000, MIB = 1024 * 1024 };

/* Gets the segments by one request at a time, checks them, and returns how many it took. */
static unsigned get_far(struct fake_store *fake, const struct s3d_segment *segments,
                        size_t count, uint64_t part_max, int64_t latency_us)
{
    struct s3d_get_plan plan = plan_for(segments, count, 1);
    plan.part_bytes = MIB;
    plan.part_max_bytes = part_max;
    plan.latency_us = latency_us;
    struct s3d_get *get;
    fake_counters_clear(fake);
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
    CHECK(s3d_get_requests(get) == 1);
    CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_OK);
    s3d_get_free(get);
    for (size_t i = 0; i < count; i++) {
        CHECK(fake_pattern_is(segments[i].data, segments[i].length_bytes, 1,
                              segments[i].offset_bytes));
        memset(segments[i].data, 0, segments[i].length_bytes);
    }
    const struct fake_line *lines;
    size_t lines_count = fake_log(fake, &lines);
    for (size_t i = 0; i < lines_count; i++) {
        CHECK(lines[i].length <= (part_max > MIB ? part_max : MIB));
    }
    return fake_attempts(fake, S3D_VERB_GET);
}

static void test_far(void)
{
    struct fake_store *fake = fake_open_with(32 * MIB, 1);
    char *data = fake_memory(32 * MIB);
    struct s3d_segment segment = {0, 32 * MIB, data};
    CHECK(get_far(fake, &segment, 1, 8 * MIB, 0) == 32); /* nobody says that it is far */
    CHECK(get_far(fake, &segment, 1, 8 * MIB, FAR_US / 10) == 32);
    fake_set_distance(fake, FAR_US, FAR_RATE);
    CHECK(get_far(fake, &segment, 1, 8 * MIB, FAR_US) == 4); /* of 16 MiB that it deserves */
    CHECK(get_far(fake, &segment, 1, 8 * MIB, 0) == 1 + 4);  /* the first tells of the way */
    CHECK(get_far(fake, &segment, 1, 64 * MIB, FAR_US) == 1 + 2);
    CHECK(get_far(fake, &segment, 1, 0, FAR_US) == 32); /* a size that somebody has set */
    CHECK(get_far(fake, &segment, 1, MIB, FAR_US) == 32);
    fake_set_distance(fake, FAR_US / 10, FAR_RATE);
    CHECK(get_far(fake, &segment, 1, 8 * MIB, 0) == 32);
    free(data);
    fake_close(fake);
}

/* Ten times as many segments in a request as in one of the usual length. */
static size_t cut_with_gaps(struct s3d_segment *segments, char *data)
{
    enum { STEP = 16 * 1024, GAP = 100 };
    size_t count = 0;
    for (uint64_t at = 0; at < 16 * MIB; at += STEP) {
        segments[count++] = (struct s3d_segment){at, STEP - GAP, data + at};
    }
    return count;
}

static void test_far_segments(void)
{
    static struct s3d_segment segments[1024];
    struct fake_store *fake = fake_open_with(16 * MIB, 1);
    char *data = fake_memory(16 * MIB);
    size_t count = cut_with_gaps(segments, data);
    CHECK(count == 1024);
    fake_set_distance(fake, FAR_US, FAR_RATE);
    CHECK(get_far(fake, segments, count, 8 * MIB, 0) == 1 + 2);
    CHECK(get_far(fake, segments, count, 0, 0) == 16);
    free(data);
    fake_close(fake);
}

/* A segment is there when the range that holds it is, be it a long one. */
static void test_far_waits(void)
{
    struct fake_store *fake = fake_open_with(4 * MIB, 1);
    char *data = fake_memory(4 * MIB);
    struct s3d_segment segments[4];
    for (size_t i = 0; i < 4; i++) {
        segments[i] = (struct s3d_segment){i * MIB, MIB, data + i * MIB};
    }
    struct s3d_get_plan plan = plan_for(segments, 4, 1);
    plan.part_bytes = MIB;
    plan.part_max_bytes = 2 * MIB;
    plan.latency_us = FAR_US;
    fake_set_distance(fake, FAR_US, FAR_RATE);
    struct s3d_get *get;
    unsigned held = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                       .at_offset = true,
                                                       .offset = 2 * MIB,
                                                       .times = 1,
                                                       .hold = true});
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
    CHECK_CODE(s3d_get_wait(get, 1, 1, -1, NULL), S3D_OK);
    CHECK(fake_pattern_is(data, 2 * MIB, 1, 0));
    fake_wait_held(fake, 1);
    CHECK_CODE(s3d_get_wait(get, 0, 2, 0, NULL), S3D_OK);
    CHECK_CODE(s3d_get_wait(get, 2, 1, 1, NULL), S3D_AGAIN);
    CHECK_CODE(s3d_get_wait(get, 3, 1, 1, NULL), S3D_AGAIN);
    fake_release(fake);
    CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_OK);
    CHECK(fake_fired(fake, held) == 1 && fake_attempts(fake, S3D_VERB_GET) == 2);
    s3d_get_free(get);
    free(data);
    fake_close(fake);
}

static enum s3d_code get_far_once(void)
{
    static struct s3d_segment segments[1024];
    char *data = fake_memory(16 * MIB);
    struct s3d_get_plan plan = plan_for(segments, cut_with_gaps(segments, data), 1);
    plan.part_bytes = MIB;
    plan.part_max_bytes = 8 * MIB;
    struct s3d_error error = {0};
    struct s3d_get *get = NULL;
    enum s3d_code code = s3d_get_new(&get, fake_base(torture_fake), &plan, &error);
    if (!code) {
        code = s3d_get_wait_all(get, -1, &error);
    }
    s3d_get_free(get);
    free(data);
    return code;
}

static void test_far_out_of_memory(void)
{
    torture_fake = fake_open_with(16 * MIB, 1);
    fake_set_distance(torture_fake, FAR_US, FAR_RATE);
    CHECK(test_torture(get_far_once, 0) >
          4 + 2); /* then comes room for more spans than usual */
    fake_close(torture_fake);
}

int main(void)
{
    alarm(60);
    setvbuf(stdout, NULL, _IONBF, 0);
    fake_engine("");
    RUN(test_splits);
    RUN(test_concurrency);
    RUN(test_one_late_range);
    RUN(test_ends_in_any_order);
    RUN(test_wait_out_of_bounds);
    RUN(test_pieces_at_once);
    RUN(test_piece_refused);
    RUN(test_refused_within_a_range);
    RUN(test_no_wrong_pieces);
    RUN(test_changed);
    RUN(test_failing_range);
    RUN(test_retried_range);
    RUN(test_beyond_the_end);
    RUN(test_short_answer);
    RUN(test_free_while_running);
    RUN(test_invalid);
    RUN(test_shutdown);
    RUN(test_out_of_memory);
    RUN(test_far);
    RUN(test_far_segments);
    RUN(test_far_waits);
    RUN(test_far_out_of_memory);
    s3d_engine_shutdown();
    return 0;
}
