/* How much a request carries: what is near and what is far, and work shared out in simulated time. */
#include "test.h"

#include "core/pace.h"

enum { KIB = 1024, MIB = 1024 * KIB, MB = 1000000, CONNECTIONS_MAX = 64 };

static struct s3d_pace pace_of(int64_t latency_us, uint64_t rate)
{
    return (struct s3d_pace){.latency_us = latency_us, .rate = rate};
}

static void test_shortest_wait(void)
{
    struct s3d_pace pace = {0};
    CHECK(!s3d_pace_is_far(&pace));
    s3d_pace_answered(&pace, 0); /* not measured */
    s3d_pace_answered(&pace, -1);
    CHECK(pace.latency_us == 0);
    s3d_pace_answered(&pace, 80000);
    CHECK(pace.latency_us == 80000 && s3d_pace_is_far(&pace));
    s3d_pace_answered(&pace, 5000);
    s3d_pace_answered(&pace, 90000);
    s3d_pace_answered(&pace, 0);
    CHECK(pace.latency_us == 5000 && s3d_pace_is_far(&pace));
    s3d_pace_answered(&pace, 4999);
    CHECK(!s3d_pace_is_far(&pace));
}

static void test_rate(void)
{
    struct s3d_pace pace = pace_of(30000, 0);
    s3d_pace_moved(&pace, 0, 30000); /* nothing was moved */
    s3d_pace_moved(&pace, MB, 0);    /* not measured */
    CHECK(pace.rate == 0);
    s3d_pace_moved(&pace, 8 * MB, 130000);
    CHECK(pace.rate == 80 * MB);
    s3d_pace_moved(&pace, 4 * MB, 130000); /* counts for a quarter */
    CHECK(pace.rate == 70 * MB);
    s3d_pace_moved(&pace, MB,
                   20000); /* faster than the wait: more than one can tell, no crash */
    CHECK(pace.rate > 70 * MB);
}

static void test_rest(void)
{
    struct s3d_pace pace = pace_of(30000, 80 * MB);
    CHECK(s3d_pace_rest(&pace, 8 * MB, 0) == 8 * MB);
    CHECK(s3d_pace_rest(&pace, 8 * MB, 30000) == 8 * MB);
    CHECK(s3d_pace_rest(&pace, 8 * MB, 80000) == 4 * MB);
    CHECK(s3d_pace_rest(&pace, 8 * MB, 130000) == 0);
    CHECK(s3d_pace_rest(&pace, 8 * MB, 99999999) == 0);
    pace.rate = 0;
    CHECK(s3d_pace_rest(&pace, 8 * MB, 99999999) == 8 * MB);
}

static void test_part(void)
{
    struct s3d_pace far = pace_of(30000, 80 * MB), near = pace_of(4999, 800 * MB);
    CHECK(s3d_pace_part(&far, 8 * MIB, 64 * MIB) == 38400000); /* sixteen waits */
    CHECK(s3d_pace_part(&far, 8 * MIB, 16 * MIB) == 16 * MIB);
    CHECK(s3d_pace_part(&far, 48 * MIB, 64 * MIB) == 48 * MIB);
    CHECK(s3d_pace_part(&far, 8 * MIB, 0) == 8 * MIB);
    CHECK(s3d_pace_part(&near, 8 * MIB, 64 * MIB) == 8 * MIB);
    far.rate = 0;
    CHECK(s3d_pace_part(&far, 8 * MIB, 64 * MIB) == 8 * MIB);
    far = pace_of(INT64_MAX / 16, UINT64_MAX / 4); /* nonsense stays within the limits */
    CHECK(s3d_pace_part(&far, 8 * MIB, 64 * MIB) == 64 * MIB);
}

static struct s3d_pace_work work_of(uint64_t left, uint64_t running, unsigned connections)
{
    return (struct s3d_pace_work){.left_bytes = left,
                                  .running_bytes = running,
                                  .connections = connections,
                                  .base_bytes = 8 * MIB,
                                  .min_bytes = MIB,
                                  .max_bytes = 64 * MIB};
}

static void test_next(void)
{
    struct s3d_pace far = pace_of(30000, 80 * MB), near = pace_of(200, 80 * MB);
    struct s3d_pace_work work = work_of(512 * MIB, 0, 8);
    CHECK(s3d_pace_next(&near, &work) == 8 * MIB);
    CHECK(s3d_pace_next(&far, &work) == 32 * MIB); /* of a share of 64 MiB, in two rounds */
    work = work_of(256 * MIB, 256 * MIB, 8);
    CHECK(s3d_pace_next(&far, &work) == 32 * MIB); /* what is under way belongs to the work */
    work = work_of(12 * MIB, 4 * MIB, 8);
    CHECK(s3d_pace_next(&far, &work) == 2 * MIB); /* all connections end together */
    work = work_of(MIB, 0, 8);
    CHECK(s3d_pace_next(&far, &work) == MIB); /* but no request for next to nothing */
    work = work_of(80 * MIB, 0, 8);
    CHECK(s3d_pace_next(&far, &work) == 10 * MIB); /* one round of all that is left */
    work = work_of(1000 * (uint64_t)MIB, 0, 1);
    far.latency_us = 300000;
    CHECK(s3d_pace_next(&far, &work) == 62 * MIB + 512 * KIB); /* sixteen, below the limit */
    work.max_bytes = 8 * MIB;                                  /* somebody has set the size */
    CHECK(s3d_pace_next(&far, &work) == 8 * MIB);
    work.max_bytes = 0;
    CHECK(s3d_pace_next(&far, &work) == 8 * MIB);
    far.rate = 0; /* not known yet: two rounds, of the usual size at least */
    work = work_of(512 * MIB, 0, 16);
    CHECK(s3d_pace_next(&far, &work) == 16 * MIB);
    work = work_of(512 * MIB, 0, 64);
    CHECK(s3d_pace_next(&far, &work) == 8 * MIB);
}

/* ---- simulated transfers ---- */

struct transfer {
    uint64_t total;
    unsigned connections;
    int64_t latency_us;
    uint64_t rates[CONNECTIONS_MAX]; /* of each connection */
};

struct connection {
    uint64_t bytes; /* of its request; 0: idle */
    int64_t start_us, end_us;
};

struct outcome {
    int64_t end_us;
    unsigned requests;
    uint64_t longest;
};

static uint64_t running_bytes(const struct s3d_pace *pace, const struct connection *all,
                              unsigned count, int64_t now_us)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        bytes += s3d_pace_rest(pace, all[i].bytes, now_us - all[i].start_us);
    }
    return bytes;
}

static struct outcome simulate(const struct transfer *transfer, bool known)
{
    struct s3d_pace pace = {.latency_us = known ? transfer->latency_us : 0};
    struct connection all[CONNECTIONS_MAX] = {{0}};
    struct outcome outcome = {0};
    uint64_t left = transfer->total;
    for (;;) {
        /* The connection that ends first, or an idle one while there is work. */
        unsigned at = 0;
        for (unsigned i = 1; i < transfer->connections; i++) {
            int64_t a = all[at].bytes || left ? all[at].end_us : INT64_MAX;
            int64_t b = all[i].bytes || left ? all[i].end_us : INT64_MAX;
            at = b < a ? i : at;
        }
        struct connection *connection = &all[at];
        if (!connection->bytes && !left) {
            return outcome;
        }
        int64_t now_us = connection->end_us;
        if (connection->bytes) {
            s3d_pace_answered(&pace, transfer->latency_us);
            s3d_pace_moved(&pace, connection->bytes, now_us - connection->start_us);
            connection->bytes = 0;
            outcome.end_us = now_us;
        }
        struct s3d_pace_work work =
            work_of(left, running_bytes(&pace, all, transfer->connections, now_us),
                    transfer->connections);
        uint64_t next = s3d_pace_next(&pace, &work);
        CHECK(next >= MIB && next <= 64 * MIB);
        next = next < left ? next : left;
        left -= next;
        outcome.requests += next > 0;
        outcome.longest = next > outcome.longest ? next : outcome.longest;
        int64_t moving_us = (int64_t)((double)next * 1e6 / (double)transfer->rates[at]);
        *connection =
            (struct connection){next, now_us, now_us + transfer->latency_us + moving_us};
    }
}

/* The part of what all connections could carry that arrives. */
static double efficiency(const struct transfer *transfer, const struct outcome *outcome)
{
    double rate = 0;
    for (unsigned i = 0; i < transfer->connections; i++) {
        rate += (double)transfer->rates[i];
    }
    return (double)transfer->total * 1e6 / rate / (double)outcome->end_us;
}

static struct transfer transfer_of(uint64_t total, unsigned connections, int64_t latency_us,
                                   uint64_t rate)
{
    struct transfer transfer = {total, connections, latency_us, {0}};
    for (unsigned i = 0; i < connections; i++) {
        transfer.rates[i] = rate;
    }
    return transfer;
}

static void test_simulated_far(void)
{
    static const int64_t latencies[] = {5000, 30000, 60000};
    static const uint64_t rates[] = {20 * MB, 80 * MB, 200 * MB};
    for (size_t i = 0; i < sizeof latencies / sizeof *latencies; i++) {
        for (size_t j = 0; j < sizeof rates / sizeof *rates; j++) {
            for (unsigned known = 0; known < 2; known++) {
                struct transfer transfer =
                    transfer_of(4096 * (uint64_t)MIB, 8, latencies[i], rates[j]);
                struct outcome outcome = simulate(&transfer, known);
                CHECK(efficiency(&transfer, &outcome) > 0.8);
            }
        }
    }
    /* The benchmark's: parts of 8 MiB, all alike, reach 0.78. */
    struct transfer transfer = transfer_of(513 * MIB + 12345, 8, 30000, 80 * MB);
    struct outcome outcome = simulate(&transfer, true);
    CHECK(efficiency(&transfer, &outcome) > 0.92 && outcome.requests <= 17);
    outcome = simulate(&transfer, false);
    CHECK(efficiency(&transfer, &outcome) > 0.88);
}

/* Connections of different speed end together all the same. */
static void test_simulated_uneven(void)
{
    struct transfer transfer = transfer_of(2048 * (uint64_t)MIB, 8, 30000, 80 * MB);
    transfer.rates[3] = 30 * MB;
    transfer.rates[5] = 160 * MB;
    struct outcome outcome = simulate(&transfer, true);
    CHECK(efficiency(&transfer, &outcome) > 0.8);
}

static void test_simulated_near(void)
{
    struct transfer transfer = transfer_of(512 * MIB, 8, 300, 400 * MB);
    struct outcome outcome = simulate(&transfer, true);
    CHECK(outcome.requests == 64 && outcome.longest == 8 * MIB);
}

int main(void)
{
    RUN(test_shortest_wait);
    RUN(test_rate);
    RUN(test_rest);
    RUN(test_part);
    RUN(test_next);
    RUN(test_simulated_far);
    RUN(test_simulated_uneven);
    RUN(test_simulated_near);
    return 0;
}
