#include "test.h"

#include "formats/crc.h"

/* The definition, bit by bit. */
static uint32_t slow_crc32(uint32_t crc, const unsigned char *data, size_t length)
{
    crc = ~crc;
    for (size_t i = 0; i < length; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1) ? 0xEDB88320u : 0);
        }
    }
    return ~crc;
}

static void test_known_values(void)
{
    CHECK(s3d_crc32(0, "", 0) == 0);
    CHECK(s3d_crc32(0, "123456789", 9) == 0xCBF43926);
    CHECK(s3d_crc32(0, "a", 1) == 0xE8B7BE43);
    CHECK(s3d_crc32(0, "The quick brown fox jumps over the lazy dog", 43) == 0x414FA339);
    CHECK(s3d_crc32(0x12345678, "", 0) == 0x12345678);
}

static void test_every_length_and_alignment(void)
{
    unsigned char data[1024 + 16];
    test_noise(data, sizeof data, 1);
    for (size_t length = 0; length <= 1024; length++) {
        size_t from = length % 16;
        CHECK(s3d_crc32(0, data + from, length) == slow_crc32(0, data + from, length));
    }
}

static void test_chains(void)
{
    unsigned char data[4096];
    test_noise(data, sizeof data, 1);
    uint32_t whole = s3d_crc32(0, data, sizeof data);
    for (size_t cut = 0; cut <= sizeof data; cut += 13) {
        CHECK(s3d_crc32(s3d_crc32(0, data, cut), data + cut, sizeof data - cut) == whole);
    }
}

static void test_combine(void)
{
    unsigned char data[4096];
    test_noise(data, sizeof data, 1);
    uint32_t whole = s3d_crc32(0, data, sizeof data);
    for (size_t cut = 0; cut <= sizeof data; cut++) {
        uint32_t a = s3d_crc32(0, data, cut);
        uint32_t b = s3d_crc32(0, data + cut, sizeof data - cut);
        CHECK(s3d_crc32_combine(a, b, sizeof data - cut) == whole);
    }
}

/* n zero bytes appended in two ways: by doubling, and in one step. Reaches every table
 * entry. */
static void test_combine_far(void)
{
    uint32_t zeros = s3d_crc32(0, "", 1), seed = 0xCAFEBABE;
    for (uint64_t length = 1; length < UINT64_C(1) << 62; length *= 2) {
        uint32_t twice = s3d_crc32_combine(zeros, zeros, length);
        CHECK(s3d_crc32_combine(seed, twice, 2 * length) ==
              s3d_crc32_combine(s3d_crc32_combine(seed, zeros, length), zeros, length));
        zeros = twice;
    }
    CHECK(s3d_crc32_combine(seed, 0, 0) == seed);
    /* What zlib's crc32_combine64 gives for the same arguments. */
    CHECK(s3d_crc32_combine(0xCBF43926, 0, UINT64_C(6) * 1024 * 1024 * 1024 + 3) == 0x964C93A7);
}

static void test_crc32c(void)
{
    unsigned char data[1024];
    test_noise(data, sizeof data, 1);
    /* RFC 3720, appendix B.4, and the check value. */
    CHECK(s3d_crc32c(0, "123456789", 9) == 0xE3069283);
    unsigned char zeros[32] = {0};
    CHECK(s3d_crc32c(0, zeros, sizeof zeros) == 0x8A9136AA);
    CHECK(s3d_crc32c(0, "", 0) == 0 && s3d_crc32c(77, "", 0) == 77);
    uint32_t whole = s3d_crc32c(0, data, sizeof data);
    for (size_t cut = 0; cut <= sizeof data; cut++) {
        uint32_t a = s3d_crc32c(0, data, cut);
        uint32_t b = s3d_crc32c(0, data + cut, sizeof data - cut);
        CHECK(s3d_crc32c(a, data + cut, sizeof data - cut) == whole);
        CHECK(s3d_crc32c_combine(a, b, sizeof data - cut) == whole);
    }
}

int main(void)
{
    RUN(test_known_values);
    RUN(test_every_length_and_alignment);
    RUN(test_chains);
    RUN(test_combine);
    RUN(test_combine_far);
    RUN(test_crc32c);
    return 0;
}
