#include "formats/safetensors.h"

#include "core/mem.h"
#include "formats/json.h"

#include <stdlib.h>
#include <string.h>

enum { SHOWN_BYTES = 100 }; /* of a name, in errors */

struct parser {
    struct s3d_json json; /* first: what s3d_json_object hands to members is this struct */
    struct s3d_safetensors *file;
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

static struct parser *parser_of(struct s3d_json *json)
{
    return (struct parser *)(void *)json;
}

static enum s3d_code broken(const struct parser *parser, const char *what)
{
    return s3d_json_broken(&parser->json, what);
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

/* --- arrays and objects -------------------------------------------------------------------- */

/* Appends an array of numbers to the header's dims. */
static enum s3d_code parse_numbers(struct parser *parser)
{
    struct s3d_safetensors *file = parser->file;
    enum s3d_code code = s3d_json_expect(&parser->json, '[', "an array is expected");
    if (code || s3d_json_accept(&parser->json, ']')) {
        return code;
    }
    for (;;) {
        void *dims = file->dims;
        code = grow(&dims, parser->dims_count, &parser->dims_room, sizeof *file->dims,
                    parser->json.error);
        file->dims = dims;
        if (!code) {
            code = s3d_json_number(&parser->json, &file->dims[parser->dims_count]);
        }
        if (code) {
            return code;
        }
        parser->dims_count++;
        if (s3d_json_accept(&parser->json, ']')) {
            return S3D_OK;
        }
        code = s3d_json_expect(&parser->json, ',', "',' or ']' is expected");
        if (code) {
            return code;
        }
    }
}

/* --- the schema ---------------------------------------------------------------------------- */

enum { SEEN_DTYPE = 1, SEEN_SHAPE = 2, SEEN_OFFSETS = 4, SEEN_ALL = 7 };

struct description {
    struct s3d_safetensor *tensor;
    unsigned seen;
};

static enum s3d_code parse_dtype(struct parser *parser, struct s3d_safetensor *tensor)
{
    struct s3d_json_text text;
    enum s3d_code code = s3d_json_text(&parser->json, &text);
    if (code) {
        return code;
    }
    const struct s3d_safetensors_text name = {text.data, text.length};
    for (unsigned i = 0; i < S3D_SAFETENSORS_DTYPE_COUNT; i++) {
        if (s3d_json_text_is(&text, dtype_names[i])) {
            tensor->dtype = (enum s3d_safetensors_dtype)i;
            return S3D_OK;
        }
    }
    return s3d_fail(parser->json.error, S3D_INVALID, "tensor \"%.*s\": unknown dtype \"%.*s\"",
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

static enum s3d_code parse_description_member(struct s3d_json *json,
                                              const struct s3d_json_text *key, void *context)
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
    struct parser *parser = parser_of(json);
    struct description *description = context;
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (!s3d_json_text_is(key, members[i].name)) {
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

static enum s3d_code parse_tensor(struct parser *parser, const struct s3d_json_text *name)
{
    struct s3d_safetensors *file = parser->file;
    void *tensors = file->tensors;
    enum s3d_code code = grow(&tensors, file->count, &parser->tensors_room,
                              sizeof *file->tensors, parser->json.error);
    file->tensors = tensors;
    if (code) {
        return code;
    }
    struct s3d_safetensor *tensor = &file->tensors[file->count];
    *tensor = (struct s3d_safetensor){.name = {name->data, name->length}};
    struct description description = {tensor, 0};
    code = s3d_json_object(&parser->json, parse_description_member, &description);
    if (!code && description.seen != SEEN_ALL) {
        code = s3d_fail(parser->json.error, S3D_INVALID,
                        "tensor \"%.*s\": dtype, shape or data_offsets is missing",
                        shown(&tensor->name), tensor->name.data);
    }
    file->count += !code;
    return code;
}

static enum s3d_code parse_metadata_member(struct s3d_json *json,
                                           const struct s3d_json_text *key, void *context)
{
    struct parser *parser = parser_of(json);
    struct s3d_safetensors *file = context;
    void *metadata = file->metadata;
    enum s3d_code code = grow(&metadata, file->metadata_count, &parser->metadata_room,
                              sizeof *file->metadata, parser->json.error);
    file->metadata = metadata;
    if (code) {
        return code;
    }
    struct s3d_safetensors_pair *pair = &file->metadata[file->metadata_count];
    struct s3d_json_text value = {NULL, 0};
    code = s3d_json_text(json, &value);
    *pair = (struct s3d_safetensors_pair){{key->data, key->length}, {value.data, value.length}};
    file->metadata_count += !code;
    return code;
}

static enum s3d_code parse_entry(struct s3d_json *json, const struct s3d_json_text *key,
                                 void *context)
{
    struct parser *parser = parser_of(json);
    if (!s3d_json_text_is(key, "__metadata__")) {
        return parse_tensor(parser, key);
    }
    if (parser->has_metadata) {
        return broken(parser, "__metadata__ comes twice");
    }
    parser->has_metadata = true;
    return s3d_json_object(json, parse_metadata_member, context);
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
    struct parser parser = {.file = file};
    *file = (struct s3d_safetensors){NULL};
    file->texts = s3d_alloc(length ? length : 1);
    if (!file->texts) {
        return s3d_fail_memory(error, length);
    }
    s3d_json_init(&parser.json, header, length, file->texts, "the safetensors header", error);
    enum s3d_code code = s3d_json_object(&parser.json, parse_entry, file);
    code = code ? code : s3d_json_end(&parser.json, "something follows the header's object");
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
