/*
 * Inside a put: its state, shared by put.c (what callers see: writing, finishing, aborting),
 * put_parts.c (memory and parts in flight) and put_commit.c (the last request). Nobody else includes
 * this.
 */
#ifndef S3D_CORE_PUT_STATE_H
#define S3D_CORE_PUT_STATE_H

#include "core/draft.h"
#include "core/engine.h"
#include "core/latch.h"
#include "core/pace.h"
#include "core/put.h"
#include "core/window.h"

enum s3d_put_state {
    S3D_PUT_OPEN,     /* taking bytes */
    S3D_PUT_FINISHED, /* the object is visible */
    S3D_PUT_FAILED    /* poisoned; everything is cleaned up */
};

/* A part in flight; used again for later parts. */
struct s3d_put_slot {
    struct s3d_put *put;
    struct s3d_request request;
    struct s3d_draft draft;
    int64_t start_us;
    uint64_t moving_bytes; /* of the draft's chunks, while the part is under way */
    bool borrows;          /* from memory that a write waits for before it returns */
    bool active;           /* locked{latch} */
    bool held_back;        /* locked{latch}: waits for the upload id */
};

/* A chunk that waits for its next use; lies at the start of the chunk itself. */
struct s3d_put_spare {
    struct s3d_put_spare *next;
    size_t size_bytes;
};

struct s3d_put {
    /* frozen */
    struct s3d_store *store;
    char *key;
    uint64_t part_bytes, part_max_bytes;
    unsigned concurrency;
    struct s3d_put_options options;
    char write_id[S3D_WRITE_ID_MAX]; /* for options.write_id */
    /* locked{entry}: the caller's side */
    pthread_mutex_t entry;
    enum s3d_put_state state;
    bool closing;              /* finish has been called: no more bytes */
    struct s3d_draft draft;    /* the next part */
    uint64_t draft_part;       /* how large it is to become, while it holds anything */
    bool draft_planned;        /* and that is the last word */
    bool refers;               /* s3d_put_refer has been called */
    uint64_t expected_bytes;   /* 0: not known */
    bool lasting;              /* what is referred to never waits for parts to be stored */
    struct s3d_error doubt;    /* why the commit's outcome had to be asked for */
    bool conflicted;           /* and whether an attempt met another write */
    bool left_upload, unclear; /* see struct s3d_put_remains */
    uint64_t taken_bytes;
    uint64_t sent_offset;   /* where the next part begins */
    struct s3d_claim claim; /* for a chunk, with nothing under way */
    uint64_t moving_bytes;  /* of the draft's chunks, while a single PUT sends it */
    /* locked{latch} */
    struct s3d_latch latch;
    struct s3d_put_slot *slots; /* concurrency of them */
    struct s3d_window window;   /* how many of them to use */
    struct s3d_pace pace;
    size_t active_count;
    size_t borrowing_count; /* of them, how many send from a write's memory */
    struct s3d_put_spare *spares;
    struct s3d_part *parts;
    size_t part_count, part_capacity;
    size_t stored_count;      /* parts from the front that the store has */
    struct s3d_error failure; /* the first one */
    bool created, completing; /* the upload has an id; its outcome is being decided */
    char upload_id[S3D_UPLOAD_ID_MAX];
    struct s3d_request control; /* create, complete, abort, or a single PUT: one at a time */
    bool control_active;
    char etag[S3D_ETAG_MAX];
    /* locked{engine}: see s3d_put_link */
    struct s3d_put *next_open, **link_open;
    /* any thread */
    _Atomic uint64_t held_bytes; /* in chunks, wherever they are */
    atomic_uint references;      /* the owner's, and the engine's while it aborts the put */
};

/* ---- put_parts.c ---- */

void s3d_put_fail_locked(struct s3d_put *put, const struct s3d_error *error);
void s3d_put_cancel_parts_locked(struct s3d_put *put);
/* Prepares the requests of all slots and the control request. */
void s3d_put_init_requests(struct s3d_put *put);

/* Makes the draft able to copy, with a new chunk of `bytes` if need be. AGAIN: no memory is free.
 * `or_small`: an empty draft begins with a small one then, so that an idle stream holds no more. */
S3D_MUST_USE enum s3d_code s3d_put_fit_chunk(struct s3d_put *put, size_t bytes, bool or_small,
                                             struct s3d_error *error);
/* Copies what the draft refers to, so that that memory may go. AGAIN: no memory is free. */
S3D_MUST_USE enum s3d_code s3d_put_own_draft(struct s3d_put *put, struct s3d_error *error);
/* Gives all chunks back; nothing may be in flight. */
void s3d_put_release_chunks(struct s3d_put *put);

/* Lets all slots be used at once. */
void s3d_put_open_window(struct s3d_put *put);
/* How large the next part is to be, as far as is known now. `at_hand`: the caller's bytes that are in
 * no part yet. */
uint64_t s3d_put_next_part(struct s3d_put *put, uint64_t at_hand_bytes);
/* OK when a part can leave at once. AGAIN, or why the put has failed. */
S3D_MUST_USE enum s3d_code s3d_put_wait_slot(struct s3d_put *put, int64_t deadline_ms);
/* Sends the draft as the next part; `borrows`: from a write's memory. AGAIN: no slot is free, and
 * the draft is as it was. */
S3D_MUST_USE enum s3d_code s3d_put_send_draft(struct s3d_put *put, bool borrows,
                                              int64_t deadline_ms, struct s3d_error *error);
/* Sends the control request as a complete, an abort, or a PUT of the draft. */
void s3d_put_submit_control(struct s3d_put *put, enum s3d_verb verb);
void s3d_put_cancel_control(struct s3d_put *put);

/* Waits until no part and no control request is in flight; false: the deadline has come. */
bool s3d_put_wait_idle(struct s3d_put *put, int64_t deadline_ms);
/* Waits until no part refers to a write's memory any more. */
bool s3d_put_wait_returned(struct s3d_put *put, int64_t deadline_ms);
/* Waits until the store has the first `end_bytes` bytes, or a failure. */
bool s3d_put_wait_stored(struct s3d_put *put, uint64_t end_bytes, int64_t deadline_ms);
/* How many bytes from the front the store has. */
uint64_t s3d_put_stored_locked(const struct s3d_put *put);
/* Waits a little for memory or a slot. */
bool s3d_put_wait_change(struct s3d_put *put, int64_t deadline_ms);

/* ---- put_commit.c ---- */

/* Sends the request that makes the object visible; nothing else may be in flight. */
void s3d_put_start_commit(struct s3d_put *put);
/* What came of it; OK: the object is visible. After an error that is no AGAIN it says the same again. */
S3D_MUST_USE enum s3d_code s3d_put_end_commit(struct s3d_put *put, int64_t deadline_ms,
                                              struct s3d_error *own);

#endif
