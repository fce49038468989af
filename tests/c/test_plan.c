/* How objects are cut: no plan breaks a store's limits. */
#include "test.h"

#include "core/plan.h"

#include <unistd.h>

static const uint64_t KIB = 1024, MIB = 1024 * 1024, GIB = 1024 * 1024 * 1024;

/* S3's own. */
static const struct s3d_limits s3 = {
    .part_min_bytes = 5ull * 1024 * 1024,
    .part_max_bytes = 5ull * 1024 * 1024 * 1024,
    .parts_max = 10000,
    .object_max_bytes = 10000ull * 5 * 1024 * 1024 * 1024,
};

/* How many bytes all the parts carry that grow from `base`. */
static uint64_t carried(const struct s3d_limits *limits, uint64_t base)
{
    uint64_t offset = 0, last = 0;
    for (uint32_t part = 0; part < limits->parts_max; part++) {
        uint64_t size = s3d_plan_growing_part(limits, base, offset);
        CHECK(size >= base && size >= limits->part_min_bytes && size <= limits->part_max_bytes);
        CHECK(size >= last); /* never smaller than the part before */
        CHECK(size == base || size % MIB == 0);
        last = size;
        offset += size;
    }
    return offset;
}

static void test_growing_part(void)
{
    CHECK(s3d_plan_growing_part(&s3, 8 * MIB, 0) == 8 * MIB);
    CHECK(s3d_plan_growing_part(&s3, 8 * MIB, 8000 * MIB) == 8 * MIB);
    CHECK(s3d_plan_growing_part(&s3, 8 * MIB, 8001 * MIB) == 9 * MIB);
    CHECK(s3d_plan_growing_part(&s3, 8 * MIB, s3.object_max_bytes) == 5 * GIB);
    CHECK(s3d_plan_growing_part(&s3, 8388609, 100) == 8388609);
    CHECK(carried(&s3, 8 * MIB) > 17 * 1024 * GIB);
    CHECK(carried(&s3, 5 * MIB) > 10 * 1024 * GIB);
    CHECK(carried(&s3, 5 * GIB) == s3.object_max_bytes);
    struct s3d_limits files = s3;
    files.parts_max = 1000000;
    CHECK(s3d_plan_growing_part(&files, 8 * MIB, 100000 * GIB) == 8 * MIB);
    struct s3d_limits equal = s3;
    equal.equal_parts = true;
    CHECK(s3d_plan_growing_part(&equal, 8 * MIB, 79999 * MIB) == 8 * MIB);
}

static void check_known(uint64_t base, uint64_t size)
{
    uint64_t part = 0;
    CHECK_CODE(s3d_plan_known_part(&s3, base, size, &part, NULL), S3D_OK);
    CHECK(part >= base && part <= s3.part_max_bytes);
    CHECK(part == base || part % MIB == 0 || part == s3.part_max_bytes);
    CHECK(size / part + (size % part != 0) <= s3.parts_max);
    if (part > base) { /* no larger than it must be */
        CHECK(part - MIB < base ||
              size / (part - MIB) + (size % (part - MIB) != 0) > s3.parts_max);
    }
}

static void test_known_part(void)
{
    static const uint64_t bases[] = {5242880, 8388608, 8388609, 5368709120};
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        check_known(bases[i], 0);
        check_known(bases[i], 1);
        for (int d = -1; d <= 1; d++) {
            uint64_t edge = bases[i] * 10000 + (uint64_t)d;
            if (edge <= s3.object_max_bytes) {
                check_known(bases[i], edge);
            }
        }
        check_known(bases[i], s3.object_max_bytes);
    }
    uint64_t part = 1;
    struct s3d_error error;
    CHECK_CODE(s3d_plan_known_part(&s3, 8 * MIB, s3.object_max_bytes + 1, &part, &error),
               S3D_INVALID);
    CHECK(part == 1 && error.message[0]);
    struct s3d_limits small = s3;
    small.part_max_bytes = 8 * MIB;
    CHECK_CODE(s3d_plan_known_part(&small, 8 * MIB, 80000 * MIB, &part, NULL), S3D_OK);
    CHECK_CODE(s3d_plan_known_part(&small, 8 * MIB, 80000 * MIB + 1, &part, NULL), S3D_INVALID);
}

static void test_range(void)
{
    CHECK(s3d_plan_range(0, 8 * MIB, 4) > 0);
    CHECK(s3d_plan_range(1, 8 * MIB, 4) == MIB);
    CHECK(s3d_plan_range(4 * MIB, 8 * MIB, 4) == MIB);
    CHECK(s3d_plan_range(4 * MIB + 1, 8 * MIB, 4) == MIB + 64 * KIB);
    CHECK(s3d_plan_range(100 * MIB, 8 * MIB, 4) == 8 * MIB);
    CHECK(s3d_plan_range(100 * MIB, 64 * KIB, 4) == 64 * KIB);
    CHECK(s3d_plan_range(100 * MIB, 8 * MIB, 1) == 8 * MIB);
    /* In all cases: no more ranges than fit, none larger than a part, the work shared. */
    for (uint64_t length = 1; length < 1024 * GIB; length = length * 3 + 1) {
        for (unsigned concurrency = 1; concurrency <= 1024; concurrency *= 4) {
            uint64_t range = s3d_plan_range(length, 8 * MIB, concurrency);
            CHECK(range > 0 && range <= 8 * MIB && range >= MIB);
            uint64_t count = length / range + (length % range != 0);
            CHECK(range == 8 * MIB || count <= concurrency);
        }
    }
}

static void test_check_part(void)
{
    struct s3d_error error;
    CHECK_CODE(s3d_plan_check_part(&s3, s3.part_min_bytes, NULL), S3D_OK);
    CHECK_CODE(s3d_plan_check_part(&s3, s3.part_max_bytes, NULL), S3D_OK);
    CHECK_CODE(s3d_plan_check_part(&s3, s3.part_min_bytes - 1, &error), S3D_INVALID);
    CHECK(strstr(error.message, "5242879") && strstr(error.message, "5242880"));
    CHECK_CODE(s3d_plan_check_part(&s3, s3.part_max_bytes + 1, &error), S3D_INVALID);
    CHECK(strstr(error.message, "5368709120") != NULL);
    CHECK_CODE(s3d_plan_check_part(&s3, 0, NULL), S3D_INVALID);
}

int main(void)
{
    alarm(60);
    RUN(test_growing_part);
    RUN(test_known_part);
    RUN(test_range);
    RUN(test_check_part);
    return 0;
}
