/*
 * Plain: a plain checkpoint (formats/plain_pickle.h) on its way from an archive into an object.
 *
 *   ArchiveReader.plain()  scans the pickle and holds it against the archive's directory
 *   fetch()                gives all storages their memory and starts bringing their records
 *   build(tensors, ...)    makes the object
 *
 * In between, whoever knows torch (bind/torch_tensors.c) makes the tensors, from this header's
 * structs. Memory is held by slabs; each is freed when nobody holds it any more, on any thread.
 */
#ifndef S3D_BIND_PLAIN_H
#define S3D_BIND_PLAIN_H

#include "bind/state.h"
#include "formats/plain_pickle.h"

struct bind_slab;

/* Where a storage lies: its bytes, none of them when it is empty, and what holds them. */
struct bind_plain_place {
    char *data;
    struct bind_slab *slab;
};

/* What a maker of tensors is told; frozen. Valid as long as the Plain object. */
struct bind_plain {
    const struct s3d_plain *scan;
    const struct bind_plain_place *places; /* of storage i; NULL before fetch() */
    void (*hold)(struct bind_slab *slab);
    /* Gives up one hold on `slab`; the shape of a torch deleter. Without the GIL. */
    void (*release)(void *data, void *slab);
};

/* A Plain of the archive's pickle, or None when it is not plain. `bytes` is the pickle. NULL with
 * an exception. */
PyObject *bind_plain_new(const struct bind_state *state, PyObject *archive, PyObject *bytes,
                         bool any_location);

/* The struct in a Plain object; NULL with a TypeError for anything else. */
const struct bind_plain *bind_plain_of(PyObject *object);

int bind_plain_init(PyObject *module, struct bind_state *state);

#endif
