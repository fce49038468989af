/*
 * One request to a store: what core asks for, in object-storage terms, and what came back.
 *
 * A request is caller's storage. Lifetime: fill the frozen part, s3d_request_reset() and s3d_pool_submit() it, leave it
 * alone (but for s3d_pool_cancel) until `done` has run; then the result part is the submitter's to read and the request may
 * be filled and submitted again. Everything that frozen pointers point to (key, spans, parts)
 * must stay valid until then. `done` runs on an I/O thread, exactly once per submit, and may
 * submit further requests but must not block.
 */
#ifndef S3D_CORE_REQUEST_H
#define S3D_CORE_REQUEST_H

#include "core/error.h"
#include "core/str.h"
#include "core/sum.h"

#include <stdatomic.h>

struct s3d_store;

/* X(verb, the name users know it by) */
#define S3D_VERBS(X)                                                                           \
    X(STAT, "HeadObject")     /* result.object */                                              \
    X(GET, "GetObject")       /* a range into spans; result.object */                          \
    X(PUT, "PutObject")       /* a whole object from spans; result.object.etag */              \
    X(DELETE, "DeleteObject") /* missing is fine */                                            \
    X(LIST, "ListObjects")    /* one page under prefix `key`; result.page */                   \
    X(UPLOAD_CREATE, "CreateMultipartUpload") /* result.upload_id */                           \
    X(UPLOAD_PART, "UploadPart")              /* one part from spans; result.object.etag */    \
    X(UPLOAD_COMPLETE, "CompleteMultipartUpload") /* makes the object visible */               \
    X(UPLOAD_ABORT, "AbortMultipartUpload")       /* missing is fine */

enum s3d_verb {
#define X(verb, name) S3D_VERB_##verb,
    S3D_VERBS(X)
#undef X
};

const char *s3d_verb_name(enum s3d_verb verb);

enum {
    S3D_ETAG_MAX = 128, /* bytes with terminator, quotes included as the store sent them */
    S3D_UPLOAD_ID_MAX = 4096, /* S3 sends up to 1024; of a local file it is a path */
    S3D_LIST_TOKEN_MAX = 4096,
    S3D_WRITE_ID_MAX = 33 /* 128 random bits in hex */
};

/* What the store is to check on arrival and keep with the object. */
enum s3d_checksum {
    S3D_CHECKSUM_DEFAULT, /* as settings and store have it */
    S3D_CHECKSUM_NONE,
    S3D_CHECKSUM_CRC32,
    S3D_CHECKSUM_CRC32C,
    S3D_CHECKSUM_CRC64NVME
};

/* A piece of memory to send from or to receive into. */
struct s3d_span {
    char *data;
    size_t length_bytes;
};

/* What a store tells of one object. */
struct s3d_object {
    uint64_t size_bytes;
    int64_t modified_s; /* Unix time, 0: unknown */
    char etag[S3D_ETAG_MAX];
    char content_encoding[32];       /* "" where there is none */
    char write_id[S3D_WRITE_ID_MAX]; /* of the write that made it, "" where not known */
    /* The checksum of all its bytes that is kept with it, where that is known and of a kind that
     * sums of pieces can be put together to; NULL: not. */
    const struct s3d_sum_kind *sum_kind;
    char sum[S3D_SUM_TEXT];
};

/* One line of CompleteMultipartUpload. */
struct s3d_part {
    uint32_t number; /* from 1 */
    bool stored;     /* the store has it */
    uint64_t offset_bytes;
    uint64_t size_bytes;
    uint64_t checksum; /* as the request's result had it */
    char etag[S3D_ETAG_MAX];
};

/* A page of a listing. The callback may copy; its strings die with the call. Runs on an I/O thread
 * before `done`; it must be safe to start over (a retried page begins with reset()). */
struct s3d_list_sink {
    void *context;
    void (*reset)(void *context);
    enum s3d_code (*add)(void *context, const char *key, const struct s3d_object *object,
                         struct s3d_error *error);
};

/* How an object is to be written; strings are borrowed, NULL where not given. */
struct s3d_put_options {
    const char *content_type;
    const char *content_encoding;
    const char *storage_class;
    const char *const *metadata; /* name, value, name, value, ...; metadata_count pairs */
    size_t metadata_count;
    bool if_none_match;   /* create only: an existing object is S3D_EXISTS */
    const char *if_match; /* replace only this version, by ETag; else S3D_CHANGED */
    enum s3d_checksum checksum;
    const char *write_id; /* the put's own: kept with the object, to know it again by */
};

struct s3d_request {
    /* frozen: set by the submitter */
    enum s3d_verb verb;
    struct s3d_store *store; /* borrowed */
    const char *key;         /* object key or path; LIST: the prefix */
    uint64_t offset_bytes;   /* GET: first byte. UPLOAD_PART: where the part begins */
    uint64_t length_bytes;   /* GET: bytes wanted. Others: the sum of the spans */
    bool suffix;             /* GET: the last length_bytes, or less; needs one span */
    bool at_most;            /* GET: fewer than length_bytes are fine, at the end */
    const char *if_match;    /* GET: an ETag; a differing object is S3D_CHANGED */
    bool compare;            /* GET: an answer that is all of the object must be what the
                                       * store's checksum says, where the answer tells it */
    struct s3d_span *spans;  /* GET: receive here. PUT, UPLOAD_PART: send these */
    size_t span_count;
    bool fresh; /* GET: untouched pages of s3d_pages_alloc, to be backed */
    const struct s3d_put_options *options; /* PUT, UPLOAD_*; nullable */
    bool wants_sum;               /* STAT: result.object.sum, whatever the settings say */
    const char *upload_id;        /* UPLOAD_PART, _COMPLETE, _ABORT */
    uint32_t part_number;         /* UPLOAD_PART: from 1 */
    const struct s3d_part *parts; /* UPLOAD_COMPLETE: ascending numbers */
    size_t part_count;
    const char *list_token;           /* LIST: result.next_token of the page before, or NULL */
    const struct s3d_list_sink *list; /* LIST */
    /* GET, nullable: on the I/O thread, in each attempt, when result.object is known and bytes follow.
     * May set the spans. Anything but OK ends the attempt. */
    enum s3d_code (*begins)(struct s3d_request *request, struct s3d_error *error);
    void (*done)(struct s3d_request *request);
    void *owner; /* the submitter's */

    /* any thread */
    atomic_bool cancelled; /* set by s3d_pool_cancel */

    /* loop: the pool's, from submit to done */
    struct s3d_request *next;
    void *attempt; /* the driver's state of the running attempt */
    unsigned attempts;
    bool throttled;         /* an attempt was */
    bool conflicted;        /* an attempt met another write */
    uint64_t ticket;        /* what the store is asked with while it is not ready */
    uint64_t signed_with;   /* the driver's: which keys the attempt was signed with */
    bool resigned;          /* the driver's: sent once more because those had ended */
    const char *signed_for; /* the driver's: the region, which the store keeps */
    bool redirected;        /* the driver's: sent once more, for another region */
    uint64_t due_ms;        /* when the next attempt may start */
    struct s3d_error last;  /* how the last attempt ended */
    /* of the running attempt: see s3d_attempt_watch */
    int64_t heard_ms; /* when it last heard of the store; 0: it is not watched */
    int64_t wait_ms;  /* until the answer began; negative: it has not */
    bool suspected;   /* it was late when last looked at */
    bool reissued;    /* the attempt to start is a hedge, no retry */
    unsigned hedges;  /* of this request */

    /* result: the driver's while an attempt runs, the submitter's after done */
    struct {
        enum s3d_code code;
        struct s3d_error error; /* the first cause when code is not OK */
        struct s3d_object object;
        uint64_t
            received_bytes;  /* GET: body bytes placed; a suffix may be shorter than asked */
        uint64_t first_byte; /* GET: absolute offset of the first byte placed */
        bool compared;       /* GET: that has been looked at */
        uint64_t checksum;   /* PUT, UPLOAD_PART: of the bytes sent, where one was sent */
        /* Of the last attempt, from the moment that its connection was there; 0: the driver does not
         * measure. Until the answer began (so only without a body to send it is the way's latency
         * alone), and until all was over. */
        int64_t answer_us, elapsed_us;
        union {
            char upload_id[S3D_UPLOAD_ID_MAX];   /* UPLOAD_CREATE */
            char next_token[S3D_LIST_TOKEN_MAX]; /* LIST: empty on the last page */
        };
    } result;
};

/* Clears what a former submit left behind; keeps the frozen part. The submitter calls it before
 * each submit, under the lock that guards its own cancelling, so that no cancel is lost. */
void s3d_request_reset(struct s3d_request *request);

/* Whether a GET that succeeded brought all that was asked for, of the version `etag` (NULL: any):
 * not every store looks at If-Match. */
S3D_MUST_USE enum s3d_code s3d_request_check(const struct s3d_request *request,
                                             const char *etag, struct s3d_error *error);

uint64_t s3d_spans_bytes(const struct s3d_span *spans, size_t count);

#endif
