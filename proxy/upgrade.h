/* upgrade.h - a new program takes the place of a running one without a refused or lost connection
 * (SIGUSR2).
 *
 * The old process starts the program file again (as it was called, where that names a path: a link
 * may lead to another file by now), with its own arguments, its listening sockets and what it knows
 * of the fleet. The new one accepts nothing before it is ready. Then it sends its parent SIGTERM,
 * which drains: it closes its copies of the sockets and finishes what it has. A new process that
 * can't start ends, and the old one goes on. Main thread. */
#ifndef LM_PROXY_UPGRADE_H
#define LM_PROXY_UPGRADE_H

#include <stdbool.h>
#include <uv.h>

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/str.h"

#define UPGRADE_SOCKETS_MAX 257 // of --threads, and the admin port's

/* What this process was given; each socket is taken once, -1: none (left). Those that nobody takes
 * are closed by upgrade_confirm(). */
void upgrade_init(char **argv); // before the loop; remembers program and arguments
bool upgrade_is_one(void);      // a parent waits for this process to be ready
int upgrade_take_socket(int port);
void upgrade_take_state(struct buf *out); // what upgrade_start() was given; empty: nothing
/* This process is ready: the parent may go. */
void upgrade_confirm(void);

/* sockets: listening ones, which stay this process's, too. state: text for the new process. E_BUSY:
 * one is under way. */
FALLIBLE int upgrade_start(uv_loop_t *loop, const int *sockets, int count, struct str state,
                           struct error *err);

#endif
