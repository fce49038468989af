#include "bind/zip_directory.h"

#include "bind/errors.h"
#include "bind/reader.h"

enum { TAIL_BYTES = 256 * 1024 /* what a reader has in memory once open */ };

/* Reads the object from `offset` to its end and tries the directory. */
static enum s3d_code try_directory(PyObject *stream, struct s3d_zip *zip, uint64_t size,
                                   uint64_t *offset, struct s3d_error *error, int *failed)
{
    enum s3d_code code = S3D_OK;
    size_t length = (size_t)(size - *offset);
    char *tail = PyMem_RawMalloc(length ? length : 1);
    *failed = 0;
    if (!tail) {
        PyErr_NoMemory();
        *failed = -1;
    } else if (bind_reader_read_at(stream, *offset, tail, length)) {
        *failed = -1;
    } else {
        Py_BEGIN_ALLOW_THREADS
        code = s3d_zip_open(zip, size, tail, length, offset, error);
        Py_END_ALLOW_THREADS
    }
    PyMem_RawFree(tail);
    return code;
}

int bind_zip_directory(const struct bind_state *state, PyObject *stream, struct s3d_zip *zip)
{
    uint64_t size;
    if (bind_reader_size(stream, &size)) {
        return -1;
    }
    uint64_t offset = size > TAIL_BYTES ? size - TAIL_BYTES : 0;
    struct s3d_error error;
    int failed;
    enum s3d_code code = try_directory(stream, zip, size, &offset, &error, &failed);
    while (!failed && code == S3D_AGAIN) {
        s3d_zip_close(zip);
        code = try_directory(stream, zip, size, &offset, &error, &failed);
    }
    if (!failed && code) {
        bind_raise(state, &error, bind_reader_uri(stream));
    }
    return failed || code ? -1 : 0;
}
