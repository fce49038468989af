/*
 * The header lines of an HTTP answer, as libcurl hands them out.
 */
#ifndef S3D_BACKENDS_HTTP_HEADERS_H
#define S3D_BACKENDS_HTTP_HEADERS_H

#include "backends/http.h"

/*
 * Takes one line, which need not be terminated: a status line ("HTTP/...") clears *answer but
 * for the memory of its text, so that what follows a "100 Continue" starts over; "name: value"
 * fills the field of that header. Other headers, and values that do not parse, leave the field
 * as it was or absent; an answer that needs one says so when it is judged.
 */
void s3d_http_header(struct s3d_http_answer *answer, const char *line, size_t length);

#endif
