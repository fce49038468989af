#include "backends/http.h"

#include "backends/http_ca.h"
#include "backends/http_headers.h"
#include "backends/secrets.h"
#include "core/config.h"
#include "core/latch.h"
#include "core/mem.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
    RECEIVE_BUFFER_BYTES = 512 * 1024,
    SEND_BUFFER_BYTES = 256 * 1024, /* of each upload; larger ones are slower over TLS */
    CONNECT_TIMEOUT_MS = 5000,
    LOW_SPEED_BYTES_PER_S = 1024, /* slower than this for LOW_SPEED_S is a stall */
    LOW_SPEED_S = 20,
    QUIET_MS = 60 * 1000,     /* of a patient message: without a byte, */
    PATIENCE_MS = 600 * 1000, /* and at most */
    IDLE_CONNECTION_S = 4,    /* S3 drops idle connections at about 5 s */
    HEADERS_MAX_BYTES = 64 * 1024,
    TOUCH_BYTES = 2 * 1024 * 1024,
    ORIGIN_MAX = 320
};

/* One attempt of one request: a curl handle, used again after the attempt. */
struct attempt {
    struct http_driver *driver;
    struct attempt *next_free;
    CURL *easy;
    char curl_error[CURL_ERROR_SIZE];
    /* this attempt's */
    struct s3d_request *request;
    const struct s3d_http_protocol *protocol;
    struct s3d_http_message message;
    const struct s3d_http_proxy *proxy; /* by which it goes; NULL: none */
    struct curl_slist *headers;
    struct s3d_http_answer answer;
    size_t headers_bytes;
    size_t send_span, send_skip;       /* where the next body byte to send is */
    size_t receive_span, receive_skip; /* where the next received byte goes */
    size_t touched_bytes;              /* of that span, where it is fresh memory */
    int64_t moved_ms;         /* a patient message's: when the last byte came or went */
    curl_off_t moved_bytes;   /* and how many had by then */
    bool judged;              /* accept_body has been asked */
    bool place;               /* and said: into the spans */
    struct s3d_error failure; /* of a callback; code OK: none */
};

struct http_driver {
    struct s3d_driver base;
    CURLM *multi;
    struct attempt *free_attempts;
    struct s3d_http_ca *ca;
};

static struct http_driver *http_driver_of(struct s3d_driver *driver)
{
    return (struct http_driver *)(void *)driver;
}

/* ---- the answer ---- */

static size_t on_header(char *line, size_t size, size_t count, void *context)
{
    struct attempt *attempt = context;
    size_t length = size * count;
    bool connecting = s3d_http_proxy_is_connecting(attempt->proxy, attempt->easy);
    attempt->headers_bytes += length;
    if (!connecting) {
        s3d_attempt_heard(attempt->request);
    }
    if (attempt->headers_bytes > HEADERS_MAX_BYTES) {
        s3d_fail(&attempt->failure, S3D_PROTOCOL,
                 "the headers of the answer%s%s exceed %d bytes",
                 connecting ? " of the proxy " : "", connecting ? attempt->proxy->origin : "",
                 HEADERS_MAX_BYTES);
        return 0;
    }
    s3d_http_header(&attempt->answer, line, length);
    return length;
}

/* ---- bodies ---- */

/* Backs fresh memory a little ahead of what is written to it: so it is in the cache still. */
static void touch_span(struct attempt *attempt, const struct s3d_span *span, size_t end)
{
    size_t from = attempt->touched_bytes;
    if (end > from) {
        size_t left = span->length_bytes - from;
        size_t bytes = end - from > TOUCH_BYTES ? end - from : TOUCH_BYTES;
        bytes = bytes < left ? bytes : left;
        s3d_pages_touch(span->data + from, bytes);
        attempt->touched_bytes = from + bytes;
    }
}

static enum s3d_code place_bytes(struct attempt *attempt, const char *data, size_t length)
{
    struct s3d_request *request = attempt->request;
    while (length) {
        if (attempt->receive_span == request->span_count) {
            return s3d_fail(&attempt->failure, S3D_PROTOCOL,
                            "the answer's body is longer than its headers said");
        }
        const struct s3d_span *span = &request->spans[attempt->receive_span];
        size_t room = span->length_bytes - attempt->receive_skip;
        size_t piece = length < room ? length : room;
        if (piece) {
            if (request->fresh) {
                touch_span(attempt, span, attempt->receive_skip + piece);
            }
            memcpy(span->data + attempt->receive_skip, data, piece);
        }
        data += piece;
        length -= piece;
        attempt->receive_skip += piece;
        request->result.received_bytes += piece;
        if (attempt->receive_skip == span->length_bytes) {
            attempt->receive_span++;
            attempt->receive_skip = attempt->touched_bytes = 0;
        }
    }
    return S3D_OK;
}

static enum s3d_code judge(struct attempt *attempt)
{
    long status = 0;
    curl_easy_getinfo(attempt->easy, CURLINFO_RESPONSE_CODE, &status);
    attempt->answer.status = (int)status;
    attempt->judged = true;
    struct s3d_request *request = attempt->request;
    enum s3d_code code = attempt->protocol->accept_body(request, &attempt->answer,
                                                        &attempt->place, &attempt->failure);
    if (!code && attempt->place && request->begins) {
        code = request->begins(request, &attempt->failure);
    }
    return code;
}

/* A body that is too long is the server's fault, and no wrong value of the caller's. */
static enum s3d_code check_text(const struct s3d_str *text, struct s3d_error *error)
{
    enum s3d_code code = s3d_str_check(text, error);
    if (code == S3D_INVALID) {
        code = s3d_fail(error, S3D_PROTOCOL, "the answer's body is longer than %zu bytes",
                        text->max);
    }
    return code;
}

static size_t on_receive(char *data, size_t size, size_t count, void *context)
{
    struct attempt *attempt = context;
    size_t length = size * count;
    s3d_attempt_heard(attempt->request);
    if (!attempt->judged && judge(attempt)) {
        return 0;
    }
    if (!attempt->place) {
        s3d_str_add_bytes(&attempt->answer.text, data, length);
        return check_text(&attempt->answer.text, &attempt->failure) ? 0 : length;
    }
    return place_bytes(attempt, data, length) ? 0 : length;
}

static size_t on_send(char *buffer, size_t size, size_t count, void *context)
{
    struct attempt *attempt = context;
    size_t room = size * count, sent = 0;
    while (room && attempt->send_span < attempt->message.body_count) {
        const struct s3d_span *span = &attempt->message.body[attempt->send_span];
        size_t left = span->length_bytes - attempt->send_skip;
        size_t piece = left < room ? left : room;
        if (piece) {
            memcpy(buffer + sent, span->data + attempt->send_skip, piece);
        }
        sent += piece;
        room -= piece;
        attempt->send_skip += piece;
        if (attempt->send_skip == span->length_bytes) {
            attempt->send_span++;
            attempt->send_skip = 0;
        }
    }
    return sent;
}

/* curl rewinds when a kept-alive connection turns out to be dead: only ever to the start. */
static int on_seek(void *context, curl_off_t offset, int origin)
{
    struct attempt *attempt = context;
    if (origin != SEEK_SET || offset != 0) {
        return CURL_SEEKFUNC_FAIL;
    }
    attempt->send_span = 0;
    attempt->send_skip = 0;
    return CURL_SEEKFUNC_OK;
}

/* Our sockets must not leak into programs that the user's process starts. */
static int on_socket(void *context, curl_socket_t socket, curlsocktype purpose)
{
    (void)context;
    (void)purpose;
    return fcntl(socket, F_SETFD, FD_CLOEXEC) == 0 ? CURL_SOCKOPT_OK : CURL_SOCKOPT_ERROR;
}

/* ---- one attempt ---- */

static void attempt_clear(struct attempt *attempt)
{
    s3d_str_fini(&attempt->message.url);
    s3d_secrets_fini(&attempt->message.headers); /* among them are some */
    s3d_secrets_fini(&attempt->message.secrets);
    s3d_str_fini(&attempt->message.text);
    s3d_str_fini(&attempt->answer.text);
    curl_slist_free_all(attempt->headers);
    attempt->headers = NULL;
    attempt->request = NULL;
}

static void attempt_free(struct attempt *attempt)
{
    attempt_clear(attempt);
    curl_easy_cleanup(attempt->easy);
    s3d_free(attempt);
}

static struct attempt *attempt_take(struct http_driver *driver)
{
    struct attempt *attempt = driver->free_attempts;
    if (attempt) {
        driver->free_attempts = attempt->next_free;
        return attempt;
    }
    attempt = s3d_alloc_zeroed(1, sizeof *attempt);
    if (attempt) {
        attempt->driver = driver;
        attempt->easy = curl_easy_init();
        if (!attempt->easy) {
            s3d_free(attempt);
            return NULL;
        }
    }
    return attempt;
}

static void attempt_give_back(struct attempt *attempt)
{
    struct http_driver *driver = attempt->driver;
    attempt_clear(attempt);
    attempt->next_free = driver->free_attempts;
    driver->free_attempts = attempt;
}

static void attempt_prepare(struct attempt *attempt, struct s3d_request *request)
{
    const struct s3d_http_store *store = (const struct s3d_http_store *)(void *)request->store;
    attempt->request = request;
    attempt->protocol = store->protocol;
    attempt->message = (struct s3d_http_message){.url = S3D_STR(16384),
                                                 .headers = S3D_STR(HEADERS_MAX_BYTES),
                                                 .text = S3D_STR(S3D_HTTP_TEXT_MAX),
                                                 .secrets = S3D_STR(S3D_SECRETS_MAX)};
    attempt->answer = (struct s3d_http_answer){.text = S3D_STR(S3D_HTTP_TEXT_MAX)};
    attempt->headers_bytes = 0;
    attempt->send_span = attempt->send_skip = 0;
    attempt->receive_span = attempt->receive_skip = attempt->touched_bytes = 0;
    attempt->moved_ms = attempt->moved_bytes = 0;
    attempt->judged = attempt->place = false;
    attempt->proxy = NULL;
    attempt->failure = (struct s3d_error){0};
    attempt->curl_error[0] = '\0';
    memset(&request->result.object, 0, sizeof request->result.object);
    request->result.received_bytes = 0;
    request->result.first_byte = 0;
    request->result.compared = false;
    request->result.answer_us = request->result.elapsed_us = 0;
}

static enum s3d_code add_headers(struct attempt *attempt, struct s3d_error *error)
{
    const struct s3d_str *headers = &attempt->message.headers;
    const char *end = headers->data + headers->length;
    for (const char *line = headers->data; line && line < end; line += strlen(line) + 1) {
        struct curl_slist *longer = curl_slist_append(attempt->headers, line);
        if (!longer) {
            return s3d_fail_memory(error, strlen(line) + 1);
        }
        attempt->headers = longer;
    }
    return S3D_OK;
}

static void set_body(CURL *easy, const struct s3d_http_message *message)
{
    curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE,
                     (curl_off_t)s3d_spans_bytes(message->body, message->body_count));
    curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, (long)SEND_BUFFER_BYTES);
}

static void set_method(CURL *easy, const struct s3d_http_message *message)
{
    if (strcmp(message->method, "GET") == 0) {
        curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
    } else if (strcmp(message->method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else {
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, message->method);
    }
    if (strcmp(message->method, "PUT") == 0 || strcmp(message->method, "POST") == 0) {
        set_body(easy, message);
    }
}

static void set_limits(CURL *easy)
{
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)RECEIVE_BUFFER_BYTES);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, (long)LOW_SPEED_BYTES_PER_S);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)LOW_SPEED_S);
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, (long)IDLE_CONNECTION_S);
    curl_easy_setopt(easy, CURLOPT_DNS_SHUFFLE_ADDRESSES, 1L);
}

#ifdef S3D_FAULTS
static atomic_uint hurry = 1;

void s3d_http_hurry(unsigned times)
{
    atomic_store(&hurry, times);
}
#else
enum { hurry = 1 };
#endif

/* libcurl asks about once in a second. */
static int on_progress(void *context, curl_off_t receive_bytes, curl_off_t received_bytes,
                       curl_off_t send_bytes, curl_off_t sent_bytes)
{
    struct attempt *attempt = context;
    int64_t now_ms = s3d_now_ms();
    (void)receive_bytes, (void)send_bytes;
    if (!attempt->moved_ms || received_bytes + sent_bytes != attempt->moved_bytes) {
        attempt->moved_bytes = received_bytes + sent_bytes;
        attempt->moved_ms = now_ms;
    }
    if (now_ms - attempt->moved_ms <= QUIET_MS / hurry) {
        return 0;
    }
    s3d_fail(&attempt->failure, S3D_TIMEOUT, "the server has said nothing for %d s",
             QUIET_MS / 1000);
    return 1;
}

/*
 * A store that makes an object of its parts may take minutes, and sends a blank now and then meanwhile
 * (S3, MinIO): no speed to speak of, so what counts is that it says something. The limit on speed stays for
 * the clock that it keeps going.
 */
static void set_patience(struct attempt *attempt)
{
    CURL *easy = attempt->easy;
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(PATIENCE_MS / hurry));
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)(PATIENCE_MS / 1000));
    curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(easy, CURLOPT_XFERINFODATA, attempt);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
}

static void set_callbacks(struct attempt *attempt)
{
    CURL *easy = attempt->easy;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, attempt);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, attempt->curl_error);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, attempt);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_receive);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, attempt);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_send);
    curl_easy_setopt(easy, CURLOPT_READDATA, attempt);
    curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_seek);
    curl_easy_setopt(easy, CURLOPT_SEEKDATA, attempt);
    curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_socket);
}

static enum s3d_code attempt_setup(struct attempt *attempt, struct s3d_error *error)
{
    CURL *easy = attempt->easy;
    enum s3d_code code = attempt->protocol->build(attempt->request, &attempt->message, error);
    if (!code) {
        code = s3d_str_check(&attempt->message.url, error);
    }
    if (!code) {
        code = s3d_str_check(&attempt->message.headers, error);
    }
    if (!code) {
        code = add_headers(attempt, error);
    }
    if (!code) {
        s3d_str_reserve(&attempt->answer.text, attempt->message.answer_bytes);
        code = s3d_str_check(&attempt->answer.text, error);
    }
    if (code) {
        return code;
    }
    const struct s3d_http_store *store =
        (const struct s3d_http_store *)(void *)attempt->request->store;
    const char *url = s3d_str_text(&attempt->message.url);
    bool tls = strncasecmp(url, "https:", 6) == 0;
    attempt->proxy = s3d_http_proxy_for(&store->proxy, url);
    s3d_secrets_add(&attempt->message.secrets, attempt->proxy ? attempt->proxy->login : NULL);
    curl_easy_reset(easy);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, attempt->headers);
    set_limits(easy);
    set_callbacks(attempt);
    if (attempt->message.patient) {
        set_patience(attempt);
    }
    set_method(easy, &attempt->message);
    code = s3d_str_check(&attempt->message.secrets, error);
    if (!code) {
        code = s3d_http_proxy_apply(attempt->proxy, easy, error);
    }
    if (!code && (tls || s3d_http_proxy_is_tls(attempt->proxy))) {
        code = s3d_http_ca_apply(&attempt->driver->ca, easy, store->ca_bundle, error);
    }
    return code;
}

/* ---- how an attempt ends ---- */

/* Source: libcurl's vtls/openssl.c, which quotes the system's, OpenSSL's or its own words. */
static bool is_broken_off(const char *detail)
{
    static const char *const words[] = {"SSL_ERROR_SYSCALL", "SSL_ERROR_ZERO_RETURN",
                                        "unexpected eof", "Connection reset", "Broken pipe"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strstr(detail, words[i])) {
            return true;
        }
    }
    return false;
}

enum s3d_code s3d_http_code_of_curl(int result, const char *detail)
{
    switch (result) {
    case CURLE_OUT_OF_MEMORY: return S3D_NO_MEMORY;
    case CURLE_OPERATION_TIMEDOUT: return S3D_TIMEOUT;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL: return S3D_INVALID;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CERTPROBLEM: return S3D_TLS;
    case CURLE_SSL_CONNECT_ERROR: return is_broken_off(detail) ? S3D_NETWORK : S3D_TLS;
    case CURLE_WEIRD_SERVER_REPLY: return S3D_PROTOCOL;
    default: return S3D_NETWORK;
    }
}

/* "http://host:port" of the message, for errors. */
static void describe_origin(const struct attempt *attempt, char out[ORIGIN_MAX])
{
    const char *url = s3d_str_text(&attempt->message.url);
    const char *host = strstr(url, "://");
    size_t length = host ? (size_t)(host - url) + 3 + strcspn(host + 3, "/") : strlen(url);
    s3d_copy_text(out, ORIGIN_MAX, url, length);
}

/*
 * What libcurl says of an answer's head that is none, as it also says of faults on this side: "out of
 * memory" of a line beyond its limit, "unsupported protocol" of what does not begin with HTTP/.
 */
static bool is_broken_head(const struct attempt *attempt, CURLcode result)
{
    curl_off_t begun_us = 0;
    return (result == CURLE_OUT_OF_MEMORY || result == CURLE_UNSUPPORTED_PROTOCOL) &&
           !attempt->judged &&
           curl_easy_getinfo(attempt->easy, CURLINFO_STARTTRANSFER_TIME_T, &begun_us) ==
               CURLE_OK &&
           begun_us > 0;
}

static enum s3d_code transport_failure(struct attempt *attempt, CURLcode result,
                                       struct s3d_error *error)
{
    if (attempt->failure.code) {
        return s3d_error_copy(error, &attempt->failure); /* one of our callbacks stopped it */
    }
    char origin[ORIGIN_MAX], way[2 * ORIGIN_MAX];
    const struct s3d_http_proxy *proxy = attempt->proxy;
    describe_origin(attempt, origin);
    snprintf(way, sizeof way, "%s%s%s", origin, proxy ? " by the proxy " : "",
             proxy ? proxy->origin : "");
    const char *detail =
        attempt->curl_error[0] ? attempt->curl_error : curl_easy_strerror(result);
    enum s3d_code code = S3D_OK;
    if (proxy) {
        code = s3d_http_proxy_failure(proxy, attempt->easy, (int)result, detail, origin, error);
    }
    if (code) {
        return code;
    }
    if (result == CURLE_COULDNT_CONNECT || result == CURLE_COULDNT_RESOLVE_HOST) {
        return s3d_fail(error, S3D_NETWORK, "no connection to %s: %s; is the endpoint right?",
                        way, detail);
    }
    if (is_broken_head(attempt, result)) {
        return s3d_fail(error, S3D_PROTOCOL, "%s: the answer's head is broken or too long: %s",
                        way, detail);
    }
    code = s3d_http_code_of_curl((int)result, detail);
    const char *advice = code == S3D_TLS ? "; is the server's certificate authority in "
                                           "AWS_CA_BUNDLE, or else in the system's bundle?"
                                         : "";
    return s3d_fail(error, code, "%s: %s%s", way, detail, advice);
}

static bool is_forwarded(const struct attempt *attempt)
{
    return s3d_http_proxy_forwards(attempt->proxy, s3d_str_text(&attempt->message.url));
}

/* What a proxy that forwards answers by itself looks like the store's answer. Whatever has no code of
 * the store's may be that. */
static void suspect_proxy(const struct attempt *attempt, struct s3d_error *error)
{
    const struct s3d_http_proxy *proxy = attempt->proxy;
    bool usual = error->code != S3D_DENIED && error->code != S3D_REJECTED &&
                 !s3d_code_retryable(error->code);
    if (is_forwarded(attempt) && !usual && !error->server_code[0] &&
        !strstr(error->message, proxy->origin)) {
        size_t used = strlen(error->message);
        snprintf(error->message + used, sizeof error->message - used,
                 "; perhaps it was the proxy %s", proxy->origin);
    }
}

static enum s3d_code conclude(struct attempt *attempt, CURLcode result, struct s3d_error *error)
{
    enum s3d_code code;
    if (result != CURLE_OK) {
        code = transport_failure(attempt, result, error);
    } else if (!attempt->judged && judge(attempt)) { /* there was no body */
        code = s3d_error_copy(error, &attempt->failure);
    } else if (is_forwarded(attempt) && attempt->answer.status == S3D_HTTP_PROXY_LOGIN) {
        char origin[ORIGIN_MAX];
        describe_origin(attempt, origin);
        code = s3d_http_proxy_refused(attempt->proxy, S3D_HTTP_PROXY_LOGIN, origin, error);
    } else {
        code = attempt->protocol->finish(attempt->request, &attempt->answer, error);
    }
    if (code) {
        error->code = code;
        if (attempt->answer.status) { /* else there may be one of the proxy's */
            error->http_status = attempt->answer.status;
        }
        error->unreached = result == CURLE_COULDNT_CONNECT;
        error->retry_after_ms = attempt->answer.retry_after_ms;
        suspect_proxy(attempt, error);
        if (!error->request_id[0]) {
            memcpy(error->request_id, attempt->answer.request_id, sizeof error->request_id);
        }
        /* Whatever of it is the server's text: here it becomes an error. */
        s3d_secrets_hide(&attempt->message.secrets, error);
    }
    return code;
}

static void take_times(const struct attempt *attempt)
{
    curl_off_t ready_us = 0, answer_us = 0, end_us = 0;
    curl_easy_getinfo(attempt->easy, CURLINFO_PRETRANSFER_TIME_T, &ready_us);
    curl_easy_getinfo(attempt->easy, CURLINFO_STARTTRANSFER_TIME_T, &answer_us);
    curl_easy_getinfo(attempt->easy, CURLINFO_TOTAL_TIME_T, &end_us);
    attempt->request->result.answer_us = answer_us > ready_us ? answer_us - ready_us : 0;
    attempt->request->result.elapsed_us = end_us > ready_us ? end_us - ready_us : 0;
}

static void end_attempt(struct attempt *attempt, CURLcode result)
{
    struct http_driver *driver = attempt->driver;
    struct s3d_request *request = attempt->request;
    take_times(attempt);
    curl_multi_remove_handle(driver->multi, attempt->easy);
    enum s3d_code code = conclude(attempt, result, &request->last);
    request->attempt = NULL;
    attempt_give_back(attempt);
    s3d_attempt_done(&driver->base, request, code);
}

/* ---- the driver ---- */

static unsigned http_capacity(const struct s3d_config *config, unsigned threads)
{
    uint64_t each = config->max_connections / threads;
    return each ? (unsigned)each : 1;
}

static void curl_start_once(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

void s3d_http_start_curl(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, curl_start_once);
}

static void http_close(struct s3d_driver *base)
{
    struct http_driver *driver = http_driver_of(base);
    while (driver->free_attempts) {
        struct attempt *attempt = driver->free_attempts;
        driver->free_attempts = attempt->next_free;
        attempt_free(attempt);
    }
    curl_multi_cleanup(driver->multi);
    s3d_http_ca_free(driver->ca);
    s3d_free(driver);
}

static enum s3d_code http_open(struct s3d_driver **out, const struct s3d_config *config,
                               unsigned capacity, struct s3d_error *error)
{
    (void)config;
    s3d_http_start_curl();
    struct http_driver *driver = s3d_alloc_zeroed(1, sizeof *driver);
    if (!driver) {
        return s3d_fail_memory(error, sizeof *driver);
    }
    driver->multi = curl_multi_init();
    if (!driver->multi) {
        s3d_free(driver);
        return s3d_fail(error, S3D_NO_MEMORY, "curl_multi_init failed");
    }
    curl_multi_setopt(driver->multi, CURLMOPT_MAXCONNECTS, (long)capacity);
    curl_multi_setopt(driver->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)capacity);
    curl_multi_setopt(driver->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    *out = &driver->base;
    return S3D_OK;
}

static void http_start(struct s3d_driver *base, struct s3d_request *request)
{
    struct http_driver *driver = http_driver_of(base);
    struct attempt *attempt = attempt_take(driver);
    if (!attempt) {
        s3d_attempt_done(base, request, s3d_fail_memory(&request->last, sizeof *attempt));
        return;
    }
    attempt_prepare(attempt, request);
    enum s3d_code code = attempt_setup(attempt, &request->last);
    if (!code && curl_multi_add_handle(driver->multi, attempt->easy) != CURLM_OK) {
        code = s3d_fail(&request->last, S3D_NO_MEMORY, "curl_multi_add_handle failed");
    }
    if (code) {
        attempt_give_back(attempt);
        s3d_attempt_done(base, request, code);
        return;
    }
    request->attempt = attempt;
    s3d_attempt_watch(request);
}

static void http_cancel(struct s3d_driver *base, struct s3d_request *request)
{
    struct http_driver *driver = http_driver_of(base);
    struct attempt *attempt = request->attempt;
    request->attempt = NULL;
    /* Removing an unfinished transfer closes its connection: nothing more is read or written. */
    curl_multi_remove_handle(driver->multi, attempt->easy);
    attempt_give_back(attempt);
}

static void http_poll(struct s3d_driver *base, int timeout_ms)
{
    struct http_driver *driver = http_driver_of(base);
    int running = 0, left = 0, ended = 0;
    curl_multi_perform(driver->multi, &running);
    for (CURLMsg *message; (message = curl_multi_info_read(driver->multi, &left));) {
        if (message->msg == CURLMSG_DONE) {
            struct attempt *attempt = NULL;
            CURLcode result = message->data.result;
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&attempt);
            end_attempt(attempt, result);
            ended++;
        }
    }
    if (!ended) {
        curl_multi_poll(driver->multi, NULL, 0, timeout_ms, NULL);
    }
}

static void http_wake(struct s3d_driver *base)
{
    curl_multi_wakeup(http_driver_of(base)->multi);
}

const struct s3d_driver_ops s3d_http_driver = {
    .name = "http",
    .capacity = http_capacity,
    .open = http_open,
    .start = http_start,
    .cancel = http_cancel,
    .poll = http_poll,
    .wake = http_wake,
    .close = http_close,
};
