/*
 * Reads ranges of one object into the caller's memory, in parallel requests.
 *
 * What is wanted is a list of segments: where in the object, how long, where to. Neighbouring
 * segments share requests, and long ones are cut into many, so that both one large array and ten
 * thousand small records take a few requests of about part_bytes each, or longer ones where the
 * store is far (core/pace.h). Every byte is placed by its absolute offset; all requests must see
 * one version of the object (If-Match, or else equal ETags), otherwise CHANGED. A segment can be
 * waited for while later ones still arrive.
 */
#ifndef S3D_CORE_GET_H
#define S3D_CORE_GET_H

#include "core/check.h"
#include "core/store.h"

struct s3d_get;

struct s3d_segment {
    uint64_t offset_bytes; /* in the object */
    uint64_t length_bytes;
    char *data; /* length_bytes; the caller's until the get is freed */
};

static inline uint64_t s3d_segment_end(const struct s3d_segment *segment)
{
    return segment->offset_bytes + segment->length_bytes;
}

/*
 * Told of each piece of a segment that has arrived: [offset, offset + length) within the segment.
 * Runs on I/O threads, for different pieces at once, without locks. Anything but OK fails the get.
 */
typedef enum s3d_code s3d_get_piece(void *context, size_t segment, uint64_t offset_bytes,
                                    const char *data, uint64_t length_bytes,
                                    struct s3d_error *error);

struct s3d_get_plan {
    const char *key;                    /* copied */
    const struct s3d_segment *segments; /* copied; ascending, not overlapping; all must exist */
    size_t segment_count;
    uint64_t part_bytes;
    uint64_t part_max_bytes; /* as long a range may be when the store is far; 0: part_bytes */
    unsigned concurrency;    /* requests in flight at once */
    int64_t latency_us;      /* the store's wait before an answer, where it is known; 0: not */
    bool fresh; /* all data lies in pages of s3d_pages_alloc that nobody has touched yet */
    const char *if_match; /* copied; NULL: whatever version answers first */
    s3d_get_piece *piece; /* NULL: nobody wants to know */
    void *context;        /* for piece */
    /* Nullable; the get takes a reference of its own. What it reads from check_from_bytes on, without
     * gaps to the last segment's end, is added to the check. */
    struct s3d_check *check;
    uint64_t check_from_bytes;
    bool is_all_if_whole; /* the check counts only if the object ends with the last segment */
    bool ends_check;      /* the wait that finds all segments there ends the check as well */
};

/* Starts it. Holds a reference to the store. */
S3D_MUST_USE enum s3d_code s3d_get_new(struct s3d_get **get, struct s3d_store *store,
                                       const struct s3d_get_plan *plan,
                                       struct s3d_error *error);
/* OK when segments [first, first + count) are there, AGAIN after timeout_ms, or the first error. */
S3D_MUST_USE enum s3d_code s3d_get_wait(struct s3d_get *get, size_t first, size_t count,
                                        int64_t timeout_ms, struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_get_wait_all(struct s3d_get *get, int64_t timeout_ms,
                                            struct s3d_error *error);
/* How many requests it keeps in flight at most. */
size_t s3d_get_requests(const struct s3d_get *get);
/* After an OK: the version that is read. Valid until the get is freed. */
const struct s3d_object *s3d_get_object(const struct s3d_get *get);
/* Cancels and joins what still runs: afterwards nothing writes into any segment. NULL is allowed. */
void s3d_get_free(struct s3d_get *get);

#endif
