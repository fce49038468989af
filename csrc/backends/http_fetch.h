/*
 * One small HTTP exchange, waited for: what the providers of credentials need. Not for data.
 *
 * Runs on the thread that calls it, with a curl handle of its own, and never on an I/O thread.
 * Redirects are not followed. Body, headers and time are bounded; `stop` ends it within 50 ms.
 */
#ifndef S3D_BACKENDS_HTTP_FETCH_H
#define S3D_BACKENDS_HTTP_FETCH_H

#include "backends/http_proxy.h"

#include <stdatomic.h>

enum { S3D_HTTP_FETCH_MAX = 64 * 1024 };

struct s3d_http_fetch {
    /* the caller's, borrowed */
    const char *method; /* "GET", "PUT", "POST" */
    const char *url;
    const char *const *headers; /* "Name: value"; header_count of them */
    size_t header_count;
    const char *body; /* POST; NULL: none */
    size_t body_length;
    const char *ca_bundle;              /* PEM file, NULL: the system's */
    const struct s3d_http_proxy *proxy; /* NULL: none, whatever the environment says */
    uint32_t connect_timeout_ms, timeout_ms;
    const atomic_bool *stop;
    /* filled */
    int status;
    char *text; /* S3D_HTTP_FETCH_MAX bytes of room and a NUL behind what came */
    size_t length;
};

/* OK for any whole answer, whatever its status. CANCELLED when stopped; errors never show more of
 * the URL than its origin. Fit for s3d_http_fetch_fini whatever the result. */
S3D_MUST_USE enum s3d_code s3d_http_fetch(struct s3d_http_fetch *fetch,
                                          struct s3d_error *error);
void s3d_http_fetch_fini(struct s3d_http_fetch *fetch); /* wipes what came */

#endif
