// Buffers for object and part bodies. A body of 256 KiB or more lives in its own huge-page-advised mapping; a
// released mapping goes back to the pool, since faulting fresh pages in costs more than the copy that fills them.
// A block has one owner: a request being received, then a part of an upload, then an object. Readers hold the object.
#ifndef S3S_POOL_H
#define S3S_POOL_H

#include <pthread.h>

#include "base.h"

struct s3s_block {
    struct s3s_block *next; // in the pool
    char *data;
    size_t capacity_bytes;
    bool mapped;
};

struct s3s_pool {
    pthread_mutex_t mutex;
    struct { // under mutex
        struct s3s_block *spare;
        uint64_t total_bytes; // in use and spare
    } locked;
    uint64_t limit_bytes; // frozen
};

void s3s_pool_init(struct s3s_pool *pool, uint64_t limit_bytes);
void s3s_pool_fini(struct s3s_pool *pool);
struct s3s_block *s3s_pool_take(struct s3s_pool *pool,
                                uint64_t size_bytes);               // NULL: over the limit
void s3s_pool_give(struct s3s_pool *pool, struct s3s_block *block); // NULL is fine

// The pattern served for virtual and discarded objects: byte i is
//   ((i mod S3S_PATTERN_PERIOD) * 2654435761 >> 24) & 0xff
// The period is a prime just under 1 MiB, so no two parts of a round size are alike and a misplaced part shows.
enum { S3S_PATTERN_PERIOD = 1048573 };
void s3s_pattern_fill(char *to); // S3S_PATTERN_PERIOD bytes

#endif
