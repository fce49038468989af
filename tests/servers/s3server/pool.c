#include "pool.h"

#include <sys/mman.h>

enum { HUGE_PAGE_BYTES = 2 << 20, MAPPED_FROM_BYTES = 256 << 10 };

void s3s_pool_init(struct s3s_pool *pool, uint64_t limit_bytes)
{
    *pool = (struct s3s_pool){.limit_bytes = limit_bytes};
    pthread_mutex_init(&pool->mutex, NULL);
}

static void block_free(struct s3s_block *block)
{
    if (block->mapped)
        munmap(block->data, block->capacity_bytes);
    else
        s3s_mem_free(block->data);
    s3s_mem_free(block);
}

static void drop_spare_locked(struct s3s_pool *pool)
{
    while (pool->locked.spare) {
        struct s3s_block *block = pool->locked.spare;
        pool->locked.spare = block->next;
        pool->locked.total_bytes -= block->capacity_bytes;
        block_free(block);
    }
}

void s3s_pool_fini(struct s3s_pool *pool)
{
    drop_spare_locked(pool);
    pthread_mutex_destroy(&pool->mutex);
}

// Huge pages need 2 MiB alignment: map one page more and give the ends back.
static char *map_aligned(size_t size_bytes)
{
    char *raw = mmap(NULL, size_bytes + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return NULL;
    size_t lead = -(uintptr_t)raw & (HUGE_PAGE_BYTES - 1);
    if (lead)
        munmap(raw, lead);
    munmap(raw + lead + size_bytes, HUGE_PAGE_BYTES - lead);
    madvise(raw + lead, size_bytes, MADV_HUGEPAGE);
    return raw + lead;
}

static struct s3s_block *take_spare_locked(struct s3s_pool *pool, size_t capacity)
{
    for (struct s3s_block **at = &pool->locked.spare; *at; at = &(*at)->next) {
        struct s3s_block *block = *at;
        if (block->capacity_bytes < capacity || block->capacity_bytes - capacity > capacity / 4)
            continue;
        *at = block->next;
        block->next = NULL;
        return block;
    }
    return NULL;
}

static struct s3s_block *block_new(size_t capacity, bool mapped)
{
    char *data = mapped ? map_aligned(capacity) : s3s_mem_resize(NULL, capacity);
    if (!data)
        return NULL;
    struct s3s_block *block = s3s_mem_zalloc(sizeof *block);
    *block = (struct s3s_block){.data = data, .capacity_bytes = capacity, .mapped = mapped};
    return block;
}

struct s3s_block *s3s_pool_take(struct s3s_pool *pool, uint64_t size_bytes)
{
    bool mapped = size_bytes >= MAPPED_FROM_BYTES;
    size_t capacity = mapped
                          ? (size_bytes + HUGE_PAGE_BYTES - 1) & ~(size_t)(HUGE_PAGE_BYTES - 1)
                          : (size_t)(size_bytes ? size_bytes : 1);
    pthread_mutex_lock(&pool->mutex);
    struct s3s_block *block = mapped ? take_spare_locked(pool, capacity) : NULL;
    if (!block) {
        if (pool->locked.total_bytes + capacity > pool->limit_bytes)
            drop_spare_locked(pool);
        if (pool->locked.total_bytes + capacity <= pool->limit_bytes)
            block = block_new(capacity, mapped);
        if (block)
            pool->locked.total_bytes += capacity;
    }
    pthread_mutex_unlock(&pool->mutex);
    return block;
}

void s3s_pool_give(struct s3s_pool *pool, struct s3s_block *block)
{
    if (!block)
        return;
    pthread_mutex_lock(&pool->mutex);
    if (block->mapped) {
        block->next = pool->locked.spare;
        pool->locked.spare = block;
        block = NULL;
    } else {
        pool->locked.total_bytes -= block->capacity_bytes;
    }
    pthread_mutex_unlock(&pool->mutex);
    if (block)
        block_free(block);
}

void s3s_pattern_fill(char *to)
{
    for (uint64_t i = 0; i < S3S_PATTERN_PERIOD; i++)
        to[i] = (char)((i * 2654435761u >> 24) & 0xff);
}
