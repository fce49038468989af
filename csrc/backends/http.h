/*
 * HTTP/1.1 over libcurl: the driver that moves a request's bytes. With http_fetch.c the only user of
 * libcurl.
 *
 * One multi handle per I/O thread with its own connections. A protocol (s3.c) turns a request into
 * one HTTP message and judges the answer; this file moves the bytes from and into the request's
 * spans and knows nothing of any store.
 */
#ifndef S3D_BACKENDS_HTTP_H
#define S3D_BACKENDS_HTTP_H

#include "backends/http_proxy.h"
#include "core/pool.h"
#include "core/store.h"
#include "core/str.h"

/* The message to send; owned by the attempt, cleaned by http.c. */
struct s3d_http_message {
    const char *method; /* static: "GET", "PUT", ... */
    struct s3d_str url;
    struct s3d_str headers; /* "Name: value\0Name: value\0": each ends with a NUL */
    const struct s3d_span
        *body; /* what to send: the request's spans or &text_span; NULL: none */
    size_t body_count;
    struct s3d_str text; /* a small body made by the protocol (XML) */
    struct s3d_span text_span;
    bool patient; /* the server may work for minutes, with signs of life, before it answers */
    struct s3d_str secrets; /* what no error of this attempt may repeat: see secrets.h */
    size_t answer_bytes;    /* of answer->text, to be had before anything is sent */
};

enum { S3D_HTTP_TEXT_MAX = 8 * 1024 * 1024 };

/* Metadata of an object, in which s3d_put_options.write_id is kept. */
#define S3D_WRITE_ID_HEADER "x-amz-meta-s3dlio-write-id"

/* What came back. Header values are copied, cut to size and terminated; "" where absent. */
struct s3d_http_answer {
    int status;
    bool has_length, has_range, range_unsatisfied; /* range_unsatisfied: "bytes * / total" */
    uint64_t length_bytes;                         /* Content-Length */
    uint64_t range_first, range_last, range_total; /* Content-Range */
    char etag[S3D_ETAG_MAX];
    char content_encoding[32];
    char request_id[128];
    char write_id[S3D_WRITE_ID_MAX];             /* S3D_WRITE_ID_HEADER */
    char region[64];                             /* x-amz-bucket-region */
    char checksums[S3D_SUM_KINDS][S3D_SUM_TEXT]; /* x-amz-checksum-..., as s3d_sum_kinds */
    char checksum_type[16];                      /* x-amz-checksum-type */
    int64_t modified_s, date_s;                  /* Last-Modified, Date; 0: absent */
    uint32_t retry_after_ms;
    struct s3d_str text; /* body of anything but a good GET */
};

struct s3d_http_protocol {
    /* Builds the message; anything but OK ends the request. On the I/O thread, for each attempt
     * anew, so that signatures are fresh. */
    S3D_MUST_USE enum s3d_code (*build)(struct s3d_request *request,
                                        struct s3d_http_message *message,
                                        struct s3d_error *error);
    /* Whether this GET answer's body goes into the spans (called once, when headers are complete;
     * otherwise the body is collected in answer->text). Must check status, range and length, and
     * set result.first_byte. An error ends the attempt. */
    S3D_MUST_USE enum s3d_code (*accept_body)(struct s3d_request *request,
                                              const struct s3d_http_answer *answer, bool *place,
                                              struct s3d_error *error);
    /* Judges the complete answer and fills request->result. */
    S3D_MUST_USE enum s3d_code (*finish)(struct s3d_request *request,
                                         struct s3d_http_answer *answer,
                                         struct s3d_error *error);
};

/* Stores served by this driver embed this. */
struct s3d_http_store {
    struct s3d_store base;
    const struct s3d_http_protocol *protocol;
    char *ca_bundle; /* PEM file, NULL: the system's */
    struct s3d_http_proxy proxy;
};

extern const struct s3d_driver_ops s3d_http_driver;

/* For http_fetch.c: libcurl's own start, and what a CURLcode means. */
void s3d_http_start_curl(void);
/* detail: libcurl's text, which alone tells a handshake that broke off from one that was refused. */
enum s3d_code s3d_http_code_of_curl(int result, const char *detail);

#ifdef S3D_FAULTS
/* Divides the limits of patient messages. */
void s3d_http_hurry(unsigned times);
#endif

#endif
