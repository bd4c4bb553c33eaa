/* cuda_gemv.cu - products with few rows of activations, and all of those in float32.
 *
 * A warp owns a weight row and up to 8 rows of activations. Lane l takes the 16-byte pieces
 * l, l + 32, ... of the weight row and adds its products in that order, one fused multiply-add each;
 * the lanes' sums meet in a butterfly. None of that depends on how many rows there are, so a result
 * row has the same bits alone and in company. */
#include "kernels/cuda/cuda_product.h"

#include "kernels/cuda/cuda_values.cuh"
#include "shared/base/check.h"

#define GEMV_WARPS   4
#define GEMV_THREADS (32 * GEMV_WARPS)

/* ---- a lane's piece of a weight row ----
 *
 * load() brings the 16 bytes of elements [at, at + count) and their scale, unpack() makes floats of the
 * elements from `from` on, eight of them (four in float32). `ahead` pieces of a lane are on their way; they
 * stay in registers, so the loop over them is unrolled. */

struct weight_piece {
    uint4 words;
    uint32_t scale; // in the bits of the form
};

struct weights_f32 {
    static const int count = 4, ahead = 4;
    __device__ static struct weight_piece load(const struct cuda_weight &w, size_t row, int at)
    {
        return {load_nc((const uint4 *)((const float *)w.data + row * w.stride + at)), 0};
    }
    __device__ static void unpack(const struct weight_piece &v, int, float *out)
    {
        out[0] = __uint_as_float(v.words.x), out[1] = __uint_as_float(v.words.y);
        out[2] = __uint_as_float(v.words.z), out[3] = __uint_as_float(v.words.w);
    }
};

template <typename T> struct weights_real {
    static const int count = 8, ahead = 4;
    __device__ static struct weight_piece load(const struct cuda_weight &w, size_t row, int at)
    {
        return {load_nc((const uint4 *)((const T *)w.data + row * w.stride + at)), 0};
    }
    __device__ static void unpack(const struct weight_piece &v, int, float *out)
    {
        unpack8<T>(v.words, out);
    }
};

/* Word `index` of four. */
__device__ __forceinline__ uint32_t word_of(uint4 v, int index)
{
    return index == 0 ? v.x : index == 1 ? v.y : index == 2 ? v.z : v.w;
}

struct weights_q4 {
    static const int count = 32, ahead = 2;
    __device__ static struct weight_piece load(const struct cuda_weight &w, size_t row, int at)
    {
        size_t element = row * w.stride + at;
        return {load_nc((const uint4 *)((const uint8_t *)w.data + element / 2)),
                ((const uint32_t *)w.scales)[element / CUDA_BLOCK]};
    }
    __device__ static void unpack(const struct weight_piece &v, int from, float *out)
    {
        dequantize_q4x8(word_of(v.words, from / 8), unpack2<__half>(v.scale), out);
    }
};

struct weights_q8 {
    static const int count = 16, ahead = 4;
    __device__ static struct weight_piece load(const struct cuda_weight &w, size_t row, int at)
    {
        size_t element = row * w.stride + at;
        return {load_nc((const uint4 *)((const uint8_t *)w.data + element)),
                ((const uint16_t *)w.scales)[element / CUDA_BLOCK]};
    }
    __device__ static void unpack(const struct weight_piece &v, int from, float *out)
    {
        float d = half_bits_to_float((uint16_t)v.scale);
        dequantize_q8x4(word_of(v.words, from / 4), d, out);
        dequantize_q8x4(word_of(v.words, from / 4 + 1), d, out + 4);
    }
};

struct weights_f8 {
    static const int count = 16, ahead = 4;
    __device__ static struct weight_piece load(const struct cuda_weight &w, size_t row, int at)
    {
        size_t element = row * w.stride + at;
        return {load_nc((const uint4 *)((const uint8_t *)w.data + element)),
                ((const uint32_t *)w.scales)[element >> w.scale_shift]};
    }
    __device__ static void unpack(const struct weight_piece &v, int from, float *out)
    {
        float d = __uint_as_float(v.scale);
        dequantize_f8x4(word_of(v.words, from / 4), d, out);
        dequantize_f8x4(word_of(v.words, from / 4 + 1), d, out + 4);
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

template <int N, typename T> __device__ __forceinline__ void load_inputs(const T *x, float *out)
{
    float v[8];

    if (N == 8) {
        unpack8<T>(*(const uint4 *)x, out);
        return;
    }
    uint2 two = *(const uint2 *)x;
    unpack8<T>(make_uint4(two.x, two.y, 0, 0), v);
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

/* A lane's first pieces of a weight row. */
template <typename W>
__device__ __forceinline__ void load_ahead(const struct cuda_weight &w, size_t weight_row,
                                           struct weight_piece *ahead)
{
    LM_UNROLL
    for (int i = 0; i < W::ahead; i++) {
        int at = (i * WARP_LANES + lane_id()) * W::count;
        if (at < w.stride) ahead[i] = W::load(w, weight_row, at);
    }
}

/* Sums of ROWS input rows with one weight row, behind load_ahead; every lane has them. */
template <typename W, typename X, int ROWS>
__device__ __forceinline__ void dot_rows(const struct cuda_weight &w, size_t weight_row,
                                         const X *const *x, struct weight_piece *ahead, float *sum)
{
    const int part = W::count < 8 ? W::count : 8, step = WARP_LANES * W::count;

    for (int r = 0; r < ROWS; r++)
        sum[r] = 0;
    for (int base = lane_id() * W::count; base < w.stride; base += W::ahead * step) {
        LM_UNROLL
        for (int n = 0; n < W::ahead; n++) {
            int at = base + n * step, next = at + W::ahead * step;
            if (at >= w.stride) break;
            struct weight_piece piece = ahead[n];
            if (next < w.stride) ahead[n] = W::load(w, weight_row, next);
            LM_UNROLL
            for (int i = 0; i < W::count; i += part) {
                float weight[part];
                W::unpack(piece, i, weight);
                add_products<X, part, ROWS>(weight, x, at + i, sum);
            }
        }
    }
    for (int r = 0; r < ROWS; r++)
        sum[r] = warp_sum(sum[r]);
}

/* A row of weights, or one of gate and the same one of up. */
template <typename W, typename X, int ROWS>
__device__ __forceinline__ void run_rows(const struct cuda_product &p, int first, int weight_row,
                                         int expert, int from, int to, struct weight_piece *ahead)
{
    const X *x[ROWS];
    float gate[ROWS] = {}, sum[ROWS];
    int parts = p.gated.out ? 2 : 1;

    for (int r = 0; r < ROWS; r++) {
        int row = min(from + r, to - 1);
        x[r] = (const X *)p.in + (size_t)(p.in_row ? p.in_row[row] : row) * p.in_stride;
    }
#pragma unroll 1
    for (int n = 0; n < parts; n++) {
        const struct cuda_part &part = p.part[first + n];
        size_t matrix_row = (size_t)expert * part.w.rows + weight_row;
        float bias = part.bias ? part.bias[matrix_row] : 0.0f;
        for (int r = 0; r < ROWS && n > 0; r++)
            gate[r] = sum[r];
        if (n > 0 || p.experts) load_ahead<W>(part.w, matrix_row, ahead);
        dot_rows<W, X, ROWS>(part.w, matrix_row, x, ahead, sum);
        for (int r = 0; r < ROWS; r++)
            sum[r] += bias;
    }
    for (int r = 0; r < ROWS; r++) {
        if (lane_id() != 0 || from + r >= to) continue;
        const struct cuda_part &part = p.part[first];
        if (p.gated.out)
            ((X *)p.gated.out)[(size_t)(from + r) * p.gated.stride + weight_row] =
                to_real<X>(activated(p.gated.kind, gate[r], sum[r]));
        else
            part.out[(size_t)(from + r) * part.out_stride + weight_row] = sum[r];
    }
}

/* Grid: x over weight rows of all parts, GEMV_WARPS a block; y over groups of input rows, or over
 * experts, which then walk their rows. Which experts have rows is known only behind the wait; other
 * weights are on their way before it. */
template <typename W, typename X, int ROWS>
__global__ void __launch_bounds__(GEMV_THREADS, 1)
    gemv_kernel(const __grid_constant__ struct cuda_product p)
{
    int row = blockIdx.x * GEMV_WARPS + warp_id(), part = 0, parts = p.gated.out ? 1 : p.parts;
    struct weight_piece ahead[W::ahead];

    pdl_trigger();
    while (part < parts && row >= p.part[part].w.rows)
        row -= p.part[part++].w.rows;
    if (part < parts && !p.experts) load_ahead<W>(p.part[part].w, row, ahead);
    pdl_wait();
    if (part == parts) return;
    int expert = p.experts ? blockIdx.y : 0;
    int from = p.experts ? p.first[expert] : blockIdx.y * ROWS;
    int to = p.experts ? p.first[expert + 1] : min(p.rows, from + ROWS);
    for (; from < to; from += ROWS)
        run_rows<W, X, ROWS>(p, part, row, expert, from, to, ahead);
}

/* ---- launch ---- */

template <typename W, typename X, int ROWS>
static void launch_rows(const struct cuda_product *p, cudaStream_t stream)
{
    int rows = 0;

    for (int i = 0; i < (p->gated.out ? 1 : p->parts); i++)
        rows += p->part[i].w.rows;
    dim3 grid((rows + GEMV_WARPS - 1) / GEMV_WARPS,
              p->experts ? p->experts : (p->rows + ROWS - 1) / ROWS);
    LM_LAUNCH_PDL((gemv_kernel<W, X, ROWS>), grid, GEMV_THREADS, 0, stream, *p);
}

template <typename W, typename X>
static void launch(const struct cuda_product *p, cudaStream_t stream)
{
    if (p->rows == 1)
        launch_rows<W, X, 1>(p, stream);
    else if (p->rows == 2)
        launch_rows<W, X, 2>(p, stream);
    else
        launch_rows<W, X, 4>(p, stream);
}

static void launch_float(const struct cuda_product *p, cudaStream_t stream)
{
    if (p->rows > 4)
        launch_rows<weights_f32, float, 8>(p, stream);
    else
        launch<weights_f32, float>(p, stream);
}

template <typename X> static void launch_form(const struct cuda_product *p, cudaStream_t stream)
{
    switch (p->part[0].w.form) {
    case CUDA_BF16:
    case CUDA_F16:
        launch<weights_real<X>, X>(p, stream);
        return;
    case CUDA_Q4:
        launch<weights_q4, X>(p, stream);
        return;
    case CUDA_Q8:
        launch<weights_q8, X>(p, stream);
        return;
    case CUDA_F8:
        launch<weights_f8, X>(p, stream);
        return;
    case CUDA_F32:
    case CUDA_FORMS:
        break;
    }
    UNREACHABLE();
}

void cuda_gemv(const struct cuda_product *p, cudaStream_t stream)
{
    if (p->rows == 0) return;
    CHECK(cuda_form_meets(p->part[0].w.form, p->in_real));
    if (p->in_real == CUDA_REAL_F32)
        launch_float(p, stream);
    else
        with_real16(p->in_real, [&]<typename X>(X) { launch_form<X>(p, stream); });
}
