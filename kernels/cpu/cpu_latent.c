/* cpu_latent.c - queries, keys and values through narrow rows. What is stored is one K and one V
 * per head: pages are as large as without latents, and attention knows nothing of them. */
#include "kernels/cpu/cpu_latent.h"

#include <string.h>

#include "kernels/cpu/cpu_state.h"

/* Narrow rows get their norms; the part of a key that rotates, behind the latent, gets none. */
static void norm_narrow(struct backend *b, int token, int layer)
{
    const struct cpu_latent *x = b->layer[layer].latent;
    const struct model_params *m = &b->model;
    struct cpu_latent_rows *r = &b->latents;
    const float *narrow = r->narrow + (size_t)token * (size_t)(m->kv_rank + m->rope_dims);

    b->isa->pointwise->rms_norm(cpu_input_row(&r->kv, token), narrow, x->kv_norm, m->kv_rank,
                                m->norm_eps);
    cpu_input_quantize(b->isa, &r->kv, token, NULL);
    if (!x->q_a.data) return;
    float *q = cpu_input_row(&r->q, token);
    b->isa->pointwise->rms_norm(q, q, x->q_norm, m->q_rank, m->norm_eps);
    cpu_input_quantize(b->isa, &r->q, token, NULL);
}

void cpu_latent_project(struct backend *b, int layer)
{
    const struct cpu_layer *l = &b->layer[layer];
    const struct cpu_latent *x = l->latent;
    struct cpu_latent_rows *r = &b->latents;
    struct cpu_gemm_job first = cpu_step_job(b, &b->attn_in), then[2];
    int jobs = 0;

    if (b->step->tokens == 0) return;
    if (x->q_a.data)
        cpu_gemm_job_add(&first, &x->q_a, cpu_input_row(&r->q, 0), NULL);
    else
        cpu_gemm_job_add(&first, &l->q, b->q, NULL);
    cpu_gemm_job_add(&first, &x->kv_a, r->narrow, NULL);
    cpu_gemm_run(&first);
    cpu_for_tokens(b, b->step->tokens, norm_narrow, layer);
    if (x->q_a.data) {
        then[jobs] = cpu_step_job(b, &r->q);
        cpu_gemm_job_add(&then[jobs++], &x->q_b, b->q, NULL);
    }
    then[jobs] = cpu_step_job(b, &r->kv);
    cpu_gemm_job_add(&then[jobs++], &x->kv_b, r->wide, NULL);
    cpu_gemm_run_all(then, jobs);
}

void cpu_latent_expand(struct backend *b, int token)
{
    const struct model_params *m = &b->model;
    int still = m->head_dim - m->rope_dims; // elements of a key that don't rotate
    size_t row = (size_t)token * (size_t)m->heads;
    const float *from = b->latents.wide + row * (size_t)(still + m->value_dim);
    const float *narrow = b->latents.narrow + (size_t)token * (size_t)(m->kv_rank + m->rope_dims);
    float *k = b->k + row * (size_t)m->head_dim, *v = b->v + row * (size_t)m->value_dim;

    for (int h = 0; h < m->heads; h++, from += still + m->value_dim) {
        memcpy(k, from, (size_t)still * sizeof *k);
        memcpy(k + still, narrow + m->kv_rank, (size_t)m->rope_dims * sizeof *k);
        memcpy(v, from + still, (size_t)m->value_dim * sizeof *v);
        k += m->head_dim;
        v += m->value_dim;
    }
}
