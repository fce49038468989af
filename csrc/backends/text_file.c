#include "backends/text_file.h"

#include "core/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum s3d_code s3d_home_path(const char *text, struct s3d_str *path, struct s3d_error *error)
{
    const char *home = getenv("HOME");
    if (strncmp(text, "~/", 2) == 0) {
        if (!home || !*home) {
            return S3D_OK;
        }
        s3d_str_add(path, home);
        text++;
    }
    s3d_str_add(path, text);
    return s3d_str_check(path, error);
}

/* `data` has room for max_bytes + 1: the one byte more shows that the file is too long. */
static enum s3d_code read_all(int fd, const char *path, size_t max_bytes, char *data,
                              size_t *length, struct s3d_error *error)
{
    for (;;) {
        ssize_t got = read(fd, data + *length, max_bytes + 1 - *length);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return s3d_fail_errno(error, errno, "cannot read %.300s", path);
        }
        if (!got) {
            break;
        }
        *length += (size_t)got;
        if (*length > max_bytes) {
            return s3d_fail(error, S3D_INVALID, "%.300s is longer than %zu bytes", path,
                            max_bytes);
        }
    }
    if (memchr(data, '\0', *length)) {
        return s3d_fail(error, S3D_INVALID, "%.300s holds a NUL byte", path);
    }
    data[*length] = '\0';
    return S3D_OK;
}

/* Devices pass for the sake of /dev/null. */
static enum s3d_code read_open(int fd, const char *path, size_t max_bytes, char **data,
                               size_t *length, struct s3d_error *error)
{
    struct stat status;
    if (fstat(fd, &status) != 0) {
        return s3d_fail_errno(error, errno, "cannot read %.300s", path);
    }
    if (!S_ISREG(status.st_mode) && !S_ISCHR(status.st_mode)) {
        return s3d_fail(error, S3D_INVALID, "%.300s is not a file", path);
    }
    *data = s3d_alloc(max_bytes + 1);
    if (!*data) {
        return s3d_fail_memory(error, max_bytes + 1);
    }
    enum s3d_code code = read_all(fd, path, max_bytes, *data, length, error);
    if (code) {
        s3d_text_free(*data, *length);
        *data = NULL;
        *length = 0;
    }
    return code;
}

enum s3d_code s3d_text_file_read(const char *path, size_t max_bytes, char **data,
                                 size_t *length, struct s3d_error *error)
{
    *data = NULL;
    *length = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return errno == ENOENT || errno == ENOTDIR
                   ? S3D_OK
                   : s3d_fail_errno(error, errno, "cannot open %.300s", path);
    }
    enum s3d_code code = read_open(fd, path, max_bytes, data, length, error);
    close(fd);
    return code;
}

void s3d_text_free(char *data, size_t length)
{
    if (data) {
        explicit_bzero(data, length);
        s3d_free(data);
    }
}
