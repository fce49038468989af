/*
 * What a profile asks for. Source: AWS SDKs and Tools Reference Guide, "Shared config and
 * credentials files", "Assume role", "IAM Identity Center", "Process credentials".
 */
#include "backends/auth.h"
#include "backends/profile.h"
#include "backends/source.h"
#include "backends/text_file.h"
#include "core/mem.h"

#include <string.h>

enum { CHAIN_MAX = 8, PATH_MAX_BYTES = 64 * 1024, PROCESS_TIMEOUT_MS = 60 * 1000 };

/* One link of the chain of profiles. */
struct link {
    const struct s3d_profile *profile;
    const struct s3d_config *config;
    const char *name;
    unsigned depth;
};

static enum s3d_code plan_profile(struct s3d_source **source, const struct link *link,
                                  struct s3d_error *error);

static enum s3d_code setting(const struct link *link, const char *name, char **value,
                             struct s3d_error *error)
{
    return s3d_profile_text(link->profile, link->name, name, value, error);
}

/* The profile's setting moves into the source, unless that has one. */
static enum s3d_code take(const struct link *link, const char *name, char **value,
                          struct s3d_error *error)
{
    return *value ? S3D_OK : setting(link, name, value, error);
}

/* --- roles --------------------------------------------------------------------------------- */

static enum s3d_code take_service(struct s3d_source *source, const struct link *link,
                                  const char *endpoint, struct s3d_error *error)
{
    enum s3d_code code;
    if ((code = s3d_source_copy(&source->endpoint, endpoint, error)) ||
        (code = take(link, "endpoint_url", &source->endpoint, error))) {
        return code;
    }
    return s3d_source_copy(&source->ca_bundle, link->config->ca_bundle, error);
}

static enum s3d_code take_role(struct s3d_source *source, const struct link *link,
                               struct s3d_error *error)
{
    enum s3d_code code;
    if ((code = take_service(source, link, link->config->sts_endpoint, error)) ||
        (code = s3d_source_copy(&source->region, link->config->region, error)) ||
        (code = take(link, "region", &source->region, error)) ||
        (code = take(link, "role_arn", &source->role_arn, error)) ||
        (code = take(link, "role_session_name", &source->session_name, error)) ||
        (code = take(link, "external_id", &source->external_id, error))) {
        return code;
    }
    return take(link, "duration_seconds", &source->duration_s, error);
}

static enum s3d_code plan_environment(struct s3d_source **base, const struct link *link,
                                      struct s3d_error *error)
{
    enum s3d_code code = s3d_source_new(base, S3D_SOURCE_KEYS, error);
    return code ? code : s3d_take_explicit_keys(&(*base)->keys, link->config, error);
}

static enum s3d_code plan_credential_source(struct s3d_source **base, const struct link *link,
                                            const char *which, struct s3d_error *error)
{
    enum s3d_code code;
    if (strcmp(which, "Environment") == 0) {
        code = plan_environment(base, link, error);
    } else if (strcmp(which, "EcsContainer") == 0) {
        code = s3d_source_container(base, link->config, error);
    } else if (strcmp(which, "Ec2InstanceMetadata") == 0) {
        code = s3d_source_metadata(base, link->config, error);
    } else {
        return s3d_fail(error, S3D_INVALID,
                        "profile \"%.100s\": credential_source is \"%.60s\", but must be "
                        "Environment, EcsContainer or Ec2InstanceMetadata",
                        link->name, which);
    }
    if (!code && !*base) {
        code = s3d_fail(error, S3D_NO_CREDENTIALS,
                        "profile \"%.100s\": credential_source %.60s is not to be had here",
                        link->name, which);
    }
    return code;
}

static enum s3d_code plan_keys(struct s3d_source **source, const struct link *link, size_t file,
                               struct s3d_error *error)
{
    struct s3d_credentials keys = {.anonymous = false};
    enum s3d_code code = s3d_profile_keys(link->profile, link->name, file, &keys, error);
    if (!code && keys.access_key && !(code = s3d_source_new(source, S3D_SOURCE_KEYS, error))) {
        (*source)->keys = keys;
        return S3D_OK;
    }
    s3d_credentials_fini(&keys);
    return code;
}

/* A profile may name itself: then its keys are meant. */
static enum s3d_code plan_source_profile(struct s3d_source **base, const struct link *link,
                                         const char *name, struct s3d_error *error)
{
    struct link next = {link->profile, link->config, name, link->depth + 1};
    bool exists = false;
    enum s3d_code code = s3d_profile_has(link->profile, name, &exists, error);
    if (!code && !exists) {
        code = s3d_fail(error, S3D_INVALID,
                        "profile \"%.100s\": its source_profile \"%.100s\" does not exist",
                        link->name, name);
    }
    if (!code && next.depth == CHAIN_MAX) {
        code = s3d_fail(error, S3D_INVALID,
                        "profile \"%.100s\": source_profile leads on for more than %d profiles",
                        link->profile->name, CHAIN_MAX);
    }
    if (code) {
        return code;
    }
    if (strcmp(name, link->name) != 0) {
        code = plan_profile(base, &next, error);
    } else {
        for (size_t i = 0; !code && i < 2 && !*base; i++) {
            code = plan_keys(base, &next, i, error);
        }
    }
    if (!code && !*base) {
        code = s3d_fail(error, S3D_NO_CREDENTIALS,
                        "profile \"%.100s\": its source_profile \"%.100s\" has no credentials",
                        link->name, name);
    }
    return code;
}

/* What a profile with a role_arn has beside it. */
struct role_settings {
    char *arn, *source_profile, *credential_source, *token_file, *mfa;
};

static enum s3d_code plan_role_base(struct s3d_source **base, const struct link *link,
                                    const struct role_settings *role, struct s3d_error *error)
{
    if (role->source_profile && role->credential_source) {
        return s3d_fail(error, S3D_INVALID,
                        "profile \"%.100s\" has both source_profile and credential_source",
                        link->name);
    }
    if (role->mfa) {
        return s3d_fail(error, S3D_NO_CREDENTIALS,
                        "profile \"%.100s\" has an mfa_serial: nobody can be asked for a code "
                        "here; use a credential_process that can",
                        link->name);
    }
    if (role->source_profile) {
        return plan_source_profile(base, link, role->source_profile, error);
    }
    if (role->credential_source) {
        return plan_credential_source(base, link, role->credential_source, error);
    }
    return s3d_fail(error, S3D_INVALID,
                    "profile \"%.100s\" has a role_arn, but neither source_profile, "
                    "credential_source nor web_identity_token_file",
                    link->name);
}

static enum s3d_code plan_role(struct s3d_source **source, const struct link *link,
                               struct role_settings *role, struct s3d_error *error)
{
    bool by_token = role->token_file != NULL;
    enum s3d_code code =
        s3d_source_new(source, by_token ? S3D_SOURCE_WEB_IDENTITY : S3D_SOURCE_ROLE, error);
    if (!code) {
        code = take_role(*source, link, error);
    }
    if (!code && by_token) {
        (*source)->token_file = role->token_file;
        role->token_file = NULL;
    } else if (!code) {
        code = plan_role_base(&(*source)->base, link, role, error);
    }
    return code;
}

static enum s3d_code try_role(struct s3d_source **source, const struct link *link,
                              struct s3d_error *error)
{
    struct role_settings role = {NULL};
    enum s3d_code code = setting(link, "role_arn", &role.arn, error);
    if (!code && role.arn &&
        !(code = setting(link, "source_profile", &role.source_profile, error)) &&
        !(code = setting(link, "credential_source", &role.credential_source, error)) &&
        !(code = setting(link, "web_identity_token_file", &role.token_file, error)) &&
        !(code = setting(link, "mfa_serial", &role.mfa, error))) {
        code = plan_role(source, link, &role, error);
    }
    s3d_free(role.arn);
    s3d_free(role.source_profile);
    s3d_free(role.credential_source);
    s3d_free(role.token_file);
    s3d_free(role.mfa);
    return code;
}

/* --- IAM Identity Center ------------------------------------------------------------------- */

/* The token's file is named by the SHA-1 of the session's name, or of the start URL. */
static enum s3d_code name_token_file(struct s3d_source *source, const char *hashed,
                                     struct s3d_error *error)
{
    char hex[S3D_SHA1_HEX];
    struct s3d_str path = S3D_STR(PATH_MAX_BYTES);
    enum s3d_code code = s3d_sha1_hex(hex, hashed, strlen(hashed), error);
    if (!code) {
        code = s3d_home_path("~/.aws/sso/cache/", &path, error);
    }
    if (!code && !path.length) {
        code = s3d_fail(error, S3D_NO_CREDENTIALS,
                        "the token of aws sso login lies below HOME, which is not set");
    }
    if (!code) {
        s3d_str_add_format(&path, "%s.json", hex);
        code = s3d_str_check(&path, error);
    }
    if (!code) {
        code = s3d_source_copy(&source->token_file, path.data, error);
    }
    s3d_str_fini(&path);
    return code;
}

static enum s3d_code session_setting(const struct link *link, const char *session,
                                     const char *name, char **value, struct s3d_error *error)
{
    struct s3d_piece found;
    bool exists = false;
    enum s3d_code code = s3d_ini_find(&link->profile->files[1], S3D_INI_SSO_SESSION, session,
                                      name, &found, &exists, error);
    if (code) {
        return code;
    }
    if (!exists) {
        return s3d_fail(error, S3D_INVALID, "there is no [sso-session %.100s] in %.300s",
                        session, s3d_profile_path(link->profile, 1));
    }
    if (found.text) {
        *value = s3d_alloc(found.length + 1);
        if (!*value) {
            return s3d_fail_memory(error, found.length + 1);
        }
        s3d_copy_text(*value, found.length + 1, found.text, found.length);
    }
    return S3D_OK;
}

static enum s3d_code plan_sso(struct s3d_source **source, const struct link *link,
                              const char *session, const char *start_url,
                              struct s3d_error *error)
{
    enum s3d_code code = s3d_source_new(source, S3D_SOURCE_SSO, error);
    if (code || (code = take_service(*source, link, link->config->sso_endpoint, error)) ||
        (code = session
                    ? session_setting(link, session, "sso_region", &(*source)->region, error)
                    : S3D_OK) ||
        (code = take(link, "sso_region", &(*source)->region, error)) ||
        (code = take(link, "sso_account_id", &(*source)->account, error)) ||
        (code = take(link, "sso_role_name", &(*source)->role_name, error))) {
        return code;
    }
    if (!(*source)->region || !(*source)->account || !(*source)->role_name) {
        return s3d_fail(error, S3D_INVALID, "profile \"%.100s\" lacks %s", link->name,
                        !(*source)->region    ? "sso_region"
                        : !(*source)->account ? "sso_account_id"
                                              : "sso_role_name");
    }
    return name_token_file(*source, session ? session : start_url, error);
}

static enum s3d_code try_sso(struct s3d_source **source, const struct link *link,
                             struct s3d_error *error)
{
    char *session = NULL, *start_url = NULL;
    enum s3d_code code;
    if (!(code = setting(link, "sso_session", &session, error)) &&
        !(code = setting(link, "sso_start_url", &start_url, error)) && (session || start_url)) {
        code = plan_sso(source, link, session, start_url, error);
    }
    s3d_free(session);
    s3d_free(start_url);
    return code;
}

/* --- the order ----------------------------------------------------------------------------- */

static enum s3d_code try_process(struct s3d_source **source, const struct link *link,
                                 struct s3d_error *error)
{
    char *command = NULL;
    enum s3d_code code = setting(link, "credential_process", &command, error);
    if (!code && command && !(code = s3d_source_new(source, S3D_SOURCE_PROCESS, error))) {
        (*source)->command = command;
        (*source)->timeout_ms = PROCESS_TIMEOUT_MS;
        return S3D_OK;
    }
    s3d_free(command);
    return code;
}

static enum s3d_code plan_profile(struct s3d_source **source, const struct link *link,
                                  struct s3d_error *error)
{
    enum s3d_code code;
    if ((code = try_role(source, link, error)) || *source ||
        (code = try_sso(source, link, error)) || *source ||
        (code = plan_keys(source, link, 0, error)) || *source ||
        (code = try_process(source, link, error)) || *source) {
        return code;
    }
    return plan_keys(source, link, 1, error);
}

enum s3d_code s3d_source_of_profile(struct s3d_source **source,
                                    const struct s3d_profile *profile,
                                    const struct s3d_config *config, struct s3d_error *error)
{
    struct link link = {profile, config, profile->name, 0};
    return plan_profile(source, &link, error);
}
