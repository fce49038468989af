#include "bind/wait.h"

/* Short enough for Ctrl-C to feel immediate, long enough to cost nothing. */
enum { SLICE_MS = 50 };

enum s3d_code bind_wait(bind_step *step, void *context, struct s3d_error *error)
{
    for (;;) {
        enum s3d_code code;
        Py_BEGIN_ALLOW_THREADS
        code = step(context, SLICE_MS, error);
        Py_END_ALLOW_THREADS
        if (code != S3D_AGAIN || PyErr_CheckSignals()) {
            return code;
        }
    }
}

int bind_lock_init(struct bind_lock *lock)
{
    lock->owner = 0;
    lock->lock = PyThread_allocate_lock();
    if (!lock->lock) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

void bind_lock_fini(struct bind_lock *lock)
{
    if (lock->lock) {
        PyThread_free_lock(lock->lock);
        lock->lock = NULL;
    }
}

static int wait_for_lock(PyThread_type_lock lock)
{
    for (;;) {
        PyLockStatus status;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(lock, SLICE_MS * 1000, 0);
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_ACQUIRED) {
            return 0;
        }
        if (PyErr_CheckSignals()) {
            return -1;
        }
    }
}

int bind_lock_enter(struct bind_lock *lock, PyObject *stream)
{
    unsigned long me = PyThread_get_thread_ident();
    if (!PyThread_acquire_lock(lock->lock, NOWAIT_LOCK)) {
        if (lock->owner == me) {
            PyErr_Format(PyExc_RuntimeError, "reentrant call inside %R", stream);
            return -1;
        }
        if (wait_for_lock(lock->lock)) {
            return -1;
        }
    }
    lock->owner = me;
    return 0;
}

void bind_lock_leave(struct bind_lock *lock)
{
    lock->owner = 0;
    PyThread_release_lock(lock->lock);
}
