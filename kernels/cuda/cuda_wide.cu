/* cuda_wide.cu - products with many rows of activations on tensor cores, of experts too, with the bits of cuda_mma.
 *
 * A block makes 128 weight rows by 128 input rows. N2 (README.md) wants four sums of each output, of K's steps of
 * 16 with the same index mod 4. That many for such a tile are more than registers hold, so K is walked twice: the first
 * pass makes sums 0 and 1, of the first half of every 64 columns, the second 2 and 3, of the other half. Eight warps are
 * two times two tiles of 64 x 64, times the two sums of the pass. A sum that is complete is added, in order, to `total` in
 * shared memory, from where the tile goes out in whole rows. Each weight and each input is read once, 64 bytes of a row
 * (of 16 bits) at a time: two sectors. Per stage, in shared memory, pieces of 8 columns swapped so that neither cp.async nor
 * ldmatrix meets a bank twice:
 *
 *     weights [128][2 runs of 32 columns]    inputs [128][likewise]    of E4M3 scales [4 steps][128]
 *
 * 16 bits come by cp.async, two stages ahead. Weights in blocks are fetched into registers three stages ahead and
 * become 16 bits there, once per block of 128 input rows: a thread has one row's run of 32, which is one block with one scale.
 *
 * Where the time goes, by calculation, in mma m16n8k16 a cycle and SM (an H100's wgmma makes 1): mma.sync itself some 0.62.
 * For each, ldmatrix reads 128 bytes of shared memory and cp.async writes 64, of 128 a cycle: 0.67. 64 bytes come from
 * L2, of some 30 a cycle and SM: 0.47; with weights of 8 bits 49 bytes: 0.61. A warp issues 200 instructions for the 64 of a
 * stage (3.1 each), with 4 and 8 bits 320 to 370, two warps a scheduler: no limit. E4M3 takes 660, four fma each: 0.39. So
 * 16 bits wait for L2, a little under half of the peak, and weights in blocks for mma or for instructions. Behind a
 * tile's stages (826 cycles each at 0.62, one for 64 columns) adding to `total` and writing it takes some 4000 cycles, and
 * the first loads 1500 before them: a sixth where there are 2048 columns, a third with 768.
 *
 * Experts: a block finds its tile in `first` by itself; experts without rows have none, and blocks beyond the last
 * tile end at once. Tiles of the same weights follow each other, so that one fetches what the next finds in L2. */
#include "kernels/cuda/cuda_product.h"

#include "kernels/cuda/cuda_wide_weights.cuh"
#include "shared/base/check.h"

/* ---- which tile ---- */

__host__ __device__ __forceinline__ int tiles_of(int rows, int of_tile)
{
    return (rows + of_tile - 1) / of_tile;
}

/* Weight rows of a part in a tile. */
__host__ __device__ __forceinline__ int part_rows(const struct cuda_product &p)
{
    return p.gated.out ? WIDE_SIDE / 2 : WIDE_SIDE;
}

__host__ __device__ __forceinline__ int weight_tiles(const struct cuda_product &p)
{
    int tiles = 0;
    for (int i = 0; i < (p.gated.out ? 1 : p.parts); i++)
        tiles += tiles_of(p.part[i].w.rows, part_rows(p));
    return tiles;
}

__device__ __forceinline__ int input_tiles(const struct cuda_product &p, int expert)
{
    return tiles_of(p.first[expert + 1] - p.first[expert], WIDE_SIDE);
}

/* The expert of a tile, whose number becomes that among the expert's; -1: there are fewer tiles. Each lane counts its
 * share of the experts; all warps find the same. */
__device__ __forceinline__ int find_expert(const struct cuda_product &p, int tiles, int *at)
{
    int share = tiles_of(p.experts, WARP_LANES), lane = lane_id(), own = 0;

    for (int e = lane * share; e < min((lane + 1) * share, p.experts); e++)
        own += input_tiles(p, e);
    int until = own;
    for (int step = 1; step < WARP_LANES; step *= 2) {
        int other = __shfl_up_sync(WARP_ALL, until, step);
        if (lane >= step) until += other;
    }
    unsigned behind = __ballot_sync(WARP_ALL, *at < until * tiles);
    if (!behind) return -1;
    int owner = __ffs((int)behind) - 1, expert = owner * share;
    *at -= __shfl_sync(WARP_ALL, until - own, owner) * tiles;
    for (; *at >= input_tiles(p, expert) * tiles; expert++)
        *at -= input_tiles(p, expert) * tiles;
    return expert;
}

__device__ __forceinline__ bool find_tile(const struct cuda_product &p, int at, struct wide_tile *t)
{
    int expert = 0, n = 0, rows = part_rows(p);

    t->from = 0;
    t->to = p.rows;
    if (p.experts) {
        expert = find_expert(p, weight_tiles(p), &at);
        if (expert < 0) return false;
        t->from = p.first[expert];
        t->to = p.first[expert + 1];
    }
    int down = tiles_of(t->to - t->from, WIDE_SIDE), tile = at / down;
    t->from += at % down * WIDE_SIDE;
    t->to = min(t->to, t->from + WIDE_SIDE);
    for (; !p.gated.out && n + 1 < p.parts; n++) {
        int tiles = tiles_of(p.part[n].w.rows, rows);
        if (tile < tiles) break;
        tile -= tiles;
    }
    t->part = n;
    t->row = tile * rows;
    t->rows = min(rows, p.part[n].w.rows - t->row);
    t->first = (size_t)expert * p.part[n].w.rows + t->row;
    return true;
}

/* ---- one stage ---- */

/* A warp's place: which of the pass's two sums, which rows of the tile. */
struct wide_warp {
    int sum, row, in;
};

__device__ __forceinline__ struct wide_warp warp_place()
{
    int warp = warp_id();
    return {warp & 1, (warp >> 1 & 1) * WIDE_WARP_SIDE, (warp >> 2) * WIDE_WARP_SIDE};
}

/* One step of 16 of the run: sum[i][j] of weight rows 16 i.. and inputs 8 j... */
template <typename T, typename W>
__device__ __forceinline__ void multiply_step(const wide_stage<T> &s, const struct wide_warp &at,
                                              int run, float (*sum)[8][4])
{
    int lane = lane_id(), step = 2 * run + at.sum;
    const T *a_row = s.weights + cell(at.row + (lane & 15), 2 * step + (lane >> 4));
    const T *b_row = s.in + cell(at.in + (lane & 7) + (lane >> 4) * 8, 2 * step + (lane >> 3 & 1));
    const float *scales = s.scales + step * WIDE_SIDE + at.row + (lane >> 2);
    uint32_t a[4], b[4][4];

    LM_UNROLL
    for (int j = 0; j < 4; j++)
        ldmatrix_x4(b[j], b_row + 16 * j * WIDE_DEPTH);
    LM_UNROLL
    for (int i = 0; i < 4; i++) {
        if (W::scales_sums && i == 2) __syncwarp(); // what follows is loaded behind it: registers
        ldmatrix_x4(a, a_row + 16 * i * WIDE_DEPTH);
        LM_UNROLL
        for (int j = 0; j < 8; j++) {
            if (W::scales_sums) {
                float d[4] = {0, 0, 0, 0};
                mma_real<T>(d, a, b[j / 2] + j % 2 * 2);
                LM_UNROLL
                for (int n = 0; n < 4; n++)
                    sum[i][j][n] = fmaf(scales[16 * i + n / 2 * 8], d[n], sum[i][j][n]);
            } else {
                mma_real<T>(sum[i][j], a, b[j / 2] + j % 2 * 2);
            }
        }
    }
}

/* ---- the tile's sums ---- */

/* total[row of inputs][weight row], swapped so that a warp's sums fall into different banks. */
__device__ __forceinline__ int total_at(int in, int row)
{
    return in * WIDE_SIDE + (row ^ (in >> 1 & 3) << 3);
}

/* A complete sum behind those before it; `is_first`: there are none. It begins again at 0. */
__device__ __forceinline__ void add_to_total(float *total, const struct wide_warp &at,
                                             bool is_first, float (*sum)[8][4])
{
    int lane = lane_id();

    LM_UNROLL
    for (int i = 0; i < 8; i++) { // rows lane / 4 and eight behind
        float *t = total + total_at(at.in + 2 * (lane & 3), at.row + 8 * i + (lane >> 2));
        LM_UNROLL
        for (int j = 0; j < 16; j++) { // input rows 2 (lane % 4) and the next
            float *v = &sum[i / 2][j / 2][i % 2 * 2 + j % 2];
            int in = 8 * (j / 2) + j % 2;
            t[in * WIDE_SIDE] = is_first ? *v : t[in * WIDE_SIDE] + *v;
            *v = 0;
        }
    }
}

__device__ __forceinline__ float bias_at(const struct cuda_part &part, size_t row)
{
    return part.bias ? part.bias[row] : 0.0f;
}

__device__ __forceinline__ void store_plain(const struct cuda_part &part, const struct wide_tile &t,
                                            const float *total)
{
    int row = threadIdx.x % WIDE_SIDE, rows = t.to - t.from;

    if (row >= t.rows) return;
    float bias = bias_at(part, t.first + row);
    float *out = part.out + (size_t)t.from * part.out_stride + t.row + row;
    for (int in = threadIdx.x / WIDE_SIDE; in < rows; in += WIDE_THREADS / WIDE_SIDE)
        out[(size_t)in * part.out_stride] = total[total_at(in, row)] + bias;
}

template <typename T>
__device__ __forceinline__ void store_gated(const struct cuda_product &p, const struct wide_tile &t,
                                            const float *total)
{
    int row = threadIdx.x % (WIDE_SIDE / 2), rows = t.to - t.from;

    if (row >= t.rows) return;
    int gate = (row >> 3) * 16 + (row & 7);
    float gate_bias = bias_at(p.part[0], t.first + row),
          up_bias = bias_at(p.part[1], t.first + row);
    T *out = (T *)p.gated.out + (size_t)t.from * p.gated.stride + t.row + row;
    for (int in = threadIdx.x / (WIDE_SIDE / 2); in < rows; in += 2 * WIDE_THREADS / WIDE_SIDE)
        out[(size_t)in * p.gated.stride] =
            to_real<T>(activated(p.gated.kind, total[total_at(in, gate)] + gate_bias,
                                 total[total_at(in, gate + 8)] + up_bias));
}

/* ---- one tile ---- */

/* What the stages of a tile need. */
template <typename W> struct wide_job {
    struct wide_copies in;
    W weights;
    uint8_t *shared;
    int stages; // of a pass
};

template <typename T, typename W>
__device__ __forceinline__ void load_stage(wide_job<W> *job, int stage)
{
    if (stage < 2 * job->stages) {
        wide_stage<T> to = stage_at<T, W>(job->shared, stage);
        int column = column_of(stage, job->stages);
        copy_stage(job->in, column, to.in);
        job->weights.copy(column, to);
        job->weights.put(to);
        job->weights.fetch(column_of(stage + 1, job->stages));
    }
    cp_async_commit(); // of nothing near the end: keeps the count of groups
}

/* Its two sums, into `total`. */
template <typename T, typename W>
__device__ __forceinline__ void multiply_pass(wide_job<W> *job, bool is_first, bool is_empty,
                                              float (*sum)[8][4], float *total)
{
    const struct wide_warp at = warp_place();
    int from = is_first ? 0 : job->stages;

    for (int stage = from; stage < from + job->stages; stage++) {
        cp_async_wait<WIDE_STAGES - 2>();
        __syncthreads(); // everyone's pieces of the stage are there, and the one before is free
        load_stage<T>(job, stage + WIDE_STAGES - 1);
        if (is_empty) continue;
        wide_stage<T> ready = stage_at<T, W>(job->shared, stage);
        LM_UNROLL_BY(W::scales_sums ? 1 : 2) // registers, again
        for (int run = 0; run < 2; run++)
            multiply_step<T, W>(ready, at, run, sum);
    }
    if (at.sum == 0 && !is_empty) add_to_total(total, at, is_first, sum);
    __syncthreads();
    if (at.sum == 1 && !is_empty) add_to_total(total, at, false, sum);
}

/* Where a product's rows are, and what comes behind it: registers are for the product itself. */
struct wide_kept {
    struct wide_tile tile;
    uint32_t input[WIDE_SIDE], weight[WIDE_SIDE]; // see wide_copies
};

/* Half of the threads for each side. Inputs end within 64 GiB. */
__device__ __forceinline__ void keep_rows(const struct cuda_product &p, const struct wide_tile &t,
                                          struct wide_kept *kept)
{
    int tile_row = threadIdx.x % WIDE_SIDE;

    if (threadIdx.x < WIDE_SIDE) {
        int row = t.from + tile_row, in = row < t.to && p.in_row ? p.in_row[row] : row;
        kept->input[tile_row] = row < t.to ? (uint32_t)in * (p.in_stride / 8) : NO_ROW;
    } else {
        int row = row_of(p, tile_row);
        kept->weight[tile_row] =
            row < t.rows ? (uint32_t)row * (p.part[t.part].w.stride / 8) : NO_ROW;
    }
    if (threadIdx.x == 0) kept->tile = t;
    __syncthreads();
}

/* `total` is complete, and seen by all, when it returns. */
template <typename T, typename W>
__device__ __forceinline__ void
multiply_tile(const struct cuda_product &p, const struct wide_tile &t, const struct wide_kept *kept,
              uint8_t *shared, float *total)
{
    const bool is_empty = warp_place().in >= t.to - t.from; // the warp's half of the input rows
    wide_job<W> job = {copies_of(p.in, kept->input, p.in_stride), {}, shared, 0};
    float sum[4][8][4] = {};

    job.stages = tiles_of(p.part[t.part].w.stride, WIDE_SPAN);
    job.weights.begin(p, t, kept->weight);
    job.weights.fetch(0);
    for (int i = 0; i < WIDE_STAGES - 1; i++)
        load_stage<T>(&job, i);
    multiply_pass<T>(&job, true, is_empty, sum, total);
    multiply_pass<T>(&job, false, is_empty, sum, total);
    __syncthreads();
}

template <typename T, typename W>
__global__ void __launch_bounds__(WIDE_THREADS, 1)
    wide_kernel(const __grid_constant__ struct cuda_product p)
{
    LM_SHARED_DYNAMIC(uint8_t, shared);
    float *total = (float *)(shared + WIDE_STAGES * stage_bytes<T>(W::scales_sums));
    struct wide_kept *kept = (struct wide_kept *)(total + WIDE_SIDE * WIDE_SIDE);
    struct wide_tile t;

    pdl_begin();
    if (!find_tile(p, blockIdx.x, &t)) return;
    keep_rows(p, t, kept);
    multiply_tile<T, W>(p, t, kept, shared, total);
    t = kept->tile;
    if (p.gated.out)
        store_gated<T>(p, t, total);
    else
        store_plain(p.part[t.part], t, total);
}

/* ---- launch ---- */

static int shared_bytes(enum cuda_form form)
{
    return WIDE_STAGES * stage_bytes<uint16_t>(form == CUDA_F8) +
           WIDE_SIDE * WIDE_SIDE * (int)sizeof(float) + (int)sizeof(struct wide_kept);
}

bool cuda_wide_fits(enum cuda_form form)
{
    static const int most = [] {
        int device = 0, bytes = 0;
        if (cudaGetDevice(&device) != cudaSuccess ||
            cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
                cudaSuccess)
            return 0;
        return bytes;
    }();
    return shared_bytes(form) <= most;
}

/* As many blocks as there can be tiles. */
template <typename T, typename W>
static void launch(const struct cuda_product *p, cudaStream_t stream)
{
    int tiles = tiles_of(p->rows, WIDE_SIDE);

    if (p->experts)
        tiles = p->all_rows / WIDE_SIDE + (p->experts < p->all_rows ? p->experts : p->all_rows);
    LM_LAUNCH_PDL((wide_kernel<T, W>), tiles * weight_tiles(*p), WIDE_THREADS,
                  (size_t)shared_bytes(p->part[0].w.form), stream, *p);
}

template <typename T> static void launch_form(const struct cuda_product *p, cudaStream_t stream)
{
    switch (p->part[0].w.form) {
    case CUDA_BF16:
    case CUDA_F16:
        launch<T, wide_weights_16<T>>(p, stream);
        return;
    case CUDA_Q4:
        launch<T, wide_weights_q4<T>>(p, stream);
        return;
    case CUDA_Q8:
        launch<T, wide_weights_q8<T>>(p, stream);
        return;
    case CUDA_F8:
        launch<T, wide_weights_f8<T>>(p, stream);
        return;
    case CUDA_F32:
    case CUDA_FORMS:
        break;
    }
    UNREACHABLE();
}

void cuda_wide(const struct cuda_product *p, cudaStream_t stream)
{
    CHECK(cuda_form_meets(p->part[0].w.form, p->in_real) && (p->all_rows > 0) == (p->experts > 0));
    if (p->rows == 0) return;
    with_real16(p->in_real, [&]<typename T>(T) { launch_form<T>(p, stream); });
}
