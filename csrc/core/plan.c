#include "core/plan.h"

static const uint64_t MIB = 1024 * 1024;

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t s3d_plan_growing_part(const struct s3d_limits *limits, uint64_t base_bytes,
                               uint64_t offset_bytes)
{
    /* Stores with parts to spare (files) need no growth to reach their limit; others allow none. */
    uint64_t thousandth = round_up(offset_bytes / 1000, MIB);
    uint64_t part = limits->parts_max > 10000 || limits->equal_parts || thousandth < base_bytes
                        ? base_bytes
                        : thousandth;
    return least(part, limits->part_max_bytes);
}

enum s3d_code s3d_plan_known_part(const struct s3d_limits *limits, uint64_t base_bytes,
                                  uint64_t size_bytes, uint64_t *part_bytes,
                                  struct s3d_error *error)
{
    if (size_bytes > limits->object_max_bytes) {
        return s3d_fail(
            error, S3D_INVALID, "%llu bytes are more than the store's limit of %llu",
            (unsigned long long)size_bytes, (unsigned long long)limits->object_max_bytes);
    }
    uint64_t needed = (size_bytes + limits->parts_max - 1) / limits->parts_max;
    uint64_t part = base_bytes;
    if (needed > part) {
        part = least(round_up(needed, MIB), limits->part_max_bytes);
    }
    if (part < needed) {
        return s3d_fail(error, S3D_INVALID, "%llu bytes do not fit in %u parts of %llu",
                        (unsigned long long)size_bytes, limits->parts_max,
                        (unsigned long long)part);
    }
    *part_bytes = part;
    return S3D_OK;
}

uint64_t s3d_plan_range(uint64_t length_bytes, uint64_t part_bytes, unsigned concurrency)
{
    uint64_t share = length_bytes / concurrency + (length_bytes % concurrency != 0);
    share = round_up(share ? share : 1, 64 * 1024);
    if (share < MIB) {
        share = MIB;
    }
    return least(share, part_bytes);
}

enum s3d_code s3d_plan_check_part(const struct s3d_limits *limits, uint64_t part_bytes,
                                  struct s3d_error *error)
{
    if (part_bytes >= limits->part_min_bytes && part_bytes <= limits->part_max_bytes) {
        return S3D_OK;
    }
    return s3d_fail(error, S3D_INVALID,
                    "part_size is %llu bytes, but must lie between %llu and %llu",
                    (unsigned long long)part_bytes, (unsigned long long)limits->part_min_bytes,
                    (unsigned long long)limits->part_max_bytes);
}
