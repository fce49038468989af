#include "bind/capi.h"

#include "bind/errors.h"
#include "backends/open.h"
#include "core/mem.h"

#include <string.h>

static enum s3d_code store_open(struct s3d_store **store, struct s3d_uri *uri, const char *text,
                                size_t length, struct s3d_error *error)
{
    enum s3d_code code = s3d_uri_parse(uri, text, length, error);
    if (code) {
        memset(uri, 0, sizeof *uri);
        return code;
    }
    code = s3d_store_open(store, uri, error);
    if (code) {
        s3d_uri_fini(uri);
        memset(uri, 0, sizeof *uri);
    }
    return code;
}

static PyObject *raise_error(PyObject *module, const struct s3d_error *error, const char *uri)
{
    const struct bind_state *state = PyModule_GetState(module);
    return state ? bind_raise(state, error, uri) : NULL;
}

static const struct bind_capi table = {
    .version = BIND_CAPI_VERSION,
    .size = sizeof table,
    .engine_get = s3d_engine_get,
    .store_open = store_open,
    .store_release = s3d_store_release,
    .uri_fini = s3d_uri_fini,
    .pages_alloc = s3d_pages_alloc,
    .pages_free = s3d_pages_free,
    .raise_error = raise_error,
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
