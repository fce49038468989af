/*
 * Writing: everything goes to a temporary file in the target's folder, which then takes the
 * target's name in one step. The order in publish() is what makes that safe against a crash:
 * bytes to the device, then the name, then the folder.
 *
 * What the target may be: nothing yet; a regular file, whose permission bits the new file gets
 * (its owner, ACLs and further hard links are not carried over); or a symbolic link to one,
 * which is written through: the link stays, the file it points to is replaced. All else is
 * refused: a rename would replace /dev/null by a file just as readily, and a file that its owner
 * has made read-only.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* O_DIRECTORY, O_NOFOLLOW */
#endif
#include "backends/file.h"
#include "backends/file_sys.h"
#include "backends/sums.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum {
    /* Of the target's name in the temporary file's: with dots, random and suffix 141 bytes,
     * which fits NAME_MAX everywhere, eCryptfs (143) included. */
    TEMP_NAME_KEEP = 120,
    TEMP_TRIES = 16,
    PERMISSION_BITS = 0777,
    WRITE_BACK_FROM_BYTES = 32 * 1024 * 1024 /* shorter PUTs reach their fsync at once */
};

/* What is to be written or replaced. */
struct target {
    char path[PATH_MAX]; /* symbolic links in the last component resolved */
    bool exists;
    mode_t mode; /* its permission bits, when it exists */
};

/* --- the target --------------------------------------------------------------------------- */

/* Length of the path's folder part with its slash; 0: the working directory. */
static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* "." for a bare name. False: it does not fit. */
static bool copy_folder(char *folder, size_t size, const char *path)
{
    size_t length = folder_length(path);
    return length ? s3d_copy_text(folder, size, path, length)
                  : s3d_copy_text(folder, size, ".", 1);
}

static enum s3d_code follow_link(struct target *target, const char *key, struct stat *about,
                                 struct s3d_error *error)
{
    if (s3d_sys_real_path(key, target->path) != 0) {
        int failure = errno;
        if (failure == ENOENT) {
            return s3d_fail_errno(error, failure,
                                  "\"%s\" is a symbolic link to a file that does not exist: "
                                  "remove it, or write to where it points",
                                  s3d_file_shown(key));
        }
        return s3d_file_fail(error, failure, "follow the symbolic link", key);
    }
    if (s3d_sys_lstat(target->path, about) != 0) {
        return s3d_file_fail(error, errno, "look up", target->path);
    }
    return S3D_OK;
}

static enum s3d_code fail_exists(const char *key, struct s3d_error *error)
{
    return s3d_fail_errno(error, EEXIST, "\"%s\" was to be created but is there already",
                          s3d_file_shown(key));
}

/* `about`: what is there, NULL: nothing. */
static enum s3d_code check_version(const char *path, const struct stat *about,
                                   const char *if_match, struct s3d_error *error)
{
    struct s3d_object now = {0};
    if (about) {
        s3d_file_describe(about, &now);
    }
    if (!if_match || (about && strcmp(now.etag, if_match) == 0)) {
        return S3D_OK;
    }
    return s3d_fail(
        error, S3D_CHANGED, "\"%s\" %s%.100s, where the version %.100s was to be replaced",
        s3d_file_shown(path), about ? "is now " : "is not there", now.etag, if_match);
}

static bool creates_only(const struct s3d_request *request)
{
    return request->options && request->options->if_none_match;
}

static const char *wanted_version(const struct s3d_request *request)
{
    return request->options ? request->options->if_match : NULL;
}

static enum s3d_code find_target(struct target *target, const struct s3d_request *request,
                                 struct s3d_error *error)
{
    const char *key = request->key, *if_match = wanted_version(request);
    struct stat about;
    size_t length = strlen(key);
    *target = (struct target){.exists = false};
    if (!length) {
        return s3d_fail(error, S3D_INVALID, "the path is empty");
    }
    if (!s3d_copy_text(target->path, sizeof target->path, key, length)) {
        return s3d_file_fail(error, ENAMETOOLONG, "write", key);
    }
    if (s3d_sys_lstat(key, &about) != 0) {
        if (errno != ENOENT) {
            return s3d_file_fail(error, errno, "look up", key);
        }
        /* A missing folder is told when the temporary file is made. */
        return key[length - 1] != '/'
                   ? check_version(key, NULL, if_match, error)
                   : s3d_fail(error, S3D_INVALID,
                              "\"%s\" ends with a slash: a file's name is needed",
                              s3d_file_shown(key));
    }
    if (creates_only(request)) {
        return fail_exists(key, error);
    }
    enum s3d_code code = S3D_OK;
    if (S_ISLNK(about.st_mode)) {
        code = follow_link(target, key, &about, error);
    }
    if (!code) {
        code = s3d_file_require_regular(&about, key, error);
    }
    if (!code) {
        code = check_version(key, &about, if_match, error);
    }
    /* One that is gone meanwhile is in nobody's way. */
    if (!code && s3d_sys_may_write(target->path) != 0 && errno != ENOENT) {
        code = s3d_file_fail(error, errno, "replace", key);
    }
    target->exists = true;
    target->mode = about.st_mode & PERMISSION_BITS;
    return code;
}

/* --- the temporary file ------------------------------------------------------------------- */

/* Cuts where a UTF-8 character ends: some file systems refuse broken ones. */
static size_t kept_name_length(const char *name)
{
    size_t length = strlen(name);
    if (length > TEMP_NAME_KEEP) {
        length = TEMP_NAME_KEEP;
        while (length > 1 && ((unsigned char)name[length] & 0xC0) == 0x80) {
            length--;
        }
    }
    return length;
}

static bool random_text(char text[S3D_FILE_RANDOM_CHARS + 1])
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz012345"; /* 32: no bias */
    unsigned char bytes[S3D_FILE_RANDOM_CHARS];
    if (s3d_sys_random(bytes, sizeof bytes) != 0) {
        return false;
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        text[i] = alphabet[bytes[i] % 32];
    }
    text[sizeof bytes] = '\0';
    return true;
}

static enum s3d_code fail_temp(const char *target, int sys_errno, struct s3d_error *error)
{
    char folder[PATH_MAX];
    (void)copy_folder(folder, sizeof folder, target); /* cut is good enough for a message */
    const char *shown = s3d_file_shown(folder);
    if (sys_errno == ENOENT) {
        return s3d_fail_errno(error, sys_errno, "the folder \"%s\" to write in does not exist",
                              shown);
    }
    return s3d_file_fail(error, sys_errno, "create a temporary file in the folder", folder);
}

/* The file is ours, so EPERM and the like mean a file system that keeps no modes. */
static enum s3d_code change_mode(int fd, mode_t mode, const char *path, struct s3d_error *error)
{
    if (s3d_sys_fchmod(fd, mode) != 0 && errno != EPERM && errno != EOPNOTSUPP &&
        errno != ENOSYS) {
        return s3d_file_fail(error, errno, "set the permissions of", path);
    }
    return S3D_OK;
}

/* The one place that removes files by an upload's id: never anything but temporary files. */
static int remove_temp(const char *temp)
{
    if (!s3d_file_is_temp(temp)) {
        errno = EINVAL;
        return -1;
    }
    return s3d_sys_unlink(temp);
}

/* Creates it and writes its path to temp (size bytes). Mode 0600 whatever the umask says: nobody else
 * sees a half-written file, and the parts of an upload can open it again. */
static enum s3d_code make_temp(const char *target, char *temp, size_t size, int *fd,
                               struct s3d_error *error)
{
    size_t folder = folder_length(target);
    const char *name = target + folder;
    int kept = (int)kept_name_length(name);
    int failure = 0;
    for (int i = 0; i < TEMP_TRIES; i++) {
        char random[S3D_FILE_RANDOM_CHARS + 1];
        if (!random_text(random)) {
            failure = errno;
            break;
        }
        int length = snprintf(temp, size, "%.*s.%.*s.%s%s", (int)folder, target, kept, name,
                              random, S3D_FILE_TEMP_SUFFIX);
        if (length < 0 || (size_t)length >= size) {
            temp[0] = '\0';
            return s3d_fail(error, S3D_INVALID,
                            "the path \"%s\" is too long to write to (%zu bytes)",
                            s3d_file_shown(target), strlen(target));
        }
        *fd = s3d_sys_open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (*fd >= 0) {
            enum s3d_code code = change_mode(*fd, 0600, temp, error);
            if (code) {
                s3d_sys_close(*fd);
                (void)remove_temp(temp);
                *fd = -1;
                temp[0] = '\0';
            }
            return code;
        }
        failure = errno;
        if (failure != EEXIST) {
            break;
        }
    }
    temp[0] = '\0';
    return fail_temp(target, failure, error);
}

/* --- making it visible -------------------------------------------------------------------- */

/* The "Umask:" line of /proc/self/status, its second; a newline in the first is escaped. */
static mode_t parse_umask(const char *text)
{
    const char *line = strstr(text, "\nUmask:\t");
    if (!line) {
        return 077;
    }
    mode_t mask = 0;
    for (const char *digit = line + strlen("\nUmask:\t"); *digit >= '0' && *digit <= '7';
         digit++) {
        mask = mask * 8 + (mode_t)(*digit - '0');
    }
    return mask & PERMISSION_BITS;
}

/* umask() can only be read by setting it, for all threads; /proc tells it without. Where there
 * is no /proc, new files are the owner's alone. */
static enum s3d_code read_umask(mode_t *mask, struct s3d_error *error)
{
    static const char path[] = "/proc/self/status";
    char text[512];
    int fd = s3d_sys_open(path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0 && errno != ENOENT) {
        return s3d_file_fail(error, errno, "find the umask in", path);
    }
    ssize_t length = fd < 0 ? 0 : s3d_sys_read(fd, text, sizeof text - 1);
    int failure = errno;
    s3d_sys_close(fd);
    if (length < 0) {
        return s3d_file_fail(error, failure, "find the umask in", path);
    }
    text[length] = '\0';
    *mask = parse_umask(text);
    return S3D_OK;
}

static enum s3d_code set_mode(int fd, const struct target *target, struct s3d_error *error)
{
    mode_t mode = target->mode;
    if (!target->exists) {
        mode_t mask = 0;
        enum s3d_code code = read_umask(&mask, error);
        if (code) {
            return code;
        }
        mode = 0666 & ~mask;
    }
    return change_mode(fd, mode, target->path, error);
}

/* Opened before the rename, so that nothing but the fsync itself can fail after it. *fd stays
 * -1 for a folder that may be written but not read: it cannot be opened, hence not synced. */
static enum s3d_code open_folder(const char *path, int *fd, struct s3d_error *error)
{
    char folder[PATH_MAX];
    (void)copy_folder(folder, sizeof folder, path); /* fits: it is shorter than the path */
    *fd = s3d_sys_open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (*fd < 0 && errno != EACCES) {
        return s3d_file_fail(error, errno, "open the folder", folder);
    }
    return S3D_OK;
}

static enum s3d_code sync_folder(int fd, const char *path, struct s3d_error *error)
{
    /* EINVAL: a file system that syncs no folders. */
    if (fd >= 0 && s3d_sys_fsync(fd) != 0 && errno != EINVAL) {
        return s3d_fail_errno(
            error, errno,
            "\"%s\" is written, but its folder could not be synced: it may not "
            "survive a power failure",
            s3d_file_shown(path));
    }
    return S3D_OK;
}

static enum s3d_code rename_new(const char *temp, const char *path, struct s3d_error *error)
{
    int done = s3d_sys_rename_new(temp, path);
    if (done != 0 && (errno == EINVAL || errno == ENOSYS)) {
        /* NFS and others do not know the flag; a hard link refuses an existing name just as
         * well. Once it is there the object is; a temporary name left behind would be harmless.
         */
        done = s3d_sys_link(temp, path);
        if (done == 0) {
            (void)remove_temp(temp);
        }
    }
    if (done != 0) {
        return errno == EEXIST ? fail_exists(path, error)
                               : s3d_file_fail(error, errno, "create", path);
    }
    return S3D_OK;
}

/* What is to become visible. */
struct publication {
    int fd;
    const char *temp;
    const struct target *target;
    uint64_t size_bytes; /* that it must have */
    uint64_t sum;        /* its checksum, where one is to be stored */
};

/* The last look before the rename. Files have no replace-if-equal: a writer that does not take part in
 * this could still come in between, which is a matter of microseconds. */
static enum s3d_code check_target(const struct s3d_request *request, const char *path,
                                  struct s3d_error *error)
{
    struct stat about;
    const char *if_match = wanted_version(request);
    if (!if_match) {
        return S3D_OK;
    }
    int failure = s3d_sys_lstat(path, &about) ? errno : 0;
    if (failure && failure != ENOENT) {
        return s3d_file_fail(error, failure, "look up", path);
    }
    return check_version(path, failure ? NULL : &about, if_match, error);
}

/* *renamed: the temporary name is gone, even when what followed failed. */
static enum s3d_code publish(struct s3d_request *request, const struct publication *file,
                             bool *renamed, struct s3d_error *error)
{
    const char *path = file->target->path;
    int folder = -1;
    struct stat about;
    const struct s3d_sum_kind *kind = s3d_file_sum_kind(request);
    /* While the file is writable still: the target's mode may not be. */
    enum s3d_code code =
        kind ? s3d_file_keep_sum(file->fd, path, kind, file->sum, error) : S3D_OK;
    if (!code) {
        code = set_mode(file->fd, file->target, error);
    }
    if (code) {
        return code;
    }
    if (s3d_sys_fsync(file->fd) != 0) {
        return s3d_file_fail(error, errno, "write to the device", path);
    }
    if (s3d_sys_fstat(file->fd, &about) != 0) {
        return s3d_file_fail(error, errno, "look up", file->temp);
    }
    if ((uint64_t)about.st_size != file->size_bytes) {
        return s3d_fail(error, S3D_CHANGED,
                        "the temporary file \"%s\" has %" PRIu64 " bytes where %" PRIu64
                        " were written",
                        s3d_file_shown(file->temp), (uint64_t)about.st_size, file->size_bytes);
    }
    code = open_folder(path, &folder, error);
    if (code) {
        return code;
    }
    if (atomic_load(&request->cancelled)) {
        code = s3d_fail(error, S3D_CANCELLED, "cancelled");
        goto done;
    }
    code = check_target(request, path, error);
    if (code) {
        goto done;
    }
    if (creates_only(request)) {
        code = rename_new(file->temp, path, error);
    } else if (s3d_sys_rename(file->temp, path) != 0) {
        code = s3d_file_fail(error, errno, "replace", path);
    }
    if (code) {
        goto done;
    }
    *renamed = true;
    s3d_file_describe(&about, &request->result.object);
    code = sync_folder(folder, path, error);

done:
    s3d_sys_close(folder);
    return code;
}

/* --- PUT ---------------------------------------------------------------------------------- */

static bool is_direct(const struct s3d_request *request)
{
    return ((const struct s3d_file_store *)request->store)->direct;
}

/* Of the bytes of this request, where one is to be stored; 0: none is. */
static uint64_t sum_bytes(const struct s3d_request *request)
{
    const struct s3d_sum_kind *kind = s3d_file_sum_kind(request);
    return kind ? s3d_sum_spans(kind, request, request->length_bytes) : 0;
}

enum s3d_code s3d_file_put(struct s3d_request *request, struct s3d_error *error)
{
    struct target target;
    char temp[PATH_MAX];
    int fd = -1;
    bool renamed = false;
    enum s3d_code code = find_target(&target, request, error);
    if (code) {
        return code;
    }
    code = make_temp(target.path, temp, sizeof temp, &fd, error);
    if (code) {
        return code;
    }
    uint64_t size_bytes = s3d_spans_bytes(request->spans, request->span_count);
    struct s3d_file_move move = {.fd = fd,
                                 .path = target.path,
                                 .writing = true,
                                 .direct = is_direct(request),
                                 .length_bytes = size_bytes,
                                 .write_back = size_bytes >= WRITE_BACK_FROM_BYTES};
    code = s3d_file_move(request, &move, error);
    if (code) {
        goto done;
    }
    struct publication file = {.fd = fd,
                               .temp = temp,
                               .target = &target,
                               .size_bytes = size_bytes,
                               .sum = sum_bytes(request)};
    code = publish(request, &file, &renamed, error);

done:
    s3d_sys_close(fd); /* after the fsync it has nothing left to report */
    if (!renamed) {
        (void)remove_temp(temp);
    }
    return code;
}

/* --- uploads ------------------------------------------------------------------------------ */

/* So that parts and abort find the temporary file after a chdir(). */
static enum s3d_code make_absolute(struct target *target, struct s3d_error *error)
{
    char folder[PATH_MAX];
    size_t used, length = strlen(target->path);
    if (target->path[0] == '/') {
        return S3D_OK;
    }
    if (s3d_sys_working_directory(folder, sizeof folder) != 0) {
        return s3d_file_fail(error, errno, "find the working directory for", target->path);
    }
    used = strlen(folder);
    if (used + 1 + length >= sizeof target->path) {
        return s3d_file_fail(error, ENAMETOOLONG, "write", target->path);
    }
    memmove(target->path + used + 1, target->path, length + 1);
    memcpy(target->path, folder, used);
    target->path[used] = '/';
    return S3D_OK;
}

/* The upload's id is the path of its temporary file. */
enum s3d_code s3d_file_upload_create(struct s3d_request *request, struct s3d_error *error)
{
    struct target target;
    char *id = request->result.upload_id;
    int fd = -1;
    enum s3d_code code = find_target(&target, request, error);
    if (!code) {
        code = make_absolute(&target, error);
    }
    if (!code) {
        code = make_temp(target.path, id, sizeof request->result.upload_id, &fd, error);
    }
    if (code) {
        return code;
    }
    /* Whether there is a place for a checksum shows now rather than behind the last byte. */
    const struct s3d_sum_kind *kind = s3d_file_sum_kind(request);
    if (kind) {
        code = s3d_file_keep_sum(fd, target.path, kind, 0, error);
    }
    if (s3d_sys_close(fd) != 0 && !code) {
        code = s3d_file_fail(error, errno, "create", id);
    }
    if (code) {
        (void)remove_temp(id);
        id[0] = '\0';
    }
    return code;
}

static enum s3d_code open_upload(const struct s3d_request *request, int *fd,
                                 struct s3d_error *error)
{
    if (!request->upload_id || !s3d_file_is_temp(request->upload_id)) {
        return s3d_fail(error, S3D_INVALID, "\"%s\" is not the id of an upload",
                        s3d_file_shown(request->upload_id ? request->upload_id : ""));
    }
    /* O_NONBLOCK: should someone have put a FIFO there, it is an error and not a wait. */
    *fd = s3d_sys_open(request->upload_id, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
    if (*fd < 0) {
        return s3d_file_fail(error, errno, "open the upload", request->upload_id);
    }
    struct stat about;
    enum s3d_code code = s3d_sys_fstat(*fd, &about) != 0
                             ? s3d_file_fail(error, errno, "look up", request->upload_id)
                             : s3d_file_require_regular(&about, request->upload_id, error);
    if (!code && about.st_nlink > 1) { /* nor into what someone has linked there */
        code = s3d_fail(error, S3D_CHANGED,
                        "\"%s\" has another name: it is not the upload's alone",
                        s3d_file_shown(request->upload_id));
    }
    if (code) {
        s3d_sys_close(*fd);
        *fd = -1;
    }
    return code;
}

enum s3d_code s3d_file_upload_part(struct s3d_request *request, struct s3d_error *error)
{
    int fd = -1;
    enum s3d_code code = open_upload(request, &fd, error);
    if (code) {
        return code;
    }
    struct s3d_file_move move = {.fd = fd,
                                 .path = request->upload_id,
                                 .writing = true,
                                 .direct = is_direct(request),
                                 .write_back = true,
                                 .offset_bytes = request->offset_bytes,
                                 .length_bytes =
                                     s3d_spans_bytes(request->spans, request->span_count)};
    code = s3d_file_move(request, &move, error);
    request->result.checksum = code ? 0 : sum_bytes(request);
    /* NFS tells of a failed write when the file is closed, and tells only once. */
    if (s3d_sys_close(fd) != 0 && !code) {
        code = s3d_file_fail(error, errno, "write", request->upload_id);
    }
    return code;
}

/* The parts must follow each other without a gap from byte 0; *size_bytes is their sum. */
static enum s3d_code check_parts(const struct s3d_request *request, uint64_t *size_bytes,
                                 struct s3d_error *error)
{
    uint64_t at = 0;
    for (size_t i = 0; i < request->part_count; i++) {
        const struct s3d_part *part = &request->parts[i];
        if (part->offset_bytes != at || part->size_bytes > INT64_MAX - at) {
            return s3d_fail(error, S3D_INVALID,
                            "part %u begins at byte %" PRIu64
                            " where the part before it ends at "
                            "byte %" PRIu64,
                            part->number, part->offset_bytes, at);
        }
        at += part->size_bytes;
    }
    *size_bytes = at;
    return S3D_OK;
}

/* A changed link or working directory could have moved the target elsewhere since the upload
 * began: then it must not appear there. */
static enum s3d_code check_folder(const char *temp, const char *path, struct s3d_error *error)
{
    char folder[PATH_MAX];
    struct stat of_temp, of_target;
    if (!copy_folder(folder, sizeof folder, temp)) {
        return s3d_file_fail(error, ENAMETOOLONG, "look up the folder of", temp);
    }
    if (s3d_sys_stat(folder, &of_temp) != 0) {
        return s3d_file_fail(error, errno, "look up the folder", folder);
    }
    (void)copy_folder(folder, sizeof folder, path); /* fits: it is shorter than the path */
    if (s3d_sys_stat(folder, &of_target) != 0) {
        return s3d_file_fail(error, errno, "look up the folder", folder);
    }
    if (of_temp.st_dev != of_target.st_dev || of_temp.st_ino != of_target.st_ino) {
        return s3d_fail(error, S3D_INVALID,
                        "\"%s\" is in another folder than when the upload began: the working "
                        "directory or a symbolic link changed",
                        s3d_file_shown(path));
    }
    return S3D_OK;
}

enum s3d_code s3d_file_upload_complete(struct s3d_request *request, struct s3d_error *error)
{
    struct target target;
    struct publication file = {.fd = -1, .temp = request->upload_id, .target = &target};
    const struct s3d_sum_kind *kind = s3d_file_sum_kind(request);
    bool renamed = false;
    enum s3d_code code = check_parts(request, &file.size_bytes, error);
    if (!code) {
        code = open_upload(request, &file.fd, error);
    }
    if (code) {
        return code;
    }
    file.sum = kind ? s3d_sum_parts(kind, request) : 0;
    code = find_target(&target, request, error);
    if (!code) {
        code = check_folder(file.temp, target.path, error);
    }
    if (!code) {
        code = publish(request, &file, &renamed, error);
    }
    s3d_sys_close(file.fd);
    return code;
}

enum s3d_code s3d_file_upload_abort(struct s3d_request *request, struct s3d_error *error)
{
    const char *id = request->upload_id ? request->upload_id : "";
    if (!s3d_file_is_temp(id)) {
        return s3d_fail(error, S3D_INVALID, "\"%s\" is not the id of an upload",
                        s3d_file_shown(id));
    }
    if (remove_temp(id) != 0 && errno != ENOENT && errno != ENOTDIR) {
        return s3d_file_fail(error, errno, "remove the temporary file", id);
    }
    return S3D_OK;
}
