/* sim_agent.h - a model of lm-agent's engine: steps in which every running answer gets one token
 * and prompts are computed in chunks, paced as engine/prefill_pacer.h does it.
 *
 *   step = (base + slope * answers + prompt tokens in it / prefill rate) / speed
 *
 * - At most `batch` sequences run, and only as the key-value cache has room for prompt and answer;
 *   who finds no room waits, in order of arrival. At most `queue` wait, others are refused (429).
 * - Prompts are computed in order of admission. Beside running answers a step holds at most the
 *   chunk that makes it 1.6 times as long (four fifths of a pace of 2), more when a crowd waits for
 *   few answers; every 25th step is one without prompts.
 * - The first token comes at the end of the step that ends the prompt.
 *
 * Steps without prompts are all alike until an answer ends: they are taken in one event, and cut at
 * the end of a step when a request comes in between. So time costs nothing, only requests do. */
#ifndef LM_SIM_AGENT_H
#define LM_SIM_AGENT_H

#include "engine/step_cost.h"
#include "tests/sim/sim_cache.h"
#include "tests/sim/sim_calendar.h"
#include "tests/sim/sim_request.h"

#define SIM_PROXIES_MAX 16
#define SIM_GAPS_MAX    8 // of a proxy in a report; the agent's own bound is 32
#define SIM_BATCH_MAX   1024

/* All agents alike, but for their speed. */
struct sim_agent_model {
    double prefill_per_s, base_s, slope_s;
    double news_s; // of prompts since the last report that make one due; 0: never
    int batch, queue;
};

enum sim_agent_health {
    SIM_AGENT_UP,
    SIM_AGENT_BROKEN, // answers every request with an error, at once
    SIM_AGENT_SHUT,   // takes connections and closes them
    SIM_AGENT_DOWN,   // no process: connects are refused
};

/* What it knows of one proxy. */
struct sim_agent_peer {
    uint64_t high;
    uint64_t gaps[SIM_GAPS_MAX];
    int gap_count, active;
};

/* What the oracle reads of everybody comes first. */
struct sim_agent {
    double speed;
    int64_t left;                  // prompt tokens not computed, of all requests here
    double chunk_prefill;          // prompt tokens in the present step
    double step_begin_us, step_us; // of the present step, or of each of the steps
    uint32_t step_count;           // in the present event; 0: idle
    enum sim_agent_health health;
    struct min_heap decoding; // step of the last token << 32 | slot
    struct sim_fifo waiting, prefilling;
    uint64_t steps; // since it started: tokens of every running answer
    int mixed;      // steps with prompts since the last one without
    uint32_t stamp; // of its event
    struct step_cost cost;
    int64_t reported;    // `left` of the last report
    double work_s;       // of requests that came, were the batch full: for the imbalance
    uint64_t dispatches; // ever
};

/* The numbers of struct agent_load. */
struct sim_load {
    int running, waiting;
    int64_t left;
    double kv_share, prefill_per_s, step_s, slope_s;
};

enum sim_agent_verdict {
    SIM_AGENT_TAKEN,
    SIM_AGENT_BUSY,    // 429, not begun
    SIM_AGENT_ERROR,   // 500
    SIM_AGENT_CLOSED,  // connection lost before a byte came
    SIM_AGENT_REFUSED, // no connection
};

struct sim_agents {
    struct sim_agent_model model;
    uint32_t count;
    struct sim_agent *agents;
    struct sim_agent_peer *peers; // [agent][SIM_PROXIES_MAX]
    double *bound_left, *bound_s; // for sim_agents_bound()
    uint64_t *decoding_keys;
    struct sim_caches *caches;     // borrowed
    struct sim_requests *requests; // borrowed
    struct sim_calendar *calendar; // borrowed
    uint32_t event_kind;           // of a step's end: subject agent, stamp its stamp
    void (*on_first_token)(void *arg, uint32_t slot);
    void (*on_finished)(void *arg, uint32_t slot);
    void *arg;
};

void sim_agents_init(struct sim_agents *a, const struct sim_agent_model *model, uint32_t count);
void sim_agents_deinit(struct sim_agents *a);

enum sim_agent_verdict sim_agent_accept(struct sim_agents *a, uint32_t slot);
/* An event of sim_agents.event_kind. */
void sim_agent_advance(struct sim_agents *a, uint32_t agent, uint32_t stamp);
/* The process dies: `lost` gets all its requests, out of its counts, their `emitted` updated. */
void sim_agent_kill(struct sim_agents *a, uint32_t agent, struct sim_fifo *lost);
/* A new process: cold, and its counts begin anew. */
void sim_agent_start(struct sim_agents *a, uint32_t agent);

int sim_agent_running(const struct sim_agent *a);
/* So many prompts have come since the last report that it says so at once. */
bool sim_agent_has_news(const struct sim_agents *a, uint32_t agent);
struct sim_load sim_agent_load(struct sim_agents *a, uint32_t agent); // for a report
/* Seconds until a request that comes now has its first token, as things stand: what lies before
 * it, its own uncached prompt, and the steps around. */
double sim_agent_forecast(const struct sim_agents *a, uint32_t agent, double uncached);
/* No more than the forecast is, from two numbers of the agent. */
static inline double sim_agents_bound(const struct sim_agents *a, uint32_t agent, double uncached)
{
    return (a->bound_left[agent] + uncached) * a->bound_s[agent];
}
static inline struct sim_agent_peer *sim_agent_peer_of(const struct sim_agents *a, uint32_t agent,
                                                       uint32_t proxy)
{
    return &a->peers[(size_t)agent * SIM_PROXIES_MAX + proxy];
}
/* CHECKs counts and order. */
void sim_agent_check(const struct sim_agents *a, uint32_t agent);

#endif
