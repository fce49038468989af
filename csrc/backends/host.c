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

enum s3d_code s3d_fail_endpoint(struct s3d_error *error, const char *endpoint,
                                const char *variable)
{
    const char *login = strrchr(endpoint, '@'); /* what stands before it may be a password */
    return s3d_fail(error, S3D_INVALID,
                    "the endpoint \"%s%.200s\" is not http://host[:port] or https://host[:port] "
                    "(%s)",
                    login ? "***@" : "", login ? login + 1 : endpoint, variable);
}
