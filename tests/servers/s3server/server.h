// What all connection threads share.
#ifndef S3S_SERVER_H
#define S3S_SERVER_H

#include <stdatomic.h>

#include "fault.h"
#include "keys.h"
#include "store.h"
#include "tls.h"

enum { S3S_OPTION_LIST_MAX = 32 };

struct s3s_options { // strings borrow argv
    const char *host, *access_key, *secret_key, *session_token, *region, *tls;
    uint64_t port, latency_ms, bandwidth_bytes_per_s, memory_limit_bytes, max_connections,
        min_part_bytes;
    const char *bucket_lists[S3S_OPTION_LIST_MAX];
    size_t bucket_list_count;
    const char *pattern_objects[S3S_OPTION_LIST_MAX]; // bucket/key=SIZE
    size_t pattern_object_count;
    bool verify, discard, real_md5, exit_on_stdin_eof;
};

// 0: go on; 1: help was printed; 2: something is wrong, said on stderr.
int s3s_options_parse(struct s3s_options *options, int argc, char **argv);

struct s3s_stats { // relaxed: each number is right by itself
    atomic_uint_fast64_t requests[S3S_OP_COUNT];
    atomic_uint_fast64_t bytes_in, bytes_out; // bodies of S3 requests and their answers
    atomic_uint_fast64_t open_connections, max_connections;
    atomic_uint_fast64_t open_requests, max_requests;
    atomic_uint_fast64_t connections; // ever
    atomic_uint_fast64_t tls_requests;
    atomic_uint_fast64_t signatures_verified;
};

void s3s_stats_enter(atomic_uint_fast64_t *open, atomic_uint_fast64_t *most);

struct s3s_conn;

struct s3s_server {
    struct s3s_options options; // frozen from here on
    char *pattern;              // one period
    struct ssl_ctx_st *tls;     // NULL: plain HTTP only
    struct s3s_pool pool;       // these have their own locks
    struct s3s_store store;
    struct s3s_faults faults;
    struct s3s_keys keys;
    struct s3s_stats stats;
    atomic_uint_fast64_t last_request_id;
    atomic_bool stopping;
    pthread_mutex_t mutex;
    pthread_cond_t idle;
    struct { // under mutex
        struct s3s_conn *conns;
        uint64_t count;
    } locked;
};

#endif
