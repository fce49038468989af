#include "bind/plain.h"

#include "bind/archive_reader.h"
#include "bind/errors.h"
#include "bind/fetch.h"
#include "bind/plain_build.h"
#include "core/mem.h"

#include <stdatomic.h>
#include <string.h>

enum {
    ALIGNMENT = 64,
    NAME_BYTES = 32 /* "data/" and ten digits */
};

/* As in s3dlio_torch/_memory.py: a mapping for each small storage would cost more than its bytes.
 */
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
    struct s3d_plain scan;
    const struct s3d_zip_entry **records; /* of storage i */
    struct bind_plain_place *places;
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

/* Storages that are to lie side by side in one slab; so far `data` is their offset in it. */
struct run {
    size_t first, end; /* storages, but for the large ones among them */
    size_t bytes;
};

static bool is_small(const struct s3d_plain_storage *storage)
{
    return storage->bytes && storage->bytes < SMALL_BYTES;
}

static bool place_in(struct plain_object *self, size_t i, struct bind_slab *slab, size_t offset)
{
    hold_slab(slab);
    self->places[i] = (struct bind_plain_place){(char *)slab->memory + offset, slab};
    return true;
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
        if (is_small(&self->scan.storages[i])) {
            place_in(self, i, slab, offset);
            offset += aligned(self->scan.storages[i].bytes);
        }
    }
    release_slab(NULL, slab);
    return true;
}

static bool place_large(struct plain_object *self, size_t i)
{
    uint64_t bytes = self->scan.storages[i].bytes;
    struct bind_slab *slab = bytes <= PY_SSIZE_T_MAX ? new_slab((size_t)bytes) : NULL;
    if (!slab) {
        return false;
    }
    self->places[i] = (struct bind_plain_place){slab->memory, slab};
    return true;
}

static bool place_storages(struct plain_object *self)
{
    struct run run = {0};
    for (size_t i = 0; i < self->scan.storage_count; i++) {
        const struct s3d_plain_storage *storage = &self->scan.storages[i];
        if (storage->bytes >= SMALL_BYTES && !place_large(self, i)) {
            return false;
        }
        size_t bytes = is_small(storage) ? aligned(storage->bytes) : 0;
        if (run.bytes + bytes > SLAB_BYTES) {
            run.end = i;
            if (!place_run(self, &run)) {
                return false;
            }
            run = (struct run){.first = i};
        }
        run.bytes += bytes;
    }
    run.end = self->scan.storage_count;
    return place_run(self, &run);
}

static void drop_places(struct plain_object *self)
{
    for (size_t i = 0; self->places && i < self->scan.storage_count; i++) {
        release_slab(NULL, self->places[i].slab);
    }
    s3d_free(self->places);
    self->places = NULL;
    self->shared.places = NULL;
}

/* All storages' memory. 0 or -1. */
static int allocate(struct plain_object *self)
{
    if (!self->places) {
        self->places = s3d_alloc_zeroed(self->scan.storage_count + 1, sizeof *self->places);
        if (!self->places || !place_storages(self)) {
            drop_places(self);
            PyErr_NoMemory();
            return -1;
        }
        self->shared.places = self->places;
    }
    return 0;
}

/* --- the fetch ----------------------------------------------------------------------------- */

/* "data/KEY", by hand: there are many of them. */
static const char *name_record(char *name, uint32_t key)
{
    char *at = name + NAME_BYTES - 1;
    *at = '\0';
    do {
        *--at = (char)('0' + key % 10);
        key /= 10;
    } while (key);
    at -= strlen("data/");
    memcpy(at, "data/", strlen("data/"));
    return at;
}

/* Every record is there, with the size that its storage needs. */
static bool fits_archive(struct plain_object *self)
{
    char name[NAME_BYTES];
    for (size_t i = 0; i < self->scan.storage_count; i++) {
        const struct s3d_plain_storage *storage = &self->scan.storages[i];
        self->records[i] =
            bind_archive_find(self->archive, name_record(name, storage->key), storage->bytes);
        if (!self->records[i]) {
            return false;
        }
    }
    return true;
}

static PyObject *plain_fetch(PyObject *object, PyObject *argument)
{
    struct plain_object *self = (struct plain_object *)object;
    int verify = PyObject_IsTrue(argument);
    if (verify < 0 || allocate(self)) {
        return NULL;
    }
    struct bind_fetch_item *items =
        PyMem_RawCalloc(self->scan.storage_count + 1, sizeof *items);
    if (!items) {
        return PyErr_NoMemory();
    }
    size_t count = 0;
    for (size_t i = 0; i < self->scan.storage_count; i++) {
        if (!self->scan.storages[i].bytes) {
            continue;
        }
        items[count].data = self->places[i].data;
        items[count].fresh = true;
        if (bind_archive_item(self->archive, self->records[i], verify, &items[count++])) {
            bind_fetch_drop(items, count);
            return NULL;
        }
    }
    return bind_fetch_new(self->state, bind_archive_stream(self->archive), object, items,
                          count);
}

static PyObject *plain_build(PyObject *object, PyObject *args)
{
    struct plain_object *self = (struct plain_object *)object;
    struct bind_plain_parts parts;
    PyObject *tensors;
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

static enum s3d_code scan(struct plain_object *self, bool any_location)
{
    struct s3d_error error;
    const char *pickle = PyBytes_AS_STRING(self->bytes);
    size_t length = (size_t)PyBytes_GET_SIZE(self->bytes);
    enum s3d_code code;
    Py_BEGIN_ALLOW_THREADS
    code = s3d_plain_scan(&self->scan, pickle, length, any_location, &error);
    Py_END_ALLOW_THREADS
    if (code && code != S3D_UNSUPPORTED) {
        bind_raise(self->state, &error, NULL);
    }
    return code;
}

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
    self->shared =
        (struct bind_plain){.scan = &self->scan, .hold = hold_slab, .release = release_slab};
    enum s3d_code code = scan(self, any_location);
    if (!code) {
        self->records = PyMem_RawCalloc(self->scan.storage_count + 1, sizeof *self->records);
        if (!self->records) {
            PyErr_NoMemory();
        } else if (fits_archive(self)) {
            return (PyObject *)self;
        }
    }
    Py_DECREF(self);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
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
    PyMem_RawFree(self->records);
    Py_CLEAR(self->archive);
    Py_CLEAR(self->bytes);
    Py_CLEAR(self->module);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef plain_methods[] = {
    {"dtypes", plain_dtypes, METH_NOARGS | METH_STATIC,
     "dtypes()\n--\n\nThe names of the dtypes that build() takes, in its order."},
    {"fetch", plain_fetch, METH_O,
     "fetch(verify, /)\n--\n\nGives all storages their memory and starts fetching their "
     "records. "
     "Returns the Fetch."},
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
