#include "formats/zstd.h"

#include "core/mem.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

enum {
    JOB_BYTES = 2 * 1024 * 1024, /* of one thread at a time */
    FRAME_BYTES = 32 * 1024 * 1024,
    FRAMES_BEFORE_DOUBLING = 1024, /* so the table of an object of any size stays small */
    DOUBLINGS_MAX = 5,
    TABLE_HEAD_BYTES = 8,
    ENTRY_BYTES = 8,
    ENTRIES_START = 64,
    RATIO_MAX = 32 * 1024, /* a block of 128 KiB takes four bytes at least */
};
#define TABLE_MAGIC     0x184D2A5Eu
#define FOOTER_MAGIC    0x8F92EAB1u
#define FRAME_MAGIC     0xFD2FB528u
#define SKIPPABLE_MAGIC 0x184D2A50u

static void put_u32(unsigned char *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (unsigned char)(value >> (8 * i));
    }
}

static uint32_t get_u32(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
           (uint32_t)at[3] << 24;
}

static enum s3d_code fail(size_t result, const char *what, struct s3d_error *error)
{
    if (ZSTD_getErrorCode(result) == ZSTD_error_memory_allocation) {
        return s3d_fail(error, S3D_NO_MEMORY, "zstd has no memory to %s", what);
    }
    if (ZSTD_getErrorCode(result) == ZSTD_error_frameParameter_windowTooLarge) {
        return s3d_fail(
            error, S3D_INTEGRITY,
            "the zstd frame wants a window of more than 128 MiB to decompress: it was "
            "made with --long or --ultra, or is damaged");
    }
    return s3d_fail(error, S3D_INTEGRITY, "zstd could not %s: %s", what,
                    ZSTD_getErrorName(result));
}

/* --- compressing -------------------------------------------------------------------------- */

enum encoder_state { IN_FRAME, ENDING_FRAME, GIVING_TABLE, ENDED };

struct s3d_zstd_encoder {
    ZSTD_CCtx *context;
    enum encoder_state state;
    uint64_t frame_content, frame_stored; /* of the running frame, so far */
    unsigned char *table;               /* head, then an entry for each frame that has ended */
    size_t table_count, table_capacity; /* in entries */
    size_t table_bytes, table_given;    /* once it is whole */
};

static size_t frame_bytes(const struct s3d_zstd_encoder *encoder)
{
    size_t doublings = encoder->table_count / FRAMES_BEFORE_DOUBLING;
    return (size_t)FRAME_BYTES << (doublings < DOUBLINGS_MAX ? doublings : DOUBLINGS_MAX);
}

/* Room for one more entry and the footer. */
static enum s3d_code grow_table(struct s3d_zstd_encoder *encoder, struct s3d_error *error)
{
    if (encoder->table_count < encoder->table_capacity) {
        return S3D_OK;
    }
    size_t capacity = encoder->table_capacity ? encoder->table_capacity * 2 : ENTRIES_START;
    size_t bytes = TABLE_HEAD_BYTES + capacity * ENTRY_BYTES + S3D_ZSTD_FOOTER_BYTES;
    unsigned char *table = s3d_resize(encoder->table, bytes);
    if (!table) {
        return s3d_fail_memory(error, bytes);
    }
    encoder->table = table;
    encoder->table_capacity = capacity;
    return S3D_OK;
}

static enum s3d_code set_up(ZSTD_CCtx *context, int level, unsigned threads,
                            struct s3d_error *error)
{
    const struct {
        ZSTD_cParameter parameter;
        int value;
    } settings[] = {
        {ZSTD_c_compressionLevel, level},
        {ZSTD_c_checksumFlag, 1},
        {ZSTD_c_nbWorkers, (int)threads},
        {ZSTD_c_jobSize, JOB_BYTES},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        size_t result =
            ZSTD_CCtx_setParameter(context, settings[i].parameter, settings[i].value);
        if (ZSTD_isError(result)) {
            return s3d_fail(error, S3D_UNSUPPORTED, "this libzstd cannot compress so: %s",
                            ZSTD_getErrorName(result));
        }
    }
    return S3D_OK;
}

/* zstd starts its threads in the first step. Signals are for the threads of the program. */
static enum s3d_code start_threads(ZSTD_CCtx *context, struct s3d_error *error)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    ZSTD_inBuffer in = {NULL, 0, 0};
    ZSTD_outBuffer out = {NULL, 0, 0};
    size_t result = ZSTD_compressStream2(context, &out, &in, ZSTD_e_continue);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ZSTD_isError(result) ? fail(result, "start", error) : S3D_OK;
}

enum s3d_code s3d_zstd_encoder_new(struct s3d_zstd_encoder **out, int level, unsigned threads,
                                   struct s3d_error *error)
{
    if (level < S3D_ZSTD_LEVEL_MIN || level > S3D_ZSTD_LEVEL_MAX || !threads) {
        return s3d_fail(error, S3D_INVALID, "the zstd level is %d, but must be from %d to %d",
                        level, S3D_ZSTD_LEVEL_MIN, S3D_ZSTD_LEVEL_MAX);
    }
    struct s3d_zstd_encoder *encoder = s3d_alloc_zeroed(1, sizeof *encoder);
    if (!encoder) {
        return s3d_fail_memory(error, sizeof *encoder);
    }
    encoder->context = ZSTD_createCCtx();
    enum s3d_code code =
        encoder->context ? grow_table(encoder, error) : s3d_fail_memory(error, sizeof *encoder);
    code = code ? code : set_up(encoder->context, level, threads, error);
    code = code ? code : start_threads(encoder->context, error);
    if (code) {
        s3d_zstd_encoder_free(encoder);
        return code;
    }
    *out = encoder;
    return S3D_OK;
}

void s3d_zstd_encoder_free(struct s3d_zstd_encoder *encoder)
{
    if (encoder) {
        ZSTD_freeCCtx(encoder->context);
        s3d_free(encoder->table);
        s3d_free(encoder);
    }
}

static void finish_table(struct s3d_zstd_encoder *encoder)
{
    size_t entries = encoder->table_count * ENTRY_BYTES;
    unsigned char *footer = encoder->table + TABLE_HEAD_BYTES + entries;
    put_u32(encoder->table, TABLE_MAGIC);
    put_u32(encoder->table + 4, (uint32_t)(entries + S3D_ZSTD_FOOTER_BYTES));
    put_u32(footer, (uint32_t)encoder->table_count);
    footer[4] = 0;
    put_u32(footer + 5, FOOTER_MAGIC);
    encoder->table_bytes = TABLE_HEAD_BYTES + entries + S3D_ZSTD_FOOTER_BYTES;
}

static enum s3d_code frame_has_ended(struct s3d_zstd_encoder *encoder, struct s3d_error *error)
{
    enum s3d_code code = grow_table(encoder, error);
    if (code) {
        return code;
    }
    unsigned char *entry =
        encoder->table + TABLE_HEAD_BYTES + encoder->table_count++ * ENTRY_BYTES;
    put_u32(entry, (uint32_t)encoder->frame_stored);
    put_u32(entry + 4, (uint32_t)encoder->frame_content);
    encoder->frame_stored = encoder->frame_content = 0;
    encoder->state = IN_FRAME;
    return S3D_OK;
}

/* One call of zstd's. *left: what it still holds back. */
static enum s3d_code compress_step(struct s3d_zstd_encoder *encoder, struct s3d_zstd_flow *flow,
                                   size_t *left, struct s3d_error *error)
{
    bool ending = encoder->state == ENDING_FRAME;
    uint64_t room = frame_bytes(encoder) - encoder->frame_content;
    size_t offered = ending ? 0 : flow->from_bytes - flow->taken;
    ZSTD_inBuffer in = {flow->from + flow->taken, offered < room ? offered : (size_t)room, 0};
    ZSTD_outBuffer out = {flow->to, flow->to_bytes, flow->given};
    *left = ZSTD_compressStream2(encoder->context, &out, &in,
                                 ending ? ZSTD_e_end : ZSTD_e_continue);
    if (ZSTD_isError(*left)) {
        return fail(*left, "compress", error);
    }
    encoder->frame_content += in.pos;
    encoder->frame_stored += out.pos - flow->given;
    flow->taken += in.pos;
    flow->given = out.pos;
    return S3D_OK;
}

static void give_table(struct s3d_zstd_encoder *encoder, struct s3d_zstd_flow *flow)
{
    size_t left = encoder->table_bytes - encoder->table_given;
    size_t room = flow->to_bytes - flow->given;
    size_t piece = left < room ? left : room;
    memcpy(flow->to + flow->given, encoder->table + encoder->table_given, piece);
    encoder->table_given += piece;
    flow->given += piece;
    encoder->state = piece == left ? ENDED : GIVING_TABLE;
}

/* Where the frame is full, or nothing more comes: it ends. Nothing at all is one empty frame. */
static void look_ahead(struct s3d_zstd_encoder *encoder, const struct s3d_zstd_flow *flow,
                       bool end)
{
    bool last = end && flow->taken == flow->from_bytes;
    bool is_full = encoder->frame_content == frame_bytes(encoder);
    if (is_full || (last && (encoder->frame_content || !encoder->table_count))) {
        encoder->state = ENDING_FRAME;
    } else if (last) {
        finish_table(encoder);
        encoder->state = GIVING_TABLE;
    }
}

enum s3d_code s3d_zstd_encode(struct s3d_zstd_encoder *encoder, struct s3d_zstd_flow *flow,
                              bool end, bool *ended, struct s3d_error *error)
{
    enum s3d_code code = S3D_OK;
    size_t left = 0;
    if (encoder->state == IN_FRAME) {
        look_ahead(encoder, flow, end);
    }
    if (encoder->state == GIVING_TABLE) {
        give_table(encoder, flow);
    } else if (encoder->state != ENDED) {
        code = compress_step(encoder, flow, &left, error);
        if (!code && encoder->state == ENDING_FRAME && !left) {
            code = frame_has_ended(encoder, error);
        }
    }
    *ended = encoder->state == ENDED;
    return code;
}

/* --- decompressing ------------------------------------------------------------------------ */

/* A libzstd context in a struct of ours: callers see no libzstd type. */
struct s3d_zstd_decoder {
    ZSTD_DCtx *context;
};

enum s3d_code s3d_zstd_decoder_new(struct s3d_zstd_decoder **out, struct s3d_error *error)
{
    struct s3d_zstd_decoder *decoder = s3d_alloc_zeroed(1, sizeof *decoder);
    if (decoder) {
        decoder->context = ZSTD_createDCtx();
    }
    if (!decoder || !decoder->context) {
        s3d_free(decoder);
        return s3d_fail_memory(error, sizeof *decoder);
    }
    *out = decoder;
    return S3D_OK;
}

void s3d_zstd_decoder_reset(struct s3d_zstd_decoder *decoder)
{
    ZSTD_DCtx_reset(decoder->context, ZSTD_reset_session_only);
}

enum s3d_code s3d_zstd_decode(struct s3d_zstd_decoder *decoder, struct s3d_zstd_flow *flow,
                              bool *frame_ended, struct s3d_error *error)
{
    ZSTD_inBuffer in = {flow->from, flow->from_bytes, flow->taken};
    ZSTD_outBuffer out = {flow->to, flow->to_bytes, flow->given};
    size_t result = ZSTD_decompressStream(decoder->context, &out, &in);
    if (ZSTD_isError(result)) {
        return fail(result, "decompress", error);
    }
    flow->taken = in.pos;
    flow->given = out.pos;
    *frame_ended = result == 0;
    return S3D_OK;
}

void s3d_zstd_decoder_free(struct s3d_zstd_decoder *decoder)
{
    if (decoder) {
        ZSTD_freeDCtx(decoder->context);
        s3d_free(decoder);
    }
}

bool s3d_zstd_is_frame(const unsigned char start[4])
{
    uint32_t magic = get_u32(start);
    return magic == FRAME_MAGIC || (magic & 0xFFFFFFF0u) == SKIPPABLE_MAGIC;
}

/* --- the table ---------------------------------------------------------------------------- */

static size_t entry_bytes(unsigned char descriptor)
{
    return descriptor & 0x80 ? ENTRY_BYTES + 4 : ENTRY_BYTES; /* with a checksum per frame */
}

uint64_t s3d_zstd_table_bytes(const unsigned char footer[S3D_ZSTD_FOOTER_BYTES],
                              uint64_t object_bytes)
{
    if (get_u32(footer + 5) != FOOTER_MAGIC || (footer[4] & 0x7C)) {
        return 0;
    }
    uint64_t bytes = TABLE_HEAD_BYTES + (uint64_t)get_u32(footer) * entry_bytes(footer[4]) +
                     S3D_ZSTD_FOOTER_BYTES;
    return bytes <= object_bytes ? bytes : 0;
}

static enum s3d_code fail_table(struct s3d_error *error)
{
    return s3d_fail(error, S3D_INTEGRITY,
                    "the table of its zstd frames does not fit the object");
}

static bool add_entry(struct s3d_zstd_table *table, const unsigned char *entry)
{
    size_t i = table->count++;
    uint64_t stored = get_u32(entry), content = get_u32(entry + 4);
    table->stored[i + 1] = table->stored[i] + stored;
    table->content[i + 1] = table->content[i] + content;
    return content <= stored * RATIO_MAX; /* before anybody takes memory for it */
}

enum s3d_code s3d_zstd_table_read(struct s3d_zstd_table *table, const unsigned char *data,
                                  uint64_t bytes, uint64_t object_bytes,
                                  struct s3d_error *error)
{
    const unsigned char *footer = data + bytes - S3D_ZSTD_FOOTER_BYTES;
    size_t count = get_u32(footer), each = entry_bytes(footer[4]);
    *table = (struct s3d_zstd_table){0};
    if (get_u32(data) != TABLE_MAGIC || get_u32(data + 4) != bytes - TABLE_HEAD_BYTES) {
        return fail_table(error);
    }
    table->stored = s3d_alloc_zeroed(count + 1, sizeof *table->stored);
    table->content = s3d_alloc_zeroed(count + 1, sizeof *table->content);
    if (!table->stored || !table->content) {
        s3d_zstd_table_fini(table);
        return s3d_fail_memory(error, (count + 1) * 2 * sizeof *table->stored);
    }
    bool fits = true;
    for (size_t i = 0; i < count && fits; i++) {
        fits = add_entry(table, data + TABLE_HEAD_BYTES + i * each);
    }
    if (!fits || table->stored[count] != object_bytes - bytes) {
        s3d_zstd_table_fini(table);
        return fail_table(error);
    }
    return S3D_OK;
}

void s3d_zstd_table_fini(struct s3d_zstd_table *table)
{
    s3d_free(table->stored);
    s3d_free(table->content);
    *table = (struct s3d_zstd_table){0};
}
