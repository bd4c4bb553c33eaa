/* cuda_dequantise.cu - weights in blocks to 16 bits, for a library's product with many rows of activations. */
#include "kernels/cuda/cuda_product.h"

#include "kernels/cuda/cuda_values.cuh"
#include "shared/base/check.h"

#define DEQUANTISE_THREADS 256

template <typename T>
__device__ __forceinline__ uint4 real8_of(const struct cuda_weight &w, size_t element)
{
    const uint8_t *data = (const uint8_t *)w.data;
    size_t block = element / CUDA_BLOCK;

    if (w.form == CUDA_Q4)
        return q4_to_real8<T>(q4_load8(data + element / 2, (const uint32_t *)w.scales + block));
    if (w.form == CUDA_Q8)
        return q8_to_real8<T>(q8_load8(data + element, (const uint16_t *)w.scales + block));
    return f8_to_real8<T>(f8_load8(data + element), f8_scale(w, element));
}

/* Eight elements a thread. They come from weights, so only the write has to wait. */
template <typename T>
__global__ void __launch_bounds__(DEQUANTISE_THREADS)
    dequantise_kernel(struct cuda_weight w, size_t first, size_t count, T *out)
{
    size_t at = 8 * ((size_t)blockIdx.x * DEQUANTISE_THREADS + threadIdx.x);
    uint4 v = make_uint4(0, 0, 0, 0);

    pdl_trigger();
    if (at < count) v = real8_of<T>(w, first + at);
    pdl_wait();
    if (at < count) *(uint4 *)(out + at) = v;
}

void cuda_dequantise(const struct cuda_weight *w, int first, int rows, enum cuda_real real,
                     void *out, cudaStream_t stream)
{
    const size_t of_block = 8 * DEQUANTISE_THREADS;
    size_t count = (size_t)rows * (size_t)w->stride;

    CHECK(cuda_form_is_in_blocks(w->form));
    if (count == 0) return;
    with_real16(real, [&]<typename T>(T) {
        LM_LAUNCH_PDL(dequantise_kernel<T>, (int)((count + of_block - 1) / of_block),
                      DEQUANTISE_THREADS, 0, stream, *w, (size_t)first * (size_t)w->stride, count,
                      (T *)out);
    });
}
