#include "backends/host.h"

#include "core/str.h"

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
