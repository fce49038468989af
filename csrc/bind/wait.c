#include "bind/wait.h"

#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

enum {
    SLICE_MS = 50,       /* short enough for Ctrl-C, long enough to cost nothing */
    EXIT_WAIT_MS = 2000, /* for exit handlers that run after ours */
    EXIT_LOOK_MS = 2
};

/* --- the interpreter's end ---------------------------------------------------------------- */

static atomic_bool exiting;
static atomic_ulong exiting_thread;

void bind_exit_begins(void)
{
    atomic_store(&exiting_thread, PyThread_get_thread_ident());
    atomic_store(&exiting, true);
}

static bool is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* Without the GIL; see bind_exit_begins. */
static void stay_behind_at_exit(void)
{
    const struct timespec pause_time = {.tv_nsec = EXIT_LOOK_MS * 1000000L};
    if (!atomic_load(&exiting) || PyThread_get_thread_ident() == atomic_load(&exiting_thread)) {
        return;
    }
    for (int waited_ms = 0; waited_ms < EXIT_WAIT_MS; waited_ms += EXIT_LOOK_MS) {
        while (is_finalizing()) {
            pause();
        }
        nanosleep(&pause_time, NULL);
    }
}

/* --- waiting ------------------------------------------------------------------------------ */

static enum s3d_code run_step(bind_step *step, void *context, struct s3d_error *error)
{
    enum s3d_code code = step(context, SLICE_MS, error);
    stay_behind_at_exit();
    return code;
}

enum s3d_code bind_wait(bind_step *step, void *context, struct s3d_error *error)
{
    for (;;) {
        enum s3d_code code;
        Py_BEGIN_ALLOW_THREADS
        code = run_step(step, context, error);
        Py_END_ALLOW_THREADS
        if (code != S3D_AGAIN || PyErr_CheckSignals()) {
            return code;
        }
    }
}

/* --- a stream's lock ---------------------------------------------------------------------- */

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
