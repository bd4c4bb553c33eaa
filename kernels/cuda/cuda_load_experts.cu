#include "kernels/cuda/cuda_load.h"

void cuda_load_experts(struct cuda_loader *l, int layer)
{
    const struct expert_shape *s = &l->params->expert_shape;
    const struct expert_params *from = l->params->layer[layer].experts;
    struct cuda_experts *to = &l->b->layer[layer].experts;
    int64_t wide = (int64_t)s->experts * s->ffn, narrow = (int64_t)s->experts * l->params->hidden;

    to->router = cuda_load_stack(l, &from->router, 1, true);
    to->router_bias = cuda_load_floats(l, from->router_bias, s->experts);
    to->correction = cuda_load_floats(l, from->correction, s->experts);
    to->gate = cuda_load_stack(l, from->gate, s->experts, false);
    to->up = cuda_load_stack(l, from->up, s->experts, false);
    to->down = cuda_load_stack(l, from->down, s->experts, false);
    to->gate_bias = cuda_load_floats(l, from->gate_bias, wide);
    to->up_bias = cuda_load_floats(l, from->up_bias, wide);
    to->down_bias = cuda_load_floats(l, from->down_bias, narrow);
    if (!model_has_shared_expert(from)) return;
    to->shared_gate = cuda_load_stack(l, &from->shared_gate, 1, false);
    to->shared_up = cuda_load_stack(l, &from->shared_up, 1, false);
    to->shared_down = cuda_load_stack(l, &from->shared_down, 1, false);
    if (!from->shared_scale) return;
    /* One more row of the router: its product is summed as the router's are. Memory behind it is
     * handed out in whole 256 bytes and was zeroed, so it is padded. */
    to->shared_scale.form = CUDA_F32;
    to->shared_scale.rows = 1;
    to->shared_scale.cols = l->params->hidden;
    to->shared_scale.stride = cuda_form_stride(CUDA_F32, l->params->hidden);
    to->shared_scale.data = cuda_load_floats(l, from->shared_scale, l->params->hidden);
}

void cuda_load_routes(struct backend *b)
{
    const struct expert_shape *s = &b->model.expert_shape;
    struct cuda_routes *r = &b->routes;
    size_t tokens = (size_t)b->limits.tokens_max, rows = tokens * (size_t)s->used;

    r->score = (float *)cuda_load_bytes(b, tokens * (size_t)s->experts, sizeof(float));
    r->shared_scale = (float *)cuda_load_bytes(b, tokens, sizeof(float));
    r->expert = (int *)cuda_load_bytes(b, rows, sizeof(int));
    r->weight = (float *)cuda_load_bytes(b, rows, sizeof(float));
    r->row = (int *)cuda_load_bytes(b, rows, sizeof(int));
    r->first = (int *)cuda_load_bytes(b, (size_t)s->experts + 1, sizeof(int));
    r->token = (int *)cuda_load_bytes(b, rows, sizeof(int));
    r->g = cuda_load_rows(b, s->ffn, (int)rows);
    r->shared_g = cuda_load_rows(b, s->shared_ffn, (int)tokens);
    r->y = (float *)cuda_load_bytes(b, rows * (size_t)b->model.hidden, sizeof(float));
}
