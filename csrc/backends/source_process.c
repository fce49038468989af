/*
 * credential_process: a program of the user's prints credentials as JSON. Run without a shell, with
 * a process group of its own that ends with it, a minute's time, and its errors unseen, as they may
 * show secrets. Source: AWS CLI User Guide, "Sourcing credentials with an external process".
 */
#include "backends/source.h"
#include "core/latch.h"
#include "core/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ARGUMENTS_MAX = 64, OUTPUT_MAX_BYTES = 64 * 1024, LOOK_MS = 20 };

extern char **environ;

/* --- the command's words ------------------------------------------------------------------- */

struct words {
    char *text; /* owned: the words, each terminated */
    char *arguments[ARGUMENTS_MAX + 1];
    size_t count;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* One word, unquoted in place as a POSIX shell would: '...', "..." and backslashes, nothing
 * expanded. NULL: a quote is left open. */
static const char *take_word(const char *from, char **to)
{
    char quote = '\0';
    for (; *from && (quote || !is_blank(*from)); from++) {
        if (quote ? *from == quote : (*from == '\'' || *from == '"')) {
            quote = quote ? '\0' : *from;
        } else if (*from == '\\' && quote != '\'' && from[1] &&
                   (!quote || from[1] == '"' || from[1] == '\\')) {
            *(*to)++ = *++from;
        } else {
            *(*to)++ = *from;
        }
    }
    *(*to)++ = '\0';
    return quote ? NULL : from;
}

static enum s3d_code split(struct words *words, const char *command, struct s3d_error *error)
{
    words->text = s3d_alloc(strlen(command) + 2);
    if (!words->text) {
        return s3d_fail_memory(error, strlen(command) + 2);
    }
    char *to = words->text;
    const char *from = command;
    while (*from) {
        while (is_blank(*from)) {
            from++;
        }
        if (!*from) {
            break;
        }
        if (words->count == ARGUMENTS_MAX) {
            return s3d_fail(error, S3D_INVALID, "credential_process has more than %d words",
                            ARGUMENTS_MAX);
        }
        words->arguments[words->count++] = to;
        from = take_word(from, &to);
        if (!from) {
            return s3d_fail(error, S3D_INVALID, "credential_process leaves a quote open");
        }
    }
    return words->count ? S3D_OK : s3d_fail(error, S3D_INVALID, "credential_process is empty");
}

/* --- the program --------------------------------------------------------------------------- */

struct process {
    pid_t pid; /* 0: none, or waited for */
    int output;
    int status; /* of waitpid; -1: somebody else took it */
    char *text; /* OUTPUT_MAX_BYTES of room */
    size_t length;
};

static int spawn_prepared(pid_t *pid, char **arguments, posix_spawn_file_actions_t *files,
                          posix_spawnattr_t *attributes, int output)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int failure;
    if ((failure = posix_spawn_file_actions_adddup2(files, output, STDOUT_FILENO)) ||
        (failure =
             posix_spawn_file_actions_addopen(files, STDIN_FILENO, "/dev/null", O_RDONLY, 0)) ||
        (failure = posix_spawn_file_actions_addopen(files, STDERR_FILENO, "/dev/null", O_WRONLY,
                                                    0)) ||
        (failure = posix_spawnattr_setsigmask(attributes, &none)) ||
        (failure = posix_spawnattr_setsigdefault(attributes, &all)) ||
        (failure = posix_spawnattr_setpgroup(attributes, 0)) ||
        (failure = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK |
                                                            POSIX_SPAWN_SETSIGDEF |
                                                            POSIX_SPAWN_SETPGROUP))) {
        return failure;
    }
    return posix_spawnp(pid, arguments[0], files, attributes, arguments, environ);
}

static int spawn(pid_t *pid, char **arguments, int output)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    int failure = posix_spawn_file_actions_init(&files);
    if (failure) {
        return failure;
    }
    failure = posix_spawnattr_init(&attributes);
    if (!failure) {
        failure = spawn_prepared(pid, arguments, &files, &attributes, output);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&files);
    return failure;
}

static enum s3d_code start(struct process *process, char **arguments, struct s3d_error *error)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return s3d_fail_errno(error, errno, "no pipe for credential_process");
    }
    int failure = spawn(&process->pid, arguments, ends[1]);
    close(ends[1]);
    if (failure) {
        close(ends[0]);
        process->pid = 0;
        s3d_fail_errno(error, failure, "credential_process: cannot run %.200s", arguments[0]);
        /* A missing program is no missing object. */
        return error ? (error->code = S3D_NO_CREDENTIALS) : S3D_NO_CREDENTIALS;
    }
    process->output = ends[0];
    return S3D_OK;
}

static enum s3d_code check_time(int64_t deadline_ms, const atomic_bool *stop,
                                struct s3d_error *error)
{
    if (atomic_load(stop)) {
        return s3d_fail(error, S3D_CANCELLED, "cancelled");
    }
    if (s3d_now_ms() < deadline_ms) {
        return S3D_OK;
    }
    return s3d_fail(error, S3D_NO_CREDENTIALS, "credential_process took longer than it may");
}

/* Until the program closes its output. */
static enum s3d_code read_output(struct process *process, int64_t deadline_ms,
                                 const atomic_bool *stop, struct s3d_error *error)
{
    struct pollfd end = {.fd = process->output, .events = POLLIN};
    for (;;) {
        enum s3d_code code = check_time(deadline_ms, stop, error);
        if (code) {
            return code;
        }
        if (poll(&end, 1, LOOK_MS) <= 0) {
            continue;
        }
        ssize_t got = read(process->output, process->text + process->length,
                           OUTPUT_MAX_BYTES - process->length);
        if (got < 0 && errno != EINTR) {
            return s3d_fail_errno(error, errno, "cannot read credential_process");
        }
        if (!got) {
            return S3D_OK;
        }
        process->length += got > 0 ? (size_t)got : 0;
        if (process->length == OUTPUT_MAX_BYTES) {
            return s3d_fail(error, S3D_PROTOCOL, "credential_process printed %d bytes or more",
                            OUTPUT_MAX_BYTES);
        }
    }
}

static enum s3d_code wait_for_end(struct process *process, int64_t deadline_ms,
                                  const atomic_bool *stop, struct s3d_error *error)
{
    const struct timespec slice = {.tv_nsec = LOOK_MS * 1000000L / 4};
    for (;;) {
        pid_t ended = waitpid(process->pid, &process->status, WNOHANG);
        if (ended == process->pid || (ended < 0 && errno == ECHILD)) {
            process->pid = 0;
            process->status = ended < 0 ? -1 : process->status;
            return S3D_OK;
        }
        enum s3d_code code = check_time(deadline_ms, stop, error);
        if (code) {
            return code;
        }
        nanosleep(&slice, NULL);
    }
}

static void finish(struct process *process)
{
    if (process->pid) { /* with what it started itself */
        kill(-process->pid, SIGKILL);
        kill(process->pid, SIGKILL);
        while (waitpid(process->pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    if (process->output >= 0) {
        close(process->output);
    }
    if (process->text) {
        explicit_bzero(process->text, OUTPUT_MAX_BYTES);
        s3d_free(process->text);
    }
}

static enum s3d_code check_status(int status, struct s3d_error *error)
{
    if (status == -1 || (WIFEXITED(status) && WEXITSTATUS(status) == 0)) {
        return S3D_OK;
    }
    if (WIFEXITED(status)) {
        return s3d_fail(error, S3D_NO_CREDENTIALS, "credential_process ended with status %d",
                        WEXITSTATUS(status));
    }
    return s3d_fail(error, S3D_NO_CREDENTIALS, "credential_process ended by signal %d",
                    WTERMSIG(status));
}

/* --- what it printed ----------------------------------------------------------------------- */

static enum s3d_code read_document(const struct process *process,
                                   struct s3d_credentials *credentials, struct s3d_error *error)
{
    static const char what[] = "the output of credential_process";
    uint64_t version = 0;
    const struct s3d_json_field field = {"Version", NULL, &version};
    enum s3d_code code =
        s3d_json_fields(process->text, process->length, NULL, &field, 1, what, error);
    if (!code && version != 1) {
        code = s3d_fail(error, S3D_PROTOCOL, "%s does not say \"Version\": 1", what);
    }
    return code ? code
                : s3d_credentials_of_json(credentials, process->text, process->length,
                                          "SessionToken", what, error);
}

static enum s3d_code run(struct process *process, char **arguments, uint64_t timeout_ms,
                         const atomic_bool *stop, struct s3d_error *error)
{
    int64_t deadline_ms = s3d_now_ms() + (int64_t)timeout_ms;
    enum s3d_code code;
    process->text = s3d_alloc_zeroed(1, OUTPUT_MAX_BYTES);
    if (!process->text) {
        return s3d_fail_memory(error, OUTPUT_MAX_BYTES);
    }
    if ((code = start(process, arguments, error)) ||
        (code = read_output(process, deadline_ms, stop, error)) ||
        (code = wait_for_end(process, deadline_ms, stop, error))) {
        return code;
    }
    return check_status(process->status, error);
}

enum s3d_code s3d_fetch_process(const struct s3d_source *source, const atomic_bool *stop,
                                struct s3d_credentials *credentials, struct s3d_error *error)
{
    struct words words = {NULL};
    struct process process = {.output = -1};
    enum s3d_code code = split(&words, source->command, error);
    if (!code) {
        code = run(&process, words.arguments, source->timeout_ms, stop, error);
    }
    if (!code) {
        code = read_document(&process, credentials, error);
    }
    finish(&process);
    s3d_free(words.text);
    return code;
}
