/* cpu_experts.c - mixtures of experts: choose, group tokens by expert, multiply, add up by weight.
 *
 * A token's routes depend on its own row of h, its rows go through the same kernels alone or in
 * company, and they are added in the order of their experts, so nothing depends on who shares the
 * step. Only experts that some token chose are read. */
#include "kernels/cpu/cpu_experts.h"

#include <string.h>

#include "kernels/cpu/cpu_state.h"
#include "kernels/model_check.h"
#include "shared/base/check.h"

/* ---- choice ---- */

/* The best of [from, to) that isn't barred, the first among equals; -1: all are barred. A NaN is
 * never better, so there is an answer whatever the scores are. */
static int best_of(const float *score, const bool *barred, int from, int to)
{
    int best = -1;
    for (int i = from; i < to; i++)
        if (!barred[i] && (best < 0 || score[i] > score[best])) best = i;
    return best;
}

/* By its best member, or by the sum of its two best where experts are scored each by itself. */
static float group_score(const struct expert_shape *s, const float *score, bool *barred, int from,
                         int to)
{
    int first = best_of(score, barred, from, to);
    if (s->scoring != EXPERTS_SIGMOID || to - from < 2) return score[first];
    barred[first] = true;
    int second = best_of(score, barred, from, to);
    barred[first] = false;
    return score[first] + score[second];
}

/* Bars the experts outside the best groups. */
static void bar_groups(const struct expert_shape *s, const float *score, bool *barred)
{
    float group[MODEL_EXPERTS_MAX];
    bool chosen[MODEL_EXPERTS_MAX] = {false};
    int size = s->experts / s->groups;

    for (int g = 0; g < s->groups; g++)
        group[g] = group_score(s, score, barred, g * size, (g + 1) * size);
    for (int i = 0; i < s->groups_used; i++)
        chosen[best_of(group, chosen, 0, s->groups)] = true;
    for (int e = 0; e < s->experts; e++)
        barred[e] = !chosen[e / size];
}

/* The `used` best, by ascending expert. */
static void choose(const struct expert_shape *s, const float *score, struct cpu_route *route)
{
    bool barred[MODEL_EXPERTS_MAX] = {false}, chosen[MODEL_EXPERTS_MAX] = {false};

    if (s->groups > 1) bar_groups(s, score, barred);
    for (int i = 0; i < s->used; i++) {
        int best = best_of(score, barred, 0, s->experts);
        barred[best] = chosen[best] = true;
    }
    for (int e = 0, i = 0; e < s->experts; e++)
        if (chosen[e]) route[i++].expert = e;
}

/* Weights of the chosen, from their scores without the correction. */
static void weigh(const struct backend *b, const float *score, struct cpu_route *route)
{
    const struct expert_shape *s = &b->model.expert_shape;
    float weight[MODEL_EXPERTS_USED_MAX], sum = 0;

    for (int i = 0; i < s->used; i++)
        weight[i] = score[route[i].expert];
    if (s->scoring == EXPERTS_SOFTMAX_SELECTED) b->isa->pointwise->softmax(weight, s->used);
    for (int i = 0; i < s->used; i++)
        sum = sum + weight[i];
    bool divide = s->normalise && sum > 0; // all may have underflowed
    for (int i = 0; i < s->used; i++)
        route[i].weight = (divide ? weight[i] / sum : weight[i]) * s->scale;
}

static void route_token(struct backend *b, int token, int layer)
{
    const struct expert_shape *s = &b->model.expert_shape;
    const struct cpu_experts *x = b->layer[layer].experts;
    const struct cpu_pointwise *ops = b->isa->pointwise;
    float *score = b->routes.score + (size_t)token * (size_t)s->experts;
    struct cpu_route *route = b->routes.route + (size_t)token * (size_t)s->used;
    float corrected[MODEL_EXPERTS_MAX];

    if (s->scoring == EXPERTS_SOFTMAX) ops->softmax(score, s->experts);
    if (s->scoring == EXPERTS_SIGMOID) ops->sigmoid(score, s->experts);
    if (x->correction) {
        memcpy(corrected, score, (size_t)s->experts * sizeof *score);
        ops->add(corrected, x->correction, s->experts);
    }
    choose(s, x->correction ? corrected : score, route);
    weigh(b, score, route);
    if (x->shared_scale.data) ops->sigmoid(b->routes.shared_scale + token, 1);
}

static void score_tokens(struct backend *b, const struct cpu_experts *x)
{
    struct cpu_gemm_job job = cpu_step_job(b, &b->ffn_in);

    cpu_gemm_job_add(&job, &x->router, b->routes.score, x->router_bias);
    if (x->shared_scale.data)
        cpu_gemm_job_add(&job, &x->shared_scale, b->routes.shared_scale, NULL);
    cpu_gemm_run(&job);
}

/* ---- grouping ---- */

/* Counts, then gives every route its row: by expert, then by token. */
static void group_routes(struct backend *b)
{
    struct cpu_routes *r = &b->routes;
    int experts = b->model.expert_shape.experts;
    size_t count = (size_t)b->step->tokens * (size_t)b->model.expert_shape.used;
    int next[MODEL_EXPERTS_MAX];

    memset(r->first, 0, ((size_t)experts + 1) * sizeof *r->first);
    for (size_t i = 0; i < count; i++)
        r->first[r->route[i].expert + 1]++;
    for (int e = 0; e < experts; e++)
        r->first[e + 1] += r->first[e];
    memcpy(next, r->first, (size_t)experts * sizeof *next);
    for (size_t i = 0; i < count; i++)
        r->route[i].row = next[r->route[i].expert]++;
}

/* The token's activations, quantised already, to all of its rows. */
static void gather(struct backend *b, int token, int layer)
{
    struct cpu_routes *r = &b->routes;
    int used = b->model.expert_shape.used;
    const struct cpu_route *route = r->route + (size_t)token * (size_t)used;

    (void)layer;
    for (int i = 0; i < ACT_LAYOUTS; i++) {
        if (!(r->in.layouts & 1u << i)) continue;
        size_t bytes = r->in.row_bytes[i];
        const char *from = (const char *)b->ffn_in.data[i] + (size_t)token * bytes;
        for (int j = 0; j < used; j++)
            memcpy((char *)r->in.data[i] + (size_t)route[j].row * bytes, from, bytes);
    }
}

/* ---- products ---- */

/* Of one expert's rows. */
static struct cpu_gemm_job job_of(const struct backend *b, const struct cpu_input *in, int expert)
{
    const int *first = b->routes.first;
    struct cpu_gemm_job job = cpu_step_job(b, in);
    job.first = first[expert];
    job.tokens = first[expert + 1] - first[expert];
    return job;
}

static void job_gated(struct cpu_gemm_job *job, const struct cpu_packed *gate,
                      const struct cpu_packed *up, const struct cpu_input *g,
                      const struct rank_range *ffn)
{
    cpu_step_job_add(job, gate, cpu_input_row(g, 0), ffn, NULL);
    cpu_gemm_job_add(job, up, NULL, NULL);
    job->gated = true;
}

static const float *bias_of(const float *biases, int expert, int count)
{
    return biases ? biases + (size_t)expert * (size_t)count : NULL;
}

void cpu_experts_gate_up(struct backend *b, int layer)
{
    const struct cpu_experts *x = b->layer[layer].experts;
    const struct expert_shape *s = &b->model.expert_shape;
    struct cpu_routes *r = &b->routes;
    int jobs = 0;

    if (b->step->tokens == 0) return;
    score_tokens(b, x);
    cpu_for_tokens(b, b->step->tokens, route_token, layer);
    group_routes(b);
    cpu_for_tokens(b, b->step->tokens, gather, layer);
    for (int e = 0; e < s->experts; e++) {
        if (r->first[e] == r->first[e + 1]) continue;
        struct cpu_gemm_job *job = &r->job[jobs++];
        *job = job_of(b, &r->in, e);
        job_gated(job, &x->gate[e], &x->up[e], &r->g, &b->share.expert_ffn);
        job->part[0].bias = bias_of(x->gate_bias, e, s->ffn);
        job->part[1].bias = bias_of(x->up_bias, e, s->ffn);
    }
    if (x->shared_gate.data) {
        r->job[jobs] = cpu_step_job(b, &b->ffn_in);
        job_gated(&r->job[jobs++], &x->shared_gate, &x->shared_up, &r->shared_g,
                  &b->share.shared_ffn);
    }
    cpu_gemm_run_all(r->job, jobs);
}

static void quantize_row(struct backend *b, int row, int layer)
{
    (void)layer;
    cpu_input_quantize(b->isa, &b->routes.g, row, NULL);
}

static void quantize_shared(struct backend *b, int token, int layer)
{
    (void)layer;
    cpu_input_quantize(b->isa, &b->routes.shared_g, token, NULL);
}

/* y = the shared expert's output times its scale, or 0, then each expert's, in order. */
static void add_up(struct backend *b, int token, int layer)
{
    const struct cpu_experts *x = b->layer[layer].experts;
    const struct cpu_pointwise *ops = b->isa->pointwise;
    int hidden = b->share.hidden.count, used = b->model.expert_shape.used; // its columns of y
    const struct cpu_route *route = b->routes.route + (size_t)token * (size_t)used;
    float *y = b->y + (size_t)token * (size_t)b->model.hidden + b->share.hidden.first;

    if (!x->shared_down.data) memset(y, 0, (size_t)hidden * sizeof *y);
    if (x->shared_scale.data) ops->scale(y, b->routes.shared_scale[token], hidden);
    for (int i = 0; i < used; i++) {
        const float *row = b->routes.y + (size_t)route[i].row * (size_t)hidden;
        ops->add_scaled(y, row, route[i].weight, hidden);
    }
}

void cpu_experts_down(struct backend *b, int layer)
{
    const struct cpu_experts *x = b->layer[layer].experts;
    const struct expert_shape *s = &b->model.expert_shape;
    struct cpu_routes *r = &b->routes;
    int tokens = b->step->tokens, jobs = 0;

    if (tokens == 0) return;
    cpu_gather_columns(b, cpu_input_row(&r->g, 0), r->first[s->experts], &b->share.expert_ffn, 1);
    if (b->step->tokens == 0) return; // the group of ranks has failed
    cpu_for_tokens(b, r->first[s->experts], quantize_row, layer);
    for (int e = 0; e < s->experts; e++) {
        if (r->first[e] == r->first[e + 1]) continue;
        r->job[jobs] = job_of(b, &r->g, e);
        cpu_gemm_job_add(&r->job[jobs++], &x->down[e], r->y,
                         bias_of(x->down_bias, e, b->share.hidden.count));
    }
    if (x->shared_down.data) {
        cpu_gather_columns(b, cpu_input_row(&r->shared_g, 0), tokens, &b->share.shared_ffn, 1);
        if (b->step->tokens == 0) return; // the group of ranks has failed
        cpu_for_tokens(b, tokens, quantize_shared, layer);
        r->job[jobs] = cpu_step_job(b, &r->shared_g);
        cpu_step_job_add(&r->job[jobs++], &x->shared_down, b->y, &b->share.hidden, NULL);
    }
    cpu_gemm_run_all(r->job, jobs);
    cpu_for_tokens(b, tokens, add_up, layer);
}
