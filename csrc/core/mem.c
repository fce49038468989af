#include "core/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HUGE_PAGE_BYTES = 2 * 1024 * 1024 };

#ifdef S3D_FAULTS
#include <stdatomic.h>

static atomic_ulong countdown;
static atomic_bool fired;

void s3d_mem_fail_at(unsigned long n)
{
    atomic_store(&fired, false);
    atomic_store(&countdown, n);
}

bool s3d_mem_fault_fired(void)
{
    return atomic_load(&fired);
}

static bool fault(void)
{
    unsigned long left = atomic_load(&countdown);
    while (left && !atomic_compare_exchange_weak(&countdown, &left, left - 1)) {
    }
    if (left == 1) {
        atomic_store(&fired, true);
    }
    return left == 1;
}
#else
static bool fault(void)
{
    return false;
}
#endif

void *s3d_alloc(size_t bytes)
{
    return fault() ? NULL : malloc(bytes ? bytes : 1);
}

void *s3d_alloc_zeroed(size_t count, size_t bytes)
{
    size_t total; /* calloc checks, too, but sanitizers take that for a bug */
    if (!s3d_size_mul(count, bytes, &total) || fault()) {
        return NULL;
    }
    return calloc(1, total ? total : 1);
}

void *s3d_resize(void *memory, size_t bytes)
{
    return fault() ? NULL : realloc(memory, bytes ? bytes : 1);
}

void s3d_free(void *memory)
{
    free(memory);
}

char *s3d_copy_string(const char *text)
{
    if (!text) {
        return NULL;
    }
    size_t bytes = strlen(text) + 1;
    char *copy = s3d_alloc(bytes);
    if (copy) {
        memcpy(copy, text, bytes);
    }
    return copy;
}

static size_t round_to_pages(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t rounded;
    if (!s3d_size_add(bytes ? bytes : 1, page - 1, &rounded)) {
        return 0;
    }
    return rounded - rounded % page;
}

void *s3d_pages_alloc(size_t bytes)
{
    size_t rounded = round_to_pages(bytes);
    if (!rounded || fault()) {
        return NULL;
    }
    size_t slack = rounded >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 0;
    size_t mapped;
    if (!s3d_size_add(rounded, slack, &mapped)) {
        return NULL;
    }
    char *memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    if (slack) {
        /* Huge pages need 2 MiB alignment: cut the mapping to an aligned start. */
        size_t head = (HUGE_PAGE_BYTES - (uintptr_t)memory % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
        if (head) {
            munmap(memory, head);
        }
        if (slack - head) {
            munmap(memory + head + rounded, slack - head);
        }
        memory += head;
        madvise(memory, rounded, MADV_HUGEPAGE); /* advice: its failure costs speed only */
    }
    return memory;
}

void s3d_pages_free(void *memory, size_t bytes)
{
    if (memory) {
        munmap(memory, round_to_pages(bytes));
    }
}
