/* executor.h - a loaded model on its ranks: runs batches and samples from them.
 *
 * One poster: the thread that opens it during start-up, then the engine thread. Batches run in the
 * order of submission; batch n + 1 may be submitted while n runs, and take n's tokens as input. */
#ifndef LM_ENGINE_EXECUTOR_H
#define LM_ENGINE_EXECUTOR_H

#include "engine/batch.h"
#include "engine/rank_cores.h"
#include "kernels/backend.h"
#include "shared/base/error.h"

struct executor; // opaque

struct executor_setup {
    const struct backend_ops *ops;
    struct backend_options backend;    // rank and group are set per rank
    const struct rank_cores *cores;    // [world], read by executor_open only; NULL: as backend says
    const struct model_params *params; // read by executor_open only
    struct step_limits limits;
    int vocab; // logits that may be sampled: the first `vocab` of a row
};

/* Start the ranks, cut the model over them, load the weights. With an error *out is NULL, or an executor
 * that has lost a rank: then setup->params must be left as it is too, for ever. */
FALLIBLE int executor_open(const struct executor_setup *setup, struct executor **out,
                           struct error *err);
/* Finishes what was submitted; NULL is fine. Of an executor that has lost a rank nothing is freed. */
void executor_close(struct executor *x);
/* A rank never came back from what failed: what it can reach, batches and the executor, must
 * be left as it is. Such a process should end soon. */
bool executor_has_lost_rank(const struct executor *x);

FALLIBLE int executor_open_kv(struct executor *x, enum kv_type type, int blocks, struct error *err);
int executor_world(const struct executor *x);
size_t executor_kv_block_bytes(const struct executor *x, enum kv_type type, int rank);
const char *executor_describe(const struct executor *x); // of rank 0
void executor_memory(const struct executor *x, int rank, size_t *weights, size_t *activations);
/* Bytes that pages may still take on a rank's device; false: they lie in host memory. */
bool executor_memory_free(const struct executor *x, int rank, size_t *bytes);

/* Called by a rank thread whenever a batch is done; see tp_group_set_on_done. */
void executor_set_on_done(struct executor *x, void (*on_done)(void *arg), void *arg);

/* b is the executor's until executor_is_done(). Then b->status, b->row_info[].token and .status are
 * the results. */
void executor_submit(struct executor *x, struct batch *b);
/* What later draws depend on has been made of a batch's results: after each, before the next one is waited for. */
void executor_take(struct executor *x, struct batch *b);
bool executor_is_done(const struct batch *b);
void executor_wait(struct executor *x, struct batch *b);

#endif
