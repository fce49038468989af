/* The module s3dlio_np._native: owner of the process's engine. */
#include "bind/arrays.h"
#include "bind/buffers.h"
#include "bind/calls.h"
#include "bind/capi.h"
#include "bind/credentials.h"
#include "bind/errors.h"
#include "bind/archive_reader.h"
#include "bind/archive_writer.h"
#include "bind/fetch.h"
#include "bind/npz_reader.h"
#include "bind/plain.h"
#include "bind/reader.h"
#include "bind/safetensors.h"
#include "bind/wait.h"
#include "bind/writer.h"
#include "backends/open.h"
#include "core/engine.h"
#include "core/mem.h"

#ifndef S3D_VERSION
#define S3D_VERSION "0+unknown"
#endif

/* At interpreter exit: open uploads are aborted, threads joined. Threads may need the GIL to
 * end. */
static PyObject *shut_down(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    bind_exit_begins();
    Py_BEGIN_ALLOW_THREADS
    s3d_callbacks_shut();
    s3d_engine_shutdown();
    s3d_credentials_stop();
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

#ifdef S3D_FAULTS
/* For tests/oom.py; a release has no such thing. */
static PyObject *fail_allocation(PyObject *Py_UNUSED(module), PyObject *number)
{
    unsigned long n = PyLong_AsUnsignedLong(number);
    if (n == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    s3d_mem_fail_at(n);
    Py_RETURN_NONE;
}

static PyObject *allocation_failed(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(s3d_mem_fault_fired());
}
#endif

#define WITH_KEYWORDS(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef methods[] = {
    {"stat", WITH_KEYWORDS(bind_stat), METH_VARARGS | METH_KEYWORDS, "stat(uri)"},
    {"delete", WITH_KEYWORDS(bind_delete), METH_VARARGS | METH_KEYWORDS, "delete(uri)"},
    {"list", WITH_KEYWORDS(bind_list), METH_VARARGS | METH_KEYWORDS, "list(uri)"},
    {"get_into", WITH_KEYWORDS(bind_get_into), METH_VARARGS | METH_KEYWORDS,
     "get_into(uri, buffer, *, offset=0, length=None, part_size=None, max_concurrency=None)"},
    {"get_bytes", WITH_KEYWORDS(bind_get_bytes), METH_VARARGS | METH_KEYWORDS,
     "get_bytes(uri, *, concurrent=None, part_size=None, max_concurrency=None)"},
    {"get_view", WITH_KEYWORDS(bind_get_view), METH_VARARGS | METH_KEYWORDS,
     "get_view(uri, *, writable=False, concurrent=None, part_size=None, max_concurrency=None)"},
    {"verify", WITH_KEYWORDS(bind_verify), METH_VARARGS | METH_KEYWORDS,
     "verify(uri, *, part_size=None, max_concurrency=None)"},
    {"configure", WITH_KEYWORDS(bind_configure), METH_VARARGS | METH_KEYWORDS,
     "configure(field, value)"},
    {"credentials_open", bind_credentials_open, METH_NOARGS,
     "credentials_open()\n--\n\nNew streams ask whoever serves the number returned, by "
     "credentials_wait and credentials_answer, for their credentials."},
    {"credentials_remove", bind_credentials_remove, METH_NOARGS,
     "credentials_remove()\n--\n\nNew streams look for credentials elsewhere again."},
    {"credentials_wait", bind_credentials_wait, METH_O,
     "credentials_wait(number, /)\n--\n\nWaits until credentials are asked for: True. False: they "
     "never will be again."},
    {"credentials_answer", bind_credentials_answer, METH_VARARGS,
     "credentials_answer(number, access_key, secret_key, session_token, expiry, /)\n--\n\nexpiry: "
     "Unix seconds, 0 for never."},
    {"credentials_refuse", bind_credentials_refuse, METH_VARARGS,
     "credentials_refuse(number, why, /)\n--\n\nThose who wait are told why there are none."},
    {"stats", bind_stats, METH_NOARGS, "stats()"},
    {"safetensors_header", bind_safetensors_header, METH_O,
     "safetensors_header(stream, /)\n--\n\nThe header of the safetensors file in an "
     "ObjectReader's object: (offset of the data section, [(name, dtype, shape, offset in "
     "the data section, size in bytes)] in that order, {metadata}). Raises ValueError when it "
     "is broken."},
    {"fetch", WITH_KEYWORDS(bind_fetch_parts), METH_VARARGS | METH_KEYWORDS,
     "fetch(stream, parts, /, *, fresh=False, sums=False)\n--\n\nStarts fetching parts of an "
     "ObjectReader's object, all at once; parts: a tuple of (name for errors, offset, CPU storage to "
     "fill). fresh: all of them lie in the engine's own pages, and nobody has touched them yet. "
     "sums: each part's CRC-32 is computed. Returns the Fetch."},
    {"send", bind_send_part, METH_VARARGS,
     "send(stream, storage, offset, size, /)\n--\n\nAppends a part of a CPU storage to an "
     "ObjectWriter. 64 KiB and more are not copied: the storage is kept, and must not be "
     "changed, until they are sent; close() of the stream is the latest moment."},
    {"refer", bind_refer_buffer, METH_VARARGS,
     "refer(stream, data, /)\n--\n\nLike stream.write(data) of an ObjectWriter, but 64 KiB and more "
     "of contiguous memory are not copied: data is kept, and must not be changed, until they are "
     "sent; close() of the stream is the latest moment."},
    {"allocate", bind_allocate, METH_O,
     "allocate(nbytes, /)\n--\n\nA writable memoryview of fresh page memory, filled with zeros; "
     "it goes back to the system with the last view."},
    {"fetch_arrays", WITH_KEYWORDS(bind_fetch_arrays), METH_VARARGS | METH_KEYWORDS,
     "fetch_arrays(stream, parts, /, *, fresh=False)\n--\n\nLike fetch() into buffers; parts: a tuple of (name "
     "for errors, offset, writable buffer, CRC-32 or None). Parts that are in memory already are "
     "copied before it returns. fresh: buffers of 1 MiB and more come from allocate(), and "
     "nobody has touched them yet."},
    {"send_array", bind_send_array, METH_VARARGS,
     "send_array(stream, buffer, crc, /)\n--\n\nAppends a buffer to an ObjectWriter; returns the "
     "CRC-32 of what `crc` is the sum of and the buffer behind it, None for None. 64 KiB and more "
     "are not copied: the buffer is kept, and must not be changed, until they are sent."},
    {"crc32", bind_crc32, METH_VARARGS, "crc32(buffer, crc=0, /)\n--\n\nAs zlib.crc32."},
    {"crc32_behind", bind_crc32_behind, METH_VARARGS,
     "crc32_behind(whole, first, length, /)\n--\n\nThe CRC-32 of the last `length` bytes of what "
     "`whole` is the sum of, `first` being that of the bytes before them."},
    {"npy_prefix", bind_npy_prefix, METH_VARARGS,
     "npy_prefix(where, head, available, text_max, /)\n--\n\n(major version, where the text "
     "begins, where the elements begin, need) from the first of `available` bytes; need: how many "
     "of them it takes when `head` has too few, else 0. Raises ValueError beginning with `where`."},
    {"npy_bytes", bind_npy_bytes, METH_VARARGS,
     "npy_bytes(where, shape, itemsize, available, /)\n--\n\nThe size of an array, which must "
     "not pass `available`. Raises ValueError beginning with `where`."},
    {"_shut_down", shut_down, METH_NOARGS,
     "Aborts open uploads and joins the engine's threads."},
#ifdef S3D_FAULTS
    {"_fail_allocation", fail_allocation, METH_O,
     "_fail_allocation(n, /)\n--\n\nThe engine's n-th allocation from now fails; 0: none."},
    {"_allocation_failed", allocation_failed, METH_NOARGS,
     "_allocation_failed()\n--\n\nWhether that one came."},
#endif
    {NULL, NULL, 0, NULL},
};

struct bind_state *bind_state_of_type(PyTypeObject *type, PyObject **module)
{
    PyObject *mro = type->tp_mro;
    for (Py_ssize_t i = 0; mro && i < PyTuple_GET_SIZE(mro); i++) {
        PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
        if (!PyType_HasFeature(base, Py_TPFLAGS_HEAPTYPE)) {
            continue;
        }
        PyObject *owner = ((PyHeapTypeObject *)base)->ht_module;
        if (owner && PyModule_GetDef(owner) == &bind_np_module) {
            if (module) {
                *module = owner;
            }
            return PyModule_GetState(owner);
        }
    }
    PyErr_Format(PyExc_TypeError, "%.200s is no type of s3dlio_np._native", type->tp_name);
    return NULL;
}

/* The engine's threads and state are one per process: a second interpreter would share them. */
static int refuse_subinterpreters(void)
{
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(
            PyExc_ImportError,
            "s3dlio_np works in the main interpreter only, not in sub-interpreters");
        return -1;
    }
    return 0;
}

static int shut_down_at_exit(PyObject *module)
{
    PyObject *function = PyObject_GetAttrString(module, "_shut_down");
    PyObject *atexit = function ? PyImport_ImportModule("atexit") : NULL;
    PyObject *done = atexit ? PyObject_CallMethod(atexit, "register", "O", function) : NULL;
    Py_XDECREF(function);
    Py_XDECREF(atexit);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static int execute(PyObject *module)
{
    struct bind_state *state = PyModule_GetState(module);
    return refuse_subinterpreters() || bind_calls_init() || bind_errors_init(module, state) ||
                   bind_pages_init(module, state) || bind_reader_init(module, state) ||
                   bind_writer_init(module, state) || bind_fetch_init(module, state) ||
                   bind_archive_reader_init(module, state) || bind_plain_init(module, state) ||
                   bind_archive_writer_init(module, state) ||
                   bind_npz_reader_init(module, state) || bind_capi_init(module) ||
                   PyModule_AddStringConstant(module, "version", S3D_VERSION) ||
                   shut_down_at_exit(module)
               ? -1
               : 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    struct bind_state *state = PyModule_GetState(module);
    Py_VISIT(state->storage_error);
    Py_VISIT(state->not_found_error);
    Py_VISIT(state->denied_error);
    Py_VISIT(state->exists_error);
    Py_VISIT(state->changed_error);
    Py_VISIT(state->integrity_error);
    Py_VISIT(state->unsupported_error);
    Py_VISIT(state->buffered_base);
    Py_VISIT(state->reader_type);
    Py_VISIT(state->writer_type);
    Py_VISIT(state->pages_type);
    Py_VISIT(state->fetch_type);
    Py_VISIT(state->plain_type);
    Py_VISIT(state->spare_landing);
    return 0;
}

static int clear(PyObject *module)
{
    struct bind_state *state = PyModule_GetState(module);
    Py_CLEAR(state->storage_error);
    Py_CLEAR(state->not_found_error);
    Py_CLEAR(state->denied_error);
    Py_CLEAR(state->exists_error);
    Py_CLEAR(state->changed_error);
    Py_CLEAR(state->integrity_error);
    Py_CLEAR(state->unsupported_error);
    Py_CLEAR(state->buffered_base);
    Py_CLEAR(state->reader_type);
    Py_CLEAR(state->writer_type);
    Py_CLEAR(state->pages_type);
    Py_CLEAR(state->fetch_type);
    Py_CLEAR(state->plain_type);
    Py_CLEAR(state->spare_landing);
    return 0;
}

static void destroy(void *module)
{
    clear(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#ifdef Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

struct PyModuleDef bind_np_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "s3dlio_np._native",
    .m_doc = "The engine of s3dlio: streams, requests, settings. Use s3dlio_np instead.",
    .m_size = sizeof(struct bind_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = destroy,
};

PyMODINIT_FUNC PyInit__native(void); /* for -Wmissing-prototypes */

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&bind_np_module);
}
