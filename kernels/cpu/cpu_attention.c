/* cpu_attention.c - from projected q, k, v to o: norms and RoPE, writing of pages, and the cutting
 * of attention into tiles. The arithmetic of a tile is in cpu_attention_body.h.
 *
 * A tile is some query rows that share a KV head: all heads of its group for one token (decode), or
 * for several tokens in a row (prefill), so K and V are read once for all of them. How a step is
 * cut into tiles changes no bit of the result. */
#include "kernels/cpu/cpu_state.h"

#include <math.h>
#include <string.h>

#include "shared/base/check.h"

/* ---- q, k: norm, rotate, scale; k, v: to their pages ---- */

/* One norm per head, or one over all of them; then each head turns: its first elements, or its last
 * ones in a layer with latents. */
static void norm_and_rotate(struct backend *b, float *x, int heads, const float *norm, int token,
                            const struct cpu_layer *l)
{
    const struct cpu_pointwise *ops = b->isa->pointwise;
    const struct model_params *m = &b->model;
    int half = m->rope_dims / 2, dim = m->head_dim;

    if (norm && m->qk_norm_spans_heads) {
        ops->rms_norm(x, x, norm, heads * dim, m->norm_eps);
    } else if (norm) {
        for (int h = 0; h < heads; h++)
            ops->rms_norm(x + h * dim, x + h * dim, norm, dim, m->norm_eps);
    }
    if (half == 0 || l->rope_table == ROPE_NONE) return;
    const float *row = b->rotation[l->rope_table] + (size_t)token * 2 * (size_t)half;
    if (l->latent) x += dim - 2 * half;
    for (int h = 0; h < heads; h++)
        ops->rope(x + h * dim, row, row + half, 2 * half, m->rope_style);
}

/* A norm over the heads of all ranks, of which this one keeps its own. */
static void norm_spanned(const struct backend *b, const struct cpu_spanned *s,
                         const struct rank_range *heads, const float *norm, int token, float *own)
{
    int dim = b->model.head_dim;
    float *all = s->all + (size_t)token * (size_t)(heads->whole * dim);

    if (norm) b->isa->pointwise->rms_norm(all, all, norm, heads->whole * dim, b->model.norm_eps);
    memcpy(own, all + heads->first * dim, (size_t)(heads->count * dim) * sizeof *own);
}

static uint8_t *page_of(const struct backend *b, int layer, int head, int32_t block)
{
    size_t at = (size_t)layer * (size_t)b->model.kv_heads + (size_t)head;
    return b->kv + (size_t)block * b->kv_page_bytes + at * b->kv_layout.bytes;
}

/* K goes down a column of [head_dim][64], V along a row of [64][value_stride]. */
static void store_floats(const struct kv_layout *l, uint8_t *page, int slot, const float *k,
                         const float *v)
{
    float *column = (float *)(void *)page + slot;
    float *row = (float *)(void *)(page + l->values) + slot * l->value_stride;

    for (int d = 0; d < l->head_dim; d++)
        column[d * KV_BLOCK_TOKENS] = k[d];
    memcpy(row, v, (size_t)l->value_dim * sizeof *v);
}

static void store_halves(const struct kv_layout *l, uint8_t *page, int slot, const float *k,
                         const float *v, void (*convert)(uint16_t *dst, const float *src, int n))
{
    uint16_t *column = (uint16_t *)(void *)page + slot, narrow[16];
    uint16_t *row = (uint16_t *)(void *)(page + l->values) + slot * l->value_stride;

    for (int d = 0; d < l->head_dim; d += 16) {
        int count = l->head_dim - d < 16 ? l->head_dim - d : 16;
        convert(narrow, k + d, count);
        for (int i = 0; i < count; i++)
            column[(d + i) * KV_BLOCK_TOKENS] = narrow[i];
    }
    convert(row, v, l->value_dim);
}

static void store_int8(const struct kv_layout *l, uint8_t *page, int slot, const float *k,
                       const float *v, const struct cpu_pointwise *ops)
{
    float *key_scales = (float *)(void *)(page + l->key_scales);
    float *value_scales = (float *)(void *)(page + l->value_scales);
    int8_t *column = (int8_t *)page + slot, *row = (int8_t *)page + l->values;
    int8_t narrow[HEAD_DIM_MAX];

    key_scales[slot] = ops->quantize_head(narrow, k, l->head_dim);
    for (int d = 0; d < l->head_dim; d++)
        column[d * KV_BLOCK_TOKENS] = narrow[d];
    value_scales[slot] = ops->quantize_head(row + slot * l->value_stride, v, l->value_dim);
}

static void store_kv(const struct backend *b, uint8_t *page, int slot, const float *k,
                     const float *v)
{
    const struct cpu_pointwise *ops = b->isa->pointwise;
    const struct kv_layout *l = &b->kv_layout;

    switch (l->type) {
    case KV_F32:
        store_floats(l, page, slot, k, v);
        return;
    case KV_F16:
        store_halves(l, page, slot, k, v, ops->to_half);
        return;
    case KV_BF16:
        store_halves(l, page, slot, k, v, ops->to_bf16);
        return;
    case KV_INT8:
        store_int8(l, page, slot, k, v, ops);
        return;
    case KV_TYPES:
        break;
    }
    UNREACHABLE();
}

static void rotate_and_store(struct backend *b, int token, int layer)
{
    const struct model_params *m = &b->model;
    const struct cpu_layer *l = &b->layer[layer];
    const struct step_sequence *s = &b->step->sequence[b->token[token].sequence];
    int position = b->token[token].position;
    int32_t block = s->blocks[position / KV_BLOCK_TOKENS];
    float *q = b->q + (size_t)token * (size_t)(m->heads * m->head_dim);
    float *k = b->k + (size_t)token * (size_t)(m->kv_heads * m->head_dim);
    const float *v = b->v + (size_t)token * (size_t)(m->kv_heads * m->value_dim);

    const float *q_norm = l->q_norm, *k_norm = l->k_norm;

    if (l->latent) cpu_latent_expand(b, token);
    if (b->q_spanned.all && !l->latent) {
        norm_spanned(b, &b->q_spanned, &b->share.heads, q_norm, token, q);
        norm_spanned(b, &b->k_spanned, &b->share.kv_heads, k_norm, token, k);
        q_norm = k_norm = NULL; // done
    }
    norm_and_rotate(b, q, m->heads, q_norm, token, l);
    b->isa->pointwise->scale(q, m->attention_scale, m->heads * m->head_dim);
    norm_and_rotate(b, k, m->kv_heads, k_norm, token, l);
    for (int h = 0; h < m->kv_heads; h++)
        store_kv(b, page_of(b, layer, h, block), position % KV_BLOCK_TOKENS, k + h * m->head_dim,
                 v + h * m->value_dim);
}

void cpu_rotate_and_store(struct backend *b, int layer)
{
    cpu_for_tokens(b, b->step->tokens, rotate_and_store, layer);
}

/* ---- tiles ---- */

/* The query heads [head, head + heads) of tokens [token, token + tokens) of a sequence; the heads
 * share KV head kv_head. heads * tokens <= ATTENTION_ROWS_MAX. */
struct tile_range {
    int sequence, kv_head, head, heads, token, tokens;
};

static void run_tile(struct backend *b, int layer, const struct tile_range *r, float *scratch)
{
    const struct model_params *m = &b->model;
    const struct step_sequence *s = &b->step->sequence[r->sequence];
    const float *sinks = b->layer[layer].sinks;
    int window = b->layer[layer].window;
    struct attention_tile tile;

    tile.rows = 0;
    tile.softcap = m->attention_softcap;
    tile.blocks = s->blocks;
    tile.layout = &b->kv_layout;
    tile.pages = page_of(b, layer, r->kv_head, 0);
    tile.page_bytes = b->kv_page_bytes;
    tile.scratch = scratch;
    for (int t = r->token; t < r->token + r->tokens; t++) {
        int last = s->past + t;
        int first = window > 0 && last >= window ? last - window + 1 : 0;
        for (int h = r->head; h < r->head + r->heads; h++, tile.rows++) {
            size_t row = (size_t)(s->first + t) * (size_t)m->heads + (size_t)h;
            tile.q[tile.rows] = b->q + row * (size_t)m->head_dim;
            tile.o[tile.rows] =
                cpu_input_row(&b->o, s->first + t) + (b->share.heads.first + h) * m->value_dim;
            tile.sink[tile.rows] = sinks ? sinks[h] : -INFINITY;
            tile.first[tile.rows] = first;
            tile.last[tile.rows] = last;
        }
    }
    CHECK(tile.rows <= ATTENTION_ROWS_MAX);
    b->isa->attend(&tile);
}

struct attend_job {
    struct backend *b;
    int layer;
    int group;       // query heads per KV head
    int tile_heads;  // of a group in one tile
    int tile_tokens; // in one tile
    int items;
};

static float *scratch_of(struct backend *b, int part)
{
    return b->scratch + (size_t)part * b->scratch_floats;
}

/* Few rows: all (sequence, query head) pairs in one row, cut into equal shares, then grouped again
 * by KV head. Three KV heads on two threads would otherwise leave one of them waiting. */
static void attend_static(void *arg, int part, int parts)
{
    const struct attend_job *job = arg;
    struct backend *b = job->b;
    int heads = b->model.heads, first, last;

    cpu_pool_share(b->step->sequences * heads, part, parts, &first, &last);
    for (int i = first, count; i < last; i += count) {
        int head = i % heads, kv_head = head / job->group;
        count = (kv_head + 1) * job->group - head;
        if (count > last - i) count = last - i;
        if (count > job->tile_heads) count = job->tile_heads;
        struct tile_range r = {i / heads, kv_head, head, count, 0, 1};
        run_tile(b, job->layer, &r, scratch_of(b, part));
    }
}

static int tiles_of(const struct attend_job *job, const struct step_sequence *s)
{
    int by_tokens = (s->count + job->tile_tokens - 1) / job->tile_tokens;
    int by_heads = (job->group + job->tile_heads - 1) / job->tile_heads;
    return by_tokens * by_heads * job->b->model.kv_heads;
}

/* Item n of a sequence's tiles; late tokens, which see most positions, come first. */
static struct tile_range tile_at(const struct attend_job *job, int sequence, int n)
{
    const struct step_sequence *s = &job->b->step->sequence[sequence];
    int by_heads = (job->group + job->tile_heads - 1) / job->tile_heads;
    int by_tokens = (s->count + job->tile_tokens - 1) / job->tile_tokens;
    int kv_head = n % job->b->model.kv_heads, rest = n / job->b->model.kv_heads;
    int head = rest % by_heads * job->tile_heads;
    int token = (by_tokens - 1 - rest / by_heads) * job->tile_tokens;
    struct tile_range r = {
        .sequence = sequence,
        .kv_head = kv_head,
        .head = kv_head * job->group + head,
        .heads = job->group - head < job->tile_heads ? job->group - head : job->tile_heads,
        .token = token,
        .tokens = s->count - token < job->tile_tokens ? s->count - token : job->tile_tokens,
    };
    return r;
}

static void attend_dynamic(void *arg, int part, int parts)
{
    const struct attend_job *job = arg;
    struct backend *b = job->b;
    int sequence = 0, base = 0;

    (void)parts;
    for (int item; (item = cpu_pool_next(b->pool)) < job->items;) {
        int tiles;
        while (item - base >= (tiles = tiles_of(job, &b->step->sequence[sequence]))) {
            base += tiles;
            sequence++;
        }
        struct tile_range r = tile_at(job, sequence, item - base);
        run_tile(b, job->layer, &r, scratch_of(b, part));
    }
}

void cpu_attend(struct backend *b, int layer)
{
    struct attend_job job = {.b = b, .layer = layer};
    int rows = 24; // per tile: K, V, scores and sums of that many rows stay in the first cache

    job.group = b->model.heads / b->model.kv_heads;
    job.tile_heads = job.group < ATTENTION_ROWS_MAX ? job.group : ATTENTION_ROWS_MAX;
    job.tile_tokens = rows / job.tile_heads > 1 ? rows / job.tile_heads : 1;
    for (int s = 0; s < b->step->sequences; s++)
        job.items += tiles_of(&job, &b->step->sequence[s]);
    if (job.items == 0) return;
    bool decode = b->step->tokens == b->step->sequences;
    if (decode && b->step->sequences < 4 * cpu_pool_threads(b->pool))
        cpu_pool_run(b->pool, attend_static, &job);
    else
        cpu_pool_run(b->pool, attend_dynamic, &job);
}
