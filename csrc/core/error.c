#include "core/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    bool retryable;
} codes[] = {
#define X(name, exception, retryable) {#name, retryable},
    S3D_CODES(X)
#undef X
};

const char *s3d_code_name(enum s3d_code code)
{
    return (size_t)code < sizeof codes / sizeof *codes ? codes[code].name : "UNKNOWN";
}

bool s3d_code_retryable(enum s3d_code code)
{
    return (size_t)code < sizeof codes / sizeof *codes && codes[code].retryable;
}

static void fill(struct s3d_error *error, enum s3d_code code, const char *format, va_list args)
{
    memset(error, 0, sizeof *error);
    error->code = code;
    vsnprintf(error->message, sizeof error->message, format, args);
}

enum s3d_code s3d_fail(struct s3d_error *error, enum s3d_code code, const char *format, ...)
{
    if (error) {
        va_list args;
        va_start(args, format);
        fill(error, code, format, args);
        va_end(args);
    }
    return code;
}

static enum s3d_code code_of_errno(int sys_errno)
{
    switch (sys_errno) {
    case ENOENT: return S3D_NOT_FOUND;
    case EACCES:
    case EPERM: return S3D_DENIED;
    case EEXIST: return S3D_EXISTS;
    case ENOMEM: return S3D_NO_MEMORY;
    default: return S3D_SYSTEM;
    }
}

enum s3d_code s3d_fail_errno(struct s3d_error *error, int sys_errno, const char *format, ...)
{
    enum s3d_code code = code_of_errno(sys_errno);
    if (error) {
        va_list args;
        va_start(args, format);
        fill(error, code, format, args);
        va_end(args);
        size_t used = strlen(error->message);
        char text[96];
        /* The GNU strerror_r returns the text, which need not be in the buffer. */
        const char *reason = strerror_r(sys_errno, text, sizeof text);
        snprintf(error->message + used, sizeof error->message - used, ": %s", reason);
        error->sys_errno = sys_errno;
    }
    return code;
}

enum s3d_code s3d_fail_memory(struct s3d_error *error, size_t bytes)
{
    return s3d_fail(error, S3D_NO_MEMORY, "could not allocate %zu bytes", bytes);
}

enum s3d_code s3d_fail_replaced(struct s3d_error *error, const char *etag, const char *then)
{
    return s3d_fail(error, S3D_CHANGED,
                    "the object was replaced while it was read: ETag %s, then %s", etag, then);
}

void s3d_error_set_operation(struct s3d_error *error, const char *format, ...)
{
    if (!error) {
        return;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(error->operation, sizeof error->operation, format, args);
    va_end(args);
}

enum s3d_code s3d_error_copy(struct s3d_error *to, const struct s3d_error *from)
{
    if (to && from && to != from) {
        *to = *from;
    }
    return from ? from->code : S3D_OK;
}
