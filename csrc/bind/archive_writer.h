/*
 * ArchiveWriter: a torch archive written record by record, with torch._C.PyTorchFileWriter's
 * methods. Large payloads are sent from where they lie.
 */
#ifndef S3D_BIND_ARCHIVE_WRITER_H
#define S3D_BIND_ARCHIVE_WRITER_H

#include "bind/state.h"

int bind_archive_writer_init(PyObject *module, struct bind_state *state);

#endif
