#include "backends/s3.h"

#include "backends/auth.h"
#include "backends/backends.h"
#include "backends/host.h"
#include "backends/sums.h"
#include "core/config.h"
#include "core/mem.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static const uint64_t MIB = 1024 * 1024;
static const uint64_t GIB = 1024 * 1024 * 1024;

static const struct s3d_http_protocol s3_protocol = {
    .build = s3d_s3_build,
    .accept_body = s3d_s3_accept_body,
    .finish = s3d_s3_finish,
};

static void s3_close(struct s3d_store *base)
{
    struct s3d_s3_store *store = (struct s3d_s3_store *)(void *)base;
    s3d_free(store->http.ca_bundle);
    s3d_http_proxy_fini(&store->http.proxy);
    s3d_free(store->path);
    s3d_s3_places_fini(&store->places);
    s3d_s3_extras_fini(&store->extras);
    s3d_identity_release(store->identity);
    s3d_free(store);
}

/* The MD5 that a part's ETag is, where it is one (not so with SSE-KMS). */
static bool part_digest(const char *etag, unsigned char digest[S3D_MD5_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    if (strlen(etag) != S3D_MD5_HEX - 1 + 2 || etag[0] != '"' || etag[S3D_MD5_HEX] != '"') {
        return false;
    }
    for (size_t i = 0; i < S3D_MD5_BYTES; i++) {
        const char *high = strchr(digits, etag[2 * i + 1]);
        const char *low = strchr(digits, etag[2 * i + 2]);
        if (!high || !low) {
            return false;
        }
        digest[i] = (unsigned char)((high - digits) << 4 | (low - digits));
    }
    return true;
}

/* S3's rule for uploads in parts: the MD5 of the parts' MD5s, and how many there are. */
static bool s3_upload_etag(const struct s3d_part *parts, size_t count, char etag[S3D_ETAG_MAX])
{
    unsigned char *digests = s3d_alloc_zeroed(count, S3D_MD5_BYTES);
    bool known = digests != NULL;
    for (size_t i = 0; known && i < count; i++) {
        known = part_digest(parts[i].etag, digests + i * S3D_MD5_BYTES);
    }
    char hex[S3D_MD5_HEX];
    known = known && s3d_md5_hex(hex, digests, count * S3D_MD5_BYTES);
    if (known) {
        snprintf(etag, S3D_ETAG_MAX, "\"%s-%zu\"", hex, count);
    }
    s3d_free(digests);
    return known;
}

static bool s3_upload_sum_is(const struct s3d_request *request, const struct s3d_object *object)
{
    char sum[S3D_SUM_TEXT];
    const struct s3d_sum_kind *kind = s3d_s3_checksum_kind(request);
    if (!kind || kind != object->sum_kind) {
        return false;
    }
    kind->write(s3d_sum_parts(kind, request), sum);
    return strcmp(sum, object->sum) == 0;
}

static enum s3d_code s3_ready(struct s3d_store *base, uint64_t *ticket, struct s3d_error *error)
{
    struct s3d_s3_store *store = (struct s3d_s3_store *)(void *)base;
    return s3d_identity_ready(store->identity, ticket, error);
}

static const struct s3d_store_ops s3_ops = {
    .driver = &s3d_http_driver,
    .ready = s3_ready,
    .close = s3_close,
    .upload_etag = s3_upload_etag,
    .upload_sum_is = s3_upload_sum_is,
    .keeps_write_id = true,
};

static bool is_tls(const char *origin)
{
    return strncasecmp(origin, "https://", 8) == 0;
}

/* TLS, or a way that does not leave this machine. */
static bool is_private(const char *origin, const struct s3d_http_proxy *proxy)
{
    char host[S3D_HOST_MAX];
    return is_tls(origin) || (s3d_host_of(origin, host) && s3d_host_is_loopback(host) &&
                              !s3d_http_proxy_for(proxy, origin));
}

static bool is_address(const char *authority, size_t length)
{
    return authority[0] == '[' || strspn(authority, "0123456789.:") >= length;
}

static enum s3d_code choose_addressing(const struct s3d_config *config, const char *bucket,
                                       const char *authority, size_t length, bool *virtual,
                                       struct s3d_error *error)
{
    const char *addressing = config->addressing ? config->addressing : "auto";
    bool dotted = strchr(bucket, '.') != NULL; /* no wildcard certificate covers it */
    if (strcmp(addressing, "path") == 0) {
        *virtual = false;
    } else if (strcmp(addressing, "virtual") == 0) {
        *virtual = !is_address(authority, length);
    } else if (strcmp(addressing, "auto") == 0) {
        *virtual = !config->endpoint && !dotted;
    } else {
        return s3d_fail(error, S3D_INVALID,
                        "S3DLIO_ADDRESSING is \"%.32s\", but must be auto, path or virtual",
                        addressing);
    }
    return S3D_OK;
}

/* The setting, else the profile's, else `fallback`. The caller frees *value. */
static enum s3d_code setting_or_profile(const struct s3d_config *config, const char *setting,
                                        const char *profile_name, char **value,
                                        struct s3d_error *error)
{
    if (setting) {
        *value = s3d_copy_string(setting);
        return *value ? S3D_OK : s3d_fail_memory(error, strlen(setting) + 1);
    }
    return s3d_profile_setting(config, profile_name, value, error);
}

static enum s3d_code set_path(struct s3d_s3_store *store, const char *bucket, bool virtual,
                              struct s3d_error *error)
{
    struct s3d_str path = S3D_STR(4096);
    s3d_str_add(&path, "/");
    if (!virtual) {
        s3d_str_add_encoded(&path, bucket, false);
        s3d_str_add(&path, "/");
    }
    enum s3d_code code = s3d_str_check(&path, error);
    store->path = path.data; /* ownership moves */
    return code;
}

/* endpoint: NULL for Amazon's; what follows its authority is cut off. */
static enum s3d_code set_address(struct s3d_s3_store *store, const struct s3d_config *config,
                                 char *endpoint, const char *region, const char *bucket,
                                 struct s3d_error *error)
{
    const char *authority = "s3.amazonaws.com";
    size_t length = strlen(authority);
    bool virtual = false;
    struct s3d_config effective = *config;
    effective.endpoint = endpoint; /* decides on addressing */
    enum s3d_code code =
        endpoint ? s3d_endpoint_parse(endpoint, "AWS_ENDPOINT_URL", &authority, &length, error)
                 : S3D_OK;
    if (!code) {
        code = choose_addressing(&effective, bucket, authority, length, &virtual, error);
    }
    if (!code && endpoint) {
        endpoint[(size_t)(authority - endpoint) + length] = '\0';
    }
    if (!code) {
        code = s3d_s3_places_init(&store->places, endpoint, region, bucket, virtual, error);
    }
    store->http.base.site = store->places.site;
    return code ? code : set_path(store, bucket, virtual, error);
}

/* One of the two settings about checksums; profiles have them, too, in lower case. */
static enum s3d_code checksum_setting(const struct s3d_config *config, const char *setting,
                                      const char *name, const char *profile_name,
                                      bool custom_endpoint, bool *supported,
                                      struct s3d_error *error)
{
    char *value = NULL;
    enum s3d_code code = setting_or_profile(config, setting, profile_name, &value, error);
    if (!code) {
        code = s3d_s3_checksum_setting(name, value, custom_endpoint, supported, error);
    }
    s3d_free(value);
    return code;
}

static enum s3d_code set_checksums(struct s3d_s3_store *store, const struct s3d_config *config,
                                   bool custom_endpoint, struct s3d_error *error)
{
    bool sends = false, checks = false;
    enum s3d_code code = checksum_setting(
        config, config->checksum_calculation, "AWS_REQUEST_CHECKSUM_CALCULATION",
        "request_checksum_calculation", custom_endpoint, &sends, error);
    if (!code) {
        code = checksum_setting(
            config, config->checksum_validation, "AWS_RESPONSE_CHECKSUM_VALIDATION",
            "response_checksum_validation", custom_endpoint, &checks, error);
    }
    store->checksum = sends ? S3D_CHECKSUM_CRC64NVME : S3D_CHECKSUM_NONE;
    store->http.base.check_kinds = checks ? s3d_sum_kinds : NULL;
    return code;
}

static enum s3d_code set_endpoint(struct s3d_s3_store *store, const struct s3d_config *config,
                                  const char *bucket, struct s3d_error *error)
{
    char *endpoint = NULL, *region = NULL;
    enum s3d_code code = setting_or_profile(config, config->region, "region", &region, error);
    if (!code) {
        code = setting_or_profile(config, config->endpoint, "endpoint_url", &endpoint, error);
    }
    if (!code) {
        code =
            set_address(store, config, endpoint, region ? region : "us-east-1", bucket, error);
    }
    if (!code) {
        code = set_checksums(store, config, endpoint != NULL, error);
    }
    s3d_free(endpoint);
    s3d_free(region);
    return code;
}

/*
 * Cloudflare R2 takes uploads only whose parts, but for the last, are of one size.
 * Source: https://developers.cloudflare.com/r2/objects/multipart-objects/
 */
static bool wants_equal_parts(const char *host)
{
    static const char r2[] = ".r2.cloudflarestorage.com";
    size_t length = strcspn(host, ":"), tail = sizeof r2 - 1;
    return length > tail && strncasecmp(host + length - tail, r2, tail) == 0;
}

enum s3d_code s3d_s3_open(struct s3d_store **out, struct s3d_engine *engine,
                          const struct s3d_config *config, const char *bucket,
                          struct s3d_error *error)
{
    struct s3d_s3_store *store = s3d_alloc_zeroed(1, sizeof *store);
    if (!store) {
        return s3d_fail_memory(error, sizeof *store);
    }
    store->sign_payload = config->sign_payload;
    store->http.protocol = &s3_protocol;
    store->http.base.limits = (struct s3d_limits){
        .part_min_bytes = 5 * MIB,
        .part_max_bytes = 5 * GIB,
        .parts_max = 10000,
        .object_max_bytes = 10000 * 5 * GIB, /* 48.8 TiB */
    };
    enum s3d_code code = set_endpoint(store, config, bucket, error);
    if (!code) {
        code = s3d_http_proxy_load(&store->http.proxy, config,
                                   is_tls(store->places.home.origin), error);
    }
    if (!code) {
        store->http.base.limits.equal_parts = wants_equal_parts(store->places.home.host);
        code = s3d_s3_extras_load(&store->extras, config,
                                  is_private(store->places.home.origin, &store->http.proxy),
                                  error);
    }
    if (!code) {
        code = s3d_identity_open(&store->identity, config, error);
    }
    if (!code && config->ca_bundle) {
        store->http.ca_bundle = s3d_copy_string(config->ca_bundle);
        code =
            store->http.ca_bundle ? S3D_OK : s3d_fail_memory(error, strlen(config->ca_bundle));
    }
    if (!code) {
        code = s3d_store_init(&store->http.base, &s3_ops, engine, error);
    }
    if (code) {
        s3_close(&store->http.base);
    } else {
        *out = &store->http.base;
    }
    return code;
}
