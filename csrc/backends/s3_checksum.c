#include "backends/auth.h"
#include "backends/s3.h"
#include "formats/crc.h"
#include "formats/crc64.h"

#include <strings.h>

/* A CRC of either width, in 64 bits. */
typedef uint64_t update_function(uint64_t crc, const void *data, size_t length);
typedef uint64_t combine_function(uint64_t crc_a, uint64_t crc_b, uint64_t length_b_bytes);

static uint64_t crc32_update(uint64_t crc, const void *data, size_t length)
{
    return s3d_crc32((uint32_t)crc, data, length);
}

static uint64_t crc32_combine(uint64_t a, uint64_t b, uint64_t length_b)
{
    return s3d_crc32_combine((uint32_t)a, (uint32_t)b, length_b);
}

static uint64_t crc32c_update(uint64_t crc, const void *data, size_t length)
{
    return s3d_crc32c((uint32_t)crc, data, length);
}

static uint64_t crc32c_combine(uint64_t a, uint64_t b, uint64_t length_b)
{
    return s3d_crc32c_combine((uint32_t)a, (uint32_t)b, length_b);
}

static const struct kind {
    const char *header, *algorithm, *element;
    size_t bytes;
    update_function *update;
    combine_function *combine;
} kinds[] = {
    [S3D_CHECKSUM_CRC32] = {"x-amz-checksum-crc32", "CRC32", "ChecksumCRC32", 4, crc32_update,
                            crc32_combine},
    [S3D_CHECKSUM_CRC32C] = {"x-amz-checksum-crc32c", "CRC32C", "ChecksumCRC32C", 4,
                             crc32c_update, crc32c_combine},
    [S3D_CHECKSUM_CRC64NVME] = {"x-amz-checksum-crc64nvme", "CRC64NVME", "ChecksumCRC64NVME", 8,
                                s3d_crc64, s3d_crc64_combine},
};

/* NULL: no checksum. */
static const struct kind *kind_of(const struct s3d_request *request)
{
    enum s3d_checksum checksum =
        request->options ? request->options->checksum : S3D_CHECKSUM_NONE;
    if (checksum == S3D_CHECKSUM_DEFAULT) {
        checksum = s3d_s3_store_of(request)->checksum;
    }
    return checksum == S3D_CHECKSUM_DEFAULT || checksum == S3D_CHECKSUM_NONE ? NULL
                                                                             : &kinds[checksum];
}

/* As S3 writes it: base64 of the value's bytes, the highest first. */
static void write_value(const struct kind *kind, uint64_t value, char text[S3D_S3_CHECKSUM_TEXT])
{
    unsigned char bytes[8];
    for (size_t i = 0; i < kind->bytes; i++) {
        bytes[i] = (unsigned char)(value >> (8 * (kind->bytes - 1 - i)));
    }
    s3d_base64(text, bytes, kind->bytes);
}

static uint64_t sum_spans(const struct kind *kind, const struct s3d_request *request)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < request->span_count; i++) {
        sum = kind->update(sum, request->spans[i].data, request->spans[i].length_bytes);
    }
    return sum;
}

static uint64_t sum_parts(const struct kind *kind, const struct s3d_request *request)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < request->part_count; i++) {
        sum = kind->combine(sum, request->parts[i].checksum, request->parts[i].size_bytes);
    }
    return sum;
}

void s3d_s3_checksum(struct s3d_request *request, struct s3d_s3_checksum *checksum)
{
    const struct kind *kind = kind_of(request);
    *checksum = (struct s3d_s3_checksum){0};
    if (!kind) {
        return;
    }
    switch (request->verb) {
    case S3D_VERB_UPLOAD_CREATE:
        checksum->algorithm = kind->algorithm;
        checksum->of_object = true;
        break;
    case S3D_VERB_UPLOAD_COMPLETE:
        checksum->header = kind->header;
        checksum->of_object = true;
        write_value(kind, sum_parts(kind, request), checksum->value);
        break;
    case S3D_VERB_PUT:
    case S3D_VERB_UPLOAD_PART:
        checksum->header = kind->header;
        request->result.checksum = sum_spans(kind, request);
        write_value(kind, request->result.checksum, checksum->value);
        break;
    case S3D_VERB_STAT:
    case S3D_VERB_GET:
    case S3D_VERB_DELETE:
    case S3D_VERB_LIST:
    case S3D_VERB_UPLOAD_ABORT: break;
    }
}

void s3d_s3_checksum_xml(const struct s3d_request *request, const struct s3d_part *part,
                         struct s3d_str *text)
{
    const struct kind *kind = kind_of(request);
    if (kind) {
        char value[S3D_S3_CHECKSUM_TEXT];
        write_value(kind, part->checksum, value);
        s3d_str_add_format(text, "<%s>%s</%s>", kind->element, value, kind->element);
    }
}

enum s3d_code s3d_s3_checksum_default(const char *calculation, bool custom_endpoint,
                                      enum s3d_checksum *checksum, struct s3d_error *error)
{
    bool supported = !custom_endpoint;
    if (calculation && strcasecmp(calculation, "when_supported") == 0) {
        supported = true;
    } else if (calculation && strcasecmp(calculation, "when_required") == 0) {
        supported = false;
    } else if (calculation) {
        return s3d_fail(error, S3D_INVALID,
                        "AWS_REQUEST_CHECKSUM_CALCULATION is \"%.32s\", but must be "
                        "when_supported or when_required",
                        calculation);
    }
    *checksum = supported ? S3D_CHECKSUM_CRC64NVME : S3D_CHECKSUM_NONE;
    return S3D_OK;
}
