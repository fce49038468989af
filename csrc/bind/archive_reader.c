#include "bind/archive_reader.h"

#include "bind/format.h"
#include "bind/plain.h"
#include "bind/reader.h"
#include "bind/zip_directory.h"
#include "formats/crc.h"

#include <string.h>

enum {
    LOCAL_GUESS_BYTES = 1024, /* a local header is hardly ever longer */
    ALIGNMENT_MAX_DIGITS = 20
};

struct archive_reader {
    struct bind_format format; /* on an ObjectReader */
    /* frozen once open */
    struct s3d_zip zip;
    char *prefix; /* "archive/": what all records' names begin with */
    size_t prefix_length;
    uint64_t alignment; /* of payloads, as far as the archive says; 0: unknown */
};

/* A record's name as UTF-8; NULL with an exception, also for one that holds a NUL. */
static const char *name_text(PyObject *name)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(name, &length);
    if (text && strlen(text) != (size_t)length) {
        PyErr_SetString(PyExc_ValueError, "embedded null character in a record's name");
        text = NULL;
    }
    return text;
}

/* --- entries ------------------------------------------------------------------------------- */

/* The entry of a record by its name without the prefix; NULL without an exception if none. */
static const struct s3d_zip_entry *find(const struct archive_reader *self, const char *name)
{
    char most[128];
    size_t length = self->prefix_length + strlen(name);
    char *full = length <= sizeof most ? most : PyMem_RawMalloc(length);
    if (!full) {
        return NULL;
    }
    memcpy(full, self->prefix, self->prefix_length);
    memcpy(full + self->prefix_length, name, length - self->prefix_length);
    const struct s3d_zip_entry *entry = s3d_zip_find(&self->zip, full, length);
    if (full != most) {
        PyMem_RawFree(full);
    }
    return entry;
}

static int require_stored(const struct archive_reader *self, const struct s3d_zip_entry *entry)
{
    struct s3d_error error;
    if (entry->method == S3D_ZIP_STORED) {
        return 0;
    }
    s3d_fail(&error, S3D_INVALID, "record \"%.200s\" is compressed (method %u)", entry->name,
             entry->method);
    bind_format_raise(&self->format, &error);
    return -1;
}

static const struct s3d_zip_entry *require(const struct archive_reader *self, const char *name)
{
    const struct s3d_zip_entry *entry = find(self, name);
    if (!entry) {
        struct s3d_error error;
        s3d_fail(&error, S3D_INVALID, "the archive has no record \"%.200s\"", name);
        bind_format_raise(&self->format, &error);
        return NULL;
    }
    return require_stored(self, entry) ? NULL : entry;
}

/* Where the payload lies, from the local header. 0 or -1. */
static int locate(const struct archive_reader *self, const struct s3d_zip_entry *entry,
                  struct s3d_zip_local *local)
{
    uint64_t room = entry->end_offset - entry->header_offset;
    size_t need = room < LOCAL_GUESS_BYTES ? (size_t)room : LOCAL_GUESS_BYTES;
    struct s3d_error error;
    enum s3d_code code = S3D_AGAIN;
    int failed = 0;
    while (!failed && code == S3D_AGAIN) {
        size_t length = need;
        char *header = PyMem_RawMalloc(length ? length : 1);
        failed = !header ||
                 bind_reader_read_at(self->format.stream, entry->header_offset, header, length);
        if (!failed) {
            code = s3d_zip_local(entry, header, length, local, &need, &error);
        }
        PyMem_RawFree(header);
        if (!failed && code == S3D_AGAIN && need <= length) {
            code = s3d_fail(&error, S3D_INVALID, "a local header without an end");
        }
    }
    if (!failed && code) {
        bind_format_raise(&self->format, &error);
    }
    if (failed && !PyErr_Occurred()) {
        PyErr_NoMemory();
    }
    return failed || code ? -1 : 0;
}

/* --- opening ------------------------------------------------------------------------------- */

static int open_directory(struct archive_reader *self)
{
    if (bind_zip_directory(self->format.state, self->format.stream, &self->zip)) {
        return -1;
    }
    if (self->zip.duplicates || self->zip.prefix_bytes) {
        struct s3d_error error;
        s3d_fail(&error, S3D_INVALID,
                 "not a torch archive: it has records of one name, or bytes before it");
        bind_format_raise(&self->format, &error);
        return -1;
    }
    return 0;
}

/* torch's rule: the archive's name is what stands before the first record's first '/'. */
static int find_prefix(struct archive_reader *self)
{
    const char *first = self->zip.count ? self->zip.entries[0].name : "";
    const char *slash = strchr(first, '/');
    self->prefix_length = slash ? (size_t)(slash - first) + 1 : 0;
    self->prefix = PyMem_RawMalloc(self->prefix_length + 1);
    if (!self->prefix) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(self->prefix, first, self->prefix_length);
    self->prefix[self->prefix_length] = '\0';
    return 0;
}

static PyObject *record_bytes(const struct archive_reader *self, const char *name);

/* What the archive says of its own alignment; older ones say nothing, and mean 64. */
static int find_alignment(struct archive_reader *self)
{
    const struct s3d_zip_entry *entry = find(self, ".storage_alignment");
    self->alignment = 64;
    if (!entry) {
        return 0;
    }
    if (entry->method != S3D_ZIP_STORED) { /* packed anew: nothing is where torch put it */
        self->alignment = 0;
        return 0;
    }
    PyObject *bytes = record_bytes(self, ".storage_alignment");
    if (!bytes) {
        return -1;
    }
    uint64_t alignment;
    bool known = PyBytes_GET_SIZE(bytes) <= ALIGNMENT_MAX_DIGITS &&
                 s3d_parse_u64(PyBytes_AS_STRING(bytes), &alignment);
    self->alignment = known ? alignment : 0;
    Py_DECREF(bytes);
    return 0;
}

static PyObject *archive_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"stream", NULL};
    PyObject *stream;
    const struct bind_state *state = bind_state_of_type(type, NULL);
    if (!state ||
        !PyArg_ParseTupleAndKeywords(args, keywords, "O!:ArchiveReader", BIND_NAMES(names),
                                     state->reader_type, &stream)) {
        return NULL;
    }
    struct archive_reader *self = bind_format_new(type, stream);
    if (self && (open_directory(self) || find_prefix(self) || find_alignment(self))) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

/* --- small records ------------------------------------------------------------------------- */

static int compare_sum(const struct archive_reader *self, const struct s3d_zip_entry *entry,
                       uint32_t sum)
{
    struct s3d_error error;
    if (!entry->crc || sum == entry->crc) {
        return 0; /* torch writes 0 when it is told to compute none */
    }
    s3d_fail(&error, S3D_INTEGRITY,
             "%s is damaged: its CRC-32 is %08x, but the archive says %08x", entry->name, sum,
             entry->crc);
    bind_format_raise(&self->format, &error);
    return -1;
}

static int check_sum(const struct archive_reader *self, const struct s3d_zip_entry *entry,
                     const char *data)
{
    uint32_t sum = 0;
    Py_BEGIN_ALLOW_THREADS
    sum = s3d_crc32(0, data, (size_t)entry->size_bytes);
    Py_END_ALLOW_THREADS
    return compare_sum(self, entry, sum);
}

/* pieces: the CRC-32 and size of each piece of the record, from its front. */
static PyObject *archive_check_pieces(PyObject *object, PyObject *args)
{
    const struct archive_reader *self = (struct archive_reader *)object;
    const char *name;
    PyObject *pieces;
    uint32_t whole = 0;
    if (!PyArg_ParseTuple(args, "sO!:check_pieces", &name, &PyList_Type, &pieces)) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pieces); i++) {
        unsigned int sum;
        unsigned long long length;
        /* Its numbers' code may run, and change the list. */
        PyObject *piece = Py_NewRef(PyList_GET_ITEM(pieces, i));
        bool parsed = PyTuple_Check(piece) && PyArg_ParseTuple(piece, "IK", &sum, &length);
        Py_DECREF(piece);
        if (!parsed) {
            PyErr_SetString(PyExc_TypeError, "a piece must be (CRC-32, size)");
            return NULL;
        }
        whole = s3d_crc32_combine(whole, sum, length);
    }
    const struct s3d_zip_entry *entry = require(self, name);
    if (!entry || compare_sum(self, entry, whole)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *record_bytes(const struct archive_reader *self, const char *name)
{
    struct s3d_zip_local local;
    const struct s3d_zip_entry *entry = require(self, name);
    if (!entry || locate(self, entry, &local)) {
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)entry->size_bytes);
    if (bytes && (bind_reader_read_at(self->format.stream, local.data_offset,
                                      PyBytes_AS_STRING(bytes), (size_t)entry->size_bytes) ||
                  check_sum(self, entry, PyBytes_AS_STRING(bytes)))) {
        Py_CLEAR(bytes);
    }
    return bytes;
}

static PyObject *archive_get_record(PyObject *object, PyObject *argument)
{
    const char *name = name_text(argument);
    return name ? record_bytes((struct archive_reader *)object, name) : NULL;
}

static PyObject *archive_has_record(PyObject *object, PyObject *argument)
{
    const char *name = name_text(argument);
    return name ? PyBool_FromLong(find((struct archive_reader *)object, name) != NULL) : NULL;
}

/* --- what is there ------------------------------------------------------------------------- */

/* The name without the prefix; NULL for an entry outside the archive's folder. */
static const char *record_name(const struct archive_reader *self,
                               const struct s3d_zip_entry *entry)
{
    return strncmp(entry->name, self->prefix, self->prefix_length) == 0
               ? entry->name + self->prefix_length
               : NULL;
}

static PyObject *archive_records(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const struct archive_reader *self = (struct archive_reader *)object;
    PyObject *records = PyList_New(0);
    for (uint32_t i = 0; records && i < self->zip.count; i++) {
        const struct s3d_zip_entry *entry = &self->zip.entries[self->zip.by_offset[i]];
        const char *name = record_name(self, entry);
        PyObject *record =
            name ? Py_BuildValue("(sKO)", name, (unsigned long long)entry->size_bytes,
                                 entry->method == S3D_ZIP_STORED ? Py_True : Py_False)
                 : NULL;
        if (name && (!record || PyList_Append(records, record))) {
            Py_CLEAR(records);
        }
        Py_XDECREF(record);
    }
    return records;
}

static PyObject *archive_is_stored(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const struct archive_reader *self = (struct archive_reader *)object;
    bool stored = true;
    for (uint32_t i = 0; i < self->zip.count; i++) {
        const struct s3d_zip_entry *entry = &self->zip.entries[i];
        stored &= entry->method == S3D_ZIP_STORED || !record_name(self, entry);
    }
    return PyBool_FromLong(stored);
}

/* What torch has written lies where torch's rules say; of other archives the header is read. */
static int place(const struct archive_reader *self, const struct s3d_zip_entry *entry,
                 struct s3d_zip_local *local)
{
    bool predicted = self->alignment && s3d_zip_predict(entry, self->alignment, local);
    return predicted ? 0 : locate(self, entry, local);
}

static PyObject *archive_record_offset(PyObject *object, PyObject *argument)
{
    const struct archive_reader *self = (struct archive_reader *)object;
    struct s3d_zip_local local;
    const char *name = name_text(argument);
    const struct s3d_zip_entry *entry = name ? require(self, name) : NULL;
    if (!entry || place(self, entry, &local)) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(local.data_offset);
}

static PyObject *archive_header_offset(PyObject *object, PyObject *argument)
{
    const struct archive_reader *self = (struct archive_reader *)object;
    const char *name = name_text(argument);
    const struct s3d_zip_entry *entry = name ? require(self, name) : NULL;
    return entry ? PyLong_FromUnsignedLongLong(entry->header_offset) : NULL;
}

/* --- the wave ------------------------------------------------------------------------------ */

const struct s3d_zip *bind_archive_zip(PyObject *archive)
{
    return &((struct archive_reader *)archive)->zip;
}

const struct s3d_zip_entry *bind_archive_find(PyObject *archive, const char *name)
{
    return find((struct archive_reader *)archive, name);
}

const char *bind_archive_name(PyObject *archive, const struct s3d_zip_entry *entry)
{
    return record_name((struct archive_reader *)archive, entry);
}

int bind_archive_item(PyObject *archive, const struct s3d_zip_entry *entry, bool verify,
                      struct bind_fetch_item *item)
{
    const struct archive_reader *self = (struct archive_reader *)archive;
    struct s3d_zip_local local;
    if (require_stored(self, entry) || place(self, entry, &local)) {
        return -1;
    }
    item->offset_bytes = local.data_offset;
    item->size_bytes = entry->size_bytes;
    item->name = entry->name;
    item->crc = entry->crc;
    item->has_crc = verify && entry->crc && entry->size_bytes;
    return 0;
}

PyObject *bind_archive_stream(PyObject *archive)
{
    return ((struct archive_reader *)archive)->format.stream;
}

static int fill_item(const struct archive_reader *self, struct bind_fetch_item *item,
                     const char *name, PyObject *target, bool verify, bool fresh)
{
    uint64_t size;
    const struct s3d_zip_entry *entry = require(self, name);
    if (!entry || bind_storage_memory(target, &item->data, &size)) {
        return -1;
    }
    if (size != entry->size_bytes) {
        struct s3d_error error;
        s3d_fail(&error, S3D_INVALID, "record %s has %llu bytes, but %llu are expected", name,
                 (unsigned long long)entry->size_bytes, (unsigned long long)size);
        bind_format_raise(&self->format, &error);
        return -1;
    }
    if (bind_archive_item((PyObject *)(uintptr_t)self, entry, verify, item)) {
        return -1;
    }
    item->target = Py_NewRef(target);
    item->fresh = fresh;
    return 0;
}

static PyObject *archive_fetch(PyObject *object, PyObject *args, PyObject *keywords)
{
    static const char *const keys[] = {"names", "targets", "verify", "fresh", NULL};
    struct archive_reader *self = (struct archive_reader *)object;
    PyObject *names, *targets;
    int verify = 1, fresh = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!O!|pp:fetch", BIND_NAMES(keys),
                                     &PyList_Type, &names, &PyList_Type, &targets, &verify,
                                     &fresh)) {
        return NULL;
    }
    Py_ssize_t count = PyList_GET_SIZE(names);
    if (PyList_GET_SIZE(targets) != count) {
        PyErr_SetString(PyExc_ValueError, "as many targets as names are needed");
        return NULL;
    }
    struct bind_fetch_item *items = PyMem_RawCalloc((size_t)count + 1, sizeof *items);
    if (!items) {
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        /* fill_item runs Python code, which may have changed the lists. */
        PyObject *name = i < PyList_GET_SIZE(names) ? PyList_GET_ITEM(names, i) : NULL;
        PyObject *target = i < PyList_GET_SIZE(targets) ? PyList_GET_ITEM(targets, i) : NULL;
        Py_XINCREF(name);
        Py_XINCREF(target);
        const char *text = name && target ? name_text(name) : NULL;
        bool filled = text && !fill_item(self, &items[i], text, target, verify, fresh);
        Py_XDECREF(name);
        Py_XDECREF(target);
        if (!filled) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_RuntimeError, "the lists changed while they were read");
            }
            bind_fetch_drop(items, (size_t)count);
            return NULL;
        }
    }
    return bind_fetch_new(self->format.state, self->format.stream, object, items,
                          (size_t)count);
}

static PyObject *archive_plain(PyObject *object, PyObject *args)
{
    struct archive_reader *self = (struct archive_reader *)object;
    PyObject *name;
    int any_location, verify;
    if (!PyArg_ParseTuple(args, "Upp:plain", &name, &any_location, &verify)) {
        return NULL;
    }
    PyObject *bytes = archive_get_record(object, name);
    PyObject *plain =
        bytes ? bind_plain_new(self->format.state, object, bytes, any_location) : NULL;
    PyObject *fetch = plain ? bind_plain_fetch(plain, verify) : NULL;
    /* Its records are on their way while the pickle is scanned. */
    PyObject *both = fetch && !bind_plain_scan(plain) ? PyTuple_Pack(2, plain, fetch) : NULL;
    Py_XDECREF(bytes);
    Py_XDECREF(plain);
    Py_XDECREF(fetch); /* the last reference, if something failed: it joins */
    return both;
}

/* --- life ---------------------------------------------------------------------------------- */

static void archive_dealloc(PyObject *object)
{
    struct archive_reader *self = (struct archive_reader *)object;
    PyObject_GC_UnTrack(object);
    s3d_zip_close(&self->zip);
    PyMem_RawFree(self->prefix);
    bind_format_dealloc(object);
}

static PyMethodDef archive_methods[] = {
    {"has_record", archive_has_record, METH_O,
     "has_record(name, /)\n--\n\nWhether it is there."},
    {"get_record", archive_get_record, METH_O,
     "get_record(name, /)\n--\n\nA record as bytes, its CRC-32 checked."},
    {"records", archive_records, METH_NOARGS,
     "records()\n--\n\nA list of (name, size in bytes, whether it is stored uncompressed), in the "
     "order of their offsets."},
    {"is_stored", archive_is_stored, METH_NOARGS,
     "is_stored()\n--\n\nWhether no record is compressed."},
    {"plain", archive_plain, METH_VARARGS,
     "plain(name, any_location, verify, /)\n--\n\nStarts fetching all records below data/, and scans "
     "the pickle that is the record. Returns the Plain and the Fetch. any_location: tensors of any "
     "device are plain."},
    {"get_record_offset", archive_record_offset, METH_O,
     "get_record_offset(name, /)\n--\n\nThe offset of the payload's first byte in the object."},
    {"get_record_header_offset", archive_header_offset, METH_O,
     "get_record_header_offset(name, /)\n--\n\nThe offset of the record's local header."},
    {"check_pieces", archive_check_pieces, METH_VARARGS,
     "check_pieces(name, pieces, /)\n--\n\nRaises IntegrityError unless the record's CRC-32 is "
     "that of its pieces; pieces: a list of (CRC-32, size in bytes), from its front."},
    {"fetch", (PyCFunction)(void (*)(void))archive_fetch, METH_VARARGS | METH_KEYWORDS,
     "fetch(names, targets, verify=True, fresh=False)\n--\n\nStarts fetching records into CPU storages (objects "
     "with data_ptr() and nbytes()) of just their sizes, all at once. Returns the Fetch, whose "
     "items are numbered as the names are. fresh: all targets lie in the engine's own pages, and "
     "nobody has touched them yet."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot archive_slots[] = {
    {Py_tp_doc,
     (void
          *)(uintptr_t)"ArchiveReader(stream)\n--\n\nThe torch archive in an ObjectReader's "
                       "object.\n\nRaises ValueError when there is none, or when it is broken."},
    {Py_tp_new, archive_new},
    {Py_tp_dealloc, archive_dealloc},
    {Py_tp_traverse, bind_format_traverse},
    {Py_tp_methods, archive_methods},
    {0, NULL},
};

static PyType_Spec archive_spec = {
    .name = "s3dlio_np._native.ArchiveReader",
    .basicsize = sizeof(struct archive_reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = archive_slots,
};

int bind_archive_reader_init(PyObject *module, struct bind_state *Py_UNUSED(state))
{
    return bind_format_add(module, &archive_spec);
}
