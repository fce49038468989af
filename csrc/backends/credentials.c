#include "backends/credentials.h"

#include "backends/profile.h"
#include "core/mem.h"

#include <string.h>

static bool is_set(const char *text)
{
    return text && *text;
}

static void free_secret(char **secret)
{
    if (*secret) {
        explicit_bzero(*secret, strlen(*secret));
        s3d_free(*secret);
        *secret = NULL;
    }
}

static enum s3d_code copy_text(const char *text, char **copy, struct s3d_error *error)
{
    *copy = s3d_copy_string(text);
    return *copy ? S3D_OK : s3d_fail_memory(error, strlen(text) + 1);
}

void s3d_credentials_fini(struct s3d_credentials *credentials)
{
    if (credentials) {
        free_secret(&credentials->access_key);
        free_secret(&credentials->secret_key);
        free_secret(&credentials->session_token);
        credentials->anonymous = false;
        credentials->expires_s = 0;
    }
}

enum s3d_code s3d_read_anonymous(const char *text, bool *anonymous, struct s3d_error *error)
{
    *anonymous = text && strcmp(text, "1") == 0;
    if (text && !*anonymous && strcmp(text, "0") != 0) {
        return s3d_fail(error, S3D_INVALID, "S3DLIO_ANONYMOUS is \"%.60s\", not 0 or 1", text);
    }
    return S3D_OK;
}

enum s3d_code s3d_take_explicit_keys(struct s3d_credentials *credentials,
                                     const struct s3d_config *config, struct s3d_error *error)
{
    if (!is_set(config->access_key) || !is_set(config->secret_key)) {
        bool has_key = is_set(config->access_key);
        return s3d_fail(error, S3D_INVALID, "%s is set, but %s is not",
                        has_key ? "AWS_ACCESS_KEY_ID" : "AWS_SECRET_ACCESS_KEY",
                        has_key ? "AWS_SECRET_ACCESS_KEY" : "AWS_ACCESS_KEY_ID");
    }
    enum s3d_code code;
    if ((code = copy_text(config->access_key, &credentials->access_key, error)) ||
        (code = copy_text(config->secret_key, &credentials->secret_key, error))) {
        return code;
    }
    return is_set(config->session_token)
               ? copy_text(config->session_token, &credentials->session_token, error)
               : S3D_OK;
}

bool s3d_has_explicit_keys(const struct s3d_config *config)
{
    return is_set(config->access_key) || is_set(config->secret_key);
}
