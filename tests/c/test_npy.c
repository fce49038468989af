#include "test.h"

#include "formats/npy.h"

#define V1 "\x93NUMPY\1\0"
#define V2 "\x93NUMPY\2\0"
#define V3 "\x93NUMPY\3\0"

/* Of a copy of exactly these bytes, so that the sanitizer sees every step beyond them. */
static enum s3d_code prefix(const char *bytes, size_t length, uint64_t available,
                            uint64_t text_max, struct s3d_npy *npy, uint64_t *need,
                            struct s3d_error *error)
{
    char *copy = malloc(length ? length : 1);
    CHECK(copy);
    memcpy(copy, bytes, length);
    enum s3d_code code = s3d_npy_prefix(npy, copy, length, available, text_max, need, error);
    free(copy);
    return code;
}

static void check_bad(const char *bytes, size_t length, uint64_t available, uint64_t text_max,
                      const char *why)
{
    struct s3d_npy npy;
    uint64_t need;
    struct s3d_error error = {0};
    CHECK_CODE(prefix(bytes, length, available, text_max, &npy, &need, &error), S3D_INVALID);
    if (!strstr(error.message, why)) {
        fprintf(stderr, "says: %s\n not: %s\n", error.message, why);
    }
    CHECK(strstr(error.message, why));
}

static void check_need(const char *bytes, size_t length, uint64_t available, uint64_t expected)
{
    struct s3d_npy npy;
    uint64_t need;
    struct s3d_error error;
    CHECK_CODE(prefix(bytes, length, available, UINT64_MAX, &npy, &need, &error), S3D_AGAIN);
    CHECK(need == expected && need > length && need <= available);
}

static void test_versions(void)
{
    struct s3d_npy npy;
    uint64_t need;
    struct s3d_error error;
    CHECK_CODE(prefix(V1 "\2\0{}", 12, 12, 10000, &npy, &need, &error), S3D_OK);
    CHECK(npy.major == 1 && npy.text_offset == 10 && npy.text_bytes == 2 &&
          npy.data_offset == 12);
    CHECK_CODE(prefix(V2 "\2\0\0\0{}", 14, 99, 10000, &npy, &need, &error), S3D_OK);
    CHECK(npy.major == 2 && npy.text_offset == 12 && npy.data_offset == 14);
    CHECK_CODE(prefix(V3 "\0\0\0\0", 12, 12, 0, &npy, &need, &error), S3D_OK);
    CHECK(npy.major == 3 && npy.text_bytes == 0 && npy.data_offset == 12);
    check_bad("\x93NUMPY\0\0\2\0{}", 12, 12, 9, "not (0, 0)");
    check_bad("\x93NUMPY\4\0\2\0{}", 12, 12, 9, "not (4, 0)");
    check_bad("\x93NUMPY\1\1\2\0{}", 12, 12, 9, "not (1, 1)");
    check_bad("\x93NUMPX\1\0\2\0{}", 12, 12, 9, "magic");
    check_bad("\x92NUMPY\1\0\2\0{}", 12, 12, 9, "magic");
}

static void test_needs_more(void)
{
    check_need("", 0, 100, 8);
    check_need(V1, 7, 100, 8);
    check_need(V1, 8, 100, 10);
    check_need(V2, 8, 100, 12);
    check_need(V1 "\x10\0", 10, 26, 26);
    check_need(V1 "\x10\0{", 11, 26, 26);
    check_need(V2 "\x10\0\0\0", 12, 28, 28);
}

static void test_cut_short(void)
{
    check_bad("", 0, 0, 9, "EOF: reading magic string, expected 8 bytes got 0");
    check_bad(V1, 7, 7, 9, "EOF: reading magic string, expected 8 bytes got 7");
    check_bad(V1, 9, 9, 9, "EOF: reading array header length, expected 2 bytes got 1");
    check_bad(V2, 9, 11, 9, "EOF: reading array header length, expected 4 bytes got 3");
    check_bad(V1 "\x10\0", 10, 25, 99, "EOF: reading array header, expected 16 bytes got 15");
    /* Four gigabytes are neither read nor allocated. */
    check_bad(V2 "\xff\xff\xff\xff", 12, 1000, UINT64_MAX,
              "EOF: reading array header, expected 4294967295 bytes got 988");
}

static void test_ceiling(void)
{
    struct s3d_npy npy;
    uint64_t need;
    struct s3d_error error;
    const uint64_t available = 1 << 20;
    check_bad(V1 "\x11\x27", 10, available, 10000, "length (10001) is large");
    check_bad(V2 "\xff\xff\xff\xff", 12, available, 10000, "length (4294967295) is large");
    CHECK_CODE(prefix(V1 "\x10\x27", 10, available, 10000, &npy, &need, &error), S3D_AGAIN);
    CHECK(need == 10010);
    /* A character of UTF-8 takes up to four bytes. */
    CHECK_CODE(prefix(V3 "\x40\x9c\0\0", 12, available, 10000, &npy, &need, &error), S3D_AGAIN);
    CHECK(need == 40012);
    check_bad(V3 "\x41\x9c\0\0", 12, available, 10000, "length (40001) is large");
    CHECK_CODE(prefix(V3 "\x41\x9c\0\0", 12, available, UINT64_MAX, &npy, &need, &error),
               S3D_AGAIN);
}

static enum s3d_code bytes_of(size_t rank, const uint64_t *shape, uint64_t item,
                              uint64_t available, uint64_t *bytes)
{
    struct s3d_error error;
    return s3d_npy_bytes(shape, rank, item, available, bytes, &error);
}

static void test_sizes(void)
{
    uint64_t bytes;
    const uint64_t plain[] = {3, 4, 5}, empty[] = {3, 0, 5},
                   huge[] = {UINT32_MAX, UINT32_MAX, 2};
    const uint64_t hidden[] = {0, UINT64_MAX, 2}, most[] = {INT64_MAX}, more[] = {UINT64_MAX};
    CHECK_CODE(bytes_of(3, plain, 8, 480, &bytes), S3D_OK);
    CHECK(bytes == 480);
    CHECK_CODE(bytes_of(3, plain, 8, 479, &bytes), S3D_INVALID);
    CHECK_CODE(bytes_of(0, NULL, 8, 8, &bytes), S3D_OK);
    CHECK(bytes == 8);
    CHECK_CODE(bytes_of(3, empty, 8, 0, &bytes), S3D_OK);
    CHECK(bytes == 0);
    CHECK_CODE(bytes_of(3, plain, 0, 0, &bytes), S3D_OK);
    CHECK(bytes == 0);
    CHECK_CODE(bytes_of(3, huge, 1, UINT64_MAX, &bytes), S3D_INVALID);
    CHECK_CODE(bytes_of(3, hidden, 8, UINT64_MAX, &bytes), S3D_INVALID);
    CHECK_CODE(bytes_of(1, most, 1, UINT64_MAX, &bytes), S3D_OK);
    CHECK_CODE(bytes_of(1, most, 2, UINT64_MAX, &bytes), S3D_INVALID);
    CHECK_CODE(bytes_of(1, more, 1, UINT64_MAX, &bytes), S3D_INVALID);
    CHECK_CODE(bytes_of(1, most, UINT64_MAX, UINT64_MAX, &bytes), S3D_INVALID);
}

int main(void)
{
    RUN(test_versions);
    RUN(test_needs_more);
    RUN(test_cut_short);
    RUN(test_ceiling);
    RUN(test_sizes);
    return 0;
}
