#include "core/draft.h"

#include "core/mem.h"

#include <string.h>

/* Makes room for one more item of item_bytes in a growing array. */
static enum s3d_code grow(void **items, size_t count, size_t *capacity, size_t item_bytes,
                          struct s3d_error *error)
{
    if (count < *capacity) {
        return S3D_OK;
    }
    size_t larger = *capacity ? *capacity * 2 : 4;
    size_t bytes;
    void *resized = s3d_size_mul(larger, item_bytes, &bytes) ? s3d_resize(*items, bytes) : NULL;
    if (!resized) {
        return s3d_fail_memory(error, larger * item_bytes);
    }
    *items = resized;
    *capacity = larger;
    return S3D_OK;
}

static enum s3d_code add_span(struct s3d_draft *draft, char *data, size_t length,
                              struct s3d_error *error)
{
    struct s3d_span *last = draft->span_count ? &draft->spans[draft->span_count - 1] : NULL;
    if (last && last->data + last->length_bytes == data) {
        last->length_bytes += length; /* goes on where the last one ends */
    } else {
        void *spans = draft->spans;
        enum s3d_code code =
            grow(&spans, draft->span_count, &draft->span_capacity, sizeof *draft->spans, error);
        draft->spans = spans;
        if (code) {
            return code;
        }
        draft->spans[draft->span_count++] = (struct s3d_span){data, length};
    }
    draft->bytes += length;
    return S3D_OK;
}

enum s3d_code s3d_draft_refer(struct s3d_draft *draft, const void *data, size_t length,
                              struct s3d_error *error)
{
    if (!length) {
        return S3D_OK;
    }
    /* Only ever read from: the span's type serves both directions. */
    enum s3d_code code = add_span(draft, (char *)(uintptr_t)data, length, error);
    draft->referred_bytes += code ? 0 : length;
    return code;
}

size_t s3d_draft_room(const struct s3d_draft *draft)
{
    return draft->chunk_count
               ? draft->chunks[draft->chunk_count - 1].size_bytes - draft->chunk_used_bytes
               : 0;
}

enum s3d_code s3d_draft_copy(struct s3d_draft *draft, const void *data, size_t length,
                             struct s3d_error *error)
{
    if (!length) {
        return S3D_OK;
    }
    char *to = draft->chunks[draft->chunk_count - 1].data + draft->chunk_used_bytes;
    enum s3d_code code = add_span(draft, to, length, error);
    if (!code) {
        memcpy(to, data, length);
        draft->chunk_used_bytes += length;
    }
    return code;
}

enum s3d_code s3d_draft_add_chunk(struct s3d_draft *draft, struct s3d_chunk chunk,
                                  struct s3d_error *error)
{
    void *chunks = draft->chunks;
    enum s3d_code code =
        grow(&chunks, draft->chunk_count, &draft->chunk_capacity, sizeof *draft->chunks, error);
    draft->chunks = chunks;
    if (!code) {
        draft->chunks[draft->chunk_count++] = chunk;
        draft->chunk_used_bytes = 0;
    }
    return code;
}

enum s3d_code s3d_draft_own(struct s3d_draft *draft, struct s3d_draft *copy,
                            struct s3d_error *error)
{
    for (size_t i = 0; i < draft->span_count; i++) {
        enum s3d_code code =
            s3d_draft_copy(copy, draft->spans[i].data, draft->spans[i].length_bytes, error);
        if (code) {
            return code;
        }
    }
    s3d_draft_swap(draft, copy);
    return S3D_OK;
}

uint64_t s3d_draft_chunk_bytes(const struct s3d_draft *draft)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < draft->chunk_count; i++) {
        bytes += draft->chunks[i].size_bytes;
    }
    return bytes;
}

bool s3d_draft_take_chunk(struct s3d_draft *draft, struct s3d_chunk *chunk)
{
    if (!draft->chunk_count) {
        return false;
    }
    *chunk = draft->chunks[--draft->chunk_count];
    return true;
}

void s3d_draft_clear(struct s3d_draft *draft)
{
    draft->span_count = 0;
    draft->chunk_used_bytes = 0;
    draft->bytes = 0;
    draft->referred_bytes = 0;
}

void s3d_draft_swap(struct s3d_draft *a, struct s3d_draft *b)
{
    struct s3d_draft was = *a;
    *a = *b;
    *b = was;
}

void s3d_draft_fini(struct s3d_draft *draft)
{
    s3d_free(draft->spans);
    s3d_free(draft->chunks);
    *draft = (struct s3d_draft){0};
}
