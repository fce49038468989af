/*
 * ArchiveReader: a torch archive in an object, its directory read and its records fetched into the
 * caller's memory in one parallel wave (bind/fetch.h).
 */
#ifndef S3D_BIND_ARCHIVE_READER_H
#define S3D_BIND_ARCHIVE_READER_H

#include "bind/state.h"

int bind_archive_reader_init(PyObject *module, struct bind_state *state);

#endif
