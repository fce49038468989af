/* Reading whole objects of unknown size: one request or a wave, and what can go wrong. */
#include "fake_store.h"
#include "test.h"

#include "core/mem.h"
#include "core/whole.h"

enum { KIB = 1024, MIB = 1024 * KIB, HEAD = 64 * KIB };

/* Memory for a whole object, made when its size is known. */
struct place {
    char *data;
    uint64_t size;
    unsigned calls;
    bool refuse;
};

static char *place(void *context, uint64_t size)
{
    struct place *memory = context;
    memory->calls++;
    memory->size = size;
    if (!memory->refuse) {
        memory->data = fake_memory((size_t)size + 1);
        memory->data[size] = 0x55;
    }
    return memory->data;
}

static enum s3d_code start(struct s3d_whole **whole, struct fake_store *fake,
                           struct place *memory, struct s3d_error *error)
{
    struct s3d_whole_plan plan = {.key = "object",
                                  .head_bytes = HEAD,
                                  .part_bytes = MIB,
                                  .concurrency = 3,
                                  .place = place,
                                  .context = memory};
    return s3d_whole_new(whole, fake_base(fake), &plan, error);
}

/* All of it, in waits of timeout_ms. */
static enum s3d_code read_all(struct fake_store *fake, struct place *memory, uint64_t *size,
                              int64_t timeout_ms, struct s3d_error *error)
{
    struct s3d_whole *whole = NULL;
    enum s3d_code code = start(&whole, fake, memory, error);
    if (code) {
        return code;
    }
    do {
        code = s3d_whole_wait_size(whole, size, timeout_ms, error);
    } while (code == S3D_AGAIN);
    if (!code && *size > HEAD) {
        code = s3d_whole_fetch_rest(whole, memory->data + HEAD, error);
    }
    while (!code && (code = s3d_whole_wait(whole, timeout_ms, error)) == S3D_AGAIN) {
        code = S3D_OK;
    }
    s3d_whole_free(whole);
    return code;
}

static void check_all(struct fake_store *fake, size_t expected, int64_t timeout_ms)
{
    struct place memory = {0};
    struct s3d_error error;
    uint64_t size = 0;
    enum s3d_code code;
    do {
        free(memory.data);
        memory = (struct place){0};
        code = read_all(fake, &memory, &size, timeout_ms, &error);
    } while (code == S3D_AGAIN);
    CHECK_CODE(code, S3D_OK);
    CHECK(size == expected && memory.calls == (expected ? 1 : 0));
    if (expected) {
        CHECK(memory.size == expected && memory.data[expected] == 0x55);
        CHECK(fake_pattern_is(memory.data, expected, 5, 0));
    }
    free(memory.data);
}

static void test_all_sizes(void)
{
    static const size_t sizes[] = {0, 1, HEAD - 1, HEAD, HEAD + 1, MIB, 5 * MIB + 7};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct fake_store *fake = fake_open_with(sizes[i], 5);
        for (int blocking = 0; blocking < 2; blocking++) {
            fake_set_blocking(fake, blocking);
            fake_counters_clear(fake);
            check_all(fake, sizes[i], -1);
            CHECK(fake_attempts(fake, S3D_VERB_STAT) == 0);
            CHECK((fake_attempts_all(fake) == 1) == (sizes[i] <= HEAD));
        }
        fake_close(fake);
    }
}

static void test_an_empty_object_that_refuses_ranges(void)
{
    struct fake_store *fake = fake_open_with(0, 5);
    fake_set_empty_is_range(fake, true);
    check_all(fake, 0, -1);
    CHECK(fake_attempts(fake, S3D_VERB_STAT) == 1);
    fake_close(fake);
}

static void test_a_missing_object(void)
{
    struct fake_store *fake = fake_open();
    struct place memory = {0};
    struct s3d_error error;
    uint64_t size;
    CHECK_CODE(read_all(fake, &memory, &size, -1, &error), S3D_NOT_FOUND);
    CHECK(!memory.calls);
    fake_close(fake);
}

/* The wave starts while the head is still on its way. */
static void test_the_rest_does_not_wait_for_the_head(void)
{
    struct fake_store *fake = fake_open_with(4 * MIB, 5);
    struct place memory = {0};
    struct s3d_whole *whole = NULL;
    struct s3d_error error;
    uint64_t size = 0;
    unsigned rule = fake_rule(
        fake,
        (struct fake_rule){
            .verb = S3D_VERB_GET, .at_offset = true, .offset = HEAD, .times = 1, .hold = true});
    CHECK_CODE(start(&whole, fake, &memory, &error), S3D_OK);
    CHECK_CODE(s3d_whole_wait_size(whole, &size, -1, &error), S3D_OK);
    CHECK_CODE(s3d_whole_fetch_rest(whole, memory.data + HEAD, &error), S3D_OK);
    fake_wait_held(fake, 1);
    CHECK_CODE(s3d_whole_wait(whole, 0, &error), S3D_AGAIN);
    fake_release(fake);
    CHECK_CODE(s3d_whole_wait(whole, -1, &error), S3D_OK);
    CHECK(fake_fired(fake, rule) == 1);
    CHECK(fake_pattern_is(memory.data, 4 * MIB, 5, 0));
    s3d_whole_free(whole);
    free(memory.data);
    fake_close(fake);
}

static void test_failures_are_tried_again(void)
{
    struct fake_store *fake = fake_open_with(3 * MIB, 5);
    unsigned head = fake_rule(
        fake, (struct fake_rule){
                  .verb = S3D_VERB_GET, .at_offset = true, .times = 1, .code = S3D_NETWORK});
    unsigned rest = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                       .at_offset = true,
                                                       .offset = HEAD,
                                                       .times = 1,
                                                       .code = S3D_SERVER});
    check_all(fake, 3 * MIB, -1);
    CHECK(fake_fired(fake, head) == 1 && fake_fired(fake, rest) == 1);
    fake_close(fake);
}

static void check_fault(struct fake_rule rule, enum s3d_code expected)
{
    struct fake_store *fake = fake_open_with(3 * MIB, 5);
    struct place memory = {0};
    struct s3d_error error;
    uint64_t size;
    rule.verb = S3D_VERB_GET;
    rule.at_offset = true;
    rule.times = 100;
    unsigned number = fake_rule(fake, rule);
    CHECK_CODE(read_all(fake, &memory, &size, -1, &error), expected);
    CHECK(error.code == expected && error.operation[0]);
    CHECK(fake_fired(fake, number) > 0);
    free(memory.data);
    fake_close(fake);
}

static void test_faults(void)
{
    check_fault((struct fake_rule){.code = S3D_DENIED}, S3D_DENIED);
    check_fault((struct fake_rule){.code = S3D_NETWORK}, S3D_NETWORK);
    check_fault((struct fake_rule){.missing = 1}, S3D_RANGE);
    check_fault((struct fake_rule){.offset = HEAD, .code = S3D_DENIED}, S3D_DENIED);
    check_fault((struct fake_rule){.offset = HEAD, .missing = 1}, S3D_RANGE);
    check_fault((struct fake_rule){.offset = HEAD, .wrong_etag = true}, S3D_CHANGED);
}

static void test_no_memory_for_it(void)
{
    struct fake_store *fake = fake_open_with(3 * MIB, 5);
    struct place memory = {.refuse = true};
    struct s3d_error error;
    uint64_t size;
    CHECK_CODE(read_all(fake, &memory, &size, -1, &error), S3D_NO_MEMORY);
    CHECK(memory.calls >= 1);
    fake_close(fake);
}

static void test_free_cancels(void)
{
    struct fake_store *fake = fake_open_with(3 * MIB, 5);
    struct s3d_error error;
    for (uint64_t offset = 0; offset <= HEAD; offset += HEAD) {
        struct place memory = {0};
        struct s3d_whole *whole = NULL;
        uint64_t size = 0;
        unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                           .at_offset = true,
                                                           .offset = offset,
                                                           .times = 1,
                                                           .hold = true});
        CHECK_CODE(start(&whole, fake, &memory, &error), S3D_OK);
        if (offset) {
            CHECK_CODE(s3d_whole_wait_size(whole, &size, -1, &error), S3D_OK);
            CHECK_CODE(s3d_whole_fetch_rest(whole, memory.data + HEAD, &error), S3D_OK);
        }
        fake_wait_held(fake, 1);
        s3d_whole_free(whole);
        CHECK(fake_fired(fake, rule) == 1);
        fake_rules_clear(fake);
        free(memory.data);
    }
    s3d_whole_free(NULL);
    fake_close(fake);
}

static void test_every_allocation_fails(void)
{
    struct fake_store *fake = fake_open_with(3 * MIB, 5);
    bool fired = true;
    for (unsigned long n = 1; fired; n++) {
        struct place memory = {0};
        struct s3d_error error = {0};
        uint64_t size;
        s3d_mem_fail_at(n);
        enum s3d_code code = read_all(fake, &memory, &size, -1, &error);
        fired = s3d_mem_fault_fired();
        s3d_mem_fail_at(0);
        CHECK_CODE(code, fired ? S3D_NO_MEMORY : S3D_OK);
        free(memory.data);
        CHECK(n < 1000);
    }
    fake_close(fake);
}

int main(void)
{
    RUN(test_all_sizes);
    RUN(test_an_empty_object_that_refuses_ranges);
    RUN(test_a_missing_object);
    RUN(test_the_rest_does_not_wait_for_the_head);
    RUN(test_failures_are_tried_again);
    RUN(test_faults);
    RUN(test_no_memory_for_it);
    RUN(test_free_cancels);
    RUN(test_every_allocation_fails);
    s3d_engine_shutdown();
    return 0;
}
