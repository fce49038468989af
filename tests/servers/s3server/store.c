#include "store.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

void s3s_store_init(struct s3s_store *store, struct s3s_pool *pool, uint64_t min_part_bytes,
                    bool real_md5)
{
    *store = (struct s3s_store){
        .pool = pool, .min_part_bytes = min_part_bytes, .real_md5 = real_md5};
    pthread_mutex_init(&store->mutex, NULL);
    atomic_init(&store->serial, (uint64_t)time(NULL) << 24);
}

static uint64_t mix(uint64_t x)
{ // splitmix64's finisher: a bijection, so serials never collide
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void s3s_store_make_id(struct s3s_store *store, char id[33])
{
    uint64_t serial = atomic_fetch_add(&store->serial, 1);
    snprintf(id, 33, "%016lx%016lx", (unsigned long)mix(serial), (unsigned long)mix(~serial));
}

struct s3s_span s3s_object_key(const struct s3s_object *object)
{
    return (struct s3s_span){object->key, object->key_length};
}

struct s3s_object *s3s_object_new(struct s3s_pool *pool, struct s3s_span key,
                                  const char *headers)
{
    struct s3s_object *object = s3s_mem_zalloc(sizeof *object);
    atomic_init(&object->references, 1);
    object->pool = pool;
    object->key = s3s_mem_copy(key.data, key.length);
    object->key_length = key.length;
    object->headers = s3s_mem_copy(headers, strlen(headers));
    object->modified_s = time(NULL);
    return object;
}

void s3s_object_release(struct s3s_object *object)
{
    if (!object || atomic_fetch_sub(&object->references, 1) != 1)
        return;
    for (size_t i = 0; i < object->piece_count; i++)
        s3s_pool_give(object->pool, object->pieces[i].block);
    s3s_mem_free(object->pieces);
    s3s_mem_free(object->key);
    s3s_mem_free(object->headers);
    s3s_mem_free(object->checksum);
    s3s_mem_free(object);
}

bool s3s_bucket_name_is_valid(struct s3s_span name)
{
    if (name.length < 1 || name.length > 63) // S3 wants three; one is handy in tests
        return false;
    for (size_t i = 0; i < name.length; i++) {
        char c = name.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.'))
            return false;
    }
    return name.data[0] != '.' && name.data[0] != '-';
}

struct s3s_bucket *s3s_store_bucket_locked(struct s3s_store *store, struct s3s_span name)
{
    struct s3s_bucket *bucket = store->locked.buckets;
    while (bucket && !s3s_span_is(name, bucket->name))
        bucket = bucket->next;
    return bucket;
}

bool s3s_store_bucket_exists(struct s3s_store *store, struct s3s_span name)
{
    pthread_mutex_lock(&store->mutex);
    bool exists = s3s_store_bucket_locked(store, name) != NULL;
    pthread_mutex_unlock(&store->mutex);
    return exists;
}

enum s3s_code s3s_store_bucket_create(struct s3s_store *store, struct s3s_span name)
{
    if (!s3s_bucket_name_is_valid(name))
        return S3S_INVALID_BUCKET;
    struct s3s_bucket *bucket = s3s_mem_zalloc(sizeof *bucket);
    s3s_span_store(name, bucket->name, sizeof bucket->name);
    pthread_mutex_lock(&store->mutex);
    enum s3s_code code = s3s_store_bucket_locked(store, name) ? S3S_BUCKET_EXISTS : S3S_OK;
    if (!code) {
        bucket->next = store->locked.buckets;
        store->locked.buckets = bucket;
        bucket = NULL;
    }
    pthread_mutex_unlock(&store->mutex);
    s3s_mem_free(bucket);
    return code;
}

static void bucket_empty(struct s3s_bucket *bucket, bool keep_virtual)
{
    size_t kept = 0;
    for (size_t i = 0; i < bucket->count; i++) {
        if (keep_virtual && bucket->objects[i]->is_virtual)
            bucket->objects[kept++] = bucket->objects[i];
        else
            s3s_object_release(bucket->objects[i]);
    }
    bucket->count = kept;
}

static bool bucket_has_upload_locked(const struct s3s_store *store,
                                     const struct s3s_bucket *bucket)
{
    const struct s3s_upload *upload = store->locked.uploads;
    while (upload && upload->bucket != bucket)
        upload = upload->next;
    return upload != NULL;
}

enum s3s_code s3s_store_bucket_delete(struct s3s_store *store, struct s3s_span name)
{
    enum s3s_code code = S3S_NO_SUCH_BUCKET;
    pthread_mutex_lock(&store->mutex);
    struct s3s_bucket **at = &store->locked.buckets;
    while (*at && !s3s_span_is(name, (*at)->name))
        at = &(*at)->next;
    struct s3s_bucket *bucket = *at;
    if (bucket && (bucket->count || bucket_has_upload_locked(store, bucket))) {
        code = S3S_BUCKET_NOT_EMPTY;
    } else if (bucket) {
        *at = bucket->next;
        s3s_mem_free(bucket->objects);
        s3s_mem_free(bucket);
        code = S3S_OK;
    }
    pthread_mutex_unlock(&store->mutex);
    return code;
}

void s3s_store_reset(struct s3s_store *store)
{
    pthread_mutex_lock(&store->mutex);
    s3s_upload_abort_all_locked(store);
    for (struct s3s_bucket *bucket = store->locked.buckets; bucket; bucket = bucket->next)
        bucket_empty(bucket, true);
    pthread_mutex_unlock(&store->mutex);
}

void s3s_store_fini(struct s3s_store *store)
{
    s3s_upload_abort_all_locked(store);
    while (store->locked.buckets) {
        struct s3s_bucket *bucket = store->locked.buckets;
        store->locked.buckets = bucket->next;
        bucket_empty(bucket, false);
        s3s_mem_free(bucket->objects);
        s3s_mem_free(bucket);
    }
    pthread_mutex_destroy(&store->mutex);
}

size_t s3s_bucket_lower_bound(const struct s3s_bucket *bucket, struct s3s_span key)
{
    size_t low = 0, high = bucket->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s3s_span_compare(s3s_object_key(bucket->objects[middle]), key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool bucket_holds_at(const struct s3s_bucket *bucket, size_t at, struct s3s_span key)
{
    return at < bucket->count && !s3s_span_compare(s3s_object_key(bucket->objects[at]), key);
}

enum s3s_code s3s_store_put_locked(struct s3s_bucket *bucket, struct s3s_object *object,
                                   struct s3s_condition condition)
{
    size_t at = s3s_bucket_lower_bound(bucket, s3s_object_key(object));
    bool exists = bucket_holds_at(bucket, at, s3s_object_key(object));
    if (condition.if_match && !exists)
        return S3S_NO_SUCH_KEY;
    if (condition.if_match &&
        !s3s_etag_is_named(*condition.if_match, bucket->objects[at]->etag))
        return S3S_PRECONDITION;
    if (exists) {
        if (condition.if_absent)
            return S3S_PRECONDITION;
        s3s_object_release(bucket->objects[at]);
        bucket->objects[at] = object;
        return S3S_OK;
    }
    if (bucket->count == bucket->capacity) {
        bucket->capacity = bucket->capacity ? bucket->capacity * 2 : 16;
        bucket->objects =
            s3s_mem_resize(bucket->objects, bucket->capacity * sizeof *bucket->objects);
    }
    memmove(bucket->objects + at + 1, bucket->objects + at,
            (bucket->count - at) * sizeof *bucket->objects);
    bucket->objects[at] = object;
    bucket->count++;
    return S3S_OK;
}

enum s3s_code s3s_store_put(struct s3s_store *store, struct s3s_span name,
                            struct s3s_object *object, struct s3s_condition condition)
{
    pthread_mutex_lock(&store->mutex);
    struct s3s_bucket *bucket = s3s_store_bucket_locked(store, name);
    enum s3s_code code =
        bucket ? s3s_store_put_locked(bucket, object, condition) : S3S_NO_SUCH_BUCKET;
    pthread_mutex_unlock(&store->mutex);
    return code;
}

enum s3s_code s3s_store_acquire(struct s3s_store *store, struct s3s_span name,
                                struct s3s_span key, struct s3s_object **object)
{
    enum s3s_code code = S3S_NO_SUCH_BUCKET;
    pthread_mutex_lock(&store->mutex);
    struct s3s_bucket *bucket = s3s_store_bucket_locked(store, name);
    if (bucket) {
        size_t at = s3s_bucket_lower_bound(bucket, key);
        code = S3S_NO_SUCH_KEY;
        if (bucket_holds_at(bucket, at, key)) {
            *object = bucket->objects[at];
            atomic_fetch_add(&(*object)->references, 1);
            code = S3S_OK;
        }
    }
    pthread_mutex_unlock(&store->mutex);
    return code;
}

enum s3s_code s3s_store_delete(struct s3s_store *store, struct s3s_span name,
                               struct s3s_span key)
{
    pthread_mutex_lock(&store->mutex);
    struct s3s_bucket *bucket = s3s_store_bucket_locked(store, name);
    size_t at = bucket ? s3s_bucket_lower_bound(bucket, key) : 0;
    if (bucket && bucket_holds_at(bucket, at, key)) {
        s3s_object_release(bucket->objects[at]);
        bucket->count--;
        memmove(bucket->objects + at, bucket->objects + at + 1,
                (bucket->count - at) * sizeof *bucket->objects);
    }
    pthread_mutex_unlock(&store->mutex);
    return bucket ? S3S_OK : S3S_NO_SUCH_BUCKET;
}
