#include "test.h"

#include "formats/crc64.h"

/* The definition, bit by bit. */
static uint64_t slow_crc64(uint64_t crc, const unsigned char *data, size_t length)
{
    crc = ~crc;
    for (size_t i = 0; i < length; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1) ? UINT64_C(0x9A6C9329AC4BC9B5) : 0);
        }
    }
    return ~crc;
}

/* NVM Express NVM Command Set Specification 1.0d, figure 150, and its check value. */
static void test_known_values(void)
{
    unsigned char data[4096];
    CHECK(s3d_crc64(0, "123456789", 9) == UINT64_C(0xAE8B14860A799888));
    CHECK(s3d_crc64_portable(0, "123456789", 9) == UINT64_C(0xAE8B14860A799888));
    CHECK(s3d_crc64(0, NULL, 0) == 0 && s3d_crc64(7, NULL, 0) == 7);
    memset(data, 0, sizeof data);
    CHECK(s3d_crc64(0, data, sizeof data) == UINT64_C(0x6482D367EB22B64E));
    memset(data, 0xFF, sizeof data);
    CHECK(s3d_crc64(0, data, sizeof data) == UINT64_C(0xC0DDBA7302ECA3AC));
}

static void test_every_length_and_alignment(void)
{
    unsigned char data[1024 + 16];
    test_noise(data, sizeof data, 2);
    for (size_t length = 0; length <= 1024; length++) {
        size_t from = length % 16;
        uint64_t expected = slow_crc64(length, data + from, length);
        CHECK(s3d_crc64(length, data + from, length) == expected);
        CHECK(s3d_crc64_portable(length, data + from, length) == expected);
    }
}

static void test_chains_and_combine(void)
{
    unsigned char data[4096];
    test_noise(data, sizeof data, 2);
    uint64_t whole = s3d_crc64(0, data, sizeof data);
    for (size_t cut = 0; cut <= sizeof data; cut += 13) {
        uint64_t front = s3d_crc64(0, data, cut);
        uint64_t back = s3d_crc64(0, data + cut, sizeof data - cut);
        CHECK(s3d_crc64(front, data + cut, sizeof data - cut) == whole);
        CHECK(s3d_crc64_combine(front, back, sizeof data - cut) == whole);
    }
    CHECK(s3d_crc64_combine(whole, 0, 0) == whole &&
          s3d_crc64_combine(0, whole, 4096) == whole);
}

/* Lengths far beyond memory: behind n zero bytes twice is behind 2n. */
static void test_combine_long(void)
{
    uint64_t crc = s3d_crc64(0, "abc", 3);
    for (unsigned bits = 0; bits < 62; bits++) {
        uint64_t length = UINT64_C(1) << bits;
        uint64_t once = s3d_crc64_combine(crc, 0, length);
        CHECK(s3d_crc64_combine(once, 0, length) == s3d_crc64_combine(crc, 0, 2 * length));
    }
}

int main(void)
{
    RUN(test_known_values);
    RUN(test_every_length_and_alignment);
    RUN(test_chains_and_combine);
    RUN(test_combine_long);
    return 0;
}
