/*
 * All tensors of a plain checkpoint (bind/plain.h) by one call of an operator,
 * s3dlio_native::tensors() -> Tensor[]: thousands of calls, one for each, would cost more than all
 * the rest of a load.
 */
#ifndef S3D_BIND_TORCH_TENSORS_H
#define S3D_BIND_TORCH_TENSORS_H

#include "bind/capi.h"
#include "bind/torch_abi.h"

#define TORCH_TENSORS_SCHEMA "tensors() -> Tensor[]"

/* The operator. */
void torch_tensors(torch_value *stack, uint64_t argument_count, uint64_t result_count);

/* The module's function make_tensors(plain, operator), of which the operator is the other half. */
PyObject *torch_tensors_make(const struct bind_capi *api, PyObject *args);

#endif
