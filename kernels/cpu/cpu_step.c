/* cpu_step.c - the stages of a step around attention. Each slot is done when it returns. */
#include "kernels/cpu/cpu_state.h"

#include <math.h>
#include <string.h>

#include "shared/base/check.h"

/* Below this many tokens a pointwise pass is over before the other threads would have noticed. */
#define PARALLEL_TOKENS 4

struct token_job {
    struct backend *b;
    int tokens, layer;
    void (*fn)(struct backend *b, int token, int layer);
};

static void run_tokens(void *arg, int part, int parts)
{
    struct token_job *job = arg;
    int first, last;
    cpu_pool_share(job->tokens, part, parts, &first, &last);
    for (int t = first; t < last; t++)
        job->fn(job->b, t, job->layer);
}

void cpu_for_tokens(struct backend *b, int tokens,
                    void (*fn)(struct backend *b, int token, int layer), int layer)
{
    struct token_job job = {b, tokens, layer, fn};
    if (tokens < PARALLEL_TOKENS)
        run_tokens(&job, 0, 1);
    else
        cpu_pool_run(b->pool, run_tokens, &job);
}

/* cos and sin of position * inv_freq (that product in float32, as the reference models do), for
 * every table of the token's set: once per step, not per layer. */
static void rotation_row(struct backend *b, int token, int layer)
{
    int half = b->model.rope_dims / 2, tables = b->model.rope_table_count;
    float position = (float)b->token[token].position;
    const struct step_sequence *s = &b->step->sequence[b->token[token].sequence];
    const struct rope_table *set = b->rope_tables + (size_t)s->rope_set * (size_t)tables;

    (void)layer;
    for (int i = 0; i < tables; i++) {
        float *row = b->rotation[i] + (size_t)token * 2 * (size_t)half;
        for (int d = 0; d < half; d++) {
            double angle = (double)(position * set[i].inv_freq[d]);
            row[d] = (float)cos(angle) * set[i].attention_factor;
            row[half + d] = (float)sin(angle) * set[i].attention_factor;
        }
    }
}

static void check_step(const struct backend *b, const struct step *step)
{
    CHECK(b->loaded && b->kv);
    CHECK(step->tokens >= 0 && step->tokens <= b->limits.tokens_max);
    CHECK(step->sequences >= 0 && step->sequences <= b->limits.sequences_max);
    CHECK(step->rows >= 0 && step->rows <= b->limits.rows_max);
    for (int i = 0; i < step->tokens; i++)
        CHECK(step->ids[i] >= 0 && step->ids[i] < b->model.vocab);
    for (int i = 0; i < step->rows; i++)
        CHECK(step->row[i] >= 0 && step->row[i] < step->tokens);
}

void cpu_step_begin(struct backend *b, const struct step *step)
{
    int tokens = 0;

    check_step(b, step);
    b->step = step;
    for (int s = 0; s < step->sequences; s++) {
        const struct step_sequence *q = &step->sequence[s];
        CHECK(q->first == tokens && q->count > 0 && q->past >= 0);
        CHECK(q->count <= step->tokens - tokens && q->past <= b->limits.context_max - q->count);
        CHECK(q->rope_set >= 0 && q->rope_set < b->model.rope_sets);
        for (int i = 0; i < (q->past + q->count + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS; i++)
            CHECK(q->blocks[i] >= 0 && q->blocks[i] < b->kv_blocks);
        for (int i = 0; i < q->count; i++)
            b->token[tokens++] = (struct cpu_token){s, q->past + i};
    }
    CHECK(tokens == step->tokens);
    cpu_for_tokens(b, step->tokens, rotation_row, 0);
    cpu_gather_begin(b);
}

static void embed_row(struct backend *b, int token, int layer)
{
    float *x = b->x + (size_t)token * (size_t)b->model.hidden;
    int row = b->step->ids[token] - b->share.vocab.first;
    (void)layer;
    if (row < 0 || row >= b->share.vocab.count) return; // another rank's
    cpu_pack_read_row(&b->embedding, row, x);
    if (b->model.embedding_scale != 1.0f)
        b->isa->pointwise->scale(x, b->model.embedding_scale, b->model.hidden);
}

void cpu_embed(struct backend *b)
{
    cpu_for_tokens(b, b->step->tokens, embed_row, 0);
    cpu_gather_embedded(b);
}

/* ---- projections ---- */

struct cpu_gemm_job cpu_step_job(const struct backend *b, const struct cpu_input *in)
{
    return (struct cpu_gemm_job){.isa = b->isa,
                                 .pool = b->pool,
                                 .in = in,
                                 .tokens = b->step->tokens,
                                 .activation = b->model.activation};
}

void cpu_step_job_add(struct cpu_gemm_job *job, const struct cpu_packed *w, float *rows,
                      const struct rank_range *range, const float *bias)
{
    cpu_gemm_job_add(job, w, rows + range->first, bias);
    job->part[job->parts - 1].out_stride = (size_t)range->whole;
}

void cpu_qkv(struct backend *b, int layer)
{
    const struct cpu_layer *l = &b->layer[layer];
    struct cpu_gemm_job job = cpu_step_job(b, &b->attn_in);

    if (l->latent) {
        cpu_latent_project(b, layer);
    } else {
        bool spanned = b->q_spanned.all != NULL;
        cpu_gemm_job_add(&job, &l->q, spanned ? b->q_spanned.own : b->q, l->q_bias);
        cpu_gemm_job_add(&job, &l->k, spanned ? b->k_spanned.own : b->k, l->k_bias);
        cpu_gemm_job_add(&job, &l->v, b->v, l->v_bias);
        cpu_gemm_run(&job);
        if (spanned) cpu_gather_spanned(b);
    }
    cpu_rotate_and_store(b, layer);
}

static void quantize_o(struct backend *b, int token, int layer)
{
    cpu_input_quantize(b->isa, &b->o, token, b->layer[layer].o_order);
}

void cpu_out(struct backend *b, int layer)
{
    const struct cpu_layer *l = &b->layer[layer];

    cpu_gather_columns(b, cpu_input_row(&b->o, 0), b->step->tokens, &b->share.heads,
                       b->model.value_dim);
    cpu_for_tokens(b, b->step->tokens, quantize_o, layer);
    struct cpu_gemm_job job = cpu_step_job(b, &b->o);
    cpu_step_job_add(&job, &l->o, b->y, &b->share.hidden, l->o_bias);
    cpu_gemm_run(&job);
}

void cpu_gate_up(struct backend *b, int layer)
{
    const struct cpu_layer *l = &b->layer[layer];
    struct cpu_gemm_job job = cpu_step_job(b, &b->ffn_in);

    if (l->experts) {
        cpu_experts_gate_up(b, layer);
        return;
    }
    cpu_step_job_add(&job, &l->gate, cpu_input_row(&b->g, 0), &b->share.ffn, l->gate_bias);
    cpu_gemm_job_add(&job, &l->up, NULL, l->up_bias);
    job.gated = true;
    cpu_gemm_run(&job);
}

static void quantize_g(struct backend *b, int token, int layer)
{
    cpu_input_quantize(b->isa, &b->g, token, b->layer[layer].down_order);
}

void cpu_down(struct backend *b, int layer)
{
    if (b->layer[layer].experts) {
        cpu_experts_down(b, layer);
        return;
    }
    cpu_gather_columns(b, cpu_input_row(&b->g, 0), b->step->tokens, &b->share.ffn, 1);
    cpu_for_tokens(b, b->step->tokens, quantize_g, layer);
    struct cpu_gemm_job job = cpu_step_job(b, &b->g);
    cpu_step_job_add(&job, &b->layer[layer].down, b->y, &b->share.hidden,
                     b->layer[layer].down_bias);
    cpu_gemm_run(&job);
}

/* By TP_SPLIT_OUTPUTS there is nothing to add up: each rank has whole sums of some columns. */
void cpu_all_reduce(struct backend *b)
{
    cpu_gather_columns(b, b->y, b->step->tokens, &b->share.hidden, 1);
}

/* ---- residual stream ---- */

/* x += scale * post_norm(y), unless this is the beginning. `next` is free until norm_x: y itself may
 * still be read by other ranks. */
static void add_y(struct backend *b, const struct cpu_input *next, int token,
                  const float *post_norm)
{
    const struct cpu_pointwise *ops = b->isa->pointwise;
    int hidden = b->model.hidden;
    float *x = b->x + (size_t)token * (size_t)hidden;
    const float *y = b->y + (size_t)token * (size_t)hidden;

    if (post_norm) {
        ops->rms_norm(cpu_input_row(next, token), y, post_norm, hidden, b->model.norm_eps);
        y = cpu_input_row(next, token);
    }
    ops->add_scaled(x, y, b->model.residual_scale, hidden);
}

/* in = norm(x), or x if there is none, in the layouts and the order that the next products want. */
static void norm_x(struct backend *b, const struct cpu_input *in, int token, const float *norm,
                   const int32_t *order)
{
    const float *x = b->x + (size_t)token * (size_t)b->model.hidden;
    float *h = cpu_input_row(in, token);

    if (norm)
        b->isa->pointwise->rms_norm(h, x, norm, b->model.hidden, b->model.norm_eps);
    else
        memcpy(h, x, (size_t)b->model.hidden * sizeof *h);
    cpu_input_quantize(b->isa, in, token, order);
}

static void residual_begin(struct backend *b, int token, int layer)
{
    (void)layer;
    norm_x(b, &b->attn_in, token, b->layer[0].attn_norm, b->layer[0].qkv_order);
}

static void residual_attention(struct backend *b, int token, int layer)
{
    const struct cpu_layer *l = &b->layer[layer];
    add_y(b, &b->ffn_in, token, l->attn_post_norm);
    norm_x(b, &b->ffn_in, token, l->ffn_norm, l->gate_up_order);
}

static void residual_ffn(struct backend *b, int token, int layer)
{
    const struct cpu_layer *next = layer + 1 < b->model.layers ? &b->layer[layer + 1] : NULL;
    add_y(b, &b->attn_in, token, b->layer[layer].ffn_post_norm);
    norm_x(b, &b->attn_in, token, next ? next->attn_norm : b->final_norm,
           next ? next->qkv_order : NULL);
}

void cpu_residual(struct backend *b, enum residual_site site, int layer)
{
    static void (*const pass[])(struct backend *, int, int) = {
        [RESIDUAL_BEGIN] = residual_begin,
        [RESIDUAL_ATTENTION] = residual_attention,
        [RESIDUAL_FFN] = residual_ffn,
    };
    cpu_for_tokens(b, b->step->tokens, pass[site], layer);
}

/* ---- logits ---- */

static void last_row(struct backend *b, int row, int layer)
{
    (void)layer;
    memcpy(cpu_input_row(&b->last, row), cpu_input_row(&b->attn_in, b->step->row[row]),
           (size_t)b->model.hidden * sizeof(float));
    cpu_input_quantize(b->isa, &b->last, row, NULL);
}

/* Of this rank's part of the vocabulary. */
static float *own_logits(const struct backend *b, int row)
{
    return b->logits + (size_t)row * b->logits_stride + (b->rank == 0 ? b->share.vocab.first : 0);
}

static void finish_logits(struct backend *b, int row, int layer)
{
    float *logits = own_logits(b, row);
    (void)layer;
    if (b->model.logit_scale != 1.0f)
        b->isa->pointwise->scale(logits, b->model.logit_scale, b->share.vocab.count);
    if (b->model.logit_softcap != 0.0f)
        b->isa->pointwise->softcap(logits, b->share.vocab.count, b->model.logit_softcap);
}

void cpu_logits(struct backend *b)
{
    struct cpu_gemm_job job = cpu_step_job(b, &b->last);

    job.tokens = b->step->rows;
    cpu_for_tokens(b, job.tokens, last_row, 0);
    if (b->step->hidden_only) return;
    cpu_gemm_job_add(&job, &b->head, own_logits(b, 0), NULL);
    job.part[0].out_stride = b->logits_stride;
    cpu_gemm_run(&job);
    if (b->model.logit_scale != 1.0f || b->model.logit_softcap != 0.0f)
        cpu_for_tokens(b, job.tokens, finish_logits, 0);
    cpu_gather_logits(b);
}
