// Sends an answer, and carries out the faults that concern it.
#include <stdio.h>
#include <time.h>

#include "call.h"

static const char *reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 409: return "Conflict";
    case 412: return "Precondition Failed";
    case 416: return "Requested Range Not Satisfiable";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Slow Down";
    default: return "Status";
    }
}

static uint64_t body_length(const struct s3s_answer *answer)
{
    return answer->object ? answer->length : answer->body.length;
}

static bool send_pattern(struct s3s_call *call, uint64_t offset, uint64_t length, bool more)
{
    while (length) {
        uint64_t at = offset % S3S_PATTERN_PERIOD, part = S3S_PATTERN_PERIOD - at;
        part = part < length ? part : length;
        if (!s3s_wire_send(call->wire, call->server->pattern + at, part, more || part < length))
            return false;
        offset += part;
        length -= part;
    }
    return true;
}

// Bytes [first, end) of the object, straight from the blocks they were received into.
static bool send_object(struct s3s_call *call, uint64_t first, uint64_t end, bool more)
{
    const struct s3s_object *object = call->answer.object;
    uint64_t start = 0;
    for (size_t i = 0; i < object->piece_count && first < end;
         start += object->pieces[i].size_bytes, i++) {
        const struct s3s_piece *piece = &object->pieces[i];
        uint64_t piece_end = start + piece->size_bytes;
        if (first >= piece_end)
            continue;
        uint64_t length = (end < piece_end ? end : piece_end) - first;
        bool more_here = more || first + length < end;
        if (piece->block ? !s3s_wire_send(call->wire, piece->block->data + (first - start),
                                          length, more_here)
                         : !send_pattern(call, first, length, more_here))
            return false;
        first += length;
    }
    return true;
}

// Bytes [from, to) of the answer's body.
static bool send_part(struct s3s_call *call, uint64_t from, uint64_t to, bool more)
{
    const struct s3s_answer *answer = &call->answer;
    if (from >= to)
        return true;
    if (answer->object)
        return send_object(call, answer->first + from, answer->first + to, more);
    return s3s_wire_send(call->wire, answer->body.data + from, to - from, more);
}

static char byte_at(const struct s3s_call *call, uint64_t at)
{
    const struct s3s_object *object = call->answer.object;
    if (!object)
        return call->answer.body.data[at];
    at += call->answer.first;
    uint64_t start = 0;
    for (size_t i = 0; i < object->piece_count; start += object->pieces[i].size_bytes, i++) {
        const struct s3s_piece *piece = &object->pieces[i];
        if (at < start + piece->size_bytes)
            return piece->block ? piece->block->data[at - start]
                                : call->server->pattern[at % S3S_PATTERN_PERIOD];
    }
    return 0;
}

static bool send_corrupted(struct s3s_call *call, uint64_t length)
{
    uint64_t at = call->fault.offset % length;
    char flipped = (char)(byte_at(call, at) ^ 1);
    return send_part(call, 0, at, true) &&
           s3s_wire_send(call->wire, &flipped, 1, at + 1 < length) &&
           send_part(call, at + 1, length, false);
}

static bool send_body(struct s3s_call *call, uint64_t length)
{
    uint64_t cut = call->fault.bytes < length ? call->fault.bytes : length;
    if (length && !s3s_body_is_data(call) && s3s_call_hit(call, S3S_FAULT_CORRUPT))
        return send_corrupted(call, length);
    if (s3s_call_hit(call, S3S_FAULT_RESET_AFTER)) {
        if (send_part(call, 0, cut, false))
            s3s_wire_reset(call->wire);
        return false;
    }
    if (s3s_call_hit(call, S3S_FAULT_TRUNCATE)) {
        if (send_part(call, 0, cut, false))
            s3s_wire_end_clean(call->wire);
        return false;
    }
    if (call->fault.has_bytes && s3s_call_hit(call, S3S_FAULT_STALL))
        return send_part(call, 0, cut, false) &&
               s3s_wire_wait(call->wire, (int64_t)call->fault.stall_ms * 1000000) &&
               send_part(call, cut, length, false);
    return send_part(call, 0, length, false);
}

static void write_head(const struct s3s_call *call, struct s3s_text *head, uint64_t length)
{
    const struct s3s_answer *answer = &call->answer;
    s3s_text_printf(head, "HTTP/1.1 %d %s\r\nDate: ", answer->status, reason(answer->status));
    s3s_text_time_http(head, time(NULL));
    s3s_text_printf(head, "\r\nServer: s3server\r\nx-amz-request-id: %016lX\r\n",
                    (unsigned long)call->request_id);
    if (answer->status != 204 && answer->status != 304)
        s3s_text_printf(head, "Content-Length: %lu\r\n", (unsigned long)length);
    if (call->close)
        s3s_text_puts(head, "Connection: close\r\n");
    s3s_text_add_span(head, s3s_text_span(&answer->headers));
    s3s_text_puts(head, "\r\n");
}

static void pick_pace(struct s3s_call *call, uint64_t length)
{
    uint64_t pace = call->server->options.bandwidth_bytes_per_s;
    if (length && s3s_call_hit(call, S3S_FAULT_SLOW))
        pace = call->fault.bytes_per_s;
    s3s_wire_pace(call->wire, pace);
}

bool s3s_answer_send(struct s3s_call *call)
{
    uint64_t length = body_length(&call->answer);
    if (length && s3s_call_hit(call, S3S_FAULT_WRONG_LENGTH))
        length--;
    struct s3s_text head = {0};
    write_head(call, &head, length);
    if (s3s_call_hit(call, S3S_FAULT_RESET_IN_HEADERS))
        head.length /= 2;
    bool cut = call->fault.kind == S3S_FAULT_RESET_IN_HEADERS ||
               s3s_call_hit(call, S3S_FAULT_RESET_AFTER_HEADERS);
    bool has_body = length && !call->answer.headers_only && !cut;
    call->wire->counts = NULL;
    s3s_wire_pace(call->wire, 0);
    bool good = s3s_wire_send(call->wire, head.data, head.length, has_body);
    s3s_text_fini(&head);
    if (good && cut) {
        s3s_wire_reset(call->wire);
        return false;
    }
    call->wire->counts = s3s_control_is(call) ? NULL : &call->server->stats.bytes_out;
    if (good && !call->answer.headers_only) {
        pick_pace(call, length);
        good = send_body(call, length);
    }
    return good;
}
