/* Writing one object: sizes, ways, failures, aborts, memory. */
#include "fake_store.h"
#include "test.h"

#include "core/put.h"

#include <pthread.h>
#include <unistd.h>

enum { PART = 64 * 1024 };

static struct s3d_put *open_put(struct fake_store *fake, unsigned concurrency)
{
    struct s3d_put_plan plan = {
        .key = "object", .part_bytes = PART, .concurrency = concurrency};
    struct s3d_put *put;
    CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, NULL), S3D_OK);
    return put;
}

/* Writes in pieces of `piece` bytes, each from memory of its own that is freed at once. */
static enum s3d_code write_pieces(struct s3d_put *put, const char *data, size_t size,
                                  size_t piece, int64_t timeout_ms, unsigned *agains,
                                  struct s3d_error *error)
{
    for (size_t at = 0; at < size;) {
        size_t length = size - at < piece ? size - at : piece, written = 0;
        char *copy = fake_memory(length);
        memcpy(copy, data + at, length);
        enum s3d_code code;
        while ((code = s3d_put_write(put, copy, length, &written, timeout_ms, error)) ==
               S3D_AGAIN) {
            CHECK(written <= length && timeout_ms >= 0);
            (*agains)++;
        }
        free(copy);
        if (code) {
            return code;
        }
        CHECK(written == length);
        at += length;
    }
    return S3D_OK;
}

static enum s3d_code finish(struct s3d_put *put, int64_t timeout_ms, unsigned *agains,
                            struct s3d_error *error)
{
    enum s3d_code code;
    while ((code = s3d_put_finish(put, timeout_ms, error)) == S3D_AGAIN) {
        CHECK(timeout_ms >= 0);
        (*agains)++;
    }
    return code;
}

static char *pattern(size_t size)
{
    char *data = fake_memory(size);
    fake_pattern(data, size, 7);
    return data;
}

static void check_object(struct fake_store *fake, size_t size)
{
    size_t stored;
    const char *data = fake_object(fake, "object", &stored);
    CHECK(data != NULL && stored == size && fake_pattern_is(data, size, 7, 0));
}

static void check_no_object(struct fake_store *fake)
{
    size_t stored;
    CHECK(!fake_object(fake, "object", &stored));
    CHECK(fake_open_uploads(fake) == 0);
}

static void write_object(size_t size, size_t piece, unsigned concurrency, int64_t timeout_ms)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(size);
    struct s3d_put *put = open_put(fake, concurrency);
    struct s3d_error error;
    unsigned agains = 0;
    CHECK_CODE(write_pieces(put, data, size, piece, timeout_ms, &agains, &error), S3D_OK);
    CHECK(s3d_put_bytes(put) == size && !s3d_put_finished(put));
    CHECK_TEXT(s3d_put_etag(put), "");
    size_t stored;
    CHECK(!fake_object(fake, "object", &stored)); /* nothing is visible before finish */
    CHECK_CODE(finish(put, timeout_ms, &agains, &error), S3D_OK);
    check_object(fake, size);
    CHECK(s3d_put_finished(put) && s3d_put_etag(put)[0] == '"');
    unsigned parts = size > PART ? (unsigned)((size + PART - 1) / PART) : 0;
    CHECK(fake_attempts(fake, S3D_VERB_PUT) == (parts ? 0 : 1));
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_CREATE) == (parts ? 1 : 0));
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_PART) == parts);
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_COMPLETE) == (parts ? 1 : 0));
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_ABORT) == 0);
    CHECK(fake_peak(fake, S3D_VERB_UPLOAD_PART) <= concurrency);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

static void test_sizes(void)
{
    static const size_t sizes[] = {0, 1, PART - 1, PART, PART + 1, 7 * PART / 2};
    static const size_t pieces[] = {1, 4096, 100003, PART, SIZE_MAX};
    static const unsigned concurrencies[] = {3, 1, 64};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t j = 0; j < sizeof pieces / sizeof *pieces; j++) {
            size_t kinds = pieces[j] == 1 ? 1 : sizeof concurrencies / sizeof *concurrencies;
            for (size_t k = 0; k < kinds; k++) {
                write_object(sizes[i], pieces[j], concurrencies[k], -1);
            }
        }
    }
    write_object(100 * PART + 17, SIZE_MAX, 4, -1);
    write_object(100 * PART + 17, 5 * PART + 1, 3, -1);
    write_object(20 * PART, SIZE_MAX, 1, -1);
}

/* Real sizes: 8 MiB parts, writes of an odd MiB. */
static void test_real_part_size(void)
{
    struct fake_store *fake = fake_open();
    size_t size = 28 * 1024 * 1024 + 5;
    char *data = pattern(size);
    struct s3d_put_plan plan = {.key = "object", .part_bytes = 8388608, .concurrency = 4};
    struct s3d_put *put;
    unsigned agains = 0;
    CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, NULL), S3D_OK);
    CHECK_CODE(write_pieces(put, data, size, 1048583, -1, &agains, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, size);
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_PART) == 4);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* A long write is sent from the caller's memory but for its last parts, and may then go away. */
static void test_in_place(void)
{
    for (unsigned concurrency = 1; concurrency <= 4; concurrency++) {
        struct fake_store *fake = fake_open();
        size_t size = 40 * PART, written = 0;
        char *data = pattern(size);
        struct s3d_put *put = open_put(fake, concurrency);
        CHECK_CODE(s3d_put_write(put, data, size, &written, -1, NULL), S3D_OK);
        unsigned direct = fake_sent_from(fake, data, size);
        memset(data, 0, size);
        free(data);
        CHECK(direct >= 40 - concurrency && direct < 40);
        CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
        check_object(fake, size);
        s3d_put_free(put);
        fake_close(fake);
    }
}

/* Slow parts and next to no time: AGAIN many times, and the bytes are right all the same. */
static void test_again(void)
{
    static const size_t pieces[] = {10007, PART + 1, SIZE_MAX};
    for (size_t i = 0; i < 6; i++) {
        int64_t timeout_ms = i < 3 ? 0 : 1;
        struct fake_store *fake = fake_open();
        size_t size = 21 * PART / 2;
        char *data = pattern(size);
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_UPLOAD_PART, .times = 1000, .delay_ms = 3});
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_UPLOAD_CREATE, .times = 1000, .delay_ms = 3});
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_UPLOAD_COMPLETE, .times = 1000, .delay_ms = 3});
        struct s3d_put *put = open_put(fake, 2);
        unsigned agains = 0, finish_agains = 0;
        CHECK_CODE(write_pieces(put, data, size, pieces[i % 3], timeout_ms, &agains, NULL),
                   S3D_OK);
        CHECK_CODE(finish(put, timeout_ms, &finish_agains, NULL), S3D_OK);
        CHECK(agains > 0 && finish_agains > 0);
        check_object(fake, size);
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

static void test_again_single(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(1000);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_PUT, .times = 1, .hold = true});
    struct s3d_put *put = open_put(fake, 2);
    unsigned agains = 0;
    size_t written = 0;
    CHECK_CODE(write_pieces(put, data, 1000, 1000, -1, &agains, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, 0, NULL), S3D_AGAIN);
    fake_wait_held(fake, 1);
    CHECK_CODE(s3d_put_finish(put, 1, NULL), S3D_AGAIN);
    /* The object is on its way: more bytes would silently be left out. */
    CHECK_CODE(s3d_put_write(put, data, 1000, &written, -1, NULL), S3D_CLOSED);
    CHECK(written == 0);
    fake_release(fake);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, 1000);
    CHECK(fake_attempts(fake, S3D_VERB_PUT) == 1);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

static void test_finish_is_idempotent(void)
{
    struct fake_store *fake = fake_open();
    struct s3d_put *put = open_put(fake, 2);
    struct s3d_error error;
    size_t written = 0;
    CHECK_CODE(s3d_put_write(put, "", 0, &written, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    char etag[S3D_ETAG_MAX];
    snprintf(etag, sizeof etag, "%s", s3d_put_etag(put));
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    CHECK_TEXT(s3d_put_etag(put), etag);
    CHECK_CODE(s3d_put_write(put, "x", 1, &written, -1, &error), S3D_CLOSED);
    s3d_put_abort(put, NULL);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    CHECK(s3d_put_finished(put) && fake_attempts_all(fake) == 1);
    check_object(fake, 0);
    CHECK(atomic_load(&fake_running_engine()->stats.objects_written) > 0);
    s3d_put_free(put);
    fake_close(fake);
}

/* ---- failures ---- */

/* Every later call gives the first error, and nothing is left in the store. */
static void check_poisoned(struct s3d_put *put, const struct s3d_error *first)
{
    struct s3d_error again;
    size_t written = 0;
    for (int i = 0; i < 2; i++) {
        memset(&again, 0, sizeof again);
        CHECK_CODE(s3d_put_write(put, "x", 1, &written, -1, &again), first->code);
        CHECK_TEXT(again.message, first->message);
        memset(&again, 0, sizeof again);
        CHECK_CODE(s3d_put_finish(put, -1, &again), first->code);
        CHECK_TEXT(again.message, first->message);
        s3d_put_abort(put, NULL);
    }
    CHECK(written == 0 && !s3d_put_finished(put));
}

static void fail_with(struct fake_rule rule, size_t size, size_t piece, enum s3d_code expected,
                      const char *operation)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(size);
    unsigned number = fake_rule(fake, rule);
    struct s3d_put *put = open_put(fake, 3);
    struct s3d_error error = {0};
    unsigned agains = 0;
    enum s3d_code code = write_pieces(put, data, size, piece, -1, &agains, &error);
    if (!code) {
        code = finish(put, -1, &agains, &error);
    }
    CHECK_CODE(code, expected);
    CHECK_CODE(error.code, expected);
    CHECK_TEXT(error.operation, operation);
    CHECK(strstr(error.message, "scripted by rule 0") != NULL);
    CHECK(fake_fired(fake, number) > 0);
    check_poisoned(put, &error);
    check_no_object(fake);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

static void test_failures(void)
{
    static const size_t pieces[] = {5000, PART, SIZE_MAX};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct fake_rule rule = {.times = 1, .code = S3D_DENIED};
        rule.verb = S3D_VERB_PUT;
        fail_with(rule, 100, pieces[i], S3D_DENIED, "PutObject");
        rule.verb = S3D_VERB_UPLOAD_CREATE;
        fail_with(rule, 10 * PART, pieces[i], S3D_DENIED, "CreateMultipartUpload");
        rule.delay_ms = 3;
        fail_with(rule, 10 * PART, pieces[i], S3D_DENIED, "CreateMultipartUpload");
        rule.verb = S3D_VERB_UPLOAD_PART;
        for (uint32_t part = 1; part <= 10; part += 3) {
            rule.part = part;
            char operation[32];
            snprintf(operation, sizeof operation, "UploadPart %u", part);
            fail_with(rule, 10 * PART, pieces[i], S3D_DENIED, operation);
        }
        rule.part = 0;
        rule.verb = S3D_VERB_UPLOAD_COMPLETE;
        fail_with(rule, 10 * PART, pieces[i], S3D_DENIED, "CompleteMultipartUpload");
        rule.times = 100;
        rule.code = S3D_NETWORK; /* until the attempts run out */
        fail_with(rule, 2 * PART, pieces[i], S3D_NETWORK, "CompleteMultipartUpload");
    }
}

/* Failures that a retry mends are not seen. */
static void test_mended(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(10 * PART);
    static const enum s3d_verb verbs[] = {S3D_VERB_UPLOAD_CREATE, S3D_VERB_UPLOAD_PART,
                                          S3D_VERB_UPLOAD_COMPLETE};
    for (size_t i = 0; i < 3; i++) {
        fake_rule(fake, (struct fake_rule){.verb = verbs[i], .times = 2, .code = S3D_SERVER});
    }
    struct s3d_put *put = open_put(fake, 3);
    unsigned agains = 0;
    CHECK_CODE(write_pieces(put, data, 10 * PART, 5 * PART, -1, &agains, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    for (unsigned i = 0; i < 3; i++) {
        CHECK(fake_fired(fake, i) == 2);
    }
    check_object(fake, 10 * PART);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* A part that fails ends those beside it, which would never end by themselves. */
static void test_first_failure_cancels(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(10 * PART);
    fake_rule(fake,
              (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART, .times = 100, .hold = true});
    unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART,
                                                       .part = 3,
                                                       .times = 1,
                                                       .delay_ms = 10,
                                                       .code = S3D_DENIED});
    struct s3d_put *put = open_put(fake, 3);
    struct s3d_error error;
    size_t written = 0;
    CHECK_CODE(s3d_put_write(put, data, 10 * PART, &written, -1, &error), S3D_DENIED);
    CHECK_TEXT(error.operation, "UploadPart 3");
    CHECK(fake_fired(fake, rule) == 1);
    check_poisoned(put, &error);
    check_no_object(fake);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* The first part fails while the others, which waited for the upload too, are only being sent: none
 * of them may slip through, as they would never end. */
static void test_failure_among_the_first_parts(void)
{
    char *data = pattern(4 * PART);
    for (int round = 0; round < 100; round++) {
        struct fake_store *fake = fake_open();
        fake_rule(fake,
                  (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART, .times = 100, .hold = true});
        unsigned rule = fake_rule(
            fake, (struct fake_rule){
                      .verb = S3D_VERB_UPLOAD_PART, .part = 1, .times = 1, .code = S3D_DENIED});
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_UPLOAD_CREATE, .times = 1, .delay_ms = 1});
        struct s3d_put *put = open_put(fake, 4);
        struct s3d_error error;
        unsigned agains = 0;
        enum s3d_code code = write_pieces(put, data, 4 * PART, PART, -1, &agains, &error);
        CHECK_CODE(code ? code : s3d_put_finish(put, -1, &error), S3D_DENIED);
        CHECK(fake_fired(fake, rule) == 1);
        check_poisoned(put, &error);
        check_no_object(fake);
        s3d_put_free(put);
        fake_close(fake);
    }
    free(data);
}

/* The caller's own failure (a part too many) and a part's at the same time: either is the first. */
static void test_two_failures(void)
{
    char *data = pattern(4 * PART);
    for (int round = 0; round < 50; round++) {
        struct fake_store *fake = fake_open();
        fake_limits(fake)->parts_max = 3;
        fake_limits(fake)->part_max_bytes = PART;
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_UPLOAD_PART, .times = 100, .code = S3D_DENIED});
        struct s3d_put *put = open_put(fake, 4);
        struct s3d_error error;
        unsigned agains = 0;
        enum s3d_code code = write_pieces(put, data, 4 * PART, PART, -1, &agains, &error);
        code = code ? code : s3d_put_finish(put, -1, &error);
        CHECK(code == error.code && (code == S3D_DENIED || code == S3D_INVALID));
        check_poisoned(put, &error);
        check_no_object(fake);
        s3d_put_free(put);
        fake_close(fake);
    }
    free(data);
}

/* The store garbles a part's ETag: complete is refused, the upload removed. */
static void test_wrong_etag(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(3 * PART);
    unsigned rule = fake_rule(
        fake, (struct fake_rule){
                  .verb = S3D_VERB_UPLOAD_PART, .part = 2, .times = 1, .wrong_etag = true});
    struct s3d_put *put = open_put(fake, 3);
    struct s3d_error error;
    unsigned agains = 0;
    CHECK_CODE(write_pieces(put, data, 3 * PART, SIZE_MAX, -1, &agains, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, &error), S3D_REJECTED);
    CHECK_TEXT(error.message, "InvalidPart 2");
    CHECK(fake_fired(fake, rule) == 1);
    check_poisoned(put, &error);
    check_no_object(fake);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

static void test_too_many_parts(void)
{
    for (size_t parts = 3; parts <= 5; parts++) {
        struct fake_store *fake = fake_open();
        fake_limits(fake)->parts_max = 3;
        fake_limits(fake)->part_max_bytes = PART;
        fake_limits(fake)->part_min_bytes = PART;
        char *data = pattern(parts * PART);
        struct s3d_put *put = open_put(fake, 2);
        struct s3d_error error = {0};
        unsigned agains = 0;
        enum s3d_code code =
            write_pieces(put, data, parts * PART, 3 * PART / 2, -1, &agains, &error);
        if (!code) {
            code = s3d_put_finish(put, -1, &error);
        }
        if (parts == 3) {
            CHECK_CODE(code, S3D_OK);
            check_object(fake, parts * PART);
        } else {
            CHECK_CODE(code, S3D_INVALID);
            CHECK(strstr(error.message, "3 parts") && strstr(error.message, "part_size"));
            check_poisoned(put, &error);
            check_no_object(fake);
        }
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

static void test_invalid(void)
{
    struct fake_store *fake = fake_open();
    fake_limits(fake)->part_min_bytes = PART;
    fake_limits(fake)->part_max_bytes = 2 * PART;
    struct s3d_put_plan plan = {.key = "object", .part_bytes = PART - 1, .concurrency = 1};
    struct s3d_put *put;
    struct s3d_error error;
    CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, &error), S3D_INVALID);
    plan.part_bytes = 2 * PART + 1;
    CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, &error), S3D_INVALID);
    plan.part_bytes = PART;
    plan.concurrency = 0;
    CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, &error), S3D_INVALID);
    s3d_put_free(NULL);
    fake_close(fake);
}

/* Options reach the store, by PUT and by upload, from a copy. */
static void test_if_none_match(void)
{
    for (size_t parts = 0; parts <= 2; parts += 2) {
        struct fake_store *fake = fake_open();
        fake_put_object(fake, "object", "old", 3);
        char *data = pattern(parts * PART + 10);
        struct s3d_put_options options = {.if_none_match = true};
        struct s3d_put_plan plan = {
            .key = "object", .part_bytes = PART, .concurrency = 2, .options = &options};
        struct s3d_put *put;
        struct s3d_error error;
        unsigned agains = 0;
        CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, NULL), S3D_OK);
        options.if_none_match = false;
        CHECK_CODE(write_pieces(put, data, parts * PART + 10, 1000, -1, &agains, NULL), S3D_OK);
        CHECK_CODE(s3d_put_finish(put, -1, &error), S3D_EXISTS);
        check_poisoned(put, &error);
        CHECK(fake_open_uploads(fake) == 0);
        size_t size;
        CHECK(memcmp(fake_object(fake, "object", &size), "old", 3) == 0 && size == 3);
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

/* Parts grow: the small buffers of the first ones are replaced. */
static void test_growing_parts(void)
{
    struct fake_store *fake = fake_open();
    fake_limits(fake)->parts_max = 10000;
    size_t size = 6 * 1024 * 1024 + 3;
    char *data = pattern(size);
    struct s3d_put *put = open_put(fake, 2);
    unsigned agains = 0;
    CHECK_CODE(write_pieces(put, data, size, 30001, -1, &agains, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, size);
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_PART) == 7);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* ---- aborts ---- */

static void *release_soon(void *argument)
{
    struct fake_store *fake = argument;
    usleep(20000);
    fake_release(fake);
    return NULL;
}

static void check_cancelled(struct s3d_put *put)
{
    struct s3d_error error;
    CHECK_CODE(s3d_put_finish(put, -1, &error), S3D_CANCELLED);
    check_poisoned(put, &error);
}

static void test_abort_early(void)
{
    for (size_t size = 0; size <= PART; size += PART) {
        struct fake_store *fake = fake_open();
        char *data = pattern(size);
        struct s3d_put *put = open_put(fake, 2);
        unsigned agains = 0;
        CHECK_CODE(write_pieces(put, data, size, 1000, -1, &agains, NULL), S3D_OK);
        s3d_put_abort(put, NULL);
        check_cancelled(put);
        check_no_object(fake);
        CHECK(fake_attempts_all(fake) == 0);
        s3d_put_free(put);
        put = open_put(fake, 2);
        CHECK_CODE(write_pieces(put, data, size, 1000, -1, &agains, NULL), S3D_OK);
        s3d_put_free(put); /* without a word */
        free(data);
        fake_close(fake);
    }
}

static void test_abort_says_why(void)
{
    struct fake_store *fake = fake_open();
    struct s3d_put *put = open_put(fake, 2);
    struct s3d_error why, error;
    s3d_fail(&why, S3D_SYSTEM, "the caller's own trouble");
    s3d_put_abort(put, &why);
    CHECK_CODE(s3d_put_finish(put, -1, &error), S3D_SYSTEM);
    CHECK_TEXT(error.message, "the caller's own trouble");
    s3d_put_free(put);
    fake_close(fake);
}

/* Parts in flight from buffers and from the caller's memory, held for ever. */
static void test_abort_parts_in_flight(void)
{
    for (int direct = 0; direct <= 1; direct++) {
        struct fake_store *fake = fake_open();
        char *data = pattern(10 * PART);
        fake_rule(fake,
                  (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART, .times = 100, .hold = true});
        struct s3d_put *put = open_put(fake, 3);
        size_t written = 0;
        if (direct) {
            CHECK_CODE(s3d_put_write(put, data, 10 * PART, &written, 20, NULL), S3D_AGAIN);
            fake_wait_held(fake, 3);
            CHECK(fake_sent_from(fake, data, 10 * PART) == 3 && written == 3 * PART);
        } else {
            unsigned agains = 0;
            CHECK_CODE(write_pieces(put, data, 7 * PART / 2, 1000, -1, &agains, NULL), S3D_OK);
            fake_wait_held(fake, 3);
        }
        s3d_put_abort(put, NULL);
        free(data);
        check_cancelled(put);
        check_no_object(fake);
        CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_ABORT) == 1);
        s3d_put_free(put);
        fake_close(fake);
    }
}

/* The upload may come into being while it is being aborted: it must not stay. */
static void test_abort_during_create(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(3 * PART);
    fake_rule(fake,
              (struct fake_rule){.verb = S3D_VERB_UPLOAD_CREATE, .times = 1, .hold = true});
    struct s3d_put *put = open_put(fake, 3);
    unsigned agains = 0;
    CHECK_CODE(write_pieces(put, data, 3 * PART, 1000, -1, &agains, NULL), S3D_OK);
    fake_wait_held(fake, 1);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, release_soon, fake) == 0);
    s3d_put_abort(put, NULL);
    pthread_join(thread, NULL);
    check_cancelled(put);
    check_no_object(fake);
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_PART) == 0);
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_ABORT) == 1);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* The abort comes too late: the object is there, whole, and finish says so. */
static void test_abort_during_complete(void)
{
    for (size_t parts = 0; parts <= 3; parts += 3) {
        struct fake_store *fake = fake_open();
        char *data = pattern(parts * PART + 9);
        fake_rule(fake,
                  (struct fake_rule){.verb = parts ? S3D_VERB_UPLOAD_COMPLETE : S3D_VERB_PUT,
                                     .times = 1,
                                     .hold = true});
        struct s3d_put *put = open_put(fake, 4);
        unsigned agains = 0;
        CHECK_CODE(write_pieces(put, data, parts * PART + 9, 1000, -1, &agains, NULL), S3D_OK);
        CHECK_CODE(s3d_put_finish(put, 0, NULL), S3D_AGAIN);
        while (s3d_put_finish(put, 1, NULL) == S3D_AGAIN && !fake_held_by(fake, 0) &&
               !fake_held_by(fake, 1)) {
        }
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, release_soon, fake) == 0);
        s3d_put_abort(put, NULL);
        pthread_join(thread, NULL);
        CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
        check_object(fake, parts * PART + 9);
        CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_ABORT) == 0);
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

/* The upload cannot be removed: that is said, after the first cause. */
static void test_abort_fails(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(3 * PART);
    fake_rule(fake,
              (struct fake_rule){
                  .verb = S3D_VERB_UPLOAD_PART, .part = 1, .times = 1, .code = S3D_DENIED});
    unsigned rule = fake_rule(
        fake,
        (struct fake_rule){.verb = S3D_VERB_UPLOAD_ABORT, .times = 100, .code = S3D_SERVER});
    struct s3d_put *put = open_put(fake, 2);
    struct s3d_error error = {0};
    unsigned agains = 0;
    enum s3d_code code = write_pieces(put, data, 3 * PART, 1000, -1, &agains, &error);
    if (!code) {
        code = s3d_put_finish(put, -1, &error);
    }
    CHECK_CODE(code, S3D_DENIED);
    CHECK(strstr(error.message, "scripted by rule 0") == error.message);
    CHECK(strstr(error.message, "could not be removed") != NULL);
    CHECK(fake_fired(fake, rule) == 3);
    check_poisoned(put, &error);
    CHECK(fake_open_uploads(fake) == 1);
    fake_drop_uploads(fake);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* Aborts at any moment: nothing hangs, nothing stays. */
static void test_abort_races(void)
{
    for (unsigned round = 0; round < 120; round++) {
        struct fake_store *fake = fake_open();
        char *data = pattern(6 * PART);
        static const enum s3d_verb verbs[] = {S3D_VERB_UPLOAD_CREATE, S3D_VERB_UPLOAD_PART,
                                              S3D_VERB_UPLOAD_COMPLETE};
        for (size_t i = 0; i < 3; i++) {
            fake_rule(fake, (struct fake_rule){
                                .verb = verbs[i], .times = 100, .delay_ms = round % 3});
        }
        struct s3d_put *put = open_put(fake, 3);
        size_t written = 0;
        enum s3d_code code = s3d_put_write(put, data, 6 * PART, &written, round % 7, NULL);
        CHECK(code == S3D_OK || code == S3D_AGAIN);
        if (code == S3D_OK) {
            code = s3d_put_finish(put, round % 5, NULL);
            CHECK(code == S3D_OK || code == S3D_AGAIN);
        }
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

/* ---- memory ---- */

struct writer {
    struct fake_store *fake;
    unsigned number;
};

static void *write_one(void *argument)
{
    struct writer *writer = argument;
    char key[16];
    snprintf(key, sizeof key, "object%u", writer->number);
    struct s3d_put_plan plan = {.key = key, .part_bytes = PART, .concurrency = 4};
    size_t size = 25 * PART + writer->number;
    char *data = fake_memory(size);
    fake_pattern(data, size, writer->number);
    struct s3d_put *put;
    unsigned agains = 0;
    CHECK_CODE(s3d_put_new(&put, fake_base(writer->fake), &plan, NULL), S3D_OK);
    size_t piece = writer->number % 2 ? 10000 : 7 * PART;
    CHECK_CODE(write_pieces(put, data, size, piece, 50, &agains, NULL), S3D_OK);
    CHECK_CODE(finish(put, 50, &agains, NULL), S3D_OK);
    size_t stored;
    const char *object = fake_object(writer->fake, key, &stored);
    CHECK(object && stored == size && memcmp(object, data, size) == 0);
    s3d_put_free(put);
    free(data);
    return NULL;
}

/* 8 writers share a budget: at most one part each above it, for those that hold nothing else. */
static void test_shared_budget(void)
{
    enum { WRITERS = 8, LIMIT = 12 };
    fake_engine("S3DLIO_MEMORY_LIMIT=786432"); /* LIMIT parts */
    struct fake_store *fake = fake_open();
    fake_rule(fake,
              (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART, .times = 10000, .delay_ms = 1});
    pthread_t threads[WRITERS];
    struct writer writers[WRITERS];
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){fake, i};
        CHECK(pthread_create(&threads[i], NULL, write_one, &writers[i]) == 0);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    struct s3d_budget *budget = &fake_running_engine()->budget;
    CHECK(budget->limit_bytes == LIMIT * PART);
    CHECK(budget->peak_bytes <= (LIMIT + WRITERS) * PART && budget->peak_bytes > 4 * PART);
    fake_close(fake);
    fake_engine("");
}

/* One writer never goes above a limit that has room for its first buffer. */
static void test_own_budget(void)
{
    fake_engine("S3DLIO_MEMORY_LIMIT=196608"); /* 3 parts */
    for (unsigned concurrency = 1; concurrency <= 8; concurrency *= 2) {
        write_object(30 * PART + 1, 1000, concurrency, -1);
        write_object(30 * PART + 1, 9 * PART, concurrency, 1);
    }
    CHECK(fake_running_engine()->budget.peak_bytes <= 3 * PART);
    fake_engine("S3DLIO_MEMORY_LIMIT=1"); /* less than a part: one buffer all the same */
    write_object(10 * PART + 1, 1000, 4, -1);
    CHECK(fake_running_engine()->budget.peak_bytes == PART);
    fake_engine("");
}

/* Whatever the object's size, a put holds at most a buffer for each part in flight and one more. */
static void test_bounded(void)
{
    fake_engine("");
    write_object(90 * PART, 1000, 2, -1);
    write_object(90 * PART, 50 * PART, 2, -1);
    CHECK(fake_running_engine()->budget.peak_bytes <= 4 * PART);
}

static struct fake_store *torture_fake;
static size_t torture_size, torture_piece;

static enum s3d_code put_once(void)
{
    static const char *const metadata[] = {"name", "value"};
    struct s3d_put_options options = {.content_type = "a/b",
                                      .content_encoding = "zstd",
                                      .storage_class = "STANDARD",
                                      .metadata = metadata,
                                      .metadata_count = 1};
    struct s3d_put_plan plan = {
        .key = "object", .part_bytes = PART, .concurrency = 2, .options = &options};
    struct s3d_error error = {0};
    struct s3d_put *put = NULL;
    unsigned agains = 0;
    char *data = pattern(torture_size);
    enum s3d_code code = s3d_put_new(&put, fake_base(torture_fake), &plan, &error);
    if (!code) {
        code = write_pieces(put, data, torture_size, torture_piece, -1, &agains, &error);
    }
    if (!code) {
        code = s3d_put_finish(put, -1, &error);
    }
    CHECK(code == error.code);
    s3d_put_free(put);
    free(data);
    CHECK(fake_open_uploads(torture_fake) == 0);
    return code;
}

static void test_out_of_memory(void)
{
    torture_fake = fake_open();
    torture_size = 7 * PART / 2;
    torture_piece = 1000;
    CHECK(test_torture(put_once, 0) >= 12);
    torture_piece = SIZE_MAX;
    CHECK(test_torture(put_once, 0) >= 10);
    torture_size = 100;
    CHECK(test_torture(put_once, 0) >= 10);
    fake_close(torture_fake);
}

int main(void)
{
    alarm(60);
    setvbuf(stdout, NULL, _IONBF, 0);
    fake_engine("");
    RUN(test_sizes);
    RUN(test_real_part_size);
    RUN(test_in_place);
    RUN(test_again);
    RUN(test_again_single);
    RUN(test_finish_is_idempotent);
    RUN(test_failures);
    RUN(test_mended);
    RUN(test_first_failure_cancels);
    RUN(test_failure_among_the_first_parts);
    RUN(test_two_failures);
    RUN(test_wrong_etag);
    RUN(test_too_many_parts);
    RUN(test_invalid);
    RUN(test_if_none_match);
    RUN(test_growing_parts);
    RUN(test_abort_early);
    RUN(test_abort_says_why);
    RUN(test_abort_parts_in_flight);
    RUN(test_abort_during_create);
    RUN(test_abort_during_complete);
    RUN(test_abort_fails);
    RUN(test_abort_races);
    RUN(test_shared_budget);
    RUN(test_own_budget);
    RUN(test_bounded);
    RUN(test_out_of_memory);
    s3d_engine_shutdown();
    return 0;
}
