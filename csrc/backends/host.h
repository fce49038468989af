/* Hosts in URLs: what they are called, and whether they are this machine. */
#ifndef S3D_BACKENDS_HOST_H
#define S3D_BACKENDS_HOST_H

#include <stdbool.h>

enum { S3D_HOST_MAX = 256 };

/* The host of a URL, without brackets and port; false for what is no plain URL. */
bool s3d_host_of(const char *url, char host[S3D_HOST_MAX]);
/* "localhost", or a whole address of 127.0.0.0/8 or ::1; never a name that merely begins so. */
bool s3d_host_is_loopback(const char *host);

#endif
