/* launcher_restart.h - when a replica that has ended is started anew, and when that is given up. Pure. */
#ifndef LM_AGENT_LAUNCHER_RESTART_H
#define LM_AGENT_LAUNCHER_RESTART_H

#include <stdbool.h>
#include <stdint.h>

#define LAUNCHER_STEADY_MS    60000 // of service, after which earlier ends don't count
#define LAUNCHER_DELAY_MS_MAX 60000

struct launcher_restart {
    int limit;         // restarts in a row; 0: no bound
    uint64_t delay_ms; // before the first of a row
    int in_a_row;      // so far
};

/* The replica has ended `served_ms` after it was ready (0: it never was). False: give up; else
 * *delay_ms is the pause before it is started again. */
bool launcher_restart_next(struct launcher_restart *r, uint64_t served_ms, uint64_t *delay_ms);

#endif
