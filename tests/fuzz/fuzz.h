/*
 * What the fuzz targets share. A target is one file, fuzz_NAME.c, whose function names begin with
 * NAME, since tests/c/test_fuzz_replay.c compiles all of them into one program; its corpus is
 * tests/fuzz/corpus/NAME. `make fuzz` searches for new inputs, `make test` replays the corpus.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A broken promise ends the program as a crash does. */
#define PROMISE(condition)                                                                     \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            __builtin_trap();                                                                  \
        }                                                                                      \
    } while (0)

/* A copy of exactly these bytes, so that the sanitizer sees every step beyond them. */
static inline void *fuzz_exact_copy(const void *data, size_t size)
{
    void *copy = malloc(size ? size : 1);
    PROMISE(copy);
    if (size) {
        memcpy(copy, data, size);
    }
    return copy;
}

#endif
