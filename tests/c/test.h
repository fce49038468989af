/*
 * The C tests' few tools. A test program is one file: functions that CHECK, and a main that RUNs
 * them. The first failed CHECK ends the program with status 1.
 */
#ifndef TESTS_C_TEST_H
#define TESTS_C_TEST_H

#include "core/error.h"
#include "core/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef S3D_VALGRIND
#include <valgrind/valgrind.h>
#endif

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: FAILED: %s\n", __FILE__, __LINE__, #condition);            \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

#define CHECK_CODE(expression, expected)                                                       \
    do {                                                                                       \
        enum s3d_code code_ = (expression);                                                    \
        if (code_ != (expected)) {                                                             \
            fprintf(stderr, "%s:%d: FAILED: %s is %s, not %s\n", __FILE__, __LINE__,           \
                    #expression, s3d_code_name(code_), s3d_code_name(expected));               \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

#define CHECK_TEXT(actual, expected)                                                           \
    do {                                                                                       \
        const char *actual_ = (actual), *expected_ = (expected);                               \
        if (strcmp(actual_, expected_) != 0) {                                                 \
            fprintf(stderr, "%s:%d: FAILED: %s is \"%s\", not \"%s\"\n", __FILE__, __LINE__,   \
                    #actual, actual_, expected_);                                              \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

/* For a forked child: what its parent's other threads had is nobody's there, and no leak. */
static inline void test_in_child(void)
{
#ifdef S3D_VALGRIND
    VALGRIND_CLO_CHANGE("--leak-check=no");
#endif
}

#define RUN(test)                                                                              \
    do {                                                                                       \
        test();                                                                                \
        printf("ok %s\n", #test);                                                              \
    } while (0)

/* The next of a series that is the same in each run. */
static inline uint64_t test_random_below(uint64_t limit)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % limit;
}

/* Bytes that are nowhere like elsewhere. */
static inline void test_noise(void *data, size_t length, uint32_t seed)
{
    uint32_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < length; i++) {
        state = state * 1664525u + 1013904223u;
        ((unsigned char *)data)[i] = (unsigned char)(state >> 24);
    }
}

/* A file of the tree, whole; data is to be freed. */
struct test_file {
    uint8_t *data;
    size_t length;
};

static inline struct test_file test_read_file(const char *path)
{
    FILE *stream = fopen(path, "rb");
    if (!stream) {
        fprintf(stderr, "cannot read %s: run the tests from the top of the tree\n", path);
        exit(1);
    }
    CHECK(fseek(stream, 0, SEEK_END) == 0);
    struct test_file file = {.length = (size_t)ftell(stream)};
    rewind(stream);
    file.data = malloc(file.length ? file.length : 1); /* so that a sanitizer sees its end */
    CHECK(file.data && fread(file.data, 1, file.length, stream) == file.length);
    fclose(stream);
    return file;
}

/*
 * Torture: runs `code = attempt()` with the 1st, 2nd, ... allocation failing until none is left to
 * fail. A failed attempt must return NO_MEMORY (or, when `any` is set, anything but OK); the
 * sanitizers see leaks and wild accesses.
 */
#ifdef S3D_FAULTS
static inline unsigned long test_torture(enum s3d_code (*attempt)(void), int any)
{
    for (unsigned long n = 1;; n++) {
        CHECK(n < 100000);
        s3d_mem_fail_at(n);
        enum s3d_code code = attempt();
        bool fired = s3d_mem_fault_fired();
        s3d_mem_fail_at(0);
        if (!fired) {
            CHECK_CODE(code, S3D_OK);
            return n - 1;
        }
        CHECK(any ? code != S3D_OK : code == S3D_NO_MEMORY);
    }
}
#endif

#endif
