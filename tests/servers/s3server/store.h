// Buckets, objects and open multipart uploads, all in memory, all behind one mutex: the work under it is a search and
// a few pointers, never a body.
// An object never changes once it is published; a reader holds a reference, so overwriting or deleting it while it is
// being sent only drops the store's own.
#ifndef S3S_STORE_H
#define S3S_STORE_H

#include <stdatomic.h>

#include "codes.h"
#include "pool.h"

enum {
    S3S_PART_NUMBER_MAX = 10000,
    S3S_KEY_MAX_BYTES = 1024,
    S3S_ETAG_CAPACITY = 64,
    S3S_ID_CAPACITY = 40
};

// A stretch of a body. Without a block the bytes are the pattern's, at the offset within the whole object.
struct s3s_piece {
    struct s3s_block *block;
    uint64_t size_bytes;
};

struct s3s_object {
    atomic_uint references;
    struct s3s_pool *pool; // frozen from here on
    char *key;
    size_t key_length;
    char *headers;                // stored header lines, each ending in CRLF
    char *checksum;               // lines for those who ask; NULL: the client sent none
    char etag[S3S_ETAG_CAPACITY]; // without quotes
    int64_t modified_s;
    uint64_t size_bytes;
    struct s3s_piece *pieces;
    size_t piece_count;
    bool is_virtual; // a --pattern-object: survives a reset
};

struct s3s_part {
    struct s3s_piece piece;
    char etag[S3S_ETAG_CAPACITY];
    unsigned char md5[16];
    int64_t modified_s;
    bool present;
};

struct s3s_upload {
    struct s3s_upload *next;
    struct s3s_bucket *bucket;
    char id[S3S_ID_CAPACITY];
    char *key;
    size_t key_length;
    char *headers;
    const struct s3s_checksum *checksum; // that all parts must carry; NULL: none
    int64_t started_s;
    struct s3s_part *parts; // [n - 1] is part n
    size_t part_capacity;
};

struct s3s_bucket {
    struct s3s_bucket *next;
    char name[64];
    struct s3s_object **objects; // ordered by key
    size_t count, capacity;
};

struct s3s_store {
    pthread_mutex_t mutex;
    struct { // under mutex
        struct s3s_bucket *buckets;
        struct s3s_upload *uploads;
    } locked;
    struct s3s_pool *pool;       // frozen
    uint64_t min_part_bytes;     // frozen
    bool real_md5;               // frozen
    atomic_uint_fast64_t serial; // for etags and ids
};

void s3s_store_init(struct s3s_store *store, struct s3s_pool *pool, uint64_t min_part_bytes,
                    bool real_md5);
void s3s_store_fini(struct s3s_store *store);
void s3s_store_reset(
    struct s3s_store *store); // every upload and every object that is not virtual
void s3s_store_make_id(struct s3s_store *store, char id[33]);

bool s3s_bucket_name_is_valid(struct s3s_span name);
enum s3s_code s3s_store_bucket_create(struct s3s_store *store, struct s3s_span name);
enum s3s_code s3s_store_bucket_delete(struct s3s_store *store, struct s3s_span name);
bool s3s_store_bucket_exists(struct s3s_store *store, struct s3s_span name);
struct s3s_bucket *s3s_store_bucket_locked(struct s3s_store *store, struct s3s_span name);
size_t s3s_bucket_lower_bound(const struct s3s_bucket *bucket,
                              struct s3s_span key); // first object >= key
struct s3s_span s3s_object_key(const struct s3s_object *object);

struct s3s_object *s3s_object_new(struct s3s_pool *pool, struct s3s_span key,
                                  const char *headers);
void s3s_object_release(struct s3s_object *object);
// What must hold for a write; zeroed: nothing.
struct s3s_condition {
    bool if_absent;
    const struct s3s_span *if_match; // this ETag, quoted or not
};
// Whether an If-(None-)Match list names this ETag, quoted or not.
bool s3s_etag_is_named(struct s3s_span list, const char *etag);
// A published object belongs to the store; after an error it is still the caller's.
enum s3s_code s3s_store_put(struct s3s_store *store, struct s3s_span bucket,
                            struct s3s_object *object, struct s3s_condition condition);
enum s3s_code s3s_store_put_locked(struct s3s_bucket *bucket, struct s3s_object *object,
                                   struct s3s_condition condition);
enum s3s_code s3s_store_acquire(struct s3s_store *store, struct s3s_span bucket,
                                struct s3s_span key, struct s3s_object **object);
enum s3s_code s3s_store_delete(struct s3s_store *store, struct s3s_span bucket,
                               struct s3s_span key);

// Which upload a request names: all of it must agree.
struct s3s_upload_name {
    struct s3s_span bucket, key, id;
};

struct s3s_checksum;

struct s3s_wanted_part { // one <Part> of a completion
    uint64_t number;
    char etag[S3S_ETAG_CAPACITY];
};

// What a completion asks for besides its parts.
struct s3s_completion {
    struct s3s_condition condition;
    const struct s3s_checksum *checksum; // of the whole object; NULL: none is told
    struct s3s_span checksum_value;
};

enum s3s_code s3s_upload_create(struct s3s_store *store, struct s3s_span bucket,
                                struct s3s_span key, const char *headers,
                                const struct s3s_checksum *checksum, char id[33]);
enum s3s_code s3s_upload_check(struct s3s_store *store, struct s3s_upload_name name);
struct s3s_upload *s3s_upload_find_locked(struct s3s_store *store, struct s3s_upload_name name);
// On success the piece belongs to the upload.
enum s3s_code s3s_upload_put_part(struct s3s_store *store, struct s3s_upload_name name,
                                  uint64_t number, const struct s3s_part *part,
                                  const struct s3s_checksum *checksum);
enum s3s_code s3s_upload_complete(struct s3s_store *store, struct s3s_upload_name name,
                                  const struct s3s_wanted_part *wanted, size_t wanted_count,
                                  const struct s3s_completion *how,
                                  char etag[S3S_ETAG_CAPACITY]);
enum s3s_code s3s_upload_abort(struct s3s_store *store, struct s3s_upload_name name);
void s3s_upload_abort_all_locked(struct s3s_store *store);

#endif
