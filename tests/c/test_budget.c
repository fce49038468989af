/* The memory budget. */
#include "test.h"

#include "core/budget.h"

#include <pthread.h>
#include <unistd.h>

enum { BYTES = 4096 };

static void test_limit(void)
{
    struct s3d_budget budget;
    void *buffers[4] = {NULL};
    CHECK_CODE(s3d_budget_init(&budget, 3 * BYTES, NULL), S3D_OK);
    for (int i = 0; i < 3; i++) {
        CHECK_CODE(s3d_budget_take(&budget, BYTES, false, 0, &buffers[i], NULL), S3D_OK);
        memset(buffers[i], 1, BYTES);
    }
    CHECK_CODE(s3d_budget_take(&budget, BYTES, false, 0, &buffers[3], NULL), S3D_AGAIN);
    CHECK_CODE(s3d_budget_take(&budget, 1, false, 5, &buffers[3], NULL), S3D_AGAIN);
    CHECK(!buffers[3] && budget.held_bytes == 3 * BYTES);
    /* A stream that holds nothing gets its first buffer all the same. */
    CHECK_CODE(s3d_budget_take(&budget, BYTES, true, 0, &buffers[3], NULL), S3D_OK);
    CHECK(budget.held_bytes == 4 * BYTES && budget.peak_bytes == 4 * BYTES);
    s3d_budget_give(&budget, buffers[0], BYTES);
    CHECK_CODE(s3d_budget_take(&budget, BYTES, false, 0, &buffers[0], NULL), S3D_AGAIN);
    s3d_budget_give(&budget, buffers[1], BYTES);
    CHECK_CODE(s3d_budget_take(&budget, BYTES, false, 0, &buffers[0], NULL), S3D_OK);
    s3d_budget_give(&budget, buffers[0], BYTES);
    s3d_budget_give(&budget, buffers[2], BYTES);
    s3d_budget_give(&budget, buffers[3], BYTES);
    s3d_budget_give(&budget, NULL, BYTES);
    CHECK(budget.held_bytes == 0 && budget.peak_bytes == 4 * BYTES);
    CHECK_CODE(s3d_budget_take(&budget, 4 * BYTES, false, 0, &buffers[0], NULL), S3D_AGAIN);
    CHECK_CODE(s3d_budget_take(&budget, 3 * BYTES, false, 0, &buffers[0], NULL), S3D_OK);
    s3d_budget_give(&budget, buffers[0], 3 * BYTES);
    s3d_budget_fini(&budget);
}

/* What cannot be allocated is not counted as held. */
static void test_out_of_memory(void)
{
    struct s3d_budget budget;
    struct s3d_error error;
    void *buffer = NULL;
    CHECK_CODE(s3d_budget_init(&budget, 3 * BYTES, NULL), S3D_OK);
    s3d_mem_fail_at(1);
    CHECK_CODE(s3d_budget_take(&budget, BYTES, false, -1, &buffer, &error), S3D_NO_MEMORY);
    CHECK(s3d_mem_fault_fired() && error.code == S3D_NO_MEMORY);
    s3d_mem_fail_at(0);
    CHECK(budget.held_bytes == 0);
    CHECK_CODE(s3d_budget_take(&budget, BYTES, false, -1, &buffer, &error), S3D_OK);
    s3d_budget_give(&budget, buffer, BYTES);
    s3d_budget_fini(&budget);
}

static struct s3d_budget shared;

/* Takes one, and gives it back when asked for; the second one is waited for without an end. */
static void *take_and_give(void *argument)
{
    (void)argument;
    for (int i = 0; i < 300; i++) {
        void *buffer;
        CHECK_CODE(s3d_budget_take(&shared, BYTES, false, -1, &buffer, NULL), S3D_OK);
        memset(buffer, i, BYTES);
        s3d_budget_give(&shared, buffer, BYTES);
    }
    return NULL;
}

/* A waiting taker is woken by a giver; the limit holds throughout. */
static void test_waiting(void)
{
    pthread_t threads[8];
    CHECK_CODE(s3d_budget_init(&shared, 2 * BYTES, NULL), S3D_OK);
    for (int i = 0; i < 8; i++) {
        CHECK(pthread_create(&threads[i], NULL, take_and_give, NULL) == 0);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(shared.held_bytes == 0 && shared.peak_bytes <= 2 * BYTES);
    s3d_budget_fini(&shared);
}

int main(void)
{
    alarm(60);
    RUN(test_limit);
    RUN(test_out_of_memory);
    RUN(test_waiting);
    return 0;
}
