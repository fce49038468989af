/*
 * A fuzz target: the input is a credentials file and, behind a byte of value 1, a config file.
 * Besides crashes it looks for broken promises of source.h and profile.h: a half of a pair, a key that
 * is no piece of one line of one file, a failure that leaves a plan behind or tells a secret.
 */
#include "backends/source.h"
#include "core/mem.h"
#include "fuzz.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CREDENTIALS_ENDS_AT = 1 };

struct credentials_file {
    const uint8_t *data;
    size_t size;
    int fd;
    char path[40];
};

static void credentials_write(struct credentials_file *file, const uint8_t *data, size_t size)
{
    if (!file->path[0]) { /* a file of its own for the whole run: it never touches a disk */
        file->fd = memfd_create("credentials", MFD_CLOEXEC);
        PROMISE(file->fd >= 0);
        snprintf(file->path, sizeof file->path, "/proc/self/fd/%d", file->fd);
    }
    file->data = data;
    file->size = size;
    PROMISE(ftruncate(file->fd, 0) == 0);
    PROMISE(pwrite(file->fd, data, size, 0) == (ssize_t)size);
}

static bool credentials_has(const struct credentials_file *file, const char *text)
{
    return memmem(file->data, file->size, text, strlen(text)) && !strchr(text, '\n');
}

static void credentials_check_pair(const struct s3d_credentials *found,
                                   const struct credentials_file files[2])
{
    PROMISE(!found->anonymous && found->access_key && found->secret_key);
    PROMISE(found->access_key[0] && found->secret_key[0]);
    bool from_one = false;
    for (size_t i = 0; i < 2; i++) {
        from_one |= credentials_has(&files[i], found->access_key) &&
                    credentials_has(&files[i], found->secret_key) &&
                    (!found->session_token || credentials_has(&files[i], found->session_token));
    }
    PROMISE(from_one);
}

/* Whether it may be about more than keys. */
static bool credentials_names_more(const struct credentials_file files[2])
{
    bool more = false;
    for (size_t i = 0; i < 2; i++) {
        more |= credentials_has(&files[i], "role_arn") || credentials_has(&files[i], "sso_");
    }
    return more;
}

static void credentials_check_profile(const struct s3d_config *config,
                                      const struct credentials_file files[2])
{
    struct s3d_source *source;
    struct s3d_error error = {0};
    enum s3d_code code = s3d_source_plan(&source, config, &error);
    PROMISE(code == S3D_OK || code == S3D_INVALID || code == S3D_NO_CREDENTIALS);
    if (code) {
        PROMISE(error.code == code && error.message[0] && !source);
        /* The corpus's secrets begin so; names of other profiles and the like are told. */
        PROMISE(credentials_names_more(files) || !strstr(error.message, "hush"));
    } else if (source->kind == S3D_SOURCE_KEYS) {
        credentials_check_pair(&source->keys, files);
    }
    s3d_source_free(source);
    char *region;
    enum s3d_code region_code = s3d_profile_setting(config, "region", &region, &error);
    PROMISE(region_code == S3D_OK || region_code == S3D_INVALID);
    PROMISE(!region_code || !region);
    PROMISE(!region || (region[0] && (credentials_has(&files[0], region) ||
                                      credentials_has(&files[1], region))));
    s3d_free(region);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct credentials_file files[2];
    const uint8_t *end = size ? memchr(data, CREDENTIALS_ENDS_AT, size) : NULL;
    size_t first = end ? (size_t)(end - data) : size;
    credentials_write(&files[0], data, first);
    credentials_write(&files[1], end ? end + 1 : data + size, end ? size - first - 1 : 0);
    static char off[] = "true";
    struct s3d_config config = {.credentials_file = files[0].path,
                                .config_file = files[1].path,
                                .metadata_disabled = off};
    credentials_check_profile(&config, files);
    config.profile = (char[]){"some one"};
    credentials_check_profile(&config, files);
    return 0;
}
