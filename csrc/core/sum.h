/*
 * The kinds of checksum that stores keep with objects, as core needs them: pure functions, any
 * thread. Backends bring them, because core computes none itself.
 */
#ifndef S3D_CORE_SUM_H
#define S3D_CORE_SUM_H

#include <stddef.h>
#include <stdint.h>

enum {
    S3D_SUM_KINDS = 3, /* how many there are */
    S3D_SUM_TEXT = 16  /* bytes with terminator of a value as text */
};

struct s3d_sum_kind {
    const char *name; /* "crc64nvme" */
    /* The sum of what came before (`sum`, 0 for nothing) and the bytes that follow it. */
    uint64_t (*update)(uint64_t sum, const void *data, size_t length);
    /* The sum of A followed by B, from their sums and the length of B. */
    uint64_t (*combine)(uint64_t sum_a, uint64_t sum_b, uint64_t length_b_bytes);
    /* As the store writes it. */
    void (*write)(uint64_t sum, char text[S3D_SUM_TEXT]);
};

#endif
