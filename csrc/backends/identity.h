/*
 * Who signs requests: credentials that are shared by all stores with the same source, renewed before
 * they end, and once more when a server says that they have.
 *
 * Nobody waits in here. A request about to be sent asks s3d_identity_ready; while keys are fetched,
 * on a thread of this file's own, it is told AGAIN and asks again a little later. So I/O threads never
 * block, a caller's wait stays in slices that Ctrl-C ends, and a long save outlives its first keys.
 * Any thread; one lock (shared.h).
 */
#ifndef S3D_BACKENDS_IDENTITY_H
#define S3D_BACKENDS_IDENTITY_H

#include "backends/credentials.h"

#include <stdatomic.h>

struct s3d_identity;

/* One set of keys, never changed, counted: signing goes on with it while the next takes its place. */
struct s3d_keys {
    struct s3d_credentials credentials;
    uint64_t serial;    /* no two sets of a process have the same; from 1 */
    int64_t renew_at_s; /* Unix time; 0: never */
    atomic_uint references;
};
void s3d_keys_release(struct s3d_keys *keys); /* NULL is allowed */

/*
 * Plans as s3d_source_plan does, reading files but asking nobody. Keys that lie ready are the
 * store's own from then on; anything else is shared with those who have an equal plan, the keys
 * already fetched included. One reference.
 */
S3D_MUST_USE enum s3d_code s3d_identity_open(struct s3d_identity **identity,
                                             const struct s3d_config *config,
                                             struct s3d_error *error);
void s3d_identity_release(struct s3d_identity *identity); /* NULL is allowed */

/*
 * OK: s3d_identity_keys has keys that have not ended. AGAIN: they are being fetched; *ticket (0 at
 * first, the caller's to keep) says which fetch is waited for. Another code: that fetch failed, and
 * *ticket is 0 again, so that the next call starts anew. An early renewal that fails is tried again
 * every half minute, and fails nobody before the old keys have ended.
 */
S3D_MUST_USE enum s3d_code s3d_identity_ready(struct s3d_identity *identity, uint64_t *ticket,
                                              struct s3d_error *error);
/* Acquired; NULL before the first time that ready said OK. */
struct s3d_keys *s3d_identity_keys(struct s3d_identity *identity);
/* A server called these keys ended. True: they are not given out again, and others are to be had. */
bool s3d_identity_reject(struct s3d_identity *identity, uint64_t serial);

/* Ends running fetches and waits for their threads; later ones fail with CLOSED. */
void s3d_identities_stop(void);
void s3d_identities_restart(void);
/* Forgets shared identities that no store uses, and their keys. */
void s3d_identities_forget(void);
/* For shared.c, in a fresh child. */
void s3d_identities_after_fork_locked(void);

#endif
