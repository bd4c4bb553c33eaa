/* tiny_model.h - small random models with every switch of model_params. */
#ifndef LM_TESTS_TINY_MODEL_H
#define LM_TESTS_TINY_MODEL_H

#include "kernels/backend.h"
#include "tests/kernels/kernel_test.h"

#define TINY_LAYERS_MAX 4

struct tiny_model {
    struct model_params params;
    struct layer_params layer[TINY_LAYERS_MAX];
    struct expert_params experts[TINY_LAYERS_MAX];
    struct latent_params latent[TINY_LAYERS_MAX];
    struct rope_table rope_tables[8];
    void *owned[1024];
    int owned_count;
    int matrices; // that a backend reads
};

static inline void tiny_own(struct tiny_model *t, const void *p)
{
    CHECK(t->owned_count < (int)ARRAY_LEN(t->owned));
    t->owned[t->owned_count++] = (void *)(uintptr_t)p;
}

static inline float *tiny_floats(struct tiny_model *t, struct rng *r, int count, float center,
                                 float spread)
{
    float *f = xmalloc((size_t)count * sizeof *f);
    for (int i = 0; i < count; i++)
        f[i] = center + random_float(r, spread);
    tiny_own(t, f);
    return f;
}

static inline struct matrix tiny_matrix(struct tiny_model *t, struct rng *r, enum dtype type,
                                        int rows, int cols)
{
    struct matrix m = random_matrix(r, type, rows, cols);
    tiny_own(t, m.data);
    t->matrices++;
    return m;
}

static inline int tiny_value_dim(const struct model_params *p)
{
    return p->value_dim ? p->value_dim : p->head_dim;
}

/* The caller has set the scalars of t->params; `types` are used in turn. */
static inline void tiny_fill(struct tiny_model *t, struct rng *r, const enum dtype *types,
                             int count, bool extras)
{
    struct model_params *p = &t->params;
    int q = p->heads * p->head_dim, kv = p->kv_heads * p->head_dim, n = 0;
    int value_dim = tiny_value_dim(p), v = p->kv_heads * value_dim;

    for (int i = 0; i < p->layers; i++) {
        struct layer_params *l = &t->layer[i];
        l->q = tiny_matrix(t, r, types[n++ % count], q, p->hidden);
        l->k = tiny_matrix(t, r, types[n++ % count], kv, p->hidden);
        l->v = tiny_matrix(t, r, types[n++ % count], v, p->hidden);
        l->o = tiny_matrix(t, r, types[n++ % count], p->hidden, p->heads * value_dim);
        l->gate = tiny_matrix(t, r, types[n++ % count], p->ffn, p->hidden);
        l->up = tiny_matrix(t, r, types[n++ % count], p->ffn, p->hidden);
        l->down = tiny_matrix(t, r, types[n++ % count], p->hidden, p->ffn);
        l->attn_norm = tiny_floats(t, r, p->hidden, 1, 0.3f);
        l->ffn_norm = tiny_floats(t, r, p->hidden, 1, 0.3f);
        if (!extras) continue;
        l->q_bias = tiny_floats(t, r, q, 0, 0.2f);
        l->k_bias = tiny_floats(t, r, kv, 0, 0.2f);
        l->v_bias = tiny_floats(t, r, v, 0, 0.2f);
        l->o_bias = tiny_floats(t, r, p->hidden, 0, 0.2f);
        l->q_norm = tiny_floats(t, r, p->head_dim, 1, 0.3f);
        l->k_norm = tiny_floats(t, r, p->head_dim, 1, 0.3f);
        l->attn_post_norm = tiny_floats(t, r, p->hidden, 1, 0.3f);
        l->ffn_post_norm = tiny_floats(t, r, p->hidden, 1, 0.3f);
        l->window = i % 2 ? 20 : 0;
        l->rope_table = i % p->rope_table_count;
    }
    int tables = (p->rope_sets ? p->rope_sets : 1) * p->rope_table_count;
    CHECK(tables <= (int)ARRAY_LEN(t->rope_tables));
    for (int i = 0; i < tables; i++) {
        float *f = tiny_floats(t, r, p->rope_dims / 2, 0, 0);
        for (int d = 0; d < p->rope_dims / 2; d++)
            f[d] = (float)pow(100.0 * (i + 1), -2.0 * d / p->rope_dims);
        t->rope_tables[i] = (struct rope_table){f, i ? 1.1f : 1.0f};
    }
    p->rope_tables = t->rope_tables;
    p->embedding = tiny_matrix(t, r, types[0], p->vocab, p->hidden);
    if (extras) p->head = tiny_matrix(t, r, types[count - 1], p->vocab, p->hidden);
    p->final_norm = tiny_floats(t, r, p->hidden, 1, 0.3f);
    p->layer = t->layer;
}

/* Latents in the place of a layer's k and v, and of its q if the model has a q_rank. */
static inline void tiny_add_latent(struct tiny_model *t, struct rng *r, int layer,
                                   const enum dtype *types, int count)
{
    const struct model_params *p = &t->params;
    struct latent_params *x = &t->latent[layer];
    int narrow = p->kv_rank + p->rope_dims, n = layer;
    int wide = p->heads * (p->head_dim - p->rope_dims + tiny_value_dim(p));

    t->matrices -= p->q_rank > 0 ? 3 : 2;
    if (p->q_rank > 0) {
        x->q_a = tiny_matrix(t, r, types[n++ % count], p->q_rank, p->hidden);
        x->q_b = tiny_matrix(t, r, types[n++ % count], p->heads * p->head_dim, p->q_rank);
        x->q_norm = tiny_floats(t, r, p->q_rank, 1, 0.3f);
    }
    x->kv_a = tiny_matrix(t, r, types[n++ % count], narrow, p->hidden);
    x->kv_b = tiny_matrix(t, r, types[n++ % count], wide, p->kv_rank);
    x->kv_norm = tiny_floats(t, r, p->kv_rank, 1, 0.3f);
    t->layer[layer].latent = x;
}

/* Experts of params.expert_shape in the place of a layer's gate, up and down; `types` are used in
 * turn. Biases, the correction, and the shared expert's scale are for the caller to add. */
static inline struct expert_params *tiny_add_experts(struct tiny_model *t, struct rng *r, int layer,
                                                     const enum dtype *types, int count)
{
    const struct expert_shape *s = &t->params.expert_shape;
    struct expert_params *x = &t->experts[layer];
    size_t bytes = (size_t)s->experts * sizeof(struct matrix);
    struct matrix *gate = xmalloc(bytes), *up = xmalloc(bytes), *down = xmalloc(bytes);
    int hidden = t->params.hidden, n = layer;

    tiny_own(t, gate), tiny_own(t, up), tiny_own(t, down);
    t->matrices -= 3; // the dense ones, which nobody reads now
    for (int e = 0; e < s->experts; e++) {
        gate[e] = tiny_matrix(t, r, types[n++ % count], s->ffn, hidden);
        up[e] = tiny_matrix(t, r, types[n++ % count], s->ffn, hidden);
        down[e] = tiny_matrix(t, r, types[n++ % count], hidden, s->ffn);
    }
    *x = (struct expert_params){.gate = gate, .up = up, .down = down};
    x->router = tiny_matrix(t, r, layer % 2 ? types[0] : DTYPE_F32, s->experts, hidden);
    if (s->shared_ffn > 0) {
        x->shared_gate = tiny_matrix(t, r, types[n++ % count], s->shared_ffn, hidden);
        x->shared_up = tiny_matrix(t, r, types[n++ % count], s->shared_ffn, hidden);
        x->shared_down = tiny_matrix(t, r, types[n++ % count], hidden, s->shared_ffn);
    }
    t->layer[layer].experts = x;
    return x;
}

static inline void tiny_free(struct tiny_model *t)
{
    for (int i = 0; i < t->owned_count; i++)
        free(t->owned[i]);
}

#endif
