/* Credentials as JSON documents, read once and wiped. */
#include "backends/source.h"
#include "backends/text_file.h"
#include "core/mem.h"
#include "core/str.h"
#include "formats/iso8601.h"
#include "formats/json.h"

#include <string.h>

enum { TOKEN_MAX_BYTES = 64 * 1024 };

void s3d_secret_free(char *text)
{
    if (text) {
        explicit_bzero(text, strlen(text));
        s3d_free(text);
    }
}

/* --- fields of a document ------------------------------------------------------------------ */

struct wanted {
    const char *inside;
    const struct s3d_json_field *fields;
    size_t count;
    bool found; /* the member `inside` */
};

static enum s3d_code take_text(struct s3d_json *json, char **to)
{
    struct s3d_json_text text;
    if (*to) {
        return s3d_json_broken(json, "a member comes twice");
    }
    enum s3d_code code = s3d_json_text(json, &text);
    if (code) {
        return code;
    }
    if (memchr(text.data, '\0', text.length)) {
        return s3d_json_broken(json, "a text holds a NUL");
    }
    *to = s3d_copy_string(text.data);
    return *to ? S3D_OK : s3d_fail_memory(json->error, text.length + 1);
}

static enum s3d_code take_member(struct s3d_json *json, const struct s3d_json_text *key,
                                 void *context)
{
    const struct wanted *wanted = context;
    for (size_t i = 0; i < wanted->count; i++) {
        const struct s3d_json_field *field = &wanted->fields[i];
        if (s3d_json_text_is(key, field->name) && !s3d_json_null(json)) {
            return field->text ? take_text(json, field->text)
                               : s3d_json_number(json, field->number);
        }
        if (s3d_json_text_is(key, field->name)) {
            return S3D_OK; /* the null is taken */
        }
    }
    return s3d_json_skip(json);
}

static enum s3d_code take_outer_member(struct s3d_json *json, const struct s3d_json_text *key,
                                       void *context)
{
    struct wanted *wanted = context;
    if (!s3d_json_text_is(key, wanted->inside)) {
        return s3d_json_skip(json);
    }
    wanted->found = true;
    return s3d_json_object(json, take_member, wanted);
}

static enum s3d_code read_fields(struct s3d_json *json, struct wanted *wanted)
{
    s3d_json_member *member = wanted->inside ? take_outer_member : take_member;
    enum s3d_code code = s3d_json_object(json, member, wanted);
    if (!code) {
        code = s3d_json_end(json, "something follows its object");
    }
    if (!code && wanted->inside && !wanted->found) {
        code = s3d_json_broken(json, "it lacks its main member");
    }
    return code;
}

enum s3d_code s3d_json_fields(const char *document, size_t length, const char *inside,
                              const struct s3d_json_field *fields, size_t count,
                              const char *what, struct s3d_error *error)
{
    struct wanted wanted = {inside, fields, count, false};
    struct s3d_json json;
    char *texts = s3d_alloc(length + 1);
    if (!texts) {
        return s3d_fail_memory(error, length + 1);
    }
    s3d_json_init(&json, document, length, texts, what, error);
    enum s3d_code code = read_fields(&json, &wanted);
    explicit_bzero(texts, length + 1);
    s3d_free(texts);
    if (code == S3D_INVALID) { /* not the caller's fault but the document's */
        code = S3D_PROTOCOL;
        if (error) {
            error->code = code;
        }
    }
    return code;
}

/* --- credentials --------------------------------------------------------------------------- */

static bool is_header_text(const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c <= ' ' || *c >= 127) {
            return false;
        }
    }
    return true;
}

enum s3d_code s3d_credentials_check(const struct s3d_credentials *credentials, const char *what,
                                    struct s3d_error *error)
{
    const char *key = credentials->access_key, *secret = credentials->secret_key;
    const char *token = credentials->session_token;
    if (!key || !*key || !secret || !*secret) {
        return s3d_fail(error, S3D_PROTOCOL, "%s has no %s", what,
                        !key || !*key ? "access key" : "secret key");
    }
    if (!is_header_text(key) || !is_header_text(secret) || (token && !is_header_text(token))) {
        return s3d_fail(error, S3D_PROTOCOL, "%s has a key that is not plain ASCII text", what);
    }
    return S3D_OK;
}

static enum s3d_code take_expiry(struct s3d_credentials *credentials, const char *text,
                                 const char *what, struct s3d_error *error)
{
    if (text && (!s3d_iso8601_parse_offset(text, &credentials->expires_s) ||
                 credentials->expires_s <= 0)) {
        return s3d_fail(error, S3D_PROTOCOL, "%s has an Expiration that is no ISO 8601 date",
                        what);
    }
    return S3D_OK;
}

enum s3d_code s3d_credentials_of_json(struct s3d_credentials *credentials, const char *document,
                                      size_t length, const char *token, const char *what,
                                      struct s3d_error *error)
{
    char *expiry = NULL;
    const struct s3d_json_field fields[] = {
        {"AccessKeyId", &credentials->access_key, NULL},
        {"SecretAccessKey", &credentials->secret_key, NULL},
        {token, &credentials->session_token, NULL},
        {"Expiration", &expiry, NULL},
    };
    enum s3d_code code = s3d_json_fields(document, length, NULL, fields,
                                         sizeof fields / sizeof *fields, what, error);
    if (!code) {
        code = take_expiry(credentials, expiry, what, error);
    }
    if (!code) {
        code = s3d_credentials_check(credentials, what, error);
    }
    s3d_free(expiry);
    return code;
}

/* --- what providers share ------------------------------------------------------------------ */

enum s3d_code s3d_token_read(const char *path, char **token, size_t *length,
                             struct s3d_error *error)
{
    enum s3d_code code = s3d_text_file_read(path, TOKEN_MAX_BYTES, token, length, error);
    if (code) {
        return code;
    }
    if (!*token) {
        return s3d_fail(error, S3D_NO_CREDENTIALS, "there is no token file %.300s", path);
    }
    size_t used = *length;
    while (used && strchr(" \t\r\n", (*token)[used - 1])) {
        (*token)[--used] = '\0';
    }
    if (!used || !is_header_text(*token)) {
        s3d_text_free(*token, *length);
        *token = NULL;
        return s3d_fail(error, S3D_INVALID, "%.300s does not hold one token and nothing else",
                        path);
    }
    return S3D_OK;
}

enum s3d_code s3d_fail_status(struct s3d_error *error, int status, const char *who,
                              const char *text)
{
    enum s3d_code code = status == 429   ? S3D_THROTTLED
                         : status >= 500 ? S3D_SERVER
                         : status < 400  ? S3D_PROTOCOL
                                         : S3D_DENIED;
    s3d_fail(error, code, "%s refused%s%.300s", who, text && *text ? ": " : "",
             text && *text ? text : "");
    if (error) {
        error->http_status = status;
    }
    return code;
}
