#include "bind/plain_build.h"

struct building {
    const struct s3d_plain *plain;
    const struct bind_plain_parts *parts;
    PyObject **values; /* by step; NULL: not alive, or not made yet */
    PyObject *hooks;   /* "_backward_hooks" */
};

/* --- containers ---------------------------------------------------------------------------- */

static PyObject *operand(const struct building *building, const struct s3d_plain_step *step,
                         uint32_t i)
{
    return building->values[building->plain->operands[step->first + i]];
}

static PyObject *make_tuple(const struct building *building, const struct s3d_plain_step *step)
{
    PyObject *tuple = PyTuple_New(step->count);
    for (uint32_t i = 0; tuple && i < step->count; i++) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(operand(building, step, i)));
    }
    return tuple;
}

static int append(const struct building *building, const struct s3d_plain_step *step)
{
    for (uint32_t i = 0; i < step->count; i++) {
        if (PyList_Append(building->values[step->target], operand(building, step, i))) {
            return -1;
        }
    }
    return 0;
}

static int set_items(const struct building *building, const struct s3d_plain_step *step)
{
    PyObject *dict = building->values[step->target];
    bool ordered = building->plain->steps[step->target].kind == S3D_PLAIN_ORDERED_DICT;
    for (uint32_t i = 0; i < step->count; i += 2) {
        PyObject *key = operand(building, step, i), *value = operand(building, step, i + 1);
        if (ordered ? PyODict_SetItem(dict, key, value) : PyDict_SetItem(dict, key, value)) {
            return -1;
        }
    }
    return 0;
}

static int set_state(const struct building *building, const struct s3d_plain_step *step)
{
    PyObject *own = PyObject_GetAttrString(building->values[step->target], "__dict__");
    int failed = own ? PyDict_Update(own, building->values[step->first]) : -1;
    Py_XDECREF(own);
    return failed;
}

/* --- values -------------------------------------------------------------------------------- */

static PyObject *make_long(const struct building *building, const struct s3d_plain_step *step)
{
    PyObject *from_bytes = PyObject_GetAttrString((PyObject *)&PyLong_Type, "from_bytes");
    PyObject *args = Py_BuildValue("(y#s)", building->plain->pickle + step->first,
                                   (Py_ssize_t)step->count, "little");
    PyObject *names = Py_BuildValue("{sO}", "signed", Py_True);
    PyObject *value =
        from_bytes && args && names ? PyObject_Call(from_bytes, args, names) : NULL;
    Py_XDECREF(from_bytes);
    Py_XDECREF(args);
    Py_XDECREF(names);
    return value;
}

static PyObject *make_complex(const struct building *building,
                              const struct s3d_plain_step *step)
{
    return PyComplex_FromDoubles(PyFloat_AS_DOUBLE(operand(building, step, 0)),
                                 PyFloat_AS_DOUBLE(operand(building, step, 1)));
}

static PyObject *make_parameter(const struct building *building,
                                const struct s3d_plain_step *step)
{
    const struct bind_plain_parts *parts = building->parts;
    PyObject *args[] = {parts->parameter_type, building->values[step->target],
                        step->flag ? Py_True : Py_False};
    return PyObject_Vectorcall(parts->make_parameter, args, 3, NULL);
}

/* What every tensor from a pickle has. Takes over the reference. */
static PyObject *with_hooks(const struct building *building, PyObject *tensor)
{
    PyObject *hooks = tensor ? PyODict_New() : NULL;
    if (!hooks || PyObject_SetAttr(tensor, building->hooks, hooks)) {
        Py_CLEAR(tensor);
    }
    Py_XDECREF(hooks);
    return tensor;
}

static PyObject *make(const struct building *building, const struct s3d_plain_step *step)
{
    const struct bind_plain_parts *parts = building->parts;
    const char *pickle = (const char *)building->plain->pickle;
    switch ((enum s3d_plain_kind)step->kind) {
    case S3D_PLAIN_NONE: return Py_NewRef(Py_None);
    case S3D_PLAIN_FALSE: return Py_NewRef(Py_False);
    case S3D_PLAIN_TRUE: return Py_NewRef(Py_True);
    case S3D_PLAIN_INTEGER: return PyLong_FromLongLong(step->integer);
    case S3D_PLAIN_LONG: return make_long(building, step);
    case S3D_PLAIN_REAL: return PyFloat_FromDouble(step->real);
    case S3D_PLAIN_TEXT: return PyUnicode_DecodeUTF8(pickle + step->first, step->count, NULL);
    case S3D_PLAIN_TUPLE: return make_tuple(building, step);
    case S3D_PLAIN_LIST: return PyList_New(0);
    case S3D_PLAIN_DICT: return PyDict_New();
    case S3D_PLAIN_ORDERED_DICT: return PyODict_New();
    case S3D_PLAIN_SET: return PySet_New(building->values[step->target]);
    case S3D_PLAIN_BYTES: return PyUnicode_AsLatin1String(building->values[step->target]);
    case S3D_PLAIN_BYTEARRAY:
        return step->count ? PyByteArray_FromObject(building->values[step->target])
                           : PyByteArray_FromStringAndSize(NULL, 0);
    case S3D_PLAIN_COMPLEX: return make_complex(building, step);
    case S3D_PLAIN_SIZE:
        return PyObject_CallOneArg(parts->size_type, building->values[step->target]);
    case S3D_PLAIN_DTYPE: return Py_NewRef(PyTuple_GET_ITEM(parts->dtypes, step->index));
    case S3D_PLAIN_DEVICE:
        return PyObject_CallObject(parts->device_type, building->values[step->target]);
    case S3D_PLAIN_TENSOR:
        return with_hooks(building, Py_NewRef(PyTuple_GET_ITEM(parts->tensors, step->index)));
    case S3D_PLAIN_PARAMETER: return with_hooks(building, make_parameter(building, step));
    case S3D_PLAIN_STORAGE:
    case S3D_PLAIN_FUNCTION:
    case S3D_PLAIN_APPEND:
    case S3D_PLAIN_SET_ITEMS:
    case S3D_PLAIN_SET_STATE: break;
    }
    PyErr_BadInternalCall(); /* the scan promises that none of these is a value */
    return NULL;
}

static int run_step(const struct building *building, size_t i)
{
    const struct s3d_plain_step *step = &building->plain->steps[i];
    switch (step->kind) {
    case S3D_PLAIN_APPEND: return append(building, step);
    case S3D_PLAIN_SET_ITEMS: return set_items(building, step);
    case S3D_PLAIN_SET_STATE: return set_state(building, step);
    default: building->values[i] = make(building, step); return building->values[i] ? 0 : -1;
    }
}

static PyObject *run(const struct building *building)
{
    const struct s3d_plain *plain = building->plain;
    for (size_t i = 0; i < plain->step_count; i++) {
        if (plain->steps[i].alive && run_step(building, i)) {
            return NULL;
        }
    }
    return Py_NewRef(building->values[plain->result]);
}

PyObject *bind_plain_build(const struct s3d_plain *plain, const struct bind_plain_parts *parts)
{
    struct building building = {.plain = plain, .parts = parts};
    PyObject *result = NULL;
    if ((size_t)PyTuple_GET_SIZE(parts->tensors) != plain->tensor_count ||
        PyTuple_GET_SIZE(parts->dtypes) != S3D_PLAIN_DTYPE_COUNT) {
        PyErr_SetString(PyExc_ValueError, "not as many tensors or dtypes as are needed");
        return NULL;
    }
    building.values = PyMem_RawCalloc(plain->step_count, sizeof *building.values);
    building.hooks = PyUnicode_InternFromString("_backward_hooks");
    if (building.values && building.hooks) {
        result = run(&building);
    } else if (!PyErr_Occurred()) {
        PyErr_NoMemory();
    }
    for (size_t i = 0; building.values && i < plain->step_count; i++) {
        Py_XDECREF(building.values[i]);
    }
    PyMem_RawFree(building.values);
    Py_XDECREF(building.hooks);
    return result;
}
