/* How many requests a stream keeps in flight: growing while it pays, going back, throttling. */
#include "test.h"

#include "core/window.h"

enum { START = 4, PAUSE = 16, SECOND_US = 1000000 };

/* A stream whose rounds take a second each. */
struct stream {
    struct s3d_window window;
    int64_t now_us;
};

static struct stream start(unsigned max)
{
    struct stream stream = {.now_us = 5};
    s3d_window_init(&stream.window, max);
    CHECK(stream.window.size == (max < START ? max : START));
    s3d_window_done(&stream.window, 1, S3D_OK, stream.now_us); /* starts the clock */
    return stream;
}

static void done(struct stream *stream, uint64_t bytes)
{
    s3d_window_done(&stream->window, bytes, S3D_OK, stream->now_us);
    CHECK(stream->window.size >= 1 && stream->window.size <= stream->window.max);
    CHECK(stream->window.settled >= 1 && stream->window.settled <= stream->window.size);
}

/* As many answers as the window holds, that bring `rate` bytes in a second. Only the last one may
 * change the size. */
static void round_at(struct stream *stream, uint64_t rate, bool limited)
{
    unsigned size = stream->window.size;
    int64_t end_us = stream->now_us + SECOND_US;
    for (unsigned i = 0; i < size; i++) {
        CHECK(stream->window.size == size);
        if (limited && i == size / 2) {
            s3d_window_wait(&stream->window);
        }
        stream->now_us = i + 1 < size ? stream->now_us + SECOND_US / (int)size / 2 : end_us;
        done(stream, i ? rate / size : rate - rate / size * (size - 1));
    }
}

/* A line that gets faster with each request in flight, up to `best` of them. */
static uint64_t line_rate(const struct stream *stream, unsigned best)
{
    return 1000000 * (uint64_t)(stream->window.size < best ? stream->window.size : best);
}

static void test_grows_while_it_pays(void)
{
    struct stream stream = start(64);
    static const unsigned sizes[] = {4, 8, 16, 32, 64, 64, 64};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CHECK(stream.window.size == sizes[i]);
        round_at(&stream, line_rate(&stream, 1000), true);
    }
    CHECK(stream.window.settled == 64);
}

/* The size that brings no more is left again, for a while; then it is tried anew. */
static void test_goes_back(void)
{
    struct stream stream = start(64);
    round_at(&stream, line_rate(&stream, 8), true); /* 4 */
    round_at(&stream, line_rate(&stream, 8), true); /* 8 */
    for (int trial = 0; trial < 4; trial++) {
        CHECK(stream.window.size == 16 && stream.window.settled == 8);
        round_at(&stream, line_rate(&stream, 8), true);
        for (int i = 0; i <= PAUSE; i++) {
            CHECK(stream.window.size == 8 && stream.window.settled == 8);
            round_at(&stream, line_rate(&stream, 8), true);
        }
    }
    /* The line is faster now: the next trial pays. */
    CHECK(stream.window.size == 16);
    round_at(&stream, line_rate(&stream, 16), true);
    CHECK(stream.window.settled == 16 && stream.window.size == 32);
}

/* A sixth more is the least that counts. */
static void test_how_much_better(void)
{
    static const uint64_t rates[] = {6000000, 6900000, 7000000, 7001000, 20000000};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        struct stream stream = start(64);
        round_at(&stream, 6000000, true);
        CHECK(stream.window.settled == 4 && stream.window.size == 8);
        round_at(&stream, rates[i], true);
        CHECK(stream.window.settled == (rates[i] > 7000000 ? 8 : 4));
        CHECK(stream.window.size == (rates[i] > 7000000 ? 16 : 4));
    }
}

/* The settled size is measured again each round: a line that got slower makes no trial look good
 * against what was once, and the other way round. */
static void test_measures_again(void)
{
    struct stream stream = start(64);
    round_at(&stream, 1000000, true);
    round_at(&stream, 1000000, true); /* 8: no better */
    for (int i = 0; i <= PAUSE; i++) {
        round_at(&stream, 10000000, true); /* ten times as fast at 4 */
    }
    CHECK(stream.window.size == 8 && stream.window.settled == 4);
    round_at(&stream, 10000000, true);
    CHECK(stream.window.size == 4 && stream.window.settled == 4);
}

/* Rounds in which nobody waited for the window say nothing. */
static void test_only_when_it_is_the_limit(void)
{
    struct stream stream = start(64);
    for (int i = 0; i < 50; i++) {
        round_at(&stream, 1000000 * (uint64_t)(i + 1), false);
        CHECK(stream.window.size == 4 && stream.window.settled == 4);
    }
    round_at(&stream, 1000000, true);
    CHECK(stream.window.size == 8); /* on trial, and an idle round does not end that */
    round_at(&stream, 1, false);
    CHECK(stream.window.size == 8 && stream.window.settled == 4);
    round_at(&stream, 2000000, true);
    CHECK(stream.window.settled == 8);
}

/* The first answer holds connecting and creating the upload: its time and bytes do not count. */
static void test_first_answer(void)
{
    struct stream stream = {.now_us = 1};
    s3d_window_init(&stream.window, 64);
    s3d_window_wait(&stream.window);
    s3d_window_done(&stream.window, 1u << 30, S3D_OK, stream.now_us);
    CHECK(stream.window.count == 0 && stream.window.bytes == 0);
    round_at(&stream, 1000000, true);
    CHECK(stream.window.settled_rate > 990000 && stream.window.settled_rate <= 1000000);
}

static void throttle(struct stream *stream)
{
    s3d_window_done(&stream->window, 0, S3D_THROTTLED, ++stream->now_us);
}

static void test_throttled(void)
{
    struct stream stream = start(64);
    for (int i = 0; i < 4; i++) {
        round_at(&stream, line_rate(&stream, 1000), true);
    }
    CHECK(stream.window.settled == 32 && stream.window.size == 64);
    /* On trial: half of what was settled. */
    static const unsigned sizes[] = {16, 8, 4, 2, 1, 1, 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        throttle(&stream);
        CHECK(stream.window.size == sizes[i] && stream.window.settled == sizes[i]);
    }
    for (int i = 0; i <= PAUSE; i++) {
        CHECK(stream.window.size == 1);
        round_at(&stream, line_rate(&stream, 1000), true);
    }
    CHECK(stream.window.size == 2);
    round_at(&stream, line_rate(&stream, 1000), true);
    CHECK(stream.window.settled == 2 && stream.window.size == 4); /* and grows again */
}

/* A throttled answer also ends the running round: its bytes are not mixed with the next size's. */
static void test_throttled_within_a_round(void)
{
    struct stream stream = start(64);
    round_at(&stream, 4000000, true);
    CHECK(stream.window.size == 8);
    for (int i = 0; i < 7; i++) {
        stream.now_us += 1000;
        done(&stream, 1u << 30);
    }
    throttle(&stream);
    CHECK(stream.window.size == 2 && stream.window.count == 0 && stream.window.bytes == 0);
    /* Throttled before anything else has been answered: the clock starts all the same. */
    s3d_window_init(&stream.window, 64);
    throttle(&stream);
    CHECK(stream.window.size == 2);
    round_at(&stream, 1000000, true);
    CHECK(stream.window.settled == 2);
}

/* Never above max, and up to it also where it is no power of two. */
static void test_max(void)
{
    for (unsigned max = 1; max <= 130; max++) {
        struct stream stream = start(max);
        for (int i = 0; i < 12; i++) {
            round_at(&stream, line_rate(&stream, 1000), true);
        }
        /* The last step may be less than a sixth: then it does not pay. */
        unsigned step = START;
        while (step * 2 < max) {
            step *= 2;
        }
        bool pays = max <= START || max - step > step / 6;
        CHECK(!pays || stream.window.settled == max);
        CHECK(stream.window.settled <= max && stream.window.size <= max);
    }
    struct stream stream = start(UINT32_MAX);
    for (int i = 0; i < 8; i++) {
        round_at(&stream, line_rate(&stream, UINT32_MAX), true);
    }
    CHECK(stream.window.size == 1024);
    stream.window.settled = stream.window.size =
        UINT32_MAX / 2 + 2; /* twice that is too much */
    stream.window.settled_rate = 0;
    stream.window.count = stream.window.size - 1;
    s3d_window_wait(&stream.window);
    stream.now_us += SECOND_US;
    done(&stream, 1000);
    CHECK(stream.window.size == UINT32_MAX);
}

/* Answers at one and the same time, a clock that stands, and the largest parts. */
static void test_extremes(void)
{
    struct stream stream = start(64);
    for (int i = 0; i < 1000; i++) {
        s3d_window_wait(&stream.window);
        done(&stream, (uint64_t)5 << 30);
    }
    for (int i = 0; i < 1000; i++) {
        s3d_window_wait(&stream.window);
        done(&stream, 0);
    }
}

static void test_far(void)
{
    struct stream stream = start(64);
    s3d_window_far(&stream.window);
    CHECK(stream.window.size == 16 && stream.window.settled == 16);
    for (unsigned i = 0; i < 3; i++) {
        round_at(&stream, line_rate(&stream, 1000), true);
    }
    CHECK(stream.window.settled >= 32); /* and climbs on from there */
    unsigned size = stream.window.size;
    s3d_window_far(&stream.window); /* never back */
    CHECK(stream.window.size == size);
    stream = start(5);
    s3d_window_far(&stream.window);
    CHECK(stream.window.size == 5 && stream.window.settled == 5);
}

int main(void)
{
    RUN(test_grows_while_it_pays);
    RUN(test_goes_back);
    RUN(test_how_much_better);
    RUN(test_measures_again);
    RUN(test_only_when_it_is_the_limit);
    RUN(test_first_answer);
    RUN(test_throttled);
    RUN(test_throttled_within_a_round);
    RUN(test_far);
    RUN(test_max);
    RUN(test_extremes);
    return 0;
}
