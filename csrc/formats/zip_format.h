/*
 * What the zip writer and reader share: record sizes, signatures, little-endian access, the
 * hash of names, and where torch puts the bytes of a record. Private to formats/zip_*.c.
 *
 *   local header   0 sig  4 version  6 flags  8 method  10 time  12 date  14 crc  18 compressed
 *                  22 size  26 name length  28 extra length  30 name, extra
 *   central entry  0 sig  4 made by  6 version  8 flags  10 method  12 time  14 date  16 crc
 *                  20 compressed  24 size  28 name length  30 extra length  32 comment length
 *                  34 disk  36 internal  38 external  42 header offset  46 name, extra, comment
 *   descriptor     0 sig  4 crc  8 compressed (4 or 8 bytes)  12 or 16 size (4 or 8 bytes)
 *   end, zip64     0 sig  4 size of the rest (8)  12 made by  14 version  16 disk  20 its disk
 *                  24 entries here (8)  32 entries (8)  40 directory size (8)  48 offset (8)
 *   locator        0 sig  4 disk  8 offset of the zip64 end (8)  16 disks
 *   end            0 sig  4 disk  6 its disk  8 entries here  10 entries  12 directory size
 *                  16 its offset  20 comment length  22 comment
 */
#ifndef S3D_FORMATS_ZIP_FORMAT_H
#define S3D_FORMATS_ZIP_FORMAT_H

#include "core/mem.h"

#include <string.h>

enum {
    ZIP_LOCAL_BYTES = 30,
    ZIP_CENTRAL_BYTES = 46,
    ZIP_DESCRIPTOR_BYTES = 16,
    ZIP_DESCRIPTOR64_BYTES = 24,
    ZIP_END64_BYTES = 56,
    ZIP_LOCATOR_BYTES = 20,
    ZIP_END_BYTES = 22,
    ZIP_TAG_BYTES = 4, /* an extra field's id and length */
    ZIP64_EXTRA_MAX = 4 + 3 * 8,
    ZIP64_TAG = 0x0001,

    ZIP_FLAG_ENCRYPTED = 0x0001,
    ZIP_FLAG_DESCRIPTOR = 0x0008,
    ZIP_FLAG_UTF8 = 0x0800
};
#define ZIP_LOCAL_SIGNATURE      UINT32_C(0x04034b50)
#define ZIP_CENTRAL_SIGNATURE    UINT32_C(0x02014b50)
#define ZIP_DESCRIPTOR_SIGNATURE UINT32_C(0x08074b50)
#define ZIP_END64_SIGNATURE      UINT32_C(0x06064b50)
#define ZIP_LOCATOR_SIGNATURE    UINT32_C(0x07064b50)
#define ZIP_END_SIGNATURE        UINT32_C(0x06054b50)

static inline uint64_t zip_get(const uint8_t *from, unsigned bytes)
{
    uint64_t value = 0;
    while (bytes--) {
        value = value << 8 | from[bytes];
    }
    return value;
}

static inline uint16_t zip_get16(const uint8_t *from)
{
    return (uint16_t)zip_get(from, 2);
}

static inline uint32_t zip_get32(const uint8_t *from)
{
    return (uint32_t)zip_get(from, 4);
}

static inline uint64_t zip_get64(const uint8_t *from)
{
    return zip_get(from, 8);
}

/* The low `bytes` bytes of value; the place behind them. */
static inline uint8_t *zip_put(uint8_t *to, uint64_t value, unsigned bytes)
{
    for (; bytes; bytes--, value >>= 8) {
        *to++ = (uint8_t)value;
    }
    return to;
}

/* The value, or all ones where the field is too narrow and a zip64 field says it. */
static inline uint8_t *zip_put_capped(uint8_t *to, uint64_t value, unsigned bytes)
{
    uint64_t most = (UINT64_C(1) << 8 * bytes) - 1;
    return zip_put(to, value < most ? value : most, bytes);
}

/* Needs zip64: 0xFFFFFFFF itself does, as it means "see the extra field". */
static inline bool zip_is_long(uint64_t value)
{
    return value >= UINT32_MAX;
}

/*
 * MurmurHash64A (Austin Appleby, public domain) with libstdc++'s seed: std::hash<std::string>
 * on 64-bit Linux, which torch's serialization id is made of.
 */
static inline uint64_t zip_hash(const char *text, size_t length)
{
    const uint64_t factor = UINT64_C(0xc6a4a7935bd1e995);
    uint64_t hash = UINT64_C(0xc70f6907) ^ (length * factor);
    for (; length >= 8; text += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        word *= factor;
        word = (word ^ word >> 47) * factor;
        hash = (hash ^ word) * factor;
    }
    if (length) {
        uint64_t word = 0;
        memcpy(&word, text, length);
        hash = (hash ^ word) * factor;
    }
    hash = (hash ^ hash >> 47) * factor;
    return hash ^ hash >> 47;
}

/* Where torch puts a stored record, from where its header begins:
 * header, name, [zip64 field], "FB" field that pads to the alignment, payload, [descriptor]. */
struct zip_torch_layout {
    size_t zip64_bytes;   /* 0, 12, 20 or 28 */
    size_t padding_bytes; /* within the FB field, whose tag takes 4 more */
    size_t descriptor_bytes;
    uint64_t data_offset;
    uint64_t end_offset; /* behind the descriptor */
};

/* False: the padding does not fit an extra field, or an offset passes 2^64. */
static inline bool zip_torch_place(uint64_t header_offset, size_t name_bytes, uint64_t size,
                                   uint64_t alignment, struct zip_torch_layout *out)
{
    size_t zip64 = (zip_is_long(size) ? 16u : 0u) + (zip_is_long(header_offset) ? 8u : 0u);
    out->zip64_bytes = zip64 ? ZIP_TAG_BYTES + zip64 : 0;
    out->descriptor_bytes = !size ? 0 : zip64 ? ZIP_DESCRIPTOR64_BYTES : ZIP_DESCRIPTOR_BYTES;
    uint64_t fixed = ZIP_LOCAL_BYTES + name_bytes + out->zip64_bytes + ZIP_TAG_BYTES, start;
    if (!alignment || __builtin_add_overflow(header_offset, fixed, &start)) {
        return false;
    }
    uint64_t padding = (alignment - start % alignment) % alignment;
    if (padding > UINT16_MAX - ZIP_TAG_BYTES - out->zip64_bytes) {
        return false;
    }
    out->padding_bytes = (size_t)padding;
    return !__builtin_add_overflow(start, padding, &out->data_offset) &&
           !__builtin_add_overflow(out->data_offset, size, &out->end_offset) &&
           !__builtin_add_overflow(out->end_offset, out->descriptor_bytes, &out->end_offset);
}

#endif
