/*
 * Memory: the only file that calls the malloc family or mmap.
 *
 * s3d_alloc & co. serve small control structures. s3d_pages_* serves bulk data: page-aligned
 * anonymous mappings that ask for huge pages, so that first touch costs 10 GB/s instead of 3, and
 * that return to the system at once when freed.
 *
 * Built with -DS3D_FAULTS (the C tests, and extensions that are no release), s3d_mem_fail_at(n)
 * makes the n-th call from now fail.
 */
#ifndef S3D_CORE_MEM_H
#define S3D_CORE_MEM_H

#include "core/error.h"

void *s3d_alloc(size_t bytes);                      /* uninitialised; NULL on failure */
void *s3d_alloc_zeroed(size_t count, size_t bytes); /* count * bytes checked; NULL on failure */
void *s3d_resize(void *memory,
                 size_t bytes);          /* realloc; the old block stays valid on failure */
void s3d_free(void *memory);             /* NULL is allowed */
char *s3d_copy_string(const char *text); /* NULL in, NULL out; NULL on failure */

/* Page-aligned, zero-filled by the kernel, huge pages where they pay. Size is rounded up inside;
 * pass the same size to s3d_pages_free. */
void *s3d_pages_alloc(size_t bytes);
void s3d_pages_free(void *memory, size_t bytes);
/* Backs [data, data + bytes), a part of such an allocation that nobody has touched yet, just
 * before it is filled: cheaper than page by page as it is written. Contents stay as they are. Does
 * nothing for less than 1 MiB. */
void s3d_pages_touch(char *data, size_t bytes);

/* false on overflow, *out untouched. */
static inline bool s3d_size_add(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) {
        return false;
    }
    *out = sum;
    return true;
}

static inline bool s3d_size_mul(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) {
        return false;
    }
    *out = product;
    return true;
}

#ifdef S3D_FAULTS
/* The n-th allocation from now fails (1 = the next one); 0 turns faults off. */
void s3d_mem_fail_at(unsigned long n);
/* Whether the fault of the last s3d_mem_fail_at fired. */
bool s3d_mem_fault_fired(void);
#endif

#endif
