/*
 * CRC-32 as in zip, gzip and zlib (polynomial 0x04C11DB7 reflected) and CRC-32C as in iSCSI
 * (Castagnoli's, 0x1EDC6F41 reflected), both begun with 0. By ISA-L. Pure functions, any thread.
 */
#ifndef S3D_FORMATS_CRC_H
#define S3D_FORMATS_CRC_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of what came before (`crc`, 0 for nothing) and the `length` bytes that follow it. */
uint32_t s3d_crc32(uint32_t crc, const void *data, size_t length);

/* The CRC of A followed by B, from their CRCs and the length of B: O(log length). */
uint32_t s3d_crc32_combine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b_bytes);

uint32_t s3d_crc32c(uint32_t crc, const void *data, size_t length);
uint32_t s3d_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b_bytes);

#endif
