#include "core/config.h"

#include "core/mem.h"
#include "core/str.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* One row for each setting, numbers first. */
struct setting {
    const char *field;
    const char *variables; /* names, each ended by NUL, the list by an empty one */
    size_t offset;         /* in struct s3d_config */
    bool is_number;
    uint64_t fallback, minimum, maximum;
};

static const struct setting settings[] = {
#define X(field, variable, fallback, minimum, maximum)                                         \
    {#field,  variable "\0", offsetof(struct s3d_config, field), true, fallback,               \
     minimum, maximum},
    S3D_NUMBERS(X)
#undef X
#define X(field, variables)                                                                    \
    {#field, variables, offsetof(struct s3d_config, field), false, 0, 0, 0},
        S3D_TEXTS(X)
#undef X
};

enum { SETTING_COUNT = sizeof settings / sizeof *settings };

/* locked{overrides_mutex} */
static char *overrides[SETTING_COUNT];
static pthread_mutex_t overrides_mutex = PTHREAD_MUTEX_INITIALIZER;

static void lock_overrides(void)
{
    pthread_mutex_lock(&overrides_mutex);
}

static void unlock_overrides(void)
{
    pthread_mutex_unlock(&overrides_mutex);
}

void s3d_config_watch_forks(void)
{
    pthread_atfork(lock_overrides, unlock_overrides, unlock_overrides);
}

static uint64_t *number_at(struct s3d_config *config, const struct setting *setting)
{
    return (uint64_t *)(void *)((char *)config + setting->offset);
}

static char **text_at(struct s3d_config *config, const struct setting *setting)
{
    return (char **)(void *)((char *)config + setting->offset);
}

static enum s3d_code parse_number(const struct setting *setting, const char *name,
                                  const char *text, uint64_t *out, struct s3d_error *error)
{
    uint64_t value;
    if (s3d_parse_u64(text, &value) && value >= setting->minimum && value <= setting->maximum) {
        *out = value;
        return S3D_OK;
    }
    return s3d_fail(error, S3D_INVALID,
                    "%s is \"%.64s\", but must be a whole number from %llu to %llu", name, text,
                    (unsigned long long)setting->minimum, (unsigned long long)setting->maximum);
}

static bool is_credential(const struct setting *setting)
{
    return setting->offset == offsetof(struct s3d_config, access_key) ||
           setting->offset == offsetof(struct s3d_config, secret_key) ||
           setting->offset == offsetof(struct s3d_config, session_token);
}

static bool credentials_overridden_locked(void)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (overrides[i] && is_credential(&settings[i])) {
            return true;
        }
    }
    return false;
}

/* Whose empty values say something. */
static bool is_proxy(const struct setting *setting)
{
    return setting->offset == offsetof(struct s3d_config, proxy) ||
           setting->offset == offsetof(struct s3d_config, http_proxy) ||
           setting->offset == offsetof(struct s3d_config, https_proxy) ||
           setting->offset == offsetof(struct s3d_config, no_proxy);
}

/* A CGI program finds HTTP_PROXY in its environment when a client sends a header "Proxy". */
static bool is_a_clients(const char *name)
{
    static const char variable[] = "REQUEST_METHOD";
    return strcmp(name, "HTTP_PROXY") == 0 && getenv(variable);
}

/* The first variable of the list that is set to something; an empty value mostly counts as not set. */
static const char *from_environment(const struct setting *setting, const char **name)
{
    for (const char *variable = setting->variables; *variable;
         variable += strlen(variable) + 1) {
        const char *value = getenv(variable);
        if (value && (*value || is_proxy(setting)) && !is_a_clients(variable)) {
            *name = variable;
            return value;
        }
    }
    return NULL;
}

static enum s3d_code load_one_locked(struct s3d_config *config, size_t index,
                                     struct s3d_error *error)
{
    const struct setting *setting = &settings[index];
    const char *name = setting->field;
    const char *value = overrides[index];
    if (!value && !(is_credential(setting) && credentials_overridden_locked())) {
        value = from_environment(setting, &name);
    }
    if (setting->is_number) {
        *number_at(config, setting) = setting->fallback;
        config->given |= value ? UINT64_C(1) << index : 0;
        return value ? parse_number(setting, name, value, number_at(config, setting), error)
                     : S3D_OK;
    }
    if (value) {
        char *copy = s3d_copy_string(value);
        if (!copy) {
            return s3d_fail_memory(error, strlen(value) + 1);
        }
        *text_at(config, setting) = copy;
    }
    return S3D_OK;
}

enum s3d_code s3d_config_load(struct s3d_config *config, struct s3d_error *error)
{
    memset(config, 0, sizeof *config);
    enum s3d_code code = S3D_OK;
    lock_overrides();
    for (size_t i = 0; !code && i < SETTING_COUNT; i++) {
        code = load_one_locked(config, i, error);
    }
    config->keys_configured = credentials_overridden_locked();
    unlock_overrides();
    if (code) {
        s3d_config_fini(config);
    }
    return code;
}

static void free_secret(char *text)
{
    if (text) {
        explicit_bzero(text, strlen(text));
        s3d_free(text);
    }
}

void s3d_config_fini(struct s3d_config *config)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (!settings[i].is_number) {
            free_secret(*text_at(config, &settings[i]));
        }
    }
    memset(config, 0, sizeof *config);
}

enum s3d_code s3d_config_override(const char *field, const char *value, struct s3d_error *error)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (strcmp(settings[i].field, field) != 0) {
            continue;
        }
        uint64_t ignored;
        if (value && settings[i].is_number) {
            enum s3d_code code = parse_number(&settings[i], field, value, &ignored, error);
            if (code) {
                return code;
            }
        }
        char *copy = s3d_copy_string(value);
        if (value && !copy) {
            return s3d_fail_memory(error, strlen(value) + 1);
        }
        lock_overrides();
        char *old = overrides[i];
        overrides[i] = copy;
        unlock_overrides();
        free_secret(old);
        return S3D_OK;
    }
    return s3d_fail(error, S3D_INVALID, "there is no setting \"%.64s\"", field);
}
