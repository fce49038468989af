/* The engine: shutdown and restart, forks in the middle of everything, settings and failures. */
#include "fake_store.h"
#include "test.h"

#include "core/call.h"
#include "core/get.h"
#include "core/put.h"
#include "core/reader.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PART = 64 * 1024, SIZE = 20 * PART, READER_SIZE = 4 * 1024 * 1024 };

/* ThreadSanitizer does not survive new threads in the child of a process with threads. */
#if defined(__SANITIZE_THREAD__)
enum { CHILDREN_START_THREADS = 0 };
#else
enum { CHILDREN_START_THREADS = 1 };
#endif

static char *pattern(size_t size)
{
    char *data = fake_memory(size);
    fake_pattern(data, size, 7);
    return data;
}

static struct s3d_put *open_put(struct fake_store *fake)
{
    struct s3d_put_plan plan = {.key = "object", .part_bytes = PART, .concurrency = 3};
    struct s3d_put *put;
    CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, NULL), S3D_OK);
    return put;
}

static struct s3d_get *open_get(struct fake_store *fake, void *data)
{
    struct s3d_segment segment = {0, SIZE, data};
    struct s3d_get_plan plan = {.key = "source",
                                .segments = &segment,
                                .segment_count = 1,
                                .part_bytes = PART,
                                .concurrency = 4};
    struct s3d_get *get;
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
    return get;
}

static void test_one_engine(void)
{
    struct s3d_engine *first = fake_running_engine(), *second = fake_running_engine();
    CHECK(first == second && s3d_engine_alive(first));
    struct s3d_pool *a, *b;
    CHECK_CODE(s3d_engine_pool(first, &fake_driver, &a, NULL), S3D_OK);
    CHECK_CODE(s3d_engine_pool(first, &fake_driver, &b, NULL), S3D_OK);
    CHECK(a == b);
}

static void test_too_many_drivers(void)
{
    fake_engine("");
    static struct s3d_driver_ops ops[5];
    struct s3d_engine *engine = fake_running_engine();
    struct s3d_pool *pools[5];
    struct s3d_error error;
    for (int i = 0; i < 5; i++) {
        ops[i] = fake_driver;
        enum s3d_code code = s3d_engine_pool(engine, &ops[i], &pools[i], &error);
        CHECK_CODE(code, i < 4 ? S3D_OK : S3D_INTERNAL);
    }
    fake_engine("");
}

/* A driver that does not open is an error that the next caller may not see any more. */
static void test_driver_does_not_open(void)
{
    fake_engine("");
    struct fake_store *fake;
    struct s3d_error error;
    fake_fail_open(S3D_TLS);
    CHECK_CODE(fake_try_open(&fake, &error), S3D_TLS);
    CHECK_CODE(error.code, S3D_TLS);
    fake_fail_open(S3D_OK);
    CHECK_CODE(fake_try_open(&fake, &error), S3D_OK);
    fake_close(fake);
}

static void test_bad_setting(void)
{
    s3d_engine_shutdown();
    s3d_engine_restart();
    setenv("S3DLIO_RT_THREADS", "many", 1);
    struct s3d_engine *engine = NULL;
    struct s3d_error error;
    CHECK_CODE(s3d_engine_get(&engine, &error), S3D_INVALID);
    CHECK(strstr(error.message, "S3DLIO_RT_THREADS") && strstr(error.message, "many"));
    CHECK(!engine);
    fake_engine(""); /* mended, it starts */
}

static void test_memory_limit(void)
{
    fake_engine("S3DLIO_MEMORY_LIMIT=12345");
    CHECK(fake_running_engine()->budget.limit_bytes == 12345);
    fake_engine("S3DLIO_MEMORY_LIMIT=0 S3DLIO_PUT_PART_SIZE=6000000 S3DLIO_PUT_INFLIGHT=10 "
                "S3DLIO_GET_PART_SIZE=1000000 S3DLIO_GET_INFLIGHT=3");
    CHECK(fake_running_engine()->budget.limit_bytes == 2 * 6000000 * 10);
    unsetenv("S3DLIO_PUT_PART_SIZE");
    unsetenv("S3DLIO_PUT_INFLIGHT");
    unsetenv("S3DLIO_GET_PART_SIZE");
    unsetenv("S3DLIO_GET_INFLIGHT");
    fake_engine("");
}

/* Shutdown aborts open uploads in any state; their handles stay valid to ask and to free. */
static void test_shutdown(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(SIZE);
    fake_put_object(fake, "source", data, SIZE);
    struct s3d_put *puts[4];
    size_t written = 0;
    for (int i = 0; i < 4; i++) {
        puts[i] = open_put(fake);
    }
    CHECK_CODE(s3d_put_refer(puts[0], data, PART, &written, -1, NULL), S3D_OK);
    written = 0;
    CHECK_CODE(s3d_put_write(puts[1], data, 100, &written, -1, NULL), S3D_OK);
    written = 0;
    CHECK_CODE(s3d_put_write(puts[2], data, SIZE, &written, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(puts[3], -1, NULL), S3D_OK);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_GET, .times = 100, .hold = true});
    struct s3d_get *get = open_get(fake, data);
    fake_wait_held(fake, 4);
    CHECK(fake_open_uploads(fake) == 1);

    struct s3d_engine *engine = fake_running_engine(), *other;
    s3d_engine_shutdown();
    CHECK(fake_open_uploads(fake) == 0);
    CHECK(!s3d_engine_alive(engine));
    struct s3d_error error;
    CHECK_CODE(s3d_engine_check(engine, &error), S3D_CLOSED);
    CHECK_CODE(s3d_engine_get(&other, &error), S3D_CLOSED);
    struct fake_store *late;
    CHECK_CODE(fake_try_open(&late, &error), S3D_CLOSED);
    for (int i = 0; i < 3; i++) {
        written = 0;
        CHECK_CODE(s3d_put_write(puts[i], data, 100, &written, -1, &error), S3D_CANCELLED);
        CHECK(strstr(error.message, "interpreter exited") != NULL);
        CHECK_CODE(s3d_put_refer(puts[i], data, PART, &written, -1, &error), S3D_CANCELLED);
        CHECK_CODE(s3d_put_finish(puts[i], -1, &error), S3D_CANCELLED);
    }
    CHECK_CODE(s3d_put_finish(puts[3], -1, NULL), S3D_OK);
    struct s3d_put_plan plan = {.key = "late", .part_bytes = PART, .concurrency = 1};
    struct s3d_put *late_put;
    CHECK_CODE(s3d_put_new(&late_put, fake_base(fake), &plan, &error), S3D_CLOSED);
    CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_CLOSED);
    struct s3d_call *call;
    CHECK_CODE(s3d_call_new(&call, fake_base(fake), NULL), S3D_OK);
    call->request.verb = S3D_VERB_STAT;
    call->request.key = "source";
    s3d_call_start(call);
    enum s3d_code code = s3d_call_wait(call, -1, NULL);
    CHECK(code == S3D_CLOSED || code == S3D_CANCELLED);
    s3d_call_free(call);
    for (int i = 0; i < 4; i++) {
        s3d_put_free(puts[i]);
    }
    s3d_get_free(get);
    free(data);
    s3d_engine_shutdown(); /* twice does no harm */
    fake_close(fake);

    s3d_engine_restart();
    CHECK_CODE(s3d_engine_get(&other, NULL), S3D_OK);
    CHECK(other != engine && s3d_engine_alive(other) && !s3d_engine_alive(engine));
}

/* Writers that write, finish and free while the engine shuts down under them. */
static void *write_until_closed(void *argument)
{
    struct fake_store *fake = argument;
    char *data = pattern(5 * PART);
    enum s3d_code code;
    do {
        struct s3d_put_plan plan = {.key = "object", .part_bytes = PART, .concurrency = 3};
        struct s3d_put *put = NULL;
        size_t written = 0;
        code = s3d_put_new(&put, fake_base(fake), &plan, NULL);
        while (!code && written < 5 * PART) {
            code = s3d_put_write(put, data, 5 * PART, &written, 1, NULL);
            code = code == S3D_AGAIN ? S3D_OK : code;
        }
        if (!code && random() % 2) {
            while ((code = s3d_put_finish(put, 1, NULL)) == S3D_AGAIN) {
            }
        }
        CHECK(code == S3D_OK || code == S3D_CLOSED || code == S3D_CANCELLED);
        s3d_put_free(put);
    } while (!code);
    free(data);
    return NULL;
}

static void test_shutdown_races(void)
{
    for (int round = 0; round < 15; round++) {
        fake_engine("");
        struct fake_store *fake = fake_open();
        pthread_t threads[4];
        for (int i = 0; i < 4; i++) {
            CHECK(pthread_create(&threads[i], NULL, write_until_closed, fake) == 0);
        }
        usleep(3000);
        s3d_engine_shutdown();
        for (int i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
        }
        fake_close(fake);
    }
    fake_engine("");
}

/* A create and a complete that never answer are cancelled after the grace time that an abort gives
 * them: 5 s, so both are waited for at once (and here, as test_put takes its time already). */
static void *abort_stuck(void *argument)
{
    enum s3d_verb verb = *(const enum s3d_verb *)argument;
    struct fake_store *fake = fake_open();
    char *data = pattern(3 * PART + 1);
    unsigned rule = fake_rule(fake, (struct fake_rule){.verb = verb, .times = 1, .hold = true});
    struct s3d_put *put = open_put(fake);
    for (size_t at = 0; at < 3 * PART + 1; at++) {
        size_t written = 0;
        CHECK_CODE(s3d_put_write(put, data + at, 1, &written, -1, NULL), S3D_OK);
    }
    if (verb == S3D_VERB_UPLOAD_COMPLETE) {
        while (s3d_put_finish(put, 1, NULL) == S3D_AGAIN &&
               !fake_attempts(fake, S3D_VERB_UPLOAD_COMPLETE)) {
        }
    }
    fake_wait_held(fake, 1);
    s3d_put_free(put);
    size_t size;
    CHECK(fake_fired(fake, rule) == 1);
    CHECK(!fake_object(fake, "object", &size) && fake_open_uploads(fake) == 0);
    free(data);
    s3d_store_release(fake_base(fake)); /* the budget is shared: checked by the main thread */
    return NULL;
}

static void test_stuck_uploads(void)
{
    static enum s3d_verb verbs[] = {S3D_VERB_UPLOAD_CREATE, S3D_VERB_UPLOAD_COMPLETE};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, abort_stuck, &verbs[i]) == 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    fake_close(fake_open());
}

/* ---- fork ---- */

/* What a parent may have open when it forks. */
struct open_things {
    struct fake_store *fake;
    struct s3d_put *put, *finished;
    struct s3d_get *get;
    struct s3d_reader *reader;
    struct s3d_call *call;
    char *data, *got;
    size_t written;
    size_t reader_got;
};

#define EXPECT(condition)                                                                      \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: FAILED in the child: %s\n", __FILE__, __LINE__,            \
                    #condition);                                                               \
            _exit(1);                                                                          \
        }                                                                                      \
    } while (0)

/* Every call says FORKED, none hangs, and freeing only forgets. */
static void use_in_child(struct open_things *things)
{
    struct s3d_error error;
    size_t written = 0, got = 0;
    char byte;
    EXPECT(s3d_engine_check(fake_base(things->fake)->engine, NULL) == S3D_FORKED);
    EXPECT(s3d_put_write(things->put, &byte, 1, &written, -1, &error) == S3D_FORKED);
    EXPECT(strstr(error.message, "fork") != NULL);
    EXPECT(s3d_put_finish(things->put, -1, &error) == S3D_FORKED);
    s3d_put_abort(things->put, NULL);
    EXPECT(s3d_put_refer(things->put, &byte, 1, &written, -1, &error) == S3D_FORKED);
    EXPECT(s3d_put_stored_bytes(things->put) == 0);
    EXPECT(s3d_get_wait(things->get, 0, 1, -1, &error) == S3D_FORKED);
    EXPECT(s3d_get_wait_all(things->get, -1, &error) == S3D_FORKED);
    EXPECT(s3d_reader_wait_open(things->reader, -1, &error) == S3D_FORKED);
    EXPECT(s3d_reader_read(things->reader, 0, &byte, 1, &got, -1, &error) == S3D_FORKED);
    EXPECT(s3d_reader_buffered(things->reader, 0) == 0);
    EXPECT(s3d_call_wait(things->call, -1, &error) == S3D_FORKED);
    s3d_reader_cancel(things->reader);
    struct s3d_put_plan put_plan = {.key = "x", .part_bytes = PART, .concurrency = 1};
    struct s3d_put *put;
    EXPECT(s3d_put_new(&put, fake_base(things->fake), &put_plan, &error) == S3D_FORKED);
    struct s3d_segment segment = {0, 1, &byte};
    struct s3d_get_plan get_plan = {.key = "x",
                                    .segments = &segment,
                                    .segment_count = 1,
                                    .part_bytes = PART,
                                    .concurrency = 1};
    struct s3d_get *get;
    EXPECT(s3d_get_new(&get, fake_base(things->fake), &get_plan, &error) == S3D_FORKED);
    EXPECT(s3d_reader_fetch(&get, things->reader,
                            &(struct s3d_get_plan){.segments = &segment, .segment_count = 1},
                            &error) == S3D_FORKED);
    struct s3d_reader_plan plan = {.key = "x", .part_bytes = PART, .concurrency = 1};
    struct s3d_reader *reader;
    EXPECT(s3d_reader_new(&reader, fake_base(things->fake), &plan, &error) == S3D_FORKED);
    struct s3d_call *call;
    EXPECT(s3d_call_new(&call, fake_base(things->fake), NULL) == S3D_OK);
    s3d_call_start(call);
    EXPECT(s3d_call_wait(call, -1, &error) == S3D_FORKED);
    s3d_call_free(call);
    s3d_put_free(things->put);
    s3d_put_free(things->finished);
    s3d_get_free(things->get);
    s3d_reader_free(things->reader);
    s3d_call_free(things->call);
}

/* A child has an engine of its own. */
static void start_anew_in_child(void)
{
    struct fake_store *fake;
    EXPECT(fake_try_open(&fake, NULL) == S3D_OK);
    char *data = pattern(SIZE), *got = fake_memory(SIZE);
    fake_put_object(fake, "source", data, SIZE);
    struct s3d_get *get = open_get(fake, got);
    EXPECT(s3d_get_wait_all(get, -1, NULL) == S3D_OK);
    EXPECT(memcmp(data, got, SIZE) == 0);
    s3d_get_free(get);
    struct s3d_put *put = open_put(fake);
    size_t written = 0;
    EXPECT(s3d_put_write(put, data, SIZE, &written, -1, NULL) == S3D_OK);
    s3d_engine_shutdown();
    EXPECT(fake_open_uploads(fake) == 0);
    s3d_put_free(put);
}

/* fork() in this thread; the child's verdict. */
static void fork_and_use(struct open_things *things, bool anew)
{
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        test_in_child();
        alarm(30);
        use_in_child(things);
        if (anew && CHILDREN_START_THREADS) {
            start_anew_in_child();
        }
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static struct open_things open_things(void)
{
    struct open_things things = {.fake = fake_open()};
    things.data = pattern(READER_SIZE);
    things.got = fake_memory(READER_SIZE);
    fake_put_object(things.fake, "source", things.data, SIZE);
    fake_put_object(things.fake, "large", things.data, READER_SIZE);
    things.finished = open_put(things.fake);
    CHECK_CODE(s3d_put_finish(things.finished, -1, NULL), S3D_OK);
    struct s3d_reader_plan plan = {.key = "large", .part_bytes = PART, .concurrency = 4};
    CHECK_CODE(s3d_reader_new(&things.reader, fake_base(things.fake), &plan, NULL), S3D_OK);
    CHECK_CODE(s3d_reader_wait_open(things.reader, -1, NULL), S3D_OK);
    return things;
}

static void close_things(struct open_things *things)
{
    s3d_put_free(things->put);
    s3d_put_free(things->finished);
    s3d_get_free(things->get);
    s3d_reader_free(things->reader);
    s3d_call_free(things->call);
    free(things->data);
    free(things->got);
    fake_close(things->fake);
}

/* Everything in the middle: parts, ranges and blocks are held while the process forks. */
static void test_fork(void)
{
    struct open_things things = open_things();
    struct fake_store *fake = things.fake;
    static const enum s3d_verb verbs[] = {S3D_VERB_GET, S3D_VERB_UPLOAD_PART, S3D_VERB_STAT};
    for (size_t i = 0; i < 3; i++) {
        fake_rule(fake, (struct fake_rule){.verb = verbs[i], .times = 1000, .hold = true});
    }
    things.put = open_put(fake);
    CHECK_CODE(s3d_put_write(things.put, things.data, SIZE, &things.written, 5, NULL),
               S3D_AGAIN);
    char *got = fake_memory(SIZE);
    things.get = open_get(fake, got);
    CHECK_CODE(s3d_reader_read(things.reader, 0, things.got, 2 * 1024 * 1024,
                               &things.reader_got, 1, NULL),
               S3D_AGAIN);
    CHECK_CODE(s3d_call_new(&things.call, fake_base(fake), NULL), S3D_OK);
    things.call->request.verb = S3D_VERB_STAT;
    things.call->request.key = "large";
    s3d_call_start(things.call);
    fake_wait_held(fake, 3 + 4 + 4 + 1);

    fork_and_use(&things, true);
    fork_and_use(&things, false);

    fake_release(fake);
    CHECK_CODE(s3d_put_write(things.put, things.data, SIZE, &things.written, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(things.put, -1, NULL), S3D_OK);
    size_t size;
    CHECK(memcmp(fake_object(fake, "object", &size), things.data, SIZE) == 0 && size == SIZE);
    CHECK_CODE(s3d_get_wait_all(things.get, -1, NULL), S3D_OK);
    CHECK(memcmp(got, things.data, SIZE) == 0);
    CHECK_CODE(s3d_reader_read(things.reader, 0, things.got, 2 * 1024 * 1024,
                               &things.reader_got, -1, NULL),
               S3D_OK);
    CHECK(memcmp(things.got, things.data, 2 * 1024 * 1024) == 0);
    CHECK_CODE(s3d_call_wait(things.call, -1, NULL), S3D_OK);
    CHECK(things.call->request.result.object.size_bytes == READER_SIZE);
    close_things(&things);
    free(got);
}

/* Another thread is inside s3d_put_write, and holds its lock, while this one forks. */
static void *write_all(void *argument)
{
    struct open_things *things = argument;
    enum s3d_code code;
    while ((code = s3d_put_write(things->put, things->data, SIZE, &things->written, 20,
                                 NULL)) == S3D_AGAIN) {
    }
    CHECK_CODE(code, S3D_OK);
    return NULL;
}

/* One that asks all the time takes the put's other lock. */
struct asker {
    struct s3d_put *put;
    atomic_bool stop;
};

static void *ask_for_stored(void *argument)
{
    struct asker *asker = argument;
    while (!atomic_load(&asker->stop)) {
        CHECK(s3d_put_stored_bytes(asker->put) <= SIZE);
    }
    return NULL;
}

static void test_fork_beside_a_writer(void)
{
    struct open_things things = open_things();
    struct fake_store *fake = things.fake;
    fake_rule(fake,
              (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART, .times = 100, .hold = true});
    things.put = open_put(fake);
    char *got = fake_memory(SIZE);
    things.get = open_get(fake, got);
    CHECK_CODE(s3d_get_wait_all(things.get, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_call_new(&things.call, fake_base(fake), NULL), S3D_OK);
    struct asker asker = {.put = things.put};
    pthread_t thread, asking;
    CHECK(pthread_create(&thread, NULL, write_all, &things) == 0);
    CHECK(pthread_create(&asking, NULL, ask_for_stored, &asker) == 0);
    fake_wait_held(fake, 3);
    for (int i = 0; i < 10; i++) {
        fork_and_use(&things, i == 0);
    }
    atomic_store(&asker.stop, true);
    pthread_join(asking, NULL);
    fake_release(fake);
    pthread_join(thread, NULL);
    CHECK_CODE(s3d_put_finish(things.put, -1, NULL), S3D_OK);
    close_things(&things);
    free(got);
}

/* A child may shut down (as an exiting interpreter does) without a word to the parent's store. */
static void test_exit_in_child(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(SIZE);
    struct s3d_put *put = open_put(fake);
    size_t written = 0;
    CHECK_CODE(s3d_put_write(put, data, SIZE, &written, -1, NULL), S3D_OK);
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        test_in_child();
        alarm(30);
        s3d_engine_shutdown();
        s3d_put_free(put);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

static enum s3d_code start_engine(void)
{
    s3d_engine_shutdown();
    s3d_engine_restart();
    struct fake_store *fake = NULL;
    struct s3d_error error = {0};
    enum s3d_code code = fake_try_open(&fake, &error);
    CHECK(code == error.code);
    if (!code) {
        fake_close(fake);
    }
    return code;
}

static void test_out_of_memory(void)
{
    setenv("AWS_REGION", "here", 1);
    CHECK(test_torture(start_engine, 0) >= 4);
    unsetenv("AWS_REGION");
}

int main(void)
{
    alarm(60);
    setvbuf(stdout, NULL, _IONBF, 0);
    fake_engine("");
    RUN(test_one_engine);
    RUN(test_too_many_drivers);
    RUN(test_driver_does_not_open);
    RUN(test_bad_setting);
    RUN(test_memory_limit);
    RUN(test_shutdown);
    RUN(test_shutdown_races);
    RUN(test_stuck_uploads);
    RUN(test_fork);
    RUN(test_fork_beside_a_writer);
    RUN(test_exit_in_child);
    RUN(test_out_of_memory);
    s3d_engine_shutdown();
    return 0;
}
