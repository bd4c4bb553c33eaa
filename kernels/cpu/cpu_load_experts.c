/* cpu_load_experts.c - check and repack mixtures of experts, lay out their activations. */
#include "kernels/cpu/cpu_load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/check.h"

/* ---- checks ---- */

static int check_groups(const struct expert_shape *s, struct error *err)
{
    int rc = cpu_load_check_range("expert groups", s->groups, 0, s->experts, err);
    if (rc < 0 || s->groups <= 1) return rc;
    if (s->experts % s->groups != 0) {
        return error_set(err, E_UNSUPPORTED, "%d experts don't divide into %d groups", s->experts,
                         s->groups);
    }
    if (s->scoring == EXPERTS_SOFTMAX_SELECTED)
        return error_set(err, E_UNSUPPORTED, "expert groups need scores of all experts");
    rc = cpu_load_check_range("used expert groups", s->groups_used, 1, s->groups, err);
    if (rc == 0 && s->used > s->experts / s->groups * s->groups_used) {
        rc = error_set(err, E_UNSUPPORTED, "%d experts per token, but %d groups have only %d",
                       s->used, s->groups_used, s->experts / s->groups * s->groups_used);
    }
    return rc;
}

int cpu_load_experts_check_shape(const struct model_params *p, struct error *err)
{
    const struct expert_shape *s = &p->expert_shape;
    int rc = cpu_load_check_range("experts", s->experts, 0, EXPERTS_MAX, err);

    if (rc < 0 || s->experts == 0) return rc;
    int used_max = s->experts < EXPERTS_USED_MAX ? s->experts : EXPERTS_USED_MAX;
    rc = cpu_load_check_range("experts per token", s->used, 1, used_max, err);
    if (rc == 0) rc = cpu_load_check_range("expert ffn size", s->ffn, 1, DIM_MAX, err);
    if (rc == 0)
        rc = cpu_load_check_range("shared expert ffn size", s->shared_ffn, 0, DIM_MAX, err);
    if (rc == 0) rc = cpu_load_check_range("expert scoring", s->scoring, 0, EXPERTS_SIGMOID, err);
    if (rc == 0 && !(isfinite(s->scale) && s->scale != 0))
        rc = error_set(err, E_INVALID, "scale of experts is %g", (double)s->scale);
    return rc < 0 ? rc : check_groups(s, err);
}

static int check_experts(const struct model_params *p, const struct rank_share *share, int layer,
                         struct error *err)
{
    const struct expert_params *x = p->layer[layer].experts;
    int ffn = p->expert_shape.ffn, y = share->hidden.count, inputs = share->expert_ffn.whole;
    int rc = 0;
    char name[32];

    if (!x->gate || !x->up || !x->down)
        return error_set(err, E_INVALID, "layer %d has a mixture without experts", layer);
    for (int e = 0; rc == 0 && e < p->expert_shape.experts; e++) {
        snprintf(name, sizeof name, "gate of expert %d", e);
        rc = cpu_load_check_matrix(&x->gate[e], name, layer, ffn, p->hidden, err);
        snprintf(name, sizeof name, "up of expert %d", e);
        if (rc == 0) rc = cpu_load_check_matrix(&x->up[e], name, layer, ffn, p->hidden, err);
        snprintf(name, sizeof name, "down of expert %d", e);
        if (rc == 0) rc = cpu_load_check_matrix(&x->down[e], name, layer, y, inputs, err);
    }
    return rc;
}

static bool has_shared(const struct expert_params *x)
{
    return x->shared_gate.data || x->shared_up.data || x->shared_down.data;
}

static int check_shared(const struct model_params *p, const struct rank_share *share, int layer,
                        struct error *err)
{
    const struct expert_params *x = p->layer[layer].experts;
    int ffn = p->expert_shape.shared_ffn, y = share->hidden.count;
    int inputs = share->shared_ffn.whole, rc = 0;

    if (!has_shared(x)) {
        if (!x->shared_scale) return 0;
        return error_set(err, E_INVALID, "layer %d has a scale for a shared expert, but none",
                         layer);
    }
    rc = cpu_load_check_matrix(&x->shared_gate, "shared gate", layer, ffn, p->hidden, err);
    if (rc == 0) rc = cpu_load_check_matrix(&x->shared_up, "shared up", layer, ffn, p->hidden, err);
    if (rc == 0) rc = cpu_load_check_matrix(&x->shared_down, "shared down", layer, y, inputs, err);
    return rc;
}

int cpu_load_experts_check(const struct model_params *p, const struct rank_share *share, int layer,
                           struct error *err)
{
    const struct expert_shape *s = &p->expert_shape;
    const struct expert_params *x = p->layer[layer].experts;

    if (s->experts == 0)
        return error_set(err, E_INVALID, "layer %d has experts, but the model has none", layer);
    int rc = cpu_load_check_matrix(&x->router, "router", layer, s->experts, p->hidden, err);
    if (rc == 0) rc = check_experts(p, share, layer, err);
    return rc < 0 ? rc : check_shared(p, share, layer, err);
}

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
    if (!has_shared(from)) return;
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
    if (!has_shared(from)) return;
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
