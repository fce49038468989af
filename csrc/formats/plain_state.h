/* Of plain_pickle.c and plain_call.c: the scan under way. Not for anybody else. */
#ifndef S3D_FORMATS_PLAIN_STATE_H
#define S3D_FORMATS_PLAIN_STATE_H

#include "formats/plain_pickle.h"

#define PLAIN_NOTHING UINT32_MAX /* no step */

enum { PLAIN_DEPTH_MAX = 64 }; /* of tuples in tuples: hashing one recurses */

enum plain_function {
    PLAIN_ORDERED_DICT,
    PLAIN_TENSOR_V2,
    PLAIN_TENSOR_V3,
    PLAIN_PARAMETER,
    PLAIN_SIZE,
    PLAIN_DEVICE,
    PLAIN_ENCODE,
    PLAIN_SET,
    PLAIN_BYTEARRAY,
    PLAIN_COMPLEX,
    PLAIN_UNTYPED_STORAGE,
    PLAIN_TYPED_STORAGE /* + its dtype: the last */
};

struct plain_scan {
    const unsigned char *at, *end;
    struct s3d_plain *plain;
    struct s3d_error *error;
    bool any_location;
    uint32_t *stack;           /* steps */
    size_t stack_count, floor; /* what lies below the floor is behind a mark */
    uint32_t *floors;          /* of the marks below */
    size_t mark_count;
    uint32_t *memo; /* by number, up to memo_count */
    size_t memo_count;
    uint32_t *keys; /* a storage's number by its key, up to key_count */
    size_t key_count;
    size_t step_room, operand_room, storage_room, tensor_room, extent_room;
    size_t stack_room, mark_room, memo_room, key_room;
};

/* UNSUPPORTED, with the reason and the place. */
enum s3d_code plain_refuse(const struct plain_scan *scan, const char *why);

S3D_MUST_USE enum s3d_code plain_enlarge(const struct plain_scan *scan, void **items,
                                         size_t count, size_t more, size_t bytes, size_t *room);

/* Room for `more` items of `bytes` each behind `count`; what is there stays. */
S3D_MUST_USE static inline enum s3d_code plain_grow(const struct plain_scan *scan, void **items,
                                                    size_t count, size_t more, size_t bytes,
                                                    size_t *room)
{
    return more <= *room - count ? S3D_OK
                                 : plain_enlarge(scan, items, count, more, bytes, room);
}

/* Pushes a new step; all but its kind is zero, for the caller to fill in until the next one. */
S3D_MUST_USE enum s3d_code plain_push(struct plain_scan *scan, enum s3d_plain_kind kind,
                                      struct s3d_plain_step **step);

/* The same for a value that is all in its kind, or an empty container. */
S3D_MUST_USE enum s3d_code plain_push_kind(struct plain_scan *scan, enum s3d_plain_kind kind);

/* The step on the stack, `below` under its top; NULL: behind a mark, or there is none. */
struct s3d_plain_step *plain_peek(const struct plain_scan *scan, size_t below);

/* Fills an array that is addressed by numbers from the pickle with PLAIN_NOTHING up to `number`,
 * which must be less than the pickle's length. */
S3D_MUST_USE enum s3d_code plain_reach(const struct plain_scan *scan, uint32_t **items,
                                       size_t *count, size_t *room, uint64_t number);

/* REDUCE, BINPERSID and GLOBAL (both names end where the pickle says, without their newline). */
S3D_MUST_USE enum s3d_code plain_reduce(struct plain_scan *scan);
S3D_MUST_USE enum s3d_code plain_persistent(struct plain_scan *scan);
S3D_MUST_USE enum s3d_code plain_global(struct plain_scan *scan, const char *module,
                                        size_t module_length, const char *name,
                                        size_t name_length);

#endif
