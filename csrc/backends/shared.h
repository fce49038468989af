/*
 * The one lock of what the credentials of a process share: identities and the callback. Held for a
 * few instructions only, never while anything is fetched; it is a leaf. A forked child finds it free
 * and what it guards whole.
 */
#ifndef S3D_BACKENDS_SHARED_H
#define S3D_BACKENDS_SHARED_H

#include <stdbool.h>
#include <stdint.h>

void s3d_shared_lock(void);
void s3d_shared_unlock(void);
/* Wakes all that wait. */
void s3d_shared_notify_locked(void);
/* False when deadline_ms (s3d_now_ms) passed; may wake early. */
bool s3d_shared_wait_locked(int64_t deadline_ms);

#endif
