/*
 * One request and a wait: stat, delete, a page of a listing.
 *
 *     struct s3d_call *call = NULL;
 *     code = s3d_call_new(&call, store, &error);
 *     call->request.verb = S3D_VERB_STAT; call->request.key = key;
 *     s3d_call_start(call);
 *     while ((code = s3d_call_wait(call, 100, &error)) == S3D_AGAIN) { look for signals }
 *     ... call->request.result ...
 *     s3d_call_free(call);
 */
#ifndef S3D_CORE_CALL_H
#define S3D_CORE_CALL_H

#include "core/latch.h"
#include "core/request.h"

struct s3d_call {
    struct s3d_request request;
    struct s3d_latch latch;
};

/* Holds a reference to the store. */
S3D_MUST_USE enum s3d_code s3d_call_new(struct s3d_call **call, struct s3d_store *store,
                                        struct s3d_error *error);
void s3d_call_start(struct s3d_call *call); /* again after it ended, for the next page */
S3D_MUST_USE enum s3d_code s3d_call_wait(struct s3d_call *call, int64_t timeout_ms,
                                         struct s3d_error *error);
/* Cancels and joins what still runs. NULL is allowed. In a forked child it only forgets. */
void s3d_call_free(struct s3d_call *call);

#endif
