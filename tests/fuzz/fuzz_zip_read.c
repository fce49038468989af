/*
 * A fuzz target: the input is an object that may be a zip. Besides crashes it looks for broken
 * promises of zip_read.h: a result that depends on how much of the object's end was given, an
 * entry that lies outside the object or overlaps another, a failure that calls itself
 * retryable.
 */
#include "formats/zip_read.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Opens with the last `tail` bytes, and with as many more as it asks for. */
static enum s3d_code zip_open_stepwise(struct s3d_zip *zip, const uint8_t *data, size_t size,
                                       size_t tail)
{
    enum s3d_code code;
    struct s3d_error error = {0};
    do {
        uint64_t need = 0;
        uint8_t *copy = fuzz_exact_copy(data + (size - tail), tail);
        code = s3d_zip_open(zip, size, copy, tail, &need, &error);
        free(copy);
        PROMISE(code == S3D_OK || code == S3D_AGAIN || code == S3D_INVALID);
        PROMISE(code != S3D_AGAIN || need < size - tail);
        PROMISE(code == S3D_OK || (error.code == code && error.message[0] && !zip->entries));
        tail = code == S3D_AGAIN ? size - (size_t)need : tail;
    } while (code == S3D_AGAIN);
    return code;
}

static void zip_use_trailer(const struct s3d_zip_entry *entry, const uint8_t *data,
                            uint64_t offset)
{
    uint64_t room = entry->end_offset - offset;
    size_t used, length = room < S3D_ZIP_TRAILER_MAX ? (size_t)room : S3D_ZIP_TRAILER_MAX;
    uint8_t *copy = fuzz_exact_copy(data + offset, length);
    enum s3d_code code = s3d_zip_check_descriptor(entry, copy, length, &used, NULL);
    PROMISE(code == S3D_OK || code == S3D_INVALID);
    PROMISE(used <= length);
    free(copy);
}

static void zip_use_entry(const struct s3d_zip_entry *entry, const uint8_t *data)
{
    struct s3d_zip_local local, predicted;
    struct s3d_error error = {0};
    size_t need, length = 0;
    enum s3d_code code;
    do {
        uint8_t *copy = fuzz_exact_copy(data + entry->header_offset, length);
        code = s3d_zip_local(entry, copy, length, &local, &need, &error);
        free(copy);
        PROMISE(code == S3D_OK || code == S3D_AGAIN || code == S3D_INVALID);
        PROMISE(code != S3D_AGAIN || (need > length && need <= S3D_ZIP_LOCAL_MAX));
        length = need;
    } while (code == S3D_AGAIN);
    if (code == S3D_OK) {
        PROMISE(local.data_offset + entry->compressed_bytes <= entry->end_offset);
        zip_use_trailer(entry, data, local.data_offset + entry->compressed_bytes);
    }
    for (uint64_t alignment = 1; alignment <= 4096; alignment *= 8) {
        if (s3d_zip_predict(entry, alignment, &predicted)) {
            uint64_t end = predicted.data_offset + entry->size_bytes;
            PROMISE(end + predicted.descriptor_bytes == entry->end_offset);
            code = s3d_zip_check_predicted(entry, &predicted, data + entry->header_offset,
                                           predicted.header_bytes, NULL);
            PROMISE(code == S3D_OK || code == S3D_INVALID);
        }
    }
}

static void zip_check_promises(const struct s3d_zip *zip, const uint8_t *data, size_t size)
{
    uint64_t before = zip->prefix_bytes;
    PROMISE(zip->object_bytes == size && zip->directory_offset <= size);
    for (uint32_t i = 0; i < zip->count; i++) {
        PROMISE(zip->by_offset[i] < zip->count);
        const struct s3d_zip_entry *entry = &zip->entries[zip->by_offset[i]];
        PROMISE(entry->header_offset >= before);
        before = entry->header_offset + 30 + entry->name_length + entry->compressed_bytes;
        PROMISE(before <= entry->end_offset && entry->end_offset <= zip->directory_offset);
        before = entry->end_offset;
        PROMISE(strlen(entry->name) == entry->name_length && entry->name_length);
        const struct s3d_zip_entry *found = s3d_zip_find(zip, entry->name, entry->name_length);
        PROMISE(found && strcmp(found->name, entry->name) == 0);
        PROMISE(found == entry || zip->duplicates);
        zip_use_entry(entry, data);
    }
    PROMISE(!s3d_zip_find(zip, "", 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct s3d_zip whole, stepwise;
    enum s3d_code code = zip_open_stepwise(&whole, data, size, size);
    PROMISE(zip_open_stepwise(&stepwise, data, size, size < 22 ? size : 22) == code);
    if (code == S3D_OK) {
        PROMISE(whole.count == stepwise.count);
        PROMISE(whole.directory_offset == stepwise.directory_offset);
        zip_check_promises(&whole, data, size);
    }
    s3d_zip_close(&whole);
    s3d_zip_close(&stepwise);
    return 0;
}
