/*
 * What readers and writers of NumPy's files need of the engine, as functions of the module: page
 * memory for arrays, parts of an object fetched into buffers or sent from them with their CRC-32, and
 * the numbers in a .npy header.
 */
#ifndef S3D_BIND_ARRAYS_H
#define S3D_BIND_ARRAYS_H

#include "bind/state.h"

/* allocate(nbytes) -> writable memoryview */
PyObject *bind_allocate(PyObject *module, PyObject *nbytes);
/* fetch_arrays(stream, parts, *, fresh=False) -> Fetch */
PyObject *bind_fetch_arrays(PyObject *module, PyObject *args, PyObject *keywords);
/* send_array(stream, buffer, crc) -> crc */
PyObject *bind_send_array(PyObject *module, PyObject *args);
/* crc32(buffer, crc=0) -> crc */
PyObject *bind_crc32(PyObject *module, PyObject *args);
/* crc32_behind(whole, first, length) -> crc */
PyObject *bind_crc32_behind(PyObject *module, PyObject *args);
/* npy_prefix(where, head, available, text_max) -> (major, text_offset, data_offset, need) */
PyObject *bind_npy_prefix(PyObject *module, PyObject *args);
/* npy_bytes(where, shape, itemsize, available) -> size */
PyObject *bind_npy_bytes(PyObject *module, PyObject *args);

#endif
