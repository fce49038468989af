#include "base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

static void *checked(void *memory)
{
    if (!memory) {
        fputs("s3server: out of memory\n", stderr);
        abort();
    }
    return memory;
}

void *s3s_mem_zalloc(size_t size_bytes)
{
    return checked(calloc(1, size_bytes ? size_bytes : 1));
}

void *s3s_mem_resize(void *memory, size_t size_bytes)
{
    return checked(realloc(memory, size_bytes ? size_bytes : 1));
}

void *s3s_mem_copy(const void *data, size_t size_bytes)
{
    char *copy = s3s_mem_resize(NULL, size_bytes + 1);
    if (size_bytes)
        memcpy(copy, data, size_bytes);
    copy[size_bytes] = 0;
    return copy;
}

void s3s_mem_free(void *memory)
{
    free(memory);
}

struct s3s_span s3s_span_of(const char *string)
{
    return (struct s3s_span){string, strlen(string)};
}

struct s3s_span s3s_span_trim(struct s3s_span span)
{
    while (span.length && (*span.data == ' ' || *span.data == '\t'))
        span.data++, span.length--;
    while (span.length &&
           (span.data[span.length - 1] == ' ' || span.data[span.length - 1] == '\t'))
        span.length--;
    return span;
}

bool s3s_span_is(struct s3s_span span, const char *string)
{
    size_t length = strlen(string);
    return span.length == length && (!length || !memcmp(span.data, string, length));
}

bool s3s_span_is_nocase(struct s3s_span span, const char *string)
{
    return span.length == strlen(string) &&
           (!span.length || !strncasecmp(span.data, string, span.length));
}

bool s3s_span_starts(struct s3s_span span, const char *string)
{
    size_t length = strlen(string);
    return span.length >= length && (!length || !memcmp(span.data, string, length));
}

bool s3s_span_starts_nocase(struct s3s_span span, const char *string)
{
    size_t length = strlen(string);
    return span.length >= length && (!length || !strncasecmp(span.data, string, length));
}

bool s3s_span_ends(struct s3s_span span, const char *string)
{
    size_t length = strlen(string);
    return span.length >= length &&
           (!length || !memcmp(span.data + span.length - length, string, length));
}

int s3s_span_compare(struct s3s_span a, struct s3s_span b)
{
    size_t common = a.length < b.length ? a.length : b.length;
    int order = common ? memcmp(a.data, b.data, common) : 0;
    return order ? order : (a.length > b.length) - (a.length < b.length);
}

bool s3s_span_number(struct s3s_span span, uint64_t *value)
{
    uint64_t total = 0;
    if (!span.length)
        return false;
    for (size_t i = 0; i < span.length; i++) {
        if (span.data[i] < '0' || span.data[i] > '9' ||
            __builtin_mul_overflow(total, 10u, &total) ||
            __builtin_add_overflow(total, (uint64_t)(span.data[i] - '0'), &total))
            return false;
    }
    *value = total;
    return true;
}

size_t s3s_span_find(struct s3s_span span, struct s3s_span needle)
{
    if (!needle.length)
        return 0;
    const char *hit =
        span.length ? memmem(span.data, span.length, needle.data, needle.length) : NULL;
    return hit ? (size_t)(hit - span.data) : SIZE_MAX;
}

bool s3s_span_cut(struct s3s_span *rest, char at, struct s3s_span *to)
{
    const char *hit = rest->length ? memchr(rest->data, at, rest->length) : NULL;
    if (!hit) {
        *to = *rest;
        *rest = (struct s3s_span){"", 0};
        return false;
    }
    *to = (struct s3s_span){rest->data, (size_t)(hit - rest->data)};
    *rest = (struct s3s_span){hit + 1, rest->length - to->length - 1};
    return true;
}

void s3s_span_store(struct s3s_span span, char *to, size_t capacity)
{
    size_t length = span.length < capacity - 1 ? span.length : capacity - 1;
    if (length)
        memcpy(to, span.data, length);
    to[length] = 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool s3s_percent_decode(struct s3s_span span, bool plus_is_space, char *to, size_t *length)
{
    size_t out = 0;
    for (size_t i = 0; i < span.length; i++) {
        char c = span.data[i];
        if (c == '%') {
            bool whole = span.length - i > 2;
            int high = whole ? hex_digit(span.data[i + 1]) : -1;
            int low = whole ? hex_digit(span.data[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = (char)(high * 16 + low);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        to[out++] = c;
    }
    *length = out;
    return true;
}

void s3s_text_fini(struct s3s_text *text)
{
    s3s_mem_free(text->data);
    *text = (struct s3s_text){0};
}

void s3s_text_clear(struct s3s_text *text)
{
    text->length = 0;
}

static void reserve(struct s3s_text *text, size_t more)
{
    size_t need = text->length + more + 1;
    if (need <= text->capacity)
        return;
    text->capacity = need < 256 ? 256 : need + need / 2;
    text->data = s3s_mem_resize(text->data, text->capacity);
}

void s3s_text_add(struct s3s_text *text, const void *data, size_t length)
{
    reserve(text, length);
    if (length)
        memcpy(text->data + text->length, data, length);
    text->length += length;
    text->data[text->length] = 0;
}

void s3s_text_add_span(struct s3s_text *text, struct s3s_span span)
{
    s3s_text_add(text, span.data, span.length);
}

void s3s_text_puts(struct s3s_text *text, const char *string)
{
    s3s_text_add(text, string, strlen(string));
}

void s3s_text_printf(struct s3s_text *text, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    if (length > 0) {
        reserve(text, (size_t)length);
        vsnprintf(text->data + text->length, (size_t)length + 1, format, again);
        text->length += (size_t)length;
    }
    va_end(again);
    va_end(args);
}

void s3s_text_xml(struct s3s_text *text, struct s3s_span span)
{
    for (size_t i = 0; i < span.length; i++) {
        unsigned char c = (unsigned char)span.data[i];
        if (c == '&')
            s3s_text_puts(text, "&amp;");
        else if (c == '<')
            s3s_text_puts(text, "&lt;");
        else if (c == '>')
            s3s_text_puts(text, "&gt;");
        else if (c == '"')
            s3s_text_puts(text, "&quot;");
        else if (c < 0x20)
            s3s_text_printf(text, "&#x%x;",
                            c); // as S3 does, although XML 1.0 forbids most of them
        else
            s3s_text_add(text, &c, 1);
    }
}

void s3s_text_json(struct s3s_text *text, struct s3s_span span)
{
    s3s_text_puts(text, "\"");
    for (size_t i = 0; i < span.length; i++) {
        unsigned char c = (unsigned char)span.data[i];
        if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\')
            s3s_text_printf(text, "\\u%04x", c);
        else
            s3s_text_add(text, &c, 1);
    }
    s3s_text_puts(text, "\"");
}

static bool unreserved(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           c == '-' || c == '.' || c == '_' || c == '~';
}

void s3s_text_percent(struct s3s_text *text, struct s3s_span span, bool keep_slash)
{
    for (size_t i = 0; i < span.length; i++) {
        unsigned char c = (unsigned char)span.data[i];
        if (unreserved(c) || (c == '/' && keep_slash))
            s3s_text_add(text, &c, 1);
        else
            s3s_text_printf(text, "%%%02X", c);
    }
}

void s3s_text_hex(struct s3s_text *text, const void *data, size_t length)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < length; i++)
        s3s_text_printf(text, "%02x", bytes[i]);
}

static void add_time(struct s3s_text *text, int64_t unix_s, const char *format)
{
    char out[64];
    struct tm parts;
    time_t when = (time_t)unix_s;
    gmtime_r(&when, &parts);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t length = strftime(out, sizeof out, format, &parts);
#pragma GCC diagnostic pop
    s3s_text_add(text, out, length);
}

void s3s_text_time_http(struct s3s_text *text, int64_t unix_s)
{
    add_time(text, unix_s, "%a, %d %b %Y %H:%M:%S GMT");
}

void s3s_text_time_iso(struct s3s_text *text, int64_t unix_s)
{
    add_time(text, unix_s, "%Y-%m-%dT%H:%M:%S.000Z");
}

struct s3s_span s3s_text_span(const struct s3s_text *text)
{
    return (struct s3s_span){text->data ? text->data : "", text->length};
}

int64_t s3s_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
