// Memory, spans and growing text for the test server.
// Exhausted memory ends the process with a message: it is a test tool, and a server that limps on would make a
// test's failure harder to read. A span borrows; a text owns its bytes (fini releases them).
#ifndef S3S_BASE_H
#define S3S_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *s3s_mem_zalloc(size_t size_bytes);
void *s3s_mem_resize(void *memory, size_t size_bytes);
void *s3s_mem_copy(const void *data, size_t size_bytes); // a fresh copy with a NUL behind it
void s3s_mem_free(void *memory);

struct s3s_span {
    const char *data;
    size_t length;
};

struct s3s_span s3s_span_of(const char *string);
struct s3s_span s3s_span_trim(struct s3s_span span); // spaces and tabs at both ends
bool s3s_span_is(struct s3s_span span, const char *string);
bool s3s_span_is_nocase(struct s3s_span span, const char *string);
bool s3s_span_starts(struct s3s_span span, const char *string);
bool s3s_span_starts_nocase(struct s3s_span span, const char *string);
bool s3s_span_ends(struct s3s_span span, const char *string);
int s3s_span_compare(struct s3s_span a, struct s3s_span b);  // by bytes, as S3 orders keys
bool s3s_span_number(struct s3s_span span, uint64_t *value); // all digits, no overflow
size_t s3s_span_find(struct s3s_span span, struct s3s_span needle); // SIZE_MAX: not there
bool s3s_span_cut(struct s3s_span *rest, char at,
                  struct s3s_span *to); // false: `at` is not there; all goes to `to`
void s3s_span_store(struct s3s_span span, char *to,
                    size_t capacity); // NUL-terminated, truncated to fit

// Percent-decodes into `to` (at least span.length bytes). False when an escape is broken.
bool s3s_percent_decode(struct s3s_span span, bool plus_is_space, char *to, size_t *length);

struct s3s_text {
    char *data; // NUL-terminated once anything was added
    size_t length;
    size_t capacity;
};

void s3s_text_fini(struct s3s_text *text);
void s3s_text_clear(struct s3s_text *text);
void s3s_text_add(struct s3s_text *text, const void *data, size_t length);
void s3s_text_add_span(struct s3s_text *text, struct s3s_span span);
void s3s_text_puts(struct s3s_text *text, const char *string);
void s3s_text_printf(struct s3s_text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void s3s_text_xml(struct s3s_text *text, struct s3s_span span);
void s3s_text_json(struct s3s_text *text,
                   struct s3s_span span); // quoted; a byte >= 0x80 becomes \u00XX (Latin-1)
void s3s_text_percent(struct s3s_text *text, struct s3s_span span, bool keep_slash);
void s3s_text_hex(struct s3s_text *text, const void *data, size_t length);
void s3s_text_time_http(struct s3s_text *text, int64_t unix_s); // Sun, 06 Nov 1994 08:49:37 GMT
void s3s_text_time_iso(struct s3s_text *text, int64_t unix_s);  // 1994-11-06T08:49:37.000Z
struct s3s_span s3s_text_span(const struct s3s_text *text);

int64_t s3s_clock_ns(void); // monotonic

#endif
