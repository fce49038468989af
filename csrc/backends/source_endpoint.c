/*
 * Credentials that the machine's surroundings hold ready: the container's endpoint (ECS, EKS Pod
 * Identity) and EC2's instance metadata, version 2 only. Both are asked directly, by no proxy.
 * Source: AWS SDKs and Tools Reference Guide, "Container credential provider", "IMDS credential
 * provider"; EC2 User Guide, "Use IMDSv2".
 */
#include "backends/host.h"
#include "backends/http_fetch.h"
#include "backends/source.h"
#include "backends/text_file.h"
#include "core/mem.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

enum {
    CONTAINER_CONNECT_MS = 2000,
    CONTAINER_TIMEOUT_MS = 5000,
    URL_MAX_BYTES = 4096,
    HEADER_MAX_BYTES = 64 * 1024,
    ROLE_MAX_BYTES = 256
};

static bool is_set(const char *text)
{
    return text && *text;
}

/* --- which hosts a container may be sent to ------------------------------------------------ */

/* Beside loopback the addresses at which AWS serves containers. */
static bool is_allowed_host(const char *host)
{
    static const char *const known[] = {"169.254.170.2", "169.254.170.23"};
    struct in6_addr six, pod;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(host, known[i]) == 0) {
            return true;
        }
    }
    return s3d_host_is_loopback(host) || (inet_pton(AF_INET6, host, &six) == 1 &&
                                          inet_pton(AF_INET6, "fd00:ec2::23", &pod) == 1 &&
                                          memcmp(&six, &pod, sizeof six) == 0);
}

static enum s3d_code check_container_url(const char *url, struct s3d_error *error)
{
    char host[S3D_HOST_MAX];
    bool tls = strncasecmp(url, "https://", 8) == 0;
    if ((!tls && strncasecmp(url, "http://", 7) != 0) || !s3d_host_of(url, host)) {
        return s3d_fail(error, S3D_INVALID,
                        "AWS_CONTAINER_CREDENTIALS_FULL_URI is no http or https URL");
    }
    if (!tls && !is_allowed_host(host)) {
        return s3d_fail(
            error, S3D_INVALID,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI goes to %.100s without TLS: only "
            "loopback, 169.254.170.2, 169.254.170.23 and fd00:ec2::23 are trusted so",
            host);
    }
    return S3D_OK;
}

/* --- the plan ------------------------------------------------------------------------------ */

static enum s3d_code set_container_url(struct s3d_source *source,
                                       const struct s3d_config *config, struct s3d_error *error)
{
    if (!is_set(config->container_relative_uri)) {
        enum s3d_code code = check_container_url(config->container_full_uri, error);
        return code ? code : s3d_source_copy(&source->url, config->container_full_uri, error);
    }
    struct s3d_str url = S3D_STR(URL_MAX_BYTES);
    const char *path = config->container_relative_uri;
    if (*path != '/' || strpbrk(path, "\\ \t\r\n")) {
        return s3d_fail(error, S3D_INVALID,
                        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI does not begin with \"/\"");
    }
    s3d_str_add(&url, "http://169.254.170.2");
    s3d_str_add(&url, path);
    enum s3d_code code = s3d_str_check(&url, error);
    source->url = url.data; /* ownership moves */
    return code;
}

enum s3d_code s3d_source_container(struct s3d_source **source, const struct s3d_config *config,
                                   struct s3d_error *error)
{
    enum s3d_code code;
    if (!is_set(config->container_relative_uri) && !is_set(config->container_full_uri)) {
        return S3D_OK;
    }
    if ((code = s3d_source_new(source, S3D_SOURCE_CONTAINER, error)) ||
        (code = set_container_url(*source, config, error)) ||
        (code = s3d_source_copy(&(*source)->token_file, config->container_token_file, error)) ||
        (code = s3d_source_copy(&(*source)->token, config->container_token, error))) {
        return code;
    }
    return s3d_source_copy(&(*source)->ca_bundle, config->ca_bundle, error);
}

static enum s3d_code metadata_origin(const struct s3d_config *config, const char **origin,
                                     struct s3d_error *error)
{
    char host[S3D_HOST_MAX];
    const char *mode = is_set(config->metadata_mode) ? config->metadata_mode : "IPv4";
    if (strcasecmp(mode, "IPv4") != 0 && strcasecmp(mode, "IPv6") != 0) {
        return s3d_fail(error, S3D_INVALID,
                        "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE is \"%.60s\", not IPv4 or IPv6",
                        mode);
    }
    *origin =
        strcasecmp(mode, "IPv4") == 0 ? "http://169.254.169.254" : "http://[fd00:ec2::254]";
    if (!is_set(config->metadata_endpoint)) {
        return S3D_OK;
    }
    *origin = config->metadata_endpoint;
    bool known =
        strncasecmp(*origin, "http://", 7) == 0 || strncasecmp(*origin, "https://", 8) == 0;
    return known && s3d_host_of(*origin, host)
               ? S3D_OK
               : s3d_fail(error, S3D_INVALID,
                          "AWS_EC2_METADATA_SERVICE_ENDPOINT is no http or https URL");
}

static enum s3d_code metadata_off(const char *text, bool *off, struct s3d_error *error)
{
    *off = is_set(text) && strcasecmp(text, "true") == 0;
    if (is_set(text) && !*off && strcasecmp(text, "false") != 0) {
        return s3d_fail(error, S3D_INVALID,
                        "AWS_EC2_METADATA_DISABLED is \"%.60s\", not true or false", text);
    }
    return S3D_OK;
}

enum s3d_code s3d_source_metadata(struct s3d_source **source, const struct s3d_config *config,
                                  struct s3d_error *error)
{
    const char *origin = NULL;
    bool off = false;
    enum s3d_code code = metadata_off(config->metadata_disabled, &off, error);
    if (code || off) {
        return code;
    }
    if ((code = metadata_origin(config, &origin, error)) ||
        (code = s3d_source_new(source, S3D_SOURCE_METADATA, error))) {
        return code;
    }
    (*source)->timeout_ms = config->metadata_timeout_s * 1000;
    (*source)->attempts = config->metadata_attempts;
    code = s3d_source_copy(&(*source)->url, origin, error);
    return code ? code : s3d_source_copy(&(*source)->ca_bundle, config->ca_bundle, error);
}

/* --- the container ------------------------------------------------------------------------- */

static enum s3d_code add_token(const struct s3d_source *source, struct s3d_str *header,
                               struct s3d_error *error)
{
    char *token = NULL;
    size_t length = 0;
    enum s3d_code code = S3D_OK;
    if (source->token_file) {
        code = s3d_token_read(source->token_file, &token, &length, error);
    } else if (source->token && strpbrk(source->token, "\r\n")) {
        code =
            s3d_fail(error, S3D_INVALID, "AWS_CONTAINER_AUTHORIZATION_TOKEN has a line break");
    }
    if (!code && (token || source->token)) {
        s3d_str_add(header, "Authorization: ");
        s3d_str_add(header, token ? token : source->token);
        code = s3d_str_check(header, error);
    }
    s3d_text_free(token, length);
    return code;
}

static void wipe(struct s3d_str *str)
{
    if (str->data) {
        explicit_bzero(str->data, str->length);
    }
    s3d_str_fini(str);
}

enum s3d_code s3d_fetch_container(const struct s3d_source *source, const atomic_bool *stop,
                                  struct s3d_credentials *credentials, struct s3d_error *error)
{
    struct s3d_str header = S3D_STR(HEADER_MAX_BYTES);
    enum s3d_code code = add_token(source, &header, error);
    const char *const headers[] = {s3d_str_text(&header)};
    struct s3d_http_fetch fetch = {.method = "GET",
                                   .url = source->url,
                                   .headers = headers,
                                   .header_count = header.length ? 1 : 0,
                                   .ca_bundle = source->ca_bundle,
                                   .connect_timeout_ms = CONTAINER_CONNECT_MS,
                                   .timeout_ms = CONTAINER_TIMEOUT_MS,
                                   .stop = stop};
    if (!code) {
        code = s3d_http_fetch(&fetch, error);
    }
    if (!code && fetch.status != 200) {
        code =
            s3d_fail_status(error, fetch.status, "the container's credentials endpoint", NULL);
    }
    if (!code) {
        code = s3d_credentials_of_json(credentials, fetch.text, fetch.length, "Token",
                                       "the answer of the container's credentials endpoint",
                                       error);
    }
    s3d_http_fetch_fini(&fetch);
    wipe(&header);
    return code;
}

/* --- instance metadata --------------------------------------------------------------------- */

static enum s3d_code ask(const struct s3d_source *source, const char *method, const char *path,
                         const char *header, const atomic_bool *stop,
                         struct s3d_http_fetch *fetch, struct s3d_error *error)
{
    struct s3d_str url = S3D_STR(URL_MAX_BYTES);
    size_t length = strlen(source->url);
    while (length && source->url[length - 1] == '/') {
        length--;
    }
    s3d_str_add_bytes(&url, source->url, length);
    s3d_str_add(&url, path);
    enum s3d_code code = s3d_str_check(&url, error);
    if (!code) {
        const char *const headers[] = {header};
        *fetch = (struct s3d_http_fetch){.method = method,
                                         .url = url.data,
                                         .headers = headers,
                                         .header_count = 1,
                                         .ca_bundle = source->ca_bundle,
                                         .connect_timeout_ms = (uint32_t)source->timeout_ms,
                                         .timeout_ms = (uint32_t)source->timeout_ms,
                                         .stop = stop};
        code = s3d_http_fetch(fetch, error);
    }
    fetch->url = NULL;
    fetch->headers = NULL;
    s3d_str_fini(&url);
    return code;
}

/* The last resort: that it gives nothing means that there are no credentials. */
static enum s3d_code fail_absent(struct s3d_error *error, enum s3d_code code, const char *why)
{
    struct s3d_error before = *error;
    s3d_fail(
        error, code,
        "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "S3DLIO_ANONYMOUS=1 for public data; settings, environment and profile have none, "
        "and from instance metadata (AWS_EC2_METADATA_DISABLED=true leaves it out): %.200s",
        why ? why : before.message);
    error->http_status = before.http_status;
    return code;
}

static enum s3d_code get_session(const struct s3d_source *source, const atomic_bool *stop,
                                 struct s3d_str *header, struct s3d_error *error)
{
    struct s3d_http_fetch fetch = {.status = 0};
    enum s3d_code code =
        ask(source, "PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 21600",
            stop, &fetch, error);
    if (code == S3D_NETWORK || code == S3D_TIMEOUT) {
        code = fail_absent(error, code, NULL);
    } else if (!code && fetch.status != 200) {
        code = s3d_fail_status(error, fetch.status, "instance metadata",
                               "no session token (version 1 is never used)");
        code = code == S3D_DENIED ? fail_absent(error, S3D_NO_CREDENTIALS, NULL) : code;
    } else if (!code && (!fetch.length || strpbrk(fetch.text, " \r\n") ||
                         strlen(fetch.text) != fetch.length)) {
        code =
            s3d_fail(error, S3D_PROTOCOL, "instance metadata: the session token is malformed");
    } else if (!code) {
        s3d_str_add(header, "X-aws-ec2-metadata-token: ");
        s3d_str_add(header, fetch.text);
        code = s3d_str_check(header, error);
    }
    s3d_http_fetch_fini(&fetch);
    return code;
}

static enum s3d_code get_role(const struct s3d_source *source, const char *header,
                              const atomic_bool *stop, struct s3d_str *path,
                              struct s3d_error *error)
{
    struct s3d_http_fetch fetch = {.status = 0};
    s3d_str_add(path, "/latest/meta-data/iam/security-credentials/");
    enum s3d_code code = ask(source, "GET", s3d_str_text(path), header, stop, &fetch, error);
    if (!code && fetch.status == 404) {
        code = fail_absent(error, S3D_NO_CREDENTIALS, "the instance has no role");
    } else if (!code && fetch.status != 200) {
        code = s3d_fail_status(error, fetch.status, "instance metadata", NULL);
    }
    if (!code) {
        char role[ROLE_MAX_BYTES];
        size_t length = strcspn(fetch.text, "\r\n");
        if (!length || memchr(fetch.text, '\0', fetch.length) ||
            !s3d_copy_text(role, sizeof role, fetch.text, length)) {
            code = s3d_fail(error, S3D_PROTOCOL,
                            "instance metadata: the role's name is malformed");
        } else {
            s3d_str_add_encoded(path, role, false);
            code = s3d_str_check(path, error);
        }
    }
    s3d_http_fetch_fini(&fetch);
    return code;
}

static enum s3d_code get_keys(const struct s3d_source *source, const char *header,
                              const char *path, const atomic_bool *stop,
                              struct s3d_credentials *credentials, struct s3d_error *error)
{
    struct s3d_http_fetch fetch = {.status = 0};
    enum s3d_code code = ask(source, "GET", path, header, stop, &fetch, error);
    if (!code && fetch.status != 200) {
        code = s3d_fail_status(error, fetch.status, "instance metadata", NULL);
    }
    if (!code) {
        code = s3d_credentials_of_json(credentials, fetch.text, fetch.length, "Token",
                                       "the answer of instance metadata", error);
    }
    s3d_http_fetch_fini(&fetch);
    return code;
}

enum s3d_code s3d_fetch_metadata(const struct s3d_source *source, const atomic_bool *stop,
                                 struct s3d_credentials *credentials, struct s3d_error *error)
{
    struct s3d_str header = S3D_STR(HEADER_MAX_BYTES), path = S3D_STR(URL_MAX_BYTES);
    enum s3d_code code = get_session(source, stop, &header, error);
    if (!code) {
        code = get_role(source, header.data, stop, &path, error);
    }
    if (!code) {
        code = get_keys(source, header.data, path.data, stop, credentials, error);
    }
    wipe(&header);
    s3d_str_fini(&path);
    return code;
}
