/* Settings: defaults, environment, overrides, and values that do not parse. */
#include "test.h"

#include "core/config.h"

#include <pthread.h>
#include <unistd.h>

static void clear_environment(void)
{
#define X(field, variable, fallback, minimum, maximum) unsetenv(variable);
    S3D_NUMBERS(X)
#undef X
#define X(field, variables)                                                                    \
    for (const char *name = variables; *name; name += strlen(name) + 1) {                      \
        unsetenv(name);                                                                        \
    }
    S3D_TEXTS(X)
#undef X
}

static struct s3d_config load(void)
{
    struct s3d_config config;
    CHECK_CODE(s3d_config_load(&config, NULL), S3D_OK);
    return config;
}

static void test_defaults(void)
{
    struct s3d_config config = load();
#define X(field, variable, fallback, minimum, maximum) CHECK(config.field == (fallback));
    S3D_NUMBERS(X)
#undef X
#define X(field, variables) CHECK(!config.field);
    S3D_TEXTS(X)
#undef X
    CHECK(config.put_part_bytes == 8388608 && config.get_threshold_bytes == 33554432);
    CHECK(config.put_inflight == 64 && config.get_inflight == 64 &&
          config.max_connections == 512);
    s3d_config_fini(&config);
    s3d_config_fini(&config);
}

/* Read anew each time. */
static void test_environment(void)
{
    setenv("S3DLIO_PUT_PART_SIZE", "16777216", 1);
    setenv("AWS_ENDPOINT_URL", "http://general", 1);
    setenv("AWS_REGION", "", 1); /* empty counts as not set */
    setenv("AWS_DEFAULT_REGION", "eu-west-1", 1);
    struct s3d_config config = load();
    CHECK(config.put_part_bytes == 16777216);
    CHECK_TEXT(config.endpoint, "http://general");
    CHECK_TEXT(config.region, "eu-west-1");
    s3d_config_fini(&config);
    setenv("AWS_ENDPOINT_URL_S3", "http://special", 1);
    setenv("AWS_REGION", "us-east-2", 1);
    unsetenv("S3DLIO_PUT_PART_SIZE");
    config = load();
    CHECK(config.put_part_bytes == 8388608);
    CHECK_TEXT(config.endpoint, "http://special");
    CHECK_TEXT(config.region, "us-east-2");
    s3d_config_fini(&config);
    clear_environment();
}

static void expect_wrong(const char *variable, const char *value)
{
    struct s3d_config config;
    struct s3d_error error;
    setenv(variable, value, 1);
    CHECK_CODE(s3d_config_load(&config, &error), S3D_INVALID);
    CHECK(strstr(error.message, variable) != NULL);
    CHECK(strstr(error.message, value) != NULL);
    unsetenv(variable);
}

/* Each number: its least and its greatest value pass, those beyond are errors that name it. */
static void test_bounds(void)
{
    static const struct {
        const char *variable;
        uint64_t minimum, maximum;
    } numbers[] = {
#define X(field, variable, fallback, minimum, maximum) {variable, minimum, maximum},
        S3D_NUMBERS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char text[32];
        struct s3d_config config;
        for (int end = 0; end <= 1; end++) {
            uint64_t value = end ? numbers[i].maximum : numbers[i].minimum;
            snprintf(text, sizeof text, "%llu", (unsigned long long)value);
            setenv(numbers[i].variable, text, 1);
            CHECK_CODE(s3d_config_load(&config, NULL), S3D_OK);
            s3d_config_fini(&config);
        }
        if (numbers[i].minimum) {
            snprintf(text, sizeof text, "%llu", (unsigned long long)(numbers[i].minimum - 1));
            expect_wrong(numbers[i].variable, text);
        }
        if (numbers[i].maximum < UINT64_MAX) {
            snprintf(text, sizeof text, "%llu", (unsigned long long)(numbers[i].maximum + 1));
            expect_wrong(numbers[i].variable, text);
        }
        expect_wrong(numbers[i].variable, "8MiB");
        expect_wrong(numbers[i].variable, "-1");
        expect_wrong(numbers[i].variable, " 1");
        unsetenv(numbers[i].variable);
    }
}

static void override(const char *field, const char *value)
{
    CHECK_CODE(s3d_config_override(field, value, NULL), S3D_OK);
}

static void test_overrides(void)
{
    setenv("AWS_REGION", "environment", 1);
    setenv("S3DLIO_RT_THREADS", "7", 1);
    override("region", "override");
    override("threads", "3");
    struct s3d_config config = load();
    CHECK_TEXT(config.region, "override");
    CHECK(config.threads == 3);
    s3d_config_fini(&config);
    override("region", "other");
    override("threads", NULL);
    config = load();
    CHECK_TEXT(config.region, "other");
    CHECK(config.threads == 7);
    s3d_config_fini(&config);
    override("region", NULL);
    config = load();
    CHECK_TEXT(config.region, "environment");
    s3d_config_fini(&config);
    clear_environment();
}

/* What nobody has set may be chosen better for a far store: so it matters whether somebody has. */
static void test_given(void)
{
    const uint64_t put = UINT64_C(1) << S3D_NUMBER_put_part_bytes;
    const uint64_t get = UINT64_C(1) << S3D_NUMBER_get_part_bytes;
    struct s3d_config config;
    CHECK_CODE(s3d_config_load(&config, NULL), S3D_OK);
    CHECK(!(config.given & (put | get)));
    s3d_config_fini(&config);
    setenv("S3DLIO_PUT_PART_SIZE", "8388608", 1); /* the default, but set */
    override("get_part_bytes", "8388608");
    CHECK_CODE(s3d_config_load(&config, NULL), S3D_OK);
    CHECK((config.given & (put | get)) == (put | get));
    s3d_config_fini(&config);
    unsetenv("S3DLIO_PUT_PART_SIZE");
    override("get_part_bytes", NULL);
    CHECK_CODE(s3d_config_load(&config, NULL), S3D_OK);
    CHECK(!(config.given & (put | get)));
    s3d_config_fini(&config);
}

static void test_wrong_overrides(void)
{
    struct s3d_error error;
    CHECK_CODE(s3d_config_override("colour", "blue", &error), S3D_INVALID);
    CHECK(strstr(error.message, "colour") != NULL);
    CHECK_CODE(s3d_config_override("threads", "many", &error), S3D_INVALID);
    CHECK(strstr(error.message, "threads") && strstr(error.message, "many"));
    CHECK_CODE(s3d_config_override("put_inflight", "0", &error), S3D_INVALID);
    struct s3d_config config = load();
    CHECK(config.threads == 0 && config.put_inflight == 64); /* nothing of it has stuck */
    s3d_config_fini(&config);
}

/* Keys belong together: one that is set by configure() hides the environment's other two. */
static void test_credentials(void)
{
    setenv("AWS_ACCESS_KEY_ID", "EA", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "ES", 1);
    setenv("AWS_SESSION_TOKEN", "ET", 1);
    struct s3d_config config = load();
    CHECK_TEXT(config.access_key, "EA");
    CHECK_TEXT(config.secret_key, "ES");
    CHECK_TEXT(config.session_token, "ET");
    s3d_config_fini(&config);
    override("access_key", "OA");
    override("secret_key", "OS");
    config = load();
    CHECK_TEXT(config.access_key, "OA");
    CHECK_TEXT(config.secret_key, "OS");
    CHECK(!config.session_token);
    s3d_config_fini(&config);
    override("access_key", NULL);
    override("secret_key", NULL);
    config = load();
    CHECK_TEXT(config.session_token, "ET");
    s3d_config_fini(&config);
    clear_environment();
}

static void *override_and_load(void *argument)
{
    const char *region = argument;
    for (int i = 0; i < 300; i++) {
        override("region", region);
        struct s3d_config config = load();
        CHECK(strlen(config.region) == 4);
        s3d_config_fini(&config);
    }
    return NULL;
}

static void test_threads(void)
{
    static char regions[4][5] = {"aaaa", "bbbb", "cccc", "dddd"};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, override_and_load, regions[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    override("region", NULL);
}

static enum s3d_code override_once(void)
{
    struct s3d_config config;
    struct s3d_error error = {0};
    enum s3d_code code = s3d_config_override("profile", "two", &error);
    if (!code) {
        code = s3d_config_load(&config, &error);
    }
    CHECK(code == error.code);
    if (!code) {
        CHECK_TEXT(config.profile, "two");
        CHECK_TEXT(config.endpoint, "http://host");
        s3d_config_fini(&config);
    }
    return code;
}

static void test_out_of_memory(void)
{
    setenv("AWS_ENDPOINT_URL", "http://host", 1);
    override("profile", "one");
    CHECK(test_torture(override_once, 0) == 5);
    override("profile", NULL);
    clear_environment();
}

int main(void)
{
    alarm(60);
    clear_environment();
    RUN(test_defaults);
    RUN(test_environment);
    RUN(test_bounds);
    RUN(test_overrides);
    RUN(test_given);
    RUN(test_wrong_overrides);
    RUN(test_credentials);
    RUN(test_threads);
    RUN(test_out_of_memory);
    return 0;
}
