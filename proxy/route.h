/* route.h - which agent gets a request. A policy is one file and one row in route.c.
 *
 * Pure: no loop, no clock, no allocation. The same fleet, loads, request and state give the same
 * answer, so that tests and a simulator can replay traffic from one seed with the very code that
 * routes. Nothing is counted here but the probe of a half-open breaker: the caller takes a ledger
 * entry when it dispatches, so a policy that is asked twice for a retry doesn't see its own first
 * guess as load. docs/routing.md tells the whole story. */
#ifndef LM_PROXY_ROUTE_H
#define LM_PROXY_ROUTE_H

#include "proxy/fleet.h"
#include "proxy/prefix_table.h"
#include "proxy/rendezvous.h"
#include "proxy/route_score.h"
#include "shared/base/rng.h"

#define ROUTE_EXCLUDED_MAX   16
#define ROUTE_HITS_MAX       3
#define ROUTE_CANDIDATES_MIN 2
#define ROUTE_CANDIDATES_MAX 32 // drawn at random, beside those with affinity

/* Agents that failed this request already, by cell: facts may change between attempts, cells don't.
 */
struct route_excluded {
    const struct fleet_cell *cells[ROUTE_EXCLUDED_MAX];
    int count;
};

void route_exclude(struct route_excluded *e, const struct fleet_cell *cell);

/* An agent that has a part of the prompt. */
struct route_hit {
    const struct fleet_cell *cell;
    double cached_tokens;
};

struct route_request {
    double prompt_tokens, output_tokens; // estimates
    uint64_t key;                        // affinity key for the rendezvous order; 0: none
    const struct fleet_cell *pinned;     // where its session lives; NULL: none
    double pinned_cached_tokens;
    struct route_hit hits[ROUTE_HITS_MAX];
    int hit_count;
    const struct prefix_crowd *crowd; // of a beginning that many hold; NULL: none
    struct route_excluded excluded;
    bool probing_allowed; // may be a breaker's probe, and in a panic go to open ones: soft traffic
    bool full_allowed;    // nobody can wait: a full agent is better than none
    bool ours_only;       // not to foreign nodes: only ours go on with what another has begun
    uint64_t now_ms;      // monotonic, the clock of reports
};

enum route_verdict {
    ROUTE_PICKED,
    ROUTE_FULL,   // somebody could serve it, but all their slots are taken: wait
    ROUTE_NOBODY, // no agent is left
};

enum route_affinity {
    ROUTE_AFFINITY_NONE,  // no pin, and nothing cached where it goes
    ROUTE_AFFINITY_HIT,   // to its pin or, without one, to cached tokens
    ROUTE_AFFINITY_MOVED, // it has a pin, and another agent was better or the only one left
};

struct route_choice {
    struct fleet_agent *agent; // the fleet's reference; NULL unless picked
    double seconds;            // its score; with `affinity`, what it costs others is in it
    double cached_tokens;      // expected there
    enum route_affinity affinity;
    bool is_probe; // goes into ledger_take(), or back by route_give_back()
};

/* One candidate, while a choice is made. */
struct route_candidate {
    struct fleet_agent *agent;
    double cached_tokens;
    double spread_tokens; // that it lacks, but that count as cached: route.c rule 6
    double seconds;       // scratch of policies
};

/* What policies remember from one request to the next; one per loop thread. */
struct route_state {
    struct rng rng;
    uint64_t turn;
    struct route_weights weights;
    double crowded; // share of agents with prompts waiting: an average over those looked at
    uint64_t crowded_ms;
    uint16_t order[FLEET_AGENTS_MAX]; // scratch: a shuffle being drawn
    struct route_candidate candidates[FLEET_AGENTS_MAX];
};

void route_state_init(struct route_state *s, uint64_t seed);

struct route_policy {
    const char *name;
    /* True: every eligible agent is a candidate, in the fleet's order. False: those with affinity,
     * the first of the key's rendezvous order, and a random half of the others. */
    bool sees_all;
    /* Pick one of `count` > 0 candidates; returns an index into `c`. */
    int (*pick)(struct route_state *s, const struct route_request *r, struct route_candidate *c,
                int count);
};

/* Set `seconds` of all. cost: what a token costs everybody (route_score.h: c), 1 for a forecast. An
 * agent whose prefill rate isn't known yet counts as average, times its relative speed. Returns how
 * many of them have prompts waiting. */
int route_score_candidates(const struct route_weights *w, double cost,
                           const struct route_request *r, struct route_candidate *c, int count);
/* The cost, as learned so far, and learning it: `busy` of `count` agents have prompts waiting. */
double route_crowding(const struct route_state *s);
void route_learn_crowding(struct route_state *s, int busy, int count, uint64_t now_ms);

/* Order of --routing-strategy's choices. */
#define ROUTE_POLICY_NAMES \
    "affinity|least_load|round_robin|random|min_expected_latency|min_observed_latency"
const struct route_policy *route_policy_at(int index);
const struct route_policy *route_policy_find(const char *name); // NULL: none

extern const struct route_policy route_affinity, route_least_load, route_round_robin, route_random,
    route_min_expected_latency, route_min_observed_latency;

/* Hard filters, then the policy. Suspects are asked only when nobody is up, but a session that is
 * pinned to one may stay. */
enum route_verdict route_choose(const struct route_policy *policy, struct route_state *s,
                                const struct fleet *f, const struct fleet_model *model,
                                const struct route_request *r, struct route_choice *out);
/* The choice isn't dispatched after all. */
void route_give_back(const struct route_choice *choice);

#endif
