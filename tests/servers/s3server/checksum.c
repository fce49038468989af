#include "checksum.h"

#include <openssl/evp.h>
#include <string.h>

static const struct s3s_checksum checksums[] = {
    {"CRC32", "x-amz-checksum-crc32", 0xEDB88320, UINT32_MAX},
    {"CRC32C", "x-amz-checksum-crc32c", 0x82F63B78, UINT32_MAX},
    {"CRC64NVME", "x-amz-checksum-crc64nvme", 0x9A6C9329AC4BC9B5, UINT64_MAX},
};
enum { CHECKSUM_COUNT = sizeof checksums / sizeof *checksums };

const struct s3s_checksum *s3s_checksum_sent(const struct s3s_request *request,
                                             struct s3s_span *value)
{
    for (size_t i = 0; i < CHECKSUM_COUNT; i++) {
        const struct s3s_span *sent = s3s_request_header(request, checksums[i].header);
        if (sent) {
            *value = *sent;
            return &checksums[i];
        }
    }
    return NULL;
}

bool s3s_checksum_named(const struct s3s_request *request, const struct s3s_checksum **checksum)
{
    const struct s3s_span *name = s3s_request_header(request, "x-amz-checksum-algorithm");
    *checksum = NULL;
    for (size_t i = 0; name && i < CHECKSUM_COUNT; i++) {
        if (s3s_span_is_nocase(*name, checksums[i].algorithm))
            *checksum = &checksums[i];
    }
    return !name || *checksum;
}

static uint64_t add_bytes(const struct s3s_checksum *checksum, uint64_t crc, const char *data,
                          size_t length)
{
    uint64_t table[256];
    for (uint64_t byte = 0; byte < 256; byte++) {
        table[byte] = byte;
        for (int bit = 0; bit < 8; bit++)
            table[byte] = (table[byte] >> 1) ^ (table[byte] & 1 ? checksum->generator : 0);
    }
    for (size_t i = 0; i < length; i++)
        crc = table[(crc ^ (unsigned char)data[i]) & 0xFF] ^ (crc >> 8);
    return crc;
}

bool s3s_checksum_matches(const struct s3s_checksum *checksum, const struct s3s_piece *pieces,
                          size_t count, struct s3s_span value)
{
    size_t size = checksum->ones > UINT32_MAX ? 8 : 4;
    unsigned char bytes[8];
    char text[16];
    uint64_t crc = checksum->ones;
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].size_bytes && !pieces[i].block)
            return true; // --discard: nobody knows
        if (pieces[i].size_bytes)
            crc = add_bytes(checksum, crc, pieces[i].block->data, pieces[i].size_bytes);
    }
    crc ^= checksum->ones;
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)(crc >> (8 * (size - 1 - i)));
    EVP_EncodeBlock((unsigned char *)text, bytes, (int)size);
    return s3s_span_is(value, text);
}

char *s3s_checksum_lines(const struct s3s_checksum *checksum, struct s3s_span value)
{
    struct s3s_text lines = {0};
    s3s_text_printf(&lines, "%s: ", checksum->header);
    s3s_text_add_span(&lines, value);
    s3s_text_puts(&lines, "\r\nx-amz-checksum-type: FULL_OBJECT\r\n");
    char *copy = s3s_mem_copy(lines.data, lines.length);
    s3s_text_fini(&lines);
    return copy;
}
