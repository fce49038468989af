// PutObject, GetObject, HeadObject, DeleteObject.
#include <string.h>
#include <time.h>

#include "call.h"
#include "checksum.h"

void s3s_stored_headers(const struct s3s_call *call, struct s3s_text *headers)
{
    static const char *const names[] = {
        "content-type",  "content-encoding", "content-disposition", "content-language",
        "cache-control", "expires",          "x-amz-storage-class"};
    bool typed = false;
    for (size_t i = 0; i < call->request.header_count; i++) {
        const struct s3s_pair *header = &call->request.headers[i];
        bool wanted = s3s_span_starts_nocase(header->name, "x-amz-meta-");
        for (size_t k = 0; !wanted && k < sizeof names / sizeof *names; k++)
            wanted = s3s_span_is_nocase(header->name, names[k]);
        if (!wanted)
            continue;
        typed |= s3s_span_is_nocase(header->name, "content-type");
        s3s_text_add_span(headers, header->name);
        s3s_text_puts(headers, ": ");
        s3s_text_add_span(headers, header->value);
        s3s_text_puts(headers, "\r\n");
    }
    if (!typed)
        s3s_text_puts(headers, "Content-Type: binary/octet-stream\r\n");
}

static void make_etag(struct s3s_call *call, char etag[S3S_ETAG_CAPACITY])
{
    struct s3s_text hex = {0};
    if (call->server->options.real_md5)
        s3s_text_hex(&hex, call->md5, sizeof call->md5);
    else
        s3s_store_make_id(&call->server->store, etag);
    if (hex.length)
        s3s_span_store(s3s_text_span(&hex), etag, S3S_ETAG_CAPACITY);
    s3s_text_fini(&hex);
}

static void add_etag_header(struct s3s_call *call, const char *etag)
{
    s3s_text_puts(&call->answer.headers, "ETag: ");
    s3s_call_add_etag(call, &call->answer.headers, etag);
    s3s_text_puts(&call->answer.headers, "\r\n");
}

bool s3s_etag_is_named(struct s3s_span list, const char *etag)
{
    struct s3s_span item;
    while (list.length) {
        s3s_span_cut(&list, ',', &item);
        item = s3s_span_trim(item);
        if (s3s_span_is(item, "*"))
            return true;
        if (item.length >= 2 && item.data[0] == '"' && item.data[item.length - 1] == '"')
            item = (struct s3s_span){item.data + 1, item.length - 2};
        if (s3s_span_is(item, etag))
            return true;
    }
    return false;
}

struct s3s_condition s3s_call_condition(const struct s3s_call *call)
{
    return (struct s3s_condition){
        .if_absent = s3s_request_header(&call->request, "if-none-match") != NULL,
        .if_match = s3s_request_header(&call->request, "if-match")};
}

enum s3s_code s3s_put_object(struct s3s_call *call)
{
    struct s3s_text headers = {0};
    s3s_stored_headers(call, &headers);
    struct s3s_object *object = s3s_object_new(&call->server->pool, call->key, headers.data);
    s3s_text_fini(&headers);
    make_etag(call, object->etag);
    add_etag_header(call, object->etag);
    object->pieces = s3s_mem_zalloc(sizeof *object->pieces);
    object->pieces[0] = call->piece;
    object->piece_count = 1;
    object->size_bytes = call->piece.size_bytes;
    struct s3s_span value;
    const struct s3s_checksum *checksum = s3s_checksum_sent(&call->request, &value);
    if (checksum)
        object->checksum = s3s_checksum_lines(checksum, value);
    call->piece.block = NULL;
    enum s3s_code code =
        s3s_store_put(&call->server->store, call->bucket, object, s3s_call_condition(call));
    if (code)
        s3s_object_release(object);
    return code;
}

enum s3s_code s3s_delete_object(struct s3s_call *call)
{
    call->answer.status = 204;
    return s3s_store_delete(&call->server->store, call->bucket, call->key);
}

enum s3s_code s3s_upload_part(struct s3s_call *call)
{
    struct s3s_part part = {.piece = call->piece, .modified_s = time(NULL)};
    struct s3s_span value;
    make_etag(call, part.etag);
    memcpy(part.md5, call->md5, sizeof part.md5);
    enum s3s_code code =
        s3s_upload_put_part(&call->server->store, s3s_call_upload(call), call->part_number,
                            &part, s3s_checksum_sent(&call->request, &value));
    if (code)
        return code;
    call->piece.block = NULL;
    add_etag_header(call, part.etag);
    return S3S_OK;
}

static enum s3s_code check_conditions(const struct s3s_request *request,
                                      const struct s3s_object *object)
{
    const struct s3s_span *match = s3s_request_header(request, "if-match");
    const struct s3s_span *none_match = s3s_request_header(request, "if-none-match");
    if (match && !s3s_etag_is_named(*match, object->etag))
        return S3S_PRECONDITION;
    return none_match && s3s_etag_is_named(*none_match, object->etag) ? S3S_NOT_MODIFIED
                                                                      : S3S_OK;
}

bool s3s_range_parse(struct s3s_span value, struct s3s_range *range)
{
    struct s3s_span first;
    *range = (struct s3s_range){.last = UINT64_MAX};
    if (!s3s_span_starts_nocase(value, "bytes="))
        return false;
    value = (struct s3s_span){value.data + 6, value.length - 6};
    if (!s3s_span_cut(&value, '-', &first))
        return false;
    range->is_suffix = !first.length;
    if (range->is_suffix)
        return s3s_span_number(value, &range->last);
    return s3s_span_number(first, &range->first) &&
           (!value.length || s3s_span_number(value, &range->last)) &&
           range->first <= range->last;
}

// Narrows the answer to the range. A header that is not a single range is ignored, as HTTP has it.
static enum s3s_code apply_range(struct s3s_call *call, struct s3s_span value)
{
    struct s3s_answer *answer = &call->answer;
    struct s3s_range range;
    uint64_t size = answer->object->size_bytes;
    if (!s3s_range_parse(value, &range) || s3s_call_hit(call, S3S_FAULT_IGNORE_RANGE))
        return S3S_OK;
    if (range.is_suffix) { // no bytes at all ("-0") begin at the end, where no range may
        range.first = range.last < size ? size - range.last : 0;
        range.last = UINT64_MAX;
    }
    if (range.first >= size) {
        s3s_text_printf(&answer->headers, "Content-Range: bytes */%lu\r\n",
                        (unsigned long)size);
        return S3S_INVALID_RANGE;
    }
    range.last = range.last < size ? range.last : size - 1;
    unsigned wrong = s3s_call_hit(call, S3S_FAULT_WRONG_RANGE);
    s3s_text_printf(&answer->headers, "Content-Range: bytes %lu-%lu/%lu\r\n",
                    (unsigned long)range.first + wrong, (unsigned long)range.last + wrong,
                    (unsigned long)size);
    answer->status = 206;
    answer->first = range.first;
    answer->length = range.last - range.first + 1;
    return S3S_OK;
}

// For all of the object, whether a range says so or not. Of a part of it S3 tells no more than that part's.
static void add_checksum(struct s3s_call *call)
{
    struct s3s_answer *answer = &call->answer;
    if (answer->length != answer->object->size_bytes)
        return;
    if (s3s_call_hit(call, S3S_FAULT_WRONG_SUM))
        s3s_text_puts(&answer->headers, "x-amz-checksum-crc64nvme: AAAAAAAAAAA=\r\n"
                                        "x-amz-checksum-type: FULL_OBJECT\r\n");
    else if (s3s_call_hit(call, S3S_FAULT_COMPOSITE_SUM))
        s3s_text_puts(&answer->headers, "x-amz-checksum-crc32c: AAAAAA==-3\r\n"
                                        "x-amz-checksum-type: COMPOSITE\r\n");
    else if (!s3s_call_hit(call, S3S_FAULT_NO_SUM))
        s3s_text_puts(&answer->headers, answer->object->checksum);
}

enum s3s_code s3s_get_object(struct s3s_call *call)
{
    struct s3s_answer *answer = &call->answer;
    enum s3s_code code =
        s3s_store_acquire(&call->server->store, call->bucket, call->key, &answer->object);
    if (code)
        return code;
    const struct s3s_object *object = answer->object;
    answer->length = object->size_bytes;
    code = check_conditions(&call->request, object);
    if (code == S3S_NOT_MODIFIED)
        add_etag_header(call, object->etag);
    const struct s3s_span *range = s3s_request_header(&call->request, "range");
    if (!code && range)
        code = apply_range(call, *range);
    if (code)
        return code;
    add_etag_header(call, object->etag);
    s3s_text_puts(&answer->headers, "Last-Modified: ");
    s3s_text_time_http(&answer->headers, object->modified_s);
    s3s_text_puts(&answer->headers, "\r\nAccept-Ranges: bytes\r\n");
    s3s_text_puts(&answer->headers, object->headers);
    if (object->checksum && s3s_request_header(&call->request, "x-amz-checksum-mode"))
        add_checksum(call);
    return S3S_OK;
}
