#include "core/uri.h"

#include "core/mem.h"
#include "core/str.h"

#include <string.h>
#include <strings.h>

enum { BUCKET_MIN = 3, BUCKET_MAX = 63 };

void s3d_uri_fini(struct s3d_uri *uri)
{
    s3d_free(uri->container);
    s3d_free(uri->key);
    *uri = (struct s3d_uri){0};
}

static char *copy_range(const char *from, size_t length)
{
    char *copy = s3d_alloc(length + 1);
    if (copy) {
        memcpy(copy, from, length);
        copy[length] = '\0';
    }
    return copy;
}

static bool is_bucket_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           (c >= 'A' && c <= 'Z') || c == '_'; /* the last two: older and other stores */
}

static enum s3d_code check_bucket(const char *bucket, size_t length, struct s3d_error *error)
{
    if (!length) {
        return s3d_fail(error, S3D_INVALID, "the bucket is empty: write s3://bucket/key");
    }
    bool good = length >= BUCKET_MIN && length <= BUCKET_MAX;
    for (size_t i = 0; good && i < length; i++) {
        good = is_bucket_char(bucket[i]);
    }
    if (!good || bucket[0] == '.' || bucket[0] == '-') {
        return s3d_fail(error, S3D_INVALID,
                        "not a bucket name: 3 to 63 letters, digits, '-', '.' or '_' between "
                        "s3:// and the next '/'");
    }
    return S3D_OK;
}

static enum s3d_code parse_s3(struct s3d_uri *uri, const char *rest, size_t length,
                              struct s3d_error *error)
{
    const char *slash = memchr(rest, '/', length);
    size_t bucket_length = slash ? (size_t)(slash - rest) : length;
    enum s3d_code code = check_bucket(rest, bucket_length, error);
    if (code) {
        return code;
    }
    const char *key = slash ? slash + 1 : rest + length;
    size_t key_length = length - (size_t)(key - rest);
    if (key_length > S3D_KEY_MAX) {
        return s3d_fail(error, S3D_INVALID, "the key has %zu bytes; S3 allows %d", key_length,
                        S3D_KEY_MAX);
    }
    uri->scheme = S3D_SCHEME_S3;
    uri->container = copy_range(rest, bucket_length);
    uri->key = copy_range(key, key_length);
    return uri->container && uri->key ? S3D_OK : s3d_fail_memory(error, length);
}

/* Decodes %XX in place. */
static enum s3d_code decode_percent(char *text, struct s3d_error *error)
{
    char *out = text;
    for (const char *in = text; *in; in++) {
        if (*in != '%') {
            *out++ = *in;
            continue;
        }
        int byte = s3d_percent_byte(in);
        if (byte <= 0) {
            return s3d_fail(
                error, S3D_INVALID,
                "'%%' in a file:// URI must be followed by two hex digits (a literal "
                "percent sign is %%25); plain paths need no escaping");
        }
        *out++ = (char)byte;
        in += 2;
    }
    *out = '\0';
    return S3D_OK;
}

static enum s3d_code parse_file(struct s3d_uri *uri, const char *rest, size_t length,
                                struct s3d_error *error)
{
    static const char local[] = "localhost/";
    if (length >= sizeof local - 1 && memcmp(rest, local, sizeof local - 1) == 0) {
        rest += sizeof local - 2;
        length -= sizeof local - 2;
    }
    if (!length || rest[0] != '/') {
        return s3d_fail(error, S3D_INVALID,
                        "a file URI has three slashes and an absolute path: file:///path");
    }
    uri->scheme = S3D_SCHEME_FILE;
    uri->key = copy_range(rest, length);
    return uri->key ? decode_percent(uri->key, error) : s3d_fail_memory(error, length);
}

static enum s3d_code parse_path(struct s3d_uri *uri, const char *text, size_t length,
                                struct s3d_error *error)
{
    if (!length) {
        return s3d_fail(error, S3D_INVALID, "the path is empty");
    }
    uri->scheme = S3D_SCHEME_FILE;
    uri->key = copy_range(text, length);
    return uri->key ? S3D_OK : s3d_fail_memory(error, length);
}

enum s3d_code s3d_uri_parse(struct s3d_uri *uri, const char *text, size_t length,
                            struct s3d_error *error)
{
    *uri = (struct s3d_uri){0};
    if (memchr(text, '\0', length)) {
        return s3d_fail(error, S3D_INVALID, "a NUL byte in a URI");
    }
    const char *separator = memmem(text, length, "://", 3);
    enum s3d_code code;
    if (!separator) {
        code = parse_path(uri, text, length, error);
    } else {
        size_t scheme_length = (size_t)(separator - text);
        const char *rest = separator + 3;
        size_t rest_length = length - scheme_length - 3;
        if (scheme_length == 2 && strncasecmp(text, "s3", 2) == 0) {
            code = parse_s3(uri, rest, rest_length, error);
        } else if (scheme_length == 4 && strncasecmp(text, "file", 4) == 0) {
            code = parse_file(uri, rest, rest_length, error);
        } else {
            code = s3d_fail(
                error, S3D_INVALID,
                "unknown scheme \"%.*s\": use s3://bucket/key, file:///path or a plain "
                "path",
                (int)(scheme_length < 32 ? scheme_length : 32), text);
        }
    }
    if (code) {
        s3d_uri_fini(uri);
    }
    return code;
}

enum s3d_code s3d_uri_require_key(const struct s3d_uri *uri, struct s3d_error *error)
{
    if (uri->key[0]) {
        return S3D_OK;
    }
    return s3d_fail(error, S3D_INVALID, "the key is empty: write s3://%s/key", uri->container);
}
