/* child.h - run a function in a child process and look at how it ended and what it wrote to stderr.
 */
#ifndef LM_TESTS_CHILD_H
#define LM_TESTS_CHILD_H

#include "tests/test.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct child {
    int status;         // as waitpid gives it
    char output[32768]; // stderr, and stdout too; cut
};

static inline void child_run(struct child *c, void (*function)(void))
{
    int fds[2];
    NEED(pipe(fds) == 0);
    fflush(stdout);
    pid_t pid = fork();
    NEED(pid >= 0);
    if (pid == 0) {
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        dup2(fds[1], STDERR_FILENO);
        dup2(fds[1], STDOUT_FILENO);
        close(fds[0]);
        close(fds[1]);
        function();
        fflush(stdout);
        _exit(0);
    }
    close(fds[1]);
    size_t len = 0;
    char sink[4096];
    for (;;) {
        size_t room = sizeof c->output - 1 - len;
        ssize_t got = room ? read(fds[0], c->output + len, room) : read(fds[0], sink, sizeof sink);
        if (got <= 0) break;
        if (room) len += (size_t)got;
    }
    c->output[len] = 0;
    close(fds[0]);
    NEED(waitpid(pid, &c->status, 0) == pid);
}

static inline int child_was_killed_by(const struct child *c, int signal_number)
{
    return WIFSIGNALED(c->status) && WTERMSIG(c->status) == signal_number;
}

#endif
