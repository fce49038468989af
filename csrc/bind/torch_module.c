/*
 * The module s3dlio_torch._native: tensors over the engine's page memory, by libtorch's C ABI.
 *
 * It registers the operators s3dlio_native::empty(int nbytes) -> Tensor and the two below it. It
 * links no engine of its own but takes s3dlio_np._native's (bind/capi.h).
 */
#include "bind/capi.h"
#include "bind/torch_tensors.h"

#include <stdbool.h>

/*
 * Process-wide, as torch's registry of operators is, and as boxed operators have no context.
 * Set once under the GIL, before the operator can be called; never changed.
 */
static const struct bind_capi *api;

/* --- the operator ------------------------------------------------------------------------- */

/* The size travels as the context. */
static void free_pages(void *data, void *context)
{
    api->pages_free(data, (uintptr_t)context);
}

static struct torch_tensor *tensor_over(void *data, size_t bytes, torch_deleter *deleter,
                                        void *context)
{
    struct torch_tensor *tensor = NULL;
    int64_t size = (int64_t)bytes, stride = 1;
    int32_t failed = torch_from_blob(data, 1, &size, &stride, 0, aoti_torch_dtype_uint8(),
                                     aoti_torch_device_type_cpu(), -1, &tensor,
                                     aoti_torch_layout_strided(), NULL, 0, deleter, context);
    return failed ? NULL : tensor;
}

/*
 * C cannot throw, and an operator has no other way to fail: then the result is a tensor of no
 * bytes, which s3dlio_torch._memory looks for. NULL only when not even that can be had: torch then
 * raises for an undefined result.
 */
static struct torch_tensor *empty_tensor(void)
{
    /* Without an address, as torch's own: torch.save takes storages at one address for aliases. */
    return tensor_over(NULL, 0, NULL, NULL);
}

static void empty(torch_value *stack, uint64_t Py_UNUSED(argument_count),
                  uint64_t Py_UNUSED(result_count))
{
    int64_t wanted = (int64_t)stack[0];
    size_t bytes = wanted > 0 ? (size_t)wanted : 0;
    void *data = bytes ? api->pages_alloc(bytes) : NULL;
    struct torch_tensor *tensor =
        data ? tensor_over(data, bytes, free_pages, (void *)(uintptr_t)bytes) : NULL;
    if (data && !tensor) {
        api->pages_free(data, bytes);
    }
    stack[0] = (torch_value)(uintptr_t)(tensor ? tensor : empty_tensor());
}

/* The base lives as long as a view of it. */
static void drop_base(void *Py_UNUSED(data), void *base)
{
    (void)aoti_torch_delete_tensor_object(base);
}

/* A tensor, with a storage of its own, over [offset, offset + nbytes) of a CPU tensor's bytes. */
static void view(torch_value *stack, uint64_t Py_UNUSED(argument_count),
                 uint64_t Py_UNUSED(result_count))
{
    struct torch_tensor *base = (struct torch_tensor *)(uintptr_t)stack[0];
    int64_t offset = (int64_t)stack[1], bytes = (int64_t)stack[2], size = 0;
    void *data = NULL;
    struct torch_tensor *tensor = NULL;
    bool fits = !aoti_torch_get_numel(base, &size) && !aoti_torch_get_data_ptr(base, &data) &&
                offset >= 0 && bytes > 0 && bytes <= size && offset <= size - bytes;
    if (fits) {
        tensor = tensor_over((char *)data + offset, (size_t)bytes, drop_base, base);
    }
    if (!tensor) {
        drop_base(NULL, base); /* the argument is ours to drop */
        tensor = empty_tensor();
    }
    stack[0] = (torch_value)(uintptr_t)tensor;
}

/* --- registration ------------------------------------------------------------------------- */

static int raise_torch_error(const char *what)
{
    const char *why = torch_exception_get_what_without_backtrace
                          ? torch_exception_get_what_without_backtrace()
                          : "no reason given";
    PyErr_Format(PyExc_ImportError, "%s: %.500s", what, why);
    return -1;
}

static int register_operator(void)
{
    struct torch_library *schema = NULL, *kernel = NULL;
    if (aoti_torch_library_init_fragment("s3dlio_native", __FILE__, __LINE__, &schema) ||
        aoti_torch_library_def(schema, "empty(int nbytes) -> Tensor") ||
        aoti_torch_library_def(schema, "view(Tensor base, int offset, int nbytes) -> Tensor") ||
        aoti_torch_library_def(schema, TORCH_TENSORS_SCHEMA) ||
        /* Without tensor arguments there is nothing to dispatch on but this key. */
        aoti_torch_library_init_impl("s3dlio_native", "CompositeExplicitAutograd", __FILE__,
                                     __LINE__, &kernel) ||
        aoti_torch_library_impl(kernel, "empty", empty) ||
        aoti_torch_library_impl(kernel, "view", view) ||
        aoti_torch_library_impl(kernel, "tensors", torch_tensors)) {
        raise_torch_error("torch did not register s3dlio_native's operators");
        if (kernel) {
            aoti_torch_delete_library_object(kernel);
        }
        if (schema) {
            aoti_torch_delete_library_object(schema);
        }
        return -1;
    }
    return 0; /* both stay for the life of the process: deleting them would unregister */
}

static int execute(PyObject *Py_UNUSED(module))
{
    if (api) {
        return 0; /* imported anew: the operator is there */
    }
    if (!torch_from_blob || !torch_new_list_reserve_size || !torch_list_push_back ||
        !torch_set_requires_grad || !torch_dtype_float8_e8m0fnu) {
        PyErr_SetString(PyExc_ImportError, "s3dlio_torch._native needs torch 2.11 or newer");
        return -1;
    }
    const struct bind_capi *table = bind_capi_import();
    if (!table) {
        return -1;
    }
    api = table;
    if (register_operator()) {
        api = NULL;
        return -1;
    }
    return 0;
}

static PyObject *make_tensors(PyObject *Py_UNUSED(module), PyObject *args)
{
    return torch_tensors_make(api, args);
}

static PyMethodDef methods[] = {
    {"make_tensors", make_tensors, METH_VARARGS,
     "make_tensors(plain, operator, /)\n--\n\nA list of all tensors of a Plain, by "
     "torch.ops.s3dlio_native.tensors. Raises MemoryError when torch makes too few."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#ifdef Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "s3dlio_torch._native",
    .m_doc = "Registers torch.ops.s3dlio_native. Import torch first.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void); /* for -Wmissing-prototypes */

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
