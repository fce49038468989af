/* Parallel ranged reads into the caller's memory. */
#include "fake_store.h"
#include "test.h"

#include "core/get.h"

#include <unistd.h>

enum { PART = 4096 };

static struct fake_store *open_with_object(size_t size)
{
    struct fake_store *fake = fake_open();
    char *data = fake_memory(size);
    fake_pattern(data, size, 1);
    fake_put_object(fake, "object", data, size);
    free(data);
    return fake;
}

static struct s3d_get_plan plan_for(void *data, uint64_t offset, uint64_t length,
                                    unsigned concurrency)
{
    return (struct s3d_get_plan){.key = "object",
                                 .offset_bytes = offset,
                                 .length_bytes = length,
                                 .data = data,
                                 .part_bytes = PART,
                                 .concurrency = concurrency};
}

/* Reads [offset, offset + length) and checks every byte and what lies around it. */
static void read_and_check(struct fake_store *fake, uint64_t offset, uint64_t length,
                           unsigned concurrency)
{
    char *data = fake_memory(length + 2);
    memset(data, 0x55, length + 2);
    struct s3d_get_plan plan = plan_for(data + 1, offset, length, concurrency);
    struct s3d_get *get;
    fake_counters_clear(fake);
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
    CHECK_CODE(s3d_get_wait(get, length, -1, NULL), S3D_OK);
    CHECK(fake_pattern_is(data + 1, length, 1, offset));
    CHECK(data[0] == 0x55 && data[length + 1] == 0x55);
    CHECK(fake_attempts(fake, S3D_VERB_GET) == (length + PART - 1) / PART);
    CHECK(fake_peak(fake, S3D_VERB_GET) <= concurrency);
    if (length) {
        CHECK_TEXT(s3d_get_object(get)->etag, "\"v1\"");
    }
    s3d_get_free(get);
    free(data);
}

static void test_splits(void)
{
    static const uint64_t lengths[] = {
        0, 1, PART - 1, PART, PART + 1, 2 * PART - 1, 2 * PART, 7 * PART / 2, 10 * PART + 1};
    static const uint64_t offsets[] = {0, 1, PART - 1, PART, 12345};
    static const unsigned concurrencies[] = {1, 2, 3, 64};
    struct fake_store *fake = open_with_object(16 * PART);
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

/* `concurrency` ranges at once, never more, and as many as that. */
static void test_concurrency(void)
{
    struct fake_store *fake = open_with_object(40 * PART);
    char *data = fake_memory(40 * PART);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 5, .hold = true});
    struct s3d_get_plan plan = plan_for(data, 0, 40 * PART, 5);
    struct s3d_get *get;
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
    fake_wait_held(fake, 5);
    CHECK_CODE(s3d_get_wait(get, 1, 0, NULL), S3D_AGAIN);
    CHECK_CODE(s3d_get_wait(get, 1, 1, NULL), S3D_AGAIN);
    fake_release(fake);
    CHECK_CODE(s3d_get_wait(get, 40 * PART, -1, NULL), S3D_OK);
    CHECK(fake_peak(fake, S3D_VERB_GET) == 5 && fake_attempts(fake, S3D_VERB_GET) == 40);
    CHECK(fake_pattern_is(data, 40 * PART, 1, 0));
    s3d_get_free(get);
    free(data);
    fake_close(fake);
}

/* What is ready is counted from the front, without gaps. */
static void test_ready_prefix(void)
{
    struct fake_store *fake = open_with_object(10 * PART);
    char *data = fake_memory(10 * PART);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                       .times = 1,
                                       .at_offset = true,
                                       .offset = 3 * PART,
                                       .hold = true});
    struct s3d_get_plan plan = plan_for(data, 0, 10 * PART, 4);
    struct s3d_get *get;
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
    CHECK_CODE(s3d_get_wait(get, 0, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_get_wait(get, 3 * PART, -1, NULL), S3D_OK);
    CHECK(fake_pattern_is(data, 3 * PART, 1, 0));
    CHECK_CODE(s3d_get_wait(get, 3 * PART + 1, 20, NULL), S3D_AGAIN);
    fake_release(fake);
    CHECK_CODE(s3d_get_wait(get, 10 * PART, -1, NULL), S3D_OK);
    CHECK(fake_pattern_is(data, 10 * PART, 1, 0));
    s3d_get_free(get);
    free(data);
    fake_close(fake);
}

static void expect_failure(struct fake_store *fake, const struct s3d_get_plan *plan,
                           enum s3d_code expected, struct s3d_error *error)
{
    struct s3d_get *get;
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), plan, error), S3D_OK);
    CHECK_CODE(s3d_get_wait(get, plan->length_bytes, -1, error), expected);
    CHECK_CODE(error->code, expected);
    struct s3d_error again;
    CHECK_CODE(s3d_get_wait(get, plan->length_bytes, 0, &again), expected);
    CHECK_TEXT(again.message, error->message);
    s3d_get_free(get);
}

/* Another ETag in one range: never a mixture of two versions. */
static void test_changed(void)
{
    struct fake_store *fake = open_with_object(10 * PART);
    char *data = fake_memory(10 * PART);
    struct s3d_get_plan plan = plan_for(data, 0, 10 * PART, 4);
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
    struct fake_store *fake = open_with_object(64 * PART);
    char *data = fake_memory(64 * PART);
    struct s3d_get_plan plan = plan_for(data, 0, 64 * PART, 8);
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
    struct fake_store *fake = open_with_object(10 * PART);
    unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                       .times = 2,
                                                       .at_offset = true,
                                                       .offset = 2 * PART,
                                                       .code = S3D_NETWORK});
    char *data = fake_memory(10 * PART);
    struct s3d_get_plan plan = plan_for(data, 0, 10 * PART, 4);
    struct s3d_get *get;
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
    CHECK_CODE(s3d_get_wait(get, 10 * PART, -1, NULL), S3D_OK);
    CHECK(fake_fired(fake, rule) == 2 && fake_pattern_is(data, 10 * PART, 1, 0));
    s3d_get_free(get);
    free(data);
    fake_close(fake);
}

static void test_beyond_the_end(void)
{
    struct fake_store *fake = open_with_object(10 * PART);
    char *data = fake_memory(10 * PART);
    struct s3d_error error;
    struct s3d_get_plan plan = plan_for(data, 1, 10 * PART, 4);
    expect_failure(fake, &plan, S3D_RANGE, &error);
    plan.key = "other";
    expect_failure(fake, &plan, S3D_NOT_FOUND, &error);
    free(data);
    fake_close(fake);
}

/* A driver that says OK but brought less than asked: an error, never stale memory. */
static void test_short_answer(void)
{
    struct fake_store *fake = open_with_object(10 * PART);
    char *data = fake_memory(10 * PART);
    struct s3d_error error;
    struct s3d_get_plan plan = plan_for(data, 0, 10 * PART, 4);
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
    struct fake_store *fake = open_with_object(64 * PART);
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
        struct s3d_get_plan plan = plan_for(data, 0, 64 * PART, 8);
        struct s3d_get *get;
        CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
        if (hold) {
            fake_wait_held(fake, 8);
        } else if (round % 3 == 1) {
            CHECK_CODE(s3d_get_wait(get, 8 * PART, -1, NULL), S3D_OK);
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
    struct fake_store *fake = open_with_object(1);
    struct s3d_get *get;
    struct s3d_error error;
    struct s3d_get_plan plan = plan_for(NULL, 0, 0, 0);
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, &error), S3D_INVALID);
    plan = plan_for(NULL, 0, 0, 1);
    plan.part_bytes = 0;
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_INVALID);
    fake_close(fake);
}

static void test_shutdown(void)
{
    struct fake_store *fake = open_with_object(10 * PART);
    char *data = fake_memory(10 * PART);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1000, .hold = true});
    struct s3d_get_plan plan = plan_for(data, 0, 10 * PART, 4);
    struct s3d_get *get;
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
    fake_wait_held(fake, 4);
    s3d_engine_shutdown();
    CHECK_CODE(s3d_get_wait(get, 1, -1, NULL), S3D_CLOSED);
    s3d_get_free(get);
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_CLOSED);
    free(data);
    fake_close(fake);
    fake_engine("");
}

static struct fake_store *torture_fake;

static enum s3d_code get_once(void)
{
    char *data = fake_memory(10 * PART);
    struct s3d_get_plan plan = plan_for(data, 0, 10 * PART, 4);
    plan.if_match = "\"v1\"";
    struct s3d_error error = {0};
    struct s3d_get *get = NULL;
    enum s3d_code code = s3d_get_new(&get, fake_base(torture_fake), &plan, &error);
    if (!code) {
        code = s3d_get_wait(get, plan.length_bytes, -1, &error);
    }
    CHECK(code == error.code);
    CHECK(code || fake_pattern_is(data, 10 * PART, 1, 0));
    s3d_get_free(get);
    free(data);
    return code;
}

static void test_out_of_memory(void)
{
    torture_fake = open_with_object(10 * PART);
    CHECK(test_torture(get_once, 0) == 5);
    fake_close(torture_fake);
}

int main(void)
{
    alarm(60);
    setvbuf(stdout, NULL, _IONBF, 0);
    fake_engine("");
    RUN(test_splits);
    RUN(test_concurrency);
    RUN(test_ready_prefix);
    RUN(test_changed);
    RUN(test_failing_range);
    RUN(test_retried_range);
    RUN(test_beyond_the_end);
    RUN(test_short_answer);
    RUN(test_free_while_running);
    RUN(test_invalid);
    RUN(test_shutdown);
    RUN(test_out_of_memory);
    s3d_engine_shutdown();
    return 0;
}
