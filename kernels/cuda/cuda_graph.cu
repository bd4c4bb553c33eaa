#include "kernels/cuda/cuda_graph.h"

#include "shared/base/check.h"

/* 1, 2, 4, then steps of 8 up to 128, of 32 up to 512: a padded row costs as much as a real one. */
static int bucket_of(int tokens)
{
    if (tokens <= 2) return tokens - 1;
    if (tokens <= 4) return 2;
    if (tokens <= 128) return 2 + (tokens + 7) / 8;
    return 18 + (tokens - 128 + 31) / 32;
}

static int bucket_tokens(int bucket)
{
    if (bucket < 3) return 1 << bucket;
    return bucket <= 18 ? 8 * (bucket - 2) : 128 + 32 * (bucket - 18);
}

int cuda_graph_tokens(const struct cuda_graphs *g, int tokens, int most)
{
    if (!g->enabled || tokens < 1 || tokens > CUDA_GRAPH_TOKENS_MAX) return 0;
    int padded = bucket_tokens(bucket_of(tokens));
    return padded <= most ? padded : 0;
}

cudaError_t cuda_graph_begin(struct cuda_graphs *g, int tokens, cudaStream_t stream)
{
    CHECK(g->state == CUDA_GRAPH_OFF);
    g->bucket = tokens > 0 ? bucket_of(tokens) : -1;
    g->state = CUDA_GRAPH_EAGER;
    if (g->bucket < 0) return cudaSuccess;
    if (g->exec[g->bucket]) {
        g->state = CUDA_GRAPH_REPLAYING;
        return cudaSuccess;
    }
    if (g->seen[g->bucket]++ == 0) return cudaSuccess;
    g->state = CUDA_GRAPH_RECORDING;
    return cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
}

/* Recording runs nothing, so a recorded step is launched like a replayed one. */
static cudaError_t finish_recording(struct cuda_graphs *g, cudaStream_t stream)
{
    cudaGraph_t graph = NULL;
    cudaError_t rc = cudaStreamEndCapture(stream, &graph);

    if (rc == cudaSuccess) rc = cudaGraphInstantiate(&g->exec[g->bucket], graph, 0);
    if (graph) cudaGraphDestroy(graph);
    return rc;
}

cudaError_t cuda_graph_end(struct cuda_graphs *g, cudaStream_t stream)
{
    cudaError_t rc = cudaSuccess;

    if (g->state == CUDA_GRAPH_RECORDING) rc = finish_recording(g, stream);
    if (rc == cudaSuccess && g->bucket >= 0 && g->state != CUDA_GRAPH_EAGER)
        rc = cudaGraphLaunch(g->exec[g->bucket], stream);
    g->state = CUDA_GRAPH_OFF;
    g->bucket = -1;
    return rc;
}

void cuda_graph_close(struct cuda_graphs *g)
{
    for (int i = 0; i < CUDA_GRAPH_BUCKETS_MAX; i++)
        if (g->exec[i]) cudaGraphExecDestroy(g->exec[i]);
    *g = (struct cuda_graphs){};
}
