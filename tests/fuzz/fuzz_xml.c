/*
 * A fuzz target: the input is the body of an S3 answer. Besides crashes it looks for broken
 * promises of xml.h: a text that is accepted as two kinds of document, a page that ends without a
 * token although it is truncated, results that a failure left behind.
 */
#include "backends/xml.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct xml_seen {
    unsigned resets;
    size_t count;
};

static void xml_reset(void *context)
{
    struct xml_seen *seen = context;
    seen->resets++;
    seen->count = 0;
}

static enum s3d_code xml_add(void *context, const char *key, const struct s3d_object *object,
                             struct s3d_error *error)
{
    struct xml_seen *seen = context;
    (void)error;
    seen->count++;
    PROMISE(strlen(key) <= 8 * 1024);
    PROMISE(memchr(object->etag, '\0', sizeof object->etag));
    return S3D_OK;
}

static bool xml_check_list(const char *text, size_t size)
{
    struct xml_seen seen = {0};
    struct s3d_list_sink sink = {&seen, xml_reset, xml_add};
    struct s3d_error error = {0};
    char token[64];
    enum s3d_code code = s3d_xml_list(text, size, &sink, token, sizeof token, &error);
    PROMISE(code == S3D_OK || code == S3D_PROTOCOL);
    PROMISE(seen.resets == 1 || seen.resets == 2);
    PROMISE(memchr(token, '\0', sizeof token) && (!code || !token[0]));
    PROMISE(!code || (error.code == code && error.message[0]));
    return code == S3D_OK;
}

static bool xml_check_error(const char *text, size_t size)
{
    struct s3d_xml_error out;
    bool is_error = s3d_xml_error(text, size, &out);
    PROMISE(memchr(out.code, '\0', sizeof out.code));
    PROMISE(memchr(out.message, '\0', sizeof out.message));
    PROMISE(memchr(out.request_id, '\0', sizeof out.request_id));
    PROMISE(memchr(out.region, '\0', sizeof out.region));
    PROMISE(is_error || (!out.code[0] && !out.message[0] && !out.region[0]));
    return is_error;
}

static bool xml_check_field(const char *text, size_t size, bool is_upload)
{
    char value[64];
    struct s3d_error error = {0};
    enum s3d_code code = is_upload ? s3d_xml_upload_id(text, size, value, sizeof value, &error)
                                   : s3d_xml_complete(text, size, value, sizeof value, &error);
    PROMISE(code == S3D_OK || code == S3D_PROTOCOL);
    PROMISE(memchr(value, '\0', sizeof value) && (!code || !value[0]));
    PROMISE(code || !is_upload || value[0]);
    PROMISE(!code || (error.code == code && error.message[0]));
    return code == S3D_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_exact_copy(data, size);
    unsigned kinds = (unsigned)xml_check_list(text, size) + xml_check_error(text, size) +
                     xml_check_field(text, size, true) + xml_check_field(text, size, false);
    PROMISE(kinds <= 1);
    free(text);
    return 0;
}
