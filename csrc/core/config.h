/*
 * Settings: where each comes from and what it may be.
 *
 * s3d_config_load reads the environment anew each time it is called, so nothing is latched: a
 * stream sees the environment of the moment it is opened. Values set by configure() win over the
 * environment. A value that does not parse is an error that names it.
 */
#ifndef S3D_CORE_CONFIG_H
#define S3D_CORE_CONFIG_H

#include "core/error.h"

/* X(field, environment variable, default, minimum, maximum) */
#define S3D_NUMBERS(X)                                                                         \
    X(put_part_bytes, "S3DLIO_PUT_PART_SIZE", 8388608, 5242880, 5368709120)                    \
    X(put_inflight, "S3DLIO_PUT_INFLIGHT", 64, 1, 1024)                                        \
    X(get_part_bytes, "S3DLIO_GET_PART_SIZE", 8388608, 65536, 5368709120)                      \
    X(get_inflight, "S3DLIO_GET_INFLIGHT", 64, 1, 1024)                                        \
    X(get_threshold_bytes, "S3DLIO_GET_THRESHOLD", 33554432, 0, UINT64_MAX)                    \
    X(threads, "S3DLIO_RT_THREADS", 0, 0, 256) /* 0: min(cores, 16) */                         \
    X(max_connections, "S3DLIO_HTTP_MAX_CONNS", 512, 1, 65536)                                 \
    X(memory_limit_bytes, "S3DLIO_MEMORY_LIMIT", 0, 0,                                         \
      UINT64_MAX) /* 0: 2 x inflight x part */                                                 \
    X(max_attempts, "AWS_MAX_ATTEMPTS", 5, 1, 100)                                             \
    X(hedge_ms, "S3DLIO_HEDGE", 100, 0, 60000) /* shortest wait before it; 0: never */         \
    X(metadata_timeout_s, "AWS_METADATA_SERVICE_TIMEOUT", 1, 1, 300)                           \
    X(metadata_attempts, "AWS_METADATA_SERVICE_NUM_ATTEMPTS", 1, 1, 20)                        \
    X(sign_payload, "S3DLIO_SIGN_PAYLOAD", 0, 0, 1) /* SHA-256 of every body */                \
    X(file_direct, "S3DLIO_FILE_DIRECT", 0, 0, 1)   /* O_DIRECT where alignment allows */

/* X(field, comma-free list of environment variables in order of preference) */
#define S3D_TEXTS(X)                                                                                   \
    X(endpoint, "AWS_ENDPOINT_URL_S3\0AWS_ENDPOINT_URL\0")                                             \
    X(region, "AWS_REGION\0AWS_DEFAULT_REGION\0")                                                      \
    X(access_key, "AWS_ACCESS_KEY_ID\0")                                                               \
    X(secret_key, "AWS_SECRET_ACCESS_KEY\0")                                                           \
    X(session_token, "AWS_SESSION_TOKEN\0")                                                            \
    /* who else has credentials: see backends/source.h */                                              \
    X(sts_endpoint, "AWS_ENDPOINT_URL_STS\0AWS_ENDPOINT_URL\0")                                        \
    X(sso_endpoint, "AWS_ENDPOINT_URL_SSO\0AWS_ENDPOINT_URL\0")                                        \
    X(role_arn, "AWS_ROLE_ARN\0")                                                                      \
    X(role_session_name, "AWS_ROLE_SESSION_NAME\0")                                                    \
    X(web_identity_token_file, "AWS_WEB_IDENTITY_TOKEN_FILE\0")                                        \
    X(container_relative_uri, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI\0")                              \
    X(container_full_uri, "AWS_CONTAINER_CREDENTIALS_FULL_URI\0")                                      \
    X(container_token, "AWS_CONTAINER_AUTHORIZATION_TOKEN\0")                                          \
    X(container_token_file, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE\0")                                \
    X(metadata_disabled, "AWS_EC2_METADATA_DISABLED\0")                                                \
    X(metadata_endpoint, "AWS_EC2_METADATA_SERVICE_ENDPOINT\0")                                        \
    X(metadata_mode, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE\0")                                       \
    X(profile, "AWS_PROFILE\0")                                                                        \
    X(config_file, "AWS_CONFIG_FILE\0")                                                                \
    X(credentials_file, "AWS_SHARED_CREDENTIALS_FILE\0")                                               \
    X(ca_bundle, "AWS_CA_BUNDLE\0")                                                                    \
    /* by which proxies: see backends/http_proxy.h. The first that is set counts, be it empty: none */ \
    X(proxy, "S3DLIO_PROXY\0")                                                                         \
    X(http_proxy, "http_proxy\0HTTP_PROXY\0all_proxy\0ALL_PROXY\0")                                    \
    X(https_proxy, "https_proxy\0HTTPS_PROXY\0all_proxy\0ALL_PROXY\0")                                 \
    X(no_proxy, "no_proxy\0NO_PROXY\0")                                                                \
    X(addressing, "S3DLIO_ADDRESSING\0") /* auto, path, virtual */                                     \
    X(anonymous, "S3DLIO_ANONYMOUS\0")   /* 1: send requests unsigned */                               \
    /* headers that S3 requests get besides: see backends/s3_extras.h */                               \
    X(request_payer, "S3DLIO_REQUEST_PAYER\0")                                                         \
    X(expected_bucket_owner, "S3DLIO_EXPECTED_BUCKET_OWNER\0")                                         \
    X(sse, "S3DLIO_SSE\0")                                                                             \
    X(sse_kms_key_id, "S3DLIO_SSE_KMS_KEY_ID\0")                                                       \
    X(sse_kms_context, "S3DLIO_SSE_KMS_CONTEXT\0")                                                     \
    X(sse_bucket_key, "S3DLIO_SSE_BUCKET_KEY\0")                                                       \
    X(sse_customer_key, "S3DLIO_SSE_CUSTOMER_KEY\0")                                                   \
    /* when_supported, when_required */                                                                \
    X(checksum_calculation, "AWS_REQUEST_CHECKSUM_CALCULATION\0")                                      \
    X(checksum_validation, "AWS_RESPONSE_CHECKSUM_VALIDATION\0")

struct s3d_config {
#define X(field, variable, fallback, minimum, maximum) uint64_t field;
    S3D_NUMBERS(X)
#undef X
#define X(field, variables) char *field; /* NULL: not set */
    S3D_TEXTS(X)
#undef X
    bool
        keys_configured; /* access key, secret and token are configure()'s, not the environment's */
    uint64_t given;      /* bit n: somebody has set the n-th number */
};

/* The numbers, in order. */
enum s3d_number {
#define X(field, variable, fallback, minimum, maximum) S3D_NUMBER_##field,
    S3D_NUMBERS(X)
#undef X
};

/* Starts from the overrides of configure(), then the environment, then defaults. *config is
 * overwritten; release it with s3d_config_fini. */
S3D_MUST_USE enum s3d_code s3d_config_load(struct s3d_config *config, struct s3d_error *error);
void s3d_config_fini(struct s3d_config *config);

/* Process-wide override of one setting by its field name; value NULL removes it. Numbers are given
 * as decimal text and checked as in the environment. Thread-safe. Access key, secret and token
 * belong together: setting one of them hides the environment's other two. */
S3D_MUST_USE enum s3d_code s3d_config_override(const char *field, const char *value,
                                               struct s3d_error *error);

/* Once, before the first fork that matters: a child then never finds the overrides locked. */
void s3d_config_watch_forks(void);

#endif
