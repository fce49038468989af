#include "backends/s3_extras.h"

#include "core/mem.h"

#include <string.h>

#define BIT(verb) (1u << S3D_VERB_##verb)

static const unsigned every_verb = BIT(STAT) | BIT(GET) | BIT(PUT) | BIT(UPLOAD_CREATE) |
                                   BIT(UPLOAD_PART) | BIT(UPLOAD_COMPLETE) | BIT(UPLOAD_ABORT) |
                                   BIT(LIST) | BIT(DELETE);
static const unsigned creating_verbs = BIT(PUT) | BIT(UPLOAD_CREATE);
/* Whatever handles content that only the customer's key opens. */
static const unsigned content_verbs = BIT(STAT) | BIT(GET) | BIT(PUT) | BIT(UPLOAD_CREATE) |
                                      BIT(UPLOAD_PART) | BIT(UPLOAD_COMPLETE);

static enum s3d_code add(struct s3d_s3_extras *extras, unsigned verbs, const char *name,
                         const char *value, struct s3d_error *error)
{
    char *copy = s3d_copy_string(value);
    if (!copy) {
        return s3d_fail_memory(error, strlen(value) + 1);
    }
    extras->headers[extras->count++] = (struct s3d_s3_extra){name, copy, verbs, false};
    return S3D_OK;
}

/* A header's value must be visible ASCII: what is signed is then what goes over the wire. */
static enum s3d_code add_setting(struct s3d_s3_extras *extras, unsigned verbs, const char *name,
                                 const char *value, const char *field, struct s3d_error *error)
{
    if (!value) {
        return S3D_OK;
    }
    for (const char *c = value; *c; c++) {
        if (*c <= ' ' || *c >= 127) {
            return s3d_fail(error, S3D_INVALID, "%s must be visible ASCII characters", field);
        }
    }
    return add(extras, verbs, name, value, error);
}

static bool is_one_of(const char *value, const char *const *known)
{
    while (*known && strcmp(*known, value) != 0) {
        known++;
    }
    return *known != NULL;
}

static enum s3d_code check_known(const struct s3d_config *config, struct s3d_error *error)
{
    static const char *const payers[] = {"requester", NULL};
    static const char *const encryptions[] = {"AES256", "aws:kms", "aws:kms:dsse", NULL};
    static const char *const flags[] = {"true", "false", NULL};
    if (config->request_payer && !is_one_of(config->request_payer, payers)) {
        return s3d_fail(error, S3D_INVALID, "request_payer is \"%.32s\", but must be requester",
                        config->request_payer);
    }
    if (config->sse && !is_one_of(config->sse, encryptions)) {
        return s3d_fail(error, S3D_INVALID,
                        "sse is \"%.32s\", but must be AES256, aws:kms or aws:kms:dsse",
                        config->sse);
    }
    if (config->sse_bucket_key && !is_one_of(config->sse_bucket_key, flags)) {
        return s3d_fail(error, S3D_INVALID,
                        "sse_bucket_key is \"%.32s\", but must be true or false",
                        config->sse_bucket_key);
    }
    bool kms = config->sse && strncmp(config->sse, "aws:kms", 7) == 0;
    if ((config->sse_kms_key_id || config->sse_kms_context || config->sse_bucket_key) && !kms) {
        return s3d_fail(
            error, S3D_INVALID,
            "sse_kms_key_id, sse_kms_context and sse_bucket_key need sse=\"aws:kms\"");
    }
    if (config->sse && config->sse_customer_key) {
        return s3d_fail(
            error, S3D_INVALID,
            "sse and sse_customer_key exclude each other: an object has one of them");
    }
    return S3D_OK;
}

static enum s3d_code add_customer_key(struct s3d_s3_extras *extras, const char *key,
                                      bool private_channel, struct s3d_error *error)
{
    char digest[S3D_MD5_BASE64];
    if (!private_channel) {
        return s3d_fail(error, S3D_INVALID,
                        "sse_customer_key needs an https:// endpoint: over plain HTTP everyone "
                        "between here and the store could read it");
    }
    enum s3d_code code = s3d_key_digest(digest, key, error);
    if (!code) {
        code = add(extras, content_verbs, "x-amz-server-side-encryption-customer-algorithm",
                   "AES256", error);
    }
    if (!code) {
        code =
            add(extras, content_verbs, "x-amz-server-side-encryption-customer-key", key, error);
    }
    if (!code) {
        extras->headers[extras->count - 1].secret = true;
        code = add(extras, content_verbs, "x-amz-server-side-encryption-customer-key-md5",
                   digest, error);
    }
    return code;
}

enum s3d_code s3d_s3_extras_load(struct s3d_s3_extras *extras, const struct s3d_config *config,
                                 bool private_channel, struct s3d_error *error)
{
    const struct {
        unsigned verbs;
        const char *name, *value, *field;
    } settings[] = {
        {every_verb, "x-amz-request-payer", config->request_payer, "request_payer"},
        {every_verb, "x-amz-expected-bucket-owner", config->expected_bucket_owner,
         "expected_bucket_owner"},
        {creating_verbs, "x-amz-server-side-encryption", config->sse, "sse"},
        {creating_verbs, "x-amz-server-side-encryption-aws-kms-key-id", config->sse_kms_key_id,
         "sse_kms_key_id"},
        {creating_verbs, "x-amz-server-side-encryption-context", config->sse_kms_context,
         "sse_kms_context"},
        {creating_verbs, "x-amz-server-side-encryption-bucket-key-enabled",
         config->sse_bucket_key, "sse_bucket_key"},
    };
    enum s3d_code code = check_known(config, error);
    for (size_t i = 0; !code && i < sizeof settings / sizeof *settings; i++) {
        code = add_setting(extras, settings[i].verbs, settings[i].name, settings[i].value,
                           settings[i].field, error);
    }
    if (!code && config->sse_customer_key) {
        code = add_customer_key(extras, config->sse_customer_key, private_channel, error);
    }
    return code;
}

void s3d_s3_extras_fini(struct s3d_s3_extras *extras)
{
    for (size_t i = 0; i < extras->count; i++) {
        char *value = extras->headers[i].value;
        explicit_bzero(value, strlen(value));
        s3d_free(value);
    }
    extras->count = 0;
}
