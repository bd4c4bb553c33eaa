#include "kernels/cuda/cuda_load.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_pack.h"
#include "shared/base/check.h"

#define DIM_MAX          (1 << 20) // so that any row fits into staging
#define PACK_THREADS_MAX 8
#define PACK_BYTES_MIN   ((size_t)1 << 20) // of a piece that is worth several threads

static const struct model_limits limits_of_model = {"cuda", TP_SPLIT_INPUTS, CUDA_HEAD_DIM_MAX,
                                                    DIM_MAX, true};

/* ---- weights ---- */

/* ---- packing, by several threads: a file's pages are read, and their numbers converted, far slower by one than a
 * device takes them ---- */

struct packing {
    const struct cuda_weight *w;
    const struct matrix *m;
    int64_t first; // of the matrix
    uint8_t *data, *scales;
    int begin, end; // rows behind `first`
    float *floats;
    bool fits; // as cuda_pack_row says of each row
};

static void *pack_some(void *arg)
{
    struct packing *p = (struct packing *)arg;
    size_t row_bytes = cuda_row_bytes(p->w), scale_bytes = cuda_row_scale_bytes(p->w);

    for (int i = p->begin; i < p->end; i++)
        p->fits &= cuda_pack_row(p->w, p->m, p->first + i, p->data + (size_t)i * row_bytes,
                                 p->scales + (size_t)i * scale_bytes, p->floats);
    return NULL;
}

/* Rows [0, rows) of `all`, whose begin and end are made here; whether all fit. */
static bool pack_rows(const struct cuda_loader *l, struct packing all, int rows)
{
    struct packing part[PACK_THREADS_MAX];
    pthread_t thread[PACK_THREADS_MAX];
    bool is_running[PACK_THREADS_MAX] = {};
    int parts = (size_t)rows * cuda_row_bytes(all.w) < PACK_BYTES_MIN ? 1 : l->threads;

    for (int i = parts - 1; i >= 0; i--) {
        part[i] = all;
        part[i].begin = (int)((int64_t)rows * i / parts);
        part[i].end = (int)((int64_t)rows * (i + 1) / parts);
        part[i].floats = all.floats + (size_t)i * DIM_MAX;
        is_running[i] = i > 0 && pthread_create(&thread[i], NULL, pack_some, &part[i]) == 0;
        if (!is_running[i]) pack_some(&part[i]);
    }
    for (int i = 1; i < parts; i++)
        if (is_running[i]) pthread_join(thread[i], NULL);
    for (int i = 0; i < parts; i++)
        all.fits &= part[i].fits;
    return all.fits;
}

/* Cores that this rank's thread may run on; with several ranks all may say all of them. */
static int pack_threads(const struct backend *b)
{
    cpu_set_t cores;
    int count = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;

    if (b->comm.world > 1) count /= b->comm.world;
    return count < 1 ? 1 : count > PACK_THREADS_MAX ? PACK_THREADS_MAX : count;
}

/* Rows [first, first + rows) of one matrix to their place on the device. */
static int upload_rows(struct cuda_loader *l, const struct matrix *m, const struct cuda_weight *w,
                       int64_t first, int rows, size_t place)
{
    size_t row_bytes = cuda_row_bytes(w), scale_bytes = cuda_row_scale_bytes(w);
    uint8_t *half, *scales;

    int rc = cuda_comm_check(&l->b->comm, l->err); // another rank's failure ends a load of minutes
    if (rc == 0) rc = cuda_staging_take(&l->staging, &half, l->err);
    if (rc < 0) return rc;
    scales = half + (size_t)rows * row_bytes;
    if (!pack_rows(l, {w, m, first, half, scales, 0, 0, l->floats, true}, rows))
        l->beyond_f16 = true;
    rc = cuda_staging_send(&l->staging, half, (uint8_t *)w->data + place * row_bytes,
                           (size_t)rows * row_bytes, l->err);
    if (rc == 0 && w->scales)
        rc = cuda_staging_send(&l->staging, scales, (uint8_t *)w->scales + place * scale_bytes,
                               (size_t)rows * scale_bytes, l->err);
    return rc < 0 ? rc : cuda_staging_give(&l->staging, l->err);
}

static int upload_matrix(struct cuda_loader *l, const struct matrix *m, const struct cuda_weight *w,
                         int index)
{
    int64_t most = (int64_t)(l->staging.half_bytes / (cuda_row_bytes(w) + cuda_row_scale_bytes(w)));
    int rc = 0;

    for (int64_t row = 0; rc == 0 && row < m->rows; row += most) {
        int rows = (int)(m->rows - row < most ? m->rows - row : most);
        rc = upload_rows(l, m, w, row, rows, (size_t)index * (size_t)m->rows + (size_t)row);
    }
    if (rc == 0 && l->params->on_source_done)
        l->params->on_source_done(l->params->on_source_done_arg, m);
    return rc;
}

struct cuda_weight cuda_load_stack(struct cuda_loader *l, const struct matrix *m, int count,
                                   bool float32)
{
    struct cuda_arena *arena = &l->b->weights;
    struct cuda_weight w = cuda_pack_shape(m, count, float32 ? CUDA_REAL_F32 : l->b->real);

    if (count == 1) cuda_gemm_expect(&l->b->gemm, &w, l->b->limits.tokens_max);
    size_t rows = (size_t)count * (size_t)w.rows;
    w.data = cuda_arena_take(arena, rows * cuda_row_bytes(&w));
    if (cuda_row_scale_bytes(&w) > 0)
        w.scales = cuda_arena_take(arena, rows * cuda_row_scale_bytes(&w));
    for (int i = 0; arena->base && i < count && l->rc == 0; i++)
        l->rc = upload_matrix(l, &m[i], &w, i);
    return w;
}

/* What was uploaded since the last call fits the model's type. layer -1: outside the layers. */
static void check_range(struct cuda_loader *l, int layer, const char *name)
{
    bool beyond = l->beyond_f16 && l->b->real == CUDA_REAL_F16;
    char where[32] = "";

    l->beyond_f16 = false;
    if (!beyond || l->rc < 0) return;
    if (layer >= 0) snprintf(where, sizeof where, "layer %d: ", layer);
    l->rc = error_set(l->err, E_UNSUPPORTED,
                      "%sa weight of %s is beyond float16 (65504): take bfloat16 or float32", where,
                      name);
}

const float *cuda_load_floats(struct cuda_loader *l, const float *source, int64_t count)
{
    if (!source) return NULL;
    float *to = (float *)cuda_arena_take(&l->b->weights, (size_t)count * sizeof *to);
    if (!to || l->rc < 0) return to;
    l->rc = cuda_try(cudaMemcpyAsync(to, source, (size_t)count * sizeof *to, cudaMemcpyHostToDevice,
                                     l->b->stream),
                     "upload", l->err);
    return to;
}

/* One norm per head, or this rank's part of one over the heads of all ranks. */
static const float *lay_head_norm(struct cuda_loader *l, const float *norm,
                                  const struct rank_range *heads)
{
    int dim = l->params->head_dim;

    if (!norm || !l->params->qk_norm_spans_heads) return cuda_load_floats(l, norm, dim);
    return cuda_load_floats(l, norm + heads->first * dim, (int64_t)heads->count * dim);
}

static void lay_layer(struct cuda_loader *l, int index)
{
    const struct model_params *p = l->params;
    const struct layer_params *from = &p->layer[index];
    struct cuda_layer *to = &l->b->layer[index];
    int64_t q = (int64_t)p->heads * p->head_dim, k = (int64_t)p->kv_heads * p->head_dim;
    int64_t v = (int64_t)p->kv_heads * model_value_dim(p);
    struct layer_matrix_view view[LAYER_MATRICES];
    int count = model_layer_matrices(p, limits_of_model.split, from, view);

    to->window = from->window;
    to->rope_table = p->rope_dims > 0 ? from->rope_table : ROPE_NONE;
    to->has_experts = from->experts != NULL;
    to->is_latent = from->latent != NULL;
    for (int i = 0; i < count; i++) {
        to->matrix[view[i].kind] = cuda_load_stack(l, view[i].matrix, 1, false);
        check_range(l, index, view[i].name);
    }
    to->attn_norm = cuda_load_floats(l, from->attn_norm, p->hidden);
    to->ffn_norm = cuda_load_floats(l, from->ffn_norm, p->hidden);
    to->attn_post_norm = cuda_load_floats(l, from->attn_post_norm, p->hidden);
    to->ffn_post_norm = cuda_load_floats(l, from->ffn_post_norm, p->hidden);
    to->q_bias = cuda_load_floats(l, from->q_bias, q);
    to->k_bias = cuda_load_floats(l, from->k_bias, k);
    to->v_bias = cuda_load_floats(l, from->v_bias, v);
    to->o_bias = cuda_load_floats(l, from->o_bias, p->hidden);
    to->gate_bias = cuda_load_floats(l, from->gate_bias, p->ffn);
    to->up_bias = cuda_load_floats(l, from->up_bias, p->ffn);
    to->down_bias = cuda_load_floats(l, from->down_bias, p->hidden);
    to->q_norm = lay_head_norm(l, from->q_norm, &l->b->share.heads);
    to->k_norm = lay_head_norm(l, from->k_norm, &l->b->share.kv_heads);
    to->sinks = cuda_load_floats(l, from->sinks, p->heads);
    if (from->latent) {
        to->latent_q_norm = cuda_load_floats(l, from->latent->q_norm, p->q_rank);
        to->latent_kv_norm = cuda_load_floats(l, from->latent->kv_norm, p->kv_rank);
    }
    if (from->experts) cuda_load_experts(l, index);
    check_range(l, index, "an expert");
}

/* Until nothing reads what was given for upload. */
static void load_wait(struct cuda_loader *l)
{
    if (l->b->weights.base && l->rc == 0)
        l->rc = cuda_try(cudaStreamSynchronize(l->b->stream), "upload", l->err);
}

static void lay_rope_tables(struct cuda_loader *l)
{
    const struct model_params *p = l->params;
    int half = p->rope_dims / 2, tables = p->rope_table_count * l->b->model.rope_sets;
    float *inv_freq = (float *)xcalloc((size_t)tables * (size_t)half + 1, sizeof *inv_freq);
    float *factor = (float *)xcalloc((size_t)tables + 1, sizeof *factor);

    for (int i = 0; i < tables; i++) {
        memcpy(inv_freq + (size_t)i * (size_t)half, p->rope_tables[i].inv_freq,
               (size_t)half * sizeof *inv_freq);
        factor[i] = p->rope_tables[i].attention_factor;
    }
    l->b->inv_freq = cuda_load_floats(l, inv_freq, (int64_t)tables * half);
    l->b->rope_factor = cuda_load_floats(l, factor, tables);
    load_wait(l); // for what is freed now
    free(inv_freq);
    free(factor);
}

static void lay_weights(struct cuda_loader *l)
{
    const struct model_params *p = l->params;
    struct backend *b = l->b;

    lay_rope_tables(l);
    for (int i = 0; i < p->layers; i++)
        lay_layer(l, i);
    b->final_norm = cuda_load_floats(l, p->final_norm, p->hidden);
    b->embedding = cuda_load_stack(l, &p->embedding, 1, false);
    check_range(l, -1, "the embedding");
    b->head = p->head.data ? cuda_load_stack(l, &p->head, 1, false) : b->embedding;
    check_range(l, -1, "the head");
}

static int load_weights(struct backend *b, const struct model_params *p, struct error *err)
{
    struct cuda_loader l = {};

    b->layer = (struct cuda_layer *)xcalloc((size_t)p->layers, sizeof *b->layer);
    l.b = b;
    l.params = p;
    l.err = err;
    lay_weights(&l);
    if (b->measure_only) return 0;
    int rc = cuda_arena_open(&b->weights, "weights", err);
    if (rc == 0) rc = cuda_staging_open(&l.staging, b->stream, err);
    if (rc < 0) return rc;
    l.threads = pack_threads(b);
    l.floats = (float *)xmalloc((size_t)l.threads * DIM_MAX * sizeof *l.floats);
    lay_weights(&l);
    load_wait(&l);
    cuda_staging_close(&l.staging);
    free(l.floats);
    return l.rc;
}

/* ---- activations ---- */

void *cuda_load_bytes(struct backend *b, size_t count, size_t size)
{
    return cuda_arena_take(&b->activations, count * size);
}

static float *lay_floats(struct backend *b, int cols, int rows)
{
    return (float *)cuda_load_bytes(b, (size_t)cols * (size_t)rows, sizeof(float));
}

struct cuda_rows cuda_load_rows(struct backend *b, int cols, int rows)
{
    struct cuda_rows r = {};

    r.cols = cols;
    r.stride = (cols + 7) / 8 * 8;
    r.real = b->real;
    r.data = cuda_load_bytes(b, (size_t)r.stride * (size_t)rows, cuda_real_bytes(r.real));
    return r;
}

static void lay_latents(struct backend *b)
{
    const struct model_params *m = &b->model;
    int tokens = b->limits.tokens_max;

    if (m->kv_rank == 0) return;
    b->latents.q = cuda_load_rows(b, m->q_rank, tokens);
    b->latents.kv = cuda_load_rows(b, m->kv_rank, tokens);
    b->latents.q_narrow = lay_floats(b, m->q_rank, tokens);
    b->latents.narrow = lay_floats(b, m->kv_rank + m->rope_dims, tokens);
    b->latents.wide = lay_floats(b, m->heads * (m->head_dim - m->rope_dims + m->value_dim), tokens);
}

static size_t aligned(size_t bytes)
{
    return (bytes + CUDA_ALIGNMENT - 1) & ~(size_t)(CUDA_ALIGNMENT - 1);
}

static void lay_image(struct backend *b)
{
    struct cuda_step_image *i = &b->image;
    size_t tokens = aligned((size_t)b->limits.tokens_max * sizeof(int32_t));

    i->link_at = tokens;
    i->position_at = 2 * tokens;
    i->rope_set_at = 3 * tokens;
    i->row_at = 4 * tokens;
    i->plan_at = i->row_at + aligned((size_t)b->limits.rows_max * sizeof(int32_t));
    i->bytes_max = i->plan_at + cuda_attention_plan_bytes_max(&b->attention, &b->limits);
    i->device = (uint8_t *)cuda_load_bytes(b, i->bytes_max, 1);
    b->attention_workspace_bytes = cuda_attention_workspace_bytes(&b->attention, &b->limits);
    b->attention_workspace = cuda_load_bytes(b, b->attention_workspace_bytes, 1);
}

/* Rows of gate and up: of a dense layer, of the shared expert, or of all experts that tokens choose. */
static size_t gate_floats(const struct backend *b)
{
    const struct model_params *m = &b->model;
    const struct expert_shape *s = &m->expert_shape;
    size_t tokens = (size_t)b->limits.tokens_max, widest = (size_t)m->ffn;

    if (s->experts > 0 && (size_t)s->used * (size_t)s->ffn > widest)
        widest = (size_t)s->used * (size_t)s->ffn;
    if (s->experts > 0 && (size_t)s->shared_ffn > widest) widest = (size_t)s->shared_ffn;
    return tokens * widest;
}

static void lay_heads(struct backend *b)
{
    const struct model_params *m = &b->model;
    int tokens = b->limits.tokens_max, all;

    b->q_stride = m->heads * m->head_dim;
    b->k_stride = m->kv_heads * m->head_dim;
    b->v_stride = m->kv_heads * m->value_dim;
    if (m->kv_rank > 0) {
        b->q = lay_floats(b, b->q_stride, tokens);
        b->k = lay_floats(b, b->k_stride, tokens);
        b->v = lay_floats(b, b->v_stride, tokens);
        return;
    }
    all = b->q_stride + b->k_stride + b->v_stride;
    b->q = lay_floats(b, all, tokens);
    b->k = b->q ? b->q + b->q_stride : NULL;
    b->v = b->q ? b->k + b->k_stride : NULL;
    b->q_stride = b->k_stride = b->v_stride = all;
}

static void lay_activations(struct backend *b)
{
    const struct model_params *m = &b->model;
    int tokens = b->limits.tokens_max, rows = b->limits.rows_max;

    b->x = lay_floats(b, m->hidden, tokens);
    b->y = lay_floats(b, m->hidden, tokens);
    b->h = cuda_load_rows(b, m->hidden, tokens);
    if (m->expert_shape.experts > 0) b->h_float = lay_floats(b, b->h.stride, tokens);
    if (m->qk_norm_spans_heads) b->squares = lay_floats(b, 2, tokens);
    lay_heads(b);
    b->o = cuda_load_rows(b, m->heads * m->value_dim, tokens);
    b->g = cuda_load_rows(b, m->ffn, tokens);
    b->gate = (float *)cuda_load_bytes(b, 2 * gate_floats(b), sizeof(float));
    b->last = cuda_load_rows(b, m->hidden, rows);
    b->logits = lay_floats(b, m->vocab, rows);
    for (int i = 0; i < m->rope_table_count; i++)
        b->rotation[i] = lay_floats(b, m->rope_dims, tokens);
    lay_latents(b);
    if (m->expert_shape.experts > 0) cuda_load_routes(b);
    lay_image(b);
    if (b->comm.world > 1) b->shared_ids = lay_floats(b, 1, tokens);
    cuda_sample_lay(&b->sampler, &b->activations, rows, m->vocab);
    b->gemm.workspace = cuda_load_bytes(b, cuda_gemm_workspace_bytes(&b->gemm), 1);
    b->comm.gathered = (float *)cuda_load_bytes(b, cuda_comm_gathered_bytes(&b->comm), 1);
}

static int open_pinned(struct backend *b, struct error *err)
{
    size_t logits = (size_t)b->limits.rows_max * (size_t)b->model.vocab * sizeof(float);
    cudaError_t rc = cudaSuccess;

    for (int t = 0; t < CUDA_TURNS && rc == cudaSuccess; t++) {
        rc = cudaMallocHost((void **)&b->image.host[t], b->image.bytes_max);
        if (rc == cudaSuccess) rc = cudaEventCreateWithFlags(&b->ended[t], cudaEventDisableTiming);
    }
    if (rc == cudaSuccess && b->comm.rank == 0)
        rc = cudaMallocHost((void **)&b->logits_host, logits);
    if (rc != cudaSuccess) return cuda_try(rc, "pinned memory", err);
    return cuda_sample_open(&b->sampler, err);
}

/* ---- the slot ---- */

/* AUTO is what the checkpoint is: float16 if its embedding is, which is so of AWQ and GPTQ too. All else is
 * bfloat16, float32 as well: it may hold weights beyond float16, and AUTO doesn't refuse any. */
static enum cuda_real real_of(enum compute_type compute, const struct model_params *p)
{
    switch (compute) {
    case COMPUTE_AUTO:
        return p->embedding.type == DTYPE_F16 ? CUDA_REAL_F16 : CUDA_REAL_BF16;
    case COMPUTE_F32:
        return CUDA_REAL_F32;
    case COMPUTE_F16:
        return CUDA_REAL_F16;
    case COMPUTE_BF16:
        return CUDA_REAL_BF16;
    }
    UNREACHABLE();
}

static void keep_scalars(struct backend *b, const struct model_params *p)
{
    b->model = *p;
    b->model.value_dim = model_value_dim(p);
    b->share = model_share(p);
    b->model.share = NULL;
    b->model.embedding = b->model.head = (struct matrix){};
    b->model.final_norm = NULL;
    b->model.layer = NULL;
    b->model.on_source_done = NULL;
    b->model.on_source_done_arg = NULL;
    b->model.rope_tables = NULL;
    if (b->model.rope_sets == 0) b->model.rope_sets = 1;
}

/* Sizes of plans and workspaces don't depend on the type of pages: kv_open sets it. */
static int set_attention(struct backend *b, struct error *err)
{
    const struct model_params *m = &b->model;

    b->attention.heads = m->heads;
    b->attention.o_real = b->real;
    b->attention.scale = m->attention_scale;
    b->attention.softcap = m->attention_softcap;
    return cuda_kv_layout_init(&b->attention.kv, KV_F16, m->layers, m->kv_heads, m->head_dim,
                               m->value_dim, err);
}

int cuda_load(struct backend *b, const struct model_params *params,
              const struct step_limits *limits, struct error *err)
{
    CHECK(!b->loaded && !b->layer);
    int rc = model_check(params, &limits_of_model, err);
    if (rc == 0) rc = model_check_steps(limits, &limits_of_model, err);
    if (rc < 0) return rc;
    keep_scalars(b, params);
    b->real = real_of(b->compute, params);
    b->limits = *limits;
    rc = set_attention(b, err);
    if (rc == 0) rc = load_weights(b, params, err);
    if (rc < 0) return rc;
    lay_activations(b);
    if (b->measure_only) return 0;
    rc = cuda_arena_open(&b->activations, "activations", err);
    if (rc < 0) return rc;
    lay_activations(b);
    rc = open_pinned(b, err);
    if (rc == 0) b->loaded = true;
    return rc;
}

void cuda_unload(struct backend *b)
{
    free(b->layer);
    cuda_arena_close(&b->weights);
    cuda_arena_close(&b->activations);
    for (int t = 0; t < CUDA_TURNS; t++) {
        if (b->ended[t]) cudaEventDestroy(b->ended[t]);
        if (b->image.host[t]) cudaFreeHost(b->image.host[t]);
    }
    if (b->logits_host) cudaFreeHost(b->logits_host);
    cuda_sample_close(&b->sampler);
}
