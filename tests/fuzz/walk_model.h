/* walk_model.h - read the first and the last byte of everything that a loader hands to a backend. Angles
 * have to be numbers: they are computed from what the file says. */
#ifndef LM_TESTS_FUZZ_WALK_MODEL_H
#define LM_TESTS_FUZZ_WALK_MODEL_H

#include "engine/weights.h"
#include "shared/base/check.h"

#include <math.h>

static volatile unsigned walk_sink;

static inline void walk_bytes(const void *data, size_t len)
{
    const unsigned char *at = data;
    if (at && len > 0) walk_sink = walk_sink + at[0] + at[len - 1];
}

static inline void walk_matrix(const struct matrix *m)
{
    if (m->data) walk_bytes(m->data, matrix_bytes(m));
    if (!m->data || !m->grid || m->rows == 0 || m->cols == 0) return;
    float scale[] = {matrix_scale(m, 0, 0), matrix_scale(m, m->rows - 1, m->cols - 1)};
    walk_bytes(scale, sizeof scale);
}

static inline void walk_floats(const float *values, int64_t count)
{
    walk_bytes(values, (size_t)count * sizeof *values);
}

static inline void walk_experts(const struct model_params *p, const struct expert_params *e)
{
    const struct expert_shape *s = &p->expert_shape;
    for (int i = 0; i < s->experts; i++) {
        walk_matrix(&e->gate[i]);
        walk_matrix(&e->up[i]);
        walk_matrix(&e->down[i]);
    }
    walk_floats(e->gate_bias, (int64_t)s->experts * s->ffn);
    walk_floats(e->up_bias, (int64_t)s->experts * s->ffn);
    walk_floats(e->down_bias, (int64_t)s->experts * p->hidden);
    walk_matrix(&e->router);
    walk_floats(e->router_bias, s->experts);
    walk_floats(e->correction, s->experts);
    walk_matrix(&e->shared_gate);
    walk_matrix(&e->shared_up);
    walk_matrix(&e->shared_down);
    walk_floats(e->shared_scale, p->hidden);
}

static inline void walk_latent(const struct model_params *p, const struct latent_params *l)
{
    walk_matrix(&l->q_a);
    walk_matrix(&l->q_b);
    walk_matrix(&l->kv_a);
    walk_matrix(&l->kv_b);
    walk_floats(l->q_norm, p->q_rank);
    walk_floats(l->kv_norm, p->kv_rank);
}

static inline void walk_layer(const struct model_params *p, const struct layer_params *l)
{
    int64_t q = (int64_t)p->heads * p->head_dim, kv = (int64_t)p->kv_heads * p->head_dim;
    walk_matrix(&l->q);
    walk_matrix(&l->k);
    walk_matrix(&l->v);
    walk_matrix(&l->o);
    walk_matrix(&l->gate);
    walk_matrix(&l->up);
    walk_matrix(&l->down);
    walk_floats(l->attn_norm, p->hidden);
    walk_floats(l->ffn_norm, p->hidden);
    walk_floats(l->attn_post_norm, p->hidden);
    walk_floats(l->ffn_post_norm, p->hidden);
    walk_floats(l->q_bias, q);
    walk_floats(l->k_bias, kv);
    walk_floats(l->v_bias, kv);
    walk_floats(l->o_bias, p->hidden);
    walk_floats(l->gate_bias, p->ffn);
    walk_floats(l->up_bias, p->ffn);
    walk_floats(l->down_bias, p->hidden);
    walk_floats(l->q_norm, p->qk_norm_spans_heads ? q : p->head_dim);
    walk_floats(l->k_norm, p->qk_norm_spans_heads ? kv : p->head_dim);
    walk_floats(l->sinks, p->heads);
    if (l->latent) walk_latent(p, l->latent);
    if (l->experts) walk_experts(p, l->experts);
}

static inline void walk_rope(const struct rope_table *table, int pairs)
{
    CHECK(isfinite(table->attention_factor) && table->attention_factor > 0);
    for (int i = 0; i < pairs; i++)
        CHECK(isfinite(table->inv_freq[i]) && table->inv_freq[i] >= 0);
}

static inline void walk_model(const struct weights *w)
{
    const struct model_params *p = &w->params;
    walk_matrix(&p->embedding);
    walk_matrix(&p->head);
    walk_floats(p->final_norm, p->hidden);
    for (int i = 0; i < p->rope_sets * p->rope_table_count; i++)
        walk_rope(&p->rope_tables[i], p->rope_dims / 2);
    for (int i = 0; i < p->layers; i++)
        walk_layer(p, &p->layer[i]);
}

#endif
