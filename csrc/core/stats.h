/* Process-wide counters, only ever growing. */
#ifndef S3D_CORE_STATS_H
#define S3D_CORE_STATS_H

#include <stdatomic.h>
#include <stdint.h>

/* X(field) */
#define S3D_COUNTERS(X)                                                                        \
    X(requests)       /* attempts sent */                                                      \
    X(retries)        /* attempts after the first */                                           \
    X(hedges)         /* GETs asked for again because they were late, see core/hedge.h */      \
    X(failures)       /* requests that ended with an error */                                  \
    X(bytes_received) /* body bytes placed */                                                  \
    X(bytes_sent)     /* body bytes acknowledged */                                            \
    X(objects_opened)                                                                          \
    X(objects_written)                                                                         \
    X(uploads_aborted)

struct s3d_stats {
#define X(field) _Atomic uint64_t field;
    S3D_COUNTERS(X)
#undef X
};

static inline void s3d_count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

#endif
