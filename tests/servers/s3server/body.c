// Receives request bodies: objects and parts straight into the block they stay in, XML into a text, everything that is
// not kept into the connection's scratch buffer.
#include <openssl/evp.h>
#include <string.h>

#include "call.h"
#include "checksum.h"

enum { SCRATCH_BYTES = 512 << 10, HASHED_CHUNK_BYTES = 128 << 10 };

bool s3s_body_is_data(const struct s3s_call *call)
{
    return call->op == S3S_OP_PUT_OBJECT || call->op == S3S_OP_UPLOAD_PART;
}

static bool is_digest(const struct s3s_span *value)
{
    if (!value || value->length != 64)
        return false;
    for (size_t i = 0; i < 64; i++) {
        if (!strchr("0123456789abcdefABCDEF", value->data[i]) || !value->data[i])
            return false;
    }
    return true;
}

enum s3s_code s3s_body_prepare(struct s3s_call *call)
{
    const struct s3s_options *options = &call->server->options;
    bool data = s3s_body_is_data(call);
    call->hash_md5 =
        (data && options->real_md5) || s3s_request_header(&call->request, "content-md5");
    call->hash_sha256 = options->verify &&
                        is_digest(s3s_request_header(&call->request, "x-amz-content-sha256"));
    if (!data)
        return S3S_OK;
    call->piece.size_bytes = call->request.content_length;
    if (options->discard || !call->request.content_length)
        return S3S_OK;
    call->piece.block = s3s_pool_take(&call->server->pool, call->request.content_length);
    return call->piece.block ? S3S_OK : S3S_STORAGE_FULL;
}

static bool take_leftover(struct s3s_call *call, char *to, size_t capacity, size_t *received)
{
    if (!call->leftover.length)
        return false;
    *received = call->leftover.length < capacity ? call->leftover.length : capacity;
    memcpy(to, call->leftover.data, *received);
    call->leftover.data += *received;
    call->leftover.length -= *received;
    atomic_fetch_add_explicit(call->wire->counts, *received, memory_order_relaxed);
    return true;
}

// Where the bytes from `done` on go, and how many at a time.
static char *destination(struct s3s_call *call, bool keep, uint64_t done, size_t *capacity)
{
    uint64_t left = call->request.content_length - done;
    if (keep && call->piece.block) {
        *capacity = left;
        return call->piece.block->data + done;
    }
    *capacity = left < SCRATCH_BYTES ? left : SCRATCH_BYTES;
    if (!call->scratch)
        call->scratch = s3s_mem_resize(NULL, SCRATCH_BYTES);
    return call->scratch;
}

struct hashes {
    EVP_MD_CTX *md5, *sha256; // NULL: not wanted
};

static EVP_MD_CTX *hash_begin(bool wanted, const EVP_MD *kind)
{
    if (!wanted)
        return NULL;
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    EVP_DigestInit_ex(hash, kind, NULL);
    return hash;
}

static void hash_end(EVP_MD_CTX *hash, unsigned char *digest)
{
    if (hash)
        EVP_DigestFinal_ex(hash, digest, NULL);
    EVP_MD_CTX_free(hash);
}

static bool receive_all(struct s3s_call *call, bool keep, const struct hashes *hashes)
{
    uint64_t length = call->request.content_length, done = 0;
    bool refuse = call->fault.kind == S3S_FAULT_REFUSE_BODY;
    uint64_t refuse_at = call->fault.bytes < length ? call->fault.bytes : length;
    while (done < length || refuse) {
        size_t capacity, received = 0;
        char *to = destination(call, keep, done, &capacity);
        if (refuse && done >= refuse_at) {
            s3s_call_hit(call, S3S_FAULT_REFUSE_BODY);
            s3s_wire_reset(call->wire);
            return false;
        }
        if (refuse && capacity > refuse_at - done)
            capacity = refuse_at - done;
        if ((hashes->md5 || hashes->sha256) && capacity > HASHED_CHUNK_BYTES)
            capacity = HASHED_CHUNK_BYTES;
        if (!take_leftover(call, to, capacity, &received) &&
            !s3s_wire_receive_full(call->wire, to, capacity, &received))
            return false;
        if (hashes->md5)
            EVP_DigestUpdate(hashes->md5, to, received);
        if (hashes->sha256)
            EVP_DigestUpdate(hashes->sha256, to, received);
        if (keep && !s3s_body_is_data(call))
            s3s_text_add(&call->xml, to, received);
        done += received;
    }
    return true;
}

bool s3s_body_receive(struct s3s_call *call, bool keep)
{
    struct hashes hashes = {hash_begin(keep && call->hash_md5, EVP_md5()),
                            hash_begin(keep && call->hash_sha256, EVP_sha256())};
    uint64_t pace = call->server->options.bandwidth_bytes_per_s;
    if (s3s_body_is_data(call) && call->request.content_length &&
        s3s_call_hit(call, S3S_FAULT_SLOW))
        pace = call->fault.bytes_per_s;
    s3s_wire_pace(call->wire, pace);
    call->wire->counts = &call->server->stats.bytes_in;
    bool whole = receive_all(call, keep, &hashes);
    hash_end(hashes.md5, call->md5);
    hash_end(hashes.sha256, call->sha256);
    return whole;
}

static enum s3s_code check_md5(const struct s3s_call *call, struct s3s_span base64)
{
    unsigned char digest[20];
    if (base64.length != 24)
        return S3S_INVALID_DIGEST;
    int length = EVP_DecodeBlock(digest, (const unsigned char *)base64.data,
                                 24); // 16 bytes and 2 of padding
    if (length != 18)
        return S3S_INVALID_DIGEST;
    return memcmp(digest, call->md5, 16) ? S3S_BAD_DIGEST : S3S_OK;
}

enum s3s_code s3s_body_check(const struct s3s_call *call)
{
    const struct s3s_span *md5 = s3s_request_header(&call->request, "content-md5");
    const struct s3s_span *sha256 = s3s_request_header(&call->request, "x-amz-content-sha256");
    if (call->hash_sha256 && sha256) {
        struct s3s_text hex = {0};
        s3s_text_hex(&hex, call->sha256, sizeof call->sha256);
        bool same = s3s_span_is_nocase(*sha256, hex.data);
        s3s_text_fini(&hex);
        if (!same)
            return S3S_PAYLOAD_MISMATCH;
    }
    struct s3s_span value;
    const struct s3s_checksum *checksum = s3s_checksum_sent(&call->request, &value);
    if (checksum && s3s_body_is_data(call) &&
        !s3s_checksum_matches(checksum, &call->piece, 1, value))
        return S3S_BAD_DIGEST;
    return md5 ? check_md5(call, *md5) : S3S_OK;
}
