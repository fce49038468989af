/* Writing one object: what memory a put may hold, and what it does when there is none. */
#include "put_test.h"

#include <pthread.h>
#include <unistd.h>

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
    alarm(150);
    setvbuf(stdout, NULL, _IONBF, 0);
    fake_engine("");
    RUN(test_shared_budget);
    RUN(test_own_budget);
    RUN(test_bounded);
    RUN(test_out_of_memory);
    s3d_engine_shutdown();
    return 0;
}
