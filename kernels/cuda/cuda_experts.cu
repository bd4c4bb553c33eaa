#include "kernels/cuda/cuda_experts.h"

#include "kernels/cuda/cuda_values.cuh"
#include "kernels/model_check.h"

/* ---- choice: one warp, one token ---- */

/* The better of two candidates (-1: none): the first among equals; a NaN is never better. */
__device__ __forceinline__ int better(const float *score, int a, int b)
{
    if (a < 0 || b < 0) return a < 0 ? b : a;
    int first = min(a, b), second = max(a, b);
    return score[second] > score[first] ? second : first;
}

/* The best of [from, to) that isn't barred, for all lanes; -1: all are barred. */
__device__ __forceinline__ int best_of(const float *score, const uint8_t *barred, int from, int to)
{
    int best = -1;

    for (int i = from + lane_id(); i < to; i += 32)
        if (!barred[i]) best = better(score, best, i);
    for (int step = 16; step > 0; step >>= 1)
        best = better(score, best, __shfl_xor_sync(0xffffffffu, best, step));
    return best;
}

/* The best is found by the warp, barred by one lane, and seen by all before the next search. */
__device__ __forceinline__ void set_flag(uint8_t *flags, int at, uint8_t value)
{
    __syncwarp();
    if (lane_id() == 0 && at >= 0) flags[at] = value;
    __syncwarp();
}

struct route_scratch {
    float score[MODEL_EXPERTS_MAX]; // with the correction
    float group[MODEL_EXPERTS_MAX];
    uint8_t barred[MODEL_EXPERTS_MAX], chosen[MODEL_EXPERTS_MAX];
};

/* By its best member, or by the sum of its two best where experts are scored each by itself. */
__device__ __forceinline__ float group_score(const struct expert_shape &s, struct route_scratch *t,
                                             int from, int to)
{
    int first = best_of(t->score, t->barred, from, to);

    if (s.scoring != EXPERTS_SIGMOID || to - from < 2) return t->score[first];
    set_flag(t->barred, first, 1);
    int second = best_of(t->score, t->barred, from, to);
    set_flag(t->barred, first, 0);
    return t->score[first] + t->score[second];
}

/* Bars the experts outside the best groups. */
__device__ __forceinline__ void bar_groups(const struct expert_shape &s, struct route_scratch *t)
{
    int size = s.experts / s.groups, lane = lane_id();

    for (int g = 0; g < s.groups; g++) {
        float score = group_score(s, t, g * size, (g + 1) * size);
        if (lane == 0) t->group[g] = score;
    }
    __syncwarp();
    for (int i = 0; i < s.groups_used; i++)
        set_flag(t->chosen, best_of(t->group, t->chosen, 0, s.groups), 1);
    for (int e = lane; e < s.experts; e += 32)
        t->barred[e] = !t->chosen[e / size];
    __syncwarp();
    for (int g = lane; g < s.groups; g += 32)
        t->chosen[g] = 0;
    __syncwarp();
}

__device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* Softmax over all experts or a sigmoid of each, in place, where the family wants one before choosing. */
__device__ __forceinline__ void score_all(const struct expert_shape &s, float *score)
{
    int lane = lane_id();
    float top = -INFINITY, total = 0;

    if (s.scoring == EXPERTS_SOFTMAX_SELECTED) return;
    if (s.scoring == EXPERTS_SIGMOID) {
        for (int i = lane; i < s.experts; i += 32)
            score[i] = sigmoid(score[i]);
        return;
    }
    for (int i = lane; i < s.experts; i += 32)
        top = fmaxf(top, score[i]);
    top = warp_max(top);
    for (int i = lane; i < s.experts; i += 32) {
        score[i] = expf(score[i] - top);
        total += score[i];
    }
    total = warp_sum(total);
    for (int i = lane; i < s.experts; i += 32)
        score[i] = score[i] / total;
}

/* The chosen, by ascending expert. */
__device__ __forceinline__ void list_chosen(const struct expert_shape &s, const uint8_t *chosen,
                                            int *expert)
{
    int lane = lane_id(), count = 0;

    for (int base = 0; base < s.experts; base += 32) {
        bool is_chosen = base + lane < s.experts && chosen[base + lane];
        unsigned mask = __ballot_sync(0xffffffffu, is_chosen);
        if (is_chosen) expert[count + __popc(mask & ((1u << lane) - 1))] = base + lane;
        count += __popc(mask);
    }
}

/* Weights of the chosen, from their scores without the correction. One lane: a handful of numbers in
 * a fixed order. */
__device__ __forceinline__ void weigh(const struct expert_shape &s, const float *score,
                                      const int *expert, float *weight)
{
    float sum = 0;

    if (s.scoring == EXPERTS_SOFTMAX_SELECTED) {
        float top = -INFINITY, total = 0;
        for (int i = 0; i < s.used; i++)
            top = fmaxf(top, score[expert[i]]);
        for (int i = 0; i < s.used; i++)
            total += weight[i] = expf(score[expert[i]] - top);
        for (int i = 0; i < s.used; i++)
            weight[i] = weight[i] / total;
    } else {
        for (int i = 0; i < s.used; i++)
            weight[i] = score[expert[i]];
    }
    for (int i = 0; i < s.used; i++)
        sum += weight[i];
    bool divide = s.normalise && sum > 0; // all may have underflowed
    for (int i = 0; i < s.used; i++)
        weight[i] = (divide ? weight[i] / sum : weight[i]) * s.scale;
}

__global__ void __launch_bounds__(32) route_kernel(struct cuda_routes r, struct expert_shape s,
                                                   const float *correction, bool has_shared_scale)
{
    pdl_begin();
    LM_SHARED(struct route_scratch, t, 1);
    int token = blockIdx.x, lane = threadIdx.x;
    float *score = r.score + (size_t)token * s.experts;
    int *expert = r.expert + (size_t)token * s.used;

    score_all(s, score);
    for (int i = lane; i < s.experts; i += 32) {
        t->score[i] = correction ? score[i] + correction[i] : score[i];
        t->barred[i] = t->chosen[i] = 0;
    }
    __syncwarp();
    if (s.groups > 1) bar_groups(s, t);
    for (int i = 0; i < s.used; i++) {
        int best = best_of(t->score, t->barred, 0, s.experts);
        set_flag(t->barred, best, 1);
        set_flag(t->chosen, best, 1);
    }
    list_chosen(s, t->chosen, expert);
    __syncwarp();
    if (lane == 0) weigh(s, score, expert, r.weight + (size_t)token * s.used);
    if (lane == 0 && has_shared_scale) r.shared_scale[token] = sigmoid(r.shared_scale[token]);
}

void cuda_experts_route(const struct cuda_routes *r, const struct expert_shape *shape,
                        const float *correction, bool has_shared_scale, int tokens,
                        cudaStream_t stream)
{
    if (tokens == 0) return;
    LM_LAUNCH_PDL(route_kernel, tokens, 32, 0, stream, *r, *shape, correction, has_shared_scale);
}

/* ---- grouping: one block, one expert ---- */

#define GROUP_WARPS_MAX 8

/* Each warp has a share of the routes that are neighbours, first to count those of experts before its own and of its own,
 * then to hand out rows: no atomics, so rows are always in the order of tokens, and blocks need no word of each other. */
__global__ void __launch_bounds__(WARP_LANES *GROUP_WARPS_MAX)
    group_kernel(struct cuda_routes r, int experts, int used, int routes)
{
    pdl_begin();
    LM_SHARED(int, before, GROUP_WARPS_MAX);
    LM_SHARED(int, own, GROUP_WARPS_MAX);
    int expert = blockIdx.x, warp = warp_id(), lane = lane_id(), counts[2] = {};
    int share = (routes / (int)blockDim.x + 1) * WARP_LANES;
    int from = warp * share, to = min(from + share, routes);

    for (int i = from + lane; i - lane < to; i += WARP_LANES) {
        int e = i < to ? r.expert[i] : experts;
        counts[0] += __popc(__ballot_sync(WARP_ALL, e < expert));
        counts[1] += __popc(__ballot_sync(WARP_ALL, e == expert));
    }
    if (lane == 0) before[warp] = counts[0], own[warp] = counts[1];
    __syncthreads();
    int first = 0, row = 0, all = 0;
    for (int w = 0; w < (int)blockDim.x / WARP_LANES; w++) {
        first += before[w];
        row += w < warp ? own[w] : 0;
        all += own[w];
    }
    row += first;
    if (threadIdx.x == 0) r.first[expert] = first;
    if (threadIdx.x == 0 && expert + 1 == experts) r.first[experts] = first + all;
    for (int i = from + lane; i - lane < to; i += WARP_LANES) {
        bool is_own = i < to && r.expert[i] == expert;
        unsigned mask = __ballot_sync(WARP_ALL, is_own);
        int at = row + __popc(mask & ((1u << lane) - 1));
        if (is_own) r.row[i] = at;
        if (is_own) r.token[at] = i / used;
        row += __popc(mask);
    }
}

void cuda_experts_group(const struct cuda_routes *r, const struct expert_shape *shape, int tokens,
                        cudaStream_t stream)
{
    int routes = tokens * shape->used, warps = (routes + WARP_LANES - 1) / WARP_LANES;

    if (tokens == 0) return;
    if (warps > GROUP_WARPS_MAX) warps = GROUP_WARPS_MAX;
    LM_LAUNCH_PDL(group_kernel, shape->experts, WARP_LANES * warps, 0, stream, *r, shape->experts,
                  shape->used, routes);
}

/* ---- sum ---- */

__global__ void add_up_kernel(struct cuda_routes r, int used, float *y, bool has_shared,
                              bool has_scale, int hidden)
{
    pdl_begin();
    size_t token = blockIdx.x;

    for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
        float v = has_shared ? y[token * hidden + i] : 0.0f;
        if (has_scale) v *= r.shared_scale[token];
        for (int j = 0; j < used; j++) {
            size_t route = token * used + j;
            v = fmaf(r.y[(size_t)r.row[route] * hidden + i], r.weight[route], v);
        }
        y[token * hidden + i] = v;
    }
}

void cuda_experts_add_up(const struct cuda_routes *r, const struct expert_shape *shape, float *y,
                         bool has_shared, bool has_shared_scale, int tokens, int hidden,
                         cudaStream_t stream)
{
    if (tokens == 0) return;
    LM_LAUNCH_PDL(add_up_kernel, tokens, 256, 0, stream, *r, shape->used, y, has_shared,
                  has_shared_scale, hidden);
}
