#include "bind/archive_writer.h"

#include "bind/fetch.h"
#include "bind/format.h"
#include "bind/sums.h"
#include "bind/writer.h"
#include "formats/zip_write.h"

#include <stdio.h>
#include <string.h>

enum { TEXT_MAX_BYTES = 1024 * 1024 /* of one header */ };

/* torch's writer version: a file without newer operators says 3, as torch's own do. */
enum { VERSION_MIN = 3, VERSION_IN_DATA = 6 };

struct archive_writer {
    struct bind_format format; /* on an ObjectWriter */
    PyObject *name;            /* the archive's */
    bool sums;                 /* CRCs are computed, not left 0 */
    unsigned long long version;
    struct s3d_zip_writer zip;
    char id[S3D_ZIP_ID_DIGITS + 1]; /* "" before the end */
    /* a record that comes in pieces */
    struct s3d_zip_record open;
    bool is_open;
    uint64_t open_bytes; /* of it so far */
    uint32_t open_crc;
};

/* --- records ------------------------------------------------------------------------------- */

static int append(const struct archive_writer *self, const void *data, size_t length)
{
    return bind_writer_refer(self->format.stream, NULL, data, length);
}

/* A header or the like: small, copied by the stream. */
static int append_text(const struct archive_writer *self, const struct s3d_str *text)
{
    return append(self, s3d_str_text(text), text->length);
}

/* The payload, from `owner`'s memory, which stays until it is sent. *crc goes on over it. */
static int append_payload(const struct archive_writer *self, PyObject *owner, const char *data,
                          size_t length, uint32_t *crc)
{
    return bind_sum_and_refer(self->format.stream, owner, data, length,
                              self->sums ? crc : NULL);
}

static int add_record(struct archive_writer *self, const char *name, uint64_t size,
                      struct s3d_zip_record *record)
{
    if (self->is_open) {
        PyErr_Format(PyExc_ValueError, "record %s: the record before it is not whole yet",
                     name);
        return -1;
    }
    struct s3d_str header = S3D_STR(TEXT_MAX_BYTES);
    struct s3d_error error;
    enum s3d_code code = s3d_zip_add(&self->zip, name, size, &header, record, &error);
    int failed =
        code ? (bind_format_raise(&self->format, &error), -1) : append_text(self, &header);
    s3d_str_fini(&header);
    return failed;
}

static int end_record(struct archive_writer *self, const struct s3d_zip_record *record,
                      uint32_t crc)
{
    struct s3d_str descriptor = S3D_STR(S3D_ZIP_DESCRIPTOR_MAX);
    struct s3d_error error;
    enum s3d_code code = s3d_zip_set_crc(&self->zip, record->index, crc, &descriptor, &error);
    int failed =
        code ? (bind_format_raise(&self->format, &error), -1) : append_text(self, &descriptor);
    s3d_str_fini(&descriptor);
    return failed;
}

static int write_record(struct archive_writer *self, const char *name, PyObject *owner,
                        const char *data, size_t length)
{
    struct s3d_zip_record record;
    uint32_t crc = 0;
    if (add_record(self, name, length, &record)) {
        return -1;
    }
    s3d_zip_see_payload(&self->zip, record.index, data, length);
    if (append_payload(self, owner, data, length, &crc)) {
        return -1;
    }
    return length ? end_record(self, &record, crc) : 0;
}

/* --- arguments ----------------------------------------------------------------------------- */

/*
 * Where the payload lies: bytes, str (as UTF-8), or a storage on the CPU, which has data_ptr() and
 * nbytes(). The memory lives as long as the object. 0 or -1.
 */
static int payload_of(PyObject *object, const char **data, size_t *length)
{
    if (PyBytes_Check(object)) {
        *data = PyBytes_AS_STRING(object);
        *length = (size_t)PyBytes_GET_SIZE(object);
        return 0;
    }
    if (PyUnicode_Check(object)) {
        Py_ssize_t bytes;
        *data = PyUnicode_AsUTF8AndSize(object, &bytes);
        *length = *data ? (size_t)bytes : 0;
        return *data ? 0 : -1;
    }
    char *memory;
    uint64_t bytes;
    if (bind_storage_memory(object, &memory, &bytes)) {
        return -1;
    }
    *data = memory;
    *length = (size_t)bytes;
    return 0;
}

static PyObject *archive_write_record(PyObject *object, PyObject *args)
{
    struct archive_writer *self = (struct archive_writer *)object;
    const char *name, *data;
    PyObject *payload;
    Py_ssize_t size;
    size_t length;
    if (!PyArg_ParseTuple(args, "sOn:write_record", &name, &payload, &size) ||
        payload_of(payload, &data, &length)) {
        return NULL;
    }
    if (size < 0 || (size_t)size > length) {
        return PyErr_Format(PyExc_ValueError, "record %s: size is %zd, but there are %zu bytes",
                            name, size, length);
    }
    /* torch's own id is written at the end, whatever a caller says before. */
    if (strcmp(name, S3D_ZIP_ID_NAME) != 0 &&
        write_record(self, name, payload, data, (size_t)size)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- records in pieces --------------------------------------------------------------------- */

/* Nothing is left to come: the descriptor. */
static int end_open_record(struct archive_writer *self)
{
    if (self->open_bytes < self->open.size_bytes) {
        return 0;
    }
    self->is_open = false;
    return self->open.size_bytes ? end_record(self, &self->open, self->open_crc) : 0;
}

static PyObject *archive_begin_record(PyObject *object, PyObject *args)
{
    struct archive_writer *self = (struct archive_writer *)object;
    const char *name;
    unsigned long long size;
    if (!PyArg_ParseTuple(args, "sK:begin_record", &name, &size) ||
        add_record(self, name, size, &self->open)) {
        return NULL;
    }
    self->is_open = true;
    self->open_bytes = 0;
    self->open_crc = 0;
    if (end_open_record(self)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *archive_extend_record(PyObject *object, PyObject *payload)
{
    struct archive_writer *self = (struct archive_writer *)object;
    const char *data;
    size_t length;
    if (payload_of(payload, &data, &length)) {
        return NULL;
    }
    if (!self->is_open || length > self->open.size_bytes - self->open_bytes) {
        PyErr_SetString(PyExc_ValueError, self->is_open ? "the record was said to be shorter"
                                                        : "no record is open");
        return NULL;
    }
    if (!self->open_bytes) {
        s3d_zip_see_payload(&self->zip, self->open.index, data, length);
    }
    if (append_payload(self, payload, data, length, &self->open_crc)) {
        return NULL;
    }
    self->open_bytes += length;
    if (end_open_record(self)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* torch leaves a hole that a later pass fills. An object has no holes: zeros are sent. */
static PyObject *archive_write_record_metadata(PyObject *object, PyObject *args)
{
    struct archive_writer *self = (struct archive_writer *)object;
    const char *name;
    unsigned long long size;
    struct s3d_zip_record record;
    if (!PyArg_ParseTuple(args, "sK:write_record_metadata", &name, &size) ||
        add_record(self, name, size, &record) || bind_writer_zeros(self->format.stream, size) ||
        (size && end_record(self, &record, 0))) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- the end ------------------------------------------------------------------------------- */

static int write_id(struct archive_writer *self)
{
    struct s3d_error error;
    char id[S3D_ZIP_ID_DIGITS + 1];
    if (s3d_zip_serialization_id(&self->zip, id, &error)) {
        bind_format_raise(&self->format, &error);
        return -1;
    }
    if (write_record(self, S3D_ZIP_ID_NAME, NULL, id, S3D_ZIP_ID_DIGITS)) {
        return -1;
    }
    memcpy(self->id, id, sizeof id);
    return 0;
}

static int write_directory(struct archive_writer *self)
{
    struct s3d_str directory = S3D_STR(s3d_zip_finish_bytes(&self->zip));
    struct s3d_error error;
    enum s3d_code code = s3d_zip_finish(&self->zip, &directory, &error);
    int failed = -1;
    if (code) {
        bind_format_raise(&self->format, &error);
    } else {
        /* Not small where records are many; and this memory goes away at once. */
        failed =
            bind_writer_copy(self->format.stream, s3d_str_text(&directory), directory.length);
    }
    s3d_str_fini(&directory);
    return failed;
}

static int write_text(struct archive_writer *self, const char *name, const char *text)
{
    return s3d_zip_has(&self->zip, name) ? 0
                                         : write_record(self, name, NULL, text, strlen(text));
}

/* As torch does: under another name from version 6 on, and not twice. */
static int write_version(struct archive_writer *self)
{
    char version[24];
    snprintf(version, sizeof version, "%llu\n", self->version);
    if (s3d_zip_has(&self->zip, "version") || s3d_zip_has(&self->zip, ".data/version")) {
        return 0;
    }
    return write_text(self, self->version >= VERSION_IN_DATA ? ".data/version" : "version",
                      version);
}

static PyObject *archive_write_end(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct archive_writer *self = (struct archive_writer *)object;
    if (write_version(self) ||
        write_text(self, "byteorder", PY_BIG_ENDIAN ? "big" : "little") || write_id(self) ||
        write_directory(self)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- the rest of PyTorchFileWriter --------------------------------------------------------- */

static PyObject *archive_set_min_version(PyObject *object, PyObject *argument)
{
    struct archive_writer *self = (struct archive_writer *)object;
    unsigned long long version = PyLong_AsUnsignedLongLong(argument);
    if (PyErr_Occurred()) {
        return NULL;
    }
    self->version = version > self->version ? version : self->version;
    Py_RETURN_NONE;
}

static PyObject *archive_name(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(((struct archive_writer *)object)->name);
}

static PyObject *archive_serialization_id(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    return PyUnicode_FromString(((struct archive_writer *)object)->id);
}

static PyObject *archive_written_records(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const struct s3d_zip_writer *zip = &((struct archive_writer *)object)->zip;
    PyObject *names = PySet_New(NULL);
    for (uint32_t i = 0; names && i < s3d_zip_count(zip); i++) {
        PyObject *name = PyUnicode_FromString(s3d_zip_name(zip, i));
        if (!name || PySet_Add(names, name)) {
            Py_CLEAR(names);
        }
        Py_XDECREF(name);
    }
    return names;
}

/* --- life ---------------------------------------------------------------------------------- */

static int begin_zip(struct archive_writer *self, uint64_t alignment)
{
    struct s3d_error error;
    const char *text = self->name ? PyUnicode_AsUTF8(self->name) : NULL;
    if (!text) {
        return -1;
    }
    if (s3d_zip_writer_init(&self->zip, text, alignment, &error)) {
        bind_format_raise(&self->format, &error);
        return -1;
    }
    return 0;
}

static PyObject *archive_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"stream", "compute_crc32", "storage_alignment", "name",
                                        NULL};
    PyObject *stream, *name = NULL;
    int sums = 1;
    unsigned long long alignment = S3D_ZIP_ALIGNMENT;
    const struct bind_state *state = bind_state_of_type(type, NULL);
    if (!state ||
        !PyArg_ParseTupleAndKeywords(args, keywords, "O!|pKU:ArchiveWriter", BIND_NAMES(names),
                                     state->writer_type, &stream, &sums, &alignment, &name)) {
        return NULL;
    }
    struct archive_writer *self = bind_format_new(type, stream);
    if (!self) {
        return NULL;
    }
    self->name = name ? Py_NewRef(name) : PyUnicode_FromString("archive");
    self->sums = sums != 0;
    self->version = VERSION_MIN;
    if (begin_zip(self, alignment)) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void archive_dealloc(PyObject *object)
{
    struct archive_writer *self = (struct archive_writer *)object;
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->name);
    s3d_zip_writer_fini(&self->zip);
    bind_format_dealloc(object);
}

static PyMethodDef archive_methods[] = {
    {"write_record", archive_write_record, METH_VARARGS,
     "write_record(name, data, size, /)\n--\n\nAppends a record: the first `size` bytes of bytes, "
     "of str (as UTF-8), or of a CPU storage (an object with data_ptr() and nbytes()).\n\n"
     "64 KiB and more are not copied: the object is kept, and must not be changed, until they are "
     "sent; close() of the stream is the latest moment."},
    {"write_record_metadata", archive_write_record_metadata, METH_VARARGS,
     "write_record_metadata(name, size, /)\n--\n\nAppends a record of `size` zeros."},
    {"begin_record", archive_begin_record, METH_VARARGS,
     "begin_record(name, size, /)\n--\n\nBegins a record whose `size` bytes come in pieces. It "
     "ends with the last of them."},
    {"extend_record", archive_extend_record, METH_O,
     "extend_record(data, /)\n--\n\nThe next piece: all of what write_record takes as data, and "
     "kept as by that. The first one has at least 8 bytes, or all."},
    {"write_end_of_file", archive_write_end, METH_NOARGS,
     "write_end_of_file()\n--\n\nAppends version, serialization id and directory. The stream stays "
     "open: its close() makes the object visible."},
    {"set_min_version", archive_set_min_version, METH_O,
     "set_min_version(version, /)\n--\n\nRaises the version that the archive will carry."},
    {"archive_name", archive_name, METH_NOARGS,
     "archive_name()\n--\n\nThe folder in front of every record."},
    {"serialization_id", archive_serialization_id, METH_NOARGS,
     "serialization_id()\n--\n\nForty digits over names and sums; \"\" before the end."},
    {"get_all_written_records", archive_written_records, METH_NOARGS,
     "get_all_written_records()\n--\n\nThe set of record names so far."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot archive_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"ArchiveWriter(stream, compute_crc32=True, "
                                   "storage_alignment=64, name='archive')\n"
                                   "--\n\nWrites a torch archive into an ObjectWriter, with "
                                   "torch._C.PyTorchFileWriter's methods."},
    {Py_tp_new, archive_new},
    {Py_tp_dealloc, archive_dealloc},
    {Py_tp_traverse, bind_format_traverse},
    {Py_tp_methods, archive_methods},
    {0, NULL},
};

static PyType_Spec archive_spec = {
    .name = "s3dlio_np._native.ArchiveWriter",
    .basicsize = sizeof(struct archive_writer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = archive_slots,
};

int bind_archive_writer_init(PyObject *module, struct bind_state *Py_UNUSED(state))
{
    return bind_format_add(module, &archive_spec);
}
