#include "backends/http_ca.h"

#include "core/mem.h"
#include "core/str.h"

#include <curl/curl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <string.h>
#include <sys/stat.h>

struct s3d_http_ca {
    X509_STORE *store;
    char *version; /* of the bundle; NULL: the system's */
};

/* Where distributions keep their bundle; the first that can be read is taken. */
static const char *const system_bundles[] = {
    "/etc/ssl/certs/ca-certificates.crt", /* Debian, Ubuntu, Alpine, Arch */
    "/etc/pki/tls/certs/ca-bundle.crt",   /* Fedora, RHEL */
    "/etc/ssl/ca-bundle.pem",             /* SUSE */
    "/etc/ssl/cert.pem",
};

static bool load_system(X509_STORE *store)
{
    for (size_t i = 0; i < sizeof system_bundles / sizeof *system_bundles; i++) {
        if (X509_STORE_load_file(store, system_bundles[i]) == 1) {
            return true;
        }
    }
    return X509_STORE_set_default_paths(store) == 1;
}

void s3d_http_ca_free(struct s3d_http_ca *ca)
{
    if (ca) {
        X509_STORE_free(ca->store);
        s3d_free(ca->version);
        s3d_free(ca);
    }
}

static enum s3d_code ca_load(struct s3d_http_ca **out, const char *bundle,
                             struct s3d_error *error)
{
    struct s3d_http_ca *ca = s3d_alloc_zeroed(1, sizeof *ca);
    if (!ca) {
        return s3d_fail_memory(error, sizeof *ca);
    }
    enum s3d_code code = S3D_OK;
    ca->store = X509_STORE_new();
    if (!ca->store) {
        code = s3d_fail_memory(error, sizeof *ca);
    } else if (bundle ? X509_STORE_load_file(ca->store, bundle) != 1
                      : !load_system(ca->store)) {
        code = s3d_fail(error, S3D_TLS, "cannot read certificates from %s: %s",
                        bundle ? bundle : "the system's bundle",
                        ERR_reason_error_string(ERR_peek_last_error()));
    }
    ERR_clear_error();
    if (code) {
        s3d_http_ca_free(ca);
    } else {
        *out = ca;
    }
    return code;
}

/*
 * The file's name and what changes when it is replaced or written again; NULL for the system's
 * bundle. One that cannot be looked at has a version, too: reading it will say what is wrong.
 */
static enum s3d_code bundle_version(char **version, const char *bundle, struct s3d_error *error)
{
    *version = NULL;
    if (!bundle) {
        return S3D_OK;
    }
    struct stat file = {0};
    struct s3d_str text = S3D_STR(strlen(bundle) + 128);
    if (stat(bundle, &file) != 0) {
        file = (struct stat){0};
    }
    s3d_str_add_format(
        &text, "%s#%llx-%llx-%llx-%llx.%lx", bundle, (unsigned long long)file.st_dev,
        (unsigned long long)file.st_ino, (unsigned long long)file.st_size,
        (unsigned long long)file.st_mtim.tv_sec, (unsigned long)file.st_mtim.tv_nsec);
    enum s3d_code code = s3d_str_check(&text, error);
    if (code) {
        s3d_str_fini(&text);
        return code;
    }
    *version = text.data;
    return S3D_OK;
}

static bool same_version(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* curl hands over its fresh context; ours replaces the (empty) store in it. */
static CURLcode on_context(CURL *easy, void *context, void *ca)
{
    (void)easy;
    SSL_CTX_set1_cert_store(context, ((struct s3d_http_ca *)ca)->store);
    return CURLE_OK;
}

/* Makes *ca what the bundle holds now. */
static enum s3d_code ca_update(struct s3d_http_ca **ca, const char *bundle,
                               struct s3d_error *error)
{
    char *version;
    struct s3d_http_ca *fresh = NULL;
    enum s3d_code code = bundle_version(&version, bundle, error);
    if (code || (*ca && same_version((*ca)->version, version))) {
        goto done;
    }
    code = ca_load(&fresh, bundle, error);
    if (code) {
        goto done;
    }
    fresh->version = version;
    version = NULL;
    /* Running handshakes hold their own reference to the old store. */
    s3d_http_ca_free(*ca);
    *ca = fresh;
done:
    s3d_free(version);
    return code;
}

enum s3d_code s3d_http_ca_apply(struct s3d_http_ca **ca, void *easy, const char *bundle,
                                struct s3d_error *error)
{
    enum s3d_code code = ca_update(ca, bundle, error);
    if (code) {
        return code;
    }
    /* curl keeps connections and TLS sessions by these two names; the bundle's version must be one
     * of them, so that what one bundle vouched for is never used under another. As a CAPATH it is
     * no folder, and adds nothing to the store, which is ours. */
    curl_easy_setopt(easy, CURLOPT_CAINFO, NULL);
    curl_easy_setopt(easy, CURLOPT_CAPATH, (*ca)->version);
#if LIBCURL_VERSION_NUM >= 0x075700
    curl_easy_setopt(easy, CURLOPT_CA_CACHE_TIMEOUT,
                     0L); /* it would outlive a change of bundle */
#endif
    curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, on_context);
    curl_easy_setopt(easy, CURLOPT_SSL_CTX_DATA, *ca);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    /* The same for a proxy that speaks TLS, whose context comes by the same function. */
    curl_easy_setopt(easy, CURLOPT_PROXY_CAINFO, NULL);
    curl_easy_setopt(easy, CURLOPT_PROXY_CAPATH, (*ca)->version);
    curl_easy_setopt(easy, CURLOPT_PROXY_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(easy, CURLOPT_PROXY_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY_SSL_VERIFYHOST, 2L);
    return S3D_OK;
}
