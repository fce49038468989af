/*
 * The arithmetic of torch's serialization id. Private to formats/zip_*.c.
 */
#ifndef S3D_FORMATS_ZIP_ID_H
#define S3D_FORMATS_ZIP_ID_H

#include "core/error.h"

/* c10::hash_combine. */
uint64_t s3d_zip_id_combine(uint64_t seed, uint64_t value);

/* The names' hashes (in writing order) combined in the order of a libstdc++ unordered_set
 * that got them one by one. */
S3D_MUST_USE enum s3d_code s3d_zip_id_names(const uint64_t *hashes, size_t count, uint64_t *out,
                                            struct s3d_error *error);

#endif
