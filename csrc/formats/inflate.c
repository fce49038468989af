#include "formats/inflate.h"

#include "core/mem.h"

#include <isa-l/igzip_lib.h>

enum { PIECE_MAX_BYTES = 1 << 30 }; /* ISA-L counts in 32 bits */

struct s3d_inflate {
    struct inflate_state state;
};

enum s3d_code s3d_inflate_new(struct s3d_inflate **out, struct s3d_error *error)
{
    struct s3d_inflate *inflate = s3d_alloc_zeroed(1, sizeof *inflate);
    *out = inflate;
    if (!inflate) {
        return s3d_fail_memory(error, sizeof *inflate);
    }
    isal_inflate_init(&inflate->state);
    inflate->state.crc_flag = ISAL_DEFLATE;
    return S3D_OK;
}

void s3d_inflate_free(struct s3d_inflate *inflate)
{
    s3d_free(inflate);
}

bool s3d_inflate_ended(const struct s3d_inflate *inflate)
{
    return inflate->state.block_state == ISAL_BLOCK_FINISH;
}

static uint32_t piece(size_t bytes)
{
    return bytes < PIECE_MAX_BYTES ? (uint32_t)bytes : PIECE_MAX_BYTES;
}

static const char *problem(int result)
{
    switch (result) {
    case ISAL_INVALID_BLOCK: return "an invalid block";
    case ISAL_INVALID_SYMBOL: return "an invalid symbol";
    case ISAL_INVALID_LOOKBACK: return "a copy from before its start";
    default: return "invalid data";
    }
}

enum s3d_code s3d_inflate_run(struct s3d_inflate *inflate, const void *in, size_t in_bytes,
                              void *out, size_t out_bytes, size_t *consumed, size_t *produced,
                              struct s3d_error *error)
{
    struct inflate_state *state = &inflate->state;
    *consumed = *produced = 0;
    while (!s3d_inflate_ended(inflate)) {
        uint32_t given = piece(in_bytes - *consumed), room = piece(out_bytes - *produced);
        state->next_in = (uint8_t *)(uintptr_t)in + *consumed; /* only read from */
        state->avail_in = given;
        state->next_out = (uint8_t *)out + *produced;
        state->avail_out = room;
        int result = isal_inflate(state);
        if (result != ISAL_DECOMP_OK && result != ISAL_END_INPUT &&
            result != ISAL_OUT_OVERFLOW) {
            return s3d_fail(error, S3D_INTEGRITY, "%s in the compressed bytes",
                            problem(result)); /* its counts may be off now */
        }
        size_t used = given - state->avail_in, made = room - state->avail_out;
        *consumed += used;
        *produced += made;
        if (!used && !made) {
            break; /* the one is used up, or the other full */
        }
    }
    return S3D_OK;
}
