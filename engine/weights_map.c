#include "engine/weights_map.h"

#include "engine/mapper.h"
#include "engine/tensor_names.h"
#include "engine/weights_experts.h"
#include "engine/weights_latent.h"
#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

static const float *map_norm(struct mapper *m, const char *module, bool wanted, int64_t size)
{
    if (!wanted) return NULL;
    const float *stored = mapper_floats(m, module, ".weight", REQUIRED, 1, size);
    if (!stored || !m->weights->config.norm_plus_one) return stored;
    float *values = arena_alloc(&m->weights->arena, (size_t)size * sizeof *values);
    for (int64_t i = 0; i < size; i++)
        values[i] = 1.0f + stored[i];
    return values;
}

/* ---- layers ---- */

static struct matrix rows_of(const struct matrix *m, int64_t first, int64_t rows)
{
    struct matrix view = {.type = m->type, .rows = rows, .cols = m->cols};
    view.grid = m->grid;
    view.grid_row = first;
    if (m->data)
        view.data = (const uint8_t *)m->data + (size_t)first * matrix_row_bytes(m->type, m->cols);
    return view;
}

static const float *part_of(const float *bias, int64_t first)
{
    return bias ? bias + first : NULL;
}

/* The rows [first, first + count) of every group of `stride` rows, one behind the other. */
static struct matrix gather_rows(struct mapper *m, const struct matrix *from, int64_t groups,
                                 int64_t stride, int64_t first, int64_t count)
{
    struct matrix out = {0};
    size_t row_bytes = matrix_row_bytes(from->type, from->cols);
    const uint8_t *source = from->data;
    uint8_t *data = mapper_make_matrix(m, from->type, groups * count, from->cols, &out);
    for (int64_t g = 0; g < groups; g++)
        memcpy(data + (size_t)(g * count) * row_bytes,
               source + (size_t)(g * stride + first) * row_bytes, (size_t)count * row_bytes);
    return out;
}

static const float *gather_floats(struct mapper *m, const float *from, int64_t groups,
                                  int64_t stride, int64_t first, int64_t count)
{
    if (!from) return NULL;
    float *out = arena_alloc(&m->weights->arena, (size_t)(groups * count) * sizeof *out);
    for (int64_t g = 0; g < groups; g++)
        memcpy(out + g * count, from + g * stride + first, (size_t)count * sizeof *out);
    return out;
}

static void split_groups(struct mapper *m, const struct model_config *c, const struct matrix *qkv,
                         const float *bias, struct layer_params *l)
{
    int64_t d = c->head_dim, q = (int64_t)c->heads / c->kv_heads * d, stride = q + 2 * d;
    if (!qkv->data) return;
    l->q = gather_rows(m, qkv, c->kv_heads, stride, 0, q);
    l->k = gather_rows(m, qkv, c->kv_heads, stride, q, d);
    l->v = gather_rows(m, qkv, c->kv_heads, stride, q + d, d);
    l->q_bias = gather_floats(m, bias, c->kv_heads, stride, 0, q);
    l->k_bias = gather_floats(m, bias, c->kv_heads, stride, q, d);
    l->v_bias = gather_floats(m, bias, c->kv_heads, stride, q + d, d);
}

static void map_qkv(struct mapper *m, const struct model_config *c, struct layer_params *l)
{
    const struct tensor_names *n = c->names;
    int64_t q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    enum presence bias_presence = c->qkv_bias ? REQUIRED : OPTIONAL;
    if (n->qkv_packing == QKV_APART) {
        l->q = mapper_matrix(m, n->q, REQUIRED, q, c->hidden);
        l->k = mapper_matrix(m, n->k, REQUIRED, kv, c->hidden);
        l->v = mapper_matrix(m, n->v, REQUIRED, kv, c->hidden);
        l->q_bias = mapper_bias(m, n->q, bias_presence, q);
        l->k_bias = mapper_bias(m, n->k, bias_presence, kv);
        l->v_bias = mapper_bias(m, n->v, bias_presence, kv);
        return;
    }
    bool keeps_grids = m->keeps_grids;
    m->keeps_grids &= n->qkv_packing != QKV_GROUPS; // whose rows don't stay where their scales are
    struct matrix qkv = mapper_matrix(m, n->qkv, REQUIRED, q + 2 * kv, c->hidden);
    m->keeps_grids = keeps_grids;
    const float *bias = mapper_bias(m, n->qkv, bias_presence, q + 2 * kv);
    if (n->qkv_packing == QKV_GROUPS) {
        split_groups(m, c, &qkv, bias, l);
        return;
    }
    l->q = rows_of(&qkv, 0, q);
    l->k = rows_of(&qkv, q, kv);
    l->v = rows_of(&qkv, q + kv, kv);
    l->q_bias = bias;
    l->k_bias = part_of(bias, q);
    l->v_bias = part_of(bias, q + kv);
}

static const struct latent_params *map_latent(struct mapper *m, const struct model_config *c,
                                              struct layer_params *l)
{
    const struct tensor_names *n = c->names;
    const struct latent_config *a = &c->latent;
    struct latent_params *p = arena_alloc(&m->weights->arena, sizeof *p);
    int64_t q = (int64_t)c->heads * c->head_dim;
    int64_t kv = (int64_t)c->heads * (c->head_dim - a->rope_dims + a->value_dim);
    if (a->q_rank > 0) {
        p->q_a = mapper_matrix(m, n->q_a, REQUIRED, a->q_rank, c->hidden);
        p->q_norm = map_norm(m, n->q_a_norm, true, a->q_rank);
        p->q_b = mapper_matrix(m, n->q_b, REQUIRED, q, a->q_rank);
    } else {
        l->q = mapper_matrix(m, n->q, REQUIRED, q, c->hidden);
    }
    p->kv_a = mapper_matrix(m, n->kv_a, REQUIRED, (int64_t)a->kv_rank + a->rope_dims, c->hidden);
    p->kv_norm = map_norm(m, n->kv_a_norm, true, a->kv_rank);
    p->kv_b = mapper_matrix(m, n->kv_b, n->k_b ? OPTIONAL : REQUIRED, kv, a->kv_rank);
    if (n->k_b && !p->kv_b.data && m->rc == 0) p->kv_b = weights_latent_join(m);
    return p;
}

static void map_attention(struct mapper *m, const struct model_config *c, struct layer_params *l)
{
    const struct tensor_names *n = c->names;
    struct input_order h = {0}, o = {0};
    int64_t value_dim = c->latent.kv_rank > 0 ? c->latent.value_dim : c->head_dim;
    bool spans = c->qk_norm == QK_NORM_SPANS_HEADS, any = c->qk_norm != QK_NORM_NONE;
    if (c->latent.kv_rank > 0) {
        l->latent = map_latent(m, c, l);
    } else {
        m->input = &h;
        map_qkv(m, c, l);
        l->qkv_order = h.order;
    }
    m->input = &o;
    l->o = mapper_matrix(m, n->o, REQUIRED, c->hidden, c->heads * value_dim);
    l->o_order = o.order;
    m->input = NULL;
    l->o_bias = mapper_bias(m, n->o, OPTIONAL, c->hidden);
    l->q_norm = map_norm(m, n->q_norm, any, c->head_dim * (spans ? c->heads : 1));
    l->k_norm = map_norm(m, n->k_norm, any, c->head_dim * (spans ? c->kv_heads : 1));
    if (n->sinks) l->sinks = mapper_floats(m, n->sinks, "", OPTIONAL, 1, c->heads);
}

static void map_ffn(struct mapper *m, const struct model_config *c, struct layer_params *l)
{
    const struct tensor_names *n = c->names;
    struct input_order h = {0}, g = {0};
    m->input = &h;
    if (n->gate_up) {
        struct matrix both = mapper_matrix(m, n->gate_up, REQUIRED, 2 * (int64_t)c->ffn, c->hidden);
        const float *bias = mapper_bias(m, n->gate_up, OPTIONAL, 2 * (int64_t)c->ffn);
        l->gate = rows_of(&both, 0, c->ffn);
        l->up = rows_of(&both, c->ffn, c->ffn);
        l->gate_bias = bias;
        l->up_bias = part_of(bias, c->ffn);
    } else {
        l->gate = mapper_matrix(m, n->gate, REQUIRED, c->ffn, c->hidden);
        l->up = mapper_matrix(m, n->up, REQUIRED, c->ffn, c->hidden);
        l->gate_bias = mapper_bias(m, n->gate, OPTIONAL, c->ffn);
        l->up_bias = mapper_bias(m, n->up, OPTIONAL, c->ffn);
    }
    l->gate_up_order = h.order;
    m->input = &g;
    l->down = mapper_matrix(m, n->down, REQUIRED, c->hidden, c->ffn);
    l->down_order = g.order;
    m->input = NULL;
    l->down_bias = mapper_bias(m, n->down, OPTIONAL, c->hidden);
}

static int map_layer(struct mapper *m, const struct model_config *c, struct layer_params *l)
{
    const struct tensor_names *n = c->names;
    const struct layer_config *kind = &c->layer[m->layer];
    bool before = c->norms != NORMS_AFTER, after = c->norms != NORMS_BEFORE;
    l->window = kind->window;
    l->rope_table = kind->rope_table;
    l->attn_norm = map_norm(m, n->attn_norm, before, c->hidden);
    map_attention(m, c, l);
    l->attn_post_norm = map_norm(m, n->attn_post_norm, after, c->hidden);
    l->ffn_norm = map_norm(m, n->ffn_norm, before, c->hidden);
    if (kind->experts)
        l->experts = weights_experts_map(m);
    else
        map_ffn(m, c, l);
    l->ffn_post_norm = map_norm(m, n->ffn_post_norm, after, c->hidden);
    return m->rc;
}

/* ---- the model ---- */

/* The number of rows of the embedding decides the vocabulary; the file may say it too. */
static int find_vocab(struct mapper *m, struct model_config *c)
{
    char name[TENSOR_NAME_MAX];
    struct tensor_view t;
    mapper_name(m, c->names->embedding, ".weight", name);
    if (!mapper_find(m, name, REQUIRED, &t)) return m->rc;
    if (c->vocab && c->vocab != t.dim[0])
        mapper_fail(m, E_FORMAT, "vocabulary of %d tokens, but the embedding has %lld rows",
                    c->vocab, (long long)t.dim[0]);
    else if (t.dim[0] < 1 || t.dim[0] > MODEL_VOCAB_MAX)
        mapper_fail(m, E_FORMAT, "the embedding has %lld rows", (long long)t.dim[0]);
    c->vocab = (int)t.dim[0];
    return m->rc;
}

static void fill_scalars(const struct model_config *c, struct model_params *p)
{
    p->layers = c->layers;
    p->hidden = c->hidden;
    p->heads = c->heads;
    p->kv_heads = c->kv_heads;
    p->head_dim = c->head_dim;
    p->ffn = c->ffn;
    p->vocab = c->vocab;
    p->value_dim = c->latent.value_dim;
    p->q_rank = c->latent.q_rank;
    p->kv_rank = c->latent.kv_rank;
    p->rope_dims = c->rope[0].dims;
    p->rope_style = c->rope_style;
    p->activation = c->activation;
    p->norm_eps = c->norm_eps;
    p->attention_scale = c->attention_scale;
    p->embedding_scale = c->embedding_scale;
    p->residual_scale = c->residual_scale;
    p->logit_scale = c->logit_scale;
    p->attention_softcap = c->attention_softcap;
    p->logit_softcap = c->logit_softcap;
    p->qk_norm_spans_heads = c->qk_norm == QK_NORM_SPANS_HEADS;
    p->expert_shape = c->experts;
}

/* What frequencies are divided by, where a file has it as a tensor. */
static const float *map_factors(struct mapper *m, const char *module, enum presence presence,
                                int pairs)
{
    const float *factors = mapper_floats(m, module, ".weight", presence, 1, pairs);
    for (int i = 0; factors && i < pairs; i++)
        if (!(factors[i] >= 1e-3f && factors[i] <= 1e6f))
            mapper_fail(m, E_FORMAT, "tensor '%s.weight' has a factor of %g", module,
                        (double)factors[i]);
    return factors;
}

static int map_rope(struct mapper *m, struct model_config *c)
{
    int pairs = c->rope[0].dims / 2;
    const float *factors = map_factors(m, c->names->rope_factors, OPTIONAL, pairs);
    c->rope[0].freq_factors = factors;
    if (c->rope[0].scaling == ROPE_SCALING_LONGROPE && !c->rope[0].long_factor) {
        c->rope[0].short_factor = map_factors(m, c->names->rope_short, REQUIRED, pairs);
        c->rope[0].long_factor = map_factors(m, c->names->rope_long, REQUIRED, pairs);
    }
    if (m->rc == 0) weights_fit_rope(m->weights, c->context_len);
    return m->rc;
}

static struct matrix map_head(struct mapper *m, const struct model_config *c)
{
    if (c->head == HEAD_TIED) return (struct matrix){0};
    return mapper_matrix(m, c->names->head, c->head == HEAD_OWN ? REQUIRED : OPTIONAL, c->vocab,
                         c->hidden);
}

static int refuse_unused(struct mapper *m)
{
    const struct tensor_source *s = m->source;
    for (size_t i = 0; i < s->count; i++) {
        struct str name = s->name_at(s->file, i);
        char text[TENSOR_NAME_MAX];
        if (m->used[i] || s->is_spare(&m->weights->config, name)) continue;
        model_config_copy_text(text, sizeof text, name);
        mapper_fail(m, E_UNSUPPORTED, "tensor '%s' has no place in architecture '%s'", text,
                    m->weights->config.architecture);
        break;
    }
    return m->rc;
}

static int map_model(struct mapper *m)
{
    struct weights *w = m->weights;
    struct model_config *c = &w->config;
    struct model_params *p = &w->params;
    if (find_vocab(m, c) < 0) return m->rc;
    fill_scalars(c, p);
    p->embedding = mapper_matrix(m, c->names->embedding, REQUIRED, c->vocab, c->hidden);
    p->head = map_head(m, c);
    p->final_norm = map_norm(m, c->names->final_norm, true, c->hidden);
    if (m->rc < 0 || map_rope(m, c) < 0) return m->rc;
    struct layer_params *layers = arena_alloc(&w->arena, (size_t)c->layers * sizeof *layers);
    for (m->layer = 0; m->layer < c->layers; m->layer++)
        if (map_layer(m, c, &layers[m->layer]) < 0) return m->rc;
    p->layer = layers;
    return refuse_unused(m);
}

int weights_map(struct weights *w, const struct tensor_source *source,
                const struct linear_format *format, const struct weights_options *options,
                struct error *err)
{
    struct mapper m = {.weights = w,
                       .source = source,
                       .format = format,
                       .exact = options->compute == COMPUTE_F32,
                       .plain_inputs = options->plain_inputs,
                       .keeps_grids = options->scale_grids,
                       .err = err,
                       .layer = -1};
    m.used = xcalloc(source->count ? source->count : 1, sizeof *m.used);
    map_model(&m);
    if (format && format->is_asked && !m.format_found)
        mapper_fail(&m, E_INVALID, "model format '%s' was asked for, but nothing is stored so",
                    format->name);
    free(m.used);
    return m.rc;
}
