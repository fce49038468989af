#include "backends/source.h"

#include "backends/callback.h"
#include "backends/profile.h"
#include "core/mem.h"

#include <string.h>
#include <strings.h>
#include <time.h>

enum { NETWORK_ATTEMPTS = 3, PAUSE_MS = 100, LOOK_MS = 20 };

static bool is_set(const char *text)
{
    return text && *text;
}

/* --- a source ------------------------------------------------------------------------------ */

enum s3d_code s3d_source_new(struct s3d_source **source, enum s3d_source_kind kind,
                             struct s3d_error *error)
{
    *source = s3d_alloc_zeroed(1, sizeof **source);
    if (!*source) {
        return s3d_fail_memory(error, sizeof **source);
    }
    (*source)->kind = kind;
    return S3D_OK;
}

enum s3d_code s3d_source_copy(char **to, const char *text, struct s3d_error *error)
{
    *to = is_set(text) ? s3d_copy_string(text) : NULL;
    return *to || !is_set(text) ? S3D_OK : s3d_fail_memory(error, strlen(text) + 1);
}

void s3d_source_free(struct s3d_source *source)
{
    while (source) {
        struct s3d_source *base = source->base;
        s3d_credentials_fini(&source->keys);
        s3d_callback_release(source->callback);
        s3d_http_proxy_fini(&source->proxy);
#define X(field) s3d_secret_free(source->field);
        S3D_SOURCE_TEXTS(X)
#undef X
        s3d_free(source);
        source = base;
    }
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_keys(const struct s3d_credentials *a, const struct s3d_credentials *b)
{
    return a->anonymous == b->anonymous && same_text(a->access_key, b->access_key) &&
           same_text(a->secret_key, b->secret_key) &&
           same_text(a->session_token, b->session_token);
}

bool s3d_source_equal(const struct s3d_source *a, const struct s3d_source *b)
{
    for (; a && b; a = a->base, b = b->base) {
        bool same = a->kind == b->kind && same_keys(&a->keys, &b->keys) &&
                    a->callback == b->callback && a->timeout_ms == b->timeout_ms &&
                    a->attempts == b->attempts && s3d_http_proxy_equal(&a->proxy, &b->proxy);
#define X(field) same = same && same_text(a->field, b->field);
        S3D_SOURCE_TEXTS(X)
#undef X
        if (!same) {
            return false;
        }
    }
    return a == b;
}

/* --- the order of sources ------------------------------------------------------------------ */

static enum s3d_code plan_keys(struct s3d_source **source, const struct s3d_config *config,
                               struct s3d_error *error)
{
    enum s3d_code code = s3d_source_new(source, S3D_SOURCE_KEYS, error);
    return code ? code : s3d_take_explicit_keys(&(*source)->keys, config, error);
}

static enum s3d_code plan_callback(struct s3d_source **source, struct s3d_callback *callback,
                                   struct s3d_error *error)
{
    enum s3d_code code = s3d_source_new(source, S3D_SOURCE_CALLBACK, error);
    if (code) {
        s3d_callback_release(callback);
    } else {
        (*source)->callback = callback;
    }
    return code;
}

static enum s3d_code plan_web_identity(struct s3d_source **source,
                                       const struct s3d_config *config, const char *region,
                                       struct s3d_error *error)
{
    if (!is_set(config->role_arn)) {
        return s3d_fail(error, S3D_INVALID,
                        "AWS_WEB_IDENTITY_TOKEN_FILE is set, but AWS_ROLE_ARN is not");
    }
    enum s3d_code code = s3d_source_new(source, S3D_SOURCE_WEB_IDENTITY, error);
    if (code ||
        (code =
             s3d_source_copy(&(*source)->token_file, config->web_identity_token_file, error)) ||
        (code = s3d_source_copy(&(*source)->role_arn, config->role_arn, error)) ||
        (code = s3d_source_copy(&(*source)->session_name, config->role_session_name, error)) ||
        (code = s3d_source_copy(&(*source)->endpoint, config->sts_endpoint, error)) ||
        (code = s3d_source_copy(&(*source)->region, region, error))) {
        return code;
    }
    return s3d_source_copy(&(*source)->ca_bundle, config->ca_bundle, error);
}

static enum s3d_code fail_none(const struct s3d_profile *profile, struct s3d_error *error)
{
    return s3d_fail(
        error, S3D_NO_CREDENTIALS,
        "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "S3DLIO_ANONYMOUS=1 for public data; profile \"%.60s\" in %.100s and %.100s "
        "has none, there is neither web identity nor a container, and instance "
        "metadata is off",
        profile->name, s3d_profile_path(profile, 0), s3d_profile_path(profile, 1));
}

static enum s3d_code plan_rest(struct s3d_source **source, const struct s3d_profile *profile,
                               const struct s3d_config *config, struct s3d_error *error)
{
    char *region = NULL;
    enum s3d_code code = s3d_source_of_profile(source, profile, config, error);
    if (code || *source) {
        return code;
    }
    if (is_set(config->web_identity_token_file)) {
        code = is_set(config->region)
                   ? s3d_source_copy(&region, config->region, error)
                   : s3d_profile_text(profile, profile->name, "region", &region, error);
        if (!code) {
            code = plan_web_identity(source, config, region, error);
        }
        s3d_free(region);
        return code;
    }
    code = s3d_source_container(source, config, error);
    if (!code && !*source) {
        code = s3d_source_metadata(source, config, error);
    }
    return code || *source ? code : fail_none(profile, error);
}

static enum s3d_code plan_files(struct s3d_source **source, const struct s3d_config *config,
                                struct s3d_error *error)
{
    struct s3d_profile profile;
    enum s3d_code code = s3d_profile_load(&profile, config, error);
    if (!code) {
        code = plan_rest(source, &profile, config, error);
    }
    s3d_profile_fini(&profile);
    return code;
}

static enum s3d_code plan(struct s3d_source **source, const struct s3d_config *config,
                          struct s3d_error *error)
{
    bool anonymous = false;
    enum s3d_code code = s3d_read_anonymous(config->anonymous, &anonymous, error);
    if (code) {
        return code;
    }
    if (anonymous) {
        code = s3d_source_new(source, S3D_SOURCE_KEYS, error);
        if (!code) {
            (*source)->keys.anonymous = true;
        }
        return code;
    }
    if (config->keys_configured) {
        return plan_keys(source, config, error);
    }
    struct s3d_callback *callback = s3d_callback_current();
    if (callback) {
        return plan_callback(source, callback, error);
    }
    return s3d_has_explicit_keys(config) ? plan_keys(source, config, error)
                                         : plan_files(source, config, error);
}

/* Services are asked by a proxy where S3 is; what lies at hand (container, metadata) never. */
static enum s3d_code set_proxies(struct s3d_source *source, const struct s3d_config *config,
                                 struct s3d_error *error)
{
    enum s3d_code code = S3D_OK;
    for (; source && !code; source = source->base) {
        if (source->kind == S3D_SOURCE_ROLE || source->kind == S3D_SOURCE_WEB_IDENTITY ||
            source->kind == S3D_SOURCE_SSO) {
            bool tls = !source->endpoint || strncasecmp(source->endpoint, "http:", 5) != 0;
            code = s3d_http_proxy_load(&source->proxy, config, tls, error);
        }
    }
    return code;
}

enum s3d_code s3d_source_plan(struct s3d_source **source, const struct s3d_config *config,
                              struct s3d_error *error)
{
    *source = NULL;
    enum s3d_code code = plan(source, config, error);
    if (!code) {
        code = set_proxies(*source, config, error);
    }
    if (code) {
        s3d_source_free(*source);
        *source = NULL;
    }
    return code;
}

/* --- asking it ----------------------------------------------------------------------------- */

static enum s3d_code copy_keys(const struct s3d_source *source,
                               struct s3d_credentials *credentials, struct s3d_error *error)
{
    const struct s3d_credentials *keys = &source->keys;
    enum s3d_code code;
    credentials->anonymous = keys->anonymous;
    if ((code = s3d_source_copy(&credentials->access_key, keys->access_key, error)) ||
        (code = s3d_source_copy(&credentials->secret_key, keys->secret_key, error))) {
        return code;
    }
    return s3d_source_copy(&credentials->session_token, keys->session_token, error);
}

static enum s3d_code fetch_once(const struct s3d_source *source, const atomic_bool *stop,
                                struct s3d_credentials *credentials, struct s3d_error *error)
{
    switch (source->kind) {
    case S3D_SOURCE_KEYS: return copy_keys(source, credentials, error);
    case S3D_SOURCE_CALLBACK: return s3d_fetch_callback(source, stop, credentials, error);
    case S3D_SOURCE_ROLE: return s3d_fetch_role(source, stop, credentials, error);
    case S3D_SOURCE_WEB_IDENTITY:
        return s3d_fetch_web_identity(source, stop, credentials, error);
    case S3D_SOURCE_SSO: return s3d_fetch_sso(source, stop, credentials, error);
    case S3D_SOURCE_PROCESS: return s3d_fetch_process(source, stop, credentials, error);
    case S3D_SOURCE_CONTAINER: return s3d_fetch_container(source, stop, credentials, error);
    case S3D_SOURCE_METADATA: return s3d_fetch_metadata(source, stop, credentials, error);
    }
    return s3d_fail(error, S3D_INTERNAL, "no source of kind %d", (int)source->kind);
}

static uint64_t attempts_of(const struct s3d_source *source)
{
    switch (source->kind) {
    case S3D_SOURCE_METADATA: return source->attempts;
    case S3D_SOURCE_ROLE: /* its base has attempts of its own, but costs little when asked again */
    case S3D_SOURCE_WEB_IDENTITY:
    case S3D_SOURCE_SSO:
    case S3D_SOURCE_CONTAINER: return NETWORK_ATTEMPTS;
    case S3D_SOURCE_KEYS:
    case S3D_SOURCE_CALLBACK:
    case S3D_SOURCE_PROCESS: break;
    }
    return 1;
}

static void pause_before_retry(uint64_t attempt, const atomic_bool *stop)
{
    const struct timespec slice = {.tv_nsec = LOOK_MS * 1000000L};
    uint64_t whole_ms = (uint64_t)PAUSE_MS << (attempt < 5 ? attempt : 5);
    for (uint64_t slept_ms = 0; slept_ms < whole_ms && !atomic_load(stop);
         slept_ms += LOOK_MS) {
        nanosleep(&slice, NULL);
    }
}

enum s3d_code s3d_source_fetch(const struct s3d_source *source, const atomic_bool *stop,
                               struct s3d_credentials *credentials, struct s3d_error *error)
{
    uint64_t attempts = attempts_of(source);
    struct s3d_error last = {.code = S3D_OK}; /* callers may pass no record; it decides here */
    for (uint64_t i = 0; i < attempts; i++) {
        *credentials = (struct s3d_credentials){.anonymous = false};
        enum s3d_code code = fetch_once(source, stop, credentials, &last);
        if (!code) {
            return S3D_OK;
        }
        s3d_credentials_fini(credentials);
        last.attempts = (unsigned)i + 1;
        if (!s3d_code_retryable(code) || i + 1 == attempts || atomic_load(stop)) {
            break;
        }
        pause_before_retry(i, stop);
    }
    if (source->kind == S3D_SOURCE_METADATA &&
        (last.code == S3D_NETWORK || last.code == S3D_TIMEOUT)) {
        last.code = S3D_NO_CREDENTIALS; /* the last resort is not there: nothing to try again */
    }
    return s3d_error_copy(error, &last);
}
