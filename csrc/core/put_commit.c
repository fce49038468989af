#include "core/put_state.h"

#include <stdio.h>
#include <string.h>

/*
 * The last request of a put, and what came of it. Its answer can be lost on the way: sent again it
 * then meets its own work, as an upload that is gone or an object where none, or another, may be. So
 * the object is asked for before such an answer is believed.
 *
 *   commit -> OK                                visible
 *          -> refused for good                  failed
 *          -> may be our own doing (in doubt)   STAT -> ours: visible; not ours: failed; else UNDECIDED
 */

static void single_put(struct s3d_put *put)
{
    put->moving_bytes = s3d_draft_chunk_bytes(&put->draft);
    s3d_budget_moves(&put->store->engine->budget, put->moving_bytes);
    put->control.spans = put->draft.spans;
    put->control.span_count = put->draft.span_count;
    put->control.length_bytes = put->draft.bytes;
    s3d_put_submit_control(put, S3D_VERB_PUT);
}

void s3d_put_start_commit(struct s3d_put *put)
{
    put->completing = true;
    if (put->part_count) {
        s3d_put_submit_control(put, S3D_VERB_UPLOAD_COMPLETE);
    } else {
        single_put(put);
    }
}

/* Whether the attempts ran out: any of them may have been carried out unheard. */
static bool ran_out(enum s3d_code code)
{
    return s3d_code_retryable(code) && code != S3D_CONFLICT;
}

/* Only an object that tells who wrote it can be told from an equal one of somebody else's. */
static bool is_in_doubt(const struct s3d_put *put)
{
    enum s3d_code code = put->control.result.code;
    if (code == S3D_NOT_FOUND) {
        return put->control.verb == S3D_VERB_UPLOAD_COMPLETE && put->store->ops->upload_etag;
    }
    return put->options.write_id &&
           (code == S3D_EXISTS || code == S3D_CHANGED || s3d_code_retryable(code));
}

enum finding { FOUND_OURS, FOUND_OTHER, FOUND_NOTHING, FOUND_UNCLEAR };

/* An unconditional upload that is gone was completed if the object has its bytes. */
static bool has_our_bytes(const struct s3d_put *put, const struct s3d_object *object)
{
    const struct s3d_store_ops *ops = put->store->ops;
    char etag[S3D_ETAG_MAX];
    return (ops->upload_etag(put->parts, put->part_count, etag) &&
            strcmp(etag, object->etag) == 0) ||
           (ops->upload_sum_is && ops->upload_sum_is(&put->control, object));
}

/* What the object that is there now tells. */
static enum finding find(const struct s3d_put *put)
{
    const struct s3d_object *object = &put->control.result.object;
    enum s3d_code code = put->control.result.code;
    if (code) {
        return code == S3D_NOT_FOUND ? FOUND_NOTHING : FOUND_UNCLEAR;
    }
    if (put->options.write_id) {
        return strcmp(object->write_id, put->options.write_id) == 0 ? FOUND_OURS : FOUND_OTHER;
    }
    if (object->size_bytes != put->taken_bytes) {
        return FOUND_OTHER;
    }
    return has_our_bytes(put, object) ? FOUND_OURS : FOUND_UNCLEAR;
}

/* The commit's own error with another verdict; attempts, status and request id stay. */
static enum s3d_code reword(struct s3d_error *error, enum s3d_code code, const char *message)
{
    error->code = code;
    snprintf(error->message, sizeof error->message, "%s", message);
    return code;
}

static enum s3d_code not_ours(const struct s3d_put *put, bool is_there, struct s3d_error *own)
{
    bool conflict = put->doubt.code == S3D_CONFLICT || put->conflicted;
    if (conflict && is_there && put->options.if_none_match) {
        return reword(own, S3D_EXISTS, "another request has written the object meanwhile");
    }
    if (put->doubt.code != S3D_NOT_FOUND) {
        return own->code;
    }
    if (conflict) {
        return reword(
            own, S3D_CONFLICT,
            "another request for the object came between, and the store has dropped the "
            "multipart upload: write it again");
    }
    return reword(
        own, S3D_REJECTED,
        "the store has dropped the multipart upload, and the object is not the one that "
        "was to be written");
}

/* A refusal may be our own doing; of an answer that never came, its loss stays the cause. */
static enum s3d_code undecided(const struct s3d_put *put, struct s3d_error *own)
{
    const struct s3d_error *why = &put->control.result.error;
    char message[sizeof own->message];
    snprintf(
        message, sizeof message,
        "%.200s; whether the object was written could not be found out: %.200s", own->message,
        put->control.result.code ? why->message
                                 : "an object of this size is there, but neither its ETag nor "
                                   "a checksum tells whose it is");
    return reword(own, ran_out(own->code) ? own->code : S3D_UNDECIDED, message);
}

static enum s3d_code decide(struct s3d_put *put, struct s3d_error *own)
{
    enum finding found = find(put);
    if (found == FOUND_OURS) {
        return S3D_OK;
    }
    put->completing = false;
    *own = put->doubt;
    return found == FOUND_UNCLEAR ? undecided(put, own)
                                  : not_ours(put, found == FOUND_OTHER, own);
}

enum s3d_code s3d_put_end_commit(struct s3d_put *put, int64_t deadline_ms,
                                 struct s3d_error *own)
{
    if (!s3d_put_wait_idle(put, deadline_ms)) {
        return S3D_AGAIN;
    }
    if (put->control.verb != S3D_VERB_STAT && is_in_doubt(put)) {
        put->doubt = put->control.result.error;
        put->conflicted = put->control.conflicted;
        put->control.wants_sum = !put->options.write_id;
        s3d_put_submit_control(put, S3D_VERB_STAT);
        if (!s3d_put_wait_idle(put, deadline_ms)) {
            return S3D_AGAIN;
        }
    }
    if (put->control.verb == S3D_VERB_STAT) {
        return decide(put, own);
    }
    if (put->control.result.code) {
        *own = put->control.result.error;
    }
    return put->control.result.code;
}
