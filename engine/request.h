/* request.h - one prompt and what was generated for it. Created by the submitting thread, from then
 * on the engine thread's alone; while steps are in flight the rank thread reads what a batch
 * borrowed. */
#ifndef LM_ENGINE_REQUEST_H
#define LM_ENGINE_REQUEST_H

#include "engine/engine.h"
#include "engine/grammar.h"
#include "engine/kv_cache.h"
#include "engine/penalties.h"
#include "engine/stopping.h"
#include "shared/base/list.h"

struct output;       // engine/outbox.h
struct prefix_space; // engine/prefix_cache.h
struct wait_flow;    // engine/wait_queue.c

enum request_state {
    REQUEST_WAITING,  // holds no blocks
    REQUEST_RUNNING,  // holds blocks, takes part in steps
    REQUEST_FINISHED, // holds no blocks; freed when no step in flight has it
};

struct request {
    struct list link; // the scheduler's: waiting or running
    uint64_t id;
    enum request_state state;
    uint64_t arrival; // order of submission, set by the wait queue
    uint64_t tenant;  // as in struct engine_request, like the next two
    int priority;
    uint64_t deadline_ms, group, session;
    struct wait_flow *flow; // the wait queue's, while it waits there
    struct list flow_link;
    /* The scheduler's: */
    uint64_t order;  // of first admission; 0: not admitted yet
    int rank;        // its priority, or RANK_FIRST once it was passed over too often
    int passed;      // times that others went first
    int cached;      // prompt tokens that were not computed for it
    uint64_t plan;   // the last one that it is part of
    int32_t *tokens; // prompt, then generated; owned
    int count, cap;  // ids known
    int prompt_count;
    int pending;     // sampled in steps in flight, ids not known yet
    int pending_row; // row of the newest pending token in the step submitted last
    int computed;    // positions whose keys and values are in pages, or will be by steps in flight
    int in_flight;   // steps in flight that have it
    int max_tokens;  // generated tokens allowed; at least 1
    int min_tokens;
    bool skip_special;
    int32_t shown[SHOWN_TOKENS_MAX]; // special tokens that aren't skipped
    int shown_count;
    bool prompt_logprobs;
    enum engine_pool pool;
    double *pooled; // MEAN: the sum so far, owned; NULL: of nothing
    int scored;     // prompt positions whose successor's log-probability is known or being computed
    struct sampling_params sampling;
    struct logit_bias *bias;    // what sampling.bias points at, owned
    struct engine_mark *marks;  // owned
    int mark_count, marks_live; // of which the first ones were reported
    int found;                  // tokens that the prefix cache had when it came
    /* Rank threads read these two while a step draws for it, when the tokens of all steps before are in them. */
    struct token_history history;   // kept while penalties are on, else empty
    struct grammar_matcher grammar; // what the answer has to become
    int32_t *stop_ids;              // tokens that end it, template's and caller's united; owned
    int stop_id_count;
    int32_t *resumed; // what it brought of its answer; owned
    int resumed_count;
    int rope_set; // turns all its positions (engine/rope_set.h)
    struct block_table table;
    struct prefix_space *space; // whose pages it finds, and who finds its; NULL: nobody's
    int whole;                  // blocks of the table that the prefix cache has as whole
    int published;              // tokens that others can find
    struct stopping stopping;
    struct output *output;
};

/* Copies everything. max_tokens is cut to `context_len`; model_stops: the model's own stop tokens,
 * ignored with ignore_eos. The arguments were checked by request_validate. */
struct request *request_create(const struct engine_request *in, int context_len,
                               const int32_t *model_stops, int model_stop_count);
void request_destroy(struct request *r); // NULL is fine; CHECKs that it holds no blocks

/* E_INVALID or E_CONTEXT_LENGTH with a text that can be shown to a client. */
FALLIBLE int request_validate(const struct engine_request *in, int vocab, int context_len,
                              struct error *err);

void request_push_token(struct request *r, int32_t token);
void request_restart(struct request *r); // back to the prompt; nothing of it was computed yet
int request_generated(const struct request *r); // ids known, a closing stop token too
/* Whether every position of the prompt gives a row: log-probabilities or hidden states. */
static inline bool request_reads_prompt(const struct request *r)
{
    return r->prompt_logprobs || r->pool == ENGINE_POOL_MEAN;
}
/* Whether a token can be drawn only when the one before it has been taken. */
bool request_draws_in_turn(const struct request *r);
bool request_is_stop(const struct request *r, int32_t token);
bool request_shows(const struct request *r, int32_t token); // if it is special
/* Positions not computed yet that must be, pending ones included; 0: nothing until a step ends. */
int request_need(const struct request *r);

#endif
