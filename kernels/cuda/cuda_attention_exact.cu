/* cuda_attention_exact.cu - the float32 path: the CPU backend's arithmetic, operation by operation and in its
 * order (kernels/cpu/README.md T1-T6, K1-K4, P1, P3), so that both give the same bits.
 *
 * A block of threads takes up to 16 rows of a tile over all pages in order. A page's K, then its V, lie in shared
 * memory as float32. For scores a thread has a position and half of the rows; for the softmax a warp has a
 * row at a time; for the output a thread has one or two elements of V and all rows. */
#include "kernels/cuda/cuda_attention_parts.h"

#define EXACT_THREADS 128
#define EXACT_WARPS   (EXACT_THREADS / WARP_LANES)
#define EXACT_ROWS    ATTENTION_TILE_ROWS
#define EXACT_GROUPS  (EXACT_THREADS / KV_BLOCK_TOKENS)   // of rows, for scores
#define EXACT_DIMS    (CUDA_HEAD_DIM_MAX / EXACT_THREADS) // of V, of a thread

/* Shared memory, all float32. */
struct exact_memory {
    float *q;    // [rows][head_dim], scaled
    float *page; // K: [64][head_dim + 1], each position in another bank; V: [64][value_dim]
    float *p;    // [rows][64] scores, then probabilities
    float *max, *total, *fade, *scale; // [rows], [rows], [rows], [64]
    int *first, *last;                 // [rows] visible positions; none: first > last
};

static size_t exact_shared_bytes(const struct attention_params *p)
{
    int row = p->head_dim + 1 > p->value_dim ? p->head_dim + 1 : p->value_dim;
    int floats = EXACT_ROWS * p->head_dim + KV_BLOCK_TOKENS * row + EXACT_ROWS * KV_BLOCK_TOKENS;
    return (size_t)(floats + 5 * EXACT_ROWS + KV_BLOCK_TOKENS) * sizeof(float);
}

__device__ __forceinline__ exact_memory exact_memory_of(const attention_params &p, float *at)
{
    exact_memory m;
    int row = max(p.head_dim + 1, p.value_dim);

    m.q = at;
    m.page = m.q + EXACT_ROWS * p.head_dim;
    m.p = m.page + KV_BLOCK_TOKENS * row;
    m.max = m.p + EXACT_ROWS * KV_BLOCK_TOKENS;
    m.total = m.max + EXACT_ROWS;
    m.fade = m.total + EXACT_ROWS;
    m.scale = m.fade + EXACT_ROWS;
    m.first = (int *)(m.scale + KV_BLOCK_TOKENS);
    m.last = m.first + EXACT_ROWS;
    return m;
}

/* P3 */
__device__ __forceinline__ float exact_exp(float x)
{
    const float rounder = 0x1.8p23f;
    float clamped = fminf(x, 88.0f), magic = fmaf(clamped, 0x1.715476p0f, rounder),
          n = magic - rounder;
    float r = fmaf(n, -0x1.7f7d1cp-20f, fmaf(n, -0x1.62e4p-1f, clamped)); // ln 2 in two parts
    float p = 0x1.6a244cp-10f;

    p = fmaf(p, r, 0x1.1239d4p-7f);
    p = fmaf(p, r, 0x1.5558f2p-5f);
    p = fmaf(p, r, 0x1.555492p-3f);
    p = fmaf(p, r, 0x1.fffffcp-2f);
    float e = fmaf(p, r * r, r) + 1.0f;
    return x < -87.0f ? 0.0f : __uint_as_float(__float_as_uint(e) + (__float_as_uint(magic) << 23));
}

__device__ __forceinline__ float exact_softcap(float x, float cap)
{
    float denominator = exact_exp(x / cap * 2.0f) + 1.0f;
    return (1.0f - 2.0f / denominator) * cap;
}

__device__ __forceinline__ float stored_element(enum kv_type type, const uint8_t *row, size_t at)
{
    if (type == KV_F32) return ((const float *)row)[at];
    if (type == KV_F16) return __half2float(((const __half *)row)[at]);
    if (type == KV_BF16) return __bfloat162float(((const __nv_bfloat16 *)row)[at]);
    return (float)((const int8_t *)row)[at];
}

/* A page's K or V; positions from `live` on are zero. */
__device__ void exact_load(enum kv_type type, float *to, int to_stride, const uint8_t *rows,
                           int stride, int dim, float *scale, const uint8_t *scales, int live)
{
    for (int i = threadIdx.x; i < KV_BLOCK_TOKENS * dim; i += EXACT_THREADS) {
        int position = i / dim, d = i % dim;
        to[position * to_stride + d] =
            position < live ? stored_element(type, rows, (size_t)position * stride + d) : 0.0f;
    }
    for (int i = threadIdx.x; type == KV_INT8 && i < KV_BLOCK_TOKENS; i += EXACT_THREADS)
        scale[i] = i < live ? ((const float *)scales)[i] : 0.0f;
}

/* T1, K3: thread = (position, every EXACT_GROUPS-th row). */
__device__ void exact_scores(const attention_params &p, const exact_memory &m)
{
    const int rows = EXACT_ROWS / EXACT_GROUPS;
    int position = threadIdx.x % KV_BLOCK_TOKENS, group = threadIdx.x / KV_BLOCK_TOKENS;
    const float *k = m.page + position * (p.head_dim + 1);
    float sum[rows] = {};

    for (int d = 0; d < p.head_dim; d++) {
        float element = k[d];
#pragma unroll
        for (int i = 0; i < rows; i++)
            sum[i] = fmaf(m.q[(group + EXACT_GROUPS * i) * p.head_dim + d], element, sum[i]);
    }
#pragma unroll
    for (int i = 0; i < rows; i++) {
        if (p.type == KV_INT8) sum[i] *= m.scale[position];
        if (p.softcap != 0) sum[i] = exact_softcap(sum[i], p.softcap);
        m.p[(group + EXACT_GROUPS * i) * KV_BLOCK_TOKENS + position] = sum[i];
    }
}

/* T2, T3, by a warp. A row that sees nothing of the page keeps what it has. */
__device__ void exact_softmax(const exact_memory &m, int row, int base)
{
    int lane = lane_id();
    float *s = m.p + row * KV_BLOCK_TOKENS, old = m.max[row], e[2];

    if (base + KV_BLOCK_TOKENS <= m.first[row] || base > m.last[row]) {
        s[lane] = s[lane + 32] = 0;
        if (lane == 0) m.fade[row] = 1;
        return;
    }
    for (int i = 0; i < 2; i++) {
        int position = base + lane + 32 * i;
        e[i] = position < m.first[row] || position > m.last[row] ? -INFINITY : s[lane + 32 * i];
    }
    float top = fmaxf(old, warp_max(fmaxf(e[0], e[1])));
    for (int i = 0; i < 2; i++)
        s[lane + 32 * i] = e[i] = exact_exp(e[i] - top);
    /* lanes mod 16 add positions l, l + 16, l + 32, l + 48, then P1's tree */
    float other[2] = {__shfl_xor_sync(WARP_ALL, e[0], 16), __shfl_xor_sync(WARP_ALL, e[1], 16)};
    float sum = lane < 16 ? e[0] + other[0] + e[1] + other[1] : 0.0f;
    sum = warp_sum<16>(sum);
    __syncwarp(); // all have read the maximum
    if (lane != 0) return;
    float fade = exact_exp(old - top);
    m.fade[row] = fade;
    m.total[row] = fmaf(m.total[row], fade, sum);
    m.max[row] = top;
}

/* T4, K4: thread = (element, all rows). */
__device__ void exact_values(const attention_params &p, const exact_memory &m,
                             float o[EXACT_ROWS][EXACT_DIMS])
{
#pragma unroll
    for (int r = 0; r < EXACT_ROWS; r++) {
        float fade = m.fade[r];
#pragma unroll
        for (int i = 0; i < EXACT_DIMS; i++)
            if (fade != 1.0f) o[r][i] *= fade;
    }
    for (int position = 0; position < KV_BLOCK_TOKENS; position++) {
        float scale = p.type == KV_INT8 ? m.scale[position] : 1.0f;
#pragma unroll
        for (int i = 0; i < EXACT_DIMS; i++) {
            int d = threadIdx.x + EXACT_THREADS * i;
            float v = d < p.value_dim ? m.page[position * p.value_dim + d] : 0.0f;
#pragma unroll
            for (int r = 0; r < EXACT_ROWS; r++)
                o[r][i] = fmaf(m.p[r * KV_BLOCK_TOKENS + position] * scale, v, o[r][i]);
        }
    }
}

/* Where a tile's rows come from: token of the step and query head of row r. */
__device__ __forceinline__ size_t exact_row(const attention_params &p, const attention_sequence &s,
                                            const attention_tile &t, int kv_head, int r, int *head)
{
    *head = kv_head * p.group + t.head + r % t.heads;
    return (size_t)(s.first + t.token + r / t.heads);
}

__device__ void exact_begin(const attention_params &p, const attention_sequence &s,
                            const attention_tile &t, int kv_head, const exact_memory &m)
{
    int rows = t.tokens * t.heads, head;

    for (int i = threadIdx.x; i < EXACT_ROWS * p.head_dim; i += EXACT_THREADS) {
        int r = i / p.head_dim, d = i % p.head_dim;
        size_t token = exact_row(p, s, t, kv_head, r, &head);
        m.q[i] = r < rows ? p.q[token * p.q_stride + head * p.head_dim + d] * p.scale : 0.0f;
    }
    if (threadIdx.x >= EXACT_ROWS) return;
    int r = threadIdx.x, last = s.past + t.token + r / t.heads;
    exact_row(p, s, t, kv_head, r, &head);
    m.max[r] = p.sinks && r < rows ? p.sinks[head] : -INFINITY;
    m.total[r] = p.sinks && r < rows ? 1.0f : 0.0f; // the sink's e^0
    m.first[r] = p.window > 0 && last >= p.window ? last - p.window + 1 : 0;
    m.last[r] = r < rows ? last : -1;
}

__device__ __forceinline__ void exact_store(const attention_params &p, size_t at, float v)
{
    if (p.o_real == CUDA_REAL_F32)
        ((float *)p.o)[at] = v;
    else if (p.o_real == CUDA_REAL_BF16)
        ((bf16 *)p.o)[at] = to_real<bf16>(v);
    else
        ((f16 *)p.o)[at] = to_real<f16>(v);
}

__global__ void __launch_bounds__(EXACT_THREADS) exact_kernel(const attention_params p)
{
    pdl_begin();
    LM_SHARED_DYNAMIC(float, memory);
    exact_memory m = exact_memory_of(p, memory);
    const attention_image *image = (const attention_image *)p.image;
    const attention_tile t =
        ((const attention_tile *)(p.image + image->prefill))[blockIdx.x / p.kv_heads];
    const attention_sequence s =
        ((const attention_sequence *)(p.image + image->sequences))[t.sequence];
    int kv_head = blockIdx.x % p.kv_heads, oldest = s.past + t.token;
    int from = (p.window > 0 && oldest >= p.window ? oldest - p.window + 1 : 0) / KV_BLOCK_TOKENS;
    float o[EXACT_ROWS][EXACT_DIMS] = {};

    exact_begin(p, s, t, kv_head, m);
    for (int page = from; page <= (oldest + t.tokens - 1) / KV_BLOCK_TOKENS; page++) {
        const uint8_t *part =
            p.parts + (size_t)p.image[s.table + page] * p.page_bytes + kv_head * p.part_bytes;
        int base = page * KV_BLOCK_TOKENS, live = s.past + s.count - base;
        exact_load(p.type, m.page, p.head_dim + 1, part, p.key_stride, p.head_dim, m.scale,
                   part + p.key_scales, live);
        __syncthreads();
        exact_scores(p, m);
        __syncthreads();
        for (int r = warp_id(); r < EXACT_ROWS; r += EXACT_WARPS)
            exact_softmax(m, r, base);
        exact_load(p.type, m.page, p.value_dim, part + p.values, p.value_stride, p.value_dim,
                   m.scale, part + p.value_scales, live);
        __syncthreads();
        exact_values(p, m, o);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < EXACT_ROWS; r++) {
        if (r >= t.tokens * t.heads) continue;
        int head;
        size_t token = exact_row(p, s, t, kv_head, r, &head);
        size_t at = token * p.o_stride + head * p.value_dim;
        float inverse = 1.0f / m.total[r];
#pragma unroll
        for (int i = 0; i < EXACT_DIMS; i++) {
            int d = threadIdx.x + EXACT_THREADS * i;
            if (d >= p.value_dim) continue;
            exact_store(p, at + d, o[r][i] * inverse);
        }
    }
}

void attention_exact_launch(const struct attention_params *p, int blocks, cudaStream_t stream)
{
    LM_LAUNCH_PDL(exact_kernel, blocks, EXACT_THREADS, exact_shared_bytes(p), stream, *p);
}
