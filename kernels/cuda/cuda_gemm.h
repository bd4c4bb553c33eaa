/* cuda_gemm.h - which kernel multiplies what.
 *
 *   inputs    weights     rows of inputs      kernel
 *   float32   float32     any                 cuda_gemv
 *   16 bits   16 bits     more than 32        cuBLASLt
 *   16 bits   4, 8 bits   more than 32        cuda_dequantise and cuBLASLt; not of experts
 *   16 bits   any         up to 4             cuda_gemv
 *   16 bits   any         256 and more; 64    cuda_wide
 *                         an expert on average
 *   16 bits   any         any other           cuda_mma
 *
 * 16 bits: bfloat16 or float16, weights as inputs.
 *
 * Gate and up become act(gate) * up in cuda_gemv, cuda_wide and, up to 32 rows, cuda_mma; else in a launch behind both,
 * and behind cuBLASLt they are bfloat16 until then where inputs are.
 *
 * cuda_gemv is equal to itself for any number of rows (backend.h rule 3), and so are cuda_mma and cuda_wide, which
 * have the same bits. But those differ from cuda_gemv's by rounding, and cuBLASLt chooses its algorithm by the number
 * of rows. So in 16 bits a row's bits may depend on how many share the step, unless `deterministic` asks for
 * cuda_mma and cuda_wide always. With float32 inputs they never do.
 *
 * LM_CUDA_WIDE_ROWS in the environment stands for both 256 and 64. */
#ifndef LM_KERNELS_CUDA_GEMM_H
#define LM_KERNELS_CUDA_GEMM_H

#include "kernels/cuda/cuda_memory.h"
#include "kernels/cuda/cuda_product.h"

struct cuda_gemm_choice; // an algorithm of cuBLASLt for one shape

struct cuda_gemm {
    bool deterministic;
    int wide_rows, wide_expert_rows; // cuda_wide from here on, of an expert on average
    int library_rows_min;            // of activations; benchmarks change it
    cublasLtHandle_t lt;
    size_t dequantised_bytes;        // of the workspace, behind the library's
    void *workspace;                 // on the device
    struct cuda_gemm_choice *choice; // [choices], found once and kept
    int choices;
};

FALLIBLE int cuda_gemm_open(struct cuda_gemm *g, bool deterministic, struct error *err);
void cuda_gemm_close(struct cuda_gemm *g);
/* Products with up to rows_max rows will read these weights. */
void cuda_gemm_expect(struct cuda_gemm *g, const struct cuda_weight *w, int rows_max);
/* Bytes that `workspace` has to point to before the first product. */
size_t cuda_gemm_workspace_bytes(const struct cuda_gemm *g);

/* Enqueue. A gated product may have parts of different forms; their own outputs are scratch. What fails is
 * cudaErrorUnknown with cuBLASLt, and the stream's own error else. */
cudaError_t cuda_gemm_run(struct cuda_gemm *g, const struct cuda_product *p, cudaStream_t stream);

#endif
