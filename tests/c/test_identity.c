/* Sources and identities: plans, programs that hang, sharing, threads, forks and failing memory. What
 * goes over the network is tests/np/test_credentials.py's. */
#include "backends/identity.h"
#include "backends/open.h"
#include "backends/source.h"
#include "core/latch.h"
#include "test.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* The thread sanitizer would not let a forked child start threads; that is what is tested here. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "die_after_fork=0";
}

static char home[64], config_path[96], runs_path[96], off[] = "true", none[] = "/dev/null";
static struct s3d_config config;

static void write_config(const char *text)
{
    FILE *file = fopen(config_path, "w");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* A program that notes each run, and prints keys that end in `lifetime_s` (0: never). */
static void use_program(const char *before, int lifetime_s)
{
    char text[1024], expiry[64] = "";
    if (lifetime_s) {
        time_t at = time(NULL) + lifetime_s;
        struct tm utc;
        gmtime_r(&at, &utc);
        strftime(expiry, sizeof expiry, ", \\\"Expiration\\\": \\\"%Y-%m-%dT%H:%M:%SZ\\\"",
                 &utc);
    }
    snprintf(text, sizeof text,
             "[default]\ncredential_process = /bin/sh -c \"echo run >> %s; %s "
             "echo '{\\\"Version\\\": 1, \\\"AccessKeyId\\\": \\\"PK\\\", "
             "\\\"SecretAccessKey\\\": \\\"PS\\\"%s}'\"\n",
             runs_path, before, expiry);
    write_config(text);
    unlink(runs_path);
}

static size_t runs(void)
{
    struct stat status;
    return stat(runs_path, &status) == 0 ? (size_t)status.st_size / 4 : 0;
}

static struct s3d_identity *open_identity(void)
{
    struct s3d_identity *identity = NULL;
    struct s3d_error error = {.code = S3D_OK};
    enum s3d_code code = s3d_identity_open(&identity, &config, &error);
    if (code) {
        fprintf(stderr, "%s\n", error.message);
    }
    CHECK_CODE(code, S3D_OK);
    return identity;
}

static enum s3d_code wait_ready(struct s3d_identity *identity, struct s3d_error *error)
{
    const struct timespec slice = {.tv_nsec = 2000000};
    uint64_t ticket = 0;
    enum s3d_code code;
    while ((code = s3d_identity_ready(identity, &ticket, error)) == S3D_AGAIN) {
        nanosleep(&slice, NULL);
    }
    return code;
}

static void check_key(struct s3d_identity *identity, const char *access_key)
{
    struct s3d_keys *keys = s3d_identity_keys(identity);
    CHECK(keys && keys->serial);
    CHECK_TEXT(keys->credentials.access_key, access_key);
    s3d_keys_release(keys);
}

/* --- plans --- */

static void test_fixed_keys(void)
{
    write_config("[default]\naws_access_key_id = K\naws_secret_access_key = S\n");
    struct s3d_identity *one = open_identity(), *two = open_identity();
    uint64_t ticket = 0;
    CHECK(one != two);
    CHECK_CODE(s3d_identity_ready(one, &ticket, NULL), S3D_OK);
    check_key(one, "K");
    CHECK(!s3d_identity_reject(one, 1)); /* there are no others to be had */
    s3d_identity_release(one);
    s3d_identity_release(two);
    s3d_identity_release(NULL);
}

static void test_equal_sources(void)
{
    struct s3d_source *a, *b;
    use_program("true;", 0);
    CHECK_CODE(s3d_source_plan(&a, &config, NULL), S3D_OK);
    CHECK_CODE(s3d_source_plan(&b, &config, NULL), S3D_OK);
    CHECK(a->kind == S3D_SOURCE_PROCESS && s3d_source_equal(a, b));
    s3d_source_free(b);
    use_program("false;", 0);
    CHECK_CODE(s3d_source_plan(&b, &config, NULL), S3D_OK);
    CHECK(!s3d_source_equal(a, b));
    s3d_source_free(b);
    s3d_source_free(a);
    s3d_source_free(NULL);
}

/* --- programs --- */

static void test_a_program_is_asked_once(void)
{
    use_program("", 0);
    struct s3d_identity *one = open_identity(), *two = open_identity();
    CHECK(one == two);
    CHECK(s3d_identity_keys(one) == NULL);
    CHECK_CODE(wait_ready(one, NULL), S3D_OK);
    CHECK_CODE(wait_ready(two, NULL), S3D_OK);
    check_key(one, "PK");
    CHECK(runs() == 1);
    s3d_identity_release(one);
    s3d_identity_release(two);
    one = open_identity();
    CHECK_CODE(wait_ready(one, NULL), S3D_OK);
    CHECK(runs() == 1); /* kept without a user */
    s3d_identity_release(one);
    s3d_identities_forget();
    one = open_identity();
    CHECK_CODE(wait_ready(one, NULL), S3D_OK);
    CHECK(runs() == 2);
    s3d_identity_release(one);
}

static void test_rejected_keys_are_replaced(void)
{
    use_program("true 2;", 0);
    struct s3d_identity *identity = open_identity();
    CHECK_CODE(wait_ready(identity, NULL), S3D_OK);
    struct s3d_keys *old = s3d_identity_keys(identity);
    CHECK(s3d_identity_reject(identity, old->serial));
    CHECK_CODE(wait_ready(identity, NULL), S3D_OK);
    CHECK(runs() == 2);
    CHECK_TEXT(old->credentials.access_key, "PK"); /* still whole for who signs with it */
    CHECK(
        s3d_identity_reject(identity, old->serial)); /* those are gone already: nothing to do */
    CHECK_CODE(wait_ready(identity, NULL), S3D_OK);
    CHECK(runs() == 2);
    s3d_keys_release(old);
    s3d_identity_release(identity);
}

static void test_renewal_times(void)
{
    use_program("true 3;", 3600);
    struct s3d_identity *identity = open_identity();
    CHECK_CODE(wait_ready(identity, NULL), S3D_OK);
    struct s3d_keys *keys = s3d_identity_keys(identity);
    int64_t early = keys->credentials.expires_s - keys->renew_at_s;
    CHECK(early >= 240 && early <= 300);
    s3d_keys_release(keys);
    s3d_identity_release(identity);
    use_program("true 4;", 100);
    identity = open_identity();
    CHECK_CODE(wait_ready(identity, NULL), S3D_OK);
    keys = s3d_identity_keys(identity);
    early = keys->credentials.expires_s - keys->renew_at_s;
    CHECK(early >= 35 && early <= 50); /* half of what they have */
    s3d_keys_release(keys);
    s3d_identity_release(identity);
}

static void test_failures_are_not_kept(void)
{
    struct s3d_error error = {.code = S3D_OK};
    use_program("exit 7;", 0);
    struct s3d_identity *identity = open_identity();
    for (size_t i = 1; i <= 3; i++) {
        CHECK_CODE(wait_ready(identity, &error), S3D_NO_CREDENTIALS);
        CHECK(strstr(error.message, "status 7") != NULL);
        CHECK(runs() == i);
    }
    s3d_identity_release(identity);
}

static atomic_bool stop_it;

static void *stop_soon(void *unused)
{
    const struct timespec slice = {.tv_nsec = 5000000};
    while (!runs()) {
        nanosleep(&slice, NULL);
    }
    atomic_store(&stop_it, true);
    return unused;
}

/* The program, and what it started itself, are gone when the fetch is. */
static void test_a_program_that_hangs(void)
{
    static const char *const scripts[] = {
        "sleep 600 & sleep 600;", /* with its output open */
        "exec >&-; sleep 600;",   /* closed it, but stays */
    };
    for (size_t i = 0; i < COUNT(scripts); i++) {
        struct s3d_source *source;
        struct s3d_credentials credentials;
        struct s3d_error error;
        pthread_t thread;
        use_program(scripts[i], 0);
        CHECK_CODE(s3d_source_plan(&source, &config, NULL), S3D_OK);
        atomic_store(&stop_it, false);
        CHECK(pthread_create(&thread, NULL, stop_soon, NULL) == 0);
        CHECK_CODE(s3d_source_fetch(source, &stop_it, &credentials, &error), S3D_CANCELLED);
        pthread_join(thread, NULL);
        CHECK(!credentials.access_key);
        CHECK(waitpid(-1, NULL, WNOHANG) == -1); /* no child is left */

        source->timeout_ms = 200;
        atomic_store(&stop_it, false);
        CHECK_CODE(s3d_source_fetch(source, &stop_it, &credentials, &error),
                   S3D_NO_CREDENTIALS);
        CHECK(strstr(error.message, "took longer") != NULL);
        CHECK(waitpid(-1, NULL, WNOHANG) == -1);
        s3d_source_free(source);
    }
}

/* --- threads and forks --- */

static void *use_identity(void *unused)
{
    for (int i = 0; i < 50; i++) {
        struct s3d_identity *identity = open_identity();
        CHECK_CODE(wait_ready(identity, NULL), S3D_OK);
        struct s3d_keys *keys = s3d_identity_keys(identity);
        s3d_identity_reject(identity, keys->serial);
        s3d_keys_release(keys);
        s3d_identity_release(identity);
    }
    return unused;
}

static void test_threads(void)
{
    pthread_t threads[4];
    use_program("true 5;", 0);
    for (size_t i = 0; i < COUNT(threads); i++) {
        CHECK(pthread_create(&threads[i], NULL, use_identity, NULL) == 0);
    }
    for (size_t i = 0; i < COUNT(threads); i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(runs() >= 2 && runs() <= 201);
}

static void in_child(struct s3d_identity *identity)
{
    CHECK_CODE(wait_ready(identity, NULL), S3D_OK);
    check_key(identity, "PK");
    s3d_identity_release(identity);
    _exit(0);
}

static void wait_for_child(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_fork_while_fetching(void)
{
    use_program("sleep 0.3;", 0);
    struct s3d_identity *identity = open_identity();
    uint64_t ticket = 0;
    CHECK_CODE(s3d_identity_ready(identity, &ticket, NULL), S3D_AGAIN);
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        test_in_child();
        in_child(identity);
    }
    CHECK_CODE(wait_ready(identity, NULL), S3D_OK);
    wait_for_child(child);
    CHECK(runs() == 2);
    s3d_identity_release(identity);
}

/* --- the callback's box --- */

static void *serve(void *number)
{
    struct s3d_error error;
    enum s3d_code code;
    while ((code = s3d_callback_wait(*(uint64_t *)number, 1000, &error)) != S3D_CLOSED) {
        if (code == S3D_OK) {
            CHECK_CODE(s3d_callback_answer(*(uint64_t *)number, "CK", "", NULL, 0, NULL),
                       S3D_PROTOCOL); /* no answer yet */
            CHECK_CODE(s3d_callback_answer(*(uint64_t *)number, "CK", "CS", NULL, 0, NULL),
                       S3D_OK);
        }
    }
    return NULL;
}

static void test_callback(void)
{
    uint64_t number;
    pthread_t thread;
    write_config("");
    CHECK_CODE(s3d_callback_open(&number, NULL), S3D_OK);
    CHECK(pthread_create(&thread, NULL, serve, &number) == 0);
    struct s3d_identity *identity = open_identity();
    CHECK_CODE(wait_ready(identity, NULL), S3D_OK);
    check_key(identity, "CK");
    s3d_callback_remove();
    struct s3d_keys *keys = s3d_identity_keys(identity);
    s3d_identity_reject(identity, keys->serial);
    s3d_keys_release(keys);
    CHECK_CODE(wait_ready(identity, NULL), S3D_OK); /* who has it goes on with it */
    s3d_identity_release(identity);
    pthread_join(thread, NULL); /* the last has gone */
    CHECK_CODE(s3d_callback_wait(number, 0, NULL), S3D_CLOSED);
}

/* --- failing memory --- */

static enum s3d_code attempt_plan(void)
{
    struct s3d_source *source;
    struct s3d_error error = {.code = S3D_OK};
    enum s3d_code code = s3d_source_plan(&source, &config, &error);
    CHECK(code == error.code && !code == !!source);
    s3d_source_free(source);
    return code;
}

static enum s3d_code attempt_fetch(void)
{
    struct s3d_source *source;
    struct s3d_credentials credentials = {.anonymous = false};
    atomic_store(&stop_it, false);
    enum s3d_code code = s3d_source_plan(&source, &config, NULL);
    if (!code) {
        code = s3d_source_fetch(source, &stop_it, &credentials, NULL);
        s3d_source_free(source);
    }
    CHECK(!code == !!credentials.access_key);
    s3d_credentials_fini(&credentials);
    return code;
}

static void test_out_of_memory(void)
{
    write_config("[profile base]\naws_access_key_id = K\naws_secret_access_key = S\n"
                 "[default]\nrole_arn = arn:r\nsource_profile = base\nexternal_id = e\n"
                 "region = r\nendpoint_url = http://127.0.0.1:1\n");
    CHECK(test_torture(attempt_plan, 0) >= 10);
    write_config("[default]\nsso_session = s\nsso_account_id = 1\nsso_role_name = r\n"
                 "[sso-session s]\nsso_region = r\n");
    CHECK(test_torture(attempt_plan, 0) >= 8);
    use_program("", 0);
    CHECK(test_torture(attempt_fetch, 0) >= 12);
}

static void test_stopped(void)
{
    struct s3d_error error = {.code = S3D_OK};
    use_program("sleep 600;", 0);
    struct s3d_identity *identity = open_identity();
    uint64_t ticket = 0;
    CHECK_CODE(s3d_identity_ready(identity, &ticket, &error), S3D_AGAIN);
    s3d_identities_stop();
    CHECK_CODE(s3d_identity_ready(identity, &ticket, &error), S3D_CANCELLED);
    CHECK_CODE(s3d_identity_ready(identity, &ticket, &error), S3D_CLOSED);
    s3d_identities_restart();
    use_program("true 6;", 0);
    s3d_identity_release(identity);
    identity = open_identity();
    CHECK_CODE(wait_ready(identity, &error), S3D_OK);
    s3d_identity_release(identity);
    s3d_identities_stop();
    s3d_identities_forget();
}

int main(void)
{
    alarm(120);
    snprintf(home, sizeof home, "/tmp/s3d-test-XXXXXX");
    CHECK(mkdtemp(home) && setenv("HOME", home, 1) == 0);
    snprintf(config_path, sizeof config_path, "%s/config", home);
    snprintf(runs_path, sizeof runs_path, "%s/runs", home);
    config = (struct s3d_config){
        .config_file = config_path, .credentials_file = none, .metadata_disabled = off};
    RUN(test_fixed_keys);
    RUN(test_equal_sources);
    RUN(test_a_program_is_asked_once);
    RUN(test_rejected_keys_are_replaced);
    RUN(test_renewal_times);
    RUN(test_failures_are_not_kept);
    RUN(test_a_program_that_hangs);
    RUN(test_threads);
    RUN(test_fork_while_fetching);
    RUN(test_callback);
    RUN(test_out_of_memory);
    RUN(test_stopped);
    unlink(config_path);
    unlink(runs_path);
    CHECK(rmdir(home) == 0);
    return 0;
}
