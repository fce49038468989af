/*
 * A fuzz target: the input is an object that may be a safetensors file. Besides crashes it looks
 * for broken promises of safetensors.h: tensors that do not cover the data section one after the
 * other, sizes that are not those of dtype and shape, names that come twice, texts that are not
 * terminated, memory left behind by a failure.
 *
 *   clang -g -O1 -std=gnu11 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Icsrc \
 *       tests/fuzz/fuzz_safetensors.c csrc/formats/safetensors.c csrc/core/{mem,str,error}.c
 *
 * tests/c/test_fuzz_replay.c runs it over tests/fuzz/corpus/safetensors in every `make test`.
 */
#include "formats/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SAFETENSORS_PROMISE(condition)                                                         \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            __builtin_trap();                                                                  \
        }                                                                                      \
    } while (0)

static void safetensors_check_text(const struct s3d_safetensors_text *text, size_t header_bytes)
{
    SAFETENSORS_PROMISE(text->data && text->length < header_bytes);
    SAFETENSORS_PROMISE(text->data[text->length] == '\0');
}

static void safetensors_check_promises(const struct s3d_safetensors *file, size_t header_bytes,
                                       uint64_t data_bytes)
{
    uint64_t end = 0;
    for (size_t i = 0; i < file->count; i++) {
        const struct s3d_safetensor *tensor = &file->tensors[i];
        safetensors_check_text(&tensor->name, header_bytes);
        SAFETENSORS_PROMISE(tensor->begin == end && tensor->end >= end);
        end = tensor->end;
        uint64_t bits = s3d_safetensors_dtype_bits(tensor->dtype);
        SAFETENSORS_PROMISE(*s3d_safetensors_dtype_name(tensor->dtype));
        for (size_t k = 0; k < tensor->rank; k++) {
            SAFETENSORS_PROMISE(!bits || tensor->shape[k] <= UINT64_MAX / bits);
            bits *= tensor->shape[k];
        }
        SAFETENSORS_PROMISE(bits % 8 == 0 && bits / 8 == tensor->end - tensor->begin);
        for (size_t k = 0; k < i && i < 32; k++) {
            SAFETENSORS_PROMISE(file->tensors[k].name.length != tensor->name.length ||
                                memcmp(file->tensors[k].name.data, tensor->name.data,
                                       tensor->name.length) != 0);
        }
    }
    SAFETENSORS_PROMISE(end == data_bytes);
    for (size_t i = 0; i < file->metadata_count; i++) {
        safetensors_check_text(&file->metadata[i].key, header_bytes);
        safetensors_check_text(&file->metadata[i].value, header_bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct s3d_error error = {0};
    uint64_t length;
    enum s3d_code code = s3d_safetensors_header_bytes(data, size, &length, &error);
    SAFETENSORS_PROMISE(code == S3D_OK || (code == S3D_INVALID && error.message[0]));
    if (code) {
        return 0;
    }
    SAFETENSORS_PROMISE(length <= size - S3D_SAFETENSORS_LENGTH_BYTES);
    /* Exactly these bytes, so that the sanitizer sees every step beyond them. */
    char *header = malloc(length ? (size_t)length : 1);
    SAFETENSORS_PROMISE(header);
    memcpy(header, data + S3D_SAFETENSORS_LENGTH_BYTES, (size_t)length);
    uint64_t data_bytes = size - S3D_SAFETENSORS_LENGTH_BYTES - length;
    struct s3d_safetensors file;
    code = s3d_safetensors_parse(&file, header, (size_t)length, data_bytes, &error);
    free(header);
    SAFETENSORS_PROMISE(code == S3D_OK || code == S3D_INVALID);
    if (code) {
        SAFETENSORS_PROMISE(error.code == code && error.message[0]);
        SAFETENSORS_PROMISE(!file.tensors && !file.texts && !file.dims && !file.metadata);
    } else {
        safetensors_check_promises(&file, (size_t)length, data_bytes);
    }
    s3d_safetensors_close(&file);
    return 0;
}
