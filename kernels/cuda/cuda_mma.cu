/* cuda_mma.cu - products on tensor cores by mma m16n8k16, in bfloat16 or float16 with float32 sums.
 *
 * Weight rows are the side of 16 and rows of activations the side of 8, so a step with one row wastes
 * columns of the multiplier, not bandwidth. A block makes 16 * GROUPS weight rows by 8 * TILES input
 * rows. Per stage, in shared memory:
 *
 *     weights [16 * GROUPS][MMA_DEPTH]    inputs [8 * TILES][MMA_DEPTH]
 *
 * Each group of weight rows has four warps, and of every stage's four steps of 16 along K a warp takes
 * its own. So an output has four sums, of the steps 0, 4, 8, ... and so on, which meet in order at the
 * end. That is so whatever GROUPS and TILES are: an output's bits don't depend on how many rows there
 * are or where among them it stands.
 *
 * Weights of 16 bits come by cp.async, MMA_STAGES - 1 stages ahead. Weights in blocks pass through
 * registers, MMA_AHEAD stages ahead, and become of the inputs' type on the way to shared memory. E4M3 does so exactly
 * without its scales: the products of a step, which lies in one block of each row, are scaled when they are added. The
 * first stages' weights don't wait for the kernel before.
 *
 * A gated product's groups have eight rows of gate and the same eight of up, so that a lane ends with both of
 * an element. The largest tiles don't do that: their sums leave no registers for it. */
#include "kernels/cuda/cuda_product.h"

#include "kernels/cuda/cuda_mma_weights.cuh"
#include "shared/base/check.h"

#define MMA_STEPS       4                // of 16 along K, one for each warp of a group
#define MMA_DEPTH       (16 * MMA_STEPS) // of K, one stage
#define MMA_PIECES      (MMA_DEPTH / 8)  // 16 bytes each
#define MMA_PITCH       (MMA_DEPTH + 8) // elements; 144 bytes: eight rows fall into different banks
#define MMA_STAGES      3

/* Stages of weights in blocks that a thread has asked for; the largest tiles have no registers for more than one. A
 * multiple of MMA_STAGES: where a stage lies is then known to the compiler. */
#define MMA_AHEAD       6
#define MMA_AHEAD_LARGE 1

struct mma_stage {     // of 16-bit elements
    uint16_t *weights; // [16 * GROUPS][MMA_PITCH]
    uint16_t *in;      // [8 * TILES][MMA_PITCH]
};

static size_t stage_elements(int groups, int tiles)
{
    return (size_t)(16 * groups + 8 * tiles) * MMA_PITCH;
}

template <int GROUPS, int TILES>
__device__ __forceinline__ struct mma_stage stage_at(uint16_t *shared, int stage)
{
    struct mma_stage s;
    s.weights = shared + (stage % MMA_STAGES) * (16 * GROUPS + 8 * TILES) * MMA_PITCH;
    s.in = s.weights + 16 * GROUPS * MMA_PITCH;
    return s;
}

__device__ __forceinline__ void put_zero(uint16_t *to)
{
    *(uint4 *)to = make_uint4(0, 0, 0, 0);
}

/* ---- from memory to a stage ---- */

template <typename W, int TILES> __device__ constexpr int ahead_of()
{
    return !W::in_blocks ? 1 : TILES > 4 ? MMA_AHEAD_LARGE : MMA_AHEAD;
}

template <int TILES> __host__ __device__ __forceinline__ bool is_gated(const struct cuda_product &p)
{
    return 8 * TILES <= CUDA_MMA_GATED_ROWS_MAX && p.gated.out;
}

/* What a block multiplies: weight rows [first, first + rows) of a part's stack of matrices, input rows
 * [from, to). */
struct mma_range {
    size_t first;
    int rows, from, to;
};

/* A thread's piece of each stage's weights: from where, to which cell. */
struct mma_source {
    const uint8_t *data, *scales; // of its piece of stage 0
    int stride, k, cell;
    bool is_there;
};

template <typename W, int GROUPS, int TILES>
__device__ __forceinline__ struct mma_source source_of(const struct cuda_product &p, int part,
                                                       const struct mma_range &r)
{
    static_assert(16 * GROUPS * MMA_PIECES == 32 * MMA_STEPS * GROUPS, "a piece for each thread");
    int cell_row = threadIdx.x / MMA_PIECES, row = cell_row;
    struct mma_source s;

    if (is_gated<TILES>(p)) {
        part += cell_row >> 3 & 1;
        row = (cell_row >> 4) * 8 + (cell_row & 7);
    }
    const struct cuda_weight &w = p.part[part].w;
    s.stride = w.stride;
    s.k = threadIdx.x % MMA_PIECES * 8;
    size_t element = (r.first + row) * w.stride + s.k;
    s.data = (const uint8_t *)w.data + element / 8 * W::piece_bytes;
    s.scales = (const uint8_t *)w.scales + element / CUDA_BLOCK * W::scale_bytes;
    s.cell = cell_row * MMA_PITCH + s.k;
    s.is_there = row < r.rows;
    return s;
}

/* Where a lane's scales are: of the weight rows whose sums it holds, lane / 4 and that and 8, in this warp's step. */
struct mma_scales {
    const float *row[2];
    int shift, cols, k;
    bool is_there[2];
};

template <typename W, int GROUPS, int TILES>
__device__ __forceinline__ struct mma_scales scales_of(const struct cuda_product &p, int part,
                                                       const struct mma_range &r)
{
    struct mma_scales s = {};

    if (!W::scales_sums) return s;
    int group = warp_id() / MMA_STEPS, row = lane_id() >> 2;
    s.k = 16 * (warp_id() % MMA_STEPS);
    s.cols = p.part[part].w.stride;
    s.shift = p.part[part].w.scale_shift;
    LM_UNROLL
    for (int i = 0; i < 2; i++) {
        int at = is_gated<TILES>(p) ? 8 * group + row : 16 * group + 8 * i + row;
        s.row[i] = (const float *)p.part[is_gated<TILES>(p) ? part + i : part].w.scales +
                   ((r.first + at) * s.cols >> s.shift);
        s.is_there[i] = at < r.rows;
    }
    return s;
}

__device__ __forceinline__ void load_scales(const struct mma_scales &s, int stage, float *scale)
{
    int at = stage * MMA_DEPTH + s.k;
    LM_UNROLL
    for (int i = 0; i < 2; i++)
        scale[i] = s.is_there[i] && at < s.cols ? s.row[i][at >> s.shift] : 0.0f;
}

__device__ __forceinline__ bool is_in_row(const struct mma_source &s, int stage)
{
    return s.is_there && stage * MMA_DEPTH + s.k < s.stride;
}

template <typename W>
__device__ __forceinline__ const uint8_t *data_of(const struct mma_source &s, int stage)
{
    return s.data + (size_t)stage * (MMA_PIECES * W::piece_bytes);
}

template <typename W>
__device__ __forceinline__ const uint8_t *scales_at(const struct mma_source &s, int stage)
{
    return s.scales + (size_t)stage * (MMA_DEPTH / CUDA_BLOCK * W::scale_bytes);
}

/* Weights of 16 bits, on their way to their cell. */
template <typename W>
__device__ __forceinline__ void copy_weights(const struct mma_source &s, int stage, uint16_t *cells)
{
    if constexpr (!W::in_blocks) {
        if (is_in_row(s, stage))
            W::load(data_of<W>(s, stage), cells + s.cell);
        else
            put_zero(cells + s.cell);
    }
}

/* What a thread has asked for of stage s, at s % Ahead: its piece until that is in its cell, and the scales of its sums
 * until they are used. */
template <typename W, int Ahead> struct mma_ahead {
    typename W::raw raw[Ahead];
    float scale[Ahead][2];
};

template <typename W>
__device__ __forceinline__ void load_raw(const struct mma_source &s, int stage, typename W::raw &to)
{
    if constexpr (W::in_blocks) {
        if (is_in_row(s, stage)) to = W::load(data_of<W>(s, stage), scales_at<W>(s, stage));
    }
}

template <typename W>
__device__ __forceinline__ void put_raw(const struct mma_source &s, int stage,
                                        const typename W::raw &from, uint16_t *cells)
{
    if constexpr (W::in_blocks) {
        if (is_in_row(s, stage))
            *(uint4 *)(cells + s.cell) = W::cell_of(from);
        else
            put_zero(cells + s.cell);
    }
}

template <int TILES>
__device__ __forceinline__ void load_inputs(const struct cuda_product &p, const struct mma_range &r,
                                            int at, uint16_t *cells)
{
    for (int i = threadIdx.x; i < 8 * TILES * MMA_PIECES; i += blockDim.x) {
        int row = r.from + i / MMA_PIECES, k = i % MMA_PIECES * 8;
        uint16_t *cell = cells + i / MMA_PIECES * MMA_PITCH + k;
        if (row < r.to && at + k < p.in_stride) {
            int in = p.in_row ? p.in_row[row] : row;
            cp_async16(cell, (const uint16_t *)p.in + (size_t)in * p.in_stride + at + k);
        } else {
            put_zero(cell);
        }
    }
}

/* ---- one block ---- */

/* This warp's step of a stage. `scale`: of a lane's two rows, with W::scales_sums. */
template <typename W, int TILES>
__device__ __forceinline__ void multiply_stage(const struct mma_stage &s, const float *scale,
                                               float (*sum)[4])
{
    int warp = warp_id(), lane = lane_id(), k = 16 * (warp % MMA_STEPS);
    const uint16_t *a_row = s.weights + (16 * (warp / MMA_STEPS) + (lane & 15)) * MMA_PITCH;
    const uint16_t *b_row = s.in + (lane & 7) * MMA_PITCH + (lane >> 3 & 1) * 8 + k;
    uint32_t a[4], b[2];

    ldmatrix_x4(a, a_row + (lane >> 4) * 8 + k);
    LM_UNROLL
    for (int tile = 0; tile < TILES; tile++) {
        ldmatrix_x2(b, b_row + tile * 8 * MMA_PITCH);
        if (W::scales_sums) {
            float step[4] = {0, 0, 0, 0};
            mma_real<typename W::real>(step, a, b);
            LM_UNROLL
            for (int i = 0; i < 4; i++)
                sum[tile][i] = fmaf(scale[i / 2], step[i], sum[tile][i]);
        } else {
            mma_real<typename W::real>(sum[tile], a, b);
        }
    }
}

/* The sums of a group's warps, in order, into those of its first warp. */
template <int GROUPS, int TILES>
__device__ __forceinline__ void add_steps(float *shared, float (*sum)[4])
{
    int warp = warp_id(), lane = lane_id();
    float *cells = shared + (warp / MMA_STEPS) * 4 * TILES * 32 + lane;

    for (int from = 1; from < MMA_STEPS; from++) {
        for (int i = 0; warp % MMA_STEPS == from && i < 4 * TILES; i++)
            cells[i * 32] = sum[i / 4][i % 4];
        __syncthreads();
        for (int i = 0; warp % MMA_STEPS == 0 && i < 4 * TILES; i++)
            sum[i / 4][i % 4] += cells[i * 32];
        __syncthreads();
    }
}

/* The weights of the first stages, as far as they can be on their way. */
template <typename W, int GROUPS, int TILES, int Ahead>
__device__ __forceinline__ void load_ahead(const struct mma_source &from,
                                           const struct mma_scales &scales, uint16_t *shared,
                                           struct mma_ahead<W, Ahead> &ahead)
{
    for (int s = 0; !W::in_blocks && s < MMA_STAGES - 1 && s * MMA_DEPTH < from.stride; s++)
        copy_weights<W>(from, s, stage_at<GROUPS, TILES>(shared, s).weights);
    LM_UNROLL
    for (int s = 0; s < Ahead; s++) {
        load_raw<W>(from, s, ahead.raw[s]);
        if (W::scales_sums) load_scales(scales, s, ahead.scale[s]);
    }
}

/* Behind load_ahead. Stage s is put into shared memory while stage s - (MMA_STAGES - 1) is multiplied. */
template <typename W, int GROUPS, int TILES, int Ahead>
__device__ __forceinline__ void
multiply_block(const struct cuda_product &p, const struct mma_source &from,
               const struct mma_scales &scales, const struct mma_range &r, uint16_t *shared,
               struct mma_ahead<W, Ahead> &ahead, float (*sum)[4])
{
    const int behind = MMA_STAGES - 1;
    int stages = (from.stride + MMA_DEPTH - 1) / MMA_DEPTH;

    LM_UNROLL
    for (int i = 0; i < 4 * TILES; i++)
        sum[i / 4][i % 4] = 0;
    for (int first = 0; first < stages + behind; first += Ahead) {
        LM_UNROLL
        for (int j = 0; j < Ahead; j++) {
            int s = first + j, ready = s - behind;
            if (s >= stages + behind) break;
            if (s < stages) {
                struct mma_stage to = stage_at<GROUPS, TILES>(shared, s);
                if (s >= behind) copy_weights<W>(from, s, to.weights);
                load_inputs<TILES>(p, r, s * MMA_DEPTH, to.in);
                put_raw<W>(from, s, ahead.raw[j], to.weights);
                load_raw<W>(from, s + Ahead, ahead.raw[j]);
            }
            cp_async_commit(); // of nothing near the end: keeps the count of groups
            if (ready < 0) continue;
            float *scale = ahead.scale[(j + behind * (Ahead - 1)) % Ahead];
            cp_async_wait<behind>();
            __syncthreads(); // everyone's pieces of the stage are there
            multiply_stage<W, TILES>(stage_at<GROUPS, TILES>(shared, ready), scale, sum);
            if (W::scales_sums) load_scales(scales, ready + Ahead, scale);
            __syncthreads(); // before it is overwritten
        }
    }
    add_steps<GROUPS, TILES>((float *)shared, sum);
}

__device__ __forceinline__ float bias_at(const struct cuda_part &part, size_t row)
{
    return part.bias ? part.bias[row] : 0.0f;
}

/* Lane l holds weight rows l / 4 and l / 4 + 8 for input rows 2 (l % 4) and its neighbour. */
template <int TILES>
__device__ __forceinline__ void store_block(const struct cuda_part &part, const struct mma_range &r,
                                            int row, const float (*sum)[4])
{
    int warp = warp_id(), lane = lane_id();

    if (warp % MMA_STEPS != 0) return;
    LM_UNROLL
    for (int i = 0; i < 4 * TILES; i++) {
        int at = 16 * (warp / MMA_STEPS) + (lane >> 2) + (i >> 1 & 1) * 8;
        int in = r.from + 8 * (i / 4) + 2 * (lane & 3) + (i & 1);
        if (at >= r.rows || in >= r.to) continue;
        part.out[(size_t)in * part.out_stride + row + at] =
            sum[i / 4][i % 4] + bias_at(part, r.first + at);
    }
}

/* Likewise, of gate and of up. */
template <typename T, int TILES>
__device__ __forceinline__ void store_gated(const struct cuda_product &p, const struct mma_range &r,
                                            int row, const float (*sum)[4])
{
    int warp = warp_id(), lane = lane_id(), at = 8 * (warp / MMA_STEPS) + (lane >> 2);

    if (warp % MMA_STEPS != 0 || at >= r.rows) return;
    float gate_bias = bias_at(p.part[0], r.first + at), up_bias = bias_at(p.part[1], r.first + at);
    LM_UNROLL
    for (int i = 0; i < 2 * TILES; i++) {
        int in = r.from + 8 * (i / 2) + 2 * (lane & 3) + (i & 1);
        if (in >= r.to) continue;
        float v =
            activated(p.gated.kind, sum[i / 2][i % 2] + gate_bias, sum[i / 2][i % 2 + 2] + up_bias);
        ((T *)p.gated.out)[(size_t)in * p.gated.stride + row + at] = to_real<T>(v);
    }
}

/* Rows of a part that a block makes. */
template <int GROUPS, int TILES>
__host__ __device__ __forceinline__ int part_rows(const struct cuda_product &p)
{
    return is_gated<TILES>(p) ? 8 * GROUPS : 16 * GROUPS;
}

/* Grid: x over tiles of weight rows of all parts, y over tiles of input rows, or over experts, which
 * then walk their rows. Which experts have rows is known only behind the wait. */
template <typename W, int GROUPS, int TILES>
__global__ void __launch_bounds__(32 * MMA_STEPS * GROUPS)
    mma_kernel(const __grid_constant__ struct cuda_product p)
{
    LM_SHARED_DYNAMIC(uint16_t, shared);
    int tile = blockIdx.x, n = 0, rows = part_rows<GROUPS, TILES>(p);

    pdl_trigger();
    for (; !is_gated<TILES>(p) && n + 1 < p.parts; n++) {
        int tiles = (p.part[n].w.rows + rows - 1) / rows;
        if (tile < tiles) break;
        tile -= tiles;
    }
    int row = tile * rows, expert = p.experts ? blockIdx.y : 0, all = p.part[n].w.rows;
    struct mma_range r = {(size_t)expert * all + row, min(rows, all - row), 0, 0};
    struct mma_source weights = source_of<W, GROUPS, TILES>(p, n, r);
    struct mma_scales scales = scales_of<W, GROUPS, TILES>(p, n, r);
    struct mma_ahead<W, ahead_of<W, TILES>()> ahead;
    if (!p.experts) load_ahead<W, GROUPS, TILES>(weights, scales, shared, ahead);
    pdl_wait();
    int from = p.experts ? p.first[expert] : blockIdx.y * 8 * TILES;
    r.to = p.experts ? p.first[expert + 1] : min(p.rows, from + 8 * TILES);
    for (r.from = from; r.from < r.to; r.from += 8 * TILES) {
        float sum[TILES][4];
        if (p.experts) load_ahead<W, GROUPS, TILES>(weights, scales, shared, ahead);
        multiply_block<W, GROUPS, TILES>(p, weights, scales, r, shared, ahead, sum);
        if (is_gated<TILES>(p))
            store_gated<typename W::real, TILES>(p, r, row, sum);
        else
            store_block<TILES>(p.part[n], r, row, sum);
    }
}

/* ---- launch ---- */

template <typename W, int GROUPS, int TILES>
static void launch_tiles(const struct cuda_product *p, cudaStream_t stream)
{
    size_t shared = MMA_STAGES * stage_elements(GROUPS, TILES) * sizeof(uint16_t);
    int tiles = 0, rows = part_rows<GROUPS, TILES>(*p);

    for (int i = 0; i < (p->gated.out ? 1 : p->parts); i++)
        tiles += (p->part[i].w.rows + rows - 1) / rows;
    dim3 grid(tiles, p->experts ? p->experts : (p->rows + 8 * TILES - 1) / (8 * TILES));
    LM_LAUNCH_PDL((mma_kernel<W, GROUPS, TILES>), grid, 32 * MMA_STEPS * GROUPS, shared, stream,
                  *p);
}

template <typename W> static void launch(const struct cuda_product *p, cudaStream_t stream)
{
    if (p->rows <= 8)
        launch_tiles<W, 1, 1>(p, stream);
    else if (p->rows <= 32)
        launch_tiles<W, 1, 4>(p, stream);
    else
        launch_tiles<W, 4, W::scales_sums ? 8 : 16>(p, stream); // what registers have room for
}

template <typename T> static void launch_form(const struct cuda_product *p, cudaStream_t stream)
{
    switch (p->part[0].w.form) {
    case CUDA_BF16:
    case CUDA_F16:
        launch<mma_weights_real<T>>(p, stream);
        return;
    case CUDA_Q4:
        launch<mma_weights_q4<T>>(p, stream);
        return;
    case CUDA_Q8:
        launch<mma_weights_q8<T>>(p, stream);
        return;
    case CUDA_F8:
        launch<mma_weights_f8<T>>(p, stream);
        return;
    case CUDA_F32:
    case CUDA_FORMS:
        break;
    }
    UNREACHABLE();
}

void cuda_mma(const struct cuda_product *p, cudaStream_t stream)
{
    if (p->rows == 0) return;
    CHECK(cuda_form_meets(p->part[0].w.form, p->in_real));
    CHECK(!p->gated.out || p->rows <= CUDA_MMA_GATED_ROWS_MAX);
    with_real16(p->in_real, [&]<typename T>(T) { launch_form<T>(p, stream); });
}
