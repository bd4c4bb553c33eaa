/* registration.h - telling the fleet that this agent exists and how loaded it is: every 250 ms to the
 * POST /nodes/add of every --proxy-url and to Redis, and a word when it leaves. Nothing waits for it: a proxy or a Redis that is away costs one log line and is tried
 * again with the next beat. Loop thread only. */
#ifndef LM_AGENT_REGISTRATION_H
#define LM_AGENT_REGISTRATION_H

#include <uv.h>

#include "agent/advertise.h"
#include "shared/base/config.h"
#include "shared/base/error.h"
#include "shared/net/agent_record.h"

struct registration;

struct registration_options {
    const struct option_list *proxy_urls; // valid URLs; borrowed for the registration's life
    const char *redis_url;                // NULL: none
    const char *join_key;                 // NULL: none
    const char *agent_id;                 // NULL: host name and port
    struct tls *tls;                      // for proxies with https; outlives the registration
    struct advertise advertise;
    /* What to say now: models, context_len, capacity, queue_max, draining, load. The rest of the
     * record is the registration's. */
    void (*fill)(void *arg, struct agent_record *record);
    void *arg;
};

/* E_INVALID: the Redis URL. Says nothing until registration_start. */
FALLIBLE int registration_create(uv_loop_t *loop, const struct registration_options *options,
                                 struct registration **out, struct error *err);
/* What the record says of this process; lives as long as the registration. */
const char *registration_agent_id(const struct registration *r);
const char *registration_incarnation(const struct registration *r);
/* The agent is ready: beats begin. */
void registration_start(struct registration *r);
/* Something that `fill` reports has changed and shouldn't wait for the next beat. */
void registration_beat(struct registration *r);
/* The load alone, between beats. */
void registration_report_load(struct registration *r);
/* Take the agent out of the registries; beats end. on_left comes once, at the latest after half a
 * second, never from inside this call. */
void registration_leave(struct registration *r, void (*on_left)(void *arg), void *arg);
/* Closes everything; memory goes on the loop's next turns. NULL is fine. */
void registration_destroy(struct registration *r);

#endif
