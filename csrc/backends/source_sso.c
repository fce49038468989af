/*
 * IAM Identity Center: the token that `aws sso login` left in a file buys credentials of a role.
 * Source: AWS SSO Portal API Reference, GetRoleCredentials.
 */
#include "backends/host.h"
#include "backends/http_fetch.h"
#include "backends/source.h"
#include "backends/text_file.h"
#include "core/mem.h"
#include "formats/iso8601.h"

#include <string.h>
#include <time.h>

enum {
    CONNECT_TIMEOUT_MS = 5000,
    TIMEOUT_MS = 15000,
    FILE_MAX_BYTES = 64 * 1024,
    URL_MAX_BYTES = 8 * 1024,
    HEADER_MAX_BYTES = 64 * 1024
};

static enum s3d_code fail_login(struct s3d_error *error, const char *path, const char *what)
{
    return s3d_fail(error, S3D_NO_CREDENTIALS, "%.300s: %s; run `aws sso login`", path, what);
}

static enum s3d_code check_token(const char *token, const char *expiry, const char *path,
                                 struct s3d_error *error)
{
    int64_t expires_s;
    if (!token || !*token || strpbrk(token, " \t\r\n")) {
        return fail_login(error, path, "it holds no token");
    }
    if (!expiry || !s3d_iso8601_parse_offset(expiry, &expires_s)) {
        return fail_login(error, path, "it does not say until when its token holds");
    }
    return expires_s > (int64_t)time(NULL) ? S3D_OK
                                           : fail_login(error, path, "its token has expired");
}

static enum s3d_code read_token(const char *path, char **token, struct s3d_error *error)
{
    char *document = NULL, *expiry = NULL;
    size_t length;
    enum s3d_code code = s3d_text_file_read(path, FILE_MAX_BYTES, &document, &length, error);
    if (!code && !document) {
        code = fail_login(error, path, "there is no such file");
    }
    if (!code) {
        const struct s3d_json_field fields[] = {{"accessToken", token, NULL},
                                                {"expiresAt", &expiry, NULL}};
        code = s3d_json_fields(document, length, NULL, fields, 2, path, error);
    }
    if (!code) {
        code = check_token(*token, expiry, path, error);
    }
    s3d_text_free(document, length);
    s3d_free(expiry);
    return code;
}

static enum s3d_code read_answer(const struct s3d_http_fetch *fetch,
                                 struct s3d_credentials *credentials, struct s3d_error *error)
{
    static const char what[] = "the answer of SSO GetRoleCredentials";
    uint64_t expires_ms = 0;
    const struct s3d_json_field fields[] = {
        {"accessKeyId", &credentials->access_key, NULL},
        {"secretAccessKey", &credentials->secret_key, NULL},
        {"sessionToken", &credentials->session_token, NULL},
        {"expiration", NULL, &expires_ms},
    };
    if (fetch->status != 200) {
        enum s3d_code code =
            s3d_fail_status(error, fetch->status, "SSO GetRoleCredentials",
                            fetch->status == 401 ? "run `aws sso login`" : NULL);
        return code;
    }
    enum s3d_code code = s3d_json_fields(fetch->text, fetch->length, "roleCredentials", fields,
                                         sizeof fields / sizeof *fields, what, error);
    credentials->expires_s = (int64_t)(expires_ms / 1000);
    return code ? code : s3d_credentials_check(credentials, what, error);
}

static enum s3d_code build_url(const struct s3d_source *source, struct s3d_str *url,
                               struct s3d_error *error)
{
    if (source->endpoint) {
        const char *authority;
        size_t length;
        enum s3d_code code = s3d_endpoint_parse(source->endpoint, "AWS_ENDPOINT_URL_SSO",
                                                &authority, &length, error);
        if (code) {
            return code;
        }
        s3d_str_add_bytes(url, source->endpoint,
                          (size_t)(authority - source->endpoint) + length);
    } else {
        s3d_str_add(url, "https://");
        s3d_host_add_amazon(url, "portal.sso", source->region);
    }
    s3d_str_add(url, "/federation/credentials?role_name=");
    s3d_str_add_encoded(url, source->role_name, false);
    s3d_str_add(url, "&account_id=");
    s3d_str_add_encoded(url, source->account, false);
    return s3d_str_check(url, error);
}

enum s3d_code s3d_fetch_sso(const struct s3d_source *source, const atomic_bool *stop,
                            struct s3d_credentials *credentials, struct s3d_error *error)
{
    struct s3d_str url = S3D_STR(URL_MAX_BYTES), header = S3D_STR(HEADER_MAX_BYTES);
    char *token = NULL;
    enum s3d_code code = read_token(source->token_file, &token, error);
    if (!code) {
        code = build_url(source, &url, error);
    }
    if (!code) {
        s3d_str_add(&header, "x-amz-sso_bearer_token: ");
        s3d_str_add(&header, token);
        code = s3d_str_check(&header, error);
    }
    if (!code) {
        const char *const headers[] = {header.data};
        struct s3d_http_fetch fetch = {.method = "GET",
                                       .url = url.data,
                                       .headers = headers,
                                       .header_count = 1,
                                       .ca_bundle = source->ca_bundle,
                                       .proxy = &source->proxy,
                                       .connect_timeout_ms = CONNECT_TIMEOUT_MS,
                                       .timeout_ms = TIMEOUT_MS,
                                       .stop = stop};
        code = s3d_http_fetch(&fetch, error);
        if (!code) {
            code = read_answer(&fetch, credentials, error);
        }
        s3d_http_fetch_fini(&fetch);
    }
    s3d_secret_free(token);
    if (header.data) {
        explicit_bzero(header.data, header.length);
    }
    s3d_str_fini(&header);
    s3d_str_fini(&url);
    return code;
}
