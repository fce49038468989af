/* Writing one object: sizes, ways, references. */
#include "put_test.h"

#include "core/mem.h"

#include <sys/mman.h>
#include <unistd.h>

static void test_sizes(void)
{
    static const size_t sizes[] = {0, 1, PART - 1, PART, PART + 1, 7 * PART / 2};
    static const size_t pieces[] = {1, 4096, 100003, PART, SIZE_MAX};
    static const unsigned concurrencies[] = {3, 1, 64};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t j = 0; j < sizeof pieces / sizeof *pieces; j++) {
            size_t kinds = pieces[j] == 1 ? 1 : sizeof concurrencies / sizeof *concurrencies;
            for (size_t k = 0; k < kinds; k++) {
                write_object(sizes[i], pieces[j], concurrencies[k], -1);
            }
        }
    }
    write_object(100 * PART + 17, SIZE_MAX, 4, -1);
    write_object(100 * PART + 17, 5 * PART + 1, 3, -1);
    write_object(20 * PART, SIZE_MAX, 1, -1);
}

/* Real sizes: 8 MiB parts, writes of an odd MiB. */
static void test_real_part_size(void)
{
    struct fake_store *fake = fake_open();
    size_t size = 28 * 1024 * 1024 + 5;
    char *data = pattern(size);
    struct s3d_put_plan plan = {.key = "object", .part_bytes = 8388608, .concurrency = 4};
    struct s3d_put *put;
    unsigned agains = 0;
    CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, NULL), S3D_OK);
    CHECK_CODE(write_pieces(put, data, size, 1048583, -1, &agains, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, size);
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_PART) == 4);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* A long write is sent from the caller's memory but for its last parts, and may then go away. */
static void test_in_place(void)
{
    for (unsigned concurrency = 1; concurrency <= 4; concurrency++) {
        struct fake_store *fake = fake_open();
        size_t size = 40 * PART, written = 0;
        char *data = pattern(size);
        struct s3d_put *put = open_put(fake, concurrency);
        CHECK_CODE(s3d_put_write(put, data, size, &written, -1, NULL), S3D_OK);
        unsigned direct = fake_sent_from(fake, data, size);
        memset(data, 0, size);
        free(data);
        CHECK(direct >= 40 - concurrency && direct < 40);
        CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
        check_object(fake, size);
        s3d_put_free(put);
        fake_close(fake);
    }
}

/* Slow parts and next to no time: AGAIN many times, and the bytes are right all the same. */
static void test_again(void)
{
    static const size_t pieces[] = {10007, PART + 1, SIZE_MAX};
    for (size_t i = 0; i < 6; i++) {
        int64_t timeout_ms = i < 3 ? 0 : 1;
        struct fake_store *fake = fake_open();
        size_t size = 21 * PART / 2;
        char *data = pattern(size);
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_UPLOAD_PART, .times = 1000, .delay_ms = 3});
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_UPLOAD_CREATE, .times = 1000, .delay_ms = 3});
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_UPLOAD_COMPLETE, .times = 1000, .delay_ms = 3});
        struct s3d_put *put = open_put(fake, 2);
        unsigned agains = 0, finish_agains = 0;
        CHECK_CODE(write_pieces(put, data, size, pieces[i % 3], timeout_ms, &agains, NULL),
                   S3D_OK);
        CHECK_CODE(finish(put, timeout_ms, &finish_agains, NULL), S3D_OK);
        CHECK(agains > 0 && finish_agains > 0);
        check_object(fake, size);
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

static void test_again_single(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(1000);
    fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_PUT, .times = 1, .hold = true});
    struct s3d_put *put = open_put(fake, 2);
    unsigned agains = 0;
    size_t written = 0;
    CHECK_CODE(write_pieces(put, data, 1000, 1000, -1, &agains, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, 0, NULL), S3D_AGAIN);
    fake_wait_held(fake, 1);
    CHECK_CODE(s3d_put_finish(put, 1, NULL), S3D_AGAIN);
    /* The object is on its way: more bytes would silently be left out. */
    CHECK_CODE(s3d_put_write(put, data, 1000, &written, -1, NULL), S3D_CLOSED);
    CHECK(written == 0);
    fake_release(fake);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, 1000);
    CHECK(fake_attempts(fake, S3D_VERB_PUT) == 1);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

static void test_finish_is_idempotent(void)
{
    struct fake_store *fake = fake_open();
    struct s3d_put *put = open_put(fake, 2);
    struct s3d_error error;
    size_t written = 0;
    CHECK_CODE(s3d_put_write(put, "", 0, &written, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    char etag[S3D_ETAG_MAX];
    snprintf(etag, sizeof etag, "%s", s3d_put_etag(put));
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    CHECK_TEXT(s3d_put_etag(put), etag);
    CHECK_CODE(s3d_put_write(put, "x", 1, &written, -1, &error), S3D_CLOSED);
    s3d_put_abort(put, NULL);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    CHECK(s3d_put_finished(put) && fake_attempts_all(fake) == 1);
    check_object(fake, 0);
    CHECK(atomic_load(&fake_running_engine()->stats.objects_written) > 0);
    s3d_put_free(put);
    fake_close(fake);
}

/* Options reach the store, by PUT and by upload, from a copy. */
static void test_if_none_match(void)
{
    for (size_t parts = 0; parts <= 2; parts += 2) {
        struct fake_store *fake = fake_open();
        fake_put_object(fake, "object", "old", 3);
        char *data = pattern(parts * PART + 10);
        struct s3d_put_options options = {.if_none_match = true};
        struct s3d_put_plan plan = {
            .key = "object", .part_bytes = PART, .concurrency = 2, .options = &options};
        struct s3d_put *put;
        struct s3d_error error;
        unsigned agains = 0;
        CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, NULL), S3D_OK);
        options.if_none_match = false;
        CHECK_CODE(write_pieces(put, data, parts * PART + 10, 1000, -1, &agains, NULL), S3D_OK);
        CHECK_CODE(s3d_put_finish(put, -1, &error), S3D_EXISTS);
        check_poisoned(put, &error);
        CHECK(fake_open_uploads(fake) == 0);
        size_t size;
        CHECK(memcmp(fake_object(fake, "object", &size), "old", 3) == 0 && size == 3);
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

/* Parts grow: the small buffers of the first ones are replaced. */
static void test_growing_parts(void)
{
    struct fake_store *fake = fake_open();
    fake_limits(fake)->parts_max = 10000;
    size_t size = 6 * 1024 * 1024 + 3;
    char *data = pattern(size);
    struct s3d_put *put = open_put(fake, 2);
    unsigned agains = 0;
    CHECK_CODE(write_pieces(put, data, size, 30001, -1, &agains, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, size);
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_PART) == 7);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* ---- references ---- */

enum {
    REFER_MIN = 64 * 1024,    /* shorter pieces are copied */
    SMALL_CHUNK = 256 * 1024, /* into chunks of this size */
    LARGE_PART = 320 * 1024   /* holds several of each */
};

static struct s3d_put *open_large_put(struct fake_store *fake, unsigned concurrency)
{
    struct s3d_put_plan plan = {
        .key = "object", .part_bytes = LARGE_PART, .concurrency = concurrency};
    struct s3d_put *put;
    CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, NULL), S3D_OK);
    return put;
}

static void check_log_spans(struct fake_store *fake, enum s3d_verb verb, size_t most)
{
    const struct fake_line *lines;
    size_t count = fake_log(fake, &lines);
    for (size_t i = 0; i < count; i++) {
        CHECK(lines[i].verb != verb || lines[i].spans <= most);
    }
}

/* Whole parts go out as the one span that they are, from where they lie. */
static void test_refer_whole_parts(void)
{
    for (unsigned concurrency = 1; concurrency <= 4; concurrency++) {
        struct fake_store *fake = fake_open();
        size_t size = 10 * LARGE_PART + 17;
        char *data = pattern(size);
        fake_watch(fake, data, size);
        struct s3d_put *put = open_large_put(fake, concurrency);
        CHECK_CODE(refer(put, data, size, -1, NULL), S3D_OK);
        CHECK(s3d_put_bytes(put) == size);
        CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
        check_object(fake, size);
        CHECK(fake_watched_bytes(fake) == size);
        CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_PART) == 11);
        CHECK(fake_peak(fake, S3D_VERB_UPLOAD_PART) <= concurrency);
        check_log_spans(fake, S3D_VERB_UPLOAD_PART, 1);
        const struct fake_line *lines;
        size_t count = fake_log(fake, &lines);
        for (size_t i = 0; i < count; i++) {
            CHECK(lines[i].verb != S3D_VERB_UPLOAD_PART ||
                  lines[i].data == data + (lines[i].part - 1) * (size_t)LARGE_PART);
        }
        CHECK(s3d_put_stored_bytes(put) == size);
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

/* 64 KiB is the shortest piece that is sent from where it lies. */
static void test_refer_minimum(void)
{
    for (size_t length = REFER_MIN - 1; length <= REFER_MIN + 1; length++) {
        struct fake_store *fake = fake_open();
        char *data = pattern(length);
        fake_watch(fake, data, length);
        struct s3d_put *put = open_large_put(fake, 2);
        CHECK_CODE(refer(put, data, length, -1, NULL), S3D_OK);
        CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
        check_object(fake, length);
        CHECK(fake_watched_bytes(fake) == (length < REFER_MIN ? 0 : length));
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

/* Small pieces are gathered: a part of thousands of them has a span or two. */
static void test_refer_small(void)
{
    static const size_t pieces[] = {1, 100, 4096, REFER_MIN - 1};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct fake_store *fake = fake_open();
        size_t size = (i ? 5 : 1) * LARGE_PART + 1000;
        char *data = pattern(size);
        fake_watch(fake, data, size);
        struct s3d_put *put = open_large_put(fake, 3);
        for (size_t at = 0; at < size; at += pieces[i]) {
            size_t length = size - at < pieces[i] ? size - at : pieces[i];
            CHECK_CODE(refer(put, data + at, length, -1, NULL), S3D_OK);
        }
        CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
        check_object(fake, size);
        CHECK(fake_watched_bytes(fake) == 0);
        /* LARGE_PART takes two chunks. */
        check_log_spans(fake, S3D_VERB_UPLOAD_PART, 2);
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

/* One PUT of several spans: references, copies of both kinds, and an end of each. */
static void test_refer_single(void)
{
    struct fake_store *fake = fake_open();
    size_t size = 2 * REFER_MIN + 3000;
    char *data = pattern(size), *other = pattern(size);
    fake_watch(fake, data, size);
    struct s3d_put *put = open_large_put(fake, 2);
    size_t at = 0, written = 0;
    CHECK_CODE(s3d_put_write(put, other, 1000, &written, -1, NULL), S3D_OK);
    memset(other, 0, 1000);
    at = 1000;
    CHECK_CODE(refer(put, data + at, REFER_MIN, -1, NULL), S3D_OK);
    at += REFER_MIN;
    CHECK_CODE(refer(put, data + at, 1000, -1, NULL), S3D_OK);
    at += 1000;
    CHECK_CODE(refer(put, data + at, 0, -1, NULL), S3D_OK);
    CHECK_CODE(refer(put, data + at, REFER_MIN, -1, NULL), S3D_OK);
    at += REFER_MIN;
    written = 0;
    CHECK_CODE(s3d_put_write(put, other + at, 1000, &written, -1, NULL), S3D_OK);
    memset(other + at, 0, 1000);
    CHECK(s3d_put_bytes(put) == size && s3d_put_stored_bytes(put) == 0);
    CHECK(fake_attempts_all(fake) == 0);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, size);
    CHECK(fake_watched_bytes(fake) == 2 * REFER_MIN);
    CHECK(fake_attempts(fake, S3D_VERB_PUT) == 1 && fake_attempts_all(fake) == 1);
    const struct fake_line *lines;
    CHECK(fake_log(fake, &lines) == 1 && lines[0].spans == 5);
    s3d_put_free(put);
    free(data);
    free(other);
    fake_close(fake);
}

/* An exact part is still one PUT, one byte more is an upload: by write or by reference. */
static void test_refer_one_part(void)
{
    for (size_t size = LARGE_PART - 1; size <= LARGE_PART + 1; size++) {
        struct fake_store *fake = fake_open();
        char *data = pattern(size);
        fake_watch(fake, data, size);
        struct s3d_put *put = open_large_put(fake, 2);
        CHECK_CODE(refer(put, data, size, -1, NULL), S3D_OK);
        CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
        check_object(fake, size);
        CHECK(fake_watched_bytes(fake) == size);
        CHECK(fake_attempts(fake, S3D_VERB_PUT) == (size > LARGE_PART ? 0 : 1));
        CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_PART) == (size > LARGE_PART ? 2 : 0));
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

/* Memory that can be taken away: from then on any access ends the test. */
static char *removable(size_t size)
{
    char *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(data != MAP_FAILED);
    fake_pattern(data, size, 7);
    return data;
}

static void take_away(char *data, size_t size)
{
    CHECK(mprotect(data, size, PROT_NONE) == 0);
}

enum { MIXED_BYTES = 8 * LARGE_PART };

/* Two copies of the pattern, used in turns so that no two references touch. */
static char *mixed_data[2];

/* Appends one piece; what is written lies in memory that is gone when the write returns. */
static uint64_t append_mixed(struct s3d_put *put, size_t at, size_t length, unsigned kind,
                             int64_t timeout_ms)
{
    if (kind) {
        CHECK_CODE(refer(put, mixed_data[kind - 1] + at, length, timeout_ms, NULL), S3D_OK);
        return length >= REFER_MIN ? length : 0;
    }
    unsigned agains = 0;
    CHECK_CODE(
        write_pieces(put, mixed_data[0] + at, length, SIZE_MAX, timeout_ms, &agains, NULL),
        S3D_OK);
    return 0;
}

static void mix(unsigned round)
{
    static const size_t lengths[] = {0,
                                     1,
                                     100,
                                     REFER_MIN - 1,
                                     REFER_MIN,
                                     REFER_MIN + 1,
                                     SMALL_CHUNK - 1,
                                     SMALL_CHUNK,
                                     SMALL_CHUNK + 1,
                                     LARGE_PART - 1,
                                     LARGE_PART,
                                     LARGE_PART + 1,
                                     2 * LARGE_PART + 17,
                                     LARGE_PART - REFER_MIN};
    struct fake_store *fake = fake_open();
    unsigned concurrency = 1 + round % 5;
    int64_t timeout_ms = round % 3 == 0 ? 0 : -1;
    fake_watch(fake, mixed_data[0], MIXED_BYTES);
    if (round % 3 == 0) {
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_UPLOAD_PART, .times = 100, .delay_ms = 1});
    }
    struct s3d_put *put = open_large_put(fake, concurrency);
    uint64_t referred = 0;
    size_t at = 0, end = test_random_below(MIXED_BYTES);
    while (at < end) {
        size_t length = lengths[test_random_below(sizeof lengths / sizeof *lengths)];
        length = length < end - at ? length : end - at;
        unsigned kind = (unsigned)test_random_below(3);
        uint64_t direct = append_mixed(put, at, length, kind, timeout_ms);
        referred += kind == 1 ? direct : 0;
        at += length;
        CHECK(s3d_put_bytes(put) == at && s3d_put_stored_bytes(put) <= at);
    }
    unsigned agains = 0;
    CHECK_CODE(finish(put, timeout_ms, &agains, NULL), S3D_OK);
    check_object(fake, end);
    CHECK(fake_watched_bytes(fake) == referred);
    CHECK(fake_attempts(fake, S3D_VERB_UPLOAD_PART) ==
          (end > LARGE_PART ? (end + LARGE_PART - 1) / LARGE_PART : 0));
    CHECK(fake_peak(fake, S3D_VERB_UPLOAD_PART) <= concurrency);
    s3d_put_free(put);
    fake_close(fake);
}

/* Writes and references of every size, around the ends of parts and chunks. */
static void test_refer_and_write(void)
{
    mixed_data[0] = pattern(MIXED_BYTES);
    mixed_data[1] = pattern(MIXED_BYTES);
    for (unsigned round = 0; round < 60; round++) {
        mix(round);
    }
    free(mixed_data[0]);
    free(mixed_data[1]);
}

/* Whatever order parts end in, what counts as stored ends before the first that has not. */
static void stored_in_order(const uint32_t *order)
{
    enum { PARTS = 4 };
    struct fake_store *fake = fake_open();
    size_t size = PARTS * PART + 10;
    char *data = pattern(size);
    fake_rule(fake,
              (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART, .times = PARTS, .hold = true});
    struct s3d_put *put = open_put(fake, PARTS);
    CHECK_CODE(refer(put, data, size, -1, NULL), S3D_OK);
    fake_wait_held(fake, PARTS);
    CHECK(s3d_put_stored_bytes(put) == 0);
    bool ended[PARTS + 2] = {false};
    for (unsigned i = 0; i < PARTS; i++) {
        fake_release_part(fake, order[i]);
        ended[order[i]] = true;
        uint64_t expected = 0;
        while (ended[1 + expected / PART]) {
            expected += PART;
        }
        for (uint64_t stored = 0; stored != expected; usleep(100)) {
            uint64_t now = s3d_put_stored_bytes(put);
            CHECK(now >= stored && now <= expected);
            stored = now;
        }
        usleep(200);
        CHECK(s3d_put_stored_bytes(put) == expected);
    }
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    CHECK(s3d_put_stored_bytes(put) == size);
    check_object(fake, size);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

static void test_stored_bytes(void)
{
    for (unsigned number = 0; number < 256; number++) {
        uint32_t order[4];
        unsigned seen = 0;
        for (unsigned i = 0; i < 4; i++) {
            order[i] = 1 + (number >> 2 * i & 3);
            seen |= 1u << order[i];
        }
        if (seen == 30) { /* a permutation */
            stored_in_order(order);
        }
    }
}

static size_t take_away_stored(struct s3d_put *put, char *data, size_t gone)
{
    size_t stored = (size_t)s3d_put_stored_bytes(put);
    CHECK(stored >= gone && stored % PART == 0);
    if (stored) {
        take_away(data, stored);
    }
    return stored;
}

/* Memory goes as soon as it counts as stored; an attempt that is repeated must not need it. */
static void test_stored_memory_goes(void)
{
    enum { PARTS = 40, BROKEN = 20 };
    for (unsigned round = 0; round < 8; round++) {
        struct fake_store *fake = fake_open();
        size_t size = PARTS * PART, gone = 0;
        char *data = removable(size);
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART,
                                           .times = 1000,
                                           .delay_ms = round % 2});
        unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART,
                                                           .part = BROKEN,
                                                           .times = 2,
                                                           .delay_ms = 2,
                                                           .code = S3D_NETWORK});
        struct s3d_put *put = open_put(fake, 1 + round);
        for (size_t at = 0; at < size; at += 2 * PART) {
            CHECK_CODE(refer(put, data + at, 2 * PART, round % 2 ? 0 : -1, NULL), S3D_OK);
            gone = take_away_stored(put, data, gone);
            CHECK(gone <= at + 2 * PART);
        }
        while (gone < (BROKEN - 1) * PART) { /* these come without any further call */
            gone = take_away_stored(put, data, gone);
        }
        enum s3d_code code;
        while ((code = s3d_put_finish(put, 1, NULL)) == S3D_AGAIN) {
            gone = take_away_stored(put, data, gone);
        }
        CHECK_CODE(code, S3D_OK);
        take_away(data, size);
        CHECK(fake_fired(fake, rule) == 2);
        check_object(fake, size);
        s3d_put_free(put);
        munmap(data, size);
        fake_close(fake);
    }
}

/* After an abort nothing reads what was referred to, wherever its parts were. */
static void test_abort_references(void)
{
    enum { SIZE = 10 * PART };
    for (unsigned round = 0; round < 40; round++) {
        struct fake_store *fake = fake_open();
        char *data = removable(SIZE);
        bool hold = round % 4 == 0, held_back = round % 4 == 1;
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART,
                                           .times = 1000,
                                           .hold = hold,
                                           .delay_ms = hold ? 0 : round % 3});
        fake_rule(fake, (struct fake_rule){
                            .verb = S3D_VERB_UPLOAD_CREATE, .times = held_back, .delay_ms = 5});
        struct s3d_put *put = open_put(fake, 3);
        size_t written = 0;
        enum s3d_code code = s3d_put_refer(put, data, SIZE, &written, round % 7, NULL);
        CHECK(code == S3D_OK || code == S3D_AGAIN);
        CHECK(!hold || code == S3D_AGAIN);
        if (round % 2) {
            s3d_put_abort(put, NULL);
        } else {
            s3d_put_free(put);
        }
        take_away(data, SIZE);
        fake_release(fake);
        usleep(2000);
        if (round % 2) {
            check_cancelled(put);
            CHECK(s3d_put_stored_bytes(put) <= SIZE);
            s3d_put_free(put);
        }
        check_no_object(fake);
        munmap(data, SIZE);
        fake_close(fake);
    }
}

/* The same where it was a single PUT, and where only the draft refers to the memory. */
static void test_abort_single_reference(void)
{
    for (int sent = 0; sent <= 1; sent++) {
        struct fake_store *fake = fake_open();
        char *data = removable(PART);
        unsigned rule = fake_rule(
            fake, (struct fake_rule){.verb = S3D_VERB_PUT, .times = 5, .code = S3D_DENIED});
        struct s3d_put *put = open_put(fake, 3);
        CHECK_CODE(refer(put, data, PART, -1, NULL), S3D_OK);
        struct s3d_error error;
        if (sent) {
            CHECK_CODE(s3d_put_finish(put, -1, &error), S3D_DENIED);
            CHECK(fake_fired(fake, rule) == 1);
        } else {
            s3d_put_abort(put, NULL);
        }
        take_away(data, PART);
        CHECK_CODE(s3d_put_finish(put, -1, &error), sent ? S3D_DENIED : S3D_CANCELLED);
        s3d_put_free(put);
        check_no_object(fake);
        munmap(data, PART);
        fake_close(fake);
    }
}

/* A part fails: once that has been said, nothing reads the memory of the others any more. */
static void test_failure_with_references(void)
{
    enum { PARTS = 10, SIZE = PARTS * PART };
    for (uint32_t part = 1; part <= PARTS; part++) {
        for (int hold = 0; hold <= 1; hold++) {
            struct fake_store *fake = fake_open();
            char *data = removable(SIZE);
            /* Held ones would never end; those before the failing one must, to make room. */
            for (uint32_t i = part; hold && i <= PARTS; i++) {
                fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART,
                                                   .part = i,
                                                   .times = 1,
                                                   .hold = true});
            }
            unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART,
                                                               .part = part,
                                                               .times = 1,
                                                               .delay_ms = 2,
                                                               .code = S3D_DENIED});
            struct s3d_put *put = open_put(fake, 4);
            struct s3d_error error = {0};
            enum s3d_code code = S3D_OK;
            for (size_t at = 0; !code && at < SIZE; at += PART) {
                code = refer(put, data + at, PART, -1, &error);
            }
            code = code ? code : s3d_put_finish(put, -1, &error);
            take_away(data, SIZE);
            CHECK_CODE(code, S3D_DENIED);
            CHECK(fake_fired(fake, rule) == 1);
            fake_release(fake);
            usleep(1000);
            CHECK(s3d_put_stored_bytes(put) <= (part - 1) * (uint64_t)PART);
            check_poisoned(put, &error);
            size_t written = 0;
            CHECK_CODE(s3d_put_refer(put, data, PART, &written, -1, NULL), S3D_DENIED);
            check_no_object(fake);
            s3d_put_free(put);
            munmap(data, SIZE);
            fake_close(fake);
        }
    }
}

/* ---- letting go ---- */

static enum s3d_code let_go(struct s3d_put *put, uint64_t end, int64_t timeout_ms,
                            struct s3d_error *error)
{
    enum s3d_code code;
    while ((code = s3d_put_let_go(put, end, timeout_ms, error)) == S3D_AGAIN) {
        CHECK(timeout_ms >= 0);
    }
    return code;
}

/* Memory of each piece goes as soon as it was let go, wherever parts end and however slow they are. */
static void test_let_go(void)
{
    static const size_t pieces[] = {PART, PART + 4096, 3 * PART, 5 * PART / 2 + 4096,
                                    LARGE_PART};
    enum { COUNT = 12 };
    for (unsigned round = 0; round < 20; round++) {
        struct fake_store *fake = fake_open();
        size_t piece = pieces[round % 5], size = COUNT * piece;
        char *data = removable(size);
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART,
                                           .times = 1000,
                                           .delay_ms = round % 3});
        struct s3d_put *put =
            round % 2 ? open_large_put(fake, 1 + round % 4) : open_put(fake, 1 + round % 4);
        for (size_t at = 0; at < size; at += piece) {
            CHECK_CODE(refer(put, data + at, piece, -1, NULL), S3D_OK);
            CHECK_CODE(let_go(put, at + piece, round % 4 ? 1 : -1, NULL), S3D_OK);
            take_away(data, at + piece);
        }
        CHECK_CODE(let_go(put, size, -1, NULL), S3D_OK); /* again is fine */
        CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
        check_object(fake, size);
        s3d_put_free(put);
        munmap(data, size);
        fake_close(fake);
    }
}

/* The store has what lies before, and nothing is copied for that. */
static void test_let_go_of_whole_parts(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(6 * PART);
    fake_watch(fake, data, 6 * PART);
    struct s3d_put *put = open_put(fake, 4);
    CHECK_CODE(refer(put, data, 6 * PART, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_put_let_go(put, 3 * PART, -1, NULL), S3D_OK);
    CHECK(s3d_put_stored_bytes(put) >= 3 * PART);
    CHECK_CODE(s3d_put_let_go(put, 0, 0, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    check_object(fake, 6 * PART);
    CHECK(fake_watched_bytes(fake) == 6 * PART);
    CHECK_CODE(s3d_put_let_go(put, 6 * PART, -1, NULL), S3D_CLOSED);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* A held part: AGAIN; its failure: that error, also where only the draft was to be copied. */
static void test_let_go_and_failures(void)
{
    for (int draft_too = 0; draft_too <= 1; draft_too++) {
        struct fake_store *fake = fake_open();
        size_t size = 3 * PART + (draft_too ? 4096 : 0);
        char *data = removable(size);
        unsigned rule = fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_UPLOAD_PART,
                                                           .part = 1,
                                                           .times = 1,
                                                           .hold = true,
                                                           .code = S3D_DENIED});
        struct s3d_put *put = open_put(fake, 4);
        struct s3d_error error = {0};
        CHECK_CODE(refer(put, data, size, -1, NULL), S3D_OK);
        fake_wait_held(fake, 1);
        CHECK_CODE(s3d_put_let_go(put, size, 1, NULL), S3D_AGAIN);
        fake_release(fake);
        CHECK_CODE(let_go(put, size, 5, &error), S3D_DENIED);
        take_away(data, size);
        CHECK(fake_fired(fake, rule) == 1);
        check_poisoned(put, &error);
        check_no_object(fake);
        s3d_put_free(put);
        munmap(data, size);
        fake_close(fake);
    }
}

/* Each allocation fails in turn: an error and no object, or all of it without that memory. */
static void test_let_go_without_memory(void)
{
    bool fired = true;
    for (unsigned long n = 1; fired; n++) {
        struct fake_store *fake = fake_open();
        char *data = removable(LARGE_PART);
        struct s3d_put *put = open_large_put(fake, 2);
        CHECK_CODE(refer(put, data, REFER_MIN, -1, NULL), S3D_OK);
        s3d_mem_fail_at(n);
        enum s3d_code code = s3d_put_let_go(put, REFER_MIN, -1, NULL);
        fired = s3d_mem_fault_fired();
        s3d_mem_fail_at(0);
        take_away(data, REFER_MIN);
        CHECK_CODE(code, fired ? S3D_NO_MEMORY : S3D_OK);
        if (code) {
            check_no_object(fake);
        } else {
            CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
            check_object(fake, REFER_MIN);
        }
        s3d_put_free(put);
        munmap(data, LARGE_PART);
        fake_close(fake);
    }
}

static void test_refer_after_finish(void)
{
    struct fake_store *fake = fake_open();
    char *data = pattern(PART);
    struct s3d_put *put = open_put(fake, 2);
    size_t written = 0;
    CHECK_CODE(refer(put, data, PART, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
    CHECK_CODE(s3d_put_refer(put, data, PART, &written, -1, NULL), S3D_CLOSED);
    CHECK(written == 0);
    check_object(fake, PART);
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

/* References take no memory at all, and small pieces between them little. */
static void test_reference_memory(void)
{
    enum { BIG_PART = 1024 * 1024, RECORDS = 24, RECORD = 700 * 1024, HEAD = 100 };
    size_t size = RECORDS * (RECORD + HEAD);
    char *data = pattern(size);
    for (size_t head = 0; head <= HEAD; head += HEAD) {
        fake_engine(""); /* and a new peak */
        struct fake_store *fake = fake_open();
        struct s3d_put_plan plan = {.key = "object", .part_bytes = BIG_PART, .concurrency = 4};
        struct s3d_put *put;
        CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, NULL), S3D_OK);
        size_t at = 0;
        for (size_t i = 0; i < RECORDS; i++) {
            CHECK_CODE(refer(put, data + at, head, -1, NULL), S3D_OK);
            at += head;
            CHECK_CODE(refer(put, data + at, RECORD, -1, NULL), S3D_OK);
            at += RECORD;
        }
        CHECK_CODE(s3d_put_finish(put, -1, NULL), S3D_OK);
        check_object(fake, at);
        /* A chunk for each part in flight and one for the next. */
        uint64_t peak = fake_running_engine()->budget.peak_bytes;
        CHECK(head ? peak > 0 && peak <= 5 * SMALL_CHUNK : peak == 0);
        s3d_put_free(put);
        fake_close(fake);
    }
    free(data);
    fake_engine("");
}

/* With next to no budget references still go through, and small pieces wait for their chunk. */
static void test_references_and_a_small_budget(void)
{
    fake_engine("S3DLIO_MEMORY_LIMIT=1");
    mixed_data[0] = pattern(MIXED_BYTES);
    mixed_data[1] = pattern(MIXED_BYTES);
    for (unsigned round = 0; round < 15; round++) {
        mix(round);
    }
    CHECK(fake_running_engine()->budget.peak_bytes <= 2 * LARGE_PART);
    free(mixed_data[0]);
    free(mixed_data[1]);
    fake_engine("");
}

static struct fake_store *torture_fake;

/* References and small pieces in turns, small enough parts that lists of spans grow. */
static enum s3d_code refer_once(void)
{
    struct s3d_put_plan plan = {.key = "object", .part_bytes = 8 * PART, .concurrency = 2};
    struct s3d_error error = {0};
    struct s3d_put *put = NULL;
    size_t size = 20 * PART, at = 0;
    char *data = removable(size);
    enum s3d_code code = s3d_put_new(&put, fake_base(torture_fake), &plan, &error);
    for (unsigned i = 0; !code && at < size - 2 * PART; i++) {
        size_t length = i % 2 ? PART + 50 : 3000;
        code = refer(put, data + at, length, -1, &error);
        at += length;
    }
    if (!code) {
        code = s3d_put_finish(put, -1, &error);
    }
    CHECK(code == error.code);
    if (!code) {
        check_object(torture_fake, at);
    }
    s3d_put_free(put);
    munmap(data, size);
    CHECK(fake_open_uploads(torture_fake) == 0);
    return code;
}

static void test_out_of_memory_with_references(void)
{
    torture_fake = fake_open();
    CHECK(test_torture(refer_once, 0) >= 12);
    fake_close(torture_fake);
}

int main(void)
{
    alarm(150);
    setvbuf(stdout, NULL, _IONBF, 0);
    fake_engine("");
    RUN(test_sizes);
    RUN(test_real_part_size);
    RUN(test_in_place);
    RUN(test_again);
    RUN(test_again_single);
    RUN(test_finish_is_idempotent);
    RUN(test_if_none_match);
    RUN(test_growing_parts);
    RUN(test_refer_whole_parts);
    RUN(test_refer_minimum);
    RUN(test_refer_small);
    RUN(test_refer_single);
    RUN(test_refer_one_part);
    RUN(test_refer_and_write);
    RUN(test_stored_bytes);
    RUN(test_stored_memory_goes);
    RUN(test_abort_references);
    RUN(test_abort_single_reference);
    RUN(test_failure_with_references);
    RUN(test_let_go);
    RUN(test_let_go_of_whole_parts);
    RUN(test_let_go_and_failures);
    RUN(test_let_go_without_memory);
    RUN(test_refer_after_finish);
    RUN(test_reference_memory);
    RUN(test_references_and_a_small_budget);
    RUN(test_out_of_memory_with_references);
    s3d_engine_shutdown();
    return 0;
}
