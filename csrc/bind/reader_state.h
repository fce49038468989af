/*
 * Inside an ObjectReader: its state, shared by reader.c (the type: opening, closing, position, what it
 * is, and what C asks of it) and reader_read.c (its methods that read). Nobody else includes this.
 */
#ifndef S3D_BIND_READER_STATE_H
#define S3D_BIND_READER_STATE_H

#include "bind/inflate.h"
#include "bind/reader.h"
#include "bind/stream.h"

struct bind_reader {
    struct bind_stream stream;
    struct s3d_reader *reader;
    struct bind_inflate *inflate; /* NULL: the bytes are as they are stored */
    /* Frozen once open, but for size_bytes where `inflate` does not know it yet: UINT64_MAX until
     * then. */
    struct s3d_object object;
    uint64_t position; /* locked{stream.lock}; may lie past the end */
};

static inline bool bind_reader_is_sized(const struct bind_reader *self)
{
    return self->object.size_bytes != UINT64_MAX;
}

/* The stream's lock, for an operation that needs it open. 0, or -1 with an exception. */
int bind_reader_enter(struct bind_reader *self);

/* Takes over the size that `inflate` has learnt by now. */
void bind_reader_learn_size(struct bind_reader *self);
/* Fills data with [offset, offset + length), cut at the end where the size was not known before.
 * Does not move the position. How many bytes, or -1 with an exception. */
Py_ssize_t bind_reader_fill(struct bind_reader *self, uint64_t offset, void *data,
                            size_t length);

/* Methods. */
PyObject *bind_reader_read(PyObject *object, PyObject *const *args, Py_ssize_t count);
PyObject *bind_reader_read1(PyObject *object, PyObject *const *args, Py_ssize_t count);
PyObject *bind_reader_read_buffer(PyObject *object, PyObject *const *args, Py_ssize_t count);
PyObject *bind_reader_peek(PyObject *object, PyObject *const *args, Py_ssize_t count);
PyObject *bind_reader_readline(PyObject *object, PyObject *const *args, Py_ssize_t count);
PyObject *bind_reader_readinto(PyObject *object, PyObject *buffer);
PyObject *bind_reader_readinto1(PyObject *object, PyObject *buffer);

#endif
