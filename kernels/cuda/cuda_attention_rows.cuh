/* cuda_attention_rows.cuh - sixteen query rows of a warp against the positions of a page, on tensor
 * cores: what decode and prefill have in common, which is all of the arithmetic (cuda_attention.h A2, A3).
 *
 * Lane l holds rows l / 4 and l / 4 + 8 ("half" 0 and 1) as mma.m16n8k16 deals them out. Positions come in
 * chunks of 16, rows of K or V in shared memory:
 *
 *     scores      s[2 c], s[2 c + 1] = Q K^T of chunk c        B from K by ldmatrix
 *     softmax     s -> probabilities, once for a page
 *     values      o += P V of chunk c                          B from V by transposing ldmatrix
 *
 * Pages of bytes go the same way with two elements where there was one. A sum over elements may take them in any
 * order that Q follows, so a lane's four neighbouring bytes of K meet elements 4 t .. 4 t + 3 of Q. A pair
 * of V's neighbours becomes one column of each of two products, so columns of o are in another order: output_dim. */
#ifndef LM_KERNELS_CUDA_ATTENTION_ROWS_CUH
#define LM_KERNELS_CUDA_ATTENTION_ROWS_CUH

#include "kernels/cuda/cuda_attention_parts.h"

#define CHUNK       16 // positions
#define PAGE_CHUNKS (KV_BLOCK_TOKENS / CHUNK)
#define LOG2_E      1.4426950408889634f

/* CHUNK rows of DIM elements in shared memory. Sixteen bytes behind each row: eight rows then begin in different
 * banks. Scales stand behind the rows. */
template <int TYPE, int DIM> struct chunk {
    static const int row_bytes = DIM * (TYPE == KV_INT8 ? 1 : 2);
    static const int pitch = row_bytes + 16;
    static const int scales = CHUNK * pitch;
    static const int ahead = DIM <= 128 ? 8 : 2; // products unrolled: more load operands too early
    static const int bytes = scales + (TYPE == KV_INT8 ? CHUNK * 4 : 0);
};

/* Rows [0, ROWS) of a part, of which the first `live` are read and the others become zero. Asynchronous:
 * the caller commits. Called by `threads` threads. */
template <int TYPE, int DIM, int ROWS>
__device__ __forceinline__ void load_rows(uint8_t *to, const uint8_t *rows, const uint8_t *scales,
                                          int live, int thread, int threads)
{
    typedef chunk<TYPE, DIM> shape;
    const int pieces = shape::row_bytes / 16;

#pragma unroll 8
    for (int i = thread; i < ROWS * pieces; i += threads) {
        int row = i / pieces, piece = i % pieces;
        uint8_t *at = to + row / CHUNK * shape::bytes + row % CHUNK * shape::pitch + 16 * piece;
        cp_async_zero16(at, rows + 16 * i, row < live ? 16 : 0);
    }
    if (TYPE == KV_INT8 && thread < ROWS / 4) { // four scales a thread
        int left = 4 * (live - 4 * thread);
        uint8_t *at =
            to + thread / (CHUNK / 4) * shape::bytes + shape::scales + 16 * (thread % (CHUNK / 4));
        cp_async_zero16(at, scales + 16 * thread, left < 0 ? 0 : left > 16 ? 16 : left);
    }
}

/* ---- pairs of 16-bit floats ---- */

template <int TYPE> __device__ __forceinline__ uint32_t pack_pair(float low, float high)
{
    return TYPE == KV_F16 ? pack2<__half>(low, high) : pack2<__nv_bfloat16>(low, high);
}

template <int TYPE>
__device__ __forceinline__ void mma_pair(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    uint32_t b[2] = {b0, b1};
    if (TYPE == KV_F16)
        mma_f16(d, a, b);
    else
        mma_bf16(d, a, b);
}

__device__ __forceinline__ uint32_t sub_bf16x2(uint32_t a, uint32_t b)
{
    __nv_bfloat162 x, y;

    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    x = __hsub2(x, y);
    memcpy(&a, &x, sizeof a);
    return a;
}

/* Two signed bytes of a word as bfloat16, exactly. Behind 0x43 a byte's low seven bits make 128 + bits,
 * and its sign bit alone 128, or 256 where it is set. */
template <int SELECTOR> __device__ __forceinline__ uint32_t bytes_to_bf16x2(uint32_t word)
{
    uint32_t pair = __byte_perm(word, 0x43434343u, SELECTOR);
    return sub_bf16x2(pair & 0xff7fff7fu, pair & 0xff80ff80u);
}

#define BYTES_01 0x4140
#define BYTES_23 0x4342
#define BYTES_02 0x4240
#define BYTES_13 0x4341

/* ---- queries ---- */

/* A operands of a warp's rows. Up to 128 elements they stay in registers, else in shared memory, in the order in
 * which lanes read them. */
template <int DIM> struct query_rows {
    static const bool resident = DIM <= 128;
    static const int steps = DIM / 16;
    static const int shared_bytes = resident ? 0 : steps * 32 * 16;
    uint32_t a[resident ? steps : 1][4];
    uint4 *shared;

    __device__ __forceinline__ void get(int step, int lane, uint32_t out[4]) const
    {
        uint4 v = resident ? make_uint4(a[step][0], a[step][1], a[step][2], a[step][3])
                           : shared[32 * step + lane];
        out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
    }
};

template <int TYPE>
__device__ __forceinline__ uint32_t query_pair(const float *row, int at, int head_dim)
{
    if (!row || at >= head_dim) return 0;
    float2 v = *(const float2 *)(row + at);
    if (TYPE == KV_F16) {
        v.x = fminf(fmaxf(v.x, -65504.0f), 65504.0f);
        v.y = fminf(fmaxf(v.y, -65504.0f), 65504.0f);
    }
    return pack_pair<TYPE>(v.x, v.y);
}

/* row[half]: the lane's rows of q, NULL: none. `shared` is the warp's own. */
template <int TYPE, int DIM>
__device__ __forceinline__ void load_queries(query_rows<DIM> &q, const float *const row[2],
                                             int head_dim, int lane, uint8_t *shared)
{
    const int low = TYPE == KV_INT8 ? 4 * (lane & 3) : 2 * (lane & 3),
              step_high = TYPE == KV_INT8 ? 2 : 8;

    q.shared = (uint4 *)shared;
#pragma unroll
    for (int s = 0; s < DIM / 16; s++) {
        uint32_t a[4];
        a[0] = query_pair<TYPE>(row[0], 16 * s + low, head_dim);
        a[1] = query_pair<TYPE>(row[1], 16 * s + low, head_dim);
        a[2] = query_pair<TYPE>(row[0], 16 * s + low + step_high, head_dim);
        a[3] = query_pair<TYPE>(row[1], 16 * s + low + step_high, head_dim);
        if (query_rows<DIM>::resident) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                q.a[query_rows<DIM>::resident ? s : 0][i] = a[i];
        } else {
            q.shared[32 * s + lane] = make_uint4(a[0], a[1], a[2], a[3]);
        }
    }
}

/* ---- one chunk of K ---- */

/* The lane's columns of a tile of 8 positions are 2 t and 2 t + 1. */
__device__ __forceinline__ float2 chunk_scales(const uint8_t *scales, int tile, int lane)
{
    return *(const float2 *)(scales + 4 * (8 * tile + 2 * (lane & 3)));
}

template <int TYPE, int DIM>
__device__ __forceinline__ void scores_of(const query_rows<DIM> &q, const uint8_t *k, int lane,
                                          float s0[4], float s1[4])
{
    typedef chunk<TYPE, DIM> shape;
    const uint8_t *row = k + ((lane >> 4) * 8 + (lane & 7)) * shape::pitch + (lane >> 3 & 1) * 16;

    for (int i = 0; i < 4; i++)
        s0[i] = s1[i] = 0;
#pragma unroll(shape::ahead)
    for (int step = 0; step < shape::row_bytes / 32; step++) {
        uint32_t b[4], a[4];
        ldmatrix_x4(b, row + 32 * step);
        if (TYPE == KV_INT8) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                q.get(2 * step + i, lane, a);
                mma_pair<TYPE>(s0, a, bytes_to_bf16x2<BYTES_01>(b[i]),
                               bytes_to_bf16x2<BYTES_23>(b[i]));
                mma_pair<TYPE>(s1, a, bytes_to_bf16x2<BYTES_01>(b[2 + i]),
                               bytes_to_bf16x2<BYTES_23>(b[2 + i]));
            }
        } else {
            q.get(step, lane, a);
            mma_pair<TYPE>(s0, a, b[0], b[1]);
            mma_pair<TYPE>(s1, a, b[2], b[3]);
        }
    }
    if (TYPE == KV_INT8) {
        float2 t0 = chunk_scales(k + shape::scales, 0, lane),
               t1 = chunk_scales(k + shape::scales, 1, lane);
        s0[0] *= t0.x, s0[1] *= t0.y, s0[2] *= t0.x, s0[3] *= t0.y;
        s1[0] *= t1.x, s1[1] *= t1.y, s1[2] *= t1.x, s1[3] *= t1.y;
    }
}

/* ---- the running softmax of a split ---- */

/* Positions that the lane's rows see; first > last: none. */
struct visible_range {
    int first[2], last[2];
};

template <int DIM> struct split_state {
    float o[DIM / 8][4];    // not divided
    float max[2], total[2]; // of scores as they are; total: of the lane's columns
};

template <int DIM> __device__ __forceinline__ void split_clear(split_state<DIM> &x, int half)
{
#pragma unroll
    for (int j = 0; j < DIM / 8; j++)
        x.o[j][2 * half] = x.o[j][2 * half + 1] = 0;
    x.max[half] = -INFINITY;
    x.total[half] = 0;
}

/* cap * tanh(x * scale / cap), by tanh(z) = 1 - 2 / (2^(2 z log2 e) + 1) */
__device__ __forceinline__ float capped_score(float x, float twice_log2, float cap)
{
    return fmaf(-2.0f * cap, rcp_approx(exp2_approx(x * twice_log2) + 1.0f), cap);
}

/* How scores become exponents of two: x of the products, capped if there is a cap, times `unit`. */
struct score_scale {
    float unit, cap, twice_log2;
};

__device__ __forceinline__ score_scale score_scale_of(const attention_params &p)
{
    score_scale c;
    c.cap = p.softcap;
    c.unit = p.softcap != 0 ? LOG2_E : p.scale * LOG2_E;
    c.twice_log2 = p.softcap != 0 ? 2 * LOG2_E * p.scale / p.softcap : 0;
    return c;
}

/* Scores of the page at position `base` into probabilities; `whole`: every row sees all of it. */
template <int DIM>
__device__ __forceinline__ void softmax_page(split_state<DIM> &x, float s[2 * PAGE_CHUNKS][4],
                                             const score_scale &c, const visible_range &see,
                                             int base, bool whole, int lane)
{
    if (c.cap != 0) {
#pragma unroll
        for (int j = 0; j < 2 * PAGE_CHUNKS; j++)
            for (int i = 0; i < 4; i++)
                s[j][i] = capped_score(s[j][i], c.twice_log2, c.cap);
    }
    if (!whole) {
#pragma unroll
        for (int j = 0; j < 2 * PAGE_CHUNKS; j++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int position = base + 8 * j + 2 * (lane & 3) + (i & 1);
                if (position < see.first[i >> 1] || position > see.last[i >> 1])
                    s[j][i] = -INFINITY;
            }
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = s[0][2 * half], sum = 0;
#pragma unroll
        for (int j = 0; j < 2 * PAGE_CHUNKS; j++)
            top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
        top = fmaxf(x.max[half], warp_max<4>(top));
        float origin = top > -INFINITY ? top * c.unit : 0.0f;
#pragma unroll
        for (int j = 0; j < 2 * PAGE_CHUNKS; j++) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[j][i] = exp2_approx(fmaf(s[j][i], c.unit, -origin));
                sum += s[j][i];
            }
        }
        float fade = x.max[half] < top ? exp2_approx((x.max[half] - top) * c.unit) : 1.0f;
        x.total[half] = fmaf(x.total[half], fade, sum);
        x.max[half] = top;
        if (fade == 1.0f) continue; // most pages behind the first few
#pragma unroll
        for (int j = 0; j < DIM / 8; j++) {
            x.o[j][2 * half] *= fade;
            x.o[j][2 * half + 1] *= fade;
        }
    }
}

/* ---- one chunk of V ---- */

template <int TYPE, int DIM>
__device__ __forceinline__ void add_values(split_state<DIM> &x, const uint8_t *v, int lane,
                                           const float s0[4], const float s1[4])
{
    typedef chunk<TYPE, DIM> shape;
    const uint8_t *row = v + ((lane >> 3 & 1) * 8 + (lane & 7)) * shape::pitch + (lane >> 4) * 16;
    float2 t0 = make_float2(1, 1), t1 = t0;

    if (TYPE == KV_INT8) {
        t0 = chunk_scales(v + shape::scales, 0, lane);
        t1 = chunk_scales(v + shape::scales, 1, lane);
    }
    uint32_t a[4] = {
        pack_pair<TYPE>(s0[0] * t0.x, s0[1] * t0.y), pack_pair<TYPE>(s0[2] * t0.x, s0[3] * t0.y),
        pack_pair<TYPE>(s1[0] * t1.x, s1[1] * t1.y), pack_pair<TYPE>(s1[2] * t1.x, s1[3] * t1.y)};
#pragma unroll
    for (int step = 0; step < shape::row_bytes / 32; step++) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, row + 32 * step);
        if (TYPE == KV_INT8) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t *w = b + 2 * i;
                float(*o)[4] = x.o + 4 * step + 2 * i;
                mma_pair<TYPE>(o[0], a, bytes_to_bf16x2<BYTES_02>(w[0]),
                               bytes_to_bf16x2<BYTES_02>(w[1]));
                mma_pair<TYPE>(o[1], a, bytes_to_bf16x2<BYTES_13>(w[0]),
                               bytes_to_bf16x2<BYTES_13>(w[1]));
            }
        } else {
            mma_pair<TYPE>(x.o[2 * step], a, b[0], b[1]);
            mma_pair<TYPE>(x.o[2 * step + 1], a, b[2], b[3]);
        }
    }
}

/* Of the lane's four columns of products 2 j and 2 j + 1, pair `k` are neighbours: output_dim and the
 * next. */
template <int TYPE> __device__ __forceinline__ int output_dim(int j, int k, int lane)
{
    return 16 * j + (TYPE == KV_INT8 ? 4 * (lane & 3) + 2 * k : 8 * k + 2 * (lane & 3));
}

template <int TYPE, int DIM>
__device__ __forceinline__ float2 output_pair(const split_state<DIM> &x, int j, int k, int half)
{
    return TYPE == KV_INT8 ? make_float2(x.o[2 * j][2 * half + k], x.o[2 * j + 1][2 * half + k])
                           : make_float2(x.o[2 * j + k][2 * half], x.o[2 * j + k][2 * half + 1]);
}

/* ---- splits meet ---- */

/* A row's result so far, but for its sums. */
struct row_total {
    float max, total; // base 2
};

__device__ __forceinline__ row_total row_total_begin(const float *sinks, int head)
{
    row_total r = {-INFINITY, 0.0f};
    if (sinks) {
        r.max = sinks[head] * LOG2_E;
        r.total = 1.0f; // the sink's 2^0
    }
    return r;
}

/* Add a split's maximum (base 2) and total; what the sums are to be multiplied by: old ones, the split's. */
__device__ __forceinline__ float2 row_total_add(row_total &r, float max, float total)
{
    float top = fmaxf(r.max, max);
    if (top == -INFINITY) return make_float2(1.0f, 0.0f);
    float2 factor = make_float2(exp2_approx(r.max - top), exp2_approx(max - top));
    r.total = fmaf(r.total, factor.x, total * factor.y);
    r.max = top;
    return factor;
}

/* sum = sum * factor.x + o * factor.y */
__device__ __forceinline__ float merged(float sum, float o, float2 factor)
{
    return fmaf(sum, factor.x, o * factor.y);
}

/* A split's maximum in base 2. */
__device__ __forceinline__ float split_max(float max, const score_scale &c)
{
    return max > -INFINITY ? max * c.unit : -INFINITY;
}

/* Of the step's image, before pdl_wait(): past L1, which may have the image of the step before. */
template <class T> __device__ __forceinline__ T load_early(const T *at)
{
    int32_t word[sizeof(T) / sizeof(int32_t)];
    T v;

    LM_UNROLL
    for (size_t i = 0; i < sizeof(T) / sizeof(int32_t); i++)
        word[i] = __ldcg((const int32_t *)at + i);
    memcpy(&v, word, sizeof v);
    return v;
}

__device__ __forceinline__ attention_sequence sequence_of(const attention_params &p,
                                                          const attention_image *image,
                                                          const attention_tile &t)
{
    return ((const attention_sequence *)(p.image + image->sequences))[t.sequence];
}

/* Where a row of a tile comes from and goes to. */
struct tile_row {
    int position; // -1: there is no such row
    int head;     // query head
    size_t token; // of the step
};

__device__ __forceinline__ tile_row tile_row_of(const attention_params &p,
                                                const attention_sequence &s,
                                                const attention_tile &t, int kv_head, int row)
{
    tile_row r = {-1, 0, 0};
    if (row >= t.tokens * t.heads) return r;
    int token = t.token + row / t.heads;
    r.position = s.past + token;
    r.head = kv_head * p.group + t.head + row % t.heads;
    r.token = (size_t)(s.first + token);
    return r;
}

__device__ __forceinline__ int first_visible(int position, int window)
{
    return window > 0 && position >= window ? position - window + 1 : 0;
}

/* o's type is a matter of the last line only, so kernels aren't doubled for it. */
__device__ __forceinline__ void store_pair(const attention_params &p, const tile_row &r, int dim,
                                           float2 v)
{
    if (dim >= p.value_dim) return;
    uint16_t *row = (uint16_t *)p.o + r.token * (size_t)p.o_stride + r.head * p.value_dim;
    *(uint32_t *)(row + dim) = p.o_real == CUDA_REAL_F16
                                   ? pack2<f16>(within_f16(v.x), within_f16(v.y))
                                   : pack2<bf16>(v.x, v.y);
}

#endif
