#include "backends/s3.h"
#include "backends/sums.h"
#include "backends/xml.h"
#include "core/check.h"
#include "core/uri.h"

#include <string.h>

enum { COMPARED_AT_ONCE_MAX = 64 * 1024 * 1024 };

static void take_object(struct s3d_request *request, const struct s3d_http_answer *answer)
{
    struct s3d_object *object = &request->result.object;
    memcpy(object->etag, answer->etag, sizeof object->etag);
    memcpy(object->content_encoding, answer->content_encoding, sizeof object->content_encoding);
    memcpy(object->write_id, answer->write_id, sizeof object->write_id);
    object->modified_s = answer->modified_s;
    s3d_s3_checksum_take(request, answer, object);
}

static enum s3d_code check_range(struct s3d_request *request,
                                 const struct s3d_http_answer *answer, struct s3d_error *error)
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
    bool is_end = request->at_most && answer->range_first == first &&
                  answer->range_last + 1 == answer->range_total &&
                  answer->range_last - first + 1 < length;
    if (is_end) {
        length = answer->range_last - first + 1;
    } else if (!is_asked) {
        bool beyond = !request->suffix && answer->range_first == first &&
                      answer->range_last + 1 == answer->range_total &&
                      answer->range_last - first + 1 < length;
        return s3d_fail(
            error, beyond ? S3D_RANGE : S3D_PROTOCOL,
            "asked for bytes %llu-%llu, got bytes %llu-%llu of %llu", (unsigned long long)first,
            (unsigned long long)(first + length - 1), (unsigned long long)answer->range_first,
            (unsigned long long)answer->range_last, (unsigned long long)answer->range_total);
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
static enum s3d_code check_whole(struct s3d_request *request,
                                 const struct s3d_http_answer *answer, struct s3d_error *error)
{
    bool is_asked =
        answer->has_length && request->offset_bytes == 0 &&
        (request->suffix || request->at_most ? answer->length_bytes <= request->length_bytes
                                             : answer->length_bytes == request->length_bytes);
    if (!is_asked) {
        return s3d_fail(error, S3D_PROTOCOL,
                        "the server ignored the range and sent the whole object");
    }
    request->result.first_byte = 0;
    request->result.object.size_bytes = answer->length_bytes;
    return S3D_OK;
}

enum s3d_code s3d_s3_accept_body(struct s3d_request *request,
                                 const struct s3d_http_answer *answer, bool *place,
                                 struct s3d_error *error)
{
    *place = request->verb == S3D_VERB_GET && (answer->status == 200 || answer->status == 206);
    if (!*place) {
        return S3D_OK;
    }
    if (request->if_match && answer->etag[0] && strcmp(request->if_match, answer->etag) != 0) {
        return s3d_fail_replaced(error, request->if_match, answer->etag);
    }
    take_object(request, answer);
    return answer->status == 206 ? check_range(request, answer, error)
                                 : check_whole(request, answer, error);
}

/* The store's own error codes that say more than the HTTP status; others go by status. */
static const struct {
    const char *server_code;
    enum s3d_code code;
} known_codes[] = {
    {"NoSuchKey", S3D_NOT_FOUND},         {"NoSuchBucket", S3D_NOT_FOUND},
    {"NoSuchUpload", S3D_NOT_FOUND},      {"NoSuchVersion", S3D_NOT_FOUND},
    {"SlowDown", S3D_THROTTLED},          {"ServiceUnavailable", S3D_THROTTLED},
    {"RequestTimeout", S3D_TIMEOUT},      {"InternalError", S3D_SERVER},
    {"BadDigest", S3D_INTEGRITY},         {"XAmzContentSHA256Mismatch", S3D_INTEGRITY},
    {"InvalidRange", S3D_RANGE},          {"RequestTimeTooSkewed", S3D_DENIED},
    {"InvalidToken", S3D_DENIED},         {"ExpiredToken", S3D_DENIED},
    {"TokenRefreshRequired", S3D_DENIED},
};

/* Whether the request makes an object visible, perhaps on a condition. */
static bool is_commit(const struct s3d_request *request)
{
    return request->options &&
           (request->verb == S3D_VERB_PUT || request->verb == S3D_VERB_UPLOAD_COMPLETE);
}

/* Whether only a certain version may be replaced. */
static bool is_replacing_commit(const struct s3d_request *request)
{
    return is_commit(request) && request->options->if_match;
}

static enum s3d_code code_of_status(const struct s3d_request *request, int status)
{
    switch (status) {
    case 401:
    case 403: return S3D_DENIED;
    case 404: return S3D_NOT_FOUND;
    case 408: return S3D_TIMEOUT;
    case 409:
        /* S3's advice is to send a PUT again; of an upload it may have kept the parts or not. */
        return is_commit(request) &&
                       (request->options->if_none_match || request->options->if_match)
                   ? S3D_CONFLICT
                   : S3D_REJECTED;
    case 412:
        /* Reads and some writes say which version they want, others that none may be there. */
        if (request->verb == S3D_VERB_GET || is_replacing_commit(request)) {
            return S3D_CHANGED;
        }
        return request->options && request->options->if_none_match ? S3D_EXISTS : S3D_REJECTED;
    case 416: return S3D_RANGE;
    case 429:
    case 503: return S3D_THROTTLED;
    default: return status >= 500 ? S3D_SERVER : status >= 300 ? S3D_REJECTED : S3D_PROTOCOL;
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
    if (strstr(server_code, "Token")) {
        return "; get new temporary credentials (AWS_SESSION_TOKEN), or configure a source of them "
               "that is asked again";
    }
    if (strcmp(server_code, "RequestTimeTooSkewed") == 0) {
        return "; set this machine's clock";
    }
    if (strcmp(server_code, "AuthorizationHeaderMalformed") == 0 || status == 301 ||
        status == 307) {
        return "; the bucket lies in another region: set AWS_REGION";
    }
    if (code == S3D_CONFLICT) {
        return "; another request for the object is under way: write it again";
    }
    return code == S3D_DENIED ? "; check the credentials and the bucket's policy" : "";
}

/* Whether the keys that signed this were refused as ended, and others can take their place: once
 * for a request. An answer to HEAD has no body to say so: there a plain 400 is taken for it. */
static bool should_resign(struct s3d_request *request, int status, const char *server_code)
{
    bool ended = strcmp(server_code, "ExpiredToken") == 0 ||
                 strcmp(server_code, "TokenRefreshRequired") == 0 ||
                 (request->verb == S3D_VERB_STAT && status == 400);
    if (!ended || request->resigned ||
        !s3d_identity_reject(s3d_s3_store_of(request)->identity, request->signed_with)) {
        return false;
    }
    return request->resigned = true;
}

/* Whether the store has moved to the region that this answer names, or had already: once for a
 * request. Answers to HEAD name it in a header alone. */
static bool should_redirect(struct s3d_request *request, const struct s3d_http_answer *answer,
                            const struct s3d_xml_error *xml)
{
    const char *region = xml->region[0] ? xml->region : answer->region;
    bool elsewhere = answer->status == 301 || answer->status == 307 || answer->status == 400;
    if (!elsewhere || request->redirected || !region[0] || !request->signed_for ||
        !s3d_s3_places_move(&s3d_s3_store_of(request)->places, request->signed_for, region)) {
        return false;
    }
    return request->redirected = true;
}

static enum s3d_code fail_by_answer(struct s3d_request *request,
                                    const struct s3d_http_answer *answer,
                                    struct s3d_error *error)
{
    struct s3d_xml_error xml = {0};
    s3d_xml_error(s3d_str_text(&answer->text), answer->text.length, &xml);
    enum s3d_code code = code_of_status(request, answer->status);
    for (size_t i = 0; i < sizeof known_codes / sizeof *known_codes; i++) {
        if (strcmp(known_codes[i].server_code, xml.code) == 0) {
            code = known_codes[i].code;
        }
    }
    if (is_replacing_commit(request) && code == S3D_NOT_FOUND &&
        strcmp(xml.code, "NoSuchUpload") != 0 && strcmp(xml.code, "NoSuchBucket") != 0) {
        code = S3D_CHANGED; /* deleted: in any case not that version */
    }
    if (should_redirect(request, answer, &xml)) {
        code = S3D_ELSEWHERE;
    } else if (should_resign(request, answer->status, xml.code)) {
        code = S3D_EXPIRED;
    }
    const char *region = xml.region[0] ? xml.region : answer->region;
    const char *text = xml.message[0]          ? xml.message
                       : code == S3D_NOT_FOUND ? "no such object or bucket"
                                               : "the server refused";
    s3d_fail(error, code, "%s%s%s%s", text, advice(code, answer->status, xml.code),
             region[0] && code == S3D_REJECTED ? ", here to " : "",
             region[0] && code == S3D_REJECTED ? region : "");
    memcpy(error->server_code, xml.code, sizeof error->server_code);
    memcpy(error->request_id, xml.request_id, sizeof error->request_id);
    return code;
}

/*
 * An answer that is all of the object, and tells its checksum, is compared at once: so it is an attempt
 * that has failed, and the next one may bring the right bytes. Of what takes more than one answer nobody
 * could say which to ask for again; and a very long one is not asked for again.
 */
static enum s3d_code compare_at_once(struct s3d_request *request, struct s3d_error *error)
{
    const struct s3d_object *object = &request->result.object;
    uint64_t length = request->result.received_bytes;
    char sum[S3D_SUM_TEXT];
    if (!request->compare || !object->sum_kind || length != object->size_bytes ||
        length > COMPARED_AT_ONCE_MAX) {
        return S3D_OK;
    }
    object->sum_kind->write(s3d_sum_spans(object->sum_kind, request, length), sum);
    request->result.compared = true;
    return strcmp(sum, object->sum) == 0
               ? S3D_OK
               : s3d_check_fail(error, object->sum_kind, object->sum, sum);
}

static enum s3d_code finish_get(struct s3d_request *request,
                                const struct s3d_http_answer *answer, struct s3d_error *error)
{
    if (answer->status == 416 && (request->suffix || request->at_most) &&
        answer->range_unsatisfied && answer->range_total == 0) {
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
    return compare_at_once(request, error);
}

/* The status that an error would have had, had it come in time; 500 for what is not known. */
static int status_of_late_error(const char *server_code)
{
    static const struct {
        const char *server_code;
        int status;
    } late[] = {
        {"AccessDenied", 403},
        {"BadDigest", 400},
        {"ConditionalRequestConflict", 409},
        {"EntityTooLarge", 400},
        {"EntityTooSmall", 400},
        {"InvalidDigest", 400},
        {"InvalidPart", 400},
        {"InvalidPartOrder", 400},
        {"InvalidRequest", 400},
        {"MalformedXML", 400},
        {"NoSuchBucket", 404},
        {"NoSuchUpload", 404},
        {"OperationAborted", 409},
        {"PreconditionFailed", 412},
        {"ServiceUnavailable", 503},
        {"SlowDown", 503},
    };
    for (size_t i = 0; i < sizeof late / sizeof *late; i++) {
        if (strcmp(late[i].server_code, server_code) == 0) {
            return late[i].status;
        }
    }
    return 500;
}

/* --- listed keys --- */

struct listed {
    const char *prefix;
    size_t prefix_length;
    const struct s3d_list_sink *sink; /* the submitter's */
    struct s3d_error refused;         /* why the page is; code OK: it is not */
};

static void reset_listed(void *context)
{
    struct listed *listed = context;
    listed->refused.code = S3D_OK;
    listed->sink->reset(listed->sink->context);
}

/* A listed key is data, whatever its bytes spell, and never becomes a path. But it has to be an answer
 * to the question: who deletes what he has listed below a prefix must not be given other keys. The verdict
 * waits for the page's end, since that may still say that its keys are encoded, and start over. */
static enum s3d_code add_listed(void *context, const char *key, const struct s3d_object *object,
                                struct s3d_error *error)
{
    struct listed *listed = context;
    size_t length = strlen(key);
    bool answers = strncmp(key, listed->prefix, listed->prefix_length) == 0;
    if (answers && length <= S3D_KEY_MAX) {
        return listed->sink->add(listed->sink->context, key, object, error);
    }
    if (!answers) {
        s3d_fail(&listed->refused, S3D_PROTOCOL,
                 "the store listed the key \"%.200s\", which does not begin with \"%.200s\"",
                 key, listed->prefix);
    } else {
        s3d_fail(&listed->refused, S3D_PROTOCOL,
                 "the store listed a key of %zu bytes; S3 allows %d", length, S3D_KEY_MAX);
    }
    return S3D_OK;
}

static enum s3d_code take_list(struct s3d_request *request,
                               const struct s3d_http_answer *answer, struct s3d_error *error)
{
    struct listed listed = {
        .prefix = request->key, .prefix_length = strlen(request->key), .sink = request->list};
    const struct s3d_list_sink sink = {&listed, reset_listed, add_listed};
    enum s3d_code code =
        s3d_xml_list(s3d_str_text(&answer->text), answer->text.length, &sink,
                     request->result.next_token, sizeof request->result.next_token, error);
    return code ? code : s3d_error_copy(error, &listed.refused);
}

static enum s3d_code finish_text(struct s3d_request *request, struct s3d_http_answer *answer,
                                 struct s3d_error *error)
{
    const char *text = s3d_str_text(&answer->text);
    size_t length = answer->text.length;
    struct s3d_xml_error xml;
    switch (request->verb) {
    case S3D_VERB_LIST: return take_list(request, answer, error);
    case S3D_VERB_UPLOAD_CREATE:
        return s3d_xml_upload_id(text, length, request->result.upload_id,
                                 sizeof request->result.upload_id, error);
    case S3D_VERB_UPLOAD_COMPLETE:
        /* S3 answers 200 at once and may tell of a failure later, in the body. */
        if (s3d_xml_error(text, length, &xml)) {
            answer->status = status_of_late_error(xml.code);
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

enum s3d_code s3d_s3_finish(struct s3d_request *request, struct s3d_http_answer *answer,
                            struct s3d_error *error)
{
    if (request->verb == S3D_VERB_GET) {
        return finish_get(request, answer, error);
    }
    bool is_gone = answer->status == 404 &&
                   (request->verb == S3D_VERB_DELETE || request->verb == S3D_VERB_UPLOAD_ABORT);
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
