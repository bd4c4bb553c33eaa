/* cpu_load.c - repack a model's weights, lay out the activations.
 *
 * Everything that lives as long as the model is in two regions of private pages: weights (packed
 * panels, norms, biases, tables) and activations. Sizes are added up first, then handed out in the
 * same order. */
#include "kernels/cpu/cpu_load.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/cpu_comm.h"
#include "kernels/model_check.h"
#include "shared/base/check.h"

#define HUGE_PAGE ((size_t)2 << 20)

static int region_open(struct cpu_region *r, size_t bytes, struct error *err)
{
    bytes = (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        int code = -errno;
        return error_set(err, code, "can't map %zu MiB of memory", bytes >> 20);
    }
    *r = (struct cpu_region){.base = base, .bytes = bytes};
    return 0;
}

static void region_close(struct cpu_region *r)
{
    if (r->base) munmap(r->base, r->bytes);
    *r = (struct cpu_region){0};
}

/* Next `bytes` of the region, 64-byte aligned; without a base only counts. */
static void *take(struct cpu_region *r, size_t bytes)
{
    void *p = r->base ? r->base + r->used : NULL;
    r->used += (bytes + 63) & ~(size_t)63;
    CHECK(!r->base || r->used <= r->bytes);
    return p;
}

/* ---- checks ---- */

static const struct model_limits limits_of_model = {"cpu", TP_SPLIT_OUTPUTS, HEAD_DIM_MAX, DIM_MAX,
                                                    false};

/* Every element of the input in one place. */
static bool is_order(const int32_t *order, int64_t count)
{
    bool ok = true;
    bool *seen = xcalloc((size_t)count, sizeof *seen);
    for (int64_t i = 0; ok && i < count; i++) {
        ok = order[i] >= 0 && order[i] < count && !seen[order[i]];
        if (ok) seen[order[i]] = true;
    }
    free(seen);
    return ok;
}

/* Orders are of whole inputs, which every rank has. */
static int check_orders(const struct backend *b, const struct model_params *p,
                        const struct rank_share *share, int layer, struct error *err)
{
    const struct layer_params *l = &p->layer[layer];
    const struct {
        const int32_t *order;
        int64_t count;
        bool has_none;
    } rows[] = {
        {l->qkv_order, p->hidden, l->latent != NULL},
        {l->o_order, (int64_t)share->heads.whole * model_value_dim(p), false},
        {l->gate_up_order, p->hidden, l->experts != NULL},
        {l->down_order, share->ffn.whole, l->experts != NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (!rows[i].order) continue;
        if (rows[i].has_none || b->compute == COMPUTE_F32)
            return error_set(err, E_UNSUPPORTED,
                             "layer %d has an order of inputs with latents, experts or float32",
                             layer);
        if (!is_order(rows[i].order, rows[i].count))
            return error_set(err, E_INVALID, "layer %d has an order of inputs that isn't one",
                             layer);
    }
    return 0;
}

static int check_params(const struct backend *b, const struct model_params *p, struct error *err)
{
    const struct rank_share share = model_share(p);
    int rc = model_check(p, &limits_of_model, err);
    for (int i = 0; rc == 0 && i < p->layers; i++)
        rc = check_orders(b, p, &share, i, err);
    return rc;
}

/* ---- weights ---- */

/* What a matrix of floats becomes; quantised ones keep their type but for COMPUTE_F32. */
static enum dtype packed_type(const struct backend *b, const struct matrix *m)
{
    bool is_float = dtype_block_elements(m->type) == 1;
    switch (b->compute) {
    case COMPUTE_AUTO:
        return m->type;
    case COMPUTE_F32:
        return DTYPE_F32;
    case COMPUTE_F16:
        return is_float ? DTYPE_F16 : m->type;
    case COMPUTE_BF16:
        return is_float ? DTYPE_BF16 : m->type;
    }
    UNREACHABLE();
}

void cpu_load_lay_matrix(struct backend *b, const struct matrix *m, struct cpu_packed *out)
{
    cpu_load_lay_matrix_as(b, m, packed_type(b, m), out);
}

void cpu_load_lay_matrix_as(struct backend *b, const struct matrix *m, enum dtype type,
                            struct cpu_packed *out)
{
    uint8_t *data = take(&b->weights, cpu_pack_bytes(type, m->rows, m->cols));
    cpu_pack_init(out, m, type, data);
}

float *cpu_load_lay_floats(struct backend *b, const float *source, int64_t count)
{
    if (!source) return NULL;
    float *copy = take(&b->weights, (size_t)count * sizeof *copy);
    if (copy) memcpy(copy, source, (size_t)count * sizeof *copy);
    return copy;
}

static int32_t *lay_order(struct backend *b, const int32_t *source, int64_t count)
{
    if (!source) return NULL;
    int32_t *copy = take(&b->weights, (size_t)count * sizeof *copy);
    if (copy) memcpy(copy, source, (size_t)count * sizeof *copy);
    return copy;
}

/* Where a matrix of a layer goes. */
static struct cpu_packed *packed_of(struct cpu_layer *l, enum layer_matrix_kind kind)
{
    switch (kind) {
    case LAYER_Q:
        return &l->q;
    case LAYER_Q_A:
        return &l->latent->q_a;
    case LAYER_Q_B:
        return &l->latent->q_b;
    case LAYER_KV_A:
        return &l->latent->kv_a;
    case LAYER_KV_B:
        return &l->latent->kv_b;
    case LAYER_K:
        return &l->k;
    case LAYER_V:
        return &l->v;
    case LAYER_O:
        return &l->o;
    case LAYER_GATE:
        return &l->gate;
    case LAYER_UP:
        return &l->up;
    case LAYER_DOWN:
        return &l->down;
    case LAYER_MATRICES:
        break;
    }
    UNREACHABLE();
}

/* Hand out the weight region in order of use. Run twice: to count, then for real. */
static void lay_weights(struct backend *b, const struct model_params *p)
{
    const struct rank_share *share = &b->share;
    int64_t q = (int64_t)p->heads * p->head_dim, k = (int64_t)p->kv_heads * p->head_dim;
    bool spans = p->qk_norm_spans_heads;
    int q_heads = spans ? share->heads.whole : 1, k_heads = spans ? share->kv_heads.whole : 1;

    for (int i = 0; i < b->model.rope_sets * p->rope_table_count; i++) {
        const struct rope_table *source = &p->rope_tables[i];
        b->rope_tables[i].attention_factor = source->attention_factor;
        b->rope_tables[i].inv_freq = cpu_load_lay_floats(b, source->inv_freq, p->rope_dims / 2);
    }
    for (int i = 0; i < p->layers; i++) {
        const struct layer_params *l = &p->layer[i];
        struct cpu_layer *out = &b->layer[i];
        struct layer_matrix_view m[LAYER_MATRICES];
        int count = model_layer_matrices(p, limits_of_model.split, l, m);
        out->window = l->window;
        out->rope_table = l->rope_table;
        out->attn_norm = cpu_load_lay_floats(b, l->attn_norm, p->hidden);
        out->q_bias = cpu_load_lay_floats(b, l->q_bias, q);
        out->k_bias = cpu_load_lay_floats(b, l->k_bias, k);
        out->v_bias = cpu_load_lay_floats(b, l->v_bias, (int64_t)p->kv_heads * model_value_dim(p));
        out->q_norm = cpu_load_lay_floats(b, l->q_norm, (int64_t)q_heads * p->head_dim);
        out->k_norm = cpu_load_lay_floats(b, l->k_norm, (int64_t)k_heads * p->head_dim);
        out->sinks = cpu_load_lay_floats(b, l->sinks, p->heads);
        out->o_bias = cpu_load_lay_floats(b, l->o_bias, share->hidden.count);
        out->gate_bias = cpu_load_lay_floats(b, l->gate_bias, p->ffn);
        out->up_bias = cpu_load_lay_floats(b, l->up_bias, p->ffn);
        out->down_bias = cpu_load_lay_floats(b, l->down_bias, share->hidden.count);
        out->attn_post_norm = cpu_load_lay_floats(b, l->attn_post_norm, p->hidden);
        out->ffn_norm = cpu_load_lay_floats(b, l->ffn_norm, p->hidden);
        out->ffn_post_norm = cpu_load_lay_floats(b, l->ffn_post_norm, p->hidden);
        out->qkv_order = lay_order(b, l->qkv_order, p->hidden);
        out->o_order = lay_order(b, l->o_order, (int64_t)share->heads.whole * model_value_dim(p));
        out->gate_up_order = lay_order(b, l->gate_up_order, p->hidden);
        out->down_order = lay_order(b, l->down_order, b->share.ffn.whole);
        for (int j = 0; j < count; j++)
            cpu_load_lay_matrix(b, m[j].matrix, packed_of(out, m[j].kind));
        if (l->latent) {
            out->latent->q_norm = cpu_load_lay_floats(b, l->latent->q_norm, p->q_rank);
            out->latent->kv_norm = cpu_load_lay_floats(b, l->latent->kv_norm, p->kv_rank);
        }
        if (l->experts) cpu_load_experts_lay(b, p, i);
    }
    b->final_norm = cpu_load_lay_floats(b, p->final_norm, p->hidden);
    cpu_load_lay_matrix(b, &p->embedding, &b->embedding);
    b->head = b->embedding;
    if (p->head.data) cpu_load_lay_matrix(b, &p->head, &b->head);
}

struct pack_job {
    const struct cpu_packed *packed;
    const struct matrix *source;
    struct cpu_pool *pool;
    int chunk;           // panels per item
    atomic_bool *beyond; // a weight didn't fit
};

static void run_pack(void *arg, int part, int parts)
{
    const struct pack_job *job = arg;
    (void)part;
    (void)parts;
    for (int first; (first = cpu_pool_next(job->pool) * job->chunk) < job->packed->panels;) {
        int last = first + job->chunk;
        if (last > job->packed->panels) last = job->packed->panels;
        if (!cpu_pack_panels(job->packed, job->source, first, last))
            atomic_store_explicit(job->beyond, true, memory_order_relaxed);
    }
}

void cpu_load_pack_panels(struct backend *b, const struct matrix *source,
                          const struct cpu_packed *packed)
{
    atomic_bool beyond = false;
    struct pack_job job = {packed, source, b->pool, 1 + (int)((256 << 10) / packed->panel_bytes),
                           &beyond};
    cpu_pool_run(b->pool, run_pack, &job);
    if (atomic_load_explicit(&beyond, memory_order_relaxed)) b->weights_beyond = true;
}

void cpu_load_pack(struct backend *b, const struct model_params *p, const struct matrix *source,
                   const struct cpu_packed *packed)
{
    cpu_load_pack_panels(b, source, packed);
    if (p->on_source_done) p->on_source_done(p->on_source_done_arg, source);
}

/* What was packed since the last call fits its type. layer -1: outside the layers. */
static int check_packed(const struct backend *b, int layer, const char *name, struct error *err)
{
    if (!b->weights_beyond) return 0;
    char where[32] = "";
    if (layer >= 0) snprintf(where, sizeof where, "layer %d: ", layer);
    return error_set(err, E_UNSUPPORTED,
                     "%sa weight of %s is beyond float16 (65504): take bfloat16 or float32", where,
                     name);
}

static int pack_layer(struct backend *b, const struct model_params *p, int layer, struct error *err)
{
    struct layer_matrix_view m[LAYER_MATRICES];
    int count = model_layer_matrices(p, limits_of_model.split, &p->layer[layer], m), rc = 0;
    if (b->group)
        rc = cpu_comm_check(b->group, err); // another rank's failure ends a load of minutes
    for (int j = 0; rc == 0 && j < count; j++) {
        cpu_load_pack(b, p, m[j].matrix, packed_of(&b->layer[layer], m[j].kind));
        rc = check_packed(b, layer, m[j].name, err);
    }
    if (rc < 0 || !p->layer[layer].experts) return rc;
    cpu_load_experts_pack(b, p, layer);
    return check_packed(b, layer, "an expert", err);
}

static int load_weights(struct backend *b, const struct model_params *p, struct error *err)
{
    size_t tables = (size_t)b->model.rope_sets * (size_t)p->rope_table_count;
    b->rope_tables = xcalloc(tables ? tables : 1, sizeof *b->rope_tables);
    b->layer = xcalloc((size_t)p->layers, sizeof *b->layer);
    for (int i = 0; i < p->layers; i++) {
        b->layer[i].experts = cpu_load_experts_open(p, i);
        if (p->layer[i].latent) b->layer[i].latent = xcalloc(1, sizeof *b->layer[i].latent);
    }
    lay_weights(b, p);
    if (b->measure_only) return 0;
    int rc = region_open(&b->weights, b->weights.used, err);
    if (rc < 0) return rc;
    madvise(b->weights.base, b->weights.bytes, MADV_HUGEPAGE); // fewer TLB misses; a hint
    lay_weights(b, p);
    for (int i = 0; i < p->layers; i++)
        if ((rc = pack_layer(b, p, i, err)) < 0) return rc;
    cpu_load_pack(b, p, &p->embedding, &b->embedding);
    if ((rc = check_packed(b, -1, "the embedding", err)) < 0) return rc;
    if (p->head.data) cpu_load_pack(b, p, &p->head, &b->head);
    return check_packed(b, -1, "the head", err);
}

/* ---- activations ---- */

void *cpu_load_lay_bytes(struct backend *b, size_t bytes)
{
    return take(&b->activations, bytes);
}

void cpu_load_lay_input(struct backend *b, struct cpu_input *in, int cols, int rows,
                        unsigned layouts, int terms, const struct cpu_input *shared)
{
    in->cols = cols;
    in->layouts = layouts;
    in->terms = terms;
    for (int i = 0; i < ACT_LAYOUTS; i++) {
        if (!(layouts & 1u << i)) continue;
        in->row_bytes[i] = cpu_act_bytes((enum act_layout)i, cols);
        if (i == ACT_INT8) in->row_bytes[i] *= (size_t)terms;
        if (i == ACT_F32 && shared)
            in->data[i] = shared->data[i];
        else
            in->data[i] = take(&b->activations, in->row_bytes[i] * (size_t)rows);
    }
}

float *cpu_load_lay_rows(struct backend *b, int cols, int rows)
{
    return take(&b->activations, (size_t)cols * (size_t)rows * sizeof(float));
}

static void lay_spanned(struct backend *b, struct cpu_spanned *s, const struct rank_range *heads)
{
    s->own = cpu_load_lay_rows(b, heads->count * b->model.head_dim, b->limits.tokens_max);
    s->all = cpu_load_lay_rows(b, heads->whole * b->model.head_dim, b->limits.tokens_max);
}

static void lay_activations(struct backend *b)
{
    const struct model_params *m = &b->model;
    int tokens = b->limits.tokens_max, rows = b->limits.rows_max;
    unsigned attn = 0, ffn = 0, o = 0, g = 0, q_latent = 0, kv_latent = 0;
    struct expert_layouts experts = {0};

    for (int i = 0; i < m->layers; i++) {
        const struct cpu_layer *l = &b->layer[i];
        const struct cpu_latent *x = l->latent;
        attn |= cpu_gemm_layouts(b->isa, x && x->q_a.cols ? &x->q_a : &l->q) |
                cpu_gemm_layouts(b->isa, x ? &x->kv_a : &l->k) |
                cpu_gemm_layouts(b->isa, x ? &x->kv_a : &l->v);
        if (x) q_latent |= cpu_gemm_layouts(b->isa, &x->q_b);
        if (x) kv_latent |= cpu_gemm_layouts(b->isa, &x->kv_b);
        o |= cpu_gemm_layouts(b->isa, &l->o);
        if (l->experts) {
            cpu_load_experts_layouts(b, i, &experts);
            continue;
        }
        ffn |= cpu_gemm_layouts(b->isa, &l->gate) | cpu_gemm_layouts(b->isa, &l->up);
        g |= cpu_gemm_layouts(b->isa, &l->down);
    }
    /* Two terms where rounding to eight bits hurts most and costs least (README rule A5). */
    cpu_load_lay_input(b, &b->attn_in, m->hidden, tokens, attn, 2, NULL);
    cpu_load_lay_input(b, &b->ffn_in, m->hidden, tokens, ffn | experts.h, 1, &b->attn_in);
    cpu_load_lay_input(b, &b->o, b->share.heads.whole * m->value_dim, tokens, o, 1, NULL);
    cpu_load_lay_input(b, &b->g, b->share.ffn.whole, tokens, g, 1, NULL);
    cpu_load_lay_input(b, &b->last, m->hidden, rows, cpu_gemm_layouts(b->isa, &b->head), 2, NULL);
    cpu_load_experts_lay_routes(b, &experts);
    b->x = cpu_load_lay_rows(b, m->hidden, tokens);
    b->y = cpu_load_lay_rows(b, m->hidden, tokens);
    b->q = cpu_load_lay_rows(b, m->heads * m->head_dim, tokens);
    b->k = cpu_load_lay_rows(b, m->kv_heads * m->head_dim, tokens);
    b->v = cpu_load_lay_rows(b, m->kv_heads * m->value_dim, tokens);
    if (b->world > 1 && m->qk_norm_spans_heads) {
        lay_spanned(b, &b->q_spanned, &b->share.heads);
        lay_spanned(b, &b->k_spanned, &b->share.kv_heads);
    }
    cpu_load_lay_input(b, &b->latents.q, m->q_rank, tokens, q_latent, 2, NULL);
    cpu_load_lay_input(b, &b->latents.kv, m->kv_rank, tokens, kv_latent, 2, NULL);
    if (m->kv_rank > 0) {
        int wide = m->heads * (m->head_dim - m->rope_dims + m->value_dim);
        b->latents.narrow = cpu_load_lay_rows(b, m->kv_rank + m->rope_dims, tokens);
        b->latents.wide = cpu_load_lay_rows(b, wide, tokens);
    }
    for (int i = 0; i < m->rope_table_count; i++)
        b->rotation[i] = cpu_load_lay_rows(b, m->rope_dims, tokens);
    b->token = cpu_load_lay_bytes(b, (size_t)tokens * sizeof *b->token);
    b->logits_stride = (size_t)(b->rank == 0 ? m->vocab : b->share.vocab.count);
    b->logits = cpu_load_lay_rows(b, (int)b->logits_stride, rows);
    b->scratch_floats = cpu_attention_scratch_floats(m->value_dim);
    b->scratch = cpu_load_lay_rows(b, (int)b->scratch_floats, cpu_pool_threads(b->pool));
}

static void keep_scalars(struct backend *b, const struct model_params *p)
{
    b->model = *p;
    b->share = model_share(p);
    b->model.share = NULL;
    b->model.value_dim = model_value_dim(p);
    b->model.embedding = b->model.head = (struct matrix){0};
    b->model.final_norm = NULL;
    b->model.layer = NULL;
    b->model.on_source_done = NULL;
    b->model.on_source_done_arg = NULL;
    b->model.rope_tables = NULL;
    if (b->model.rope_sets == 0) b->model.rope_sets = 1;
}

void cpu_unload(struct backend *b)
{
    for (int i = 0; b->layer && i < b->model.layers; i++) {
        cpu_load_experts_close(b->layer[i].experts);
        free(b->layer[i].latent);
    }
    free(b->layer);
    free(b->rope_tables);
    region_close(&b->weights);
    region_close(&b->activations);
}

int cpu_load(struct backend *b, const struct model_params *params, const struct step_limits *limits,
             struct error *err)
{
    CHECK(!b->loaded && !b->layer);
    int rc = check_params(b, params, err);
    if (rc == 0) rc = model_check_steps(limits, &limits_of_model, err);
    if (rc < 0) return rc;
    CHECK((b->world > 1) == (params->share != NULL));
    keep_scalars(b, params);
    b->limits = *limits;
    rc = load_weights(b, params, err);
    if (rc < 0) return rc;
    lay_activations(b);
    if (b->measure_only) return 0;
    rc = region_open(&b->activations, b->activations.used, err);
    if (rc < 0) return rc;
    lay_activations(b);
    b->loaded = true;
    return 0;
}
