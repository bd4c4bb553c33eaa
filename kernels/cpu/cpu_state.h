/* cpu_state.h - what a CPU backend holds. For the files of kernels/cpu only. */
#ifndef LM_KERNELS_CPU_STATE_H
#define LM_KERNELS_CPU_STATE_H

#include "kernels/backend.h"
#include "kernels/cpu/cpu_experts.h"
#include "kernels/cpu/cpu_gather.h"
#include "kernels/cpu/cpu_gemm.h"
#include "kernels/cpu/cpu_isa.h"
#include "kernels/cpu/cpu_latent.h"
#include "kernels/cpu/cpu_pool.h"

/* A range of private pages, handed out front to back. */
struct cpu_region {
    uint8_t *base; // NULL: none
    size_t bytes, used;
};

struct cpu_layer {
    struct cpu_packed q, k, v, o, gate, up, down;
    struct cpu_latent *latent;   // owned, in the place of k and v; NULL: none
    struct cpu_experts *experts; // owned, in the place of gate, up, down; NULL: a dense layer
    float *attn_norm, *ffn_norm; // NULL: the residual stream as it is
    float *q_bias, *k_bias, *v_bias, *o_bias; // NULL: none
    float *gate_bias, *up_bias, *down_bias;   // NULL: none
    float *q_norm, *k_norm, *attn_post_norm, *ffn_post_norm;
    float *sinks;                                              // [heads], NULL: none
    int32_t *qkv_order, *o_order, *gate_up_order, *down_order; // of inputs, NULL: as they are
    int window, rope_table;
};

/* Heads whose norm spans those of all ranks, before it. NULL where it needs no other rank. */
struct cpu_spanned {
    float *own, *all; // [heads or kv_heads * head_dim] of this rank, which others read, and of all
};

/* Where a token of the step belongs. */
struct cpu_token {
    int sequence; // index into step->sequence
    int position;
};

struct backend {
    const struct cpu_isa *isa;
    struct cpu_pool *pool;
    enum compute_type compute;
    int rank, world;
    struct comm_group *group; // borrowed; NULL with world 1
    char description[96];

    /* after load */
    bool loaded;
    bool measure_only;         // sizes are known, the regions are not there
    bool weights_beyond;       // a weight is larger than the type that it was to be packed in
    struct model_params model; // scalars only: every pointer in it is NULL; value_dim
                               // and rope_sets are set
    struct rank_share share;   // all of the model with world 1
    struct step_limits limits;
    struct cpu_region weights, activations;
    struct cpu_layer *layer;           // [layers]
    struct cpu_packed embedding, head; // the same panels when tied
    float *final_norm;
    struct rope_table *rope_tables; // [rope_sets][rope_table_count], owned

    /* activations, [tokens_max][...] unless said otherwise */
    float *x, *y;                     // [hidden]
    struct cpu_input attn_in, ffn_in; // [hidden]; both have their float rows in attn_in
    struct cpu_input o, g;            // [heads * value_dim], [ffn]: of all ranks
    struct cpu_input last;            // [rows_max][hidden]: the rows whose logits are wanted
    struct cpu_routes routes;         // of the layer with experts that is being run
    float *q, *k, *v;                 // [heads or kv_heads * head_dim], [kv_heads * value_dim]
    struct cpu_spanned q_spanned, k_spanned;
    struct cpu_latent_rows latents;   // of the layer with latents that is being run
    float *rotation[ROPE_TABLES_MAX]; // [rope_dims]: cosines, then sines
    struct cpu_token *token;
    float *logits; // [rows_max][logits_stride]: rank 0 has room for all, others for their own
    size_t logits_stride;
    float *scratch; // [threads][scratch_floats]
    size_t scratch_floats;

    /* KV pages: [blocks][layers][kv_heads]{struct kv_layout} */
    struct kv_layout kv_layout;
    uint8_t *kv;
    size_t kv_page_bytes, kv_mapped;
    int kv_blocks;

    const struct step *step; // between step_begin and step_end
};

/* cpu_load.c: the load slot, and what close needs. */
FALLIBLE int cpu_load(struct backend *b, const struct model_params *params,
                      const struct step_limits *limits, struct error *err);
void cpu_unload(struct backend *b);

/* cpu_attention.c: the attend slot, and the part of qkv behind the products. */
void cpu_attend(struct backend *b, int layer);
void cpu_rotate_and_store(struct backend *b, int layer);

/* cpu_step.c: the other slots of a step. */
void cpu_step_begin(struct backend *b, const struct step *step);
void cpu_embed(struct backend *b);
void cpu_qkv(struct backend *b, int layer);
void cpu_out(struct backend *b, int layer);
void cpu_gate_up(struct backend *b, int layer);
void cpu_down(struct backend *b, int layer);
void cpu_all_reduce(struct backend *b);
void cpu_residual(struct backend *b, enum residual_site site, int layer);
void cpu_logits(struct backend *b);

/* A product of all tokens of the step, no part added yet. */
struct cpu_gemm_job cpu_step_job(const struct backend *b, const struct cpu_input *in);
/* Add a part whose outputs are this rank's range of rows that have room for those of all ranks. */
void cpu_step_job_add(struct cpu_gemm_job *job, const struct cpu_packed *w, float *rows,
                      const struct rank_range *range, const float *bias);

/* Run fn(b, token) for every token of the step, on the pool when there are enough of them. */
void cpu_for_tokens(struct backend *b, int tokens,
                    void (*fn)(struct backend *b, int token, int layer), int layer);

#endif
