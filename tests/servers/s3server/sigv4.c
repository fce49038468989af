// Verification of AWS Signature Version 4 in the Authorization header.
// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "call.h"

enum { MAX_SKEW_S = 15 * 60, DIGEST_BYTES = 32 };

struct authorization {
    struct s3s_span key_id, date, region, service, terminator; // of the credential
    struct s3s_span scope, signed_headers, signature;
};

static bool read_credential(struct s3s_span credential, struct authorization *to)
{
    if (!s3s_span_cut(&credential, '/', &to->key_id))
        return false;
    to->scope = credential;
    return s3s_span_cut(&credential, '/', &to->date) &&
           s3s_span_cut(&credential, '/', &to->region) &&
           s3s_span_cut(&credential, '/', &to->service) && (to->terminator = credential, true);
}

// AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…
static bool read_authorization(struct s3s_span value, struct authorization *to)
{
    struct s3s_span field, name;
    *to = (struct authorization){0};
    if (!s3s_span_cut(&value, ' ', &field) || !s3s_span_is(field, "AWS4-HMAC-SHA256"))
        return false;
    while (value.length) {
        s3s_span_cut(&value, ',', &field);
        field = s3s_span_trim(field);
        if (!s3s_span_cut(&field, '=', &name))
            return false;
        if (s3s_span_is(name, "Credential") && !read_credential(field, to))
            return false;
        if (s3s_span_is(name, "SignedHeaders"))
            to->signed_headers = field;
        if (s3s_span_is(name, "Signature"))
            to->signature = field;
    }
    return to->key_id.length && to->signed_headers.length && to->signature.length;
}

// 20130524T000000Z
static bool read_date(struct s3s_span value, int64_t *unix_s)
{
    struct tm parts = {0};
    char text[17];
    if (value.length != 16)
        return false;
    s3s_span_store(value, text, sizeof text);
    const char *end = strptime(text, "%Y%m%dT%H%M%SZ", &parts);
    *unix_s = timegm(&parts);
    return end && !*end;
}

static bool list_has(struct s3s_span list, struct s3s_span name)
{
    struct s3s_span item;
    while (list.length) {
        s3s_span_cut(&list, ';', &item);
        if (item.length == name.length && !strncasecmp(item.data, name.data, name.length))
            return true;
    }
    return false;
}

static bool signs_enough(const struct s3s_request *request, struct s3s_span signed_headers)
{
    if (!list_has(signed_headers, s3s_span_of("host")))
        return false;
    for (size_t i = 0; i < request->header_count; i++) {
        struct s3s_span name = request->headers[i].name;
        if (s3s_span_starts_nocase(name, "x-amz-") && !list_has(signed_headers, name))
            return false;
    }
    return true;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// name=value pairs, encoded anew, ordered by their encoded form.
static void add_query(struct s3s_text *out, const struct s3s_request *request)
{
    char *fields[S3S_PARAMS_MAX];
    for (size_t i = 0; i < request->param_count; i++) {
        struct s3s_text field = {0};
        s3s_text_percent(&field, request->params[i].name, false);
        s3s_text_puts(&field,
                      "\001"); // below every byte of a name: '=' would order "a-b" before "a"
        s3s_text_percent(&field, request->params[i].value, false);
        fields[i] = field.data;
    }
    qsort(fields, request->param_count, sizeof *fields, compare_strings);
    for (size_t i = 0; i < request->param_count; i++) {
        *strchr(fields[i], '\001') = '=';
        s3s_text_printf(out, "%s%s", i ? "&" : "", fields[i]);
        s3s_mem_free(fields[i]);
    }
}

static void add_header_value(struct s3s_text *out, struct s3s_span value)
{
    for (size_t i = 0; i < value.length; i++) { // runs of blanks count as one
        if (value.data[i] != ' ' || !i || value.data[i - 1] != ' ')
            s3s_text_add(out, value.data + i, 1);
    }
}

static void add_headers(struct s3s_text *out, const struct s3s_request *request,
                        struct s3s_span names)
{
    struct s3s_span name;
    while (names.length) {
        s3s_span_cut(&names, ';', &name);
        s3s_text_add_span(out, name);
        s3s_text_puts(out, ":");
        bool first = true;
        for (size_t i = 0; i < request->header_count; i++) {
            const struct s3s_pair *header = &request->headers[i];
            if (header->name.length != name.length ||
                strncasecmp(header->name.data, name.data, name.length) != 0)
                continue;
            s3s_text_puts(out, first ? "" : ",");
            add_header_value(out, header->value);
            first = false;
        }
        s3s_text_puts(out, "\n");
    }
}

static void write_canonical(struct s3s_text *out, const struct s3s_request *request,
                            struct s3s_span signed_headers, struct s3s_span payload_hash)
{
    s3s_text_add_span(out, request->method);
    s3s_text_puts(out, "\n");
    s3s_text_percent(out, request->path, true);
    s3s_text_puts(out, "\n");
    add_query(out, request);
    s3s_text_puts(out, "\n");
    add_headers(out, request, signed_headers);
    s3s_text_puts(out, "\n");
    s3s_text_add_span(out, signed_headers);
    s3s_text_puts(out, "\n");
    s3s_text_add_span(out, payload_hash);
}

static void write_string_to_sign(struct s3s_text *out, struct s3s_span date,
                                 struct s3s_span scope, const struct s3s_text *canonical)
{
    unsigned char digest[DIGEST_BYTES];
    EVP_Digest(canonical->data, canonical->length, digest, NULL, EVP_sha256(), NULL);
    s3s_text_puts(out, "AWS4-HMAC-SHA256\n");
    s3s_text_add_span(out, date);
    s3s_text_puts(out, "\n");
    s3s_text_add_span(out, scope);
    s3s_text_puts(out, "\n");
    s3s_text_hex(out, digest, sizeof digest);
}

static void hmac(unsigned char key[DIGEST_BYTES], struct s3s_span data)
{
    unsigned char out[DIGEST_BYTES];
    HMAC(EVP_sha256(), key, DIGEST_BYTES, (const unsigned char *)data.data, data.length, out,
         NULL);
    memcpy(key, out, DIGEST_BYTES);
}

static void sign(const char *secret, const struct authorization *auth,
                 const struct s3s_text *string, struct s3s_text *signature)
{
    unsigned char key[DIGEST_BYTES];
    struct s3s_text first = {0};
    s3s_text_printf(&first, "AWS4%s", secret);
    HMAC(EVP_sha256(), first.data, (int)first.length, (const unsigned char *)auth->date.data,
         auth->date.length, key, NULL);
    hmac(key, auth->region);
    hmac(key, auth->service);
    hmac(key, auth->terminator);
    hmac(key, s3s_text_span(string));
    s3s_text_hex(signature, key, sizeof key);
    s3s_text_fini(&first);
}

static void tell(struct s3s_text *details, const char *element, struct s3s_span value)
{
    s3s_text_printf(details, "<%s>", element);
    s3s_text_xml(details, value);
    s3s_text_printf(details, "</%s>", element);
}

static enum s3s_code check_signature(struct s3s_call *call, const struct authorization *auth,
                                     struct s3s_span date, struct s3s_span payload_hash,
                                     const char *secret)
{
    struct s3s_text canonical = {0}, string = {0}, signature = {0};
    write_canonical(&canonical, &call->request, auth->signed_headers, payload_hash);
    write_string_to_sign(&string, date, auth->scope, &canonical);
    sign(secret, auth, &string, &signature);
    bool same = auth->signature.length == signature.length &&
                !CRYPTO_memcmp(auth->signature.data, signature.data, signature.length);
    if (!same) { // as S3 does: the client's author can compare
        tell(&call->details, "StringToSign", s3s_text_span(&string));
        tell(&call->details, "CanonicalRequest", s3s_text_span(&canonical));
    }
    s3s_text_fini(&canonical);
    s3s_text_fini(&string);
    s3s_text_fini(&signature);
    return same ? S3S_OK : S3S_SIGNATURE;
}

static enum s3s_code check_scope(struct s3s_call *call, const struct authorization *auth,
                                 struct s3s_span date)
{
    const struct s3s_options *options = &call->server->options;
    if (!s3s_span_is(auth->region, options->region)) {
        tell(&call->details, "Region", s3s_span_of(options->region));
        return S3S_AUTH_MALFORMED;
    }
    if (!s3s_span_is(auth->service, "s3") || !s3s_span_is(auth->terminator, "aws4_request") ||
        auth->date.length != 8 || memcmp(auth->date.data, date.data, 8) != 0)
        return S3S_AUTH_MALFORMED;
    return S3S_OK;
}

// One of the control requests' keys, else the command line's.
static enum s3s_code find_key(const struct s3s_call *call, struct s3s_span access,
                              struct s3s_key *key)
{
    const struct s3s_options *options = &call->server->options;
    if (s3s_keys_find(&call->server->keys, access, key))
        return key->expires_s && (int64_t)time(NULL) >= key->expires_s ? S3S_EXPIRED_TOKEN
                                                                       : S3S_OK;
    if (!s3s_span_is(access, options->access_key))
        return S3S_INVALID_KEY_ID;
    *key = (struct s3s_key){0};
    s3s_span_store(s3s_span_of(options->secret_key), key->secret, sizeof key->secret);
    if (options->session_token)
        s3s_span_store(s3s_span_of(options->session_token), key->token, sizeof key->token);
    return S3S_OK;
}

static enum s3s_code check_token(const struct s3s_call *call, const char *expected)
{
    const struct s3s_span *token = s3s_request_header(&call->request, "x-amz-security-token");
    if (*expected ? token && s3s_span_is(*token, expected) : !token)
        return S3S_OK;
    return S3S_INVALID_TOKEN;
}

enum s3s_code s3s_sigv4_check(struct s3s_call *call)
{
    const struct s3s_request *request = &call->request;
    const struct s3s_span *header = s3s_request_header(request, "authorization");
    const struct s3s_span *date = s3s_request_header(request, "x-amz-date");
    const struct s3s_span *payload_hash = s3s_request_header(request, "x-amz-content-sha256");
    struct authorization auth;
    int64_t when;
    if (!header)
        return S3S_ACCESS_DENIED;
    if (!read_authorization(*header, &auth))
        return S3S_AUTH_MALFORMED;
    if (!date || !read_date(*date, &when))
        return S3S_ACCESS_DENIED;
    struct s3s_key key;
    enum s3s_code code = find_key(call, auth.key_id, &key);
    if (code)
        return code;
    code = check_scope(call, &auth, *date);
    if (code)
        return code;
    if (llabs(when - (int64_t)time(NULL)) > MAX_SKEW_S)
        return S3S_SKEWED;
    if (!payload_hash)
        return S3S_MISSING_HEADER;
    if (!signs_enough(request, auth.signed_headers)) {
        tell(&call->details, "HeadersNotSigned",
             s3s_span_of("host and every x-amz-* header must be signed"));
        return S3S_ACCESS_DENIED;
    }
    code = check_signature(call, &auth, *date, *payload_hash, key.secret);
    if (!code)
        code = check_token(call, key.token);
    if (!code)
        atomic_fetch_add(&call->server->stats.signatures_verified, 1);
    if (!code)
        s3s_keys_count(&call->server->keys, auth.key_id);
    return code;
}
