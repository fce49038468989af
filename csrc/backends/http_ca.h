/*
 * The trusted certificates of an I/O thread, parsed once. Debian's libcurl 7.88 would parse the
 * bundle again for every connection, at 20 ms of CPU each.
 */
#ifndef S3D_BACKENDS_HTTP_CA_H
#define S3D_BACKENDS_HTTP_CA_H

#include "core/error.h"

struct s3d_http_ca;

/*
 * Makes the curl handle `easy` verify peers against the bundle (a PEM file; NULL: the system's).
 * *ca caches what was parsed, NULL at first; one bundle at a time, parsed again when its file was
 * replaced or written. TLS 1.2 at least, verification always on, of a proxy that speaks TLS, too. TLS
 * error when the bundle cannot be read.
 */
S3D_MUST_USE enum s3d_code s3d_http_ca_apply(struct s3d_http_ca **ca, void *easy,
                                             const char *bundle, struct s3d_error *error);
void s3d_http_ca_free(struct s3d_http_ca *ca); /* NULL is allowed */

#endif
