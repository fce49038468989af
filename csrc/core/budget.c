#include "core/budget.h"

#include "core/mem.h"

enum {
    ALIVE_MS = 100, /* a claim that has not been asked for in so long is passed over */
    LOOK_MS = 10
};

enum s3d_code s3d_budget_init(struct s3d_budget *budget, uint64_t limit_bytes,
                              struct s3d_error *error)
{
    *budget = (struct s3d_budget){.limit_bytes = limit_bytes};
    budget->last_claim = &budget->claims;
    return s3d_latch_init(&budget->latch, error);
}

void s3d_budget_fini(struct s3d_budget *budget)
{
    s3d_latch_fini(&budget->latch);
}

/* ---- claims ---- */

static void enqueue_locked(struct s3d_budget *budget, struct s3d_claim *claim, size_t bytes,
                           int64_t now_ms)
{
    if (!claim->link) {
        claim->next = NULL;
        claim->link = budget->last_claim;
        claim->since_ms = now_ms;
        *budget->last_claim = claim;
        budget->last_claim = &claim->next;
        atomic_fetch_add(&budget->claim_count, 1);
    }
    claim->bytes = bytes;
    claim->asked_ms = now_ms;
}

static void withdraw_locked(struct s3d_budget *budget, struct s3d_claim *claim)
{
    if (!claim->link) {
        return;
    }
    *claim->link = claim->next;
    if (claim->next) {
        claim->next->link = claim->link;
    } else {
        budget->last_claim = claim->link;
    }
    claim->link = NULL;
    atomic_fetch_sub(&budget->claim_count, 1);
}

void s3d_budget_withdraw(struct s3d_budget *budget, struct s3d_claim *claim)
{
    s3d_latch_lock(&budget->latch);
    withdraw_locked(budget, claim);
    s3d_latch_unlock(&budget->latch);
}

bool s3d_budget_wanted(struct s3d_budget *budget)
{
    return atomic_load(&budget->claim_count) > 0;
}

/* What those before `claim` wait for (NULL: all of them). */
static uint64_t claimed_locked(const struct s3d_budget *budget, const struct s3d_claim *claim,
                               int64_t now_ms)
{
    uint64_t bytes = 0;
    for (const struct s3d_claim *other = budget->claims; other && other != claim;
         other = other->next) {
        bytes += now_ms - other->asked_ms <= ALIVE_MS ? other->bytes : 0;
    }
    return bytes;
}

/* ---- taking ---- */

static bool fits_locked(const struct s3d_budget *budget, uint64_t bytes, uint64_t extra_bytes)
{
    uint64_t limit = budget->limit_bytes > UINT64_MAX - extra_bytes
                         ? UINT64_MAX
                         : budget->limit_bytes + extra_bytes;
    return budget->held_bytes <= limit && bytes <= limit - budget->held_bytes;
}

/* Whether all the memory lies where it will not come back from. */
static bool is_stuck_locked(const struct s3d_budget *budget, const struct s3d_claim *claim,
                            int64_t now_ms)
{
    int64_t quiet_since_ms =
        claim->since_ms > budget->changed_ms ? claim->since_ms : budget->changed_ms;
    return !atomic_load(&budget->moving_bytes) &&
           now_ms - quiet_since_ms >= S3D_BUDGET_STUCK_MS;
}

static bool may_claim_locked(struct s3d_budget *budget, size_t bytes, struct s3d_claim *claim)
{
    int64_t now_ms = s3d_now_ms();
    enqueue_locked(budget, claim, bytes, now_ms);
    uint64_t before = claimed_locked(budget, claim, now_ms);
    bool may = fits_locked(budget, before + bytes, budget->extra_bytes) ||
               (!before && !budget->held_bytes); /* larger than the budget */
    if (!may && !before && is_stuck_locked(budget, claim, now_ms)) {
        budget->extra_bytes = budget->held_bytes + bytes - budget->limit_bytes;
        budget->changed_ms = now_ms;
        may = true;
    }
    if (may) {
        withdraw_locked(budget, claim);
    }
    return may;
}

static bool may_take_locked(struct s3d_budget *budget, size_t bytes, struct s3d_claim *claim)
{
    return claim ? may_claim_locked(budget, bytes, claim)
                 : fits_locked(budget, claimed_locked(budget, NULL, s3d_now_ms()) + bytes, 0);
}

static bool wait_locked(struct s3d_budget *budget, bool claims, int64_t deadline_ms)
{
    int64_t soon_ms = s3d_deadline_ms(LOOK_MS); /* that the budget is stuck nobody will say */
    if (!claims || (deadline_ms >= 0 && deadline_ms <= soon_ms)) {
        return s3d_latch_wait_locked(&budget->latch, deadline_ms);
    }
    s3d_latch_wait_locked(&budget->latch, soon_ms);
    return true;
}

static void hold_locked(struct s3d_budget *budget, size_t bytes)
{
    budget->held_bytes += bytes;
    if (budget->held_bytes > budget->peak_bytes) {
        budget->peak_bytes = budget->held_bytes;
    }
}

static void give_back(struct s3d_budget *budget, size_t bytes)
{
    s3d_latch_lock(&budget->latch);
    budget->held_bytes -= bytes;
    budget->changed_ms = s3d_now_ms();
    if (fits_locked(budget, budget->extra_bytes, 0)) {
        budget->extra_bytes = 0; /* the streams could do without */
    }
    s3d_latch_notify_locked(&budget->latch);
    s3d_latch_unlock(&budget->latch);
}

/* The memory for what is counted as held already. */
static enum s3d_code allocate(struct s3d_budget *budget, size_t bytes, void **buffer,
                              struct s3d_error *error)
{
    *buffer = s3d_pages_alloc(bytes);
    if (!*buffer) {
        give_back(budget, bytes);
        return s3d_fail_memory(error, bytes);
    }
    return S3D_OK;
}

enum s3d_code s3d_budget_take(struct s3d_budget *budget, size_t bytes, struct s3d_claim *claim,
                              int64_t timeout_ms, void **buffer, struct s3d_error *error)
{
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    s3d_latch_lock(&budget->latch);
    while (!may_take_locked(budget, bytes, claim)) {
        if (timeout_ms == 0 || !wait_locked(budget, claim != NULL, deadline_ms)) {
            s3d_latch_unlock(&budget->latch);
            return S3D_AGAIN;
        }
    }
    hold_locked(budget, bytes);
    s3d_latch_unlock(&budget->latch);
    return allocate(budget, bytes, buffer, error);
}

enum s3d_code s3d_budget_take_small(struct s3d_budget *budget, size_t bytes, void **buffer,
                                    struct s3d_error *error)
{
    s3d_latch_lock(&budget->latch);
    hold_locked(budget, bytes);
    s3d_latch_unlock(&budget->latch);
    return allocate(budget, bytes, buffer, error);
}

void s3d_budget_give(struct s3d_budget *budget, void *buffer, size_t bytes)
{
    if (buffer) {
        s3d_pages_free(buffer, bytes);
        give_back(budget, bytes);
    }
}

void s3d_budget_moves(struct s3d_budget *budget, uint64_t bytes)
{
    atomic_fetch_add(&budget->moving_bytes, bytes);
}

void s3d_budget_rests(struct s3d_budget *budget, uint64_t bytes)
{
    atomic_fetch_sub(&budget->moving_bytes, bytes);
}
