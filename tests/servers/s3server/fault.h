// Scripted faults. A rule is matched once per request, when its operation is known; what it says is carried out later,
// where the kind belongs, and only then counts as a hit.
#ifndef S3S_FAULT_H
#define S3S_FAULT_H

#include <pthread.h>

#include "base.h"
#include "codes.h"

#define S3S_FAULTS(X)                                                                          \
    X(NONE, "none")                                                                            \
    X(STATUS, "status")                                                                        \
    X(RESET_BEFORE, "reset_before")                                                            \
    X(RESET_IN_HEADERS, "reset_in_headers")                                                    \
    X(RESET_AFTER_HEADERS, "reset_after_headers")                                              \
    X(RESET_AFTER, "reset_after")                                                              \
    X(TRUNCATE, "truncate")                                                                    \
    X(STALL, "stall")                                                                          \
    X(CORRUPT, "corrupt")                                                                      \
    X(ERROR_200, "error_200")                                                                  \
    X(BODY_200, "body_200")                                                                    \
    X(BLANKS, "blanks")                                                                        \
    X(DROP_UPLOAD, "drop_upload")                                                              \
    X(WRONG_RANGE, "wrong_range")                                                              \
    X(IGNORE_RANGE, "ignore_range")                                                            \
    X(WRONG_LENGTH, "wrong_length")                                                            \
    X(ETAG_CHANGE, "etag_change")                                                              \
    X(LOST_REPLY, "lost_reply")                                                                \
    X(SLOW, "slow")                                                                            \
    X(REFUSE_BODY, "refuse_body")                                                              \
    X(WRONG_SUM, "wrong_sum")                                                                  \
    X(COMPOSITE_SUM, "composite_sum")                                                          \
    X(NO_SUM, "no_sum")

enum s3s_fault_kind {
#define S3S_FAULT_ENUM(id, name) S3S_FAULT_##id,
    S3S_FAULTS(S3S_FAULT_ENUM)
#undef S3S_FAULT_ENUM
        S3S_FAULT_KIND_COUNT
};

struct s3s_fault {
    uint64_t id;
    enum s3s_fault_kind kind;
    enum s3s_op op;      // S3S_OP_COUNT: any
    char key[256];       // a piece of the key, or of a list's prefix; empty: any
    uint64_t part;       // 0: any
    uint64_t range_from; // the request's Range begins here; UINT64_MAX: any
    uint64_t skip, count;
    uint64_t every; // of those that fit, from `skip` on, only each n-th; 0: each
    bool always;
    uint64_t per_mille, seed; // of the requests that fit and were not skipped; 1000: each
    uint64_t status, retry_after_s;
    char code[64], message[192], text[256];
    uint64_t bytes, offset, bytes_per_s;
    bool has_bytes;
    uint64_t stall_ms;
    uint64_t matched, hits;
};

enum { S3S_FAULT_RULES_MAX = 1024 };

struct s3s_faults {
    pthread_mutex_t mutex;
    struct { // under mutex
        struct s3s_fault *rules;
        size_t count;
        uint64_t last_id;
    } locked;
};

struct s3s_fault_query { // what a request shows to the rules
    enum s3s_op op;
    struct s3s_span key;
    uint64_t part;
    uint64_t range_from; // UINT64_MAX: no Range
};

void s3s_faults_init(struct s3s_faults *faults);
void s3s_faults_fini(struct s3s_faults *faults);
void s3s_faults_clear(struct s3s_faults *faults);
// All lines or none; `reply` gets the ids as JSON, or what is wrong.
bool s3s_faults_add(struct s3s_faults *faults, struct s3s_span lines, struct s3s_text *reply);
void s3s_faults_match(struct s3s_faults *faults, const struct s3s_fault_query *query,
                      struct s3s_fault *hit);
void s3s_faults_fired(struct s3s_faults *faults, const struct s3s_fault *fault);
void s3s_faults_json(struct s3s_faults *faults, struct s3s_text *text);

#endif
