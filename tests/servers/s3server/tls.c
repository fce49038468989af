#include "tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

enum { HANDSHAKE_RECORD = 0x16 };

SSL_CTX *s3s_tls_context_new(const char *path)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (context && SSL_CTX_use_certificate_chain_file(context, path) == 1 &&
        SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM) == 1)
        return context;
    ERR_print_errors_fp(stderr);
    SSL_CTX_free(context);
    return NULL;
}

void s3s_tls_context_free(SSL_CTX *context)
{
    SSL_CTX_free(context);
}

bool s3s_tls_accept(SSL_CTX *context, int fd, SSL **tls)
{
    unsigned char first;
    ssize_t got;
    do
        got = recv(fd, &first, 1, MSG_PEEK);
    while (got < 0 && errno == EINTR);
    if (got != 1 || first != HANDSHAKE_RECORD)
        return got == 1;
    *tls = SSL_new(context);
    ERR_clear_error();
    return *tls && SSL_set_fd(*tls, fd) == 1 && SSL_accept(*tls) == 1;
}

void s3s_tls_free(SSL *tls)
{
    SSL_free(tls);
}

void s3s_tls_end(SSL *tls)
{
    ERR_clear_error();
    SSL_shutdown(tls);
}

size_t s3s_tls_receive(SSL *tls, char *to, size_t capacity)
{
    size_t received = 0;
    ERR_clear_error();
    return SSL_read_ex(tls, to, capacity, &received) == 1 ? received : 0;
}

size_t s3s_tls_send(SSL *tls, const char *data, size_t size_bytes)
{
    size_t sent = 0;
    ERR_clear_error();
    return SSL_write_ex(tls, data, size_bytes, &sent) == 1 ? sent : 0;
}
