/* When to try again. */
#include "test.h"

#include "core/retry.h"

#include <unistd.h>

static bool allowed(struct s3d_retry *retry, unsigned attempts, enum s3d_code code,
                    uint64_t *delay_ms)
{
    struct s3d_error error = {.code = code};
    return s3d_retry_allowed(retry, attempts, &error, delay_ms);
}

static void test_attempts(void)
{
    struct s3d_retry retry;
    uint64_t delay_ms;
    s3d_retry_init(&retry, 3, 64);
    CHECK(allowed(&retry, 1, S3D_NETWORK, &delay_ms));
    CHECK(allowed(&retry, 2, S3D_NETWORK, &delay_ms));
    CHECK(!allowed(&retry, 3, S3D_NETWORK, &delay_ms));
    s3d_retry_init(&retry, 1, 64);
    CHECK(!allowed(&retry, 1, S3D_NETWORK, &delay_ms));
}

static void test_codes(void)
{
    struct s3d_retry retry;
    uint64_t delay_ms;
    s3d_retry_init(&retry, 5, 64);
    int tokens = atomic_load(&retry.tokens);
    static const enum s3d_code final[] = {S3D_DENIED,    S3D_NOT_FOUND, S3D_CHANGED,
                                          S3D_RANGE,     S3D_TLS,       S3D_CANCELLED,
                                          S3D_NO_MEMORY, S3D_REJECTED};
    for (size_t i = 0; i < sizeof final / sizeof *final; i++) {
        CHECK(!allowed(&retry, 1, final[i], &delay_ms));
    }
    CHECK(atomic_load(&retry.tokens) == tokens); /* a refusal costs nothing */
    static const enum s3d_code passing[] = {S3D_NETWORK, S3D_TIMEOUT,   S3D_THROTTLED,
                                            S3D_SERVER,  S3D_INTEGRITY, S3D_PROTOCOL};
    for (size_t i = 0; i < sizeof passing / sizeof *passing; i++) {
        CHECK(allowed(&retry, 1, passing[i], &delay_ms));
    }
}

/* Full jitter below a ceiling that doubles up to 20 s. */
static void test_delays(void)
{
    static const struct {
        enum s3d_code code;
        unsigned attempts;
        uint64_t ceiling_ms;
    } cases[] = {
        {S3D_NETWORK, 1, 50},     {S3D_NETWORK, 2, 100},     {S3D_NETWORK, 5, 800},
        {S3D_NETWORK, 9, 12800},  {S3D_NETWORK, 10, 20000},  {S3D_NETWORK, 99, 20000},
        {S3D_THROTTLED, 1, 1000}, {S3D_THROTTLED, 5, 16000}, {S3D_THROTTLED, 6, 20000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t least = UINT64_MAX, most = 0;
        for (int n = 0; n < 2000; n++) {
            struct s3d_retry retry;
            uint64_t delay_ms;
            s3d_retry_init(&retry, 100, 64);
            atomic_store(&retry.random, (uint64_t)n * 977 + 1);
            CHECK(allowed(&retry, cases[i].attempts, cases[i].code, &delay_ms));
            CHECK(delay_ms <= cases[i].ceiling_ms);
            least = delay_ms < least ? delay_ms : least;
            most = delay_ms > most ? delay_ms : most;
        }
        CHECK(least <= cases[i].ceiling_ms / 10 && most >= cases[i].ceiling_ms / 10 * 9);
    }
}

static void test_retry_after(void)
{
    struct s3d_retry retry;
    struct s3d_error error = {.code = S3D_THROTTLED, .retry_after_ms = 5000};
    uint64_t delay_ms;
    s3d_retry_init(&retry, 5, 64);
    CHECK(s3d_retry_allowed(&retry, 1, &error, &delay_ms) && delay_ms == 5000);
    error.retry_after_ms = UINT32_MAX; /* no server makes us wait for weeks */
    CHECK(s3d_retry_allowed(&retry, 1, &error, &delay_ms) && delay_ms == 300000);
}

/* A server that nobody reaches is not flooded: only the attempts count. */
static void test_unreached(void)
{
    struct s3d_retry retry;
    struct s3d_error error = {.code = S3D_NETWORK, .unreached = true};
    uint64_t delay_ms;
    s3d_retry_init(&retry, 3, 64);
    for (int i = 0; i < 1000; i++) {
        CHECK(s3d_retry_allowed(&retry, 1 + (unsigned)i % 2, &error, &delay_ms));
        CHECK(!s3d_retry_allowed(&retry, 3, &error, &delay_ms));
    }
    CHECK(atomic_load(&retry.tokens) == 500);
}

/* 500 tokens are 100 retries, or 50 after timeouts; successes earn them back, up to 500. */
static void test_quota(void)
{
    struct s3d_retry retry;
    uint64_t delay_ms;
    s3d_retry_init(&retry, 5, 64);
    for (int i = 0; i < 100; i++) {
        CHECK(allowed(&retry, 1, S3D_NETWORK, &delay_ms));
    }
    CHECK(!allowed(&retry, 1, S3D_NETWORK, &delay_ms));
    for (int i = 0; i < 4; i++) {
        s3d_retry_succeeded(&retry);
        CHECK(!allowed(&retry, 1, S3D_NETWORK, &delay_ms));
    }
    s3d_retry_succeeded(&retry);
    CHECK(allowed(&retry, 1, S3D_NETWORK, &delay_ms));
    s3d_retry_init(&retry, 5, 64);
    s3d_retry_succeeded(&retry);
    CHECK(atomic_load(&retry.tokens) == 500);
    for (int i = 0; i < 50; i++) {
        CHECK(allowed(&retry, 1, S3D_TIMEOUT, &delay_ms));
    }
    CHECK(!allowed(&retry, 1, S3D_TIMEOUT, &delay_ms));
    CHECK(atomic_load(&retry.tokens) == 0);
}

/* A restart breaks every connection at once: each request may be sent again. */
static void test_quota_of_connections(void)
{
    static const struct {
        unsigned connections, retries;
    } cases[] = {{1, 100}, {100, 100}, {101, 101}, {512, 512}, {65536, 65536}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct s3d_retry retry;
        uint64_t delay_ms;
        s3d_retry_init(&retry, 5, cases[i].connections);
        for (unsigned k = 0; k < cases[i].retries; k++) {
            CHECK(allowed(&retry, 1, S3D_NETWORK, &delay_ms));
        }
        CHECK(!allowed(&retry, 1, S3D_NETWORK, &delay_ms));
    }
}

int main(void)
{
    alarm(60);
    RUN(test_attempts);
    RUN(test_codes);
    RUN(test_delays);
    RUN(test_retry_after);
    RUN(test_unreached);
    RUN(test_quota);
    RUN(test_quota_of_connections);
    return 0;
}
