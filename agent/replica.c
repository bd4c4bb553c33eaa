#include "agent/replica.h"

#include "shared/base/str.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static int word_fd = -1; // of the process; -1: nobody listens

void replica_begin(void)
{
    const char *text = getenv(REPLICA_PARENT_VARIABLE);
    int64_t parent;
    if (!text || str_to_int(str_of(text), &parent) < 0) return;
    unsetenv(REPLICA_PARENT_VARIABLE); // our own children have another parent
    /* SIGKILL, since a launcher that was killed is started anew and wants the ports: streams go on at
     * other agents, whereas draining would keep it waiting for minutes. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1); // it was quicker
    word_fd = REPLICA_WORD_FD;
    fcntl(word_fd, F_SETFD, FD_CLOEXEC);
}

void replica_say_ready(void)
{
    if (word_fd < 0) return;
    if (write(word_fd, "r", 1) < 0) {
        // The launcher is gone, and so are we at once.
    }
    close(word_fd);
    word_fd = -1;
}
