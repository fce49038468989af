#include "http.h"

#include <string.h>

void s3s_request_fini(struct s3s_request *request)
{
    s3s_mem_free(request->decoded);
    request->decoded = NULL;
}

static const struct s3s_span *lookup(const struct s3s_pair *pairs, size_t count,
                                     const char *name, bool nocase)
{
    for (size_t i = 0; i < count; i++) {
        if (nocase ? s3s_span_is_nocase(pairs[i].name, name) : s3s_span_is(pairs[i].name, name))
            return &pairs[i].value;
    }
    return NULL;
}

const struct s3s_span *s3s_request_header(const struct s3s_request *request, const char *name)
{
    return lookup(request->headers, request->header_count, name, true);
}

const struct s3s_span *s3s_request_param(const struct s3s_request *request, const char *name)
{
    return lookup(request->params, request->param_count, name, false);
}

static bool is_token(struct s3s_span span)
{
    for (size_t i = 0; i < span.length; i++) {
        char c = span.data[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!alnum && (!c || !strchr("!#$%&'*+-.^_`|~", c)))
            return false;
    }
    return span.length > 0;
}

static bool has_control_byte(struct s3s_span span)
{
    for (size_t i = 0; i < span.length; i++) {
        unsigned char c = (unsigned char)span.data[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return true;
    }
    return false;
}

// Takes one CRLF-ended line off `rest`; a bare LF or CR makes the request malformed.
static bool next_line(struct s3s_span *rest, struct s3s_span *line)
{
    if (!s3s_span_cut(rest, '\n', line) || !line->length ||
        line->data[line->length - 1] != '\r')
        return false;
    line->length--;
    return !has_control_byte(*line);
}

// A target may name the host as well, which some clients do without any proxy (RFC 9112, 3.2.2).
static void drop_authority(struct s3s_span *target)
{
    if (!s3s_span_starts_nocase(*target, "http://") &&
        !s3s_span_starts_nocase(*target, "https://"))
        return;
    size_t authority = s3s_span_find(*target, s3s_span_of("://")) + 3;
    struct s3s_span rest = {target->data + authority, target->length - authority};
    size_t path = s3s_span_find(rest, s3s_span_of("/"));
    if (path != SIZE_MAX)
        *target = (struct s3s_span){rest.data + path, rest.length - path};
}

static enum s3s_code parse_request_line(struct s3s_request *request, struct s3s_span line)
{
    if (!s3s_span_cut(&line, ' ', &request->method) ||
        !s3s_span_cut(&line, ' ', &request->target))
        return S3S_BAD_REQUEST;
    drop_authority(&request->target);
    bool http11 = s3s_span_is(line, "HTTP/1.1");
    if (!is_token(request->method) || !s3s_span_starts(request->target, "/") ||
        (!http11 && !s3s_span_is(line, "HTTP/1.0")))
        return S3S_BAD_REQUEST;
    request->keep_alive = http11;
    request->raw_query = request->target;
    s3s_span_cut(&request->raw_query, '?', &request->raw_path);
    return S3S_OK;
}

static enum s3s_code parse_headers(struct s3s_request *request, struct s3s_span rest)
{
    struct s3s_span line;
    while (rest.length) {
        if (!next_line(&rest, &line))
            return S3S_BAD_REQUEST;
        if (!line.length)
            return rest.length ? S3S_BAD_REQUEST : S3S_OK;
        if (request->header_count == S3S_HEADERS_MAX)
            return S3S_HEAD_TOO_LARGE;
        struct s3s_pair *header = &request->headers[request->header_count];
        if (!s3s_span_cut(&line, ':', &header->name) || !is_token(header->name))
            return S3S_BAD_REQUEST;
        header->value = s3s_span_trim(line);
        request->header_count++;
    }
    return S3S_BAD_REQUEST;
}

static enum s3s_code read_known_headers(struct s3s_request *request)
{
    bool has_host = false;
    for (size_t i = 0; i < request->header_count; i++) {
        struct s3s_span name = request->headers[i].name, value = request->headers[i].value;
        if (s3s_span_is_nocase(name, "content-length")) {
            if (request->has_length || !s3s_span_number(value, &request->content_length))
                return S3S_BAD_REQUEST;
            request->has_length = true;
        } else if (s3s_span_is_nocase(name, "transfer-encoding")) {
            request->chunked = true;
        } else if (s3s_span_is_nocase(name, "expect")) {
            request->expect_continue = s3s_span_is_nocase(value, "100-continue");
        } else if (s3s_span_is_nocase(name, "host")) {
            if (has_host)
                return S3S_BAD_REQUEST;
            has_host = true;
        } else if (s3s_span_is_nocase(name, "connection") &&
                   s3s_span_is_nocase(value, "close")) {
            request->keep_alive = false;
        }
    }
    return has_host ? S3S_OK : S3S_BAD_REQUEST;
}

static enum s3s_code decode_target(struct s3s_request *request)
{
    char *to = request->decoded = s3s_mem_zalloc(request->target.length + 1);
    if (!s3s_percent_decode(request->raw_path, false, to, &request->path.length))
        return S3S_BAD_REQUEST;
    request->path.data = to;
    to += request->path.length;
    struct s3s_span rest = request->raw_query, field;
    while (rest.length) {
        s3s_span_cut(&rest, '&', &field);
        if (!field.length)
            continue;
        if (request->param_count == S3S_PARAMS_MAX)
            return S3S_BAD_REQUEST;
        struct s3s_pair *pair = &request->params[request->param_count++];
        struct s3s_span name;
        s3s_span_cut(&field, '=', &name);
        pair->name.data = to;
        if (!s3s_percent_decode(name, true, to, &pair->name.length))
            return S3S_BAD_REQUEST;
        to += pair->name.length;
        pair->value.data = to;
        if (!s3s_percent_decode(field, true, to, &pair->value.length))
            return S3S_BAD_REQUEST;
        to += pair->value.length;
    }
    return S3S_OK;
}

enum s3s_code s3s_request_parse(struct s3s_request *request, struct s3s_span head)
{
    // The pair arrays are left as they are: clearing 5 KiB for each request would be waste.
    memset(request, 0, offsetof(struct s3s_request, headers));
    request->header_count = request->param_count = 0;
    request->content_length = 0;
    request->has_length = request->chunked = request->expect_continue = request->keep_alive =
        false;
    request->decoded = NULL;
    struct s3s_span line;
    if (!next_line(&head, &line))
        return S3S_BAD_REQUEST;
    enum s3s_code code = parse_request_line(request, line);
    if (!code)
        code = parse_headers(request, head);
    if (!code)
        code = read_known_headers(request);
    return code ? code : decode_target(request);
}
