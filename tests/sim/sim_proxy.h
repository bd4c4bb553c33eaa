/* sim_proxy.h - the proxies: the code that routes (proxy/route.h and what it stands on) with a
 * simulated network around it. Each has its own fleet, cells, ledger, prefix table and queue, and
 * knows of agents only what reports told it, a delay ago; pins are the one thing they share, as
 * they do through Redis. */
#ifndef LM_SIM_PROXY_H
#define LM_SIM_PROXY_H

#include "proxy/model_stats.h"
#include "proxy/prefix_table.h"
#include "proxy/retry_budget.h"
#include "tests/sim/sim_agent.h"
#include "tests/sim/sim_result.h"

#define SIM_REPORTS       8192 // the newest, a power of two
#define SIM_QUEUE_MAX     1024
#define SIM_QUEUE_WAIT_US (30ull * 1000 * 1000)
#define SIM_LEASE_US      3500000ull
#define SIM_FETCH_US      500000ull // between two fetches of an agent's prefixes

/* A load report, as all proxies get it: what struct agent_load would carry. */
struct sim_report {
    uint64_t time_us;
    uint32_t agent;
    struct sim_load load;
    uint64_t version; // of its prefixes
    struct sim_agent_peer peers[SIM_PROXIES_MAX];
};

/* Rows of the table that aren't policies of the proxy. */
enum sim_picker {
    SIM_PICK_POLICY,
    SIM_PICK_ORACLE,       // the smallest true time to the first token
    SIM_PICK_SPARING,      // the same, but what others lose counts as it does in route_score.h
    SIM_PICK_SESSION_HASH, // what others call session affinity: a hash of the session, no state
};

/* What a proxy knows of an agent, besides the cell. */
struct sim_acquaintance {
    struct fleet_cell *cell;
    struct fleet_agent *facts; // NULL: not in the fleet
    uint64_t heard_us;         // last report; 0: none
    uint64_t version;          // of the prefixes fetched
    uint64_t fetch_us;         // not before
    int refused;               // connects in a row
};

struct sim_proxy {
    struct fleet *fleet;
    const struct fleet_model *model; // NULL: nobody is in it
    struct sim_acquaintance *known;
    struct route_state state;
    struct ledger ledger;
    struct model_stats stats;
    struct retry_budget retries;
    struct prefix_table *prefixes; // NULL: the policy asks for none
    struct rng rng;                // of the network
    struct sim_fifo queue;
    uint64_t report; // number of the first report not heard
    uint64_t delay_us;
    uint64_t swept_us; // leases were looked at
    bool is_ticking;   // an event for the queue is out
};

struct sim_proxies {
    uint32_t count;
    struct sim_proxy *proxies;
    enum sim_picker picker;
    const struct route_policy *policy;
    bool has_affinity;         // pins and prefixes are looked up
    struct sim_agents *agents; // borrowed, as are the following
    struct sim_caches *caches;
    struct sim_requests *requests;
    struct sim_calendar *calendar;
    struct sim_workload *work;
    struct sim_result *result;
    struct sim_report *reports; // number n at n % SIM_REPORTS
    uint64_t report_count;
    struct sim_wire *wire; // by agent: sent and not there yet; the oracles'
    double crowded;        // the sparing oracle's
    uint32_t arrive_kind, tick_kind;
    void (*on_failed)(void *arg, uint32_t slot); // the client got an error
    void *arg;
};

struct sim_wire {
    uint32_t count;
    double tokens;
};

void sim_proxies_init(struct sim_proxies *p, uint32_t count, uint64_t seed,
                      uint64_t prefix_entries);
void sim_proxies_deinit(struct sim_proxies *p);

/* A new request: find it an agent, or queue it, or fail it. */
void sim_proxy_submit(struct sim_proxies *p, uint32_t slot);
/* Events: a request reaches its agent; a proxy's queue is looked at. */
void sim_proxy_arrive(struct sim_proxies *p, uint32_t slot);
void sim_proxy_tick(struct sim_proxies *p, uint32_t proxy);
/* An agent has made a report: it will be heard a delay later. */
void sim_proxies_report(struct sim_proxies *p, uint32_t agent);
/* Of the agents' callbacks. */
void sim_proxy_note_first_token(struct sim_proxies *p, uint32_t slot);
void sim_proxy_note_finished(struct sim_proxies *p, uint32_t slot);
/* The agent was lost with this request. */
void sim_proxy_note_lost(struct sim_proxies *p, uint32_t slot);

/* Ledgers are empty, cells' sums are zero. */
void sim_proxies_check(struct sim_proxies *p);

#endif
