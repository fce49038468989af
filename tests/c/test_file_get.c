/* Local files: ranges, suffixes, versions, and files that change while they are read. */
#include "file_test.h"

/* --- GET ---------------------------------------------------------------------------------- */

static void test_get_ranges(void)
{
    static struct s3d_request request;
    char data[32];
    make_file("get", "0123456789", 10);
    CHECK_CODE(get_range(&request, "get", 0, data, 10), S3D_OK);
    CHECK(memcmp(data, "0123456789", 10) == 0);
    CHECK(request.result.object.size_bytes == 10 && request.result.received_bytes == 10);
    CHECK(request.result.first_byte == 0);
    CHECK_CODE(get_range(&request, "get", 7, data, 3), S3D_OK);
    CHECK(memcmp(data, "789", 3) == 0 && request.result.first_byte == 7);
    CHECK_CODE(get_range(&request, "get", 10, data, 0), S3D_OK);
    CHECK_CODE(get_range(&request, "get", 8, data, 3), S3D_RANGE);
    CHECK(request.result.object.size_bytes == 10);
    CHECK_CODE(get_range(&request, "get", UINT64_MAX, data, 2), S3D_RANGE);
    CHECK_CODE(get_range(&request, "absent", 0, data, 2), S3D_NOT_FOUND);
    CHECK_CODE(get_range(&request, ".", 0, data, 2), S3D_SYSTEM);
    CHECK(request.last.sys_errno == EISDIR);
}

static void get_suffix(const char *path, size_t length, const char *expected)
{
    static struct s3d_request request;
    char data[64];
    struct s3d_span span = {data, sizeof data};
    request = (struct s3d_request){.verb = S3D_VERB_GET,
                                   .key = path,
                                   .length_bytes = length,
                                   .suffix = true,
                                   .spans = &span,
                                   .span_count = 1};
    CHECK_CODE(run(&request), S3D_OK);
    size_t got = strlen(expected);
    CHECK(request.result.received_bytes == got);
    CHECK(request.result.first_byte == request.result.object.size_bytes - got);
    CHECK(memcmp(data, expected, got) == 0);
}

static void test_get_suffix(void)
{
    make_file("suffix", "0123456789", 10);
    make_file("suffix-empty", "", 0);
    get_suffix("suffix", 4, "6789");
    get_suffix("suffix", 10, "0123456789");
    get_suffix("suffix", 50, "0123456789");
    get_suffix("suffix-empty", 50, "");
}

static void test_get_if_match(void)
{
    static struct s3d_request request;
    char data[10];
    struct s3d_span span = {data, 10};
    struct s3d_object object;
    make_file("match", "0123456789", 10);
    CHECK_CODE(stat_path("match", &object, NULL), S3D_OK);
    request = (struct s3d_request){.verb = S3D_VERB_GET,
                                   .key = "match",
                                   .length_bytes = 10,
                                   .if_match = object.etag,
                                   .spans = &span,
                                   .span_count = 1};
    CHECK_CODE(run(&request), S3D_OK);
    CHECK_CODE(put_bytes("match", "9876543210", 10, NULL), S3D_OK);
    CHECK_CODE(run(&request), S3D_CHANGED);
    CHECK(request.result.received_bytes == 0);
}

/* Many uneven spans, empty ones among them, read whole and in short pieces. */
static void test_get_spans(void)
{
    enum { SPANS = 1000, BYTES = SPANS * (SPANS - 1) / 2 };
    static struct s3d_request request;
    static struct s3d_span spans[SPANS];
    char *data = pattern(BYTES, 1), *got = malloc(BYTES);
    CHECK(got != NULL);
    make_file("spans", data, BYTES);
    size_t at = 0;
    for (size_t i = 0; i < SPANS; i++) {
        spans[i] = (struct s3d_span){got + at, i};
        at += i;
    }
    static const size_t limits[] = {0, 1000, 7777};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        memset(got, 0, BYTES);
        request = (struct s3d_request){.verb = S3D_VERB_GET,
                                       .key = "spans",
                                       .length_bytes = BYTES,
                                       .spans = spans,
                                       .span_count = SPANS};
        s3d_file_limit_io(limits[i]);
        CHECK_CODE(run(&request), S3D_OK);
        s3d_file_limit_io(0);
        CHECK(memcmp(got, data, BYTES) == 0);
    }
    request.span_count = SPANS - 1;
    CHECK_CODE(run(&request), S3D_INTERNAL);
    free(got);
    free(data);
}

static void test_get_fifo_does_not_hang(void)
{
    static struct s3d_request request;
    char data[1];
    CHECK(mkfifo("get-fifo", 0600) == 0);
    CHECK_CODE(get_range(&request, "get-fifo", 0, data, 1), S3D_UNSUPPORTED);
    CHECK_CODE(get_range(&request, "/dev/zero", 0, data, 1), S3D_UNSUPPORTED);
}

static void shrink(void)
{
    CHECK(truncate("moving", 5) == 0);
}

static void touch(void)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1, .tv_nsec = 1}};
    CHECK(utimensat(AT_FDCWD, "moving", times, 0) == 0);
}

/* Calls of this GET: open, fstat, preadv (4 bytes each) until the end, fstat, close. */
static void test_get_of_changing_file(void)
{
    static struct s3d_request request;
    char data[16];
    s3d_file_limit_io(4);
    make_file("moving", "0123456789abcdef", 16);
    s3d_file_call_at(4, shrink);
    CHECK_CODE(get_range(&request, "moving", 0, data, 16), S3D_CHANGED);
    CHECK(s3d_file_fault_fired() && strstr(request.last.message, "shrank") != NULL);
    make_file("moving", "0123456789abcdef", 16);
    s3d_file_call_at(4, touch);
    CHECK_CODE(get_range(&request, "moving", 0, data, 16), S3D_CHANGED);
    CHECK(s3d_file_fault_fired());
    s3d_file_limit_io(0);
    s3d_file_fail_at(0, 0);
}

static void fill(void)
{
    make_file("filling", "content", 7);
}

/* As in /proc: bytes, but no size. */
static void test_files_without_a_size(void)
{
    static struct s3d_request request;
    struct s3d_object object;
    struct s3d_error error;
    char data[8];
    CHECK_CODE(get_range(&request, "/proc/version", 0, data, 1), S3D_UNSUPPORTED);
    CHECK(strstr(request.last.message, "does not tell its size") != NULL);
    CHECK_CODE(stat_path("/proc/version", &object, &error), S3D_UNSUPPORTED);
    make_file("filling", "", 0);
    CHECK_CODE(stat_path("filling", &object, &error), S3D_OK);
    CHECK(object.size_bytes == 0);
    s3d_file_call_at(2, fill); /* before it is opened: stat has seen it empty */
    CHECK_CODE(stat_path("filling", &object, &error), S3D_OK);
    CHECK(s3d_file_fault_fired() && object.size_bytes == 7);
    make_file("filling", "", 0);
    s3d_file_call_at(3, fill); /* open, fstat, preadv */
    CHECK_CODE(get_range(&request, "filling", 0, data, 7), S3D_OK);
    CHECK(s3d_file_fault_fired() && memcmp(data, "content", 7) == 0);
    s3d_file_fail_at(0, 0);
}

int main(void)
{
    begin();
    RUN(test_get_ranges);
    RUN(test_get_suffix);
    RUN(test_get_if_match);
    RUN(test_get_spans);
    RUN(test_get_fifo_does_not_hang);
    RUN(test_get_of_changing_file);
    RUN(test_files_without_a_size);
    end();
    return 0;
}
