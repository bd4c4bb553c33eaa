/* gpu_bench.cuh - what the programs of tests/kernels/gpu_bench*.cu share: errors, time, random memory of the
 * device, the device's own roof, and rows of the table that scripts/gpu-check prints at its end. */
#ifndef LM_TESTS_GPU_BENCH_CUH
#define LM_TESTS_GPU_BENCH_CUH

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/cuda/cuda_gemm.h"
#include "shared/base/check.h"

#define NEED_CUDA(call)                                                                  \
    do {                                                                                 \
        cudaError_t rc_ = (call);                                                        \
        if (rc_ != cudaSuccess) {                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(rc_)); \
            exit(1);                                                                     \
        }                                                                                \
    } while (0)

static inline double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- memory ---- */

/* Two bfloat16 a word between 2^-7 and 2^-6, of either sign; halves of about one, and small float32. Zeros and
 * equal numbers would let multipliers run cooler, and faster, than real ones. */
static __global__ void fill_random(uint32_t *words, size_t count)
{
    size_t step = (size_t)gridDim.x * blockDim.x;

    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u; // splitmix64
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        words[i] = ((uint32_t)(z >> 32) & 0x807f807fu) | 0x3c003c00u;
    }
}

/* Filled when it returns, for every stream. */
static inline void *device_random(size_t bytes)
{
    size_t words = (bytes + 3) / 4, blocks = (words + 255) / 256;
    void *p = NULL;
    NEED_CUDA(cudaMalloc(&p, words * 4));
    NEED_CUDA(LM_LAUNCH(fill_random, (int)(blocks < 4096 ? blocks : 4096), 256, 0, NULL,
                        (uint32_t *)p, words));
    NEED_CUDA(cudaStreamSynchronize(NULL));
    return p;
}

/* ---- what the device can do ---- */

struct roof {
    double bytes_per_s, flop_per_s;
};

/* Seconds of one of `rounds` runs behind a first one. */
template <class F> static double time_of(int rounds, cudaStream_t stream, F run)
{
    cudaEvent_t begin, end;
    float ms = 0;

    NEED_CUDA(cudaEventCreate(&begin));
    NEED_CUDA(cudaEventCreate(&end));
    run();
    NEED_CUDA(cudaEventRecord(begin, stream));
    for (int i = 0; i < rounds; i++)
        run();
    NEED_CUDA(cudaEventRecord(end, stream));
    NEED_CUDA(cudaEventSynchronize(end));
    NEED_CUDA(cudaEventElapsedTime(&ms, begin, end));
    NEED_CUDA(cudaGetLastError());
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return 1e-3 * (double)ms / rounds;
}

static inline double measure_copy(cudaStream_t stream)
{
    size_t bytes = (size_t)2 << 30;
    void *from = device_random(bytes), *to = device_random(bytes);
    double seconds = time_of(10, stream, [=] {
        NEED_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
    });
    cudaFree(from);
    cudaFree(to);
    return 2.0 * (double)bytes / seconds;
}

static inline double measure_rate(cudaStream_t stream)
{
    const int n = 8192;
    struct cuda_product p = {};
    struct cuda_gemm g;
    struct error err;

    if (cuda_gemm_open(&g, false, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    g.workspace = device_random(cuda_gemm_workspace_bytes(&g));
    p.in = device_random((size_t)n * n * sizeof(bf16));
    p.in_stride = p.rows = n;
    p.in_real = CUDA_REAL_BF16;
    p.parts = 1;
    p.part[0].w.form = CUDA_BF16;
    p.part[0].w.rows = p.part[0].w.cols = p.part[0].w.stride = p.part[0].out_stride = n;
    p.part[0].w.data = device_random((size_t)n * n * sizeof(bf16));
    p.part[0].out = (float *)device_random((size_t)n * n * sizeof(float));
    double seconds = time_of(20, stream, [&] { NEED_CUDA(cuda_gemm_run(&g, &p, stream)); });
    for (const void *at :
         {p.in, p.part[0].w.data, (const void *)p.part[0].out, (const void *)g.workspace})
        cudaFree((void *)at);
    cuda_gemm_close(&g);
    return 2.0 * n * n * n / seconds;
}

static inline struct roof measure_roof(cudaStream_t stream)
{
    struct roof r = {measure_copy(stream), measure_rate(stream)};
    printf("copy %.2f TB/s, cuBLASLt bfloat16 %.0f TFLOP/s, programmatic dependent launch %s\n\n",
           1e-12 * r.bytes_per_s, 1e-12 * r.flop_per_s, cuda_pdl_is_on() ? "on" : "off");
    fflush(stdout);
    return r;
}

/* ---- the table of targets ---- */

/* share: of the bandwidth or rate ("of") that this run measured. */
static inline void print_target(const char *what, const char *measured, double share,
                                const char *of, const char *target)
{
    printf("TARGET | %s%s | %s | %.1f %% of %s | %s |\n", what,
           cuda_pdl_is_on() ? "" : ", without PDL", measured, 100 * share, of, target);
    fflush(stdout);
}

#endif
