#include "bind/calls.h"

#include "bind/errors.h"
#include "core/config.h"
#include "core/engine.h"

PyObject *bind_configure(PyObject *module, PyObject *args, PyObject *keywords)
{
    static const char *const names[] = {"field", "value", NULL};
    const char *field, *value;
    struct s3d_error error;
    enum s3d_code code;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "sz:configure", BIND_NAMES(names), &field,
                                     &value)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    code = s3d_config_override(field, value, &error);
    Py_END_ALLOW_THREADS
    if (code) {
        return bind_raise(PyModule_GetState(module), &error, NULL);
    }
    Py_RETURN_NONE;
}

struct memory {
    uint64_t held_bytes, peak_bytes, limit_bytes;
};

static struct memory read_budget(struct s3d_budget *budget)
{
    s3d_latch_lock(&budget->latch);
    struct memory memory = {budget->held_bytes, budget->peak_bytes, budget->limit_bytes};
    s3d_latch_unlock(&budget->latch);
    return memory;
}

static int add_number(PyObject *dict, const char *name, uint64_t number)
{
    PyObject *value = PyLong_FromUnsignedLongLong(number);
    int failed = value ? PyDict_SetItemString(dict, name, value) : -1;
    Py_XDECREF(value);
    return failed;
}

static int add_all(PyObject *dict, struct s3d_engine *engine, const struct memory *memory)
{
#define X(field)                                                                               \
    if (add_number(dict, #field,                                                               \
                   atomic_load_explicit(&engine->stats.field, memory_order_relaxed))) {        \
        return -1;                                                                             \
    }
    S3D_COUNTERS(X)
#undef X
    return add_number(dict, "memory_held_bytes", memory->held_bytes) ||
                   add_number(dict, "memory_peak_bytes", memory->peak_bytes) ||
                   add_number(dict, "memory_limit_bytes", memory->limit_bytes)
               ? -1
               : 0;
}

PyObject *bind_stats(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct s3d_engine *engine = NULL;
    struct s3d_error error;
    struct memory memory = {0};
    enum s3d_code code;
    Py_BEGIN_ALLOW_THREADS
    code = s3d_engine_get(&engine, &error);
    Py_END_ALLOW_THREADS
    if (code) {
        return bind_raise(PyModule_GetState(module), &error, NULL);
    }
    Py_BEGIN_ALLOW_THREADS
    memory = read_budget(&engine->budget);
    Py_END_ALLOW_THREADS
    PyObject *dict = PyDict_New();
    if (dict && add_all(dict, engine, &memory)) {
        Py_CLEAR(dict);
    }
    return dict;
}
