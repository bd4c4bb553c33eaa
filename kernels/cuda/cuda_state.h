/* cuda_state.h - what a CUDA backend holds. For the files of kernels/cuda only. */
#ifndef LM_KERNELS_CUDA_STATE_H
#define LM_KERNELS_CUDA_STATE_H

#include "kernels/backend.h"
#include "kernels/cuda/cuda_attention.h"
#include "kernels/cuda/cuda_comm.h"
#include "kernels/cuda/cuda_experts.h"
#include "kernels/cuda/cuda_gemm.h"
#include "kernels/cuda/cuda_graph.h"
#include "kernels/cuda/cuda_memory.h"
#include "kernels/cuda/cuda_pointwise.h"
#include "kernels/cuda/cuda_sample.h"
#include "kernels/model_check.h"

struct cuda_layer {
    struct cuda_weight matrix[LAYER_MATRICES]; // data NULL: the layer doesn't have it
    struct cuda_experts experts;
    bool has_experts, is_latent;
    const float *attn_norm, *ffn_norm;              // NULL: the residual stream as it is
    const float *q_bias, *k_bias, *v_bias, *o_bias; // NULL: none
    const float *gate_bias, *up_bias, *down_bias;
    const float *q_norm, *k_norm, *attn_post_norm, *ffn_post_norm;
    const float *latent_q_norm, *latent_kv_norm;
    const float *sinks;
    int window, rope_table;
};

/* What kernels read of a step, in one piece of memory: filled on the host, sent once. Offsets depend on the
 * limits only, so graphs may keep the addresses. */
struct cuda_step_image {
    uint8_t *host[CUDA_TURNS], *device;                        // pinned; in the activations
    size_t link_at, position_at, rope_set_at, row_at, plan_at; // token ids stand at 0
    size_t bytes_max;
};

struct cuda_latent_rows {
    struct cuda_rows q, kv; // [q_rank], [kv_rank]: the inputs of q_b and kv_b
    float *q_narrow;        // [q_rank]: q_a's output
    float *narrow;          // [kv_rank + rope_dims]: kv_a's
    float *wide;            // [heads * (head_dim - rope_dims + value_dim)]: kv_b's
};

struct backend {
    char device_name[320], description[480];
    int device;
    enum compute_type compute;
    enum cuda_real real; // what compute means for the model: after load
    cudaStream_t stream;
    cudaError_t failed; // the first error; cudaSuccess: none
    struct cuda_comm comm;
    struct rank_share share; // this rank's part; all of the model with one rank

    /* after load */
    bool loaded, measure_only; // measure_only: sizes are known, the arenas are not there
    struct model_params model; // scalars only: every pointer in it is NULL; value_dim is set
    struct step_limits limits;
    struct cuda_arena weights, activations, pages;
    struct cuda_layer *layer;           // [layers]
    struct cuda_weight embedding, head; // the same when tied
    const float *final_norm;            // [hidden]
    const float *inv_freq;              // [rope_sets][rope_table_count][rope_dims / 2]
    const float *rope_factor;           // [rope_sets][rope_table_count]
    struct cuda_gemm gemm;

    /* activations on the device, [tokens_max][...] unless said otherwise */
    float *x, *y;       // [hidden]
    struct cuda_rows h; // [hidden]
    float *h_float;     // [hidden] beside h, for routers; NULL: no layer has experts
    float *squares;     // [2]: q's and k's, of norms over all ranks' heads
    float *q, *k, *v;   // [heads or kv_heads * head_dim], [kv_heads * value_dim]
    int q_stride, k_stride,
        v_stride; // columns of one array, so that a library makes them at once; not of latents
    struct cuda_rows o, g;            // [heads * value_dim], [ffn]
    float *gate;                      // [2 * ffn], gate and up, where no kernel makes g at once
    struct cuda_rows last;            // [rows_max][hidden]: the rows whose logits are wanted
    float *logits;                    // [rows_max][vocab]
    float *rotation[ROPE_TABLES_MAX]; // [rope_dims]: cosines, then sines
    struct cuda_latent_rows latents;  // of the layer with latents that is being run
    struct cuda_routes routes;        // of the layer with experts that is being run
    float *shared_ids; // ids of the step's tokens, which only rank 0 may know; NULL: one rank
    struct cuda_step_image image;
    void *attention_workspace;
    size_t attention_workspace_bytes;
    float *logits_host; // pinned, [rows_max][vocab]; NULL but on rank 0
    struct cuda_sampler sampler;

    struct cuda_attention attention; // after kv_open
    int kv_blocks;

    /* Steps take turns: what the host writes for one and reads of it is there twice. */
    cudaEvent_t ended[CUDA_TURNS];
    int turn;      // of the step that began last
    int read_turn; // of the one that was synced last
    bool is_ahead; // the one before the last isn't synced
    bool is_open;  // the host has to look at rows of the last one
    int last_rows; // of the last one

    const struct step *step; // between step_begin and step_end
    struct cuda_attention_plan plan;
    int tokens, rows; // of the step, with a graph's padding
    int sampled_rows; // that sample() is asked about behind the step
    struct cuda_graphs graphs;
};

/* Remember the first error; sync() tells it. */
static inline void cuda_note(struct backend *b, cudaError_t rc)
{
    if (rc != cudaSuccess && b->failed == cudaSuccess) b->failed = rc;
}

/* cuda_load.cu: the load slot, and what close needs. */
FALLIBLE int cuda_load(struct backend *b, const struct model_params *params,
                       const struct step_limits *limits, struct error *err);
void cuda_unload(struct backend *b);

/* cuda_turn.cu: the ends of a step. */
int cuda_turn_begin(struct backend *b, const struct step *step);
void cuda_turn_end(struct backend *b, const struct step *step);
FALLIBLE int cuda_sync(struct backend *b, struct error *err);
bool cuda_has_ended(struct backend *b);

/* cuda_step.cu: the slots of a step. */
void cuda_step_begin(struct backend *b, const struct step *step);
void cuda_step_embed(struct backend *b);
void cuda_step_qkv(struct backend *b, int layer);
void cuda_step_attend(struct backend *b, int layer);
void cuda_step_out(struct backend *b, int layer);
void cuda_step_gate_up(struct backend *b, int layer);
void cuda_step_down(struct backend *b, int layer);
void cuda_step_residual(struct backend *b, enum residual_site site, int layer);
void cuda_step_logits(struct backend *b);
void cuda_step_end(struct backend *b);
void cuda_step_sample(struct backend *b, const struct sample_row *row, int vocab);

#endif
