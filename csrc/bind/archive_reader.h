/*
 * ArchiveReader: a torch archive in an object, its directory read and its records fetched into the
 * caller's memory in one parallel wave (bind/fetch.h).
 */
#ifndef S3D_BIND_ARCHIVE_READER_H
#define S3D_BIND_ARCHIVE_READER_H

#include "bind/fetch.h"

int bind_archive_reader_init(PyObject *module, struct bind_state *state);

/* From C; `archive` is an ArchiveReader. */
struct s3d_zip;
struct s3d_zip_entry;
/* Its directory, which lives as long as the archive. */
const struct s3d_zip *bind_archive_zip(PyObject *archive);
/* The record of this name, without the archive's; NULL when there is none. */
const struct s3d_zip_entry *bind_archive_find(PyObject *archive, const char *name);
/* An entry's name without the archive's; NULL for what lies outside of it. */
const char *bind_archive_name(PyObject *archive, const struct s3d_zip_entry *entry);
/* Fills all of an item but its target and data. 0, or -1 with an exception. */
int bind_archive_item(PyObject *archive, const struct s3d_zip_entry *entry, bool verify,
                      struct bind_fetch_item *item);
PyObject *bind_archive_stream(PyObject *archive); /* its ObjectReader, borrowed */

#endif
