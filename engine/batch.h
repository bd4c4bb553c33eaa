/* batch.h - one step as the scheduler planned it: what the backend runs, what is sampled from it,
 * and the results. Filled by the engine thread, then lent to the rank threads until it is done;
 * never both. */
#ifndef LM_ENGINE_BATCH_H
#define LM_ENGINE_BATCH_H

#include "engine/engine.h"
#include "engine/kv_moves.h"
#include "engine/sampler.h"
#include "engine/tp_group.h"
#include "kernels/backend.h"
#include "shared/base/error.h"

struct request;

/* One sequence of the step and whose it is. */
struct batch_entry {
    struct request *request; // engine thread only
    int count;               // tokens of this step
    int row;                 // of its sampled token; -1: a prefill that goes on
    int scored_row;          // the first of scored_rows rows, one after the other
    int scored_rows; // prompt tokens whose log-probabilities, or hidden states, this step gives
};

/* One row of logits and the token drawn from it, or the prompt token scored by it. */
struct batch_row {
    struct sampler_input input;     // borrows from the request
    int32_t scored;                 // the prompt's token at input.position; -1: draw one
    struct token_logprob *logprobs; // result [input.params->logprobs], the batch's; NULL: not asked
    float *hidden; // result [batch.hidden_len], the batch's: nothing is drawn; NULL: not asked
    int32_t token; // result
    int status;    // result: 0, or why this row has none
};

/* Rows beside those of sampled tokens, with which a step scores prompts: each is a row of logits over
 * the vocabulary in memory. */
#define SCORED_ROWS_MAX 32

struct batch {
    struct tp_work work; // first: rank threads get it as what they were posted
    struct step_limits limits;
    int tokens, sequences, rows, links;
    int32_t *ids;                   // [limits.tokens_max]; rank threads resolve links in a copy
    struct step_sequence *sequence; // [limits.sequences_max]
    int32_t *row;                   // [limits.rows_max] token indexes
    struct batch_entry *entry;      // [limits.sequences_max]
    struct batch_row *row_info;     // [limits.rows_max]
    struct step_link *link;         // [limits.sequences_max], not known yet when it is planned
    struct token_logprob *logprobs; // [limits.rows_max][LOGPROBS_MAX]
    int scored_rows;
    int hidden_len;  // set by who uses pooling
    float *hidden;   // [limits.rows_max][hidden_len]; NULL until a row was pooled
    int pooled_rows; // those with `hidden`
    int host_rows;   // those that a backend which samples may leave to the host, and pooled ones
    bool draws_late; // some depend on tokens of the batch before: they are drawn when that is taken
    int32_t *blocks; // block tables, one after the other
    size_t blocks_len, blocks_cap;
    struct kv_moves moves;        // copies of pages that come before the step
    const struct batch *previous; // the step before, for links; it outlives this one
    int answers;                  // sequences that decode
    int prefill_tokens;           // tokens of the others
    int status;                   // result of the whole step
    struct error error;
    atomic_bool sampled; // row_info has the tokens
    bool was_ahead;      // it began before the previous one was done
    atomic_bool taken;   // the engine thread has made of its results what later draws depend on
    uint64_t begun_ns, done_ns;
};

void batch_init(struct batch *b, const struct step_limits *limits); // allocates
void batch_deinit(struct batch *b);
void batch_clear(struct batch *b, const struct batch *previous);

/* How many of r's next positions this step can still take: INT_MAX, but for a prompt whose tokens are
 * scored no more than there are rows for. */
int batch_room(const struct batch *b, const struct request *r);
/* Add the next `count` positions, at most batch_room, of a sequence whose ids are known or linked. Its blocks are
 * copied. */
void batch_add(struct batch *b, struct request *r, int count, bool sample);
/* After the last add: what was written as offsets becomes pointers. */
void batch_seal(struct batch *b);
/* View for the backend, with ids of the caller's. */
struct step batch_step(const struct batch *b, const int32_t *ids);

#endif
