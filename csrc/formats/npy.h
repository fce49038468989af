/*
 * The first bytes of a .npy file, from bytes that nobody vouches for.
 *
 *   0            6       8                      10 or 12                data_offset
 *   | \x93NUMPY  | 1 0   | header length LE     | dict as text, spaces  | elements
 *                  2 0     (2 bytes in 1.0, else 4)
 *                  3 0     (text is UTF-8 in 3.0, else Latin-1)
 *
 *   s3d_npy_prefix   where the text lies, held against the bytes that there are and a ceiling
 *   s3d_npy_bytes    how long the elements are, held against the bytes behind the text
 *
 * The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The text itself
 * is NumPy's business (numpy.lib.format). All of it is settled before anything of that size is read
 * or allocated. Errors are INVALID, in NumPy's own words where it has any.
 */
#ifndef S3D_FORMATS_NPY_H
#define S3D_FORMATS_NPY_H

#include "core/error.h"

enum {
    S3D_NPY_MAGIC_BYTES = 6,
    S3D_NPY_PREFIX_MAX = 12 /* before the text */
};
#define S3D_NPY_MAGIC "\x93NUMPY"

struct s3d_npy {
    unsigned major, minor;
    size_t text_offset;
    uint64_t text_bytes;
    uint64_t data_offset;
};

/*
 * From the first `length` bytes of available_bytes. text_max: characters that the text may have.
 * AGAIN: it takes *need_bytes of them (more than length; never more than available_bytes) to say,
 * or to have the text whole; *npy is filled once they suffice for the prefix.
 */
S3D_MUST_USE enum s3d_code s3d_npy_prefix(struct s3d_npy *npy, const void *bytes, size_t length,
                                          uint64_t available_bytes, uint64_t text_max,
                                          uint64_t *need_bytes, struct s3d_error *error);

/* The size of an array, which must not pass available_bytes. A shape that overflows while another
 * dimension is 0 is refused as well. */
S3D_MUST_USE enum s3d_code s3d_npy_bytes(const uint64_t *shape, size_t rank,
                                         uint64_t item_bytes, uint64_t available_bytes,
                                         uint64_t *bytes, struct s3d_error *error);

#endif
