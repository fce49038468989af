/*
 * Plain: a plain checkpoint (formats/plain_pickle.h) on its way from an archive into an object.
 *
 *   ArchiveReader.plain()  gives all records their memory, starts bringing them, scans the pickle
 *                          meanwhile and holds it against the archive's directory
 *   build(tensors, ...)    makes the object
 *
 * When the checkpoint turns out not to be plain, the records are not brought in vain: the tensors
 * are then one of bytes for each record, by names(). In between, whoever knows torch (bind/torch_tensors.c) makes the tensors, from this header's
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
    const struct bind_plain_place *places; /* of storage i */
    void (*hold)(struct bind_slab *slab);
    /* Gives up one hold on `slab`; the shape of a torch deleter. Without the GIL. */
    void (*release)(void *data, void *slab);
};

/* A Plain of the archive, of which `bytes` is the pickle, with memory for all records below data/.
 * NULL with an exception. */
PyObject *bind_plain_new(const struct bind_state *state, PyObject *archive, PyObject *bytes,
                         bool any_location);
/* Starts bringing the records. The Fetch, or NULL with an exception. */
PyObject *bind_plain_fetch(PyObject *plain, bool verify);
/* Scans the pickle: is it plain? 0, or -1 with an exception. */
int bind_plain_scan(PyObject *plain);

/* The struct in a Plain object; NULL with a TypeError for anything else. */
const struct bind_plain *bind_plain_of(PyObject *object);

int bind_plain_init(PyObject *module, struct bind_state *state);

#endif
