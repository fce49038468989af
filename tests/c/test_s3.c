/* What an S3 store is opened with. Nothing is sent. */
#include "fake_store.h"
#include "test.h"

#include "backends/open.h"
#include "core/config.h"

static struct s3d_limits limits_at(const char *endpoint)
{
    struct s3d_uri uri;
    struct s3d_store *store;
    CHECK_CODE(s3d_config_override("endpoint", endpoint, NULL), S3D_OK);
    CHECK_CODE(s3d_uri_parse(&uri, "s3://bucket/key", strlen("s3://bucket/key"), NULL), S3D_OK);
    CHECK_CODE(s3d_store_open(&store, &uri, NULL), S3D_OK);
    struct s3d_limits limits = store->limits;
    s3d_store_release(store);
    s3d_uri_fini(&uri);
    return limits;
}

static void test_equal_parts(void)
{
    static const char *const r2[] = {
        "https://0123456789abcdef.r2.cloudflarestorage.com",
        "https://0123456789abcdef.eu.R2.CloudflareStorage.com:443/"};
    static const char *const others[] = {"https://s3.us-east-1.amazonaws.com",
                                         "http://127.0.0.1:9000",
                                         "https://r2.cloudflarestorage.com.example.org",
                                         "https://nor2.cloudflarestorage.com", "http://x"};
    for (size_t i = 0; i < sizeof r2 / sizeof *r2; i++) {
        CHECK(limits_at(r2[i]).equal_parts);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        CHECK(!limits_at(others[i]).equal_parts);
    }
    CHECK_CODE(s3d_config_override("endpoint", NULL, NULL), S3D_OK);
}

int main(void)
{
    fake_engine("AWS_ACCESS_KEY_ID=id AWS_SECRET_ACCESS_KEY=secret");
    RUN(test_equal_parts);
    s3d_engine_shutdown();
    return 0;
}
