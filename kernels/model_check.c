#include "kernels/model_check.h"

#include <math.h>
#include <stdio.h>

#include "shared/base/check.h"

struct check {
    const struct model_params *p;
    struct rank_share share;
    const struct model_limits *limits;
    struct error *err;
};

/* ---- one number, one matrix ---- */

struct named_range {
    const char *name;
    int64_t value, min, max;
};

static int check_range(const struct check *c, struct named_range r)
{
    if (r.value >= r.min && r.value <= r.max) return 0;
    return error_set(c->err, E_UNSUPPORTED, "model has %s %lld; the %s backend takes %lld to %lld",
                     r.name, (long long)r.value, c->limits->backend, (long long)r.min,
                     (long long)r.max);
}

static int check_ranges(const struct check *c, const struct named_range *range, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int rc = check_range(c, range[i]);
        if (rc < 0) return rc;
    }
    return 0;
}

static int check_matrix(const struct check *c, int layer, const char *name, const struct matrix *m,
                        int64_t rows, int64_t cols)
{
    if (!m->data || (unsigned)m->type >= DTYPE_COUNT)
        return error_set(c->err, E_INVALID, "layer %d has no %s matrix", layer, name);
    if (m->rows != rows || m->cols != cols) {
        return error_set(c->err, E_INVALID,
                         "layer %d: matrix %s is %lld x %lld, but the model needs %lld x %lld",
                         layer, name, (long long)m->rows, (long long)m->cols, (long long)rows,
                         (long long)cols);
    }
    if (m->type == DTYPE_F8_E4M3 && !c->limits->scale_grids)
        return error_set(c->err, E_UNSUPPORTED,
                         "layer %d: matrix %s is %s, which the %s backend doesn't take", layer,
                         name, dtype_name(m->type), c->limits->backend);
    if ((m->type == DTYPE_F8_E4M3) != (m->grid != NULL))
        return error_set(c->err, E_INVALID, "layer %d: matrix %s of %s %s scales beside it", layer,
                         name, dtype_name(m->type), m->grid ? "has" : "has no");
    if (cols % dtype_block_elements(m->type) == 0) return 0;
    return error_set(c->err, E_INVALID, "layer %d: %lld columns of %s don't fill blocks of %s",
                     layer, (long long)cols, name, dtype_name(m->type));
}

/* ---- the whole model ---- */

static bool has_dense_layer(const struct model_params *p)
{
    for (int i = 0; i < p->layers; i++)
        if (!p->layer[i].experts) return true;
    return false;
}

static int check_scalars(const struct check *c)
{
    const struct model_params *p = c->p;
    int dim = c->limits->dim_max, head = c->limits->head_dim_max;
    const struct named_range range[] = {
        {"layers", p->layers, 1, 4096},
        {"hidden size", p->hidden, 1, dim},
        {"heads", p->heads, 1, 4096},
        {"kv heads", p->kv_heads, 1, p->heads},
        {"head size", p->head_dim, 2, head},
        {"value head size", p->value_dim, 0, head},
        {"query rank", p->q_rank, 0, dim},
        {"key and value rank", p->kv_rank, 0, dim},
        {"vocabulary", p->vocab, 1, dim},
        {"rotated elements", p->rope_dims, 0, p->head_dim},
        {"rope tables", p->rope_table_count, 0, ROPE_TABLES_MAX},
        {"sets of rope tables", p->rope_sets, 0, ROPE_SETS_MAX},
    };
    int rc = check_ranges(c, range, ARRAY_LEN(range));

    if (rc == 0)
        rc = check_range(c, (struct named_range){"ffn size", p->ffn, has_dense_layer(p), dim});
    if (rc < 0) return rc;
    if (p->heads % p->kv_heads != 0)
        return error_set(c->err, E_UNSUPPORTED, "%d heads don't divide by %d kv heads", p->heads,
                         p->kv_heads);
    if (p->head_dim % 2 != 0 || p->rope_dims % 2 != 0)
        return error_set(c->err, E_UNSUPPORTED, "head size %d or %d rotated elements is odd",
                         p->head_dim, p->rope_dims);
    return 0;
}

static int check_groups(const struct check *c)
{
    const struct expert_shape *s = &c->p->expert_shape;
    int rc = check_range(c, (struct named_range){"expert groups", s->groups, 0, s->experts});

    if (rc < 0 || s->groups <= 1) return rc;
    if (s->experts % s->groups != 0)
        return error_set(c->err, E_UNSUPPORTED, "%d experts don't divide into %d groups",
                         s->experts, s->groups);
    if (s->scoring == EXPERTS_SOFTMAX_SELECTED)
        return error_set(c->err, E_UNSUPPORTED, "expert groups need scores of all experts");
    rc = check_range(c, (struct named_range){"used expert groups", s->groups_used, 1, s->groups});
    int reachable = s->experts / s->groups * s->groups_used;
    if (rc == 0 && s->used > reachable)
        rc = error_set(c->err, E_UNSUPPORTED, "%d experts per token, but %d groups have only %d",
                       s->used, s->groups_used, reachable);
    return rc;
}

static int check_expert_shape(const struct check *c)
{
    const struct expert_shape *s = &c->p->expert_shape;
    int used_max = s->experts < MODEL_EXPERTS_USED_MAX ? s->experts : MODEL_EXPERTS_USED_MAX;
    const struct named_range range[] = {
        {"experts per token", s->used, 1, used_max},
        {"expert ffn size", s->ffn, 1, c->limits->dim_max},
        {"shared expert ffn size", s->shared_ffn, 0, c->limits->dim_max},
        {"expert scoring", s->scoring, 0, EXPERTS_SIGMOID},
    };
    int rc = check_range(c, (struct named_range){"experts", s->experts, 0, MODEL_EXPERTS_MAX});

    if (rc < 0 || s->experts == 0) return rc;
    rc = check_ranges(c, range, ARRAY_LEN(range));
    if (rc == 0 && !(isfinite(s->scale) && s->scale != 0))
        rc = error_set(c->err, E_INVALID, "scale of experts is %g", (double)s->scale);
    return rc < 0 ? rc : check_groups(c);
}

/* ---- shares ---- */

struct rank_share model_share(const struct model_params *p)
{
    const struct expert_shape *x = &p->expert_shape;

    if (p->share) return *p->share;
    return (struct rank_share){.heads = {0, p->heads, p->heads},
                               .kv_heads = {0, p->kv_heads, p->kv_heads},
                               .ffn = {0, p->ffn, p->ffn},
                               .expert_ffn = {0, x->ffn, x->ffn},
                               .shared_ffn = {0, x->shared_ffn, x->shared_ffn},
                               .vocab = {0, p->vocab, p->vocab},
                               .hidden = {0, p->hidden, p->hidden}};
}

/* Columns of o, or of a down: those of the rank's inputs, or of all ranks'. */
static int inputs_of(enum tp_split split, const struct rank_range *r)
{
    return split == TP_SPLIT_INPUTS ? r->count : r->whole;
}

/* ---- a layer ---- */

int model_layer_matrices(const struct model_params *p, enum tp_split split,
                         const struct layer_params *l,
                         struct layer_matrix_view view[LAYER_MATRICES])
{
    const struct rank_share share = model_share(p);
    int64_t q = (int64_t)p->heads * p->head_dim, k = (int64_t)p->kv_heads * p->head_dim;
    int64_t v = (int64_t)p->kv_heads * model_value_dim(p);
    int64_t o = (int64_t)inputs_of(split, &share.heads) * model_value_dim(p);
    int64_t down = inputs_of(split, &share.ffn), y = share.hidden.count;
    const struct latent_params *x = l->latent;
    bool q_latent = x && x->q_a.data, dense = !l->experts;
    int n = 0;

#define ADD(has, kind, name, matrix, rows, cols) \
    if (has) view[n++] = (struct layer_matrix_view){kind, name, matrix, rows, cols}
    ADD(!q_latent, LAYER_Q, "q", &l->q, q, p->hidden);
    ADD(q_latent, LAYER_Q_A, "q_a", &x->q_a, p->q_rank, p->hidden);
    ADD(q_latent, LAYER_Q_B, "q_b", &x->q_b, q, p->q_rank);
    ADD(x, LAYER_KV_A, "kv_a", &x->kv_a, (int64_t)p->kv_rank + p->rope_dims, p->hidden);
    ADD(x, LAYER_KV_B, "kv_b", &x->kv_b, q + v - (int64_t)p->heads * p->rope_dims, p->kv_rank);
    ADD(!x, LAYER_K, "k", &l->k, k, p->hidden);
    ADD(!x, LAYER_V, "v", &l->v, v, p->hidden);
    ADD(true, LAYER_O, "o", &l->o, y, o);
    ADD(dense, LAYER_GATE, "gate", &l->gate, p->ffn, p->hidden);
    ADD(dense, LAYER_UP, "up", &l->up, p->ffn, p->hidden);
    ADD(dense, LAYER_DOWN, "down", &l->down, y, down);
#undef ADD
    return n;
}

static int check_latent(const struct check *c, int layer)
{
    const struct model_params *p = c->p;
    const struct layer_params *l = &p->layer[layer];

    if (p->kv_rank == 0 || (l->latent->q_a.data && p->q_rank == 0))
        return error_set(c->err, E_INVALID, "layer %d has latents, but the model no rank", layer);
    if (!l->latent->kv_norm || (l->latent->q_a.data && !l->latent->q_norm))
        return error_set(c->err, E_INVALID, "layer %d has latents without norms", layer);
    if (p->kv_heads != p->heads)
        return error_set(c->err, E_UNSUPPORTED,
                         "layer %d has latents for %d heads, but %d kv heads", layer, p->heads,
                         p->kv_heads);
    if (l->q_bias || l->k_bias || l->v_bias || l->q_norm || l->k_norm)
        return error_set(c->err, E_UNSUPPORTED,
                         "layer %d has latents and a bias or norm of q, k or v", layer);
    return 0;
}

static int check_expert(const struct check *c, int layer, int e)
{
    const struct expert_params *x = c->p->layer[layer].experts;
    int ffn = c->p->expert_shape.ffn, hidden = c->p->hidden, y = c->share.hidden.count;
    const struct {
        const char *what;
        const struct matrix *matrix;
        int rows, cols;
    } part[] = {
        {"gate", &x->gate[e], ffn, hidden},
        {"up", &x->up[e], ffn, hidden},
        {"down", &x->down[e], y, inputs_of(c->limits->split, &c->share.expert_ffn)},
    };
    char name[32];

    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        snprintf(name, sizeof name, "%s of expert %d", part[i].what, e);
        int rc = check_matrix(c, layer, name, part[i].matrix, part[i].rows, part[i].cols);
        if (rc < 0) return rc;
    }
    return 0;
}

static int check_shared_expert(const struct check *c, int layer)
{
    const struct expert_params *x = c->p->layer[layer].experts;
    int ffn = c->p->expert_shape.shared_ffn, hidden = c->p->hidden, y = c->share.hidden.count;
    int inputs = inputs_of(c->limits->split, &c->share.shared_ffn);

    if (!model_has_shared_expert(x)) {
        if (!x->shared_scale) return 0;
        return error_set(c->err, E_INVALID, "layer %d has a scale for a shared expert, but none",
                         layer);
    }
    int rc = check_matrix(c, layer, "shared gate", &x->shared_gate, ffn, hidden);
    if (rc == 0) rc = check_matrix(c, layer, "shared up", &x->shared_up, ffn, hidden);
    if (rc == 0) rc = check_matrix(c, layer, "shared down", &x->shared_down, y, inputs);
    return rc;
}

static int check_experts(const struct check *c, int layer)
{
    const struct expert_params *x = c->p->layer[layer].experts;
    int experts = c->p->expert_shape.experts;

    if (experts == 0)
        return error_set(c->err, E_INVALID, "layer %d has experts, but the model has none", layer);
    if (!x->gate || !x->up || !x->down)
        return error_set(c->err, E_INVALID, "layer %d has a mixture without experts", layer);
    int rc = check_matrix(c, layer, "router", &x->router, experts, c->p->hidden);
    for (int e = 0; rc == 0 && e < experts; e++)
        rc = check_expert(c, layer, e);
    return rc < 0 ? rc : check_shared_expert(c, layer);
}

static int check_layer(const struct check *c, int layer)
{
    const struct model_params *p = c->p;
    const struct layer_params *l = &p->layer[layer];
    struct layer_matrix_view view[LAYER_MATRICES];
    int count = model_layer_matrices(p, c->limits->split, l, view);
    int rc = l->latent ? check_latent(c, layer) : 0;

    for (int i = 0; rc == 0 && i < count; i++)
        rc = check_matrix(c, layer, view[i].name, view[i].matrix, view[i].rows, view[i].cols);
    if (rc == 0 && l->experts) rc = check_experts(c, layer);
    if (rc == 0 && p->rope_dims > 0)
        rc = check_range(c, (struct named_range){"rope table", l->rope_table, ROPE_NONE,
                                                 p->rope_table_count - 1});
    if (rc == 0) rc = check_range(c, (struct named_range){"window", l->window, 0, INT32_MAX});
    return rc;
}

int model_check(const struct model_params *p, const struct model_limits *limits, struct error *err)
{
    const struct check c = {p, model_share(p), limits, err};
    int rc = check_scalars(&c), rows = c.share.vocab.count;

    if (rc == 0) rc = check_expert_shape(&c);
    for (int i = 0; rc == 0 && i < p->layers; i++)
        rc = check_layer(&c, i);
    if (rc == 0) rc = check_matrix(&c, 0, "embedding", &p->embedding, rows, p->hidden);
    if (rc == 0 && p->head.data)
        rc = check_matrix(&c, p->layers - 1, "head", &p->head, rows, p->hidden);
    if (rc == 0 && !p->final_norm) rc = error_set(err, E_INVALID, "model has no final norm");
    return rc;
}

int model_check_steps(const struct step_limits *l, const struct model_limits *limits,
                      struct error *err)
{
    const struct check c = {.limits = limits, .err = err};
    const struct named_range range[] = {
        {"tokens per step", l->tokens_max, 1, 1 << 20},
        {"sequences per step", l->sequences_max, 1, l->tokens_max},
        {"logit rows per step", l->rows_max, 1, l->tokens_max},
        {"context", l->context_max, 1, 1 << 28},
    };
    return check_ranges(&c, range, ARRAY_LEN(range));
}
