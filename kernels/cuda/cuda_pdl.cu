#include "kernels/cuda/cuda_pdl.h"

#define TRY_THREADS 32
#define TRY_COUNT   (64 * TRY_THREADS)
#define TRY_REPLAYS 2

/* Each block reads what another one made. */
__global__ void try_kernel(uint32_t *out, const uint32_t *in)
{
    pdl_begin();
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = 2 * in[TRY_COUNT - 1 - i] + 1;
}

static cudaError_t launch_early(uint32_t *out, const uint32_t *in, cudaStream_t stream)
{
    return LM_LAUNCH_PDL(try_kernel, TRY_COUNT / TRY_THREADS, TRY_THREADS, 0, stream, out, in);
}

/* At the head, behind a memset, behind each other, behind an ordinary launch; 0 becomes 15 in the first half. */
static cudaError_t enqueue(uint32_t *first, uint32_t *second, cudaStream_t stream)
{
    cudaError_t rc = launch_early(second, first, stream);

    if (rc == cudaSuccess) rc = cudaMemsetAsync(first, 0, TRY_COUNT * sizeof *first, stream);
    if (rc == cudaSuccess) rc = launch_early(second, first, stream);
    if (rc == cudaSuccess) rc = launch_early(first, second, stream);
    if (rc == cudaSuccess)
        rc = LM_LAUNCH(try_kernel, TRY_COUNT / TRY_THREADS, TRY_THREADS, 0, stream, second, first);
    return rc == cudaSuccess ? launch_early(first, second, stream) : rc;
}

static cudaError_t record(uint32_t *memory, cudaStream_t stream, cudaGraphExec_t *exec)
{
    cudaGraph_t graph = NULL;
    cudaError_t rc = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);

    if (rc != cudaSuccess) return rc;
    rc = enqueue(memory, memory + TRY_COUNT, stream);
    cudaError_t end = cudaStreamEndCapture(stream, &graph);
    if (rc == cudaSuccess) rc = end;
    if (rc == cudaSuccess) rc = cudaGraphInstantiate(exec, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    return rc;
}

static bool replays(cudaGraphExec_t exec, const uint32_t *memory, cudaStream_t stream)
{
    static const uint32_t want = 15;
    uint32_t *got = (uint32_t *)malloc(TRY_COUNT * sizeof *got);
    bool right = got != NULL;

    for (int i = 0; right && i < TRY_REPLAYS; i++) {
        cudaError_t rc = cudaGraphLaunch(exec, stream);
        if (rc == cudaSuccess) rc = cudaStreamSynchronize(stream);
        if (rc == cudaSuccess)
            rc = cudaMemcpy(got, memory, TRY_COUNT * sizeof *got, cudaMemcpyDeviceToHost);
        right = rc == cudaSuccess;
        for (int j = 0; right && j < TRY_COUNT; j++)
            right = got[j] == want;
    }
    free(got);
    return right;
}

void cuda_pdl_try(cudaStream_t stream)
{
    cudaGraphExec_t exec = NULL;
    uint32_t *memory = NULL;

    if (!cuda_pdl_is_on()) return;
    cudaError_t rc = cudaMalloc((void **)&memory, 2 * TRY_COUNT * sizeof *memory);
    if (rc != cudaSuccess) { // a full device says nothing about launches
        cudaGetLastError();
        return;
    }
    /* Once as it is called, as steps are: a kernel isn't loaded while it is recorded. */
    rc = cudaMemset(memory, 0, 2 * TRY_COUNT * sizeof *memory);
    if (rc == cudaSuccess) rc = cudaStreamSynchronize(NULL);
    if (rc == cudaSuccess) rc = enqueue(memory, memory + TRY_COUNT, stream);
    if (rc == cudaSuccess) rc = cudaStreamSynchronize(stream);
    if (rc == cudaSuccess) rc = record(memory, stream, &exec);
    if (rc != cudaSuccess || !replays(exec, memory, stream)) cuda_pdl_is_refused = true;
    if (exec) cudaGraphExecDestroy(exec);
    cudaFree(memory);
    cudaGetLastError();
}
