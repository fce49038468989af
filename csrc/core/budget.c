#include "core/budget.h"

#include "core/mem.h"

enum s3d_code s3d_budget_init(struct s3d_budget *budget, uint64_t limit_bytes,
                              struct s3d_error *error)
{
    budget->limit_bytes = limit_bytes;
    budget->held_bytes = 0;
    budget->peak_bytes = 0;
    return s3d_latch_init(&budget->latch, error);
}

void s3d_budget_fini(struct s3d_budget *budget)
{
    s3d_latch_fini(&budget->latch);
}

static bool fits_locked(const struct s3d_budget *budget, size_t bytes)
{
    return budget->held_bytes <= budget->limit_bytes &&
           bytes <= budget->limit_bytes - budget->held_bytes;
}

static void give_back(struct s3d_budget *budget, size_t bytes)
{
    s3d_latch_lock(&budget->latch);
    budget->held_bytes -= bytes;
    s3d_latch_notify_locked(&budget->latch);
    s3d_latch_unlock(&budget->latch);
}

enum s3d_code s3d_budget_take(struct s3d_budget *budget, size_t bytes, bool first,
                              int64_t timeout_ms, void **buffer, struct s3d_error *error)
{
    int64_t deadline_ms = s3d_deadline_ms(timeout_ms);
    s3d_latch_lock(&budget->latch);
    while (!first && !fits_locked(budget, bytes)) {
        if (timeout_ms == 0 || !s3d_latch_wait_locked(&budget->latch, deadline_ms)) {
            s3d_latch_unlock(&budget->latch);
            return S3D_AGAIN;
        }
    }
    budget->held_bytes += bytes;
    if (budget->held_bytes > budget->peak_bytes) {
        budget->peak_bytes = budget->held_bytes;
    }
    s3d_latch_unlock(&budget->latch);

    *buffer = s3d_pages_alloc(bytes);
    if (!*buffer) {
        give_back(budget, bytes);
        return s3d_fail_memory(error, bytes);
    }
    return S3D_OK;
}

void s3d_budget_give(struct s3d_budget *budget, void *buffer, size_t bytes)
{
    if (buffer) {
        s3d_pages_free(buffer, bytes);
        give_back(budget, bytes);
    }
}
