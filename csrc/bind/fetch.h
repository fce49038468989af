/*
 * Fetch: parts of an object on their way into the caller's memory, all at once; each can be waited
 * for while the others still arrive. Where a part's CRC-32 is known it is checked as the bytes
 * come in, on the I/O threads; of a part of something whose sum is known it can be asked for.
 */
#ifndef S3D_BIND_FETCH_H
#define S3D_BIND_FETCH_H

#include "bind/state.h"

#include <stdatomic.h>

/* One part. The first group is given by the caller of bind_fetch_new. */
struct bind_fetch_item {
    PyObject *target;      /* owns the memory; kept until the fetch ends */
    char *data;            /* size_bytes of it */
    uint64_t offset_bytes; /* in the object */
    uint64_t size_bytes;
    bool fresh;   /* pages of s3d_pages_alloc that nobody has touched yet */
    bool sums;    /* its CRC-32 is computed, for Fetch.sum() */
    bool has_crc; /* it is computed, and must be `crc` */
    uint32_t crc;
    const char *name; /* for errors; kept alive by `owner` */
    /* private: I/O threads */
    _Atomic uint32_t sum; /* of the pieces that have come */
    _Atomic uint64_t left_bytes;
};

/*
 * Starts fetching `count` items from an ObjectReader's object. Takes over `items`, which comes from
 * PyMem_RawCalloc, and the references in it. `owner` (nullable) is kept with the fetch.
 * NULL with an exception.
 */
PyObject *bind_fetch_new(const struct bind_state *state, PyObject *reader, PyObject *owner,
                         struct bind_fetch_item *items, size_t count);

/* Frees items that were not given to bind_fetch_new. */
void bind_fetch_drop(struct bind_fetch_item *items, size_t count);

/* The memory of a CPU storage: any object with data_ptr() and nbytes(). 0 or -1. */
int bind_storage_memory(PyObject *storage, char **data, uint64_t *size_bytes);

int bind_fetch_init(PyObject *module, struct bind_state *state);

#endif
