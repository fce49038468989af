/*
 * The checksums that the backends send, store and compare: the CRCs of formats/, in the shape in which
 * core knows them (core/sum.h), their values in base64 as S3 writes them. Pure functions, any thread.
 */
#ifndef S3D_BACKENDS_SUMS_H
#define S3D_BACKENDS_SUMS_H

#include "core/request.h"

/* All kinds, the best first. */
extern const struct s3d_sum_kind *const s3d_sum_kinds[S3D_SUM_KINDS];

/* NULL for DEFAULT and NONE. */
const struct s3d_sum_kind *s3d_sum_kind(enum s3d_checksum checksum);
/* Of the first `length_bytes` of the request's spans in order. */
uint64_t s3d_sum_spans(const struct s3d_sum_kind *kind, const struct s3d_request *request,
                       uint64_t length_bytes);
/* Of the object that the request's parts make up, from their checksums. */
uint64_t s3d_sum_parts(const struct s3d_sum_kind *kind, const struct s3d_request *request);

#endif
