#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* O_DIRECT */
#endif
#include "backends/file.h"
#include "backends/file_sys.h"
#include "core/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

enum {
    /* Of one call: short enough to notice cancelling and to report progress, long enough that
     * the call itself costs nothing. */
    CHUNK_BYTES = 16 * 1024 * 1024,
    VECTOR_MAX = 256,
    DIRECT_ALIGN = 4096,
    SEQUENTIAL_FROM_BYTES = 1024 * 1024
};

/* --- the loop that moves bytes ------------------------------------------------------------ */

/* Where in the spans the next byte goes. */
struct cursor {
    const struct s3d_span *spans;
    size_t count;
    size_t index;
    size_t used_bytes; /* of spans[index] */
};

/* Points vector at the next at most `bytes` bytes; returns how many entries that took. */
static int cursor_fill(const struct cursor *cursor, struct iovec *vector, uint64_t bytes)
{
    int filled = 0;
    size_t used = cursor->used_bytes;
    for (size_t i = cursor->index; i < cursor->count && bytes && filled < VECTOR_MAX; i++) {
        const struct s3d_span *span = &cursor->spans[i];
        size_t piece = span->length_bytes - used;
        piece = piece < bytes ? piece : (size_t)bytes;
        if (piece) {
            vector[filled].iov_base = span->data + used;
            vector[filled].iov_len = piece;
            filled++;
        }
        bytes -= piece;
        used = 0;
    }
    return filled;
}

static void cursor_advance(struct cursor *cursor, size_t bytes)
{
    while (bytes) {
        size_t left = cursor->spans[cursor->index].length_bytes - cursor->used_bytes;
        if (bytes < left) {
            cursor->used_bytes += bytes;
            return;
        }
        bytes -= left;
        cursor->index++;
        cursor->used_bytes = 0;
    }
}

/* How many bytes at the front O_DIRECT can move: offset, addresses and lengths all aligned. */
static uint64_t direct_bytes(const struct s3d_request *request,
                             const struct s3d_file_move *move)
{
    uint64_t aligned = 0;
    if (!move->direct || move->offset_bytes % DIRECT_ALIGN) {
        return 0;
    }
    for (size_t i = 0; i < request->span_count && aligned < move->length_bytes; i++) {
        const struct s3d_span *span = &request->spans[i];
        if (span->length_bytes && (uintptr_t)span->data % DIRECT_ALIGN) {
            break;
        }
        aligned += span->length_bytes - span->length_bytes % DIRECT_ALIGN;
        if (span->length_bytes % DIRECT_ALIGN) {
            break;
        }
    }
    uint64_t whole = move->length_bytes - move->length_bytes % DIRECT_ALIGN;
    return aligned < whole ? aligned : whole;
}

/* The running state of one s3d_file_move. */
struct progress {
    struct cursor cursor;
    bool fresh; /* memory that the bytes come into */
    uint64_t moved_bytes;
    uint64_t direct_until; /* up to here O_DIRECT is on; 0: it is off */
};

/* A file system without O_DIRECT refuses the flag, or each use of it, by EINVAL: then the bytes
 * go through the page cache, which changes their speed alone. */
static void direct_on(struct progress *progress, const struct s3d_file_move *move,
                      uint64_t bytes)
{
    progress->direct_until = bytes && s3d_sys_set_flags(move->fd, O_DIRECT) == 0 ? bytes : 0;
}

static enum s3d_code direct_off(struct progress *progress, const struct s3d_file_move *move,
                                struct s3d_error *error)
{
    progress->direct_until = 0;
    if (s3d_sys_set_flags(move->fd, 0) != 0) {
        return s3d_file_fail(error, errno, "end direct I/O on", move->path);
    }
    return S3D_OK;
}

static enum s3d_code fail_move(const struct progress *progress,
                               const struct s3d_file_move *move, ssize_t result, int sys_errno,
                               struct s3d_error *error)
{
    uint64_t at = move->offset_bytes + progress->moved_bytes;
    if (result < 0) {
        return s3d_fail_errno(error, sys_errno, "could not %s \"%s\" at byte %" PRIu64,
                              move->writing ? "write" : "read", s3d_file_shown(move->path), at);
    }
    if (move->writing) {
        return s3d_fail_errno(error, EIO, "\"%s\" takes no more bytes at byte %" PRIu64,
                              s3d_file_shown(move->path), at);
    }
    return s3d_fail(error, S3D_CHANGED,
                    "\"%s\" shrank while it was read: it ends at byte %" PRIu64,
                    s3d_file_shown(move->path), at);
}

/* One call's worth. */
static enum s3d_code move_chunk(struct progress *progress, const struct s3d_file_move *move,
                                struct s3d_error *error)
{
    struct iovec vector[VECTOR_MAX];
    uint64_t end = progress->direct_until ? progress->direct_until : move->length_bytes;
    uint64_t want = end - progress->moved_bytes;
    int count = cursor_fill(&progress->cursor, vector, want < CHUNK_BYTES ? want : CHUNK_BYTES);
    off_t offset = (off_t)(move->offset_bytes + progress->moved_bytes);
    for (int i = 0; progress->fresh && i < count; i++) {
        s3d_pages_touch(vector[i].iov_base, vector[i].iov_len);
    }
    ssize_t moved = move->writing ? s3d_sys_pwritev(move->fd, vector, count, offset)
                                  : s3d_sys_preadv(move->fd, vector, count, offset);
    if (moved < 0 && errno == EINVAL && progress->direct_until) {
        return direct_off(progress, move, error);
    }
    if (moved <= 0) {
        return fail_move(progress, move, moved, errno, error);
    }
    if (move->write_back && !progress->direct_until) {
        (void)s3d_sys_start_write_back(move->fd, offset, moved); /* advice */
    }
    cursor_advance(&progress->cursor, (size_t)moved);
    progress->moved_bytes += (uint64_t)moved;
    /* A short direct transfer may end off the grid; the rest then goes buffered. */
    if (progress->direct_until && (progress->moved_bytes == progress->direct_until ||
                                   progress->moved_bytes % DIRECT_ALIGN)) {
        return direct_off(progress, move, error);
    }
    return S3D_OK;
}

enum s3d_code s3d_file_move(struct s3d_request *request, const struct s3d_file_move *move,
                            struct s3d_error *error)
{
    struct progress progress = {.cursor = {request->spans, request->span_count, 0, 0},
                                .fresh = request->fresh};
    if (move->length_bytes > INT64_MAX || move->offset_bytes > INT64_MAX - move->length_bytes) {
        return s3d_fail_errno(error, EFBIG, "\"%s\": no file reaches so far",
                              s3d_file_shown(move->path));
    }
    if (s3d_spans_bytes(request->spans, request->span_count) < move->length_bytes) {
        return s3d_fail(error, S3D_INTERNAL,
                        "memory for fewer than the %" PRIu64 " bytes to move",
                        move->length_bytes);
    }
    direct_on(&progress, move, direct_bytes(request, move));
    while (progress.moved_bytes < move->length_bytes) {
        if (atomic_load(&request->cancelled)) {
            return s3d_fail(error, S3D_CANCELLED, "cancelled");
        }
        enum s3d_code code = move_chunk(&progress, move, error);
        if (code) {
            return code;
        }
        if (!move->writing) {
            request->result.received_bytes = progress.moved_bytes;
        }
    }
    return S3D_OK;
}

/* --- GET ---------------------------------------------------------------------------------- */

/* O_NONBLOCK so that a FIFO without a writer does not hang the thread. On a regular file it has
 * one effect only: EAGAIN where a lease must be broken first, which is worth waiting for. */
int s3d_file_open_for_reading(const char *path)
{
    enum { FLAGS = O_RDONLY | O_CLOEXEC | O_NOCTTY };
    int fd = s3d_sys_open(path, FLAGS | O_NONBLOCK, 0);
    if (fd < 0 && errno == EAGAIN) {
        struct stat about;
        if (s3d_sys_stat(path, &about) == 0 && S_ISREG(about.st_mode)) {
            return s3d_sys_open(path, FLAGS, 0);
        }
        errno = EAGAIN;
    }
    return fd;
}

/* The range that is meant, once the size is known. */
static enum s3d_code find_range(const struct s3d_request *request, uint64_t size_bytes,
                                struct s3d_file_move *move, struct s3d_error *error)
{
    if (request->suffix) {
        move->length_bytes =
            request->length_bytes < size_bytes ? request->length_bytes : size_bytes;
        move->offset_bytes = size_bytes - move->length_bytes;
        return S3D_OK;
    }
    move->offset_bytes = request->offset_bytes;
    move->length_bytes = request->length_bytes;
    if (request->at_most && move->offset_bytes <= size_bytes &&
        move->length_bytes > size_bytes - move->offset_bytes) {
        move->length_bytes = size_bytes - move->offset_bytes;
    }
    if (move->offset_bytes > size_bytes ||
        move->length_bytes > size_bytes - move->offset_bytes) {
        return s3d_fail(error, S3D_RANGE,
                        "\"%s\" has %" PRIu64 " bytes: %" PRIu64 " bytes from byte %" PRIu64
                        " on reach beyond its end",
                        s3d_file_shown(request->key), size_bytes, move->length_bytes,
                        move->offset_bytes);
    }
    return S3D_OK;
}

/* Files of /proc say that they are empty, whatever they hold: to believe it would lose that silently. */
enum s3d_code s3d_file_require_size(int fd, struct stat *about, const char *path,
                                    struct s3d_error *error)
{
    char byte;
    struct iovec piece = {&byte, 1};
    ssize_t got = about->st_size ? 0 : s3d_sys_preadv(fd, &piece, 1, 0);
    if (got < 0) {
        return s3d_file_fail(error, errno, "read", path);
    }
    if (got && s3d_sys_fstat(fd, about) != 0) { /* or has it just been written? */
        return s3d_file_fail(error, errno, "look up", path);
    }
    if (got && !about->st_size) {
        return s3d_fail(error, S3D_UNSUPPORTED,
                        "\"%s\" does not tell its size: read it by Python's own open()",
                        s3d_file_shown(path));
    }
    return S3D_OK;
}

/* That the file is still the version `etag` names; fills result.object with what it is now. */
static enum s3d_code check_version(struct s3d_request *request, int fd, const char *etag,
                                   struct s3d_error *error)
{
    struct stat about;
    if (s3d_sys_fstat(fd, &about) != 0) {
        return s3d_file_fail(error, errno, "look up", request->key);
    }
    enum s3d_code code = s3d_file_require_regular(&about, request->key, error);
    if (!code) {
        code = s3d_file_require_size(fd, &about, request->key, error);
    }
    if (code) {
        return code;
    }
    s3d_file_describe(&about, &request->result.object);
    if (etag && strcmp(etag, request->result.object.etag) != 0) {
        return s3d_fail(error, S3D_CHANGED,
                        "\"%s\" changed while it was read: its ETag was %.100s and is %s now",
                        s3d_file_shown(request->key), etag, request->result.object.etag);
    }
    return S3D_OK;
}

enum s3d_code s3d_file_get(struct s3d_request *request, struct s3d_error *error)
{
    const struct s3d_file_store *store = (const struct s3d_file_store *)request->store;
    char etag[S3D_ETAG_MAX];
    struct s3d_file_move move = {.path = request->key, .direct = store->direct};
    enum s3d_code code;
    move.fd = s3d_file_open_for_reading(request->key);
    if (move.fd < 0) {
        return s3d_file_fail(error, errno, "open for reading", request->key);
    }
    code = check_version(request, move.fd, request->if_match, error);
    if (code) {
        goto done;
    }
    code = find_range(request, request->result.object.size_bytes, &move, error);
    if (code) {
        goto done;
    }
    memcpy(etag, request->result.object.etag, sizeof etag);
    request->result.first_byte = move.offset_bytes;
    if (request->begins && move.length_bytes && (code = request->begins(request, error))) {
        goto done;
    }
    if (move.length_bytes >= SEQUENTIAL_FROM_BYTES) {
        (void)s3d_sys_advise_sequential(move.fd, (off_t)move.offset_bytes,
                                        (off_t)move.length_bytes);
    }
    code = s3d_file_move(request, &move, error);
    if (code) {
        goto done;
    }
    code = check_version(request, move.fd, etag, error);

done:
    s3d_sys_close(move.fd);
    return code;
}
