// CreateMultipartUpload, CompleteMultipartUpload, AbortMultipartUpload. UploadPart is beside PutObject.
#include "call.h"
#include "checksum.h"
#include "xml.h"

static void begin_result(struct s3s_call *call, const char *element)
{
    struct s3s_text *body = &call->answer.body;
    if (s3s_call_hit(call, S3S_FAULT_BLANKS)) {
        for (uint64_t i = 0; i < call->fault.bytes; i++)
            s3s_text_add(body, " ", 1);
    }
    s3s_text_printf(body,
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<%s "
                    "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
                    element);
    s3s_text_puts(body, "<Bucket>");
    s3s_text_xml(body, call->bucket);
    s3s_text_puts(body, "</Bucket><Key>");
    s3s_text_xml(body, call->key);
    s3s_text_puts(body, "</Key>");
    s3s_text_puts(&call->answer.headers, "Content-Type: application/xml\r\n");
}

enum s3s_code s3s_create_upload(struct s3s_call *call)
{
    char id[33];
    struct s3s_text headers = {0};
    const struct s3s_checksum *checksum;
    if (!s3s_checksum_named(&call->request, &checksum))
        return S3S_INVALID_ARGUMENT;
    s3s_stored_headers(call, &headers);
    enum s3s_code code = s3s_upload_create(&call->server->store, call->bucket, call->key,
                                           headers.data, checksum, id);
    s3s_text_fini(&headers);
    if (code)
        return code;
    begin_result(call, "InitiateMultipartUploadResult");
    s3s_text_printf(&call->answer.body,
                    "<UploadId>%s</UploadId></InitiateMultipartUploadResult>", id);
    return S3S_OK;
}

enum s3s_code s3s_complete_upload(struct s3s_call *call)
{
    char etag[S3S_ETAG_CAPACITY];
    struct s3s_wanted_part *parts = NULL;
    size_t count = 0;
    struct s3s_completion how = {0};
    how.condition = s3s_call_condition(call);
    how.checksum = s3s_checksum_sent(&call->request, &how.checksum_value);
    enum s3s_code code = s3s_xml_read_parts(s3s_text_span(&call->xml), &parts, &count);
    if (!code)
        code = s3s_upload_complete(&call->server->store, s3s_call_upload(call), parts, count,
                                   &how, etag);
    s3s_mem_free(parts);
    if (code)
        return code;
    begin_result(call, "CompleteMultipartUploadResult");
    s3s_text_puts(&call->answer.body, "<ETag>");
    s3s_call_add_etag(call, &call->answer.body, etag);
    s3s_text_puts(&call->answer.body, "</ETag></CompleteMultipartUploadResult>");
    return S3S_OK;
}

enum s3s_code s3s_abort_upload(struct s3s_call *call)
{
    call->answer.status = 204;
    return s3s_upload_abort(&call->server->store, s3s_call_upload(call));
}
