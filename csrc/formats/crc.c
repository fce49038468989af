#include "formats/crc.h"

#include <isa-l/crc.h>
#include <limits.h>

#define GENERATOR   UINT32_C(0xEDB88320)
#define GENERATOR_C UINT32_C(0x82F63B78)

/*
 * A CRC is a polynomial over GF(2) modulo the generator, bit 31 being x^0. To put n bytes
 * behind A is to multiply A's CRC by x^(8n); POWER[k] is x^(2^k), so that takes one
 * multiplication for each bit set in 8n. x^(2^32) is x again: the exponents wrap after 32.
 */
static const uint32_t POWER[32] = {
    0x40000000, 0x20000000, 0x08000000, 0x00800000, 0x00008000, 0xedb88320, 0xb1e6b092,
    0xa06a2517, 0xed627dae, 0x88d14467, 0xd7bbfe6a, 0xec447f11, 0x8e7ea170, 0x6427800e,
    0x4d47bae0, 0x09fe548f, 0x83852d0f, 0x30362f1a, 0x7b5a9cc3, 0x31fec169, 0x9fec022a,
    0x6c8dedc4, 0x15d6874d, 0x5fde7a4e, 0xbad90e37, 0x2e4e5eef, 0x4eaba214, 0xa8a472c0,
    0x429a969e, 0x148d302a, 0xc40ba6d0, 0xc4e22c3c,
};

/* a * b modulo a generator. */
static uint32_t multiply(uint32_t a, uint32_t b, uint32_t generator)
{
    uint32_t product = 0;
    for (uint32_t bit = UINT32_C(1) << 31; bit; bit >>= 1) {
        if (a & bit) {
            product ^= b;
        }
        b = (b >> 1) ^ ((b & 1) ? generator : 0);
    }
    return product;
}

uint32_t s3d_crc32(uint32_t crc, const void *data, size_t length)
{
    return crc32_gzip_refl(crc, data, length);
}

uint32_t s3d_crc32_combine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b_bytes)
{
    unsigned exponent = 3; /* 8 bits a byte */
    for (uint64_t left = length_b_bytes; left; left >>= 1, exponent++) {
        if (left & 1) {
            crc_a = multiply(POWER[exponent % 32], crc_a, GENERATOR);
        }
    }
    return crc_a ^ crc_b;
}

uint32_t s3d_crc32c(uint32_t crc, const void *data, size_t length)
{
    const char *bytes = data;
    crc = ~crc;
    while (length) { /* ISA-L counts in int, and takes no const */
        int piece = length < INT_MAX ? (int)length : INT_MAX;
        crc = crc32_iscsi((unsigned char *)(uintptr_t)bytes, piece, crc);
        bytes += piece;
        length -= (size_t)piece;
    }
    return ~crc;
}

uint32_t s3d_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b_bytes)
{
    uint32_t power = UINT32_C(1) << 23; /* x^8: one byte on */
    for (uint64_t left = length_b_bytes; left; left >>= 1) {
        if (left & 1) {
            crc_a = multiply(power, crc_a, GENERATOR_C);
        }
        power = multiply(power, power, GENERATOR_C);
    }
    return crc_a ^ crc_b;
}
