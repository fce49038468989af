#include "fake_state.h"

#include "test.h"

#include "backends/sums.h"

#include <unistd.h>

struct attempt {
    struct attempt *next;
    struct s3d_request *request;
    struct fake_rule rule; /* what to do; times 0: nothing special */
    unsigned rule_number;
    bool held;
    int64_t due_ms;
};

struct driver {
    struct s3d_driver base;
    unsigned index;
    /* locked{mutex} */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct attempt *attempts;
    bool woken;
};

/* locked{drivers_mutex} */
static struct driver *drivers[DRIVERS_MAX];
static unsigned drivers_opened;
static pthread_mutex_t drivers_mutex = PTHREAD_MUTEX_INITIALIZER;

static atomic_uint set_capacity;
static atomic_int fail_open;

static struct fake_store *store_of(struct s3d_request *request)
{
    return (struct fake_store *)request->store;
}

/* ---- attempts ---- */

static bool matches(const struct fake_rule *rule, const struct s3d_request *request)
{
    return rule->verb == request->verb && (!rule->part || rule->part == request->part_number) &&
           (!rule->at_offset || rule->offset == request->offset_bytes);
}

static void apply_rule_locked(struct fake_store *fake, struct attempt *attempt)
{
    for (unsigned i = fake->rule_count; i-- > 0;) {
        struct fake_rule *rule = &fake->rules[i];
        if (!matches(rule, attempt->request) || !rule->times) {
            continue;
        }
        if (rule->skip) {
            rule->skip--;
            continue;
        }
        attempt->rule = *rule;
        attempt->rule_number = i;
        attempt->held = rule->hold;
        attempt->due_ms = s3d_now_ms() + rule->delay_ms;
        rule->times--;
        rule->fired++;
        return;
    }
}

static uint64_t bytes_between(const struct s3d_request *request, uintptr_t start, uintptr_t end)
{
    uint64_t bytes = 0;
    for (size_t i = 0; request->verb != S3D_VERB_GET && i < request->span_count; i++) {
        uintptr_t from = (uintptr_t)request->spans[i].data;
        uintptr_t to = from + request->spans[i].length_bytes;
        from = from > start ? from : start;
        to = to < end ? to : end;
        bytes += from < to ? to - from : 0;
    }
    return bytes;
}

static void count_start_locked(struct fake_store *fake, const struct s3d_request *request,
                               unsigned driver)
{
    enum s3d_verb verb = request->verb;
    fake->attempts[verb]++;
    if (++fake->running[verb] > fake->peak[verb]) {
        fake->peak[verb] = fake->running[verb];
    }
    if (++fake->on_driver[driver] > fake->driver_peak) {
        fake->driver_peak = fake->on_driver[driver];
    }
    fake->watched_bytes += bytes_between(request, fake->watch_start, fake->watch_end);
    CHECK(fake->log_count < FAKE_LOG_MAX);
    fake->log[fake->log_count++] = (struct fake_line){
        .verb = verb,
        .offset = request->offset_bytes,
        .length = request->length_bytes,
        .part = request->part_number,
        .driver = driver,
        .data = request->span_count ? request->spans[0].data : NULL,
        .spans = request->span_count,
    };
}

static void count_end_locked(struct fake_store *fake, const struct s3d_request *request,
                             unsigned driver)
{
    fake->running[request->verb]--;
    fake->on_driver[driver]--;
}

static void end_attempt(struct driver *driver, struct attempt *attempt)
{
    struct s3d_request *request = attempt->request;
    struct fake_store *fake = store_of(request);
    pthread_mutex_lock(&fake->mutex);
    enum s3d_code code;
    if (fake->watched) {
        s3d_attempt_heard(request);
    }
    if (attempt->rule.late) {
        (void)!fake_perform_locked(fake, request, &attempt->rule);
    }
    if (attempt->rule.code) {
        code = s3d_fail(&request->last, attempt->rule.code, "scripted by rule %u",
                        attempt->rule_number);
        request->last.retry_after_ms = attempt->rule.retry_after_ms;
    } else {
        code = fake_perform_locked(fake, request, &attempt->rule);
    }
    if (!code && attempt->rule.wrong_etag) {
        snprintf(request->result.object.etag, S3D_ETAG_MAX, "\"wrong\"");
    }
    if (!code && fake->bytes_per_s) {
        uint64_t bytes = request->verb == S3D_VERB_GET ? request->result.received_bytes
                                                       : request->length_bytes;
        request->result.answer_us = fake->answer_us;
        request->result.elapsed_us =
            fake->answer_us + (int64_t)(bytes * 1000000 / fake->bytes_per_s);
    }
    count_end_locked(fake, request, driver->index);
    pthread_mutex_unlock(&fake->mutex);
    free(attempt);
    s3d_attempt_done(&driver->base, request, code);
}

/* ---- the driver ---- */

static unsigned driver_capacity(const struct s3d_config *config, unsigned threads)
{
    (void)config;
    (void)threads;
    unsigned capacity = atomic_load(&set_capacity);
    return capacity ? capacity : 1000;
}

static unsigned free_index_locked(void)
{
    unsigned index = 0;
    while (index < DRIVERS_MAX && drivers[index]) {
        index++;
    }
    CHECK(index < DRIVERS_MAX);
    return index;
}

static enum s3d_code driver_open(struct s3d_driver **out, const struct s3d_config *config,
                                 unsigned capacity, struct s3d_error *error)
{
    (void)config;
    (void)capacity;
    pthread_mutex_lock(&drivers_mutex);
    if (++drivers_opened == 2 && atomic_load(&fail_open)) {
        pthread_mutex_unlock(&drivers_mutex);
        return s3d_fail(error, (enum s3d_code)atomic_load(&fail_open), "scripted");
    }
    struct driver *driver = fake_memory(sizeof *driver);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&driver->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&driver->mutex, NULL);
    driver->index = free_index_locked();
    drivers[driver->index] = driver;
    pthread_mutex_unlock(&drivers_mutex);
    *out = &driver->base;
    return S3D_OK;
}

static void driver_close(struct s3d_driver *base)
{
    struct driver *driver = (struct driver *)base;
    pthread_mutex_lock(&drivers_mutex);
    drivers[driver->index] = NULL;
    pthread_mutex_unlock(&drivers_mutex);
    CHECK(!driver->attempts);
    pthread_mutex_destroy(&driver->mutex);
    pthread_cond_destroy(&driver->changed);
    free(driver);
}

static void wake_locked(struct driver *driver)
{
    driver->woken = true;
    pthread_cond_signal(&driver->changed);
}

static void driver_wake(struct s3d_driver *base)
{
    struct driver *driver = (struct driver *)base;
    pthread_mutex_lock(&driver->mutex);
    wake_locked(driver);
    pthread_mutex_unlock(&driver->mutex);
}

static void driver_start(struct s3d_driver *base, struct s3d_request *request)
{
    struct driver *driver = (struct driver *)base;
    struct fake_store *fake = store_of(request);
    struct attempt *attempt = fake_memory(sizeof *attempt);
    attempt->request = request;
    pthread_mutex_lock(&fake->mutex);
    count_start_locked(fake, request, driver->index);
    apply_rule_locked(fake, attempt);
    unsigned epoch = atomic_load(&fake->hold_epoch);
    bool blocking = fake->blocking, watched = fake->watched;
    pthread_mutex_unlock(&fake->mutex);
    if (watched) {
        s3d_attempt_watch(request);
    }
    if (blocking) {
        if (attempt->rule.delay_ms) {
            usleep((useconds_t)attempt->rule.delay_ms * 1000);
        }
        end_attempt(driver, attempt);
        return;
    }
    pthread_mutex_lock(&driver->mutex);
    if (atomic_load(&fake->hold_epoch) != epoch) {
        attempt->held = false; /* released before it was in the list */
    }
    attempt->next = driver->attempts;
    driver->attempts = attempt;
    pthread_mutex_unlock(&driver->mutex);
}

static void driver_cancel(struct s3d_driver *base, struct s3d_request *request)
{
    struct driver *driver = (struct driver *)base;
    struct fake_store *fake = store_of(request);
    pthread_mutex_lock(&driver->mutex);
    struct attempt **link = &driver->attempts;
    while (*link && (*link)->request != request) {
        link = &(*link)->next;
    }
    struct attempt *attempt = *link;
    CHECK(attempt != NULL);
    *link = attempt->next;
    pthread_mutex_unlock(&driver->mutex);
    free(attempt);
    pthread_mutex_lock(&fake->mutex);
    count_end_locked(fake, request, driver->index);
    pthread_mutex_unlock(&fake->mutex);
}

/* Unlinks what may end now; *due_ms: when the next one may, at most what it was. */
static struct attempt *take_ready_locked(struct driver *driver, int64_t *due_ms)
{
    struct attempt *ready = NULL;
    int64_t now_ms = s3d_now_ms();
    for (struct attempt **link = &driver->attempts; *link;) {
        struct attempt *attempt = *link;
        if (!attempt->held && attempt->due_ms <= now_ms) {
            *link = attempt->next;
            attempt->next = ready;
            ready = attempt;
            continue;
        }
        if (!attempt->held && attempt->due_ms < *due_ms) {
            *due_ms = attempt->due_ms;
        }
        link = &attempt->next;
    }
    return ready;
}

static void driver_poll(struct s3d_driver *base, int timeout_ms)
{
    struct driver *driver = (struct driver *)base;
    int64_t deadline_ms = s3d_now_ms() + timeout_ms;
    struct attempt *ready;
    pthread_mutex_lock(&driver->mutex);
    for (;;) {
        int64_t until_ms = deadline_ms;
        ready = take_ready_locked(driver, &until_ms);
        if (ready || driver->woken || s3d_now_ms() >= deadline_ms) {
            break;
        }
        struct timespec at = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
        pthread_cond_timedwait(&driver->changed, &driver->mutex, &at);
    }
    driver->woken = false;
    pthread_mutex_unlock(&driver->mutex);
    while (ready) {
        struct attempt *attempt = ready;
        ready = attempt->next;
        end_attempt(driver, attempt);
    }
}

const struct s3d_driver_ops fake_driver = {
    .name = "fake",
    .capacity = driver_capacity,
    .open = driver_open,
    .start = driver_start,
    .cancel = driver_cancel,
    .poll = driver_poll,
    .wake = driver_wake,
    .close = driver_close,
};

void fake_set_capacity(unsigned capacity)
{
    atomic_store(&set_capacity, capacity);
}

void fake_fail_open(enum s3d_code code)
{
    pthread_mutex_lock(&drivers_mutex);
    drivers_opened = 0;
    pthread_mutex_unlock(&drivers_mutex);
    atomic_store(&fail_open, (int)code);
}

/* ---- the store ---- */

static void store_free(struct s3d_store *base)
{
    struct fake_store *fake = (struct fake_store *)base;
    fake_objects_free(fake);
    pthread_mutex_destroy(&fake->mutex);
    free(fake);
}

static const struct s3d_store_ops store_ops = {.driver = &fake_driver,
                                               .close = store_free,
                                               .upload_etag = fake_upload_etag,
                                               .keeps_write_id = true};

enum s3d_code fake_try_open(struct fake_store **out, struct s3d_error *error)
{
    struct s3d_engine *engine;
    enum s3d_code code = s3d_engine_get(&engine, error);
    if (code) {
        return code;
    }
    struct fake_store *fake = fake_memory(sizeof *fake);
    pthread_mutex_init(&fake->mutex, NULL);
    code = s3d_store_init(&fake->base, &store_ops, engine, error);
    if (code) {
        pthread_mutex_destroy(&fake->mutex);
        free(fake);
        return code;
    }
    /* Parts to spare, so that small ones do not grow. */
    fake->base.limits = (struct s3d_limits){
        .part_min_bytes = 1,
        .part_max_bytes = 1u << 30,
        .parts_max = 20000,
        .object_max_bytes = UINT64_MAX,
    };
    *out = fake;
    return S3D_OK;
}

struct fake_store *fake_open(void)
{
    struct fake_store *fake;
    CHECK_CODE(fake_try_open(&fake, NULL), S3D_OK);
    return fake;
}

void fake_close(struct fake_store *fake)
{
    CHECK(fake_open_uploads(fake) == 0);
    CHECK(atomic_load(&fake->base.references) == 1);
    struct s3d_budget *budget = &fake->base.engine->budget;
    s3d_latch_lock(&budget->latch);
    CHECK(budget->held_bytes == 0);
    s3d_latch_unlock(&budget->latch);
    s3d_store_release(&fake->base);
}

struct s3d_store *fake_base(struct fake_store *fake)
{
    return &fake->base;
}

struct s3d_limits *fake_limits(struct fake_store *fake)
{
    return &fake->base.limits;
}

static void set_flag(struct fake_store *fake, bool *flag, bool value)
{
    pthread_mutex_lock(&fake->mutex);
    *flag = value;
    pthread_mutex_unlock(&fake->mutex);
}

void fake_set_watched(struct fake_store *fake, bool watched)
{
    set_flag(fake, &fake->watched, watched);
}

void fake_set_blocking(struct fake_store *fake, bool blocking)
{
    set_flag(fake, &fake->blocking, blocking);
}

void fake_set_empty_is_range(struct fake_store *fake, bool range)
{
    set_flag(fake, &fake->empty_is_range, range);
}

void fake_set_ignore_if_match(struct fake_store *fake, bool ignore)
{
    set_flag(fake, &fake->ignore_if_match, ignore);
}

void fake_set_sum(struct fake_store *fake, const struct s3d_sum_kind *kind, const char *sum)
{
    pthread_mutex_lock(&fake->mutex);
    fake->base.check_kinds = s3d_sum_kinds;
    fake->sum_kind = kind;
    snprintf(fake->sum, sizeof fake->sum, "%s", sum);
    pthread_mutex_unlock(&fake->mutex);
}

void fake_set_distance(struct fake_store *fake, int64_t answer_us, uint64_t bytes_per_s)
{
    pthread_mutex_lock(&fake->mutex);
    fake->answer_us = answer_us;
    fake->bytes_per_s = bytes_per_s;
    pthread_mutex_unlock(&fake->mutex);
}

/* ---- the script ---- */

unsigned fake_rule(struct fake_store *fake, struct fake_rule rule)
{
    pthread_mutex_lock(&fake->mutex);
    CHECK(fake->rule_count < RULES_MAX);
    unsigned number = fake->rule_count++;
    fake->rules[number] = rule;
    pthread_mutex_unlock(&fake->mutex);
    return number;
}

unsigned fake_fired(struct fake_store *fake, unsigned rule)
{
    pthread_mutex_lock(&fake->mutex);
    unsigned fired = fake->rules[rule].fired;
    pthread_mutex_unlock(&fake->mutex);
    return fired;
}

void fake_rules_clear(struct fake_store *fake)
{
    pthread_mutex_lock(&fake->mutex);
    fake->rule_count = 0;
    pthread_mutex_unlock(&fake->mutex);
}

unsigned fake_held_by(struct fake_store *fake, unsigned index)
{
    unsigned held = 0;
    pthread_mutex_lock(&drivers_mutex);
    struct driver *driver = drivers[index];
    if (driver) {
        pthread_mutex_lock(&driver->mutex);
        for (struct attempt *attempt = driver->attempts; attempt; attempt = attempt->next) {
            held += attempt->held && store_of(attempt->request) == fake;
        }
        pthread_mutex_unlock(&driver->mutex);
    }
    pthread_mutex_unlock(&drivers_mutex);
    return held;
}

void fake_wait_held(struct fake_store *fake, unsigned count)
{
    for (;;) {
        unsigned held = 0;
        for (unsigned i = 0; i < DRIVERS_MAX; i++) {
            held += fake_held_by(fake, i);
        }
        if (held >= count) {
            return;
        }
        usleep(200);
    }
}

/* Lets the held attempts go that `wanted` matches (NULL: all). */
static void let_go(struct fake_store *fake, const struct fake_rule *wanted)
{
    pthread_mutex_lock(&drivers_mutex);
    for (unsigned i = 0; i < DRIVERS_MAX; i++) {
        struct driver *driver = drivers[i];
        if (!driver) {
            continue;
        }
        pthread_mutex_lock(&driver->mutex);
        for (struct attempt *attempt = driver->attempts; attempt; attempt = attempt->next) {
            bool hit = store_of(attempt->request) == fake &&
                       (!wanted || matches(wanted, attempt->request));
            attempt->held = attempt->held && !hit;
        }
        /* Not wake(): a held attempt that ends is the driver's own progress. */
        pthread_cond_signal(&driver->changed);
        pthread_mutex_unlock(&driver->mutex);
    }
    pthread_mutex_unlock(&drivers_mutex);
}

void fake_release(struct fake_store *fake)
{
    pthread_mutex_lock(&fake->mutex);
    for (unsigned i = 0; i < fake->rule_count; i++) {
        if (fake->rules[i].hold) {
            fake->rules[i].times = 0;
        }
    }
    atomic_fetch_add(&fake->hold_epoch, 1);
    pthread_mutex_unlock(&fake->mutex);
    let_go(fake, NULL);
}

void fake_release_part(struct fake_store *fake, uint32_t part)
{
    let_go(fake, &(struct fake_rule){.verb = S3D_VERB_UPLOAD_PART, .part = part});
}

void fake_release_offset(struct fake_store *fake, uint64_t offset)
{
    let_go(fake,
           &(struct fake_rule){.verb = S3D_VERB_GET, .at_offset = true, .offset = offset});
}
