#include "engine/weights_experts.h"

#include "engine/tensor_names.h"
#include "engine/weights_quantized.h"
#include "shared/base/check.h"

#include <stdio.h>
#include <string.h>

static struct matrix *new_matrices(struct mapper *m, int count)
{
    return arena_alloc(&m->weights->arena, (size_t)count * sizeof(struct matrix));
}

/* <experts>.<number>.<projection> */
static const struct matrix *map_apart(struct mapper *m, const char *projection, int64_t rows,
                                      int64_t cols)
{
    const struct model_config *c = &m->weights->config;
    struct matrix *out = new_matrices(m, c->experts.experts);
    for (int i = 0; i < c->experts.experts; i++) {
        char module[TENSOR_NAME_MAX / 2];
        snprintf(module, sizeof module, "%s.%d.%s", c->names->experts, i, projection);
        out[i] = mapper_matrix(m, module, REQUIRED, rows, cols);
    }
    return out;
}

static const struct matrix *map_stacked(struct mapper *m, const char *projection, int64_t rows,
                                        int64_t cols)
{
    const struct model_config *c = &m->weights->config;
    struct matrix *out = new_matrices(m, c->experts.experts);
    char name[TENSOR_NAME_MAX];
    struct tensor_view t;
    mapper_name(m, projection, ".weight", name);
    if (!mapper_find_stacked(m, name, c->experts.experts, rows, cols, &t)) return out;
    for (int i = 0; i < c->experts.experts; i++)
        out[i] = mapper_view_matrix(m, &t, i * rows, rows, cols);
    return out;
}

/* ---- gpt-oss: gate and up are one tensor, row by row in turns ----
 *
 * [experts][cols][turns * rows] of floats, or MXFP4 with the rows in front. */

static void transpose(uint8_t *to, const uint8_t *from, int64_t rows, int64_t cols, int turns,
                      size_t element)
{
    size_t step = (size_t)turns * element, line = (size_t)rows * step;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < cols; k++, to += element)
            memcpy(to, from + (size_t)k * line + (size_t)r * step, element);
}

static void make_transposed(struct mapper *m, const struct tensor_view *t, int64_t rows,
                            int64_t cols, int turns, int turn, struct matrix *out)
{
    size_t element = (size_t)dtype_block_bytes(t->type);
    if (dtype_block_elements(t->type) != 1) {
        mapper_fail(m, E_UNSUPPORTED, "transposed experts of type %s", t->type_name);
        return;
    }
    for (int i = 0; i < m->weights->config.experts.experts; i++) {
        const uint8_t *from = (const uint8_t *)t->data +
                              ((size_t)(i * rows * cols) * (size_t)turns + (size_t)turn) * element;
        transpose(mapper_make_matrix(m, t->type, rows, cols, &out[i]), from, rows, cols, turns,
                  element);
    }
}

/* The matrices that share `module`, by turns: out[turn][expert]. */
static void map_shared(struct mapper *m, const char *module, int64_t rows, int64_t cols, int turns,
                       struct matrix *const *out)
{
    char name[TENSOR_NAME_MAX];
    struct tensor_view t;
    if (weights_mxfp4_experts(m, module, rows, cols, turns, out)) return;
    mapper_name(m, module, "", name);
    if (!mapper_find_stacked(m, name, m->weights->config.experts.experts, cols, rows * turns, &t))
        return;
    for (int turn = 0; turn < turns; turn++)
        make_transposed(m, &t, rows, cols, turns, turn, out[turn]);
}

static const float *every_other(struct mapper *m, const float *both, int64_t count, int first)
{
    if (!both) return NULL;
    float *out = arena_alloc(&m->weights->arena, (size_t)count * sizeof *out);
    for (int64_t i = 0; i < count; i++)
        out[i] = both[2 * i + first];
    return out;
}

static void map_transposed(struct mapper *m, struct expert_params *e)
{
    const struct model_config *c = &m->weights->config;
    const struct tensor_names *n = c->names;
    int experts = c->experts.experts, ffn = c->experts.ffn;
    struct matrix *gate_up[] = {new_matrices(m, experts), new_matrices(m, experts)};
    struct matrix *down = new_matrices(m, experts);
    map_shared(m, n->expert_gate, ffn, c->hidden, 2, gate_up);
    map_shared(m, n->expert_down, c->hidden, ffn, 1, &down);
    e->gate = gate_up[0];
    e->up = gate_up[1];
    e->down = down;
    const float *both =
        mapper_floats(m, n->expert_gate, "_bias", OPTIONAL, experts, 2 * (int64_t)ffn);
    e->gate_bias = every_other(m, both, (int64_t)experts * ffn, 0);
    e->up_bias = every_other(m, both, (int64_t)experts * ffn, 1);
    e->down_bias = mapper_floats(m, n->expert_down, "_bias", OPTIONAL, experts, c->hidden);
}

/* ---- the layer ---- */

static void map_projections(struct mapper *m, struct expert_params *e)
{
    const struct model_config *c = &m->weights->config;
    const struct tensor_names *n = c->names;
    int64_t ffn = c->experts.ffn;
    switch (n->expert_storage) {
    case EXPERTS_APART:
        e->gate = map_apart(m, n->expert_gate, ffn, c->hidden);
        e->up = map_apart(m, n->expert_up, ffn, c->hidden);
        e->down = map_apart(m, n->expert_down, c->hidden, ffn);
        return;
    case EXPERTS_STACKED:
        e->gate = map_stacked(m, n->expert_gate, ffn, c->hidden);
        e->up = map_stacked(m, n->expert_up, ffn, c->hidden);
        e->down = map_stacked(m, n->expert_down, c->hidden, ffn);
        e->gate_bias = mapper_floats(m, n->expert_gate, ".bias", OPTIONAL, c->experts.experts, ffn);
        e->up_bias = mapper_floats(m, n->expert_up, ".bias", OPTIONAL, c->experts.experts, ffn);
        e->down_bias =
            mapper_floats(m, n->expert_down, ".bias", OPTIONAL, c->experts.experts, c->hidden);
        return;
    case EXPERTS_TRANSPOSED:
        map_transposed(m, e);
        return;
    }
    UNREACHABLE();
}

const struct expert_params *weights_experts_map(struct mapper *m)
{
    const struct model_config *c = &m->weights->config;
    const struct tensor_names *n = c->names;
    const struct expert_shape *s = &c->experts;
    struct expert_params *e = arena_alloc(&m->weights->arena, sizeof *e);
    e->router = mapper_matrix(m, n->router, REQUIRED, s->experts, c->hidden);
    e->router_bias = mapper_bias(m, n->router, OPTIONAL, s->experts);
    if (n->correction && s->scoring == EXPERTS_SIGMOID)
        e->correction = mapper_floats(m, n->correction, "", OPTIONAL, 1, s->experts);
    map_projections(m, e);
    if (s->shared_ffn > 0) {
        e->shared_gate = mapper_matrix(m, n->shared_gate, REQUIRED, s->shared_ffn, c->hidden);
        e->shared_up = mapper_matrix(m, n->shared_up, REQUIRED, s->shared_ffn, c->hidden);
        e->shared_down = mapper_matrix(m, n->shared_down, REQUIRED, c->hidden, s->shared_ffn);
        e->shared_scale = mapper_floats(m, n->shared_scale, ".weight", OPTIONAL, 1, c->hidden);
    }
    return e;
}
