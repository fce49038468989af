/*
 * CRC-64/NVME, which S3 calls CRC64NVME: polynomial 0xAD93D23594C93659 reflected, begun and ended
 * with all bits inverted. The check value, of "123456789", is 0xAE8B14860A799888.
 * Source: NVM Express NVM Command Set Specification 1.0d, section 5.2.1.3.4. Any thread.
 */
#ifndef S3D_FORMATS_CRC64_H
#define S3D_FORMATS_CRC64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The CRC of what came before (`crc`, 0 for nothing) and the `length` bytes that follow it. */
uint64_t s3d_crc64(uint64_t crc, const void *data, size_t length);

/* The CRC of A followed by B, from their CRCs and the length of B: O(log length). */
uint64_t s3d_crc64_combine(uint64_t crc_a, uint64_t crc_b, uint64_t length_b_bytes);

/* The same as s3d_crc64, without instructions that not every processor has; for tests. */
uint64_t s3d_crc64_portable(uint64_t crc, const void *data, size_t length);

#endif
