/*
 * Credentials that the program itself gives: a question-and-answer box between the identity's thread
 * and a thread of the program's (a Python thread of the binding; the engine never calls into it).
 *
 * The program's thread waits for questions and answers them; open.h is its door. A box that was
 * replaced goes on answering for the identities that use it, and closes when the last has gone.
 */
#ifndef S3D_BACKENDS_CALLBACK_H
#define S3D_BACKENDS_CALLBACK_H

#include "backends/credentials.h"

struct s3d_callback;

/* The box that new identities are to use, acquired; NULL: none. */
struct s3d_callback *s3d_callback_current(void);
void s3d_callback_release(struct s3d_callback *callback); /* NULL is allowed */
/* The caller holds the shared lock. */
bool s3d_callback_is_current_locked(const struct s3d_callback *callback);

#endif
