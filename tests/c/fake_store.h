/*
 * A store in memory behind a driver of its own, for the tests of csrc/core: real pool threads, S3's
 * rules for objects and multipart uploads, and faults by script.
 *
 * Rules are looked at when an attempt starts, newest first; the first that matches and still has
 * `times` left acts. What an attempt does to objects happens when it ends, on its I/O thread.
 */
#ifndef TESTS_C_FAKE_STORE_H
#define TESTS_C_FAKE_STORE_H

#include "core/engine.h"
#include "core/store.h"

enum { FAKE_VERBS = S3D_VERB_UPLOAD_ABORT + 1, FAKE_LOG_MAX = 8192 };

struct fake_rule {
    enum s3d_verb verb;
    uint32_t part;  /* this part only; 0: any */
    bool at_offset; /* GET: only the request that begins at `offset` */
    uint64_t offset;
    unsigned skip;  /* matching attempts that are left alone first */
    unsigned times; /* then so many are hit */
    /* what happens, in this order */
    bool hold; /* waits for fake_release (or a cancel) */
    int64_t delay_ms;
    enum s3d_code code; /* the attempt fails with it; OK: it does its work */
    bool late;          /* fails after its work: the answer is lost */
    uint32_t retry_after_ms;
    bool wrong_etag;  /* answers with another ETag than the object's */
    uint64_t missing; /* GET: so many bytes fewer than asked, and OK all the same */
    unsigned fired;   /* how often it has hit */
};

struct fake_line {
    enum s3d_verb verb;
    uint64_t offset, length;
    uint32_t part;
    unsigned driver; /* which I/O thread, from 0 */
    const char *data;
    size_t spans;
};

/* Only through the functions below. */
struct fake_store;

/* Settings of the driver, read when an engine's pool starts. */
void fake_set_capacity(unsigned capacity); /* 0: no limit worth the name */
void fake_fail_open(enum s3d_code code); /* the second thread's driver does not open; OK: off */

extern const struct s3d_driver_ops fake_driver;

/* Environment for the next engine: a text such as "S3DLIO_RT_THREADS=2 AWS_MAX_ATTEMPTS=3". Shuts
 * the running engine down and lets a new one start. All settings not named go back to: 2 threads,
 * 3 attempts, 64 MiB, hedges from 100 ms on. */
void fake_engine(const char *settings);
struct s3d_engine *fake_running_engine(void);

struct fake_store *fake_open(void); /* exits on failure */
/* The same, with `size` bytes of the pattern `seed` under "object". */
struct fake_store *fake_open_with(size_t size, uint64_t seed);
S3D_MUST_USE enum s3d_code fake_try_open(struct fake_store **fake, struct s3d_error *error);
/* Checks that nobody else holds the store and that no upload is open, and frees it. */
void fake_close(struct fake_store *fake);
struct s3d_store *fake_base(struct fake_store *fake);
struct s3d_limits *fake_limits(struct fake_store *fake); /* before the first put */

/* Attempts end within start(), as those of a blocking driver. */
void fake_set_blocking(struct fake_store *fake, bool blocking);
/* Attempts tell that they have begun, and when they end that they have heard of the store. */
void fake_set_watched(struct fake_store *fake, bool watched);
/* GET of the last bytes of an empty object: RANGE instead of OK. */
void fake_set_empty_is_range(struct fake_store *fake, bool range);
/* GETs take no notice of if_match. */
void fake_set_ignore_if_match(struct fake_store *fake, bool ignore);

/* The checksum that the store keeps with every object, and tells to STAT. Reads are checked against
 * it from now on. */
void fake_set_sum(struct fake_store *fake, const struct s3d_sum_kind *kind, const char *sum);

/* What answers claim of themselves, while they come as ever: begun after answer_us, and the rest at
 * bytes_per_s. 0, 0: nothing. */
void fake_set_distance(struct fake_store *fake, int64_t answer_us, uint64_t bytes_per_s);

/* The store keeps its own copy; fired counts are read with fake_fired. Returns its number. */
unsigned fake_rule(struct fake_store *fake, struct fake_rule rule);
unsigned fake_fired(struct fake_store *fake, unsigned rule);
void fake_rules_clear(struct fake_store *fake);
void fake_wait_held(struct fake_store *fake, unsigned count); /* until so many are held */
/* Lets all held attempts go and hold no more. */
void fake_release(struct fake_store *fake);
/* Lets the held attempts of one part go, and only those. */
void fake_release_part(struct fake_store *fake, uint32_t part);
/* The same for the held attempts that begin at an offset. */
void fake_release_offset(struct fake_store *fake, uint64_t offset);

void fake_put_object(struct fake_store *fake, const char *key, const void *data, size_t size);
/* The object's bytes, owned by the store; NULL: there is none. */
const char *fake_object(struct fake_store *fake, const char *key, size_t *size);
unsigned fake_open_uploads(struct fake_store *fake);
void fake_drop_uploads(struct fake_store *fake); /* after a test in which one had to stay */

unsigned fake_attempts(struct fake_store *fake, enum s3d_verb verb);
unsigned fake_attempts_all(struct fake_store *fake);
unsigned fake_peak(struct fake_store *fake, enum s3d_verb verb); /* most at once */
unsigned fake_peak_of_driver(struct fake_store *fake); /* most at once on one thread */
unsigned fake_held_by(struct fake_store *fake, unsigned driver); /* the driver-th thread's */
/* Attempts whose first byte came from [data, data + size). */
unsigned fake_sent_from(struct fake_store *fake, const void *data, size_t size);
/* Counts from now on how many bytes are sent straight from [data, data + size). */
void fake_watch(struct fake_store *fake, const void *data, size_t size);
uint64_t fake_watched_bytes(struct fake_store *fake);
size_t fake_log(struct fake_store *fake, const struct fake_line **lines);
void fake_counters_clear(struct fake_store *fake);

/* Bytes that tell their place. */
void fake_pattern(void *data, size_t size, uint64_t seed);
bool fake_pattern_is(const void *data, size_t size, uint64_t seed, uint64_t offset);

/* exit on failure */
void *fake_memory(size_t size);

#endif
