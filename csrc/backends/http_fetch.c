#include "backends/http_fetch.h"

#include "backends/http.h"
#include "backends/http_ca.h"
#include "core/latch.h"
#include "core/mem.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { HEADERS_MAX_BYTES = 64 * 1024, LOOK_MS = 50, ORIGIN_MAX = 256 };

struct exchange {
    struct s3d_http_fetch *fetch;
    CURL *easy;
    CURLM *multi;
    struct curl_slist *headers;
    struct s3d_http_ca *ca;
    const struct s3d_http_proxy *proxy; /* by which it goes; NULL: none */
    size_t headers_bytes;
    bool too_long;
    char curl_error[CURL_ERROR_SIZE];
};

static size_t on_header(char *line, size_t size, size_t count, void *context)
{
    struct exchange *exchange = context;
    (void)line;
    exchange->headers_bytes += size * count;
    exchange->too_long |= exchange->headers_bytes > HEADERS_MAX_BYTES;
    return exchange->too_long ? 0 : size * count;
}

static size_t on_receive(char *data, size_t size, size_t count, void *context)
{
    struct exchange *exchange = context;
    struct s3d_http_fetch *fetch = exchange->fetch;
    size_t length = size * count;
    if (length > S3D_HTTP_FETCH_MAX - fetch->length) {
        exchange->too_long = true;
        return 0;
    }
    memcpy(fetch->text + fetch->length, data, length);
    fetch->length += length;
    fetch->text[fetch->length] = '\0';
    return length;
}

/* Our sockets must not leak into programs that the user's process starts. */
static int on_socket(void *context, curl_socket_t socket, curlsocktype purpose)
{
    (void)context;
    (void)purpose;
    return fcntl(socket, F_SETFD, FD_CLOEXEC) == 0 ? CURL_SOCKOPT_OK : CURL_SOCKOPT_ERROR;
}

static void describe_origin(const char *url, char origin[ORIGIN_MAX])
{
    const char *host = strstr(url, "://");
    size_t length = host ? strcspn(host + 3, "/?#") : 0;
    /* Without a name and a password, where there are such. */
    const char *at = length ? memrchr(host + 3, '@', length) : NULL;
    const char *from = at ? at + 1 : url;
    s3d_copy_text(origin, ORIGIN_MAX, from, host ? (size_t)(host + 3 + length - from) : 0);
}

static enum s3d_code add_headers(struct exchange *exchange, struct s3d_error *error)
{
    const struct s3d_http_fetch *fetch = exchange->fetch;
    for (size_t i = 0; i < fetch->header_count; i++) {
        struct curl_slist *longer = curl_slist_append(exchange->headers, fetch->headers[i]);
        if (!longer) {
            return s3d_fail_memory(error, strlen(fetch->headers[i]) + 1);
        }
        exchange->headers = longer;
    }
    return S3D_OK;
}

static void set_message(struct exchange *exchange)
{
    const struct s3d_http_fetch *fetch = exchange->fetch;
    CURL *easy = exchange->easy;
    curl_easy_setopt(easy, CURLOPT_URL, fetch->url);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, exchange->headers);
    if (fetch->body) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)fetch->body_length);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, fetch->body);
    } else if (strcmp(fetch->method, "PUT") == 0) {
        curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)0);
    }
}

static void set_limits(struct exchange *exchange)
{
    CURL *easy = exchange->easy;
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                     (long)exchange->fetch->connect_timeout_ms);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)exchange->fetch->timeout_ms);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, exchange->curl_error);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, exchange);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_receive);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, exchange);
    curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_socket);
}

static enum s3d_code set_up(struct exchange *exchange, struct s3d_error *error)
{
    struct s3d_http_fetch *fetch = exchange->fetch;
    fetch->status = 0;
    fetch->length = 0;
    fetch->text = s3d_alloc(S3D_HTTP_FETCH_MAX + 1);
    if (!fetch->text) {
        return s3d_fail_memory(error, S3D_HTTP_FETCH_MAX + 1);
    }
    fetch->text[0] = '\0';
    exchange->easy = curl_easy_init();
    exchange->multi = curl_multi_init();
    if (!exchange->easy || !exchange->multi) {
        return s3d_fail(error, S3D_NO_MEMORY, "libcurl could not allocate memory");
    }
    enum s3d_code code = add_headers(exchange, error);
    if (code) {
        return code;
    }
    set_message(exchange);
    set_limits(exchange);
    code = s3d_http_proxy_apply(exchange->proxy, exchange->easy, error);
    if (!code &&
        (strncasecmp(fetch->url, "https:", 6) == 0 || s3d_http_proxy_is_tls(exchange->proxy))) {
        code = s3d_http_ca_apply(&exchange->ca, exchange->easy, fetch->ca_bundle, error);
    }
    if (!code && curl_multi_add_handle(exchange->multi, exchange->easy) != CURLM_OK) {
        code = s3d_fail(error, S3D_NO_MEMORY, "libcurl could not allocate memory");
    }
    return code;
}

static enum s3d_code fail_transport(const struct exchange *exchange, CURLcode result,
                                    struct s3d_error *error)
{
    const struct s3d_http_proxy *proxy = exchange->proxy;
    char origin[ORIGIN_MAX], way[2 * ORIGIN_MAX];
    describe_origin(exchange->fetch->url, origin);
    snprintf(way, sizeof way, "%s%s%s", origin, proxy ? " by the proxy " : "",
             proxy ? proxy->origin : "");
    if (exchange->too_long) {
        return s3d_fail(error, S3D_PROTOCOL, "%s: the answer is longer than %d bytes", way,
                        S3D_HTTP_FETCH_MAX);
    }
    const char *detail =
        exchange->curl_error[0] ? exchange->curl_error : curl_easy_strerror(result);
    enum s3d_code code = S3D_OK;
    if (proxy) {
        code =
            s3d_http_proxy_failure(proxy, exchange->easy, (int)result, detail, origin, error);
    }
    return code ? code
                : s3d_fail(error, s3d_http_code_of_curl((int)result, detail), "%s: %s", way,
                           detail);
}

/* Until the transfer has ended; AGAIN: stopped before that. */
static enum s3d_code perform(struct exchange *exchange, CURLcode *result)
{
    for (;;) {
        int running = 0, left = 0;
        curl_multi_perform(exchange->multi, &running);
        CURLMsg *message = curl_multi_info_read(exchange->multi, &left);
        if (message && message->msg == CURLMSG_DONE) {
            *result = message->data.result;
            return S3D_OK;
        }
        if (atomic_load(exchange->fetch->stop)) {
            return S3D_AGAIN;
        }
        curl_multi_poll(exchange->multi, NULL, 0, LOOK_MS, NULL);
    }
}

static enum s3d_code run(struct exchange *exchange, struct s3d_error *error)
{
    CURLcode result = CURLE_OK;
    long status = 0;
    if (perform(exchange, &result)) {
        return s3d_fail(error, S3D_CANCELLED, "cancelled");
    }
    if (result != CURLE_OK) {
        return fail_transport(exchange, result, error);
    }
    curl_easy_getinfo(exchange->easy, CURLINFO_RESPONSE_CODE, &status);
    exchange->fetch->status = (int)status;
    if (status == S3D_HTTP_PROXY_LOGIN &&
        s3d_http_proxy_forwards(exchange->proxy, exchange->fetch->url)) {
        char origin[ORIGIN_MAX];
        describe_origin(exchange->fetch->url, origin);
        return s3d_http_proxy_refused(exchange->proxy, (int)status, origin, error);
    }
    return S3D_OK;
}

enum s3d_code s3d_http_fetch(struct s3d_http_fetch *fetch, struct s3d_error *error)
{
    struct exchange exchange = {.fetch = fetch,
                                .proxy = s3d_http_proxy_for(fetch->proxy, fetch->url)};
    s3d_http_start_curl();
    enum s3d_code code = set_up(&exchange, error);
    if (!code) {
        code = run(&exchange, error);
    }
    if (exchange.multi && exchange.easy) {
        curl_multi_remove_handle(exchange.multi, exchange.easy);
    }
    curl_easy_cleanup(exchange.easy);
    curl_multi_cleanup(exchange.multi);
    curl_slist_free_all(exchange.headers);
    s3d_http_ca_free(exchange.ca);
    return code;
}

void s3d_http_fetch_fini(struct s3d_http_fetch *fetch)
{
    if (fetch->text) {
        explicit_bzero(fetch->text, fetch->length);
        s3d_free(fetch->text);
        fetch->text = NULL;
    }
}
