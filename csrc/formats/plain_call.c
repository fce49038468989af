/* What a plain pickle calls: the constructors that torch.save writes, with the arguments it gives. */
#include "formats/plain_state.h"

#include "core/mem.h"

#include <string.h>

enum { KEY_DIGITS_MAX = 9 };

static const struct {
    const char *name; /* the module and the name, as protocol 2 spells them */
    enum plain_function function;
} functions[] = {
    {"collections.OrderedDict", PLAIN_ORDERED_DICT},
    {"torch._utils._rebuild_tensor_v2", PLAIN_TENSOR_V2},
    {"torch._utils._rebuild_tensor_v3", PLAIN_TENSOR_V3},
    {"torch._utils._rebuild_parameter", PLAIN_PARAMETER},
    {"torch.Size", PLAIN_SIZE},
    {"torch.device", PLAIN_DEVICE},
    {"_codecs.encode", PLAIN_ENCODE},
    {"__builtin__.set", PLAIN_SET},
    {"__builtin__.bytearray", PLAIN_BYTEARRAY},
    {"__builtin__.complex", PLAIN_COMPLEX},
    {"torch.storage.UntypedStorage", PLAIN_UNTYPED_STORAGE},
};

static const char *const storage_names[] = {
#define X(name, storage, bytes, gradients) storage,
    S3D_PLAIN_DTYPES(X)
#undef X
};

static const bool takes_gradients[] = {
#define X(name, storage, bytes, gradients) gradients,
    S3D_PLAIN_DTYPES(X)
#undef X
};

/* --- globals ------------------------------------------------------------------------------- */

static bool is_name(const char *known, const char *name, size_t length)
{
    return strlen(known) == length && memcmp(known, name, length) == 0;
}

static enum s3d_code push_index(struct plain_scan *scan, enum s3d_plain_kind kind,
                                uint32_t index)
{
    struct s3d_plain_step *step;
    enum s3d_code code = plain_push(scan, kind, &step);
    if (!code) {
        step->index = index;
    }
    return code;
}

/* The dtypes and the legacy storages, which lie in torch itself. */
static enum s3d_code torch_global(struct plain_scan *scan, const char *name, size_t length)
{
    for (uint32_t i = 0; length && i < S3D_PLAIN_DTYPE_COUNT; i++) {
        if (is_name(s3d_plain_dtype_name((enum s3d_plain_dtype)i), name, length)) {
            return push_index(scan, S3D_PLAIN_DTYPE, i);
        }
        if (is_name(storage_names[i], name, length)) {
            return push_index(scan, S3D_PLAIN_FUNCTION, PLAIN_TYPED_STORAGE + i);
        }
    }
    return plain_refuse(scan, "a global of another kind");
}

enum s3d_code plain_global(struct plain_scan *scan, const char *module, size_t module_length,
                           const char *name, size_t name_length)
{
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        const char *known = functions[i].name, *dot = strrchr(known, '.');
        if ((size_t)(dot - known) == module_length &&
            memcmp(known, module, module_length) == 0 && is_name(dot + 1, name, name_length)) {
            return push_index(scan, S3D_PLAIN_FUNCTION, functions[i].function);
        }
    }
    return is_name("torch", module, module_length)
               ? torch_global(scan, name, name_length)
               : plain_refuse(scan, "a global of another kind");
}

/* --- arguments ----------------------------------------------------------------------------- */

static struct s3d_plain_step *item_of(const struct plain_scan *scan,
                                      const struct s3d_plain_step *tuple, uint32_t i)
{
    return &scan->plain->steps[scan->plain->operands[tuple->first + i]];
}

static uint32_t number_of(const struct plain_scan *scan, const struct s3d_plain_step *tuple,
                          uint32_t i)
{
    return scan->plain->operands[tuple->first + i];
}

static bool is_text(const struct plain_scan *scan, const struct s3d_plain_step *step,
                    const char *text)
{
    return step->kind == S3D_PLAIN_TEXT &&
           is_name(text, (const char *)scan->plain->pickle + step->first, step->count);
}

static bool is_integer(const struct s3d_plain_step *step, int64_t minimum, int64_t maximum)
{
    return step->kind == S3D_PLAIN_INTEGER && step->integer >= minimum &&
           step->integer <= maximum;
}

static bool is_boolean(const struct s3d_plain_step *step)
{
    return step->kind == S3D_PLAIN_TRUE || step->kind == S3D_PLAIN_FALSE;
}

/* A tuple of integers from 0 up, as shapes and strides are. */
static bool is_extents(const struct plain_scan *scan, const struct s3d_plain_step *step)
{
    if (step->kind != S3D_PLAIN_TUPLE || step->count > S3D_PLAIN_DIMENSIONS_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < step->count; i++) {
        if (!is_integer(item_of(scan, step, i), 0, INT64_MAX)) {
            return false;
        }
    }
    return true;
}

/* An OrderedDict that is, and stays, empty and nobody else's: torch.save writes no other. */
static bool take_hooks(struct s3d_plain_step *step)
{
    if (step->kind != S3D_PLAIN_ORDERED_DICT || step->hooks || step->filled) {
        return false;
    }
    step->hooks = true;
    return true;
}

/* --- storages ------------------------------------------------------------------------------ */

/* torch.save numbers them; older torch, and nobody else, wrote addresses. */
static bool read_key(const struct plain_scan *scan, const struct s3d_plain_step *text,
                     uint32_t *key)
{
    const unsigned char *digits = scan->plain->pickle + text->first;
    if (text->kind != S3D_PLAIN_TEXT || !text->count || text->count > KEY_DIGITS_MAX ||
        (digits[0] == '0' && text->count > 1)) {
        return false;
    }
    *key = 0;
    for (uint32_t i = 0; i < text->count; i++) {
        if (digits[i] < '0' || digits[i] > '9') {
            return false;
        }
        *key = *key * 10 + (uint32_t)(digits[i] - '0');
    }
    return true;
}

static enum s3d_code add_storage(struct plain_scan *scan,
                                 const struct s3d_plain_storage *storage)
{
    struct s3d_plain *plain = scan->plain;
    void *memory = plain->storages;
    enum s3d_code code = plain_grow(scan, &memory, plain->storage_count, 1, sizeof *storage,
                                    &scan->storage_room);
    plain->storages = memory;
    if (code) {
        return code;
    }
    plain->storages[plain->storage_count++] = *storage;
    return push_index(scan, S3D_PLAIN_STORAGE, (uint32_t)(plain->storage_count - 1));
}

/*
 * torch keeps a storage by its key, as what it was first seen, but makes an empty one anew each
 * time.
 */
static enum s3d_code find_storage(struct plain_scan *scan,
                                  const struct s3d_plain_storage *storage)
{
    enum s3d_code code =
        plain_reach(scan, &scan->keys, &scan->key_count, &scan->key_room, storage->key);
    if (code || !storage->bytes) {
        return code ? code : add_storage(scan, storage);
    }
    uint32_t known = scan->keys[storage->key];
    if (known == PLAIN_NOTHING) {
        scan->keys[storage->key] = (uint32_t)scan->plain->storage_count;
        return add_storage(scan, storage);
    }
    const struct s3d_plain_storage *first = &scan->plain->storages[known];
    if (first->declared != storage->declared || first->bytes != storage->bytes) {
        return plain_refuse(scan, "a storage of two kinds");
    }
    return push_index(scan, S3D_PLAIN_STORAGE, known);
}

/* ("storage", its class, its key, where it was, how many elements it has). */
enum s3d_code plain_persistent(struct plain_scan *scan)
{
    const struct s3d_plain_step *id = plain_peek(scan, 0);
    if (!id || id->kind != S3D_PLAIN_TUPLE || id->count != 5 ||
        !is_text(scan, item_of(scan, id, 0), "storage")) {
        return plain_refuse(scan, "a persistent id of another kind");
    }
    const struct s3d_plain_step *class = item_of(scan, id, 1), *location = item_of(scan, id, 3),
                                *count = item_of(scan, id, 4);
    if (class->kind != S3D_PLAIN_FUNCTION || class->index < PLAIN_UNTYPED_STORAGE) {
        return plain_refuse(scan, "a storage of another class");
    }
    if (scan->any_location ? location->kind != S3D_PLAIN_TEXT
                           : !is_text(scan, location, "cpu")) {
        return plain_refuse(scan, "a storage from another place");
    }
    struct s3d_plain_storage storage = {
        .declared = class->index == PLAIN_UNTYPED_STORAGE
                        ? S3D_PLAIN_uint8
                        : (uint8_t)(class->index - PLAIN_TYPED_STORAGE)};
    storage.dtype = storage.declared;
    int64_t element = s3d_plain_dtype_bytes((enum s3d_plain_dtype)storage.declared);
    if (!is_integer(count, 0, INT64_MAX / element) ||
        !read_key(scan, item_of(scan, id, 2), &storage.key)) {
        return plain_refuse(scan, "a storage's key or length");
    }
    storage.element_bytes = (uint8_t)element;
    storage.bytes = (uint64_t)(count->integer * element);
    scan->stack_count--;
    return find_storage(scan, &storage);
}

/* --- tensors ------------------------------------------------------------------------------- */

/* The bytes of the storage up to the tensor's end; false when they do not fit into an int64_t. */
static bool measure(const struct s3d_plain_tensor *tensor, const int64_t *extents,
                    uint64_t *bytes)
{
    const int64_t *sizes = extents + tensor->shape, *strides = sizes + tensor->dimensions;
    int64_t last = tensor->offset, elements = 1, step, end;
    int64_t element = s3d_plain_dtype_bytes((enum s3d_plain_dtype)tensor->dtype);
    bool empty = false;
    for (unsigned i = 0; i < tensor->dimensions; i++) {
        empty |= sizes[i] == 0;
        if (__builtin_mul_overflow(elements, sizes[i] ? sizes[i] : 1, &elements)) {
            return false;
        }
        if (sizes[i] && (__builtin_mul_overflow(sizes[i] - 1, strides[i], &step) ||
                         __builtin_add_overflow(last, step, &last))) {
            return false;
        }
    }
    if (__builtin_mul_overflow(elements, element, &elements) ||
        __builtin_add_overflow(last, 1, &end) || __builtin_mul_overflow(end, element, &end)) {
        return false;
    }
    *bytes = empty ? 0 : (uint64_t)end;
    return true;
}

static enum s3d_code add_extents(struct plain_scan *scan, const struct s3d_plain_step *tuple)
{
    struct s3d_plain *plain = scan->plain;
    void *memory = plain->extents;
    enum s3d_code code = plain_grow(scan, &memory, plain->extent_count, tuple->count,
                                    sizeof *plain->extents, &scan->extent_room);
    plain->extents = memory;
    for (uint32_t i = 0; !code && i < tuple->count; i++) {
        plain->extents[plain->extent_count++] = item_of(scan, tuple, i)->integer;
    }
    return code;
}

static enum s3d_code add_tensor(struct plain_scan *scan, const struct s3d_plain_tensor *tensor)
{
    struct s3d_plain *plain = scan->plain;
    void *memory = plain->tensors;
    enum s3d_code code =
        plain_grow(scan, &memory, plain->tensor_count, 1, sizeof *tensor, &scan->tensor_room);
    plain->tensors = memory;
    if (code) {
        return code;
    }
    plain->tensors[plain->tensor_count++] = *tensor;
    return push_index(scan, S3D_PLAIN_TENSOR, (uint32_t)(plain->tensor_count - 1));
}

/* Holds the tensor against its storage and makes it one of its users. */
static enum s3d_code use_storage(struct plain_scan *scan, struct s3d_plain_tensor *tensor)
{
    struct s3d_plain_storage *storage = &scan->plain->storages[tensor->storage];
    uint64_t element = s3d_plain_dtype_bytes((enum s3d_plain_dtype)tensor->dtype);
    if (storage->users && storage->dtype != tensor->dtype) {
        return plain_refuse(scan, "a storage under two dtypes");
    }
    if (!measure(tensor, scan->plain->extents, &tensor->bytes) ||
        tensor->bytes > storage->bytes || storage->bytes % element) {
        return plain_refuse(scan, "a tensor that reaches out of its storage");
    }
    storage->dtype = tensor->dtype;
    storage->element_bytes = (uint8_t)element;
    storage->users++;
    return S3D_OK;
}

/* (storage, offset, sizes, strides, requires_grad, hooks[, dtype]) */
static enum s3d_code rebuild_tensor(struct plain_scan *scan, const struct s3d_plain_step *args,
                                    bool has_dtype)
{
    if (args->count != (has_dtype ? 7 : 6)) {
        return plain_refuse(scan, "a tensor of another kind");
    }
    const struct s3d_plain_step *storage = item_of(scan, args, 0),
                                *offset = item_of(scan, args, 1),
                                *sizes = item_of(scan, args, 2),
                                *strides = item_of(scan, args, 3),
                                *grad = item_of(scan, args, 4);
    if (storage->kind != S3D_PLAIN_STORAGE || !is_integer(offset, 0, INT64_MAX) ||
        !is_extents(scan, sizes) || !is_extents(scan, strides) ||
        sizes->count != strides->count || !is_boolean(grad) ||
        (has_dtype && item_of(scan, args, 6)->kind != S3D_PLAIN_DTYPE) ||
        !take_hooks(item_of(scan, args, 5))) {
        return plain_refuse(scan, "a tensor of another kind");
    }
    struct s3d_plain_tensor tensor = {
        .storage = storage->index,
        .dtype = has_dtype ? (uint8_t)item_of(scan, args, 6)->index
                           : scan->plain->storages[storage->index].declared,
        .requires_grad = grad->kind == S3D_PLAIN_TRUE,
        .dimensions = (uint8_t)sizes->count,
        .shape = scan->plain->extent_count,
        .offset = offset->integer};
    if (tensor.requires_grad && !takes_gradients[tensor.dtype]) {
        return plain_refuse(scan, "a gradient where there can be none");
    }
    enum s3d_code code = add_extents(scan, sizes);
    code = code ? code : add_extents(scan, strides);
    code = code ? code : use_storage(scan, &tensor);
    return code ? code : add_tensor(scan, &tensor);
}

/* (tensor, requires_grad, hooks) */
static enum s3d_code rebuild_parameter(struct plain_scan *scan,
                                       const struct s3d_plain_step *args)
{
    if (args->count != 3 || item_of(scan, args, 0)->kind != S3D_PLAIN_TENSOR ||
        !is_boolean(item_of(scan, args, 1)) || !take_hooks(item_of(scan, args, 2))) {
        return plain_refuse(scan, "a parameter of another kind");
    }
    const struct s3d_plain_tensor *tensor =
        &scan->plain->tensors[item_of(scan, args, 0)->index];
    bool grad = item_of(scan, args, 1)->kind == S3D_PLAIN_TRUE;
    if (tensor->requires_grad || (grad && !takes_gradients[tensor->dtype])) {
        return plain_refuse(scan, "a parameter of another kind");
    }
    struct s3d_plain_step *step;
    enum s3d_code code = plain_push(scan, S3D_PLAIN_PARAMETER, &step);
    if (!code) {
        step->target = number_of(scan, args, 0);
        step->flag = grad;
    }
    return code;
}

/* --- other calls --------------------------------------------------------------------------- */

/* A step over the only, or first, argument. */
static enum s3d_code push_over(struct plain_scan *scan, enum s3d_plain_kind kind,
                               uint32_t target)
{
    struct s3d_plain_step *step;
    enum s3d_code code = plain_push(scan, kind, &step);
    if (!code) {
        step->target = target;
        step->count = 1;
    }
    return code;
}

static enum s3d_code push_complex(struct plain_scan *scan, uint32_t first)
{
    struct s3d_plain_step *step;
    enum s3d_code code = plain_push(scan, S3D_PLAIN_COMPLEX, &step);
    if (!code) {
        step->first = first;
        step->count = 2;
    }
    return code;
}

static bool is_latin1(const struct plain_scan *scan, const struct s3d_plain_step *text)
{
    const unsigned char *bytes = scan->plain->pickle + text->first;
    for (uint32_t i = 0; i < text->count; i++) {
        if (bytes[i] > 0xc3) { /* what leads to U+0100 and above */
            return false;
        }
    }
    return true;
}

/* torch.device accepts many names; of these we know that it does. */
static bool is_device(const struct plain_scan *scan, const struct s3d_plain_step *args)
{
    static const char *const names[] = {"cpu", "cuda", "mps", "xpu", "meta"};
    bool known = false;
    for (size_t i = 0; args->count && i < sizeof names / sizeof *names; i++) {
        known |= is_text(scan, item_of(scan, args, 0), names[i]);
    }
    return known && (args->count == 1 ||
                     (args->count == 2 && is_integer(item_of(scan, args, 1), 0, INT8_MAX)));
}

static enum s3d_code call_with_one(struct plain_scan *scan, enum plain_function function,
                                   const struct s3d_plain_step *args)
{
    const struct s3d_plain_step *only = args->count == 1 ? item_of(scan, args, 0) : NULL;
    if (function == PLAIN_SIZE && only && is_extents(scan, only)) {
        return push_over(scan, S3D_PLAIN_SIZE, number_of(scan, args, 0));
    }
    if (function == PLAIN_SET && only && only->kind == S3D_PLAIN_LIST && !only->unhashable) {
        return push_over(scan, S3D_PLAIN_SET, number_of(scan, args, 0));
    }
    if (function == PLAIN_BYTEARRAY && only && only->kind == S3D_PLAIN_BYTES) {
        return push_over(scan, S3D_PLAIN_BYTEARRAY, number_of(scan, args, 0));
    }
    if (function == PLAIN_BYTEARRAY && !args->count) {
        return plain_push_kind(scan, S3D_PLAIN_BYTEARRAY);
    }
    return plain_refuse(scan, "a call of another kind");
}

static enum s3d_code call_with_two(struct plain_scan *scan, enum plain_function function,
                                   const struct s3d_plain_step *args)
{
    if (args->count != 2) {
        return plain_refuse(scan, "a call of another kind");
    }
    const struct s3d_plain_step *one = item_of(scan, args, 0), *two = item_of(scan, args, 1);
    if (function == PLAIN_ENCODE && one->kind == S3D_PLAIN_TEXT && is_latin1(scan, one) &&
        is_text(scan, two, "latin1")) {
        return push_over(scan, S3D_PLAIN_BYTES, number_of(scan, args, 0));
    }
    if (function == PLAIN_COMPLEX && one->kind == S3D_PLAIN_REAL &&
        two->kind == S3D_PLAIN_REAL) {
        return push_complex(scan, args->first);
    }
    return plain_refuse(scan, "a call of another kind");
}

static enum s3d_code call(struct plain_scan *scan, enum plain_function function,
                          const struct s3d_plain_step *args, uint32_t args_number)
{
    switch (function) {
    case PLAIN_ORDERED_DICT:
        return args->count ? plain_refuse(scan, "an OrderedDict of something")
                           : plain_push_kind(scan, S3D_PLAIN_ORDERED_DICT);
    case PLAIN_TENSOR_V2:
    case PLAIN_TENSOR_V3: return rebuild_tensor(scan, args, function == PLAIN_TENSOR_V3);
    case PLAIN_PARAMETER: return rebuild_parameter(scan, args);
    case PLAIN_SIZE:
    case PLAIN_SET:
    case PLAIN_BYTEARRAY: return call_with_one(scan, function, args);
    case PLAIN_ENCODE:
    case PLAIN_COMPLEX: return call_with_two(scan, function, args);
    case PLAIN_DEVICE:
        return is_device(scan, args) ? push_over(scan, S3D_PLAIN_DEVICE, args_number)
                                     : plain_refuse(scan, "a device of another kind");
    case PLAIN_UNTYPED_STORAGE:
    case PLAIN_TYPED_STORAGE: break;
    }
    return plain_refuse(scan, "a call of a storage's class");
}

enum s3d_code plain_reduce(struct plain_scan *scan)
{
    const struct s3d_plain_step *args = plain_peek(scan, 0), *function = plain_peek(scan, 1);
    if (!function || function->kind != S3D_PLAIN_FUNCTION || args->kind != S3D_PLAIN_TUPLE) {
        return plain_refuse(scan, "a call of another kind");
    }
    uint32_t args_number = scan->stack[scan->stack_count - 1];
    scan->stack_count -= 2;
    /* Copies: a new step moves the others. */
    struct s3d_plain_step copy = *args;
    return call(scan, (enum plain_function)function->index, &copy, args_number);
}
