#include "engine/model_config.h"

void model_config_init(struct model_config *c)
{
    *c = (struct model_config){
        .embedding_scale = 1,
        .residual_scale = 1,
        .logit_scale = 1,
        .rope_count = 1,
    };
}

static int check_experts(const struct model_config *c, struct error *err)
{
    const struct expert_shape *e = &c->experts;
    if (e->experts == 0) return 0;
    if (e->used < 1 || e->used > e->experts)
        return error_set(err, E_FORMAT, "each token uses %d of %d experts", e->used, e->experts);
    if (e->ffn < 1) return error_set(err, E_FORMAT, "experts have no size");
    return 0;
}

int model_config_check(const struct model_config *c, struct error *err)
{
    if (c->heads % c->kv_heads)
        return error_set(err, E_FORMAT, "%d attention heads can't share %d key-value heads",
                         c->heads, c->kv_heads);
    if (c->head_dim < 2 || c->head_dim > MODEL_HEAD_DIM_MAX || c->head_dim % 2)
        return error_set(err, E_FORMAT, "attention heads have %d elements", c->head_dim);
    if (c->latent.kv_rank > 0 && (c->latent.rope_dims >= c->head_dim || c->latent.rope_dims % 2))
        return error_set(err, E_FORMAT, "%d rotary dimensions in heads of %d", c->latent.rope_dims,
                         c->head_dim);
    for (int i = 0; i < c->rope_count; i++) {
        int dims = c->rope[i].dims;
        if (dims < 2 || dims > c->head_dim || dims % 2 || dims != c->rope[0].dims)
            return error_set(err, E_FORMAT, "%d rotary dimensions in heads of %d", dims,
                             c->head_dim);
    }
    return check_experts(c, err);
}

void model_config_copy_text(char *out, size_t size, struct str text)
{
    size_t n = text.len < size - 1 ? text.len : size - 1;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text.data[i];
        out[i] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    out[n] = 0;
}
