/*
 * A fuzz target: the input is an HTTP answer, headers and body, to a request that its first four
 * bytes choose (verb, flags, offset, length). Besides crashes it looks for broken promises of
 * http_headers.h and of struct s3d_http_protocol: ranges, lengths and dates that no good answer
 * has, a GET that ends well with other bytes than were asked for, a failure that is not told.
 *
 * Bytes go the way of http.c: line by line until an empty one, accept_body at the first byte of
 * the body, finish at the end.
 */
#include "backends/http_headers.h"
#include "backends/s3.h"
#include "backends/sums.h"
#include "core/uri.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void answer_reset_list(void *context)
{
    *(size_t *)context = 0;
}

static enum s3d_code answer_add(void *context, const char *key, const struct s3d_object *object,
                                struct s3d_error *error)
{
    (void)error;
    PROMISE(strlen(key) <= S3D_KEY_MAX);
    *(size_t *)context += strlen(key) + strlen(object->etag);
    return S3D_OK;
}

static void answer_check_headers(const struct s3d_http_answer *answer)
{
    PROMISE(memchr(answer->etag, '\0', sizeof answer->etag));
    PROMISE(memchr(answer->request_id, '\0', sizeof answer->request_id));
    PROMISE(memchr(answer->region, '\0', sizeof answer->region));
    PROMISE(memchr(answer->checksum_type, '\0', sizeof answer->checksum_type));
    for (size_t i = 0; i < S3D_SUM_KINDS; i++) {
        PROMISE(memchr(answer->checksums[i], '\0', sizeof answer->checksums[i]));
    }
    PROMISE(answer->modified_s >= 0 && answer->date_s >= 0);
    PROMISE(answer->retry_after_ms <= 3600 * 1000);
    PROMISE(!answer->has_range || (answer->range_first <= answer->range_last &&
                                   answer->range_last < answer->range_total));
    PROMISE(!answer->has_range || !answer->range_unsatisfied);
}

/* One header line of exactly its own bytes; returns where the next begins. */
static const char *answer_take_line(struct s3d_http_answer *answer, const char *text,
                                    const char *end, bool *last)
{
    const char *newline = memchr(text, '\n', (size_t)(end - text));
    size_t length = newline ? (size_t)(newline - text) + 1 : (size_t)(end - text);
    char *line = fuzz_exact_copy(text, length);
    *last = line[0] == '\n' || (length == 2 && memcmp(line, "\r\n", 2) == 0);
    if (length >= 12 && memcmp(line, "HTTP/1.1 ", 9) == 0) { /* curl's part */
        answer->status = (int)strtol((char[4]){line[9], line[10], line[11], 0}, NULL, 10);
    }
    int status = answer->status;
    s3d_http_header(answer, line, length);
    answer->status = status;
    free(line);
    return text + length;
}

/* What http.c does with the body and at the end; OK: the request succeeded. */
static enum s3d_code answer_judge(struct s3d_request *request, struct s3d_http_answer *answer,
                                  size_t body_bytes, const char *body, struct s3d_error *error)
{
    bool place = false;
    enum s3d_code code = s3d_s3_accept_body(request, answer, &place, error);
    if (code) {
        return code;
    }
    if (!place) {
        s3d_str_add_bytes(&answer->text, body, body_bytes);
        PROMISE(s3d_str_check(&answer->text, NULL) == S3D_OK);
    } else if (body_bytes > request->length_bytes) {
        return s3d_fail(error, S3D_PROTOCOL, "the answer's body is too long");
    } else {
        request->result.received_bytes = body_bytes;
    }
    return s3d_s3_finish(request, answer, error);
}

static void answer_check_result(const struct s3d_request *request,
                                const struct s3d_http_answer *answer)
{
    uint64_t received = request->result.received_bytes, first = request->result.first_byte;
    const struct s3d_object *object = &request->result.object;
    PROMISE(!object->sum_kind || (memchr(object->sum, '\0', sizeof object->sum) &&
                                  object->sum[0] && !strchr(object->sum, '-')));
    PROMISE(!object->sum_kind || request->verb == S3D_VERB_STAT ||
            (request->verb == S3D_VERB_GET && received == object->size_bytes));
    switch (request->verb) {
    case S3D_VERB_GET:
        PROMISE(received == request->length_bytes || request->suffix);
        PROMISE(first == request->offset_bytes || request->suffix);
        PROMISE(first + received <= request->result.object.size_bytes || !received);
        PROMISE(!request->suffix || first + received == request->result.object.size_bytes);
        break;
    case S3D_VERB_STAT:
        PROMISE(request->result.object.size_bytes == answer->length_bytes);
        break;
    case S3D_VERB_PUT:
    case S3D_VERB_UPLOAD_PART: PROMISE(request->result.object.etag[0]); break;
    case S3D_VERB_UPLOAD_CREATE: PROMISE(request->result.upload_id[0]); break;
    case S3D_VERB_DELETE:
    case S3D_VERB_LIST:
    case S3D_VERB_UPLOAD_COMPLETE:
    case S3D_VERB_UPLOAD_ABORT: break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4) {
        return 0;
    }
    size_t listed = 0;
    const struct s3d_list_sink sink = {&listed, answer_reset_list, answer_add};
    const struct s3d_put_options options = {.if_none_match = true};
    struct s3d_s3_store store = {.http.base.check_kinds = s3d_sum_kinds};
    struct s3d_request request = {
        .store = &store.http.base,
        .resigned = true, /* there is no store whose keys could be renewed */
        .verb = (enum s3d_verb)(data[0] % (S3D_VERB_UPLOAD_ABORT + 1)),
        .key = data[1] & 8 ? "a" : "",
        .suffix = data[1] & 1,
        .if_match = data[1] & 2 ? "\"0123\"" : NULL,
        .options = data[1] & 4 ? &options : NULL,
        .offset_bytes = data[1] & 1 ? 0 : data[2],
        .length_bytes = data[3] ? data[3] : 1,
        .list = &sink,
    };
    struct s3d_http_answer answer = {.text = S3D_STR(S3D_HTTP_TEXT_MAX)};
    struct s3d_error error = {0};
    const char *text = (const char *)data + 4, *end = (const char *)data + size;
    for (bool last = false; text < end && !last;) {
        text = answer_take_line(&answer, text, end, &last);
        answer_check_headers(&answer);
    }
    enum s3d_code code = answer_judge(&request, &answer, (size_t)(end - text), text, &error);
    PROMISE(code != S3D_NO_MEMORY && code != S3D_AGAIN && code != S3D_INTERNAL);
    PROMISE(code == S3D_OK || (error.code == code && error.message[0]));
    if (code == S3D_OK) {
        answer_check_result(&request, &answer);
    }
    s3d_str_fini(&answer.text);
    return 0;
}
