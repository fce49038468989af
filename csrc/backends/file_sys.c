#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* renameat2, sync_file_range */
#endif
#include "backends/file_sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifdef S3D_FAULTS
#include <stdatomic.h>

static atomic_ulong countdown;
static atomic_int fault_errno;
static _Atomic(const char *) fault_call = "";
static _Atomic(void (*)(void)) fault_hook;
static atomic_size_t io_limit;

void s3d_file_fail_at(unsigned long n, int errno_value)
{
    atomic_store(&fault_call, "");
    atomic_store(&fault_errno, errno_value);
    atomic_store(&fault_hook, NULL);
    atomic_store(&countdown, n);
}

void s3d_file_call_at(unsigned long n, void (*hook)(void))
{
    s3d_file_fail_at(0, 0);
    atomic_store(&fault_hook, hook);
    atomic_store(&countdown, n);
}

bool s3d_file_fault_fired(void)
{
    return *atomic_load(&fault_call) != '\0';
}

const char *s3d_file_fault_call(void)
{
    return atomic_load(&fault_call);
}

void s3d_file_limit_io(size_t bytes)
{
    atomic_store(&io_limit, bytes);
}

static atomic_uint zeros_left;

void s3d_file_repeat_random(unsigned calls)
{
    atomic_store(&zeros_left, calls);
}

static ssize_t get_random(void *data, size_t bytes)
{
    unsigned left = atomic_load(&zeros_left);
    while (left && !atomic_compare_exchange_weak(&zeros_left, &left, left - 1)) {
    }
    if (left) {
        memset(data, 0, bytes);
        return (ssize_t)bytes;
    }
    return getrandom(data, bytes, 0);
}

static bool fault(const char *call)
{
    unsigned long left = atomic_load(&countdown);
    while (left && !atomic_compare_exchange_weak(&countdown, &left, left - 1)) {
    }
    if (left != 1) {
        return false;
    }
    atomic_store(&fault_call, call);
    void (*hook)(void) = atomic_load(&fault_hook);
    if (hook) {
        hook();
        return false;
    }
    errno = atomic_load(&fault_errno);
    return true;
}

/* Cuts a vector down to one short piece. */
static const struct iovec *shortened(const struct iovec *pieces, int *count,
                                     struct iovec *piece)
{
    size_t limit = atomic_load(&io_limit);
    if (!limit) {
        return pieces;
    }
    *piece = pieces[0];
    piece->iov_len = piece->iov_len < limit ? piece->iov_len : limit;
    *count = 1;
    return piece;
}
#else
static inline ssize_t get_random(void *data, size_t bytes)
{
    return getrandom(data, bytes, 0);
}

static inline bool fault(const char *call)
{
    (void)call;
    return false;
}

static inline const struct iovec *shortened(const struct iovec *pieces, int *count,
                                            struct iovec *piece)
{
    (void)count;
    (void)piece;
    return pieces;
}
#endif

/* Makes the call, again while signals interrupt it. */
#define CALL(name, call)                                                                       \
    ({                                                                                         \
        __typeof__(call) result_;                                                              \
        do {                                                                                   \
            result_ = fault(name) ? -1 : (call);                                               \
        } while (result_ == -1 && errno == EINTR);                                             \
        result_;                                                                               \
    })

int s3d_sys_open(const char *path, int flags, mode_t mode)
{
    return CALL("open", open(path, flags, mode));
}

int s3d_sys_close(int fd)
{
    if (fd < 0) {
        return 0;
    }
    bool failed = fault("close");
    int failure = errno;
    /* Linux frees the descriptor even when it reports EINTR: never try again. */
    if (close(fd) == 0 && !failed) {
        return 0;
    }
    failure = failed ? failure : errno;
    errno = failure;
    return failure == EINTR ? 0 : -1;
}

int s3d_sys_set_flags(int fd, int flags)
{
    return CALL("fcntl", fcntl(fd, F_SETFL, flags));
}

int s3d_sys_stat(const char *path, struct stat *about)
{
    return CALL("stat", stat(path, about));
}

int s3d_sys_lstat(const char *path, struct stat *about)
{
    return CALL("lstat", lstat(path, about));
}

int s3d_sys_fstat(int fd, struct stat *about)
{
    return CALL("fstat", fstat(fd, about));
}

int s3d_sys_may_write(const char *path)
{
    return CALL("faccessat", faccessat(AT_FDCWD, path, W_OK, AT_EACCESS));
}

ssize_t s3d_sys_read(int fd, void *data, size_t bytes)
{
    return CALL("read", read(fd, data, bytes));
}

ssize_t s3d_sys_preadv(int fd, const struct iovec *pieces, int count, off_t offset)
{
    struct iovec piece;
    const struct iovec *vector = shortened(pieces, &count, &piece);
    return CALL("preadv", preadv(fd, vector, count, offset));
}

ssize_t s3d_sys_pwritev(int fd, const struct iovec *pieces, int count, off_t offset)
{
    struct iovec piece;
    const struct iovec *vector = shortened(pieces, &count, &piece);
    return CALL("pwritev", pwritev(fd, vector, count, offset));
}

int s3d_sys_advise_sequential(int fd, off_t offset, off_t length)
{
    return fault("posix_fadvise") ? -1
                                  : posix_fadvise(fd, offset, length, POSIX_FADV_SEQUENTIAL);
}

int s3d_sys_start_write_back(int fd, off_t offset, off_t length)
{
    return fault("sync_file_range")
               ? -1
               : sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE);
}

int s3d_sys_fsync(int fd)
{
    return CALL("fsync", fsync(fd));
}

int s3d_sys_fchmod(int fd, mode_t mode)
{
    return CALL("fchmod", fchmod(fd, mode));
}

int s3d_sys_set_attribute(int fd, const char *name, const void *value, size_t bytes)
{
    return CALL("fsetxattr", fsetxattr(fd, name, value, bytes, 0));
}

ssize_t s3d_sys_get_attribute(const char *path, const char *name, void *value, size_t bytes)
{
    return CALL("getxattr", getxattr(path, name, value, bytes));
}

int s3d_sys_rename(const char *from, const char *to)
{
    return CALL("rename", rename(from, to));
}

int s3d_sys_rename_new(const char *from, const char *to)
{
    return CALL("renameat2", renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE));
}

int s3d_sys_link(const char *from, const char *to)
{
    return CALL("link", link(from, to));
}

int s3d_sys_unlink(const char *path)
{
    return CALL("unlink", unlink(path));
}

int s3d_sys_random(void *data, size_t bytes)
{
    /* Requests of up to 256 bytes are never cut short. */
    return CALL("getrandom", get_random(data, bytes)) == (ssize_t)bytes ? 0 : -1;
}

int s3d_sys_working_directory(char *path, size_t size)
{
    return CALL("getcwd", getcwd(path, size) ? 0 : -1);
}

int s3d_sys_real_path(const char *path, char *resolved)
{
    return CALL("realpath", realpath(path, resolved) ? 0 : -1);
}

DIR *s3d_sys_open_folder(const char *path, bool follow)
{
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW);
    int fd = s3d_sys_open(path, flags, 0);
    if (fd < 0) {
        return NULL;
    }
    DIR *folder = fault("fdopendir") ? NULL : fdopendir(fd);
    if (!folder) {
        int failure = errno;
        close(fd);
        errno = failure;
    }
    return folder;
}

struct dirent *s3d_sys_read_folder(DIR *folder)
{
    errno = 0;
    return fault("readdir") ? NULL : readdir(folder);
}

void s3d_sys_close_folder(DIR *folder)
{
    if (folder) {
        closedir(folder);
    }
}
