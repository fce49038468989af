#include "bind/inflate.h"

#include "core/latch.h"
#include "core/mem.h"
#include "formats/zstd.h"

#include <string.h>
#include <strings.h>

enum {
    WINDOW_BYTES = 1024 * 1024,
    HISTORY_BYTES = 64 * 1024, /* kept for backward seeks, as that of np.load */
    REFILL_BYTES = 256 * 1024, /* of content at a time */
    INPUT_BYTES = 256 * 1024,  /* small enough for the reader to read ahead */
    START_BYTES = 4,
};

struct bind_inflate {
    struct s3d_reader *reader;
    uint64_t object_bytes;
    struct s3d_zstd_decoder *decoder;
    struct s3d_zstd_table table; /* count 0: none */
    uint64_t stored_end;         /* of the frames: the table begins there */
    unsigned char ends[S3D_ZSTD_FOOTER_BYTES + START_BYTES];
    unsigned char *table_data;
    uint64_t table_bytes;
    /* a read of stored bytes that is under way */
    size_t fetched;
    int open_stage;
    /* the decoder */
    size_t frame;         /* of the table */
    uint64_t stored_next; /* where the input after `input` begins */
    size_t input_bytes, input_taken;
    bool in_frame;
    bool holds_output; /* it gave all that there was room for: perhaps it has more */
    bool ended;
    bool size_known;
    uint64_t size;
    uint64_t at; /* content offset of what it gives next */
    /* the content before `at` */
    size_t window_bytes;
    char window[WINDOW_BYTES];
    char input[INPUT_BYTES];
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* --- opening ------------------------------------------------------------------------------ */

enum s3d_code bind_inflate_new(struct bind_inflate **out, struct s3d_reader *reader,
                               struct s3d_error *error)
{
    struct bind_inflate *inflate = s3d_alloc_zeroed(1, sizeof *inflate);
    if (!inflate) {
        return s3d_fail_memory(error, sizeof *inflate);
    }
    inflate->reader = reader;
    inflate->object_bytes = inflate->stored_end = s3d_reader_object(reader)->size_bytes;
    enum s3d_code code = s3d_zstd_decoder_new(&inflate->decoder, error);
    if (code) {
        s3d_free(inflate);
        return code;
    }
    *out = inflate;
    return S3D_OK;
}

void bind_inflate_free(struct bind_inflate *inflate)
{
    if (inflate) {
        s3d_zstd_decoder_free(inflate->decoder);
        s3d_zstd_table_fini(&inflate->table);
        s3d_free(inflate->table_data);
        s3d_free(inflate);
    }
}

/* [offset, offset + length) of the object, which has it, in one or more calls. */
static enum s3d_code fetch(struct bind_inflate *inflate, uint64_t offset, void *data,
                           size_t length, int64_t timeout_ms, struct s3d_error *error)
{
    enum s3d_code code = s3d_reader_read(inflate->reader, offset, data, length,
                                         &inflate->fetched, timeout_ms, error);
    if (!code && inflate->fetched != length) {
        code = s3d_fail(error, S3D_INTERNAL, "read %zu bytes of %zu", inflate->fetched, length);
    }
    if (code != S3D_AGAIN) {
        inflate->fetched = 0;
    }
    return code;
}

static enum s3d_code look_at_start(struct bind_inflate *inflate, int64_t timeout_ms,
                                   struct s3d_error *error)
{
    unsigned char *start = inflate->ends + S3D_ZSTD_FOOTER_BYTES;
    enum s3d_code code = S3D_OK;
    bool long_enough = inflate->object_bytes >= START_BYTES;
    if (long_enough) {
        code = fetch(inflate, 0, start, START_BYTES, timeout_ms, error);
    }
    if (!code && (!long_enough || !s3d_zstd_is_frame(start))) {
        code = s3d_fail(error, S3D_INTEGRITY,
                        "it does not begin with a zstd frame: read it with decompress=False");
    }
    return code;
}

static enum s3d_code look_at_footer(struct bind_inflate *inflate, int64_t timeout_ms,
                                    struct s3d_error *error)
{
    if (inflate->object_bytes < S3D_ZSTD_FOOTER_BYTES) {
        return S3D_OK;
    }
    enum s3d_code code = fetch(inflate, inflate->object_bytes - S3D_ZSTD_FOOTER_BYTES,
                               inflate->ends, S3D_ZSTD_FOOTER_BYTES, timeout_ms, error);
    if (!code) {
        inflate->table_bytes = s3d_zstd_table_bytes(inflate->ends, inflate->object_bytes);
    }
    return code;
}

static enum s3d_code read_table(struct bind_inflate *inflate, int64_t timeout_ms,
                                struct s3d_error *error)
{
    size_t bytes = (size_t)inflate->table_bytes;
    if (!bytes) {
        return S3D_OK;
    }
    if (!inflate->table_data && !(inflate->table_data = s3d_alloc(bytes))) {
        return s3d_fail_memory(error, bytes);
    }
    enum s3d_code code = fetch(inflate, inflate->object_bytes - bytes, inflate->table_data,
                               bytes, timeout_ms, error);
    if (!code) {
        code = s3d_zstd_table_read(&inflate->table, inflate->table_data, bytes,
                                   inflate->object_bytes, error);
    }
    if (!code) {
        inflate->stored_end = inflate->object_bytes - bytes;
        inflate->size = inflate->table.content[inflate->table.count];
        inflate->size_known = true;
    }
    return code;
}

enum s3d_code bind_inflate_open(struct bind_inflate *inflate, int64_t timeout_ms,
                                struct s3d_error *error)
{
    static enum s3d_code (*const stages[])(struct bind_inflate *, int64_t,
                                           struct s3d_error *) = {look_at_start, look_at_footer,
                                                                  read_table};
    enum s3d_code code = S3D_OK;
    while (!code && inflate->open_stage < (int)(sizeof stages / sizeof *stages)) {
        code = stages[inflate->open_stage](inflate, timeout_ms, error);
        inflate->open_stage += code ? 0 : 1;
    }
    if (code != S3D_AGAIN) {
        s3d_free(inflate->table_data);
        inflate->table_data = NULL;
    }
    return code;
}

bool bind_inflate_size(const struct bind_inflate *inflate, uint64_t *size_bytes)
{
    *size_bytes = inflate->size_known ? inflate->size : UINT64_MAX;
    return inflate->size_known;
}

bool bind_inflate_is_wanted(const char *content_encoding)
{
    /* Signed streaming uploads leave "aws-chunked" behind in some stores. */
    static const char prefix[] = "aws-chunked,";
    if (strncasecmp(content_encoding, prefix, sizeof prefix - 1) == 0) {
        content_encoding += sizeof prefix - 1;
    }
    content_encoding += strspn(content_encoding, " \t");
    return strcasecmp(content_encoding, "zstd") == 0;
}

/* --- decoding ----------------------------------------------------------------------------- */

/* What was decoded up to here must be what the table says of the frames before. */
static enum s3d_code frame_has_ended(struct bind_inflate *inflate, struct s3d_error *error)
{
    const struct s3d_zstd_table *table = &inflate->table;
    inflate->in_frame = false;
    if (!table->count) {
        return S3D_OK;
    }
    inflate->frame++;
    uint64_t stored = inflate->stored_next - inflate->input_bytes + inflate->input_taken;
    if (inflate->frame <= table->count && table->content[inflate->frame] == inflate->at &&
        table->stored[inflate->frame] == stored) {
        return S3D_OK;
    }
    return s3d_fail(error, S3D_INTEGRITY,
                    "zstd frame %zu does not end where the object's table says",
                    inflate->frame);
}

static void restart(struct bind_inflate *inflate, size_t frame)
{
    s3d_zstd_decoder_reset(inflate->decoder);
    inflate->frame = frame;
    inflate->stored_next = inflate->table.count ? inflate->table.stored[frame] : 0;
    inflate->at = inflate->table.count ? inflate->table.content[frame] : 0;
    inflate->input_bytes = inflate->input_taken = inflate->window_bytes = 0;
    inflate->in_frame = inflate->holds_output = inflate->ended = false;
}

static enum s3d_code end_of_input(struct bind_inflate *inflate, struct s3d_error *error)
{
    if (inflate->in_frame) {
        return s3d_fail(
            error, S3D_INTEGRITY,
            "it ends in the middle of a zstd frame: it was cut off after %llu bytes of "
            "content",
            (unsigned long long)inflate->at);
    }
    if (inflate->size_known && inflate->size != inflate->at) {
        return s3d_fail(error, S3D_INTEGRITY, "its zstd frames hold %llu bytes, not %llu",
                        (unsigned long long)inflate->at, (unsigned long long)inflate->size);
    }
    inflate->ended = inflate->size_known = true;
    inflate->size = inflate->at;
    return S3D_OK;
}

static enum s3d_code refill_input(struct bind_inflate *inflate, int64_t timeout_ms,
                                  struct s3d_error *error)
{
    size_t bytes = (size_t)least(inflate->stored_end - inflate->stored_next, INPUT_BYTES);
    if (!bytes) {
        return end_of_input(inflate, error);
    }
    enum s3d_code code =
        fetch(inflate, inflate->stored_next, inflate->input, bytes, timeout_ms, error);
    if (!code) {
        inflate->stored_next += bytes;
        inflate->input_bytes = bytes;
        inflate->input_taken = 0;
    }
    return code;
}

/* Up to `room` bytes of what comes next; *given may be none, with nothing wrong. */
static enum s3d_code decode(struct bind_inflate *inflate, char *to, size_t room, size_t *given,
                            int64_t timeout_ms, struct s3d_error *error)
{
    bool frame_ended;
    *given = 0;
    if (inflate->input_taken == inflate->input_bytes && !inflate->holds_output) {
        return refill_input(inflate, timeout_ms, error);
    }
    struct s3d_zstd_flow flow = {.from = inflate->input + inflate->input_taken,
                                 .from_bytes = inflate->input_bytes - inflate->input_taken,
                                 .to = to,
                                 .to_bytes = room};
    enum s3d_code code = s3d_zstd_decode(inflate->decoder, &flow, &frame_ended, error);
    if (code) {
        restart(inflate, 0); /* a later read comes to the damage again */
        return code;
    }
    inflate->input_taken += flow.taken;
    inflate->at += flow.given;
    inflate->in_frame = true;
    inflate->holds_output = !frame_ended && flow.given == room;
    *given = flow.given;
    return frame_ended ? frame_has_ended(inflate, error) : S3D_OK;
}

/* A frame's checksum comes behind its content: it is looked at before the last of that is given
 * away, where the table tells that it is the last. */
static enum s3d_code check_frame_end(struct bind_inflate *inflate, int64_t timeout_ms,
                                     struct s3d_error *error)
{
    const struct s3d_zstd_table *table = &inflate->table;
    enum s3d_code code = S3D_OK;
    while (!code && inflate->in_frame && inflate->frame < table->count &&
           inflate->at >= table->content[inflate->frame + 1]) {
        char more;
        size_t given;
        code = decode(inflate, &more, 1, &given, timeout_ms, error);
        if (!code && given) {
            restart(inflate, 0);
            code = s3d_fail(error, S3D_INTEGRITY,
                            "a zstd frame holds more than the object's table says");
        }
    }
    return code;
}

/* --- the window --------------------------------------------------------------------------- */

static uint64_t window_start(const struct bind_inflate *inflate)
{
    return inflate->at - inflate->window_bytes;
}

size_t bind_inflate_buffered(const struct bind_inflate *inflate, uint64_t offset)
{
    return offset >= window_start(inflate) && offset < inflate->at
               ? (size_t)(inflate->at - offset)
               : 0;
}

static enum s3d_code refill_window(struct bind_inflate *inflate, int64_t timeout_ms,
                                   struct s3d_error *error)
{
    size_t given;
    if (WINDOW_BYTES - inflate->window_bytes < REFILL_BYTES) {
        memmove(inflate->window, inflate->window + inflate->window_bytes - HISTORY_BYTES,
                HISTORY_BYTES);
        inflate->window_bytes = HISTORY_BYTES;
    }
    enum s3d_code code = decode(inflate, inflate->window + inflate->window_bytes, REFILL_BYTES,
                                &given, timeout_ms, error);
    inflate->window_bytes += given;
    return code;
}

/* The last frame of the table that begins at or before `offset`; 0 without a table. */
static size_t frame_before(const struct bind_inflate *inflate, uint64_t offset)
{
    size_t low = 0, high = inflate->table.count;
    while (low + 1 < high) {
        size_t middle = low + (high - low) / 2;
        if (inflate->table.content[middle] <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Begins anew where that brings the next byte to give nearer to `offset`. */
static void approach(struct bind_inflate *inflate, uint64_t offset)
{
    size_t frame = frame_before(inflate, offset);
    bool is_behind = offset < window_start(inflate);
    bool leaps = inflate->table.count && inflate->table.content[frame] > inflate->at;
    if (is_behind || leaps) {
        restart(inflate, frame);
    }
}

/* One step: some bytes at `offset` into `to`, or some that come before them. */
static enum s3d_code read_step(struct bind_inflate *inflate, uint64_t offset, char *to,
                               size_t wanted, size_t *copied, int64_t timeout_ms,
                               struct s3d_error *error)
{
    size_t buffered = bind_inflate_buffered(inflate, offset);
    *copied = 0;
    if (buffered) {
        *copied = wanted < buffered ? wanted : buffered;
        memcpy(to, inflate->window + (offset - window_start(inflate)), *copied);
        return S3D_OK;
    }
    if (offset == inflate->at && wanted >= REFILL_BYTES) {
        inflate->window_bytes = 0;
        return decode(inflate, to, wanted < WINDOW_BYTES ? wanted : WINDOW_BYTES, copied,
                      timeout_ms, error);
    }
    return refill_window(inflate, timeout_ms, error);
}

enum s3d_code bind_inflate_read(struct bind_inflate *inflate, uint64_t offset, void *data,
                                size_t length, size_t *got, int64_t timeout_ms,
                                struct s3d_error *error)
{
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    enum s3d_code code = S3D_OK;
    if (inflate->size_known && offset >= inflate->size) {
        return S3D_OK;
    }
    if (!inflate->fetched) {
        approach(inflate, offset + *got);
    }
    while (!code && *got < length) {
        size_t copied;
        uint64_t at = offset + *got;
        if (inflate->ended && at >= inflate->at) {
            break;
        }
        int64_t left_ms = s3d_left_ms(deadline_ms);
        if (left_ms == 0 && !bind_inflate_buffered(inflate, at)) {
            return S3D_AGAIN;
        }
        code =
            read_step(inflate, at, (char *)data + *got, length - *got, &copied, left_ms, error);
        *got += copied;
    }
    return code ? code : check_frame_end(inflate, timeout_ms, error);
}

void bind_inflate_cancel(struct bind_inflate *inflate)
{
    inflate->fetched = 0;
}
