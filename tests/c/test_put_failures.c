/* Writing one object: failures of the store's and the caller's, and aborts at any moment. */
#include "put_test.h"

#include <pthread.h>
#include <unistd.h>

/* ---- failures ---- */

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

/* ---- aborts ---- */

static void *release_soon(void *argument)
{
    struct fake_store *fake = argument;
    usleep(20000);
    fake_release(fake);
    return NULL;
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
    struct s3d_put_remains remains;
    s3d_put_remains(put, &remains);
    CHECK(remains.upload_id && !strncmp(remains.upload_id, "upload-", 7) && !remains.unclear);
    CHECK_CODE(remains.why->code, S3D_SERVER);
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

int main(void)
{
    alarm(150);
    setvbuf(stdout, NULL, _IONBF, 0);
    fake_engine("");
    RUN(test_failures);
    RUN(test_mended);
    RUN(test_first_failure_cancels);
    RUN(test_failure_among_the_first_parts);
    RUN(test_two_failures);
    RUN(test_wrong_etag);
    RUN(test_too_many_parts);
    RUN(test_invalid);
    RUN(test_abort_early);
    RUN(test_abort_says_why);
    RUN(test_abort_parts_in_flight);
    RUN(test_abort_during_create);
    RUN(test_abort_during_complete);
    RUN(test_abort_fails);
    RUN(test_abort_races);
    s3d_engine_shutdown();
    return 0;
}
