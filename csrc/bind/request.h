/* One request and its wait, for functions that make only one. */
#ifndef S3D_BIND_REQUEST_H
#define S3D_BIND_REQUEST_H

#include "bind/target.h"
#include "core/call.h"

/* A call for the target's key; NULL with an exception. Free with bind_request_free. */
struct s3d_call *bind_request_new(const struct bind_state *state,
                                  const struct bind_target *target, enum s3d_verb verb);
/* Sends it (again) and waits. 0, or -1 with an exception. */
int bind_request_run(const struct bind_state *state, const struct bind_target *target,
                     struct s3d_call *call);
void bind_request_free(struct s3d_call *call); /* NULL is allowed */

#endif
