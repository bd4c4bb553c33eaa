/* cuda_attention.h - o = softmax(q K^T * scale, causal, window, sink) V over KV pages.
 *
 * The host makes a plan of each step once (which rows go together, which splits they have), the backend copies
 * it to the device, and every layer's launch reads it there. A launch takes any mix of decode rows and
 * prefill chunks.
 *
 *     COMPUTE_F32, KV_F32    scalar, in the CPU backend's order of sums (README T1-T6, K1-K4): its bits
 *     otherwise              tensor cores: f16 for KV_F16 pages, bf16 for the other types, float32 sums
 *
 * Rows on tensor cores
 *  A1. A row's context is cut into splits of 2 pages up to 1,024 positions, 4 up to 4,096, 8 up to 16,384, then 16: by the
 *      row's own position only, aligned to position 0.
 *  A2. In a split, pages go in order with a running softmax (base 2): one page's maximum, its 64
 *      probabilities (rounded to the pages' type for the product with V, not for the total), its products in steps of
 *      16 positions.
 *  A3. Splits meet in order: `M' = max(M, m)`, `T = fma(T, 2^(M - M'), O * 2^(m - M'))`, L likewise. The sink is
 *      where that begins. o = T * (1 / L).
 *  A4. Decode gives splits to different warps and merges what they left in memory; prefill
 *      merges its own at each border. Pages that a row doesn't see change nothing. So a row has the same bits in
 *      decode, in prefill, in any chunking and any company (backend.h rule 3).
 *  A5. A page's positions behind the sequence's last one are never read; masked ones before it must be finite. */
#ifndef LM_KERNELS_CUDA_ATTENTION_H
#define LM_KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/cuda_kv.h"
#include "kernels/cuda/cuda_real.cuh"

/* What all layers of a model have in common, for this rank. */
struct cuda_attention {
    struct cuda_kv_layout kv;
    int heads;             // a multiple of kv.kv_heads
    enum cuda_real o_real; // CUDA_REAL_F32: the float32 path
    float scale;           // of the scores: attention_scale
    float softcap;         // 0: none
};

/* E_UNSUPPORTED: heads of these sizes with pages of this type want more shared memory than a block of the calling
 * thread's device can have (from 192 on, on devices that aren't for data centres). */
FALLIBLE int cuda_attention_fits(const struct cuda_attention *a, struct error *err);

/* ---- the plan of a step ---- */

/* Sizes that hold for every step within the limits and pages of every type. */
size_t cuda_attention_plan_bytes_max(const struct cuda_attention *a,
                                     const struct step_limits *limits);
size_t cuda_attention_workspace_bytes(const struct cuda_attention *a,
                                      const struct step_limits *limits);

/* The host's view; `image` is the part that kernels read. */
struct cuda_attention_plan {
    size_t bytes; // used of the image
    int tokens;   // of the step, padding included
    int decode_tiles, prefill_tiles, merged_rows;
};

/* Write the image of `step` to `image` (pinned memory of plan_bytes_max). Its slots are written for
 * `tokens_padded` >= step->tokens tokens. `workspace_bytes` is what launches will get; a step that would
 * need more gets slower, not wrong. */
void cuda_attention_plan_step(const struct cuda_attention *a, const struct step *step,
                              int tokens_padded, size_t workspace_bytes, void *image,
                              struct cuda_attention_plan *out);

/* Slots of the step's tokens within an image on the device, for cuda_kv_keys and cuda_kv_values. */
const int32_t *cuda_attention_slots(const void *image);

/* ---- a layer ---- */

struct cuda_attention_layer {
    int layer;
    int window;         // attend to the last `window` positions only; 0: all
    const float *sinks; // [heads] on the device; NULL: none
    const uint8_t *pages;
    const void *image;      // the plan's, on the device
    void *workspace;        // on the device
    size_t workspace_bytes; // as in the plan
    const float
        *q; // [tokens][q_stride], heads * head_dim of each row: behind norm and RoPE, not scaled
    int q_stride; // elements
    void *o;      // [tokens][o_stride], heads * value_dim of each row are written, of o_real
    int o_stride; // elements
    /* For capture into a graph: grids depend on sequences_max alone, and what there is to do is read from the
     * image, so that the same launches serve every step of decode rows only. 0: grids fit the plan. */
    int graph_sequences;
};

void cuda_attention_run(const struct cuda_attention *a, const struct cuda_attention_plan *plan,
                        const struct cuda_attention_layer *layer, cudaStream_t stream);

#endif
