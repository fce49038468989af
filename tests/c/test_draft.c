/* Parts as lists of spans: copies in chunks, references, and the two in turns. */
#include "test.h"

#include "core/draft.h"

enum { CHUNK = 64 };

static void refer(struct s3d_draft *draft, const void *data, size_t length)
{
    CHECK_CODE(s3d_draft_refer(draft, data, length, NULL), S3D_OK);
}

static void copy(struct s3d_draft *draft, const void *data, size_t length)
{
    CHECK(length <= s3d_draft_room(draft));
    CHECK_CODE(s3d_draft_copy(draft, data, length, NULL), S3D_OK);
}

static void add_chunk(struct s3d_draft *draft, char *data, size_t bytes)
{
    CHECK_CODE(s3d_draft_add_chunk(draft, (struct s3d_chunk){data, bytes}, NULL), S3D_OK);
}

static void take_all_chunks(struct s3d_draft *draft)
{
    for (struct s3d_chunk chunk; s3d_draft_take_chunk(draft, &chunk);) {
    }
}

static void check_bytes(const struct s3d_draft *draft, const char *expected, size_t length)
{
    CHECK(draft->bytes == length);
    CHECK(s3d_spans_bytes(draft->spans, draft->span_count) == length);
    for (size_t i = 0; i < draft->span_count; i++) {
        CHECK(draft->spans[i].length_bytes > 0);
        CHECK(memcmp(draft->spans[i].data, expected, draft->spans[i].length_bytes) == 0);
        expected += draft->spans[i].length_bytes;
    }
}

/* What is referred to is sent from where it lies; what goes on where the last piece ends joins it. */
static void test_refer(void)
{
    static const char text[] = "0123456789abcdef";
    struct s3d_draft draft = {0};
    refer(&draft, text, 0);
    CHECK(draft.span_count == 0 && draft.bytes == 0);
    refer(&draft, text, 4);
    refer(&draft, text + 4, 4);
    refer(&draft, NULL, 0);
    refer(&draft, text + 8, 1);
    CHECK(draft.span_count == 1 && draft.spans[0].data == text);
    CHECK(draft.spans[0].length_bytes == 9);
    refer(&draft, text + 10, 2); /* not the next byte */
    refer(&draft, text + 10, 2); /* the same again */
    refer(&draft, text, 3);      /* backwards */
    CHECK(draft.span_count == 4 && draft.spans[1].data == text + 10);
    check_bytes(&draft, "012345678abab012", 16);
    s3d_draft_fini(&draft);
}

static void test_copy(void)
{
    char chunk[CHUNK];
    struct s3d_draft draft = {0};
    CHECK(s3d_draft_room(&draft) == 0);
    CHECK_CODE(s3d_draft_copy(&draft, "", 0, NULL), S3D_OK);
    add_chunk(&draft, chunk, sizeof chunk);
    CHECK(s3d_draft_room(&draft) == CHUNK && draft.bytes == 0);
    char source[] = "hello";
    copy(&draft, source, 5);
    memset(source, 'x', 5); /* it was copied */
    copy(&draft, " world", 6);
    copy(&draft, "x", 0);
    CHECK(draft.span_count == 1 && draft.spans[0].data == chunk);
    CHECK(s3d_draft_room(&draft) == CHUNK - 11);
    check_bytes(&draft, "hello world", 11);
    char rest[CHUNK - 11];
    memset(rest, '.', sizeof rest);
    copy(&draft, rest, sizeof rest);
    CHECK(s3d_draft_room(&draft) == 0 && draft.bytes == CHUNK && draft.span_count == 1);
    s3d_draft_fini(&draft);
}

/* Copies between references stay in order, and the copies still share a chunk. */
static void test_in_turns(void)
{
    char chunks[2][CHUNK];
    static const char far[] = "FAR";
    struct s3d_draft draft = {0};
    add_chunk(&draft, chunks[0], CHUNK);
    copy(&draft, "one", 3);
    refer(&draft, far, 3);
    copy(&draft, "two", 3);
    refer(&draft, far, 1);
    CHECK(draft.span_count == 4);
    CHECK(draft.spans[0].data == chunks[0] && draft.spans[1].data == far);
    CHECK(draft.spans[2].data == chunks[0] + 3 && draft.spans[3].data == far);
    CHECK(s3d_draft_room(&draft) == CHUNK - 6);
    add_chunk(&draft, chunks[1], CHUNK); /* what the old one still had room for is given up */
    CHECK(s3d_draft_room(&draft) == CHUNK);
    copy(&draft, "three", 5);
    CHECK(draft.span_count == 5 && draft.spans[4].data == chunks[1]);
    check_bytes(&draft, "oneFARtwoFthree", 15);
    s3d_draft_fini(&draft);
}

/* Chunks come back one by one, each once; then the draft is as good as new, its arrays kept. */
static void test_used_again(void)
{
    char chunks[3][CHUNK];
    struct s3d_draft draft = {0};
    const struct s3d_span *spans = NULL;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 3; i++) {
            add_chunk(&draft, chunks[i], CHUNK - (size_t)i);
            copy(&draft, "abc", 3);
        }
        CHECK(!spans || spans == draft.spans);
        spans = draft.spans;
        unsigned seen = 0;
        for (struct s3d_chunk chunk; s3d_draft_take_chunk(&draft, &chunk);) {
            size_t number = (size_t)(chunk.data - chunks[0]) / CHUNK;
            CHECK(chunk.data == chunks[number] && chunk.size_bytes == CHUNK - number);
            CHECK(!(seen & 1u << number));
            seen |= 1u << number;
        }
        CHECK(seen == 7);
        s3d_draft_clear(&draft);
        CHECK(draft.bytes == 0 && draft.span_count == 0 && s3d_draft_room(&draft) == 0);
    }
    s3d_draft_fini(&draft);
    s3d_draft_fini(&draft);
    CHECK(draft.spans == NULL && draft.chunks == NULL);
}

/* What was referred to may change afterwards; the chunks from before come back. */
static void test_own(void)
{
    char text[] = "0123456789abcdef", first[CHUNK], second[CHUNK];
    struct s3d_draft draft = {0}, copy = {0};
    struct s3d_chunk chunk;
    refer(&draft, text, 4);
    add_chunk(&draft, first, sizeof first);
    CHECK_CODE(s3d_draft_copy(&draft, "xyz", 3, NULL), S3D_OK);
    refer(&draft, text + 10, 6);
    CHECK(draft.referred_bytes == 10);
    add_chunk(&copy, second, sizeof second);
    CHECK_CODE(s3d_draft_own(&draft, &copy, NULL), S3D_OK);
    memset(text, '-', sizeof text);
    memset(first, '-', sizeof first);
    check_bytes(&draft, "0123xyzabcdef", 13);
    CHECK(draft.referred_bytes == 0 && draft.span_count == 1 && draft.spans[0].data == second);
    CHECK(s3d_draft_room(&draft) == CHUNK - 13);
    CHECK(s3d_draft_take_chunk(&copy, &chunk) && chunk.data == first);
    CHECK(!s3d_draft_take_chunk(&copy, &chunk));
    take_all_chunks(&draft);
    s3d_draft_fini(&draft);
    s3d_draft_fini(&copy);
}

static void test_swap(void)
{
    char chunk[CHUNK];
    struct s3d_draft a = {0}, b = {0};
    add_chunk(&a, chunk, CHUNK);
    copy(&a, "abc", 3);
    refer(&b, "xy", 2);
    s3d_draft_swap(&a, &b);
    check_bytes(&a, "xy", 2);
    check_bytes(&b, "abc", 3);
    CHECK(s3d_draft_room(&a) == 0 && s3d_draft_room(&b) == CHUNK - 3);
    copy(&b, "def", 3);
    CHECK(b.span_count == 1);
    check_bytes(&b, "abcdef", 6);
    s3d_draft_fini(&a);
    s3d_draft_fini(&b);
}

/* A thousand spans and chunks: the arrays grow, nothing moves or is lost. */
static void test_many(void)
{
    enum { COUNT = 1000 };
    static char chunks[COUNT][2 * CHUNK];
    static const char far[] = "far";
    struct s3d_draft draft = {0};
    for (size_t i = 0; i < COUNT; i++) {
        add_chunk(&draft, chunks[i], CHUNK);
        copy(&draft, &(char){(char)('a' + i % 26)}, 1);
        refer(&draft, far + i % 3, 1);
    }
    CHECK(draft.span_count == 2 * COUNT && draft.chunk_count == COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        CHECK(draft.spans[2 * i].data == chunks[i] && chunks[i][0] == (char)('a' + i % 26));
        CHECK(draft.spans[2 * i + 1].data == far + i % 3);
        CHECK(draft.chunks[i].data == chunks[i]);
    }
    take_all_chunks(&draft);
    CHECK(draft.chunk_count == 0);
    s3d_draft_fini(&draft);
}

/* No memory: said, and the draft is as it was before. */
static enum s3d_code build(void)
{
    static char chunks[9][2 * CHUNK];
    static const char far[] = "far";
    struct s3d_draft draft = {0};
    struct s3d_error error = {0};
    enum s3d_code code = S3D_OK;
    size_t bytes = 0;
    for (size_t i = 0; !code && i < 9; i++) {
        size_t count = draft.chunk_count, room = s3d_draft_room(&draft);
        code = s3d_draft_add_chunk(&draft, (struct s3d_chunk){chunks[i], CHUNK}, &error);
        CHECK(draft.chunk_count == count + !code);
        CHECK(s3d_draft_room(&draft) == (code ? room : CHUNK));
        if (!code) {
            code = s3d_draft_copy(&draft, "ab", 2, &error);
            bytes += code ? 0 : 2;
            CHECK(draft.bytes == bytes && s3d_draft_room(&draft) == CHUNK - (code ? 0 : 2));
        }
        if (!code) {
            code = s3d_draft_refer(&draft, far, 3, &error);
            bytes += code ? 0 : 3;
        }
        CHECK(draft.bytes == bytes);
        CHECK(s3d_spans_bytes(draft.spans, draft.span_count) == bytes);
    }
    CHECK(code == error.code);
    take_all_chunks(&draft);
    s3d_draft_fini(&draft);
    return code;
}

static void test_out_of_memory(void)
{
    CHECK(test_torture(build, 0) == 3 + 4); /* room for 4, 8, 16 chunks and 4 to 32 spans */
}

int main(void)
{
    RUN(test_refer);
    RUN(test_copy);
    RUN(test_in_turns);
    RUN(test_used_again);
    RUN(test_own);
    RUN(test_swap);
    RUN(test_many);
    RUN(test_out_of_memory);
    return 0;
}
