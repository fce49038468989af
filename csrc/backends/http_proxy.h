/*
 * The proxy by which a store's or a service's requests go: the settings', or the environment's as
 * curl and boto3 read it.
 *
 * Requests to http:// are forwarded by an HTTP proxy, those to https:// go through a tunnel (CONNECT)
 * in which the server's certificate is checked as without a proxy. A proxy that is itself https:// is
 * checked against the same bundle. SOCKS proxies are libcurl's.
 * Name and password are kept apart from the rest, so that no text shows them.
 */
#ifndef S3D_BACKENDS_HTTP_PROXY_H
#define S3D_BACKENDS_HTTP_PROXY_H

#include "core/config.h"

enum { S3D_HTTP_PROXY_LOGIN = 407 }; /* the status that only proxies have */

struct s3d_http_proxy {
    char *origin;   /* "http://host:port"; NULL: none */
    char *login;    /* "name:password", percent-encoded; NULL: none */
    char *no_proxy; /* which hosts are asked directly; NULL: none */
};

/* For requests to https:// (tls) or to http://. INVALID, without name and password, for a text that is
 * no proxy. Fit for s3d_http_proxy_fini whatever the result. */
S3D_MUST_USE enum s3d_code s3d_http_proxy_load(struct s3d_http_proxy *proxy,
                                               const struct s3d_config *config, bool tls,
                                               struct s3d_error *error);
void s3d_http_proxy_fini(struct s3d_http_proxy *proxy); /* wipes */
bool s3d_http_proxy_equal(const struct s3d_http_proxy *a, const struct s3d_http_proxy *b);

/* `proxy` where a request to this URL goes by it; NULL: it goes directly. NULL is allowed. */
const struct s3d_http_proxy *s3d_http_proxy_for(const struct s3d_http_proxy *proxy,
                                                const char *url);
/* Whether it takes such a request apart and sends it on, so that the answer may be its own. NULL is
 * allowed. */
bool s3d_http_proxy_forwards(const struct s3d_http_proxy *proxy, const char *url);
/* Whether one speaks TLS with the proxy itself. NULL is allowed. */
bool s3d_http_proxy_is_tls(const struct s3d_http_proxy *proxy);

/* Makes the curl handle `easy` go by the proxy, or by none (NULL): libcurl never looks into the
 * environment then. */
S3D_MUST_USE enum s3d_code s3d_http_proxy_apply(const struct s3d_http_proxy *proxy, void *easy,
                                                struct s3d_error *error);
/* Whether what comes now is the proxy's answer to CONNECT, and not the server's. */
bool s3d_http_proxy_is_connecting(const struct s3d_http_proxy *proxy, void *easy);

/* The error for an HTTP status that is the proxy's own. */
enum s3d_code s3d_http_proxy_refused(const struct s3d_http_proxy *proxy, int status,
                                     const char *target, struct s3d_error *error);
/* The error for a transfer that ended with the CURLcode `result` on the way to the proxy or by its
 * fault; OK: it was not that. detail: what libcurl says. */
enum s3d_code s3d_http_proxy_failure(const struct s3d_http_proxy *proxy, void *easy, int result,
                                     const char *detail, const char *target,
                                     struct s3d_error *error);

#endif
