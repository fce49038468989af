/*
 * Result codes and error records.
 *
 * Every fallible function returns an `enum s3d_code` and takes a nullable `struct s3d_error *` as
 * its last argument. The caller owns the record; the callee fills it only when it fails. Nothing
 * is thread-local, nothing is allocated, so an error can be reported when memory is gone.
 */
#ifndef S3D_CORE_ERROR_H
#define S3D_CORE_ERROR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * X(name, python_exception, retryable)
 * The exception column is read by bind/errors.c alone; the retryable column by core/retry.c.
 */
#define S3D_CODES(X)                                                                           \
    X(OK, NONE, false)                   /* done */                                            \
    X(AGAIN, NONE, false)                /* the wait timed out; the operation goes on */       \
    X(EOF, NONE, false)                  /* nothing more to read */                            \
    X(CANCELLED, STORAGE, false)         /* cancelled by its owner */                          \
    X(NO_MEMORY, MEMORY, false)          /* an allocation failed */                            \
    X(INVALID, VALUE, false)             /* an argument, URI or environment value is wrong */  \
    X(CLOSED, VALUE, false)              /* used after close */                                \
    X(UNSUPPORTED, UNSUPPORTED, false)   /* the operation does not exist for this object */    \
    X(FORKED, STORAGE, false)            /* a handle from before fork() used in the child */   \
    X(NO_CREDENTIALS, PERMISSION, false) /* no credentials were found */                       \
    X(NOT_FOUND, NOT_FOUND, false)       /* no such object, bucket, upload or file */          \
    X(DENIED, PERMISSION, false)         /* refused: credentials or rights */                  \
    X(EXPIRED, PERMISSION, false)        /* credentials ended: the pool asks for new ones */   \
    X(ELSEWHERE, STORAGE, false)  /* the bucket lies elsewhere, and the store now too */       \
    X(EXISTS, EXISTS, false)      /* create-only write of an existing object */                \
    X(CHANGED, CHANGED, false)    /* the object changed while it was read */                   \
    X(CONFLICT, CHANGED, true)    /* a conditional write met another one under way */          \
    X(UNDECIDED, STORAGE, false)  /* whether an object was written is not known */             \
    X(INTEGRITY, INTEGRITY, true) /* a checksum does not match */                              \
    X(RANGE, STORAGE, false)      /* the requested range lies outside the object */            \
    X(REJECTED, STORAGE, false)   /* any other refusal by the server (4xx) */                  \
    X(NETWORK, STORAGE, true)     /* connection refused, reset, or lost */                     \
    X(TIMEOUT, STORAGE, true)     /* no connection or no bytes for too long */                 \
    X(THROTTLED, STORAGE, true)   /* 429, 503 SlowDown */                                      \
    X(SERVER, STORAGE, true)      /* any other 5xx */                                          \
    X(PROTOCOL, STORAGE, true)    /* an answer that breaks HTTP or the store's rules */        \
    X(TLS, STORAGE, false)        /* certificate or handshake refused */                       \
    X(SYSTEM, OS, false)          /* a system call failed: see sys_errno */                    \
    X(INTERNAL, RUNTIME, false)   /* a broken invariant: a bug in this library */

enum s3d_code {
#define X(name, exception, retryable) S3D_##name,
    S3D_CODES(X)
#undef X
};

#define S3D_MUST_USE __attribute__((warn_unused_result))

/* The record of one failure. Fixed size, trivially copyable; every string is terminated. */
struct s3d_error {
    enum s3d_code code;
    int http_status;         /* 0: no HTTP answer */
    int sys_errno;           /* 0: not a system call */
    unsigned attempts;       /* attempts made, 0: never sent */
    uint32_t retry_after_ms; /* the server's Retry-After, 0: none */
    bool unreached;          /* nobody accepted a connection */
    char operation[32];      /* "UploadPart 3", "pwrite": what failed */
    char server_code[64];    /* "SlowDown": the store's own code */
    char request_id[128];    /* for the store's support desk */
    char message[512];       /* what happened and what to do */
};

/* "NOT_FOUND" and the like. */
const char *s3d_code_name(enum s3d_code code);
bool s3d_code_retryable(enum s3d_code code);

/* Fills *error (when not NULL) with a fresh record and returns code. */
enum s3d_code s3d_fail(struct s3d_error *error, enum s3d_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a failed system call: code by errno (ENOENT -> NOT_FOUND, EACCES -> DENIED, ...). */
enum s3d_code s3d_fail_errno(struct s3d_error *error, int sys_errno, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* NO_MEMORY, with the size that was asked for. */
enum s3d_code s3d_fail_memory(struct s3d_error *error, size_t bytes);

/* CHANGED: an object of one ETag was begun, and then one of another came. */
enum s3d_code s3d_fail_replaced(struct s3d_error *error, const char *etag, const char *then);

/* Names the operation in an error already filled; NULL is allowed. */
void s3d_error_set_operation(struct s3d_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Copies *from to *to when both are given and returns from->code. */
enum s3d_code s3d_error_copy(struct s3d_error *to, const struct s3d_error *from);

#endif
