/* tp_shard.h - how a model is cut over the ranks of tensor parallelism. Pure: views of views.
 *
 * Shares are whole heads and whole rows and may be uneven: 9 heads that share 3 KV heads go as 6 and 3
 * to two ranks. More ranks than KV heads: each KV head is on several ranks, which divide its
 * query heads. Experts are on every rank, each with a part of its rows, so that ranks are equally
 * busy whatever tokens choose; routers, norms and latent projections (q_a, kv_a) are on every rank
 * too. Packed tensors (wqkv, gate_up_proj) were taken apart by the loader before. */
#ifndef LM_ENGINE_TP_SHARD_H
#define LM_ENGINE_TP_SHARD_H

#include "kernels/backend.h"
#include "shared/base/arena.h"

#define TP_WORLD_MAX 64

/* What each rank gets: share[world]. E_UNSUPPORTED: something is too small for so many ranks, or, with
 * TP_SPLIT_INPUTS, its quantised blocks can't be cut there; the text says what. */
FALLIBLE int tp_shard_plan(const struct model_params *whole, enum tp_split split, int world,
                           struct rank_share *share, struct error *err);

/* A rank's params: views of what `whole` points to, and copies in `arena` where slices don't follow
 * each other. `share` is that of the rank, from the plan; it, `whole` and the arena must outlive *out.
 * on_source_done is left out. */
void tp_shard_params(const struct model_params *whole, enum tp_split split, int rank,
                     const struct rank_share *share, struct arena *arena, struct model_params *out);

#endif
