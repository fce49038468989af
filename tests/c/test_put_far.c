/* Writing one object: to a store that is far, parts are larger and more of them in flight at once. */
#include "put_test.h"

#include <unistd.h>

#include "core/engine.h"

enum { FAR_US = 10000, FAR_RATE = 100000000, FAR_PART = 320 * 1024 };

static struct s3d_put *open_far_put(struct fake_store *fake, unsigned concurrency,
                                    uint64_t part_max)
{
    struct s3d_put_plan plan = {.key = "object",
                                .part_bytes = FAR_PART,
                                .part_max_bytes = part_max,
                                .concurrency = concurrency};
    struct s3d_put *put;
    CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, NULL), S3D_OK);
    return put;
}

/* How many parts ten usual ones of references become, over one connection. */
static unsigned far_parts(struct fake_store *fake, uint64_t part_max, uint64_t expected)
{
    size_t size = 10 * FAR_PART;
    char *data = pattern(size);
    fake_counters_clear(fake);
    struct s3d_put *put = open_far_put(fake, 1, part_max);
    if (expected) {
        s3d_put_expect(put, expected);
    }
    for (size_t at = 0; at < size; at += FAR_PART / 2) {
        CHECK_CODE(refer(put, data + at, FAR_PART / 2, -1, NULL), S3D_OK);
    }
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, size);
    s3d_put_free(put);
    free(data);
    const struct fake_line *lines;
    size_t count = fake_log(fake, &lines);
    for (size_t i = 0; i < count; i++) {
        CHECK(lines[i].verb != S3D_VERB_UPLOAD_PART ||
              lines[i].length <= (part_max > FAR_PART ? part_max : FAR_PART));
    }
    CHECK(fake_peak(fake, S3D_VERB_UPLOAD_PART) == 1);
    return fake_attempts(fake, S3D_VERB_UPLOAD_PART);
}

static void test_far_references(void)
{
    struct fake_store *fake = fake_open();
    uint64_t size = 10 * FAR_PART, most = 4 * FAR_PART;
    CHECK(far_parts(fake, most, size) == 10); /* nobody says that it is far */
    fake_set_distance(fake, FAR_US, FAR_RATE);
    CHECK(far_parts(fake, most, size) == 1 + 3); /* the first is cut before anything is known */
    CHECK(far_parts(fake, 0, size) == 10);       /* a size that somebody has set */
    CHECK(far_parts(fake, FAR_PART, size) == 10);
    CHECK(far_parts(fake, most, 0) == 10); /* the memory may be waiting for earlier parts */
    CHECK(far_parts(fake, most, 1) <= 10); /* hints may be wrong */
    CHECK(far_parts(fake, most, 1000 * size) == 1 + 3);
    fake_limits(fake)->equal_parts = true;
    CHECK(far_parts(fake, most, size) == 10);
    fake_close(fake);
}

/* Nothing but the first part is cut before the upload is created and has told of the way. */
static void test_far_waits_for_the_upload(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(10 * FAR_PART);
    fake_set_distance(fake, FAR_US, FAR_RATE);
    unsigned held = fake_rule(
        fake, (struct fake_rule){.verb = S3D_VERB_UPLOAD_CREATE, .times = 1, .hold = true});
    struct s3d_put *put = open_far_put(fake, 8, 4 * FAR_PART);
    s3d_put_expect(put, 10 * FAR_PART);
    size_t written = 0;
    CHECK_CODE(s3d_put_refer(put, data, 10 * FAR_PART, &written, 5, NULL), S3D_AGAIN);
    fake_wait_held(fake, 1);
    CHECK(written == 2 * FAR_PART && fake_attempts(fake, S3D_VERB_UPLOAD_PART) == 0);
    fake_release(fake);
    CHECK_CODE(s3d_put_refer(put, data, 10 * FAR_PART, &written, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, 10 * FAR_PART);
    CHECK(fake_fired(fake, held) == 1);
    s3d_put_free(put);
    unsigned failing = fake_rule(
        fake,
        (struct fake_rule){.verb = S3D_VERB_UPLOAD_CREATE, .times = 1, .code = S3D_DENIED});
    put = open_far_put(fake, 8, 4 * FAR_PART);
    s3d_put_expect(put, 10 * FAR_PART);
    CHECK_CODE(refer(put, data, 10 * FAR_PART, -1, NULL), S3D_DENIED);
    CHECK(fake_fired(fake, failing) == 1);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* Copied parts grow within the put's share of memory: two usual ones for each in flight. */
static void test_far_copies(void)
{
    fake_engine("");
    struct fake_store *fake = fake_open();
    size_t size = 60 * FAR_PART;
    char *data = pattern(size);
    fake_set_distance(fake, FAR_US, FAR_RATE);
    struct s3d_put *put = open_far_put(fake, 3, 64 * FAR_PART);
    CHECK_CODE(write_pieces(put, data, size, 10000, -1, NULL, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, size);
    const struct fake_line *lines;
    size_t count = fake_log(fake, &lines);
    uint64_t longest = 0;
    for (size_t i = 0; i < count; i++) {
        longest = lines[i].length > longest ? lines[i].length : longest;
    }
    CHECK(longest == 2 * 3 * FAR_PART / 4);
    CHECK(fake_running_engine()->budget.peak_bytes <= 2 * 3 * FAR_PART);
    s3d_put_free(put);
    fake_counters_clear(fake);
    put = open_far_put(fake, 3, 64 * FAR_PART);
    CHECK_CODE(write_pieces(put, data, size, size, -1, NULL, NULL), S3D_OK); /* in place */
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, size);
    CHECK(fake_peak(fake, S3D_VERB_UPLOAD_PART) <= 3);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* A near upload sends four parts at first and climbs; a far one begins with all there may be. */
static void test_far_opens_the_window(void)
{
    for (unsigned far = 0; far < 2; far++) {
        struct fake_store *fake = fake_open();
        char *data = pattern(9 * FAR_PART);
        fake_set_distance(fake, far ? FAR_US : FAR_US / 10, FAR_RATE);
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_UPLOAD_PART, .times = 1000, .hold = true});
        struct s3d_put *put = open_far_put(fake, 8, 0);
        size_t written = 0;
        CHECK_CODE(s3d_put_write(put, data, 4 * FAR_PART, &written, -1, NULL), S3D_OK);
        written = 0;
        enum s3d_code code = s3d_put_write(put, data + 4 * FAR_PART, 5 * FAR_PART, &written,
                                           far ? -1 : 50, NULL);
        CHECK_CODE(code, far ? S3D_OK : S3D_AGAIN);
        fake_wait_held(fake, far ? 8 : 4);
        fake_release(fake);
        CHECK_CODE(s3d_put_write(put, data + 4 * FAR_PART, 5 * FAR_PART, &written, -1, NULL),
                   S3D_OK);
        CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
        check_object(fake, 9 * FAR_PART);
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
    RUN(test_far_references);
    RUN(test_far_waits_for_the_upload);
    RUN(test_far_copies);
    RUN(test_far_opens_the_window);
    s3d_engine_shutdown();
    return 0;
}
