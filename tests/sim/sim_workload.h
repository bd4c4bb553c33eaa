/* sim_workload.h - who asks for what: sessions of several turns that share system prompts. Nothing
 * of a session is stored but where it stands: lengths and pauses are drawn from (seed, session,
 * turn), so each policy meets the very same requests and a million sessions cost 20 MB.
 *
 * Lengths in tokens: messages lognormal (median 60) with one in seventeen a document (median
 * 2,500), answers lognormal (median 150), system prompts lognormal (median 500) chosen by Zipf's law.
 * Turns geometric, pauses lognormal (median 12 s). */
#ifndef LM_SIM_WORKLOAD_H
#define LM_SIM_WORKLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_CONTEXT_TOKENS 32768
#define SIM_TURNS_MAX      40
#define SIM_CHAIN_MAX      (2 * SIM_TURNS_MAX + 2)
#define SIM_BLOCK_TOKENS   64 // of the key-value cache

struct sim_session {
    uint32_t history;    // tokens before the next user message: system prompt and turns served
    uint32_t cache_head; // its conversations in agents' caches, 0: none
    uint16_t turn;       // the next one, from 0
    uint16_t turns;      // in all
    uint16_t system;     // its system prompt
    uint16_t pin;        // agent that served it last, as the proxies' shared store says; + 1
    uint16_t last;       // likewise, whatever the policy; for the count of moves
};

struct sim_turn {
    uint32_t message, answer; // tokens
    double pause_s;           // between the answer and the next message
};

/* A boundary of the canonical conversation, as the proxy's peek finds them. */
struct sim_link {
    uint64_t hash;
    uint32_t tokens; // from the start
    uint32_t bytes;
};

struct sim_workload {
    uint64_t seed;
    uint32_t session_count;
    uint32_t system_count;
    double hot_share; // of sessions that have system prompt 0 besides what Zipf's law gives it
    uint32_t *system_tokens;
    double *system_cdf;
    struct sim_session *sessions;
    /* Means over the sessions, for the load: per request. */
    double turns_mean, uncached_mean, answer_mean, prompt_mean;
};

void sim_workload_init(struct sim_workload *w, uint64_t seed, uint32_t sessions, uint32_t systems,
                       double hot_share);
void sim_workload_deinit(struct sim_workload *w);
/* All sessions as before their first turn. */
void sim_workload_reset(struct sim_workload *w);

struct sim_turn sim_workload_turn(const struct sim_workload *w, uint32_t session, uint32_t turn);
/* Bytes of text that a token of this session's stands for. */
double sim_workload_bytes_per_token(const struct sim_workload *w, uint32_t session);
/* The boundaries of the prompt of its next turn, as far as `turn` user messages and no further:
 * system prompt, message, answer, ... message. Blocks of less than 256 bytes join the next. The
 * last link is not in it when the message is that short. Returns how many. */
int sim_workload_chain(const struct sim_workload *w, uint32_t session, uint32_t turn,
                       struct sim_link out[SIM_CHAIN_MAX]);
uint64_t sim_workload_system_hash(const struct sim_workload *w, uint32_t system);

#endif
