/* backend.h - THE line between engine and kernels.
 *
 * A backend owns one rank's weights, KV pages and activations. It is stage-grained: not a graph,
 * not a whole forward. The decoder (engine/decoder.c) calls the stages of a step in order; what
 * flows between them stays inside the backend, so it may fuse within a stage and keep data where it
 * likes:
 *
 *     x  residual stream     [tokens][hidden]      h  normed input of the next projection
 *     q  queries             [tokens][heads][head_dim]   K, V go straight to their pages
 *     o  attention output    [tokens][heads][value_dim]  g  act(gate) * up   [tokens][ffn]
 *     y  output of out/down  [tokens][hidden], this rank's share until all_reduce; q, o, g likewise
 *                            hold its heads and rows only (struct rank_share)
 *
 *     step_begin
 *     embed                  x = scale * E[ids]
 *     residual(BEGIN)        h = norm_0(x)
 *     per layer l:
 *       qkv(l)               q|k|v = W h (+bias, q/k norm, RoPE); K and V written to their pages
 *       attend(l)            o = softmax(q K^T * scale, causal, window) V over the block tables
 *       out(l)               y = Wo o;           all_reduce
 *       residual(ATTENTION)  x += scale * post_norm(y); h = ffn_norm(x)
 *       gate_up(l)           g = act(Wg h) * (Wu h), with experts for each route of a token
 *       down(l)              y = Wd g, summed over routes;    all_reduce
 *       residual(FFN)        x += scale * post_norm(y); h = norm of the next layer, or the final
 *     logits                 rows asked for only: L = head h
 *     step_end               may submit
 *     sample                 (optional) tokens and reports of L; results are valid after sync()
 *
 * Rules
 *  1. Enqueue calls return void. A device error is sticky and surfaces at sync() as one negative
 *     code.
 *  2. Slots are required unless marked (optional).
 *  3. Equal bits: a result row depends on its own inputs only, never on how many rows share the
 *     step, how a prefill is cut into chunks, or which instruction set runs (kernels/cpu/README.md
 *     has the arithmetic). Caches, preemption and resume rely on it. (A GPU's libraries choose
 *     their order of sums by the number of rows: options.deterministic does without them.)
 *  4. One thread (the rank thread) calls a backend; it may use a pool of its own inside.
 *  5. World size 1 makes all_reduce a no-op, so the decoder has no `if (tp)`.
 *  6. A step may be ahead (has_ended()): begun before sync() of the one before, so that a device goes from
 *     one to the next without waiting for the host.
 *  7. With several ranks each has a thread, a backend and a part of the model of its own, and all run
 *     the same steps in the same order. They meet inside slots, through their comm_group; a rank that
 *     fails or doesn't come makes sync() of every rank fail. Rule 3 holds for every world size. */
#ifndef LM_KERNELS_BACKEND_H
#define LM_KERNELS_BACKEND_H

#include "kernels/sample.h"
#include "kernels/tensor.h"
#include "shared/base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KV_BLOCK_TOKENS 64

/* ---- what a model is, for one rank ---- */

/* How o and down are cut over ranks (engine/tp_shard.c). All else is cut alike: whole heads; rows of
 * q, k, v, gate, up, embedding and head; what is small or latent is on every rank. */
enum tp_split {
    /* By inputs: a rank has the columns that belong to its heads and to its rows of gate and up, and
     * y is a sum over ranks, in rank order. Little to send: what links between devices want. */
    TP_SPLIT_INPUTS,
    /* By outputs: a rank has some rows with all their columns; o and g are gathered before, y behind
     * them. More to send, but no sum crosses ranks, so no bit depends on their number: what shared
     * memory can have. */
    TP_SPLIT_OUTPUTS,
};

/* [first, first + count) of `whole`. */
struct rank_range {
    int first, count, whole;
};

/* What one of several ranks has of a model. model_params' heads, kv_heads, ffn and sizes of experts
 * are its own counts; hidden and vocab are the model's. */
struct rank_share {
    struct rank_range heads, kv_heads; // one KV head may be on several ranks, which have no other
    struct rank_range ffn, expert_ffn, shared_ffn;
    struct rank_range vocab;  // rows of embedding and head
    struct rank_range hidden; // rows of o and down, of each expert too; TP_SPLIT_INPUTS: all
};

enum rope_style {
    ROPE_HALF_SPLIT,  // element i pairs with i + rope_dims / 2 (Hugging Face order)
    ROPE_INTERLEAVED, // element 2i pairs with 2i + 1 (GGUF order of llama-like files)
};

enum ffn_activation {
    FFN_SILU,           // silu(gate) * up
    FFN_GELU_TANH,      // gelu(gate), by tanh, times up
    FFN_SWIGLU_CLAMPED, // gpt-oss: g = min(gate, 7), u = clamp(up, -7, 7); g sigmoid(1.702 g) (u + 1)
};

/* Rotary frequencies, built by the engine in double and rounded once: angle = position *
 * inv_freq[i]. */
struct rope_table {
    const float *inv_freq;  // [rope_dims / 2]
    float attention_factor; // multiplies cos and sin (yarn, longrope); 1 otherwise
};

#define ROPE_TABLES_MAX 4 // of a set
#define ROPE_SETS_MAX   2048
#define ROPE_NONE       (-1) // a layer without rotation

/* A mixture of experts in the place of a layer's gate, up and down: each token's h goes through the
 * `used` experts with the best router scores, their outputs are summed by weight, and a shared expert,
 * if there is one, is added for every token. */
enum expert_scoring {
    EXPERTS_SOFTMAX,          // softmax over all, then the best (Qwen2-MoE, Qwen3-MoE)
    EXPERTS_SOFTMAX_SELECTED, // the best, then softmax over those (Mixtral, gpt-oss)
    EXPERTS_SIGMOID,          // each by itself; the best by score + correction (DeepSeek-V3)
};

struct expert_params {
    const struct matrix *gate, *up;   // [experts] of [ffn][hidden]
    const struct matrix *down;        // [experts] of [hidden][ffn]
    const float *gate_bias, *up_bias; // [experts][ffn], NULL: none
    const float *down_bias;           // [experts][hidden], NULL: none
    struct matrix router;     // [experts][hidden]; its products are float32 in every compute type
    const float *router_bias; // [experts], NULL: none
    const float *correction;  // [experts], added for choosing, not to the weight; NULL: none
    struct matrix shared_gate, shared_up, shared_down; // [shared_ffn][hidden], ...; data NULL: none
    const float *shared_scale; // [hidden]: the shared expert's output times sigmoid(. h); NULL: 1
};

struct expert_shape {
    int experts, used; // 0: no layer has any
    int ffn;           // of one expert
    int shared_ffn;    // of the shared expert; 0: none
    enum expert_scoring scoring;
    bool normalise; // chosen weights are divided by their sum
    float scale;    // and multiplied by this
    /* The best come from the best groups of neighbours; 0 or 1: one group. A group is as good as its
     * best expert (DeepSeek-V2), with EXPERTS_SIGMOID as the sum of its two best (DeepSeek-V3). */
    int groups, groups_used;
};

/* Multi-head latent attention (DeepSeek-V2, V3) in the place of a layer's k and v, and of its q:
 *
 *     q       = q_b norm(q_a h)        or q h, with the layer's q, if there is no q_a
 *     c | r   = kv_a h                 [kv_rank] and [rope_dims]
 *     k | v   = kv_b norm(c)           of each head in turn, [head_dim - rope_dims] and [value_dim]
 *
 * A head's key is k and then r, which all heads share. The last rope_dims elements of each query
 * and key head rotate, not the first ones. kv_heads = heads: pages hold what kv_b makes. */
struct latent_params {
    struct matrix q_a;    // [q_rank][hidden]; data NULL: none
    struct matrix q_b;    // [heads * head_dim][q_rank]
    struct matrix kv_a;   // [kv_rank + rope_dims][hidden]
    struct matrix kv_b;   // [heads * (head_dim - rope_dims + value_dim)][kv_rank]
    const float *q_norm;  // [q_rank]
    const float *kv_norm; // [kv_rank]
};

struct layer_params {
    struct matrix q, k, v; // [heads * head_dim][hidden], [kv_heads * head or value_dim][hidden]
    const struct latent_params
        *latent;            // in the place of q, k, v, their biases and norms; NULL: none
    struct matrix o;        // [hidden][heads * value_dim]
    struct matrix gate, up; // [ffn][hidden]
    struct matrix down;     // [hidden][ffn]
    const float *attn_norm; // [hidden], NULL: h = x (OLMo 2, whose norms are the post norms)
    const float *ffn_norm;  // [hidden], NULL: likewise
    const float *q_bias, *k_bias, *v_bias, *o_bias; // NULL: none
    const float *gate_bias, *up_bias, *down_bias;   // NULL: none
    /* [head_dim], or all heads' with qk_norm_spans_heads (the model's, also on one of several ranks:
     * the norm is over all of them); NULL: none */
    const float *q_norm, *k_norm;
    const float *attn_post_norm, *ffn_post_norm; // [hidden], NULL: none
    int window;         // attend to the last `window` positions only; 0: all
    int rope_table;     // index into a set of model_params.rope_tables, or ROPE_NONE
    const float *sinks; // [heads]: one more logit of each head's softmax, with no value; NULL: none
    const struct expert_params *experts; // in the place of gate, up, down; NULL: a dense layer
    /* Orders of inputs; NULL: as they are. Column c of a quantised matrix of the stage multiplies element
     * order[c] of its input; a matrix of floats takes the input as it is. So groups of weights that are
     * scattered over the inputs (GPTQ's act order) lie in blocks. Not with COMPUTE_F32, latents or
     * experts. */
    const int32_t *qkv_order, *o_order;        // [hidden], [heads * value_dim]
    const int32_t *gate_up_order, *down_order; // [hidden], [ffn]
};

struct model_params {
    int layers, hidden, heads, kv_heads, head_dim, ffn, vocab;
    const struct rank_share *share; // NULL: the whole model
    int value_dim;                  // of a V head; 0: head_dim
    int q_rank, kv_rank;            // of latents; 0: no layer has any
    int rope_dims; // leading elements of each head that rotate (even, <= head_dim); latent: last ones
    enum rope_style rope_style;
    enum ffn_activation activation;
    float norm_eps;
    float attention_scale;                              // usually 1 / sqrt(head_dim)
    float embedding_scale, residual_scale, logit_scale; // 1 unless the family says otherwise
    float attention_softcap, logit_softcap;             // 0: none
    bool qk_norm_spans_heads; // one norm over all heads' elements (OLMo 2), not one per head
    struct expert_shape expert_shape;
    /* A set has one table for each kind of layer. Where tables depend on the length of a sequence
     * (dynamic NTK, longrope) there are several sets, and each sequence of a step names its own. */
    const struct rope_table *rope_tables; // [rope_sets][rope_table_count]
    int rope_table_count;
    int rope_sets;                    // 0 or 1: one
    struct matrix embedding;          // [vocab][hidden]
    struct matrix head;               // [vocab][hidden]; data NULL: tied to the embedding
    const float *final_norm;          // [hidden]
    const struct layer_params *layer; // [layers]

    /* Called after a matrix was copied or repacked and its source is not read again, so that the
     * loader can drop the mapped pages. May be NULL. */
    void (*on_source_done)(void *arg, const struct matrix *m);
    void *on_source_done_arg;
};

/* ---- KV pages ---- */

/* How a page holds K and V. A token's K and V are rounded once, when qkv writes them; attention
 * reads what is stored, in the same step too, so rule 3 holds for every type. */
enum kv_type {
    KV_F32,
    KV_F16,
    KV_BF16,
    KV_INT8, // one float32 scale per token, head, and K or V; signed bytes, symmetric
    KV_TYPES
};

/* ---- one step ---- */

struct step_sequence {
    int first;             // index of its first token in the step
    int count;             // tokens of this step: 1 when decoding
    int past;              // positions already in its pages; token i has position past + i
    const int32_t *blocks; // [(past + count + 63) / 64] page numbers
    int rope_set; // which of model_params.rope_tables turns it; the same one in all its steps
};

/* ids[token] is what the step before drew in its row, or 0 if that gave no token. */
struct step_link {
    int token, row;
};

struct step {
    int tokens;         // <= limits.tokens_max
    const int32_t *ids; // [tokens]
    int sequences;      // <= limits.sequences_max
    const struct step_sequence *sequence;
    int rows;           // <= limits.rows_max
    const int32_t *row; // [rows] token indexes whose logits are wanted, ascending
    bool hidden_only;   // of the rows only hidden_row() is wanted: logits needn't be made
    bool is_sampled;    // sample() follows: only rows that it leaves come to the host; else all do
    bool is_ahead;      // the step before isn't synced yet (has_ended())
    int links; // only of a backend with has_ended(), behind a step that is_sampled on rank 0
    const struct step_link *link; // [links]
};

enum residual_site { RESIDUAL_BEGIN, RESIDUAL_ATTENTION, RESIDUAL_FFN };

/* ---- the backend ---- */

enum compute_type {
    COMPUTE_AUTO, // what is fastest and meets the numerics: int8 activations for quantised weights
    COMPUTE_F32,  // float32 activations, weights dequantised: the reference path (--dtype float32)
    COMPUTE_F16, // as AUTO, but matrices of floats are kept as float16; E_UNSUPPORTED: one can't be
    COMPUTE_BF16, // likewise as bfloat16
};

struct backend_options {
    int threads;          // CPU: 0 = all cores this process may use
    const char *cpu_list; // CPU: "0-3,8": pin threads; NULL: don't pin
    const char *isa;      // CPU: "auto", "scalar", "avx2", "avx512"; NULL: auto
    enum compute_type compute;
    int rank, world;
    struct comm_group *group; // of this model's ranks; NULL: world 1, or measure_only
    int peer_timeout_ms;      // how long a rank waits for another before all fail; 0: 30 s
    bool deterministic;       // a GPU: own kernels and ordered sums only, so that rule 3 holds in
                              // every compute type and for every world size
    bool measure_only;        // load() checks and adds up, but takes no memory; then only memory(),
                              // kv_block_bytes(), describe() and close() may be called
};

struct step_limits {
    int tokens_max;    // tokens in one step
    int sequences_max; // sequences in one step
    int rows_max;      // logit rows in one step
    int context_max;   // positions of one sequence
};

struct backend;    // opaque, one per rank
struct comm_group; // opaque, one per model: what its ranks meet in (shared memory, NCCL)

struct backend_ops {
    const char *name; // "cpu"
    enum tp_split split;
    bool input_orders; // layer_params.qkv_order and its like may be set
    bool scale_grids;  // matrices of F8_E4M3 are taken

    /* (optional, all three: without them there is one rank only) Made before the ranks are opened,
     * freed when all are closed. group_abort may be called by any thread at any time: whoever waits
     * for another rank, now or later, returns, and sync() gives E_DEVICE with the first `why`. */
    FALLIBLE int (*group_create)(const struct backend_options *options, struct comm_group **out,
                                 struct error *err);
    void (*group_destroy)(struct comm_group *group); // NULL is fine
    void (*group_abort)(struct comm_group *group, const char *why);

    FALLIBLE int (*open)(const struct backend_options *options, struct backend **out,
                         struct error *err);
    void (*close)(struct backend *b); // NULL is fine

    /* "cpu avx512+vnni, 2 threads", valid until close. */
    const char *(*describe)(const struct backend *b);

    /* Copy or repack all weights and size the activations. Once per backend. The params' arrays are
     * not used after it returns. E_UNSUPPORTED names what this backend can't do. */
    FALLIBLE int (*load)(struct backend *b, const struct model_params *params,
                         const struct step_limits *limits, struct error *err);

    /* Bytes of one KV page, all layers. */
    size_t (*kv_block_bytes)(const struct backend *b, enum kv_type type);
    /* Address space for `blocks` pages; memory is taken as pages are first written. */
    FALLIBLE int (*kv_open)(struct backend *b, enum kv_type type, int blocks, struct error *err);
    /* Moves of the first `tokens` positions of a page, all layers; what lies behind them in the
     * target is undefined afterwards. They are enqueued between step_end and step_begin and take
     * effect in order with steps and each other: a save sees what every earlier step wrote, and a
     * later step or copy sees what a restore brought. `host` has kv_block_bytes, is in the backend's
     * own layout (of use only to a backend with the same model, KV type and rank), and belongs to
     * the backend until sync() returns: the CPU copies at once, a device behind its queue. */
    void (*kv_copy)(struct backend *b, int from_block, int to_block, int tokens); // copy-on-write
    void (*kv_save)(struct backend *b, int block, int tokens, void *host);
    void (*kv_restore)(struct backend *b, int block, int tokens, const void *host);

    void (*step_begin)(struct backend *b, const struct step *step); // step stays valid until sync
    void (*embed)(struct backend *b);
    void (*qkv)(struct backend *b, int layer);
    void (*attend)(struct backend *b, int layer);
    void (*out)(struct backend *b, int layer);
    void (*gate_up)(struct backend *b, int layer);
    void (*down)(struct backend *b, int layer);
    void (*all_reduce)(struct backend *b); // y, whole on every rank
    void (*residual)(struct backend *b, enum residual_site site, int layer);
    void (*logits)(struct backend *b);
    void (*step_end)(struct backend *b);

    /* Until all is done that was enqueued; with a step ahead, until the one before it is. */
    FALLIBLE int (*sync)(struct backend *b, struct error *err);

    /* (optional, with sample) Where it is there the next step may begin before sync() of the last one (step.is_ahead), but
     * not a third before that of the first, nor behind one of whose rows the host has to look at anything: hidden
     * states, rows that sample() leaves, all rows without sample(). All ranks are given the same links. True: what
     * sync() waits for has ended, or failed. */
    bool (*has_ended)(struct backend *b);
    /* [rows][vocab] float32 of the last synced step, on the host; valid until the next step_begin.
     * Of rank 0 only. */
    const float *(*logits_host)(struct backend *b);

    /* (optional, all three) Tokens drawn where the logits are. sample() follows step_end of a step that
     * is_sampled, on rank 0, before the next step_begin; sync() for the step before may come between: row[i] says what becomes of the step's row i, of whose logits the first
     * `vocab` can be drawn. Neither `row` nor what it points at is used after it returns. sampled(): of the
     * last synced step, [rows]: a token as sample_draw() gives it, or 0 with SAMPLE_SCORE; E_DEVICE, likewise;
     * or E_UNSUPPORTED: the row was left, and logits_host has it. reported(): of a row with logprobs that
     * was neither, what sample_report() gives. Both until the next step_begin, or sync() if that one is ahead. Rows
     * are not left if the lists of none have more than SAMPLE_LISTS_SHORT elements. */
    void (*sample)(struct backend *b, const struct sample_row *row, int vocab);
    const int32_t *(*sampled)(struct backend *b);
    const struct sample_report *(*reported)(struct backend *b, int row);

    /* (optional) What the logits of a row of the last synced step are made of: its hidden state behind the
     * final norm, [hidden] float32, whole on every rank. Valid until the next step_begin. Several
     * threads may call it for rows of their own. */
    void (*hidden_row)(struct backend *b, int row, float *out);

    /* (optional) Run fn(arg, part, parts) on the pool, for host work between steps (sampling). */
    void (*run_parallel)(struct backend *b, void (*fn)(void *arg, int part, int parts), void *arg);

    /* Bytes held for weights and for activations, for logs and metrics. */
    void (*memory)(const struct backend *b, size_t *weights, size_t *activations);
    /* (optional) Bytes that pages may still take on this rank's device. NULL: they lie in host memory. From
     * any thread that isn't in another call. */
    size_t (*memory_free)(const struct backend *b);
};

/* "cpu", "cuda", or "auto": the best that is usable. NULL: unknown, or not usable here. Backends in
 * modules are loaded by the first call that concerns them. Any thread. */
const struct backend_ops *backend_find(const char *name);
/* Why a backend isn't usable: "no driver (libcuda.so.1 not found)"; NULL: it is. */
const char *backend_why_not(const char *name);
/* All that are known, usable or not, best first; NULL at the end. */
const char *backend_name(int index);

#ifdef __cplusplus
}
#endif

#endif
