/* redis_lease.h - this agent's entry in Redis: taken, renewed and given back by the scripts of
 * shared/net/agent_record.h. Loop thread only. */
#ifndef LM_AGENT_REDIS_LEASE_H
#define LM_AGENT_REDIS_LEASE_H

#include <stdbool.h>

#include <uv.h>

#include "shared/base/error.h"
#include "shared/net/agent_record.h"

struct redis_lease;

struct redis_lease_options {
    const char *url;
    /* What to write now. local_address: ours on the connection to Redis, "" if there is none.
     * False: nothing yet. */
    bool (*record)(void *arg, const char *local_address, struct agent_record *out);
    void *arg;
};

/* E_INVALID: bad URL. Beats once by itself whenever Redis is back. */
FALLIBLE int redis_lease_create(uv_loop_t *loop, const struct redis_lease_options *options,
                                struct redis_lease **out, struct error *err);
void redis_lease_beat(struct redis_lease *l);
void redis_lease_report_load(struct redis_lease *l);
/* Give the entry back, if it is ours; on_left comes once, never from inside. */
void redis_lease_leave(struct redis_lease *l, void (*on_left)(void *arg), void *arg);
void redis_lease_destroy(struct redis_lease *l, void (*on_closed)(void *arg), void *arg);

#endif
