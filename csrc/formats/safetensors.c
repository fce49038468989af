#include "formats/safetensors.h"

#include "core/mem.h"

#include <stdlib.h>
#include <string.h>

enum { SHOWN_BYTES = 100 }; /* of a name, in errors */

struct parser {
    const unsigned char *start, *at, *end;
    struct s3d_error *error;
    struct s3d_safetensors *file;
    size_t texts_used; /* of file->texts, which has room for all there can be */
    size_t tensors_room, metadata_room, dims_room, dims_count;
    bool has_metadata;
};

static const char *const dtype_names[] = {
#define X(name, bits) #name,
    S3D_SAFETENSORS_DTYPES(X)
#undef X
};

static const unsigned char dtype_bits[] = {
#define X(name, bits) bits,
    S3D_SAFETENSORS_DTYPES(X)
#undef X
};

const char *s3d_safetensors_dtype_name(enum s3d_safetensors_dtype dtype)
{
    return dtype_names[dtype];
}

unsigned s3d_safetensors_dtype_bits(enum s3d_safetensors_dtype dtype)
{
    return dtype_bits[dtype];
}

/* --- the length ---------------------------------------------------------------------------- */

enum s3d_code s3d_safetensors_header_bytes(const void *bytes, uint64_t object_bytes,
                                           uint64_t *header_bytes, struct s3d_error *error)
{
    const unsigned char *digits = bytes;
    uint64_t length = 0;
    if (object_bytes < S3D_SAFETENSORS_LENGTH_BYTES) {
        return s3d_fail(error, S3D_INVALID,
                        "not a safetensors file: it has %llu bytes, too few for a header",
                        (unsigned long long)object_bytes);
    }
    for (int i = S3D_SAFETENSORS_LENGTH_BYTES - 1; i >= 0; i--) {
        length = length << 8 | digits[i];
    }
    if (length > S3D_SAFETENSORS_HEADER_MAX) {
        return s3d_fail(
            error, S3D_INVALID,
            "not a safetensors file: its header would have %llu bytes, more than %llu",
            (unsigned long long)length, (unsigned long long)S3D_SAFETENSORS_HEADER_MAX);
    }
    if (length > object_bytes - S3D_SAFETENSORS_LENGTH_BYTES) {
        return s3d_fail(
            error, S3D_INVALID,
            "not a whole safetensors file: its header has %llu bytes, the file %llu",
            (unsigned long long)length, (unsigned long long)object_bytes);
    }
    *header_bytes = length;
    return S3D_OK;
}

/* --- errors and memory --------------------------------------------------------------------- */

static enum s3d_code broken(const struct parser *parser, const char *what)
{
    return s3d_fail(parser->error, S3D_INVALID,
                    "the safetensors header is broken at byte %zu: %s",
                    (size_t)(parser->at - parser->start), what);
}

static int shown(const struct s3d_safetensors_text *name)
{
    return name->length < SHOWN_BYTES ? (int)name->length : SHOWN_BYTES;
}

static enum s3d_code wrong_tensor(const struct s3d_safetensor *tensor, struct s3d_error *error,
                                  const char *what)
{
    return s3d_fail(error, S3D_INVALID, "tensor \"%.*s\" with data_offsets [%llu, %llu]: %s",
                    shown(&tensor->name), tensor->name.data, (unsigned long long)tensor->begin,
                    (unsigned long long)tensor->end, what);
}

/* Room for one more of `bytes` each; *items stays valid when there is none. */
static enum s3d_code grow(void **items, size_t count, size_t *room, size_t bytes,
                          struct s3d_error *error)
{
    size_t larger = *room ? *room * 2 : 16, size;
    if (count < *room) {
        return S3D_OK;
    }
    if (!s3d_size_mul(larger, bytes, &size)) {
        return s3d_fail_memory(error, SIZE_MAX);
    }
    void *memory = s3d_resize(*items, size);
    if (!memory) {
        return s3d_fail_memory(error, size);
    }
    *items = memory;
    *room = larger;
    return S3D_OK;
}

/* --- tokens -------------------------------------------------------------------------------- */

static void skip_space(struct parser *parser)
{
    while (parser->at < parser->end && (*parser->at == ' ' || *parser->at == '\n' ||
                                        *parser->at == '\t' || *parser->at == '\r')) {
        parser->at++;
    }
}

static bool accept(struct parser *parser, char c)
{
    skip_space(parser);
    if (parser->at == parser->end || *parser->at != (unsigned char)c) {
        return false;
    }
    parser->at++;
    return true;
}

static enum s3d_code expect(struct parser *parser, char c, const char *otherwise)
{
    return accept(parser, c) ? S3D_OK : broken(parser, otherwise);
}

/* JSON's: no sign, no fraction, no exponent, no leading zeros. */
static enum s3d_code parse_number(struct parser *parser, uint64_t *number)
{
    skip_space(parser);
    const unsigned char *first = parser->at;
    uint64_t value = 0;
    while (parser->at < parser->end && *parser->at >= '0' && *parser->at <= '9') {
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*parser->at - '0'), &value)) {
            return broken(parser, "a number beyond 64 bits");
        }
        parser->at++;
    }
    if (parser->at == first || (*first == '0' && parser->at - first > 1)) {
        return broken(parser, "a whole number is expected");
    }
    *number = value;
    return S3D_OK;
}

/* --- texts --------------------------------------------------------------------------------- */

static void put_byte(struct parser *parser, unsigned byte)
{
    parser->file->texts[parser->texts_used++] = (char)byte;
}

static void put_code_point(struct parser *parser, unsigned point)
{
    if (point < 0x80) {
        put_byte(parser, point);
        return;
    }
    if (point < 0x800) {
        put_byte(parser, 0xC0 | point >> 6);
    } else {
        if (point < 0x10000) {
            put_byte(parser, 0xE0 | point >> 12);
        } else {
            put_byte(parser, 0xF0 | point >> 18);
            put_byte(parser, 0x80 | (point >> 12 & 0x3F));
        }
        put_byte(parser, 0x80 | (point >> 6 & 0x3F));
    }
    put_byte(parser, 0x80 | (point & 0x3F));
}

/* The four digits of a \u; false: they are not there. */
static bool take_hex(struct parser *parser, unsigned *unit)
{
    *unit = 0;
    if (parser->end - parser->at < 4) {
        return false;
    }
    for (int i = 0; i < 4; i++) {
        unsigned c = *parser->at++;
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

static enum s3d_code take_unicode_escape(struct parser *parser)
{
    unsigned point, low;
    if (!take_hex(parser, &point)) {
        return broken(parser, "\\u needs four hexadecimal digits");
    }
    if (point >= 0xD800 && point <= 0xDFFF) {
        if (point > 0xDBFF || parser->end - parser->at < 6 || parser->at[0] != '\\' ||
            parser->at[1] != 'u') {
            return broken(parser, "half a surrogate pair");
        }
        parser->at += 2;
        if (!take_hex(parser, &low) || low < 0xDC00 || low > 0xDFFF) {
            return broken(parser, "half a surrogate pair");
        }
        point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    put_code_point(parser, point);
    return S3D_OK;
}

/* What follows a backslash. */
static enum s3d_code take_escape(struct parser *parser)
{
    static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    int c = parser->at < parser->end ? *parser->at++ : 0;
    if (c == 'u') {
        return take_unicode_escape(parser);
    }
    const char *found = c ? strchr(names, c) : NULL;
    if (!found) {
        return broken(parser, "an unknown escape");
    }
    put_byte(parser, (unsigned char)bytes[found - names]);
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

static enum s3d_code take_plain(struct parser *parser)
{
    size_t bytes = *parser->at < 0x20 ? 0 : utf8_bytes(parser->at, parser->end);
    if (!bytes) {
        return broken(parser, *parser->at < 0x20 ? "a control character in a text"
                                                 : "a text is not UTF-8");
    }
    memcpy(parser->file->texts + parser->texts_used, parser->at, bytes);
    parser->texts_used += bytes;
    parser->at += bytes;
    return S3D_OK;
}

/* A text takes at most as many bytes as the JSON of it: with its two quotes, one for the NUL. */
static enum s3d_code parse_text(struct parser *parser, struct s3d_safetensors_text *text)
{
    enum s3d_code code = expect(parser, '"', "a text is expected");
    size_t first = parser->texts_used;
    while (!code) {
        if (parser->at == parser->end) {
            return broken(parser, "a text without an end");
        }
        if (*parser->at == '"') {
            parser->at++;
            break;
        }
        if (*parser->at == '\\') {
            parser->at++;
            code = take_escape(parser);
        } else {
            code = take_plain(parser);
        }
    }
    if (code) {
        return code;
    }
    text->data = parser->file->texts + first;
    text->length = parser->texts_used - first;
    put_byte(parser, 0);
    return S3D_OK;
}

static bool is_text(const struct s3d_safetensors_text *text, const char *other)
{
    return text->length == strlen(other) && memcmp(text->data, other, text->length) == 0;
}

/* --- arrays and objects -------------------------------------------------------------------- */

/* Appends an array of numbers to the header's dims. */
static enum s3d_code parse_numbers(struct parser *parser)
{
    struct s3d_safetensors *file = parser->file;
    enum s3d_code code = expect(parser, '[', "an array is expected");
    if (code || accept(parser, ']')) {
        return code;
    }
    for (;;) {
        void *dims = file->dims;
        code = grow(&dims, parser->dims_count, &parser->dims_room, sizeof *file->dims,
                    parser->error);
        file->dims = dims;
        if (!code) {
            code = parse_number(parser, &file->dims[parser->dims_count]);
        }
        if (code) {
            return code;
        }
        parser->dims_count++;
        if (accept(parser, ']')) {
            return S3D_OK;
        }
        code = expect(parser, ',', "',' or ']' is expected");
        if (code) {
            return code;
        }
    }
}

typedef enum s3d_code parse_member(struct parser *parser,
                                   const struct s3d_safetensors_text *key, void *context);

static enum s3d_code parse_object(struct parser *parser, parse_member *member, void *context)
{
    enum s3d_code code = expect(parser, '{', "an object is expected");
    if (code || accept(parser, '}')) {
        return code;
    }
    while (!code) {
        struct s3d_safetensors_text key;
        code = parse_text(parser, &key);
        code = code ? code : expect(parser, ':', "':' is expected");
        code = code ? code : member(parser, &key, context);
        if (code || accept(parser, '}')) {
            break;
        }
        code = expect(parser, ',', "',' or '}' is expected");
    }
    return code;
}

/* --- the schema ---------------------------------------------------------------------------- */

enum { SEEN_DTYPE = 1, SEEN_SHAPE = 2, SEEN_OFFSETS = 4, SEEN_ALL = 7 };

struct description {
    struct s3d_safetensor *tensor;
    unsigned seen;
};

static enum s3d_code parse_dtype(struct parser *parser, struct s3d_safetensor *tensor)
{
    struct s3d_safetensors_text name;
    enum s3d_code code = parse_text(parser, &name);
    if (code) {
        return code;
    }
    for (unsigned i = 0; i < S3D_SAFETENSORS_DTYPE_COUNT; i++) {
        if (is_text(&name, dtype_names[i])) {
            tensor->dtype = (enum s3d_safetensors_dtype)i;
            return S3D_OK;
        }
    }
    return s3d_fail(parser->error, S3D_INVALID, "tensor \"%.*s\": unknown dtype \"%.*s\"",
                    shown(&tensor->name), tensor->name.data, shown(&name), name.data);
}

static enum s3d_code parse_shape(struct parser *parser, struct s3d_safetensor *tensor)
{
    tensor->first_dim = parser->dims_count;
    enum s3d_code code = parse_numbers(parser);
    tensor->rank = parser->dims_count - tensor->first_dim;
    return code;
}

static enum s3d_code parse_offsets(struct parser *parser, struct s3d_safetensor *tensor)
{
    size_t first = parser->dims_count;
    enum s3d_code code = parse_numbers(parser);
    if (!code && parser->dims_count - first != 2) {
        code = broken(parser, "data_offsets must be two numbers");
    }
    if (!code) {
        tensor->begin = parser->file->dims[first];
        tensor->end = parser->file->dims[first + 1];
    }
    parser->dims_count = first; /* they were there for a moment only */
    return code;
}

static enum s3d_code parse_description_member(struct parser *parser,
                                              const struct s3d_safetensors_text *key,
                                              void *context)
{
    static const struct {
        const char *name;
        unsigned bit;
        enum s3d_code (*parse)(struct parser *parser, struct s3d_safetensor *tensor);
    } members[] = {
        {"dtype", SEEN_DTYPE, parse_dtype},
        {"shape", SEEN_SHAPE, parse_shape},
        {"data_offsets", SEEN_OFFSETS, parse_offsets},
    };
    struct description *description = context;
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (!is_text(key, members[i].name)) {
            continue;
        }
        if (description->seen & members[i].bit) {
            return broken(parser, "a member comes twice");
        }
        description->seen |= members[i].bit;
        return members[i].parse(parser, description->tensor);
    }
    return broken(parser, "a tensor has dtype, shape and data_offsets, and nothing else");
}

static enum s3d_code parse_tensor(struct parser *parser,
                                  const struct s3d_safetensors_text *name)
{
    struct s3d_safetensors *file = parser->file;
    void *tensors = file->tensors;
    enum s3d_code code = grow(&tensors, file->count, &parser->tensors_room,
                              sizeof *file->tensors, parser->error);
    file->tensors = tensors;
    if (code) {
        return code;
    }
    struct s3d_safetensor *tensor = &file->tensors[file->count];
    *tensor = (struct s3d_safetensor){.name = *name};
    struct description description = {tensor, 0};
    code = parse_object(parser, parse_description_member, &description);
    if (!code && description.seen != SEEN_ALL) {
        code = s3d_fail(parser->error, S3D_INVALID,
                        "tensor \"%.*s\": dtype, shape or data_offsets is missing", shown(name),
                        name->data);
    }
    file->count += !code;
    return code;
}

static enum s3d_code parse_metadata_member(struct parser *parser,
                                           const struct s3d_safetensors_text *key,
                                           void *context)
{
    struct s3d_safetensors *file = context;
    void *metadata = file->metadata;
    enum s3d_code code = grow(&metadata, file->metadata_count, &parser->metadata_room,
                              sizeof *file->metadata, parser->error);
    file->metadata = metadata;
    if (code) {
        return code;
    }
    struct s3d_safetensors_pair *pair = &file->metadata[file->metadata_count];
    pair->key = *key;
    code = parse_text(parser, &pair->value);
    file->metadata_count += !code;
    return code;
}

static enum s3d_code parse_entry(struct parser *parser, const struct s3d_safetensors_text *key,
                                 void *context)
{
    if (!is_text(key, "__metadata__")) {
        return parse_tensor(parser, key);
    }
    if (parser->has_metadata) {
        return broken(parser, "__metadata__ comes twice");
    }
    parser->has_metadata = true;
    return parse_object(parser, parse_metadata_member, context);
}

/* --- what it adds up to -------------------------------------------------------------------- */

static int compare_texts(const struct s3d_safetensors_text *a,
                         const struct s3d_safetensors_text *b)
{
    size_t common = a->length < b->length ? a->length : b->length;
    int order = memcmp(a->data, b->data, common);
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

static int compare_names(const void *a, const void *b)
{
    const struct s3d_safetensors_text *const *left = a, *const *right = b;
    return compare_texts(*left, *right);
}

/* Whether two of `count` texts, `stride` bytes apart, are equal. */
static enum s3d_code refuse_twins(const struct s3d_safetensors_text *first, size_t stride,
                                  size_t count, struct s3d_error *error)
{
    if (count < 2) {
        return S3D_OK;
    }
    const struct s3d_safetensors_text **order = s3d_alloc_zeroed(count, sizeof *order);
    if (!order) {
        return s3d_fail_memory(error, count * sizeof *order);
    }
    for (size_t i = 0; i < count; i++) {
        order[i] = (const void *)((const char *)first + i * stride);
    }
    qsort(order, count, sizeof *order, compare_names);
    enum s3d_code code = S3D_OK;
    for (size_t i = 1; !code && i < count; i++) {
        if (compare_texts(order[i - 1], order[i]) == 0) {
            code = s3d_fail(error, S3D_INVALID, "the safetensors header has \"%.*s\" twice",
                            shown(order[i]), order[i]->data);
        }
    }
    s3d_free(order);
    return code;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct s3d_safetensor *left = a, *right = b;
    if (left->begin != right->begin) {
        return left->begin < right->begin ? -1 : 1;
    }
    if (left->end != right->end) {
        return left->end < right->end ? -1 : 1;
    }
    return compare_texts(&left->name, &right->name);
}

/* The size that dtype and shape ask for; false when it overflows or is no whole bytes. */
static bool tensor_bytes(const struct s3d_safetensor *tensor, uint64_t *bytes)
{
    uint64_t bits = 1;
    for (size_t i = 0; i < tensor->rank; i++) {
        if (__builtin_mul_overflow(bits, tensor->shape[i], &bits)) {
            return false;
        }
    }
    if (__builtin_mul_overflow(bits, (uint64_t)dtype_bits[tensor->dtype], &bits)) {
        return false;
    }
    *bytes = bits / 8;
    return bits % 8 == 0;
}

static enum s3d_code check_layout(const struct s3d_safetensors *file, uint64_t data_bytes,
                                  struct s3d_error *error)
{
    uint64_t end = 0, bytes;
    for (size_t i = 0; i < file->count; i++) {
        const struct s3d_safetensor *tensor = &file->tensors[i];
        if (tensor->begin != end || tensor->end < tensor->begin) {
            return wrong_tensor(tensor, error, "a hole or an overlap in front of it");
        }
        if (!tensor_bytes(tensor, &bytes)) {
            return wrong_tensor(tensor, error, "its shape has no size in bytes");
        }
        if (bytes != tensor->end - tensor->begin) {
            return wrong_tensor(tensor, error, "dtype and shape ask for another size");
        }
        end = tensor->end;
    }
    if (end != data_bytes) {
        return s3d_fail(
            error, S3D_INVALID,
            "the tensors have %llu bytes, but %llu follow the safetensors header: the "
            "file is cut or damaged",
            (unsigned long long)end, (unsigned long long)data_bytes);
    }
    return S3D_OK;
}

static enum s3d_code check(struct s3d_safetensors *file, uint64_t data_bytes,
                           struct s3d_error *error)
{
    for (size_t i = 0; i < file->count; i++) {
        struct s3d_safetensor *tensor = &file->tensors[i];
        tensor->shape = tensor->rank ? file->dims + tensor->first_dim : NULL;
    }
    enum s3d_code code = file->count ? refuse_twins(&file->tensors->name, sizeof *file->tensors,
                                                    file->count, error)
                                     : S3D_OK;
    if (!code && file->metadata_count) {
        code = refuse_twins(&file->metadata->key, sizeof *file->metadata, file->metadata_count,
                            error);
    }
    if (!code && file->count) {
        qsort(file->tensors, file->count, sizeof *file->tensors, compare_offsets);
    }
    return code ? code : check_layout(file, data_bytes, error);
}

enum s3d_code s3d_safetensors_parse(struct s3d_safetensors *file, const char *header,
                                    size_t length, uint64_t data_bytes, struct s3d_error *error)
{
    const unsigned char *start = (const unsigned char *)header;
    struct parser parser = {
        .start = start, .at = start, .end = start + length, .error = error, .file = file};
    *file = (struct s3d_safetensors){NULL};
    file->texts = s3d_alloc(length ? length : 1);
    if (!file->texts) {
        return s3d_fail_memory(error, length);
    }
    enum s3d_code code = parse_object(&parser, parse_entry, file);
    skip_space(&parser);
    if (!code && parser.at != parser.end) {
        code = broken(&parser, "something follows the header's object");
    }
    code = code ? code : check(file, data_bytes, error);
    if (code) {
        s3d_safetensors_close(file);
    }
    return code;
}

void s3d_safetensors_close(struct s3d_safetensors *file)
{
    s3d_free(file->tensors);
    s3d_free(file->metadata);
    s3d_free(file->texts);
    s3d_free(file->dims);
    *file = (struct s3d_safetensors){NULL};
}
