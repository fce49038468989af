/*
 * A fuzz target: the input is a pickle. Besides crashes it looks for broken promises of
 * plain_pickle.h: a step that refers to a later one or to one that is not alive, a kind that
 * cannot be alive, a tensor out of its storage, memory out of proportion.
 *
 *   clang -g -O1 -std=gnu11 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Icsrc \
 *       tests/fuzz/fuzz_plain_pickle.c csrc/formats/plain_*.c csrc/core/{mem,error}.c
 *
 * tests/c/test_fuzz_replay.c runs it over tests/fuzz/corpus/plain_pickle in every `make test`.
 */
#include "formats/plain_pickle.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PLAIN_PROMISE(condition)                                                               \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            __builtin_trap();                                                                  \
        }                                                                                      \
    } while (0)

/* `number` stands for a value that is alive, and made before step i. */
static const struct s3d_plain_step *plain_value(const struct s3d_plain *plain, size_t i,
                                                uint32_t number)
{
    PLAIN_PROMISE(number < i && plain->steps[number].alive);
    PLAIN_PROMISE(plain->steps[number].kind < S3D_PLAIN_STORAGE);
    return &plain->steps[number];
}

static void plain_use_operands(const struct s3d_plain *plain, size_t i)
{
    const struct s3d_plain_step *step = &plain->steps[i];
    PLAIN_PROMISE(step->count <= plain->operand_count);
    PLAIN_PROMISE(!step->count || step->first <= plain->operand_count - step->count);
    for (uint32_t k = 0; k < step->count; k++) {
        plain_value(plain, i, plain->operands[step->first + k]);
    }
}

static void plain_use_text(const struct s3d_plain_step *step, size_t size)
{
    PLAIN_PROMISE(step->count <= size && step->first <= size - step->count);
}

static unsigned plain_target(const struct s3d_plain *plain, size_t i)
{
    return plain_value(plain, i, plain->steps[i].target)->kind;
}

static void plain_use_step(const struct s3d_plain *plain, size_t i, size_t size)
{
    const struct s3d_plain_step *step = &plain->steps[i];
    switch ((enum s3d_plain_kind)step->kind) {
    case S3D_PLAIN_TEXT:
    case S3D_PLAIN_LONG: plain_use_text(step, size); break;
    case S3D_PLAIN_TUPLE: plain_use_operands(plain, i); break;
    case S3D_PLAIN_COMPLEX:
        PLAIN_PROMISE(step->count == 2);
        plain_use_operands(plain, i);
        for (uint32_t k = 0; k < 2; k++) {
            uint32_t number = plain->operands[step->first + k];
            PLAIN_PROMISE(plain->steps[number].kind == S3D_PLAIN_REAL);
        }
        break;
    case S3D_PLAIN_APPEND:
        PLAIN_PROMISE(plain_target(plain, i) == S3D_PLAIN_LIST);
        plain_use_operands(plain, i);
        break;
    case S3D_PLAIN_SET_ITEMS: {
        unsigned kind = plain_target(plain, i);
        PLAIN_PROMISE(kind == S3D_PLAIN_DICT || kind == S3D_PLAIN_ORDERED_DICT);
        PLAIN_PROMISE(step->count % 2 == 0);
        plain_use_operands(plain, i);
        break;
    }
    case S3D_PLAIN_SET_STATE:
        PLAIN_PROMISE(plain_target(plain, i) == S3D_PLAIN_ORDERED_DICT);
        PLAIN_PROMISE(plain_value(plain, i, step->first)->kind == S3D_PLAIN_DICT);
        break;
    case S3D_PLAIN_SET: PLAIN_PROMISE(plain_target(plain, i) == S3D_PLAIN_LIST); break;
    case S3D_PLAIN_BYTES: PLAIN_PROMISE(plain_target(plain, i) == S3D_PLAIN_TEXT); break;
    case S3D_PLAIN_BYTEARRAY:
        PLAIN_PROMISE(!step->count || plain_target(plain, i) == S3D_PLAIN_BYTES);
        break;
    case S3D_PLAIN_SIZE:
    case S3D_PLAIN_DEVICE: PLAIN_PROMISE(plain_target(plain, i) == S3D_PLAIN_TUPLE); break;
    case S3D_PLAIN_PARAMETER: PLAIN_PROMISE(plain_target(plain, i) == S3D_PLAIN_TENSOR); break;
    case S3D_PLAIN_TENSOR: PLAIN_PROMISE(step->index < plain->tensor_count); break;
    case S3D_PLAIN_DTYPE: PLAIN_PROMISE(step->index < S3D_PLAIN_DTYPE_COUNT); break;
    case S3D_PLAIN_NONE:
    case S3D_PLAIN_FALSE:
    case S3D_PLAIN_TRUE:
    case S3D_PLAIN_INTEGER:
    case S3D_PLAIN_REAL:
    case S3D_PLAIN_LIST:
    case S3D_PLAIN_DICT:
    case S3D_PLAIN_ORDERED_DICT: break;
    case S3D_PLAIN_STORAGE:
    case S3D_PLAIN_FUNCTION: PLAIN_PROMISE(false);
    }
}

/* The last byte of any element, by wider arithmetic than the scan's. */
static void plain_use_tensor(const struct s3d_plain *plain,
                             const struct s3d_plain_tensor *tensor)
{
    PLAIN_PROMISE(tensor->storage < plain->storage_count);
    PLAIN_PROMISE(tensor->dtype < S3D_PLAIN_DTYPE_COUNT);
    const struct s3d_plain_storage *storage = &plain->storages[tensor->storage];
    unsigned element = s3d_plain_dtype_bytes((enum s3d_plain_dtype)tensor->dtype);
    PLAIN_PROMISE(storage->dtype == tensor->dtype && storage->element_bytes == element);
    PLAIN_PROMISE(storage->bytes % element == 0 && storage->users && tensor->offset >= 0);
    PLAIN_PROMISE(tensor->shape + 2 * (size_t)tensor->dimensions <= plain->extent_count);
    const int64_t *sizes = plain->extents + tensor->shape;
    const int64_t *strides = sizes + tensor->dimensions;
    __int128 end = (__int128)tensor->offset + 1;
    bool empty = false;
    for (unsigned i = 0; i < tensor->dimensions; i++) {
        PLAIN_PROMISE(sizes[i] >= 0 && strides[i] >= 0);
        empty |= !sizes[i];
        end += (__int128)(sizes[i] - 1) * strides[i];
    }
    PLAIN_PROMISE(empty ? tensor->bytes == 0 : end * element == (__int128)tensor->bytes);
    PLAIN_PROMISE(tensor->bytes <= storage->bytes);
}

static void plain_use(const struct s3d_plain *plain, size_t size)
{
    PLAIN_PROMISE(plain->step_count <= 2 * size && plain->operand_count <= size);
    PLAIN_PROMISE(plain->storage_count <= size && plain->tensor_count <= size);
    plain_value(plain, plain->step_count, plain->result);
    for (size_t i = 0; i < plain->step_count; i++) {
        if (plain->steps[i].alive) {
            plain_use_step(plain, i, size);
        }
    }
    for (size_t i = 0; i < plain->tensor_count; i++) {
        plain_use_tensor(plain, &plain->tensors[i]);
    }
    for (size_t i = 0; i < plain->storage_count; i++) {
        for (size_t k = 0; k < i && size < 1000; k++) {
            PLAIN_PROMISE(plain->storages[i].key != plain->storages[k].key ||
                          !plain->storages[i].bytes || !plain->storages[k].bytes);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* A copy of exactly these bytes, so that the sanitizer sees every step beyond them. */
    uint8_t *copy = malloc(size ? size : 1);
    PLAIN_PROMISE(copy);
    if (size) {
        memcpy(copy, data, size);
    }
    for (int any = 0; any < 2; any++) {
        struct s3d_plain plain;
        struct s3d_error error = {0};
        enum s3d_code code = s3d_plain_scan(&plain, copy, size, any, &error);
        PLAIN_PROMISE(code == S3D_OK || code == S3D_UNSUPPORTED);
        PLAIN_PROMISE(code == S3D_OK ||
                      (error.code == code && error.message[0] && !plain.steps));
        if (code == S3D_OK) {
            plain_use(&plain, size);
        }
        s3d_plain_fini(&plain);
    }
    free(copy);
    return 0;
}
