/*
 * The local-file backend, its driver called directly: a fake pool stands behind
 * s3d_attempt_done and s3d_store_init. Everything happens in a fresh folder that becomes the
 * working directory.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "test.h"

#include "backends/backends.h"
#include "backends/file.h"
#include "backends/file_sys.h"
#include "core/config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1024 * 1024 };

static char root[PATH_MAX];
static struct s3d_config config;
static struct s3d_store *store;
static struct s3d_driver *driver;
static unsigned attempts_done;
static enum s3d_code last_code;

/* --- the fake pool ------------------------------------------------------------------------ */

void s3d_attempt_done(struct s3d_driver *from, struct s3d_request *request, enum s3d_code code)
{
    CHECK(from == driver);
    CHECK(code == S3D_OK || request->last.code == code);
    CHECK(code == S3D_OK || request->last.message[0]);
    attempts_done++;
    last_code = code;
}

enum s3d_code s3d_store_init(struct s3d_store *opened, const struct s3d_store_ops *ops,
                             struct s3d_engine *engine, struct s3d_error *error)
{
    (void)error;
    opened->ops = ops;
    opened->engine = engine;
    atomic_init(&opened->references, 1);
    return S3D_OK;
}

static enum s3d_code run(struct s3d_request *request)
{
    bool cancelled = atomic_load(&request->cancelled);
    s3d_request_reset(request);
    atomic_store(&request->cancelled, cancelled);
    request->store = store;
    attempts_done = 0;
    s3d_file_driver.start(driver, request);
    CHECK(attempts_done == 1);
    return last_code;
}

/* --- tools -------------------------------------------------------------------------------- */

static void make_file(const char *path, const void *data, size_t length)
{
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    CHECK(fwrite(data, 1, length, file) == length);
    CHECK(fclose(file) == 0);
}

static bool file_is(const char *path, const void *data, size_t length)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        return false;
    }
    char *held = malloc(length + 1);
    CHECK(held != NULL);
    size_t got = fread(held, 1, length + 1, file);
    bool same = got == length && memcmp(held, data, length) == 0;
    free(held);
    fclose(file);
    return same;
}

static bool exists(const char *path)
{
    struct stat about;
    return lstat(path, &about) == 0;
}

static mode_t mode_of(const char *path)
{
    struct stat about;
    CHECK(stat(path, &about) == 0);
    return about.st_mode & 07777;
}

static unsigned count_entries(const char *folder, bool only_temp)
{
    unsigned count = 0;
    DIR *open_folder = opendir(folder);
    CHECK(open_folder != NULL);
    for (struct dirent *entry; (entry = readdir(open_folder)) != NULL;) {
        count += !only_temp || strstr(entry->d_name, S3D_FILE_TEMP_SUFFIX) != NULL;
    }
    closedir(open_folder);
    return count;
}

static unsigned count_temps(void)
{
    return count_entries(".", true);
}

static unsigned count_open_files(void)
{
    return count_entries("/proc/self/fd", false);
}

/* Page-aligned, a different byte at every place near any other. */
static char *pattern(size_t length, unsigned seed)
{
    char *data = aligned_alloc(4096, (length / 4096 + 2) * 4096);
    CHECK(data != NULL);
    uint32_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < length; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (char)(state >> 24);
    }
    return data;
}

static enum s3d_code put_bytes(const char *path, const char *data, size_t length,
                               const struct s3d_put_options *options)
{
    static struct s3d_request request;
    char *copy = malloc(length + 1);
    CHECK(copy != NULL);
    memcpy(copy, data, length);
    struct s3d_span span = {copy, length};
    request = (struct s3d_request){.verb = S3D_VERB_PUT,
                                   .key = path,
                                   .length_bytes = length,
                                   .spans = &span,
                                   .span_count = 1,
                                   .options = options};
    enum s3d_code code = run(&request);
    free(copy);
    return code;
}

static enum s3d_code stat_path(const char *path, struct s3d_object *object,
                               struct s3d_error *error)
{
    static struct s3d_request request;
    request = (struct s3d_request){.verb = S3D_VERB_STAT, .key = path};
    enum s3d_code code = run(&request);
    if (object) {
        *object = request.result.object;
    }
    if (error) {
        *error = request.last;
    }
    return code;
}

static enum s3d_code get_range(struct s3d_request *request, const char *path, uint64_t offset,
                               char *data, size_t length)
{
    static struct s3d_span span;
    span = (struct s3d_span){data, length};
    *request = (struct s3d_request){.verb = S3D_VERB_GET,
                                    .key = path,
                                    .offset_bytes = offset,
                                    .length_bytes = length,
                                    .spans = &span,
                                    .span_count = 1};
    return run(request);
}

static enum s3d_code delete_path(const char *path)
{
    static struct s3d_request request;
    request = (struct s3d_request){.verb = S3D_VERB_DELETE, .key = path};
    return run(&request);
}

/* --- STAT, ETag, DELETE ------------------------------------------------------------------- */

static void test_stat(void)
{
    struct s3d_object object;
    struct s3d_error error;
    make_file("stat", "hello", 5);
    CHECK_CODE(stat_path("stat", &object, NULL), S3D_OK);
    CHECK(object.size_bytes == 5);
    CHECK(object.modified_s > 1500000000);
    CHECK(object.etag[0] == '"' && object.etag[strlen(object.etag) - 1] == '"');
    CHECK_CODE(stat_path("missing", NULL, &error), S3D_NOT_FOUND);
    CHECK(strstr(error.message, "missing") && error.sys_errno == ENOENT);
    CHECK_CODE(stat_path("stat/below", NULL, &error), S3D_NOT_FOUND);
    CHECK_CODE(stat_path(".", NULL, &error), S3D_SYSTEM);
    CHECK(error.sys_errno == EISDIR);
    CHECK(mkfifo("stat-fifo", 0600) == 0);
    CHECK_CODE(stat_path("stat-fifo", NULL, &error), S3D_UNSUPPORTED);
    CHECK(strstr(error.message, "FIFO") != NULL);
    CHECK_CODE(stat_path("/dev/null", NULL, &error), S3D_UNSUPPORTED);
}

static void test_long_paths_in_errors(void)
{
    struct s3d_error error;
    char path[3000];
    memset(path, 'd', sizeof path);
    for (size_t i = 100; i < sizeof path; i += 100) {
        path[i] = '/';
    }
    snprintf(path + sizeof path - 10, 10, "/the-end");
    CHECK_CODE(stat_path(path, NULL, &error), S3D_NOT_FOUND);
    CHECK(strstr(error.message, "the-end\": No such file") != NULL);
}

static void test_etag(void)
{
    struct s3d_object before, after;
    make_file("etag", "12345", 5);
    CHECK_CODE(stat_path("etag", &before, NULL), S3D_OK);
    CHECK(chmod("etag", 0640) == 0);
    CHECK(link("etag", "etag-link") == 0);
    CHECK_CODE(stat_path("etag", &after, NULL), S3D_OK);
    CHECK_TEXT(after.etag, before.etag);
    make_file("etag-new", "54321", 5);
    CHECK(rename("etag-new", "etag") == 0);
    CHECK_CODE(stat_path("etag", &after, NULL), S3D_OK);
    CHECK(strcmp(after.etag, before.etag) != 0);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1600000000, .tv_nsec = 1}};
    CHECK(utimensat(AT_FDCWD, "etag", times, 0) == 0);
    CHECK_CODE(stat_path("etag", &before, NULL), S3D_OK);
    times[1].tv_nsec = 2;
    CHECK(utimensat(AT_FDCWD, "etag", times, 0) == 0);
    CHECK_CODE(stat_path("etag", &after, NULL), S3D_OK);
    CHECK(strcmp(after.etag, before.etag) != 0);
}

static void test_delete(void)
{
    make_file("del", "x", 1);
    CHECK(symlink("del", "del-link") == 0);
    CHECK(mkdir("del-dir", 0700) == 0);
    CHECK(mkfifo("del-fifo", 0600) == 0);
    CHECK_CODE(delete_path("del-link"), S3D_OK);
    CHECK(!exists("del-link") && exists("del"));
    CHECK_CODE(delete_path("del"), S3D_OK);
    CHECK(!exists("del"));
    CHECK_CODE(delete_path("del"), S3D_OK);
    CHECK_CODE(delete_path("no/such/folder"), S3D_OK);
    CHECK_CODE(delete_path("del-dir"), S3D_SYSTEM);
    CHECK_CODE(delete_path("del-fifo"), S3D_UNSUPPORTED);
    CHECK(exists("del-dir") && exists("del-fifo"));
}

static void test_temp_names(void)
{
    CHECK(s3d_file_is_temp(".a.abcdefgh.s3dlio-tmp"));
    CHECK(s3d_file_is_temp("/x/.name.pt.a1b2c3d4.s3dlio-tmp"));
    CHECK(!s3d_file_is_temp("/x/name.pt.a1b2c3d4.s3dlio-tmp"));
    CHECK(!s3d_file_is_temp(".s3dlio-tmp"));
    CHECK(!s3d_file_is_temp("..abcdefgh.s3dlio-tmp"));
    CHECK(!s3d_file_is_temp(".name.ABCDEFGH.s3dlio-tmp"));
    CHECK(!s3d_file_is_temp(".name.abcdefgh.s3dlio-tmp/file"));
    CHECK(!s3d_file_is_temp(""));
}

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

static struct s3d_request *to_cancel;

static void cancel_it(void)
{
    atomic_store(&to_cancel->cancelled, true);
}

static void test_cancel(void)
{
    static struct s3d_request request;
    char data[16];
    to_cancel = &request;
    make_file("cancel", "0123456789abcdef", 16);
    s3d_file_limit_io(4);
    s3d_file_call_at(4, cancel_it);
    CHECK_CODE(get_range(&request, "cancel", 0, data, 16), S3D_CANCELLED);
    CHECK(s3d_file_fault_fired() && request.result.received_bytes == 8);
    /* A PUT may be cancelled until the last moment: at the n-th call, whichever that is. */
    bool too_late = false;
    for (unsigned long n = 1;; n++) {
        struct s3d_span span = {data, 16};
        request = (struct s3d_request){.verb = S3D_VERB_PUT,
                                       .key = "cancel",
                                       .length_bytes = 16,
                                       .spans = &span,
                                       .span_count = 1};
        memset(data, 'n', 16);
        make_file("cancel", "0123456789abcdef", 16);
        s3d_file_call_at(n, cancel_it);
        enum s3d_code code = run(&request);
        CHECK(count_temps() == 0);
        CHECK(file_is("cancel", code ? "0123456789abcdef" : data, 16));
        if (!s3d_file_fault_fired()) {
            CHECK_CODE(code, S3D_OK);
            CHECK(n > 10);
            break;
        }
        too_late = too_late || strcmp(s3d_file_fault_call(), "rename") == 0;
        CHECK_CODE(code, too_late ? S3D_OK : S3D_CANCELLED);
    }
    s3d_file_fail_at(0, 0);
    s3d_file_limit_io(0);
}

/* --- PUT ---------------------------------------------------------------------------------- */

static void test_put(void)
{
    static struct s3d_request request;
    struct s3d_object object;
    char a[] = "abc", b[] = "defgh";
    struct s3d_span spans[] = {{a, 3}, {NULL, 0}, {b, 5}};
    request = (struct s3d_request){
        .verb = S3D_VERB_PUT, .key = "put", .length_bytes = 8, .spans = spans, .span_count = 3};
    CHECK_CODE(run(&request), S3D_OK);
    CHECK(file_is("put", "abcdefgh", 8));
    CHECK(request.result.object.size_bytes == 8);
    CHECK_CODE(stat_path("put", &object, NULL), S3D_OK);
    CHECK_TEXT(request.result.object.etag, object.etag);
    CHECK_CODE(put_bytes("put", "", 0, NULL), S3D_OK);
    CHECK(file_is("put", "", 0));
    CHECK(count_temps() == 0);
}

static void test_put_mode(void)
{
    mode_t old = umask(027);
    CHECK_CODE(put_bytes("mode", "1", 1, NULL), S3D_OK);
    CHECK(mode_of("mode") == 0640);
    umask(077);
    CHECK(chmod("mode", 04755) == 0);
    CHECK_CODE(put_bytes("mode", "2", 1, NULL), S3D_OK);
    CHECK(mode_of("mode") == 0755);
    umask(old);
    CHECK(umask(old) == old);
}

static void test_put_targets(void)
{
    struct stat about;
    char resolved[PATH_MAX + 32];
    CHECK(mkdir("deep", 0700) == 0);
    make_file("deep/real", "old", 3);
    CHECK(symlink("deep/real", "through") == 0);
    CHECK_CODE(put_bytes("through", "new!", 4, NULL), S3D_OK);
    CHECK(lstat("through", &about) == 0 && S_ISLNK(about.st_mode));
    CHECK(file_is("deep/real", "new!", 4));
    CHECK(count_entries("deep", true) == 0);
    CHECK(symlink("nowhere", "dangling") == 0);
    CHECK_CODE(put_bytes("dangling", "x", 1, NULL), S3D_NOT_FOUND);
    CHECK(!exists("nowhere"));
    CHECK(symlink("loop", "loop") == 0);
    CHECK_CODE(put_bytes("loop", "x", 1, NULL), S3D_SYSTEM);
    CHECK(symlink("deep", "to-folder") == 0);
    CHECK_CODE(put_bytes("to-folder", "x", 1, NULL), S3D_SYSTEM);
    CHECK_CODE(put_bytes("deep", "x", 1, NULL), S3D_SYSTEM);
    CHECK_CODE(put_bytes("deep/", "x", 1, NULL), S3D_SYSTEM);
    CHECK_CODE(put_bytes("new/", "x", 1, NULL), S3D_INVALID);
    CHECK_CODE(put_bytes("", "x", 1, NULL), S3D_INVALID);
    CHECK(mkfifo("put-fifo", 0600) == 0);
    CHECK_CODE(put_bytes("put-fifo", "x", 1, NULL), S3D_UNSUPPORTED);
    CHECK_CODE(put_bytes("/dev/null", "x", 1, NULL), S3D_UNSUPPORTED);
    CHECK(stat("/dev/null", &about) == 0 && S_ISCHR(about.st_mode));
    CHECK(symlink("/dev/null", "to-null") == 0);
    CHECK_CODE(put_bytes("to-null", "x", 1, NULL), S3D_UNSUPPORTED);
    snprintf(resolved, sizeof resolved, "%s/deep/absolute", root);
    CHECK_CODE(put_bytes(resolved, "abs", 3, NULL), S3D_OK);
    CHECK(file_is("deep/absolute", "abs", 3));
    CHECK(count_temps() == 0);
}

static void test_put_missing_folder(void)
{
    static struct s3d_request request;
    make_file("plain", "x", 1);
    request = (struct s3d_request){.verb = S3D_VERB_PUT, .key = "no-such-folder/file"};
    CHECK_CODE(run(&request), S3D_NOT_FOUND);
    CHECK(strstr(request.last.message, "folder \"no-such-folder/\"") != NULL);
    request.key = "plain/file";
    CHECK_CODE(run(&request), S3D_NOT_FOUND);
}

static void test_put_long_names(void)
{
    char name[NAME_MAX + 2];
    memset(name, 'n', sizeof name);
    name[NAME_MAX] = '\0';
    CHECK_CODE(put_bytes(name, "long", 4, NULL), S3D_OK);
    CHECK(file_is(name, "long", 4));
    for (size_t i = 0; i + 1 < NAME_MAX; i += 2) { /* 127 times U+00E9 */
        memcpy(name + i, "\xC3\xA9", 3);
    }
    name[0] = 'x'; /* now the cut would fall between two bytes of one character */
    name[1] = 'y';
    memmove(name + 1, name + 2, strlen(name + 2) + 1);
    CHECK_CODE(put_bytes(name, "utf8", 4, NULL), S3D_OK);
    CHECK(file_is(name, "utf8", 4));
    memset(name, 'n', sizeof name);
    name[NAME_MAX + 1] = '\0';
    CHECK_CODE(put_bytes(name, "x", 1, NULL), S3D_SYSTEM);
    CHECK(count_temps() == 0);
}

static const struct s3d_put_options create_only = {.if_none_match = true};

static void appear(void)
{
    make_file("race", "theirs", 6);
}

static void test_put_create_only(void)
{
    make_file("taken", "old", 3);
    CHECK_CODE(put_bytes("taken", "new", 3, &create_only), S3D_EXISTS);
    CHECK(file_is("taken", "old", 3));
    CHECK(symlink("gone", "taken-link") == 0);
    CHECK_CODE(put_bytes("taken-link", "new", 3, &create_only), S3D_EXISTS);
    CHECK_CODE(put_bytes("fresh", "new", 3, &create_only), S3D_OK);
    CHECK(file_is("fresh", "new", 3));
    /* Someone else creates it at each possible moment; once ours, `appear` would overwrite it
     * in place, so stop at the rename. */
    for (unsigned long n = 2;; n++) {
        unlink("race");
        s3d_file_call_at(n, appear);
        CHECK_CODE(put_bytes("race", "ours", 4, &create_only), S3D_EXISTS);
        CHECK(s3d_file_fault_fired());
        CHECK(file_is("race", "theirs", 6));
        CHECK(count_temps() == 0);
        if (strcmp(s3d_file_fault_call(), "renameat2") == 0) {
            break;
        }
    }
    s3d_file_fail_at(0, 0);
}

/* A file system without RENAME_NOREPLACE: find the renameat2 call and make it fail with EINVAL.
 */
static void test_put_create_only_by_link(void)
{
    for (int taken = 0; taken <= 1; taken++) {
        for (unsigned long n = 1;; n++) {
            unlink("race");
            s3d_file_call_at(n, appear);
            (void)put_bytes("race", "ours", 4, &create_only);
            bool found = strcmp(s3d_file_fault_call(), "renameat2") == 0;
            unlink("race");
            if (!found) {
                continue;
            }
            s3d_file_fail_at(n, EINVAL);
            CHECK_CODE(put_bytes("race", "ours", 4, &create_only), S3D_OK);
            CHECK_TEXT(s3d_file_fault_call(), "renameat2");
            CHECK(file_is("race", "ours", 4) && count_temps() == 0);
            break;
        }
    }
    s3d_file_fail_at(0, 0);
}

static void test_put_short_writes(void)
{
    enum { BYTES = 300000 };
    char *data = pattern(BYTES, 2);
    s3d_file_limit_io(7001);
    CHECK_CODE(put_bytes("short", data, BYTES, NULL), S3D_OK);
    s3d_file_limit_io(0);
    CHECK(file_is("short", data, BYTES));
    free(data);
}

/* Longer than one call's chunk, so that write-back is started on the way. */
static void test_put_large(void)
{
    enum { BYTES = 40 * MIB + 13 };
    static struct s3d_request request;
    char *data = pattern(BYTES, 3), *got = malloc(BYTES);
    CHECK(got != NULL);
    CHECK_CODE(put_bytes("large", data, BYTES, NULL), S3D_OK);
    CHECK_CODE(get_range(&request, "large", 0, got, BYTES), S3D_OK);
    CHECK(memcmp(got, data, BYTES) == 0);
    CHECK(unlink("large") == 0);
    free(got);
    free(data);
}

/* --- uploads ------------------------------------------------------------------------------ */

static char upload_id[S3D_UPLOAD_ID_MAX];

static enum s3d_code upload_create(const char *path, const struct s3d_put_options *options)
{
    static struct s3d_request request;
    request =
        (struct s3d_request){.verb = S3D_VERB_UPLOAD_CREATE, .key = path, .options = options};
    enum s3d_code code = run(&request);
    memcpy(upload_id, request.result.upload_id, sizeof upload_id);
    return code;
}

static enum s3d_code upload_part(const char *path, const struct s3d_part *part, char *data)
{
    static struct s3d_request request;
    struct s3d_span span = {data + part->offset_bytes, part->size_bytes};
    request = (struct s3d_request){.verb = S3D_VERB_UPLOAD_PART,
                                   .key = path,
                                   .upload_id = upload_id,
                                   .part_number = part->number,
                                   .offset_bytes = part->offset_bytes,
                                   .length_bytes = part->size_bytes,
                                   .spans = &span,
                                   .span_count = 1};
    return run(&request);
}

static struct s3d_object completed;

static enum s3d_code upload_complete(const char *path, const struct s3d_part *parts,
                                     size_t count, const struct s3d_put_options *options)
{
    static struct s3d_request request;
    request = (struct s3d_request){.verb = S3D_VERB_UPLOAD_COMPLETE,
                                   .key = path,
                                   .upload_id = upload_id,
                                   .parts = parts,
                                   .part_count = count,
                                   .options = options};
    enum s3d_code code = run(&request);
    completed = request.result.object;
    return code;
}

static enum s3d_code upload_abort(const char *path)
{
    static struct s3d_request request;
    request = (struct s3d_request){
        .verb = S3D_VERB_UPLOAD_ABORT, .key = path, .upload_id = upload_id};
    return run(&request);
}

enum { PART_COUNT = 3, PARTS_BYTES = 8192 + 12288 + 100 };
static const struct s3d_part three[PART_COUNT] = {
    {.number = 1, .offset_bytes = 0, .size_bytes = 8192},
    {.number = 2, .offset_bytes = 8192, .size_bytes = 12288},
    {.number = 3, .offset_bytes = 20480, .size_bytes = 100},
};

static void test_upload(void)
{
    struct s3d_object object;
    char *data = pattern(PARTS_BYTES, 4);
    make_file("up", "old", 3);
    CHECK(chmod("up", 0600) == 0);
    CHECK_CODE(upload_create("up", NULL), S3D_OK);
    CHECK(upload_id[0] == '/' && s3d_file_is_temp(upload_id) && count_temps() == 1);
    CHECK(mode_of(upload_id) == 0600);
    for (int i = PART_COUNT - 1; i >= 0; i--) {
        CHECK_CODE(upload_part("up", &three[i], data), S3D_OK);
        CHECK(file_is("up", "old", 3));
    }
    CHECK_CODE(upload_complete("up", three, PART_COUNT, NULL), S3D_OK);
    CHECK(file_is("up", data, PARTS_BYTES) && count_temps() == 0);
    CHECK(mode_of("up") == 0600);
    CHECK_CODE(stat_path("up", &object, NULL), S3D_OK);
    CHECK(completed.size_bytes == PARTS_BYTES);
    CHECK_TEXT(completed.etag, object.etag);
    CHECK_CODE(upload_abort("up"), S3D_OK); /* late, hence without effect */
    CHECK_CODE(upload_part("up", &three[0], data), S3D_NOT_FOUND);
    CHECK_CODE(upload_complete("up", three, PART_COUNT, NULL), S3D_NOT_FOUND);
    CHECK(file_is("up", data, PARTS_BYTES));
    CHECK_CODE(upload_create("up-empty", NULL), S3D_OK);
    CHECK_CODE(upload_complete("up-empty", NULL, 0, NULL), S3D_OK);
    CHECK(file_is("up-empty", "", 0));
    free(data);
}

/* NFS reports lost bytes when the file is closed: a part must not swallow that. */
static void test_upload_part_close(void)
{
    char *data = pattern(PARTS_BYTES, 14);
    CHECK_CODE(upload_create("nfs", NULL), S3D_OK);
    for (unsigned long n = 1;; n++) {
        s3d_file_fail_at(n, EIO);
        enum s3d_code code = upload_part("nfs", &three[0], data);
        CHECK(s3d_file_fault_fired());
        if (strcmp(s3d_file_fault_call(), "close") == 0) {
            CHECK_CODE(code, S3D_SYSTEM);
            break;
        }
    }
    s3d_file_fail_at(0, 0);
    CHECK_CODE(upload_abort("nfs"), S3D_OK);
    free(data);
}

static void test_upload_abort(void)
{
    char *data = pattern(PARTS_BYTES, 5);
    make_file("precious", "keep", 4);
    CHECK_CODE(upload_create("ab", NULL), S3D_OK);
    CHECK_CODE(upload_part("ab", &three[0], data), S3D_OK);
    CHECK_CODE(upload_abort("ab"), S3D_OK);
    CHECK_CODE(upload_abort("ab"), S3D_OK);
    CHECK(count_temps() == 0 && !exists("ab"));
    snprintf(upload_id, sizeof upload_id, "precious");
    CHECK_CODE(upload_abort("precious"), S3D_INVALID);
    CHECK_CODE(upload_part("precious", &three[0], data), S3D_INVALID);
    CHECK_CODE(upload_complete("ab", three, PART_COUNT, NULL), S3D_INVALID);
    CHECK(file_is("precious", "keep", 4));
    free(data);
}

static void test_upload_wrong_parts(void)
{
    char *data = pattern(PARTS_BYTES, 6);
    struct s3d_part gap[PART_COUNT];
    memcpy(gap, three, sizeof gap);
    CHECK_CODE(upload_create("wrong", NULL), S3D_OK);
    for (int i = 0; i < PART_COUNT; i++) {
        CHECK_CODE(upload_part("wrong", &three[i], data), S3D_OK);
    }
    gap[1].size_bytes--;
    CHECK_CODE(upload_complete("wrong", gap, PART_COUNT, NULL), S3D_INVALID);
    CHECK_CODE(upload_complete("wrong", three + 1, 2, NULL), S3D_INVALID);
    CHECK_CODE(upload_complete("wrong", three, 2, NULL), S3D_CHANGED);
    CHECK(truncate(upload_id, 10) == 0);
    CHECK_CODE(upload_complete("wrong", three, PART_COUNT, NULL), S3D_CHANGED);
    CHECK(!exists("wrong"));
    CHECK_CODE(upload_abort("wrong"), S3D_OK);
    CHECK(count_temps() == 0);
    free(data);
}

static void test_upload_targets(void)
{
    char path[S3D_UPLOAD_ID_MAX + 100];
    make_file("there", "old", 3);
    CHECK_CODE(upload_create("there", &create_only), S3D_EXISTS);
    CHECK_CODE(upload_create("/dev/null", NULL), S3D_UNSUPPORTED);
    CHECK_CODE(upload_create(".", NULL), S3D_SYSTEM);
    CHECK_CODE(upload_create("no-folder/x", NULL), S3D_NOT_FOUND);
    CHECK(upload_id[0] == '\0');
    CHECK_CODE(upload_create("later", &create_only), S3D_OK);
    make_file("later", "theirs", 6);
    CHECK_CODE(upload_complete("later", NULL, 0, &create_only), S3D_EXISTS);
    CHECK(file_is("later", "theirs", 6));
    CHECK_CODE(upload_abort("later"), S3D_OK);
    memset(path, 'p', sizeof path);
    for (size_t i = 1; i < sizeof path - 2; i += 2) {
        path[i - 1] = '.';
        path[i] = '/';
    }
    path[sizeof path - 1] = '\0';
    CHECK_CODE(upload_create(path, NULL), S3D_INVALID);
    CHECK(count_temps() == 0);
    CHECK(symlink("there", "up-link") == 0);
    CHECK_CODE(upload_create("up-link", NULL), S3D_OK);
    CHECK_CODE(upload_complete("up-link", NULL, 0, NULL), S3D_OK);
    CHECK(file_is("there", "", 0));
}

/* The working directory changes under a relative path: the upload must not appear elsewhere. */
static void test_upload_chdir(void)
{
    char *data = pattern(PARTS_BYTES, 7);
    CHECK(mkdir("elsewhere", 0700) == 0);
    CHECK_CODE(upload_create("roaming", NULL), S3D_OK);
    CHECK(chdir("elsewhere") == 0);
    CHECK_CODE(upload_part("roaming", &three[0], data), S3D_OK);
    CHECK_CODE(upload_complete("roaming", three, 1, NULL), S3D_INVALID);
    CHECK(!exists("roaming"));
    CHECK_CODE(upload_abort("roaming"), S3D_OK);
    CHECK(chdir(root) == 0);
    CHECK(count_temps() == 0 && !exists("roaming"));
    free(data);
}

/* --- O_DIRECT ----------------------------------------------------------------------------- */

/* Lengths and addresses on and off the grid, with the file system's own idea of O_DIRECT. */
static void test_direct(void)
{
    enum { BYTES = 3 * MIB + 4096 + 77 };
    static struct s3d_request request;
    struct s3d_file_store *file_store = (struct s3d_file_store *)store;
    char *data = pattern(BYTES, 8), *got = pattern(BYTES + 1, 9);
    static const size_t lengths[] = {0, 1, 4096, 4097, MIB, BYTES};
    file_store->direct = true;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (size_t shift = 0; shift <= 1; shift++) {
            size_t length = lengths[i];
            struct s3d_span span = {data, length};
            request = (struct s3d_request){.verb = S3D_VERB_PUT,
                                           .key = "direct",
                                           .length_bytes = length,
                                           .spans = &span,
                                           .span_count = 1};
            CHECK_CODE(run(&request), S3D_OK);
            CHECK(file_is("direct", data, length));
            memset(got, 0, BYTES + 1);
            CHECK_CODE(get_range(&request, "direct", 0, got + shift, length), S3D_OK);
            CHECK(memcmp(got + shift, data, length) == 0);
        }
    }
    CHECK_CODE(get_range(&request, "direct", 4096, got, BYTES - 4096), S3D_OK);
    CHECK(memcmp(got, data + 4096, BYTES - 4096) == 0);
    CHECK_CODE(get_range(&request, "direct", 5, got, 8192), S3D_OK);
    CHECK(memcmp(got, data + 5, 8192) == 0);
    CHECK_CODE(upload_create("direct-up", NULL), S3D_OK);
    for (int i = 0; i < PART_COUNT; i++) {
        CHECK_CODE(upload_part("direct-up", &three[i], data), S3D_OK);
    }
    CHECK_CODE(upload_complete("direct-up", three, PART_COUNT, NULL), S3D_OK);
    CHECK(file_is("direct-up", data, PARTS_BYTES));
    file_store->direct = false;
    free(got);
    free(data);
}

/* Whatever call a file system refuses by EINVAL for want of O_DIRECT, the bytes arrive. */
static void test_direct_refused(void)
{
    enum { BYTES = 8192 + 77 };
    static struct s3d_request request;
    struct s3d_file_store *file_store = (struct s3d_file_store *)store;
    char *data = pattern(BYTES, 10), *got = pattern(BYTES, 11);
    unsigned refused_flag = 0, refused_read = 0;
    make_file("refuse", data, BYTES);
    file_store->direct = true;
    for (unsigned long n = 1;; n++) {
        memset(got, 0, BYTES);
        s3d_file_fail_at(n, EINVAL);
        enum s3d_code code = get_range(&request, "refuse", 0, got, BYTES);
        if (!s3d_file_fault_fired()) {
            CHECK_CODE(code, S3D_OK);
            break;
        }
        if (code == S3D_OK) {
            CHECK(memcmp(got, data, BYTES) == 0);
            refused_flag += strcmp(s3d_file_fault_call(), "fcntl") == 0;
            refused_read += strcmp(s3d_file_fault_call(), "preadv") == 0;
        }
    }
    CHECK(refused_flag == 1);
    /* Where the file system here takes the flag, the read was a direct one that was refused. */
    int fd = open("refuse", O_RDONLY | O_DIRECT);
    CHECK(refused_read == (fd >= 0));
    close(fd);
    s3d_file_fail_at(0, 0);
    file_store->direct = false;
    free(got);
    free(data);
}

/* --- LIST --------------------------------------------------------------------------------- */

enum { SEEN_MAX = 40000 };
static char *seen[SEEN_MAX];
static size_t seen_count, page_start;
static unsigned resets;

static void sink_reset(void *context)
{
    CHECK(context == seen);
    resets++;
    while (seen_count > page_start) {
        free(seen[--seen_count]);
    }
}

static enum s3d_code sink_add(void *context, const char *key, const struct s3d_object *object,
                              struct s3d_error *error)
{
    (void)error;
    CHECK(context == seen && seen_count < SEEN_MAX);
    CHECK(object->etag[0] == '"');
    seen[seen_count++] = strdup(key);
    return S3D_OK;
}

static const struct s3d_list_sink sink = {seen, sink_reset, sink_add};

static void forget_seen(void)
{
    page_start = 0;
    while (seen_count) {
        free(seen[--seen_count]);
    }
}

/* All pages; returns how many there were. Checks the order. */
static unsigned list_all(const char *prefix)
{
    static struct s3d_request request;
    char token[sizeof request.result.next_token] = "";
    unsigned pages = 0;
    forget_seen();
    do {
        request = (struct s3d_request){.verb = S3D_VERB_LIST,
                                       .key = prefix,
                                       .list = &sink,
                                       .list_token = pages ? token : NULL};
        page_start = seen_count;
        resets = 0;
        CHECK_CODE(run(&request), S3D_OK);
        CHECK(resets == 1);
        memcpy(token, request.result.next_token, sizeof token);
        CHECK(!token[0] || strcmp(token, seen[seen_count - 1]) == 0);
        pages++;
    } while (token[0]);
    for (size_t i = 1; i < seen_count; i++) {
        CHECK(strcmp(seen[i - 1], seen[i]) < 0);
    }
    return pages;
}

static void check_listing(const char *prefix, const char *const *expected)
{
    (void)list_all(prefix);
    size_t count = 0;
    for (; expected[count]; count++) {
        CHECK(count < seen_count);
        CHECK_TEXT(seen[count], expected[count]);
    }
    CHECK(seen_count == count);
    forget_seen();
}

static void test_list(void)
{
    CHECK(mkdir("list", 0700) == 0 && mkdir("list/a", 0700) == 0 &&
          mkdir("list/a/b", 0700) == 0);
    CHECK(mkdir("list/empty", 0700) == 0 && mkdir("list/ab", 0700) == 0);
    static const char *const files[] = {"list/a.txt",  "list/a/x",  "list/a/b/deep",
                                        "list/a0",     "list/ab/y", "list/\xC3\xA9",
                                        "list/.hidden"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        make_file(files[i], "x", 1);
    }
    make_file("list/.a.abcdefgh.s3dlio-tmp", "x", 1);
    CHECK(symlink("a.txt", "list/link") == 0 && symlink("a", "list/folder-link") == 0);
    CHECK(symlink("nothing", "list/dangling") == 0 && mkfifo("list/fifo", 0600) == 0);
    static const char *const all[] = {"list/.hidden", "list/a.txt",    "list/a/b/deep",
                                      "list/a/x",     "list/a0",       "list/ab/y",
                                      "list/link",    "list/\xC3\xA9", NULL};
    check_listing("list", all);
    check_listing("list/", all);
    check_listing("lis", all);
    static const char *const below_a[] = {"list/a/b/deep", "list/a/x", NULL};
    check_listing("list/a", below_a); /* a folder is meant, although files begin so too */
    check_listing("list/a/", below_a);
    static const char *const ab[] = {"list/ab/y", NULL};
    check_listing("list/ab", ab);
    static const char *const a_dot[] = {"list/a.txt", NULL};
    check_listing("list/a.", a_dot);
    check_listing("list/a.txt", a_dot);
    static const char *const linked[] = {"list/folder-link/b/deep", "list/folder-link/x", NULL};
    check_listing("list/folder-link", linked); /* asked for by name */
    static const char *const none[] = {NULL};
    check_listing("list/zzz", none);
    check_listing("list/a.txt/", none);
    check_listing("no/such/folder/", none);
    CHECK(chdir("list") == 0);
    static const char *const relative[] = {".hidden", "a.txt", "a/b/deep", "a/x", "a0",
                                           "ab/y",    "link",  "\xC3\xA9", NULL};
    check_listing("", relative);
    CHECK(chdir(root) == 0);
}

static void test_list_pages(void)
{
    char path[64];
    CHECK(mkdir("pages", 0700) == 0);
    for (int folder = 0; folder < 5; folder++) {
        snprintf(path, sizeof path, "pages/%d", folder);
        CHECK(mkdir(path, 0700) == 0);
        for (int i = 0; i < 500; i++) {
            snprintf(path, sizeof path, "pages/%d/%04d", folder, i);
            make_file(path, "", 0);
        }
    }
    CHECK(list_all("pages") == 3 && seen_count == 2500);
    CHECK_TEXT(seen[999], "pages/1/0499");
    CHECK_TEXT(seen[1000], "pages/2/0000");
    /* Exactly one page: nothing follows, so there is no token. */
    CHECK(list_all("pages/0") == 1 && seen_count == 500);
    CHECK(list_all("pages/") == 3);
    forget_seen();
}

/* 33,000 names in one folder: pages grow so that there are few. */
static void test_list_large_folder(void)
{
    char path[64];
    CHECK(mkdir("wide", 0700) == 0);
    make_file("wide/00000", "", 0);
    for (int i = 1; i < 33000; i++) {
        snprintf(path, sizeof path, "wide/%05d", i);
        if (link("wide/00000", path) != 0) { /* cheaper than a file; ext4 allows 65,000 */
            make_file(path, "", 0);
        }
    }
    CHECK(list_all("wide/") <= 17 && seen_count == 33000);
    forget_seen();
}

static enum s3d_code sink_refuse(void *context, const char *key,
                                 const struct s3d_object *object, struct s3d_error *error)
{
    (void)context;
    (void)key;
    (void)object;
    return s3d_fail(error, S3D_NO_MEMORY, "the sink is full");
}

static void ignore_reset(void *context)
{
    (void)context;
}

static void test_list_errors(void)
{
    static struct s3d_request request;
    static const struct s3d_list_sink refusing = {NULL, ignore_reset, sink_refuse};
    request = (struct s3d_request){.verb = S3D_VERB_LIST, .key = "list", .list = &refusing};
    CHECK_CODE(run(&request), S3D_NO_MEMORY);
    request.list = &sink;
    atomic_store(&request.cancelled, true);
    CHECK_CODE(run(&request), S3D_CANCELLED);
    forget_seen();
    /* Deeper than the bound is an error, not an overflow. */
    for (int i = 0; i < 300; i++) {
        CHECK(mkdir("z", 0700) == 0 && chdir("z") == 0);
    }
    CHECK(chdir(root) == 0);
    request = (struct s3d_request){.verb = S3D_VERB_LIST, .key = "z/", .list = &sink};
    CHECK_CODE(run(&request), S3D_UNSUPPORTED);
}

static enum s3d_code list_once(void)
{
    static struct s3d_request request;
    forget_seen();
    request = (struct s3d_request){.verb = S3D_VERB_LIST, .key = "list", .list = &sink};
    return run(&request);
}

/* --- driver and store --------------------------------------------------------------------- */

static void *wake_later(void *argument)
{
    (void)argument;
    usleep(20000);
    s3d_file_driver.wake(driver);
    return NULL;
}

static void test_driver(void)
{
    pthread_t thread;
    CHECK(s3d_file_driver.capacity(&config, 8) == 1);
    s3d_file_driver.poll(driver, 0);
    s3d_file_driver.wake(driver);
    s3d_file_driver.wake(driver);
    s3d_file_driver.poll(driver, -1); /* would hang if the wake were lost */
    s3d_file_driver.poll(driver, 1);  /* one poll takes all wakes: this one waits its time */
    CHECK(pthread_create(&thread, NULL, wake_later, NULL) == 0);
    s3d_file_driver.poll(driver, -1);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK_CODE(delete_path("nothing"), S3D_OK);
    s3d_file_driver.poll(driver, -1); /* an attempt that ended is progress */
    s3d_file_driver.close(NULL);
}

static enum s3d_code open_and_close(void)
{
    struct s3d_store *opened = NULL;
    struct s3d_driver *other = NULL;
    struct s3d_error error;
    enum s3d_code code = s3d_file_open(&opened, NULL, &config, &error);
    if (code) {
        return code;
    }
    opened->ops->close(opened);
    code = s3d_file_driver.open(&other, &config, 1, &error);
    if (!code) {
        s3d_file_driver.close(other);
    }
    return code;
}

static void test_store(void)
{
    struct s3d_store *opened = NULL;
    CHECK(test_torture(open_and_close, 0) == 2);
    CHECK(test_torture(list_once, 0) >= 5);
    forget_seen();
    config.file_direct = 1;
    CHECK_CODE(s3d_file_open(&opened, NULL, &config, NULL), S3D_OK);
    CHECK(((struct s3d_file_store *)opened)->direct);
    CHECK(opened->ops->driver == &s3d_file_driver);
    CHECK(opened->limits.part_min_bytes == 4096 && opened->limits.parts_max == 1000000);
    opened->ops->close(opened);
    config.file_direct = 0;
}

/* --- every system call failing ------------------------------------------------------------ */

static char *new_data;

static enum s3d_code attempt_put(void)
{
    return put_bytes("victim", new_data, PARTS_BYTES, NULL);
}

static enum s3d_code attempt_put_new(void)
{
    return put_bytes("victim", new_data, PARTS_BYTES, &create_only);
}

static enum s3d_code attempt_upload(void)
{
    enum s3d_code code = upload_create("victim", NULL);
    if (code) {
        CHECK(upload_id[0] == '\0');
        return code;
    }
    for (int i = 0; !code && i < PART_COUNT; i++) {
        code = upload_part("victim", &three[i], new_data);
    }
    if (!code) {
        code = upload_complete("victim", three, PART_COUNT, NULL);
    }
    if (code) {
        enum s3d_code aborted = upload_abort("victim");
        /* The one fault may hit this unlink too; then abort again, as the engine does. */
        CHECK_CODE(aborted ? upload_abort("victim") : S3D_OK, S3D_OK);
    }
    return code;
}

static enum s3d_code attempt_get(void)
{
    static struct s3d_request request;
    static char got[2 * MIB];
    return get_range(&request, "source", 0, got, sizeof got);
}

static enum s3d_code attempt_stat_delete(void)
{
    enum s3d_code code = stat_path("victim", NULL, NULL);
    return code ? code : delete_path("victim");
}

static void do_nothing(void)
{
}

struct ordeal {
    enum s3d_code (*attempt)(void);
    bool had_victim;      /* the target exists before */
    bool writes;          /* check old or new content afterwards */
    const char *harmless; /* " call call ": these fail without an error */
    const char *either;   /* these do so in some places */
};

static bool is_among(const char *calls, const char *call)
{
    char word[48];
    snprintf(word, sizeof word, " %s ", call);
    return strstr(calls, word) != NULL;
}

static void prepare_victim(const struct ordeal *ordeal)
{
    unlink("victim");
    if (ordeal->had_victim) {
        make_file("victim", "the old content", 15);
    }
}

static bool victim_is_whole(const struct ordeal *ordeal, enum s3d_code code)
{
    bool is_new = file_is("victim", new_data, PARTS_BYTES);
    bool is_old =
        ordeal->had_victim ? file_is("victim", "the old content", 15) : !exists("victim");
    return is_new || (code && is_old);
}

/* Returns how many calls there were to fail. */
static unsigned long suffer(const struct ordeal *ordeal, int errno_value)
{
    for (unsigned long n = 1;; n++) {
        CHECK(n < 10000);
        prepare_victim(ordeal);
        unsigned open_before = count_open_files();
        s3d_file_fail_at(n, errno_value);
        enum s3d_code code = ordeal->attempt();
        bool fired = s3d_file_fault_fired();
        char call[40];
        snprintf(call, sizeof call, "%s", s3d_file_fault_call());
        s3d_file_fail_at(0, 0);
        CHECK(count_open_files() == open_before);
        CHECK(!ordeal->writes || victim_is_whole(ordeal, code));
        CHECK(count_temps() == 0 || strcmp(call, "unlink") == 0);
        if (!fired) {
            CHECK_CODE(code, S3D_OK);
            return n - 1;
        }
        if (errno_value == EINTR || is_among(ordeal->harmless, call)) {
            if (code) {
                fprintf(stderr, "%s should be harmless in %s (call %lu)\n",
                        strerror(errno_value), call, n);
            }
            CHECK_CODE(code, S3D_OK);
        } else if (code == S3D_OK && !is_among(ordeal->either, call)) {
            fprintf(stderr, "the fault in %s (call %lu) had no effect\n", call, n);
            exit(1);
        }
    }
}

static void test_every_call_failing(void)
{
    static const struct ordeal ordeals[] = {
        {attempt_put, true, true, " close ", ""},
        {attempt_put_new, false, true, " close ", ""},
        /* A part's close may tell of lost bytes and counts; after the fsync it cannot. */
        {attempt_upload, true, true, " sync_file_range ", " close "},
        {attempt_get, false, false, " posix_fadvise close ", ""},
        {attempt_stat_delete, true, false, "", ""},
    };
    static const int failures[] = {EIO, ENOSPC, EDQUOT, EINTR};
    make_file("source", "", 0);
    CHECK(truncate("source", 2 * MIB) == 0);
    new_data = pattern(PARTS_BYTES, 12);
    for (size_t i = 0; i < sizeof ordeals / sizeof *ordeals; i++) {
        for (size_t j = 0; j < sizeof failures / sizeof *failures; j++) {
            unsigned long calls = suffer(&ordeals[i], failures[j]);
            CHECK(calls >= (ordeals[i].writes ? 10 : 3));
        }
    }
    free(new_data);
}

/* The order that survives a crash: bytes, then name, then folder each on the device before the
 * next. Found by asking each call for its name. */
static void check_publishing_order(enum s3d_code (*attempt)(void))
{
    unsigned long written = 0, renamed = 0, synced[2] = {0};
    new_data = pattern(PARTS_BYTES, 13);
    for (unsigned long n = 1;; n++) {
        s3d_file_call_at(n, do_nothing);
        CHECK_CODE(attempt(), S3D_OK);
        const char *call = s3d_file_fault_call();
        if (!*call) {
            break;
        }
        if (strcmp(call, "pwritev") == 0) {
            written = n;
        } else if (strcmp(call, "rename") == 0) {
            renamed = n;
        } else if (strcmp(call, "fsync") == 0) {
            CHECK(!synced[1]);
            synced[synced[0] ? 1 : 0] = n;
        }
    }
    CHECK(written < synced[0] && synced[0] < renamed && renamed < synced[1]);
    s3d_file_fail_at(0, 0);
    free(new_data);
}

static void test_publishing_order(void)
{
    check_publishing_order(attempt_put);
    check_publishing_order(attempt_upload);
}

/* A listing is complete or an error. */
static void test_every_list_call_failing(void)
{
    CHECK_CODE(list_once(), S3D_OK);
    size_t whole = seen_count;
    for (unsigned long n = 1;; n++) {
        unsigned open_before = count_open_files();
        s3d_file_fail_at(n, EIO);
        enum s3d_code code = list_once();
        bool fired = s3d_file_fault_fired();
        s3d_file_fail_at(0, 0);
        CHECK(count_open_files() == open_before);
        if (!fired) {
            CHECK_CODE(code, S3D_OK);
            CHECK(seen_count == whole && n > 20);
            break;
        }
        CHECK_CODE(code, S3D_SYSTEM);
    }
    forget_seen();
}

/* A full disk says so, with its errno, and names the file. */
static void test_full_disk(void)
{
    static struct s3d_request request;
    char byte = 'x';
    struct s3d_span span = {&byte, 1};
    for (unsigned long n = 1;; n++) {
        request = (struct s3d_request){.verb = S3D_VERB_PUT,
                                       .key = "full",
                                       .length_bytes = 1,
                                       .spans = &span,
                                       .span_count = 1};
        s3d_file_fail_at(n, ENOSPC);
        enum s3d_code code = run(&request);
        if (strcmp(s3d_file_fault_call(), "pwritev") == 0) {
            CHECK_CODE(code, S3D_SYSTEM);
            CHECK(request.last.sys_errno == ENOSPC && strstr(request.last.message, "\"full\""));
            break;
        }
        CHECK(s3d_file_fault_fired());
    }
    s3d_file_fail_at(0, 0);
}

static void remove_root(void)
{
    char command[PATH_MAX + 16];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    if (chdir("/") != 0 || system(command) != 0) {
        fprintf(stderr, "could not remove %s\n", root);
    }
}

int main(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/s3dlio-test-file-XXXXXX", base && *base ? base : "/tmp");
    char made[PATH_MAX];
    CHECK(mkdtemp(root) != NULL && realpath(root, made) != NULL);
    memcpy(root, made, sizeof root);
    CHECK(chdir(root) == 0);
    atexit(remove_root);
    CHECK_CODE(s3d_file_open(&store, NULL, &config, NULL), S3D_OK);
    CHECK_CODE(s3d_file_driver.open(&driver, &config, 1, NULL), S3D_OK);
    RUN(test_stat);
    RUN(test_long_paths_in_errors);
    RUN(test_etag);
    RUN(test_delete);
    RUN(test_temp_names);
    RUN(test_get_ranges);
    RUN(test_get_suffix);
    RUN(test_get_if_match);
    RUN(test_get_spans);
    RUN(test_get_fifo_does_not_hang);
    RUN(test_get_of_changing_file);
    RUN(test_cancel);
    RUN(test_put);
    RUN(test_put_mode);
    RUN(test_put_targets);
    RUN(test_put_missing_folder);
    RUN(test_put_long_names);
    RUN(test_put_create_only);
    RUN(test_put_create_only_by_link);
    RUN(test_put_short_writes);
    RUN(test_put_large);
    RUN(test_upload);
    RUN(test_upload_part_close);
    RUN(test_upload_abort);
    RUN(test_upload_wrong_parts);
    RUN(test_upload_targets);
    RUN(test_upload_chdir);
    RUN(test_direct);
    RUN(test_direct_refused);
    RUN(test_list);
    RUN(test_list_pages);
    RUN(test_list_large_folder);
    RUN(test_list_errors);
    RUN(test_driver);
    RUN(test_store);
    RUN(test_every_call_failing);
    RUN(test_publishing_order);
    RUN(test_every_list_call_failing);
    RUN(test_full_disk);
    s3d_file_driver.close(driver);
    store->ops->close(store);
    return 0;
}
