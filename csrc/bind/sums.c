#include "bind/sums.h"

#include "bind/writer.h"
#include "formats/crc.h"

enum {
    SLICE_BYTES = 16 * 1024 * 1024,
    SMALL_BYTES = 4096 /* summed up with the GIL held */
};

uint32_t bind_sum(uint32_t crc, const void *data, size_t length)
{
    if (length <= SMALL_BYTES) {
        return s3d_crc32(crc, data, length);
    }
    Py_BEGIN_ALLOW_THREADS
    crc = s3d_crc32(crc, data, length);
    Py_END_ALLOW_THREADS
    return crc;
}

int bind_sum_and_refer(PyObject *writer, PyObject *owner, const char *data, size_t length,
                       uint32_t *crc)
{
    for (size_t at = 0; at < length;) {
        size_t slice = length - at < SLICE_BYTES ? length - at : SLICE_BYTES;
        if (crc) {
            *crc = bind_sum(*crc, data + at, slice);
        }
        if (bind_writer_refer(writer, owner, data + at, slice)) {
            return -1;
        }
        at += slice;
    }
    return 0;
}
