/*
 * The local-file backend, shared between its own files: file.c (store, driver, STAT, DELETE),
 * file_get.c (GET, and the loop that moves bytes), file_put.c (PUT and uploads), file_list.c
 * (LIST), file_sum.c (checksums). Nothing outside csrc/backends includes this except tests.
 *
 * A request's key is a path. The driver is blocking: one request at a time on its thread,
 * executed within start(). The operations below return the attempt's end; they fill *error and
 * request->result and touch nothing else. `cancelled` is looked at between chunks of long I/O
 * and just before anything becomes visible.
 *
 * Files carry no object metadata: put options other than if_none_match, if_match and an explicit
 * checksum have no effect here.
 */
#ifndef S3D_BACKENDS_FILE_H
#define S3D_BACKENDS_FILE_H

#include "core/pool.h"
#include "core/store.h"

#include <sys/stat.h>

extern const struct s3d_driver_ops s3d_file_driver;

struct s3d_file_store {
    struct s3d_store base;
    bool direct; /* frozen: O_DIRECT where alignment allows */
};

S3D_MUST_USE enum s3d_code s3d_file_get(struct s3d_request *request, struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_file_put(struct s3d_request *request, struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_file_list(struct s3d_request *request, struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_file_upload_create(struct s3d_request *request,
                                                  struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_file_upload_part(struct s3d_request *request,
                                                struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_file_upload_complete(struct s3d_request *request,
                                                    struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_file_upload_abort(struct s3d_request *request,
                                                 struct s3d_error *error);

/* One stretch of a file, from or into the request's spans. */
struct s3d_file_move {
    int fd;
    const char *path; /* for errors */
    bool writing;
    bool direct;     /* O_DIRECT for as much of the front as is aligned */
    bool write_back; /* start writing to the device at once, so that the fsync is short */
    uint64_t offset_bytes;
    uint64_t length_bytes;
};
S3D_MUST_USE enum s3d_code s3d_file_move(struct s3d_request *request,
                                         const struct s3d_file_move *move,
                                         struct s3d_error *error);

/* The kind of checksum that is to be stored with the file; NULL: none. */
const struct s3d_sum_kind *s3d_file_sum_kind(const struct s3d_request *request);
/* UNSUPPORTED where the file system has no place for it. */
S3D_MUST_USE enum s3d_code s3d_file_keep_sum(int fd, const char *path,
                                             const struct s3d_sum_kind *kind, uint64_t sum,
                                             struct s3d_error *error);
/* Fills in what is stored, if anything is. */
S3D_MUST_USE enum s3d_code s3d_file_find_sum(const char *path, struct s3d_object *object,
                                             struct s3d_error *error);
/* Size, time and ETag. */
void s3d_file_describe(const struct stat *about, struct s3d_object *object);
/* OK for a regular file; EISDIR for a directory, UNSUPPORTED for anything else. */
S3D_MUST_USE enum s3d_code s3d_file_require_regular(const struct stat *about, const char *path,
                                                    struct s3d_error *error);
/* OK when about, of fd, has the file's size, which is told anew where it has just grown; UNSUPPORTED where
 * there are bytes but no size. */
S3D_MUST_USE enum s3d_code s3d_file_require_size(int fd, struct stat *about, const char *path,
                                                 struct s3d_error *error);
/* A descriptor, or -1 and errno. Does not wait for who writes to a FIFO. */
int s3d_file_open_for_reading(const char *path);
/* "could not <what> "<path>": <reason>". ENOTDIR is NOT_FOUND: no such object can exist. */
enum s3d_code s3d_file_fail(struct s3d_error *error, int sys_errno, const char *what,
                            const char *path);
/* The path, or its end when it is too long for a message. */
const char *s3d_file_shown(const char *path);

/* Temporary files are named ".NAME.XXXXXXXX.s3dlio-tmp". */
#define S3D_FILE_TEMP_SUFFIX ".s3dlio-tmp"
enum { S3D_FILE_RANDOM_CHARS = 8 };
bool s3d_file_is_temp(const char *path); /* by the last component of the path */

#endif
