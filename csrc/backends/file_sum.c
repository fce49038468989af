/*
 * The checksum of a local file, kept in its extended attribute "user.s3dlio.checksum" as text:
 * "ALGORITHM:VALUE", the algorithm in lower case (crc64nvme, crc32c, crc32), the value as S3 writes it,
 * the base64 of its bytes with the highest first. It goes to the file before the file gets its name,
 * and goes with it where the file goes within file systems that keep such attributes.
 */
#include "backends/file.h"
#include "backends/file_sys.h"
#include "backends/sums.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char attribute[] = "user.s3dlio.checksum";

const struct s3d_sum_kind *s3d_file_sum_kind(const struct s3d_request *request)
{
    return request->options ? s3d_sum_kind(request->options->checksum) : NULL;
}

enum s3d_code s3d_file_keep_sum(int fd, const char *path, const struct s3d_sum_kind *kind,
                                uint64_t sum, struct s3d_error *error)
{
    char value[S3D_SUM_TEXT], text[64];
    kind->write(sum, value);
    int length = snprintf(text, sizeof text, "%s:%s", kind->name, value);
    if (s3d_sys_set_attribute(fd, attribute, text, (size_t)length) == 0) {
        return S3D_OK;
    }
    if (errno == EOPNOTSUPP || errno == ENOSYS) {
        return s3d_fail(
            error, S3D_UNSUPPORTED,
            "the file system of \"%s\" keeps no extended attributes, where the checksum "
            "would be stored: leave checksum out",
            s3d_file_shown(path));
    }
    return s3d_file_fail(error, errno, "store the checksum of", path);
}

/* Anything that is not such a text is somebody else's: there is no checksum then. */
static void parse(const char *text, struct s3d_object *object)
{
    const char *colon = strchr(text, ':');
    for (size_t i = 0; colon && i < S3D_SUM_KINDS; i++) {
        const char *name = s3d_sum_kinds[i]->name;
        size_t length = strlen(name);
        if (length == (size_t)(colon - text) && memcmp(text, name, length) == 0 && colon[1] &&
            s3d_copy_text(object->sum, sizeof object->sum, colon + 1, strlen(colon + 1))) {
            object->sum_kind = s3d_sum_kinds[i];
        }
    }
}

enum s3d_code s3d_file_find_sum(const char *path, struct s3d_object *object,
                                struct s3d_error *error)
{
    char text[64];
    ssize_t length = s3d_sys_get_attribute(path, attribute, text, sizeof text - 1);
    if (length >= 0) {
        text[length] = '\0';
        parse(text, object);
        return S3D_OK;
    }
    /* EACCES: a file that may be looked up but not read keeps its attributes to itself as well. */
    bool is_none = errno == ENODATA || errno == EOPNOTSUPP || errno == ENOSYS ||
                   errno == ERANGE || errno == EACCES;
    return is_none ? S3D_OK : s3d_file_fail(error, errno, "find the checksum of", path);
}
