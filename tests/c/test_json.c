/* The JSON scanner where the safetensors tests do not reach it (skipping), and ISO 8601 dates. */
#include "formats/iso8601.h"
#include "formats/json.h"
#include "test.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static enum s3d_code skip(const char *document, struct s3d_error *error)
{
    size_t length = strlen(document);
    char *texts = malloc(length + 1), *exact = malloc(length ? length : 1);
    struct s3d_json json;
    memcpy(exact, document, length); /* no NUL behind it: reading on would be seen */
    s3d_json_init(&json, exact, length, texts, "it", error);
    enum s3d_code code = s3d_json_skip(&json);
    if (!code) {
        code = s3d_json_end(&json, "more");
    }
    CHECK(json.texts_used <= length);
    free(texts);
    free(exact);
    return code;
}

static void test_values(void)
{
    static const char *const good[] = {"0",
                                       "-0",
                                       "1.5",
                                       "-12.25e+10",
                                       "3E-2",
                                       "true",
                                       " false\n",
                                       "null",
                                       "\"a\\u00e4\\n\"",
                                       "[]",
                                       "[ ]",
                                       "{}",
                                       "[1, [2, {\"a\": [null]}], \"b\"]",
                                       "{\"a\":1,\"a\":2}\t"};
    for (size_t i = 0; i < COUNT(good); i++) {
        CHECK_CODE(skip(good[i], NULL), S3D_OK);
    }
}

static void test_broken_values(void)
{
    static const char *const bad[] = {
        "",           " ",           "01",       "1.",       ".5",     "1e",      "1e+",
        "-",          "+1",          "tru",      "nul",      "True",   "\"",      "\"\\q\"",
        "\"\\u12\"",  "\"\\ud800\"", "\"\x80\"", "\"\x01\"", "[",      "[1",      "[1,",
        "[1,]",       "[,]",         "[1 2]",    "{",        "{\"a\"", "{\"a\":", "{\"a\":1",
        "{\"a\":1,}", "{a:1}",       "{1:1}",    "1 1",      "[]]",    "NaN",     "'a'"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct s3d_error error = {.code = S3D_OK};
        if (skip(bad[i], &error) != S3D_INVALID) {
            fprintf(stderr, "taken: %s\n", bad[i]);
            exit(1);
        }
        CHECK(strncmp(error.message, "it is broken at byte ", 21) == 0);
    }
}

static void test_depth(void)
{
    char text[256];
    for (size_t depth = 1; depth < 100; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        text[2 * depth] = '\0';
        CHECK_CODE(skip(text, NULL), depth <= 32 ? S3D_OK : S3D_INVALID);
    }
}

static void test_dates(void)
{
    int64_t seconds = 0;
    CHECK(s3d_iso8601_parse("2026-07-01T12:00:00Z", &seconds) && seconds == 1782907200);
    CHECK(!s3d_iso8601_parse("2026-07-01T12:00:00+00:00", &seconds));
    CHECK(s3d_iso8601_parse_offset("2026-07-01T12:00:00.5+00:00", &seconds));
    CHECK(seconds == 1782907200);
    CHECK(s3d_iso8601_parse_offset("2026-07-01T13:30:00+01:30", &seconds));
    CHECK(seconds == 1782907200);
    CHECK(s3d_iso8601_parse_offset("2026-07-01T04:00:00-08:00", &seconds));
    CHECK(seconds == 1782907200);
    static const char *const bad[] = {"",
                                      "2026-07-01",
                                      "2026-07-01T12:00:00",
                                      "2026-07-01T12:00:00z",
                                      "2026-07-01T12:00:00+1:00",
                                      "2026-07-01T12:00:00+0100",
                                      "2026-07-01T12:00:00+24:00",
                                      "2026-07-01T12:00:00+01:60",
                                      "2026-07-01T12:00:00+01:00Z",
                                      "2026-07-01T12:00:00-",
                                      "2026-07-01T12:00:00+",
                                      "2026-02-30T12:00:00+00:00"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        CHECK(!s3d_iso8601_parse_offset(bad[i], &seconds));
    }
}

int main(void)
{
    RUN(test_values);
    RUN(test_broken_values);
    RUN(test_depth);
    RUN(test_dates);
    return 0;
}
