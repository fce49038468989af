#include "core/latch.h"

#include <errno.h>
#include <time.h>

enum s3d_code s3d_latch_init(struct s3d_latch *latch, struct s3d_error *error)
{
    latch->in_flight = 0;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int failure = pthread_cond_init(&latch->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    if (failure) {
        return s3d_fail_errno(error, failure, "pthread_cond_init");
    }
    failure = pthread_mutex_init(&latch->mutex, NULL);
    if (failure) {
        pthread_cond_destroy(&latch->changed);
        return s3d_fail_errno(error, failure, "pthread_mutex_init");
    }
    return S3D_OK;
}

void s3d_latch_fini(struct s3d_latch *latch)
{
    pthread_mutex_destroy(&latch->mutex);
    pthread_cond_destroy(&latch->changed);
}

void s3d_latch_notify_locked(struct s3d_latch *latch)
{
    pthread_cond_broadcast(&latch->changed);
}

bool s3d_latch_wait_locked(struct s3d_latch *latch, int64_t deadline_ms)
{
    if (deadline_ms < 0) {
        pthread_cond_wait(&latch->changed, &latch->mutex);
        return true;
    }
    struct timespec at = {.tv_sec = deadline_ms / 1000,
                          .tv_nsec = deadline_ms % 1000 * 1000000};
    return pthread_cond_timedwait(&latch->changed, &latch->mutex, &at) != ETIMEDOUT;
}

int64_t s3d_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t s3d_now_ms(void)
{
    return s3d_now_us() / 1000;
}

int64_t s3d_deadline_ms(int64_t timeout_ms)
{
    return timeout_ms < 0 ? -1 : s3d_now_ms() + timeout_ms;
}

int64_t s3d_left_ms(int64_t deadline_ms)
{
    int64_t now_ms = s3d_now_ms();
    return deadline_ms < 0 ? -1 : deadline_ms > now_ms ? deadline_ms - now_ms : 0;
}
