/* Reading at any offset: cache, read-ahead, direct reads, and what can go wrong. */
#include "fake_store.h"
#include "test.h"

#include "core/reader.h"

#include <unistd.h>

enum { KIB = 1024, MIB = 1024 * KIB, TAIL = 256 * KIB, BLOCK = 256 * KIB };

static struct s3d_reader *start_reader(struct fake_store *fake, unsigned concurrency)
{
    struct s3d_reader_plan plan = {
        .key = "object", .part_bytes = MIB, .concurrency = concurrency};
    struct s3d_reader *reader;
    CHECK_CODE(s3d_reader_new(&reader, fake_base(fake), &plan, NULL), S3D_OK);
    return reader;
}

static struct s3d_reader *open_reader(struct fake_store *fake, unsigned concurrency)
{
    struct s3d_reader *reader = start_reader(fake, concurrency);
    CHECK_CODE(s3d_reader_wait_open(reader, -1, NULL), S3D_OK);
    return reader;
}

/* One whole read, through AGAINs; *got holds what it brought. */
static enum s3d_code read_at(struct s3d_reader *reader, uint64_t offset, char *data,
                             size_t length, size_t *got, int64_t timeout_ms,
                             struct s3d_error *error)
{
    enum s3d_code code;
    *got = 0;
    while ((code = s3d_reader_read(reader, offset, data, length, got, timeout_ms, error)) ==
           S3D_AGAIN) {
        CHECK(timeout_ms >= 0);
    }
    CHECK(*got <= length);
    return code;
}

static void check_read(struct s3d_reader *reader, uint64_t offset, size_t length,
                       int64_t timeout_ms)
{
    uint64_t size = s3d_reader_object(reader)->size_bytes;
    size_t expected = offset >= size           ? 0
                      : size - offset < length ? (size_t)(size - offset)
                                               : length;
    char *data = fake_memory(length + 1);
    size_t got;
    struct s3d_error error;
    data[expected] = 0x55;
    CHECK_CODE(read_at(reader, offset, data, length, &got, timeout_ms, &error), S3D_OK);
    CHECK(got == expected);
    CHECK(fake_pattern_is(data, got, 3, offset));
    CHECK(data[expected] == 0x55);
    free(data);
}

static const size_t sizes[] = {
    0, 1, TAIL - 1, TAIL, TAIL + 1, TAIL + BLOCK, TAIL + BLOCK + 1, 2 * MIB, 5 * MIB + 12345};

static void test_sequential(void)
{
    static const size_t pieces[] = {4096, 100003, MIB - 1, MIB, 3 * MIB, 16 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct fake_store *fake = fake_open_with(sizes[i], 3);
        for (size_t j = 0; j < sizeof pieces / sizeof *pieces; j++) {
            struct s3d_reader *reader = open_reader(fake, j % 2 ? 4 : 1);
            CHECK(s3d_reader_object(reader)->size_bytes == sizes[i]);
            for (uint64_t at = 0; at <= sizes[i]; at += pieces[j]) {
                check_read(reader, at, pieces[j], -1);
            }
            s3d_reader_free(reader);
        }
        fake_close(fake);
    }
}

static void test_small_object_is_one_request(void)
{
    struct fake_store *fake = fake_open_with(TAIL, 3);
    struct s3d_reader *reader = open_reader(fake, 4);
    CHECK(s3d_reader_buffered(reader, 0) == TAIL && s3d_reader_buffered(reader, TAIL) == 0);
    check_read(reader, 0, TAIL, 0);
    CHECK(fake_attempts_all(fake) == 1);
    s3d_reader_free(reader);
    fake_close(fake);
}

/* Reads of all sizes anywhere, with and without time to wait, on all sizes of object. */
static void random_reads(struct fake_store *fake, size_t size, unsigned concurrency,
                         int64_t timeout_ms, unsigned count)
{
    struct s3d_reader *reader = open_reader(fake, concurrency);
    for (unsigned n = 0; n < count; n++) {
        size_t most = n % 10 == 0 ? 3 * MIB : n % 3 ? 5000 : 300000;
        uint64_t offset = test_random_below(size + 2);
        check_read(reader, offset, (size_t)test_random_below(most), timeout_ms);
        if (n % 4 == 0) { /* go on from there, and look at the directory in between */
            check_read(reader, offset + 100, 1000, timeout_ms);
            check_read(reader, size > 100 ? size - 100 : 0, 1000, timeout_ms);
            check_read(reader, offset + 1100, 200000, timeout_ms);
        }
    }
    s3d_reader_free(reader);
}

static void test_random(void)
{
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct fake_store *fake = fake_open_with(sizes[i], 3);
        random_reads(fake, sizes[i], 1, -1, 40);
        random_reads(fake, sizes[i], 3, -1, 40);
        fake_rule(fake,
                  (struct fake_rule){.verb = S3D_VERB_GET, .times = 100000, .delay_ms = 1});
        random_reads(fake, sizes[i], 2, 0, 10);
        random_reads(fake, sizes[i], 16, 1, 20);
        fake_rules_clear(fake);
        fake_set_blocking(fake, true);
        random_reads(fake, sizes[i], 2, -1, 20);
        fake_close(fake);
    }
}

/* With one request in flight there are two blocks, and both may lie ahead of where a read begins. */
static void test_blocks_ahead_of_a_read(void)
{
    struct fake_store *fake = fake_open_with(4 * MIB, 3);
    for (unsigned concurrency = 1; concurrency <= 3; concurrency++) {
        struct s3d_reader *reader = open_reader(fake, concurrency);
        for (unsigned i = concurrency + 1; i >= 1; i--) {
            check_read(reader, i * (uint64_t)BLOCK, 10, -1);
        }
        for (uint64_t i = concurrency + 1; i >= 1; i--) {
            CHECK(s3d_reader_buffered(reader, i * BLOCK) > 0);
        }
        check_read(reader, 0, (concurrency + 2) * BLOCK, -1);
        s3d_reader_free(reader);
    }
    fake_close(fake);
}

static void test_empty(void)
{
    for (int range = 0; range <= 1; range++) {
        struct fake_store *fake = fake_open_with(0, 3);
        fake_set_empty_is_range(fake, range);
        struct s3d_reader *reader = open_reader(fake, 4);
        CHECK(s3d_reader_object(reader)->size_bytes == 0);
        CHECK(s3d_reader_object(reader)->etag[0] == '"');
        check_read(reader, 0, 100, -1);
        check_read(reader, 7, 100, -1);
        CHECK(s3d_reader_buffered(reader, 0) == 0);
        CHECK(fake_attempts(fake, S3D_VERB_GET) == 1);
        CHECK(fake_attempts(fake, S3D_VERB_STAT) == (range ? 1 : 0));
        s3d_reader_free(reader);
        fake_close(fake);
    }
}

static unsigned held(struct fake_store *fake)
{
    unsigned count = 0;
    for (unsigned thread = 0; thread < 8; thread++) {
        count += fake_held_by(fake, thread);
    }
    return count;
}

/* Reads on from `at`, `step` bytes at a time, while all requests are held, until `wanted` of them are
 * under way at once; then lets them go. Returns where the next read begins. */
static uint64_t read_until_held(struct fake_store *fake, struct s3d_reader *reader, uint64_t at,
                                size_t step, unsigned wanted)
{
    uint64_t size = s3d_reader_object(reader)->size_bytes;
    char *data = fake_memory(step);
    size_t got = 0;
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1000, .hold = true});
    while (held(fake) < wanted) {
        enum s3d_code code = s3d_reader_read(reader, at, data, step, &got, 1, NULL);
        CHECK(code == S3D_OK || code == S3D_AGAIN);
        if (!code) {
            CHECK(got == step && fake_pattern_is(data, step, 3, at));
            at += step;
            got = 0;
            CHECK(at + step < size);
        }
    }
    fake_release(fake);
    CHECK_CODE(s3d_reader_read(reader, at, data, step, &got, -1, NULL), S3D_OK);
    CHECK(got == step && fake_pattern_is(data, step, 3, at));
    free(data);
    return at + step;
}

static uint64_t loaded_bytes(struct fake_store *fake)
{
    const struct fake_line *lines;
    size_t count = fake_log(fake, &lines);
    uint64_t loaded = 0;
    for (size_t i = 0; i < count; i++) {
        loaded += lines[i].length;
    }
    return loaded;
}

/* A run of small reads has several blocks on their way at once. */
static void test_read_ahead_is_parallel(void)
{
    struct fake_store *fake = fake_open_with(16 * MIB, 3);
    struct s3d_reader *reader = open_reader(fake, 4);
    fake_counters_clear(fake);
    uint64_t at = 0;
    for (; at < 4 * MIB; at += 64 * KIB) {
        check_read(reader, at, 64 * KIB, -1);
    }
    at = read_until_held(fake, reader, at, 64 * KIB, 2);
    for (; at < 16 * MIB; at += 64 * KIB) {
        check_read(reader, at, 64 * KIB, -1);
    }
    CHECK(fake_peak(fake, S3D_VERB_GET) <= 5);
    CHECK(fake_attempts(fake, S3D_VERB_GET) < 40); /* the blocks have grown */
    CHECK(loaded_bytes(fake) == 16 * MIB - TAIL);  /* each byte once */
    s3d_reader_free(reader);
    fake_close(fake);
}

/* Until a request has begun that reaches to `offset`: the I/O threads take their time. */
static void wait_for_request_to(struct fake_store *fake, uint64_t offset)
{
    for (bool reached = false; !reached; usleep(200)) {
        const struct fake_line *lines;
        size_t count = fake_log(fake, &lines);
        for (size_t i = 0; i < count; i++) {
            reached |= lines[i].offset + lines[i].length >= offset;
        }
    }
}

/* Long reads, one after the other, from a far store: the next ones are under way meanwhile, and no
 * more than max_concurrency requests at any time. */
static void test_far_run(void)
{
    enum { READ = 2 * MIB, SIZE = 32 * MIB };
    struct fake_store *fake = fake_open_with(SIZE, 3);
    fake_set_distance(fake, 10000, 100000000);
    struct s3d_reader *reader = open_reader(fake, 4);
    CHECK(s3d_reader_latency_us(reader) == 10000);
    fake_counters_clear(fake);
    uint64_t at = 0;
    for (; at < SIZE / 2; at += READ) {
        check_read(reader, at, READ, at % 3 ? -1 : 1);
        wait_for_request_to(fake, at ? at + READ + MIB : 0);
    }
    at = read_until_held(fake, reader, at, READ, 3);
    for (; at < SIZE; at += READ) {
        check_read(reader, at, READ, -1);
    }
    CHECK(fake_peak(fake, S3D_VERB_GET) <= 4);
    CHECK(loaded_bytes(fake) == SIZE - TAIL); /* each byte once */
    s3d_reader_free(reader);
    fake_close(fake);
}

/* Long reads anywhere are no run: nothing of consequence is fetched beyond them. */
static void test_far_jumps(void)
{
    struct fake_store *fake = fake_open_with(32 * MIB, 3);
    fake_set_distance(fake, 10000, 100000000);
    struct s3d_reader *reader = open_reader(fake, 4);
    fake_counters_clear(fake);
    for (unsigned i = 0; i < 4; i++) {
        check_read(reader, (6 - 2 * i) * 4 * (uint64_t)MIB, 2 * MIB, -1);
    }
    uint64_t loaded = loaded_bytes(fake);
    CHECK(loaded >= 4 * 2 * MIB && loaded <= 4 * (2 * MIB + BLOCK));
    s3d_reader_free(reader);
    fake_close(fake);
}

/* Blocks and direct ranges together keep to max_concurrency, near by, too. */
static void test_concurrency(void)
{
    for (unsigned concurrency = 1; concurrency <= 4; concurrency++) {
        struct fake_store *fake = fake_open_with(16 * MIB, 3);
        fake_rule(fake,
                  (struct fake_rule){.verb = S3D_VERB_GET, .times = 100000, .delay_ms = 1});
        struct s3d_reader *reader = open_reader(fake, concurrency);
        fake_counters_clear(fake);
        CHECK(read_until_held(fake, reader, 0, 3 * MIB, concurrency) == 3 * MIB);
        for (uint64_t at = 0; at < 12 * MIB; at += 4 * MIB) {
            check_read(reader, at, 3 * MIB, -1);
            check_read(reader, at + 3 * MIB, 100 * KIB, -1);
        }
        CHECK(fake_peak(fake, S3D_VERB_GET) == concurrency);
        s3d_reader_free(reader);
        fake_close(fake);
    }
}

/* A large read goes by parallel ranges straight to its destination. */
static void test_direct(void)
{
    struct fake_store *fake = fake_open_with(10 * MIB, 3);
    struct s3d_reader *reader = open_reader(fake, 4);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 4, .hold = true});
    char *data = fake_memory(8 * MIB);
    size_t got = 0;
    CHECK_CODE(s3d_reader_read(reader, MIB / 2, data, 8 * MIB, &got, 0, NULL), S3D_AGAIN);
    fake_wait_held(fake, 4);
    CHECK(got == 0);
    CHECK_CODE(s3d_reader_read(reader, MIB / 2, data, 8 * MIB, &got, 1, NULL), S3D_AGAIN);
    fake_release(fake);
    CHECK_CODE(s3d_reader_read(reader, MIB / 2, data, 8 * MIB, &got, -1, NULL), S3D_OK);
    CHECK(got == 8 * MIB && fake_pattern_is(data, got, 3, MIB / 2));
    const struct fake_line *lines;
    size_t count = fake_log(fake, &lines), direct = 0;
    for (size_t i = 0; i < count; i++) {
        direct += (uintptr_t)lines[i].data >= (uintptr_t)data &&
                  (uintptr_t)lines[i].data < (uintptr_t)data + 8 * MIB;
    }
    CHECK(direct == 8);
    free(data);
    s3d_reader_free(reader);
    fake_close(fake);
}

/* An AGAIN'd direct read is dropped: nothing writes into its memory any more. */
static void test_cancel_direct(void)
{
    struct fake_store *fake = fake_open_with(10 * MIB, 3);
    struct s3d_reader *reader = open_reader(fake, 4);
    for (int round = 0; round < 4; round++) {
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                           .times = 100,
                                           .hold = true,
                                           .skip = round % 2 ? 2 : 0});
        char *data = fake_memory(4 * MIB);
        size_t got = 0;
        CHECK_CODE(s3d_reader_read(reader, 0, data, 4 * MIB, &got, 5, NULL), S3D_AGAIN);
        if (round == 3) {
            s3d_reader_free(reader);
        } else {
            s3d_reader_cancel(reader);
        }
        memset(data, 0x55, 4 * MIB);
        fake_release(fake);
        usleep(300);
        for (size_t i = 0; i < 4 * MIB; i += KIB) {
            CHECK(data[i] == 0x55);
        }
        free(data);
        fake_rules_clear(fake);
        if (round < 3) {
            check_read(reader, 100, 3 * MIB, -1);
        }
    }
    fake_close(fake);
}

/* A cancelled small read leaves its block loading; other reads go on. */
static void test_cancel_small(void)
{
    struct fake_store *fake = fake_open_with(4 * MIB, 3);
    struct s3d_reader *reader = open_reader(fake, 2);
    unsigned rule = fake_rule(
        fake,
        (struct fake_rule){
            .verb = S3D_VERB_GET, .times = 1, .at_offset = true, .offset = 100, .hold = true});
    char data[10];
    size_t got = 0;
    CHECK_CODE(s3d_reader_read(reader, 100, data, 10, &got, 5, NULL), S3D_AGAIN);
    s3d_reader_cancel(reader);
    check_read(reader, 2 * MIB, 1000, -1);
    check_read(reader, 3 * MIB, 1000, -1);
    CHECK(fake_fired(fake, rule) == 1);
    fake_release(fake);
    check_read(reader, 100, 10, -1);
    s3d_reader_free(reader);
    fake_close(fake);
}

/* Back into what is cached: no request. */
static void test_backward(void)
{
    struct fake_store *fake = fake_open_with(8 * MIB, 3);
    struct s3d_reader *reader = open_reader(fake, 4);
    check_read(reader, MIB, 1000, -1);
    check_read(reader, MIB + 1000, 1000, -1);
    unsigned before;
    do { /* read-ahead may still be on its way */
        before = fake_attempts_all(fake);
        usleep(20000);
    } while (fake_attempts_all(fake) != before);
    CHECK(s3d_reader_buffered(reader, MIB) >= 2000);
    check_read(reader, MIB, 1500, 0);
    check_read(reader, MIB + 500, 10, 0);
    check_read(reader, 8 * MIB - 1000, 1000, 0);
    check_read(reader, MIB, 1, 0);
    CHECK(fake_attempts_all(fake) == before);
    s3d_reader_free(reader);
    fake_close(fake);
}

/* ---- failures ---- */

static void test_does_not_open(void)
{
    struct fake_store *fake = fake_open();
    struct s3d_reader *reader = start_reader(fake, 4);
    struct s3d_error error;
    CHECK_CODE(s3d_reader_wait_open(reader, -1, &error), S3D_NOT_FOUND);
    CHECK_CODE(error.code, S3D_NOT_FOUND);
    CHECK_TEXT(error.operation, "GetObject");
    char data[1];
    size_t got = 0;
    CHECK_CODE(s3d_reader_read(reader, 0, data, 1, &got, -1, &error), S3D_NOT_FOUND);
    CHECK(s3d_reader_buffered(reader, 0) == 0);
    s3d_reader_free(reader);
    fake_close(fake);
}

static void test_slow_opening(void)
{
    struct fake_store *fake = fake_open_with(100, 3);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1, .hold = true});
    struct s3d_reader *reader = start_reader(fake, 4);
    CHECK_CODE(s3d_reader_wait_open(reader, 0, NULL), S3D_AGAIN);
    CHECK_CODE(s3d_reader_wait_open(reader, 5, NULL), S3D_AGAIN);
    char data[100];
    size_t got = 0;
    CHECK_CODE(s3d_reader_read(reader, 0, data, 100, &got, 1, NULL), S3D_AGAIN);
    fake_release(fake);
    CHECK_CODE(s3d_reader_read(reader, 0, data, 100, &got, -1, NULL), S3D_OK);
    CHECK(got == 100 && fake_pattern_is(data, 100, 3, 0));
    s3d_reader_free(reader);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1, .hold = true});
    reader = start_reader(fake, 4);
    fake_wait_held(fake, 1);
    s3d_reader_free(reader); /* while it opens */
    s3d_reader_free(NULL);
    fake_close(fake);
}

static void expect_failure(struct s3d_reader *reader, uint64_t offset, size_t length,
                           enum s3d_code expected)
{
    char *data = fake_memory(length);
    size_t got;
    struct s3d_error error;
    CHECK_CODE(read_at(reader, offset, data, length, &got, -1, &error), expected);
    CHECK_CODE(error.code, expected);
    CHECK(error.message[0] && got < length);
    CHECK(fake_pattern_is(data, got, 3, offset));
    free(data);
}

/* A block or a range that fails is told by the read that needs it; a later read tries anew. */
static void test_failing_block(void)
{
    struct fake_store *fake = fake_open_with(8 * MIB, 3);
    struct s3d_reader *reader = open_reader(fake, 2);
    unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                       .times = 1,
                                                       .at_offset = true,
                                                       .offset = 5000,
                                                       .code = S3D_DENIED});
    expect_failure(reader, 5000, 100, S3D_DENIED);
    CHECK(fake_fired(fake, rule) == 1);
    check_read(reader, 5000, 100, -1);
    check_read(reader, 0, 10000, -1);
    rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                              .times = 1,
                                              .at_offset = true,
                                              .offset = 3 * MIB,
                                              .code = S3D_DENIED});
    expect_failure(reader, 3 * MIB, 2 * MIB, S3D_DENIED);
    CHECK(fake_fired(fake, rule) == 1);
    check_read(reader, 3 * MIB, 2 * MIB, -1);
    rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                              .times = 2,
                                              .at_offset = true,
                                              .offset = 7 * MIB,
                                              .code = S3D_NETWORK});
    check_read(reader, 7 * MIB, 100, -1);
    CHECK(fake_fired(fake, rule) == 2);
    s3d_reader_free(reader);
    fake_close(fake);
}

/* A read-ahead that fails harms nobody who does not read there. */
static void test_failing_read_ahead(void)
{
    struct fake_store *fake = fake_open_with(8 * MIB, 3);
    struct s3d_reader *reader = open_reader(fake, 2);
    check_read(reader, 0, 200 * KIB, -1);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 100, .code = S3D_DENIED});
    check_read(reader, 200 * KIB, 40 * KIB, -1);
    usleep(5000);
    fake_rules_clear(fake);
    check_read(reader, 0, 240 * KIB, -1);
    check_read(reader, 6 * MIB, 1000, -1);
    s3d_reader_free(reader);
    fake_close(fake);
}

static void test_changed(void)
{
    for (int ignore = 0; ignore <= 1; ignore++) {
        struct fake_store *fake = fake_open_with(8 * MIB, 3);
        fake_set_ignore_if_match(fake, ignore);
        struct s3d_reader *reader = open_reader(fake, 4);
        check_read(reader, 0, 1000, -1);
        while (s3d_reader_buffered(reader, 0) == 0) {
            usleep(200);
        }
        char *other = fake_memory(8 * MIB);
        fake_put_object(fake, "object", other, 8 * MIB);
        free(other);
        check_read(reader, 0, 1000, -1); /* cached: the old version */
        check_read(reader, 8 * MIB - 100, 100, -1);
        expect_failure(reader, 5 * MIB, 100, S3D_CHANGED);
        expect_failure(reader, 5 * MIB, 100, S3D_CHANGED);
        expect_failure(reader, 3 * MIB, 3 * MIB, S3D_CHANGED);
        s3d_reader_free(reader);
        fake_close(fake);
    }
}

static void test_short_answer(void)
{
    struct fake_store *fake = fake_open_with(8 * MIB, 3);
    struct s3d_reader *reader = open_reader(fake, 2);
    unsigned rule =
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 2, .missing = 1});
    expect_failure(reader, MIB, 100, S3D_RANGE);
    CHECK(fake_fired(fake, rule) >= 1);
    s3d_reader_free(reader);
    fake_rules_clear(fake);
    rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 1, .missing = 1});
    reader = start_reader(fake, 2);
    struct s3d_error error;
    CHECK_CODE(s3d_reader_wait_open(reader, -1, &error), S3D_PROTOCOL);
    CHECK(fake_fired(fake, rule) == 1);
    s3d_reader_free(reader);
    fake_close(fake);
}

/* ---- fetching segments ---- */

static enum s3d_code note_piece(void *context, size_t segment, uint64_t offset,
                                const char *data, uint64_t length, struct s3d_error *error)
{
    (void)segment;
    (void)offset;
    (void)data;
    (void)error;
    atomic_fetch_add((_Atomic uint64_t *)context, length);
    return S3D_OK;
}

/* A fetch of many segments beside reads; it goes on when its reader is gone. */
static void test_fetch(void)
{
    enum { COUNT = 3 };
    struct fake_store *fake = fake_open_with(8 * MIB, 3);
    struct s3d_reader *reader = open_reader(fake, 4);
    char *data = fake_memory(4 * MIB);
    struct s3d_segment segments[COUNT] = {
        {100, 1000, data}, {1200, 5, data + 1000}, {3 * MIB + 1, 5 * MIB / 2, data + 1005}};
    _Atomic uint64_t told = 0;
    fake_counters_clear(fake);
    struct s3d_get *get;
    CHECK_CODE(s3d_reader_fetch(&get, reader,
                                &(struct s3d_get_plan){.segments = segments,
                                                       .segment_count = COUNT,
                                                       .piece = note_piece,
                                                       .context = &told},
                                NULL),
               S3D_OK);
    check_read(reader, MIB, 1000, -1);
    check_read(reader, 5 * MIB, 2 * MIB, -1);
    CHECK_CODE(s3d_get_wait(get, 0, 2, -1, NULL), S3D_OK);
    s3d_reader_free(reader);
    CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_OK);
    CHECK(atomic_load(&told) == 1005 + 5 * MIB / 2);
    for (size_t i = 0; i < COUNT; i++) {
        CHECK(fake_pattern_is(segments[i].data, segments[i].length_bytes, 3,
                              segments[i].offset_bytes));
    }
    s3d_get_free(get);
    free(data);
    fake_close(fake);
}

/* What is fetched is of the version that was opened, or not at all. */
static void test_fetch_changed(void)
{
    for (int ignore = 0; ignore <= 1; ignore++) {
        struct fake_store *fake = fake_open_with(8 * MIB, 3);
        fake_set_ignore_if_match(fake, ignore);
        struct s3d_reader *reader = open_reader(fake, 4);
        char *data = fake_memory(8 * MIB);
        fake_put_object(fake, "object", data, 8 * MIB);
        struct s3d_segment segment = {0, 3 * MIB, data};
        struct s3d_get *get;
        CHECK_CODE(s3d_reader_fetch(
                       &get, reader,
                       &(struct s3d_get_plan){.segments = &segment, .segment_count = 1}, NULL),
                   S3D_OK);
        CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_CHANGED);
        s3d_get_free(get);
        segment.offset_bytes = UINT64_MAX;
        CHECK_CODE(s3d_reader_fetch(
                       &get, reader,
                       &(struct s3d_get_plan){.segments = &segment, .segment_count = 1}, NULL),
                   S3D_INVALID);
        s3d_reader_free(reader);
        free(data);
        fake_close(fake);
    }
}

/* ---- memory ---- */

/* Room for one block only, or for less: reading goes on, one buffer at a time. */
static void test_tiny_memory(void)
{
    static const char *const limits[] = {"S3DLIO_MEMORY_LIMIT=1", "S3DLIO_MEMORY_LIMIT=262144",
                                         "S3DLIO_MEMORY_LIMIT=800000"};
    for (size_t i = 0; i < 3; i++) {
        fake_engine(limits[i]);
        struct fake_store *fake = fake_open_with(6 * MIB, 3);
        struct s3d_reader *reader = open_reader(fake, 4);
        for (uint64_t at = 0; at < 6 * MIB; at += 100003) {
            check_read(reader, at, 100003, i == 0 ? 5 : -1);
        }
        for (unsigned n = 0; n < 50; n++) {
            check_read(reader, test_random_below(6 * MIB), (size_t)test_random_below(600 * KIB),
                       -1);
        }
        struct s3d_budget *budget = &fake_running_engine()->budget;
        uint64_t first = BLOCK; /* a stream's first buffer may be above the limit */
        CHECK(budget->peak_bytes <=
              (budget->limit_bytes > first ? budget->limit_bytes : first));
        s3d_reader_free(reader);
        fake_close(fake);
    }
    fake_engine("");
}

/* An idle reader sits on all of the memory; a busy one must get on with its first buffer. */
static void test_idle_reader_does_not_starve(void)
{
    fake_engine("S3DLIO_MEMORY_LIMIT=786432"); /* three blocks */
    struct fake_store *fake = fake_open_with(6 * MIB, 3);
    struct s3d_reader *idle = open_reader(fake, 4);
    for (uint64_t at = 0; at < 4; at++) {
        check_read(idle, at * MIB, 10, -1);
    }
    struct s3d_reader *busy = open_reader(fake, 4);
    for (uint64_t at = 0; at < 6 * MIB; at += 50021) {
        check_read(busy, at, 50021, -1);
    }
    for (unsigned n = 0; n < 50; n++) {
        check_read(busy, test_random_below(6 * MIB), (size_t)test_random_below(600 * KIB), -1);
        check_read(idle, test_random_below(6 * MIB), 10, -1);
    }
    struct s3d_budget *budget = &fake_running_engine()->budget;
    CHECK(budget->peak_bytes <= budget->limit_bytes + MIB);
    s3d_reader_free(busy);
    s3d_reader_free(idle);
    fake_close(fake);
    fake_engine("");
}

static void test_invalid(void)
{
    struct fake_store *fake = fake_open();
    struct s3d_reader *reader;
    struct s3d_reader_plan plan = {.key = "object", .part_bytes = 0, .concurrency = 1};
    CHECK_CODE(s3d_reader_new(&reader, fake_base(fake), &plan, NULL), S3D_INVALID);
    plan = (struct s3d_reader_plan){.key = "object", .part_bytes = 1, .concurrency = 0};
    CHECK_CODE(s3d_reader_new(&reader, fake_base(fake), &plan, NULL), S3D_INVALID);
    fake_close(fake);
}

static void test_shutdown(void)
{
    struct fake_store *fake = fake_open_with(6 * MIB, 3);
    struct s3d_reader *reader = open_reader(fake, 4);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 100, .hold = true});
    char *data = fake_memory(3 * MIB);
    size_t got = 0;
    CHECK_CODE(s3d_reader_read(reader, 5 * MIB, data, 100, &got, 1, NULL), S3D_AGAIN);
    s3d_reader_cancel(reader);
    CHECK_CODE(s3d_reader_read(reader, 0, data, 3 * MIB, &got, 1, NULL), S3D_AGAIN);
    s3d_engine_shutdown();
    CHECK_CODE(s3d_reader_read(reader, 0, data, 3 * MIB, &got, -1, NULL), S3D_CLOSED);
    s3d_reader_free(reader);
    free(data);
    fake_close(fake);
    fake_engine("");
}

/* Failing allocations: NO_MEMORY, or, where only a read-ahead went without, the right bytes. */
static void test_out_of_memory(void)
{
    struct fake_store *fake = fake_open_with(5 * MIB, 3);
    unsigned failed = 0;
    for (unsigned long n = 1;; n++) {
        struct s3d_reader *reader = NULL;
        struct s3d_reader_plan plan = {.key = "object", .part_bytes = MIB, .concurrency = 2};
        char *data = fake_memory(2 * MIB);
        struct s3d_error error = {0};
        size_t got = 0;
        s3d_mem_fail_at(n);
        enum s3d_code code = s3d_reader_new(&reader, fake_base(fake), &plan, &error);
        for (uint64_t at = 0; !code && at < MIB; at += 60 * KIB) {
            code = read_at(reader, at, data, 60 * KIB, &got, -1, &error);
            CHECK(fake_pattern_is(data, got, 3, at) && (code || got == 60 * KIB));
        }
        if (!code) {
            code = read_at(reader, 2 * MIB, data, 2 * MIB, &got, -1, &error);
            CHECK(fake_pattern_is(data, got, 3, 2 * MIB) && (code || got == 2 * MIB));
        }
        bool fired = s3d_mem_fault_fired();
        s3d_mem_fail_at(0);
        CHECK(code == error.code && (code == S3D_OK || code == S3D_NO_MEMORY));
        if (reader) { /* a reader that lacked memory once is as good as new */
            check_read(reader, 1000, 500, -1);
            check_read(reader, 3 * MIB, 2 * MIB, -1);
        }
        s3d_reader_free(reader);
        free(data);
        failed += code != S3D_OK;
        if (!fired) {
            CHECK_CODE(code, S3D_OK);
            CHECK(n > 8 && failed > 5);
            break;
        }
    }
    fake_close(fake);
}

int main(void)
{
    alarm(150);
    setvbuf(stdout, NULL, _IONBF, 0);
    fake_engine("");
    RUN(test_sequential);
    RUN(test_small_object_is_one_request);
    RUN(test_random);
    RUN(test_blocks_ahead_of_a_read);
    RUN(test_empty);
    RUN(test_read_ahead_is_parallel);
    RUN(test_far_run);
    RUN(test_far_jumps);
    RUN(test_concurrency);
    RUN(test_direct);
    RUN(test_cancel_direct);
    RUN(test_cancel_small);
    RUN(test_backward);
    RUN(test_does_not_open);
    RUN(test_slow_opening);
    RUN(test_failing_block);
    RUN(test_failing_read_ahead);
    RUN(test_changed);
    RUN(test_short_answer);
    RUN(test_fetch);
    RUN(test_fetch_changed);
    RUN(test_tiny_memory);
    RUN(test_idle_reader_does_not_starve);
    RUN(test_invalid);
    RUN(test_shutdown);
    RUN(test_out_of_memory);
    s3d_engine_shutdown();
    return 0;
}
