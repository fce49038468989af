/*
 * What the tests of the local-file backend share. Its driver is called directly: a fake pool
 * stands behind s3d_attempt_done and s3d_store_init, so this is included by one file of a program.
 * Everything happens in a fresh folder that becomes the working directory.
 */
#ifndef TESTS_C_FILE_TEST_H
#define TESTS_C_FILE_TEST_H

#include "test.h"

#include "backends/backends.h"
#include "backends/file.h"
#include "backends/file_sys.h"
#include "core/config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1024 * 1024 };

static char root[PATH_MAX];
static struct s3d_config config;
static struct s3d_store *store;
static struct s3d_driver *driver;
static unsigned attempts_done;
static enum s3d_code last_code;

/* --- the fake pool ------------------------------------------------------------------------ */

void s3d_attempt_done(struct s3d_driver *from, struct s3d_request *request, enum s3d_code code)
{
    CHECK(from == driver);
    CHECK(code == S3D_OK || request->last.code == code);
    CHECK(code == S3D_OK || request->last.message[0]);
    attempts_done++;
    last_code = code;
}

enum s3d_code s3d_store_init(struct s3d_store *opened, const struct s3d_store_ops *ops,
                             struct s3d_engine *engine, struct s3d_error *error)
{
    (void)error;
    opened->ops = ops;
    opened->engine = engine;
    atomic_init(&opened->references, 1);
    return S3D_OK;
}

static inline enum s3d_code run(struct s3d_request *request)
{
    bool cancelled = atomic_load(&request->cancelled);
    s3d_request_reset(request);
    atomic_store(&request->cancelled, cancelled);
    request->store = store;
    attempts_done = 0;
    s3d_file_driver.start(driver, request);
    CHECK(attempts_done == 1);
    return last_code;
}

/* --- tools -------------------------------------------------------------------------------- */

static inline void make_file(const char *path, const void *data, size_t length)
{
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    CHECK(fwrite(data, 1, length, file) == length);
    CHECK(fclose(file) == 0);
}

static inline bool file_is(const char *path, const void *data, size_t length)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        return false;
    }
    char *held = malloc(length + 1);
    CHECK(held != NULL);
    size_t got = fread(held, 1, length + 1, file);
    bool same = got == length && memcmp(held, data, length) == 0;
    free(held);
    fclose(file);
    return same;
}

static inline bool exists(const char *path)
{
    struct stat about;
    return lstat(path, &about) == 0;
}

static inline mode_t mode_of(const char *path)
{
    struct stat about;
    CHECK(stat(path, &about) == 0);
    return about.st_mode & 07777;
}

static inline unsigned count_entries(const char *folder, bool only_temp)
{
    unsigned count = 0;
    DIR *open_folder = opendir(folder);
    CHECK(open_folder != NULL);
    for (struct dirent *entry; (entry = readdir(open_folder)) != NULL;) {
        count += !only_temp || strstr(entry->d_name, S3D_FILE_TEMP_SUFFIX) != NULL;
    }
    closedir(open_folder);
    return count;
}

static inline unsigned count_temps(void)
{
    return count_entries(".", true);
}

static inline unsigned count_open_files(void)
{
    return count_entries("/proc/self/fd", false);
}

/* Page-aligned, a different byte at every place near any other. */
static inline char *pattern(size_t length, unsigned seed)
{
    char *data = aligned_alloc(4096, (length / 4096 + 2) * 4096);
    CHECK(data != NULL);
    test_noise(data, length, seed);
    return data;
}

static inline enum s3d_code put_bytes(const char *path, const char *data, size_t length,
                                      const struct s3d_put_options *options)
{
    static struct s3d_request request;
    char *copy = malloc(length + 1);
    CHECK(copy != NULL);
    memcpy(copy, data, length);
    struct s3d_span span = {copy, length};
    request = (struct s3d_request){.verb = S3D_VERB_PUT,
                                   .key = path,
                                   .length_bytes = length,
                                   .spans = &span,
                                   .span_count = 1,
                                   .options = options};
    enum s3d_code code = run(&request);
    free(copy);
    return code;
}

static inline enum s3d_code stat_path(const char *path, struct s3d_object *object,
                                      struct s3d_error *error)
{
    static struct s3d_request request;
    request = (struct s3d_request){.verb = S3D_VERB_STAT, .key = path};
    enum s3d_code code = run(&request);
    if (object) {
        *object = request.result.object;
    }
    if (error) {
        *error = request.last;
    }
    return code;
}

static inline enum s3d_code get_range(struct s3d_request *request, const char *path,
                                      uint64_t offset, char *data, size_t length)
{
    static struct s3d_span span;
    span = (struct s3d_span){data, length};
    *request = (struct s3d_request){.verb = S3D_VERB_GET,
                                    .key = path,
                                    .offset_bytes = offset,
                                    .length_bytes = length,
                                    .spans = &span,
                                    .span_count = 1};
    return run(request);
}

static inline enum s3d_code delete_path(const char *path)
{
    static struct s3d_request request;
    request = (struct s3d_request){.verb = S3D_VERB_DELETE, .key = path};
    return run(&request);
}

/* --- uploads ------------------------------------------------------------------------------ */

static const struct s3d_put_options create_only = {.if_none_match = true};
static char upload_id[S3D_UPLOAD_ID_MAX];

static inline enum s3d_code upload_create(const char *path,
                                          const struct s3d_put_options *options)
{
    static struct s3d_request request;
    request =
        (struct s3d_request){.verb = S3D_VERB_UPLOAD_CREATE, .key = path, .options = options};
    enum s3d_code code = run(&request);
    memcpy(upload_id, request.result.upload_id, sizeof upload_id);
    return code;
}

/* *checksum: of the part, where the options ask for one. */
static inline enum s3d_code upload_part_with(const char *path,
                                             const struct s3d_put_options *options,
                                             const struct s3d_part *part, char *data,
                                             uint64_t *checksum)
{
    static struct s3d_request request;
    struct s3d_span span = {data + part->offset_bytes, part->size_bytes};
    request = (struct s3d_request){.verb = S3D_VERB_UPLOAD_PART,
                                   .key = path,
                                   .options = options,
                                   .upload_id = upload_id,
                                   .part_number = part->number,
                                   .offset_bytes = part->offset_bytes,
                                   .length_bytes = part->size_bytes,
                                   .spans = &span,
                                   .span_count = 1};
    enum s3d_code code = run(&request);
    *checksum = request.result.checksum;
    return code;
}

static inline enum s3d_code upload_part(const char *path, const struct s3d_part *part,
                                        char *data)
{
    uint64_t none;
    return upload_part_with(path, NULL, part, data, &none);
}

static struct s3d_object completed;

static inline enum s3d_code upload_complete(const char *path, const struct s3d_part *parts,
                                            size_t count, const struct s3d_put_options *options)
{
    static struct s3d_request request;
    request = (struct s3d_request){.verb = S3D_VERB_UPLOAD_COMPLETE,
                                   .key = path,
                                   .upload_id = upload_id,
                                   .parts = parts,
                                   .part_count = count,
                                   .options = options};
    enum s3d_code code = run(&request);
    completed = request.result.object;
    return code;
}

static inline enum s3d_code upload_abort(const char *path)
{
    static struct s3d_request request;
    request = (struct s3d_request){
        .verb = S3D_VERB_UPLOAD_ABORT, .key = path, .upload_id = upload_id};
    return run(&request);
}

enum { PART_COUNT = 3, PARTS_BYTES = 8192 + 12288 + 100 };
static const struct s3d_part three[PART_COUNT] = {
    {.number = 1, .offset_bytes = 0, .size_bytes = 8192},
    {.number = 2, .offset_bytes = 8192, .size_bytes = 12288},
    {.number = 3, .offset_bytes = 20480, .size_bytes = 100},
};

/* --- the beginning and the end ------------------------------------------------------------- */

static inline void remove_root(void)
{
    char command[PATH_MAX + 16];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    if (chdir("/") != 0 || system(command) != 0) {
        fprintf(stderr, "could not remove %s\n", root);
    }
}

static inline void begin(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/s3dlio-test-file-XXXXXX", base && *base ? base : "/tmp");
    char made[PATH_MAX];
    CHECK(mkdtemp(root) != NULL && realpath(root, made) != NULL);
    memcpy(root, made, sizeof root);
    CHECK(chdir(root) == 0);
    atexit(remove_root);
    CHECK_CODE(s3d_file_open(&store, NULL, &config, NULL), S3D_OK);
    CHECK_CODE(s3d_file_driver.open(&driver, &config, 1, NULL), S3D_OK);
}

static inline void end(void)
{
    s3d_file_driver.close(driver);
    store->ops->close(store);
}

#endif
