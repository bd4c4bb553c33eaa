/* cuda_step.cu - the slots of a step. They enqueue and return; what fails is remembered for sync().
 *
 * Inputs of a step go to the device in one copy before the first launch (cuda_turn.cu), logits come back in one
 * behind the last. What lies between is launches that depend on the number of tokens only, and may be a graph
 * (cuda_graph.h). */
#include "kernels/cuda/cuda_state.h"

#include "shared/base/check.h"

/* ---- begin ---- */

static const int *device_rows(const struct backend *b)
{
    return (const int *)(b->image.device + b->image.row_at);
}

static bool skips(const struct backend *b)
{
    return b->tokens == 0 || cuda_graph_replays(&b->graphs);
}

static void rotate_positions(struct backend *b)
{
    struct cuda_rotation_job job = {};

    job.position = (const int *)(b->image.device + b->image.position_at);
    job.set = (const int *)(b->image.device + b->image.rope_set_at);
    job.tokens = b->tokens;
    job.half = b->model.rope_dims / 2;
    job.tables = b->model.rope_table_count;
    job.set_stride = job.tables * job.half;
    for (int i = 0; i < job.tables; i++) {
        job.out = b->rotation[i];
        job.inv_freq = b->inv_freq + i * job.half;
        job.factor = b->rope_factor + i;
        cuda_rotation(&job, b->stream);
    }
}

void cuda_step_begin(struct backend *b, const struct step *step)
{
    int padded = cuda_turn_begin(b, step);

    b->step = step;
    /* Prefill tiles fit the step: of the float32 path, and of decode that found the workspace full. */
    if (b->plan.prefill_tiles > 0) padded = 0;
    cuda_note(b, cuda_graph_begin(&b->graphs, padded, b->stream));
    if (!skips(b)) rotate_positions(b);
}

/* Only rank 0 knows what was drawn. */
static void share_ids(struct backend *b, struct cuda_ids *ids)
{
    size_t tokens = (size_t)b->tokens;

    if (!b->shared_ids) return;
    if (b->comm.rank == 0)
        cuda_share_ids(b->shared_ids, ids, b->tokens, b->stream);
    else
        cuda_note(b, cudaMemsetAsync(b->shared_ids, 0, tokens * sizeof(float), b->stream));
    cuda_comm_merge(&b->comm, b->shared_ids, tokens, b->stream);
    ids->shared = b->shared_ids;
}

void cuda_step_embed(struct backend *b)
{
    struct cuda_ids ids = {};

    if (skips(b)) return;
    ids.id = (const int *)b->image.device;
    ids.link = (const int *)(b->image.device + b->image.link_at);
    ids.drawn = b->sampler.space.token;
    share_ids(b, &ids);
    cuda_embed(b->x, &b->embedding, &ids, b->share.vocab.first, b->model.embedding_scale, b->tokens,
               b->stream);
    cuda_comm_merge(&b->comm, b->x, (size_t)b->tokens * (size_t)b->model.hidden, b->stream);
}

/* ---- products ---- */

static struct cuda_product product_of(const struct cuda_rows *in, int rows)
{
    struct cuda_product p = {};

    p.in = in->data;
    p.in_stride = in->stride;
    p.in_real = in->real;
    p.rows = rows;
    return p;
}

/* Into `out`'s columns from its first on, of rows with `stride`. */
static void add_columns(struct cuda_product *p, const struct cuda_weight *w, float *out, int stride,
                        const float *bias)
{
    CHECK(p->parts < CUDA_PARTS_MAX && w->data);
    p->part[p->parts++] = (struct cuda_part){*w, out, bias, stride};
}

static void add_part(struct cuda_product *p, const struct cuda_weight *w, float *out,
                     const float *bias)
{
    add_columns(p, w, out, w->rows, bias);
}

static void run_product(struct backend *b, const struct cuda_product *p)
{
    cuda_note(b, cuda_gemm_run(&b->gemm, p, b->stream));
}

/* One matrix, one product. */
static void multiply(struct backend *b, const struct cuda_rows *in, const struct cuda_weight *w,
                     float *out, const float *bias, int rows)
{
    struct cuda_product p = product_of(in, rows);

    add_part(&p, w, out, bias);
    run_product(b, &p);
}

/* ---- qkv ---- */

static void project_plain(struct backend *b, const struct cuda_layer *l)
{
    struct cuda_product p = product_of(&b->h, b->tokens);

    add_columns(&p, &l->matrix[LAYER_Q], b->q, b->q_stride, l->q_bias);
    add_columns(&p, &l->matrix[LAYER_K], b->k, b->k_stride, l->k_bias);
    add_columns(&p, &l->matrix[LAYER_V], b->v, b->v_stride, l->v_bias);
    run_product(b, &p);
}

static void project_latent(struct backend *b, const struct cuda_layer *l)
{
    const struct model_params *m = &b->model;
    const struct cuda_weight *w = l->matrix;
    struct cuda_latent_rows *r = &b->latents;
    struct cuda_product p = product_of(&b->h, b->tokens);
    struct cuda_latent_job job = {};
    bool q_latent = w[LAYER_Q_A].data != NULL;
    int narrow = m->kv_rank + m->rope_dims;

    add_part(&p, &w[q_latent ? LAYER_Q_A : LAYER_Q], q_latent ? r->q_narrow : b->q, NULL);
    add_part(&p, &w[LAYER_KV_A], r->narrow, NULL);
    run_product(b, &p);
    cuda_norm_rows(&r->kv, r->narrow, narrow, l->latent_kv_norm, b->tokens, m->norm_eps, b->stream);
    if (q_latent) {
        cuda_norm_rows(&r->q, r->q_narrow, m->q_rank, l->latent_q_norm, b->tokens, m->norm_eps,
                       b->stream);
        multiply(b, &r->q, &w[LAYER_Q_B], b->q, NULL, b->tokens);
    }
    multiply(b, &r->kv, &w[LAYER_KV_B], r->wide, NULL, b->tokens);
    job.k = b->k;
    job.v = b->v;
    job.wide = r->wide;
    job.narrow = r->narrow;
    job.narrow_stride = narrow;
    job.tokens = b->tokens;
    job.heads = m->heads;
    job.head_dim = m->head_dim;
    job.value_dim = m->value_dim;
    job.rope_dims = m->rope_dims;
    job.kv_rank = m->kv_rank;
    cuda_latent_expand(&job, b->stream);
}

static struct cuda_heads_job heads_job(const struct backend *b, const struct cuda_layer *l,
                                       float *x, int stride, const struct rank_range *heads,
                                       const float *norm)
{
    const struct model_params *m = &b->model;
    struct cuda_heads_job job = {};

    job.x = x;
    job.tokens = b->tokens;
    job.stride = stride;
    job.heads = heads->count;
    job.head_dim = m->head_dim;
    job.norm = norm;
    job.norm_spans_heads = m->qk_norm_spans_heads;
    job.span = heads->whole * m->head_dim;
    job.eps = m->norm_eps;
    job.half = l->rope_table == ROPE_NONE ? 0 : m->rope_dims / 2;
    job.rotation = job.half > 0 ? b->rotation[l->rope_table] : NULL;
    job.rotate_from = l->is_latent ? m->head_dim - m->rope_dims : 0;
    job.style = m->rope_style;
    return job;
}

/* Sums of squares over the heads of all ranks. Of those that have the same KV head, the one with the
 * head's first query adds it. */
static void share_squares(struct backend *b, struct cuda_heads_job *q, struct cuda_heads_job *k)
{
    const struct rank_share *s = &b->share;
    size_t tokens = (size_t)b->tokens;
    float *q_squares = b->squares, *k_squares = b->squares + tokens;
    int group = s->heads.whole / s->kv_heads.whole;

    cuda_heads_squares(q_squares, q, b->stream);
    if (s->heads.first == s->kv_heads.first * group)
        cuda_heads_squares(k_squares, k, b->stream);
    else
        cuda_note(b, cudaMemsetAsync(k_squares, 0, tokens * sizeof *k_squares, b->stream));
    cuda_comm_sum(&b->comm, b->squares, 2 * tokens, b->stream);
    q->squares = q_squares;
    k->squares = k_squares;
}

/* Keys and values go to their pages. */
static void finish_heads(struct backend *b, int layer)
{
    const struct cuda_layer *l = &b->layer[layer];
    const struct cuda_kv_layout *kv = &b->attention.kv;
    const int32_t *slot = cuda_attention_slots(b->image.device + b->image.plan_at);
    struct cuda_heads_job q = heads_job(b, l, b->q, b->q_stride, &b->share.heads, l->q_norm);
    struct cuda_heads_job k = heads_job(b, l, b->k, b->k_stride, &b->share.kv_heads, l->k_norm);
    struct cuda_heads_job v = {};
    struct cuda_kv_rows keys = cuda_kv_keys(kv, b->pages.base, layer, slot);
    struct cuda_kv_rows values = cuda_kv_values(kv, b->pages.base, layer, slot);

    v.x = b->v;
    v.tokens = b->tokens;
    v.stride = b->v_stride;
    v.heads = b->share.kv_heads.count;
    v.head_dim = b->model.value_dim;
    if (q.norm_spans_heads && (q.norm || k.norm)) share_squares(b, &q, &k);
    cuda_heads(&q, &k, &keys, &v, &values, b->stream);
}

void cuda_step_qkv(struct backend *b, int layer)
{
    const struct cuda_layer *l = &b->layer[layer];

    if (skips(b)) return;
    if (l->is_latent)
        project_latent(b, l);
    else
        project_plain(b, l);
    finish_heads(b, layer);
}

void cuda_step_attend(struct backend *b, int layer)
{
    struct cuda_attention_layer a = {};

    if (skips(b)) return;
    a.layer = layer;
    a.window = b->layer[layer].window;
    a.sinks = b->layer[layer].sinks;
    a.pages = b->pages.base;
    a.image = b->image.device + b->image.plan_at;
    a.workspace = b->attention_workspace;
    a.workspace_bytes = b->attention_workspace_bytes;
    a.q = b->q;
    a.q_stride = b->q_stride;
    a.o = b->o.data;
    a.o_stride = b->o.stride;
    a.graph_sequences = cuda_graph_is_used(&b->graphs) ? b->tokens : 0;
    cuda_attention_run(&b->attention, &b->plan, &a, b->stream);
}

void cuda_step_out(struct backend *b, int layer)
{
    const struct cuda_layer *l = &b->layer[layer];

    if (skips(b)) return;
    multiply(b, &b->o, &l->matrix[LAYER_O], b->y, l->o_bias, b->tokens);
}

/* ---- feed-forward ---- */

/* g = act(gate in) * (up in); experts: see cuda_product. */
static void multiply_gated(struct backend *b, struct cuda_product *p,
                           const struct cuda_weight *gate, const float *gate_bias,
                           const struct cuda_weight *up, const float *up_bias,
                           const struct cuda_rows *g, int rows)
{
    add_columns(p, gate, b->gate, 2 * gate->rows, gate_bias);
    add_columns(p, up, b->gate + gate->rows, 2 * gate->rows, up_bias);
    p->gated.out = g->data;
    p->gated.rows = rows;
    p->gated.stride = g->stride;
    p->gated.kind = b->model.activation;
    run_product(b, p);
}

static int route_rows(const struct backend *b)
{
    return b->tokens * b->model.expert_shape.used;
}

static void set_experts(const struct backend *b, struct cuda_product *p, const int *in_row)
{
    p->experts = b->model.expert_shape.experts;
    p->all_rows = route_rows(b);
    p->first = b->routes.first;
    p->in_row = in_row;
}

static void score_tokens(struct backend *b, const struct cuda_experts *x)
{
    struct cuda_product p = product_of(&b->h, b->tokens);

    p.in = b->h_float;
    p.in_real = CUDA_REAL_F32;
    add_part(&p, &x->router, b->routes.score, x->router_bias);
    if (x->shared_scale.data) add_part(&p, &x->shared_scale, b->routes.shared_scale, NULL);
    run_product(b, &p);
    cuda_experts_route(&b->routes, &b->model.expert_shape, x->correction,
                       x->shared_scale.data != NULL, b->tokens, b->stream);
    cuda_experts_group(&b->routes, &b->model.expert_shape, b->tokens, b->stream);
}

static void experts_gate_up(struct backend *b, const struct cuda_experts *x)
{
    struct cuda_product p = product_of(&b->h, b->tokens);

    score_tokens(b, x);
    set_experts(b, &p, b->routes.token);
    multiply_gated(b, &p, &x->gate, x->gate_bias, &x->up, x->up_bias, &b->routes.g, route_rows(b));
    if (!x->shared_gate.data) return;
    p = product_of(&b->h, b->tokens);
    multiply_gated(b, &p, &x->shared_gate, NULL, &x->shared_up, NULL, &b->routes.shared_g,
                   b->tokens);
}

static void experts_down(struct backend *b, const struct cuda_experts *x)
{
    struct cuda_product p = product_of(&b->routes.g, b->tokens);

    set_experts(b, &p, NULL);
    add_part(&p, &x->down, b->routes.y, x->down_bias);
    run_product(b, &p);
    if (x->shared_down.data)
        multiply(b, &b->routes.shared_g, &x->shared_down, b->y, NULL, b->tokens);
    cuda_experts_add_up(&b->routes, &b->model.expert_shape, b->y, x->shared_down.data != NULL,
                        x->shared_scale.data != NULL, b->tokens, b->model.hidden, b->stream);
}

void cuda_step_gate_up(struct backend *b, int layer)
{
    const struct cuda_layer *l = &b->layer[layer];
    struct cuda_product p = product_of(&b->h, b->tokens);

    if (skips(b)) return;
    if (l->has_experts)
        experts_gate_up(b, &l->experts);
    else
        multiply_gated(b, &p, &l->matrix[LAYER_GATE], l->gate_bias, &l->matrix[LAYER_UP],
                       l->up_bias, &b->g, b->tokens);
}

void cuda_step_down(struct backend *b, int layer)
{
    const struct cuda_layer *l = &b->layer[layer];

    if (skips(b)) return;
    if (l->has_experts)
        experts_down(b, &l->experts);
    else
        multiply(b, &b->g, &l->matrix[LAYER_DOWN], b->y, l->down_bias, b->tokens);
}

/* ---- residual stream, logits ---- */

/* x += y of a layer's half, and the norm in front of what comes next. */
void cuda_step_residual(struct backend *b, enum residual_site site, int layer)
{
    const struct cuda_layer *l = &b->layer[layer];
    bool last = layer + 1 == b->model.layers;
    struct cuda_residual_job job = {};

    if (skips(b)) return;
    job.x = b->x;
    job.y = site == RESIDUAL_BEGIN ? NULL : b->y;
    job.scale = b->model.residual_scale;
    job.h = b->h;
    job.rows = b->tokens;
    job.hidden = b->model.hidden;
    job.eps = b->model.norm_eps;
    switch (site) {
    case RESIDUAL_BEGIN:
        job.norm = l->attn_norm;
        break;
    case RESIDUAL_ATTENTION:
        job.post_norm = l->attn_post_norm;
        job.norm = l->ffn_norm;
        if (l->has_experts) job.h_float = b->h_float;
        break;
    case RESIDUAL_FFN:
        job.post_norm = l->ffn_post_norm;
        job.norm = last ? b->final_norm : (l + 1)->attn_norm;
        break;
    }
    cuda_residual(&job, b->stream);
}

/* Each rank makes its columns, the others are 0, and the sum is all of them. */
void cuda_step_logits(struct backend *b)
{
    const struct model_params *m = &b->model;
    size_t count = (size_t)b->rows * (size_t)m->vocab;

    if (skips(b)) return;
    cuda_gather(&b->last, &b->h, device_rows(b), b->rows, b->stream);
    if (b->step->hidden_only) return;
    struct cuda_product p = product_of(&b->last, b->rows);
    if (b->share.vocab.count < m->vocab)
        cuda_note(b, cudaMemsetAsync(b->logits, 0, count * sizeof(float), b->stream));
    add_columns(&p, &b->head, b->logits + b->share.vocab.first, m->vocab, NULL);
    run_product(b, &p);
    cuda_comm_merge(&b->comm, b->logits, count, b->stream);
    cuda_finish_logits(b->logits, count, m->logit_scale, m->logit_softcap, b->stream);
}

static void copy_logits(struct backend *b, int first, int rows)
{
    size_t row = (size_t)b->model.vocab, at = (size_t)first * row;

    if (rows > 0)
        cuda_note(b, cudaMemcpyAsync(b->logits_host + at, b->logits + at,
                                     (size_t)rows * row * sizeof(float), cudaMemcpyDeviceToHost,
                                     b->stream));
}

void cuda_step_end(struct backend *b)
{
    cuda_note(b, cuda_graph_end(&b->graphs, b->stream));
    if (!b->step->hidden_only && !b->step->is_sampled && b->comm.rank == 0)
        copy_logits(b, 0, b->step->rows);
    cuda_turn_end(b, b->step);
    b->sampled_rows = b->step->is_sampled ? b->step->rows : 0;
    b->step = NULL;
}

/* Behind the graph of the step: launches depend on what rows ask for. */
void cuda_step_sample(struct backend *b, const struct sample_row *row, int vocab)
{
    int rows = b->sampled_rows, first = 0;

    CHECK(rows > 0 && !b->step);
    cuda_note(b, cuda_sample_run(&b->sampler, b->turn, row, rows, b->logits, vocab, b->stream));
    for (int i = 0; i < rows; i++) {
        if (cuda_sample_leaves(&b->sampler, i)) {
            b->is_open = true;
            continue;
        }
        copy_logits(b, first, i - first);
        first = i + 1;
    }
    copy_logits(b, first, rows - first);
    cuda_note(b, cudaEventRecord(b->ended[b->turn], b->stream)); // again
}
