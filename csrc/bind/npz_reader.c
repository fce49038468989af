#include "bind/npz_reader.h"

#include "bind/buffers.h"
#include "bind/errors.h"
#include "bind/format.h"
#include "bind/reader.h"
#include "bind/wait.h"
#include "bind/zip_directory.h"
#include "formats/crc.h"
#include "formats/inflate.h"

#include <stdio.h>

enum { INPUT_BYTES = 256 * 1024, UTF8_FLAG = 0x0800 };

/* --- the directory ------------------------------------------------------------------------- */

struct npz_reader {
    struct bind_format format; /* on an ObjectReader */
    struct s3d_zip zip;        /* frozen once open */
};

static PyObject *npz_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"stream", NULL};
    PyObject *stream;
    const struct bind_state *state = bind_state_of_type(type, NULL);
    if (!state ||
        !PyArg_ParseTupleAndKeywords(args, keywords, "O!:NpzReader", BIND_NAMES(names),
                                     state->reader_type, &stream)) {
        return NULL;
    }
    struct npz_reader *self = bind_format_new(type, stream);
    if (self && bind_zip_directory(state, stream, &self->zip)) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

/* As zipfile reads it: UTF-8 where the flag says so, else the code page of old. */
static PyObject *name_of(const struct s3d_zip_entry *entry)
{
    const char *encoding = entry->flags & UTF8_FLAG ? "utf-8" : "cp437";
    return PyUnicode_Decode(entry->name, (Py_ssize_t)entry->name_length, encoding, "strict");
}

static PyObject *member_of(const struct s3d_zip_entry *entry)
{
    PyObject *name = name_of(entry);
    PyObject *member = name ? Py_BuildValue("(OIkKKKK)", name, (unsigned)entry->method,
                                            (unsigned long)entry->crc,
                                            (unsigned long long)entry->header_offset,
                                            (unsigned long long)entry->end_offset,
                                            (unsigned long long)entry->compressed_bytes,
                                            (unsigned long long)entry->size_bytes)
                            : NULL;
    Py_XDECREF(name);
    return member;
}

static PyObject *npz_members(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const struct s3d_zip *zip = &((struct npz_reader *)object)->zip;
    PyObject *members = PyList_New((Py_ssize_t)zip->count);
    for (uint32_t i = 0; members && i < zip->count; i++) {
        PyObject *member = member_of(&zip->entries[i]);
        if (member) {
            PyList_SET_ITEM(members, (Py_ssize_t)i, member);
        } else {
            Py_CLEAR(members);
        }
    }
    return members;
}

static PyObject *npz_local(PyObject *object, PyObject *args)
{
    const struct npz_reader *self = (struct npz_reader *)object;
    unsigned int index;
    Py_buffer head;
    struct s3d_zip_local local;
    size_t need;
    struct s3d_error error;
    if (!PyArg_ParseTuple(args, "Iy*:local", &index, &head)) {
        return NULL;
    }
    enum s3d_code code = index < self->zip.count
                             ? s3d_zip_local(&self->zip.entries[index], head.buf,
                                             (size_t)head.len, &local, &need, &error)
                             : s3d_fail(&error, S3D_INVALID, "there is no such member");
    PyBuffer_Release(&head);
    if (code == S3D_AGAIN) {
        return Py_BuildValue("(Kn)", 0ULL, (Py_ssize_t)need);
    }
    return code ? bind_format_raise(&self->format, &error)
                : Py_BuildValue("(Kn)", (unsigned long long)local.data_offset, (Py_ssize_t)0);
}

static void npz_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    s3d_zip_close(&((struct npz_reader *)object)->zip);
    bind_format_dealloc(object);
}

static PyMethodDef npz_methods[] = {
    {"members", npz_members, METH_NOARGS,
     "members()\n--\n\n[(name, method, crc, header_offset, end_offset, compressed, size)] in the "
     "directory's order; a member's bytes, local header included, lie within [header_offset, "
     "end_offset)."},
    {"local", npz_local, METH_VARARGS,
     "local(index, head, /)\n--\n\n(data_offset, 0) from the bytes at header_offset, which are held "
     "against the directory; (0, need) when it takes so many of them."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot npz_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"NpzReader(stream)\n--\n\nThe zip directory of an object."},
    {Py_tp_new, npz_new},
    {Py_tp_dealloc, npz_dealloc},
    {Py_tp_traverse, bind_format_traverse},
    {Py_tp_methods, npz_methods},
    {0, NULL},
};

static PyType_Spec npz_spec = {
    .name = "s3dlio_np._native.NpzReader",
    .basicsize = sizeof(struct npz_reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = npz_slots,
};

/* --- deflated members ---------------------------------------------------------------------- */

/* The stream's own read-ahead brings the input; only a piece of it is here at a time. */
struct inflater {
    struct bind_format format; /* on an ObjectReader */
    PyObject *name;            /* str: for errors */
    struct bind_lock lock;
    /* locked{lock} */
    struct s3d_inflate *inflate;
    char *input;
    size_t input_at, input_bytes;     /* what of `input` is still to be used */
    uint64_t next_offset, end_offset; /* of the compressed bytes that are still to be read */
    uint64_t made_bytes, size_bytes;  /* inflated so far, and in all */
    uint32_t sum, crc;                /* of what was inflated, and what it must become */
};

static int fail_damaged(const struct inflater *self, const char *why)
{
    const char *name = PyUnicode_AsUTF8(self->name);
    struct s3d_error error;
    if (name) {
        s3d_fail(&error, S3D_INTEGRITY, "%.200s is damaged: %.200s", name, why);
        bind_format_raise(&self->format, &error);
    }
    return -1;
}

static int read_input(struct inflater *self)
{
    uint64_t left = self->end_offset - self->next_offset;
    size_t length = left < INPUT_BYTES ? (size_t)left : INPUT_BYTES;
    if (bind_reader_read_at(self->format.stream, self->next_offset, self->input, length)) {
        return -1;
    }
    self->input_at = 0;
    self->input_bytes = length;
    self->next_offset += length;
    return 0;
}

/* Inflates from the input that is here; *made is how much came of it. 0 or -1. */
static int run(struct inflater *self, char *to, size_t wanted, size_t *made)
{
    struct s3d_error error;
    enum s3d_code code;
    size_t used = 0;
    uint32_t sum = self->sum;
    Py_BEGIN_ALLOW_THREADS
    code = s3d_inflate_run(self->inflate, self->input + self->input_at,
                           self->input_bytes - self->input_at, to, wanted, &used, made, &error);
    sum = s3d_crc32(sum, to, *made);
    Py_END_ALLOW_THREADS
    self->sum = sum;
    self->input_at += used;
    self->made_bytes += *made;
    return code ? fail_damaged(self, error.message) : 0;
}

/* Pieces of the size of the input, so that their sum is taken while they are in the cache. */
static int inflate_into(struct inflater *self, char *to, size_t length)
{
    size_t at = 0;
    while (at < length) {
        size_t made = 0, wanted = length - at < INPUT_BYTES ? length - at : INPUT_BYTES;
        if (run(self, to + at, wanted, &made)) {
            return -1;
        }
        at += made;
        if (made) {
            continue;
        }
        if (s3d_inflate_ended(self->inflate)) {
            return fail_damaged(self, "it ends before the size that the archive says");
        }
        if (self->next_offset == self->end_offset) {
            return fail_damaged(self, "its compressed bytes are cut short");
        }
        if (read_input(self)) {
            return -1;
        }
    }
    return 0;
}

/* Behind the last byte there must be no other, and the end mark. */
static int check_end(struct inflater *self)
{
    char more;
    size_t made = 0;
    while (!s3d_inflate_ended(self->inflate)) {
        if (run(self, &more, 1, &made)) {
            return -1;
        }
        if (made) {
            return fail_damaged(self, "it goes on beyond the size that the archive says");
        }
        if (s3d_inflate_ended(self->inflate)) {
            break;
        }
        if (self->next_offset == self->end_offset) {
            return fail_damaged(self, "its compressed bytes are cut short");
        }
        if (read_input(self)) {
            return -1;
        }
    }
    if (self->sum == self->crc) {
        return 0;
    }
    char why[80];
    snprintf(why, sizeof why, "its CRC-32 is %08x, but the archive says %08x", self->sum,
             self->crc);
    return fail_damaged(self, why);
}

static int read_into(struct inflater *self, char *to, size_t length)
{
    if (length > self->size_bytes - self->made_bytes) {
        PyErr_Format(PyExc_ValueError, "%U: %zu bytes are wanted, but %llu are left",
                     self->name, length,
                     (unsigned long long)(self->size_bytes - self->made_bytes));
        return -1;
    }
    if (inflate_into(self, to, length)) {
        return -1;
    }
    return self->made_bytes == self->size_bytes ? check_end(self) : 0;
}

static PyObject *inflater_readinto(PyObject *object, PyObject *buffer)
{
    struct inflater *self = (struct inflater *)object;
    Py_buffer view;
    int failed = -1;
    if (bind_buffer_to_fill(buffer, &view, "readinto()")) {
        return NULL;
    }
    if (!bind_lock_enter(&self->lock, object)) {
        failed = read_into(self, view.buf, (size_t)view.len);
        bind_lock_leave(&self->lock);
    }
    PyBuffer_Release(&view);
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int inflater_init(struct inflater *self)
{
    struct s3d_error error;
    self->input = PyMem_RawMalloc(INPUT_BYTES);
    if (!self->input) {
        PyErr_NoMemory();
        return -1;
    }
    if (s3d_inflate_new(&self->inflate, &error)) {
        bind_raise(self->format.state, &error, NULL);
        return -1;
    }
    return bind_lock_init(&self->lock);
}

static PyObject *inflater_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"stream", "name", "offset", "compressed",
                                        "size",   "crc",  NULL};
    PyObject *stream, *name;
    unsigned long long offset, compressed, size;
    unsigned int crc;
    const struct bind_state *state = bind_state_of_type(type, NULL);
    if (!state || !PyArg_ParseTupleAndKeywords(args, keywords, "O!UKKKI:Inflater",
                                               BIND_NAMES(names), state->reader_type, &stream,
                                               &name, &offset, &compressed, &size, &crc)) {
        return NULL;
    }
    uint64_t object_bytes;
    if (bind_reader_size(stream, &object_bytes)) {
        return NULL;
    }
    if (offset > object_bytes || compressed > object_bytes - offset) {
        return PyErr_Format(PyExc_ValueError, "%U: it is not all in the object", name);
    }
    struct inflater *self = bind_format_new(type, stream);
    if (!self) {
        return NULL;
    }
    self->name = Py_NewRef(name);
    self->next_offset = offset;
    self->end_offset = offset + compressed;
    self->size_bytes = size;
    self->crc = crc;
    if (inflater_init(self)) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void inflater_dealloc(PyObject *object)
{
    struct inflater *self = (struct inflater *)object;
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->name);
    s3d_inflate_free(self->inflate);
    PyMem_RawFree(self->input);
    bind_lock_fini(&self->lock);
    bind_format_dealloc(object);
}

static PyMethodDef inflater_methods[] = {
    {"readinto", inflater_readinto, METH_O,
     "readinto(buffer, /)\n--\n\nFills the buffer with what follows, inflated while it arrives. "
     "With the last byte the end and the CRC-32 are checked."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot inflater_slots[] = {
    {Py_tp_doc,
     (void *)(uintptr_t)"Inflater(stream, name, offset, compressed, size, crc)\n--\n\n"
                        "A deflated member of an archive, from its start to its end."},
    {Py_tp_new, inflater_new},
    {Py_tp_dealloc, inflater_dealloc},
    {Py_tp_traverse, bind_format_traverse},
    {Py_tp_methods, inflater_methods},
    {0, NULL},
};

static PyType_Spec inflater_spec = {
    .name = "s3dlio_np._native.Inflater",
    .basicsize = sizeof(struct inflater),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = inflater_slots,
};

int bind_npz_reader_init(PyObject *module, struct bind_state *Py_UNUSED(state))
{
    return bind_format_add(module, &npz_spec) || bind_format_add(module, &inflater_spec) ? -1
                                                                                         : 0;
}
