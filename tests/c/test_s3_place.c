/* Where a bucket is asked for, and that only regions are taken from answers. */
#include "test.h"

#include "backends/s3_place.h"

static void check_place(const struct s3d_s3_places *places, const char *origin,
                        const char *region)
{
    const struct s3d_s3_place *place = s3d_s3_place(places);
    CHECK_TEXT(place->origin, origin);
    CHECK_TEXT(place->host, strstr(origin, "://") + 3);
    CHECK_TEXT(place->region, region);
}

static void test_addresses(void)
{
    static const struct {
        const char *endpoint, *region;
        bool virtual;
        const char *origin;
    } cases[] = {
        {NULL, "eu-west-1", false, "https://s3.eu-west-1.amazonaws.com"},
        {NULL, "eu-west-1", true, "https://bucket.s3.eu-west-1.amazonaws.com"},
        {NULL, "cn-north-1", true, "https://bucket.s3.cn-north-1.amazonaws.com.cn"},
        {"http://[::1]:9000", "any", false, "http://[::1]:9000"},
        {"https://store.example:1", "any where", true, "https://bucket.store.example:1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct s3d_s3_places places = {0};
        struct s3d_error error;
        CHECK_CODE(s3d_s3_places_init(&places, cases[i].endpoint, cases[i].region, "bucket",
                                      cases[i].virtual, &error),
                   S3D_OK);
        check_place(&places, cases[i].origin, cases[i].region);
        s3d_s3_places_fini(&places);
    }
}

static void test_move(void)
{
    struct s3d_s3_places first = {0}, second = {0}, custom = {0};
    struct s3d_error error;
    CHECK_CODE(s3d_s3_places_init(&first, NULL, "us-east-1", "moving", true, &error), S3D_OK);
    CHECK(!s3d_s3_places_move(&first, "us-east-1", "us-east-1"));
    CHECK(s3d_s3_places_move(&first, "us-east-1", "eu-west-1"));
    check_place(&first, "https://moving.s3.eu-west-1.amazonaws.com", "eu-west-1");
    /* A request of before, which is told the same. */
    CHECK(s3d_s3_places_move(&first, "us-east-1", "eu-west-1"));
    /* Later stores know; and a store that is told of a third region leaves it to those. */
    CHECK_CODE(s3d_s3_places_init(&second, NULL, "us-east-1", "moving", true, &error), S3D_OK);
    check_place(&second, "https://moving.s3.eu-west-1.amazonaws.com", "eu-west-1");
    CHECK(!s3d_s3_places_move(&second, "eu-west-1", "ap-south-1"));
    check_place(&second, "https://moving.s3.eu-west-1.amazonaws.com", "eu-west-1");
    s3d_s3_places_fini(&second);
    second = (struct s3d_s3_places){0};
    CHECK_CODE(s3d_s3_places_init(&second, NULL, "us-east-1", "moving", true, &error), S3D_OK);
    check_place(&second, "https://moving.s3.ap-south-1.amazonaws.com", "ap-south-1");
    /* A custom endpoint stays where it is. */
    CHECK_CODE(
        s3d_s3_places_init(&custom, "http://127.0.0.1:9", "us-east-1", "b", false, &error),
        S3D_OK);
    CHECK(s3d_s3_places_move(&custom, "us-east-1", "eu-west-1"));
    check_place(&custom, "http://127.0.0.1:9", "eu-west-1");
    s3d_s3_places_fini(&first);
    s3d_s3_places_fini(&second);
    s3d_s3_places_fini(&custom);
}

static void test_no_region(void)
{
    static const char *const wrong[] = {
        "",
        "evil.example/",
        "a.b",
        "-x",
        "EU",
        "a b",
        "a\r\nb",
        "a@b",
        "a:1",
        "../x",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    struct s3d_s3_places places = {0}, none = {0};
    struct s3d_error error;
    CHECK_CODE(s3d_s3_places_init(&places, NULL, "us-east-1", "staying", true, &error), S3D_OK);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK(!s3d_s3_places_move(&places, "us-east-1", wrong[i]));
        CHECK_CODE(s3d_s3_places_init(&none, NULL, wrong[i], "b", true, &error), S3D_INVALID);
        s3d_s3_places_fini(&none);
        none = (struct s3d_s3_places){0};
    }
    check_place(&places, "https://staying.s3.us-east-1.amazonaws.com", "us-east-1");
    s3d_s3_places_fini(&places);
}

/* Every allocation in turn fails. */
static void test_out_of_memory(void)
{
    bool done = false;
    for (unsigned n = 1; !done; n++) {
        struct s3d_s3_places places = {0};
        struct s3d_error error;
        s3d_mem_fail_at(n);
        enum s3d_code code =
            s3d_s3_places_init(&places, NULL, "us-east-1", "poor", true, &error);
        bool moved = !code && s3d_s3_places_move(&places, "us-east-1", "eu-west-1");
        done = !s3d_mem_fault_fired();
        s3d_mem_fail_at(0);
        CHECK(code == S3D_OK || code == S3D_NO_MEMORY);
        CHECK(done ? moved : !moved);
        s3d_s3_places_fini(&places);
        CHECK(n < 100);
    }
}

/* More buckets than are remembered: the oldest is forgotten, and found again. */
static void test_many(void)
{
    for (int i = 0; i < 200; i++) {
        struct s3d_s3_places places = {0};
        struct s3d_error error;
        char bucket[32];
        snprintf(bucket, sizeof bucket, "bucket-%d", i);
        CHECK_CODE(s3d_s3_places_init(&places, NULL, "us-east-1", bucket, false, &error),
                   S3D_OK);
        CHECK(s3d_s3_places_move(&places, "us-east-1", "sa-east-1"));
        s3d_s3_places_fini(&places);
    }
    struct s3d_s3_places oldest = {0}, newest = {0};
    struct s3d_error error;
    CHECK_CODE(s3d_s3_places_init(&oldest, NULL, "us-east-1", "bucket-0", false, &error),
               S3D_OK);
    CHECK_CODE(s3d_s3_places_init(&newest, NULL, "us-east-1", "bucket-199", false, &error),
               S3D_OK);
    check_place(&oldest, "https://s3.us-east-1.amazonaws.com", "us-east-1");
    check_place(&newest, "https://s3.sa-east-1.amazonaws.com", "sa-east-1");
    s3d_s3_places_fini(&oldest);
    s3d_s3_places_fini(&newest);
}

int main(void)
{
    RUN(test_addresses);
    RUN(test_move);
    RUN(test_no_region);
    RUN(test_out_of_memory);
    RUN(test_many);
    return 0;
}
