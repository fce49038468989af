#include "wire.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

enum {
    LINGER_MS = 1000,
    LINGER_BYTES = 4 << 20,
    PACE_SLICES_PER_S = 200,
    PACE_MIN_BYTES = 1024,
    PACE_MAX_BYTES = 256 << 10,
    FULL_BYTES = 1 << 20
};

static void sleep_until(int64_t due_ns)
{
    struct timespec due = {.tv_sec = due_ns / 1000000000, .tv_nsec = due_ns % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
        continue;
}

void s3s_wire_pace(struct s3s_wire *wire, uint64_t bytes_per_s)
{
    wire->bytes_per_s = bytes_per_s;
    wire->due_ns = s3s_clock_ns();
}

static size_t slice(const struct s3s_wire *wire, uint64_t wanted)
{
    if (!wire->bytes_per_s)
        return wanted;
    uint64_t most = wire->bytes_per_s / PACE_SLICES_PER_S;
    most = most < PACE_MIN_BYTES   ? PACE_MIN_BYTES
           : most > PACE_MAX_BYTES ? PACE_MAX_BYTES
                                   : most;
    return wanted < most ? wanted : most;
}

// The due time advances by what the bytes should take, so a sleep that lasts too long is made up for by the next.
// A stop of the server, which shuts the socket down, ends the wait.
static bool pace(struct s3s_wire *wire, size_t bytes)
{
    if (!wire->bytes_per_s)
        return true;
    wire->due_ns += (int64_t)((double)bytes * 1e9 / (double)wire->bytes_per_s);
    int64_t left = wire->due_ns - s3s_clock_ns();
    return left <= 0 || s3s_wire_wait(wire, left);
}

static void count(const struct s3s_wire *wire, int64_t bytes)
{
    if (wire->counts)
        atomic_fetch_add_explicit(wire->counts, (uint64_t)bytes, memory_order_relaxed);
}

// A record at a time, so that waiting for all means asking again.
static size_t receive_tls(struct s3s_wire *wire, char *to, size_t capacity, bool all)
{
    size_t total = 0, got;
    do {
        got = s3s_tls_receive(wire->tls, to + total, capacity - total);
        total += got;
    } while (all && got && total < capacity);
    return total;
}

static size_t receive_plain(struct s3s_wire *wire, char *to, size_t capacity, bool all)
{
    ssize_t got;
    do
        got = recv(wire->fd, to, capacity, all ? MSG_WAITALL : 0);
    while (got < 0 && errno == EINTR);
    return got > 0 ? (size_t)got : 0;
}

static bool receive(struct s3s_wire *wire, char *to, size_t capacity, bool all,
                    size_t *received)
{
    capacity = slice(wire, capacity);
    *received = wire->tls ? receive_tls(wire, to, capacity, all)
                          : receive_plain(wire, to, capacity, all);
    count(wire, (int64_t)*received);
    return *received && pace(wire, *received);
}

bool s3s_wire_receive(struct s3s_wire *wire, char *to, size_t capacity, size_t *received)
{
    return receive(wire, to, capacity, false, received);
}

bool s3s_wire_receive_full(struct s3s_wire *wire, char *to, size_t capacity, size_t *received)
{
    return receive(wire, to, capacity < FULL_BYTES ? capacity : FULL_BYTES, true, received);
}

static ssize_t send_some(struct s3s_wire *wire, const char *data, size_t size_bytes, bool more)
{
    if (wire->tls)
        return (ssize_t)s3s_tls_send(wire->tls, data,
                                     size_bytes < FULL_BYTES ? size_bytes : FULL_BYTES);
    return send(wire->fd, data, size_bytes, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
}

// Counted before it is sent: whoever has received the whole answer finds it in the counters.
bool s3s_wire_send(struct s3s_wire *wire, const char *data, uint64_t size_bytes, bool more)
{
    while (size_bytes) {
        size_t part = slice(wire, size_bytes);
        count(wire, (int64_t)part);
        ssize_t sent = send_some(wire, data, part, more);
        count(wire, (sent > 0 ? sent : 0) - (int64_t)part);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0 || !pace(wire, (size_t)sent))
            return false;
        data += sent;
        size_bytes -= (size_t)sent;
    }
    return true;
}

bool s3s_wire_wait(const struct s3s_wire *wire, int64_t nanoseconds)
{
    struct pollfd hangup = {.fd = wire->fd, .events = POLLRDHUP};
    int64_t due = s3s_clock_ns() + nanoseconds, left;
    while ((left = due - s3s_clock_ns()) > 0) {
        struct timespec span = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        int ready = ppoll(&hangup, 1, &span, NULL);
        if (ready > 0)
            return false;
        if (ready < 0 && errno != EINTR)
            return false;
    }
    return true;
}

static void wait_until_acknowledged(int fd)
{
    int unsent = 0;
    for (int i = 0; i < LINGER_MS && !ioctl(fd, SIOCOUTQ, &unsent) && unsent > 0; i++)
        sleep_until(s3s_clock_ns() + 1000000);
}

void s3s_wire_reset(struct s3s_wire *wire)
{
    wait_until_acknowledged(wire->fd);
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    setsockopt(wire->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

void s3s_wire_end_clean(struct s3s_wire *wire)
{
    char scratch[4096];
    size_t swallowed = 0;
    struct pollfd readable = {.fd = wire->fd, .events = POLLIN};
    if (wire->tls)
        s3s_tls_end(wire->tls);
    shutdown(wire->fd, SHUT_WR);
    while (swallowed < LINGER_BYTES && poll(&readable, 1, LINGER_MS) > 0) {
        ssize_t got = recv(wire->fd, scratch, sizeof scratch, 0);
        if (got <= 0)
            break;
        swallowed += (size_t)got;
    }
}
