/*
 * Plans: how an object is cut into parts and ranges. Pure arithmetic.
 */
#ifndef S3D_CORE_PLAN_H
#define S3D_CORE_PLAN_H

#include "core/store.h"

/*
 * The size of the part that begins at offset_bytes when the object's size is not known yet: at
 * least base_bytes, and at least a thousandth of what is already written (in whole MiB), so that
 * parts grow slowly and 10,000 of them carry a stream far beyond 10,000 x base (17 TiB from 8 MiB).
 */
uint64_t s3d_plan_growing_part(const struct s3d_limits *limits, uint64_t base_bytes,
                               uint64_t offset_bytes);

/* The part size for an object of known size: base_bytes where that needs at most parts_max parts,
 * else the smallest whole MiB that does (to 48.8 TiB on S3). INVALID: the object is too large. */
S3D_MUST_USE enum s3d_code s3d_plan_known_part(const struct s3d_limits *limits,
                                               uint64_t base_bytes, uint64_t size_bytes,
                                               uint64_t *part_bytes, struct s3d_error *error);

/* The size of each of the ranges that length_bytes is read in: part_bytes, or less when that lets
 * `concurrency` connections share the work, but never under 1 MiB. */
uint64_t s3d_plan_range(uint64_t length_bytes, uint64_t part_bytes, unsigned concurrency);

/* INVALID, naming the limit, unless limits allow parts of part_bytes. */
S3D_MUST_USE enum s3d_code s3d_plan_check_part(const struct s3d_limits *limits,
                                               uint64_t part_bytes, struct s3d_error *error);

#endif
