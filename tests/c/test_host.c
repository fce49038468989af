/* What is an endpoint, and what is said of one that is none. */
#include "test.h"

#include "backends/host.h"

static void test_endpoints(void)
{
    static const struct {
        const char *endpoint, *authority;
    } cases[] = {
        {"http://localhost:9000", "localhost:9000"},
        {"https://store.example/", "store.example"},
        {"HTTPS://Store.example//", "Store.example"},
        {"http://a_b-c.1", "a_b-c.1"},
        {"https://store.example.:443", "store.example.:443"},
        {"https://xn--bcher-kva.example", "xn--bcher-kva.example"},
        {"http://127.0.0.1:1", "127.0.0.1:1"},
        {"http://h:65535/", "h:65535"},
        {"http://h:09000", "h:09000"},
        {"http://[::1]", "[::1]"},
        {"http://[2001:db8::1]:9000/", "[2001:db8::1]:9000"},
        {"http://[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:80"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *authority;
        size_t length;
        CHECK_CODE(s3d_endpoint_parse(cases[i].endpoint, "NAME", &authority, &length, NULL),
                   S3D_OK);
        CHECK(length == strlen(cases[i].authority));
        CHECK(strncmp(authority, cases[i].authority, length) == 0);
    }
}

static void check_fault(const char *endpoint, const char *fault)
{
    const char *authority;
    size_t length;
    char expected[512];
    struct s3d_error error;
    CHECK_CODE(s3d_endpoint_parse(endpoint, "NAME", &authority, &length, &error), S3D_INVALID);
    snprintf(expected, sizeof expected, "the endpoint \"%s\" %s (NAME)", endpoint, fault);
    CHECK_TEXT(error.message, expected);
}

static void test_what_is_none(void)
{
    static const char general[] = "; write http://host[:port] or https://host[:port]";
    static const char scheme[] = "does not begin with http:// or https://";
    static const char path[] = "has a path", query[] = "has a query or a fragment";
    static const char port[] = "has a port that is not one of 1 to 65535";
    static const char host[] = "has no host (a name in ASCII or an address, IPv6 in brackets)";
    static const struct {
        const char *endpoint, *fault;
    } cases[] = {
        {"", scheme},
        {"//h", scheme},
        {"http:h", scheme},
        {"http:/h", scheme},
        {"ftp://h", scheme},
        {" http://h", scheme},
        {"localhost:9000/path", scheme},
        {"m\xC3\xBCller.example", scheme},
        {"http://h/path", path},
        {"http://h//path/", path},
        {"http://h?x=1", query},
        {"http://h/?x=1", query},
        {"http://h:9000#x", query},
        {"http://", host},
        {"http:///", host},
        {"http://:9000", host},
        {"http://.", host},
        {"http://a b", host},
        {"http://h\\x", host},
        {"http://h\x01", host},
        {"http://h%41", host},
        {"http://h\t:9000", host},
        {"https://m\xC3\xBCller.example", host},
        {"http://::1:9000", host},
        {"http://[::1", host},
        {"http://[]", host},
        {"http://[::1]x", host},
        {"http://[::g]", host},
        {"http://[::1%25lo]:9000", host},
        {"http://[127.0.0.1]", host},
        {"http://h:", port},
        {"http://h:0", port},
        {"http://h:70000", port},
        {"http://h:18446744073709551617", port},
        {"http://h:-1", port},
        {"http://h:9x", port},
        {"http://h:1:2", port},
        {"http://[::1]:", port},
    };
    char fault[256];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(fault, sizeof fault, "%s%s", cases[i].fault, general);
        check_fault(cases[i].endpoint, fault);
    }
}

/* What is written is what there is, with a scheme. */
static void test_without_a_scheme(void)
{
    static const char *const cases[][2] = {{"localhost:9000", "localhost:9000"},
                                           {"store.example/", "store.example"},
                                           {"[::1]:9000", "[::1]:9000"},
                                           {"10.0.0.1", "10.0.0.1"}};
    char fault[256];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(fault, sizeof fault,
                 "does not begin with http:// or https://; write http://%s or https://%s",
                 cases[i][1], cases[i][1]);
        check_fault(cases[i][0], fault);
    }
}

static void test_a_login_is_not_repeated(void)
{
    static const char *const cases[][2] = {
        {"http://user:secret@h:1", "\"***@h:1\" has a login;"},
        {"https://secret@", "\"***@\" has a login;"},
        {"http://user:se@cret@h", "\"***@h\" has a login;"},
        {"http://h/secret@x", "\"***@x\" has a path;"},
        {"user:secret@h",
         "\"***@h\" does not begin with http:// or https://; write http://host[:port]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *authority;
        size_t length;
        struct s3d_error error;
        CHECK_CODE(s3d_endpoint_parse(cases[i][0], "NAME", &authority, &length, &error),
                   S3D_INVALID);
        CHECK(strstr(error.message, cases[i][1]));
        CHECK(!strstr(error.message, "cret"));
    }
}

static void test_a_host_that_is_too_long(void)
{
    const char *authority;
    size_t length;
    char endpoint[8 + S3D_HOST_MAX + 1] = "https://";
    memset(endpoint + 8, 'a', S3D_HOST_MAX);
    CHECK_CODE(s3d_endpoint_parse(endpoint, "NAME", &authority, &length, NULL), S3D_INVALID);
    endpoint[8 + S3D_HOST_MAX - 1] = '\0';
    CHECK_CODE(s3d_endpoint_parse(endpoint, "NAME", &authority, &length, NULL), S3D_OK);
    CHECK(length == S3D_HOST_MAX - 1);
}

int main(void)
{
    RUN(test_endpoints);
    RUN(test_what_is_none);
    RUN(test_without_a_scheme);
    RUN(test_a_login_is_not_repeated);
    RUN(test_a_host_that_is_too_long);
    return 0;
}
