#include "backends/auth.h"

#include "core/mem.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <time.h>

enum {
    DIGEST_BYTES = 32,
    DAY_LENGTH = 8,               /* "20260131" */
    CANONICAL_MAX = 1024 * 1024,  /* far above what any server takes as a request head */
    STRING_TO_SIGN_MAX = 4 * 1024 /* holds a region and a service name */
};

static enum s3d_code fail_openssl(struct s3d_error *error, const char *what)
{
    return s3d_fail(error, S3D_INTERNAL, "OpenSSL could not compute %s", what);
}

static void write_hex(char *hex, const unsigned char *digest, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < length; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[2 * length] = '\0';
}

static bool hash_spans(EVP_MD_CTX *context, const struct s3d_span *spans, size_t count,
                       unsigned char digest[DIGEST_BYTES])
{
    if (!EVP_DigestInit_ex(context, EVP_sha256(), NULL)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!EVP_DigestUpdate(context, spans[i].data, spans[i].length_bytes)) {
            return false;
        }
    }
    return EVP_DigestFinal_ex(context, digest, NULL) == 1;
}

enum s3d_code s3d_sha256_hex(char hex[S3D_SHA256_HEX], const struct s3d_span *spans,
                             size_t count, struct s3d_error *error)
{
    unsigned char digest[DIGEST_BYTES];
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool hashed = context && hash_spans(context, spans, count, digest);
    EVP_MD_CTX_free(context);
    if (!hashed) {
        hex[0] = '\0';
        return fail_openssl(error, "SHA-256");
    }
    write_hex(hex, digest, DIGEST_BYTES);
    return S3D_OK;
}

void s3d_base64(char *text, const unsigned char *data, size_t length)
{
    EVP_EncodeBlock((unsigned char *)text, data, (int)length);
}

bool s3d_md5_hex(char hex[S3D_MD5_HEX], const void *data, size_t length)
{
    unsigned char digest[S3D_MD5_BYTES];
    if (!EVP_Digest(data, length, digest, NULL, EVP_md5(), NULL)) {
        return false;
    }
    write_hex(hex, digest, S3D_MD5_BYTES);
    return true;
}

enum s3d_code s3d_key_digest(char digest[S3D_MD5_BASE64], const char *key,
                             struct s3d_error *error)
{
    enum { TEXT = 44, KEY = 32, DECODED = TEXT / 4 * 3 };
    unsigned char decoded[DECODED], md5[S3D_MD5_BYTES];
    if (strlen(key) != TEXT || strcspn(key, "=") != TEXT - 1 ||
        EVP_DecodeBlock(decoded, (const unsigned char *)key, TEXT) != DECODED) {
        return s3d_fail(error, S3D_INVALID, "sse_customer_key must be 32 bytes in base64");
    }
    bool hashed = EVP_Digest(decoded, KEY, md5, NULL, EVP_md5(), NULL) == 1;
    OPENSSL_cleanse(decoded, sizeof decoded);
    if (!hashed) {
        return fail_openssl(error, "MD5");
    }
    s3d_base64(digest, md5, sizeof md5);
    return S3D_OK;
}

enum s3d_code s3d_sha1_hex(char hex[S3D_SHA1_HEX], const void *data, size_t length,
                           struct s3d_error *error)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    if (!EVP_Digest(data, length, digest, NULL, EVP_sha1(), NULL)) {
        hex[0] = '\0';
        return fail_openssl(error, "SHA-1");
    }
    write_hex(hex, digest, (S3D_SHA1_HEX - 1) / 2);
    return S3D_OK;
}

/* Two decimal digits of a value that gmtime_r keeps below 100. */
static void write_two_digits(char *to, int value)
{
    to[0] = (char)('0' + value / 10 % 10);
    to[1] = (char)('0' + value % 10);
}

void s3d_amz_date(char date[S3D_AMZ_DATE], int64_t unix_s)
{
    memcpy(date, "19700101T000000Z", S3D_AMZ_DATE);
    time_t seconds = (time_t)unix_s;
    struct tm utc;
    /* A clock outside the years that fit gives the epoch; the server then says what is wrong. */
    if (!gmtime_r(&seconds, &utc) || utc.tm_year < -1900 || utc.tm_year > 9999 - 1900) {
        return;
    }
    write_two_digits(date, (utc.tm_year + 1900) / 100);
    write_two_digits(date + 2, (utc.tm_year + 1900) % 100);
    write_two_digits(date + 4, utc.tm_mon + 1);
    write_two_digits(date + 6, utc.tm_mday);
    write_two_digits(date + 9, utc.tm_hour);
    write_two_digits(date + 11, utc.tm_min);
    write_two_digits(date + 13, utc.tm_sec);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Trimmed, and inner runs of blanks become one space: the server signs what it sees so. */
static void add_header_value(struct s3d_str *canonical, const char *value)
{
    bool pending = false, begun = false;
    for (const char *c = value; *c; c++) {
        if (is_blank(*c)) {
            pending = begun;
            continue;
        }
        if (pending) {
            s3d_str_add_bytes(canonical, " ", 1);
        }
        const char *end = c + 1;
        while (*end && !is_blank(*end)) {
            end++;
        }
        s3d_str_add_bytes(canonical, c, (size_t)(end - c));
        c = end - 1;
        pending = false;
        begun = true;
    }
}

static void add_signed_headers(struct s3d_str *to, const struct s3d_sigv4 *request)
{
    for (size_t i = 0; i < request->header_count; i++) {
        if (i) {
            s3d_str_add_bytes(to, ";", 1);
        }
        s3d_str_add(to, request->headers[i].name);
    }
}

/* The hash of the canonical request: what client and server must spell alike to the byte. */
static enum s3d_code hash_canonical_request(const struct s3d_sigv4 *request,
                                            char hex[S3D_SHA256_HEX], struct s3d_error *error)
{
    struct s3d_str canonical = S3D_STR(CANONICAL_MAX);
    s3d_str_add_format(&canonical, "%s\n", request->method);
    s3d_str_add(&canonical, request->path);
    s3d_str_add(&canonical, "\n");
    s3d_str_add(&canonical, request->query);
    s3d_str_add(&canonical, "\n");
    for (size_t i = 0; i < request->header_count; i++) {
        s3d_str_add(&canonical, request->headers[i].name);
        s3d_str_add(&canonical, ":");
        add_header_value(&canonical, request->headers[i].value);
        s3d_str_add(&canonical, "\n");
    }
    s3d_str_add(&canonical, "\n");
    add_signed_headers(&canonical, request);
    s3d_str_add(&canonical, "\n");
    s3d_str_add(&canonical, request->payload);

    enum s3d_code code = s3d_str_check(&canonical, error);
    if (!code) {
        struct s3d_span span = {canonical.data, canonical.length};
        code = s3d_sha256_hex(hex, &span, 1, error);
    }
    if (canonical.data) {
        OPENSSL_cleanse(canonical.data, canonical.length); /* tokens are among the headers */
    }
    s3d_str_fini(&canonical);
    return code;
}

static void add_scope(struct s3d_str *to, const struct s3d_sigv4 *request)
{
    s3d_str_add_bytes(to, request->date, DAY_LENGTH);
    s3d_str_add(to, "/");
    s3d_str_add(to, request->region);
    s3d_str_add(to, "/");
    s3d_str_add(to, request->service);
    s3d_str_add(to, "/aws4_request");
}

/* One link of the key chain; `key` and `mac` may be the same memory. */
static bool hmac(const void *key, size_t key_bytes, const void *text, size_t text_bytes,
                 unsigned char mac[DIGEST_BYTES])
{
    unsigned char digest[DIGEST_BYTES];
    bool done = HMAC(EVP_sha256(), key, (int)key_bytes, text, text_bytes, digest, NULL) != NULL;
    if (done) {
        memcpy(mac, digest, DIGEST_BYTES);
    }
    OPENSSL_cleanse(digest, sizeof digest);
    return done;
}

static bool hmac_text(unsigned char key[DIGEST_BYTES], const char *text)
{
    return hmac(key, DIGEST_BYTES, text, strlen(text), key);
}

/* HMAC of the day under "AWS4" + secret: the first link. */
static enum s3d_code derive_day_key(const struct s3d_sigv4 *request,
                                    unsigned char key[DIGEST_BYTES], struct s3d_error *error)
{
    static const char prefix[] = "AWS4";
    const size_t prefix_bytes = sizeof prefix - 1;
    size_t secret_bytes = strlen(request->secret_key);
    if (secret_bytes > CANONICAL_MAX) {
        return s3d_fail(error, S3D_INVALID, "the secret key is longer than %d bytes",
                        CANONICAL_MAX);
    }
    size_t bytes = prefix_bytes + secret_bytes;
    char *secret = s3d_alloc(bytes);
    if (!secret) {
        return s3d_fail_memory(error, bytes);
    }
    memcpy(secret, prefix, prefix_bytes);
    memcpy(secret + prefix_bytes, request->secret_key, secret_bytes);
    bool done = hmac(secret, bytes, request->date, DAY_LENGTH, key);
    OPENSSL_cleanse(secret, bytes);
    s3d_free(secret);
    return done ? S3D_OK : fail_openssl(error, "HMAC-SHA-256");
}

static enum s3d_code sign(const struct s3d_sigv4 *request, const struct s3d_str *text,
                          char hex[S3D_SHA256_HEX], struct s3d_error *error)
{
    unsigned char key[DIGEST_BYTES];
    enum s3d_code code = derive_day_key(request, key, error);
    if (!code) {
        bool done = hmac_text(key, request->region) && hmac_text(key, request->service) &&
                    hmac_text(key, "aws4_request") &&
                    hmac(key, DIGEST_BYTES, text->data, text->length, key);
        if (done) {
            write_hex(hex, key, DIGEST_BYTES);
        } else {
            code = fail_openssl(error, "HMAC-SHA-256");
        }
    }
    OPENSSL_cleanse(key, sizeof key);
    return code;
}

enum s3d_code s3d_sigv4_authorize(const struct s3d_sigv4 *request,
                                  struct s3d_str *authorization, struct s3d_error *error)
{
    struct s3d_str text = S3D_STR(STRING_TO_SIGN_MAX);
    char canonical_hash[S3D_SHA256_HEX], signature[S3D_SHA256_HEX];
    if (strlen(request->date) != S3D_AMZ_DATE - 1) {
        return s3d_fail(error, S3D_INTERNAL, "\"%s\" is no x-amz-date", request->date);
    }
    enum s3d_code code = hash_canonical_request(request, canonical_hash, error);
    if (code) {
        goto done;
    }
    s3d_str_add(&text, "AWS4-HMAC-SHA256\n");
    s3d_str_add(&text, request->date);
    s3d_str_add(&text, "\n");
    add_scope(&text, request);
    s3d_str_add(&text, "\n");
    s3d_str_add(&text, canonical_hash);
    if ((code = s3d_str_check(&text, error)) ||
        (code = sign(request, &text, signature, error))) {
        goto done;
    }
    /* ", " is how all AWS SDKs write it, so every server has met it. */
    s3d_str_add(authorization, "AWS4-HMAC-SHA256 Credential=");
    s3d_str_add(authorization, request->access_key);
    s3d_str_add(authorization, "/");
    add_scope(authorization, request);
    s3d_str_add(authorization, ", SignedHeaders=");
    add_signed_headers(authorization, request);
    s3d_str_add(authorization, ", Signature=");
    s3d_str_add(authorization, signature);
    code = s3d_str_check(authorization, error);
done:
    s3d_str_fini(&text);
    return code;
}
