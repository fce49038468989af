/*
 * Reads one object at any offset: small reads from cached blocks with parallel read-ahead, large
 * reads by parallel ranges straight into the caller's memory.
 *
 * Opening is one request: the object's last 256 KiB, which also tells size and ETag. Zip
 * directories and small objects thus cost no further request. Later requests carry If-Match, so
 * an object replaced in between is CHANGED, never a mixture.
 *
 * Blocks live in budget buffers, at most concurrency + 1 of them. Sequential reading widens the
 * read-ahead from 256 KiB up to all blocks; a jump starts small again. From a far store (core/pace.h)
 * long reads in sequence go by blocks, too, so that the next ones are under way meanwhile. Blocks
 * and direct ranges together are at most `concurrency` requests at once.
 *
 * Where the store's settings ask for checks, bytes that are read in order from the first to the last
 * are compared with the object's checksum: the read of the last byte fails when they differ. Other
 * reads in between do not matter. A small object, which the opening brings, is checked at once.
 *
 * Threads: one caller at a time (the binding holds the stream's lock).
 */
#ifndef S3D_CORE_READER_H
#define S3D_CORE_READER_H

#include "core/get.h"

struct s3d_reader;

struct s3d_reader_plan {
    const char *key; /* copied */
    uint64_t part_bytes;
    uint64_t part_max_bytes; /* as long a range may be when the store is far; 0: part_bytes */
    unsigned concurrency;
    bool unchecked; /* the caller compares the object's checksum itself */
};

/* Sends the opening request. Holds a reference to the store. */
S3D_MUST_USE enum s3d_code s3d_reader_new(struct s3d_reader **reader, struct s3d_store *store,
                                          const struct s3d_reader_plan *plan,
                                          struct s3d_error *error);
/* OK once the object is open: size and ETag are known. AGAIN, or why not. */
S3D_MUST_USE enum s3d_code s3d_reader_wait_open(struct s3d_reader *reader, int64_t timeout_ms,
                                                struct s3d_error *error);
const struct s3d_object *s3d_reader_object(const struct s3d_reader *reader);
/* How long the store took to begin its answer to the opening; 0: not known. */
int64_t s3d_reader_latency_us(const struct s3d_reader *reader);

/* How many bytes at offset are in memory already, ready for a read that will not wait. */
size_t s3d_reader_buffered(struct s3d_reader *reader, uint64_t offset_bytes);

/*
 * Copies [offset, offset + length), cut at the end of the object, to `data`. *got counts across
 * AGAINs (0 at first): call again with the same arguments until OK, or an error, or
 * s3d_reader_cancel before the memory goes away.
 */
S3D_MUST_USE enum s3d_code s3d_reader_read(struct s3d_reader *reader, uint64_t offset_bytes,
                                           void *data, size_t length, size_t *got,
                                           int64_t timeout_ms, struct s3d_error *error);
/* Starts a get of this object, of the same version: key, part size, concurrency and if_match of
 * `wanted` are the reader's. It is the caller's, and independent of reads; the reader must be
 * open. */
S3D_MUST_USE enum s3d_code s3d_reader_fetch(struct s3d_get **get, struct s3d_reader *reader,
                                            const struct s3d_get_plan *wanted,
                                            struct s3d_error *error);
/* Drops a read that returned AGAIN: afterwards nothing writes into its data. */
void s3d_reader_cancel(struct s3d_reader *reader);
/* Cancels and joins. NULL is allowed. */
void s3d_reader_free(struct s3d_reader *reader);

#endif
