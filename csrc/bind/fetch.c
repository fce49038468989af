#include "bind/fetch.h"

#include "bind/errors.h"
#include "bind/reader.h"
#include "bind/wait.h"
#include "core/get.h"
#include "formats/crc.h"

struct fetch_object {
    PyObject_HEAD
    const struct bind_state *state;
    PyObject *module;
    PyObject *reader; /* for its URI */
    PyObject *owner;
    struct bind_fetch_item *items;
    size_t count;
    size_t *places;      /* of item i among the segments, which are in order of offset */
    size_t *items_at;    /* the reverse */
    struct s3d_get *get; /* NULL: ended */
    unsigned waiting;    /* calls that use it without the GIL */
    bool filled;         /* all is there: the object was decompressed when the fetch began */
};

/* --- sums, on the I/O threads -------------------------------------------------------------- */

/*
 * Pieces come in any order, and CRC-32 is linear: each piece's sum, moved to its place by the
 * bytes that follow it in the item, is XORed into the whole.
 */
static enum s3d_code take_piece(void *context, size_t segment, uint64_t offset,
                                const char *data, uint64_t length, struct s3d_error *error)
{
    struct fetch_object *self = context;
    struct bind_fetch_item *item = &self->items[self->items_at[segment]];
    if (!item->sums && !item->has_crc) {
        return S3D_OK;
    }
    uint64_t behind = item->size_bytes - offset - length;
    uint32_t sum = s3d_crc32_combine(s3d_crc32(0, data, length), 0, behind);
    atomic_fetch_xor(&item->sum, sum);
    if (atomic_fetch_sub(&item->left_bytes, length) != length || !item->has_crc) {
        return S3D_OK;
    }
    uint32_t whole = atomic_load(&item->sum);
    if (whole == item->crc) {
        return S3D_OK;
    }
    s3d_fail(error, S3D_INTEGRITY,
             "%s is damaged: its CRC-32 is %08x, but the archive says %08x", item->name, whole,
             item->crc);
    return S3D_INTEGRITY;
}

/* --- start --------------------------------------------------------------------------------- */

struct place {
    uint64_t offset_bytes;
    size_t item;
};

static int compare_places(const void *a, const void *b)
{
    const struct place *left = a, *right = b;
    if (left->offset_bytes != right->offset_bytes) {
        return left->offset_bytes < right->offset_bytes ? -1 : 1;
    }
    return left->item < right->item ? -1 : 1;
}

/* Fills places, items_at and the segments, in order of offset. */
static int order_items(struct fetch_object *self, struct s3d_segment *segments)
{
    struct place *order = PyMem_RawCalloc(self->count + 1, sizeof *order);
    self->places = PyMem_RawCalloc(self->count + 1, sizeof *self->places);
    self->items_at = PyMem_RawCalloc(self->count + 1, sizeof *self->items_at);
    if (!order || !self->places || !self->items_at) {
        PyMem_RawFree(order);
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < self->count; i++) {
        order[i] = (struct place){self->items[i].offset_bytes, i};
    }
    qsort(order, self->count, sizeof *order, compare_places);
    for (size_t i = 0; i < self->count; i++) {
        struct bind_fetch_item *item = &self->items[order[i].item];
        self->items_at[i] = order[i].item;
        self->places[order[i].item] = i;
        segments[i] = (struct s3d_segment){item->offset_bytes, item->size_bytes, item->data};
        atomic_init(&item->sum, 0);
        atomic_init(&item->left_bytes, item->size_bytes);
    }
    PyMem_RawFree(order);
    return 0;
}

/* A get backs all of its memory or none. */
static bool are_fresh(const struct fetch_object *self)
{
    for (size_t i = 0; i < self->count; i++) {
        if (!self->items[i].fresh) {
            return false;
        }
    }
    return true;
}

/* A compressed object has no ranges to fetch: its content is read in order, here and now. */
static int fill_items(struct fetch_object *self, const struct s3d_segment *segments)
{
    for (size_t i = 0; i < self->count; i++) {
        const struct s3d_segment *at = &segments[i];
        size_t length = (size_t)at->length_bytes;
        struct s3d_error error;
        enum s3d_code code = S3D_OK;
        if (bind_reader_read_at(self->reader, at->offset_bytes, at->data, length)) {
            return -1;
        }
        Py_BEGIN_ALLOW_THREADS
        code = length ? take_piece(self, i, 0, at->data, length, &error) : S3D_OK;
        Py_END_ALLOW_THREADS
        if (code) {
            bind_raise(self->state, &error, bind_reader_uri(self->reader));
            return -1;
        }
    }
    self->filled = true;
    return 0;
}

static int start(struct fetch_object *self)
{
    struct s3d_segment *segments = PyMem_RawCalloc(self->count + 1, sizeof *segments);
    if (!segments) {
        PyErr_NoMemory();
        return -1;
    }
    struct s3d_get_plan wanted = {
        .segments = segments,
        .segment_count = self->count,
        .fresh = are_fresh(self),
        .piece = take_piece,
        .context = self,
    };
    int failed = order_items(self, segments);
    if (!failed) {
        failed = bind_reader_is_inflated(self->reader)
                     ? fill_items(self, segments)
                     : bind_reader_fetch(self->reader, &self->get, &wanted);
    }
    PyMem_RawFree(segments);
    return failed ? -1 : 0;
}

static void drop_items(struct bind_fetch_item *items, size_t count)
{
    for (size_t i = 0; items && i < count; i++) {
        Py_CLEAR(items[i].target);
    }
}

void bind_fetch_drop(struct bind_fetch_item *items, size_t count)
{
    drop_items(items, count);
    PyMem_RawFree(items);
}

PyObject *bind_fetch_new(const struct bind_state *state, PyObject *reader, PyObject *owner,
                         struct bind_fetch_item *items, size_t count)
{
    struct fetch_object *self =
        (struct fetch_object *)state->fetch_type->tp_alloc(state->fetch_type, 0);
    if (!self) {
        bind_fetch_drop(items, count);
        return NULL;
    }
    self->state = state;
    self->module = Py_NewRef(PyType_GetModule(state->fetch_type));
    self->reader = Py_NewRef(reader);
    self->owner = Py_XNewRef(owner);
    self->items = items;
    self->count = count;
    if (start(self)) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

/* --- waiting and the end ------------------------------------------------------------------- */

struct wait_step {
    struct s3d_get *get;
    size_t first, count;
};

static enum s3d_code step_wait(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    const struct wait_step *step = context;
    return s3d_get_wait(step->get, step->first, step->count, timeout_ms, error);
}

static PyObject *wait_for(struct fetch_object *self, bind_step *step, void *context)
{
    struct s3d_error error;
    self->waiting++;
    enum s3d_code code = bind_wait(step, context, &error);
    self->waiting--;
    if (code) {
        return code == S3D_AGAIN
                   ? NULL
                   : bind_raise(self->state, &error, bind_reader_uri(self->reader));
    }
    Py_RETURN_NONE;
}

/* 0, or -1 with an exception, also for a fetch that has ended. */
static int item_argument(const struct fetch_object *self, PyObject *argument, size_t *item)
{
    *item = PyLong_AsSize_t(argument);
    if (*item == (size_t)-1 && PyErr_Occurred()) {
        return -1;
    }
    bool ended = !self->get && !self->filled;
    if (ended || *item >= self->count) {
        PyErr_SetString(PyExc_ValueError,
                        ended ? "the fetch has ended" : "there is no such item");
        return -1;
    }
    return 0;
}

static PyObject *fetch_sum(PyObject *object, PyObject *argument)
{
    struct fetch_object *self = (struct fetch_object *)object;
    size_t item;
    if (item_argument(self, argument, &item)) {
        return NULL;
    }
    if (!self->items[item].sums || atomic_load(&self->items[item].left_bytes)) {
        PyErr_SetString(PyExc_ValueError, self->items[item].sums ? "the item is not there yet"
                                                                 : "no sums were asked for");
        return NULL;
    }
    return PyLong_FromUnsignedLong(atomic_load(&self->items[item].sum));
}

static PyObject *fetch_wait(PyObject *object, PyObject *argument)
{
    struct fetch_object *self = (struct fetch_object *)object;
    size_t item;
    if (item_argument(self, argument, &item)) {
        return NULL;
    }
    if (self->filled) {
        Py_RETURN_NONE;
    }
    struct wait_step step = {self->get, self->places[item], 1};
    return wait_for(self, step_wait, &step);
}

static enum s3d_code step_wait_all(void *context, int64_t timeout_ms, struct s3d_error *error)
{
    return s3d_get_wait_all(context, timeout_ms, error);
}

static PyObject *fetch_wait_all(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct fetch_object *self = (struct fetch_object *)object;
    if (self->filled) {
        Py_RETURN_NONE;
    }
    if (!self->get) {
        PyErr_SetString(PyExc_ValueError, "the fetch has ended");
        return NULL;
    }
    return wait_for(self, step_wait_all, self->get);
}

static void end(struct fetch_object *self)
{
    struct s3d_get *get = self->get;
    self->get = NULL;
    self->filled = false;
    if (get) {
        Py_BEGIN_ALLOW_THREADS
        s3d_get_free(get); /* joins: nothing writes into the targets from here on */
        Py_END_ALLOW_THREADS
    }
    drop_items(self->items, self->count);
}

static PyObject *fetch_close(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct fetch_object *self = (struct fetch_object *)object;
    if (self->waiting) { /* by another thread, or below a signal handler */
        PyErr_SetString(PyExc_RuntimeError, "the fetch is being waited for");
        return NULL;
    }
    end(self);
    Py_RETURN_NONE;
}

static int fetch_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct fetch_object *self = (struct fetch_object *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->module);
    Py_VISIT(self->reader);
    Py_VISIT(self->owner);
    for (size_t i = 0; self->items && i < self->count; i++) {
        Py_VISIT(self->items[i].target);
    }
    return 0;
}

static int fetch_clear(PyObject *object)
{
    struct fetch_object *self = (struct fetch_object *)object;
    end(self);
    Py_CLEAR(self->reader);
    Py_CLEAR(self->owner);
    return 0;
}

static void fetch_dealloc(PyObject *object)
{
    struct fetch_object *self = (struct fetch_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    PyObject *exception = bind_take_exception();
    fetch_clear(object);
    bind_restore_exception(exception);
    PyMem_RawFree(self->items);
    PyMem_RawFree(self->places);
    PyMem_RawFree(self->items_at);
    Py_CLEAR(self->module);
    type->tp_free(object);
    Py_DECREF(type);
}

/* --- targets ------------------------------------------------------------------------------- */

static int call_for_number(PyObject *object, const char *method, unsigned long long *number)
{
    PyObject *result = PyObject_CallMethod(object, method, NULL);
    if (!result) {
        return -1;
    }
    *number = PyLong_AsUnsignedLongLong(result);
    Py_DECREF(result);
    return PyErr_Occurred() ? -1 : 0;
}

int bind_storage_memory(PyObject *storage, char **data, uint64_t *size_bytes)
{
    unsigned long long address = 0, bytes = 0;
    if (call_for_number(storage, "data_ptr", &address) ||
        call_for_number(storage, "nbytes", &bytes)) {
        return -1;
    }
    *data = (char *)(uintptr_t)address;
    *size_bytes = bytes;
    return 0;
}

static PyMethodDef fetch_methods[] = {
    {"wait", fetch_wait, METH_O,
     "wait(index, /)\n--\n\nReturns when item `index` is in its target; raises what went wrong with "
     "any."},
    {"sum", fetch_sum, METH_O,
     "sum(index, /)\n--\n\nThe CRC-32 of item `index`, which must have been waited for."},
    {"wait_all", fetch_wait_all, METH_NOARGS,
     "wait_all()\n--\n\nReturns when every item is in its target."},
    {"close", fetch_close, METH_NOARGS,
     "close()\n--\n\nCancels what still runs. Nothing writes into any target afterwards. RuntimeError while "
     "another call waits."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot fetch_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"Parts of an object on their way into the caller's memory."},
    {Py_tp_dealloc, fetch_dealloc},
    {Py_tp_traverse, fetch_traverse},
    {Py_tp_clear, fetch_clear},
    {Py_tp_methods, fetch_methods},
    {0, NULL},
};

static PyType_Spec fetch_spec = {
    .name = "s3dlio_np._native.Fetch",
    .basicsize = sizeof(struct fetch_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = fetch_slots,
};

int bind_fetch_init(PyObject *module, struct bind_state *state)
{
    state->fetch_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &fetch_spec, NULL);
    return state->fetch_type ? PyModule_AddType(module, state->fetch_type) : -1;
}
