/* SigV4 against the published S3 examples, SHA-256 against FIPS 180-2's, and both when memory
 * or OpenSSL fails. */
#include "backends/auth.h"
#include "test.h"

#include <openssl/provider.h>
#include <sys/wait.h>
#include <unistd.h>

#define EMPTY_HASH   "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { AUTHORIZATION_MAX = 4096 };

/* The account, day and region of the examples in the S3 API reference, "Authenticating
 * Requests: Using the Authorization Header". */
static struct s3d_sigv4 example(const char *method, const char *path, const char *query,
                                const struct s3d_header *headers, size_t count,
                                const char *payload)
{
    return (struct s3d_sigv4){.access_key = "AKIAIOSFODNN7EXAMPLE",
                              .secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                              .region = "us-east-1",
                              .service = "s3",
                              .method = method,
                              .path = path,
                              .query = query,
                              .headers = headers,
                              .header_count = count,
                              .payload = payload,
                              .date = "20130524T000000Z"};
}

static void check_authorization(const struct s3d_sigv4 *request, const char *signed_headers,
                                const char *signature)
{
    char expected[1024];
    snprintf(expected, sizeof expected,
             "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/"
             "aws4_request, SignedHeaders=%s, Signature=%s",
             signed_headers, signature);
    struct s3d_str actual = S3D_STR(AUTHORIZATION_MAX);
    struct s3d_error error;
    CHECK_CODE(s3d_sigv4_authorize(request, &actual, &error), S3D_OK);
    CHECK_TEXT(s3d_str_text(&actual), expected);
    s3d_str_fini(&actual);
}

static const struct s3d_header range_headers[] = {
    {"host", "examplebucket.s3.amazonaws.com"},
    {"range", "bytes=0-9"},
    {"x-amz-content-sha256", EMPTY_HASH},
    {"x-amz-date", "20130524T000000Z"},
};

#define RANGE_SIGNATURE "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"

static void test_get_with_range(void)
{
    struct s3d_sigv4 request =
        example("GET", "/test.txt", "", range_headers, COUNT(range_headers), EMPTY_HASH);
    check_authorization(&request, "host;range;x-amz-content-sha256;x-amz-date",
                        RANGE_SIGNATURE);
}

static void test_put(void)
{
    static const char hash[] =
        "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    char body[] = "Welcome to Amazon S3.";
    struct s3d_span span = {body, sizeof body - 1};
    char hex[S3D_SHA256_HEX];
    CHECK_CODE(s3d_sha256_hex(hex, &span, 1, NULL), S3D_OK);
    CHECK_TEXT(hex, hash);
    const struct s3d_header headers[] = {
        {"date", "Fri, 24 May 2013 00:00:00 GMT"},
        {"host", "examplebucket.s3.amazonaws.com"},
        {"x-amz-content-sha256", hash},
        {"x-amz-date", "20130524T000000Z"},
        {"x-amz-storage-class", "REDUCED_REDUNDANCY"},
    };
    struct s3d_sigv4 request =
        example("PUT", "/test%24file.text", "", headers, COUNT(headers), hex);
    check_authorization(&request,
                        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

static const struct s3d_header bucket_headers[] = {
    {"host", "examplebucket.s3.amazonaws.com"},
    {"x-amz-content-sha256", EMPTY_HASH},
    {"x-amz-date", "20130524T000000Z"},
};

static void test_bucket_lifecycle(void)
{
    struct s3d_sigv4 request =
        example("GET", "/", "lifecycle=", bucket_headers, COUNT(bucket_headers), EMPTY_HASH);
    check_authorization(&request, "host;x-amz-content-sha256;x-amz-date",
                        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
}

static void test_list_objects(void)
{
    struct s3d_sigv4 request = example("GET", "/", "max-keys=2&prefix=J", bucket_headers,
                                       COUNT(bucket_headers), EMPTY_HASH);
    check_authorization(&request, "host;x-amz-content-sha256;x-amz-date",
                        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

/* Blanks around and inside a value do not change what is signed. */
static void test_header_values_are_trimmed(void)
{
    struct s3d_header headers[COUNT(range_headers)];
    memcpy(headers, range_headers, sizeof headers);
    headers[1].value = " \t bytes=0-9 ";
    struct s3d_sigv4 request =
        example("GET", "/test.txt", "", headers, COUNT(headers), EMPTY_HASH);
    check_authorization(&request, "host;range;x-amz-content-sha256;x-amz-date",
                        RANGE_SIGNATURE);
}

static void authorize_range_value(const char *value, struct s3d_str *authorization)
{
    struct s3d_header headers[COUNT(range_headers)];
    memcpy(headers, range_headers, sizeof headers);
    headers[1].value = value;
    struct s3d_sigv4 request =
        example("GET", "/test.txt", "", headers, COUNT(headers), EMPTY_HASH);
    CHECK_CODE(s3d_sigv4_authorize(&request, authorization, NULL), S3D_OK);
}

static void test_inner_blanks_count_as_one(void)
{
    struct s3d_str one = S3D_STR(AUTHORIZATION_MAX), many = S3D_STR(AUTHORIZATION_MAX),
                   none = S3D_STR(AUTHORIZATION_MAX);
    authorize_range_value("a b c", &one);
    authorize_range_value("a   b \t c", &many);
    authorize_range_value("abc", &none);
    CHECK_TEXT(s3d_str_text(&many), s3d_str_text(&one));
    CHECK(strcmp(s3d_str_text(&one), s3d_str_text(&none)) != 0);
    s3d_str_fini(&one);
    s3d_str_fini(&many);
    s3d_str_fini(&none);
}

static void check_hash(const struct s3d_span *spans, size_t count, const char *expected)
{
    char hex[S3D_SHA256_HEX];
    CHECK_CODE(s3d_sha256_hex(hex, spans, count, NULL), S3D_OK);
    CHECK_TEXT(hex, expected);
}

static void test_sha256_over_spans(void)
{
    check_hash(NULL, 0, EMPTY_HASH);
    char nothing[1] = "", a[] = "a", bc[] = "bc";
    struct s3d_span empty[] = {{nothing, 0}, {NULL, 0}};
    check_hash(empty, COUNT(empty), EMPTY_HASH);
    struct s3d_span abc[] = {{a, 1}, {nothing, 0}, {bc, 2}};
    check_hash(abc, COUNT(abc),
               "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");

    static char part[125];
    static struct s3d_span million[8000];
    memset(part, 'a', sizeof part);
    for (size_t i = 0; i < COUNT(million); i++) {
        million[i] = (struct s3d_span){part, sizeof part};
    }
    check_hash(million, COUNT(million),
               "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void test_amz_date(void)
{
    char date[S3D_AMZ_DATE];
    s3d_amz_date(date, 0);
    CHECK_TEXT(date, "19700101T000000Z");
    s3d_amz_date(date, 1369353600);
    CHECK_TEXT(date, "20130524T000000Z");
    s3d_amz_date(date, 1709251199); /* the last second of a leap day */
    CHECK_TEXT(date, "20240229T235959Z");
    s3d_amz_date(date, 253402300799);
    CHECK_TEXT(date, "99991231T235959Z");
    s3d_amz_date(date, 253402300800); /* the year 10000 */
    CHECK_TEXT(date, "19700101T000000Z");
    s3d_amz_date(date, INT64_MAX);
    CHECK_TEXT(date, "19700101T000000Z");
    s3d_amz_date(date, INT64_MIN);
    CHECK_TEXT(date, "19700101T000000Z");
}

static void test_refusals(void)
{
    struct s3d_error error;
    struct s3d_sigv4 request =
        example("GET", "/", "", bucket_headers, COUNT(bucket_headers), EMPTY_HASH);
    struct s3d_str small = S3D_STR(20);
    CHECK_CODE(s3d_sigv4_authorize(&request, &small, &error), S3D_INVALID);
    CHECK(error.code == S3D_INVALID);
    s3d_str_fini(&small);

    struct s3d_str authorization = S3D_STR(AUTHORIZATION_MAX);
    request.date = "2013";
    CHECK_CODE(s3d_sigv4_authorize(&request, &authorization, &error), S3D_INTERNAL);
    request.date = "20130524T000000Z";

    static char region[5000];
    memset(region, 'r', sizeof region - 1);
    request.region = region;
    CHECK_CODE(s3d_sigv4_authorize(&request, &authorization, &error), S3D_INVALID);
    request.region = "us-east-1";

    static char secret[2 * 1024 * 1024];
    memset(secret, 's', sizeof secret - 1);
    request.secret_key = secret;
    CHECK_CODE(s3d_sigv4_authorize(&request, &authorization, &error), S3D_INVALID);
    request.path = secret;
    CHECK_CODE(s3d_sigv4_authorize(&request, &authorization, &error), S3D_INVALID);
    CHECK_TEXT(s3d_str_text(&authorization), "");
    s3d_str_fini(&authorization);
}

static enum s3d_code attempt_authorize(void)
{
    struct s3d_sigv4 request =
        example("GET", "/test.txt", "", range_headers, COUNT(range_headers), EMPTY_HASH);
    struct s3d_str authorization = S3D_STR(AUTHORIZATION_MAX);
    struct s3d_error error = {.code = S3D_OK};
    enum s3d_code code = s3d_sigv4_authorize(&request, &authorization, &error);
    CHECK(error.code == code);
    s3d_str_fini(&authorization);
    return code;
}

static void test_out_of_memory(void)
{
    CHECK(test_torture(attempt_authorize, 0) >= 5);
}

/* With the null provider loaded OpenSSL has no algorithm left. */
static void in_child_without_algorithms(void)
{
    struct s3d_error error;
    char hex[S3D_SHA256_HEX];
    OSSL_PROVIDER *null_provider = OSSL_PROVIDER_load(NULL, "null");
    CHECK(null_provider != NULL);
    CHECK_CODE(s3d_sha256_hex(hex, NULL, 0, &error), S3D_INTERNAL);
    CHECK(error.code == S3D_INTERNAL && strstr(error.message, "SHA-256"));
    CHECK_CODE(attempt_authorize(), S3D_INTERNAL);
    OSSL_PROVIDER_unload(null_provider);
}

static void test_openssl_failure(void)
{
    fflush(NULL); /* or the child would print it again */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        test_in_child();
        in_child_without_algorithms();
        fflush(NULL);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    RUN(test_openssl_failure); /* first: OpenSSL must not have loaded its algorithms yet */
    RUN(test_get_with_range);
    RUN(test_put);
    RUN(test_bucket_lifecycle);
    RUN(test_list_objects);
    RUN(test_header_values_are_trimmed);
    RUN(test_inner_blanks_count_as_one);
    RUN(test_sha256_over_spans);
    RUN(test_amz_date);
    RUN(test_refusals);
    RUN(test_out_of_memory);
    return 0;
}
