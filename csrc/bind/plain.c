#include "bind/plain.h"

#include "bind/archive_reader.h"
#include "bind/errors.h"
#include "bind/fetch.h"
#include "bind/plain_build.h"
#include "core/mem.h"
#include "formats/zip_read.h"

#include <stdatomic.h>
#include <string.h>

enum {
    ALIGNMENT = 64,
    NAME_BYTES = 32 /* "data/" and ten digits */
};

#define DATA "data/"

/* As in s3dlio_torch/_memory.py: a mapping for each small storage would cost more than its
 * bytes. */
#define SMALL_BYTES (UINT64_C(1) << 20)
#define SLAB_BYTES  (UINT64_C(8) << 20)

struct bind_slab {
    _Atomic size_t holders;
    void *memory;
    size_t bytes;
};

struct plain_object {
    PyObject_HEAD
    const struct bind_state *state;
    PyObject *module;
    PyObject *archive;
    PyObject *bytes; /* the pickle, in which the scan points */
    bool any_location;
    bool is_plain;
    /* The records below data/, in the order of the file, and where they are to lie. */
    size_t record_count;
    const struct s3d_zip_entry **records;
    struct bind_plain_place *places;
    /* What tensors are to be made: the pickle's, or one of bytes for each record. */
    struct s3d_plain scan;
    struct bind_plain_place *storage_places; /* of the scan's storages; holds nothing itself */
    struct bind_plain shared;
};

/* --- slabs --------------------------------------------------------------------------------- */

static void hold_slab(struct bind_slab *slab)
{
    atomic_fetch_add(&slab->holders, 1);
}

static void release_slab(void *Py_UNUSED(data), void *context)
{
    struct bind_slab *slab = context;
    if (slab && atomic_fetch_sub(&slab->holders, 1) == 1) {
        s3d_pages_free(slab->memory, slab->bytes);
        s3d_free(slab);
    }
}

/* Held by the caller. NULL: no memory. */
static struct bind_slab *new_slab(size_t bytes)
{
    struct bind_slab *slab = s3d_alloc(sizeof *slab);
    void *memory = slab ? s3d_pages_alloc(bytes) : NULL;
    if (!memory) {
        s3d_free(slab);
        return NULL;
    }
    atomic_init(&slab->holders, 1);
    slab->memory = memory;
    slab->bytes = bytes;
    return slab;
}

/* --- places -------------------------------------------------------------------------------- */

/* Records that are to lie side by side in one slab, but for the large ones among them. */
struct run {
    size_t first, end;
    size_t bytes;
};

static bool is_small(const struct s3d_zip_entry *record)
{
    return record->size_bytes && record->size_bytes < SMALL_BYTES;
}

static size_t aligned(uint64_t bytes)
{
    return ((size_t)bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

/* Every place holds its slab, and nobody else does. False: no memory. */
static bool place_run(struct plain_object *self, const struct run *run)
{
    struct bind_slab *slab = run->bytes ? new_slab(run->bytes) : NULL;
    size_t offset = 0;
    if (!slab) {
        return !run->bytes;
    }
    for (size_t i = run->first; i < run->end; i++) {
        if (is_small(self->records[i])) {
            hold_slab(slab);
            self->places[i] = (struct bind_plain_place){(char *)slab->memory + offset, slab};
            offset += aligned(self->records[i]->size_bytes);
        }
    }
    release_slab(NULL, slab);
    return true;
}

static bool place_large(struct plain_object *self, size_t i)
{
    uint64_t bytes = self->records[i]->size_bytes;
    struct bind_slab *slab = bytes <= PY_SSIZE_T_MAX ? new_slab((size_t)bytes) : NULL;
    if (!slab) {
        return false;
    }
    self->places[i] = (struct bind_plain_place){slab->memory, slab};
    return true;
}

static bool place_records(struct plain_object *self)
{
    struct run run = {0};
    for (size_t i = 0; i < self->record_count; i++) {
        const struct s3d_zip_entry *record = self->records[i];
        if (record->size_bytes >= SMALL_BYTES && !place_large(self, i)) {
            return false;
        }
        size_t bytes = is_small(record) ? aligned(record->size_bytes) : 0;
        if (run.bytes + bytes > SLAB_BYTES) {
            run.end = i;
            if (!place_run(self, &run)) {
                return false;
            }
            run = (struct run){.first = i};
        }
        run.bytes += bytes;
    }
    run.end = self->record_count;
    return place_run(self, &run);
}

/* Finds the records and gives them their memory. False: no memory. */
static bool take_records(struct plain_object *self)
{
    const struct s3d_zip *zip = bind_archive_zip(self->archive);
    self->records = s3d_alloc_zeroed((size_t)zip->count + 1, sizeof *self->records);
    self->places = s3d_alloc_zeroed((size_t)zip->count + 1, sizeof *self->places);
    if (!self->records || !self->places) {
        return false;
    }
    for (uint32_t i = 0; i < zip->count; i++) {
        const struct s3d_zip_entry *entry = &zip->entries[zip->by_offset[i]];
        const char *name = bind_archive_name(self->archive, entry);
        if (name && strncmp(name, DATA, strlen(DATA)) == 0) {
            self->records[self->record_count++] = entry;
        }
    }
    return place_records(self);
}

static void drop_places(struct plain_object *self)
{
    for (size_t i = 0; self->places && i < self->record_count; i++) {
        release_slab(NULL, self->places[i].slab);
    }
    s3d_free(self->places);
    s3d_free(self->storage_places);
}

/* --- the fetch ----------------------------------------------------------------------------- */

PyObject *bind_plain_fetch(PyObject *plain, bool verify)
{
    struct plain_object *self = (struct plain_object *)plain;
    struct bind_fetch_item *items = PyMem_RawCalloc(self->record_count + 1, sizeof *items);
    if (!items) {
        return PyErr_NoMemory();
    }
    for (size_t i = 0; i < self->record_count; i++) {
        items[i].data = self->places[i].data;
        items[i].fresh = true;
        if (bind_archive_item(self->archive, self->records[i], verify, &items[i])) {
            bind_fetch_drop(items, i);
            return NULL;
        }
    }
    return bind_fetch_new(self->state, bind_archive_stream(self->archive), plain, items,
                          self->record_count);
}

/* --- whose memory is whose ----------------------------------------------------------------- */

/* "data/KEY", by hand: there are many of them. */
static const char *name_record(char *name, uint32_t key)
{
    char *at = name + NAME_BYTES - 1;
    *at = '\0';
    do {
        *--at = (char)('0' + key % 10);
        key /= 10;
    } while (key);
    at -= strlen(DATA);
    memcpy(at, DATA, strlen(DATA));
    return at;
}

/* The place of each storage; false when one has no record of just its size. */
static bool match_storages(struct plain_object *self, const uint32_t *record_of_entry)
{
    const struct s3d_zip *zip = bind_archive_zip(self->archive);
    char name[NAME_BYTES];
    for (size_t i = 0; i < self->scan.storage_count; i++) {
        const struct s3d_plain_storage *storage = &self->scan.storages[i];
        const struct s3d_zip_entry *entry =
            bind_archive_find(self->archive, name_record(name, storage->key));
        if (!entry || entry->size_bytes != storage->bytes) {
            return false;
        }
        self->storage_places[i] = self->places[record_of_entry[entry - zip->entries]];
    }
    return true;
}

/* 1, 0: it does not fit the archive, -1 with an exception. */
static int fit_archive(struct plain_object *self)
{
    const struct s3d_zip *zip = bind_archive_zip(self->archive);
    uint32_t *record_of_entry = s3d_alloc_zeroed((size_t)zip->count + 1, sizeof(uint32_t));
    self->storage_places =
        s3d_alloc_zeroed(self->scan.storage_count + 1, sizeof *self->storage_places);
    bool fits = false;
    if (!record_of_entry || !self->storage_places) {
        s3d_free(record_of_entry);
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < self->record_count; i++) {
        record_of_entry[self->records[i] - zip->entries] = (uint32_t)i;
    }
    fits = match_storages(self, record_of_entry);
    s3d_free(record_of_entry);
    return fits;
}

/* Not plain: a scan as if of a list of bytes, one tensor for each record. */
static int scan_records(struct plain_object *self)
{
    size_t count = self->record_count;
    struct s3d_plain *scan = &self->scan;
    s3d_plain_fini(scan);
    s3d_free(self->storage_places);
    self->storage_places = s3d_alloc_zeroed(count + 1, sizeof *self->storage_places);
    scan->storages = s3d_alloc_zeroed(count + 1, sizeof *scan->storages);
    scan->tensors = s3d_alloc_zeroed(count + 1, sizeof *scan->tensors);
    scan->extents = s3d_alloc_zeroed(2 * count + 1, sizeof *scan->extents);
    if (!self->storage_places || !scan->storages || !scan->tensors || !scan->extents) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = self->records[i]->size_bytes;
        self->storage_places[i] = self->places[i];
        scan->storages[i] =
            (struct s3d_plain_storage){.users = 1, .bytes = bytes, .element_bytes = 1};
        scan->tensors[i] = (struct s3d_plain_tensor){
            .storage = (uint32_t)i, .dimensions = 1, .shape = 2 * i, .bytes = bytes};
        scan->extents[2 * i] = (int64_t)bytes;
        scan->extents[2 * i + 1] = 1;
    }
    scan->storage_count = scan->tensor_count = count;
    scan->extent_count = 2 * count;
    return 0;
}

static enum s3d_code scan_pickle(struct plain_object *self, struct s3d_error *error)
{
    const char *pickle = PyBytes_AS_STRING(self->bytes);
    size_t length = (size_t)PyBytes_GET_SIZE(self->bytes);
    enum s3d_code code;
    Py_BEGIN_ALLOW_THREADS
    code = s3d_plain_scan(&self->scan, pickle, length, self->any_location, error);
    Py_END_ALLOW_THREADS
    return code;
}

int bind_plain_scan(PyObject *plain)
{
    struct plain_object *self = (struct plain_object *)plain;
    struct s3d_error error;
    enum s3d_code code = scan_pickle(self, &error);
    if (code && code != S3D_UNSUPPORTED) {
        bind_raise(self->state, &error, NULL);
        return -1;
    }
    int fits = code ? 0 : fit_archive(self);
    if (fits < 0 || (!fits && scan_records(self))) {
        return -1;
    }
    self->is_plain = fits;
    self->shared.places = self->storage_places;
    return 0;
}

/* --- methods ------------------------------------------------------------------------------- */

static PyObject *plain_is_plain(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(((struct plain_object *)object)->is_plain);
}

static PyObject *plain_names(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const struct plain_object *self = (struct plain_object *)object;
    PyObject *names = PyList_New((Py_ssize_t)self->record_count);
    for (size_t i = 0; names && i < self->record_count; i++) {
        PyObject *name =
            PyUnicode_FromString(bind_archive_name(self->archive, self->records[i]));
        if (!name) {
            Py_CLEAR(names);
            break;
        }
        PyList_SET_ITEM(names, (Py_ssize_t)i, name);
    }
    return names;
}

static PyObject *plain_build(PyObject *object, PyObject *args)
{
    struct plain_object *self = (struct plain_object *)object;
    struct bind_plain_parts parts;
    PyObject *tensors;
    if (!self->is_plain) {
        PyErr_SetString(PyExc_ValueError, "this checkpoint is not plain");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!O!OOOO:build", &PyList_Type, &tensors, &PyTuple_Type,
                          &parts.dtypes, &parts.size_type, &parts.device_type,
                          &parts.make_parameter, &parts.parameter_type)) {
        return NULL;
    }
    parts.tensors = PyList_AsTuple(tensors); /* which nobody changes meanwhile */
    PyObject *result = parts.tensors ? bind_plain_build(&self->scan, &parts) : NULL;
    Py_XDECREF(parts.tensors);
    return result;
}

static PyObject *plain_dtypes(PyObject *Py_UNUSED(object), PyObject *Py_UNUSED(ignored))
{
    PyObject *names = PyTuple_New(S3D_PLAIN_DTYPE_COUNT);
    for (int i = 0; names && i < S3D_PLAIN_DTYPE_COUNT; i++) {
        PyObject *name = PyUnicode_FromString(s3d_plain_dtype_name((enum s3d_plain_dtype)i));
        if (!name) {
            Py_CLEAR(names);
            break;
        }
        PyTuple_SET_ITEM(names, i, name);
    }
    return names;
}

/* --- life ---------------------------------------------------------------------------------- */

PyObject *bind_plain_new(const struct bind_state *state, PyObject *archive, PyObject *bytes,
                         bool any_location)
{
    struct plain_object *self =
        (struct plain_object *)state->plain_type->tp_alloc(state->plain_type, 0);
    if (!self) {
        return NULL;
    }
    self->state = state;
    self->module = Py_NewRef(PyType_GetModule(state->plain_type));
    self->archive = Py_NewRef(archive);
    self->bytes = Py_NewRef(bytes);
    self->any_location = any_location;
    self->shared =
        (struct bind_plain){.scan = &self->scan, .hold = hold_slab, .release = release_slab};
    if (!take_records(self)) {
        PyErr_NoMemory();
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

const struct bind_plain *bind_plain_of(PyObject *object)
{
    PyObject *module;
    const struct bind_state *state = bind_state_of_type(Py_TYPE(object), &module);
    if (!state || Py_TYPE(object) != state->plain_type) {
        PyErr_SetString(PyExc_TypeError, "a Plain is needed");
        return NULL;
    }
    return &((const struct plain_object *)object)->shared;
}

/* Nothing clears it: a fetch may still need the archive. What else is in a cycle breaks it. */
static int plain_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct plain_object *self = (struct plain_object *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->module);
    Py_VISIT(self->archive);
    return 0;
}

static void plain_dealloc(PyObject *object)
{
    struct plain_object *self = (struct plain_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    drop_places(self);
    s3d_plain_fini(&self->scan);
    s3d_free(self->records);
    Py_CLEAR(self->archive);
    Py_CLEAR(self->bytes);
    Py_CLEAR(self->module);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef plain_methods[] = {
    {"dtypes", plain_dtypes, METH_NOARGS | METH_STATIC,
     "dtypes()\n--\n\nThe names of the dtypes that build() takes, in its order."},
    {"is_plain", plain_is_plain, METH_NOARGS,
     "is_plain()\n--\n\nWhether build() can make its object."},
    {"names", plain_names, METH_NOARGS,
     "names()\n--\n\nThe names of all records, in the order of the Fetch's items. When it is "
     "not plain, its tensors are theirs."},
    {"build", plain_build, METH_VARARGS,
     "build(tensors, dtypes, size_type, device_type, make_parameter, parameter_type, /)\n--\n\n"
     "The object. make_parameter is torch.Tensor._make_subclass."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot plain_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"A plain checkpoint between its pickle and its object."},
    {Py_tp_dealloc, plain_dealloc},
    {Py_tp_traverse, plain_traverse},
    {Py_tp_methods, plain_methods},
    {0, NULL},
};

static PyType_Spec plain_spec = {
    .name = "s3dlio_np._native.Plain",
    .basicsize = sizeof(struct plain_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = plain_slots,
};

int bind_plain_init(PyObject *module, struct bind_state *state)
{
    state->plain_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &plain_spec, NULL);
    return state->plain_type ? PyModule_AddType(module, state->plain_type) : -1;
}
