#include "core/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

enum {
    HUGE_PAGE_BYTES = 2 * 1024 * 1024,
    HUGE_PAGE_SLOW_US = 800, /* a little more than 512 small pages take */
    SMALL_PAGES_US = 250000,
    TOUCH_MIN_BYTES = 1024 * 1024 /* less is not worth a system call */
};

#ifdef S3D_FAULTS
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

static int64_t clock_us(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/*
 * Backs a part of one huge page's range. Normally a huge page costs the time to clear 2 MiB, a
 * fifth of what small pages take. But a virtual machine's host may have to back it first, at
 * several times the cost of small pages, which come from memory in recent use: then small pages
 * serve for a while. All of it is advice: pages that are not there come when they are written to.
 * Returns whether huge ones are worth it.
 */
static bool back_pages(char *data, size_t bytes)
{
    static _Atomic int64_t small_until_us;
    int64_t now = clock_us(CLOCK_MONOTONIC);
    bool huge = now >= atomic_load_explicit(&small_until_us, memory_order_relaxed);
    int64_t start = clock_us(CLOCK_THREAD_CPUTIME_ID);
    (void)madvise(data, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    (void)madvise(data, bytes, MADV_POPULATE_WRITE);
    if (huge && clock_us(CLOCK_THREAD_CPUTIME_ID) - start > HUGE_PAGE_SLOW_US) {
        atomic_store_explicit(&small_until_us, now + SMALL_PAGES_US, memory_order_relaxed);
        huge = false;
    }
    return huge;
}

void s3d_pages_touch(char *data, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t before = (uintptr_t)data % page;
    if (bytes < TOUCH_MIN_BYTES) {
        return;
    }
    char *at = data - before;
    size_t left = bytes + before;
    left += (page - left % page) % page;
    while (left) {
        size_t block = HUGE_PAGE_BYTES - (uintptr_t)at % HUGE_PAGE_BYTES;
        block = block < left ? block : left;
        back_pages(at, block);
        at += block;
        left -= block;
    }
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
    char *memory =
        mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
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
        bool huge = back_pages(memory, HUGE_PAGE_BYTES);
        (void)madvise(memory, rounded, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    }
    return memory;
}

void s3d_pages_free(void *memory, size_t bytes)
{
    if (memory) {
        munmap(memory, round_to_pages(bytes));
    }
}
