/* What the tests of core/get.h share: plans over an object of pattern 1. */
#ifndef TESTS_C_GET_TEST_H
#define TESTS_C_GET_TEST_H

#include "fake_store.h"
#include "test.h"

#include "core/get.h"

enum { PART = 4096 };

static inline struct s3d_get_plan plan_for(const struct s3d_segment *segments, size_t count,
                                           unsigned concurrency)
{
    return (struct s3d_get_plan){.key = "object",
                                 .segments = segments,
                                 .segment_count = count,
                                 .part_bytes = PART,
                                 .concurrency = concurrency};
}

static inline struct s3d_get *start(struct fake_store *fake, const struct s3d_segment *segments,
                                    size_t count, unsigned concurrency)
{
    struct s3d_get_plan plan = plan_for(segments, count, concurrency);
    struct s3d_get *get;
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
    return get;
}

/* `count` neighbours of PART bytes each. */
static inline void cut_in_parts(struct s3d_segment *segments, size_t count, char *data)
{
    for (size_t i = 0; i < count; i++) {
        segments[i] = (struct s3d_segment){i * PART, PART, data + i * PART};
    }
}

#endif
