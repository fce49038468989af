#include "formats/zip_read.h"

#include "formats/zip_format.h"

enum {
    FLAG_PATCH = 0x0020,
    FLAG_STRONG = 0x0040, /* encryption */
    FLAG_MASKED = 0x2000, /* local headers masked: encryption of the directory */
    /* Steps along the hash table for one name. At half load honest names take a few dozen;
     * names made to collide would take as many as there are entries. */
    PROBES_MAX = 1024
};

#define NOT_A_ZIP "not a zip archive: "

/* The end of the object that is there. */
struct tail {
    const uint8_t *bytes;
    uint64_t offset; /* of bytes[0] in the object */
    uint64_t end;    /* the object's size */
    uint64_t *need_offset;
    struct s3d_error *error;
};

/* What the end records say. */
struct summary {
    uint64_t entries;
    uint64_t directory_bytes;
    uint64_t directory_offset; /* as said, before the prefix is known */
    uint64_t end_offset;       /* where the directory must end */
};

static const uint8_t *at(const struct tail *tail, uint64_t offset)
{
    return tail->bytes + (offset - tail->offset);
}

/* OK when the object is there from `offset` on. */
static enum s3d_code require(const struct tail *tail, uint64_t offset)
{
    if (offset >= tail->offset) {
        return S3D_OK;
    }
    *tail->need_offset = offset;
    return s3d_fail(tail->error, S3D_AGAIN,
                    "the zip directory needs the object from byte %llu on",
                    (unsigned long long)offset);
}

/* --- the end records --- */

/* The last place whose comment ends with the object. */
static enum s3d_code find_end(const struct tail *tail, uint64_t *offset)
{
    if (tail->end < ZIP_END_BYTES) {
        return s3d_fail(tail->error, S3D_INVALID, NOT_A_ZIP "%llu bytes are too few",
                        (unsigned long long)tail->end);
    }
    uint64_t last = tail->end - ZIP_END_BYTES;
    uint64_t first = last > UINT16_MAX ? last - UINT16_MAX : 0;
    for (uint64_t place = last + 1; place-- > first && place >= tail->offset;) {
        const uint8_t *end = at(tail, place);
        if (end[0] == 'P' && zip_get32(end) == ZIP_END_SIGNATURE &&
            zip_get16(end + 20) == last - place) {
            *offset = place;
            return S3D_OK;
        }
    }
    enum s3d_code code = require(tail, first);
    if (code) {
        return code;
    }
    return s3d_fail(tail->error, S3D_INVALID,
                    NOT_A_ZIP "no end of central directory record (cut short, or not a zip)");
}

/* A field of the end record that the zip64 end repeats: equal, or all ones (which some
 * writers put into every field as soon as one needs it). */
static bool repeats(uint64_t narrow, uint64_t wide, uint64_t saturated)
{
    return narrow == wide || narrow == saturated;
}

/* The zip64 end that the locator just before the end record points at. */
static enum s3d_code read_end64(const struct tail *tail, uint64_t end_offset,
                                struct summary *summary)
{
    const uint8_t *end = at(tail, end_offset), *locator = end - ZIP_LOCATOR_BYTES;
    uint64_t offset = end_offset - ZIP_LOCATOR_BYTES - ZIP_END64_BYTES;
    const uint8_t *end64 = at(tail, offset);
    if (zip_get32(end64) != ZIP_END64_SIGNATURE ||
        zip_get64(end64 + 4) != ZIP_END64_BYTES - 12) {
        return s3d_fail(tail->error, S3D_INVALID,
                        NOT_A_ZIP "no zip64 end record directly before its locator");
    }
    if (zip_get32(locator + 4) != 0 || zip_get32(locator + 16) > 1 ||
        zip_get32(end64 + 16) != 0 || zip_get32(end64 + 20) != 0 ||
        zip_get64(end64 + 24) != zip_get64(end64 + 32)) {
        return s3d_fail(tail->error, S3D_INVALID, "the zip archive is one disk of several");
    }
    *summary = (struct summary){.entries = zip_get64(end64 + 32),
                                .directory_bytes = zip_get64(end64 + 40),
                                .directory_offset = zip_get64(end64 + 48),
                                .end_offset = offset};
    if (!repeats(zip_get16(end + 8), summary->entries, UINT16_MAX) ||
        !repeats(zip_get16(end + 10), summary->entries, UINT16_MAX) ||
        !repeats(zip_get32(end + 12), summary->directory_bytes, UINT32_MAX) ||
        !repeats(zip_get32(end + 16), summary->directory_offset, UINT32_MAX)) {
        return s3d_fail(tail->error, S3D_INVALID,
                        NOT_A_ZIP "its two end records contradict each other");
    }
    return S3D_OK;
}

/* The locator counts from the archive's start, as the directory's own offset does: both must
 * leave the same number of bytes before the archive. */
static enum s3d_code check_locator(const struct tail *tail, const struct summary *summary,
                                   uint64_t prefix)
{
    uint64_t said = zip_get64(at(tail, summary->end_offset + ZIP_END64_BYTES) + 8);
    if (said != summary->end_offset - prefix) {
        return s3d_fail(tail->error, S3D_INVALID,
                        NOT_A_ZIP "the zip64 locator points to %llu instead of %llu",
                        (unsigned long long)said,
                        (unsigned long long)(summary->end_offset - prefix));
    }
    return S3D_OK;
}

static enum s3d_code read_end(const struct tail *tail, struct summary *summary, bool *is_zip64)
{
    uint64_t offset = 0;
    enum s3d_code code = find_end(tail, &offset);
    if (code) {
        return code;
    }
    const uint8_t *end = at(tail, offset);
    uint16_t disk = zip_get16(end + 4), its_disk = zip_get16(end + 6);
    bool one_disk =
        (disk == 0 || disk == UINT16_MAX) && (its_disk == 0 || its_disk == UINT16_MAX);
    if (!one_disk || zip_get16(end + 8) != zip_get16(end + 10)) {
        return s3d_fail(tail->error, S3D_INVALID, "the zip archive is one disk of several");
    }
    /* Without reading further back: no locator fits, or it is not there. */
    uint64_t back = ZIP_LOCATOR_BYTES + ZIP_END64_BYTES;
    *is_zip64 = false;
    if (offset >= back) {
        code = require(tail, offset - back);
        if (code) {
            return code;
        }
        *is_zip64 = zip_get32(end - ZIP_LOCATOR_BYTES) == ZIP_LOCATOR_SIGNATURE;
    }
    if (*is_zip64) {
        return read_end64(tail, offset, summary);
    }
    *summary = (struct summary){.entries = zip_get16(end + 10),
                                .directory_bytes = zip_get32(end + 12),
                                .directory_offset = zip_get32(end + 16),
                                .end_offset = offset};
    return S3D_OK;
}

/* Where the directory lies, checked against the object before anything is allocated. */
static enum s3d_code place_directory(const struct tail *tail, const struct summary *summary,
                                     bool is_zip64, struct s3d_zip *zip)
{
    if (summary->directory_bytes > summary->end_offset ||
        summary->directory_offset > summary->end_offset - summary->directory_bytes) {
        return s3d_fail(tail->error, S3D_INVALID,
                        NOT_A_ZIP "a directory of %llu bytes at %llu does not fit before %llu "
                                  "(cut short at the start?)",
                        (unsigned long long)summary->directory_bytes,
                        (unsigned long long)summary->directory_offset,
                        (unsigned long long)summary->end_offset);
    }
    if (summary->directory_bytes > S3D_ZIP_DIRECTORY_MAX) {
        return s3d_fail(tail->error, S3D_INVALID,
                        "the zip directory takes %llu bytes; %llu are allowed",
                        (unsigned long long)summary->directory_bytes,
                        (unsigned long long)S3D_ZIP_DIRECTORY_MAX);
    }
    if (summary->entries > summary->directory_bytes / ZIP_CENTRAL_BYTES) {
        return s3d_fail(tail->error, S3D_INVALID,
                        NOT_A_ZIP "%llu entries do not fit a directory of %llu bytes",
                        (unsigned long long)summary->entries,
                        (unsigned long long)summary->directory_bytes);
    }
    zip->directory_offset = summary->end_offset - summary->directory_bytes;
    zip->prefix_bytes = zip->directory_offset - summary->directory_offset;
    zip->count = (uint32_t)summary->entries;
    enum s3d_code code = is_zip64 ? check_locator(tail, summary, zip->prefix_bytes) : S3D_OK;
    return code ? code : require(tail, zip->directory_offset);
}

/* --- the directory --- */

/* One entry's extra fields: the values that did not fit, in the standard's order. */
static enum s3d_code read_zip64(const uint8_t *field, size_t length, uint64_t *const values[],
                                size_t count, const char *name, struct s3d_error *error)
{
    for (size_t i = 0; i < count; i++) {
        if (length < 8 * (i + 1)) {
            return s3d_fail(error, S3D_INVALID,
                            "zip entry \"%.80s\": its zip64 field is too short", name);
        }
        *values[i] = zip_get64(field + 8 * i);
    }
    return S3D_OK;
}

/* The zip64 field, NULL when there is none. Fewer than four bytes at the end are padding. */
static enum s3d_code find_zip64(const uint8_t *extra, size_t length, const uint8_t **field,
                                size_t *field_bytes, const char *name, struct s3d_error *error)
{
    *field = NULL;
    *field_bytes = 0;
    while (length >= ZIP_TAG_BYTES) {
        size_t bytes = zip_get16(extra + 2);
        if (bytes > length - ZIP_TAG_BYTES) {
            return s3d_fail(error, S3D_INVALID,
                            "zip entry \"%.80s\": an extra field reaches past the others",
                            name);
        }
        if (zip_get16(extra) == ZIP64_TAG) {
            if (*field) {
                return s3d_fail(error, S3D_INVALID, "zip entry \"%.80s\" has two zip64 fields",
                                name);
            }
            *field = extra + ZIP_TAG_BYTES;
            *field_bytes = bytes;
        }
        extra += ZIP_TAG_BYTES + bytes;
        length -= ZIP_TAG_BYTES + bytes;
    }
    return S3D_OK;
}

static enum s3d_code read_long_values(const uint8_t *central, struct s3d_zip_entry *entry,
                                      struct s3d_error *error)
{
    const uint8_t *field;
    size_t field_bytes, wanted = 0;
    uint64_t *values[3];
    const uint8_t *extra = central + ZIP_CENTRAL_BYTES + entry->name_length;
    enum s3d_code code =
        find_zip64(extra, zip_get16(central + 30), &field, &field_bytes, entry->name, error);
    if (code) {
        return code;
    }
    if (entry->size_bytes == UINT32_MAX) {
        values[wanted++] = &entry->size_bytes;
    }
    if (entry->compressed_bytes == UINT32_MAX) {
        values[wanted++] = &entry->compressed_bytes;
    }
    if (entry->header_offset == UINT32_MAX) {
        values[wanted++] = &entry->header_offset;
    }
    code = read_zip64(field, field_bytes, values, wanted, entry->name, error);
    if (code) {
        return code;
    }
    uint16_t disk = zip_get16(central + 34);
    bool long_disk = disk == UINT16_MAX && field_bytes >= 8 * wanted + 4 &&
                     zip_get32(field + 8 * wanted) == 0;
    if (disk != 0 && !long_disk) {
        return s3d_fail(error, S3D_INVALID, "zip entry \"%.80s\" lies on another disk",
                        entry->name);
    }
    return S3D_OK;
}

static enum s3d_code check_entry(const struct s3d_zip *zip, struct s3d_zip_entry *entry,
                                 struct s3d_error *error)
{
    if (entry->flags & (ZIP_FLAG_ENCRYPTED | FLAG_STRONG | FLAG_MASKED | FLAG_PATCH)) {
        return s3d_fail(error, S3D_INVALID, "zip entry \"%.80s\" is encrypted or a patch",
                        entry->name);
    }
    if (entry->method == S3D_ZIP_STORED && entry->compressed_bytes != entry->size_bytes) {
        return s3d_fail(
            error, S3D_INVALID,
            "zip entry \"%.80s\" is stored, but its two sizes differ: %llu and %llu",
            entry->name, (unsigned long long)entry->compressed_bytes,
            (unsigned long long)entry->size_bytes);
    }
    /* Within the bytes before the directory, step by step so that nothing wraps. */
    uint64_t room = zip->directory_offset - zip->prefix_bytes;
    uint64_t header = ZIP_LOCAL_BYTES + (uint64_t)entry->name_length;
    if (entry->header_offset > room || header > room - entry->header_offset ||
        entry->compressed_bytes > room - entry->header_offset - header) {
        return s3d_fail(error, S3D_INVALID,
                        "zip entry \"%.80s\" (%llu bytes at %llu) reaches into the directory",
                        entry->name, (unsigned long long)entry->compressed_bytes,
                        (unsigned long long)entry->header_offset);
    }
    entry->header_offset += zip->prefix_bytes;
    return S3D_OK;
}

/* The entry at `central`, which has `length` bytes at most; its name goes to *names. */
static enum s3d_code read_entry(const struct s3d_zip *zip, const uint8_t *central,
                                size_t length, struct s3d_zip_entry *entry, char **names,
                                size_t *used, struct s3d_error *error)
{
    if (length < ZIP_CENTRAL_BYTES || zip_get32(central) != ZIP_CENTRAL_SIGNATURE) {
        return s3d_fail(error, S3D_INVALID, NOT_A_ZIP "its directory is damaged");
    }
    size_t name_length = zip_get16(central + 28);
    *used = ZIP_CENTRAL_BYTES + name_length + zip_get16(central + 30) + zip_get16(central + 32);
    if (*used > length) {
        return s3d_fail(error, S3D_INVALID, NOT_A_ZIP "a directory entry is cut off");
    }
    const uint8_t *name = central + ZIP_CENTRAL_BYTES;
    if (!name_length || memchr(name, 0, name_length)) {
        return s3d_fail(error, S3D_INVALID, "a zip entry's name is empty or holds a NUL");
    }
    memcpy(*names, name, name_length);
    (*names)[name_length] = '\0';
    *entry = (struct s3d_zip_entry){.name = *names,
                                    .name_length = (uint16_t)name_length,
                                    .flags = zip_get16(central + 8),
                                    .method = zip_get16(central + 10),
                                    .crc = zip_get32(central + 16),
                                    .compressed_bytes = zip_get32(central + 20),
                                    .size_bytes = zip_get32(central + 24),
                                    .header_offset = zip_get32(central + 42)};
    *names += name_length + 1;
    enum s3d_code code = read_long_values(central, entry, error);
    return code ? code : check_entry(zip, entry, error);
}

static enum s3d_code read_entries(struct s3d_zip *zip, const uint8_t *directory, size_t length,
                                  struct s3d_error *error)
{
    char *names = zip->names;
    for (uint32_t i = 0; i < zip->count; i++) {
        /* Those to come need 46 bytes each. What is left is all that the names were given room
         * for, so no name may take more, even if the next entry would give it away. */
        size_t used = 0, reserved = (size_t)(zip->count - 1 - i) * ZIP_CENTRAL_BYTES;
        enum s3d_code code = read_entry(zip, directory, length - reserved, &zip->entries[i],
                                        &names, &used, error);
        if (code) {
            return code;
        }
        directory += used;
        length -= used;
    }
    if (length) {
        return s3d_fail(error, S3D_INVALID,
                        NOT_A_ZIP "%zu bytes of its directory belong to no entry", length);
    }
    return S3D_OK;
}

/* --- order and overlaps --- */

static bool before(const struct s3d_zip *zip, uint32_t a, uint32_t b)
{
    uint64_t offset_a = zip->entries[a].header_offset, offset_b = zip->entries[b].header_offset;
    return offset_a != offset_b ? offset_a < offset_b : a < b;
}

static void sift_down(const struct s3d_zip *zip, size_t root, size_t count)
{
    uint32_t *heap = zip->by_offset;
    for (size_t child = 2 * root + 1; child < count; child = 2 * root + 1) {
        if (child + 1 < count && before(zip, heap[child], heap[child + 1])) {
            child++;
        }
        if (!before(zip, heap[root], heap[child])) {
            return;
        }
        uint32_t moved = heap[root];
        heap[root] = heap[child];
        heap[child] = moved;
        root = child;
    }
}

/* Heapsort: no memory, and no order of entries makes it slow. Most archives are in order. */
static void sort_by_offset(struct s3d_zip *zip)
{
    bool sorted = true;
    for (uint32_t i = 0; i < zip->count; i++) {
        zip->by_offset[i] = i;
        sorted = sorted && (i == 0 || before(zip, i - 1, i));
    }
    if (sorted) {
        return;
    }
    for (size_t i = zip->count / 2; i-- > 0;) {
        sift_down(zip, i, zip->count);
    }
    for (size_t left = zip->count - 1; left > 0; left--) {
        uint32_t last = zip->by_offset[0];
        zip->by_offset[0] = zip->by_offset[left];
        zip->by_offset[left] = last;
        sift_down(zip, 0, left);
    }
}

static enum s3d_code check_overlaps(struct s3d_zip *zip, struct s3d_error *error)
{
    uint64_t limit = zip->directory_offset;
    for (uint32_t i = zip->count; i-- > 0;) {
        struct s3d_zip_entry *entry = &zip->entries[zip->by_offset[i]];
        uint64_t least = entry->header_offset + ZIP_LOCAL_BYTES + entry->name_length +
                         entry->compressed_bytes;
        if (least > limit) {
            return s3d_fail(error, S3D_INVALID,
                            "zip entry \"%.80s\" overlaps the one behind it", entry->name);
        }
        entry->end_offset = limit;
        limit = entry->header_offset;
    }
    return S3D_OK;
}

/* --- names --- */

/* The slot of this name: where it is, or where it would go. False: made to collide. */
static bool find_slot(const struct s3d_zip *zip, const char *name, size_t length, size_t *slot)
{
    size_t mask = zip->table_size - 1;
    *slot = (size_t)zip_hash(name, length) & mask;
    for (unsigned probes = 0; probes < PROBES_MAX; probes++) {
        uint32_t index = zip->table[*slot];
        if (!index) {
            return true;
        }
        const struct s3d_zip_entry *entry = &zip->entries[index - 1];
        if (entry->name_length == length && memcmp(entry->name, name, length) == 0) {
            return true;
        }
        *slot = (*slot + 1) & mask;
    }
    return false;
}

static enum s3d_code index_names(struct s3d_zip *zip, struct s3d_error *error)
{
    for (uint32_t i = 0; i < zip->count; i++) {
        size_t slot;
        const struct s3d_zip_entry *entry = &zip->entries[i];
        if (!find_slot(zip, entry->name, entry->name_length, &slot)) {
            return s3d_fail(error, S3D_INVALID, "the zip archive's names were made to collide");
        }
        zip->duplicates += zip->table[slot] != 0;
        zip->table[slot] = i + 1;
    }
    return S3D_OK;
}

const struct s3d_zip_entry *s3d_zip_find(const struct s3d_zip *zip, const char *name,
                                         size_t length)
{
    size_t slot;
    if (!zip->table_size || !find_slot(zip, name, length, &slot) || !zip->table[slot]) {
        return NULL;
    }
    return &zip->entries[zip->table[slot] - 1];
}

/* --- open --- */

/* All of it is bounded by the directory's size, which is there: an entry takes 46 bytes of
 * it and one of ours some 60, its name as many and a terminator. */
static enum s3d_code allocate(struct s3d_zip *zip, uint64_t directory_bytes,
                              struct s3d_error *error)
{
    zip->table_size = 16;
    while (zip->table_size < 2 * (size_t)zip->count) {
        zip->table_size *= 2;
    }
    size_t names =
        (size_t)directory_bytes - (size_t)zip->count * ZIP_CENTRAL_BYTES + zip->count;
    zip->entries = s3d_alloc_zeroed(zip->count, sizeof *zip->entries);
    zip->by_offset = s3d_alloc_zeroed(zip->count, sizeof *zip->by_offset);
    zip->table = s3d_alloc_zeroed(zip->table_size, sizeof *zip->table);
    zip->names = s3d_alloc(names);
    if (!zip->entries || !zip->by_offset || !zip->table || !zip->names) {
        return s3d_fail_memory(error, names + zip->count * sizeof *zip->entries);
    }
    return S3D_OK;
}

void s3d_zip_close(struct s3d_zip *zip)
{
    if (zip) {
        s3d_free(zip->entries);
        s3d_free(zip->by_offset);
        s3d_free(zip->table);
        s3d_free(zip->names);
        *zip = (struct s3d_zip){0};
    }
}

enum s3d_code s3d_zip_open(struct s3d_zip *zip, uint64_t object_bytes, const void *tail,
                           size_t tail_bytes, uint64_t *need_offset, struct s3d_error *error)
{
    *zip = (struct s3d_zip){.object_bytes = object_bytes};
    *need_offset = 0;
    if (tail_bytes > object_bytes) {
        return s3d_fail(error, S3D_INVALID, "%zu bytes of an object of %llu were given",
                        tail_bytes, (unsigned long long)object_bytes);
    }
    struct tail view = {.bytes = tail,
                        .offset = object_bytes - tail_bytes,
                        .end = object_bytes,
                        .need_offset = need_offset,
                        .error = error};
    struct summary summary = {0};
    bool is_zip64 = false;
    enum s3d_code code = read_end(&view, &summary, &is_zip64);
    if (code) {
        goto done;
    }
    code = place_directory(&view, &summary, is_zip64, zip);
    if (code) {
        goto done;
    }
    code = allocate(zip, summary.directory_bytes, error);
    if (code) {
        goto done;
    }
    code = read_entries(zip, at(&view, zip->directory_offset), (size_t)summary.directory_bytes,
                        error);
    if (code) {
        goto done;
    }
    sort_by_offset(zip);
    code = check_overlaps(zip, error);
    if (code) {
        goto done;
    }
    code = index_names(zip, error);
done:
    if (code) {
        s3d_zip_close(zip);
    }
    return code;
}

/* --- one record --- */

/* Sizes as a local header gives them: in its fields, or in its zip64 field where those are all
 * ones. A header with a descriptor may leave them 0. */
static bool sizes_agree(const struct s3d_zip_entry *entry, const uint8_t *header,
                        const uint8_t *field, size_t field_bytes)
{
    uint64_t compressed = zip_get32(header + 18), size = zip_get32(header + 22);
    uint32_t crc = zip_get32(header + 14);
    size_t used = 0;
    if (size == UINT32_MAX && field_bytes >= 8) {
        size = zip_get64(field);
        used = 8;
    }
    if (compressed == UINT32_MAX && field_bytes >= used + 8) {
        compressed = zip_get64(field + used);
    }
    if (compressed == entry->compressed_bytes && size == entry->size_bytes &&
        crc == entry->crc) {
        return true;
    }
    bool unsaid = (compressed == 0 || compressed == UINT32_MAX) &&
                  (size == 0 || size == UINT32_MAX) && crc == 0;
    return unsaid && (entry->flags & ZIP_FLAG_DESCRIPTOR);
}

static enum s3d_code disagrees(const struct s3d_zip_entry *entry, const char *what,
                               struct s3d_error *error)
{
    return s3d_fail(error, S3D_INVALID, "zip entry \"%.80s\": its local header has another %s",
                    entry->name, what);
}

static enum s3d_code check_local(const struct s3d_zip_entry *entry, const uint8_t *header,
                                 struct s3d_zip_local *local, struct s3d_error *error)
{
    const uint16_t kept = ZIP_FLAG_ENCRYPTED | ZIP_FLAG_DESCRIPTOR | FLAG_PATCH | FLAG_STRONG;
    if ((zip_get16(header + 6) & kept) != (entry->flags & kept)) {
        return disagrees(entry, "set of flags", error);
    }
    if (zip_get16(header + 8) != entry->method) {
        return disagrees(entry, "compression method", error);
    }
    if (memcmp(header + ZIP_LOCAL_BYTES, entry->name, entry->name_length) != 0) {
        return disagrees(entry, "name", error);
    }
    const uint8_t *field;
    size_t field_bytes;
    enum s3d_code code =
        find_zip64(header + ZIP_LOCAL_BYTES + entry->name_length, zip_get16(header + 28),
                   &field, &field_bytes, entry->name, error);
    if (code) {
        return code;
    }
    if (!sizes_agree(entry, header, field, field_bytes)) {
        return disagrees(entry, "size or CRC", error);
    }
    /* torch promises a descriptor by the flag; without the flag there is none. */
    local->descriptor_bytes = !(entry->flags & ZIP_FLAG_DESCRIPTOR) ? 0
                              : field                               ? ZIP_DESCRIPTOR64_BYTES
                                                                    : ZIP_DESCRIPTOR_BYTES;
    return S3D_OK;
}

enum s3d_code s3d_zip_local(const struct s3d_zip_entry *entry, const void *bytes, size_t length,
                            struct s3d_zip_local *local, size_t *need_bytes,
                            struct s3d_error *error)
{
    const uint8_t *header = bytes;
    *local = (struct s3d_zip_local){0};
    *need_bytes = ZIP_LOCAL_BYTES;
    if (length >= ZIP_LOCAL_BYTES) {
        if (zip_get32(header) != ZIP_LOCAL_SIGNATURE) {
            return s3d_fail(error, S3D_INVALID, "zip entry \"%.80s\": no local header at %llu",
                            entry->name, (unsigned long long)entry->header_offset);
        }
        if (zip_get16(header + 26) != entry->name_length) {
            return disagrees(entry, "name", error);
        }
        *need_bytes = ZIP_LOCAL_BYTES + (size_t)entry->name_length + zip_get16(header + 28);
        /* Before more is asked for: where the payload would end. s3d_zip_open held all but the
         * extra fields against end_offset. */
        if (*need_bytes > entry->end_offset - entry->header_offset - entry->compressed_bytes) {
            return s3d_fail(error, S3D_INVALID,
                            "zip entry \"%.80s\" overlaps what is behind it", entry->name);
        }
    }
    if (length < *need_bytes) {
        return s3d_fail(error, S3D_AGAIN, "the local header takes %zu bytes", *need_bytes);
    }
    enum s3d_code code = check_local(entry, header, local, error);
    if (code) {
        return code;
    }
    local->header_bytes = *need_bytes;
    local->data_offset = entry->header_offset + *need_bytes;
    return S3D_OK;
}

bool s3d_zip_predict(const struct s3d_zip_entry *entry, uint64_t alignment,
                     struct s3d_zip_local *local)
{
    struct zip_torch_layout layout;
    bool described = entry->flags & ZIP_FLAG_DESCRIPTOR;
    if (entry->method != S3D_ZIP_STORED || described != (entry->size_bytes != 0) ||
        !zip_torch_place(entry->header_offset, entry->name_length, entry->size_bytes, alignment,
                         &layout) ||
        layout.end_offset != entry->end_offset) {
        return false;
    }
    *local = (struct s3d_zip_local){.header_bytes =
                                        (size_t)(layout.data_offset - entry->header_offset),
                                    .data_offset = layout.data_offset,
                                    .descriptor_bytes = (uint32_t)layout.descriptor_bytes};
    return true;
}

enum s3d_code s3d_zip_check_predicted(const struct s3d_zip_entry *entry,
                                      const struct s3d_zip_local *predicted, const void *bytes,
                                      size_t length, struct s3d_error *error)
{
    struct s3d_zip_local local;
    size_t need_bytes;
    enum s3d_code code = s3d_zip_local(entry, bytes, length, &local, &need_bytes, error);
    if (code == S3D_AGAIN || (!code && local.data_offset != predicted->data_offset)) {
        return s3d_fail(error, S3D_INVALID,
                        "zip entry \"%.80s\": its payload is not where torch puts it",
                        entry->name);
    }
    return code;
}

static bool descriptor_agrees(const struct s3d_zip_entry *entry, const uint8_t *bytes,
                              size_t length, unsigned width)
{
    return length >= 4 + 2 * (size_t)width && zip_get32(bytes) == entry->crc &&
           zip_get(bytes + 4, width) == entry->compressed_bytes &&
           zip_get(bytes + 4 + width, width) == entry->size_bytes;
}

enum s3d_code s3d_zip_check_descriptor(const struct s3d_zip_entry *entry, const void *bytes,
                                       size_t length, size_t *bytes_used,
                                       struct s3d_error *error)
{
    *bytes_used = 0;
    if (!(entry->flags & ZIP_FLAG_DESCRIPTOR)) {
        return S3D_OK;
    }
    /* The longest first: sizes of 8 bytes also begin like sizes of 4. */
    const uint8_t *from = bytes;
    for (size_t signature = 4;; signature = 0) {
        bool there = !signature || (length >= 4 && zip_get32(from) == ZIP_DESCRIPTOR_SIGNATURE);
        for (unsigned width = 8; there && width >= 4; width -= 4) {
            if (length >= signature &&
                descriptor_agrees(entry, from + signature, length - signature, width)) {
                *bytes_used = signature + 4 + 2 * (size_t)width;
                return S3D_OK;
            }
        }
        if (!signature) {
            return s3d_fail(error, S3D_INVALID,
                            "zip entry \"%.80s\": what follows it contradicts the directory",
                            entry->name);
        }
    }
}
