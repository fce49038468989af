#include "formats/zip_write.h"

#include "formats/zip_format.h"
#include "formats/zip_id.h"

#include <stdio.h>

enum { MADE_BY = 0x031e, NEEDED = 0x002d }; /* in the zip64 end: Unix 3.0, zip64 */

struct s3d_zip_item {
    uint64_t hash; /* of the name without the archive's name */
    uint64_t header_offset;
    uint64_t size_bytes;
    size_t name_at; /* in names: the full name */
    uint32_t name_length;
    uint32_t crc;
    bool has_crc;
    bool has_fake; /* the payload looks like a descriptor with this CRC */
    uint32_t fake_crc;
};

/* --- memory --- */

/* Room for `more` beyond `count` items; false leaves everything as it was. */
static bool reserve(void **memory, size_t *capacity, size_t count, size_t more,
                    size_t item_bytes)
{
    size_t needed, bytes;
    if (!s3d_size_add(count, more, &needed)) {
        return false;
    }
    if (needed <= *capacity) {
        return true;
    }
    size_t target = needed < 16 ? 16 : needed + needed / 2;
    void *grown = s3d_size_mul(target, item_bytes, &bytes) ? s3d_resize(*memory, bytes) : NULL;
    if (!grown) {
        return false;
    }
    *memory = grown;
    *capacity = target;
    return true;
}

static const char *short_name(const struct s3d_zip_writer *writer,
                              const struct s3d_zip_item *item)
{
    return writer->names + item->name_at + writer->prefix_length;
}

static size_t free_slot(const uint32_t *table, size_t size, uint64_t hash)
{
    size_t slot = (size_t)hash & (size - 1);
    while (table[slot]) {
        slot = (slot + 1) & (size - 1);
    }
    return slot;
}

/* At most half full after one more. */
static bool reserve_table(struct s3d_zip_writer *writer)
{
    if (writer->table_size && writer->count < writer->table_size / 2) {
        return true;
    }
    size_t size = writer->table_size ? writer->table_size * 2 : 16;
    uint32_t *table = s3d_alloc_zeroed(size, sizeof *table);
    if (!table) {
        return false;
    }
    for (size_t i = 0; i < writer->count; i++) {
        table[free_slot(table, size, writer->items[i].hash)] = (uint32_t)i + 1;
    }
    s3d_free(writer->table);
    writer->table = table;
    writer->table_size = size;
    return true;
}

static bool find(const struct s3d_zip_writer *writer, const char *name, uint64_t hash)
{
    if (!writer->table_size) {
        return false;
    }
    size_t mask = writer->table_size - 1;
    for (size_t slot = (size_t)hash & mask; writer->table[slot]; slot = (slot + 1) & mask) {
        const struct s3d_zip_item *item = &writer->items[writer->table[slot] - 1];
        if (item->hash == hash && strcmp(short_name(writer, item), name) == 0) {
            return true;
        }
    }
    return false;
}

/* --- the writer --- */

enum s3d_code s3d_zip_writer_init(struct s3d_zip_writer *writer, const char *archive_name,
                                  uint64_t alignment, struct s3d_error *error)
{
    *writer = (struct s3d_zip_writer){.alignment = alignment};
    size_t length = strlen(archive_name);
    if (!length || archive_name[0] == '/' || length >= UINT16_MAX) {
        return s3d_fail(error, S3D_INVALID, "\"%.80s\" cannot name an archive", archive_name);
    }
    if (!alignment) {
        return s3d_fail(error, S3D_INVALID, "the alignment of records must not be 0");
    }
    /* The prefix is kept at the start of names. */
    void *names = NULL;
    if (!reserve(&names, &writer->names_capacity, 0, length + 2, 1)) {
        return s3d_fail_memory(error, length + 2);
    }
    writer->names = names;
    memcpy(writer->names, archive_name, length);
    memcpy(writer->names + length, "/", 2);
    writer->prefix_length = length + 1;
    writer->names_length = length + 2;
    return S3D_OK;
}

void s3d_zip_writer_fini(struct s3d_zip_writer *writer)
{
    if (writer) {
        s3d_free(writer->names);
        s3d_free(writer->items);
        s3d_free(writer->table);
        *writer = (struct s3d_zip_writer){.finished = true};
    }
}

static size_t zip64_bytes(const struct s3d_zip_item *item)
{
    size_t values = (zip_is_long(item->size_bytes) ? 2u : 0u) +
                    (zip_is_long(item->header_offset) ? 1u : 0u);
    return values ? ZIP_TAG_BYTES + 8 * values : 0;
}

static uint64_t central_bytes(const struct s3d_zip_item *item)
{
    return ZIP_CENTRAL_BYTES + item->name_length + zip64_bytes(item);
}

/* Size, compressed size and offset: those that are too long for their field. */
static size_t put_zip64(uint8_t to[ZIP64_EXTRA_MAX], const struct s3d_zip_item *item,
                        uint64_t compressed)
{
    size_t bytes = zip64_bytes(item);
    if (!bytes) {
        return 0;
    }
    to = zip_put(to, ZIP64_TAG, 2);
    to = zip_put(to, bytes - ZIP_TAG_BYTES, 2);
    if (zip_is_long(item->size_bytes)) {
        to = zip_put(to, item->size_bytes, 8);
        to = zip_put(to, compressed, 8);
    }
    if (zip_is_long(item->header_offset)) {
        zip_put(to, item->header_offset, 8);
    }
    return bytes;
}

static unsigned flags_of(const struct s3d_zip_item *item)
{
    return ZIP_FLAG_UTF8 | (item->size_bytes ? ZIP_FLAG_DESCRIPTOR : 0u);
}

static void add_padding(struct s3d_str *out, size_t bytes)
{
    static const char z[] = "ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ";
    while (bytes) {
        size_t part = bytes < sizeof z - 1 ? bytes : sizeof z - 1;
        s3d_str_add_bytes(out, z, part);
        bytes -= part;
    }
}

static void add_local_header(const struct s3d_zip_writer *writer,
                             const struct s3d_zip_item *item,
                             const struct zip_torch_layout *layout, struct s3d_str *out)
{
    uint8_t header[ZIP_LOCAL_BYTES] = {0}, extra[ZIP64_EXTRA_MAX + ZIP_TAG_BYTES];
    zip_put(header, ZIP_LOCAL_SIGNATURE, 4);
    zip_put(header + 6, flags_of(item), 2);
    zip_put(header + 26, item->name_length, 2);
    zip_put(header + 28, layout->zip64_bytes + ZIP_TAG_BYTES + layout->padding_bytes, 2);
    /* The compressed size is not known to miniz yet: 0. */
    size_t extra_bytes = put_zip64(extra, item, 0);
    extra[extra_bytes++] = 'F';
    extra[extra_bytes++] = 'B';
    zip_put(extra + extra_bytes, layout->padding_bytes, 2);
    s3d_str_add_bytes(out, header, sizeof header);
    s3d_str_add_bytes(out, writer->names + item->name_at, item->name_length);
    s3d_str_add_bytes(out, extra, extra_bytes + 2);
    add_padding(out, layout->padding_bytes);
}

static void fill_record(const struct s3d_zip_item *item, size_t index,
                        const struct zip_torch_layout *layout, struct s3d_zip_record *record)
{
    *record = (struct s3d_zip_record){.index = (uint32_t)index,
                                      .descriptor_bytes = (uint32_t)layout->descriptor_bytes,
                                      .header_offset = item->header_offset,
                                      .data_offset = layout->data_offset,
                                      .size_bytes = item->size_bytes,
                                      .end_offset = layout->end_offset};
}

/* What the format and miniz refuse. */
static enum s3d_code check_record(const struct s3d_zip_writer *writer, const char *name,
                                  const struct s3d_zip_item *item, struct s3d_error *error)
{
    if (writer->finished) {
        return s3d_fail(error, S3D_CLOSED, "the archive has been finished");
    }
    if (item->name_length > UINT16_MAX) {
        return s3d_fail(error, S3D_INVALID, "record names are limited to %d bytes: %.80s...",
                        UINT16_MAX, name);
    }
    if (item->size_bytes && (!name[0] || name[strlen(name) - 1] == '/')) {
        return s3d_fail(error, S3D_INVALID, "record \"%.80s\" names a folder but is not empty",
                        name);
    }
    if (find(writer, name, item->hash)) {
        return s3d_fail(error, S3D_EXISTS, "record \"%.80s\" is already in the archive", name);
    }
    if (writer->count >= UINT32_MAX - 1 ||
        writer->directory_bytes + ZIP_CENTRAL_BYTES + ZIP64_EXTRA_MAX + item->name_length >=
            UINT32_MAX) {
        return s3d_fail(error, S3D_INVALID, "too many records: the directory passes 4 GiB");
    }
    return S3D_OK;
}

enum s3d_code s3d_zip_add(struct s3d_zip_writer *writer, const char *name, uint64_t size_bytes,
                          struct s3d_str *header, struct s3d_zip_record *record,
                          struct s3d_error *error)
{
    size_t length = strlen(name), full_length = writer->prefix_length + length;
    struct s3d_zip_item item = {
        .hash = zip_hash(name, length),
        .header_offset = writer->offset,
        .size_bytes = size_bytes,
        .name_at = writer->names_length,
        .name_length = full_length <= UINT16_MAX ? (uint32_t)full_length : UINT32_MAX,
        .has_crc = size_bytes == 0,
    };
    enum s3d_code code = check_record(writer, name, &item, error);
    if (code) {
        return code;
    }
    struct zip_torch_layout layout;
    if (!zip_torch_place(writer->offset, full_length, size_bytes, writer->alignment, &layout)) {
        return s3d_fail(error, S3D_INVALID,
                        "record \"%.80s\" of %llu bytes cannot be placed with alignment %llu",
                        name, (unsigned long long)size_bytes,
                        (unsigned long long)writer->alignment);
    }
    void *names = writer->names, *items = writer->items;
    bool enough =
        reserve(&names, &writer->names_capacity, writer->names_length, full_length + 1, 1);
    writer->names = names;
    enough = enough && reserve(&items, &writer->capacity, writer->count, 1, sizeof item);
    writer->items = items;
    if (!enough || !reserve_table(writer)) {
        return s3d_fail_memory(error, full_length + sizeof item);
    }

    /* Not yet part of the writer until the header could be appended. */
    memcpy(writer->names + item.name_at, writer->names, writer->prefix_length);
    memcpy(writer->names + item.name_at + writer->prefix_length, name, length + 1);
    add_local_header(writer, &item, &layout, header);
    code = s3d_str_check(header, error);
    if (code) {
        return code;
    }
    writer->names_length += full_length + 1;
    writer->table[free_slot(writer->table, writer->table_size, item.hash)] =
        (uint32_t)writer->count + 1;
    writer->items[writer->count] = item;
    fill_record(&item, writer->count, &layout, record);
    writer->count++;
    writer->directory_bytes += central_bytes(&item);
    writer->offset = layout.end_offset;
    return S3D_OK;
}

void s3d_zip_record_at(const struct s3d_zip_writer *writer, uint32_t index,
                       struct s3d_zip_record *record)
{
    const struct s3d_zip_item *item = &writer->items[index];
    struct zip_torch_layout layout = {0};
    zip_torch_place(item->header_offset, item->name_length, item->size_bytes, writer->alignment,
                    &layout); /* it fitted when it was added */
    fill_record(item, index, &layout, record);
}

size_t s3d_zip_descriptor(const struct s3d_zip_record *record, uint32_t crc,
                          uint8_t descriptor[S3D_ZIP_DESCRIPTOR_MAX])
{
    if (!record->descriptor_bytes) {
        return 0;
    }
    unsigned width = record->descriptor_bytes == ZIP_DESCRIPTOR64_BYTES ? 8 : 4;
    uint8_t *to = zip_put(descriptor, ZIP_DESCRIPTOR_SIGNATURE, 4);
    to = zip_put(to, crc, 4);
    to = zip_put(to, record->size_bytes, width);
    zip_put(to, record->size_bytes, width);
    return record->descriptor_bytes;
}

static enum s3d_code check_open(const struct s3d_zip_writer *writer, uint32_t index,
                                struct s3d_error *error)
{
    if (writer->finished) {
        return s3d_fail(error, S3D_CLOSED, "the archive has been finished");
    }
    if (index >= writer->count) {
        return s3d_fail(error, S3D_INVALID, "the archive has no record %u", index);
    }
    return S3D_OK;
}

enum s3d_code s3d_zip_set_crc(struct s3d_zip_writer *writer, uint32_t index, uint32_t crc,
                              struct s3d_str *descriptor, struct s3d_error *error)
{
    enum s3d_code code = check_open(writer, index, error);
    if (code) {
        return code;
    }
    if (descriptor) {
        struct s3d_zip_record record;
        uint8_t bytes[S3D_ZIP_DESCRIPTOR_MAX];
        s3d_zip_record_at(writer, index, &record);
        s3d_str_add_bytes(descriptor, bytes, s3d_zip_descriptor(&record, crc, bytes));
        code = s3d_str_check(descriptor, error);
        if (code) {
            return code;
        }
    }
    struct s3d_zip_item *item = &writer->items[index];
    item->crc = item->size_bytes ? crc : 0;
    item->has_crc = true;
    return S3D_OK;
}

void s3d_zip_see_payload(struct s3d_zip_writer *writer, uint32_t index, const void *data,
                         size_t length)
{
    if (index < writer->count && length >= 8 && zip_get32(data) == ZIP_DESCRIPTOR_SIGNATURE) {
        writer->items[index].has_fake = true;
        writer->items[index].fake_crc = zip_get32((const uint8_t *)data + 4);
    }
}

/* --- the end --- */

static enum s3d_code check_complete(const struct s3d_zip_writer *writer, const char *except,
                                    struct s3d_error *error)
{
    for (size_t i = 0; i < writer->count; i++) {
        const char *name = short_name(writer, &writer->items[i]);
        if (!writer->items[i].has_crc && (!except || strcmp(name, except) != 0)) {
            return s3d_fail(error, S3D_INVALID, "the CRC of record \"%.80s\" is not set", name);
        }
    }
    return S3D_OK;
}

static void add_central_entry(const struct s3d_zip_writer *writer,
                              const struct s3d_zip_item *item, struct s3d_str *out)
{
    uint8_t entry[ZIP_CENTRAL_BYTES] = {0}, extra[ZIP64_EXTRA_MAX];
    const char *name = writer->names + item->name_at;
    bool folder = name[item->name_length - 1] == '/';
    zip_put(entry, ZIP_CENTRAL_SIGNATURE, 4);
    zip_put(entry + 8, flags_of(item), 2);
    zip_put(entry + 16, item->crc, 4);
    zip_put_capped(entry + 20, item->size_bytes, 4);
    zip_put_capped(entry + 24, item->size_bytes, 4);
    zip_put(entry + 28, item->name_length, 2);
    zip_put(entry + 30, zip64_bytes(item), 2);
    zip_put(entry + 38, folder ? 0x10 : 0, 4); /* DOS: a folder */
    zip_put_capped(entry + 42, item->header_offset, 4);
    s3d_str_add_bytes(out, entry, sizeof entry);
    s3d_str_add_bytes(out, name, item->name_length);
    s3d_str_add_bytes(out, extra, put_zip64(extra, item, item->size_bytes));
}

static void add_end_records(const struct s3d_zip_writer *writer, struct s3d_str *out)
{
    uint8_t end[ZIP_END64_BYTES + ZIP_LOCATOR_BYTES + ZIP_END_BYTES] = {0};
    uint8_t *to = zip_put(end, ZIP_END64_SIGNATURE, 4);
    to = zip_put(to, ZIP_END64_BYTES - 12, 8);
    to = zip_put(to, MADE_BY, 2);
    to = zip_put(to, NEEDED, 2);
    to = zip_put(to, 0, 8); /* disks */
    to = zip_put(to, writer->count, 8);
    to = zip_put(to, writer->count, 8);
    to = zip_put(to, writer->directory_bytes, 8);
    to = zip_put(to, writer->offset, 8);

    to = zip_put(to, ZIP_LOCATOR_SIGNATURE, 4);
    to = zip_put(to, 0, 4);
    to = zip_put(to, writer->offset + writer->directory_bytes, 8);
    to = zip_put(to, 1, 4); /* disks in all */

    to = zip_put(to, ZIP_END_SIGNATURE, 4);
    to = zip_put(to, 0, 4);
    to = zip_put_capped(to, writer->count, 2);
    to = zip_put_capped(to, writer->count, 2);
    to = zip_put_capped(to, writer->directory_bytes, 4);
    zip_put_capped(to, writer->offset, 4); /* and a comment of 0 bytes */
    s3d_str_add_bytes(out, end, sizeof end);
}

enum s3d_code s3d_zip_finish(struct s3d_zip_writer *writer, struct s3d_str *out,
                             struct s3d_error *error)
{
    if (writer->finished) {
        return s3d_fail(error, S3D_CLOSED, "the archive has been finished");
    }
    enum s3d_code code = check_complete(writer, NULL, error);
    if (code) {
        return code;
    }
    for (size_t i = 0; i < writer->count; i++) {
        add_central_entry(writer, &writer->items[i], out);
    }
    add_end_records(writer, out);
    code = s3d_str_check(out, error);
    writer->finished = code == S3D_OK;
    return code;
}

uint64_t s3d_zip_finish_bytes(const struct s3d_zip_writer *writer)
{
    return writer->directory_bytes + ZIP_END64_BYTES + ZIP_LOCATOR_BYTES + ZIP_END_BYTES;
}

uint64_t s3d_zip_offset(const struct s3d_zip_writer *writer)
{
    return writer->offset;
}

uint32_t s3d_zip_count(const struct s3d_zip_writer *writer)
{
    return (uint32_t)writer->count;
}

const char *s3d_zip_name(const struct s3d_zip_writer *writer, uint32_t index)
{
    return short_name(writer, &writer->items[index]);
}

bool s3d_zip_has(const struct s3d_zip_writer *writer, const char *name)
{
    return find(writer, name, zip_hash(name, strlen(name)));
}

/* --- the id --- */

enum s3d_code s3d_zip_serialization_id(const struct s3d_zip_writer *writer,
                                       char id[S3D_ZIP_ID_DIGITS + 1], struct s3d_error *error)
{
    enum s3d_code code = check_complete(writer, S3D_ZIP_ID_NAME, error);
    if (code) {
        return code;
    }
    uint64_t *hashes = s3d_alloc_zeroed(writer->count, sizeof *hashes);
    if (!hashes) {
        return s3d_fail_memory(error, writer->count * sizeof *hashes);
    }
    size_t count = 0;
    uint64_t names, crcs = 0;
    for (size_t i = 0; i < writer->count; i++) {
        const struct s3d_zip_item *item = &writer->items[i];
        if (strcmp(short_name(writer, item), S3D_ZIP_ID_NAME) == 0) {
            continue;
        }
        hashes[count++] = item->hash;
        if (item->has_fake) {
            crcs = s3d_zip_id_combine(crcs, item->fake_crc);
        }
        if (item->size_bytes) {
            crcs = s3d_zip_id_combine(crcs, item->crc);
        }
    }
    code = s3d_zip_id_names(hashes, count, &names, error);
    s3d_free(hashes);
    if (code == S3D_OK) {
        snprintf(id, S3D_ZIP_ID_DIGITS + 1, "%020llu%020llu", (unsigned long long)names,
                 (unsigned long long)crcs);
    }
    return code;
}
