/*
 * Reads a zip's directory, local headers and descriptors from bytes that nobody vouches for.
 *
 *   s3d_zip_open             the object's size and its last bytes: the directory, or how much
 *                            more of the object's end it takes
 *   s3d_zip_find             an entry by name
 *   s3d_zip_predict          where a torch record's payload lies, without fetching its header
 *   s3d_zip_local            the same from the header, which is held against the entry
 *   s3d_zip_check_descriptor what follows the payload, held against the entry
 *
 * Refused with INVALID ("not a zip archive: ..." and the like): what contradicts itself or the
 * object's size, entries that overlap or reach into the directory, several disks, encryption, a
 * name that is empty or holds a NUL. Nothing is allocated before its size has been held against
 * the bytes that are there; after all checks every `header_offset + ... + compressed_bytes` is
 * known to lie within the object. NO_MEMORY otherwise.
 *
 * As in Python's zipfile: bytes before the archive are allowed (prefix_bytes; offsets here
 * count from the object's start), of several end records the one nearest the end whose comment
 * ends with the object counts, and of several entries with one name the last is found
 * (duplicates says how many others there are; torch never writes any). Stricter than zipfile:
 * the zip64 end, the locator and the end record must follow the directory and one another
 * without a gap.
 *
 * A directory is frozen once open: any thread may read it.
 */
#ifndef S3D_FORMATS_ZIP_READ_H
#define S3D_FORMATS_ZIP_READ_H

#include "core/error.h"

/* The end records with the longest comment: a first fetch of so many bytes finds them for
 * sure. */
#define S3D_ZIP_TAIL_BYTES (22 + 65535 + 20 + 56)
/* A ceiling on the directory: some 10 million records. */
#define S3D_ZIP_DIRECTORY_MAX (UINT64_C(1) << 30)

enum {
    S3D_ZIP_STORED = 0,
    S3D_ZIP_DEFLATED = 8,
    S3D_ZIP_LOCAL_MAX = 30 + 2 * 65535, /* bytes of a local header with name and extra */
    S3D_ZIP_TRAILER_MAX = 24            /* of a descriptor */
};

struct s3d_zip_entry {
    const char *name; /* terminated, owned by the directory; normally UTF-8 */
    uint64_t header_offset;
    uint64_t compressed_bytes;
    uint64_t size_bytes; /* equal to compressed_bytes when stored */
    uint64_t end_offset; /* the next entry's header or the directory: ours ends before */
    uint32_t crc;
    uint16_t name_length;
    uint16_t flags;
    uint16_t method; /* any: S3D_ZIP_STORED, S3D_ZIP_DEFLATED, ... */
};

/* Caller's storage, filled by s3d_zip_open. */
struct s3d_zip {
    struct s3d_zip_entry *entries; /* in the directory's order */
    uint32_t *by_offset;           /* indices in the order of the payloads */
    uint32_t count;
    uint32_t duplicates;
    uint64_t prefix_bytes;
    uint64_t directory_offset;
    uint64_t object_bytes;
    char *names;     /* private */
    uint32_t *table; /* private */
    size_t table_size;
};

/*
 * Reads the directory of an object of object_bytes, given its last tail_bytes. AGAIN: more is
 * needed; call again with the object from *need_offset to its end (it is before what was given,
 * so this ends; at most S3D_ZIP_DIRECTORY_MAX + S3D_ZIP_TAIL_BYTES). Keeps no pointer to
 * `tail`. Fit for s3d_zip_close whatever the result.
 */
S3D_MUST_USE enum s3d_code s3d_zip_open(struct s3d_zip *zip, uint64_t object_bytes,
                                        const void *tail, size_t tail_bytes,
                                        uint64_t *need_offset, struct s3d_error *error);
void s3d_zip_close(struct s3d_zip *zip);

/* NULL when there is none. */
const struct s3d_zip_entry *s3d_zip_find(const struct s3d_zip *zip, const char *name,
                                         size_t length);

/* What a local header says that the directory does not. */
struct s3d_zip_local {
    size_t header_bytes; /* with name and extra: the payload follows */
    uint64_t data_offset;
    uint32_t descriptor_bytes; /* 0, or what a writer that heeds the standard appends */
};

/*
 * Reads the local header from the `length` bytes at entry->header_offset. AGAIN: it takes
 * *need_bytes (at most S3D_ZIP_LOCAL_MAX; the first 30 tell). INVALID: it contradicts the
 * entry, or the payload would reach past entry->end_offset.
 */
S3D_MUST_USE enum s3d_code s3d_zip_local(const struct s3d_zip_entry *entry, const void *bytes,
                                         size_t length, struct s3d_zip_local *local,
                                         size_t *need_bytes, struct s3d_error *error);

/*
 * The place of a stored record's payload if torch laid it out with this alignment. True only
 * when the record so placed, its descriptor included, ends exactly where the next one begins:
 * then a loader may fetch payloads alone, else it must read headers. (An archive made to
 * mislead could pass; s3d_zip_check_predicted tells, and so does the CRC.)
 */
bool s3d_zip_predict(const struct s3d_zip_entry *entry, uint64_t alignment,
                     struct s3d_zip_local *local);

/* Whether the local header in `bytes` agrees with the prediction: INVALID if not; a header
 * that is not whole in `bytes` is INVALID as well. */
S3D_MUST_USE enum s3d_code s3d_zip_check_predicted(const struct s3d_zip_entry *entry,
                                                   const struct s3d_zip_local *predicted,
                                                   const void *bytes, size_t length,
                                                   struct s3d_error *error);

/*
 * Holds the descriptor behind the payload against the entry: CRC and both sizes. `bytes` are
 * those that follow the payload, as many as there are up to S3D_ZIP_TRAILER_MAX and
 * entry->end_offset. Either width is taken, with and without the signature. *bytes_used is 0
 * where the entry's flags promise none.
 */
S3D_MUST_USE enum s3d_code s3d_zip_check_descriptor(const struct s3d_zip_entry *entry,
                                                    const void *bytes, size_t length,
                                                    size_t *bytes_used,
                                                    struct s3d_error *error);

#endif
