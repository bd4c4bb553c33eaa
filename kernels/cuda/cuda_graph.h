/* cuda_graph.h - decode steps recorded once and replayed: a step of a hundred launches becomes one.
 *
 * A step that only decodes is padded to a bucket of tokens; everything that its launches depend on is then
 * the bucket, and the rest is in memory at fixed addresses. The first step of a bucket runs as it
 * is called (libraries choose algorithms, kernels are loaded), the second is recorded, later ones are
 * replayed, and the slots of a step do nothing:
 *
 *     OFF --begin--> EAGER | RECORDING | REPLAYING --end--> OFF */
#ifndef LM_KERNELS_CUDA_GRAPH_H
#define LM_KERNELS_CUDA_GRAPH_H

#include "kernels/cuda/cuda_device.cuh"

#define CUDA_GRAPH_TOKENS_MAX  512 // larger steps aren't bound by launches
#define CUDA_GRAPH_BUCKETS_MAX 64

enum cuda_graph_state {
    CUDA_GRAPH_OFF,
    CUDA_GRAPH_EAGER,
    CUDA_GRAPH_RECORDING,
    CUDA_GRAPH_REPLAYING,
};

struct cuda_graphs {
    bool enabled;
    enum cuda_graph_state state;
    int bucket;                                   // of the step; -1: none
    int seen[CUDA_GRAPH_BUCKETS_MAX];             // steps run eagerly
    cudaGraphExec_t exec[CUDA_GRAPH_BUCKETS_MAX]; // NULL: not recorded
};

/* The padded number of tokens for a decode step of `tokens` where at most `most` fit; 0: no graph. */
int cuda_graph_tokens(const struct cuda_graphs *g, int tokens, int most);

/* Around the launches of a step that was padded to `tokens` (0: no graph). */
cudaError_t cuda_graph_begin(struct cuda_graphs *g, int tokens, cudaStream_t stream);
cudaError_t cuda_graph_end(struct cuda_graphs *g, cudaStream_t stream);
void cuda_graph_close(struct cuda_graphs *g);

/* True: what the slots would launch is in the graph already. */
static inline bool cuda_graph_replays(const struct cuda_graphs *g)
{
    return g->state == CUDA_GRAPH_REPLAYING;
}

/* True: launches must depend on the bucket only. */
static inline bool cuda_graph_is_used(const struct cuda_graphs *g)
{
    return g->bucket >= 0;
}

#endif
