/*
 * Inside a fake store: its state, shared by fake_store.c (attempts, their driver, the script),
 * fake_objects.c (what it holds, and S3's rules for that) and fake_look.c (counters; engine and patterns
 * for tests).
 */
#ifndef TESTS_C_FAKE_STATE_H
#define TESTS_C_FAKE_STATE_H

#include "fake_store.h"

#include <pthread.h>

enum { DRIVERS_MAX = 32, RULES_MAX = 64, PARTS_MAX = 256 };

struct fake_bytes {
    char *data;
    size_t size;
};

struct fake_object {
    struct fake_object *next;
    char key[64];
    struct fake_bytes bytes;
    char etag[S3D_ETAG_MAX];
    char write_id[S3D_WRITE_ID_MAX];
};

struct fake_upload_part {
    struct fake_bytes bytes;
    uint64_t offset;
    char etag[S3D_ETAG_MAX];
};

struct fake_upload {
    struct fake_upload *next;
    char id[32];
    char key[64];
    bool if_none_match;
    char write_id[S3D_WRITE_ID_MAX];
    struct fake_upload_part parts[PARTS_MAX]; /* by number - 1; etag "" where there is none */
};

struct fake_store {
    struct s3d_store base;
    /* locked{mutex} */
    pthread_mutex_t mutex;
    bool blocking, empty_is_range, ignore_if_match, watched;
    int64_t answer_us;
    uint64_t bytes_per_s;
    unsigned serial;
    const struct s3d_sum_kind *sum_kind; /* NULL: none is kept */
    char sum[S3D_SUM_TEXT];
    struct fake_object *objects;
    struct fake_upload *uploads;
    struct fake_rule rules[RULES_MAX];
    unsigned rule_count;
    unsigned attempts[FAKE_VERBS], running[FAKE_VERBS], peak[FAKE_VERBS];
    unsigned on_driver[DRIVERS_MAX], driver_peak;
    struct fake_line log[FAKE_LOG_MAX];
    size_t log_count;
    uintptr_t watch_start, watch_end;
    uint64_t watched_bytes;
    /* any thread */
    atomic_uint hold_epoch; /* counts releases */
};

/* What an attempt does when it ends. */
enum s3d_code fake_perform_locked(struct fake_store *fake, struct s3d_request *request,
                                  const struct fake_rule *rule);
/* The rule for uploads; their parts' ETags are of another kind. */
bool fake_upload_etag(const struct s3d_part *parts, size_t count, char etag[S3D_ETAG_MAX]);
void fake_objects_free(struct fake_store *fake);

#endif
