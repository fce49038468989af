// Open multipart uploads of the store (declared in store.h).
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "checksum.h"

struct s3s_upload *s3s_upload_find_locked(struct s3s_store *store, struct s3s_upload_name name)
{
    struct s3s_upload *upload = store->locked.uploads;
    for (; upload; upload = upload->next) {
        struct s3s_span key = {upload->key, upload->key_length};
        if (s3s_span_is(name.id, upload->id) &&
            s3s_span_is(name.bucket, upload->bucket->name) && !s3s_span_compare(name.key, key))
            break;
    }
    return upload;
}

static void upload_unlink_locked(struct s3s_store *store, struct s3s_upload *upload)
{
    struct s3s_upload **at = &store->locked.uploads;
    while (*at != upload)
        at = &(*at)->next;
    *at = upload->next;
}

static void upload_free(struct s3s_pool *pool, struct s3s_upload *upload)
{
    if (!upload)
        return;
    for (size_t i = 0; i < upload->part_capacity; i++)
        s3s_pool_give(pool, upload->parts[i].piece.block);
    s3s_mem_free(upload->parts);
    s3s_mem_free(upload->key);
    s3s_mem_free(upload->headers);
    s3s_mem_free(upload);
}

void s3s_upload_abort_all_locked(struct s3s_store *store)
{
    while (store->locked.uploads) {
        struct s3s_upload *upload = store->locked.uploads;
        store->locked.uploads = upload->next;
        upload_free(store->pool, upload);
    }
}

enum s3s_code s3s_upload_create(struct s3s_store *store, struct s3s_span bucket,
                                struct s3s_span key, const char *headers,
                                const struct s3s_checksum *checksum, char id[33])
{
    s3s_store_make_id(store, id);
    struct s3s_upload *upload = s3s_mem_zalloc(sizeof *upload);
    memcpy(upload->id, id, 33);
    upload->key = s3s_mem_copy(key.data, key.length);
    upload->key_length = key.length;
    upload->headers = s3s_mem_copy(headers, strlen(headers));
    upload->checksum = checksum;
    upload->started_s = time(NULL);
    pthread_mutex_lock(&store->mutex);
    upload->bucket = s3s_store_bucket_locked(store, bucket);
    enum s3s_code code = upload->bucket ? S3S_OK : S3S_NO_SUCH_BUCKET;
    if (!code) {
        upload->next = store->locked.uploads;
        store->locked.uploads = upload;
        upload = NULL;
    }
    pthread_mutex_unlock(&store->mutex);
    upload_free(store->pool, upload);
    return code;
}

enum s3s_code s3s_upload_check(struct s3s_store *store, struct s3s_upload_name name)
{
    pthread_mutex_lock(&store->mutex);
    enum s3s_code code = s3s_upload_find_locked(store, name) ? S3S_OK : S3S_NO_SUCH_UPLOAD;
    pthread_mutex_unlock(&store->mutex);
    return code;
}

static void grow_parts(struct s3s_upload *upload, uint64_t number)
{
    size_t capacity = upload->part_capacity ? upload->part_capacity : 16;
    while (capacity < number)
        capacity *= 2;
    if (capacity == upload->part_capacity)
        return;
    upload->parts = s3s_mem_resize(upload->parts, capacity * sizeof *upload->parts);
    memset(upload->parts + upload->part_capacity, 0,
           (capacity - upload->part_capacity) * sizeof *upload->parts);
    upload->part_capacity = capacity;
}

enum s3s_code s3s_upload_put_part(struct s3s_store *store, struct s3s_upload_name name,
                                  uint64_t number, const struct s3s_part *part,
                                  const struct s3s_checksum *checksum)
{
    if (number < 1 || number > S3S_PART_NUMBER_MAX)
        return S3S_INVALID_ARGUMENT;
    pthread_mutex_lock(&store->mutex);
    struct s3s_upload *upload = s3s_upload_find_locked(store, name);
    bool mismatch = upload && upload->checksum && upload->checksum != checksum;
    if (upload && !mismatch) {
        grow_parts(upload, number);
        struct s3s_part *slot = &upload->parts[number - 1];
        s3s_pool_give(store->pool, slot->piece.block); // a part sent again replaces the first
        *slot = *part;
        slot->present = true;
    }
    pthread_mutex_unlock(&store->mutex);
    return !upload ? S3S_NO_SUCH_UPLOAD : mismatch ? S3S_INVALID_ARGUMENT : S3S_OK;
}

static enum s3s_code check_wanted(const struct s3s_store *store,
                                  const struct s3s_upload *upload,
                                  const struct s3s_wanted_part *wanted, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        if (wanted[i].number <= wanted[i - 1].number)
            return S3S_INVALID_PART_ORDER;
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t number = wanted[i].number;
        if (number < 1 || number > upload->part_capacity ||
            !upload->parts[number - 1].present ||
            strcmp(upload->parts[number - 1].etag, wanted[i].etag) != 0)
            return S3S_INVALID_PART;
    }
    for (size_t i = 0; i + 1 < count; i++) {
        if (upload->parts[wanted[i].number - 1].piece.size_bytes < store->min_part_bytes)
            return S3S_ENTITY_TOO_SMALL;
    }
    return count ? S3S_OK : S3S_MALFORMED_XML;
}

// S3's multipart ETag: the MD5 of the parts' MD5s, a dash, their number. Without --md5 it only looks like one.
static void make_etag(struct s3s_store *store, const struct s3s_upload *upload,
                      const struct s3s_wanted_part *wanted, size_t count,
                      char etag[S3S_ETAG_CAPACITY])
{
    char id[33];
    s3s_store_make_id(store, id);
    if (store->real_md5) {
        unsigned char digest[EVP_MAX_MD_SIZE];
        struct s3s_text all = {0}, hex = {0};
        for (size_t i = 0; i < count; i++)
            s3s_text_add(&all, upload->parts[wanted[i].number - 1].md5, 16);
        EVP_Digest(all.data, all.length, digest, NULL, EVP_md5(), NULL);
        s3s_text_hex(&hex, digest, 16);
        s3s_span_store(s3s_text_span(&hex), id, sizeof id);
        s3s_text_fini(&all);
        s3s_text_fini(&hex);
    }
    snprintf(etag, S3S_ETAG_CAPACITY, "%s-%zu", id, count);
}

static struct s3s_object *assemble(struct s3s_store *store, const struct s3s_upload *upload,
                                   const struct s3s_wanted_part *wanted, size_t count)
{
    struct s3s_span key = {upload->key, upload->key_length};
    struct s3s_object *object = s3s_object_new(store->pool, key, upload->headers);
    object->pieces = s3s_mem_zalloc(count * sizeof *object->pieces);
    object->piece_count = count;
    for (size_t i = 0; i < count; i++) {
        object->pieces[i] = upload->parts[wanted[i].number - 1].piece;
        object->size_bytes += object->pieces[i].size_bytes;
    }
    make_etag(store, upload, wanted, count, object->etag);
    return object;
}

// Reads the whole body under the mutex: only clients that send a checksum pay for it.
static enum s3s_code check_whole(struct s3s_object *object, const struct s3s_completion *how)
{
    if (!how->checksum)
        return S3S_OK;
    if (!s3s_checksum_matches(how->checksum, object->pieces, object->piece_count,
                              how->checksum_value))
        return S3S_BAD_DIGEST;
    object->checksum = s3s_checksum_lines(how->checksum, how->checksum_value);
    return S3S_OK;
}

enum s3s_code s3s_upload_complete(struct s3s_store *store, struct s3s_upload_name name,
                                  const struct s3s_wanted_part *wanted, size_t wanted_count,
                                  const struct s3s_completion *how,
                                  char etag[S3S_ETAG_CAPACITY])
{
    struct s3s_object *object = NULL;
    pthread_mutex_lock(&store->mutex);
    struct s3s_upload *upload = s3s_upload_find_locked(store, name);
    enum s3s_code code =
        upload ? check_wanted(store, upload, wanted, wanted_count) : S3S_NO_SUCH_UPLOAD;
    if (code)
        goto done;
    object = assemble(store, upload, wanted, wanted_count);
    memcpy(etag, object->etag, S3S_ETAG_CAPACITY);
    code = check_whole(object, how);
    if (!code)
        code = s3s_store_put_locked(upload->bucket, object, how->condition);
    if (code) { // the upload stays as it was, and keeps its blocks
        object->piece_count = 0;
        goto done;
    }
    object = NULL;
    for (size_t i = 0; i < wanted_count; i++)
        upload->parts[wanted[i].number - 1].piece.block = NULL;
    upload_unlink_locked(store, upload);
    upload_free(store->pool, upload);
done:
    pthread_mutex_unlock(&store->mutex);
    s3s_object_release(object);
    return code;
}

enum s3s_code s3s_upload_abort(struct s3s_store *store, struct s3s_upload_name name)
{
    pthread_mutex_lock(&store->mutex);
    struct s3s_upload *upload = s3s_upload_find_locked(store, name);
    if (upload)
        upload_unlink_locked(store, upload);
    pthread_mutex_unlock(&store->mutex);
    enum s3s_code code = upload ? S3S_OK : S3S_NO_SUCH_UPLOAD;
    upload_free(store->pool, upload);
    return code;
}
