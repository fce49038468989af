/*
 * Inside the S3 backend: the store, and the two halves of its protocol. s3.c opens stores,
 * s3_message.c turns requests into signed HTTP messages, s3_answer.c judges what comes back.
 * Source: Amazon S3 API Reference (REST).
 */
#ifndef S3D_BACKENDS_S3_H
#define S3D_BACKENDS_S3_H

#include "backends/credentials.h"
#include "backends/http.h"

struct s3d_s3_store {
    struct s3d_http_store http;
    /* frozen */
    char *origin; /* "https://host:port", the bucket in front of the host where virtual */
    char *host;   /* the Host header: what follows "://" */
    char *path;   /* before the key: "/" or "/bucket/" */
    char *region;
    bool sign_payload;
    struct s3d_credentials credentials;
};

static inline struct s3d_s3_store *s3d_s3_store_of(const struct s3d_request *request)
{
    return (struct s3d_s3_store *)(void *)request->store;
}

/* See struct s3d_http_protocol. */
S3D_MUST_USE enum s3d_code s3d_s3_build(struct s3d_request *request,
                                        struct s3d_http_message *message,
                                        struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_s3_accept_body(struct s3d_request *request,
                                              const struct s3d_http_answer *answer, bool *place,
                                              struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_s3_finish(struct s3d_request *request,
                                         struct s3d_http_answer *answer,
                                         struct s3d_error *error);

#endif
