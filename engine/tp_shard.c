/* tp_shard.c - ranges first (tp_shard_plan), then views of them (tp_shard_params).
 *
 *                      TP_SPLIT_OUTPUTS            TP_SPLIT_INPUTS
 *     q, k, v          rows of the rank's heads    the same
 *     gate, up         rows of its ffn range       the same
 *     o, down          rows of its hidden range    columns of its heads and of its ffn range
 *     biases of those  of the same rows            o, down: whole on rank 0, none elsewhere
 *     embedding, head  rows of its vocab range     the same
 *
 * Columns can be cut between quantised blocks only, so with TP_SPLIT_INPUTS the ranges of heads and
 * ffn keep to borders of blocks. Embedding and head are cut because they are the largest matrices of
 * small models, and a lookup is cheap to share. */
#include "engine/tp_shard.h"

#include "shared/base/check.h"

#include <string.h>

#define ALIGNED_ROWS 16 // borders that kernels like: panels of rows, tiles of tensor cores

static int value_dim(const struct model_params *p)
{
    return p->value_dim > 0 ? p->value_dim : p->head_dim;
}

/* ---- ranges ---- */

/* A dimension that is cut: its size, and the only places where it can be, multiples of `block`. */
struct dimension {
    const char *name;
    int size, block;
};

static int shares_of(int size, int unit)
{
    return (size + unit - 1) / unit;
}

/* Share `rank` of `units` in `world` of them; the first ones get what is left over. */
static struct rank_range share_units(int units, int world, int rank)
{
    int each = units / world, more = units % world;
    return (struct rank_range){rank * each + (rank < more ? rank : more), each + (rank < more),
                               units};
}

/* Aligned where that leaves shares even enough. */
static struct rank_range range_of(const struct dimension *d, int world, int rank)
{
    int unit = d->block;
    while (unit < ALIGNED_ROWS && shares_of(d->size, 2 * unit) >= 4 * world)
        unit *= 2;
    struct rank_range r = share_units(shares_of(d->size, unit), world, rank);
    int end = (r.first + r.count) * unit;
    if (end > d->size) end = d->size;
    return (struct rank_range){r.first * unit, end - r.first * unit, d->size};
}

static int check_dimension(const struct dimension *d, int world, struct error *err)
{
    if (shares_of(d->size, d->block) >= world) return 0;
    if (d->block == 1)
        return error_set(err, E_UNSUPPORTED, "%s of %d is too small for %d ranks", d->name, d->size,
                         world);
    return error_set(err, E_UNSUPPORTED,
                     "%s of %d in quantised blocks of %d can't be cut for %d ranks", d->name,
                     d->size, d->block, world);
}

/* ---- heads ---- */

/* The fewest neighbours, `width` columns each, that end where a block does. */
static int whole_blocks(int width, int block)
{
    int count = 1;
    while ((int64_t)count * width % block != 0)
        count++;
    return count;
}

static int refuse_heads(const struct model_params *p, int block, int world, struct error *err)
{
    if (block == 1)
        return error_set(err, E_UNSUPPORTED, "%d heads that share %d are too few for %d ranks",
                         p->heads, p->kv_heads, world);
    return error_set(err, E_UNSUPPORTED,
                     "%d heads of %d that share %d, in quantised blocks of %d, can't be cut for %d "
                     "ranks",
                     p->heads, value_dim(p), p->kv_heads, block, world);
}

/* At most as many ranks as KV heads: each rank has whole groups. */
static void share_groups(const struct model_params *p, int unit, int world,
                         struct rank_share *share)
{
    struct dimension groups = {"KV heads", p->kv_heads, unit};
    int group = p->heads / p->kv_heads;
    for (int rank = 0; rank < world; rank++) {
        struct rank_range r = share_units(shares_of(groups.size, unit), world, rank);
        int first = r.first * unit, end = (r.first + r.count) * unit;
        if (end > p->kv_heads) end = p->kv_heads;
        share[rank].kv_heads = (struct rank_range){first, end - first, p->kv_heads};
        share[rank].heads = (struct rank_range){first * group, (end - first) * group, p->heads};
    }
}

/* More ranks: a KV head is on several of them, which divide its group. */
static int share_replicated(const struct model_params *p, int block, int world,
                            struct rank_share *share, struct error *err)
{
    int group = p->heads / p->kv_heads, unit = whole_blocks(value_dim(p), block);
    if (group % unit) return refuse_heads(p, block, world, err);
    for (int kv = 0, rank = 0; kv < p->kv_heads; kv++) {
        int ranks = share_units(world, p->kv_heads, kv).count;
        if (group / unit < ranks) return refuse_heads(p, block, world, err);
        for (int i = 0; i < ranks; i++, rank++) {
            struct rank_range r = share_units(group / unit, ranks, i);
            share[rank].kv_heads = (struct rank_range){kv, 1, p->kv_heads};
            share[rank].heads =
                (struct rank_range){kv * group + r.first * unit, r.count * unit, p->heads};
        }
    }
    return 0;
}

static int share_heads(const struct model_params *p, int block, int world, struct rank_share *share,
                       struct error *err)
{
    int unit = whole_blocks(p->heads / p->kv_heads * value_dim(p), block);
    if (world > p->kv_heads) return share_replicated(p, block, world, share, err);
    if (shares_of(p->kv_heads, unit) < world) return refuse_heads(p, block, world, err);
    share_groups(p, unit, world, share);
    return 0;
}

/* ---- blocks ---- */

/* What all layers' matrices of a kind can be cut by; block sizes are powers of two. */
struct blocks {
    int o, down, expert_down, shared_down;
};

static void widen(int *block, const struct matrix *m)
{
    if (m->data && dtype_block_elements(m->type) > *block) *block = dtype_block_elements(m->type);
}

static struct blocks find_blocks(const struct model_params *p, enum tp_split split)
{
    struct blocks b = {1, 1, 1, 1};
    if (split == TP_SPLIT_OUTPUTS) return b;
    for (int i = 0; i < p->layers; i++) {
        const struct layer_params *l = &p->layer[i];
        widen(&b.o, &l->o);
        if (!l->experts) widen(&b.down, &l->down);
        if (!l->experts) continue;
        for (int e = 0; e < p->expert_shape.experts; e++)
            widen(&b.expert_down, &l->experts->down[e]);
        widen(&b.shared_down, &l->experts->shared_down);
    }
    return b;
}

/* ---- the plan ---- */

static bool has_dense_layer(const struct model_params *p)
{
    for (int i = 0; i < p->layers; i++)
        if (!p->layer[i].experts) return true;
    return false;
}

/* A dimension that no layer has stays as it is. */
static struct rank_range range_if(bool used, const struct dimension *d, int world, int rank)
{
    return used ? range_of(d, world, rank) : (struct rank_range){0, d->size, d->size};
}

int tp_shard_plan(const struct model_params *whole, enum tp_split split, int world,
                  struct rank_share *share, struct error *err)
{
    const struct expert_shape *x = &whole->expert_shape;
    struct blocks b = find_blocks(whole, split);
    CHECK(world >= 1 && world <= TP_WORLD_MAX);
    struct dimension ffn = {"ffn size", whole->ffn, b.down};
    struct dimension expert = {"ffn size of experts", x->ffn, b.expert_down};
    struct dimension shared = {"ffn size of the shared expert", x->shared_ffn, b.shared_down};
    struct dimension vocab = {"vocabulary", whole->vocab, 1};
    struct dimension hidden = {"hidden size", whole->hidden, 1};
    bool dense = has_dense_layer(whole), experts = x->experts > 0, has_shared = x->shared_ffn > 0;
    int rc = share_heads(whole, b.o, world, share, err);
    if (rc == 0 && dense) rc = check_dimension(&ffn, world, err);
    if (rc == 0 && experts) rc = check_dimension(&expert, world, err);
    if (rc == 0 && has_shared) rc = check_dimension(&shared, world, err);
    if (rc == 0) rc = check_dimension(&vocab, world, err);
    if (rc == 0) rc = check_dimension(&hidden, world, err);
    for (int rank = 0; rc == 0 && rank < world; rank++) {
        struct rank_share *s = &share[rank];
        s->ffn = range_if(dense, &ffn, world, rank);
        s->expert_ffn = range_if(experts, &expert, world, rank);
        s->shared_ffn = range_if(has_shared, &shared, world, rank);
        s->vocab = range_of(&vocab, world, rank);
        s->hidden = range_if(split == TP_SPLIT_OUTPUTS, &hidden, world, rank);
    }
    return rc;
}

/* ---- views ---- */

struct cut {
    const struct model_params *whole;
    const struct rank_share *share;
    enum tp_split split;
    bool has_biases; // of sums over ranks: added by one of them
    struct arena *arena;
};

/* Rows range * width: `width` rows belong to each of what the range counts. */
static struct matrix rows_of(const struct matrix *m, const struct rank_range *r, int width)
{
    struct matrix out = *m;
    if (!m->data) return out;
    out.rows = (int64_t)r->count * width;
    out.data = (const uint8_t *)m->data + (size_t)r->first * (size_t)width * matrix_stride(m);
    out.grid_row += (int64_t)r->first * width;
    return out;
}

static struct matrix columns_of(const struct matrix *m, const struct rank_range *r, int width)
{
    struct matrix out = *m;
    if (!m->data) return out;
    out.cols = (int64_t)r->count * width;
    out.data = (const uint8_t *)m->data + matrix_row_bytes(m->type, (int64_t)r->first * width);
    out.row_stride = matrix_stride(m);
    out.grid_col += (int64_t)r->first * width;
    return out;
}

static const float *floats_of(const float *f, const struct rank_range *r, int width)
{
    return f ? f + (size_t)r->first * (size_t)width : NULL;
}

/* o or down, whose inputs are range * width. */
static struct matrix outputs_of(const struct cut *c, const struct matrix *m,
                                const struct rank_range *inputs, int width)
{
    if (c->split == TP_SPLIT_OUTPUTS) return rows_of(m, &c->share->hidden, 1);
    return columns_of(m, inputs, width);
}

static const float *output_bias(const struct cut *c, const float *bias)
{
    if (c->split == TP_SPLIT_OUTPUTS) return floats_of(bias, &c->share->hidden, 1);
    return c->has_biases ? bias : NULL;
}

/* The range of each of `count` rows of range->whole floats. */
static const float *floats_of_each(const struct cut *c, const float *f, int count,
                                   const struct rank_range *r)
{
    if (!f || r->count == r->whole) return f;
    size_t each = (size_t)r->count;
    float *out = arena_alloc(c->arena, (size_t)count * each * sizeof *out);
    for (int i = 0; i < count; i++)
        memcpy(out + (size_t)i * each, f + (size_t)i * (size_t)r->whole + r->first,
               each * sizeof *out);
    return out;
}

static const struct matrix *rows_of_each(const struct cut *c, const struct matrix *m,
                                         const struct rank_range *r)
{
    int experts = c->whole->expert_shape.experts;
    struct matrix *out = arena_alloc(c->arena, (size_t)experts * sizeof *out);
    for (int e = 0; e < experts; e++)
        out[e] = rows_of(&m[e], r, 1);
    return out;
}

static const struct expert_params *cut_experts(const struct cut *c, const struct expert_params *x)
{
    const struct rank_share *s = c->share;
    int experts = c->whole->expert_shape.experts;
    struct expert_params *out = arena_alloc(c->arena, sizeof *out);
    struct matrix *down = arena_alloc(c->arena, (size_t)experts * sizeof *down);
    *out = *x;
    out->gate = rows_of_each(c, x->gate, &s->expert_ffn);
    out->up = rows_of_each(c, x->up, &s->expert_ffn);
    for (int e = 0; e < experts; e++)
        down[e] = outputs_of(c, &x->down[e], &s->expert_ffn, 1);
    out->down = down;
    out->gate_bias = floats_of_each(c, x->gate_bias, experts, &s->expert_ffn);
    out->up_bias = floats_of_each(c, x->up_bias, experts, &s->expert_ffn);
    if (c->split == TP_SPLIT_OUTPUTS)
        out->down_bias = floats_of_each(c, x->down_bias, experts, &s->hidden);
    else if (!c->has_biases)
        out->down_bias = NULL;
    out->shared_gate = rows_of(&x->shared_gate, &s->shared_ffn, 1);
    out->shared_up = rows_of(&x->shared_up, &s->shared_ffn, 1);
    out->shared_down = outputs_of(c, &x->shared_down, &s->shared_ffn, 1);
    return out;
}

static const struct latent_params *cut_latent(const struct cut *c, const struct latent_params *x)
{
    const struct model_params *p = c->whole;
    struct latent_params *out = arena_alloc(c->arena, sizeof *out);
    *out = *x;
    out->q_b = rows_of(&x->q_b, &c->share->heads, p->head_dim);
    out->kv_b = rows_of(&x->kv_b, &c->share->heads, p->head_dim - p->rope_dims + value_dim(p));
    return out;
}

static void cut_layer(const struct cut *c, struct layer_params *l)
{
    const struct rank_share *s = c->share;
    int dim = c->whole->head_dim, value = value_dim(c->whole);
    l->q = rows_of(&l->q, &s->heads, dim);
    l->k = rows_of(&l->k, &s->kv_heads, dim);
    l->v = rows_of(&l->v, &s->kv_heads, value);
    l->q_bias = floats_of(l->q_bias, &s->heads, dim);
    l->k_bias = floats_of(l->k_bias, &s->kv_heads, dim);
    l->v_bias = floats_of(l->v_bias, &s->kv_heads, value);
    l->sinks = floats_of(l->sinks, &s->heads, 1);
    l->o = outputs_of(c, &l->o, &s->heads, value);
    l->o_bias = output_bias(c, l->o_bias);
    if (l->latent) l->latent = cut_latent(c, l->latent);
    if (l->experts) {
        l->experts = cut_experts(c, l->experts);
        return;
    }
    l->gate = rows_of(&l->gate, &s->ffn, 1);
    l->up = rows_of(&l->up, &s->ffn, 1);
    l->down = outputs_of(c, &l->down, &s->ffn, 1);
    l->gate_bias = floats_of(l->gate_bias, &s->ffn, 1);
    l->up_bias = floats_of(l->up_bias, &s->ffn, 1);
    l->down_bias = output_bias(c, l->down_bias);
}

void tp_shard_params(const struct model_params *whole, enum tp_split split, int rank,
                     const struct rank_share *share, struct arena *arena, struct model_params *out)
{
    struct cut c = {whole, share, split, rank == 0, arena};
    size_t bytes = (size_t)whole->layers * sizeof *whole->layer;
    struct layer_params *layer = arena_alloc(arena, bytes);
    memcpy(layer, whole->layer, bytes);
    for (int i = 0; i < whole->layers; i++)
        cut_layer(&c, &layer[i]);
    *out = *whole;
    out->share = share;
    out->layer = layer;
    out->heads = share->heads.count;
    out->kv_heads = share->kv_heads.count;
    out->ffn = share->ffn.count;
    out->expert_shape.ffn = share->expert_ffn.count;
    out->expert_shape.shared_ffn = share->shared_ffn.count;
    out->embedding = rows_of(&whole->embedding, &share->vocab, 1);
    out->head = rows_of(&whole->head, &share->vocab, 1);
    out->on_source_done = NULL;
    out->on_source_done_arg = NULL;
}
