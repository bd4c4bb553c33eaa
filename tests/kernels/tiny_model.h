/* tiny_model.h - a small random model with every switch of model_params, and a forward pass of it
 * in float64 that follows the description in backend.h and nothing else. */
#ifndef LM_TESTS_TINY_MODEL_H
#define LM_TESTS_TINY_MODEL_H

#include "kernels/backend.h"
#include "tests/kernels/kernel_test.h"

#define TINY_LAYERS_MAX 4

struct tiny_model {
    struct model_params params;
    struct layer_params layer[TINY_LAYERS_MAX];
    void *owned[256];
    int owned_count;
};

static inline float *tiny_floats(struct tiny_model *t, struct rng *r, int count, float center,
                                 float spread)
{
    float *f = xmalloc((size_t)count * sizeof *f);
    for (int i = 0; i < count; i++)
        f[i] = center + random_float(r, spread);
    t->owned[t->owned_count++] = f;
    return f;
}

static inline struct matrix tiny_matrix(struct tiny_model *t, struct rng *r, enum dtype type,
                                        int rows, int cols)
{
    struct matrix m = random_matrix(r, type, rows, cols);
    t->owned[t->owned_count++] = (void *)(uintptr_t)m.data;
    return m;
}

/* The caller has set the scalars of t->params; `types` are used in turn. */
static inline void tiny_fill(struct tiny_model *t, struct rng *r, const enum dtype *types,
                             int count, bool extras)
{
    struct model_params *p = &t->params;
    int q = p->heads * p->head_dim, kv = p->kv_heads * p->head_dim, n = 0;

    for (int i = 0; i < p->layers; i++) {
        struct layer_params *l = &t->layer[i];
        l->q = tiny_matrix(t, r, types[n++ % count], q, p->hidden);
        l->k = tiny_matrix(t, r, types[n++ % count], kv, p->hidden);
        l->v = tiny_matrix(t, r, types[n++ % count], kv, p->hidden);
        l->o = tiny_matrix(t, r, types[n++ % count], p->hidden, q);
        l->gate = tiny_matrix(t, r, types[n++ % count], p->ffn, p->hidden);
        l->up = tiny_matrix(t, r, types[n++ % count], p->ffn, p->hidden);
        l->down = tiny_matrix(t, r, types[n++ % count], p->hidden, p->ffn);
        l->attn_norm = tiny_floats(t, r, p->hidden, 1, 0.3f);
        l->ffn_norm = tiny_floats(t, r, p->hidden, 1, 0.3f);
        if (!extras) continue;
        l->q_bias = tiny_floats(t, r, q, 0, 0.2f);
        l->k_bias = tiny_floats(t, r, kv, 0, 0.2f);
        l->v_bias = tiny_floats(t, r, kv, 0, 0.2f);
        l->o_bias = tiny_floats(t, r, p->hidden, 0, 0.2f);
        l->q_norm = tiny_floats(t, r, p->head_dim, 1, 0.3f);
        l->k_norm = tiny_floats(t, r, p->head_dim, 1, 0.3f);
        l->attn_post_norm = tiny_floats(t, r, p->hidden, 1, 0.3f);
        l->ffn_post_norm = tiny_floats(t, r, p->hidden, 1, 0.3f);
        l->window = i % 2 ? 20 : 0;
        l->rope_table = i % p->rope_table_count;
    }
    for (int i = 0; i < p->rope_table_count; i++) {
        float *f = tiny_floats(t, r, p->rope_dims / 2, 0, 0);
        for (int d = 0; d < p->rope_dims / 2; d++)
            f[d] = (float)pow(100.0 * (i + 1), -2.0 * d / p->rope_dims);
        p->rope_tables[i] = (struct rope_table){f, i ? 1.1f : 1.0f};
    }
    p->embedding = tiny_matrix(t, r, types[0], p->vocab, p->hidden);
    if (extras) p->head = tiny_matrix(t, r, types[count - 1], p->vocab, p->hidden);
    p->final_norm = tiny_floats(t, r, p->hidden, 1, 0.3f);
    p->layer = t->layer;
}

static inline void tiny_free(struct tiny_model *t)
{
    for (int i = 0; i < t->owned_count; i++)
        free(t->owned[i]);
}

/* ---- the same in float64 ---- */

static inline void ref_product(const struct matrix *m, const float *bias, const double *x,
                               double *y)
{
    float *row = xmalloc((size_t)m->cols * sizeof *row);
    for (int64_t r = 0; r < m->rows; r++) {
        const uint8_t *src =
            (const uint8_t *)m->data + (size_t)r * matrix_row_bytes(m->type, m->cols);
        quant_dequantize_row(m->type, src, row, m->cols);
        y[r] = bias ? (double)bias[r] : 0;
        for (int64_t c = 0; c < m->cols; c++)
            y[r] += (double)row[c] * x[c];
    }
    free(row);
}

static inline void ref_norm(double *y, const double *x, const float *weight, int n, double eps)
{
    double squares = 0;
    for (int i = 0; i < n; i++)
        squares += x[i] * x[i];
    double scale = 1 / sqrt(squares / n + eps);
    for (int i = 0; i < n; i++)
        y[i] = x[i] * scale * (double)weight[i];
}

static inline void ref_head(const struct model_params *p, const struct layer_params *l,
                            double *head, const float *norm, int position)
{
    const struct rope_table *table = &p->rope_tables[l->rope_table];
    int half = p->rope_dims / 2;

    if (norm) ref_norm(head, head, norm, p->head_dim, (double)p->norm_eps);
    for (int i = 0; i < half; i++) {
        double angle = position * (double)table->inv_freq[i], f = (double)table->attention_factor;
        bool inter = p->rope_style == ROPE_INTERLEAVED;
        double *a = head + (inter ? 2 * i : i), *b = head + (inter ? 2 * i + 1 : i + half);
        double x = *a, y = *b;
        *a = (x * cos(angle) - y * sin(angle)) * f;
        *b = (y * cos(angle) + x * sin(angle)) * f;
    }
}

static inline double ref_cap(double x, float cap)
{
    return cap > 0 ? (double)cap * tanh(x / (double)cap) : x;
}

/* One query head of the token at `position`; k and v: [position][kv_heads * head_dim]. */
static inline void ref_attend(const struct model_params *p, const struct layer_params *l,
                              const double *q, const double *k, const double *v, int position,
                              double *o)
{
    int kv = p->kv_heads * p->head_dim;
    int first = l->window > 0 && position >= l->window ? position - l->window + 1 : 0;
    double *score = xcalloc((size_t)position + 1, sizeof *score), total = 0;

    for (int t = first; t <= position; t++) {
        for (int d = 0; d < p->head_dim; d++)
            score[t] += q[d] * k[t * kv + d];
        score[t] = exp(ref_cap(score[t] * (double)p->attention_scale, p->attention_softcap));
        total += score[t];
    }
    for (int d = 0; d < p->head_dim; d++) {
        o[d] = 0;
        for (int t = first; t <= position; t++)
            o[d] += score[t] / total * v[t * kv + d];
    }
    free(score);
}

static inline double ref_gate(const struct model_params *p, double x)
{
    double z = p->activation == FFN_SILU ? x : 2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
    return x / (1 + exp(-z));
}

static inline void ref_add(const struct model_params *p, double *x, double *y,
                           const float *post_norm)
{
    if (post_norm) ref_norm(y, y, post_norm, p->hidden, (double)p->norm_eps);
    for (int i = 0; i < p->hidden; i++)
        x[i] += (double)p->residual_scale * y[i];
}

static inline void ref_layer(const struct model_params *p, const struct layer_params *l, double *x,
                             int tokens)
{
    int q_dim = p->heads * p->head_dim, kv = p->kv_heads * p->head_dim,
        group = p->heads / p->kv_heads;
    double *k = xcalloc((size_t)(tokens * kv), sizeof *k),
           *v = xcalloc((size_t)(tokens * kv), sizeof *v);
    double *h = xcalloc((size_t)p->hidden, sizeof *h), *y = xcalloc((size_t)p->hidden, sizeof *y);
    double *q = xcalloc((size_t)q_dim, sizeof *q), *o = xcalloc((size_t)q_dim, sizeof *o);
    double *g = xcalloc((size_t)p->ffn, sizeof *g), *u = xcalloc((size_t)p->ffn, sizeof *u);

    for (int t = 0; t < tokens; t++, x += p->hidden) {
        ref_norm(h, x, l->attn_norm, p->hidden, (double)p->norm_eps);
        ref_product(&l->q, l->q_bias, h, q);
        ref_product(&l->k, l->k_bias, h, k + t * kv);
        ref_product(&l->v, l->v_bias, h, v + t * kv);
        for (int i = 0; i < p->kv_heads; i++)
            ref_head(p, l, k + t * kv + i * p->head_dim, l->k_norm, t);
        for (int i = 0; i < p->heads; i++) {
            int at = i / group * p->head_dim;
            ref_head(p, l, q + i * p->head_dim, l->q_norm, t);
            ref_attend(p, l, q + i * p->head_dim, k + at, v + at, t, o + i * p->head_dim);
        }
        ref_product(&l->o, l->o_bias, o, y);
        ref_add(p, x, y, l->attn_post_norm);
        ref_norm(h, x, l->ffn_norm, p->hidden, (double)p->norm_eps);
        ref_product(&l->gate, NULL, h, g);
        ref_product(&l->up, NULL, h, u);
        for (int i = 0; i < p->ffn; i++)
            g[i] = ref_gate(p, g[i]) * u[i];
        ref_product(&l->down, NULL, g, y);
        ref_add(p, x, y, l->ffn_post_norm);
    }
    free(k), free(v), free(h), free(y), free(q), free(o), free(g), free(u);
}

/* Logits of every token of one sequence: [tokens][vocab], owned by the caller. */
static inline double *ref_logits(const struct tiny_model *t, const int32_t *ids, int tokens)
{
    const struct model_params *p = &t->params;
    double *x = xcalloc((size_t)(tokens * p->hidden), sizeof *x);
    double *logits = xcalloc((size_t)(tokens * p->vocab), sizeof *logits);
    double *h = xcalloc((size_t)p->hidden, sizeof *h);
    float *row = xmalloc((size_t)p->hidden * sizeof *row);
    size_t row_bytes = matrix_row_bytes(p->embedding.type, p->hidden);

    for (int i = 0; i < tokens; i++) {
        const uint8_t *src = (const uint8_t *)p->embedding.data + (size_t)ids[i] * row_bytes;
        quant_dequantize_row(p->embedding.type, src, row, p->hidden);
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
