/*
 * What a server may have been told and must not get to repeat in an error: keys, tokens, signatures.
 *
 * A list of secrets is a string of texts, each ended by a NUL. Its owner wipes it. Any thread.
 */
#ifndef S3D_BACKENDS_SECRETS_H
#define S3D_BACKENDS_SECRETS_H

#include "core/str.h"

enum { S3D_SECRETS_MAX = 128 * 1024 };

/* NULL is no secret. A text below 8 bytes is none either: it could not be told from a word. */
void s3d_secrets_add(struct s3d_str *secrets, const char *text);

/*
 * Puts *** where a text of *error has 8 bytes or more in a row of a secret, as they are or
 * percent-encoded: cut off, a token is still worth hiding. So are the values of parameters and headers that
 * carry signatures and tokens, whoever's they are. Control characters become spaces: a server must neither
 * write lines of its own into a log nor steer a terminal.
 */
void s3d_secrets_hide(const struct s3d_str *secrets, struct s3d_error *error);

void s3d_secrets_fini(struct s3d_str *secrets); /* wipes */

#endif
