/*
 * What a reader and a writer of safetensors files need of the engine, as functions of the module:
 * the parsed header of an object, parts of an object fetched into storages, and parts of storages
 * sent from where they lie. The last two know nothing of the format.
 */
#ifndef S3D_BIND_SAFETENSORS_H
#define S3D_BIND_SAFETENSORS_H

#include "bind/state.h"

/* safetensors_header(stream) -> (data_offset, tensors, metadata) */
PyObject *bind_safetensors_header(PyObject *module, PyObject *stream);
/* fetch(stream, parts, *, fresh=False, sums=False) -> Fetch */
PyObject *bind_fetch_parts(PyObject *module, PyObject *args, PyObject *keywords);
/* send(stream, storage, offset, size) */
PyObject *bind_send_part(PyObject *module, PyObject *args);

#endif
