/*
 * Writes the zip around a torch archive's records, byte for byte as torch 2.13's
 * PyTorchStreamWriter (caffe2/serialize/inline_container.cc over miniz 3.0.2) does: stored
 * records, "FB" padding, trailing descriptors, zip64 end records always.
 *
 *   s3d_zip_add        per record: local header and padding; the record's place and length
 *   (the payload)      `size` bytes at data_offset: the caller's
 *   s3d_zip_set_crc    once its CRC is known: the descriptor that follows the payload
 *   s3d_zip_finish     the directory and the end records
 *
 * Places need sizes only, so that all records can be added before the first payload byte is
 * read, and CRCs may come in any order. Lengths and offsets are bytes from the archive's start.
 * Output is appended to the caller's s3d_str; what fails appends nothing of use and leaves the
 * writer as it was, and the call may be repeated. Errors: INVALID (a name, a size, or an
 * archive beyond the format), EXISTS (a name given twice), CLOSED (after s3d_zip_finish),
 * NO_MEMORY. A writer is used by one thread at a time; s3d_zip_descriptor needs none.
 */
#ifndef S3D_FORMATS_ZIP_WRITE_H
#define S3D_FORMATS_ZIP_WRITE_H

#include "core/str.h"

enum {
    S3D_ZIP_DESCRIPTOR_MAX = 24,
    S3D_ZIP_ID_DIGITS = 40,
    S3D_ZIP_ALIGNMENT = 64 /* torch's default */
};
#define S3D_ZIP_ID_NAME ".data/serialization_id"

/* Where a record lies. */
struct s3d_zip_record {
    uint32_t index;            /* 0 for the first record */
    uint32_t descriptor_bytes; /* 0 (size 0), 16 or 24 */
    uint64_t header_offset;
    uint64_t data_offset;
    uint64_t size_bytes;
    uint64_t end_offset; /* data_offset + size_bytes + descriptor_bytes: the next header */
};

/* Caller's storage; every field private. */
struct s3d_zip_writer {
    size_t prefix_length; /* "archive/" */
    uint64_t alignment;
    uint64_t offset;
    uint64_t directory_bytes;
    char *names; /* the full names, one after the other, each terminated */
    size_t names_length, names_capacity;
    struct s3d_zip_item *items;
    size_t count, capacity;
    uint32_t *table; /* open addressing: index + 1, 0 is free */
    size_t table_size;
    bool finished;
};

/*
 * archive_name: "archive" for buffers, the file's base name without its last suffix for paths.
 * alignment: of payloads, config.save.storage_alignment. The writer is fit for
 * s3d_zip_writer_fini whatever the result.
 */
S3D_MUST_USE enum s3d_code s3d_zip_writer_init(struct s3d_zip_writer *writer,
                                               const char *archive_name, uint64_t alignment,
                                               struct s3d_error *error);
void s3d_zip_writer_fini(struct s3d_zip_writer *writer);

/*
 * Adds a record; `name` is UTF-8 without the archive's name. The header to write at
 * record->header_offset, up to data_offset, is appended to `header`. A name that ends in '/' is
 * a folder and must be empty.
 */
S3D_MUST_USE enum s3d_code s3d_zip_add(struct s3d_zip_writer *writer, const char *name,
                                       uint64_t size_bytes, struct s3d_str *header,
                                       struct s3d_zip_record *record, struct s3d_error *error);

/* Where record `index` lies: what s3d_zip_add said. */
void s3d_zip_record_at(const struct s3d_zip_writer *writer, uint32_t index,
                       struct s3d_zip_record *record);

/* The descriptor's bytes; returns their number, record->descriptor_bytes. */
size_t s3d_zip_descriptor(const struct s3d_zip_record *record, uint32_t crc,
                          uint8_t descriptor[S3D_ZIP_DESCRIPTOR_MAX]);

/*
 * Sets the CRC that the directory will hold and appends the descriptor to `descriptor` (NULL:
 * the caller has s3d_zip_descriptor's). torch writes 0 where it computes none: compute_crc32
 * off, and write_record_metadata (skip_data), whose payload it skips with a seek. Records of
 * size 0 need no call. Setting another CRC later is allowed.
 */
S3D_MUST_USE enum s3d_code s3d_zip_set_crc(struct s3d_zip_writer *writer, uint32_t index,
                                           uint32_t crc, struct s3d_str *descriptor,
                                           struct s3d_error *error);

/*
 * The 40 digits that torch would write into ".data/serialization_id": names hashed in the order
 * in which libstdc++'s unordered_set lists them, then the CRCs in writing order. A record of
 * that name, wherever it stands, is left out, so that it may be added (40 bytes) before its
 * content is known. INVALID while the CRC of another record is not set. No reader checks it.
 */
S3D_MUST_USE enum s3d_code s3d_zip_serialization_id(const struct s3d_zip_writer *writer,
                                                    char id[S3D_ZIP_ID_DIGITS + 1],
                                                    struct s3d_error *error);

/*
 * Only for the id above to be torch's in one corner: torch takes every write that begins with a
 * descriptor's signature for a descriptor, payloads included. Tell of a payload's first bytes
 * (8 suffice); nothing happens unless they are such.
 */
void s3d_zip_see_payload(struct s3d_zip_writer *writer, uint32_t index, const void *data,
                         size_t length);

/* Appends directory and end records. INVALID while a CRC is not set. Ends the writer: add and
 * set_crc give CLOSED from now on. */
S3D_MUST_USE enum s3d_code s3d_zip_finish(struct s3d_zip_writer *writer, struct s3d_str *out,
                                          struct s3d_error *error);
/* How much s3d_zip_finish appends for the records so far. */
uint64_t s3d_zip_finish_bytes(const struct s3d_zip_writer *writer);

/* Where the next header, or the directory, begins. */
uint64_t s3d_zip_offset(const struct s3d_zip_writer *writer);
uint32_t s3d_zip_count(const struct s3d_zip_writer *writer);
/* The name without the archive's name; valid until the next s3d_zip_add. */
const char *s3d_zip_name(const struct s3d_zip_writer *writer, uint32_t index);
bool s3d_zip_has(const struct s3d_zip_writer *writer, const char *name);

#endif
