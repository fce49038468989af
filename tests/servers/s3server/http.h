// Parsing of one HTTP/1.1 request head. The request borrows the connection's head buffer, which stays as it is until
// the answer has been sent; only the percent-decoded path and parameters are its own.
#ifndef S3S_HTTP_H
#define S3S_HTTP_H

#include "base.h"
#include "codes.h"

enum { S3S_HEAD_MAX_BYTES = 64 << 10, S3S_HEADERS_MAX = 128, S3S_PARAMS_MAX = 32 };

struct s3s_pair {
    struct s3s_span name, value;
};

struct s3s_request {
    struct s3s_span method, target;
    struct s3s_span raw_path, raw_query; // as sent, for the signature
    struct s3s_span path;                // decoded
    struct s3s_pair headers[S3S_HEADERS_MAX];
    size_t header_count;
    struct s3s_pair params[S3S_PARAMS_MAX]; // decoded
    size_t param_count;
    uint64_t content_length;
    bool has_length, chunked, expect_continue, keep_alive;
    char *decoded; // owned: what path and params point into
};

// `head` ends with the empty line. On an error the request is still to be finished with fini.
enum s3s_code s3s_request_parse(struct s3s_request *request, struct s3s_span head);
void s3s_request_fini(struct s3s_request *request);
const struct s3s_span *s3s_request_header(const struct s3s_request *request,
                                          const char *name); // NULL: absent
const struct s3s_span *s3s_request_param(const struct s3s_request *request, const char *name);

#endif
