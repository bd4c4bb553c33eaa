/* batch.h - one step as the scheduler planned it: what the backend runs, what is sampled from it,
 * and the results. Filled by the engine thread, then lent to the rank threads until it is done;
 * never both. */
#ifndef LM_ENGINE_BATCH_H
#define LM_ENGINE_BATCH_H

#include "engine/engine.h"
#include "engine/tp_group.h"
#include "kernels/backend.h"
#include "shared/base/error.h"

struct request;

/* One sequence of the step and whose it is. */
struct batch_entry {
    struct request *request; // engine thread only
    int count;               // tokens of this step
    int row;                 // of its sampled token; -1: a prefill that goes on
};

/* One row of logits and the token drawn from it. */
struct batch_row {
    struct sampling_params sampling;
    int64_t position;      // of the token to be sampled, in its sequence
    const int32_t *banned; // tokens that can't be drawn (borrowed from the request), or NULL
    int banned_count;
    int32_t token; // result
    int status;    // result: 0, or why this row has none
};

/* ids[token] is what the previous batch samples in `row`: not known yet when this batch is planned.
 */
struct batch_link {
    int token, row;
};

struct batch {
    struct tp_work work; // first: rank threads get it as what they were posted
    struct step_limits limits;
    int tokens, sequences, rows, links;
    int32_t *ids;                   // [limits.tokens_max]; rank threads resolve links in a copy
    struct step_sequence *sequence; // [limits.sequences_max]
    int32_t *row;                   // [limits.rows_max] token indexes
    struct batch_entry *entry;      // [limits.sequences_max]
    struct batch_row *row_info;     // [limits.rows_max]
    struct batch_link *link;        // [limits.sequences_max]
    int32_t *blocks;                // block tables, one after the other
    size_t blocks_len, blocks_cap;
    const struct batch *previous; // the step before, for links; it outlives this one
    int prefill_tokens;           // tokens beyond one a sequence, for rates
    int status;                   // result of the whole step
    struct error error;
    bool sampled; // row_info has the tokens; under the executor's lock
    uint64_t begun_ns, done_ns;
};

void batch_init(struct batch *b, const struct step_limits *limits); // allocates
void batch_deinit(struct batch *b);
void batch_clear(struct batch *b, const struct batch *previous);

/* Add the next `count` positions of a sequence whose ids are known or linked. Its blocks are
 * copied. */
void batch_add(struct batch *b, struct request *r, int count, bool sample);
/* After the last add: what was written as offsets becomes pointers. */
void batch_seal(struct batch *b);
/* View for the backend, with ids of the caller's. */
struct step batch_step(const struct batch *b, const int32_t *ids);

#endif
