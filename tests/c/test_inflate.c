#include "test.h"

#include "formats/inflate.h"

#include <isa-l/igzip_lib.h>

enum { DATA_BYTES = 150 * 1000 };

/* Runs long and short, near and far, and stretches that do not compress. */
static uint8_t *make_data(void)
{
    uint8_t *data = malloc(DATA_BYTES);
    CHECK(data);
    uint32_t state = 1;
    size_t distance = 1, until = 0;
    for (size_t i = 0; i < DATA_BYTES; i++) {
        state = state * 1664525 + 1013904223;
        if (i >= until) {
            distance = 1 + (state >> 8) % 32768;
            until = i + (state >> 24) * 4;
        }
        bool noise = i < distance || i / 40000 % 4 == 1;
        data[i] = noise ? (uint8_t)(state >> 24) : data[i - distance];
    }
    return data;
}

static uint8_t *deflate_all(const uint8_t *data, size_t length, size_t *deflated)
{
    size_t room = length + length / 8 + 4096;
    uint8_t *out = malloc(room);
    struct isal_zstream stream;
    CHECK(out);
    isal_deflate_stateless_init(&stream);
    stream.next_in = (uint8_t *)(uintptr_t)data;
    stream.avail_in = (uint32_t)length;
    stream.next_out = out;
    stream.avail_out = (uint32_t)room;
    stream.end_of_stream = 1;
    CHECK(isal_deflate_stateless(&stream) == COMP_OK);
    *deflated = stream.total_out;
    return out;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* In pieces of these sizes, each output piece in memory of its own, so that none is written past. */
static void check_pieces(const uint8_t *data, const uint8_t *deflated, size_t length,
                         size_t in_piece, size_t out_piece)
{
    struct s3d_inflate *inflate;
    struct s3d_error error;
    CHECK_CODE(s3d_inflate_new(&inflate, &error), S3D_OK);
    uint8_t *piece = malloc(out_piece);
    CHECK(piece);
    size_t in_at = 0, in_end = 0, out_at = 0;
    while (!s3d_inflate_ended(inflate)) {
        size_t used, made;
        CHECK_CODE(s3d_inflate_run(inflate, deflated + in_at, in_end - in_at, piece, out_piece,
                                   &used, &made, &error),
                   S3D_OK);
        CHECK(used <= in_end - in_at && made <= out_piece && made <= DATA_BYTES - out_at);
        CHECK(memcmp(piece, data + out_at, made) == 0);
        in_at += used;
        out_at += made;
        if (!made && !s3d_inflate_ended(inflate)) {
            CHECK(in_at == in_end && in_end < length);
            in_end += least(in_piece, length - in_end);
        }
    }
    CHECK(out_at == DATA_BYTES);
    free(piece);
    s3d_inflate_free(inflate);
}

static void test_pieces(void)
{
    const size_t pieces[] = {1, 3, 1000, 32768, 65536, DATA_BYTES};
    const size_t count = sizeof pieces / sizeof *pieces;
    uint8_t *data = make_data();
    size_t length;
    uint8_t *deflated = deflate_all(data, DATA_BYTES, &length);
    CHECK(length < DATA_BYTES * 3 / 4);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < count; k++) {
            check_pieces(data, deflated, length, pieces[i], pieces[k]);
        }
    }
    free(deflated);
    free(data);
}

/* What a hundred and some bytes inflate to, if to anything. */
static enum s3d_code inflate_small(const void *in, size_t length, char *out, size_t room,
                                   size_t *made, bool *ended)
{
    struct s3d_inflate *inflate;
    struct s3d_error error;
    size_t used;
    CHECK_CODE(s3d_inflate_new(&inflate, &error), S3D_OK);
    enum s3d_code code = s3d_inflate_run(inflate, in, length, out, room, &used, made, &error);
    CHECK(!code || error.message[0]);
    *ended = s3d_inflate_ended(inflate);
    s3d_inflate_free(inflate);
    return code;
}

static void test_small(void)
{
    char out[64];
    size_t made;
    bool ended;
    /* A stored block, and what zlib makes of nothing. */
    CHECK_CODE(inflate_small("\1\5\0\xfa\xffhello", 10, out, sizeof out, &made, &ended),
               S3D_OK);
    CHECK(ended && made == 5 && memcmp(out, "hello", 5) == 0);
    CHECK_CODE(inflate_small("\3\0", 2, out, sizeof out, &made, &ended), S3D_OK);
    CHECK(ended && made == 0);
    CHECK_CODE(inflate_small("\1\5\0\xfa\xffhel", 8, out, sizeof out, &made, &ended), S3D_OK);
    CHECK(!ended && made <= 3);
    CHECK_CODE(inflate_small("", 0, out, sizeof out, &made, &ended), S3D_OK);
    CHECK(!ended && made == 0);
}

static void test_damage(void)
{
    char out[64];
    size_t made;
    bool ended;
    /* Block type 3; a stored block whose lengths disagree; a copy from before the start. */
    CHECK_CODE(inflate_small("\7", 1, out, sizeof out, &made, &ended), S3D_INTEGRITY);
    CHECK_CODE(inflate_small("\1\5\0\xfb\xffhello", 10, out, sizeof out, &made, &ended),
               S3D_INTEGRITY);
    CHECK_CODE(
        inflate_small("\x4b\x04\x12\x00\x00\x00\x00\x00", 8, out, sizeof out, &made, &ended),
        S3D_INTEGRITY);
}

static enum s3d_code attempt_new(void)
{
    struct s3d_inflate *inflate;
    struct s3d_error error;
    enum s3d_code code = s3d_inflate_new(&inflate, &error);
    s3d_inflate_free(inflate);
    return code;
}

static void test_without_memory(void)
{
    CHECK(test_torture(attempt_new, 0) == 1);
    s3d_inflate_free(NULL);
}

int main(void)
{
    RUN(test_pieces);
    RUN(test_small);
    RUN(test_damage);
    RUN(test_without_memory);
    return 0;
}
