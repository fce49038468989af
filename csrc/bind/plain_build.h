/* Makes the object of a plain checkpoint from the program of its scan. */
#ifndef S3D_BIND_PLAIN_BUILD_H
#define S3D_BIND_PLAIN_BUILD_H

#include "bind/state.h"
#include "formats/plain_pickle.h"

/* What only torch can make; all borrowed. */
struct bind_plain_parts {
    PyObject *tensors; /* a tuple, by the scan's tensors */
    PyObject *dtypes;  /* a tuple, by enum s3d_plain_dtype */
    PyObject *size_type;
    PyObject *device_type;
    PyObject *make_parameter; /* called with (parameter_type, tensor, requires_grad) */
    PyObject *parameter_type;
};

/* A new reference, or NULL with an exception. */
PyObject *bind_plain_build(const struct s3d_plain *plain, const struct bind_plain_parts *parts);

#endif
