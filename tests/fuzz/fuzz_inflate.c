/*
 * A fuzz target: the input is the size of the pieces (1 byte each way) and bytes that may be raw
 * deflate data. Besides crashes it looks for broken promises of inflate.h: output that depends on how
 * input and output are cut, bytes written past the room that was given, no progress.
 *
 *   clang -g -O1 -std=gnu11 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Icsrc \
 *       tests/fuzz/fuzz_inflate.c csrc/formats/inflate.c csrc/core/{mem,str,error}.c -lisal
 *
 * The decoder's inner loops are assembly, which no sanitizer sees: so the room is followed by bytes
 * that must not change. tests/c/test_fuzz_replay.c runs it over tests/fuzz/corpus/inflate in every
 * `make test`.
 */
#include "formats/inflate.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INFLATE_PROMISE(condition)                                                             \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            __builtin_trap();                                                                  \
        }                                                                                      \
    } while (0)

enum { INFLATE_ROOM = 1 << 16, INFLATE_GUARD = 512, INFLATE_MARK = 0xA5 };

static size_t inflate_least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Up to INFLATE_ROOM bytes of output, in such pieces. Returns how many, and why it ended. */
static size_t inflate_pieces(const uint8_t *data, size_t size, size_t in_piece,
                             size_t out_piece, uint8_t *out, bool *ended, enum s3d_code *code)
{
    struct s3d_inflate *inflate;
    struct s3d_error error = {0};
    size_t in_at = 0, in_end = 0, out_at = 0;
    INFLATE_PROMISE(!s3d_inflate_new(&inflate, &error));
    memset(out, INFLATE_MARK, INFLATE_ROOM + INFLATE_GUARD);
    for (;;) {
        size_t used, made, room = inflate_least(out_piece, INFLATE_ROOM - out_at);
        uint8_t *in = malloc(in_end - in_at ? in_end - in_at : 1);
        INFLATE_PROMISE(in);
        memcpy(in, data + in_at, in_end - in_at);
        *code = s3d_inflate_run(inflate, in, in_end - in_at, out + out_at, room, &used, &made,
                                &error);
        free(in);
        INFLATE_PROMISE(used <= in_end - in_at && made <= room);
        in_at += used;
        out_at += made;
        for (size_t i = out_at; i < out_at + INFLATE_GUARD; i++) {
            INFLATE_PROMISE(*code || out[i] == INFLATE_MARK);
        }
        *ended = s3d_inflate_ended(inflate);
        if (*code || *ended || (!made && room && in_end == size) || !room) {
            break;
        }
        if (!made) {
            INFLATE_PROMISE(in_at == in_end);
            in_end += inflate_least(in_piece, size - in_end);
        }
    }
    INFLATE_PROMISE(*code == S3D_OK || (*code == S3D_INTEGRITY && error.message[0]));
    s3d_inflate_free(inflate);
    return out_at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    uint8_t *whole = malloc(INFLATE_ROOM + INFLATE_GUARD);
    uint8_t *cut = malloc(INFLATE_ROOM + INFLATE_GUARD);
    INFLATE_PROMISE(whole && cut);
    bool whole_ended, cut_ended;
    enum s3d_code whole_code, cut_code;
    size_t one = inflate_pieces(data + 2, size - 2, size, INFLATE_ROOM, whole, &whole_ended,
                                &whole_code);
    size_t other = inflate_pieces(data + 2, size - 2, 1 + data[0], 1 + data[1] * (size_t)16,
                                  cut, &cut_ended, &cut_code);
    if (!whole_code && !cut_code) {
        INFLATE_PROMISE(one == other && whole_ended == cut_ended);
    }
    INFLATE_PROMISE(memcmp(whole, cut, inflate_least(one, other)) == 0);
    free(whole);
    free(cut);
    return 0;
}
