/*
 * Raw deflate (RFC 1951) as zip members hold it, bit by bit: input in pieces of any size, output
 * into the caller's memory in pieces of any size, so that neither is ever whole in memory. ISA-L's
 * decoder; some 100 KiB of state each.
 *
 * The input is not trusted: what is no deflate data is INTEGRITY. Whether the output is what was
 * meant, its CRC tells; that and its length are the caller's to check.
 */
#ifndef S3D_FORMATS_INFLATE_H
#define S3D_FORMATS_INFLATE_H

#include "core/error.h"

/* Deflate cannot make more than this many bytes of one. */
#define S3D_INFLATE_RATIO_MAX UINT64_C(1032)

struct s3d_inflate;

S3D_MUST_USE enum s3d_code s3d_inflate_new(struct s3d_inflate **inflate,
                                           struct s3d_error *error);
void s3d_inflate_free(struct s3d_inflate *inflate); /* NULL is allowed */

/*
 * Consumes up to in_bytes and produces up to out_bytes; *consumed and *produced say how much. Ends
 * when the one is used up or the other full, or at the end of the data (s3d_inflate_ended). After a
 * failure `out` holds anything, and only s3d_inflate_free may follow.
 */
S3D_MUST_USE enum s3d_code s3d_inflate_run(struct s3d_inflate *inflate, const void *in,
                                           size_t in_bytes, void *out, size_t out_bytes,
                                           size_t *consumed, size_t *produced,
                                           struct s3d_error *error);
bool s3d_inflate_ended(const struct s3d_inflate *inflate);

#endif
