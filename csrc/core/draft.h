/*
 * A part of an upload while it is put together and sent: spans over copied bytes, which lie in the
 * draft's own chunks, and over memory that somebody else keeps alive. Once sent, a draft is
 * emptied and used again, so its arrays are allocated once.
 */
#ifndef S3D_CORE_DRAFT_H
#define S3D_CORE_DRAFT_H

#include "core/request.h"

/* A piece of budget memory that bytes are copied into. */
struct s3d_chunk {
    char *data;
    size_t size_bytes;
};

struct s3d_draft {
    struct s3d_span *spans;
    size_t span_count, span_capacity;
    struct s3d_chunk *chunks;
    size_t chunk_count, chunk_capacity;
    size_t chunk_used_bytes; /* of the last chunk */
    uint64_t bytes;          /* in all spans */
    uint64_t referred_bytes; /* of them, in memory that is not the draft's own */
};

/* Appends memory that stays valid until the part is sent. */
S3D_MUST_USE enum s3d_code s3d_draft_refer(struct s3d_draft *draft, const void *data,
                                           size_t length, struct s3d_error *error);
/* How many bytes the last chunk can still take. */
size_t s3d_draft_room(const struct s3d_draft *draft);
/* Copies length <= s3d_draft_room bytes. */
S3D_MUST_USE enum s3d_code s3d_draft_copy(struct s3d_draft *draft, const void *data,
                                          size_t length, struct s3d_error *error);
/* Gives the draft a chunk, which it hands back through s3d_draft_take_chunk. */
S3D_MUST_USE enum s3d_code s3d_draft_add_chunk(struct s3d_draft *draft, struct s3d_chunk chunk,
                                               struct s3d_error *error);
/* How many bytes the chunks have room for in all, used or not. */
uint64_t s3d_draft_chunk_bytes(const struct s3d_draft *draft);
/* Takes a chunk out again; false when there is none left. */
bool s3d_draft_take_chunk(struct s3d_draft *draft, struct s3d_chunk *chunk);
/* Moves all bytes into `copy`, which is empty but for one chunk with room for them: afterwards the
 * draft refers to no memory but that chunk's, and `copy` is to be rid of the chunks from before. */
S3D_MUST_USE enum s3d_code s3d_draft_own(struct s3d_draft *draft, struct s3d_draft *copy,
                                         struct s3d_error *error);
/* Forgets the bytes; all chunks must have been taken out. */
void s3d_draft_clear(struct s3d_draft *draft);
void s3d_draft_swap(struct s3d_draft *a, struct s3d_draft *b);
void s3d_draft_fini(struct s3d_draft *draft); /* the arrays; not the chunks */

#endif
