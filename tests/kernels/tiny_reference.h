/* tiny_reference.h - a forward pass of a tiny model in float64 that follows the description in
 * backend.h and nothing else. */
#ifndef LM_TESTS_TINY_REFERENCE_H
#define LM_TESTS_TINY_REFERENCE_H

#include "tests/kernels/tiny_model.h"

static inline void ref_product(const struct matrix *m, const float *bias, const double *x,
                               double *y)
{
    float *row = xmalloc((size_t)m->cols * sizeof *row);
    for (int64_t r = 0; r < m->rows; r++) {
        quant_dequantize_matrix_row(m, r, row);
        y[r] = bias ? (double)bias[r] : 0;
        for (int64_t c = 0; c < m->cols; c++)
            y[r] += (double)row[c] * x[c];
    }
    free(row);
}

/* Without a weight: as it is. */
static inline void ref_norm(double *y, const double *x, const float *weight, int n, double eps)
{
    double squares = 0;
    if (!weight) {
        memmove(y, x, (size_t)n * sizeof *y);
        return;
    }
    for (int i = 0; i < n; i++)
        squares += x[i] * x[i];
    double scale = 1 / sqrt(squares / n + eps);
    for (int i = 0; i < n; i++)
        y[i] = x[i] * scale * (double)weight[i];
}

/* The first rope_dims elements of a head, or the last ones in a layer with latents. */
static inline void ref_rotate(const struct model_params *p, const struct layer_params *l,
                              double *head, int position)
{
    int half = p->rope_dims / 2;
    bool inter = p->rope_style == ROPE_INTERLEAVED;

    if (l->rope_table == ROPE_NONE) return;
    if (l->latent) head += p->head_dim - p->rope_dims;
    const struct rope_table *table = &p->rope_tables[l->rope_table];
    for (int i = 0; i < half; i++) {
        double angle = position * (double)table->inv_freq[i], f = (double)table->attention_factor;
        double *a = head + (inter ? 2 * i : i), *b = head + (inter ? 2 * i + 1 : i + half);
        double x = *a, y = *b;
        *a = (x * cos(angle) - y * sin(angle)) * f;
        *b = (y * cos(angle) + x * sin(angle)) * f;
    }
}

/* Norms and rotation of all heads of q or k. */
static inline void ref_heads(const struct model_params *p, const struct layer_params *l, double *x,
                             int heads, const float *norm, int position)
{
    double eps = (double)p->norm_eps;

    if (p->qk_norm_spans_heads) ref_norm(x, x, norm, heads * p->head_dim, eps);
    for (int i = 0; i < heads; i++) {
        double *head = x + i * p->head_dim;
        if (!p->qk_norm_spans_heads) ref_norm(head, head, norm, p->head_dim, eps);
        ref_rotate(p, l, head, position);
    }
}

static inline double ref_cap(double x, float cap)
{
    return cap > 0 ? (double)cap * tanh(x / (double)cap) : x;
}

/* Query head `head` of the token at `position`; k: [position][kv_heads * head_dim], v likewise with
 * value_dim. */
static inline void ref_attend(const struct model_params *p, const struct layer_params *l, int head,
                              const double *q, const double *k, const double *v, int position,
                              double *o)
{
    int k_row = p->kv_heads * p->head_dim, value_dim = tiny_value_dim(p);
    int v_row = p->kv_heads * value_dim;
    int first = l->window > 0 && position >= l->window ? position - l->window + 1 : 0;
    double *score = xcalloc((size_t)position + 1, sizeof *score), total = 0;

    if (l->sinks) total = exp((double)l->sinks[head]);
    for (int t = first; t <= position; t++) {
        for (int d = 0; d < p->head_dim; d++)
            score[t] += q[d] * k[t * k_row + d];
        score[t] = exp(ref_cap(score[t] * (double)p->attention_scale, p->attention_softcap));
        total += score[t];
    }
    for (int d = 0; d < value_dim; d++) {
        o[d] = 0;
        for (int t = first; t <= position; t++)
            o[d] += score[t] / total * v[t * v_row + d];
    }
    free(score);
}

static inline double ref_sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* act(gate) * up, as enum ffn_activation says */
static inline double ref_gated(enum ffn_activation kind, double gate, double up)
{
    double g = fmin(gate, 7), u = fmax(fmin(up, 7), -7);

    switch (kind) {
    case FFN_SILU:
        return gate * ref_sigmoid(gate) * up;
    case FFN_GELU_TANH:
        return gate * ref_sigmoid(2 * sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate)) * up;
    case FFN_SWIGLU_CLAMPED:
        return g * ref_sigmoid(1.702 * g) * (u + 1);
    }
    UNREACHABLE();
}

/* y += weight * (down (act(gate h) * up h) + its bias) */
static inline void ref_ffn(const struct model_params *p, const struct matrix *gate,
                           const struct matrix *up, const struct matrix *down,
                           const float *const bias[3], double weight, const double *h, double *y)
{
    int ffn = (int)gate->rows;
    double *g = xcalloc((size_t)ffn, sizeof *g), *u = xcalloc((size_t)ffn, sizeof *u);
    double *out = xcalloc((size_t)p->hidden, sizeof *out);

    ref_product(gate, bias[0], h, g);
    ref_product(up, bias[1], h, u);
    for (int i = 0; i < ffn; i++)
        g[i] = ref_gated(p->activation, g[i], u[i]);
    ref_product(down, bias[2], g, out);
    for (int i = 0; i < p->hidden; i++)
        y[i] += weight * out[i];
    free(g), free(u), free(out);
}

static inline void ref_softmax(double *x, int n)
{
    double total = 0;
    for (int i = 0; i < n; i++)
        total += exp(x[i]);
    for (int i = 0; i < n; i++)
        x[i] = exp(x[i]) / total;
}

/* The index of the best, lower ones first among equals; it is then out of the race. */
static inline int ref_take_best(double *score, int from, int to)
{
    int best = from;
    for (int i = from + 1; i < to; i++)
        if (score[i] > score[best]) best = i;
    score[best] = -INFINITY;
    return best;
}

/* What is left of `race` are the experts of the best groups. */
static inline void ref_groups(const struct expert_shape *s, double *race)
{
    int size = s->experts / s->groups;
    double group[64], copy[256];
    bool keep[64] = {false};

    memcpy(copy, race, (size_t)s->experts * sizeof *copy);
    for (int g = 0; g < s->groups; g++) {
        group[g] = race[ref_take_best(copy, g * size, (g + 1) * size)];
        if (s->scoring == EXPERTS_SIGMOID)
            group[g] += race[ref_take_best(copy, g * size, (g + 1) * size)];
    }
    for (int i = 0; i < s->groups_used; i++)
        keep[ref_take_best(group, 0, s->groups)] = true;
    for (int e = 0; e < s->experts; e++)
        if (!keep[e / size]) race[e] = -INFINITY;
}

static inline void ref_experts(const struct model_params *p, const struct expert_params *x,
                               const double *h, double *y)
{
    const struct expert_shape *s = &p->expert_shape;
    double score[256], race[256], weight[64], sum = 0;
    int chosen[64];

    ref_product(&x->router, x->router_bias, h, score);
    if (s->scoring == EXPERTS_SOFTMAX) ref_softmax(score, s->experts);
    for (int e = 0; e < s->experts; e++) {
        if (s->scoring == EXPERTS_SIGMOID) score[e] = ref_sigmoid(score[e]);
        race[e] = score[e] + (x->correction ? (double)x->correction[e] : 0);
    }
    if (s->groups > 1) ref_groups(s, race);
    for (int i = 0; i < s->used; i++) {
        chosen[i] = ref_take_best(race, 0, s->experts);
        weight[i] = score[chosen[i]];
    }
    if (s->scoring == EXPERTS_SOFTMAX_SELECTED) ref_softmax(weight, s->used);
    for (int i = 0; i < s->used; i++)
        sum += weight[i];
    memset(y, 0, (size_t)p->hidden * sizeof *y);
    for (int i = 0; i < s->used; i++) {
        int e = chosen[i];
        const float *bias[3] = {x->gate_bias ? x->gate_bias + e * s->ffn : NULL,
                                x->up_bias ? x->up_bias + e * s->ffn : NULL,
                                x->down_bias ? x->down_bias + e * p->hidden : NULL};
        double w = weight[i] / (s->normalise ? sum : 1) * (double)s->scale;
        ref_ffn(p, &x->gate[e], &x->up[e], &x->down[e], bias, w, h, y);
    }
    if (!x->shared_gate.data) return;
    double w = 0;
    for (int i = 0; x->shared_scale && i < p->hidden; i++)
        w += (double)x->shared_scale[i] * h[i];
    ref_ffn(p, &x->shared_gate, &x->shared_up, &x->shared_down, (const float *[3]){NULL},
            x->shared_scale ? ref_sigmoid(w) : 1, h, y);
}

static inline void ref_add(const struct model_params *p, double *x, double *y,
                           const float *post_norm)
{
    if (post_norm) ref_norm(y, y, post_norm, p->hidden, (double)p->norm_eps);
    for (int i = 0; i < p->hidden; i++)
        x[i] += (double)p->residual_scale * y[i];
}

/* q, k and v of one token before norms and rotation. */
static inline void ref_project(const struct model_params *p, const struct layer_params *l,
                               const double *h, double *q, double *k, double *v)
{
    const struct latent_params *x = l->latent;
    int still = p->head_dim - p->rope_dims, value_dim = tiny_value_dim(p);
    double eps = (double)p->norm_eps, narrow[512], wide[2048];

    if (x && x->q_a.data) {
        ref_product(&x->q_a, NULL, h, narrow);
        ref_norm(narrow, narrow, x->q_norm, p->q_rank, eps);
        ref_product(&x->q_b, NULL, narrow, q);
    } else {
        ref_product(&l->q, l->q_bias, h, q);
    }
    if (!x) {
        ref_product(&l->k, l->k_bias, h, k);
        ref_product(&l->v, l->v_bias, h, v);
        return;
    }
    ref_product(&x->kv_a, NULL, h, narrow);
    ref_norm(narrow, narrow, x->kv_norm, p->kv_rank, eps);
    ref_product(&x->kv_b, NULL, narrow, wide);
    for (int i = 0; i < p->heads; i++) {
        for (int d = 0; d < p->head_dim; d++)
            k[i * p->head_dim + d] =
                d < still ? wide[i * (still + value_dim) + d] : narrow[p->kv_rank + d - still];
        for (int d = 0; d < value_dim; d++)
            v[i * value_dim + d] = wide[i * (still + value_dim) + still + d];
    }
}

static inline void ref_layer(const struct model_params *p, const struct layer_params *l, double *x,
                             int tokens)
{
    int q_dim = p->heads * p->head_dim, group = p->heads / p->kv_heads;
    int value_dim = tiny_value_dim(p), k_row = p->kv_heads * p->head_dim;
    int v_row = p->kv_heads * value_dim;
    double *k = xcalloc((size_t)(tokens * k_row), sizeof *k);
    double *v = xcalloc((size_t)(tokens * v_row), sizeof *v);
    double *h = xcalloc((size_t)p->hidden, sizeof *h), *y = xcalloc((size_t)p->hidden, sizeof *y);
    double *q = xcalloc((size_t)q_dim, sizeof *q),
           *o = xcalloc((size_t)(p->heads * value_dim), sizeof *o);

    for (int t = 0; t < tokens; t++, x += p->hidden) {
        ref_norm(h, x, l->attn_norm, p->hidden, (double)p->norm_eps);
        ref_project(p, l, h, q, k + t * k_row, v + t * v_row);
        ref_heads(p, l, q, p->heads, l->q_norm, t);
        ref_heads(p, l, k + t * k_row, p->kv_heads, l->k_norm, t);
        for (int i = 0; i < p->heads; i++) {
            int at = i / group;
            ref_attend(p, l, i, q + i * p->head_dim, k + at * p->head_dim, v + at * value_dim, t,
                       o + i * value_dim);
        }
        ref_product(&l->o, l->o_bias, o, y);
        ref_add(p, x, y, l->attn_post_norm);
        ref_norm(h, x, l->ffn_norm, p->hidden, (double)p->norm_eps);
        memset(y, 0, (size_t)p->hidden * sizeof *y);
        if (l->experts)
            ref_experts(p, l->experts, h, y);
        else
            ref_ffn(p, &l->gate, &l->up, &l->down, (const float *[3]){NULL}, 1, h, y);
        ref_add(p, x, y, l->ffn_post_norm);
    }
    free(k), free(v), free(h), free(y), free(q), free(o);
}

/* Logits of every token of one sequence: [tokens][vocab], owned by the caller. */
static inline double *ref_logits(const struct tiny_model *t, const int32_t *ids, int tokens)
{
    const struct model_params *p = &t->params;
    double *x = xcalloc((size_t)(tokens * p->hidden), sizeof *x);
    double *logits = xcalloc((size_t)(tokens * p->vocab), sizeof *logits);
    double *h = xcalloc((size_t)p->hidden, sizeof *h);
    float *row = xmalloc((size_t)p->hidden * sizeof *row);

    for (int i = 0; i < tokens; i++) {
        quant_dequantize_matrix_row(&p->embedding, ids[i], row);
        for (int d = 0; d < p->hidden; d++)
            x[i * p->hidden + d] = (double)row[d] * (double)p->embedding_scale;
    }
    for (int i = 0; i < p->layers; i++)
        ref_layer(p, &t->layer[i], x, tokens);
    for (int i = 0; i < tokens; i++) {
        double *out = logits + i * p->vocab;
        ref_norm(h, x + i * p->hidden, p->final_norm, p->hidden, (double)p->norm_eps);
        ref_product(p->head.data ? &p->head : &p->embedding, NULL, h, out);
        for (int v = 0; v < p->vocab; v++)
            out[v] = ref_cap(out[v] * (double)p->logit_scale, p->logit_softcap);
    }
    free(x), free(h), free(row);
    return logits;
}

#endif
