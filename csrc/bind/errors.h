/*
 * Core's error records as Python exceptions.
 *
 * StorageError(OSError) carries code ("NOT_FOUND"), status (HTTP), server_code, request_id,
 * attempts, uri and operation. Its subclasses are also the builtin a caller expects:
 * ObjectNotFoundError is a FileNotFoundError, AccessDeniedError a PermissionError,
 * ObjectExistsError a FileExistsError. Wrong arguments are ValueError, a failed system call the
 * OSError subclass that Python picks by errno. All pickle.
 */
#ifndef S3D_BIND_ERRORS_H
#define S3D_BIND_ERRORS_H

#include "bind/state.h"
#include "core/error.h"

/* Creates the exception classes and adds them to the module. 0, or -1 with an exception. */
int bind_errors_init(PyObject *module, struct bind_state *state);

/* The exception for a failed call: a new reference, or NULL with an exception set when even
 * that fails. `uri` names the object in its text; NULL: none. */
PyObject *bind_error_object(const struct bind_state *state, const struct s3d_error *error,
                            const char *uri);

/* Raises it; returns NULL. */
PyObject *bind_raise(const struct bind_state *state, const struct s3d_error *error,
                     const char *uri);

#endif
