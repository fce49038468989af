/*
 * Compares what was read of one object with the checksum that its store keeps of all its bytes.
 *
 * Whoever reads adds pieces as they arrive, in any order; when they are all of the object, the end
 * puts their sums together. What is stored is learnt from an answer that tells it, or else asked for
 * by a request of its own, while the bytes come; until it is known, all kinds are computed. An object
 * of which the store keeps no such checksum, or that was replaced before that could be asked for, is
 * not checked: all its bytes are of one version in any case.
 *
 * Counted: a get, a reader and a whole may share one. Adding and learning on any thread; a check
 * submits its request from there, so neither may happen under a lock.
 */
#ifndef S3D_CORE_CHECK_H
#define S3D_CORE_CHECK_H

#include "core/store.h"

struct s3d_check;

/* *check stays NULL where the store's settings ask for no checks; everything else here takes NULL
 * for "no check". */
S3D_MUST_USE enum s3d_code s3d_check_new(struct s3d_check **check, struct s3d_store *store,
                                         const char *key, struct s3d_error *error);
struct s3d_check *s3d_check_acquire(struct s3d_check *check);
void s3d_check_release(struct s3d_check *check);

/* The first answer's object: its checksum is taken, or asked for. Later calls do nothing. */
S3D_MUST_USE enum s3d_code s3d_check_learn(struct s3d_check *check,
                                           const struct s3d_object *object,
                                           struct s3d_error *error);
/* A piece of the object has come. Pieces must not overlap. */
S3D_MUST_USE enum s3d_code s3d_check_add(struct s3d_check *check, uint64_t offset_bytes,
                                         const void *data, uint64_t length_bytes,
                                         struct s3d_error *error);
/* The pieces will not be all of the object: nothing is computed any more. */
void s3d_check_drop(struct s3d_check *check);
/* OK: the sums are equal, or there is nothing to compare. AGAIN: the store has not said yet.
 * INTEGRITY: they differ. */
S3D_MUST_USE enum s3d_code s3d_check_end(struct s3d_check *check, uint64_t size_bytes,
                                         int64_t timeout_ms, struct s3d_error *error);

/* INTEGRITY, with both values. */
enum s3d_code s3d_check_fail(struct s3d_error *error, const struct s3d_sum_kind *kind,
                             const char *stored, const char *computed);

#endif
