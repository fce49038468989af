#include "backends/callback.h"

#include "backends/identity.h"
#include "backends/open.h"
#include "backends/shared.h"
#include "backends/source.h"
#include "core/latch.h"
#include "core/mem.h"

#include <string.h>

enum { ANSWER_MAX_MS = 60 * 1000, LOOK_MS = 50 };

/* locked{shared} throughout */
struct s3d_callback {
    struct s3d_callback *next; /* in `all` */
    uint64_t number;
    unsigned users;    /* identities' sources, and `current` */
    bool serving;      /* the program's thread holds it too */
    bool shut;         /* the program ends: every question is refused */
    bool asked;        /* a question nobody has taken up */
    uint64_t question; /* counts them */
    uint64_t answered; /* the newest question that has its answer below */
    struct s3d_credentials answer;
    struct s3d_error refusal; /* code OK: `answer` counts */
};

static struct s3d_callback *all, *current;
static uint64_t numbers;

/* --- the box itself ------------------------------------------------------------------------ */

static void free_unused_locked(struct s3d_callback *callback)
{
    if (callback->users || callback->serving) {
        s3d_shared_notify_locked(); /* the thread that serves it may see that it is done */
        return;
    }
    struct s3d_callback **link = &all;
    while (*link != callback) {
        link = &(*link)->next;
    }
    *link = callback->next;
    s3d_credentials_fini(&callback->answer);
    s3d_free(callback);
}

static struct s3d_callback *find_locked(uint64_t number)
{
    struct s3d_callback *callback = all;
    while (callback && callback->number != number) {
        callback = callback->next;
    }
    return callback;
}

struct s3d_callback *s3d_callback_current(void)
{
    s3d_shared_lock();
    struct s3d_callback *callback = current;
    if (callback) {
        callback->users++;
    }
    s3d_shared_unlock();
    return callback;
}

bool s3d_callback_is_current_locked(const struct s3d_callback *callback)
{
    return callback == current;
}

void s3d_callback_release(struct s3d_callback *callback)
{
    if (callback) {
        s3d_shared_lock();
        callback->users--;
        free_unused_locked(callback);
        s3d_shared_unlock();
    }
}

/* --- the program's side -------------------------------------------------------------------- */

enum s3d_code s3d_callback_open(uint64_t *number, struct s3d_error *error)
{
    struct s3d_callback *callback = s3d_alloc_zeroed(1, sizeof *callback);
    if (!callback) {
        return s3d_fail_memory(error, sizeof *callback);
    }
    callback->users = 1; /* as the current one */
    callback->serving = true;
    s3d_shared_lock();
    callback->number = *number = ++numbers;
    callback->next = all;
    all = callback;
    struct s3d_callback *before = current;
    current = callback;
    s3d_shared_unlock();
    s3d_callback_release(before);
    s3d_identities_forget();
    return S3D_OK;
}

void s3d_callback_remove(void)
{
    s3d_shared_lock();
    struct s3d_callback *before = current;
    current = NULL;
    s3d_shared_unlock();
    s3d_callback_release(before);
    s3d_identities_forget();
}

static bool is_over(const struct s3d_callback *callback)
{
    return !callback->users || callback->shut;
}

enum s3d_code s3d_callback_wait(uint64_t number, int64_t timeout_ms, struct s3d_error *error)
{
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    enum s3d_code code = S3D_AGAIN;
    s3d_shared_lock();
    struct s3d_callback *callback = find_locked(number);
    while (callback && !callback->asked && !is_over(callback) &&
           s3d_shared_wait_locked(deadline_ms)) {
    }
    if (!callback || is_over(callback)) {
        code = s3d_fail(error, S3D_CLOSED, "nobody asks for credentials any more");
    } else if (callback->asked) {
        callback->asked = false;
        code = S3D_OK;
    }
    if (code == S3D_CLOSED && callback) {
        callback->serving = false;
        free_unused_locked(callback);
    }
    s3d_shared_unlock();
    return code;
}

static void settle_locked(struct s3d_callback *callback)
{
    callback->answered = callback->question;
    s3d_shared_notify_locked();
}

enum s3d_code s3d_callback_answer(uint64_t number, const char *access_key,
                                  const char *secret_key, const char *session_token,
                                  int64_t expires_s, struct s3d_error *error)
{
    struct s3d_credentials answer = {.expires_s = expires_s};
    enum s3d_code code;
    if (!(code = s3d_source_copy(&answer.access_key, access_key, error)) &&
        !(code = s3d_source_copy(&answer.secret_key, secret_key, error)) &&
        !(code = s3d_source_copy(&answer.session_token, session_token, error))) {
        code = s3d_credentials_check(&answer, "the credentials callback's result", error);
    }
    if (!code) {
        s3d_shared_lock();
        struct s3d_callback *callback = find_locked(number);
        if (callback) {
            struct s3d_credentials before = callback->answer;
            callback->answer = answer;
            callback->refusal.code = S3D_OK;
            answer = before;
            settle_locked(callback);
        }
        s3d_shared_unlock();
    }
    s3d_credentials_fini(&answer);
    return code;
}

void s3d_callback_refuse(uint64_t number, const struct s3d_error *why)
{
    s3d_shared_lock();
    struct s3d_callback *callback = find_locked(number);
    if (callback) {
        callback->refusal = *why;
        settle_locked(callback);
    }
    s3d_shared_unlock();
}

void s3d_callbacks_shut(void)
{
    s3d_shared_lock();
    for (struct s3d_callback *callback = all; callback; callback = callback->next) {
        callback->shut = true;
    }
    s3d_shared_notify_locked();
    s3d_shared_unlock();
}

/* --- the identity's side ------------------------------------------------------------------- */

static enum s3d_code take_answer_locked(struct s3d_callback *callback,
                                        struct s3d_credentials *credentials,
                                        struct s3d_error *error)
{
    if (callback->refusal.code) {
        return s3d_error_copy(error, &callback->refusal);
    }
    *credentials = callback->answer;
    callback->answer = (struct s3d_credentials){.anonymous = false};
    return credentials->access_key
               ? S3D_OK
               : s3d_fail(error, S3D_INTERNAL, "the credentials callback's answer was taken");
}

enum s3d_code s3d_fetch_callback(const struct s3d_source *source, const atomic_bool *stop,
                                 struct s3d_credentials *credentials, struct s3d_error *error)
{
    struct s3d_callback *callback = source->callback;
    int64_t now_ms = s3d_now_ms(), deadline_ms = now_ms + ANSWER_MAX_MS;
    enum s3d_code code;
    s3d_shared_lock();
    uint64_t question = ++callback->question;
    callback->asked = true;
    s3d_shared_notify_locked();
    while (callback->answered < question && !callback->shut && !atomic_load(stop) &&
           now_ms < deadline_ms) {
        s3d_shared_wait_locked(now_ms + LOOK_MS);
        now_ms = s3d_now_ms();
    }
    if (callback->answered >= question) {
        code = take_answer_locked(callback, credentials, error);
    } else if (callback->shut || atomic_load(stop)) {
        code = s3d_fail(error, S3D_CANCELLED, "the interpreter is exiting");
    } else {
        code = s3d_fail(error, S3D_TIMEOUT, "the credentials callback took longer than %d s",
                        ANSWER_MAX_MS / 1000);
    }
    s3d_shared_unlock();
    return code;
}
