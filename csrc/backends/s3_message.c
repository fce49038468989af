#include "backends/auth.h"
#include "backends/s3.h"
#include "backends/secrets.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* For what an upload is called, or that it is done: that must not get lost for want of memory,
 * since nobody could remove the upload then. */
enum { ANSWER_BYTES = 4096 };

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
        s3d_str_add(text, "</ETag>");
        s3d_s3_checksum_xml(request, &request->parts[i], text);
        s3d_str_add(text, "</Part>");
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
    if (request->verb == S3D_VERB_UPLOAD_CREATE || request->verb == S3D_VERB_UPLOAD_COMPLETE) {
        message->answer_bytes = ANSWER_BYTES;
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

static enum s3d_code check_options(const struct s3d_put_options *options,
                                   struct s3d_error *error)
{
    static const char *const write_id_name = S3D_WRITE_ID_HEADER + sizeof "x-amz-meta-" - 1;
    const char *const values[] = {options->content_type, options->content_encoding,
                                  options->storage_class, options->if_match};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (values[i] && !is_header_value(values[i])) {
            return s3d_fail(error, S3D_INVALID,
                            "a control character in the header value \"%.64s\"", values[i]);
        }
    }
    if (options->metadata_count > SIGNED_MAX / 2) {
        return s3d_fail(error, S3D_INVALID, "more than %d metadata entries", SIGNED_MAX / 2);
    }
    for (size_t i = 0; i < options->metadata_count; i++) {
        if (!is_token(options->metadata[2 * i]) ||
            !is_header_value(options->metadata[2 * i + 1])) {
            return s3d_fail(error, S3D_INVALID,
                            "the metadata entry \"%.64s\" is not a valid HTTP header",
                            options->metadata[2 * i]);
        }
        if (options->write_id && strcasecmp(options->metadata[2 * i], write_id_name) == 0) {
            return s3d_fail(
                error, S3D_INVALID,
                "the metadata entry \"%s\" is what a conditional write is known by: "
                "choose another name",
                write_id_name);
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
    if (commits && options->if_match) {
        header_add(set, "if-match", options->if_match);
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
    if (options->write_id) {
        header_add(set, S3D_WRITE_ID_HEADER, options->write_id);
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
    struct s3d_s3_checksum checksum;
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

static void add_checksum(struct signing *signing, struct s3d_request *request)
{
    struct s3d_s3_checksum *checksum = &signing->checksum;
    s3d_s3_checksum(request, checksum);
    if (checksum->header) {
        header_add(&signing->set, checksum->header, checksum->value);
    }
    if (checksum->algorithm) {
        header_add(&signing->set, "x-amz-checksum-algorithm", checksum->algorithm);
    }
    if (checksum->of_object) {
        header_add(&signing->set, "x-amz-checksum-type", "FULL_OBJECT");
    }
}

static void add_extras(struct signing *signing, const struct s3d_s3_store *store,
                       enum s3d_verb verb)
{
    for (size_t i = 0; i < store->extras.count; i++) {
        const struct s3d_s3_extra *extra = &store->extras.headers[i];
        if (extra->verbs & 1u << verb) {
            header_add(&signing->set, extra->name, extra->value);
        }
    }
}

static enum s3d_code collect_headers(struct signing *signing, const struct s3d_s3_store *store,
                                     const struct s3d_s3_place *place,
                                     const struct s3d_credentials *credentials,
                                     struct s3d_request *request,
                                     const struct s3d_http_message *message,
                                     struct s3d_error *error)
{
    enum s3d_code code = S3D_OK;
    header_add(&signing->set, "host", place->host);
    add_extras(signing, store, request->verb);
    if (request->verb == S3D_VERB_GET) {
        add_get_headers(signing, request);
    }
    if (s3d_s3_checksum_wanted(request)) {
        header_add(&signing->set, "x-amz-checksum-mode", "ENABLED");
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
        add_checksum(signing, request);
    }
    if (credentials->anonymous) {
        return S3D_OK;
    }
    s3d_amz_date(signing->date, (int64_t)time(NULL));
    header_add(&signing->set, "x-amz-date", signing->date);
    if (credentials->session_token) {
        header_add(&signing->set, "x-amz-security-token", credentials->session_token);
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

static void add_secrets(struct s3d_str *secrets, const struct s3d_s3_store *store,
                        const struct s3d_credentials *credentials)
{
    s3d_secrets_add(secrets, credentials->secret_key);
    s3d_secrets_add(secrets, credentials->session_token);
    for (size_t i = 0; i < store->extras.count; i++) {
        if (store->extras.headers[i].secret) {
            s3d_secrets_add(secrets, store->extras.headers[i].value);
        }
    }
}

static enum s3d_code sign(const struct signing *signing, const char *region,
                          const struct s3d_credentials *credentials, const char *method,
                          const char *path, const char *query, struct s3d_http_message *message,
                          struct s3d_error *error)
{
    struct s3d_str *headers = &message->headers;
    struct s3d_sigv4 request = {
        .access_key = credentials->access_key,
        .secret_key = credentials->secret_key,
        .region = region,
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
    if (!code) { /* the signature, with which it ends */
        s3d_secrets_add(&message->secrets,
                        headers->data + headers->length - (S3D_SHA256_HEX - 1));
    }
    s3d_str_add_bytes(headers, "", 1);
    return code;
}

enum s3d_code s3d_s3_build(struct s3d_request *request, struct s3d_http_message *message,
                           struct s3d_error *error)
{
    struct s3d_s3_store *store = s3d_s3_store_of(request);
    struct s3d_keys *keys = s3d_identity_keys(store->identity);
    if (!keys) {
        return s3d_fail(error, S3D_INTERNAL, "a request came before its keys");
    }
    const struct s3d_credentials *credentials = &keys->credentials;
    const struct s3d_s3_place *place = s3d_s3_place(&store->places); /* stays as it is */
    request->signed_with = keys->serial;
    request->signed_for = place->region;
    struct signing signing = {.metadata_names = S3D_STR(16384)};
    struct s3d_str path = S3D_STR(8192), query = S3D_STR(16384);
    message->method = method_of(request->verb);
    message->patient = request->verb == S3D_VERB_UPLOAD_COMPLETE;
    add_secrets(&message->secrets, store, credentials);
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
        code = collect_headers(&signing, store, place, credentials, request, message, error);
    }
    if (code) {
        goto done;
    }
    s3d_str_add(&message->url, place->origin);
    s3d_str_add(&message->url, path.data);
    s3d_str_add(&message->url, query.length ? "?" : "");
    s3d_str_add(&message->url, s3d_str_text(&query));
    for (size_t i = 0; i < signing.set.count; i++) {
        message_header(&message->headers, signing.set.headers[i].name,
                       signing.set.headers[i].value);
    }
    if (!credentials->anonymous) {
        code = sign(&signing, place->region, credentials, message->method, path.data,
                    s3d_str_text(&query), message, error);
    }
    /* No pause for "100 Continue". */
    s3d_str_add_bytes(&message->headers, "Expect:", sizeof "Expect:");

done:
    s3d_keys_release(keys);
    s3d_str_fini(&path);
    s3d_str_fini(&query);
    s3d_str_fini(&signing.metadata_names);
    return code;
}
