/* Remarks beside an exception that goes up, which must not take its place. */
#ifndef S3D_BIND_NOTE_H
#define S3D_BIND_NOTE_H

#include "core/put.h"

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/*
 * After an abort: what it could not settle (s3d_put_remains; `put` NULL: nothing) becomes a note on an
 * exception instance, or a warning where there is none (NULL, or no instance) or it takes no notes
 * (before Python 3.11). 0; or -1 with an exception, only without `exception`: what goes wrong beside
 * one is written as unraisable.
 */
int bind_note_remains(PyObject *exception, const struct s3d_put *put, PyObject *uri);

#endif
