#include "fake_state.h"

#include "test.h"

void *fake_memory(size_t size)
{
    void *memory = calloc(1, size ? size : 1);
    CHECK(memory != NULL);
    return memory;
}

/* ---- counters ---- */

static unsigned read_counter(struct fake_store *fake, const unsigned *counter)
{
    pthread_mutex_lock(&fake->mutex);
    unsigned value = *counter;
    pthread_mutex_unlock(&fake->mutex);
    return value;
}

unsigned fake_attempts(struct fake_store *fake, enum s3d_verb verb)
{
    return read_counter(fake, &fake->attempts[verb]);
}

unsigned fake_attempts_all(struct fake_store *fake)
{
    unsigned total = 0;
    for (int verb = 0; verb < FAKE_VERBS; verb++) {
        total += fake_attempts(fake, (enum s3d_verb)verb);
    }
    return total;
}

unsigned fake_peak(struct fake_store *fake, enum s3d_verb verb)
{
    return read_counter(fake, &fake->peak[verb]);
}

unsigned fake_peak_of_driver(struct fake_store *fake)
{
    return read_counter(fake, &fake->driver_peak);
}

unsigned fake_sent_from(struct fake_store *fake, const void *data, size_t size)
{
    unsigned count = 0;
    uintptr_t start = (uintptr_t)data;
    pthread_mutex_lock(&fake->mutex);
    for (size_t i = 0; i < fake->log_count; i++) {
        uintptr_t at = (uintptr_t)fake->log[i].data;
        count += fake->log[i].verb != S3D_VERB_GET && at >= start && at < start + size;
    }
    pthread_mutex_unlock(&fake->mutex);
    return count;
}

void fake_watch(struct fake_store *fake, const void *data, size_t size)
{
    pthread_mutex_lock(&fake->mutex);
    fake->watch_start = (uintptr_t)data;
    fake->watch_end = fake->watch_start + size;
    fake->watched_bytes = 0;
    pthread_mutex_unlock(&fake->mutex);
}

uint64_t fake_watched_bytes(struct fake_store *fake)
{
    pthread_mutex_lock(&fake->mutex);
    uint64_t bytes = fake->watched_bytes;
    pthread_mutex_unlock(&fake->mutex);
    return bytes;
}

size_t fake_log(struct fake_store *fake, const struct fake_line **lines)
{
    pthread_mutex_lock(&fake->mutex);
    *lines = fake->log;
    size_t count = fake->log_count;
    pthread_mutex_unlock(&fake->mutex);
    return count;
}

void fake_counters_clear(struct fake_store *fake)
{
    pthread_mutex_lock(&fake->mutex);
    memset(fake->attempts, 0, sizeof fake->attempts);
    memcpy(fake->peak, fake->running, sizeof fake->peak);
    fake->driver_peak = 0;
    fake->log_count = 0;
    pthread_mutex_unlock(&fake->mutex);
}

/* ---- the engine ---- */

void fake_engine(const char *settings)
{
    s3d_engine_shutdown();
    setenv("S3DLIO_RT_THREADS", "2", 1);
    setenv("AWS_MAX_ATTEMPTS", "3", 1);
    setenv("S3DLIO_HEDGE", "100", 1);
    setenv("S3DLIO_MEMORY_LIMIT", "67108864", 1);
    char *copy = strdup(settings), *rest = copy;
    CHECK(copy != NULL);
    for (char *word; (word = strtok_r(rest, " ", &rest));) {
        char *equals = strchr(word, '=');
        CHECK(equals != NULL);
        *equals = '\0';
        setenv(word, equals + 1, 1);
    }
    free(copy);
    s3d_engine_restart();
    struct s3d_engine *engine;
    CHECK_CODE(s3d_engine_get(&engine, NULL), S3D_OK);
}

struct s3d_engine *fake_running_engine(void)
{
    struct s3d_engine *engine;
    CHECK_CODE(s3d_engine_get(&engine, NULL), S3D_OK);
    return engine;
}

/* ---- patterns, and an object of one ---- */

enum { WORD = 8 };

static uint64_t pattern_word(uint64_t seed, uint64_t number)
{
    uint64_t x = (seed << 40) + number + 1;
    return (x ^ (x >> 31)) * 0x9E3779B97F4A7C15u;
}

/* The pattern's next piece at `at`, at most `left` bytes of it; its length. */
static size_t pattern_piece(uint64_t seed, uint64_t at, size_t left, char piece[WORD])
{
    uint64_t word = pattern_word(seed, at / WORD);
    size_t skip = at % WORD, length = WORD - skip < left ? WORD - skip : left;
    memcpy(piece, (const char *)&word + skip, length);
    return length;
}

void fake_pattern(void *data, size_t size, uint64_t seed)
{
    char piece[WORD];
    for (size_t at = 0; at < size;) {
        size_t length = pattern_piece(seed, at, size - at, piece);
        memcpy((char *)data + at, piece, length);
        at += length;
    }
}

bool fake_pattern_is(const void *data, size_t size, uint64_t seed, uint64_t offset)
{
    char piece[WORD];
    for (size_t at = 0; at < size;) {
        size_t length = pattern_piece(seed, offset + at, size - at, piece);
        if (memcmp((const char *)data + at, piece, length) != 0) {
            return false;
        }
        at += length;
    }
    return true;
}

struct fake_store *fake_open_with(size_t size, uint64_t seed)
{
    struct fake_store *fake = fake_open();
    char *data = fake_memory(size);
    fake_pattern(data, size, seed);
    fake_put_object(fake, "object", data, size);
    free(data);
    return fake;
}
