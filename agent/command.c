#include "agent/command.h"

#include "shared/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define INPUT_MAX     ((size_t)4 << 10) // fits a pipe: written at once
#define EXIT_NO_START 127

bool command_exists(const char *name)
{
    const char *path = getenv("PATH");
    struct str rest = str_of(path ? path : "/usr/bin:/bin"), folder;
    while (str_split(&rest, ':', &folder)) {
        char file[1024];
        int n = snprintf(file, sizeof file, STR_FMT "/%s", STR_ARG(folder), name);
        if (n > 0 && (size_t)n < sizeof file && access(file, X_OK) == 0) return true;
    }
    return false;
}

static void close_pair(int pair[2])
{
    for (int i = 0; i < 2; i++)
        if (pair[i] >= 0) close(pair[i]);
}

/* In the child: only what a signal handler might call. */
static void become(const struct command *c, pid_t parent, int in, int out)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(EXIT_NO_START); // it was quicker
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    dup2(in, STDIN_FILENO);
    dup2(out >= 0 ? out : STDERR_FILENO, STDOUT_FILENO);
    execvp(c->argv[0], (char *const *)c->argv);
    _exit(EXIT_NO_START);
}

static int read_output(const struct command *c, int fd, struct error *err)
{
    char chunk[4096];
    int rc = 0;
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return rc;
        if (rc == 0 && buf_append(c->output, chunk, (size_t)n) < 0)
            rc = error_set(err, E_LIMIT, "%s printed more than %zu bytes", c->argv[0],
                           c->output->max);
    }
}

static int await(pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) < 0)
        CHECK(errno == EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int command_run(const struct command *c, struct error *err)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    CHECK(c->input.len <= INPUT_MAX);
    if (pipe2(in, O_CLOEXEC) < 0 || (c->output && pipe2(out, O_CLOEXEC) < 0)) {
        int code = -errno;
        close_pair(in);
        return error_set(err, code, "can't start %s: %s", c->argv[0], strerror(errno));
    }
    pid_t parent = getpid(), child = fork();
    if (child == 0) become(c, parent, in[0], out[1]);
    if (child < 0) {
        int code = -errno;
        close_pair(in);
        close_pair(out);
        return error_set(err, code, "can't start %s: %s", c->argv[0], strerror(errno));
    }
    if (c->input.len > 0 && write(in[1], c->input.data, c->input.len) < 0) {
        // It ends without having read; its status says what that means.
    }
    close_pair(in);
    int rc = 0;
    if (c->output) {
        close(out[1]);
        rc = read_output(c, out[0], err);
        close(out[0]);
    }
    int status = await(child);
    if (rc == 0 && status == EXIT_NO_START)
        return error_set(err, -ENOENT, "can't start %s: is it installed?", c->argv[0]);
    return rc < 0 ? rc : status;
}
