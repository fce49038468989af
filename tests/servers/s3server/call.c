#include "call.h"

#include <string.h>

static void drop_request(struct s3s_call *call)
{
    s3s_pool_give(&call->server->pool, call->piece.block);
    s3s_object_release(call->answer.object);
    s3s_request_fini(&call->request);
}

// What the last request left is dropped; texts keep their memory.
void s3s_call_begin(struct s3s_call *call)
{
    drop_request(call);
    s3s_text_clear(&call->xml);
    s3s_text_clear(&call->details);
    s3s_text_clear(&call->answer.headers);
    s3s_text_clear(&call->answer.body);
    call->answer = (struct s3s_answer){
        .status = 200, .headers = call->answer.headers, .body = call->answer.body};
    call->piece = (struct s3s_piece){0};
    call->fault.kind = S3S_FAULT_NONE;
    call->fault_fired = call->close = call->hash_md5 = call->hash_sha256 = false;
    call->bucket = call->key = call->upload_id = (struct s3s_span){"", 0};
    call->part_number = 0;
    call->request.path = (struct s3s_span){"", 0}; // the head may turn out to be unreadable
    call->op = S3S_OP_UNKNOWN;
    call->request_id = atomic_fetch_add(&call->server->last_request_id, 1) + 1;
}

void s3s_call_fini(struct s3s_call *call)
{
    drop_request(call);
    s3s_text_fini(&call->xml);
    s3s_text_fini(&call->details);
    s3s_text_fini(&call->answer.headers);
    s3s_text_fini(&call->answer.body);
    s3s_mem_free(call->scratch);
}

bool s3s_call_hit(struct s3s_call *call, enum s3s_fault_kind kind)
{
    if (call->fault.kind != kind)
        return false;
    if (!call->fault_fired)
        s3s_faults_fired(&call->server->faults, &call->fault);
    call->fault_fired = true;
    return true;
}

void s3s_call_error_xml(struct s3s_call *call, const char *code, const char *message)
{
    struct s3s_text *body = &call->answer.body;
    s3s_text_clear(body);
    s3s_text_printf(
        body, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>",
        code);
    s3s_text_xml(body, s3s_span_of(message));
    s3s_text_puts(body, "</Message><Resource>");
    s3s_text_xml(body, call->request.path);
    s3s_text_puts(body, "</Resource>");
    s3s_text_add_span(body, s3s_text_span(&call->details));
    s3s_text_printf(body, "<RequestId>%016lX</RequestId></Error>",
                    (unsigned long)call->request_id);
}

void s3s_call_fail(struct s3s_call *call, enum s3s_code code)
{
    s3s_object_release(call->answer.object);
    call->answer.object = NULL;
    call->answer.status = s3s_code_status(code);
    if (code == S3S_NOT_MODIFIED) { // its ETag header stays, and it has no body
        call->answer.headers_only = true;
        return;
    }
    if (code != S3S_INVALID_RANGE) // whose Content-Range says the size
        s3s_text_clear(&call->answer.headers);
    if (code == S3S_AUTH_MALFORMED)
        s3s_text_printf(&call->answer.headers, "x-amz-bucket-region: %s\r\n",
                        call->server->options.region);
    s3s_text_puts(&call->answer.headers, "Content-Type: application/xml\r\n");
    s3s_call_error_xml(call, s3s_code_name(code), s3s_code_message(code));
}

void s3s_call_add_etag(struct s3s_call *call, struct s3s_text *text, const char *etag)
{
    char shown[S3S_ETAG_CAPACITY];
    s3s_span_store(s3s_span_of(etag), shown, sizeof shown);
    if (s3s_call_hit(call, S3S_FAULT_ETAG_CHANGE))
        shown[0] = shown[0] == '0' ? 'f' : '0';
    s3s_text_printf(text, "\"%s\"", shown);
}
