#include "bind/capi.h"

#include "core/mem.h"

static const struct bind_capi table = {
    .version = BIND_CAPI_VERSION,
    .size = sizeof table,
    .pages_alloc = s3d_pages_alloc,
    .pages_free = s3d_pages_free,
    .plain_of = bind_plain_of,
};

int bind_capi_init(PyObject *module)
{
    /* Capsules carry void *; importers take the table as const again. */
    PyObject *capsule = PyCapsule_New((void *)(uintptr_t)&table, BIND_CAPI_NAME, NULL);
    if (!capsule) {
        return -1;
    }
    int failed = PyModule_AddObjectRef(module, "_C_API", capsule);
    Py_DECREF(capsule);
    return failed;
}
