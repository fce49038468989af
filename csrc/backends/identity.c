#include "backends/identity.h"

#include "backends/callback.h"
#include "backends/shared.h"
#include "backends/source.h"
#include "core/latch.h"
#include "core/mem.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

enum {
    EARLY_S = 300, /* keys are renewed that long before they end, ... */
    JITTER_S = 60, /* ... or up to so much later, so that a cluster does not ask at once */
    RETRY_MS = 30 * 1000, /* after an early renewal that failed */
    SHARED_MAX = 32,      /* identities kept without a user */
    STOP_LOOK_MS = 50
};

struct s3d_identity {
    /* frozen */
    struct s3d_source *source;
    bool is_fixed; /* the keys are the plan's; nothing to fetch */
    /* locked{shared} */
    struct s3d_identity *next; /* in `identities`, newest first */
    unsigned references;       /* stores, and the fetch that runs */
    struct s3d_keys *keys;     /* NULL: none yet */
    bool rejected;             /* a server would not have them */
    bool fetching;
    uint64_t started, finished; /* numbers of fetches: equal when none runs */
    struct s3d_error failure;   /* of fetch `finished`; code OK: it went well */
    int64_t retry_at_ms;        /* no early renewal before */
};

/* locked{shared} */
static struct s3d_identity *identities; /* all that are not fixed */
static uint64_t serials;
static unsigned running; /* fetches */
static atomic_bool stopping;

/* --- keys ---------------------------------------------------------------------------------- */

void s3d_keys_release(struct s3d_keys *keys)
{
    if (keys && atomic_fetch_sub_explicit(&keys->references, 1, memory_order_acq_rel) == 1) {
        s3d_credentials_fini(&keys->credentials);
        s3d_free(keys);
    }
}

/* A share of `span` that differs from process to process and from time to time. */
static int64_t jitter_s(int64_t span)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return span > 0 ? (int64_t)((uint64_t)now.tv_nsec / 1000 % (uint64_t)(span + 1)) : 0;
}

/* Short-lived keys have half of their time. */
static int64_t renewal_time(int64_t expires_s, int64_t now_s)
{
    int64_t left = expires_s - now_s, early = left / 2 < EARLY_S ? left / 2 : EARLY_S;
    int64_t latest = early / 5 < JITTER_S ? early / 5 : JITTER_S;
    return expires_s - early + jitter_s(latest);
}

/* Takes the credentials over. */
static enum s3d_code keys_new(struct s3d_keys **out, struct s3d_credentials *credentials,
                              struct s3d_error *error)
{
    int64_t now_s = (int64_t)time(NULL), expires_s = credentials->expires_s;
    if (expires_s && expires_s <= now_s) {
        return s3d_fail(error, S3D_NO_CREDENTIALS,
                        "the credentials had expired when they came (%lld s ago by this "
                        "machine's clock)",
                        (long long)(now_s - expires_s));
    }
    struct s3d_keys *keys = s3d_alloc_zeroed(1, sizeof *keys);
    if (!keys) {
        return s3d_fail_memory(error, sizeof *keys);
    }
    keys->credentials = *credentials;
    *credentials = (struct s3d_credentials){.anonymous = false};
    keys->renew_at_s = expires_s ? renewal_time(expires_s, now_s) : 0;
    atomic_init(&keys->references, 1);
    *out = keys;
    return S3D_OK;
}

static bool has_ended(const struct s3d_keys *keys)
{
    int64_t expires_s = keys->credentials.expires_s;
    return expires_s && (int64_t)time(NULL) >= expires_s;
}

static bool is_old(const struct s3d_keys *keys)
{
    return keys->renew_at_s && (int64_t)time(NULL) >= keys->renew_at_s;
}

/* --- identities ---------------------------------------------------------------------------- */

static void identity_free(struct s3d_identity *identity)
{
    if (identity) {
        s3d_keys_release(identity->keys);
        s3d_source_free(identity->source);
        s3d_free(identity);
    }
}

/* Unlinks those beyond the newest `kept` that nobody uses; the caller frees the list, unlocked. */
static struct s3d_identity *take_unused_locked(unsigned kept)
{
    struct s3d_identity *unused = NULL;
    unsigned count = 0;
    for (struct s3d_identity **link = &identities; *link;) {
        struct s3d_identity *identity = *link;
        if (++count > kept && !identity->references) {
            *link = identity->next;
            identity->next = unused;
            unused = identity;
        } else {
            link = &identity->next;
        }
    }
    return unused;
}

static void unlink_locked(struct s3d_identity *identity)
{
    struct s3d_identity **link = &identities;
    while (*link != identity) {
        link = &(*link)->next;
    }
    *link = identity->next;
}

static void free_all(struct s3d_identity *list)
{
    while (list) {
        struct s3d_identity *next = list->next;
        identity_free(list);
        list = next;
    }
}

static struct s3d_identity *find_locked(const struct s3d_source *source)
{
    struct s3d_identity *identity = identities;
    while (identity && !s3d_source_equal(identity->source, source)) {
        identity = identity->next;
    }
    return identity;
}

/* The one that others have already, or this one from now on. */
static struct s3d_identity *share(struct s3d_identity *fresh)
{
    s3d_shared_lock();
    struct s3d_identity *shared = find_locked(fresh->source);
    if (shared) {
        shared->references++;
    } else {
        fresh->next = identities;
        identities = fresh;
    }
    struct s3d_identity *unused = take_unused_locked(SHARED_MAX);
    s3d_shared_unlock();
    free_all(unused);
    if (shared) {
        identity_free(fresh);
    }
    return shared ? shared : fresh;
}

static enum s3d_code fix_keys(struct s3d_identity *identity, struct s3d_error *error)
{
    enum s3d_code code = keys_new(&identity->keys, &identity->source->keys, error);
    if (!code) {
        s3d_shared_lock();
        identity->keys->serial = ++serials;
        s3d_shared_unlock();
    }
    return code;
}

enum s3d_code s3d_identity_open(struct s3d_identity **out, const struct s3d_config *config,
                                struct s3d_error *error)
{
    struct s3d_identity *identity = s3d_alloc_zeroed(1, sizeof *identity);
    if (!identity) {
        return s3d_fail_memory(error, sizeof *identity);
    }
    identity->references = 1;
    enum s3d_code code = s3d_source_plan(&identity->source, config, error);
    if (!code && identity->source->kind == S3D_SOURCE_KEYS) {
        identity->is_fixed = true;
        code = fix_keys(identity, error);
    }
    if (code) {
        identity_free(identity);
        return code;
    }
    *out = identity->is_fixed ? identity : share(identity);
    return S3D_OK;
}

void s3d_identity_release(struct s3d_identity *identity)
{
    if (!identity) {
        return;
    }
    s3d_shared_lock();
    /* Others are kept for those who come; but a box that was replaced must see its users go. */
    struct s3d_callback *callback = identity->source->callback;
    bool last = --identity->references == 0 &&
                (identity->is_fixed || (callback && !s3d_callback_is_current_locked(callback)));
    if (last && !identity->is_fixed) {
        unlink_locked(identity);
    }
    s3d_shared_unlock();
    if (last) {
        identity_free(identity);
    }
}

/* --- fetching ------------------------------------------------------------------------------ */

static void install(struct s3d_identity *identity, struct s3d_keys *keys,
                    const struct s3d_error *failure)
{
    struct s3d_keys *before = NULL;
    s3d_shared_lock();
    if (keys) {
        before = identity->keys;
        keys->serial = ++serials;
        identity->keys = keys;
        identity->rejected = false;
    } else {
        identity->retry_at_ms = s3d_now_ms() + RETRY_MS;
    }
    identity->failure = *failure;
    identity->fetching = false;
    identity->finished = identity->started;
    s3d_shared_unlock();
    s3d_keys_release(before);
}

static void *fetch_main(void *argument)
{
    struct s3d_identity *identity = argument;
    struct s3d_credentials credentials;
    struct s3d_keys *keys = NULL;
    struct s3d_error failure = {.code = S3D_OK};
    pthread_setname_np(pthread_self(), "s3dlio-creds");
    if (!s3d_source_fetch(identity->source, &stopping, &credentials, &failure) &&
        keys_new(&keys, &credentials, &failure)) {
        s3d_credentials_fini(&credentials);
    }
    install(identity, keys, &failure);
    s3d_identity_release(identity);
    s3d_shared_lock();
    running--;
    s3d_shared_notify_locked();
    s3d_shared_unlock();
    return NULL;
}

/* Takes no signals: they are for the program's own threads. */
static int start_thread(struct s3d_identity *identity)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    int failure = pthread_attr_init(&attributes);
    if (failure) {
        return failure;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failure = pthread_create(&thread, &attributes, fetch_main, identity);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failure;
}

static enum s3d_code start_locked(struct s3d_identity *identity, struct s3d_error *error)
{
    if (atomic_load(&stopping)) {
        return s3d_fail(error, S3D_CLOSED, "the engine has shut down");
    }
    identity->references++;
    int failure = start_thread(identity);
    if (failure) {
        identity->references--;
        return s3d_fail_errno(error, failure, "could not start a thread to get credentials");
    }
    identity->fetching = true;
    identity->started++;
    running++;
    return S3D_OK;
}

static void renew_early_locked(struct s3d_identity *identity)
{
    if (is_old(identity->keys) && !identity->fetching &&
        s3d_now_ms() >= identity->retry_at_ms) {
        struct s3d_error ignored; /* the old keys are good; it is tried again */
        if (start_locked(identity, &ignored)) {
            identity->retry_at_ms = s3d_now_ms() + RETRY_MS;
        }
    }
}

static enum s3d_code ready_locked(struct s3d_identity *identity, uint64_t *ticket,
                                  struct s3d_error *error)
{
    if (identity->keys && !identity->rejected && !has_ended(identity->keys)) {
        *ticket = 0;
        renew_early_locked(identity);
        return S3D_OK;
    }
    if (*ticket && identity->finished >= *ticket && identity->failure.code) {
        *ticket = 0;
        return s3d_error_copy(error, &identity->failure);
    }
    if (!identity->fetching) {
        enum s3d_code code = start_locked(identity, error);
        if (code) {
            return code;
        }
    }
    *ticket = identity->started;
    return S3D_AGAIN;
}

enum s3d_code s3d_identity_ready(struct s3d_identity *identity, uint64_t *ticket,
                                 struct s3d_error *error)
{
    if (identity->is_fixed) {
        return S3D_OK;
    }
    s3d_shared_lock();
    enum s3d_code code = ready_locked(identity, ticket, error);
    s3d_shared_unlock();
    return code;
}

struct s3d_keys *s3d_identity_keys(struct s3d_identity *identity)
{
    s3d_shared_lock();
    struct s3d_keys *keys = identity->keys;
    if (keys) {
        atomic_fetch_add_explicit(&keys->references, 1, memory_order_relaxed);
    }
    s3d_shared_unlock();
    return keys;
}

bool s3d_identity_reject(struct s3d_identity *identity, uint64_t serial)
{
    if (identity->is_fixed) {
        return false;
    }
    s3d_shared_lock();
    if (identity->keys && identity->keys->serial == serial) {
        identity->rejected = true;
    }
    s3d_shared_unlock();
    return true;
}

/* --- the process --------------------------------------------------------------------------- */

void s3d_identities_stop(void)
{
    s3d_shared_lock();
    atomic_store(&stopping, true);
    s3d_shared_notify_locked();
    while (running) {
        s3d_shared_wait_locked(s3d_now_ms() + STOP_LOOK_MS);
    }
    s3d_shared_unlock();
}

void s3d_identities_restart(void)
{
    atomic_store(&stopping, false);
}

void s3d_identities_forget(void)
{
    s3d_shared_lock();
    struct s3d_identity *unused = take_unused_locked(0);
    s3d_shared_unlock();
    free_all(unused);
}

/* The threads that fetched are the parent's; the keys are good here, too. */
void s3d_identities_after_fork_locked(void)
{
    for (struct s3d_identity *identity = identities; identity; identity = identity->next) {
        if (identity->fetching) {
            identity->fetching = false;
            identity->references--;
            identity->finished = identity->started;
            s3d_fail(&identity->failure, S3D_FORKED,
                     "fork() came while credentials were fetched");
        }
    }
    running = 0;
}
