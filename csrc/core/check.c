#include "core/check.h"

#include "core/call.h"
#include "core/mem.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A stretch of the object and its sums: of one kind once that is known, of all before. */
struct piece {
    uint64_t offset_bytes, length_bytes;
    uint64_t sums[S3D_SUM_KINDS];
};

struct s3d_check {
    /* frozen */
    struct s3d_store *store;
    char *key;
    atomic_uint references;
    /* locked{mutex} */
    pthread_mutex_t mutex;
    struct piece *pieces;
    size_t piece_count, piece_capacity;
    bool learnt;  /* an answer has been seen */
    bool dropped; /* nothing to compare */
    int kind;     /* in store->check_kinds, or ANY_KIND */
    char etag[S3D_ETAG_MAX];
    char stored[S3D_SUM_TEXT];
    /* set by the first to learn, before anybody ends */
    struct s3d_call *question;
};

enum { ANY_KIND = -1 };

enum s3d_code s3d_check_new(struct s3d_check **out, struct s3d_store *store, const char *key,
                            struct s3d_error *error)
{
    *out = NULL;
    if (!store->check_kinds) {
        return S3D_OK;
    }
    struct s3d_check *check = s3d_alloc_zeroed(1, sizeof *check);
    char *copy = s3d_copy_string(key);
    if (!check || !copy) {
        s3d_free(check);
        s3d_free(copy);
        return s3d_fail_memory(error, sizeof *check);
    }
    pthread_mutex_init(&check->mutex, NULL);
    atomic_init(&check->references, 1);
    check->key = copy;
    check->kind = ANY_KIND;
    check->store = s3d_store_acquire(store);
    *out = check;
    return S3D_OK;
}

struct s3d_check *s3d_check_acquire(struct s3d_check *check)
{
    if (check) {
        atomic_fetch_add_explicit(&check->references, 1, memory_order_relaxed);
    }
    return check;
}

void s3d_check_release(struct s3d_check *check)
{
    if (!check || atomic_fetch_sub_explicit(&check->references, 1, memory_order_acq_rel) != 1) {
        return;
    }
    s3d_call_free(check->question);
    pthread_mutex_destroy(&check->mutex);
    s3d_store_release(check->store);
    s3d_free(check->pieces);
    s3d_free(check->key);
    s3d_free(check);
}

/* ---- what is stored ---- */

static bool take_stored_locked(struct s3d_check *check, const struct s3d_object *object)
{
    for (int i = 0; object->sum_kind && i < S3D_SUM_KINDS; i++) {
        if (check->store->check_kinds[i] == object->sum_kind) {
            check->kind = i;
            memcpy(check->stored, object->sum, sizeof check->stored);
            return true;
        }
    }
    return false;
}

static enum s3d_code ask(struct s3d_check *check, struct s3d_error *error)
{
    enum s3d_code code = s3d_call_new(&check->question, check->store, error);
    if (code) {
        check->question = NULL;
        s3d_check_drop(check); /* whoever lacked the memory fails, and says so */
        return code;
    }
    check->question->request.verb = S3D_VERB_STAT;
    check->question->request.key = check->key;
    s3d_call_start(check->question);
    return S3D_OK;
}

enum s3d_code s3d_check_learn(struct s3d_check *check, const struct s3d_object *object,
                              struct s3d_error *error)
{
    if (!check) {
        return S3D_OK;
    }
    pthread_mutex_lock(&check->mutex);
    bool is_question = !check->learnt && !check->dropped && !take_stored_locked(check, object);
    if (!check->learnt) {
        memcpy(check->etag, object->etag, sizeof check->etag);
    }
    check->learnt = true;
    pthread_mutex_unlock(&check->mutex);
    return is_question ? ask(check, error) : S3D_OK;
}

/* What came of the question. */
static enum s3d_code hear(struct s3d_check *check, int64_t timeout_ms, struct s3d_error *error)
{
    enum s3d_code code = s3d_call_wait(check->question, timeout_ms, error);
    if (code && code != S3D_NOT_FOUND) {
        return code;
    }
    const struct s3d_object *object = &check->question->request.result.object;
    pthread_mutex_lock(&check->mutex);
    bool is_other = code || strcmp(object->etag, check->etag) != 0;
    if (is_other || !take_stored_locked(check, object)) {
        check->dropped = true;
    }
    pthread_mutex_unlock(&check->mutex);
    return S3D_OK;
}

/* ---- what is read ---- */

static void update(const struct s3d_check *check, int kind, struct piece *piece,
                   const void *data, size_t length)
{
    for (int i = 0; i < S3D_SUM_KINDS; i++) {
        if (kind == ANY_KIND || kind == i) {
            piece->sums[i] = check->store->check_kinds[i]->update(0, data, length);
        }
    }
}

static void append(const struct s3d_check *check, struct piece *to, const struct piece *next)
{
    for (int i = 0; i < S3D_SUM_KINDS; i++) {
        if (check->kind == ANY_KIND || check->kind == i) {
            to->sums[i] = check->store->check_kinds[i]->combine(to->sums[i], next->sums[i],
                                                                next->length_bytes);
        }
    }
    to->length_bytes += next->length_bytes;
}

static bool follows(const struct piece *piece, const struct piece *next)
{
    return piece->offset_bytes + piece->length_bytes == next->offset_bytes;
}

static enum s3d_code keep_locked(struct s3d_check *check, const struct piece *piece,
                                 struct s3d_error *error)
{
    struct piece *last = check->piece_count ? &check->pieces[check->piece_count - 1] : NULL;
    if (last && follows(last, piece)) {
        append(check, last, piece);
        return S3D_OK;
    }
    if (check->piece_count == check->piece_capacity) {
        size_t capacity = check->piece_capacity ? check->piece_capacity * 2 : 16, bytes;
        struct piece *pieces = s3d_size_mul(capacity, sizeof *pieces, &bytes)
                                   ? s3d_resize(check->pieces, bytes)
                                   : NULL;
        if (!pieces) {
            return s3d_fail_memory(error, capacity * sizeof *pieces);
        }
        check->pieces = pieces;
        check->piece_capacity = capacity;
    }
    check->pieces[check->piece_count++] = *piece;
    return S3D_OK;
}

enum s3d_code s3d_check_add(struct s3d_check *check, uint64_t offset, const void *data,
                            uint64_t length, struct s3d_error *error)
{
    if (!check || !length) {
        return S3D_OK;
    }
    pthread_mutex_lock(&check->mutex);
    bool dropped = check->dropped;
    int kind = check->kind;
    pthread_mutex_unlock(&check->mutex);
    if (dropped) {
        return S3D_OK;
    }
    struct piece piece = {.offset_bytes = offset, .length_bytes = length};
    update(check, kind, &piece, data, (size_t)length);
    pthread_mutex_lock(&check->mutex);
    enum s3d_code code = keep_locked(check, &piece, error);
    pthread_mutex_unlock(&check->mutex);
    return code;
}

void s3d_check_drop(struct s3d_check *check)
{
    if (check) {
        pthread_mutex_lock(&check->mutex);
        check->dropped = true;
        pthread_mutex_unlock(&check->mutex);
    }
}

/* ---- both ---- */

static int compare_pieces(const void *a, const void *b)
{
    const struct piece *left = a, *right = b;
    return left->offset_bytes < right->offset_bytes ? -1
                                                    : left->offset_bytes > right->offset_bytes;
}

/* Joins all pieces to one. False: they are not all of the object. */
static bool join_locked(struct s3d_check *check, uint64_t size_bytes)
{
    if (!check->piece_count) {
        return false;
    }
    struct piece *pieces = check->pieces;
    qsort(pieces, check->piece_count, sizeof *pieces, compare_pieces);
    size_t last = 0;
    for (size_t i = 1; i < check->piece_count; i++) {
        if (follows(&pieces[last], &pieces[i])) {
            append(check, &pieces[last], &pieces[i]);
        } else {
            pieces[++last] = pieces[i];
        }
    }
    check->piece_count = last + 1;
    return !last && !pieces[0].offset_bytes && pieces[0].length_bytes == size_bytes;
}

enum s3d_code s3d_check_fail(struct s3d_error *error, const struct s3d_sum_kind *kind,
                             const char *stored, const char *computed)
{
    s3d_fail(error, S3D_INTEGRITY,
             "the bytes that were read are not those that were stored: their %s is %s, but the "
             "store keeps %s",
             kind->name, computed, stored);
    s3d_error_set_operation(error, "%s", s3d_verb_name(S3D_VERB_GET));
    return S3D_INTEGRITY;
}

enum s3d_code s3d_check_end(struct s3d_check *check, uint64_t size_bytes, int64_t timeout_ms,
                            struct s3d_error *error)
{
    if (!check) {
        return S3D_OK;
    }
    pthread_mutex_lock(&check->mutex);
    bool asks = check->learnt && !check->dropped && check->kind == ANY_KIND && check->question;
    pthread_mutex_unlock(&check->mutex);
    enum s3d_code code = asks ? hear(check, timeout_ms, error) : S3D_OK;
    if (code) {
        return code;
    }
    pthread_mutex_lock(&check->mutex);
    if (!check->dropped && check->kind != ANY_KIND && join_locked(check, size_bytes)) {
        const struct s3d_sum_kind *kind = check->store->check_kinds[check->kind];
        char computed[S3D_SUM_TEXT];
        kind->write(check->pieces[0].sums[check->kind], computed);
        if (strcmp(computed, check->stored) != 0) {
            code = s3d_check_fail(error, kind, check->stored, computed);
        }
    }
    pthread_mutex_unlock(&check->mutex);
    return code;
}
