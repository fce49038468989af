/* Ranged reads into many segments: every byte once, in as few requests as are promised. */
#include "get_test.h"

#include "core/plan.h"

#include <unistd.h>

enum { GUARD = 8, GAP_MAX = 64 * 1024, OBJECT = 2 * 1024 * 1024, SEGMENTS_MAX = 10000 };

/* Segments over memory of their own with guard bytes between, and what pieces were told of. */
struct layout {
    struct s3d_segment segments[SEGMENTS_MAX];
    size_t count;
    char *arena;
    unsigned char *told; /* per byte of the arena, how often */
    size_t arena_bytes;
    uint64_t at; /* where the next segment may begin */
};

static void add_segment(struct layout *layout, uint64_t gap, uint64_t length)
{
    CHECK(layout->count < SEGMENTS_MAX);
    layout->segments[layout->count++] =
        (struct s3d_segment){.offset_bytes = layout->at + gap, .length_bytes = length};
    layout->at += gap + length;
}

/* Gives the segments their memory. */
static void lay_out(struct layout *layout)
{
    layout->arena_bytes = GUARD;
    for (size_t i = 0; i < layout->count; i++) {
        layout->arena_bytes += layout->segments[i].length_bytes + GUARD;
    }
    layout->arena = fake_memory(layout->arena_bytes);
    layout->told = fake_memory(layout->arena_bytes);
    memset(layout->arena, 0x55, layout->arena_bytes);
    char *data = layout->arena + GUARD;
    for (size_t i = 0; i < layout->count; i++) {
        layout->segments[i].data = data;
        data += layout->segments[i].length_bytes + GUARD;
    }
}

/* Counts the told bytes; no lock, as pieces do not overlap (or the thread sanitizer says so). */
static enum s3d_code count_piece(void *context, size_t number, uint64_t offset,
                                 const char *data, uint64_t length, struct s3d_error *error)
{
    (void)error;
    struct layout *layout = context;
    const struct s3d_segment *segment = &layout->segments[number];
    CHECK(number < layout->count && length > 0);
    CHECK(offset + length <= segment->length_bytes && data == segment->data + offset);
    CHECK(fake_pattern_is(data, length, 1, segment->offset_bytes + offset));
    for (uint64_t i = 0; i < length; i++) {
        layout->told[data - layout->arena + (ptrdiff_t)i]++;
    }
    return S3D_OK;
}

static void check_layout(const struct layout *layout, bool told)
{
    const char *at = layout->arena;
    for (size_t i = 0; i <= layout->count; i++) {
        for (size_t j = 0; j < GUARD; j++) {
            CHECK(at[j] == 0x55 && !layout->told[at - layout->arena + (ptrdiff_t)j]);
        }
        at += GUARD;
        if (i == layout->count) {
            break;
        }
        const struct s3d_segment *segment = &layout->segments[i];
        CHECK(at == segment->data);
        CHECK(fake_pattern_is(at, segment->length_bytes, 1, segment->offset_bytes));
        for (size_t j = 0; j < segment->length_bytes; j++) {
            CHECK(layout->told[at - layout->arena + (ptrdiff_t)j] == told);
        }
        at += segment->length_bytes;
    }
}

/* The next segment from i on that is not empty. */
static size_t full_from(const struct layout *layout, size_t i)
{
    while (i < layout->count && !layout->segments[i].length_bytes) {
        i++;
    }
    return i;
}

/* How many requests get.h promises: runs of neighbours, read from the first wanted byte on. */
static unsigned requests_for(const struct layout *layout, uint64_t part)
{
    unsigned count = 0;
    uint64_t read_to = 0, last_end = 0;
    bool any = false;
    for (size_t i = full_from(layout, 0); i < layout->count; i = full_from(layout, i + 1)) {
        uint64_t from = layout->segments[i].offset_bytes;
        uint64_t to = from + layout->segments[i].length_bytes;
        if (!any || from - last_end > GAP_MAX) {
            read_to = from; /* a new run; what was read ahead ended with the old one */
        }
        if (from < read_to) {
            from = read_to;
        }
        for (; from < to; from += part) {
            count++;
            read_to = from + part;
        }
        last_end = to;
        any = true;
    }
    return count;
}

static int by_offset(const void *a, const void *b)
{
    const struct fake_line *left = a, *right = b;
    return left->offset < right->offset ? -1 : left->offset > right->offset;
}

/* No byte twice, no request that is empty or too long, each from a wanted byte on. */
static void check_requests(struct fake_store *fake, const struct layout *layout, uint64_t part)
{
    const struct fake_line *log;
    size_t count = fake_log(fake, &log);
    CHECK(count == requests_for(layout, part));
    struct fake_line *lines = fake_memory(count * sizeof *lines);
    memcpy(lines, log, count * sizeof *lines);
    qsort(lines, count, sizeof *lines, by_offset);
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        CHECK(lines[i].length > 0 && lines[i].length <= part);
        CHECK(!i || lines[i - 1].offset + lines[i - 1].length <= lines[i].offset);
        while (at < layout->count &&
               layout->segments[at].offset_bytes + layout->segments[at].length_bytes <=
                   lines[i].offset) {
            at++;
        }
        at = full_from(layout, at);
        CHECK(at < layout->count && layout->segments[at].offset_bytes <= lines[i].offset);
    }
    free(lines);
}

/* How long a request may be: test_plan.c says why. */
static uint64_t range_for(const struct layout *layout, uint64_t part, unsigned concurrency)
{
    uint64_t total = 0;
    for (size_t i = 0; i < layout->count; i++) {
        total += layout->segments[i].length_bytes;
    }
    return s3d_plan_range(total, part, concurrency);
}

/* Reads the layout, twice: with and without being told of the pieces. */
static void read_layout(struct fake_store *fake, struct layout *layout, uint64_t part,
                        unsigned concurrency)
{
    lay_out(layout);
    for (int told = 0; told <= 1; told++) {
        memset(layout->told, 0, layout->arena_bytes);
        fake_counters_clear(fake);
        struct s3d_get_plan plan = plan_for(layout->segments, layout->count, concurrency);
        plan.part_bytes = part;
        plan.piece = told ? count_piece : NULL;
        plan.context = layout;
        struct s3d_get *get;
        CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, NULL), S3D_OK);
        for (size_t i = 0; i < layout->count; i += 1 + i / 8) {
            CHECK_CODE(s3d_get_wait(get, i, 1, -1, NULL), S3D_OK);
        }
        CHECK_CODE(s3d_get_wait_all(get, -1, NULL), S3D_OK);
        s3d_get_free(get);
        check_layout(layout, told);
        check_requests(fake, layout, range_for(layout, part, concurrency));
        memset(layout->arena, 0x55, layout->arena_bytes);
    }
    free(layout->arena);
    free(layout->told);
    layout->count = 0;
    layout->at = 0;
}

static void test_adjacent(void)
{
    struct fake_store *fake = fake_open_with(OBJECT, 1);
    static struct layout layout;
    for (unsigned round = 0; round < 20; round++) {
        layout.at = test_random_below(1000);
        for (size_t i = 0; i < 50; i++) {
            add_segment(&layout, 0, 1 + test_random_below(5000));
        }
        read_layout(fake, &layout, round % 2 ? PART : 777, 1 + round % 7);
    }
    for (size_t i = 0; i < 10; i++) {
        add_segment(&layout, 0, PART);
    }
    CHECK(requests_for(&layout, PART) == 10);
    read_layout(fake, &layout, PART, 4);
    fake_close(fake);
}

static void test_gaps(void)
{
    static const uint64_t gaps[] = {1,           30,      PART - 1,    PART,          3 * PART,
                                    GAP_MAX - 1, GAP_MAX, GAP_MAX + 1, GAP_MAX + PART};
    static const uint64_t parts[] = {PART, 100, 100000, OBJECT};
    struct fake_store *fake = fake_open_with(OBJECT, 1);
    static struct layout layout;
    for (size_t i = 0; i < sizeof gaps / sizeof *gaps; i++) {
        for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) {
            for (size_t k = 0; k < 20; k++) {
                add_segment(&layout, gaps[i], 1 + test_random_below(400));
            }
            if (gaps[i] <= GAP_MAX && parts[j] == OBJECT) {
                CHECK(requests_for(&layout, parts[j]) == 1);
            } else if (gaps[i] > GAP_MAX && parts[j] >= 400) {
                CHECK(requests_for(&layout, parts[j]) == 20);
            }
            read_layout(fake, &layout, parts[j], 3);
        }
    }
    fake_close(fake);
}

/* A long segment between short ones shares its first and its last request with them. */
static void test_long_segment(void)
{
    struct fake_store *fake = fake_open_with(OBJECT, 1);
    static struct layout layout;
    for (unsigned shift = 0; shift < 8; shift++) {
        add_segment(&layout, shift, 10);
        add_segment(&layout, 5, 15 * PART / 2 + shift - 4);
        add_segment(&layout, shift % 2, 20);
        read_layout(fake, &layout, PART, 4);
    }
    fake_close(fake);
}

static void test_ten_thousand(void)
{
    enum { COUNT = 10000, LENGTH = 100, GAP = 30 };
    static const uint64_t parts[] = {8 * 1024 * 1024, 1024 * 1024, 100 * 1000, PART};
    struct fake_store *fake = fake_open_with(OBJECT, 1);
    static struct layout layout;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        for (size_t j = 0; j < COUNT; j++) {
            add_segment(&layout, j ? GAP : 0, LENGTH);
        }
        uint64_t part = parts[i] < 1024 * 1024 ? parts[i] : 1024 * 1024; /* a range's minimum */
        uint64_t extent = COUNT * LENGTH + (COUNT - 1) * GAP;
        CHECK(requests_for(&layout, part) <= (extent + part - 1) / part);
        read_layout(fake, &layout, part, 64);
    }
    CHECK(layout.count == 0);
    fake_close(fake);
}

/* The layout that empty segments are put into: neighbours, a gap, a far one, a long one. */
static void add_base(struct layout *layout, size_t from, size_t to)
{
    static const uint64_t base[][2] = {
        {10, 100}, {0, 50}, {200, 300}, {GAP_MAX + 1, 70}, {GAP_MAX, 7 * PART / 2}, {0, 1}};
    for (size_t i = from; i < to; i++) {
        add_segment(layout, base[i][0], base[i][1]);
    }
}

/* Adds the base with `repeat` empty segments before its i-th, `gap` bytes after what comes before;
 * the base itself stays where it is. */
static void add_base_and_empty(struct layout *layout, size_t i, uint64_t gap, size_t repeat)
{
    enum { BASE = 6 };
    add_base(layout, 0, i);
    uint64_t at = layout->at;
    for (size_t j = 0; j < repeat; j++) {
        add_segment(layout, j ? 0 : gap, 0);
    }
    layout->at = at;
    add_base(layout, i, BASE);
}

static void test_empty_segments(void)
{
    static const uint64_t room[] = {10, 0, 200, GAP_MAX + 1, GAP_MAX, 0, 2 * GAP_MAX};
    static const uint64_t parts[] = {PART, 100, 130, OBJECT};
    struct fake_store *fake = fake_open_with(OBJECT, 1);
    static struct layout layout;
    for (size_t i = 0; i <= 6; i++) {
        for (uint64_t step = 0; step < 4; step++) {
            uint64_t gap = room[i] * step / 3; /* right behind, between, right before */
            for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) {
                add_base_and_empty(&layout, i, gap, 1 + step);
                read_layout(fake, &layout, parts[j], 3);
            }
        }
    }
    fake_close(fake);
}

/* Nothing is wanted: nothing is asked, not even where the object does not reach. */
static void test_nothing_wanted(void)
{
    struct fake_store *fake = fake_open_with(OBJECT, 1);
    static struct layout layout;
    read_layout(fake, &layout, PART, 3);
    for (size_t i = 0; i < 5; i++) {
        add_segment(&layout, i * 1000 * 1000, 0);
    }
    CHECK(requests_for(&layout, PART) == 0);
    read_layout(fake, &layout, PART, 3);
    add_segment(&layout, 0, 100); /* and one behind the object's end with a full one before */
    add_segment(&layout, OBJECT, 0);
    read_layout(fake, &layout, PART, 3);
    fake_close(fake);
}

static void test_any_layout(void)
{
    struct fake_store *fake = fake_open_with(OBJECT, 1);
    static struct layout layout;
    for (unsigned round = 0; round < 300; round++) {
        uint64_t gap_limit = 1 + test_random_below(round % 3 ? 300 : 3 * GAP_MAX);
        uint64_t length_limit = 1 + test_random_below(round % 5 ? 2000 : 20 * PART);
        size_t count = test_random_below(40);
        for (size_t i = 0; i < count && layout.at < OBJECT - gap_limit - length_limit; i++) {
            uint64_t gap = test_random_below(3) ? test_random_below(gap_limit) : 0;
            bool empty = !test_random_below(5);
            add_segment(&layout, gap, empty ? 0 : test_random_below(length_limit));
        }
        fake_set_blocking(fake, round % 4 == 0);
        read_layout(fake, &layout, 1 + test_random_below(3 * PART),
                    1 + (unsigned)test_random_below(9));
    }
    fake_close(fake);
}

static void expect_invalid(struct fake_store *fake, const struct s3d_segment *segments,
                           size_t count)
{
    struct s3d_get *get;
    struct s3d_error error;
    struct s3d_get_plan plan = plan_for(segments, count, 3);
    fake_counters_clear(fake);
    CHECK_CODE(s3d_get_new(&get, fake_base(fake), &plan, &error), S3D_INVALID);
    CHECK_CODE(error.code, S3D_INVALID);
    CHECK(fake_attempts_all(fake) == 0);
}

static void test_wrong_segments(void)
{
    struct fake_store *fake = fake_open_with(OBJECT, 1);
    char data[64];
    struct s3d_segment overlapping[] = {{0, 10, data}, {9, 10, data + 10}};
    struct s3d_segment descending[] = {{100, 10, data}, {0, 10, data + 10}};
    struct s3d_segment late[] = {{0, 10, data}, {20, 10, data + 10}, {10, 10, data + 20}};
    struct s3d_segment twice[] = {{5, 10, data}, {5, 10, data + 10}};
    struct s3d_segment empty_inside[] = {{0, 10, data}, {9, 0, data + 10}};
    struct s3d_segment endless[] = {{2, UINT64_MAX - 1, data}};
    expect_invalid(fake, overlapping, 2);
    expect_invalid(fake, descending, 2);
    expect_invalid(fake, late, 3);
    expect_invalid(fake, twice, 2);
    expect_invalid(fake, empty_inside, 2);
    expect_invalid(fake, endless, 1);
    fake_close(fake);
}

int main(void)
{
    alarm(60);
    setvbuf(stdout, NULL, _IONBF, 0);
    fake_engine("");
    RUN(test_adjacent);
    RUN(test_gaps);
    RUN(test_long_segment);
    RUN(test_ten_thousand);
    RUN(test_empty_segments);
    RUN(test_nothing_wanted);
    RUN(test_any_layout);
    RUN(test_wrong_segments);
    s3d_engine_shutdown();
    return 0;
}
