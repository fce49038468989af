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
    enum s3d_checksum checksum;    /* where a request has the default: NONE or a real one */
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
struct s3d_s3_checksum {
    const char *header;    /* x-amz-checksum-...; NULL: none is sent */
    const char *algorithm; /* of a created upload; NULL: not to be named */
    bool of_object;        /* the object's as a whole, not a part's */
    char value[S3D_SUM_TEXT];
};
/* Reads the body once; its sum is the request's result.checksum. */
void s3d_s3_checksum(struct s3d_request *request, struct s3d_s3_checksum *checksum);
/* The kind that goes with a request's options; NULL: none. */
const struct s3d_sum_kind *s3d_s3_checksum_kind(const struct s3d_request *request);
/* The element for one part of a CompleteMultipartUpload. */
void s3d_s3_checksum_xml(const struct s3d_request *request, const struct s3d_part *part,
                         struct s3d_str *text);
/* Whether the object's own checksum is to be asked for. */
bool s3d_s3_checksum_wanted(const struct s3d_request *request);
/* Takes it from an answer that tells it; composite ones (of a multipart upload's parts) cannot be
 * compared and count as none. */
void s3d_s3_checksum_take(const struct s3d_request *request,
                          const struct s3d_http_answer *answer, struct s3d_object *object);
/* What a setting (value nullable) means: stores that are not Amazon's are not expected to know
 * checksums. */
S3D_MUST_USE enum s3d_code s3d_s3_checksum_setting(const char *name, const char *value,
                                                   bool custom_endpoint, bool *supported,
                                                   struct s3d_error *error);

#endif
