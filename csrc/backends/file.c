#include "backends/file.h"

#include "backends/backends.h"
#include "backends/file_sys.h"
#include "core/latch.h"
#include "core/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* --- helpers of all operations ------------------------------------------------------------ */

const char *s3d_file_shown(const char *path)
{
    enum { SHOWN_MAX = 320 }; /* leaves room in struct s3d_error for the reason behind it */
    size_t length = strlen(path);
    if (length <= SHOWN_MAX) {
        return path;
    }
    const char *end = path + length - SHOWN_MAX;
    while (((unsigned char)*end & 0xC0) == 0x80) { /* not in the middle of a UTF-8 character */
        end++;
    }
    return end;
}

enum s3d_code s3d_file_fail(struct s3d_error *error, int sys_errno, const char *what,
                            const char *path)
{
    enum s3d_code code =
        s3d_fail_errno(error, sys_errno, "could not %s \"%s\"", what, s3d_file_shown(path));
    if (sys_errno == ENOTDIR) {
        code = S3D_NOT_FOUND;
        if (error) {
            error->code = code;
        }
    }
    return code;
}

/*
 * The ETag is device, inode, size and time of last modification. A file replaced by rename has
 * another inode; one rewritten in place another time. The time of last status change (ctime) is
 * left out on purpose: chmod, chown and a hard link made by a backup change it while the bytes
 * stay, and must not break a load that runs. The price: a writer that changes bytes in place
 * and then sets the old time back is not noticed.
 */
void s3d_file_describe(const struct stat *about, struct s3d_object *object)
{
    object->size_bytes = (uint64_t)about->st_size;
    object->modified_s = about->st_mtim.tv_sec;
    snprintf(object->etag, sizeof object->etag,
             "\"%" PRIxMAX "-%" PRIxMAX "-%" PRIxMAX "-%" PRIxMAX ".%09ld\"",
             (uintmax_t)about->st_dev, (uintmax_t)about->st_ino, (uintmax_t)about->st_size,
             (uintmax_t)about->st_mtim.tv_sec, about->st_mtim.tv_nsec);
}

enum s3d_code s3d_file_require_regular(const struct stat *about, const char *path,
                                       struct s3d_error *error)
{
    if (S_ISREG(about->st_mode)) {
        return S3D_OK;
    }
    if (S_ISDIR(about->st_mode)) {
        return s3d_fail_errno(error, EISDIR, "\"%s\" is not a file", s3d_file_shown(path));
    }
    const char *kind = S_ISFIFO(about->st_mode)                             ? "a FIFO"
                       : S_ISSOCK(about->st_mode)                           ? "a socket"
                       : S_ISCHR(about->st_mode) || S_ISBLK(about->st_mode) ? "a device"
                                                                            : "something else";
    return s3d_fail(error, S3D_UNSUPPORTED, "\"%s\" is %s: only regular files can be used here",
                    s3d_file_shown(path), kind);
}

static bool is_random_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool s3d_file_is_temp(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    size_t length = strlen(name), suffix = strlen(S3D_FILE_TEMP_SUFFIX);
    /* ".N.XXXXXXXX" is the shortest that comes before the suffix. */
    if (length < suffix + S3D_FILE_RANDOM_CHARS + 3 || name[0] != '.' ||
        strcmp(name + length - suffix, S3D_FILE_TEMP_SUFFIX) != 0) {
        return false;
    }
    const char *random = name + length - suffix - S3D_FILE_RANDOM_CHARS;
    for (int i = 0; i < S3D_FILE_RANDOM_CHARS; i++) {
        if (!is_random_char(random[i])) {
            return false;
        }
    }
    return random[-1] == '.';
}

/* --- STAT and DELETE ---------------------------------------------------------------------- */

/* An empty file is looked into, where that may be done: see s3d_file_require_size. */
static enum s3d_code check_empty(const char *path, struct stat *about, struct s3d_error *error)
{
    int fd = s3d_file_open_for_reading(path);
    if (fd < 0) {
        return errno == EACCES ? S3D_OK : s3d_file_fail(error, errno, "open for reading", path);
    }
    enum s3d_code code = s3d_file_require_size(fd, about, path, error);
    s3d_sys_close(fd);
    return code;
}

static enum s3d_code stat_file(struct s3d_request *request, struct s3d_error *error)
{
    struct stat about;
    if (s3d_sys_stat(request->key, &about) != 0) {
        return s3d_file_fail(error, errno, "look up", request->key);
    }
    enum s3d_code code = s3d_file_require_regular(&about, request->key, error);
    if (!code && !about.st_size) {
        code = check_empty(request->key, &about, error);
    }
    if (!code) {
        s3d_file_describe(&about, &request->result.object);
        code = s3d_file_find_sum(request->key, &request->result.object, error);
    }
    return code;
}

static bool is_missing(int sys_errno)
{
    return sys_errno == ENOENT || sys_errno == ENOTDIR;
}

/* A symbolic link is removed itself, not what it points to. */
static enum s3d_code delete_file(struct s3d_request *request, struct s3d_error *error)
{
    struct stat about;
    if (s3d_sys_lstat(request->key, &about) != 0) {
        return is_missing(errno) ? S3D_OK
                                 : s3d_file_fail(error, errno, "look up", request->key);
    }
    if (!S_ISLNK(about.st_mode)) {
        enum s3d_code code = s3d_file_require_regular(&about, request->key, error);
        if (code) {
            return code;
        }
    }
    if (s3d_sys_unlink(request->key) != 0 && !is_missing(errno)) {
        return s3d_file_fail(error, errno, "delete", request->key);
    }
    return S3D_OK;
}

/* --- driver ------------------------------------------------------------------------------- */

struct file_driver {
    struct s3d_driver base;
    struct s3d_latch latch;
    bool woken; /* locked{latch}: poll is to return; stays until it has */
};

static enum s3d_code execute(struct s3d_request *request, struct s3d_error *error)
{
    switch (request->verb) {
    case S3D_VERB_STAT: return stat_file(request, error);
    case S3D_VERB_GET: return s3d_file_get(request, error);
    case S3D_VERB_PUT: return s3d_file_put(request, error);
    case S3D_VERB_DELETE: return delete_file(request, error);
    case S3D_VERB_LIST: return s3d_file_list(request, error);
    case S3D_VERB_UPLOAD_CREATE: return s3d_file_upload_create(request, error);
    case S3D_VERB_UPLOAD_PART: return s3d_file_upload_part(request, error);
    case S3D_VERB_UPLOAD_COMPLETE: return s3d_file_upload_complete(request, error);
    case S3D_VERB_UPLOAD_ABORT: return s3d_file_upload_abort(request, error);
    }
    return s3d_fail(error, S3D_INTERNAL, "unknown verb %d", (int)request->verb);
}

static unsigned driver_capacity(const struct s3d_config *config, unsigned threads)
{
    (void)config;
    (void)threads;
    return 1;
}

static enum s3d_code driver_open(struct s3d_driver **out, const struct s3d_config *config,
                                 unsigned capacity, struct s3d_error *error)
{
    (void)config;
    (void)capacity;
    struct file_driver *driver = s3d_alloc_zeroed(1, sizeof *driver);
    if (!driver) {
        return s3d_fail_memory(error, sizeof *driver);
    }
    enum s3d_code code = s3d_latch_init(&driver->latch, error);
    if (code) {
        s3d_free(driver);
        return code;
    }
    driver->base.ops = &s3d_file_driver;
    *out = &driver->base;
    return S3D_OK;
}

static void driver_close(struct s3d_driver *base)
{
    if (base) {
        struct file_driver *driver = (struct file_driver *)base;
        s3d_latch_fini(&driver->latch);
        s3d_free(driver);
    }
}

static void driver_wake(struct s3d_driver *base)
{
    struct file_driver *driver = (struct file_driver *)base;
    s3d_latch_lock(&driver->latch);
    driver->woken = true;
    s3d_latch_notify_locked(&driver->latch);
    s3d_latch_unlock(&driver->latch);
}

static void driver_start(struct s3d_driver *base, struct s3d_request *request)
{
    memset(&request->result.object, 0, sizeof request->result.object);
    request->result.received_bytes = 0;
    request->result.first_byte = 0;
    request->result.upload_id[0] = '\0';
    enum s3d_code code = execute(request, &request->last);
    /* The attempt ended outside poll, so the next poll has progress to tell and must not wait:
     * requests that queued up meanwhile may have no other wake. */
    driver_wake(base);
    s3d_attempt_done(base, request, code); /* the request is no longer ours */
}

static void driver_cancel(struct s3d_driver *base, struct s3d_request *request)
{
    (void)base; /* attempts end within start, so none can be running */
    (void)request;
}

static void driver_poll(struct s3d_driver *base, int timeout_ms)
{
    struct file_driver *driver = (struct file_driver *)base;
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    s3d_latch_lock(&driver->latch);
    while (!driver->woken && s3d_latch_wait_locked(&driver->latch, deadline_ms)) {
    }
    driver->woken = false;
    s3d_latch_unlock(&driver->latch);
}

const struct s3d_driver_ops s3d_file_driver = {
    .name = "file",
    .capacity = driver_capacity,
    .open = driver_open,
    .start = driver_start,
    .cancel = driver_cancel,
    .poll = driver_poll,
    .wake = driver_wake,
    .close = driver_close,
};

/* --- store -------------------------------------------------------------------------------- */

static void store_close(struct s3d_store *store)
{
    s3d_free(store);
}

static const struct s3d_store_ops store_ops = {.driver = &s3d_file_driver,
                                               .close = store_close};

enum s3d_code s3d_file_open(struct s3d_store **out, struct s3d_engine *engine,
                            const struct s3d_config *config, struct s3d_error *error)
{
    struct s3d_file_store *store = s3d_alloc_zeroed(1, sizeof *store);
    if (!store) {
        return s3d_fail_memory(error, sizeof *store);
    }
    enum s3d_code code = s3d_store_init(&store->base, &store_ops, engine, error);
    if (code) {
        s3d_free(store);
        return code;
    }
    store->direct = config->file_direct != 0;
    store->base.limits = (struct s3d_limits){
        .part_min_bytes = 4096,
        .part_max_bytes = (uint64_t)5 << 30,
        .parts_max = 1000000,
        .object_max_bytes = INT64_MAX,
    };
    *out = &store->base;
    return S3D_OK;
}
