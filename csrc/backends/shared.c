#include "backends/shared.h"

#include "backends/identity.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed; /* on the monotonic clock */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init_condition(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

static void before_fork(void)
{
    pthread_mutex_lock(&mutex);
}

static void after_fork_parent(void)
{
    pthread_mutex_unlock(&mutex);
}

static void after_fork_child(void)
{
    init_condition(); /* those that waited for it are not here */
    s3d_identities_after_fork_locked();
    pthread_mutex_unlock(&mutex);
}

static void start(void)
{
    init_condition();
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

void s3d_shared_lock(void)
{
    pthread_once(&once, start);
    pthread_mutex_lock(&mutex);
}

void s3d_shared_unlock(void)
{
    pthread_mutex_unlock(&mutex);
}

void s3d_shared_notify_locked(void)
{
    pthread_cond_broadcast(&changed);
}

bool s3d_shared_wait_locked(int64_t deadline_ms)
{
    struct timespec at = {.tv_sec = deadline_ms / 1000,
                          .tv_nsec = deadline_ms % 1000 * 1000000};
    return pthread_cond_timedwait(&changed, &mutex, &at) != ETIMEDOUT;
}
