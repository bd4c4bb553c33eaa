/* cuda_pointwise.h - everything of a step that is neither a product nor attention. Launches only:
 * pointers are on the device, rows of a step stand under each other with the given strides.
 *
 * A row is one block's work (of a warp, for heads) and is summed in an order that only its length
 * decides. Values that products read are written in the type of their rows, float16 within its range. */
#ifndef LM_KERNELS_CUDA_POINTWISE_H
#define LM_KERNELS_CUDA_POINTWISE_H

#include "kernels/backend.h"
#include "kernels/cuda/cuda_kv.h"
#include "kernels/cuda/cuda_product.h"

/* Rows of activations that products read. */
struct cuda_rows {
    void *data; // [rows][stride] of `real`
    int cols;   // used ones; the others are 0
    int stride; // a multiple of 8
    enum cuda_real real;
};

/* One rope table of every set: of set s at inv_freq + s * set_stride and factor[s * tables]. */
struct cuda_rotation_job {
    float *out;                // [tokens][2 * half]: cosines, then sines, times the factor
    const int *position, *set; // [tokens]
    const float *inv_freq, *factor;
    int tokens, half, tables, set_stride;
};
/* cos and sin of position * inv_freq; that product is float32, as in the reference models. */
void cuda_rotation(const struct cuda_rotation_job *job, cudaStream_t stream);

/* Token i of a step is id[i] or, where link[i] >= 0, what the step before drew in that row; 0 if it gave no token. */
struct cuda_ids {
    const int *id, *link;
    const int32_t *drawn; // as sampled() of backend.h tells
    const float *shared;  // all of that, whole on every rank (cuda_share_ids); NULL: one rank
};
/* out[token], exact: ids are less than 2^24. */
void cuda_share_ids(float *out, const struct cuda_ids *ids, int tokens, cudaStream_t stream);

/* x[token] = scale * row id - first of the embedding; 0 where it has no such row (another rank has it). */
void cuda_embed(float *x, const struct cuda_weight *embedding, const struct cuda_ids *ids,
                int first, float scale, int tokens, cudaStream_t stream);

/* x += scale * post_norm(y), then h = norm(x). */
struct cuda_residual_job {
    float *x;               // [rows][hidden]
    const float *y;         // [rows][hidden]; NULL: x stays
    const float *post_norm; // [hidden], NULL: none
    float scale;
    const float *norm; // [hidden], NULL: h = x
    struct cuda_rows h;
    float *h_float; // beside h, with its stride, for routers; NULL: not wanted
    int rows, hidden;
    float eps;
};
void cuda_residual(const struct cuda_residual_job *job, cudaStream_t stream);

/* out = norm(in), each row; in has in_stride floats from row to row. */
void cuda_norm_rows(const struct cuda_rows *out, const float *in, int in_stride, const float *norm,
                    int rows, float eps, cudaStream_t stream);

/* out = act(gate) * up; in_real: float32, or as out. */
void cuda_activate(const struct cuda_rows *out, enum ffn_activation kind, const void *gate,
                   const void *up, enum cuda_real in_real, int in_stride, int rows,
                   cudaStream_t stream);

/* Heads of queries, keys or values: norm, then rotation. */
struct cuda_heads_job {
    float *x; // [tokens][stride]: heads of head_dim
    int tokens, stride, heads, head_dim;
    const float *norm; // [head_dim], or [heads * head_dim] of a norm over all heads; NULL: none
    bool norm_spans_heads;
    int span;             // elements that such a norm is over: of all ranks' heads
    const float *squares; // [tokens], of such a norm: sums over all ranks' heads
    float eps;
    const float *rotation; // [tokens][2 * half]; NULL: none
    int half, rotate_from; // pairs; the first element that rotates
    enum rope_style style;
};
/* In one launch: q's in place, k's and v's to their pages, which leaves k and v as they are. */
void cuda_heads(const struct cuda_heads_job *q, const struct cuda_heads_job *k,
                const struct cuda_kv_rows *keys, const struct cuda_heads_job *v,
                const struct cuda_kv_rows *values, cudaStream_t stream);
/* out[token] = sum of squares over these heads */
void cuda_heads_squares(float *out, const struct cuda_heads_job *job, cudaStream_t stream);

/* Latent attention: keys and values of all heads from kv_b's rows, and the shared rotating part that
 * stands behind the latent in kv_a's (backend.h: latent_params). */
struct cuda_latent_job {
    float *k, *v;        // [tokens][heads * head_dim], [tokens][heads * value_dim]
    const float *wide;   // [tokens][heads * (head_dim - rope_dims + value_dim)]
    const float *narrow; // [tokens][narrow_stride], kv_rank and then rope_dims of it
    int narrow_stride;
    int tokens, heads, head_dim, value_dim, rope_dims, kv_rank;
};
void cuda_latent_expand(const struct cuda_latent_job *job, cudaStream_t stream);

/* out[i] = in[row[i]] */
void cuda_gather(const struct cuda_rows *out, const struct cuda_rows *in, const int *row, int rows,
                 cudaStream_t stream);

/* out = in, in the type of out */
void cuda_convert(const struct cuda_rows *out, const float *in, int rows, cudaStream_t stream);

/* x[i] = parts[0][i] + parts[1][i] + ..., in this order; parts are [ranks][count] */
void cuda_sum_ranks(float *x, const float *parts, size_t count, int ranks, cudaStream_t stream);

/* x = cap(scale * x); cap 0: none */
void cuda_finish_logits(float *x, size_t count, float scale, float cap, cudaStream_t stream);

/* out[row] += bias, behind a library's product. */
void cuda_add_bias(float *out, int out_stride, const float *bias, int cols, int rows,
                   cudaStream_t stream);

#endif
