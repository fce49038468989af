#include "formats/json.h"

#include <string.h>

enum { DEPTH_MAX = 32 };

void s3d_json_init(struct s3d_json *json, const char *document, size_t length, char *texts,
                   const char *name, struct s3d_error *error)
{
    const unsigned char *start = (const unsigned char *)document;
    *json = (struct s3d_json){.start = start,
                              .at = start,
                              .end = start + length,
                              .name = name,
                              .error = error,
                              .texts = texts};
}

enum s3d_code s3d_json_broken(const struct s3d_json *json, const char *what)
{
    return s3d_fail(json->error, S3D_INVALID, "%s is broken at byte %zu: %s", json->name,
                    (size_t)(json->at - json->start), what);
}

/* --- tokens -------------------------------------------------------------------------------- */

static void skip_space(struct s3d_json *json)
{
    while (json->at < json->end &&
           (*json->at == ' ' || *json->at == '\n' || *json->at == '\t' || *json->at == '\r')) {
        json->at++;
    }
}

bool s3d_json_accept(struct s3d_json *json, char c)
{
    skip_space(json);
    if (json->at == json->end || *json->at != (unsigned char)c) {
        return false;
    }
    json->at++;
    return true;
}

enum s3d_code s3d_json_expect(struct s3d_json *json, char c, const char *otherwise)
{
    return s3d_json_accept(json, c) ? S3D_OK : s3d_json_broken(json, otherwise);
}

/* No sign, no fraction, no exponent, no leading zeros. */
enum s3d_code s3d_json_number(struct s3d_json *json, uint64_t *number)
{
    skip_space(json);
    const unsigned char *first = json->at;
    uint64_t value = 0;
    while (json->at < json->end && *json->at >= '0' && *json->at <= '9') {
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*json->at - '0'), &value)) {
            return s3d_json_broken(json, "a number beyond 64 bits");
        }
        json->at++;
    }
    if (json->at == first || (*first == '0' && json->at - first > 1)) {
        return s3d_json_broken(json, "a whole number is expected");
    }
    *number = value;
    return S3D_OK;
}

/* --- texts --------------------------------------------------------------------------------- */

static void put_byte(struct s3d_json *json, unsigned byte)
{
    json->texts[json->texts_used++] = (char)byte;
}

static void put_code_point(struct s3d_json *json, unsigned point)
{
    if (point < 0x80) {
        put_byte(json, point);
        return;
    }
    if (point < 0x800) {
        put_byte(json, 0xC0 | point >> 6);
    } else {
        if (point < 0x10000) {
            put_byte(json, 0xE0 | point >> 12);
        } else {
            put_byte(json, 0xF0 | point >> 18);
            put_byte(json, 0x80 | (point >> 12 & 0x3F));
        }
        put_byte(json, 0x80 | (point >> 6 & 0x3F));
    }
    put_byte(json, 0x80 | (point & 0x3F));
}

/* The four digits of a \u; false: they are not there. */
static bool take_hex(struct s3d_json *json, unsigned *unit)
{
    *unit = 0;
    if (json->end - json->at < 4) {
        return false;
    }
    for (int i = 0; i < 4; i++) {
        unsigned c = *json->at++;
        unsigned digit = c - '0';
        if (c >= 'a' && c <= 'f') {
            digit = c - 'a' + 10;
        } else if (c >= 'A' && c <= 'F') {
            digit = c - 'A' + 10;
        } else if (c < '0' || c > '9') {
            return false;
        }
        *unit = *unit << 4 | digit;
    }
    return true;
}

static enum s3d_code take_unicode_escape(struct s3d_json *json)
{
    unsigned point, low;
    if (!take_hex(json, &point)) {
        return s3d_json_broken(json, "\\u needs four hexadecimal digits");
    }
    if (point >= 0xD800 && point <= 0xDFFF) {
        if (point > 0xDBFF || json->end - json->at < 6 || json->at[0] != '\\' ||
            json->at[1] != 'u') {
            return s3d_json_broken(json, "half a surrogate pair");
        }
        json->at += 2;
        if (!take_hex(json, &low) || low < 0xDC00 || low > 0xDFFF) {
            return s3d_json_broken(json, "half a surrogate pair");
        }
        point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    put_code_point(json, point);
    return S3D_OK;
}

/* What follows a backslash. */
static enum s3d_code take_escape(struct s3d_json *json)
{
    static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    int c = json->at < json->end ? *json->at++ : 0;
    if (c == 'u') {
        return take_unicode_escape(json);
    }
    const char *found = c ? strchr(names, c) : NULL;
    if (!found) {
        return s3d_json_broken(json, "an unknown escape");
    }
    put_byte(json, (unsigned char)bytes[found - names]);
    return S3D_OK;
}

/* Bytes of the UTF-8 character at `at`, 0 if it is none: overlong, a surrogate, too large, cut. */
static size_t utf8_bytes(const unsigned char *at, const unsigned char *end)
{
    unsigned lead = at[0];
    if (lead < 0x80) {
        return 1;
    }
    size_t bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (lead < 0xC2 || lead > 0xF4 || (size_t)(end - at) < bytes) {
        return 0;
    }
    unsigned least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (at[1] < least || at[1] > most) {
        return 0;
    }
    for (size_t i = 2; i < bytes; i++) {
        if ((at[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return bytes;
}

static enum s3d_code take_plain(struct s3d_json *json)
{
    size_t bytes = *json->at < 0x20 ? 0 : utf8_bytes(json->at, json->end);
    if (!bytes) {
        return s3d_json_broken(json, *json->at < 0x20 ? "a control character in a text"
                                                      : "a text is not UTF-8");
    }
    memcpy(json->texts + json->texts_used, json->at, bytes);
    json->texts_used += bytes;
    json->at += bytes;
    return S3D_OK;
}

/* A text takes at most as many bytes as the JSON of it: with its two quotes, one for the NUL. */
enum s3d_code s3d_json_text(struct s3d_json *json, struct s3d_json_text *text)
{
    enum s3d_code code = s3d_json_expect(json, '"', "a text is expected");
    size_t first = json->texts_used;
    while (!code) {
        if (json->at == json->end) {
            return s3d_json_broken(json, "a text without an end");
        }
        if (*json->at == '"') {
            json->at++;
            break;
        }
        if (*json->at == '\\') {
            json->at++;
            code = take_escape(json);
        } else {
            code = take_plain(json);
        }
    }
    if (code) {
        return code;
    }
    text->data = json->texts + first;
    text->length = json->texts_used - first;
    put_byte(json, 0);
    return S3D_OK;
}

bool s3d_json_text_is(const struct s3d_json_text *text, const char *other)
{
    return text->length == strlen(other) && memcmp(text->data, other, text->length) == 0;
}

/* --- objects and values -------------------------------------------------------------------- */

enum s3d_code s3d_json_object(struct s3d_json *json, s3d_json_member *member, void *context)
{
    enum s3d_code code = s3d_json_expect(json, '{', "an object is expected");
    if (code || s3d_json_accept(json, '}')) {
        return code;
    }
    while (!code) {
        struct s3d_json_text key;
        code = s3d_json_text(json, &key);
        code = code ? code : s3d_json_expect(json, ':', "':' is expected");
        code = code ? code : member(json, &key, context);
        if (code || s3d_json_accept(json, '}')) {
            break;
        }
        code = s3d_json_expect(json, ',', "',' or '}' is expected");
    }
    return code;
}

enum s3d_code s3d_json_end(struct s3d_json *json, const char *otherwise)
{
    skip_space(json);
    return json->at == json->end ? S3D_OK : s3d_json_broken(json, otherwise);
}

static bool take_word(struct s3d_json *json, const char *word)
{
    size_t length = strlen(word);
    skip_space(json);
    if ((size_t)(json->end - json->at) < length || memcmp(json->at, word, length) != 0) {
        return false;
    }
    json->at += length;
    return true;
}

bool s3d_json_null(struct s3d_json *json)
{
    return take_word(json, "null");
}

static bool take_digits(struct s3d_json *json)
{
    const unsigned char *first = json->at;
    while (json->at < json->end && *json->at >= '0' && *json->at <= '9') {
        json->at++;
    }
    return json->at != first;
}

static bool take_one_of(struct s3d_json *json, const char *characters)
{
    bool found = json->at < json->end && *json->at && strchr(characters, *json->at);
    json->at += found;
    return found;
}

static enum s3d_code skip_number(struct s3d_json *json)
{
    take_one_of(json, "-");
    const unsigned char *first = json->at;
    bool whole = take_digits(json) && !(*first == '0' && json->at - first > 1);
    if (whole && take_one_of(json, ".")) {
        whole = take_digits(json);
    }
    if (whole && take_one_of(json, "eE")) {
        take_one_of(json, "+-");
        whole = take_digits(json);
    }
    return whole ? S3D_OK : s3d_json_broken(json, "a value is expected");
}

static enum s3d_code skip_value(struct s3d_json *json, unsigned depth);

static enum s3d_code skip_member(struct s3d_json *json, const struct s3d_json_text *key,
                                 void *context)
{
    (void)key;
    return skip_value(json, *(const unsigned *)context);
}

static enum s3d_code skip_array(struct s3d_json *json, unsigned depth)
{
    enum s3d_code code = s3d_json_expect(json, '[', "an array is expected");
    if (code || s3d_json_accept(json, ']')) {
        return code;
    }
    while (!code) {
        code = skip_value(json, depth);
        if (code || s3d_json_accept(json, ']')) {
            break;
        }
        code = s3d_json_expect(json, ',', "',' or ']' is expected");
    }
    return code;
}

static enum s3d_code skip_value(struct s3d_json *json, unsigned depth)
{
    unsigned inner = depth + 1;
    struct s3d_json_text text;
    if (depth == DEPTH_MAX) {
        return s3d_json_broken(json, "it is nested too deep");
    }
    skip_space(json);
    int next = json->at < json->end ? *json->at : 0;
    if (next == '{') {
        return s3d_json_object(json, skip_member, &inner);
    }
    if (next == '[') {
        return skip_array(json, inner);
    }
    if (next == '"') {
        return s3d_json_text(json, &text);
    }
    if (take_word(json, "null") || take_word(json, "true") || take_word(json, "false")) {
        return S3D_OK;
    }
    return skip_number(json);
}

enum s3d_code s3d_json_skip(struct s3d_json *json)
{
    return skip_value(json, 0);
}
