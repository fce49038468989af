/*
 * Inside an ObjectWriter: its state, shared by writer.c (the type: opening, committing, aborting) and
 * writer_write.c (what appends, and the memory that is sent from where it lies). Nobody else includes
 * this.
 */
#ifndef S3D_BIND_WRITER_STATE_H
#define S3D_BIND_WRITER_STATE_H

#include "bind/compress.h"
#include "bind/stream.h"
#include "bind/writer.h"
#include "core/put.h"

/* An object whose memory is being sent, up to this position of the stream. */
struct bind_kept {
    PyObject *owner;
    uint64_t end;
};

struct bind_writer {
    struct bind_stream stream;
    struct s3d_put *put;            /* NULL once ended and freed */
    struct bind_compress *compress; /* NULL: bytes are stored as they are written */
    /* locked{stream.lock} */
    uint64_t position;      /* bytes written */
    PyObject *metadata;     /* the dict of close(): it is committed */
    struct bind_kept *kept; /* in order of `end`; kept_first of them are gone already */
    size_t kept_first, kept_count, kept_capacity;
    bool aborted;
};

/* 0, or -1 with an exception when nothing can be written any more. */
int bind_writer_check(struct bind_writer *self);
/* The first failure ends the upload; `code` is what bind_wait returned. Returns NULL. */
PyObject *bind_writer_poison(struct bind_writer *self, enum s3d_code code,
                             const struct s3d_error *error);
/* Lets go of what lies before `end`: the store has it, or nothing is sent any more. */
void bind_writer_release_kept(struct bind_writer *self, uint64_t end);

/* Methods. */
PyObject *bind_writer_write(PyObject *object, PyObject *data);
PyObject *bind_writer_write_or_encode(PyObject *object, PyObject *data);
PyObject *bind_writer_expect(PyObject *object, PyObject *argument);
PyObject *bind_writer_let_go(PyObject *object, PyObject *argument);

#endif
