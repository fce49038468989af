/*
 * Roles by the Security Token Service. Source: AWS Security Token Service API Reference, 2011-06-15.
 */
#include "backends/auth.h"
#include "backends/host.h"
#include "backends/http_fetch.h"
#include "backends/secrets.h"
#include "backends/source.h"
#include "backends/text_file.h"
#include "backends/xml.h"
#include "core/mem.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECT_TIMEOUT_MS = 5000,
    TIMEOUT_MS = 15000,
    FORM_MAX_BYTES = 128 * 1024,
    HEADER_MAX_BYTES = 32 * 1024
};

static const char content_type[] = "application/x-www-form-urlencoded; charset=utf-8";

/* --- the form ------------------------------------------------------------------------------ */

static void form_add(struct s3d_str *form, const char *name, const char *value)
{
    s3d_str_add(form, form->length ? "&" : "");
    s3d_str_add(form, name);
    s3d_str_add(form, "=");
    s3d_str_add_encoded(form, value, false);
}

static void form_begin(struct s3d_str *form, const char *action,
                       const struct s3d_source *source)
{
    char made_up[64];
    snprintf(made_up, sizeof made_up, "s3dlio-%ld-%lld", (long)getpid(), (long long)time(NULL));
    form_add(form, "Action", action);
    form_add(form, "Version", "2011-06-15");
    form_add(form, "RoleArn", source->role_arn);
    form_add(form, "RoleSessionName", source->session_name ? source->session_name : made_up);
    if (source->duration_s) {
        form_add(form, "DurationSeconds", source->duration_s);
    }
    if (source->external_id) {
        form_add(form, "ExternalId", source->external_id);
    }
}

/* --- the exchange -------------------------------------------------------------------------- */

/* "https://host[:port]/" in *url, what follows "://" in *host. */
static enum s3d_code name_service(const struct s3d_source *source, struct s3d_str *url,
                                  struct s3d_str *host, struct s3d_error *error)
{
    const char *region = source->region ? source->region : "us-east-1";
    if (source->endpoint) {
        const char *authority;
        size_t length;
        enum s3d_code code = s3d_endpoint_parse(source->endpoint, "AWS_ENDPOINT_URL_STS",
                                                &authority, &length, error);
        if (code) {
            return code;
        }
        s3d_str_add_bytes(host, authority, length);
        s3d_str_add_bytes(url, source->endpoint, (size_t)(authority - source->endpoint));
    } else {
        s3d_host_add_amazon(host, "sts", region);
        s3d_str_add(url, "https://");
    }
    s3d_str_add(url, s3d_str_text(host));
    s3d_str_add(url, "/");
    enum s3d_code code = s3d_str_check(host, error);
    return code ? code : s3d_str_check(url, error);
}

/* Whether the answer may come out otherwise when asked again. */
static enum s3d_code judge(const struct s3d_http_fetch *fetch, const char *action,
                           struct s3d_credentials *credentials, struct s3d_error *error)
{
    struct s3d_xml_error xml;
    char who[64], document[64];
    snprintf(who, sizeof who, "STS %s", action);
    if (fetch->status != 200) {
        s3d_xml_sts_error(fetch->text, fetch->length, &xml);
        enum s3d_code code = s3d_fail_status(error, fetch->status, who, xml.message);
        memcpy(error->server_code, xml.code, sizeof error->server_code);
        memcpy(error->request_id, xml.request_id, sizeof error->request_id);
        return strcmp(xml.code, "Throttling") == 0 ||
                       strcmp(xml.code, "IDPCommunicationError") == 0
                   ? (error->code = S3D_THROTTLED)
                   : code;
    }
    snprintf(document, sizeof document, "the answer of STS %s", action);
    enum s3d_code code = s3d_xml_sts_credentials(
        fetch->text, fetch->length, action, &credentials->access_key, &credentials->secret_key,
        &credentials->session_token, &credentials->expires_s, error);
    return code ? code : s3d_credentials_check(credentials, document, error);
}

static enum s3d_code exchange(const struct s3d_source *source, const char *action,
                              const char *url, const char *const *headers, size_t header_count,
                              const struct s3d_str *form, const struct s3d_str *secrets,
                              const atomic_bool *stop, struct s3d_credentials *credentials,
                              struct s3d_error *error)
{
    struct s3d_http_fetch fetch = {.method = "POST",
                                   .url = url,
                                   .headers = headers,
                                   .header_count = header_count,
                                   .body = form->data,
                                   .body_length = form->length,
                                   .ca_bundle = source->ca_bundle,
                                   .proxy = &source->proxy,
                                   .connect_timeout_ms = CONNECT_TIMEOUT_MS,
                                   .timeout_ms = TIMEOUT_MS,
                                   .stop = stop};
    enum s3d_code code = s3d_http_fetch(&fetch, error);
    if (!code) {
        code = judge(&fetch, action, credentials, error);
    }
    if (code && error) {
        s3d_secrets_hide(secrets, error);
    }
    s3d_http_fetch_fini(&fetch);
    return code;
}

/* --- AssumeRole ---------------------------------------------------------------------------- */

/* The three lines that a signed request has. */
struct signed_lines {
    struct s3d_str authorization, date, token;
};

static enum s3d_code sign(struct signed_lines *lines, const struct s3d_source *source,
                          const struct s3d_credentials *base, const char *host,
                          const struct s3d_str *form, struct s3d_error *error)
{
    char date[S3D_AMZ_DATE], payload[S3D_SHA256_HEX];
    struct s3d_span body = {form->data, form->length};
    enum s3d_code code = s3d_sha256_hex(payload, &body, 1, error);
    if (code) {
        return code;
    }
    s3d_amz_date(date, (int64_t)time(NULL));
    struct s3d_header headers[] = {{"content-type", content_type},
                                   {"host", host},
                                   {"x-amz-date", date},
                                   {"x-amz-security-token", base->session_token}};
    struct s3d_sigv4 request = {.access_key = base->access_key,
                                .secret_key = base->secret_key,
                                .region = source->region ? source->region : "us-east-1",
                                .service = "sts",
                                .method = "POST",
                                .path = "/",
                                .query = "",
                                .headers = headers,
                                .header_count = base->session_token ? 4 : 3,
                                .payload = payload,
                                .date = date};
    s3d_str_add(&lines->authorization, "Authorization: ");
    code = s3d_sigv4_authorize(&request, &lines->authorization, error);
    s3d_str_add_format(&lines->date, "X-Amz-Date: %s", date);
    if (base->session_token) {
        s3d_str_add_format(&lines->token, "X-Amz-Security-Token: %s", base->session_token);
    }
    if (code || (code = s3d_str_check(&lines->authorization, error)) ||
        (code = s3d_str_check(&lines->date, error))) {
        return code;
    }
    return s3d_str_check(&lines->token, error);
}

static enum s3d_code assume(const struct s3d_source *source, const struct s3d_credentials *base,
                            const atomic_bool *stop, struct s3d_credentials *credentials,
                            struct s3d_error *error)
{
    struct s3d_str url = S3D_STR(4096), host = S3D_STR(4096), form = S3D_STR(FORM_MAX_BYTES);
    struct signed_lines lines = {S3D_STR(HEADER_MAX_BYTES), S3D_STR(HEADER_MAX_BYTES),
                                 S3D_STR(HEADER_MAX_BYTES)};
    struct s3d_str secrets = S3D_STR(S3D_SECRETS_MAX);
    s3d_secrets_add(&secrets, base->secret_key);
    s3d_secrets_add(&secrets, base->session_token);
    form_begin(&form, "AssumeRole", source);
    enum s3d_code code = s3d_str_check(&form, error);
    if (!code) {
        code = s3d_str_check(&secrets, error);
    }
    if (!code) {
        code = name_service(source, &url, &host, error);
    }
    if (!code) {
        code = sign(&lines, source, base, host.data, &form, error);
    }
    if (!code) {
        const char *headers[] = {
            "Content-Type: application/x-www-form-urlencoded; charset=utf-8",
            lines.authorization.data, lines.date.data, lines.token.data};
        code = exchange(source, "AssumeRole", url.data, headers, base->session_token ? 4 : 3,
                        &form, &secrets, stop, credentials, error);
    }
    s3d_secrets_fini(&secrets);
    s3d_secrets_fini(&lines.authorization);
    s3d_secrets_fini(&lines.token);
    s3d_str_fini(&lines.date);
    s3d_str_fini(&url);
    s3d_str_fini(&host);
    s3d_str_fini(&form);
    return code;
}

enum s3d_code s3d_fetch_role(const struct s3d_source *source, const atomic_bool *stop,
                             struct s3d_credentials *credentials, struct s3d_error *error)
{
    struct s3d_credentials base;
    enum s3d_code code = s3d_source_fetch(source->base, stop, &base, error);
    if (!code) {
        code = assume(source, &base, stop, credentials, error);
        s3d_credentials_fini(&base);
    }
    return code;
}

/* --- AssumeRoleWithWebIdentity: unsigned, the token is all --------------------------------- */

enum s3d_code s3d_fetch_web_identity(const struct s3d_source *source, const atomic_bool *stop,
                                     struct s3d_credentials *credentials,
                                     struct s3d_error *error)
{
    static const char *const headers[] = {
        "Content-Type: application/x-www-form-urlencoded; charset=utf-8"};
    struct s3d_str url = S3D_STR(4096), host = S3D_STR(4096), form = S3D_STR(FORM_MAX_BYTES);
    struct s3d_str secrets = S3D_STR(S3D_SECRETS_MAX);
    char *token = NULL;
    size_t token_bytes = 0;
    enum s3d_code code = s3d_token_read(source->token_file, &token, &token_bytes, error);
    if (!code) {
        form_begin(&form, "AssumeRoleWithWebIdentity", source);
        form_add(&form, "WebIdentityToken", token);
        s3d_secrets_add(&secrets, token);
        code = s3d_str_check(&form, error);
    }
    if (!code) {
        code = s3d_str_check(&secrets, error);
    }
    if (!code) {
        code = name_service(source, &url, &host, error);
    }
    if (!code) {
        code = exchange(source, "AssumeRoleWithWebIdentity", url.data, headers, 1, &form,
                        &secrets, stop, credentials, error);
    }
    s3d_secrets_fini(&secrets);
    s3d_text_free(token, token_bytes);
    s3d_str_fini(&url);
    s3d_str_fini(&host);
    s3d_secrets_fini(&form);
    return code;
}
