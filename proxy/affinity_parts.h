/* affinity_parts.h - the insides of affinity: what its files call of each other. Only affinity.c,
 * affinity_hard.c and affinity_reply.c include this. */
#ifndef LM_PROXY_AFFINITY_PARTS_H
#define LM_PROXY_AFFINITY_PARTS_H

#include "proxy/affinity.h"
#include "proxy/fleet_ask.h"

#define AFFINITY_LOOK_SOFT_MS  5    // then the rendezvous order
#define AFFINITY_LOOK_HARD_MS  250  // then as if Redis, or an agent, were away
#define AFFINITY_STEP_MS       50   // between looks at an owner in doubt
#define AFFINITY_LOOK_AGAIN_MS 200  // and between questions to Redis about him
#define AFFINITY_START_MS      2000 // an agent that isn't there yet may be heard of soon
#define AFFINITY_PATIENCE_MS   5000 // for an owner in doubt
#define AFFINITY_ROUNDS_MAX    8
#define AFFINITY_PUBLISH_MAX   512 // pins under way to Redis at once

struct affinity_shared {
    struct pin_cache *cache;
    struct session_lanes *lanes;
    struct session_token_key own_key; // where the fleet has no secret: tokens of this process only
};

struct affinity_service {
    uv_loop_t *loop;
    struct affinity_shared *shared;
    const struct affinity_options *options;
    struct fleet *(*fleet)(void *arg);
    void *fleet_arg;
    struct http_client *client;
    struct pin_store *store; // NULL: no Redis
    struct lane_mailbox *mailbox;
    struct session_secret secret;
    struct session_token_key token_key;
    struct list waiters;
    uv_timer_t timer; // of the first waiter
    uint64_t started_ms;
    int live;       // requests between begin and end
    int publishing; // under way
    int open_parts;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

/* A call to Redis that a request waits for; it may end sooner than the call. */
struct affinity_call {
    struct affinity_service *service;
    struct affinity *request; // NULL: it has gone on
    uint64_t key;
    enum session_kind kind;
    bool is_fresh;
};

static inline bool affinity_redis_is_up(const struct affinity_service *s)
{
    return s->store && pin_store_is_up(s->store);
}

/* affinity.c */
struct affinity_call *affinity_call_start(struct affinity *a);
/* Be woken: affinity_wake() when uv_now() reaches it. */
void affinity_wait_until(struct affinity *a, uint64_t wake_ms);
void affinity_wait_end(struct affinity *a);
void affinity_ready(struct affinity *a, enum affinity_step step); // tells the exchange; may end `a`
struct fleet_agent *affinity_find(const struct affinity_service *s, const char *id);

/* For agents that are asked; returns how many. */
#define AFFINITY_ASK_HEADERS 3
int affinity_ask_headers(const struct affinity_options *options, const char *tenant,
                         struct http_header out[AFFINITY_ASK_HEADERS]);

/* affinity_hard.c */
enum affinity_step affinity_hard_begin(struct affinity *a);
enum affinity_step affinity_hard_on_wake(struct affinity *a);

/* affinity_reply.c */
/* The session's history is gone for good: 410; where it was to be ended it is. */
void affinity_lost(struct affinity *a, const char *why, struct api_error *error);

#endif
