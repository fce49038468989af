/*
 * A fuzz target: the input is an object that may be a safetensors file. Besides crashes it looks
 * for broken promises of safetensors.h: tensors that do not cover the data section one after the
 * other, sizes that are not those of dtype and shape, names that come twice, texts that are not
 * terminated, memory left behind by a failure.
 */
#include "formats/safetensors.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void safetensors_check_text(const struct s3d_safetensors_text *text, size_t header_bytes)
{
    PROMISE(text->data && text->length < header_bytes);
    PROMISE(text->data[text->length] == '\0');
}

static void safetensors_check_promises(const struct s3d_safetensors *file, size_t header_bytes,
                                       uint64_t data_bytes)
{
    uint64_t end = 0;
    for (size_t i = 0; i < file->count; i++) {
        const struct s3d_safetensor *tensor = &file->tensors[i];
        safetensors_check_text(&tensor->name, header_bytes);
        PROMISE(tensor->begin == end && tensor->end >= end);
        end = tensor->end;
        uint64_t count = 1, bits = s3d_safetensors_dtype_bits(tensor->dtype);
        PROMISE(*s3d_safetensors_dtype_name(tensor->dtype));
        for (size_t k = 0; k < tensor->rank; k++) {
            PROMISE(!count || tensor->shape[k] <= UINT64_MAX / count);
            count *= tensor->shape[k];
        }
        PROMISE(count <= UINT64_MAX / bits);
        bits *= count;
        PROMISE(bits % 8 == 0 && bits / 8 == tensor->end - tensor->begin);
        for (size_t k = 0; k < i && i < 32; k++) {
            PROMISE(file->tensors[k].name.length != tensor->name.length ||
                    memcmp(file->tensors[k].name.data, tensor->name.data,
                           tensor->name.length) != 0);
        }
    }
    PROMISE(end == data_bytes);
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
    PROMISE(code == S3D_OK || (code == S3D_INVALID && error.message[0]));
    if (code) {
        return 0;
    }
    PROMISE(length <= size - S3D_SAFETENSORS_LENGTH_BYTES);
    char *header = fuzz_exact_copy(data + S3D_SAFETENSORS_LENGTH_BYTES, (size_t)length);
    uint64_t data_bytes = size - S3D_SAFETENSORS_LENGTH_BYTES - length;
    struct s3d_safetensors file;
    code = s3d_safetensors_parse(&file, header, (size_t)length, data_bytes, &error);
    free(header);
    PROMISE(code == S3D_OK || code == S3D_INVALID);
    if (code) {
        PROMISE(error.code == code && error.message[0]);
        PROMISE(!file.tensors && !file.texts && !file.dims && !file.metadata);
    } else {
        safetensors_check_promises(&file, (size_t)length, data_bytes);
    }
    s3d_safetensors_close(&file);
    return 0;
}
