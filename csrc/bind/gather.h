/*
 * Strided memory in its logical (C) order, piece by piece. Pure arithmetic over a Py_buffer that
 * its owner holds: runs without the GIL.
 */
#ifndef S3D_BIND_GATHER_H
#define S3D_BIND_GATHER_H

#include "bind/state.h"

struct bind_gather {
    const Py_buffer *view; /* with shape; borrowed */
    int outer;             /* dimensions before those that lie together in memory */
    size_t run_bytes;      /* what lies together */
    size_t skip_bytes;     /* of the run at index: gathered before */
    Py_ssize_t index[PyBUF_MAX_NDIM];
    bool ended;
};

void bind_gather_init(struct bind_gather *gather, const Py_buffer *view);
/* Copies the next bytes, at most `room`, to `to`; fewer than that only at the end. */
size_t bind_gather_next(struct bind_gather *gather, char *to, size_t room);

#endif
