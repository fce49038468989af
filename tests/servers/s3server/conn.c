#include "conn.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "call.h"

enum {
    STACK_BYTES = 256 << 10,
    HEAD_READ_BYTES = 8 << 10,
    BUFFER_BYTES = 512 << 10,
    PACED_BUFFER_BYTES = 64 << 10
};

struct s3s_conn {                     // owned by its thread, but for the links
    struct s3s_conn *next, *previous; // under the server's mutex
    struct s3s_server *server;
    struct s3s_wire wire;
    struct s3s_call call;
    bool counted; // as an S3 connection: at its first request that is not a control request
    size_t filled;
    char head[S3S_HEAD_MAX_BYTES];
};

// Reads until the empty line. Zero: the peer closed, or the head is too long (`filled` tells).
static size_t read_head(struct s3s_conn *conn)
{
    size_t searched = 0;
    for (;;) {
        struct s3s_span fresh = {conn->head + searched, conn->filled - searched};
        size_t at = s3s_span_find(fresh, s3s_span_of("\r\n\r\n"));
        if (at != SIZE_MAX)
            return searched + at + 4;
        searched = conn->filled > 3 ? conn->filled - 3 : 0;
        size_t room = sizeof conn->head - conn->filled, received;
        // Little at a time: what a body's beginning occupies here has to be copied to where it belongs.
        if (!room ||
            !s3s_wire_receive(&conn->wire, conn->head + conn->filled,
                              room < HEAD_READ_BYTES ? room : HEAD_READ_BYTES, &received))
            return 0;
        conn->filled += received;
    }
}

// What the socket sent beyond this request begins the next.
static void keep_leftover(struct s3s_conn *conn)
{
    conn->filled = conn->call.leftover.length;
    if (conn->filled)
        memmove(conn->head, conn->call.leftover.data, conn->filled);
}

static void match_faults(struct s3s_call *call)
{
    const struct s3s_span *range = s3s_request_header(&call->request, "range");
    struct s3s_range parsed;
    struct s3s_fault_query query = {call->op, call->key, call->part_number, UINT64_MAX};
    if (range && s3s_range_parse(*range, &parsed) && !parsed.is_suffix)
        query.range_from = parsed.first;
    const struct s3s_span *prefix = s3s_request_param(&call->request, "prefix");
    if (prefix && call->op == S3S_OP_LIST_OBJECTS)
        query.key = *prefix;
    s3s_faults_match(&call->server->faults, &query, &call->fault);
}

static void count_connection(struct s3s_conn *conn)
{
    if (!conn->counted) {
        atomic_fetch_add(&conn->server->stats.connections, 1);
        s3s_stats_enter(&conn->server->stats.open_connections,
                        &conn->server->stats.max_connections);
    }
    conn->counted = true;
}

// The body, unless an answer that is already known lets the client keep it. False ends the connection.
static bool take_body(struct s3s_call *call, bool keep)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (call->request.chunked) {
        call->close = true; // its end is unknown
        return true;
    }
    bool expects = call->request.expect_continue && call->request.content_length;
    if (expects && !keep) {
        call->close = true;
        return true;
    }
    s3s_wire_pace(call->wire, 0);
    call->wire->counts = NULL;
    if (expects && !s3s_wire_send(call->wire, go_on, sizeof go_on - 1, false))
        return false;
    return s3s_body_receive(call, keep);
}

static void answer_status_fault(struct s3s_call *call)
{
    const struct s3s_fault *fault = &call->fault;
    call->answer.status = (int)fault->status;
    s3s_text_puts(&call->answer.headers, "Content-Type: application/xml\r\n");
    if (fault->retry_after_s)
        s3s_text_printf(&call->answer.headers, "Retry-After: %lu\r\n",
                        (unsigned long)fault->retry_after_s);
    s3s_call_error_xml(call, fault->code[0] ? fault->code : "SlowDown",
                       fault->message[0] ? fault->message : "Scripted fault");
}

// Those of a completion.
static bool fault_instead_of_completion(struct s3s_call *call)
{
    if (s3s_call_hit(call, S3S_FAULT_ERROR_200)) {
        s3s_call_error_xml(call, call->fault.code[0] ? call->fault.code : "InternalError",
                           "Scripted fault");
    } else if (s3s_call_hit(call, S3S_FAULT_BODY_200)) {
        s3s_text_puts(&call->answer.body, call->fault.text);
    } else if (s3s_call_hit(call, S3S_FAULT_DROP_UPLOAD)) {
        s3s_upload_abort(&call->server->store, s3s_call_upload(call));
        answer_status_fault(call);
        return true;
    } else {
        return false;
    }
    s3s_text_puts(&call->answer.headers, "Content-Type: application/xml\r\n");
    return true;
}

// Faults that take the operation's place. True: the answer is made. `*alive` false: the connection is done.
static bool fault_instead(struct s3s_call *call, bool *alive)
{
    *alive = true;
    if (s3s_call_hit(call, S3S_FAULT_RESET_BEFORE)) {
        s3s_wire_reset(call->wire);
        *alive = false;
    } else if (s3s_call_hit(call, S3S_FAULT_STATUS)) {
        answer_status_fault(call);
    } else if (call->op != S3S_OP_COMPLETE_UPLOAD || !fault_instead_of_completion(call)) {
        if (!call->fault.has_bytes && s3s_call_hit(call, S3S_FAULT_STALL))
            *alive = s3s_wire_wait(call->wire, (int64_t)call->fault.stall_ms * 1000000);
        return false;
    }
    return true;
}

// As if the network had flipped a bit of the body.
static void corrupt_body(struct s3s_call *call)
{
    if (call->piece.block && call->piece.size_bytes && s3s_call_hit(call, S3S_FAULT_CORRUPT))
        call->piece.block->data[call->piece.size_bytes / 2] ^= 1;
}

static bool perform(struct s3s_call *call, enum s3s_code code)
{
    bool alive = true;
    corrupt_body(call);
    if (!code && call->fault.kind != S3S_FAULT_STATUS) // whose body was not kept
        code = s3s_body_check(call);
    bool made = !code && fault_instead(call, &alive);
    if (!alive)
        return false;
    if (!code && !made)
        code = s3s_perform(call);
    if (code)
        s3s_call_fail(call, code);
    if (!code && s3s_call_hit(call, S3S_FAULT_LOST_REPLY)) {
        s3s_wire_reset(call->wire);
        return false;
    }
    return true;
}

static bool serve_s3(struct s3s_conn *conn)
{
    struct s3s_call *call = &conn->call;
    enum s3s_code code = s3s_route(call);
    count_connection(conn);
    atomic_fetch_add(&conn->server->stats.requests[call->op], 1);
    atomic_fetch_add(&conn->server->stats.tls_requests, conn->wire.tls != NULL);
    match_faults(call);
    code = s3s_admit(call, code);
    if (!code)
        code = s3s_body_prepare(call);
    bool keep = !code && call->fault.kind != S3S_FAULT_STATUS;
    if (!take_body(call, keep))
        return false;
    // Before a status fault: the digests of a body that was not kept say nothing.
    if (!keep && !code)
        call->hash_md5 = call->hash_sha256 = false;
    if (!perform(call, code))
        return false;
    if (s3s_span_is(call->request.method, "HEAD") || call->answer.status == 204)
        call->answer.headers_only = true;
    int64_t latency_ns = (int64_t)conn->server->options.latency_ms * 1000000;
    return s3s_wire_wait(call->wire, latency_ns);
}

static bool serve_control(struct s3s_call *call)
{
    uint64_t length = call->request.content_length;
    struct s3s_text *text = &call->xml;
    while (text->length < length && text->length < S3S_HEAD_MAX_BYTES) {
        char chunk[4096];
        size_t most =
                   length - text->length < sizeof chunk ? length - text->length : sizeof chunk,
               received;
        if (call->leftover.length) {
            received = call->leftover.length < most ? call->leftover.length : most;
            s3s_text_add(text, call->leftover.data, received);
            call->leftover.data += received;
            call->leftover.length -= received;
        } else if (s3s_wire_receive(call->wire, chunk, most, &received)) {
            s3s_text_add(text, chunk, received);
        } else {
            return false;
        }
    }
    call->close |= length > S3S_HEAD_MAX_BYTES;
    s3s_control_perform(call);
    return s3s_answer_send(call);
}

static bool refuse_head(struct s3s_call *call, enum s3s_code code)
{
    call->close = true;
    s3s_call_fail(call, code);
    return s3s_answer_send(call);
}

static bool serve_parsed(struct s3s_conn *conn)
{
    struct s3s_call *call = &conn->call;
    call->close = !call->request.keep_alive;
    if (s3s_control_is(call))
        return serve_control(call);
    s3s_stats_enter(&conn->server->stats.open_requests, &conn->server->stats.max_requests);
    bool alive = serve_s3(conn);
    // Before the answer: a client that has it may send its next request at once.
    atomic_fetch_sub(&conn->server->stats.open_requests, 1);
    return alive && s3s_answer_send(call);
}

// False ends the connection.
static bool serve_request(struct s3s_conn *conn)
{
    struct s3s_call *call = &conn->call;
    s3s_wire_pace(&conn->wire, 0);
    conn->wire.counts = NULL;
    size_t length = read_head(conn);
    if (!length && conn->filled < sizeof conn->head)
        return false;
    s3s_call_begin(call);
    call->leftover = (struct s3s_span){conn->head + length, conn->filled - length};
    enum s3s_code code =
        length ? s3s_request_parse(&call->request, (struct s3s_span){conn->head, length})
               : S3S_HEAD_TOO_LARGE;
    bool alive = code ? refuse_head(call, code) : serve_parsed(conn);
    if (alive && call->close) {
        s3s_wire_end_clean(&conn->wire);
        return false;
    }
    keep_leftover(conn);
    return alive;
}

static void unlink_and_free(struct s3s_conn *conn)
{
    struct s3s_server *server = conn->server;
    s3s_call_fini(&conn->call);
    s3s_tls_free(conn->wire.tls);
    if (conn->counted)
        atomic_fetch_sub(&server->stats.open_connections, 1);
    pthread_mutex_lock(&server->mutex);
    if (conn->previous)
        conn->previous->next = conn->next;
    else
        server->locked.conns = conn->next;
    if (conn->next)
        conn->next->previous = conn->previous;
    close(
        conn->wire
            .fd); // under the mutex: stop_all must not shut a socket that got this number anew
    s3s_mem_free(conn);
    server->locked.count--;
    if (!server->locked.count)
        pthread_cond_signal(&server->idle);
    pthread_mutex_unlock(&server->mutex);
}

// Plain HTTP stays possible beside TLS, for the control requests.
static bool accept_tls(struct s3s_conn *conn)
{
    struct ssl_ctx_st *context = conn->server->tls;
    return !context || s3s_tls_accept(context, conn->wire.fd, &conn->wire.tls);
}

static void *run(void *argument)
{
    struct s3s_conn *conn = argument;
    bool alive = accept_tls(conn);
    while (alive && !atomic_load(&conn->server->stopping) && serve_request(conn))
        continue;
    unlink_and_free(conn);
    return NULL;
}

static void set_up_socket(const struct s3s_server *server, int fd)
{
    int on = 1;
    int bytes = server->options.bandwidth_bytes_per_s ? PACED_BUFFER_BYTES : BUFFER_BYTES;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

static bool link_conn(struct s3s_conn *conn)
{
    struct s3s_server *server = conn->server;
    pthread_mutex_lock(&server->mutex);
    bool room = server->locked.count < server->options.max_connections;
    if (room) {
        conn->next = server->locked.conns;
        if (conn->next)
            conn->next->previous = conn;
        server->locked.conns = conn;
        server->locked.count++;
    }
    pthread_mutex_unlock(&server->mutex);
    return room;
}

void s3s_conn_start(struct s3s_server *server, int fd)
{
    static const char busy[] =
        "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    struct s3s_conn *conn = s3s_mem_zalloc(sizeof *conn);
    conn->server = conn->call.server = server;
    conn->wire.fd = fd;
    conn->call.wire = &conn->wire;
    set_up_socket(server, fd);
    if (!link_conn(conn)) {
        send(fd, busy, sizeof busy - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        close(fd);
        s3s_mem_free(conn);
        return;
    }
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
#ifndef __SANITIZE_ADDRESS__ // which needs more
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
#endif
    if (pthread_create(&thread, &attributes, run, conn) != 0)
        unlink_and_free(conn);
    pthread_attr_destroy(&attributes);
}

void s3s_conn_stop_all(struct s3s_server *server)
{
    atomic_store(&server->stopping, true);
    pthread_mutex_lock(&server->mutex);
    for (struct s3s_conn *conn = server->locked.conns; conn; conn = conn->next)
        shutdown(conn->wire.fd, SHUT_RDWR);
    while (server->locked.count)
        pthread_cond_wait(&server->idle, &server->mutex);
    pthread_mutex_unlock(&server->mutex);
}
