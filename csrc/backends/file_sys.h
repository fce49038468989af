/*
 * The system calls of the file backend, one thin function each: interrupted calls are made
 * again, the rest is the kernel's own contract (-1 and errno).
 *
 * Built with -DS3D_FAULTS (the C tests), s3d_file_fail_at(n, e) makes the n-th call from now
 * fail with errno e without having done anything (a close still closes), and
 * s3d_file_limit_io(bytes) makes every read and write a short one.
 */
#ifndef S3D_BACKENDS_FILE_SYS_H
#define S3D_BACKENDS_FILE_SYS_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

int s3d_sys_open(const char *path, int flags, mode_t mode);
int s3d_sys_close(int fd); /* the descriptor is gone whatever it returns; -1 is allowed */
int s3d_sys_set_flags(int fd, int flags);
int s3d_sys_stat(const char *path, struct stat *about);
int s3d_sys_lstat(const char *path, struct stat *about);
int s3d_sys_fstat(int fd, struct stat *about);
int s3d_sys_may_write(const char *path); /* by the rights of the moment */
ssize_t s3d_sys_read(int fd, void *data, size_t bytes);
ssize_t s3d_sys_preadv(int fd, const struct iovec *pieces, int count, off_t offset);
ssize_t s3d_sys_pwritev(int fd, const struct iovec *pieces, int count, off_t offset);
int s3d_sys_advise_sequential(int fd, off_t offset, off_t length);
int s3d_sys_start_write_back(int fd, off_t offset, off_t length);
int s3d_sys_fsync(int fd);
int s3d_sys_fchmod(int fd, mode_t mode);
int s3d_sys_set_attribute(int fd, const char *name, const void *value, size_t bytes);
ssize_t s3d_sys_get_attribute(const char *path, const char *name, void *value, size_t bytes);
int s3d_sys_rename(const char *from, const char *to);
int s3d_sys_rename_new(const char *from, const char *to); /* EEXIST when `to` exists */
int s3d_sys_link(const char *from, const char *to);
int s3d_sys_unlink(const char *path);
int s3d_sys_random(void *data, size_t bytes);
int s3d_sys_working_directory(char *path, size_t size);
int s3d_sys_real_path(const char *path, char *resolved); /* resolved: PATH_MAX bytes */
DIR *s3d_sys_open_folder(const char *path, bool follow);
struct dirent *s3d_sys_read_folder(DIR *folder); /* NULL: the end when errno is 0 */
void s3d_sys_close_folder(DIR *folder);

#ifdef S3D_FAULTS
/* 0 turns faults off. */
void s3d_file_fail_at(unsigned long n, int errno_value);
/* Whether the fault of the last s3d_file_fail_at fired. */
bool s3d_file_fault_fired(void);
/* The name of the call that it hit, "" if none. */
const char *s3d_file_fault_call(void);
/* Runs hook before the n-th call, which then does its work: for races at a chosen moment. */
void s3d_file_call_at(unsigned long n, void (*hook)(void));
/* So many calls of s3d_sys_random from now give zeros. */
void s3d_file_repeat_random(unsigned calls);
/* At most this many bytes a call; 0: no limit. */
void s3d_file_limit_io(size_t bytes);
#endif

#endif
