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
        CHECK_CODE(s3d_budget_take(&budget, BYTES, NULL, 0, &buffers[i], NULL), S3D_OK);
        memset(buffers[i], 1, BYTES);
    }
    CHECK_CODE(s3d_budget_take(&budget, BYTES, NULL, 0, &buffers[3], NULL), S3D_AGAIN);
    CHECK_CODE(s3d_budget_take(&budget, 1, NULL, 5, &buffers[3], NULL), S3D_AGAIN);
    CHECK(!buffers[3] && budget.held_bytes == 3 * BYTES);
    /* A stream that holds nothing gets a small buffer all the same. */
    CHECK_CODE(s3d_budget_take_small(&budget, BYTES, &buffers[3], NULL), S3D_OK);
    CHECK(budget.held_bytes == 4 * BYTES && budget.peak_bytes == 4 * BYTES);
    s3d_budget_give(&budget, buffers[0], BYTES);
    CHECK_CODE(s3d_budget_take(&budget, BYTES, NULL, 0, &buffers[0], NULL), S3D_AGAIN);
    s3d_budget_give(&budget, buffers[1], BYTES);
    CHECK_CODE(s3d_budget_take(&budget, BYTES, NULL, 0, &buffers[0], NULL), S3D_OK);
    s3d_budget_give(&budget, buffers[0], BYTES);
    s3d_budget_give(&budget, buffers[2], BYTES);
    s3d_budget_give(&budget, buffers[3], BYTES);
    s3d_budget_give(&budget, NULL, BYTES);
    CHECK(budget.held_bytes == 0 && budget.peak_bytes == 4 * BYTES);
    CHECK_CODE(s3d_budget_take(&budget, 4 * BYTES, NULL, 0, &buffers[0], NULL), S3D_AGAIN);
    CHECK_CODE(s3d_budget_take(&budget, 3 * BYTES, NULL, 0, &buffers[0], NULL), S3D_OK);
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
    CHECK_CODE(s3d_budget_take(&budget, BYTES, NULL, -1, &buffer, &error), S3D_NO_MEMORY);
    CHECK(s3d_mem_fault_fired() && error.code == S3D_NO_MEMORY);
    s3d_mem_fail_at(0);
    CHECK(budget.held_bytes == 0);
    CHECK_CODE(s3d_budget_take(&budget, BYTES, NULL, -1, &buffer, &error), S3D_OK);
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
        CHECK_CODE(s3d_budget_take(&shared, BYTES, NULL, -1, &buffer, NULL), S3D_OK);
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

static enum s3d_code claim(struct s3d_budget *budget, struct s3d_claim *claim, size_t bytes,
                           void **buffer)
{
    return s3d_budget_take(budget, bytes, claim, 0, buffer, NULL);
}

/* Claims are served in their order, and before those who have buffers. */
static void test_order(void)
{
    struct s3d_budget budget;
    struct s3d_claim first = {0}, second = {0};
    void *held[3], *buffer = NULL, *other = NULL;
    CHECK_CODE(s3d_budget_init(&budget, 3 * BYTES, NULL), S3D_OK);
    for (int i = 0; i < 3; i++) {
        CHECK_CODE(s3d_budget_take(&budget, BYTES, NULL, 0, &held[i], NULL), S3D_OK);
    }
    s3d_budget_moves(&budget, 3 * BYTES); /* so that it is never stuck */
    CHECK(!s3d_budget_wanted(&budget));
    CHECK_CODE(claim(&budget, &first, BYTES, &buffer), S3D_AGAIN);
    CHECK_CODE(claim(&budget, &second, BYTES, &buffer), S3D_AGAIN);
    CHECK(s3d_budget_wanted(&budget));
    s3d_budget_give(&budget, held[0], BYTES);
    CHECK_CODE(claim(&budget, &first, BYTES, &other), S3D_OK);
    CHECK_CODE(claim(&budget, &second, BYTES, &buffer), S3D_AGAIN);
    s3d_budget_give(&budget, other, BYTES);
    CHECK_CODE(s3d_budget_take(&budget, BYTES, NULL, 0, &buffer, NULL), S3D_AGAIN);
    CHECK_CODE(claim(&budget, &first, BYTES, &other), S3D_AGAIN); /* now behind the second */
    CHECK_CODE(claim(&budget, &second, BYTES, &buffer), S3D_OK);
    /* Room for all of them: nobody needs to be let pass. */
    s3d_budget_give(&budget, held[1], BYTES);
    s3d_budget_give(&budget, held[2], BYTES);
    CHECK_CODE(s3d_budget_take(&budget, BYTES, NULL, 0, &other, NULL), S3D_OK);
    s3d_budget_give(&budget, other, BYTES);
    CHECK_CODE(claim(&budget, &second, BYTES, &other), S3D_OK);
    s3d_budget_withdraw(&budget, &first);
    s3d_budget_withdraw(&budget, &first);
    CHECK(!s3d_budget_wanted(&budget) && budget.last_claim == &budget.claims);
    s3d_budget_give(&budget, buffer, BYTES);
    s3d_budget_give(&budget, other, BYTES);
    s3d_budget_rests(&budget, 3 * BYTES);
    CHECK(budget.held_bytes == 0 && budget.peak_bytes == 3 * BYTES && !budget.extra_bytes);
    s3d_budget_fini(&budget);
}

/* A claim whose owner has gone away holds nobody up. */
static void test_gone(void)
{
    struct s3d_budget budget;
    struct s3d_claim gone = {0}, there = {0};
    void *buffer = NULL, *other = NULL;
    CHECK_CODE(s3d_budget_init(&budget, BYTES, NULL), S3D_OK);
    CHECK_CODE(s3d_budget_take(&budget, BYTES, NULL, 0, &buffer, NULL), S3D_OK);
    s3d_budget_moves(&budget, BYTES);
    CHECK_CODE(claim(&budget, &gone, BYTES, &other), S3D_AGAIN);
    CHECK_CODE(claim(&budget, &there, BYTES, &other), S3D_AGAIN);
    s3d_budget_give(&budget, buffer, BYTES);
    CHECK_CODE(s3d_budget_take(&budget, BYTES, &there, -1, &other, NULL), S3D_OK);
    s3d_budget_withdraw(&budget, &gone);
    s3d_budget_give(&budget, other, BYTES);
    s3d_budget_rests(&budget, BYTES);
    CHECK(budget.peak_bytes == BYTES);
    s3d_budget_fini(&budget);
}

/* All memory lies with streams that do nothing: the limit is raised once, and not by as many
 * buffers as there are others that want one. */
static void test_stuck(void)
{
    enum { OTHERS = 5 };
    struct s3d_budget budget;
    struct s3d_claim claims[OTHERS] = {{0}};
    void *idle[2], *buffer = NULL;
    CHECK_CODE(s3d_budget_init(&budget, 2 * BYTES, NULL), S3D_OK);
    for (int i = 0; i < 2; i++) {
        CHECK_CODE(s3d_budget_take(&budget, BYTES, NULL, 0, &idle[i], NULL), S3D_OK);
    }
    for (int round = 0; round < 20; round++) {
        struct s3d_claim *mine = &claims[round % OTHERS];
        CHECK_CODE(s3d_budget_take(&budget, BYTES, mine, -1, &buffer, NULL), S3D_OK);
        CHECK(budget.held_bytes == 3 * BYTES && budget.extra_bytes == BYTES);
        s3d_budget_moves(&budget, BYTES); /* it will come back */
        struct s3d_claim *next = &claims[(round + 1) % OTHERS];
        void *none = NULL;
        CHECK_CODE(s3d_budget_take(&budget, BYTES, next, round ? 0 : 2 * S3D_BUDGET_STUCK_MS,
                                   &none, NULL),
                   S3D_AGAIN);
        s3d_budget_give(&budget, buffer, BYTES);
        s3d_budget_rests(&budget, BYTES);
    }
    for (int i = 0; i < OTHERS; i++) {
        s3d_budget_withdraw(&budget, &claims[i]);
    }
    CHECK(budget.peak_bytes == 3 * BYTES);
    s3d_budget_give(&budget, idle[0], BYTES);
    CHECK(budget.extra_bytes == 0); /* it would do without */
    CHECK_CODE(claim(&budget, &claims[0], 9 * BYTES, &buffer), S3D_AGAIN);
    s3d_budget_give(&budget, idle[1], BYTES);
    CHECK_CODE(claim(&budget, &claims[0], 9 * BYTES, &buffer), S3D_OK); /* alone */
    s3d_budget_give(&budget, buffer, 9 * BYTES);
    CHECK(budget.held_bytes == 0 && !s3d_budget_wanted(&budget));
    s3d_budget_fini(&budget);
}

static struct s3d_budget crowded;
static atomic_uint taken[16];

/* Has one at a time, as a stream that sends each part when it is full. */
static void *take_in_turn(void *argument)
{
    struct s3d_claim mine = {0};
    for (int i = 0; i < 40; i++) {
        void *buffer = NULL;
        CHECK_CODE(s3d_budget_take(&crowded, BYTES, &mine, -1, &buffer, NULL), S3D_OK);
        s3d_budget_moves(&crowded, BYTES);
        usleep(200);
        s3d_budget_give(&crowded, buffer, BYTES);
        s3d_budget_rests(&crowded, BYTES);
        atomic_fetch_add((atomic_uint *)argument, 1);
    }
    return NULL;
}

static void test_crowd(void)
{
    pthread_t threads[16];
    CHECK_CODE(s3d_budget_init(&crowded, 2 * BYTES, NULL), S3D_OK);
    for (int i = 0; i < 16; i++) {
        CHECK(pthread_create(&threads[i], NULL, take_in_turn, &taken[i]) == 0);
    }
    for (int i = 0; i < 16; i++) {
        pthread_join(threads[i], NULL);
        CHECK(atomic_load(&taken[i]) == 40);
    }
    CHECK(crowded.peak_bytes <= 2 * BYTES && crowded.held_bytes == 0);
    CHECK(!s3d_budget_wanted(&crowded));
    s3d_budget_fini(&crowded);
}

int main(void)
{
    alarm(60);
    RUN(test_order);
    RUN(test_gone);
    RUN(test_stuck);
    RUN(test_crowd);
    RUN(test_limit);
    RUN(test_out_of_memory);
    RUN(test_waiting);
    return 0;
}
