/*
 * What other extension modules need of the engine: one table in the capsule
 * s3dlio_np._native._C_API.
 *
 * Whoever needs it (s3dlio_torch._native) imports this table instead of linking a second copy of
 * the engine. New functions are added at the end and `size` tells which are there; `version`
 * changes only when an old importer would go wrong. None of these functions touches Python but
 * plain_of.
 */
#ifndef S3D_BIND_CAPI_H
#define S3D_BIND_CAPI_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "bind/plain.h"

#include <stdint.h>

#define BIND_CAPI_NAME "s3dlio_np._native._C_API"

enum { BIND_CAPI_VERSION = 2 };

struct bind_capi {
    uint32_t version;
    size_t size; /* of this struct as the exporter knows it */

    void *(*pages_alloc)(size_t bytes);
    void (*pages_free)(void *memory, size_t bytes);

    /* bind_plain_of, under the GIL. */
    const struct bind_plain *(*plain_of)(PyObject *object);
};

/* For the exporter: adds the capsule to the module. 0, or -1 with an exception. */
int bind_capi_init(PyObject *module);

/* For importers: the table, or NULL with an ImportError saying what does not fit. */
static inline const struct bind_capi *bind_capi_import(void)
{
    const struct bind_capi *api = PyCapsule_Import(BIND_CAPI_NAME, 0);
    if (api && (api->version != BIND_CAPI_VERSION || api->size < sizeof *api)) {
        PyErr_Format(PyExc_ImportError,
                     "s3dlio_np._native offers its C table in version %u with %zu bytes, but "
                     "version %d with %zu is needed: install both packages from one build",
                     (unsigned)api->version, api->size, BIND_CAPI_VERSION, sizeof *api);
        return NULL;
    }
    return api;
}

#endif
