/* cuda_attention_parts.h - what the files of attention share: the image of a plan, kernel parameters,
 * and the launches of each kind of tile. Not for others. */
#ifndef LM_KERNELS_CUDA_ATTENTION_PARTS_H
#define LM_KERNELS_CUDA_ATTENTION_PARTS_H

#include "kernels/cuda/cuda_attention.h"

#define ATTENTION_TILE_ROWS 16 // of a warp: the rows of an mma, and of a tile of the float32 path

/* ---- the image of a plan: an array of 32-bit words, offsets in words from its start ---- */

struct attention_image {
    int32_t slots, sequences, decode, prefill, merges; // offsets
    int32_t decode_tiles, prefill_tiles, merged_rows;  // counts
};

struct attention_sequence {
    int32_t first, count, past; // as in struct step_sequence
    int32_t table;              // offset of its page numbers
};

/* Rows that one warp (decode), block of threads (prefill, float32) takes for each KV head: query heads
 * [head, head + heads) of its group, for tokens [token, token + tokens) of a sequence. Row r is token r / heads,
 * head r % heads. */
struct attention_tile {
    int32_t sequence, token, tokens, head, heads;
    int32_t split,
        splits;      // decode: which one, of how many (of the last token); 1: o is written at once
    int32_t partial; // else: partial row of (first token, split 0, query head 0)
};

/* A token whose splits meet in memory. */
struct attention_merge {
    int32_t token;    // of the step
    int32_t position; // in its sequence
    int32_t partial;  // row of (split 0, query head 0); then [split][heads]
};

/* ---- what kernels are given ---- */

struct attention_params {
    const uint8_t *parts; // the layer's first part in page 0
    size_t page_bytes, part_bytes, values, key_scales, value_scales;
    enum kv_type type;
    int key_stride, value_stride;
    int kv_heads, group, head_dim, value_dim; // group: query heads of a KV head
    int window;
    float scale, softcap;
    const float *sinks;
    const int32_t *image;
    const float *q;
    void *o;
    int q_stride, o_stride;
    enum cuda_real o_real;
    float *partial_sums;   // [partial rows][value_dim]
    float *partial_totals; // [partial rows][2]: maximum (base 2), total
};

/* Pages of a split for a row at this position (rule A1); grows with the position. */
__host__ __device__ __forceinline__ int attention_split_pages(int position)
{
    return position < 1024 ? 2 : position < 4096 ? 4 : position < 16384 ? 8 : 16;
}

__host__ __device__ __forceinline__ int attention_split_count(int position)
{
    return position / KV_BLOCK_TOKENS / attention_split_pages(position) + 1;
}

/* The float32 path serves pages of float32 too, with whatever output. */
static inline bool attention_is_scalar(const struct cuda_attention *a)
{
    return a->o_real == CUDA_REAL_F32 || a->kv.type == KV_F32;
}

/* Rows of a prefill tile of this shape of heads (CUDA_HEAD_SHAPES). */
int attention_prefill_rows(int shape);

/* Of a block of it. */
int attention_prefill_shared_bytes(int shape, enum kv_type type);

/* `blocks` of threads share the tiles times KV heads. */
void attention_decode_launch(const struct attention_params *p, int shape, int blocks,
                             cudaStream_t stream);
void attention_merge_launch(const struct attention_params *p, int rows, cudaStream_t stream);
void attention_prefill_launch(const struct attention_params *p, int shape, int blocks,
                              cudaStream_t stream);
void attention_exact_launch(const struct attention_params *p, int blocks, cudaStream_t stream);

#endif
