#include "bind/target.h"

#include "bind/errors.h"
#include "bind/wait.h"
#include "core/config.h"
#include "core/pace.h"
#include "core/mem.h"

#include <string.h>
#include <strings.h>

/* --- URI and store ------------------------------------------------------------------------ */

/* An object's URI is UTF-8 wherever it comes from, so that a key is the same under every locale;
 * a local path is encoded as Python encodes file names. */
static bool is_object(const char *text)
{
    return strstr(text, "://") && strncasecmp(text, "file:", 5) != 0;
}

static PyObject *encode(PyObject *text)
{
    PyObject *utf8 = PyUnicode_AsEncodedString(text, "utf-8", "surrogateescape");
    if (!utf8 || is_object(PyBytes_AS_STRING(utf8))) {
        return utf8;
    }
    Py_DECREF(utf8);
    return PyUnicode_EncodeFSDefault(text);
}

PyObject *bind_uri_text(const char *bytes, size_t length)
{
    return is_object(bytes) ? PyUnicode_DecodeUTF8(bytes, (Py_ssize_t)length, "surrogateescape")
                            : PyUnicode_DecodeFSDefaultAndSize(bytes, (Py_ssize_t)length);
}

static int name_target(struct bind_target *target, PyObject *uri)
{
    PyObject *path = PyOS_FSPath(uri);
    if (!path && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Format(PyExc_TypeError, "a URI must be str or os.PathLike, not %.200s",
                     Py_TYPE(uri)->tp_name);
    }
    if (!path) {
        return -1;
    }
    if (PyBytes_Check(path)) {
        target->bytes = path;
        target->name = bind_uri_text(PyBytes_AS_STRING(path), (size_t)PyBytes_GET_SIZE(path));
    } else {
        target->name = path;
        target->bytes = encode(path);
    }
    return target->name && target->bytes ? 0 : -1;
}

/* Credentials may have to be fetched: without the GIL, and so that Ctrl-C ends it. */
struct waiting {
    struct s3d_store *store;
    uint64_t ticket;
};

static enum s3d_code step_ready(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    struct waiting *waiting = context;
    return s3d_store_wait(waiting->store, &waiting->ticket, timeout_ms, error);
}

static enum s3d_code open_store(struct bind_target *target, bool object,
                                struct s3d_error *error)
{
    enum s3d_code code = s3d_uri_parse(&target->uri, PyBytes_AS_STRING(target->bytes),
                                       (size_t)PyBytes_GET_SIZE(target->bytes), error);
    if (code) {
        memset(&target->uri, 0, sizeof target->uri);
        return code;
    }
    if (object && (code = s3d_uri_require_key(&target->uri, error))) {
        return code;
    }
    Py_BEGIN_ALLOW_THREADS
    code = s3d_store_open(&target->store, &target->uri, error);
    Py_END_ALLOW_THREADS
    struct waiting waiting = {target->store, 0};
    return code ? code : bind_wait(step_ready, &waiting, error);
}

int bind_target_open(struct bind_target *target, const struct bind_state *state, PyObject *uri,
                     bool object)
{
    struct s3d_error error;
    memset(target, 0, sizeof *target);
    if (name_target(target, uri)) {
        bind_target_fini(target);
        return -1;
    }
    enum s3d_code code = open_store(target, object, &error);
    if (code) {
        if (code != S3D_AGAIN) { /* then the exception is a signal handler's */
            bind_raise(state, &error, bind_target_text(target));
        }
        bind_target_fini(target);
        return -1;
    }
    return 0;
}

void bind_target_fini(struct bind_target *target)
{
    struct s3d_store *store = target->store;
    target->store = NULL;
    Py_BEGIN_ALLOW_THREADS
    s3d_store_release(store);
    Py_END_ALLOW_THREADS
    s3d_uri_fini(&target->uri);
    memset(&target->uri, 0, sizeof target->uri);
    Py_CLEAR(target->name);
    Py_CLEAR(target->bytes);
}

const char *bind_target_text(const struct bind_target *target)
{
    return target->bytes ? PyBytes_AS_STRING(target->bytes) : NULL;
}

/* --- part size and concurrency ------------------------------------------------------------ */

static const struct {
    uint64_t minimum, maximum;
} limits[] = {
#define X(field, variable, fallback, minimum, maximum) {minimum, maximum},
    S3D_NUMBERS(X)
#undef X
};

/* Replaces *value by the argument unless that is None. */
static int take_number(uint64_t *value, PyObject *argument, const char *parameter,
                       enum s3d_number number, const char *uri)
{
    if (!argument || argument == Py_None) {
        return 0;
    }
    PyObject *index = PyNumber_Index(argument);
    if (!index) {
        return -1;
    }
    unsigned long long given = PyLong_AsUnsignedLongLong(index);
    bool fits = !(given == (unsigned long long)-1 && PyErr_Occurred());
    if (!fits) {
        PyErr_Clear();
    }
    if (fits && given >= limits[number].minimum && given <= limits[number].maximum) {
        *value = given;
        Py_DECREF(index);
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "%s: %s is %R, but must be from %llu to %llu", uri,
                 parameter, index, (unsigned long long)limits[number].minimum,
                 (unsigned long long)limits[number].maximum);
    Py_DECREF(index);
    return -1;
}

int bind_transfer_load(struct bind_transfer *transfer, const struct bind_state *state,
                       const char *uri, enum bind_direction direction, PyObject *part_size,
                       PyObject *max_concurrency)
{
    struct s3d_config config;
    struct s3d_error error;
    enum s3d_code code;
    Py_BEGIN_ALLOW_THREADS
    code = s3d_config_load(&config, &error);
    Py_END_ALLOW_THREADS
    if (code) {
        bind_raise(state, &error, uri);
        return -1;
    }
    bool put = direction == BIND_WRITE;
    uint64_t part_bytes = put ? config.put_part_bytes : config.get_part_bytes;
    uint64_t concurrency = put ? config.put_inflight : config.get_inflight;
    enum s3d_number part_number = put ? S3D_NUMBER_put_part_bytes : S3D_NUMBER_get_part_bytes;
    bool part_given =
        (part_size && part_size != Py_None) || (config.given & UINT64_C(1) << part_number);
    transfer->threshold_bytes = config.get_threshold_bytes;
    transfer->threads = (unsigned)config.threads;
    s3d_config_fini(&config);
    if (take_number(&part_bytes, part_size, "part_size", part_number, uri) ||
        take_number(&concurrency, max_concurrency, "max_concurrency",
                    put ? S3D_NUMBER_put_inflight : S3D_NUMBER_get_inflight, uri)) {
        return -1;
    }
    transfer->part_bytes = part_bytes;
    transfer->part_max_bytes = part_given ? part_bytes : S3D_PACE_PART_MAX_BYTES;
    transfer->concurrency = (unsigned)concurrency;
    return 0;
}

/* --- write options ------------------------------------------------------------------------ */

/* These texts become header lines: a line break in one would be another header. */
static int check_text(const char *uri, const char *parameter, const char *text)
{
    for (const char *c = text; c && *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            PyErr_Format(PyExc_ValueError, "%s: %s must not contain control characters", uri,
                         parameter);
            return -1;
        }
    }
    return 0;
}

static int load_metadata(const char **texts, const char *uri, PyObject *metadata)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(metadata); i++) {
        Py_ssize_t length;
        const char *text = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(metadata, i), &length);
        if (!text) {
            return -1;
        }
        if (strlen(text) != (size_t)length) {
            PyErr_Format(PyExc_ValueError, "%s: metadata must not contain NUL", uri);
            return -1;
        }
        if (check_text(uri, "metadata", text)) {
            return -1;
        }
        texts[i] = text;
    }
    return 0;
}

int bind_options_load(struct s3d_put_options *options, const char *uri, PyObject *metadata)
{
    options->metadata = NULL;
    options->metadata_count = 0;
    if (check_text(uri, "content_type", options->content_type) ||
        check_text(uri, "content_encoding", options->content_encoding) ||
        check_text(uri, "storage_class", options->storage_class) ||
        check_text(uri, "if_match", options->if_match)) {
        return -1;
    }
    if (!metadata || metadata == Py_None) {
        return 0;
    }
    if (!PyTuple_Check(metadata) || PyTuple_GET_SIZE(metadata) % 2) {
        PyErr_SetString(PyExc_TypeError,
                        "metadata must be a tuple of names and values in turn");
        return -1;
    }
    size_t count = (size_t)PyTuple_GET_SIZE(metadata);
    const char **texts = s3d_alloc_zeroed(count, sizeof *texts);
    if (!texts) {
        PyErr_NoMemory();
        return -1;
    }
    if (load_metadata(texts, uri, metadata)) {
        s3d_free(texts);
        return -1;
    }
    options->metadata = texts;
    options->metadata_count = count / 2;
    return 0;
}

int bind_checksum_load(struct s3d_put_options *options, const char *checksum)
{
    static const char *const names[] = {[S3D_CHECKSUM_NONE] = "none",
                                        [S3D_CHECKSUM_CRC32] = "crc32",
                                        [S3D_CHECKSUM_CRC32C] = "crc32c",
                                        [S3D_CHECKSUM_CRC64NVME] = "crc64nvme"};
    options->checksum = S3D_CHECKSUM_DEFAULT;
    for (size_t i = S3D_CHECKSUM_NONE; checksum && i < sizeof names / sizeof *names; i++) {
        if (strcmp(checksum, names[i]) == 0) {
            options->checksum = (enum s3d_checksum)i;
            return 0;
        }
    }
    if (checksum) {
        PyErr_Format(PyExc_ValueError,
                     "checksum is '%.32s', but must be crc64nvme, crc32c, crc32 or none",
                     checksum);
    }
    return checksum ? -1 : 0;
}

void bind_options_fini(struct s3d_put_options *options)
{
    /* The array is ours; `const` is for core's eyes only. */
    s3d_free((void *)(uintptr_t)options->metadata);
    options->metadata = NULL;
}
