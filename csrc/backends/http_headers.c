#include "backends/http_headers.h"

#include "backends/sums.h"

#include <curl/curl.h>
#include <string.h>
#include <strings.h>
#include <time.h>

struct text {
    const char *start;
    size_t length;
};

static struct text trim(struct text text)
{
    while (text.length && (text.start[0] == ' ' || text.start[0] == '\t')) {
        text.start++;
        text.length--;
    }
    while (text.length && strchr(" \t\r\n", text.start[text.length - 1])) {
        text.length--;
    }
    return text;
}

static bool parse_number(struct text text, uint64_t *out)
{
    char digits[24];
    return s3d_copy_text(digits, sizeof digits, text.start, text.length) &&
           s3d_parse_u64(digits, out);
}

/* "bytes 0-99/1234", or "bytes * / 1234" (without spaces) for a range that cannot be had. A second
 * such header takes the place of the first: halves of two would be a range that nobody sent. */
static void parse_content_range(struct s3d_http_answer *answer, struct text value)
{
    char text[96];
    answer->has_range = answer->range_unsatisfied = false;
    if (!s3d_copy_text(text, sizeof text, value.start, value.length) ||
        strncasecmp(text, "bytes ", 6) != 0) {
        return;
    }
    char *slash = strchr(text + 6, '/');
    if (!slash || !s3d_parse_u64(slash + 1, &answer->range_total)) {
        return;
    }
    *slash = '\0';
    if (strcmp(text + 6, "*") == 0) {
        answer->range_unsatisfied = true;
        return;
    }
    char *dash = strchr(text + 6, '-');
    if (!dash) {
        return;
    }
    *dash = '\0';
    answer->has_range = s3d_parse_u64(text + 6, &answer->range_first) &&
                        s3d_parse_u64(dash + 1, &answer->range_last) &&
                        answer->range_first <= answer->range_last &&
                        answer->range_last < answer->range_total;
}

static int64_t parse_date(struct text value)
{
    char text[64];
    time_t seconds = -1;
    if (s3d_copy_text(text, sizeof text, value.start, value.length)) {
        seconds = curl_getdate(text, NULL);
    }
    return seconds < 0 ? 0 : (int64_t)seconds;
}

/* Retry-After: seconds, or a date. */
static uint32_t parse_retry_after(struct text value)
{
    uint64_t seconds;
    if (!parse_number(value, &seconds)) {
        int64_t at = parse_date(value), now = (int64_t)time(NULL);
        seconds = at > now ? (uint64_t)(at - now) : 0;
    }
    return seconds > 3600 ? 3600 * 1000 : (uint32_t)seconds * 1000;
}

static bool is(struct text name, const char *wanted)
{
    return name.length == strlen(wanted) && strncasecmp(name.start, wanted, name.length) == 0;
}

/* A value that is cut off would be another one: it counts as absent. */
static void take_checksum(struct s3d_http_answer *answer, struct text name, struct text value)
{
    static const char prefix[] = "x-amz-checksum-";
    enum { PREFIX = sizeof prefix - 1 };
    if (name.length < PREFIX || strncasecmp(name.start, prefix, PREFIX) != 0) {
        return;
    }
    struct text kind = {name.start + PREFIX, name.length - PREFIX};
    for (size_t i = 0; i < S3D_SUM_KINDS; i++) {
        if (is(kind, s3d_sum_kinds[i]->name) &&
            !s3d_copy_text(answer->checksums[i], sizeof answer->checksums[i], value.start,
                           value.length)) {
            answer->checksums[i][0] = '\0';
        }
    }
    if (is(kind, "type")) {
        s3d_copy_text(answer->checksum_type, sizeof answer->checksum_type, value.start,
                      value.length);
    }
}

static void take_header(struct s3d_http_answer *answer, struct text name, struct text value)
{
    if (is(name, "content-length")) {
        answer->has_length = parse_number(value, &answer->length_bytes);
    } else if (is(name, "content-range")) {
        parse_content_range(answer, value);
    } else if (is(name, "content-encoding")) {
        s3d_copy_text(answer->content_encoding, sizeof answer->content_encoding, value.start,
                      value.length);
    } else if (is(name, "etag")) {
        s3d_copy_text(answer->etag, sizeof answer->etag, value.start, value.length);
    } else if (is(name, "last-modified")) {
        answer->modified_s = parse_date(value);
    } else if (is(name, "date")) {
        answer->date_s = parse_date(value);
    } else if (is(name, "retry-after")) {
        answer->retry_after_ms = parse_retry_after(value);
    } else if (is(name, "x-amz-request-id") || is(name, "x-ms-request-id")) {
        s3d_copy_text(answer->request_id, sizeof answer->request_id, value.start, value.length);
    } else if (is(name, S3D_WRITE_ID_HEADER)) {
        s3d_copy_text(answer->write_id, sizeof answer->write_id, value.start, value.length);
    } else if (is(name, "x-amz-bucket-region")) {
        s3d_copy_text(answer->region, sizeof answer->region, value.start, value.length);
    } else {
        take_checksum(answer, name, value);
    }
}

static void reset_answer(struct s3d_http_answer *answer)
{
    struct s3d_str text = answer->text;
    memset(answer, 0, sizeof *answer);
    answer->text = text;
    s3d_str_clear(&answer->text);
}

void s3d_http_header(struct s3d_http_answer *answer, const char *line, size_t length)
{
    if (length >= 5 && memcmp(line, "HTTP/", 5) == 0) {
        reset_answer(answer);
        return;
    }
    const char *colon = memchr(line, ':', length);
    if (colon) {
        struct text name = {line, (size_t)(colon - line)};
        struct text value = {colon + 1, length - name.length - 1};
        take_header(answer, trim(name), trim(value));
    }
}
