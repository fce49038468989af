/*
 * What a Python caller names and chooses: a URI and its store, part size and concurrency, write
 * options.
 */
#ifndef S3D_BIND_TARGET_H
#define S3D_BIND_TARGET_H

#include "bind/state.h"
#include "backends/open.h"

struct bind_target {
    PyObject *name;  /* str: the URI as given */
    PyObject *bytes; /* the same, encoded: for core and for messages */
    struct s3d_uri uri;
    struct s3d_store *store;
};

/* Opens the store of a str or os.PathLike. `object`: a key is required. 0, or -1 with an
 * exception and *target empty. */
int bind_target_open(struct bind_target *target, const struct bind_state *state, PyObject *uri,
                     bool object);
void bind_target_fini(struct bind_target *target);
/* The str of an encoded, terminated URI or path: bytes that are no text become lone surrogates. */
PyObject *bind_uri_text(const char *bytes, size_t length);
/* For bind_raise. */
const char *bind_target_text(const struct bind_target *target);

struct bind_transfer {
    uint64_t part_bytes;
    uint64_t part_max_bytes; /* for a far store; part_bytes where somebody has set that */
    unsigned concurrency;
    uint64_t threshold_bytes; /* reads below it are one request */
    unsigned threads;         /* the setting, 0: by the number of cores */
};

enum bind_direction { BIND_READ, BIND_WRITE };

/* part_size and max_concurrency as given (None or NULL: the setting of this moment). A value
 * out of range is a ValueError naming parameter, value, limits and URI. 0 or -1. */
int bind_transfer_load(struct bind_transfer *transfer, const struct bind_state *state,
                       const char *uri, enum bind_direction direction, PyObject *part_size,
                       PyObject *max_concurrency);

/*
 * Puts the texts of `metadata` (NULL, or a flat tuple of str: name, value, name, value, ...)
 * into options and checks every text for control characters. The strings are borrowed from the
 * Python objects; free the array with bind_options_fini. 0 or -1.
 */
int bind_options_load(struct s3d_put_options *options, const char *uri, PyObject *metadata);
/* checksum: NULL for the default, "none", or an algorithm's name in lower case. 0 or -1. */
int bind_checksum_load(struct s3d_put_options *options, const char *checksum);
void bind_options_fini(struct s3d_put_options *options);

#endif
