/* Hosts in URLs: what they are called, whether they are this machine, and Amazon's. */
#ifndef S3D_BACKENDS_HOST_H
#define S3D_BACKENDS_HOST_H

#include "core/str.h"

#include <stdbool.h>

enum { S3D_HOST_MAX = 256 };

/* The host of a URL, without brackets and port; false for what is no plain URL. */
bool s3d_host_of(const char *url, char host[S3D_HOST_MAX]);
/* "localhost", or a whole address of 127.0.0.0/8 or ::1; never a name that merely begins so. */
bool s3d_host_is_loopback(const char *host);
/* Appends the host of one of Amazon's services in a region. */
void s3d_host_add_amazon(struct s3d_str *host, const char *service, const char *region);
/*
 * Finds "host[:port]" in an endpoint, "http[s]://host[:port]" with or without slashes at its end;
 * anything else is INVALID and told without what stands before an @. variable: which setting it is.
 */
S3D_MUST_USE enum s3d_code s3d_endpoint_parse(const char *endpoint, const char *variable,
                                              const char **authority, size_t *length,
                                              struct s3d_error *error);

#endif
