/*
 * Reads the header of a safetensors file from bytes that nobody vouches for.
 *
 *   0          8              8 + header_bytes                    object_bytes
 *   | u64 LE   | JSON, spaces | the tensors' bytes, back to back  |
 *
 *   {"__metadata__": {"key": "text", ...},
 *    "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
 *
 *   s3d_safetensors_header_bytes   how long the header is, held against the object's size
 *   s3d_safetensors_parse          what it says
 *
 * The format: https://github.com/huggingface/safetensors (README, "Format"). Refused with INVALID
 * is all that the reference implementation refuses: a header beyond 100,000,000 bytes or the
 * object, broken JSON or UTF-8, unknown dtypes, shapes whose size overflows or is not that of the
 * data, holes, overlaps, data that no tensor covers. Stricter than the reference: a name or key
 * that comes twice, members that the format does not know, and arrays or null where it has
 * objects or text. Values nest three deep at most, by the grammar: nothing recurses.
 *
 * What is allocated grows with the bytes that are there, not with numbers in them. NO_MEMORY
 * otherwise. A header is frozen once parsed: any thread may read it.
 */
#ifndef S3D_FORMATS_SAFETENSORS_H
#define S3D_FORMATS_SAFETENSORS_H

#include "core/error.h"

#define S3D_SAFETENSORS_HEADER_MAX UINT64_C(100000000) /* the reference's own ceiling */

enum { S3D_SAFETENSORS_LENGTH_BYTES = 8 };

/* X(name, bits of an element) */
#define S3D_SAFETENSORS_DTYPES(X)                                                              \
    X(BOOL, 8)                                                                                 \
    X(F4, 4)                                                                                   \
    X(F6_E2M3, 6)                                                                              \
    X(F6_E3M2, 6)                                                                              \
    X(U8, 8)                                                                                   \
    X(I8, 8)                                                                                   \
    X(F8_E5M2, 8)                                                                              \
    X(F8_E4M3, 8)                                                                              \
    X(F8_E8M0, 8)                                                                              \
    X(F8_E4M3FNUZ, 8)                                                                          \
    X(F8_E5M2FNUZ, 8)                                                                          \
    X(I16, 16)                                                                                 \
    X(U16, 16)                                                                                 \
    X(F16, 16)                                                                                 \
    X(BF16, 16)                                                                                \
    X(I32, 32)                                                                                 \
    X(U32, 32)                                                                                 \
    X(F32, 32)                                                                                 \
    X(C64, 64)                                                                                 \
    X(F64, 64)                                                                                 \
    X(I64, 64)                                                                                 \
    X(U64, 64)

enum s3d_safetensors_dtype {
#define X(name, bits) S3D_SAFETENSORS_##name,
    S3D_SAFETENSORS_DTYPES(X)
#undef X
        S3D_SAFETENSORS_DTYPE_COUNT
};

/* UTF-8, terminated as well; it may hold NULs. Owned by the header. */
struct s3d_safetensors_text {
    const char *data;
    size_t length;
};

struct s3d_safetensor {
    struct s3d_safetensors_text name;
    enum s3d_safetensors_dtype dtype;
    const uint64_t *shape;
    size_t rank;
    uint64_t begin, end; /* in the data section, bytes */
    size_t first_dim;    /* private */
};

struct s3d_safetensors_pair {
    struct s3d_safetensors_text key, value;
};

/* Caller's storage, filled by s3d_safetensors_parse. */
struct s3d_safetensors {
    struct s3d_safetensor *tensors; /* in the order of their bytes */
    size_t count;
    struct s3d_safetensors_pair *metadata; /* in the header's order */
    size_t metadata_count;
    char *texts;    /* private */
    uint64_t *dims; /* private */
};

/* "F32" and the like. */
const char *s3d_safetensors_dtype_name(enum s3d_safetensors_dtype dtype);
/* Bits of one element: 4 and 6 for the sub-byte kinds. */
unsigned s3d_safetensors_dtype_bits(enum s3d_safetensors_dtype dtype);

/* From an object's first bytes (as many as there are, up to 8) and its size. */
S3D_MUST_USE enum s3d_code s3d_safetensors_header_bytes(const void *bytes,
                                                        uint64_t object_bytes,
                                                        uint64_t *header_bytes,
                                                        struct s3d_error *error);

/*
 * Parses the `length` bytes after the first 8; data_bytes follow them in the object. Keeps no
 * pointer to `header`. Fit for s3d_safetensors_close whatever the result.
 */
S3D_MUST_USE enum s3d_code s3d_safetensors_parse(struct s3d_safetensors *file,
                                                 const char *header, size_t length,
                                                 uint64_t data_bytes, struct s3d_error *error);
void s3d_safetensors_close(struct s3d_safetensors *file);

#endif
