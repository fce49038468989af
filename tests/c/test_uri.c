/* URIs. */
#include "test.h"

#include "core/uri.h"

#include <unistd.h>

static enum s3d_code parse(struct s3d_uri *uri, const char *text, struct s3d_error *error)
{
    return s3d_uri_parse(uri, text, strlen(text), error);
}

static void test_good(void)
{
    static const struct {
        const char *text;
        enum s3d_scheme scheme;
        const char *container, *key;
    } cases[] = {
        {"s3://bucket/key", S3D_SCHEME_S3, "bucket", "key"},
        {"S3://bucket/key", S3D_SCHEME_S3, "bucket", "key"},
        {"s3://a.b-c_D9/deep/er//key/", S3D_SCHEME_S3, "a.b-c_D9", "deep/er//key/"},
        {"s3://bucket//key", S3D_SCHEME_S3, "bucket", "/key"},
        {"s3://bucket/a%20b?c#d", S3D_SCHEME_S3, "bucket", "a%20b?c#d"},
        {"s3://bucket/\xC3\xA9 \x01", S3D_SCHEME_S3, "bucket", "\xC3\xA9 \x01"},
        {"s3://bucket/a://b", S3D_SCHEME_S3, "bucket", "a://b"},
        {"s3://bucket/", S3D_SCHEME_S3, "bucket", ""},
        {"s3://bucket", S3D_SCHEME_S3, "bucket", ""},
        {"s3://abc/x", S3D_SCHEME_S3, "abc", "x"},
        {"file:///a/b", S3D_SCHEME_FILE, NULL, "/a/b"},
        {"FILE:///a", S3D_SCHEME_FILE, NULL, "/a"},
        {"file://localhost/a/b", S3D_SCHEME_FILE, NULL, "/a/b"},
        {"file:///a%20b%25%C3%a9", S3D_SCHEME_FILE, NULL, "/a b%\xC3\xA9"},
        {"file:///", S3D_SCHEME_FILE, NULL, "/"},
        {"/a/b", S3D_SCHEME_FILE, NULL, "/a/b"},
        {"a", S3D_SCHEME_FILE, NULL, "a"},
        {"a%20b", S3D_SCHEME_FILE, NULL, "a%20b"},
        {"s3:/bucket/key", S3D_SCHEME_FILE, NULL, "s3:/bucket/key"},
        {"C:\\x", S3D_SCHEME_FILE, NULL, "C:\\x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct s3d_uri uri;
        CHECK_CODE(parse(&uri, cases[i].text, NULL), S3D_OK);
        CHECK(uri.scheme == cases[i].scheme);
        CHECK(!uri.container == !cases[i].container);
        if (uri.container) {
            CHECK_TEXT(uri.container, cases[i].container);
        }
        CHECK_TEXT(uri.key, cases[i].key);
        bool has_key = cases[i].key[0];
        CHECK_CODE(s3d_uri_require_key(&uri, NULL), has_key ? S3D_OK : S3D_INVALID);
        s3d_uri_fini(&uri);
        s3d_uri_fini(&uri); /* again does no harm */
    }
}

static void test_bad(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "empty"},
        {"s3://", "bucket is empty"},
        {"s3:///key", "bucket is empty"},
        {"s3://ab/key", "bucket name"},
        {"s3://-abc/key", "bucket name"},
        {"s3://.abc/key", "bucket name"},
        {"s3://a b c/key", "bucket name"},
        {"s3://user@host/key", "bucket name"},
        {"s3://host:80/key", "bucket name"},
        {"s3://b\xC3\xBC"
         "cket/key",
         "bucket name"},
        {"gs://bucket/key", "\"gs\""},
        {"http://host/key", "\"http\""},
        {"://x", "unknown scheme"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa://x", "unknown scheme"},
        {"file://host/path", "three slashes"},
        {"file://", "three slashes"},
        {"file://localhost", "three slashes"},
        {"file:///a%", "hex digits"},
        {"file:///a%2", "hex digits"},
        {"file:///a%zz", "hex digits"},
        {"file:///a%2zz", "hex digits"},
        {"file:///a%00b", "hex digits"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct s3d_uri uri;
        struct s3d_error error = {0};
        CHECK_CODE(parse(&uri, cases[i].text, &error), S3D_INVALID);
        CHECK(error.code == S3D_INVALID);
        if (!strstr(error.message, cases[i].says)) {
            fprintf(stderr, "%s: %s\n", cases[i].text, error.message);
        }
        CHECK(strstr(error.message, cases[i].says) != NULL);
        CHECK(!uri.key && !uri.container);
    }
}

static void test_nul_bytes(void)
{
    struct s3d_uri uri;
    CHECK_CODE(s3d_uri_parse(&uri, "s3://bucket/a\0b", 15, NULL), S3D_INVALID);
    CHECK_CODE(s3d_uri_parse(&uri, "/a\0", 3, NULL), S3D_INVALID);
    CHECK_CODE(s3d_uri_parse(&uri, "/ab", 2, NULL),
               S3D_OK); /* length tells, not a terminator */
    CHECK_TEXT(uri.key, "/a");
    s3d_uri_fini(&uri);
}

/* Texts that end where their memory ends: nothing is read behind them. */
static void test_unterminated(void)
{
    static const char *const texts[] = {
        "s3://bucket", "file://localhost/", "file:///a%41", "file:///a%4", "s3:",
        "a:/",         "file://localhost"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        size_t length = strlen(texts[i]);
        for (size_t n = 0; n <= length; n++) {
            char *text = malloc(n ? n : 1);
            CHECK(text != NULL);
            memcpy(text, texts[i], n);
            struct s3d_uri uri;
            enum s3d_code code = s3d_uri_parse(&uri, text, n, NULL);
            CHECK(code == S3D_OK || code == S3D_INVALID);
            s3d_uri_fini(&uri);
            free(text);
        }
    }
}

static void test_long(void)
{
    char text[1100] = "s3://bucket/";
    struct s3d_uri uri;
    memset(text + 12, 'k', 1025);
    CHECK_CODE(s3d_uri_parse(&uri, text, 12 + 1025, NULL), S3D_INVALID);
    CHECK_CODE(s3d_uri_parse(&uri, text, 12 + 1024, NULL), S3D_OK);
    CHECK(strlen(uri.key) == 1024);
    s3d_uri_fini(&uri);
    memset(text + 5, 'b', 64);
    CHECK_CODE(s3d_uri_parse(&uri, text, 5 + 64, NULL), S3D_INVALID);
    CHECK_CODE(s3d_uri_parse(&uri, text, 5 + 63, NULL), S3D_OK);
    s3d_uri_fini(&uri);
}

static enum s3d_code parse_both(void)
{
    struct s3d_uri uri;
    struct s3d_error error = {0};
    enum s3d_code code = parse(&uri, "s3://bucket/key", &error);
    s3d_uri_fini(&uri);
    if (!code) {
        code = parse(&uri, "file:///a%20b", &error);
        s3d_uri_fini(&uri);
    }
    if (!code) {
        code = parse(&uri, "path", &error);
        s3d_uri_fini(&uri);
    }
    CHECK(code == error.code);
    return code;
}

static void test_out_of_memory(void)
{
    CHECK(test_torture(parse_both, 0) == 4);
}

int main(void)
{
    alarm(60);
    RUN(test_good);
    RUN(test_bad);
    RUN(test_nul_bytes);
    RUN(test_unterminated);
    RUN(test_long);
    RUN(test_out_of_memory);
    return 0;
}
