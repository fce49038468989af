/* Zstandard streams with their table: there and back, damage, and memory that fails. */
#include "test.h"

#include "formats/zstd.h"

enum { KIB = 1024, MIB = 1024 * KIB, FRAME = 32 * MIB };

struct bytes {
    char *data;
    size_t size, capacity;
};

static void add(struct bytes *bytes, const char *data, size_t size)
{
    if (bytes->size + size > bytes->capacity) {
        bytes->capacity = (bytes->size + size) * 2;
        bytes->data = realloc(bytes->data, bytes->capacity);
        CHECK(bytes->data);
    }
    if (size) {
        memcpy(bytes->data + bytes->size, data, size);
    }
    bytes->size += size;
}

/* Half-compressible, nowhere like elsewhere. */
static struct bytes make_content(size_t size)
{
    struct bytes content = {malloc(size + 1), size, size + 1};
    uint64_t state = 88172645463325252u;
    CHECK(content.data);
    for (size_t i = 0; i < size; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.data[i] = (char)(state & 15);
    }
    return content;
}

/* Compresses in pieces of `piece`, through an output buffer of `room`. */
static enum s3d_code compress(const struct bytes *content, size_t piece, size_t room,
                              unsigned threads, struct bytes *stored, struct s3d_error *error)
{
    struct s3d_zstd_encoder *encoder = NULL;
    char *out = malloc(room);
    bool ended = false;
    CHECK(out);
    enum s3d_code code = s3d_zstd_encoder_new(&encoder, 1, threads, error);
    for (size_t at = 0; !code && !ended;) {
        size_t left = content->size - at;
        struct s3d_zstd_flow flow = {.from = content->data + at,
                                     .from_bytes = left < piece ? left : piece,
                                     .to = out,
                                     .to_bytes = room};
        code = s3d_zstd_encode(encoder, &flow, left <= piece, &ended, error);
        at += flow.taken;
        add(stored, out, flow.given);
    }
    s3d_zstd_encoder_free(encoder);
    free(out);
    return code;
}

static enum s3d_code expand(const char *data, size_t size, size_t piece, size_t room,
                            struct bytes *content, bool *whole, struct s3d_error *error)
{
    struct s3d_zstd_decoder *decoder = NULL;
    char *out = malloc(room);
    CHECK(out);
    enum s3d_code code = s3d_zstd_decoder_new(&decoder, error);
    *whole = false;
    bool full = false;
    for (size_t at = 0; !code && (at < size || full);) {
        size_t left = size - at;
        struct s3d_zstd_flow flow = {.from = data + at,
                                     .from_bytes = left < piece ? left : piece,
                                     .to = out,
                                     .to_bytes = room};
        code = s3d_zstd_decode(decoder, &flow, whole, error);
        at += flow.taken;
        full = flow.given == room && !*whole;
        add(content, out, flow.given);
    }
    s3d_zstd_decoder_free(decoder);
    free(out);
    return code;
}

static void check_table(const struct bytes *stored, size_t content_bytes)
{
    struct s3d_zstd_table table;
    const unsigned char *data = (const unsigned char *)stored->data;
    uint64_t bytes =
        s3d_zstd_table_bytes(data + stored->size - S3D_ZSTD_FOOTER_BYTES, stored->size);
    size_t frames = content_bytes ? (content_bytes + FRAME - 1) / FRAME : 1;
    CHECK(bytes == 8 + frames * 8 + 9);
    CHECK_CODE(
        s3d_zstd_table_read(&table, data + stored->size - bytes, bytes, stored->size, NULL),
        S3D_OK);
    CHECK(table.count == frames);
    CHECK(table.stored[frames] == stored->size - bytes &&
          table.content[frames] == content_bytes);
    for (size_t i = 0; i < frames; i++) {
        struct bytes content = {0};
        bool whole;
        size_t size = (size_t)(table.stored[i + 1] - table.stored[i]);
        CHECK(s3d_zstd_is_frame(data + table.stored[i]));
        CHECK_CODE(
            expand(stored->data + table.stored[i], size, MIB, MIB, &content, &whole, NULL),
            S3D_OK);
        CHECK(whole && content.size == table.content[i + 1] - table.content[i]);
        free(content.data);
    }
    s3d_zstd_table_fini(&table);
}

static void check_round(size_t size, size_t piece, size_t room, unsigned threads)
{
    struct bytes content = make_content(size), stored = {0}, back = {0};
    bool whole;
    CHECK_CODE(compress(&content, piece, room, threads, &stored, NULL), S3D_OK);
    CHECK_CODE(expand(stored.data, stored.size, piece, room, &back, &whole, NULL), S3D_OK);
    CHECK(whole && back.size == size && (!size || memcmp(back.data, content.data, size) == 0));
    check_table(&stored, size);
    free(content.data);
    free(stored.data);
    free(back.data);
}

static void test_there_and_back(void)
{
    static const size_t sizes[] = {0, 1, 100, 300 * KIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_round(sizes[i], 7 * KIB, 1, 1); /* an output of one byte a step */
        check_round(sizes[i], 1 * KIB, 64 * KIB, 2);
        check_round(sizes[i], MIB, MIB, 3);
    }
}

static void test_many_frames(void)
{
    check_round(FRAME, MIB, 256 * KIB, 2); /* full, and no empty one behind it */
    check_round(FRAME + 1, 3 * MIB, 256 * KIB, 2);
    check_round(2 * FRAME + 5 * MIB, MIB, 256 * KIB, 2);
}

static void test_wrong_arguments(void)
{
    struct s3d_zstd_encoder *encoder;
    struct s3d_error error;
    CHECK_CODE(s3d_zstd_encoder_new(&encoder, 0, 1, &error), S3D_INVALID);
    CHECK_CODE(s3d_zstd_encoder_new(&encoder, 20, 1, &error), S3D_INVALID);
    CHECK_CODE(s3d_zstd_encoder_new(&encoder, 3, 0, &error), S3D_INVALID);
    s3d_zstd_encoder_free(NULL);
    s3d_zstd_decoder_free(NULL);
}

/* Each bit of a small frame turned: damage is told, or the bytes are right all the same (a header's
 * bit without meaning); never anything else. */
static void test_every_flipped_bit(void)
{
    struct bytes content = make_content(2000), stored = {0};
    size_t told = 0;
    CHECK_CODE(compress(&content, MIB, MIB, 1, &stored, NULL), S3D_OK);
    size_t frame = stored.size - (8 + 8 + 9);
    for (size_t bit = 0; bit < frame * 8; bit++) {
        struct bytes back = {0};
        struct s3d_error error;
        bool whole = false;
        stored.data[bit / 8] ^= (char)(1 << (bit % 8));
        enum s3d_code code = expand(stored.data, frame, MIB, 64 * KIB, &back, &whole, &error);
        told += code != S3D_OK || !whole;
        CHECK(code == S3D_OK || code == S3D_INTEGRITY);
        CHECK(code || !whole ||
              (back.size == content.size && !memcmp(back.data, content.data, back.size)));
        stored.data[bit / 8] ^= (char)(1 << (bit % 8));
        free(back.data);
    }
    CHECK(told >= frame * 8 - 16);
    free(content.data);
    free(stored.data);
}

static void test_every_cut(void)
{
    struct bytes content = make_content(2000), stored = {0};
    CHECK_CODE(compress(&content, MIB, MIB, 1, &stored, NULL), S3D_OK);
    size_t frame = stored.size - (8 + 8 + 9);
    for (size_t size = 0; size < frame; size++) {
        struct bytes back = {0};
        bool whole;
        CHECK_CODE(expand(stored.data, size, MIB, MIB, &back, &whole, NULL), S3D_OK);
        CHECK(!whole);
        free(back.data);
    }
    free(content.data);
    free(stored.data);
}

/* The table from every damaged byte: refused, or of the right sums; never out of bounds. */
static void test_every_damaged_table(void)
{
    struct bytes content = make_content(300 * KIB), stored = {0};
    CHECK_CODE(compress(&content, MIB, MIB, 1, &stored, NULL), S3D_OK);
    enum { TABLE = 8 + 8 + 9 };
    for (size_t i = 0; i < TABLE; i++) {
        for (int value = 0; value < 256; value++) {
            struct s3d_zstd_table table = {0};
            /* In memory of just its size, where a sanitizer sees every byte too far. */
            unsigned char *data = malloc(stored.size);
            CHECK(data);
            memcpy(data, stored.data, stored.size);
            data[stored.size - TABLE + i] = (unsigned char)value;
            uint64_t bytes =
                s3d_zstd_table_bytes(data + stored.size - S3D_ZSTD_FOOTER_BYTES, stored.size);
            CHECK(bytes <= stored.size);
            enum s3d_code code = bytes ? s3d_zstd_table_read(&table, data + stored.size - bytes,
                                                             bytes, stored.size, NULL)
                                       : S3D_INTEGRITY;
            CHECK(code == S3D_OK || code == S3D_INTEGRITY);
            CHECK(code || table.stored[table.count] == stored.size - bytes);
            s3d_zstd_table_fini(&table);
            free(data);
        }
    }
    free(content.data);
    free(stored.data);
}

static struct bytes torture_content;

static enum s3d_code torture(void)
{
    struct bytes stored = {0}, back = {0};
    struct s3d_zstd_table table = {0};
    bool whole;
    enum s3d_code code = compress(&torture_content, MIB, MIB, 1, &stored, NULL);
    if (!code) {
        code = expand(stored.data, stored.size, MIB, MIB, &back, &whole, NULL);
    }
    if (!code) {
        const unsigned char *end = (const unsigned char *)stored.data + stored.size;
        uint64_t bytes = s3d_zstd_table_bytes(end - S3D_ZSTD_FOOTER_BYTES, stored.size);
        code = s3d_zstd_table_read(&table, end - bytes, bytes, stored.size, NULL);
    }
    s3d_zstd_table_fini(&table);
    free(stored.data);
    free(back.data);
    return code;
}

static void test_every_allocation_fails(void)
{
    torture_content = make_content(1000);
    CHECK(test_torture(torture, 0) > 4);
    free(torture_content.data);
}

int main(void)
{
    RUN(test_there_and_back);
    RUN(test_many_frames);
    RUN(test_wrong_arguments);
    RUN(test_every_flipped_bit);
    RUN(test_every_cut);
    RUN(test_every_damaged_table);
    RUN(test_every_allocation_fails);
    return 0;
}
