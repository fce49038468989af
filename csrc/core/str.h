/*
 * A bounded, growing byte string for URLs, headers and XML.
 *
 * Appending never needs checking one by one: the first failure (memory, or a length beyond `max`)
 * sticks, later appends do nothing, and s3d_str_check reports it once at the end. `data` is
 * terminated whenever it is not NULL; use s3d_str_text for a pointer that is never NULL.
 */
#ifndef S3D_CORE_STR_H
#define S3D_CORE_STR_H

#include "core/error.h"

struct s3d_str {
    char *data;
    size_t length;
    size_t capacity;
    size_t max;            /* a ceiling on length */
    enum s3d_code failure; /* OK, NO_MEMORY, or INVALID: too long */
};

#define S3D_STR(max_bytes) ((struct s3d_str){.max = (max_bytes)})

void s3d_str_fini(struct s3d_str *str);  /* frees; the string is empty and usable again */
void s3d_str_clear(struct s3d_str *str); /* empties, keeps the memory, forgets the failure */
void s3d_str_reserve(struct s3d_str *str, size_t bytes); /* room for so many more */
void s3d_str_add(struct s3d_str *str, const char *text);
void s3d_str_add_bytes(struct s3d_str *str, const void *bytes, size_t length);
void s3d_str_add_format(struct s3d_str *str, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* RFC 3986 percent-encoding with upper-case digits; '/' stays when keep_slash. */
void s3d_str_add_encoded(struct s3d_str *str, const char *text, bool keep_slash);
/* Escapes & < > " ' for XML text and attributes. */
void s3d_str_add_xml(struct s3d_str *str, const char *text);
const char *s3d_str_text(const struct s3d_str *str);
S3D_MUST_USE enum s3d_code s3d_str_check(const struct s3d_str *str, struct s3d_error *error);

/* Copies at most size - 1 bytes of [text, text + length) and terminates. False: it was cut. */
bool s3d_copy_text(char *to, size_t size, const char *text, size_t length);

/* 0 to 15; -1: c is no hexadecimal digit. */
int s3d_hex_digit(char c);
/* What "%XX" at the beginning of text stands for; -1: it is no such thing. */
int s3d_percent_byte(const char *text);

/* A whole decimal number with nothing before or after it. */
S3D_MUST_USE bool s3d_parse_u64(const char *text, uint64_t *out);

#endif
