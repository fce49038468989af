/*
 * The stage between a reader and its object that decompresses zstd frames.
 *
 * Reading on is free; reading back by more than the window, or far ahead, begins anew with a
 * frame: the nearest one where the object ends with a table of frames (formats/zstd.h), else the
 * first one. Without that table the size is known when the end has been reached.
 *
 * Holds a window of 1 MiB, 256 KiB of stored bytes and what zstd needs. No Python object is touched;
 * everything runs without the GIL, under the stream's lock.
 */
#ifndef S3D_BIND_INFLATE_H
#define S3D_BIND_INFLATE_H

#include "core/reader.h"

struct bind_inflate;

/* `reader`: open, borrowed. Reads nothing yet. */
S3D_MUST_USE enum s3d_code bind_inflate_new(struct bind_inflate **inflate,
                                            struct s3d_reader *reader, struct s3d_error *error);
/* Looks at both ends of the object. INTEGRITY: it holds no zstd frame, or a table that does not
 * fit. To be called until it is not AGAIN. */
S3D_MUST_USE enum s3d_code bind_inflate_open(struct bind_inflate *inflate, int64_t timeout_ms,
                                             struct s3d_error *error);
/* Content bytes of the object; false: not known yet. */
bool bind_inflate_size(const struct bind_inflate *inflate, uint64_t *size_bytes);
/* As s3d_reader_buffered and s3d_reader_read, in content bytes; got less than asked: the end. */
size_t bind_inflate_buffered(const struct bind_inflate *inflate, uint64_t offset_bytes);
S3D_MUST_USE enum s3d_code bind_inflate_read(struct bind_inflate *inflate,
                                             uint64_t offset_bytes, void *data, size_t length,
                                             size_t *got, int64_t timeout_ms,
                                             struct s3d_error *error);
/* After s3d_reader_cancel: what was on its way is read anew. */
void bind_inflate_cancel(struct bind_inflate *inflate);
void bind_inflate_free(struct bind_inflate *inflate); /* NULL is allowed */

/* Whether Content-Encoding says zstd, and nothing else that matters. */
bool bind_inflate_is_wanted(const char *content_encoding);

#endif
