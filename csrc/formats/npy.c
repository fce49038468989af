#include "formats/npy.h"

#include <string.h>

enum {
    VERSION_BYTES = 2,
    UTF8_MAX_BYTES = 4 /* of a character */
};

static enum s3d_code cut_short(const char *what, uint64_t expected, uint64_t got,
                               struct s3d_error *error)
{
    return s3d_fail(error, S3D_INVALID, "EOF: reading %s, expected %llu bytes got %llu", what,
                    (unsigned long long)expected, (unsigned long long)got);
}

static enum s3d_code need(uint64_t bytes, uint64_t *need_bytes, struct s3d_error *error)
{
    *need_bytes = bytes;
    return s3d_fail(error, S3D_AGAIN, "%llu bytes are needed", (unsigned long long)bytes);
}

static enum s3d_code read_version(struct s3d_npy *npy, const uint8_t *bytes,
                                  struct s3d_error *error)
{
    npy->major = bytes[S3D_NPY_MAGIC_BYTES];
    npy->minor = bytes[S3D_NPY_MAGIC_BYTES + 1];
    if (memcmp(bytes, S3D_NPY_MAGIC, S3D_NPY_MAGIC_BYTES) != 0) {
        return s3d_fail(error, S3D_INVALID, "the magic string is not correct: not a .npy file");
    }
    if (npy->major < 1 || npy->major > 3 || npy->minor != 0) {
        return s3d_fail(error, S3D_INVALID,
                        "we only support format version (1,0), (2,0), and (3,0), not (%u, %u)",
                        npy->major, npy->minor);
    }
    return S3D_OK;
}

static uint32_t read_length(const uint8_t *from, size_t bytes)
{
    uint32_t length = 0;
    while (bytes--) {
        length = length << 8 | from[bytes];
    }
    return length;
}

/* Bytes that the allowed characters can take. */
static uint64_t text_bytes_max(const struct s3d_npy *npy, uint64_t text_max)
{
    bool utf8 = npy->major == 3;
    return utf8 && text_max <= UINT64_MAX / UTF8_MAX_BYTES ? text_max * UTF8_MAX_BYTES
                                                           : text_max;
}

static enum s3d_code check_text(const struct s3d_npy *npy, uint64_t available_bytes,
                                uint64_t text_max, struct s3d_error *error)
{
    if (npy->text_bytes > text_bytes_max(npy, text_max)) {
        return s3d_fail(
            error, S3D_INVALID,
            "Header info length (%llu) is large and may not be safe to load securely. "
            "To allow loading, adjust `max_header_size` or fully trust the `.npy` "
            "file using `allow_pickle=True`",
            (unsigned long long)npy->text_bytes);
    }
    if (npy->text_bytes > available_bytes - npy->text_offset) {
        return cut_short("array header", npy->text_bytes, available_bytes - npy->text_offset,
                         error);
    }
    return S3D_OK;
}

enum s3d_code s3d_npy_prefix(struct s3d_npy *npy, const void *bytes, size_t length,
                             uint64_t available_bytes, uint64_t text_max, uint64_t *need_bytes,
                             struct s3d_error *error)
{
    const uint64_t start = S3D_NPY_MAGIC_BYTES + VERSION_BYTES;
    *npy = (struct s3d_npy){0};
    *need_bytes = 0;
    if (available_bytes < start) {
        return cut_short("magic string", start, available_bytes, error);
    }
    if (length < start) {
        return need(start, need_bytes, error);
    }
    enum s3d_code code = read_version(npy, bytes, error);
    if (code) {
        return code;
    }
    size_t width = npy->major == 1 ? 2 : 4;
    npy->text_offset = (size_t)start + width;
    if (available_bytes < npy->text_offset) {
        return cut_short("array header length", width, available_bytes - start, error);
    }
    if (length < npy->text_offset) {
        return need(npy->text_offset, need_bytes, error);
    }
    npy->text_bytes = read_length((const uint8_t *)bytes + start, width);
    npy->data_offset = npy->text_offset + npy->text_bytes;
    code = check_text(npy, available_bytes, text_max, error);
    if (code) {
        return code;
    }
    return length < npy->data_offset ? need(npy->data_offset, need_bytes, error) : S3D_OK;
}

enum s3d_code s3d_npy_bytes(const uint64_t *shape, size_t rank, uint64_t item_bytes,
                            uint64_t available_bytes, uint64_t *bytes, struct s3d_error *error)
{
    uint64_t product = item_bytes;
    bool empty = item_bytes == 0;
    for (size_t i = 0; i < rank; i++) {
        /* Over the dimensions that are not 0, as strides are computed. */
        uint64_t factor = shape[i] ? shape[i] : 1;
        empty = empty || !shape[i];
        if (__builtin_mul_overflow(product, factor, &product) || product > INT64_MAX) {
            return s3d_fail(error, S3D_INVALID,
                            "array is too big: its shape's product overflows");
        }
    }
    *bytes = empty ? 0 : product;
    if (*bytes > available_bytes) {
        return cut_short("array data", *bytes, available_bytes, error);
    }
    return S3D_OK;
}
