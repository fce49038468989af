/* Local files: STAT, ETag, DELETE, cancelling, the driver, and every system call failing. */
#include "file_test.h"

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

/* --- cancelling -------------------------------------------------------------------------- */

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

static enum s3d_code attempt_empty(void)
{
    static struct s3d_request request;
    char none[1];
    enum s3d_code code = stat_path("empty", NULL, NULL);
    return code ? code : get_range(&request, "empty", 0, none, 0);
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
        {attempt_empty, false, false, " close ", ""},
    };
    static const int failures[] = {EIO, ENOSPC, EDQUOT, EINTR};
    make_file("source", "", 0);
    make_file("empty", "", 0);
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

int main(void)
{
    begin();
    RUN(test_stat);
    RUN(test_long_paths_in_errors);
    RUN(test_etag);
    RUN(test_delete);
    RUN(test_temp_names);
    RUN(test_cancel);
    RUN(test_driver);
    RUN(test_store);
    RUN(test_every_call_failing);
    RUN(test_publishing_order);
    RUN(test_full_disk);
    end();
    return 0;
}
