/* From a URI to a store: the one door from bind/ into the backends. */
#ifndef S3D_BACKENDS_OPEN_H
#define S3D_BACKENDS_OPEN_H

#include "core/store.h"
#include "core/uri.h"

/*
 * Opens the store that `uri` lies in, with the settings of this moment (s3d_config_load). Sends
 * nothing. May read profile files, so call it without the GIL. The caller owns one reference.
 */
S3D_MUST_USE enum s3d_code s3d_store_open(struct s3d_store **store, const struct s3d_uri *uri,
                                          struct s3d_error *error);

/*
 * The program's own source of credentials (callback.h): opens a box that new stores ask from now on,
 * in the place of the one before, and remove takes it away again. One thread of the program serves
 * each box: it waits for a question (AGAIN after timeout_ms; CLOSED: the box is done with, and gone),
 * and answers it, or says why not. An answer unfit for a header is PROTOCOL, and is no answer yet.
 */
S3D_MUST_USE enum s3d_code s3d_callback_open(uint64_t *number, struct s3d_error *error);
void s3d_callback_remove(void);
S3D_MUST_USE enum s3d_code s3d_callback_wait(uint64_t number, int64_t timeout_ms,
                                             struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_callback_answer(uint64_t number, const char *access_key,
                                               const char *secret_key,
                                               const char *session_token, int64_t expires_s,
                                               struct s3d_error *error);
void s3d_callback_refuse(uint64_t number, const struct s3d_error *why);

/* Before the engine shuts down: the program answers no more. */
void s3d_callbacks_shut(void);
/* After it: ends what still fetches credentials, and joins it. */
void s3d_credentials_stop(void);

#endif
