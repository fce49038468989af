/*
 * The S3 protocol: requests to HTTP messages and answers back to results.
 * Source: Amazon S3 API Reference (REST).
 */
#include "backends/auth.h"
#include "backends/backends.h"
#include "backends/credentials.h"
#include "backends/http.h"
#include "backends/xml.h"
#include "core/config.h"
#include "core/mem.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

static const uint64_t MIB = 1024 * 1024;
static const uint64_t GIB = 1024 * 1024 * 1024;

struct s3_store {
    struct s3d_http_store http;
    /* frozen */
    char *origin; /* "https://host:port", the bucket in front of the host where virtual */
    char *host;   /* the Host header: what follows "://" */
    char *path;   /* before the key: "/" or "/bucket/" */
    char *region;
    bool sign_payload;
    struct s3d_credentials credentials;
};

static struct s3_store *s3_store_of(const struct s3d_request *request)
{
    return (struct s3_store *)(void *)request->store;
}

/* ---- messages ---- */

/* A query kept in canonical order: add names in ascending order. */
static void query_add(struct s3d_str *query, const char *name, const char *value)
{
    s3d_str_add(query, query->length ? "&" : "");
    s3d_str_add(query, name);
    s3d_str_add(query, "=");
    s3d_str_add_encoded(query, value, false);
}

static void query_build(const struct s3d_request *request, struct s3d_str *query)
{
    char number[16];
    switch (request->verb) {
    case S3D_VERB_LIST:
        if (request->list_token) {
            query_add(query, "continuation-token", request->list_token);
        }
        query_add(query, "encoding-type", "url");
        query_add(query, "list-type", "2");
        query_add(query, "prefix", request->key);
        break;
    case S3D_VERB_UPLOAD_CREATE: query_add(query, "uploads", ""); break;
    case S3D_VERB_UPLOAD_PART:
        snprintf(number, sizeof number, "%u", request->part_number);
        query_add(query, "partNumber", number);
        query_add(query, "uploadId", request->upload_id);
        break;
    case S3D_VERB_UPLOAD_COMPLETE:
    case S3D_VERB_UPLOAD_ABORT: query_add(query, "uploadId", request->upload_id); break;
    case S3D_VERB_STAT:
    case S3D_VERB_GET:
    case S3D_VERB_PUT:
    case S3D_VERB_DELETE: break;
    }
}

static const char *method_of(enum s3d_verb verb)
{
    switch (verb) {
    case S3D_VERB_STAT: return "HEAD";
    case S3D_VERB_PUT:
    case S3D_VERB_UPLOAD_PART: return "PUT";
    case S3D_VERB_UPLOAD_CREATE:
    case S3D_VERB_UPLOAD_COMPLETE: return "POST";
    case S3D_VERB_DELETE:
    case S3D_VERB_UPLOAD_ABORT: return "DELETE";
    case S3D_VERB_GET:
    case S3D_VERB_LIST: break;
    }
    return "GET";
}

static void complete_xml(const struct s3d_request *request, struct s3d_str *text)
{
    s3d_str_add(text, "<CompleteMultipartUpload "
                      "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (size_t i = 0; i < request->part_count; i++) {
        s3d_str_add_format(text, "<Part><PartNumber>%u</PartNumber><ETag>",
                           request->parts[i].number);
        s3d_str_add_xml(text, request->parts[i].etag);
        s3d_str_add(text, "</ETag></Part>");
    }
    s3d_str_add(text, "</CompleteMultipartUpload>");
}

static enum s3d_code body_build(struct s3d_request *request, struct s3d_http_message *message,
                                struct s3d_error *error)
{
    if (request->verb == S3D_VERB_PUT || request->verb == S3D_VERB_UPLOAD_PART) {
        message->body = request->spans;
        message->body_count = request->span_count;
    } else if (request->verb == S3D_VERB_UPLOAD_COMPLETE) {
        complete_xml(request, &message->text);
        message->text_span = (struct s3d_span){message->text.data, message->text.length};
        message->body = &message->text_span;
        message->body_count = 1;
    }
    return s3d_str_check(&message->text, error);
}

/* The signed headers, sorted by name as the signature wants them. */
enum { SIGNED_MAX = 64 };

struct header_set {
    struct s3d_header headers[SIGNED_MAX];
    size_t count;
};

static void header_add(struct header_set *set, const char *name, const char *value)
{
    size_t at = set->count;
    while (at && strcmp(set->headers[at - 1].name, name) > 0) {
        set->headers[at] = set->headers[at - 1];
        at--;
    }
    set->headers[at] = (struct s3d_header){name, value};
    set->count++;
}

/* Names of user metadata: x-amz-meta- in front, in lower case; one text for all of them. */
static void metadata_names(const struct s3d_put_options *options, struct s3d_str *names)
{
    for (size_t i = 0; i < options->metadata_count; i++) {
        s3d_str_add(names, "x-amz-meta-");
        for (const char *c = options->metadata[2 * i]; *c; c++) {
            char lower = *c >= 'A' && *c <= 'Z' ? (char)(*c + 'a' - 'A') : *c;
            s3d_str_add_bytes(names, &lower, 1);
        }
        s3d_str_add_bytes(names, "", 1);
    }
}

static bool is_token(const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c <= ' ' || *c >= 127 || strchr("()<>@,;:\\\"/[]?={}", *c)) {
            return false;
        }
    }
    return *text != '\0';
}

static bool is_header_value(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c < ' ' || *c == 127) {
            return false;
        }
    }
    return true;
}

static enum s3d_code check_options(const struct s3d_put_options *options, struct s3d_error *error)
{
    const char *const values[] = {options->content_type, options->content_encoding,
                                  options->storage_class};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (values[i] && !is_header_value(values[i])) {
            return s3d_fail(error, S3D_INVALID, "a control character in the header value \"%.64s\"",
                            values[i]);
        }
    }
    if (options->metadata_count > SIGNED_MAX / 2) {
        return s3d_fail(error, S3D_INVALID, "more than %d metadata entries", SIGNED_MAX / 2);
    }
    for (size_t i = 0; i < options->metadata_count; i++) {
        if (!is_token(options->metadata[2 * i]) || !is_header_value(options->metadata[2 * i + 1])) {
            return s3d_fail(error, S3D_INVALID,
                            "the metadata entry \"%.64s\" is not a valid HTTP header",
                            options->metadata[2 * i]);
        }
    }
    return S3D_OK;
}

static void add_put_options(struct header_set *set, const struct s3d_request *request,
                            const char *metadata_name)
{
    const struct s3d_put_options *options = request->options;
    bool creates = request->verb == S3D_VERB_PUT || request->verb == S3D_VERB_UPLOAD_CREATE;
    bool commits = request->verb == S3D_VERB_PUT || request->verb == S3D_VERB_UPLOAD_COMPLETE;
    if (commits && options->if_none_match) {
        header_add(set, "if-none-match", "*");
    }
    if (!creates) {
        return;
    }
    header_add(set, "content-type",
               options->content_type ? options->content_type : "application/octet-stream");
    if (options->content_encoding) {
        header_add(set, "content-encoding", options->content_encoding);
    }
    if (options->storage_class) {
        header_add(set, "x-amz-storage-class", options->storage_class);
    }
    for (size_t i = 0; i < options->metadata_count; i++) {
        header_add(set, metadata_name, options->metadata[2 * i + 1]);
        metadata_name += strlen(metadata_name) + 1;
    }
}

static void message_header(struct s3d_str *headers, const char *name, const char *value)
{
    /* "Name;" is how curl is told to send a header without a value. */
    s3d_str_add_format(headers, *value ? "%s: %s" : "%s;", name, value);
    s3d_str_add_bytes(headers, "", 1);
}

/* What the headers of one message are made of, kept while the message is built. */
struct signing {
    struct header_set set;
    char date[S3D_AMZ_DATE];
    char payload[S3D_SHA256_HEX];
    char range[64];
    struct s3d_str metadata_names;
};

static void add_get_headers(struct signing *signing, const struct s3d_request *request)
{
    if (request->suffix) {
        snprintf(signing->range, sizeof signing->range, "bytes=-%llu",
                 (unsigned long long)request->length_bytes);
    } else {
        snprintf(signing->range, sizeof signing->range, "bytes=%llu-%llu",
                 (unsigned long long)request->offset_bytes,
                 (unsigned long long)(request->offset_bytes + request->length_bytes - 1));
    }
    header_add(&signing->set, "range", signing->range);
    if (request->if_match) {
        header_add(&signing->set, "if-match", request->if_match);
    }
}

static enum s3d_code collect_headers(struct signing *signing, const struct s3_store *store,
                                     const struct s3d_request *request,
                                     const struct s3d_http_message *message,
                                     struct s3d_error *error)
{
    enum s3d_code code = S3D_OK;
    header_add(&signing->set, "host", store->host);
    if (request->verb == S3D_VERB_GET) {
        add_get_headers(signing, request);
    }
    if (request->options) {
        code = check_options(request->options, error);
        if (!code) {
            metadata_names(request->options, &signing->metadata_names);
            code = s3d_str_check(&signing->metadata_names, error);
        }
        if (code) {
            return code;
        }
        add_put_options(&signing->set, request, s3d_str_text(&signing->metadata_names));
    }
    if (store->credentials.anonymous) {
        return S3D_OK;
    }
    s3d_amz_date(signing->date, (int64_t)time(NULL));
    header_add(&signing->set, "x-amz-date", signing->date);
    if (store->credentials.session_token) {
        header_add(&signing->set, "x-amz-security-token", store->credentials.session_token);
    }
    bool is_bulk = request->verb == S3D_VERB_PUT || request->verb == S3D_VERB_UPLOAD_PART;
    if (is_bulk && !store->sign_payload) {
        snprintf(signing->payload, sizeof signing->payload, "UNSIGNED-PAYLOAD");
    } else {
        code = s3d_sha256_hex(signing->payload, message->body, message->body_count, error);
    }
    header_add(&signing->set, "x-amz-content-sha256", signing->payload);
    return code;
}

static enum s3d_code sign(const struct signing *signing, const struct s3_store *store,
                          const char *method, const char *path, const char *query,
                          struct s3d_str *headers, struct s3d_error *error)
{
    struct s3d_sigv4 request = {
        .access_key = store->credentials.access_key,
        .secret_key = store->credentials.secret_key,
        .region = store->region,
        .service = "s3",
        .method = method,
        .path = path,
        .query = query,
        .headers = signing->set.headers,
        .header_count = signing->set.count,
        .payload = signing->payload,
        .date = signing->date,
    };
    s3d_str_add(headers, "Authorization: ");
    enum s3d_code code = s3d_sigv4_authorize(&request, headers, error);
    s3d_str_add_bytes(headers, "", 1);
    return code;
}

static enum s3d_code s3_build(struct s3d_request *request, struct s3d_http_message *message,
                              struct s3d_error *error)
{
    const struct s3_store *store = s3_store_of(request);
    struct signing signing = {.metadata_names = S3D_STR(16384)};
    struct s3d_str path = S3D_STR(8192), query = S3D_STR(16384);
    message->method = method_of(request->verb);
    s3d_str_add(&path, store->path);
    if (request->verb != S3D_VERB_LIST) {
        s3d_str_add_encoded(&path, request->key, true);
    }
    query_build(request, &query);
    enum s3d_code code = s3d_str_check(&path, error);
    if (!code) {
        code = s3d_str_check(&query, error);
    }
    if (!code) {
        code = body_build(request, message, error);
    }
    if (!code) {
        code = collect_headers(&signing, store, request, message, error);
    }
    if (code) {
        goto done;
    }
    s3d_str_add(&message->url, store->origin);
    s3d_str_add(&message->url, path.data);
    s3d_str_add(&message->url, query.length ? "?" : "");
    s3d_str_add(&message->url, s3d_str_text(&query));
    for (size_t i = 0; i < signing.set.count; i++) {
        message_header(&message->headers, signing.set.headers[i].name,
                       signing.set.headers[i].value);
    }
    if (!store->credentials.anonymous) {
        code = sign(&signing, store, message->method, path.data, s3d_str_text(&query),
                    &message->headers, error);
    }
    /* No pause for "100 Continue". */
    s3d_str_add_bytes(&message->headers, "Expect:", sizeof "Expect:");

done:
    s3d_str_fini(&path);
    s3d_str_fini(&query);
    s3d_str_fini(&signing.metadata_names);
    return code;
}

/* ---- answers ---- */

static enum s3d_code check_range(struct s3d_request *request, const struct s3d_http_answer *answer,
                                 struct s3d_error *error)
{
    uint64_t first = request->offset_bytes, length = request->length_bytes;
    if (request->suffix) {
        length = answer->range_total < length ? answer->range_total : length;
        first = answer->range_total - length;
    }
    if (!answer->has_range) {
        return s3d_fail(error, S3D_PROTOCOL, "a partial answer without a valid Content-Range");
    }
    bool is_asked = answer->range_first == first && answer->range_last - first + 1 == length;
    if (!is_asked) {
        bool beyond = !request->suffix && answer->range_first == first &&
                      answer->range_last + 1 == answer->range_total &&
                      answer->range_last - first + 1 < length;
        return s3d_fail(error, beyond ? S3D_RANGE : S3D_PROTOCOL,
                        "asked for bytes %llu-%llu, got bytes %llu-%llu of %llu",
                        (unsigned long long)first, (unsigned long long)(first + length - 1),
                        (unsigned long long)answer->range_first,
                        (unsigned long long)answer->range_last,
                        (unsigned long long)answer->range_total);
    }
    if (answer->has_length && answer->length_bytes != length) {
        return s3d_fail(error, S3D_PROTOCOL, "Content-Length %llu does not fit Content-Range",
                        (unsigned long long)answer->length_bytes);
    }
    request->result.first_byte = first;
    request->result.object.size_bytes = answer->range_total;
    return S3D_OK;
}

/* 200 to a request for a range: fine when the whole object is what was asked for. */
static enum s3d_code check_whole(struct s3d_request *request, const struct s3d_http_answer *answer,
                                 struct s3d_error *error)
{
    bool is_asked = answer->has_length && request->offset_bytes == 0 &&
                    (request->suffix ? answer->length_bytes <= request->length_bytes
                                     : answer->length_bytes == request->length_bytes);
    if (!is_asked) {
        return s3d_fail(error, S3D_PROTOCOL, "the server ignored the range and sent the whole object");
    }
    request->result.first_byte = 0;
    request->result.object.size_bytes = answer->length_bytes;
    return S3D_OK;
}

static enum s3d_code s3_accept_body(struct s3d_request *request,
                                    const struct s3d_http_answer *answer, bool *place,
                                    struct s3d_error *error)
{
    *place = request->verb == S3D_VERB_GET && (answer->status == 200 || answer->status == 206);
    if (!*place) {
        return S3D_OK;
    }
    if (request->if_match && answer->etag[0] && strcmp(request->if_match, answer->etag) != 0) {
        return s3d_fail(error, S3D_CHANGED,
                        "the object was replaced while it was read: ETag %s, now %s",
                        request->if_match, answer->etag);
    }
    return answer->status == 206 ? check_range(request, answer, error)
                                 : check_whole(request, answer, error);
}

/* The store's own error codes that say more than the HTTP status; others go by status. */
static const struct {
    const char *server_code;
    enum s3d_code code;
} known_codes[] = {
    {"NoSuchKey", S3D_NOT_FOUND},
    {"NoSuchBucket", S3D_NOT_FOUND},
    {"NoSuchUpload", S3D_NOT_FOUND},
    {"NoSuchVersion", S3D_NOT_FOUND},
    {"SlowDown", S3D_THROTTLED},
    {"ServiceUnavailable", S3D_THROTTLED},
    {"RequestTimeout", S3D_TIMEOUT},
    {"InternalError", S3D_SERVER},
    {"BadDigest", S3D_INTEGRITY},
    {"XAmzContentSHA256Mismatch", S3D_INTEGRITY},
    {"InvalidRange", S3D_RANGE},
};

static enum s3d_code code_of_status(const struct s3d_request *request, int status)
{
    switch (status) {
    case 401:
    case 403: return S3D_DENIED;
    case 404: return S3D_NOT_FOUND;
    case 408: return S3D_TIMEOUT;
    case 412:
        return request->options && request->options->if_none_match ? S3D_EXISTS : S3D_CHANGED;
    case 416: return S3D_RANGE;
    case 429:
    case 503: return S3D_THROTTLED;
    default: return status >= 500 ? S3D_SERVER : status >= 400 ? S3D_REJECTED : S3D_PROTOCOL;
    }
}

/* What to do about it, where that is not plain from the store's own words. */
static const char *advice(enum s3d_code code, int status, const char *server_code)
{
    if (strcmp(server_code, "SignatureDoesNotMatch") == 0) {
        return "; check the secret key (AWS_SECRET_ACCESS_KEY)";
    }
    if (strcmp(server_code, "InvalidAccessKeyId") == 0) {
        return "; check the access key (AWS_ACCESS_KEY_ID)";
    }
    if (strcmp(server_code, "RequestTimeTooSkewed") == 0) {
        return "; set this machine's clock";
    }
    if (strcmp(server_code, "AuthorizationHeaderMalformed") == 0 || status == 301 ||
        status == 307) {
        return "; the bucket lies in another region: set AWS_REGION";
    }
    return code == S3D_DENIED ? "; check the credentials and the bucket's policy" : "";
}

static enum s3d_code fail_by_answer(const struct s3d_request *request,
                                    const struct s3d_http_answer *answer, struct s3d_error *error)
{
    struct s3d_xml_error xml = {0};
    s3d_xml_error(s3d_str_text(&answer->text), answer->text.length, &xml);
    enum s3d_code code = code_of_status(request, answer->status);
    for (size_t i = 0; i < sizeof known_codes / sizeof *known_codes; i++) {
        if (strcmp(known_codes[i].server_code, xml.code) == 0) {
            code = known_codes[i].code;
        }
    }
    const char *region = xml.region[0] ? xml.region : answer->region;
    const char *text = xml.message[0] ? xml.message
                       : code == S3D_NOT_FOUND ? "no such object or bucket"
                                               : "the server refused";
    s3d_fail(error, code, "%s%s%s%s", text, advice(code, answer->status, xml.code),
             region[0] && code == S3D_REJECTED ? ", here to " : "",
             region[0] && code == S3D_REJECTED ? region : "");
    memcpy(error->server_code, xml.code, sizeof error->server_code);
    memcpy(error->request_id, xml.request_id, sizeof error->request_id);
    return code;
}

static void take_object(struct s3d_request *request, const struct s3d_http_answer *answer)
{
    struct s3d_object *object = &request->result.object;
    memcpy(object->etag, answer->etag, sizeof object->etag);
    object->modified_s = answer->modified_s;
}

static enum s3d_code finish_get(struct s3d_request *request, const struct s3d_http_answer *answer,
                                struct s3d_error *error)
{
    if (answer->status == 416 && request->suffix && answer->range_unsatisfied &&
        answer->range_total == 0) {
        return S3D_OK; /* the last bytes of an empty object: there are none */
    }
    if (answer->status != 200 && answer->status != 206) {
        return fail_by_answer(request, answer, error);
    }
    uint64_t expected = answer->status == 206 ? answer->range_last - answer->range_first + 1
                                              : answer->length_bytes;
    if (request->result.received_bytes != expected) {
        return s3d_fail(error, S3D_NETWORK, "the body ended after %llu of %llu bytes",
                        (unsigned long long)request->result.received_bytes,
                        (unsigned long long)expected);
    }
    take_object(request, answer);
    return S3D_OK;
}

static enum s3d_code finish_text(struct s3d_request *request, struct s3d_http_answer *answer,
                                 struct s3d_error *error)
{
    const char *text = s3d_str_text(&answer->text);
    size_t length = answer->text.length;
    struct s3d_xml_error xml;
    switch (request->verb) {
    case S3D_VERB_LIST:
        request->list->reset(request->list->context);
        return s3d_xml_list(text, length, request->list, request->result.next_token,
                            sizeof request->result.next_token, error);
    case S3D_VERB_UPLOAD_CREATE:
        return s3d_xml_upload_id(text, length, request->result.upload_id,
                                 sizeof request->result.upload_id, error);
    case S3D_VERB_UPLOAD_COMPLETE:
        /* S3 answers 200 at once and may tell of a failure later, in the body. */
        if (s3d_xml_error(text, length, &xml)) {
            answer->status = 500;
            return fail_by_answer(request, answer, error);
        }
        return s3d_xml_complete(text, length, request->result.object.etag,
                                sizeof request->result.object.etag, error);
    case S3D_VERB_PUT:
    case S3D_VERB_UPLOAD_PART:
        if (!answer->etag[0]) {
            return s3d_fail(error, S3D_PROTOCOL, "the answer carries no ETag");
        }
        take_object(request, answer);
        return S3D_OK;
    case S3D_VERB_STAT:
        if (!answer->has_length) {
            return s3d_fail(error, S3D_PROTOCOL, "the answer carries no Content-Length");
        }
        request->result.object.size_bytes = answer->length_bytes;
        take_object(request, answer);
        return S3D_OK;
    case S3D_VERB_GET:
    case S3D_VERB_DELETE:
    case S3D_VERB_UPLOAD_ABORT: break;
    }
    return S3D_OK;
}

static enum s3d_code s3_finish(struct s3d_request *request, struct s3d_http_answer *answer,
                               struct s3d_error *error)
{
    if (request->verb == S3D_VERB_GET) {
        return finish_get(request, answer, error);
    }
    bool is_gone = answer->status == 404 && (request->verb == S3D_VERB_DELETE ||
                                             request->verb == S3D_VERB_UPLOAD_ABORT);
    struct s3d_xml_error xml = {0};
    s3d_xml_error(s3d_str_text(&answer->text), answer->text.length, &xml);
    if (is_gone && strcmp(xml.code, "NoSuchBucket") != 0) {
        return S3D_OK;
    }
    if (answer->status < 200 || answer->status > 299) {
        return fail_by_answer(request, answer, error);
    }
    return finish_text(request, answer, error);
}

static const struct s3d_http_protocol s3_protocol = {
    .build = s3_build,
    .accept_body = s3_accept_body,
    .finish = s3_finish,
};

/* ---- opening ---- */

static void s3_close(struct s3d_store *base)
{
    struct s3_store *store = (struct s3_store *)(void *)base;
    s3d_free(store->http.ca_bundle);
    s3d_free(store->origin);
    s3d_free(store->host);
    s3d_free(store->path);
    s3d_free(store->region);
    s3d_credentials_fini(&store->credentials);
    s3d_free(store);
}

static const struct s3d_store_ops s3_ops = {.driver = &s3d_http_driver, .close = s3_close};

/* "scheme://authority" without a trailing slash; a path behind it is refused. */
static enum s3d_code check_endpoint(const char *endpoint, const char **authority,
                                    size_t *length, struct s3d_error *error)
{
    const char *rest = strncasecmp(endpoint, "https://", 8) == 0  ? endpoint + 8
                       : strncasecmp(endpoint, "http://", 7) == 0 ? endpoint + 7
                                                                  : NULL;
    if (rest) {
        *authority = rest;
        *length = strcspn(rest, "/");
        size_t slashes = strspn(rest + *length, "/");
        if (*length && !rest[*length + slashes] && !strpbrk(rest, "@?# \t\r\n")) {
            return S3D_OK;
        }
    }
    return s3d_fail(error, S3D_INVALID,
                    "the endpoint \"%.200s\" is not http://host[:port] or https://host[:port] "
                    "(AWS_ENDPOINT_URL)",
                    endpoint);
}

static bool is_address(const char *authority, size_t length)
{
    return authority[0] == '[' || strspn(authority, "0123456789.:") >= length;
}

static enum s3d_code choose_addressing(const struct s3d_config *config, const char *bucket,
                                       const char *authority, size_t length, bool *virtual,
                                       struct s3d_error *error)
{
    const char *addressing = config->addressing ? config->addressing : "auto";
    bool dotted = strchr(bucket, '.') != NULL; /* no wildcard certificate covers it */
    if (strcmp(addressing, "path") == 0) {
        *virtual = false;
    } else if (strcmp(addressing, "virtual") == 0) {
        *virtual = !is_address(authority, length);
    } else if (strcmp(addressing, "auto") == 0) {
        *virtual = !config->endpoint && !dotted;
    } else {
        return s3d_fail(error, S3D_INVALID,
                        "S3DLIO_ADDRESSING is \"%.32s\", but must be auto, path or virtual",
                        addressing);
    }
    return S3D_OK;
}

static enum s3d_code set_address(struct s3_store *store, const struct s3d_config *config,
                                 const char *endpoint, const char *bucket, struct s3d_error *error)
{
    const char *authority = NULL;
    size_t length = 0;
    bool virtual = false;
    enum s3d_code code = check_endpoint(endpoint, &authority, &length, error);
    if (!code) {
        code = choose_addressing(config, bucket, authority, length, &virtual, error);
    }
    if (code) {
        return code;
    }
    struct s3d_str origin = S3D_STR(4096), path = S3D_STR(4096);
    s3d_str_add_bytes(&origin, endpoint, (size_t)(authority - endpoint));
    size_t host_at = origin.length;
    if (virtual) {
        s3d_str_add_format(&origin, "%s.", bucket);
    }
    s3d_str_add_bytes(&origin, authority, length);
    s3d_str_add(&path, "/");
    if (!virtual) {
        s3d_str_add_encoded(&path, bucket, false);
        s3d_str_add(&path, "/");
    }
    code = s3d_str_check(&origin, error);
    if (!code) {
        code = s3d_str_check(&path, error);
    }
    if (!code) {
        store->host = s3d_copy_string(origin.data + host_at);
        code = store->host ? S3D_OK : s3d_fail_memory(error, origin.length);
    }
    store->origin = origin.data; /* ownership moves */
    store->path = path.data;
    return code;
}

/* The setting, else the profile's, else `fallback`. The caller frees *value. */
static enum s3d_code setting_or_profile(const struct s3d_config *config, const char *setting,
                                        const char *profile_name, char **value,
                                        struct s3d_error *error)
{
    if (setting) {
        *value = s3d_copy_string(setting);
        return *value ? S3D_OK : s3d_fail_memory(error, strlen(setting) + 1);
    }
    return s3d_profile_setting(config, profile_name, value, error);
}

static enum s3d_code set_endpoint(struct s3_store *store, const struct s3d_config *config,
                                  const char *bucket, struct s3d_error *error)
{
    char *endpoint = NULL;
    struct s3d_str amazon = S3D_STR(256);
    struct s3d_config effective = *config;
    enum s3d_code code = setting_or_profile(config, config->region, "region", &store->region, error);
    if (!code && !store->region) {
        store->region = s3d_copy_string("us-east-1");
        code = store->region ? S3D_OK : s3d_fail_memory(error, 16);
    }
    if (!code) {
        code = setting_or_profile(config, config->endpoint, "endpoint_url", &endpoint, error);
    }
    if (code) {
        goto done;
    }
    effective.endpoint = endpoint; /* decides on addressing */
    if (!endpoint) {
        s3d_str_add_format(&amazon, "https://s3.%s.amazonaws.com", store->region);
        code = s3d_str_check(&amazon, error);
    }
    if (!code) {
        code = set_address(store, &effective, endpoint ? endpoint : amazon.data, bucket, error);
    }

done:
    s3d_free(endpoint);
    s3d_str_fini(&amazon);
    return code;
}

enum s3d_code s3d_s3_open(struct s3d_store **out, struct s3d_engine *engine,
                          const struct s3d_config *config, const char *bucket,
                          struct s3d_error *error)
{
    struct s3_store *store = s3d_alloc_zeroed(1, sizeof *store);
    if (!store) {
        return s3d_fail_memory(error, sizeof *store);
    }
    store->sign_payload = config->sign_payload;
    store->http.protocol = &s3_protocol;
    store->http.base.limits = (struct s3d_limits){
        .part_min_bytes = 5 * MIB,
        .part_max_bytes = 5 * GIB,
        .parts_max = 10000,
        .object_max_bytes = 10000 * 5 * GIB, /* 48.8 TiB */
        .put_max_bytes = 5 * GIB,
    };
    enum s3d_code code = set_endpoint(store, config, bucket, error);
    if (!code) {
        code = s3d_credentials_load(&store->credentials, config, error);
    }
    if (!code && config->ca_bundle) {
        store->http.ca_bundle = s3d_copy_string(config->ca_bundle);
        code = store->http.ca_bundle ? S3D_OK : s3d_fail_memory(error, strlen(config->ca_bundle));
    }
    if (!code) {
        code = s3d_store_init(&store->http.base, &s3_ops, engine, error);
    }
    if (code) {
        s3_close(&store->http.base);
    } else {
        *out = &store->http.base;
    }
    return code;
}
