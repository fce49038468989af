// Bytes in and out of one connection's socket, paced and counted. Functions return false once the connection is of no
// further use: the peer is gone, or a fault reset it.
#ifndef S3S_WIRE_H
#define S3S_WIRE_H

#include <stdatomic.h>

#include "tls.h"

struct s3s_wire { // owned by the connection's thread
    int fd;
    struct ssl_st *tls;   // owned; NULL: plain
    uint64_t bytes_per_s; // 0: as fast as it goes
    int64_t due_ns;       // when the bytes sent or received so far are allowed to be through
    atomic_uint_fast64_t *counts; // bodies are added here; NULL: not counted
};

void s3s_wire_pace(struct s3s_wire *wire, uint64_t bytes_per_s); // starts a new paced stretch
// What has come, at most `capacity` bytes (paced: fewer); false: end of stream or error.
bool s3s_wire_receive(struct s3s_wire *wire, char *to, size_t capacity, size_t *received);
// As many bytes as fit, or a MiB of them: one system call where receive would need many.
bool s3s_wire_receive_full(struct s3s_wire *wire, char *to, size_t capacity, size_t *received);
bool s3s_wire_send(struct s3s_wire *wire, const char *data, uint64_t size_bytes, bool more);
// Waits; false when the peer hung up, or the server is stopping, in the meantime.
bool s3s_wire_wait(const struct s3s_wire *wire, int64_t nanoseconds);
void s3s_wire_reset(struct s3s_wire *wire); // after what was sent has arrived, RST
void s3s_wire_end_clean(
    struct s3s_wire *wire); // FIN, then swallow what is still coming, so that no RST follows

#endif
