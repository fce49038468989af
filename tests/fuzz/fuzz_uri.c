/*
 * A fuzz target: the input is a URI. Besides crashes it looks for broken promises of uri.h: a key
 * that is not what stands behind the bucket, a file URI that does not mean the path that was
 * encoded into it, a failure that leaves memory behind.
 */
#include "core/uri.h"
#include "core/str.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* "s3://" + bucket + "/" + key is the text again; without a key the slash may be missing. */
static void uri_check_s3(const struct s3d_uri *uri, const char *text, size_t length)
{
    size_t bucket_length = strlen(uri->container), key_length = strlen(uri->key);
    size_t key_at = length - key_length;
    PROMISE(bucket_length >= 3 && bucket_length <= 63 && key_length <= 1024);
    PROMISE(memcmp(text + 5, uri->container, bucket_length) == 0);
    PROMISE(memcmp(text + key_at, uri->key, key_length) == 0);
    PROMISE(key_at == 5 + bucket_length + 1 || (!key_length && key_at == 5 + bucket_length));
    PROMISE(key_at == 5 + bucket_length || text[5 + bucket_length] == '/');
}

/* A path, encoded, comes back from its URI. */
static void uri_check_file(const struct s3d_uri *uri, size_t length)
{
    PROMISE(!uri->container && uri->key[0] && strlen(uri->key) <= length);
    if (uri->key[0] != '/') {
        return;
    }
    struct s3d_str text = S3D_STR(1 << 24);
    struct s3d_uri again;
    s3d_str_add(&text, "file://");
    s3d_str_add_encoded(&text, uri->key, true);
    PROMISE(s3d_str_check(&text, NULL) == S3D_OK);
    PROMISE(s3d_uri_parse(&again, text.data, text.length, NULL) == S3D_OK);
    PROMISE(again.scheme == S3D_SCHEME_FILE && strcmp(again.key, uri->key) == 0);
    s3d_uri_fini(&again);
    s3d_str_fini(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_exact_copy(data, size);
    struct s3d_uri uri;
    struct s3d_error error = {0};
    enum s3d_code code = s3d_uri_parse(&uri, text, size, &error);
    PROMISE(code == S3D_OK || code == S3D_INVALID);
    if (code) {
        PROMISE(error.code == code && error.message[0]);
        PROMISE(!uri.key && !uri.container);
    } else {
        enum s3d_code key_code = s3d_uri_require_key(&uri, NULL);
        PROMISE(key_code == (uri.key[0] ? S3D_OK : S3D_INVALID));
        if (uri.scheme == S3D_SCHEME_S3) {
            uri_check_s3(&uri, text, size);
        } else {
            uri_check_file(&uri, size);
        }
    }
    s3d_uri_fini(&uri);
    free(text);
    return 0;
}
