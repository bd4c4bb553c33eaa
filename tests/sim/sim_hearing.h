/* sim_hearing.h - how the proxies of the simulation learn of agents: load reports with a delay,
 * fetched prefixes, expired leases, refused connects. Stands for registry and prefix_sync, whose
 * rules it repeats without their I/O. */
#ifndef LM_SIM_HEARING_H
#define LM_SIM_HEARING_H

#include "tests/sim/sim_proxy.h"

/* All agents are known and up, as after a start with a full registry. */
void sim_hearing_init(struct sim_proxies *p, struct sim_proxy *x);
void sim_hearing_deinit(struct sim_proxies *p, struct sim_proxy *x);
/* Everything that has reached the proxy by now. */
void sim_hearing_catch_up(struct sim_proxies *p, struct sim_proxy *x);
/* A connect was refused; two in a row, and the agent is gone until its next report. */
void sim_hearing_note_refused(struct sim_proxies *p, struct sim_proxy *x, uint32_t agent);

#endif
