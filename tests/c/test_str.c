/* Byte strings, codes and error records. */
#include "test.h"

#include "core/str.h"

#include <errno.h>
#include <unistd.h>

static void test_append(void)
{
    struct s3d_str str = S3D_STR(1000);
    CHECK_TEXT(s3d_str_text(&str), "");
    CHECK_CODE(s3d_str_check(&str, NULL), S3D_OK);
    s3d_str_add(&str, "");
    s3d_str_add(&str, "abc");
    s3d_str_add_bytes(&str, "\0x", 2);
    s3d_str_add_bytes(&str, NULL, 0);
    s3d_str_add_format(&str, "%d-%s", 42, "end");
    CHECK(str.length == 3 + 2 + 6 && memcmp(str.data, "abc\0x42-end", 12) == 0);
    s3d_str_clear(&str);
    CHECK(str.length == 0);
    CHECK_TEXT(s3d_str_text(&str), "");
    for (int i = 0; i < 1000; i++) {
        s3d_str_add(&str, "y");
        CHECK(str.length == (size_t)i + 1 && str.data[i] == 'y' && !str.data[i + 1]);
    }
    CHECK_CODE(s3d_str_check(&str, NULL), S3D_OK);
    s3d_str_fini(&str);
    CHECK(!str.data && str.max == 1000);
    s3d_str_add(&str, "again");
    CHECK_TEXT(s3d_str_text(&str), "again");
    s3d_str_fini(&str);
}

static void test_reserve(void)
{
    struct s3d_str str = S3D_STR(1000);
    s3d_str_reserve(&str, 0);
    CHECK(!str.data);
    s3d_str_reserve(&str, 500);
    CHECK_TEXT(str.data, "");
    s3d_mem_fail_at(1);
    s3d_str_add_format(&str, "%0500d", 7); /* asks for nothing more */
    CHECK(!s3d_mem_fault_fired());
    s3d_mem_fail_at(0);
    CHECK_CODE(s3d_str_check(&str, NULL), S3D_OK);
    CHECK(str.length == 500);
    s3d_str_reserve(&str, 501);
    CHECK_CODE(s3d_str_check(&str, NULL), S3D_INVALID);
    s3d_str_fini(&str);
}

/* The first failure sticks; nothing is added after it, nothing half. */
static void test_too_long(void)
{
    struct s3d_str str = S3D_STR(5);
    struct s3d_error error;
    s3d_str_add(&str, "abcd");
    s3d_str_add(&str, "ef");
    s3d_str_add(&str, "g");
    CHECK_TEXT(s3d_str_text(&str), "abcd");
    CHECK_CODE(s3d_str_check(&str, &error), S3D_INVALID);
    CHECK(strstr(error.message, "5 bytes") != NULL);
    s3d_str_clear(&str);
    CHECK_CODE(s3d_str_check(&str, NULL), S3D_OK);
    s3d_str_add_format(&str, "%s", "12345");
    CHECK_CODE(s3d_str_check(&str, NULL), S3D_OK);
    s3d_str_add_format(&str, "%c", '6');
    CHECK_CODE(s3d_str_check(&str, NULL), S3D_INVALID);
    CHECK_TEXT(s3d_str_text(&str), "12345");
    s3d_str_clear(&str);
    s3d_str_add_bytes(&str, "", SIZE_MAX); /* refused before it is looked at */
    CHECK_CODE(s3d_str_check(&str, NULL), S3D_INVALID);
    s3d_str_fini(&str);
}

static void test_encoded(void)
{
    struct s3d_str str = S3D_STR(1000);
    s3d_str_add_encoded(&str, "AZaz09-._~/ +%&=?\xC3\xA9\x7F\x01", true);
    CHECK_TEXT(s3d_str_text(&str), "AZaz09-._~/%20%2B%25%26%3D%3F%C3%A9%7F%01");
    s3d_str_clear(&str);
    s3d_str_add_encoded(&str, "a/b", false);
    CHECK_TEXT(s3d_str_text(&str), "a%2Fb");
    s3d_str_fini(&str);
}

static void test_xml(void)
{
    struct s3d_str str = S3D_STR(1000);
    s3d_str_add_xml(&str, "a&b<c>d\"e'f\xC3\xA9");
    CHECK_TEXT(s3d_str_text(&str), "a&amp;b&lt;c&gt;d&quot;e&apos;f\xC3\xA9");
    s3d_str_fini(&str);
}

static void test_copy_text(void)
{
    char to[4];
    CHECK(s3d_copy_text(to, sizeof to, "abc", 3));
    CHECK_TEXT(to, "abc");
    CHECK(!s3d_copy_text(to, sizeof to, "wxyz", 4));
    CHECK_TEXT(to, "wxy");
    CHECK(s3d_copy_text(to, sizeof to, "", 0));
    CHECK_TEXT(to, "");
    CHECK(!s3d_copy_text(to, 1, "a", 1));
    CHECK_TEXT(to, "");
}

static void test_parse_u64(void)
{
    uint64_t value = 7;
    CHECK(s3d_parse_u64("0", &value) && value == 0);
    CHECK(s3d_parse_u64("18446744073709551615", &value) && value == UINT64_MAX);
    CHECK(s3d_parse_u64("007", &value) && value == 7);
    static const char *const wrong[] = {"",
                                        " 1",
                                        "1 ",
                                        "+1",
                                        "-1",
                                        "0x1",
                                        "1.0",
                                        "1e3",
                                        "8M",
                                        "18446744073709551616",
                                        "99999999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK(!s3d_parse_u64(wrong[i], &value) && value == 7);
    }
}

static void test_percent_byte(void)
{
    static const struct {
        const char *text;
        int byte;
    } cases[] = {{"%41", 'A'}, {"%fF", 255}, {"%00", 0},  {"%4", -1}, {"%", -1},
                 {"", -1},     {"41", -1},   {"%g0", -1}, {"%0:", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK(s3d_percent_byte(cases[i].text) == cases[i].byte);
    }
}

static void test_codes(void)
{
    CHECK_TEXT(s3d_code_name(S3D_OK), "OK");
    CHECK_TEXT(s3d_code_name(S3D_INTERNAL), "INTERNAL");
    CHECK_TEXT(s3d_code_name((enum s3d_code)1000), "UNKNOWN");
    CHECK(s3d_code_retryable(S3D_NETWORK) && s3d_code_retryable(S3D_THROTTLED));
    CHECK(!s3d_code_retryable(S3D_OK) && !s3d_code_retryable(S3D_DENIED) &&
          !s3d_code_retryable((enum s3d_code)1000));
}

static void test_fail(void)
{
    struct s3d_error error;
    memset(&error, 0x55, sizeof error);
    CHECK_CODE(s3d_fail(&error, S3D_RANGE, "%s %d", "text", 5), S3D_RANGE);
    CHECK_TEXT(error.message, "text 5");
    CHECK(error.code == S3D_RANGE && !error.attempts && !error.http_status && !error.sys_errno);
    CHECK(!error.operation[0] && !error.server_code[0] && !error.request_id[0]);
    s3d_error_set_operation(&error, "UploadPart %u", 3u);
    CHECK_TEXT(error.operation, "UploadPart 3");
    s3d_error_set_operation(NULL, "nothing");
    CHECK_CODE(s3d_fail(NULL, S3D_RANGE, "x"), S3D_RANGE);
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    CHECK_CODE(s3d_fail(&error, S3D_RANGE, "%s", text), S3D_RANGE); /* cut, not overrun */
    CHECK(strlen(error.message) == sizeof error.message - 1);
    CHECK_CODE(s3d_fail_errno(&error, EIO, "%s", text), S3D_SYSTEM);
    CHECK(strlen(error.message) == sizeof error.message - 1);
    s3d_error_set_operation(&error, "%s", text);
    CHECK(strlen(error.operation) == sizeof error.operation - 1);
}

static void test_fail_errno(void)
{
    struct s3d_error error;
    CHECK_CODE(s3d_fail_errno(&error, ENOENT, "open %s", "x"), S3D_NOT_FOUND);
    CHECK_TEXT(error.message, "open x: No such file or directory");
    CHECK(error.sys_errno == ENOENT && error.code == S3D_NOT_FOUND);
    CHECK_CODE(s3d_fail_errno(&error, EACCES, "x"), S3D_DENIED);
    CHECK_CODE(s3d_fail_errno(&error, EPERM, "x"), S3D_DENIED);
    CHECK_CODE(s3d_fail_errno(&error, EEXIST, "x"), S3D_EXISTS);
    CHECK_CODE(s3d_fail_errno(&error, ENOMEM, "x"), S3D_NO_MEMORY);
    CHECK_CODE(s3d_fail_errno(NULL, ENOSPC, "x"), S3D_SYSTEM);
}

static void test_error_copy(void)
{
    struct s3d_error from, to = {0};
    s3d_fail(&from, S3D_TLS, "reason");
    CHECK_CODE(s3d_error_copy(&to, &from), S3D_TLS);
    CHECK_TEXT(to.message, "reason");
    CHECK_CODE(s3d_error_copy(NULL, &from), S3D_TLS);
    CHECK_CODE(s3d_error_copy(&from, &from), S3D_TLS);
    CHECK_CODE(s3d_error_copy(&to, NULL), S3D_OK);
}

static enum s3d_code build(void)
{
    struct s3d_str str = S3D_STR(100000);
    struct s3d_error error = {0};
    for (int i = 0; i < 300; i++) {
        s3d_str_add(&str, "some text ");
        s3d_str_add_format(&str, "%d", i);
        s3d_str_add_encoded(&str, "\xFF", false);
        s3d_str_add_xml(&str, "<");
    }
    enum s3d_code code = s3d_str_check(&str, &error);
    CHECK(code == error.code);
    CHECK(strlen(s3d_str_text(&str)) == str.length);
    s3d_str_fini(&str);
    return code;
}

static void test_out_of_memory(void)
{
    CHECK(test_torture(build, 0) >= 5);
}

int main(void)
{
    alarm(60);
    RUN(test_append);
    RUN(test_reserve);
    RUN(test_too_long);
    RUN(test_encoded);
    RUN(test_xml);
    RUN(test_copy_text);
    RUN(test_parse_u64);
    RUN(test_percent_byte);
    RUN(test_codes);
    RUN(test_fail);
    RUN(test_fail_errno);
    RUN(test_error_copy);
    RUN(test_out_of_memory);
    return 0;
}
