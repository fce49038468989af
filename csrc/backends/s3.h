/*
 * Inside the S3 backend: the store, and the two halves of its protocol. s3.c opens stores,
 * s3_message.c turns requests into signed HTTP messages, with s3_checksum.c for the checksums and
 * s3_extras.c for settings in them, s3_answer.c judges what comes back.
 * Source: Amazon S3 API Reference (REST).
 */
#ifndef S3D_BACKENDS_S3_H
#define S3D_BACKENDS_S3_H

#include "backends/http.h"
#include "backends/identity.h"
#include "backends/s3_extras.h"
#include "backends/s3_place.h"

struct s3d_s3_store {
    struct s3d_http_store http;
    /* frozen */
    char *path; /* before the key: "/" or "/bucket/" */
    bool sign_payload;
    struct s3d_s3_extras extras;
    enum s3d_checksum checksum; /* where a request has the default: NONE or a real one */
    struct s3d_identity *identity; /* has its own lock */
    struct s3d_s3_places places;   /* moves by itself */
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

/*
 * The checksum of one request's body, or of the object that it completes.
 * Source: Amazon S3 User Guide, "Checking object integrity", full-object checksums.
 */
enum { S3D_S3_CHECKSUM_TEXT = 16 };
struct s3d_s3_checksum {
    const char *header;    /* x-amz-checksum-...; NULL: none is sent */
    const char *algorithm; /* of a created upload; NULL: not to be named */
    bool of_object;        /* the object's as a whole, not a part's */
    char value[S3D_S3_CHECKSUM_TEXT];
};
/* Reads the body once; its sum is the request's result.checksum. */
void s3d_s3_checksum(struct s3d_request *request, struct s3d_s3_checksum *checksum);
/* The element for one part of a CompleteMultipartUpload. */
void s3d_s3_checksum_xml(const struct s3d_request *request, const struct s3d_part *part,
                         struct s3d_str *text);
/* What the setting (nullable) means: stores that are not Amazon's are not expected to know them. */
S3D_MUST_USE enum s3d_code s3d_s3_checksum_default(const char *calculation, bool custom_endpoint,
                                                   enum s3d_checksum *checksum,
                                                   struct s3d_error *error);

#endif
