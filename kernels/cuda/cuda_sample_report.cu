/* cuda_sample_report.cu - what log-probabilities are made of (struct sample_report), behind the draw. A logit's key is
 * top_of() it: the greater one comes first, and no two tokens have the same. */
#include "kernels/cuda/cuda_sample_select.cuh"

/* 0: it can't be drawn. A NaN, of adjustments that overflow, is neither. */
__device__ __forceinline__ uint64_t key_at(const float *x, int i, int vocab)
{
    return i < vocab && x[i] > -INFINITY ? top_of(x[i], i) : 0;
}

/* ---- measure ---- */

__global__ void __launch_bounds__(TILE_THREADS) sample_measure_kernel(struct sample_job job)
{
    LM_SHARED(uint64_t, scratch, WARP_LANES);
    const struct cuda_sample_draw *d = &job.space.draw[blockIdx.y];
    float *x = job.logits + (size_t)d->row * job.stride;
    int begin = (int)blockIdx.x * TILE, end = min(begin + TILE, job.vocab);
    size_t tile = (size_t)blockIdx.y * job.space.tiles + blockIdx.x;
    bool is_lifted;
    uint64_t top = row_top(job, blockIdx.y, &is_lifted), best = 0, mass = 0, all;

    if (!is_top_finite(top)) return;
    if (is_lifted) lift_bans(d, job.space.word, x, begin, end); // greedy rows have them still
    __syncthreads();
    struct sample_scale scale = sample_scale(top_value(top), 1);
    LM_UNROLL
    for (int j = 0; j < TILE_EACH; j++) {
        int i = begin + j * TILE_THREADS + (int)threadIdx.x;
        uint64_t key = key_at(x, i, end);
        if (i < end) mass += (uint64_t)weight_at(x, i, scale);
        best = key > best ? key : best;
    }
    best = warp_top(best);
    block_before(mass, scratch, &all);
    if (lane_id() == 0) job.space.group_top[tile * GROUPS + warp_id()] = best;
    if (threadIdx.x == 0) job.space.tile_mass[tile] = all;
}

/* ---- report ---- */

/* The highest of this lane's groups, each 32nd. */
__device__ __forceinline__ uint64_t own_top(const uint64_t *group_top, int groups)
{
    uint64_t best = 0;

    for (int i = lane_id(); i < groups; i += WARP_LANES)
        best = group_top[i] > best ? group_top[i] : best;
    return best;
}

/* The highest in a token's group that comes behind it. */
__device__ __forceinline__ uint64_t next_top(const float *x, int vocab, uint64_t top)
{
    int at = top_id(top) & ~(WARP_LANES - 1) & ~(TILE - TILE_THREADS);
    uint64_t best = 0;

    LM_UNROLL
    for (int j = 0; j < TILE_EACH; j++) {
        uint64_t key = key_at(x, at + j * TILE_THREADS + lane_id(), vocab);
        if (key < top && key > best) best = key;
    }
    return warp_top(best);
}

/* A tournament: the highest of all groups is the next likeliest token, and its group goes on with its next one. */
__device__ __forceinline__ void find_likeliest(const float *x, int vocab, uint64_t *group_top,
                                               int groups, int wanted, struct sample_candidate *out)
{
    uint64_t own = own_top(group_top, groups);

    for (int n = 0; n < wanted; n++) {
        uint64_t top = warp_top(own);
        bool is_there = top > 0;
        if (lane_id() == 0) {
            out[n].value = is_there ? top_value(top) : -INFINITY;
            out[n].id = is_there ? top_id(top) : -1;
        }
        if (!is_there) continue; // for all lanes
        uint64_t next = next_top(x, vocab, top);
        int group = top_id(top) / TILE * GROUPS + top_id(top) % TILE_THREADS / WARP_LANES;
        if (group % WARP_LANES == lane_id()) { // no other lane reads it
            group_top[group] = next;
            own = own_top(group_top, groups);
        }
    }
}

/* A warp for a row. */
__global__ void __launch_bounds__(WARP_LANES) sample_report_kernel(struct sample_job job)
{
    const struct cuda_sample_draw *d = &job.space.draw[blockIdx.x];
    const float *x = job.logits + (size_t)d->row * job.stride;
    size_t tile = (size_t)blockIdx.x * job.space.tiles;
    struct sample_report *report = &job.space.report[d->row];
    bool is_lifted;
    uint64_t top = row_top(job, blockIdx.x, &is_lifted), sum = 0;

    if (!is_top_finite(top)) return;
    for (int i = lane_id(); i < job.space.tiles; i += WARP_LANES)
        sum += job.space.tile_mass[tile + i];
    for (int other = WARP_LANES / 2; other > 0; other /= 2)
        sum += __shfl_xor_sync(WARP_ALL, sum, other);
    if (lane_id() == 0) {
        int id = d->scored >= 0 ? d->scored : job.space.token[d->row];
        report->max = top_value(top);
        report->own = id < job.vocab ? x[id] + 0.0f : -INFINITY; // -0 is 0
        report->sum = sum;
    }
    find_likeliest(x, job.vocab, job.space.group_top + tile * GROUPS, job.space.tiles * GROUPS,
                   d->logprobs - 1, report->likeliest);
}

void cuda_sample_make_reports(const struct sample_job *job, int reports, cudaStream_t stream)
{
    dim3 tiles((unsigned)job->space.tiles, (unsigned)reports);

    LM_LAUNCH(sample_measure_kernel, tiles, TILE_THREADS, 0, stream, *job);
    LM_LAUNCH(sample_report_kernel, reports, WARP_LANES, 0, stream, *job);
}
