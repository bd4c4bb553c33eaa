/* cpu_load_experts.c - repack mixtures of experts, lay out their activations. */
#include "kernels/cpu/cpu_load.h"

#include <stdlib.h>

#include "kernels/model_check.h"
#include "shared/base/check.h"

/* ---- weights ---- */

struct cpu_experts *cpu_load_experts_open(const struct model_params *p, int layer)
{
    size_t experts = (size_t)p->expert_shape.experts;

    if (!p->layer[layer].experts) return NULL;
    struct cpu_experts *x = xcalloc(1, sizeof *x);
    x->gate = xcalloc(3 * experts, sizeof *x->gate);
    x->up = x->gate + experts;
    x->down = x->up + experts;
    return x;
}

void cpu_load_experts_close(struct cpu_experts *x)
{
    if (x) free(x->gate);
    free(x);
}

/* The shared expert's scale as a matrix of one row: its product is summed as the router's are. */
static struct matrix scale_matrix(const struct model_params *p, const struct expert_params *x)
{
    return (struct matrix){
        .type = DTYPE_F32, .rows = 1, .cols = p->hidden, .data = x->shared_scale};
}

void cpu_load_experts_lay(struct backend *b, const struct model_params *p, int layer)
{
    const struct expert_params *from = p->layer[layer].experts;
    const struct expert_shape *s = &p->expert_shape;
    struct cpu_experts *x = b->layer[layer].experts;
    int64_t wide = (int64_t)s->experts * s->ffn;
    int64_t narrow = (int64_t)s->experts * b->share.hidden.count;

    cpu_load_lay_matrix_as(b, &from->router, DTYPE_F32, &x->router);
    x->router_bias = cpu_load_lay_floats(b, from->router_bias, s->experts);
    x->correction = cpu_load_lay_floats(b, from->correction, s->experts);
    x->gate_bias = cpu_load_lay_floats(b, from->gate_bias, wide);
    x->up_bias = cpu_load_lay_floats(b, from->up_bias, wide);
    x->down_bias = cpu_load_lay_floats(b, from->down_bias, narrow);
    for (int e = 0; e < s->experts; e++) {
        cpu_load_lay_matrix(b, &from->gate[e], &x->gate[e]);
        cpu_load_lay_matrix(b, &from->up[e], &x->up[e]);
        cpu_load_lay_matrix(b, &from->down[e], &x->down[e]);
    }
    if (!model_has_shared_expert(from)) return;
    cpu_load_lay_matrix(b, &from->shared_gate, &x->shared_gate);
    cpu_load_lay_matrix(b, &from->shared_up, &x->shared_up);
    cpu_load_lay_matrix(b, &from->shared_down, &x->shared_down);
    if (!from->shared_scale) return;
    struct matrix scale = scale_matrix(p, from);
    cpu_load_lay_matrix(b, &scale, &x->shared_scale);
}

void cpu_load_experts_pack(struct backend *b, const struct model_params *p, int layer)
{
    const struct expert_params *from = p->layer[layer].experts;
    const struct cpu_experts *x = b->layer[layer].experts;

    cpu_load_pack(b, p, &from->router, &x->router);
    for (int e = 0; e < p->expert_shape.experts; e++) {
        cpu_load_pack(b, p, &from->gate[e], &x->gate[e]);
        cpu_load_pack(b, p, &from->up[e], &x->up[e]);
        cpu_load_pack(b, p, &from->down[e], &x->down[e]);
    }
    if (!model_has_shared_expert(from)) return;
    cpu_load_pack(b, p, &from->shared_gate, &x->shared_gate);
    cpu_load_pack(b, p, &from->shared_up, &x->shared_up);
    cpu_load_pack(b, p, &from->shared_down, &x->shared_down);
    if (!from->shared_scale) return;
    struct matrix scale = scale_matrix(p, from);
    cpu_load_pack_panels(b, &scale, &x->shared_scale);
}

/* ---- activations ---- */

void cpu_load_experts_layouts(const struct backend *b, int layer, struct expert_layouts *add_to)
{
    const struct cpu_experts *x = b->layer[layer].experts;

    for (int e = 0; e < b->model.expert_shape.experts; e++) {
        add_to->in |= 1u << b->isa->gemm[x->gate[e].form].layout;
        add_to->in |= 1u << b->isa->gemm[x->up[e].form].layout;
        add_to->g |= cpu_gemm_layouts(b->isa, &x->down[e]);
    }
    add_to->h |= add_to->in | cpu_gemm_layouts(b->isa, &x->router);
    if (x->shared_gate.cols == 0) return;
    add_to->h |=
        cpu_gemm_layouts(b->isa, &x->shared_gate) | cpu_gemm_layouts(b->isa, &x->shared_up);
    add_to->shared_g |= cpu_gemm_layouts(b->isa, &x->shared_down);
}

void cpu_load_experts_lay_routes(struct backend *b, const struct expert_layouts *layouts)
{
    const struct expert_shape *s = &b->model.expert_shape;
    struct cpu_routes *r = &b->routes;
    int tokens = b->limits.tokens_max, rows = tokens * s->used;

    if (s->experts == 0) return;
    r->score = cpu_load_lay_rows(b, s->experts, tokens);
    r->shared_scale = cpu_load_lay_rows(b, 1, tokens);
    r->route = cpu_load_lay_bytes(b, (size_t)rows * sizeof *r->route);
    r->first = cpu_load_lay_bytes(b, ((size_t)s->experts + 1) * sizeof *r->first);
    r->job = cpu_load_lay_bytes(b, ((size_t)s->experts + 1) * sizeof *r->job);
    cpu_load_lay_input(b, &r->in, b->model.hidden, rows, layouts->in, 1, NULL);
    cpu_load_lay_input(b, &r->g, b->share.expert_ffn.whole, rows, layouts->g, 1, NULL);
    cpu_load_lay_input(b, &r->shared_g, b->share.shared_ffn.whole, tokens, layouts->shared_g, 1,
                       NULL);
    r->y = cpu_load_lay_rows(b, b->share.hidden.count, rows);
}
