/* CRC-32 of memory that Python code waits for, alone and on its way into an object. */
#ifndef S3D_BIND_SUMS_H
#define S3D_BIND_SUMS_H

#include "bind/state.h"

/* s3d_crc32, without the GIL where it takes a while. */
uint32_t bind_sum(uint32_t crc, const void *data, size_t length);

/*
 * bind_writer_refer slice by slice, each summed up before: so the slices before are on their way
 * meanwhile. *crc goes on over all of it; NULL: no sum is wanted. 0 or -1.
 */
int bind_sum_and_refer(PyObject *writer, PyObject *owner, const char *data, size_t length,
                       uint32_t *crc);

#endif
