/*
 * The module s3dlio_torch._native: tensors over the engine's page memory, by libtorch's C ABI.
 *
 * It registers one operator, s3dlio_native::empty(int nbytes) -> Tensor. It links no engine of
 * its own but takes s3dlio_np._native's (bind/capi.h).
 */
#include "bind/capi.h"
#include "bind/torch_abi.h"

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

static struct torch_tensor *tensor_over(void *data, size_t bytes)
{
    struct torch_tensor *tensor = NULL;
    int64_t size = (int64_t)bytes, stride = 1;
    int32_t failed = torch_from_blob(
        data, 1, &size, &stride, 0, aoti_torch_dtype_uint8(), aoti_torch_device_type_cpu(), -1,
        &tensor, aoti_torch_layout_strided(), NULL, 0, free_pages, (void *)(uintptr_t)bytes);
    return failed ? NULL : tensor;
}

/*
 * C cannot throw, and an operator has no other way to fail: when there is no memory the result
 * is a tensor of no bytes, which s3dlio_torch._memory looks for.
 */
static void empty(torch_value *stack, uint64_t Py_UNUSED(argument_count),
                  uint64_t Py_UNUSED(result_count))
{
    static char nothing[1];
    int64_t wanted = (int64_t)stack[0];
    size_t bytes = wanted > 0 ? (size_t)wanted : 0;
    void *data = bytes ? api->pages_alloc(bytes) : NULL;
    struct torch_tensor *tensor = data ? tensor_over(data, bytes) : NULL;
    if (data && !tensor) {
        api->pages_free(data, bytes);
    }
    if (!tensor) {
        int64_t size = 0, stride = 1;
        /* Only a failure to allocate the tensor's own few bytes leaves it NULL: torch then
         * raises for an undefined result. */
        (void)torch_from_blob(nothing, 1, &size, &stride, 0, aoti_torch_dtype_uint8(),
                              aoti_torch_device_type_cpu(), -1, &tensor,
                              aoti_torch_layout_strided(), NULL, 0, NULL, NULL);
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
        /* Without tensor arguments there is nothing to dispatch on but this key. */
        aoti_torch_library_init_impl("s3dlio_native", "CompositeExplicitAutograd", __FILE__,
                                     __LINE__, &kernel) ||
        aoti_torch_library_impl(kernel, "empty", empty)) {
        raise_torch_error("torch did not register s3dlio_native::empty");
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
    if (!torch_from_blob) {
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
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void); /* for -Wmissing-prototypes */

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
