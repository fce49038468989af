// From a request to an S3 operation: routing, the checks made before a body is read, dispatch.
#include "call.h"

#define MAX_PUT_BYTES (5ull << 30)
enum { MAX_XML_BYTES = 4 << 20 };

// Virtual-host style: BUCKET.localhost or BUCKET.s3.localhost, with or without a port.
static bool bucket_from_host(const struct s3s_request *request, struct s3s_span *bucket)
{
    struct s3s_span rest = *s3s_request_header(request, "host"), host;
    s3s_span_cut(&rest, ':', &host);
    static const char *const suffixes[] = {".s3.localhost", ".localhost"};
    for (size_t i = 0; i < 2; i++) {
        size_t suffix = s3s_span_of(suffixes[i]).length;
        if (!s3s_span_ends(host, suffixes[i]) || host.length == suffix)
            continue;
        *bucket = (struct s3s_span){host.data, host.length - suffix};
        return !s3s_span_is(*bucket, "s3");
    }
    return false;
}

static void split_path(struct s3s_call *call)
{
    struct s3s_span path = {call->request.path.data + 1, call->request.path.length - 1};
    if (!bucket_from_host(&call->request, &call->bucket))
        s3s_span_cut(&path, '/', &call->bucket);
    call->key = path;
}

// Sub-resources and parameters that change what a request means, and that this server does not have.
static bool asks_for_more(const struct s3s_request *request)
{
    static const char *const names[] = {
        "acl",         "accelerate",     "analytics",    "attributes",
        "cors",        "delete",         "encryption",   "lifecycle",
        "legal-hold",  "location",       "logging",      "notification",
        "object-lock", "policy",         "renameObject", "replication",
        "restore",     "retention",      "select",       "tagging",
        "torrent",     "versionId",      "versions",     "versioning",
        "website",     "X-Amz-Signature"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (s3s_request_param(request, names[i]))
            return true;
    }
    return false;
}

static enum s3s_op bucket_op(const struct s3s_request *request)
{
    const struct s3s_span *list_type = s3s_request_param(request, "list-type");
    if (s3s_span_is(request->method, "GET") && s3s_request_param(request, "uploads"))
        return S3S_OP_LIST_UPLOADS;
    if (s3s_span_is(request->method, "GET") && list_type && s3s_span_is(*list_type, "2"))
        return S3S_OP_LIST_OBJECTS;
    if (s3s_span_is(request->method, "PUT"))
        return S3S_OP_CREATE_BUCKET;
    if (s3s_span_is(request->method, "DELETE"))
        return S3S_OP_DELETE_BUCKET;
    return s3s_span_is(request->method, "HEAD") ? S3S_OP_HEAD_BUCKET : S3S_OP_UNKNOWN;
}

static enum s3s_op object_op(const struct s3s_request *request)
{
    bool id = s3s_request_param(request, "uploadId");
    bool part = s3s_request_param(request, "partNumber");
    if (s3s_span_is(request->method, "GET"))
        return id ? S3S_OP_LIST_PARTS : part ? S3S_OP_UNKNOWN : S3S_OP_GET_OBJECT;
    if (s3s_span_is(request->method, "HEAD"))
        return part ? S3S_OP_UNKNOWN : S3S_OP_HEAD_OBJECT;
    if (s3s_span_is(request->method, "PUT"))
        return id && part   ? S3S_OP_UPLOAD_PART
               : id || part ? S3S_OP_UNKNOWN
                            : S3S_OP_PUT_OBJECT;
    if (s3s_span_is(request->method, "DELETE"))
        return id ? S3S_OP_ABORT_UPLOAD : S3S_OP_DELETE_OBJECT;
    if (s3s_span_is(request->method, "POST") && s3s_request_param(request, "uploads"))
        return S3S_OP_CREATE_UPLOAD;
    return s3s_span_is(request->method, "POST") && id ? S3S_OP_COMPLETE_UPLOAD : S3S_OP_UNKNOWN;
}

enum s3s_code s3s_route(struct s3s_call *call)
{
    split_path(call);
    if (asks_for_more(&call->request))
        return S3S_NOT_IMPLEMENTED;
    call->op = call->key.length      ? object_op(&call->request)
               : call->bucket.length ? bucket_op(&call->request)
                                     : S3S_OP_UNKNOWN;
    const struct s3s_span *id = s3s_request_param(&call->request, "uploadId");
    const struct s3s_span *part = s3s_request_param(&call->request, "partNumber");
    if (id)
        call->upload_id = *id;
    if (part && (!s3s_span_number(*part, &call->part_number) || call->part_number < 1 ||
                 call->part_number > S3S_PART_NUMBER_MAX))
        return S3S_INVALID_ARGUMENT;
    return call->op == S3S_OP_UNKNOWN ? S3S_NOT_IMPLEMENTED : S3S_OK;
}

struct s3s_upload_name s3s_call_upload(const struct s3s_call *call)
{
    return (struct s3s_upload_name){call->bucket, call->key, call->upload_id};
}

static bool publishes(const struct s3s_call *call)
{
    return call->op == S3S_OP_PUT_OBJECT || call->op == S3S_OP_COMPLETE_UPLOAD;
}

static enum s3s_code check_headers(const struct s3s_call *call)
{
    const struct s3s_request *request = &call->request;
    const struct s3s_span *sha256 = s3s_request_header(request, "x-amz-content-sha256");
    const struct s3s_span *if_none = s3s_request_header(request, "if-none-match");
    if (request->chunked || (sha256 && s3s_span_starts(*sha256, "STREAMING-")))
        return S3S_NOT_IMPLEMENTED;
    if (s3s_request_header(request, "x-amz-copy-source"))
        return S3S_NOT_IMPLEMENTED;
    if (publishes(call) && if_none && !s3s_span_is(*if_none, "*"))
        return S3S_NOT_IMPLEMENTED;
    if (!s3s_body_is_data(call))
        return request->content_length > MAX_XML_BYTES ? S3S_ENTITY_TOO_LARGE : S3S_OK;
    if (!request->has_length)
        return S3S_LENGTH_REQUIRED;
    return request->content_length > MAX_PUT_BYTES ? S3S_ENTITY_TOO_LARGE : S3S_OK;
}

static bool is_denied(const struct s3s_call *call)
{
    bool lists = call->op == S3S_OP_LIST_OBJECTS || call->op == S3S_OP_LIST_UPLOADS;
    return (call->key.length || lists) && s3s_span_starts(call->bucket, "denied");
}

enum s3s_code s3s_admit(struct s3s_call *call, enum s3s_code route_code)
{
    enum s3s_code code = S3S_OK;
    if (call->server->options.verify)
        code = s3s_sigv4_check(call);
    if (!code)
        code = route_code;
    if (!code)
        code = check_headers(call);
    if (code)
        return code;
    if (is_denied(call))
        return S3S_ACCESS_DENIED;
    if (call->key.length > S3S_KEY_MAX_BYTES)
        return S3S_KEY_TOO_LONG;
    if (call->op != S3S_OP_CREATE_BUCKET &&
        !s3s_store_bucket_exists(&call->server->store, call->bucket))
        return S3S_NO_SUCH_BUCKET;
    return call->op == S3S_OP_UPLOAD_PART
               ? s3s_upload_check(&call->server->store, s3s_call_upload(call))
               : S3S_OK;
}

static enum s3s_code head_bucket(struct s3s_call *call)
{
    s3s_text_printf(&call->answer.headers, "x-amz-bucket-region: %s\r\n",
                    call->server->options.region);
    return S3S_OK;
}

static enum s3s_code create_bucket(struct s3s_call *call)
{
    s3s_text_puts(&call->answer.headers, "Location: /");
    s3s_text_add_span(&call->answer.headers, call->bucket);
    s3s_text_puts(&call->answer.headers, "\r\n");
    return s3s_store_bucket_create(&call->server->store, call->bucket);
}

static enum s3s_code delete_bucket(struct s3s_call *call)
{
    call->answer.status = 204;
    return s3s_store_bucket_delete(&call->server->store, call->bucket);
}

enum s3s_code s3s_perform(struct s3s_call *call)
{
    switch (call->op) {
    case S3S_OP_GET_OBJECT:
    case S3S_OP_HEAD_OBJECT: return s3s_get_object(call);
    case S3S_OP_PUT_OBJECT: return s3s_put_object(call);
    case S3S_OP_DELETE_OBJECT: return s3s_delete_object(call);
    case S3S_OP_CREATE_UPLOAD: return s3s_create_upload(call);
    case S3S_OP_UPLOAD_PART: return s3s_upload_part(call);
    case S3S_OP_COMPLETE_UPLOAD: return s3s_complete_upload(call);
    case S3S_OP_ABORT_UPLOAD: return s3s_abort_upload(call);
    case S3S_OP_LIST_PARTS: return s3s_list_parts(call);
    case S3S_OP_LIST_UPLOADS: return s3s_list_uploads(call);
    case S3S_OP_LIST_OBJECTS: return s3s_list_objects(call);
    case S3S_OP_CREATE_BUCKET: return create_bucket(call);
    case S3S_OP_DELETE_BUCKET: return delete_bucket(call);
    case S3S_OP_HEAD_BUCKET: return head_bucket(call);
    case S3S_OP_UNKNOWN:
    case S3S_OP_COUNT: break;
    }
    return S3S_NOT_IMPLEMENTED;
}
