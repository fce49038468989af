/*
 * Zstandard streams (RFC 8878), written so that they can be entered in the middle. The only user of
 * libzstd.
 *
 *   frame | frame | ... | table
 *
 * A frame holds 32 MiB of content (more in objects of many GiB) and its checksum. The table is a
 * skippable frame after zstd's contrib/seekable_format, little-endian:
 *
 *   184D2A5E | u32 rest bytes | { u32 stored bytes, u32 content bytes } per frame |
 *   u32 frames | u8 0 | 8F92EAB1
 *
 * Any zstd tool reads such a stream; this decoder reads any zstd stream.
 */
#ifndef S3D_FORMATS_ZSTD_H
#define S3D_FORMATS_ZSTD_H

#include "core/error.h"

/* One step: what may be taken and where it may go; what was taken and given. */
struct s3d_zstd_flow {
    const char *from;
    size_t from_bytes, taken;
    char *to;
    size_t to_bytes, given;
};

/* --- compressing -------------------------------------------------------------------------- */

enum { S3D_ZSTD_LEVEL_MIN = 1, S3D_ZSTD_LEVEL_MAX = 19, S3D_ZSTD_LEVEL_DEFAULT = 3 };

struct s3d_zstd_encoder;

/* `threads` of zstd's own do the work, signals blocked in them; each takes about 4 MiB and what the
 * level needs. Not usable, nor to be freed, in a forked child. */
S3D_MUST_USE enum s3d_code s3d_zstd_encoder_new(struct s3d_zstd_encoder **encoder, int level,
                                                unsigned threads, struct s3d_error *error);
/* Appends what flow->from holds. `end`: this is the last of it; to be called until *ended. */
S3D_MUST_USE enum s3d_code s3d_zstd_encode(struct s3d_zstd_encoder *encoder,
                                           struct s3d_zstd_flow *flow, bool end, bool *ended,
                                           struct s3d_error *error);
void s3d_zstd_encoder_free(struct s3d_zstd_encoder *encoder); /* NULL is allowed */

/* --- decompressing ------------------------------------------------------------------------ */

struct s3d_zstd_decoder;

S3D_MUST_USE enum s3d_code s3d_zstd_decoder_new(struct s3d_zstd_decoder **decoder,
                                                struct s3d_error *error);
/* Begins anew with a frame. */
void s3d_zstd_decoder_reset(struct s3d_zstd_decoder *decoder);
/* *frame_ended: flow->from was left behind a frame, and all of it has been given. INTEGRITY:
 * damaged. */
S3D_MUST_USE enum s3d_code s3d_zstd_decode(struct s3d_zstd_decoder *decoder,
                                           struct s3d_zstd_flow *flow, bool *frame_ended,
                                           struct s3d_error *error);
void s3d_zstd_decoder_free(struct s3d_zstd_decoder *decoder); /* NULL is allowed */

/* Whether these first four bytes of an object begin a frame. */
bool s3d_zstd_is_frame(const unsigned char start[4]);

/* --- the table ---------------------------------------------------------------------------- */

enum { S3D_ZSTD_FOOTER_BYTES = 9 };

/* Frame i lies at [stored[i], stored[i + 1]) and holds [content[i], content[i + 1]). */
struct s3d_zstd_table {
    size_t count;
    uint64_t *stored, *content; /* count + 1 of each; owned */
};

/* The size of the table that an object of object_bytes ends with, told from its last 9 bytes; 0: it
 * ends with none. */
uint64_t s3d_zstd_table_bytes(const unsigned char footer[S3D_ZSTD_FOOTER_BYTES],
                              uint64_t object_bytes);
/* The table from its s3d_zstd_table_bytes. INTEGRITY when it does not fit the object. */
S3D_MUST_USE enum s3d_code s3d_zstd_table_read(struct s3d_zstd_table *table,
                                               const unsigned char *data, uint64_t bytes,
                                               uint64_t object_bytes, struct s3d_error *error);
void s3d_zstd_table_fini(struct s3d_zstd_table *table);

#endif
