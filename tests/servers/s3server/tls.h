// TLS on the server's side of a connection, by OpenSSL, below the wire.
#ifndef S3S_TLS_H
#define S3S_TLS_H

#include "base.h"

struct ssl_ctx_st;
struct ssl_st;

// `path` is a PEM file with the chain and its key. NULL: it cannot be used, said on stderr.
struct ssl_ctx_st *s3s_tls_context_new(const char *path);
void s3s_tls_context_free(struct ssl_ctx_st *context);

// The connection's first byte tells whether it begins with a handshake, which is then made.
// False: the peer is gone, or the handshake failed. *tls stays NULL where plain HTTP comes.
bool s3s_tls_accept(struct ssl_ctx_st *context, int fd, struct ssl_st **tls);
void s3s_tls_free(struct ssl_st *tls); // says nothing to the peer
void s3s_tls_end(struct ssl_st *tls);  // tells the peer that nothing more comes

size_t s3s_tls_receive(struct ssl_st *tls, char *to,
                       size_t capacity); // 0: the end, or an error
size_t s3s_tls_send(struct ssl_st *tls, const char *data, size_t size_bytes); // 0: an error

#endif
