/* ObjectReader: an object as a seekable binary file, over core/reader.h. */
#ifndef S3D_BIND_READER_H
#define S3D_BIND_READER_H

#include "bind/target.h"
#include "core/get.h"
#include "core/reader.h"

int bind_reader_init(PyObject *module, struct bind_state *state);

/* A core reader, once it knows its object. `unchecked`: the store's checksum is not compared.
 * AGAIN: a Python exception is set. *reader is NULL, or to be freed whatever this returns. */
S3D_MUST_USE enum s3d_code bind_reader_begin(struct s3d_reader **reader,
                                             const struct bind_target *target,
                                             const struct bind_transfer *transfer,
                                             bool unchecked, struct s3d_error *error);

/* From C, for readers of formats; `reader` is an ObjectReader. 0, or -1 with an exception. */
/* All of [offset, offset + length), which must exist; the stream's position stays. */
int bind_reader_read_at(PyObject *reader, uint64_t offset, void *data, size_t length);
/* How much of the object from `offset` on is in memory already. */
int bind_reader_buffered(PyObject *reader, uint64_t offset, size_t *bytes);
/* s3d_reader_fetch. */
int bind_reader_fetch(PyObject *reader, struct s3d_get **get,
                      const struct s3d_get_plan *wanted);
/* Its decompressed size, which may have to be found by reading to the end. */
int bind_reader_size(PyObject *reader, uint64_t *size_bytes);
/* Whether reading decompresses: then there are no ranges to fetch. */
bool bind_reader_is_inflated(PyObject *reader);
/* All of it in page memory: a Pages object for bind_pages_view. */
PyObject *bind_reader_pages(const struct bind_state *state, PyObject *reader);
/* An ObjectReader that decompresses whatever the object says of itself. NULLs are defaults. */
PyObject *bind_reader_open(const struct bind_state *state, PyObject *uri, PyObject *part_size,
                           PyObject *max_concurrency);
/* 0, or -1 with a TypeError unless it is None, NULL or a bool. */
int bind_parse_decompress(PyObject *decompress);
const char *bind_reader_uri(PyObject *reader);

#endif
