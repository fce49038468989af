/*
 * LIST: a walk in the order of whole paths, one folder in memory per level.
 *
 * A folder's names are sorted with '/' behind those of sub-folders; going through them in that
 * order and down at once gives files in the byte order of their paths ("a.txt" < "a/x" < "a0").
 * The token is the last path of the page before: names and whole sub-folders up to it are
 * skipped.
 *
 * A page is 1000 files. As each page reads the folders on its way anew, a folder with very many
 * entries makes it longer (a sixteenth of them), so that listing it all stays linear.
 *
 * Symbolic links to files are listed like files, since GET follows them; links to folders are
 * not followed, so there are no loops. Temporary files of uploads are left out.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* DT_* */
#endif
#include "backends/file.h"
#include "backends/file_sys.h"

#include "core/mem.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAGE_FILES = 1000,
    PAGE_FRACTION = 16,
    DEPTH_MAX = 256,
    NAMES_MAX_BYTES = 1 << 30 /* of one folder */
};

/* A folder on the way down. */
struct frame {
    size_t path_length;   /* of the folder's path in walk->path */
    struct s3d_str names; /* "file\0folder/\0...": in the order they were read */
    const char **sorted;  /* into names */
    size_t count, next;
};

struct walk {
    struct s3d_request *request;
    const char *prefix; /* every path listed begins with it */
    size_t prefix_length;
    const char *token;
    struct s3d_str
        path; /* of the innermost folder with its slash, or "" for the working directory */
    struct frame *frames;
    size_t depth;
    size_t files, page_files;
    bool full;
};

static void path_cut(struct walk *walk, size_t length)
{
    walk->path.length = length;
    if (walk->path.data) {
        walk->path.data[length] = '\0';
    }
}

static bool is_gone(int sys_errno)
{
    return sys_errno == ENOENT || sys_errno == ENOTDIR || sys_errno == ELOOP;
}

/* --- one folder --------------------------------------------------------------------------- */

/* Whether walk->path, a file's or (with a slash) a folder's, has or may lead to listed paths.
 */
static bool is_wanted(const struct walk *walk)
{
    const char *path = s3d_str_text(&walk->path);
    if (strncmp(path, walk->prefix, walk->prefix_length) != 0) {
        return false;
    }
    bool is_folder = path[walk->path.length - 1] == '/';
    return strcmp(path, walk->token) > 0 ||
           (is_folder && strncmp(walk->token, path, walk->path.length) == 0);
}

enum kind { KIND_OTHER, KIND_FILE, KIND_FOLDER };

/* Symbolic links count as files here; what they point to is looked at when they are listed.
 * walk->path is the entry's. */
static enum s3d_code find_kind(const struct walk *walk, const struct dirent *entry,
                               enum kind *kind, struct s3d_error *error)
{
    unsigned char type = entry->d_type;
    if (type == DT_UNKNOWN) {
        struct stat about;
        const char *path = s3d_str_text(&walk->path);
        if (s3d_sys_lstat(path, &about) != 0) {
            *kind = KIND_OTHER;
            return is_gone(errno) ? S3D_OK : s3d_file_fail(error, errno, "look up", path);
        }
        type = (unsigned char)IFTODT(about.st_mode);
    }
    *kind = type == DT_DIR                     ? KIND_FOLDER
            : type == DT_REG || type == DT_LNK ? KIND_FILE
                                               : KIND_OTHER;
    return S3D_OK;
}

static enum s3d_code add_name(struct walk *walk, struct frame *frame,
                              const struct dirent *entry, struct s3d_error *error)
{
    const char *name = entry->d_name;
    enum kind kind = KIND_OTHER;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || s3d_file_is_temp(name)) {
        return S3D_OK;
    }
    s3d_str_add(&walk->path, name);
    enum s3d_code code = s3d_str_check(&walk->path, error);
    if (!code) {
        code = find_kind(walk, entry, &kind, error);
    }
    if (!code && kind == KIND_FOLDER) {
        s3d_str_add(&walk->path, "/");
        code = s3d_str_check(&walk->path, error);
    }
    if (!code && kind != KIND_OTHER && is_wanted(walk)) {
        s3d_str_add_bytes(&frame->names, walk->path.data + frame->path_length,
                          walk->path.length - frame->path_length + 1);
        code = s3d_str_check(&frame->names, error);
        frame->count++;
    }
    path_cut(walk, frame->path_length);
    return code;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static enum s3d_code sort_names(struct frame *frame, struct s3d_error *error)
{
    frame->sorted = s3d_alloc_zeroed(frame->count, sizeof *frame->sorted);
    if (!frame->sorted) {
        return s3d_fail_memory(error, frame->count * sizeof *frame->sorted);
    }
    const char *name = s3d_str_text(&frame->names);
    for (size_t i = 0; i < frame->count; i++) {
        frame->sorted[i] = name;
        name += strlen(name) + 1;
    }
    qsort(frame->sorted, frame->count, sizeof *frame->sorted, compare_names);
    return S3D_OK;
}

static bool is_cancelled(const struct walk *walk)
{
    return atomic_load_explicit(&walk->request->cancelled, memory_order_relaxed);
}

static enum s3d_code read_names(struct walk *walk, struct frame *frame, DIR *folder,
                                struct s3d_error *error)
{
    size_t seen = 0;
    for (;;) {
        const struct dirent *entry = s3d_sys_read_folder(folder);
        if (!entry) {
            if (errno) {
                return s3d_file_fail(error, errno, "read the folder",
                                     s3d_str_text(&walk->path));
            }
            break;
        }
        if (is_cancelled(walk)) {
            return s3d_fail(error, S3D_CANCELLED, "cancelled");
        }
        enum s3d_code code = add_name(walk, frame, entry, error);
        if (code) {
            return code;
        }
        seen++;
    }
    if (seen / PAGE_FRACTION > walk->page_files) {
        walk->page_files = seen / PAGE_FRACTION;
    }
    return S3D_OK;
}

static void pop_frame(struct walk *walk)
{
    struct frame *frame = &walk->frames[--walk->depth];
    s3d_str_fini(&frame->names);
    s3d_free(frame->sorted);
}

/* Reads the folder walk->path. One that is gone meanwhile has no files. */
static enum s3d_code push_frame(struct walk *walk, struct s3d_error *error)
{
    const char *path = walk->path.length ? walk->path.data : ".";
    if (walk->depth == DEPTH_MAX) {
        return s3d_fail(error, S3D_UNSUPPORTED, "\"%s\" is more than %d folders deep",
                        s3d_file_shown(path), DEPTH_MAX);
    }
    /* The path was asked for by name at depth 0, so a link there is followed; open with a slash
     * at the end would follow one below as well. */
    if (walk->depth) {
        walk->path.data[walk->path.length - 1] = '\0';
    }
    DIR *folder = s3d_sys_open_folder(path, walk->depth == 0);
    int failure = errno;
    if (walk->depth) {
        walk->path.data[walk->path.length - 1] = '/';
    }
    if (!folder) {
        return is_gone(failure) ? S3D_OK
                                : s3d_file_fail(error, failure, "open the folder", path);
    }
    struct frame *frame = &walk->frames[walk->depth++];
    *frame =
        (struct frame){.path_length = walk->path.length, .names = S3D_STR(NAMES_MAX_BYTES)};
    enum s3d_code code = read_names(walk, frame, folder, error);
    s3d_sys_close_folder(folder);
    return code ? code : sort_names(frame, error);
}

/* --- the walk ----------------------------------------------------------------------------- */

/* Gives walk->path to the sink, unless the page is full already. */
static enum s3d_code list_file(struct walk *walk, struct s3d_error *error)
{
    const struct s3d_list_sink *sink = walk->request->list;
    char *token = walk->request->result.next_token;
    const char *path = s3d_str_text(&walk->path);
    struct s3d_object object = {0};
    struct stat about;
    if (s3d_sys_stat(path, &about) != 0) {
        return is_gone(errno) ? S3D_OK : s3d_file_fail(error, errno, "look up", path);
    }
    if (!S_ISREG(about.st_mode)) {
        return S3D_OK;
    }
    if (walk->files >= walk->page_files && token[0]) {
        walk->full = true;
        return S3D_OK;
    }
    s3d_file_describe(&about, &object);
    enum s3d_code code = sink->add(sink->context, path, &object, error);
    if (code) {
        return code;
    }
    walk->files++;
    /* A path too long for the token cannot end a page; the next one may. */
    if (walk->files < walk->page_files ||
        !s3d_copy_text(token, sizeof walk->request->result.next_token, path,
                       walk->path.length)) {
        token[0] = '\0';
    }
    return S3D_OK;
}

static enum s3d_code step(struct walk *walk, struct s3d_error *error)
{
    struct frame *frame = &walk->frames[walk->depth - 1];
    path_cut(walk, frame->path_length);
    if (frame->next == frame->count) {
        pop_frame(walk);
        return S3D_OK;
    }
    if (is_cancelled(walk)) {
        return s3d_fail(error, S3D_CANCELLED, "cancelled");
    }
    s3d_str_add(&walk->path, frame->sorted[frame->next++]);
    enum s3d_code code = s3d_str_check(&walk->path, error);
    if (code) {
        return code;
    }
    bool is_folder = walk->path.data[walk->path.length - 1] == '/';
    return is_folder ? push_frame(walk, error) : list_file(walk, error);
}

/* Sets walk->path to the folder where the walk begins, and the prefix that its paths must have.
 */
static enum s3d_code find_start(struct walk *walk, const char *key, struct s3d_error *error)
{
    struct stat about;
    size_t length = strlen(key);
    const char *slash = strrchr(key, '/');
    walk->prefix = key;
    walk->prefix_length = length;
    if (length && key[length - 1] != '/') {
        bool found = s3d_sys_stat(key, &about) == 0;
        if (!found && !is_gone(errno)) {
            return s3d_file_fail(error, errno, "look up", key);
        }
        if (found && S_ISDIR(about.st_mode)) {
            s3d_str_add(&walk->path, key);
            s3d_str_add(&walk->path, "/");
            return s3d_str_check(&walk->path, error);
        }
    }
    s3d_str_add_bytes(&walk->path, key, slash ? (size_t)(slash - key) + 1 : 0);
    return s3d_str_check(&walk->path, error);
}

enum s3d_code s3d_file_list(struct s3d_request *request, struct s3d_error *error)
{
    struct walk walk = {.request = request,
                        .page_files = PAGE_FILES,
                        .token = request->list_token ? request->list_token : "",
                        .path = S3D_STR(PATH_MAX + NAME_MAX + 2)};
    enum s3d_code code;
    request->list->reset(request->list->context);
    request->result.next_token[0] = '\0';
    walk.frames = s3d_alloc_zeroed(DEPTH_MAX, sizeof *walk.frames);
    if (!walk.frames) {
        return s3d_fail_memory(error, DEPTH_MAX * sizeof *walk.frames);
    }
    code = find_start(&walk, request->key, error);
    if (!code) {
        code = push_frame(&walk, error);
    }
    while (!code && !walk.full && walk.depth) {
        code = step(&walk, error);
    }
    while (walk.depth) {
        pop_frame(&walk);
    }
    if (code || !walk.full) {
        request->result.next_token[0] = '\0';
    }
    s3d_free(walk.frames);
    s3d_str_fini(&walk.path);
    return code;
}
