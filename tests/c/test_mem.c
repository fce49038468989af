/* Allocation, pages, checked arithmetic, and the fault injection that other tests rely on. */
#include "test.h"

#include <sys/mman.h>
#include <unistd.h>

static void test_alloc(void)
{
    char *a = s3d_alloc(0), *b = s3d_alloc_zeroed(0, 10), *c = s3d_alloc_zeroed(3, 5);
    CHECK(a && b && c);
    for (size_t i = 0; i < 15; i++) {
        CHECK(c[i] == 0);
    }
    c = s3d_resize(c, 1000);
    CHECK(c && c[14] == 0);
    a = s3d_resize(a, 0);
    CHECK(a != NULL);
    s3d_free(a);
    s3d_free(b);
    s3d_free(c);
    s3d_free(NULL);
    s3d_free(s3d_resize(NULL, 10));
    CHECK(!s3d_alloc_zeroed(SIZE_MAX / 2, 3));
}

static void test_copy_string(void)
{
    char *copy = s3d_copy_string("text");
    CHECK_TEXT(copy, "text");
    s3d_free(copy);
    copy = s3d_copy_string("");
    CHECK_TEXT(copy, "");
    s3d_free(copy);
    CHECK(!s3d_copy_string(NULL));
}

/* Zeroed, page-aligned, writable to the last byte; from 2 MiB on aligned for huge pages. */
static void test_pages(void)
{
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 2097151, 2097152, 2097153, 9000001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int round = 0; round < 3; round++) {
            char *pages = s3d_pages_alloc(sizes[i]);
            CHECK(pages && (uintptr_t)pages % 4096 == 0);
            CHECK(sizes[i] < 2097152 || (uintptr_t)pages % 2097152 == 0);
            for (size_t at = 0; at < sizes[i]; at += 511) {
                CHECK(pages[at] == 0);
            }
            memset(pages, 0x55, sizes[i]);
            s3d_pages_free(pages, sizes[i]);
        }
    }
    s3d_pages_free(NULL, 10);
    CHECK(!s3d_pages_alloc(SIZE_MAX) && !s3d_pages_alloc(SIZE_MAX - 4096 - 2097152));
    CHECK(!s3d_pages_alloc((size_t)1 << 60));
}

static size_t resident_pages(char *data, size_t bytes)
{
    unsigned char present[64];
    CHECK(bytes <= 64 * 4096 && mincore(data, bytes, present) == 0);
    size_t count = 0;
    for (size_t i = 0; i < (bytes + 4095) / 4096; i++) {
        count += present[i] & 1;
    }
    return count;
}

/* Every page of a range is there, at any alignment; what was written stays, and so do neighbours. */
static void test_pages_touch(void)
{
    enum { SIZE = 9 * 1024 * 1024, FROM = 2500001, BYTES = 5000003 };
    char *pages = s3d_pages_alloc(SIZE);
    CHECK(pages != NULL);
    pages[FROM] = pages[SIZE - 1] = 1;
    s3d_pages_touch(pages + FROM, BYTES);
    s3d_pages_touch(pages + FROM, BYTES); /* a retry comes twice */
    if (madvise(pages, 4096, 23 /* MADV_POPULATE_WRITE */) == 0) {
        for (size_t at = FROM - FROM % 4096; at < FROM + BYTES; at += 4096) {
            CHECK(resident_pages(pages + at, 4096) == 1);
        }
    }
    for (size_t at = 0; at < SIZE - 1; at++) {
        CHECK(pages[at] == (at == FROM));
    }
    s3d_pages_touch(pages, 0);
    s3d_pages_touch(pages, SIZE);
    s3d_pages_free(pages, SIZE);
    s3d_pages_touch(NULL, 0);
}

/* Pages return to the system: many more than the machine has, one after the other. */
static void test_pages_are_given_back(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long before, after;
    CHECK(file && fscanf(file, "%ld", &before) == 1);
    for (int i = 0; i < 1000; i++) {
        s3d_pages_free(s3d_pages_alloc(5000000), 5000000);
    }
    rewind(file);
    CHECK(fscanf(file, "%ld", &after) == 1);
    fclose(file);
    CHECK(after - before < 10000); /* pages; all of them would be more than a million */
}

static void test_sizes(void)
{
    size_t out = 7;
    CHECK(s3d_size_add(1, 2, &out) && out == 3);
    CHECK(!s3d_size_add(SIZE_MAX, 1, &out) && out == 3);
    CHECK(s3d_size_add(SIZE_MAX, 0, &out) && out == SIZE_MAX);
    CHECK(s3d_size_mul(3, 4, &out) && out == 12);
    CHECK(!s3d_size_mul(SIZE_MAX / 2, 3, &out) && out == 12);
}

static void test_faults(void)
{
    s3d_mem_fail_at(3);
    char *a = s3d_alloc(1), *b = s3d_alloc_zeroed(1, 1);
    CHECK(a && b && !s3d_mem_fault_fired());
    CHECK(!s3d_resize(a, 2)); /* the old block stays */
    CHECK(s3d_mem_fault_fired());
    a = s3d_resize(a, 2);
    CHECK(a != NULL);
    s3d_mem_fail_at(1);
    CHECK(!s3d_mem_fault_fired() && !s3d_pages_alloc(10) && s3d_mem_fault_fired());
    s3d_mem_fail_at(1);
    CHECK(!s3d_copy_string("x"));
    s3d_mem_fail_at(0);
    CHECK(!s3d_mem_fault_fired());
    s3d_free(a);
    s3d_free(b);
}

int main(void)
{
    alarm(60);
    RUN(test_alloc);
    RUN(test_copy_string);
    RUN(test_pages);
    RUN(test_pages_touch);
    RUN(test_pages_are_given_back);
    RUN(test_sizes);
    RUN(test_faults);
    return 0;
}
