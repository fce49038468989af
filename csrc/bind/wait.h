/*
 * Waiting for core without the GIL while Ctrl-C still works, and one caller at a time per
 * stream.
 */
#ifndef S3D_BIND_WAIT_H
#define S3D_BIND_WAIT_H

#include "bind/state.h"
#include "core/error.h"

/* One core call that waits at most timeout_ms; runs without the GIL. */
typedef enum s3d_code bind_step(void *context, int64_t timeout_ms, struct s3d_error *error);

/*
 * Repeats `step` until it returns anything but AGAIN, and returns that. Between calls signal
 * handlers run; when one raises, bind_wait returns AGAIN with the Python exception set, and the
 * caller has to cancel the operation.
 */
S3D_MUST_USE enum s3d_code bind_wait(bind_step *step, void *context, struct s3d_error *error);

/*
 * Called by the thread that ends the interpreter, before the engine shuts down. From then on
 * other (daemon) threads that come back from core in bind_wait wait a while for the interpreter
 * to go down, and then for ever: taking the GIL would end them by pthread_exit, which is
 * std::terminate for the C++ frames of a torch.save below (CPython before 3.14). When the
 * interpreter does not go down soon, because an exit handler waits for them, they go on.
 */
void bind_exit_begins(void);

/* A stream's lock. Threads wait for each other; the same thread again (a signal handler) is a
 * RuntimeError, as in CPython's buffered files. */
struct bind_lock {
    PyThread_type_lock lock;
    unsigned long owner; /* locked{lock}: the thread inside, 0: none */
};

int bind_lock_init(struct bind_lock *lock);
void bind_lock_fini(struct bind_lock *lock);
/* 0, or -1 with an exception (reentrant call, or a signal handler raised while waiting). */
int bind_lock_enter(struct bind_lock *lock, PyObject *stream);
void bind_lock_leave(struct bind_lock *lock);

#endif
