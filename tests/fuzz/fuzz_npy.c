/*
 * A fuzz target: the input is the ceiling on headers (2 bytes), how much is there beyond it (2 bytes),
 * and the beginning of a .npy file; its last bytes are taken for a shape as well. Besides crashes it
 * looks for broken promises of npy.h: more asked for than is available or than was given, text
 * outside the file or beyond the ceiling, a size that is not the shape's product.
 *
 *   clang -g -O1 -std=gnu11 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Icsrc \
 *       tests/fuzz/fuzz_npy.c csrc/formats/npy.c csrc/core/{mem,str,error}.c
 *
 * tests/c/test_fuzz_replay.c runs it over tests/fuzz/corpus/npy in every `make test`.
 */
#include "formats/npy.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NPY_PROMISE(condition)                                                                 \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            __builtin_trap();                                                                  \
        }                                                                                      \
    } while (0)

static void npy_check_text(const struct s3d_npy *npy, uint64_t available, uint64_t text_max)
{
    NPY_PROMISE(npy->major >= 1 && npy->major <= 3 && npy->minor == 0);
    NPY_PROMISE(npy->text_offset == (npy->major == 1 ? 10 : 12));
    NPY_PROMISE(npy->data_offset == npy->text_offset + npy->text_bytes);
    NPY_PROMISE(npy->data_offset <= available);
    NPY_PROMISE(npy->text_bytes <= text_max * (npy->major == 3 ? 4 : 1));
}

/* Asks with as many bytes as it wants, as a reader does, until it is content. */
static void npy_check_prefix(const uint8_t *bytes, size_t length, uint64_t available,
                             uint64_t text_max)
{
    size_t given = 0;
    for (;;) {
        struct s3d_npy npy;
        struct s3d_error error = {0};
        uint64_t need;
        uint8_t *copy = malloc(given ? given : 1); /* exactly these, for the sanitizer */
        NPY_PROMISE(copy);
        memcpy(copy, bytes, given);
        enum s3d_code code =
            s3d_npy_prefix(&npy, copy, given, available, text_max, &need, &error);
        free(copy);
        NPY_PROMISE(code == S3D_OK || code == S3D_AGAIN || code == S3D_INVALID);
        NPY_PROMISE(!code || (error.code == code && error.message[0]));
        if (code == S3D_OK) {
            npy_check_text(&npy, available, text_max);
            NPY_PROMISE(npy.data_offset <= given);
        }
        if (code != S3D_AGAIN) {
            return;
        }
        NPY_PROMISE(need > given && need <= available);
        if (need > length) {
            return;
        }
        given = (size_t)need;
    }
}

static void npy_check_shape(const uint8_t *bytes, size_t length, uint64_t available)
{
    uint64_t shape[4] = {0}, size = 0;
    memcpy(shape, bytes, length < sizeof shape ? length : sizeof shape);
    uint64_t item = shape[3] % 100;
    if (s3d_npy_bytes(shape, 3, item, available, &size, NULL)) {
        return;
    }
    NPY_PROMISE(size <= available);
    unsigned __int128 product = item; /* below 2^128 at each step: both factors are checked */
    for (size_t i = 0; i < 3; i++) {
        product *= shape[i];
        NPY_PROMISE(product <= UINT64_MAX);
    }
    NPY_PROMISE(product == size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4) {
        return 0;
    }
    uint64_t text_max = data[0] | (uint64_t)data[1] << 8;
    uint64_t beyond = data[2] | (uint64_t)data[3] << 8;
    const uint8_t *bytes = data + 4;
    size_t length = size - 4;
    npy_check_prefix(bytes, length, length, text_max);
    npy_check_prefix(bytes, length, length + beyond, text_max);
    npy_check_shape(bytes, length, beyond << 32);
    return 0;
}
