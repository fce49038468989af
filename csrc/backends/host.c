#include "backends/host.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>

bool s3d_host_of(const char *url, char host[S3D_HOST_MAX])
{
    const char *start = strstr(url, "://");
    if (!start || strpbrk(url, "\\ \t\r\n")) {
        return false;
    }
    start += 3;
    size_t length = strcspn(start, "/?#");
    const char *end = start + length;
    if (memchr(start, '@', length)) {
        return false;
    }
    if (*start == '[') {
        const char *close = memchr(start, ']', length);
        if (!close || (close + 1 != end && close[1] != ':')) {
            return false;
        }
        start++;
        end = close;
    } else if (memchr(start, ':', length)) {
        end = memchr(start, ':', length);
    }
    return end > start && s3d_copy_text(host, S3D_HOST_MAX, start, (size_t)(end - start));
}

bool s3d_host_is_loopback(const char *host)
{
    struct in_addr four;
    struct in6_addr six;
    if (inet_pton(AF_INET, host, &four) == 1) {
        return ntohl(four.s_addr) >> 24 == 127;
    }
    return strcasecmp(host, "localhost") == 0 ||
           (inet_pton(AF_INET6, host, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six));
}

void s3d_host_add_amazon(struct s3d_str *host, const char *service, const char *region)
{
    s3d_str_add_format(host, "%s.%s.amazonaws.com%s", service, region,
                       strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
}

/* ---- endpoints ---- */

static bool is_port(const char *text, size_t length)
{
    unsigned port = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        port = 10 * port + (unsigned)(text[i] - '0');
        if (port > 65535) {
            return false;
        }
    }
    return port > 0;
}

static bool is_host(const char *text, size_t length)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
    if (length && text[0] == '[') {
        char six[INET6_ADDRSTRLEN];
        struct in6_addr address;
        return length > 2 && text[length - 1] == ']' &&
               s3d_copy_text(six, sizeof six, text + 1, length - 2) &&
               inet_pton(AF_INET6, six, &address) == 1;
    }
    return length && length < S3D_HOST_MAX && text[0] != '.' && strspn(text, letters) >= length;
}

/* What is wrong with what follows "://"; NULL: nothing. *length: of "host[:port]". */
static const char *fault_of(const char *authority, size_t *length)
{
    *length = strcspn(authority, "/?#");
    const char *rest = authority + *length;
    if (memchr(authority, '@', *length)) {
        return "has a login";
    }
    if (strpbrk(rest, "?#")) {
        return "has a query or a fragment";
    }
    if (rest[strspn(rest, "/")]) {
        return "has a path";
    }
    const char *close = *authority == '[' ? memchr(authority, ']', *length) : NULL;
    size_t before = close ? (size_t)(close + 1 - authority) : 0;
    size_t host = before + strcspn(authority + before, ":/");
    if (!is_host(authority, host)) {
        return "has no host (a name in ASCII or an address, IPv6 in brackets)";
    }
    return host == *length || is_port(authority + host + 1, *length - host - 1)
               ? NULL
               : "has a port that is not one of 1 to 65535";
}

enum s3d_code s3d_endpoint_parse(const char *endpoint, const char *variable,
                                 const char **authority, size_t *length,
                                 struct s3d_error *error)
{
    *authority = strncasecmp(endpoint, "https://", 8) == 0  ? endpoint + 8
                 : strncasecmp(endpoint, "http://", 7) == 0 ? endpoint + 7
                                                            : NULL;
    const char *fault =
        *authority ? fault_of(*authority, length) : "does not begin with http:// or https://";
    if (!fault) {
        return S3D_OK;
    }
    const char *login = strrchr(endpoint, '@'); /* what stands before it may be a password */
    bool lacks_scheme = !*authority && !fault_of(endpoint, length);
    const char *example = lacks_scheme ? endpoint : "host[:port]";
    int example_length = (int)(lacks_scheme ? *length : strlen(example));
    return s3d_fail(error, S3D_INVALID,
                    "the endpoint \"%s%.200s\" %s; write http://%.*s or https://%.*s (%s)",
                    login ? "***@" : "", login ? login + 1 : endpoint, fault, example_length,
                    example, example_length, example, variable);
}
