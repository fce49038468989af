/*
 * Where credentials are to be had, as data: who is to be asked, and what with.
 *
 * A plan is made at once from settings, environment and files (source.c, source_profile.c) and sends
 * nothing. Carrying it out (s3d_source_fetch) may take seconds and is for the identity's own thread;
 * each kind has a file of its own. Two equal sources give the same credentials, so that a source is
 * the name under which they are shared.
 */
#ifndef S3D_BACKENDS_SOURCE_H
#define S3D_BACKENDS_SOURCE_H

#include "backends/credentials.h"
#include "backends/http_proxy.h"

#include <stdatomic.h>

struct s3d_callback;
struct s3d_profile;

enum s3d_source_kind {
    S3D_SOURCE_KEYS,         /* they are here; anonymous too */
    S3D_SOURCE_CALLBACK,     /* the program */
    S3D_SOURCE_ROLE,         /* STS AssumeRole, asked with the credentials of `base` */
    S3D_SOURCE_WEB_IDENTITY, /* STS AssumeRoleWithWebIdentity */
    S3D_SOURCE_SSO,          /* IAM Identity Center, with the token that `aws sso login` left */
    S3D_SOURCE_PROCESS,      /* a program of the user's */
    S3D_SOURCE_CONTAINER,    /* ECS, EKS Pod Identity */
    S3D_SOURCE_METADATA      /* EC2 instance metadata, version 2 */
};

/* X(field): texts, owned, NULL where the kind does not need them */
#define S3D_SOURCE_TEXTS(X)                                                                    \
    X(region)   /* ROLE, WEB_IDENTITY: STS's; SSO: the portal's */                             \
    X(endpoint) /* of the service: http://host[:port]; NULL: Amazon's */                       \
    X(ca_bundle)                                                                               \
    X(role_arn)     /* ROLE, WEB_IDENTITY */                                                   \
    X(session_name) /* ROLE, WEB_IDENTITY; NULL: made up */                                    \
    X(external_id)  /* ROLE */                                                                 \
    X(duration_s)   /* ROLE: decimal */                                                        \
    X(token_file)   /* WEB_IDENTITY, SSO, CONTAINER: read anew each time */                    \
    X(token)        /* CONTAINER */                                                            \
    X(account)      /* SSO */                                                                  \
    X(role_name)    /* SSO */                                                                  \
    X(command)      /* PROCESS */                                                              \
    X(url)          /* CONTAINER; METADATA: its origin */

struct s3d_source {
    enum s3d_source_kind kind;
    struct s3d_credentials keys;   /* KEYS */
    struct s3d_source *base;       /* ROLE */
    struct s3d_callback *callback; /* CALLBACK: counted */
    uint64_t timeout_ms;           /* PROCESS, METADATA */
    uint64_t attempts;             /* METADATA */
    struct s3d_http_proxy proxy;   /* ROLE, WEB_IDENTITY, SSO; the others are asked directly */
#define X(field) char *field;
    S3D_SOURCE_TEXTS(X)
#undef X
};

/*
 * The first that is set, of: anonymous, configure()'s keys, the callback, the environment's keys,
 * the profile, web identity, container, instance metadata. NO_CREDENTIALS when nothing is left.
 */
S3D_MUST_USE enum s3d_code s3d_source_plan(struct s3d_source **source,
                                           const struct s3d_config *config,
                                           struct s3d_error *error);
void s3d_source_free(struct s3d_source *source); /* NULL is allowed */
bool s3d_source_equal(const struct s3d_source *a, const struct s3d_source *b);

/* Blocks; `stop` ends it soon with CANCELLED. *credentials is empty unless OK. */
S3D_MUST_USE enum s3d_code s3d_source_fetch(const struct s3d_source *source,
                                            const atomic_bool *stop,
                                            struct s3d_credentials *credentials,
                                            struct s3d_error *error);

/* --- for the source_*.c files --- */

S3D_MUST_USE enum s3d_code s3d_source_new(struct s3d_source **source, enum s3d_source_kind kind,
                                          struct s3d_error *error);
/* NULL and empty give NULL. */
S3D_MUST_USE enum s3d_code s3d_source_copy(char **to, const char *text,
                                           struct s3d_error *error);
/* What the profile asks for; *source stays NULL where it has no credentials. */
S3D_MUST_USE enum s3d_code s3d_source_of_profile(struct s3d_source **source,
                                                 const struct s3d_profile *profile,
                                                 const struct s3d_config *config,
                                                 struct s3d_error *error);
/* What the environment has beside keys. */
S3D_MUST_USE enum s3d_code s3d_source_container(struct s3d_source **source,
                                                const struct s3d_config *config,
                                                struct s3d_error *error);
S3D_MUST_USE enum s3d_code s3d_source_metadata(struct s3d_source **source,
                                               const struct s3d_config *config,
                                               struct s3d_error *error);

/* One attempt of each kind. */
typedef enum s3d_code s3d_source_fetcher(const struct s3d_source *source,
                                         const atomic_bool *stop,
                                         struct s3d_credentials *credentials,
                                         struct s3d_error *error);
s3d_source_fetcher s3d_fetch_callback;
s3d_source_fetcher s3d_fetch_role;
s3d_source_fetcher s3d_fetch_web_identity;
s3d_source_fetcher s3d_fetch_sso;
s3d_source_fetcher s3d_fetch_process;
s3d_source_fetcher s3d_fetch_container;
s3d_source_fetcher s3d_fetch_metadata;

/* Credentials as JSON. `inside` is the member whose object holds them; NULL: the document. */
struct s3d_json_field {
    const char *name;
    char **text; /* either: set to a copy that the caller frees, wiped */
    uint64_t *number;
};
/* Members that no field names are passed over; absent ones and nulls leave NULL and 0. PROTOCOL,
 * telling `what` document it is but never what stands in it. Texts are set also on failure. */
S3D_MUST_USE enum s3d_code s3d_json_fields(const char *document, size_t length,
                                           const char *inside,
                                           const struct s3d_json_field *fields, size_t count,
                                           const char *what, struct s3d_error *error);
void s3d_secret_free(char *text); /* wipes; NULL is allowed */

/* The document of a container, of instance metadata or of a program; `token` is what it calls the
 * session token. */
S3D_MUST_USE enum s3d_code s3d_credentials_of_json(struct s3d_credentials *credentials,
                                                   const char *document, size_t length,
                                                   const char *token, const char *what,
                                                   struct s3d_error *error);
/* Key and secret are there, and all three are fit for a header. */
S3D_MUST_USE enum s3d_code s3d_credentials_check(const struct s3d_credentials *credentials,
                                                 const char *what, struct s3d_error *error);
/* A token for a header or a form: the file's one line. */
S3D_MUST_USE enum s3d_code s3d_token_read(const char *path, char **token, size_t *length,
                                          struct s3d_error *error);
/* What an HTTP status other than 200 means; `text` says what the server said of it. */
enum s3d_code s3d_fail_status(struct s3d_error *error, int status, const char *who,
                              const char *text);

#endif
