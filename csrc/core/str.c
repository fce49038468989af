#include "core/str.h"

#include "core/mem.h"

#include <stdio.h>
#include <string.h>

enum { FIRST_BYTES = 64 };

void s3d_str_fini(struct s3d_str *str)
{
    s3d_free(str->data);
    *str = S3D_STR(str->max);
}

void s3d_str_clear(struct s3d_str *str)
{
    str->length = 0;
    str->failure = S3D_OK;
    if (str->data) {
        str->data[0] = '\0';
    }
}

/* How much is asked for when `needed` bytes are to fit. */
static size_t room_for(const struct s3d_str *str, size_t needed)
{
    size_t capacity = str->capacity ? str->capacity : FIRST_BYTES;
    while (capacity < needed) {
        capacity *= 2;
    }
    return capacity;
}

/* Makes room for `more` bytes and the terminator; false leaves the string as it was. */
static bool reserve(struct s3d_str *str, size_t more)
{
    if (str->failure) {
        return false;
    }
    if (more > str->max || str->length > str->max - more) {
        str->failure = S3D_INVALID;
        return false;
    }
    size_t needed = str->length + more + 1;
    if (needed <= str->capacity) {
        return true;
    }
    size_t capacity = room_for(str, needed);
    char *data = s3d_resize(str->data, capacity);
    if (!data) {
        str->failure = S3D_NO_MEMORY;
        return false;
    }
    str->data = data;
    str->capacity = capacity;
    return true;
}

void s3d_str_reserve(struct s3d_str *str, size_t bytes)
{
    if (bytes && reserve(str, bytes)) {
        str->data[str->length] = '\0';
    }
}

void s3d_str_add_bytes(struct s3d_str *str, const void *bytes, size_t length)
{
    if (!reserve(str, length)) {
        return;
    }
    if (length) {
        memcpy(str->data + str->length, bytes, length);
    }
    str->length += length;
    str->data[str->length] = '\0';
}

void s3d_str_add(struct s3d_str *str, const char *text)
{
    s3d_str_add_bytes(str, text, strlen(text));
}

void s3d_str_add_format(struct s3d_str *str, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length >= 0 && reserve(str, (size_t)length)) {
        vsnprintf(str->data + str->length, (size_t)length + 1, format, again);
        str->length += (size_t)length;
    }
    va_end(again);
}

static bool is_unreserved(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           c == '-' || c == '.' || c == '_' || c == '~';
}

void s3d_str_add_encoded(struct s3d_str *str, const char *text, bool keep_slash)
{
    static const char digits[] = "0123456789ABCDEF";
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (is_unreserved(*c) || (keep_slash && *c == '/')) {
            s3d_str_add_bytes(str, c, 1);
        } else {
            char encoded[3] = {'%', digits[*c >> 4], digits[*c & 15]};
            s3d_str_add_bytes(str, encoded, sizeof encoded);
        }
    }
}

static const char *xml_entity(char c)
{
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&apos;";
    default: return NULL;
    }
}

void s3d_str_add_xml(struct s3d_str *str, const char *text)
{
    for (const char *c = text; *c; c++) {
        const char *entity = xml_entity(*c);
        if (entity) {
            s3d_str_add(str, entity);
        } else {
            s3d_str_add_bytes(str, c, 1);
        }
    }
}

const char *s3d_str_text(const struct s3d_str *str)
{
    return str->data ? str->data : "";
}

enum s3d_code s3d_str_check(const struct s3d_str *str, struct s3d_error *error)
{
    if (!str->failure) {
        return S3D_OK;
    }
    if (str->failure == S3D_NO_MEMORY) {
        return s3d_fail_memory(error, room_for(str, str->capacity + 1));
    }
    return s3d_fail(error, S3D_INVALID, "a text is longer than %zu bytes", str->max);
}

bool s3d_copy_text(char *to, size_t size, const char *text, size_t length)
{
    size_t kept = length < size ? length : size - 1;
    memcpy(to, text, kept);
    to[kept] = '\0';
    return kept == length;
}

int s3d_hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int s3d_percent_byte(const char *text)
{
    int high = text[0] == '%' ? s3d_hex_digit(text[1]) : -1;
    int low = high < 0 ? -1 : s3d_hex_digit(text[2]);
    return low < 0 ? -1 : high * 16 + low;
}

bool s3d_parse_u64(const char *text, uint64_t *out)
{
    if (!*text) {
        return false;
    }
    uint64_t value = 0;
    for (const char *c = text; *c; c++) {
        if (*c < '0' || *c > '9' || __builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*c - '0'), &value)) {
            return false;
        }
    }
    *out = value;
    return true;
}
