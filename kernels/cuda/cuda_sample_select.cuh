/* cuda_sample_select.cuh - device side of cuda_sample.cu: keys in the order in which filters keep tokens,
 * histograms of them, and radix select.
 *
 * A key is the bits of a weight (a float, 1 to 2^40) and 24 bits that fall as the id rises: the greater key
 * comes first. A histogram's bin is a range of keys. It has the number of its tokens and the sum of the
 * weights' bits below those that the bin has in common: exact, and of 32 bits, which shared memory can
 * add. Bins of a 16th of an octave are counted over the whole row (bin_*), what lies in one of them
 * is told apart digit by digit. */
#ifndef LM_KERNELS_CUDA_SAMPLE_SELECT_CUH
#define LM_KERNELS_CUDA_SAMPLE_SELECT_CUH

#include "kernels/cuda/cuda_sample.h"
#include "kernels/sample_weight.h"

#define TILE         4096 // tokens of a row that one block goes through
#define TILE_THREADS 256
#define TILE_EACH    (TILE / TILE_THREADS)
#define ROW_THREADS  512
#define GROUPS       (TILE_THREADS / WARP_LANES) // of a tile: what one of its warps goes through
#define LIST_MAX     4096 // ids; rows that have more in range go without a list

#define ID_BITS      24
#define KEY_MIN      (0x3f800000ull << ID_BITS) // of weight 1; weight 0 can't be drawn
#define BIN_SHIFT    (ID_BITS + 19)
#define BINS         (40 * 16 + 1)
#define DIGITS_MAX   1024 // of a level

struct cuda_sample_draw {
    int row;      // of the logits, the tokens and the reports
    int scored;   // SAMPLE_SCORE, drawn like a greedy row; -1: it isn't
    int logprobs; // 0: no report
    float temperature, top_p, floor;
    int top_k; // 0: off
    float repetition, frequency, presence;
    uint64_t random;
    int bias_at, bias_count, seen_at, seen_count, ban_at, ban_count, mask_at,
        mask_words; // in words
    bool is_greedy, is_adjusted, is_masked, is_cut;
};

struct cuda_sample_ban {
    int32_t token;
    float lifted; // its logit without the ban
};

struct sample_job {
    struct cuda_sample_space space;
    float *logits;
    int stride, vocab;
};

/* ---- sums and maxima; all threads of a block, `scratch`: 32 elements of shared memory ---- */

__device__ __forceinline__ uint64_t warp_top(uint64_t v)
{
    for (int other = WARP_LANES / 2; other > 0; other /= 2) {
        uint64_t o = __shfl_xor_sync(WARP_ALL, v, other);
        v = o > v ? o : v;
    }
    return v;
}

__device__ __forceinline__ uint64_t block_top(uint64_t v, uint64_t *scratch)
{
    int warps = (int)(blockDim.x / WARP_LANES);
    v = warp_top(v);
    if (lane_id() == 0) scratch[warp_id()] = v;
    __syncthreads();
    v = warp_top(lane_id() < warps ? scratch[lane_id()] : 0);
    __syncthreads();
    return v;
}

/* The sum of the threads before this one; *all: of all. */
__device__ __forceinline__ uint64_t block_before(uint64_t v, uint64_t *scratch, uint64_t *all)
{
    uint64_t through = v, before = 0;

    for (int step = 1; step < WARP_LANES; step *= 2) {
        uint64_t o = __shfl_up_sync(WARP_ALL, through, (unsigned)step);
        if (lane_id() >= step) through += o;
    }
    if (lane_id() == WARP_LANES - 1) scratch[warp_id()] = through;
    __syncthreads();
    *all = 0;
    for (int w = 0; w < (int)(blockDim.x / WARP_LANES); w++) {
        if (w == warp_id()) before = *all;
        *all += scratch[w];
    }
    __syncthreads();
    return before + through - v;
}

/* ---- the highest logit: its bits so that they order, and those that fall as the id rises ---- */

#define TOP_BAD  UINT64_MAX  // of a row with a logit that isn't finite
#define TOP_NONE 0x007fffffu // the upper half of minus infinity

__device__ __forceinline__ uint64_t top_of(float value, int id)
{
    uint32_t bits = __float_as_uint(value + 0.0f); // -0 is 0
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | ~(uint32_t)id;
}

__device__ __forceinline__ float top_value(uint64_t top)
{
    uint32_t bits = (uint32_t)(top >> 32);
    return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}

__device__ __forceinline__ int top_id(uint64_t top)
{
    return (int)~(uint32_t)top;
}

__device__ __forceinline__ bool is_top_finite(uint64_t top)
{
    return isfinite(top_value(top)); // TOP_BAD is a NaN
}

/* Of a whole row. Where all that isn't banned is minus infinity, bans are lifted. */
__device__ __forceinline__ uint64_t row_top(const struct sample_job &job, unsigned draw,
                                            bool *is_lifted)
{
    const struct cuda_sample_draw *d = &job.space.draw[draw];
    const struct cuda_sample_ban *ban =
        (const struct cuda_sample_ban *)(job.space.word + d->ban_at);
    const uint64_t *tile = job.space.tile_top + (size_t)draw * job.space.tiles;
    uint64_t top = 0;

    for (int i = lane_id(); i < job.space.tiles; i += WARP_LANES)
        top = tile[i] > top ? tile[i] : top;
    top = warp_top(top);
    *is_lifted = (uint32_t)(top >> 32) == TOP_NONE && d->ban_count > 0;
    if (!*is_lifted) return top;
    for (int i = lane_id(); i < d->ban_count; i += WARP_LANES) {
        uint64_t other = top_of(ban[i].lifted, ban[i].token);
        top = ban[i].lifted > -INFINITY && other > top ? other : top;
    }
    return warp_top(top);
}

/* ---- bans ---- */

__device__ __forceinline__ bool is_within(int32_t id, int begin, int end)
{
    return id >= begin && id < end;
}

/* A tile's, by the threads of its block. Doing it again changes nothing. */
__device__ __forceinline__ void lift_bans(const struct cuda_sample_draw *d, const uint32_t *word,
                                          float *x, int begin, int end)
{
    const struct cuda_sample_ban *ban = (const struct cuda_sample_ban *)(word + d->ban_at);

    for (int i = (int)threadIdx.x; i < d->ban_count; i += TILE_THREADS)
        if (is_within(ban[i].token, begin, end) && ban[i].lifted > -INFINITY)
            x[ban[i].token] = ban[i].lifted;
}

/* ---- keys ---- */

__device__ __forceinline__ float weight_at(const float *x, int id, struct sample_scale scale)
{
    return sample_whole(sample_weigh(x[id], scale));
}

__device__ __forceinline__ uint64_t key_of(float weight, int id)
{
    return (uint64_t)__float_as_uint(weight) << ID_BITS | (uint64_t)((1 << ID_BITS) - 1 - id);
}

/* The weight's bits that keys of a bin don't have in common. */
__device__ __forceinline__ uint32_t low_of(uint64_t key, int shift)
{
    if (shift <= ID_BITS) return 0;
    return (uint32_t)(key >> ID_BITS) & ((1u << (shift - ID_BITS)) - 1);
}

/* Of `count` tokens of the bin that begins at that key. Weights are whole: nothing is shifted out. */
__device__ __forceinline__ uint64_t mass_of(uint64_t begin, uint64_t count, uint64_t low)
{
    uint32_t bits = (uint32_t)(begin >> ID_BITS);
    int exponent = (int)(bits >> 23) - 150;
    uint64_t mantissas = count * ((bits & 0x7fffffu) | 0x800000u) + low;
    return exponent >= 0 ? mantissas << exponent : mantissas >> -exponent;
}

/* ---- select ---- */

struct level {
    uint64_t begin; // of bin 0
    int shift, bins;
};

/* A bin, and what comes before it. */
struct place {
    bool is_found;
    uint64_t begin, count, mass;
    uint64_t count_before, mass_before, all_mass;
};

/* The bin with which the number of tokens, or their mass, reaches `wanted`. */
template <class Low>
__device__ __forceinline__ struct place find_place(struct level l, const uint32_t *count,
                                                   const Low *low, bool by_mass, uint64_t wanted,
                                                   struct place *shared, uint64_t *scratch)
{
    int each = (l.bins + (int)blockDim.x - 1) / (int)blockDim.x;
    int first = l.bins - 1 - (int)threadIdx.x * each, last = max(first - each + 1, 0);
    uint64_t own_count = 0, own_mass = 0, all_count, all_mass;

    for (int i = first; i >= last; i--) {
        own_count += count[i];
        own_mass += mass_of(l.begin + ((uint64_t)i << l.shift), count[i], low[i]);
    }
    if (threadIdx.x == 0) shared->is_found = false;
    uint64_t count_before = block_before(own_count, scratch, &all_count);
    uint64_t mass_before = block_before(own_mass, scratch, &all_mass);
    uint64_t before = by_mass ? mass_before : count_before;
    if (before < wanted && wanted <= before + (by_mass ? own_mass : own_count)) {
        for (int i = first; i >= last; i--) {
            uint64_t begin = l.begin + ((uint64_t)i << l.shift);
            uint64_t mass = mass_of(begin, count[i], low[i]);
            if ((by_mass ? mass_before + mass : count_before + count[i]) >= wanted) {
                shared->is_found = true;
                shared->begin = begin;
                shared->count = count[i];
                shared->mass = mass;
                shared->count_before = count_before;
                shared->mass_before = mass_before;
                break;
            }
            mass_before += mass;
            count_before += count[i];
        }
    }
    __syncthreads();
    struct place found = *shared;
    found.all_mass = all_mass;
    __syncthreads();
    return found;
}

/* In the histogram of the whole row. */
__device__ __forceinline__ struct place find_bin(const struct sample_job &job, unsigned draw,
                                                 bool by_mass, uint64_t wanted,
                                                 struct place *shared, uint64_t *scratch)
{
    struct level l = {KEY_MIN, BIN_SHIFT, BINS};
    return find_place(l, job.space.bin_count + (size_t)draw * BINS,
                      job.space.bin_low + (size_t)draw * BINS, by_mass, wanted, shared, scratch);
}

/* Tokens that may be where a row is cut: those of the list, or all. */
struct candidates {
    const float *x;
    const int *list; // NULL: all
    int count;
    struct sample_scale scale;
};

/* Their count and low bits in the bins of a level. */
__device__ __forceinline__ void count_level(const struct candidates &c, struct level l,
                                            uint32_t *count, uint32_t *low)
{
    for (int i = (int)threadIdx.x; i < l.bins; i += (int)blockDim.x)
        count[i] = low[i] = 0;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < c.count; i += (int)blockDim.x) {
        int id = c.list ? c.list[i] : i;
        float w = weight_at(c.x, id, c.scale);
        uint64_t key = key_of(w, id), bin = (key - l.begin) >> l.shift;
        if (w == 0 || key < l.begin || bin >= (uint64_t)l.bins) continue;
        atomicAdd(&count[bin], 1u);
        uint32_t bits = low_of(key, l.shift);
        if (bits > 0) atomicAdd(&low[bin], bits);
    }
    __syncthreads();
}

/* 10 and 9 bits of the weight, then three times 8 of the id, which are only looked at where weights are equal. */
__device__ __forceinline__ int next_shift(int shift)
{
    return shift == BIN_SHIFT ? ID_BITS + 9 : shift == ID_BITS + 9 ? ID_BITS : shift - 8;
}

/* The least key that is kept, when the heads' tokens, or mass, shall reach `wanted`, which is in `bin`. *mass: of
 * what is kept. count, low: DIGITS_MAX. */
__device__ __forceinline__ uint64_t refine(const struct candidates &c, struct place bin,
                                           bool by_mass, uint64_t wanted, uint32_t *count,
                                           uint32_t *low, struct place *shared, uint64_t *scratch,
                                           uint64_t *mass)
{
    int shift = BIN_SHIFT;

    *mass = bin.mass_before;
    while (bin.count > 1) {
        wanted -= by_mass ? bin.mass_before : bin.count_before;
        int next = next_shift(shift);
        struct level l = {bin.begin, next, 1 << (shift - next)};
        count_level(c, l, count, low);
        bin = find_place(l, count, low, by_mass, wanted, shared, scratch);
        *mass += bin.mass_before;
        shift = next;
    }
    *mass += bin.mass;
    return bin.begin;
}

/* ---- reports (cuda_sample_report.cu) ---- */

/* Of the first draws of the job, whose tokens have been drawn. tile_mass is overwritten. */
void cuda_sample_make_reports(const struct sample_job *job, int reports, cudaStream_t stream);

#endif
