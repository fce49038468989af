#include "backends/sums.h"

#include "backends/auth.h"
#include "formats/crc.h"
#include "formats/crc64.h"

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

/* The base64 of the value's bytes, the highest first. */
static void write_value(uint64_t value, size_t size, char text[S3D_SUM_TEXT])
{
    unsigned char bytes[8];
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (unsigned char)(value >> (8 * (size - 1 - i)));
    }
    s3d_base64(text, bytes, size);
}

static void write_32(uint64_t value, char text[S3D_SUM_TEXT])
{
    write_value(value, 4, text);
}

static void write_64(uint64_t value, char text[S3D_SUM_TEXT])
{
    write_value(value, 8, text);
}

static const struct s3d_sum_kind crc32 = {"crc32", crc32_update, crc32_combine, write_32};
static const struct s3d_sum_kind crc32c = {"crc32c", crc32c_update, crc32c_combine, write_32};
static const struct s3d_sum_kind crc64nvme = {"crc64nvme", s3d_crc64, s3d_crc64_combine,
                                              write_64};

const struct s3d_sum_kind *const s3d_sum_kinds[S3D_SUM_KINDS] = {&crc64nvme, &crc32c, &crc32};

const struct s3d_sum_kind *s3d_sum_kind(enum s3d_checksum checksum)
{
    switch (checksum) {
    case S3D_CHECKSUM_CRC32: return &crc32;
    case S3D_CHECKSUM_CRC32C: return &crc32c;
    case S3D_CHECKSUM_CRC64NVME: return &crc64nvme;
    case S3D_CHECKSUM_DEFAULT:
    case S3D_CHECKSUM_NONE: break;
    }
    return NULL;
}

uint64_t s3d_sum_spans(const struct s3d_sum_kind *kind, const struct s3d_request *request,
                       uint64_t length_bytes)
{
    uint64_t sum = 0;
    for (size_t i = 0; length_bytes && i < request->span_count; i++) {
        const struct s3d_span *span = &request->spans[i];
        size_t piece =
            span->length_bytes < length_bytes ? span->length_bytes : (size_t)length_bytes;
        sum = kind->update(sum, span->data, piece);
        length_bytes -= piece;
    }
    return sum;
}

uint64_t s3d_sum_parts(const struct s3d_sum_kind *kind, const struct s3d_request *request)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < request->part_count; i++) {
        sum = kind->combine(sum, request->parts[i].checksum, request->parts[i].size_bytes);
    }
    return sum;
}
