/* What the tests of core/put.h share: one object, written in pieces of a known pattern. */
#ifndef TESTS_C_PUT_TEST_H
#define TESTS_C_PUT_TEST_H

#include "fake_store.h"
#include "test.h"

#include "core/put.h"

enum { PART = 64 * 1024 };

static inline struct s3d_put *open_put(struct fake_store *fake, unsigned concurrency)
{
    struct s3d_put_plan plan = {
        .key = "object", .part_bytes = PART, .concurrency = concurrency};
    struct s3d_put *put;
    CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, NULL), S3D_OK);
    return put;
}

/* Writes in pieces of `piece` bytes, each from memory of its own that is freed at once. */
static inline enum s3d_code write_pieces(struct s3d_put *put, const char *data, size_t size,
                                         size_t piece, int64_t timeout_ms, unsigned *agains,
                                         struct s3d_error *error)
{
    for (size_t at = 0; at < size;) {
        size_t length = size - at < piece ? size - at : piece, written = 0;
        char *copy = fake_memory(length);
        memcpy(copy, data + at, length);
        enum s3d_code code;
        while ((code = s3d_put_write(put, copy, length, &written, timeout_ms, error)) ==
               S3D_AGAIN) {
            CHECK(written <= length && timeout_ms >= 0);
            (*agains)++;
        }
        free(copy);
        if (code) {
            return code;
        }
        CHECK(written == length);
        at += length;
    }
    return S3D_OK;
}

static inline enum s3d_code finish(struct s3d_put *put, int64_t timeout_ms, unsigned *agains,
                                   struct s3d_error *error)
{
    enum s3d_code code;
    while ((code = s3d_put_finish(put, timeout_ms, error)) == S3D_AGAIN) {
        CHECK(timeout_ms >= 0);
        (*agains)++;
    }
    return code;
}

static inline char *pattern(size_t size)
{
    char *data = fake_memory(size);
    fake_pattern(data, size, 7);
    return data;
}

static inline void check_object(struct fake_store *fake, size_t size)
{
    size_t stored;
    const char *data = fake_object(fake, "object", &stored);
    CHECK(data != NULL && stored == size && fake_pattern_is(data, size, 7, 0));
}

static inline void check_no_object(struct fake_store *fake)
{
    size_t stored;
    CHECK(!fake_object(fake, "object", &stored));
    CHECK(fake_open_uploads(fake) == 0);
}

static inline void write_object(size_t size, size_t piece, unsigned concurrency,
                                int64_t timeout_ms)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(size);
    struct s3d_put *put = open_put(fake, concurrency);
    struct s3d_error error;
    unsigned agains = 0;
    CHECK_CODE(write_pieces(put, data, size, piece, timeout_ms, &agains, &error), S3D_OK);
    CHECK(s3d_put_bytes(put) == size && !s3d_put_finished(put));
    CHECK_TEXT(s3d_put_etag(put), "");
    size_t stored;
    CHECK(!fake_object(fake, "object", &stored)); /* nothing is visible before finish */
    CHECK_CODE(finish(put, timeout_ms, &agains, &error), S3D_OK);
    check_object(fake, size);
    CHECK(s3d_put_finished(put) && s3d_put_etag(put)[0] == '"');
    unsigned parts = size > PART ? (unsigned)((size + PART - 1) / PART) : 0;
    CHECK(fake_attempts(fake, S3D_VERB_PUT) == (parts ? 0 : 1));
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_CREATE) == (parts ? 1 : 0));
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_PART) == parts);
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_COMPLETE) == (parts ? 1 : 0));
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_ABORT) == 0);
    CHECK(fake_peak(fake, S3D_VERB_UPLOAD_PART) <= concurrency);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

static inline enum s3d_code refer(struct s3d_put *put, const void *data, size_t length,
                                  int64_t timeout_ms, struct s3d_error *error)
{
    size_t written = 0;
    enum s3d_code code;
    while ((code = s3d_put_refer(put, data, length, &written, timeout_ms, error)) ==
           S3D_AGAIN) {
        CHECK(written <= length && timeout_ms >= 0);
    }
    CHECK(code || written == length);
    return code;
}

/* Every later call gives the first error, and nothing is left in the store. */
static inline void check_poisoned(struct s3d_put *put, const struct s3d_error *first)
{
    struct s3d_error again;
    size_t written = 0;
    for (int i = 0; i < 2; i++) {
        memset(&again, 0, sizeof again);
        CHECK_CODE(s3d_put_write(put, "x", 1, &written, -1, &again), first->code);
        CHECK_TEXT(again.message, first->message);
        memset(&again, 0, sizeof again);
        CHECK_CODE(s3d_put_finish(put, -1, &again), first->code);
        CHECK_TEXT(again.message, first->message);
        s3d_put_abort(put, NULL);
    }
    CHECK(written == 0 && !s3d_put_finished(put));
}

static inline void check_cancelled(struct s3d_put *put)
{
    struct s3d_error error;
    CHECK_CODE(s3d_put_finish(put, -1, &error), S3D_CANCELLED);
    check_poisoned(put, &error);
}

#endif
