#include "backends/http_proxy.h"

#include "backends/host.h"
#include "core/mem.h"
#include "core/str.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define ADVICE_LOGIN                                                                           \
    "; name and password (Basic) stand before its host: are they there, and right?"

enum { ORIGIN_MAX = S3D_HOST_MAX + 32, PORT_MAX = 65535 };

static const struct {
    const char *name;
    unsigned port; /* where none is named */
} schemes[] = {
    {"http", 80},      {"https", 443},   {"socks4", 1080},
    {"socks4a", 1080}, {"socks5", 1080}, {"socks5h", 1080},
};

/* --- the setting --------------------------------------------------------------------------- */

static enum s3d_code fail_setting(struct s3d_error *error, const char *text,
                                  const char *setting)
{
    const char *login = strrchr(text, '@'); /* what stands before it may be a password */
    return s3d_fail(error, S3D_INVALID,
                    "the proxy \"%s%.200s\" is not http://[name:password@]host[:port] (%s)",
                    login ? "***@" : "", login ? login + 1 : text, setting);
}

/* The digits behind the host, or `fallback` where there are none; 0: no port. */
static unsigned port_in(const char *authority, size_t length, unsigned fallback)
{
    const char *bracket = memrchr(authority, ']', length);
    const char *host_end = bracket ? bracket : authority;
    const char *colon = memchr(host_end, ':', length - (size_t)(host_end - authority));
    char digits[8];
    uint64_t port = 0;
    if (!colon) {
        return fallback;
    }
    if (!s3d_copy_text(digits, sizeof digits, colon + 1,
                       length - (size_t)(colon + 1 - authority)) ||
        !s3d_parse_u64(digits, &port) || port > PORT_MAX) {
        return 0;
    }
    return (unsigned)port;
}

static const char *scheme_of(const char *text, size_t length, unsigned *port)
{
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        if (strlen(schemes[i].name) == length &&
            strncasecmp(schemes[i].name, text, length) == 0) {
            *port = schemes[i].port;
            return schemes[i].name;
        }
    }
    return NULL;
}

/* False: not a host and a port. */
static bool make_origin(char origin[ORIGIN_MAX], const char *scheme, const char *authority,
                        size_t length, unsigned fallback_port)
{
    char host[S3D_HOST_MAX];
    unsigned port = port_in(authority, length, fallback_port);
    int size = snprintf(origin, ORIGIN_MAX, "%s://%.*s", scheme, (int)length, authority);
    if (!port || size < 0 || size >= ORIGIN_MAX || !s3d_host_of(origin, host)) {
        return false;
    }
    bool six = strchr(host, ':') != NULL;
    size = snprintf(origin, ORIGIN_MAX, "%s://%s%s%s:%u", scheme, six ? "[" : "", host,
                    six ? "]" : "", port);
    return size > 0 && size < ORIGIN_MAX;
}

/* [scheme://][name:password@]host[:port], as curl and boto3 take it. */
static enum s3d_code parse(struct s3d_http_proxy *proxy, const char *text, const char *setting,
                           struct s3d_error *error)
{
    char origin[ORIGIN_MAX];
    unsigned port = 80;
    const char *separator = strstr(text, "://");
    const char *scheme =
        separator ? scheme_of(text, (size_t)(separator - text), &port) : "http";
    const char *authority = separator ? separator + 3 : text;
    size_t length = strcspn(authority, "/?#");
    const char *behind = authority + length;
    const char *at = memrchr(authority, '@', length);
    const char *host = at ? at + 1 : authority;
    if (!scheme || behind[strspn(behind, "/")] || length > INT_MAX ||
        !make_origin(origin, scheme, host, (size_t)(behind - host), port)) {
        return fail_setting(error, text, setting);
    }
    proxy->origin = s3d_copy_string(origin);
    if (!proxy->origin) {
        return s3d_fail_memory(error, ORIGIN_MAX);
    }
    if (at) {
        size_t login_bytes = (size_t)(at - authority) + 1;
        proxy->login = s3d_alloc(login_bytes);
        if (!proxy->login) {
            return s3d_fail_memory(error, login_bytes);
        }
        s3d_copy_text(proxy->login, login_bytes, authority, login_bytes - 1);
    }
    return S3D_OK;
}

enum s3d_code s3d_http_proxy_load(struct s3d_http_proxy *proxy, const struct s3d_config *config,
                                  bool tls, struct s3d_error *error)
{
    const char *text = config->proxy ? config->proxy
                       : tls         ? config->https_proxy
                                     : config->http_proxy;
    const char *setting = config->proxy ? "S3DLIO_PROXY" : tls ? "https_proxy" : "http_proxy";
    *proxy = (struct s3d_http_proxy){NULL};
    if (!text || !*text) {
        return S3D_OK;
    }
    enum s3d_code code = parse(proxy, text, setting, error);
    if (!code && !config->proxy && config->no_proxy) {
        proxy->no_proxy = s3d_copy_string(config->no_proxy);
        code = proxy->no_proxy ? S3D_OK : s3d_fail_memory(error, strlen(config->no_proxy) + 1);
    }
    return code;
}

void s3d_http_proxy_fini(struct s3d_http_proxy *proxy)
{
    if (proxy->login) {
        explicit_bzero(proxy->login, strlen(proxy->login));
    }
    s3d_free(proxy->origin);
    s3d_free(proxy->login);
    s3d_free(proxy->no_proxy);
    *proxy = (struct s3d_http_proxy){NULL};
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

bool s3d_http_proxy_equal(const struct s3d_http_proxy *a, const struct s3d_http_proxy *b)
{
    return same_text(a->origin, b->origin) && same_text(a->login, b->login) &&
           same_text(a->no_proxy, b->no_proxy);
}

bool s3d_http_proxy_forwards(const struct s3d_http_proxy *proxy, const char *url)
{
    return proxy && strncmp(proxy->origin, "http", 4) == 0 && strncasecmp(url, "http:", 5) == 0;
}

bool s3d_http_proxy_is_tls(const struct s3d_http_proxy *proxy)
{
    return proxy && strncmp(proxy->origin, "https:", 6) == 0;
}

/* --- which hosts go by it ------------------------------------------------------------------ */

/* An address of either kind; 0 bits: it is a name. */
struct address {
    unsigned char bytes[16];
    unsigned bits;
};

static struct address address_of(const char *text)
{
    struct address address = {.bits = 0};
    if (inet_pton(AF_INET, text, address.bytes) == 1) {
        address.bits = 32;
    } else if (inet_pton(AF_INET6, text, address.bytes) == 1) {
        address.bits = 128;
    }
    return address;
}

static bool same_network(const struct address *a, const struct address *b, uint64_t bits)
{
    if (a->bits != b->bits || bits > a->bits) {
        return false;
    }
    size_t whole = (size_t)(bits / 8);
    unsigned rest = (unsigned)(bits % 8), mask = (0xff00u >> rest) & 0xff;
    return memcmp(a->bytes, b->bytes, whole) == 0 &&
           (!rest || ((a->bytes[whole] ^ b->bytes[whole]) & mask) == 0);
}

/* An address, or a network as 10.0.0.0/8. */
static bool matches_address(const struct address *host, char *entry)
{
    char *slash = strchr(entry, '/');
    uint64_t bits = host->bits;
    if (slash) {
        *slash = '\0';
        if (!s3d_parse_u64(slash + 1, &bits)) {
            return false;
        }
    }
    struct address address = address_of(entry);
    return same_network(host, &address, bits);
}

/* The name itself, or any below it. */
static bool matches_name(const char *host, const char *entry)
{
    size_t length = strlen(host), tail = strlen(entry);
    return tail && length >= tail && strcasecmp(host + length - tail, entry) == 0 &&
           (length == tail || host[length - tail - 1] == '.');
}

static void cut_last_dot(char *name)
{
    size_t length = strlen(name);
    if (length && name[length - 1] == '.') {
        name[length - 1] = '\0';
    }
}

/* Takes the port off "host:port" and the brackets off "[address]"; false: it is another port. */
static bool take_port(char **entry, unsigned port)
{
    char *start = *entry, *close = strchr(start, ']');
    char *colon = strchr(close ? close : start, ':');
    bool has_port = colon && !strchr(colon + 1, ':');
    if (has_port) {
        uint64_t wanted = 0;
        if (!s3d_parse_u64(colon + 1, &wanted) || wanted != port) {
            return false;
        }
        *colon = '\0';
    }
    if (*start == '[' && close) {
        *close = '\0';
        *entry = start + 1;
    }
    return true;
}

static bool matches(const char *host, const struct address *address, unsigned port, char *entry)
{
    if (strcmp(entry, "*") == 0) {
        return true;
    }
    if (!take_port(&entry, port)) {
        return false;
    }
    if (address->bits) {
        return matches_address(address, entry);
    }
    entry += strncmp(entry, "*.", 2) == 0 ? 2 : strspn(entry, ".");
    cut_last_dot(entry);
    return matches_name(host, entry);
}

/* Source: curl(1), NO_PROXY, and Python's urllib for "host:port". */
static bool is_left_out(const char *no_proxy, const char *url)
{
    static const char between[] = ", \t";
    char host[S3D_HOST_MAX], entry[S3D_HOST_MAX];
    if (!s3d_host_of(url, host)) {
        return false;
    }
    const char *authority = strstr(url, "://") + 3;
    unsigned port = port_in(authority, strcspn(authority, "/?#"),
                            strncasecmp(url, "https:", 6) == 0 ? 443 : 80);
    struct address address = address_of(host);
    cut_last_dot(host);
    for (const char *at = no_proxy + strspn(no_proxy, between); *at;) {
        size_t length = strcspn(at, between);
        if (s3d_copy_text(entry, sizeof entry, at, length) &&
            matches(host, &address, port, entry)) {
            return true;
        }
        at += length;
        at += strspn(at, between);
    }
    return false;
}

const struct s3d_http_proxy *s3d_http_proxy_for(const struct s3d_http_proxy *proxy,
                                                const char *url)
{
    bool serves =
        proxy && proxy->origin && !(proxy->no_proxy && is_left_out(proxy->no_proxy, url));
    return serves ? proxy : NULL;
}

/* --- libcurl ------------------------------------------------------------------------------- */

enum s3d_code s3d_http_proxy_apply(const struct s3d_http_proxy *proxy, void *easy,
                                   struct s3d_error *error)
{
    const char *login = proxy ? proxy->login : NULL;
    if (curl_easy_setopt(easy, CURLOPT_PROXY, proxy ? proxy->origin : "") != CURLE_OK ||
        curl_easy_setopt(easy, CURLOPT_NOPROXY, "") != CURLE_OK ||
        (login && curl_easy_setopt(easy, CURLOPT_PROXYUSERPWD, login) != CURLE_OK)) {
        return s3d_fail(error, S3D_NO_MEMORY, "libcurl could not allocate memory");
    }
    return S3D_OK;
}

bool s3d_http_proxy_is_connecting(const struct s3d_http_proxy *proxy, void *easy)
{
    curl_off_t ready_us = 0;
    return proxy &&
           curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &ready_us) == CURLE_OK &&
           ready_us == 0;
}

static enum s3d_code code_of_status(int status)
{
    switch (status) {
    case 401:
    case 403:
    case S3D_HTTP_PROXY_LOGIN: return S3D_DENIED;
    case 408: return S3D_TIMEOUT;
    case 429:
    case 503: return S3D_THROTTLED;
    default: return status >= 500 ? S3D_SERVER : S3D_REJECTED;
    }
}

enum s3d_code s3d_http_proxy_refused(const struct s3d_http_proxy *proxy, int status,
                                     const char *target, struct s3d_error *error)
{
    enum s3d_code code = code_of_status(status);
    s3d_fail(error, code, "the proxy %s refused the way to %s%s", proxy->origin, target,
             status == S3D_HTTP_PROXY_LOGIN ? ADVICE_LOGIN : "");
    if (error) {
        error->http_status = status;
    }
    return code;
}

enum s3d_code s3d_http_proxy_failure(const struct s3d_http_proxy *proxy, void *easy, int result,
                                     const char *detail, const char *target,
                                     struct s3d_error *error)
{
    long status = 0, reason = CURLPX_OK;
    curl_easy_getinfo(easy, CURLINFO_HTTP_CONNECTCODE, &status);
    curl_easy_getinfo(easy, CURLINFO_PROXY_ERROR, &reason);
    if (status && (status < 200 || status > 299)) {
        return s3d_http_proxy_refused(proxy, (int)status, target, error);
    }
    if (reason == CURLPX_USER_REJECTED || reason == CURLPX_NO_AUTH) { /* SOCKS */
        return s3d_fail(error, S3D_DENIED, "the proxy %s refused the way to %s" ADVICE_LOGIN,
                        proxy->origin, target);
    }
    if (result == CURLE_COULDNT_CONNECT || result == CURLE_COULDNT_RESOLVE_PROXY) {
        return s3d_fail(error, S3D_NETWORK,
                        "no connection to the proxy %s: %s; is it the right one (S3DLIO_PROXY, "
                        "https_proxy, http_proxy)?",
                        proxy->origin, detail);
    }
    return S3D_OK;
}
