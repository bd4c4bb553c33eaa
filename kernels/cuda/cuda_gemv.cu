/* cuda_gemv.cu - products with few rows of activations, and all of those in float32.
 *
 * A warp owns a weight row and up to GEMV_ROWS rows of activations. Lane l takes the 16-byte pieces
 * l, l + 32, ... of the weight row and adds its products in that order, one fused multiply-add each;
 * the lanes' sums meet in a butterfly. None of that depends on how many rows there are, so a result
 * row has the same bits alone and in company. */
#include "kernels/cuda/cuda_product.h"

#include "kernels/cuda/cuda_values.cuh"
#include "shared/base/check.h"

#define GEMV_WARPS   4
#define GEMV_THREADS (32 * GEMV_WARPS)
#define GEMV_ROWS    8 // of activations, for one pass over a weight row

/* ---- a lane's piece of a weight row ----
 *
 * load() brings the 16 bytes of elements [at, at + count), unpack() makes floats of the elements from
 * `from` on, eight of them (four in float32). */

struct weights_f32 {
    static const int count = 4;
    __device__ static uint4 load(const struct cuda_weight &w, size_t row, int at)
    {
        return load_nc((const uint4 *)((const float *)w.data + row * w.stride + at));
    }
    __device__ static void unpack(const struct cuda_weight &, size_t, int, uint4 v, int, float *out)
    {
        out[0] = __uint_as_float(v.x), out[1] = __uint_as_float(v.y);
        out[2] = __uint_as_float(v.z), out[3] = __uint_as_float(v.w);
    }
};

struct weights_bf16 {
    static const int count = 8;
    __device__ static uint4 load(const struct cuda_weight &w, size_t row, int at)
    {
        return load_nc((const uint4 *)((const bf16 *)w.data + row * w.stride + at));
    }
    __device__ static void unpack(const struct cuda_weight &, size_t, int, uint4 v, int, float *out)
    {
        unpack_bf16x8(v, out);
    }
};

/* Word `index` of four. */
__device__ __forceinline__ uint32_t word_of(uint4 v, int index)
{
    return index == 0 ? v.x : index == 1 ? v.y : index == 2 ? v.z : v.w;
}

struct weights_q4 {
    static const int count = 32;
    __device__ static uint4 load(const struct cuda_weight &w, size_t row, int at)
    {
        return load_nc((const uint4 *)((const uint8_t *)w.data + (row * w.stride + at) / 2));
    }
    __device__ static void unpack(const struct cuda_weight &w, size_t row, int at, uint4 v,
                                  int from, float *out)
    {
        uint32_t scale = ((const uint32_t *)w.scales)[(row * w.stride + at) / CUDA_BLOCK];
        dequantize_q4x8(word_of(v, from / 8), unpack2<__half>(scale), out);
    }
};

struct weights_q8 {
    static const int count = 16;
    __device__ static uint4 load(const struct cuda_weight &w, size_t row, int at)
    {
        return load_nc((const uint4 *)((const uint8_t *)w.data + row * w.stride + at));
    }
    __device__ static void unpack(const struct cuda_weight &w, size_t row, int at, uint4 v,
                                  int from, float *out)
    {
        float d =
            half_bits_to_float(((const uint16_t *)w.scales)[(row * w.stride + at) / CUDA_BLOCK]);
        dequantize_q8x4(word_of(v, from / 4), d, out);
        dequantize_q8x4(word_of(v, from / 4 + 1), d, out + 4);
    }
};

/* ---- a warp's row ---- */

/* N activations, 4 or 8. */
template <int N> __device__ __forceinline__ void load_inputs(const float *x, float *out)
{
    for (int i = 0; i < N; i += 4) {
        float4 v = *(const float4 *)(x + i);
        out[i] = v.x, out[i + 1] = v.y, out[i + 2] = v.z, out[i + 3] = v.w;
    }
}

template <int N> __device__ __forceinline__ void load_inputs(const bf16 *x, float *out)
{
    float v[8];

    if (N == 8) {
        unpack_bf16x8(*(const uint4 *)x, out);
        return;
    }
    uint2 two = *(const uint2 *)x;
    unpack_bf16x8(make_uint4(two.x, two.y, 0, 0), v);
    for (int i = 0; i < N; i++)
        out[i] = v[i];
}

/* sum[r] = fma(weight, x[r], sum[r]), element by element. */
template <typename X, int N, int ROWS>
__device__ __forceinline__ void add_products(const float *weight, const X *const *x, int at,
                                             float *sum)
{
    LM_UNROLL
    for (int r = 0; r < ROWS; r++) {
        float in[N];
        load_inputs<N>(x[r] + at, in);
        LM_UNROLL
        for (int i = 0; i < N; i++)
            sum[r] = fmaf(weight[i], in[i], sum[r]);
    }
}

/* Sums of ROWS input rows with one weight row; every lane has them. */
template <typename W, typename X, int ROWS>
__device__ __forceinline__ void dot_rows(const struct cuda_weight &w, size_t weight_row,
                                         const X *const *x, float *sum)
{
    const int part = W::count < 8 ? W::count : 8;

    for (int r = 0; r < ROWS; r++)
        sum[r] = 0;
    for (int at = lane_id() * W::count; at < w.stride; at += WARP_LANES * W::count) {
        uint4 piece = W::load(w, weight_row, at);
        LM_UNROLL
        for (int i = 0; i < W::count; i += part) {
            float weight[part];
            W::unpack(w, weight_row, at, piece, i, weight);
            add_products<X, part, ROWS>(weight, x, at + i, sum);
        }
    }
    for (int r = 0; r < ROWS; r++)
        sum[r] = warp_sum(sum[r]);
}

template <typename W, typename X, int ROWS>
__device__ __forceinline__ void run_rows(const struct cuda_product &p, const struct cuda_part &part,
                                         int weight_row, int expert, int from, int to)
{
    size_t matrix_row = (size_t)expert * part.w.rows + weight_row;
    float bias = part.bias ? part.bias[matrix_row] : 0.0f;
    const X *x[ROWS];
    float sum[ROWS];

    for (int r = 0; r < ROWS; r++) {
        int row = min(from + r, to - 1);
        x[r] = (const X *)p.in + (size_t)(p.in_row ? p.in_row[row] : row) * p.in_stride;
    }
    dot_rows<W, X, ROWS>(part.w, matrix_row, x, sum);
    for (int r = 0; r < ROWS; r++)
        if (lane_id() == 0 && from + r < to)
            part.out[(size_t)(from + r) * part.out_stride + weight_row] = sum[r] + bias;
}

/* Grid: x over weight rows of all parts, GEMV_WARPS a block; y over groups of input rows, or over
 * experts, which then walk their rows. */
template <typename W, typename X, int ROWS>
__global__ void __launch_bounds__(GEMV_THREADS, 1)
    gemv_kernel(const __grid_constant__ struct cuda_product p)
{
    int row = blockIdx.x * GEMV_WARPS + warp_id(), part = 0;

    while (part < p.parts && row >= p.part[part].w.rows)
        row -= p.part[part++].w.rows;
    if (part == p.parts) return;
    int expert = p.experts ? blockIdx.y : 0;
    int from = p.experts ? p.first[expert] : blockIdx.y * ROWS;
    int to = p.experts ? p.first[expert + 1] : min(p.rows, from + ROWS);
    for (; from < to; from += ROWS)
        run_rows<W, X, ROWS>(p, p.part[part], row, expert, from, to);
}

/* ---- launch ---- */

template <typename W, typename X>
static void launch(const struct cuda_product *p, cudaStream_t stream)
{
    int rows = 0, wide = p->rows > 4 ? GEMV_ROWS : p->rows > 2 ? 4 : p->rows;

    for (int i = 0; i < p->parts; i++)
        rows += p->part[i].w.rows;
    dim3 grid((rows + GEMV_WARPS - 1) / GEMV_WARPS,
              p->experts ? p->experts : (p->rows + wide - 1) / wide);
    if (wide == 1)
        LM_LAUNCH((gemv_kernel<W, X, 1>), grid, GEMV_THREADS, 0, stream, *p);
    else if (wide == 2)
        LM_LAUNCH((gemv_kernel<W, X, 2>), grid, GEMV_THREADS, 0, stream, *p);
    else if (wide == 4)
        LM_LAUNCH((gemv_kernel<W, X, 4>), grid, GEMV_THREADS, 0, stream, *p);
    else
        LM_LAUNCH((gemv_kernel<W, X, GEMV_ROWS>), grid, GEMV_THREADS, 0, stream, *p);
}

template <typename W>
static void launch_for_input(const struct cuda_product *p, cudaStream_t stream)
{
    if (p->in_is_float)
        launch<W, float>(p, stream);
    else
        launch<W, bf16>(p, stream);
}

void cuda_gemv(const struct cuda_product *p, cudaStream_t stream)
{
    if (p->rows == 0) return;
    switch (p->part[0].w.form) {
    case CUDA_F32:
        launch_for_input<weights_f32>(p, stream);
        return;
    case CUDA_BF16:
        launch_for_input<weights_bf16>(p, stream);
        return;
    case CUDA_Q4:
        launch_for_input<weights_q4>(p, stream);
        return;
    case CUDA_Q8:
        launch_for_input<weights_q8>(p, stream);
        return;
    case CUDA_FORMS:
        break;
    }
    UNREACHABLE();
}
