#include "bind/torch_tensors.h"

/*
 * What the call under way on this thread is to make. An operator has no context, and torch drops
 * the GIL around it, so that other threads may make tensors at the same time.
 */
static _Thread_local const struct bind_plain *under_way;

static int32_t torch_dtype(enum s3d_plain_dtype dtype)
{
    switch (dtype) {
    case S3D_PLAIN_uint8: return aoti_torch_dtype_uint8();
    case S3D_PLAIN_int8: return aoti_torch_dtype_int8();
    case S3D_PLAIN_int16: return aoti_torch_dtype_int16();
    case S3D_PLAIN_int32: return aoti_torch_dtype_int32();
    case S3D_PLAIN_int64: return aoti_torch_dtype_int64();
    case S3D_PLAIN_float16: return aoti_torch_dtype_float16();
    case S3D_PLAIN_float32: return aoti_torch_dtype_float32();
    case S3D_PLAIN_float64: return aoti_torch_dtype_float64();
    case S3D_PLAIN_bfloat16: return aoti_torch_dtype_bfloat16();
    case S3D_PLAIN_complex64: return aoti_torch_dtype_complex64();
    case S3D_PLAIN_complex128: return aoti_torch_dtype_complex128();
    case S3D_PLAIN_bool: return aoti_torch_dtype_bool();
    case S3D_PLAIN_uint16: return aoti_torch_dtype_uint16();
    case S3D_PLAIN_uint32: return aoti_torch_dtype_uint32();
    case S3D_PLAIN_uint64: return aoti_torch_dtype_uint64();
    case S3D_PLAIN_float8_e4m3fn: return aoti_torch_dtype_float8_e4m3fn();
    case S3D_PLAIN_float8_e4m3fnuz: return aoti_torch_dtype_float8_e4m3fnuz();
    case S3D_PLAIN_float8_e5m2: return aoti_torch_dtype_float8_e5m2();
    case S3D_PLAIN_float8_e5m2fnuz: return aoti_torch_dtype_float8_e5m2fnuz();
    case S3D_PLAIN_float8_e8m0fnu: return torch_dtype_float8_e8m0fnu();
    case S3D_PLAIN_complex32: return aoti_torch_dtype_complex32();
    case S3D_PLAIN_DTYPE_COUNT: break;
    }
    return -1;
}

/* --- tensors ------------------------------------------------------------------------------- */

struct making {
    const struct bind_plain *plain;
    struct torch_tensor **whole; /* by storage: over all of it, where several share it */
};

/* A tensor with a storage of its own over a place, which it holds from then on. */
static struct torch_tensor *over_place(const struct making *making, uint32_t storage,
                                       int64_t dimensions, const int64_t *sizes,
                                       const int64_t *strides)
{
    const struct bind_plain_place *place = &making->plain->places[storage];
    enum s3d_plain_dtype dtype =
        (enum s3d_plain_dtype)making->plain->scan->storages[storage].dtype;
    struct torch_tensor *tensor = NULL;
    if (place->slab) {
        making->plain->hold(place->slab);
    }
    if (!torch_from_blob(place->data, dimensions, sizes, strides, 0, torch_dtype(dtype),
                         aoti_torch_device_type_cpu(), -1, &tensor, aoti_torch_layout_strided(),
                         NULL, 0, place->slab ? making->plain->release : NULL, place->slab)) {
        return tensor;
    }
    if (place->slab) {
        making->plain->release(NULL, place->slab);
    }
    return NULL;
}

static struct torch_tensor *whole_of(const struct making *making, uint32_t number)
{
    if (!making->whole[number]) {
        const struct s3d_plain_storage *storage = &making->plain->scan->storages[number];
        int64_t size = (int64_t)(storage->bytes / storage->element_bytes), stride = 1;
        making->whole[number] = over_place(making, number, 1, &size, &stride);
    }
    return making->whole[number];
}

static struct torch_tensor *make_tensor(const struct making *making,
                                        const struct s3d_plain_tensor *spec)
{
    const struct s3d_plain *scan = making->plain->scan;
    const struct s3d_plain_storage *storage = &scan->storages[spec->storage];
    const int64_t *sizes = scan->extents + spec->shape;
    const int64_t *strides = sizes + spec->dimensions;
    struct torch_tensor *tensor = NULL;
    if (storage->users == 1 && spec->offset == 0 && spec->bytes == storage->bytes) {
        tensor = over_place(making, spec->storage, spec->dimensions, sizes, strides);
    } else {
        struct torch_tensor *whole = whole_of(making, spec->storage);
        if (whole && aoti_torch__reinterpret_tensor(whole, spec->dimensions, sizes, strides,
                                                    spec->offset, &tensor)) {
            tensor = NULL;
        }
    }
    if (tensor && spec->requires_grad && torch_set_requires_grad(tensor, true)) {
        (void)aoti_torch_delete_tensor_object(tensor);
        tensor = NULL;
    }
    return tensor;
}

/* As many as can be made: the caller counts them. */
static void fill_list(struct torch_list *list, const struct making *making)
{
    for (size_t i = 0; i < making->plain->scan->tensor_count; i++) {
        struct torch_tensor *tensor = make_tensor(making, &making->plain->scan->tensors[i]);
        if (!tensor || torch_list_push_back(list, (torch_value)(uintptr_t)tensor)) {
            return;
        }
    }
}

void torch_tensors(torch_value *stack, uint64_t Py_UNUSED(argument_count),
                   uint64_t Py_UNUSED(result_count))
{
    struct making making = {.plain = under_way};
    size_t count = making.plain ? making.plain->scan->tensor_count : 0;
    size_t storages = making.plain ? making.plain->scan->storage_count : 0;
    struct torch_list *list = NULL;
    if (torch_new_list_reserve_size(count, &list) && torch_new_list_reserve_size(0, &list)) {
        list = NULL; /* C cannot throw: without memory for an empty list there is no way out */
    }
    making.whole = PyMem_RawCalloc(storages + 1, sizeof *making.whole);
    if (list && making.whole) {
        if (making.plain) {
            fill_list(list, &making);
        }
        for (size_t i = 0; i < storages; i++) {
            if (making.whole[i]) {
                (void)aoti_torch_delete_tensor_object(making.whole[i]);
            }
        }
    }
    PyMem_RawFree(making.whole);
    stack[0] = (torch_value)(uintptr_t)list;
}

/* --- the call ------------------------------------------------------------------------------ */

PyObject *torch_tensors_make(const struct bind_capi *api, PyObject *args)
{
    PyObject *object, *operator;
    if (!PyArg_ParseTuple(args, "OO:make_tensors", &object, &operator)) {
        return NULL;
    }
    const struct bind_plain *plain = api->plain_of(object);
    if (!plain) {
        return NULL;
    }
    const struct bind_plain *outer = under_way;
    under_way = plain;
    PyObject *tensors = PyObject_CallNoArgs(operator);
    under_way = outer;
    if (tensors && (!PyList_Check(tensors) ||
                    (size_t)PyList_GET_SIZE(tensors) != plain->scan->tensor_count)) {
        Py_CLEAR(tensors);
        const char *why = torch_exception_get_what_without_backtrace
                              ? torch_exception_get_what_without_backtrace()
                              : "no reason given";
        PyErr_Format(PyExc_MemoryError, "torch did not make all tensors: %.500s", why);
    }
    return tensors;
}
