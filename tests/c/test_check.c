/* Comparing what was read with the checksum that the store keeps: pieces, and the three ways to read. */
#include "fake_store.h"
#include "test.h"

#include "backends/sums.h"
#include "core/check.h"
#include "core/reader.h"
#include "core/whole.h"

#include <unistd.h>

enum { KIB = 1024, MIB = 1024 * KIB, SIZE = 3 * MIB + 77, HEAD = 64 * KIB };

static char *bytes; /* SIZE of them */

static void sum_text(const struct s3d_sum_kind *kind, char text[S3D_SUM_TEXT])
{
    kind->write(kind->update(0, bytes, SIZE), text);
}

static struct fake_store *open_with_sum(const struct s3d_sum_kind *kind, bool right)
{
    struct fake_store *fake = fake_open();
    char text[S3D_SUM_TEXT];
    fake_put_object(fake, "object", bytes, SIZE);
    sum_text(kind, text);
    text[0] = right ? text[0] : (char)(text[0] == 'A' ? 'B' : 'A');
    fake_set_sum(fake, kind, text);
    return fake;
}

/* ---- ways to read all of it ---- */

static char *memory;

static char *place(void *context, uint64_t size)
{
    (void)context;
    CHECK(size == SIZE);
    return memory;
}

static enum s3d_code read_whole(struct fake_store *fake, int64_t timeout_ms,
                                struct s3d_error *error)
{
    struct s3d_whole *whole = NULL;
    uint64_t size;
    struct s3d_whole_plan plan = {.key = "object",
                                  .head_bytes = HEAD,
                                  .part_bytes = MIB,
                                  .concurrency = 3,
                                  .place = place};
    enum s3d_code code = s3d_whole_new(&whole, fake_base(fake), &plan, error);
    while (!code &&
           (code = s3d_whole_wait_size(whole, &size, timeout_ms, error)) == S3D_AGAIN) {
        code = S3D_OK;
    }
    if (!code) {
        code = s3d_whole_fetch_rest(whole, memory + HEAD, error);
    }
    while (!code && (code = s3d_whole_wait(whole, timeout_ms, error)) == S3D_AGAIN) {
        code = S3D_OK;
    }
    s3d_whole_free(whole);
    return code;
}

static enum s3d_code read_get(struct fake_store *fake, int64_t timeout_ms,
                              struct s3d_error *error)
{
    struct s3d_check *check = NULL;
    struct s3d_get *get = NULL;
    struct s3d_segment segments[] = {{0, 1000, memory}, {1000, SIZE - 1000, memory + 1000}};
    enum s3d_code code = s3d_check_new(&check, fake_base(fake), "object", error);
    struct s3d_get_plan plan = {.key = "object",
                                .segments = segments,
                                .segment_count = 2,
                                .part_bytes = MIB,
                                .concurrency = 3,
                                .check = check,
                                .is_all_if_whole = true,
                                .ends_check = true};
    if (!code) {
        code = s3d_get_new(&get, fake_base(fake), &plan, error);
    }
    s3d_check_release(check);
    while (!code && (code = s3d_get_wait_all(get, timeout_ms, error)) == S3D_AGAIN) {
        code = S3D_OK;
    }
    if (code == S3D_INTEGRITY) { /* and so it stays */
        CHECK_CODE(s3d_get_wait(get, 0, 1, -1, NULL), S3D_INTEGRITY);
    }
    s3d_get_free(get);
    return code;
}

static enum s3d_code open_reader(struct s3d_reader **reader, struct fake_store *fake,
                                 int64_t timeout_ms, struct s3d_error *error)
{
    struct s3d_reader_plan plan = {.key = "object", .part_bytes = MIB, .concurrency = 3};
    enum s3d_code code = s3d_reader_new(reader, fake_base(fake), &plan, error);
    while (!code && (code = s3d_reader_wait_open(*reader, timeout_ms, error)) == S3D_AGAIN) {
        code = S3D_OK;
    }
    return code;
}

static enum s3d_code read_piece(struct s3d_reader *reader, uint64_t offset, size_t length,
                                int64_t timeout_ms, struct s3d_error *error)
{
    size_t got = 0;
    enum s3d_code code;
    do {
        code =
            s3d_reader_read(reader, offset, memory + offset, length, &got, timeout_ms, error);
    } while (code == S3D_AGAIN);
    return code;
}

/* Small reads and long ones, which go straight to their memory, in turn; and looks elsewhere. */
static enum s3d_code read_in_order(struct fake_store *fake, int64_t timeout_ms,
                                   struct s3d_error *error)
{
    struct s3d_reader *reader = NULL;
    uint64_t at = 0;
    enum s3d_code code = open_reader(&reader, fake, timeout_ms, error);
    for (unsigned i = 0; !code && at < SIZE; i++) {
        size_t left = SIZE - (size_t)at, length = i % 2 ? MIB + 333 : 70 * KIB + 1;
        length = length < left ? length : left;
        code = read_piece(reader, at, length, timeout_ms, error);
        at += length;
        if (!code && at < SIZE) {
            code = read_piece(reader, at / 2, 100, timeout_ms, error);
        }
    }
    s3d_reader_free(reader);
    return code;
}

/* A header by a read, and the rest by a get, but for what the opening has brought. */
static enum s3d_code read_then_fetch(struct fake_store *fake, int64_t timeout_ms,
                                     struct s3d_error *error)
{
    enum { TAIL = 256 * KIB };
    struct s3d_reader *reader = NULL;
    struct s3d_get *get = NULL;
    struct s3d_segment segment = {100, SIZE - TAIL - 100, memory + 100};
    struct s3d_get_plan plan = {.segments = &segment, .segment_count = 1};
    enum s3d_code code = open_reader(&reader, fake, timeout_ms, error);
    if (!code) {
        code = read_piece(reader, 0, 4096, timeout_ms, error);
    }
    if (!code) {
        code = s3d_reader_fetch(&get, reader, &plan, error);
    }
    while (!code && (code = s3d_get_wait(get, 0, 1, timeout_ms, error)) == S3D_AGAIN) {
        code = S3D_OK;
    }
    if (!code) {
        code = read_piece(reader, SIZE - TAIL, TAIL, timeout_ms, error);
    }
    s3d_get_free(get);
    s3d_reader_free(reader);
    return code;
}

typedef enum s3d_code way_function(struct fake_store *fake, int64_t timeout_ms,
                                   struct s3d_error *error);
static way_function *const ways[] = {read_whole, read_get, read_in_order, read_then_fetch};
enum { WAYS = sizeof ways / sizeof *ways };

/* ---- tests ---- */

static void test_right_and_wrong(void)
{
    for (size_t i = 0; i < WAYS * S3D_SUM_KINDS; i++) {
        const struct s3d_sum_kind *kind = s3d_sum_kinds[i % S3D_SUM_KINDS];
        way_function *way = ways[i / S3D_SUM_KINDS];
        struct s3d_error error = {0};
        struct fake_store *fake = open_with_sum(kind, true);
        memset(memory, 0, SIZE);
        CHECK_CODE(way(fake, i % 2 ? 1 : -1, &error), S3D_OK);
        CHECK(memcmp(memory, bytes, SIZE) == 0);
        CHECK(fake_attempts(fake, S3D_VERB_STAT) == 1);
        fake_close(fake);
        fake = open_with_sum(kind, false);
        CHECK_CODE(way(fake, i % 2 ? 1 : -1, &error), S3D_INTEGRITY);
        CHECK(strstr(error.message, kind->name) && error.code == S3D_INTEGRITY);
        CHECK_TEXT(error.operation, "GetObject");
        fake_close(fake);
    }
}

/* The last byte waits for the answer, however late that comes. */
static void test_late_answer(void)
{
    for (size_t i = 0; i < WAYS; i++) {
        struct fake_store *fake = open_with_sum(s3d_sum_kinds[0], false);
        unsigned rule = fake_rule(
            fake, (struct fake_rule){.verb = S3D_VERB_STAT, .times = 1, .delay_ms = 100});
        CHECK_CODE(ways[i](fake, 1, NULL), S3D_INTEGRITY);
        CHECK(fake_fired(fake, rule) == 1);
        fake_close(fake);
    }
}

static void test_nothing_to_compare(void)
{
    static const struct {
        struct fake_rule rule;
        enum s3d_code expected;
    } cases[] = {
        {{.verb = S3D_VERB_STAT, .times = 1, .wrong_etag = true}, S3D_OK},
        {{.verb = S3D_VERB_STAT, .times = 1, .code = S3D_NOT_FOUND}, S3D_OK},
        {{.verb = S3D_VERB_STAT, .times = 1, .code = S3D_DENIED}, S3D_DENIED},
    };
    for (size_t i = 0; i < WAYS * sizeof cases / sizeof *cases; i++) {
        struct fake_store *fake = open_with_sum(s3d_sum_kinds[0], false);
        unsigned rule = fake_rule(fake, cases[i / WAYS].rule);
        CHECK_CODE(ways[i % WAYS](fake, -1, NULL), cases[i / WAYS].expected);
        CHECK(fake_fired(fake, rule) == 1);
        fake_close(fake);
    }
    for (size_t i = 0; i < WAYS; i++) {
        struct fake_store *fake = open_with_sum(s3d_sum_kinds[0], true);
        fake_set_sum(fake, NULL, "");
        CHECK_CODE(ways[i](fake, -1, NULL), S3D_OK);
        CHECK(fake_attempts(fake, S3D_VERB_STAT) == 1);
        fake_close(fake);
    }
}

/* Pieces that come in any order, and with what is stored known before, between and after them. */
static void test_pieces(void)
{
    static const size_t cuts[] = {0, 1, 1000, 70 * KIB, MIB, 2 * MIB + 1, SIZE};
    static const size_t orders[][6] = {
        {0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}, {3, 4, 0, 5, 1, 2}};
    for (size_t i = 0; i < 3 * 7; i++) {
        struct fake_store *fake = open_with_sum(s3d_sum_kinds[i % 3], false);
        struct s3d_object object = {.size_bytes = SIZE, .sum_kind = s3d_sum_kinds[i % 3]};
        struct s3d_check *check;
        sum_text(object.sum_kind, object.sum);
        CHECK_CODE(s3d_check_new(&check, fake_base(fake), "object", NULL), S3D_OK);
        for (size_t n = 0; n < 7; n++) {
            if (n == i / 3) {
                CHECK_CODE(s3d_check_learn(check, &object, NULL), S3D_OK);
            }
            if (n < 6) {
                size_t piece = orders[i % 3][n], from = cuts[piece];
                CHECK_CODE(
                    s3d_check_add(check, from, bytes + from, cuts[piece + 1] - from, NULL),
                    S3D_OK);
            }
        }
        CHECK_CODE(s3d_check_end(check, SIZE, -1, NULL), S3D_OK);
        CHECK(fake_attempts(fake, S3D_VERB_STAT) == 0);
        s3d_check_release(check);
        fake_close(fake);
    }
}

/* Pieces that are not all of the object are compared with nothing; nor is what was dropped. */
static void test_not_all(void)
{
    static const struct {
        size_t skip, length;
        bool dropped;
        enum s3d_code expected;
    } cases[] = {
        {0, SIZE, false, S3D_INTEGRITY},
        {0, SIZE, true, S3D_OK},
        {1, SIZE - 1, false, S3D_OK},
        {0, SIZE - 1, false, S3D_OK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fake_store *fake = open_with_sum(s3d_sum_kinds[0], true);
        struct s3d_object object = {.sum_kind = s3d_sum_kinds[0], .sum = "AAAAAAAAAAA="};
        struct s3d_check *check;
        CHECK_CODE(s3d_check_new(&check, fake_base(fake), "object", NULL), S3D_OK);
        CHECK_CODE(s3d_check_learn(check, &object, NULL), S3D_OK);
        CHECK_CODE(
            s3d_check_add(check, cases[i].skip, bytes + cases[i].skip, cases[i].length, NULL),
            S3D_OK);
        if (cases[i].dropped) {
            s3d_check_drop(check);
        }
        CHECK_CODE(s3d_check_end(check, SIZE, -1, NULL), cases[i].expected);
        s3d_check_release(check);
        fake_close(fake);
    }
}

static void test_off(void)
{
    struct fake_store *fake = fake_open();
    struct s3d_check *check;
    CHECK_CODE(s3d_check_new(&check, fake_base(fake), "object", NULL), S3D_OK);
    CHECK(check == NULL && s3d_check_acquire(check) == NULL);
    CHECK_CODE(s3d_check_learn(check, NULL, NULL), S3D_OK);
    CHECK_CODE(s3d_check_add(check, 0, bytes, SIZE, NULL), S3D_OK);
    CHECK_CODE(s3d_check_end(check, SIZE, -1, NULL), S3D_OK);
    s3d_check_drop(check);
    s3d_check_release(check);
    fake_close(fake);
}

/* Freed while the question is out: it is joined. */
static void test_abandoned(void)
{
    struct fake_store *fake = open_with_sum(s3d_sum_kinds[0], true);
    struct s3d_reader *reader = NULL;
    size_t got = 0;
    unsigned rule =
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_STAT, .times = 1, .hold = true});
    CHECK_CODE(open_reader(&reader, fake, -1, NULL), S3D_OK);
    CHECK_CODE(read_piece(reader, 0, SIZE - 1, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_reader_read(reader, SIZE - 1, memory, 1, &got, 1, NULL), S3D_AGAIN);
    CHECK(fake_fired(fake, rule) == 1);
    s3d_reader_free(reader);
    fake_close(fake);
}

/* A long read that fails ends the check, not the reader. */
static void test_a_failed_read(void)
{
    struct fake_store *fake = open_with_sum(s3d_sum_kinds[0], false);
    struct s3d_reader *reader = NULL;
    CHECK_CODE(open_reader(&reader, fake, -1, NULL), S3D_OK);
    unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET,
                                                       .at_offset = true,
                                                       .offset = MIB,
                                                       .times = 1,
                                                       .code = S3D_DENIED});
    CHECK_CODE(read_piece(reader, 0, SIZE, -1, NULL), S3D_DENIED);
    CHECK(fake_fired(fake, rule) == 1);
    CHECK_CODE(read_piece(reader, 0, SIZE, -1, NULL), S3D_OK);
    s3d_reader_free(reader);
    fake_close(fake);
}

static struct fake_store *tortured;
static way_function *tortured_way;

static enum s3d_code attempt(void)
{
    struct s3d_error error = {0};
    memset(memory, 0, SIZE);
    enum s3d_code code = tortured_way(tortured, -1, &error);
    CHECK(code == error.code);
    CHECK(code || memcmp(memory, bytes, SIZE) == 0);
    return code;
}

static void test_out_of_memory(void)
{
    for (size_t i = 0; i < 2;
         i++) { /* not a reader, which goes on without memory: test_reader */
        tortured = open_with_sum(s3d_sum_kinds[0], true);
        tortured_way = ways[i];
        CHECK(test_torture(attempt, 0) > 5);
        fake_close(tortured);
    }
}

int main(void)
{
    alarm(150);
    setvbuf(stdout, NULL, _IONBF, 0);
    bytes = fake_memory(SIZE);
    memory = fake_memory(SIZE);
    fake_pattern(bytes, SIZE, 7);
    fake_engine("");
    RUN(test_right_and_wrong);
    RUN(test_late_answer);
    RUN(test_nothing_to_compare);
    RUN(test_pieces);
    RUN(test_not_all);
    RUN(test_off);
    RUN(test_abandoned);
    RUN(test_a_failed_read);
    RUN(test_out_of_memory);
    s3d_engine_shutdown();
    free(bytes);
    free(memory);
    return 0;
}
