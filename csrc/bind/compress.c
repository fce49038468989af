#include "bind/compress.h"

#include "core/latch.h"
#include "core/mem.h"
#include "formats/zstd.h"

#include <unistd.h>

enum {
    THREADS_MAX = 8, /* they outrun most networks by then */
    OUT_BYTES = 256 * 1024,
    STEP_BYTES = 1024 * 1024, /* taken at once: a look at the clock in between costs nothing */
};

struct bind_compress {
    struct s3d_zstd_encoder *encoder;
    bool ended;
    size_t out_bytes, out_sent; /* of out: compressed, and given to the put */
    char out[OUT_BYTES];
};

static unsigned thread_count(unsigned setting)
{
    long cores = setting ? (long)setting : sysconf(_SC_NPROCESSORS_ONLN);
    return cores < 1 ? 1 : cores > THREADS_MAX ? THREADS_MAX : (unsigned)cores;
}

enum s3d_code bind_compress_new(struct bind_compress **out, int level, unsigned threads,
                                struct s3d_error *error)
{
    struct bind_compress *compress = s3d_alloc_zeroed(1, sizeof *compress);
    if (!compress) {
        return s3d_fail_memory(error, sizeof *compress);
    }
    enum s3d_code code =
        s3d_zstd_encoder_new(&compress->encoder, level, thread_count(threads), error);
    if (code) {
        s3d_free(compress);
        return code;
    }
    *out = compress;
    return S3D_OK;
}

void bind_compress_free(struct bind_compress *compress)
{
    if (compress) {
        s3d_zstd_encoder_free(compress->encoder);
        s3d_free(compress);
    }
}

static enum s3d_code send_out(struct bind_compress *compress, struct s3d_put *put,
                              int64_t timeout_ms, struct s3d_error *error)
{
    enum s3d_code code = S3D_OK;
    if (compress->out_bytes) {
        code = s3d_put_write(put, compress->out, compress->out_bytes, &compress->out_sent,
                             timeout_ms, error);
    }
    if (!code) {
        compress->out_bytes = compress->out_sent = 0;
    }
    return code;
}

/* Compresses the next of [data, data + length) after *written into `out`, which is empty. */
static enum s3d_code fill_out(struct bind_compress *compress, const char *data, size_t length,
                              size_t *written, bool end, struct s3d_error *error)
{
    size_t left = length - *written;
    struct s3d_zstd_flow flow = {.from = data ? data + *written : NULL,
                                 .from_bytes = left < STEP_BYTES ? left : STEP_BYTES,
                                 .to = compress->out,
                                 .to_bytes = OUT_BYTES};
    enum s3d_code code =
        s3d_zstd_encode(compress->encoder, &flow, end, &compress->ended, error);
    *written += flow.taken;
    compress->out_bytes = flow.given;
    return code;
}

static bool is_done(const struct bind_compress *compress, size_t length, size_t written,
                    bool end)
{
    return !compress->out_bytes && written == length && (compress->ended || !end);
}

static enum s3d_code run(struct bind_compress *compress, struct s3d_put *put, const char *data,
                         size_t length, size_t *written, bool end, int64_t timeout_ms,
                         struct s3d_error *error)
{
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    enum s3d_code code = S3D_OK;
    while (!code && !is_done(compress, length, *written, end)) {
        int64_t left_ms = s3d_left_ms(deadline_ms);
        if (left_ms == 0) {
            return S3D_AGAIN;
        }
        code = compress->out_bytes ? send_out(compress, put, left_ms, error)
                                   : fill_out(compress, data, length, written, end, error);
    }
    return code;
}

enum s3d_code bind_compress_write(struct bind_compress *compress, struct s3d_put *put,
                                  const void *data, size_t length, size_t *written,
                                  int64_t timeout_ms, struct s3d_error *error)
{
    return run(compress, put, data, length, written, false, timeout_ms, error);
}

enum s3d_code bind_compress_finish(struct bind_compress *compress, struct s3d_put *put,
                                   int64_t timeout_ms, struct s3d_error *error)
{
    size_t written = 0;
    return run(compress, put, NULL, 0, &written, true, timeout_ms, error);
}
