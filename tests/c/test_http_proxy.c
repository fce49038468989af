/* Which proxy a setting names, what of it may be shown, and which hosts are left out. */
#include "test.h"

#include "backends/http_proxy.h"

#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static enum s3d_code load(struct s3d_http_proxy *proxy, const char *text,
                          struct s3d_error *error)
{
    setenv("https_proxy", text, 1);
    struct s3d_config config;
    CHECK_CODE(s3d_config_load(&config, NULL), S3D_OK);
    enum s3d_code code = s3d_http_proxy_load(proxy, &config, true, error);
    s3d_config_fini(&config);
    return code;
}

static void test_proxies(void)
{
    static const struct {
        const char *text, *origin, *login;
    } cases[] = {
        {"http://proxy.corp:3128", "http://proxy.corp:3128", NULL},
        {"proxy.corp:3128", "http://proxy.corp:3128", NULL},
        {"HTTP://proxy.corp", "http://proxy.corp:80", NULL},
        {"https://proxy.corp/", "https://proxy.corp:443", NULL},
        {"http://[::1]:8080//", "http://[::1]:8080", NULL},
        {"http://[fd00::1]", "http://[fd00::1]:80", NULL},
        {"socks5h://127.0.0.1", "socks5h://127.0.0.1:1080", NULL},
        {"http://me:secret@proxy:1", "http://proxy:1", "me:secret"},
        {"me:s@cret@proxy", "http://proxy:80", "me:s@cret"},
        {"http://me%3A:%40%2F@[::1]:65535/", "http://[::1]:65535", "me%3A:%40%2F"},
        {"http://me@proxy", "http://proxy:80", "me"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct s3d_http_proxy proxy;
        CHECK_CODE(load(&proxy, cases[i].text, NULL), S3D_OK);
        CHECK_TEXT(proxy.origin, cases[i].origin);
        CHECK(!proxy.login == !cases[i].login);
        CHECK_TEXT(proxy.login ? proxy.login : "", cases[i].login ? cases[i].login : "");
        CHECK(s3d_http_proxy_is_tls(&proxy) == (strncmp(proxy.origin, "https:", 6) == 0));
        s3d_http_proxy_fini(&proxy);
    }
}

static void test_what_is_no_proxy(void)
{
    static const char *const cases[] = {
        "ftp://proxy",
        "http://",
        "http://me:SECRET@",
        "://proxy",
        "http://proxy:",
        "http://proxy:0",
        "http://proxy:65536",
        "http://proxy:8x",
        "http://me:SECRET@proxy:8:0",
        "http://proxy/path",
        "http://proxy?a",
        "http://proxy/#a",
        "http://me:SE/CRET@proxy",
        "http://me:12/SECRET@proxy",
        "me:SECRET?@proxy",
        "http://a proxy",
        "http://[::1",
        "http://[::1]x",
        "http://\\proxy",
        "http://me:SECRET@pro\rxy",
        "SECRET@",
        "gopher://SECRET:SECRET@proxy:1",
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct s3d_http_proxy proxy;
        struct s3d_error error = {.code = S3D_OK};
        CHECK_CODE(load(&proxy, cases[i], &error), S3D_INVALID);
        CHECK(strstr(error.message, "https_proxy") && !strstr(error.message, "SECRET"));
        CHECK(!strchr(cases[i], '@') || strstr(error.message, "***@"));
        s3d_http_proxy_fini(&proxy);
    }
    char long_one[2048];
    memset(long_one, 'a', sizeof long_one - 1);
    long_one[sizeof long_one - 1] = '\0';
    struct s3d_http_proxy proxy;
    CHECK_CODE(load(&proxy, long_one, NULL), S3D_INVALID);
    s3d_http_proxy_fini(&proxy);
}

static void test_left_out(void)
{
    static const struct {
        const char *no_proxy, *url;
        bool left_out;
    } cases[] = {
        {"*", "https://s3.amazonaws.com/b", true},
        {"a, *", "https://s3.amazonaws.com", true},
        {"", "https://host", false},
        {" ,, ", "https://host", false},
        {"host", "https://host", true},
        {"HOST", "https://host:9000/x", true},
        {"host.", "https://host", true},
        {"host", "https://host./", true},
        {"amazonaws.com", "https://b.s3.amazonaws.com", true},
        {".amazonaws.com", "https://b.s3.amazonaws.com/k", true},
        {"*.amazonaws.com", "https://b.s3.amazonaws.com/k", true},
        {".amazonaws.com", "https://amazonaws.com", true},
        {"amazonaws.com", "https://notamazonaws.com", false},
        {"amazonaws.com", "https://amazonaws.com.evil.example", false},
        {".", "https://host", false},
        {"x y\tz,host", "https://host", true},
        {"host:9000", "https://host:9000", true},
        {"host:9000", "https://host:9001", false},
        {"host:443", "https://host", true},
        {"host:80", "http://host", true},
        {"host:80", "https://host", false},
        {"host:x", "https://host", false},
        {"127.0.0.1", "http://127.0.0.1:9000", true},
        {"127.0.0.1:9000", "http://127.0.0.1:9000", true},
        {"127.0.0.1:9001", "http://127.0.0.1:9000", false},
        {"0.0.1", "http://127.0.0.1", false},
        {"1", "http://127.0.0.1", false},
        {"127.0.0.0/8", "http://127.200.3.4", true},
        {"127.0.0.0/8", "http://128.0.0.1", false},
        {"10.32.0.0/12", "http://10.47.255.255", true},
        {"10.32.0.0/12", "http://10.48.0.0", false},
        {"0.0.0.0/0", "http://10.48.0.0", true},
        {"0.0.0.0/0", "http://host", false},
        {"0.0.0.0/0", "http://[::1]", false},
        {"10.0.0.1/32", "http://10.0.0.1", true},
        {"10.0.0.1/33", "http://10.0.0.1", false},
        {"10.0.0.1/", "http://10.0.0.1", false},
        {"10.0.0.1/-1", "http://10.0.0.1", false},
        {"::1", "http://[::1]:9000", true},
        {"[::1]", "http://[0:0::1]:9000", true},
        {"[::1]:9000", "http://[::1]:9000", true},
        {"[::1]:9001", "http://[::1]:9000", false},
        {"fd00:ec2::/32", "http://[fd00:ec2::254]", true},
        {"fd00:ec3::/32", "http://[fd00:ec2::254]", false},
        {"localhost", "http://127.0.0.1", false},
    };
    setenv("https_proxy", "http://proxy", 1);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct s3d_http_proxy proxy;
        setenv("no_proxy", cases[i].no_proxy, 1);
        CHECK_CODE(load(&proxy, "http://proxy", NULL), S3D_OK);
        if ((s3d_http_proxy_for(&proxy, cases[i].url) == NULL) != cases[i].left_out) {
            fprintf(stderr, "\"%s\" and %s\n", cases[i].no_proxy, cases[i].url);
            exit(1);
        }
        s3d_http_proxy_fini(&proxy);
    }
    unsetenv("no_proxy");
}

/* Variables in their order; NULL: not set. */
static void test_which_counts(void)
{
    static const struct {
        const char *set[4]; /* NAME=value */
        bool tls;
        const char *origin; /* NULL: none */
    } cases[] = {
        {{NULL}, true, NULL},
        {{"https_proxy=a", "HTTPS_PROXY=b"}, true, "http://a:80"},
        {{"HTTPS_PROXY=b", "all_proxy=c"}, true, "http://b:80"},
        {{"all_proxy=c", "ALL_PROXY=d"}, true, "http://c:80"},
        {{"ALL_PROXY=d"}, true, "http://d:80"},
        {{"http_proxy=a"}, true, NULL},
        {{"https_proxy=a"}, false, NULL},
        {{"http_proxy=a", "HTTP_PROXY=b"}, false, "http://a:80"},
        {{"HTTP_PROXY=b", "ALL_PROXY=d"}, false, "http://b:80"},
        {{"HTTP_PROXY=b", "REQUEST_METHOD=GET"}, false, NULL},
        {{"HTTP_PROXY=b", "REQUEST_METHOD=GET", "ALL_PROXY=d"}, false, "http://d:80"},
        {{"http_proxy=a", "REQUEST_METHOD=GET"}, false, "http://a:80"},
        {{"https_proxy=", "HTTPS_PROXY=b", "ALL_PROXY=d"}, true, NULL},
        {{"S3DLIO_PROXY=s", "https_proxy=a", "no_proxy=*"}, true, "http://s:80"},
        {{"S3DLIO_PROXY=", "https_proxy=a"}, true, NULL},
        {{"https_proxy=a", "no_proxy=*"}, true, NULL},
        {{"https_proxy=a", "no_proxy=", "NO_PROXY=*"}, true, "http://a:80"},
        {{"https_proxy=a", "NO_PROXY=*"}, true, NULL},
    };
    static const char *const names[] = {
        "S3DLIO_PROXY", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY",
        "all_proxy",    "ALL_PROXY",  "no_proxy",   "NO_PROXY",    "REQUEST_METHOD"};
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (size_t j = 0; j < COUNT(names); j++) {
            unsetenv(names[j]);
        }
        for (size_t j = 0; j < COUNT(cases[i].set) && cases[i].set[j]; j++) {
            CHECK(putenv((char *)(uintptr_t)cases[i].set[j]) == 0);
        }
        struct s3d_config config;
        struct s3d_http_proxy proxy;
        CHECK_CODE(s3d_config_load(&config, NULL), S3D_OK);
        CHECK_CODE(s3d_http_proxy_load(&proxy, &config, cases[i].tls, NULL), S3D_OK);
        const struct s3d_http_proxy *used = s3d_http_proxy_for(
            &proxy, cases[i].tls ? "https://s3.amazonaws.com" : "http://s3.amazonaws.com");
        CHECK(!used == !cases[i].origin);
        CHECK_TEXT(used ? used->origin : "", cases[i].origin ? cases[i].origin : "");
        s3d_http_proxy_fini(&proxy);
        s3d_config_fini(&config);
    }
    for (size_t j = 0; j < COUNT(names); j++) {
        unsetenv(names[j]);
    }
}

/* An empty text that was configured says: none, whatever the environment has. */
static void test_configured(void)
{
    struct s3d_config config;
    struct s3d_http_proxy proxy, other;
    setenv("https_proxy", "http://me:secret@a", 1);
    setenv("S3DLIO_PROXY", "b", 1);
    CHECK_CODE(s3d_config_override("proxy", "", NULL), S3D_OK);
    CHECK_CODE(s3d_config_load(&config, NULL), S3D_OK);
    CHECK_CODE(s3d_http_proxy_load(&proxy, &config, true, NULL), S3D_OK);
    CHECK(!s3d_http_proxy_for(&proxy, "https://host") &&
          !s3d_http_proxy_for(NULL, "https://host"));
    s3d_config_fini(&config);
    CHECK_CODE(s3d_config_override("proxy", NULL, NULL), S3D_OK);
    unsetenv("S3DLIO_PROXY");
    CHECK_CODE(load(&other, "http://me:secret@a", NULL), S3D_OK);
    CHECK(!s3d_http_proxy_equal(&proxy, &other) && s3d_http_proxy_equal(&other, &other));
    CHECK_CODE(load(&proxy, "http://me:secreT@a", NULL), S3D_OK);
    CHECK(!s3d_http_proxy_equal(&proxy, &other));
    s3d_http_proxy_fini(&proxy);
    s3d_http_proxy_fini(&other);
    s3d_http_proxy_fini(&other);
}

static struct s3d_config tortured;

static enum s3d_code load_once(void)
{
    struct s3d_http_proxy proxy;
    enum s3d_code code = s3d_http_proxy_load(&proxy, &tortured, true, NULL);
    s3d_http_proxy_fini(&proxy);
    return code;
}

static void test_out_of_memory(void)
{
    setenv("https_proxy", "http://me:secret@a", 1);
    setenv("no_proxy", "b", 1);
    CHECK_CODE(s3d_config_load(&tortured, NULL), S3D_OK);
    CHECK(test_torture(load_once, 0) == 3);
    s3d_config_fini(&tortured);
}

int main(void)
{
    unsetenv("S3DLIO_PROXY");
    RUN(test_which_counts);
    RUN(test_proxies);
    RUN(test_what_is_no_proxy);
    RUN(test_left_out);
    RUN(test_configured);
    RUN(test_out_of_memory);
    return 0;
}
