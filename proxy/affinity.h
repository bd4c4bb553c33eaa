/* affinity.h - where a request should go because of what went before it: the steps between its body
 * and its dispatch, and between the answer's head and its end.
 *
 *     affinity_begin ─► while not is_claimed: ─► dispatch ─► affinity_confirm ─► ... affinity_end
 *                       agent = the owner,          │
 *                         or one that is chosen     └─ lost before its first byte, or it begins
 *                       affinity_claim(agent)          nothing: affinity_again, and the same loop
 *
 * All of it belongs to one request: struct affinity lives inside it, zeroed before affinity_begin,
 * and is over with affinity_end(), which comes exactly when the request ends, however it does, and
 * takes back every callback. affinity_plan.h holds the decision table of hard sessions.
 *
 * Steps return AFFINITY_GO, AFFINITY_WAIT (on_ready comes later, never from inside, with
 * AFFINITY_GO or AFFINITY_FAILED in `step`) or AFFINITY_FAILED (answer with `error`). After every GO
 * the loop above goes on: a claim may have been lost to another proxy, and `owner` is then another
 * agent, or "" again. Requests without a hard session are claimed from the beginning.
 *
 * One struct affinity_service per worker; what they share is struct affinity_shared. A service and
 * its requests belong to the worker's thread. */
#ifndef LM_PROXY_AFFINITY_H
#define LM_PROXY_AFFINITY_H

#include <uv.h>

#include "proxy/affinity_plan.h"
#include "proxy/fleet.h"
#include "proxy/session_lanes.h"
#include "proxy/session_token.h"
#include "shared/net/api_error.h"
#include "shared/net/http_client.h"

/* ---- what there is one of ---- */

struct affinity_shared;  // of a proxy
struct affinity_service; // of a worker

struct affinity_options {
    const char *secret;        // --session-secret; NULL: from Redis, else public constants
    const char *redis_url;     // NULL: none
    const char *join_key;      // shown to agents that are asked; NULL: none
    const char *authorization; // likewise
    const char *header;        // --session-header; NULL: none
    bool cookie;               // --session-cookie
    uint64_t hard_ttl_ms;      // --session-ttl
    /* For a hard session's owner that is in doubt; then it is asked all the same. 0: 5 s. */
    uint64_t patience_ms;
    uint64_t look_soft_ms; // how long a chat waits for Redis; 0: 5 ms
    uint64_t look_hard_ms; // how long a session waits for Redis, or for agents; 0: 250 ms
};

struct affinity_shared *affinity_shared_create(const struct affinity_options *options);
void affinity_shared_destroy(struct affinity_shared *s); // after all services

/* `fleet`: as worker_fleet(), called on this thread. `options` must outlive the service. E_INVALID:
 * the Redis URL. */
FALLIBLE int affinity_create(uv_loop_t *loop, struct affinity_shared *shared,
                             const struct affinity_options *options,
                             struct fleet *(*fleet)(void *arg), void *fleet_arg,
                             struct http_client *client, struct affinity_service **out,
                             struct error *err);
/* When no request is under way; before the http_client. */
void affinity_destroy(struct affinity_service *s, void (*on_closed)(void *arg), void *arg);

/* ---- one request ---- */

enum affinity_step { AFFINITY_FAILED = -1, AFFINITY_WAIT, AFFINITY_GO };

/* What became of it, for metrics. */
enum affinity_result {
    AFFINITY_RESULT_NONE,  // no session, or one that begins
    AFFINITY_RESULT_HIT,   // served where it was
    AFFINITY_RESULT_MOVED, // served elsewhere
    AFFINITY_RESULT_LOST,  // hard: 410
};

enum affinity_state {
    AFFINITY_IDLE,
    AFFINITY_LANE,    // earlier turns of the session run
    AFFINITY_LOOKING, // in Redis
    AFFINITY_ASKING,  // agents
    AFFINITY_HOLDING, // an owner is in doubt
    AFFINITY_CLAIMING,
    AFFINITY_DECIDED,
};

enum affinity_use {
    AFFINITY_USE_TURN,   // of chat, completions, interactive
    AFFINITY_USE_CANCEL, // interactive with cancel: follows the pin, waits for nothing
};

struct affinity_input {
    struct session_ident_input ident; // `header` is filled in here
    enum affinity_use use;
    bool is_allotted; // the id is one that we made up for this request: nobody has it
    bool is_end;      // interactive_mode false: the session is over when this is answered
    bool is_bare_end; // and there is no prompt to answer
    bool is_first;    // soft: the body holds no answer yet, so that no agent can know more of it
    void (*on_ready)(void *arg);
    void *arg;
};

struct affinity {
    /* The decision. */
    enum session_kind kind;
    enum session_source named_by;
    uint64_t key;           // for the rendezvous order; 0: none
    struct pin_owner owner; // "": choose (hard: any agent), or none is known (soft)
    bool owner_is_same;     // soft: the same process as then, its cache may be warm
    bool is_bound;          // hard: `owner` and nobody else
    bool is_claimed;        // dispatch; else affinity_claim() comes first
    bool rendezvous_only; // hard, Redis away: first of the rendezvous order, so that proxies agree
    enum session_expect expect;
    uint32_t turn; // turns that it has had, as far as is known
    enum affinity_source source;
    enum affinity_result result;
    enum affinity_step step;
    struct api_error error; // of AFFINITY_FAILED

    /* The insides. */
    struct affinity_service *service; // NULL: not begun, or ended
    struct affinity_input in;
    struct list wait_link; // service->waiters
    enum affinity_state state;
    uint64_t wake_ms;           // uv_now() at which waiting is over
    uint64_t patience_until_ms; // for an owner in doubt; 0: not begun to wait
    uint64_t looked_ms;         // uv_now() of the last question to Redis
    int rounds;
    struct affinity_call *call; // to Redis, under way
    struct fleet_ask *ask;      // of the agents, under way
    struct lane_ticket ticket;
    struct affinity_facts facts;
    struct affinity_view view;
    struct affinity_plan plan;
    struct pin_owner failed;  // couldn't be reached by this request
    struct pin_owner claimed; // by a fresh claim of this request
    struct pin before;        // soft: the pin that a move starts from
    bool has_token, is_final, was_confirmed, is_new;
    bool is_again;      // an agent may have begun this turn
    bool was_told;      // this_turn, by who answers
    uint32_t this_turn; // its number, from 1, as an agent or Redis told it; 0: not known
    struct str model;   // in the arena of the request
    char tenant[SESSION_TENANT_BYTES];
};

/* What `in` points to lives until affinity_end(). */
enum affinity_step affinity_begin(struct affinity_service *s, struct affinity *a,
                                  const struct affinity_input *in);

/* Hard: make it the agent's that was chosen, or that `owner` names, before anything is sent. */
enum affinity_step affinity_claim(struct affinity *a, const struct fleet_agent *chosen);

/* Hard: `owner` couldn't be reached, isn't in the fleet any more, or said that it begins nothing,
 * and no byte of the answer came. Waits until it is known whether it is gone; 503 if that can't be
 * found out in time. may_have_begun: `owner` got the turn, and it may be written down already. */
enum affinity_step affinity_again(struct affinity *a, bool may_have_begun);

/* The agent that `owner` names, in the current picture of the fleet; NULL: none, or it isn't there.
 * Valid as long as that picture. */
struct fleet_agent *affinity_find_owner(const struct affinity *a);

/* Value of x-lm-session for the agent; false: none. */
#define AFFINITY_HOP_BYTES 96
bool affinity_hop(const struct affinity *a, char out[AFFINITY_HOP_BYTES]);

/* The head of an answer that will be passed on. Adds x-lm-session-token, and the cookie, to `x`; a
 * soft session becomes `agent`'s; sets `result`. */
void affinity_confirm(struct affinity *a, const struct fleet_agent *agent, int status,
                      const struct http_headers *headers, struct http_exchange *x);

/* Hard: x-lm-session-turn of an agent of ours that has begun to answer. */
void affinity_hear_turn(struct affinity *a, struct str number);

/* Hard: is this whole answer an agent's 404 `session_unknown`? Then *error is the 410 for the client
 * (and the result is LOST). */
bool affinity_is_lost(struct affinity *a, int status, struct str body, struct api_error *error);

/* Always, once. is_served: the answer went out whole. Idempotent; a zeroed one is fine. The next
 * turn of the session may be called ready, later. */
void affinity_end(struct affinity *a, bool is_served);

#endif
