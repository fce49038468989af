/*
 * The stage between a writer and its put that compresses: bytes in, zstd frames out into parts.
 * Holds one block of compressed bytes and what zstd needs, whatever the object's size. No Python
 * object is touched; everything runs without the GIL, under the stream's lock.
 */
#ifndef S3D_BIND_COMPRESS_H
#define S3D_BIND_COMPRESS_H

#include "core/put.h"

struct bind_compress;

/* threads: the setting; 0: as many as there are cores. 8 at most. */
S3D_MUST_USE enum s3d_code bind_compress_new(struct bind_compress **compress, int level,
                                             unsigned threads, struct s3d_error *error);
/* As s3d_put_write. */
S3D_MUST_USE enum s3d_code bind_compress_write(struct bind_compress *compress,
                                               struct s3d_put *put, const void *data,
                                               size_t length, size_t *written,
                                               int64_t timeout_ms, struct s3d_error *error);
/* Sends what is held back, and the table of frames. Again does nothing. */
S3D_MUST_USE enum s3d_code bind_compress_finish(struct bind_compress *compress,
                                                struct s3d_put *put, int64_t timeout_ms,
                                                struct s3d_error *error);
/* Joins zstd's threads; not in a forked child, which has none. NULL is allowed. */
void bind_compress_free(struct bind_compress *compress);

#endif
