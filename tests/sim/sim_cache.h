/* sim_cache.h - the key-value caches of all agents: which conversations and system prompts each of
 * them still has, in whole entries.
 *
 * Rules, per agent:
 *  1. An entry is held (a request runs on it), or idle. Idle ones without children are in the LRU
 *     list and may be evicted; what is held can't be.
 *  2. A conversation stands on its system prompt: that is never evicted before it.
 *  3. held + idle tokens never exceed the capacity.
 *
 * An entry whose tokens are not computed yet (the prefill runs) is found by nobody else. What comes
 * and goes is noted as hashes in the agent's log of changes, when a proxy wants to know. */
#ifndef LM_SIM_CACHE_H
#define LM_SIM_CACHE_H

#include "tests/sim/sim_workload.h"

struct sim_cache_entry {
    uint32_t owner;        // session, or system prompt
    uint32_t size;         // tokens that it takes; a conversation's without its system prompt
    uint32_t ready;        // tokens from the start that can be found; 0: none yet
    uint32_t next;         // of the same session, at other agents; or in the free list
    uint32_t newer, older; // LRU list of the agent
    uint16_t agent;
    uint16_t held;     // requests
    uint16_t children; // conversations on this system prompt
    uint16_t turn;     // of a conversation: the last one published,
    uint16_t links;    // and how many links of its chain are in the log as live
    bool is_system, is_listed;
};

/* +hash with its tokens, or -hash with 0. */
struct sim_cache_change {
    uint64_t hash;
    uint32_t tokens;
};

struct sim_cache_agent {
    uint64_t held, idle; // tokens
    uint32_t newest, oldest;
    struct sim_cache_change *log;
    uint32_t log_count, log_capacity;
    uint64_t log_first; // version of log[0]
};

struct sim_caches {
    struct sim_workload *work; // borrowed
    uint32_t agent_count;
    uint64_t capacity; // tokens of an agent
    bool has_log;
    struct sim_cache_entry *entries; // 0 is never used
    uint32_t used, entry_capacity, free_head;
    uint32_t *systems; // [system prompt][agent], 0: not there
    struct sim_cache_agent *agents;
};

void sim_caches_init(struct sim_caches *c, struct sim_workload *work, uint32_t agents,
                     uint64_t capacity, bool has_log);
void sim_caches_deinit(struct sim_caches *c);

/* Tokens of this session's next prompt that this agent needn't compute: whole blocks, and never the
 * last token. */
uint32_t sim_cache_find(const struct sim_caches *c, uint32_t agent, uint32_t session,
                        uint32_t prompt);
/* By agent: not 0 where the system prompt is held, though it may not be computed yet. */
static inline const uint32_t *sim_cache_system_row(const struct sim_caches *c, uint32_t system)
{
    return c->systems + (size_t)system * c->agent_count;
}

/* Hold room for a request that will have `total` tokens, its cached ones among them. False: there
 * is none, even with all that is idle evicted. At most one hold for each session and agent. */
bool sim_cache_hold(struct sim_caches *c, uint32_t agent, uint32_t session, uint32_t total);
/* The prompt of `turn` is computed: others can find it. */
void sim_cache_publish(struct sim_caches *c, uint32_t agent, uint32_t session, uint32_t turn,
                       uint32_t prompt);
/* The request is over and `total` tokens of it can be found; 0: it broke off, what was there
 * before stays. */
void sim_cache_release(struct sim_caches *c, uint32_t agent, uint32_t session, uint32_t total);
/* The agent's process ended: nothing is there any more. Nothing is held. */
void sim_cache_clear(struct sim_caches *c, uint32_t agent);

double sim_cache_used_share(const struct sim_caches *c, uint32_t agent); // held, of the capacity
uint64_t sim_cache_version(const struct sim_caches *c, uint32_t agent);
/* Changes before `version` are no longer asked for. */
void sim_cache_trim(struct sim_caches *c, uint32_t agent, uint64_t version);
/* CHECKs the rules. */
void sim_cache_check(const struct sim_caches *c, uint32_t agent);

#endif
