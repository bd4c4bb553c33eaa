/* command.h - run another program and wait for it. Blocking: not for a loop thread. The program dies
 * with the thread that waits for it, and so with the agent. */
#ifndef LM_AGENT_COMMAND_H
#define LM_AGENT_COMMAND_H

#include <stdbool.h>

#include "shared/base/buf.h"
#include "shared/base/error.h"

struct command {
    const char *const *argv; // NULL-terminated; argv[0] is looked for in PATH
    struct str input;        // what it reads, at most 4 KiB: for what must not stand in argv
    struct buf *output;      // what it prints, up to the buffer's maximum; NULL: to our stderr
};

/* Its exit status, 128 + N after signal N. -errno: it could not be started. E_LIMIT: more output. */
FALLIBLE int command_run(const struct command *c, struct error *err);
bool command_exists(const char *name); // an executable file of that name is in PATH

#endif
