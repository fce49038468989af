#include "backends/profile.h"

#include "backends/text_file.h"
#include "core/mem.h"

#include <string.h>

static enum s3d_code copy_piece(struct s3d_piece piece, char **copy, struct s3d_error *error)
{
    *copy = s3d_alloc(piece.length + 1);
    if (!*copy) {
        return s3d_fail_memory(error, piece.length + 1);
    }
    memcpy(*copy, piece.text, piece.length);
    (*copy)[piece.length] = '\0';
    return S3D_OK;
}

const char *s3d_profile_path(const struct s3d_profile *profile, size_t file)
{
    const struct s3d_str *path = &profile->files[file].path;
    return path->length ? path->data : "(~ without HOME)";
}

void s3d_profile_fini(struct s3d_profile *profile)
{
    s3d_ini_fini(&profile->files[0]);
    s3d_ini_fini(&profile->files[1]);
}

enum s3d_code s3d_profile_has(const struct s3d_profile *profile, const char *section,
                              bool *exists, struct s3d_error *error)
{
    struct s3d_piece none;
    enum s3d_code code = S3D_OK;
    *exists = false;
    for (size_t i = 0; !code && i < 2; i++) {
        code = s3d_ini_find(&profile->files[i], S3D_INI_PROFILE, section, NULL, &none, exists,
                            error);
    }
    return code;
}

enum s3d_code s3d_profile_load(struct s3d_profile *profile, const struct s3d_config *config,
                               struct s3d_error *error)
{
    bool named = config->profile && *config->profile;
    struct s3d_ini *files = profile->files;
    enum s3d_code code;
    memset(profile, 0, sizeof *profile);
    profile->name = named ? config->profile : "default";
    if ((code = s3d_ini_load(&files[0], config->credentials_file, "~/.aws/credentials", false,
                             error)) ||
        (code = s3d_ini_load(&files[1], config->config_file, "~/.aws/config", true, error)) ||
        (code = s3d_profile_has(profile, profile->name, &profile->exists, error))) {
        return code;
    }
    if (named && !profile->exists) {
        return s3d_fail(error, S3D_INVALID,
                        "there is no profile \"%.100s\" in %.150s or %.150s", profile->name,
                        s3d_profile_path(profile, 0), s3d_profile_path(profile, 1));
    }
    return S3D_OK;
}

/* Key, secret and token come from one file: two files' halves are no pair. */
enum s3d_code s3d_profile_keys(const struct s3d_profile *profile, const char *section,
                               size_t file, struct s3d_credentials *credentials,
                               struct s3d_error *error)
{
    const struct s3d_ini *ini = &profile->files[file];
    struct s3d_piece key, secret, token;
    enum s3d_code code;
    if ((code = s3d_ini_find(ini, S3D_INI_PROFILE, section, "aws_access_key_id", &key, NULL,
                             error)) ||
        (code = s3d_ini_find(ini, S3D_INI_PROFILE, section, "aws_secret_access_key", &secret,
                             NULL, error)) ||
        (code = s3d_ini_find(ini, S3D_INI_PROFILE, section, "aws_session_token", &token, NULL,
                             error))) {
        return code;
    }
    if (!key.text && !secret.text) {
        return S3D_OK;
    }
    if (!key.text || !secret.text) {
        return s3d_fail(error, S3D_INVALID, "profile \"%.100s\" in %.300s lacks %s", section,
                        s3d_str_text(&ini->path),
                        key.text ? "aws_secret_access_key" : "aws_access_key_id");
    }
    if ((code = copy_piece(key, &credentials->access_key, error)) ||
        (code = copy_piece(secret, &credentials->secret_key, error))) {
        return code;
    }
    return token.text ? copy_piece(token, &credentials->session_token, error) : S3D_OK;
}

enum s3d_code s3d_profile_text(const struct s3d_profile *profile, const char *section,
                               const char *name, char **value, struct s3d_error *error)
{
    struct s3d_piece found = {NULL, 0};
    enum s3d_code code = S3D_OK;
    *value = NULL;
    for (size_t i = 0; !code && i < 2 && !found.text; i++) {
        code = s3d_ini_find(&profile->files[i], S3D_INI_PROFILE, section, name, &found, NULL,
                            error);
    }
    return code || !found.text ? code : copy_piece(found, value, error);
}

enum s3d_code s3d_profile_setting(const struct s3d_config *config, const char *name,
                                  char **value, struct s3d_error *error)
{
    struct s3d_profile profile;
    *value = NULL;
    enum s3d_code code = s3d_profile_load(&profile, config, error);
    if (!code) {
        code = s3d_profile_text(&profile, profile.name, name, value, error);
    }
    s3d_profile_fini(&profile);
    return code;
}
