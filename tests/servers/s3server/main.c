// The test server's process: options, listener, signals, the accept loop.
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "conn.h"

enum {
    BACKLOG = 1024,
    RECEIVE_BUFFER_BYTES = 512 << 10,
    PACED_RECEIVE_BUFFER_BYTES = 64 << 10
};

void s3s_stats_enter(atomic_uint_fast64_t *open, atomic_uint_fast64_t *most)
{
    uint64_t now = atomic_fetch_add(open, 1) + 1;
    uint_fast64_t seen = atomic_load(most);
    while (now > seen && !atomic_compare_exchange_weak(most, &seen, now))
        continue;
}

// Nothing but the loopback interface: what this server holds is anyone's to read.
static bool loopback_address(const struct s3s_options *options,
                             struct sockaddr_storage *address, socklen_t *size)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                              .sin6_port = htons((uint16_t)options->port)};
    if (inet_pton(AF_INET, options->host, &v4.sin_addr) == 1 &&
        ntohl(v4.sin_addr.s_addr) >> 24 == 127) {
        memcpy(address, &v4, *size = sizeof v4);
        return true;
    }
    if (inet_pton(AF_INET6, options->host, &v6.sin6_addr) == 1 &&
        IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr)) {
        memcpy(address, &v6, *size = sizeof v6);
        return true;
    }
    return false;
}

static int open_listener(const struct s3s_options *options)
{
    struct sockaddr_storage address;
    socklen_t size;
    if (!loopback_address(options, &address, &size)) {
        fprintf(stderr, "s3server: %s is not a loopback address\n", options->host);
        return -1;
    }
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1, bytes = options->bandwidth_bytes_per_s ? PACED_RECEIVE_BUFFER_BYTES
                                                       : RECEIVE_BUFFER_BYTES;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    // Set before listen, for the accepted sockets' window scale to fit.
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, BACKLOG)) {
        fprintf(stderr, "s3server: cannot listen on %s port %lu: %s\n", options->host,
                (unsigned long)options->port, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

static void announce(const struct s3s_options *options, int listener)
{
    struct sockaddr_in6 address; // the port is at the same place in both families
    socklen_t size = sizeof address;
    getsockname(listener, (struct sockaddr *)&address, &size);
    bool v6 = address.sin6_family == AF_INET6;
    printf("listening http%s://%s%s%s:%u\n", options->tls ? "s" : "", v6 ? "[" : "",
           options->host, v6 ? "]" : "", ntohs(address.sin6_port));
    fflush(stdout);
}

static bool create_buckets(struct s3s_store *store, struct s3s_span list)
{
    struct s3s_span name;
    while (list.length) {
        s3s_span_cut(&list, ',', &name);
        enum s3s_code code = name.length ? s3s_store_bucket_create(store, name) : S3S_OK;
        if (code && code != S3S_BUCKET_EXISTS)
            return false;
    }
    return true;
}

// BUCKET/KEY=SIZE; the last = counts, as keys may hold one.
static bool create_pattern_object(struct s3s_server *server, const char *text)
{
    const char *equals = strrchr(text, '=');
    uint64_t size;
    struct s3s_span bucket, key = {text, equals ? (size_t)(equals - text) : 0};
    if (!equals || !s3s_span_number(s3s_span_of(equals + 1), &size) ||
        !s3s_span_cut(&key, '/', &bucket) || !key.length || key.length > S3S_KEY_MAX_BYTES ||
        !create_buckets(&server->store, bucket))
        return false;
    struct s3s_object *object =
        s3s_object_new(&server->pool, key, "Content-Type: binary/octet-stream\r\n");
    s3s_store_make_id(&server->store, object->etag);
    object->is_virtual = true;
    object->size_bytes = size;
    object->pieces = s3s_mem_zalloc(sizeof *object->pieces);
    object->pieces[0].size_bytes = size;
    object->piece_count = 1;
    return !s3s_store_put(&server->store, bucket, object, (struct s3s_condition){0});
}

static bool fill_store(struct s3s_server *server)
{
    const struct s3s_options *options = &server->options;
    for (size_t i = 0; i < options->bucket_list_count; i++) {
        if (!create_buckets(&server->store, s3s_span_of(options->bucket_lists[i]))) {
            fprintf(stderr, "s3server: not bucket names: %s\n", options->bucket_lists[i]);
            return false;
        }
    }
    for (size_t i = 0; i < options->pattern_object_count; i++) {
        if (!create_pattern_object(server, options->pattern_objects[i])) {
            fprintf(stderr, "s3server: not BUCKET/KEY=SIZE: %s\n", options->pattern_objects[i]);
            return false;
        }
    }
    return true;
}

static void server_init(struct s3s_server *server)
{
    pthread_mutex_init(&server->mutex, NULL);
    pthread_cond_init(&server->idle, NULL);
    server->pattern = s3s_mem_resize(NULL, S3S_PATTERN_PERIOD);
    s3s_pattern_fill(server->pattern);
    s3s_pool_init(&server->pool, server->options.memory_limit_bytes);
    s3s_store_init(&server->store, &server->pool, server->options.min_part_bytes,
                   server->options.real_md5);
    s3s_faults_init(&server->faults);
    s3s_keys_init(&server->keys);
    atomic_init(&server->last_request_id, (uint64_t)time(NULL) << 20);
}

static void server_fini(struct s3s_server *server)
{
    s3s_faults_fini(&server->faults);
    s3s_keys_fini(&server->keys);
    s3s_store_fini(&server->store);
    s3s_pool_fini(&server->pool);
    s3s_tls_context_free(server->tls);
    s3s_mem_free(server->pattern);
    pthread_cond_destroy(&server->idle);
    pthread_mutex_destroy(&server->mutex);
}

// Signals come as reads of a descriptor, so the loop below is the only place that ends the server.
static int open_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &signals, SFD_CLOEXEC);
}

static bool stdin_ended(void)
{
    char scratch[256];
    return read(STDIN_FILENO, scratch, sizeof scratch) <= 0;
}

static void accept_until_told(struct s3s_server *server, int listener, int signals)
{
    struct pollfd waits[] = {
        {.fd = listener, .events = POLLIN},
        {.fd = signals, .events = POLLIN},
        {.fd = server->options.exit_on_stdin_eof ? STDIN_FILENO : -1, .events = POLLIN}};
    for (;;) {
        if (poll(waits, 3, -1) < 0 && errno != EINTR)
            return;
        if (waits[1].revents || (waits[2].revents && stdin_ended()))
            return;
        int fd = waits[0].revents ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (fd >= 0)
            s3s_conn_start(server, fd);
        else if (waits[0].revents && (errno == EMFILE || errno == ENFILE))
            poll(NULL, 0, 10); // until a connection ends
    }
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv)
{
    static struct s3s_server server; // zeroed
    int rc = s3s_options_parse(&server.options, argc, argv), listener = -1, signals = -1;
    if (rc)
        return rc == 1 ? 0 : rc;
    raise_descriptor_limit();
    signals = open_signals();
    server_init(&server);
    rc = 2;
    if (server.options.tls && !(server.tls = s3s_tls_context_new(server.options.tls)))
        goto done;
    if (!fill_store(&server))
        goto done;
    listener = open_listener(&server.options);
    if (listener < 0)
        goto done;
    announce(&server.options, listener);
    accept_until_told(&server, listener, signals);
    rc = 0;
done:
    s3s_conn_stop_all(&server);
    if (listener >= 0)
        close(listener);
    close(signals);
    server_fini(&server);
    return rc;
}
