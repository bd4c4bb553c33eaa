/* cpu_latent.h - latent attention: the qkv stage of layers whose queries, keys and values come out
 * of narrow rows. For the files of kernels/cpu only; README rules L1-L3 are the arithmetic. */
#ifndef LM_KERNELS_CPU_LATENT_H
#define LM_KERNELS_CPU_LATENT_H

#include "kernels/cpu/cpu_gemm.h"

/* One layer's weights, in the place of k and v, and of q where there is a q_a. */
struct cpu_latent {
    struct cpu_packed q_a, q_b; // data NULL: the layer's q is used
    struct cpu_packed kv_a, kv_b;
    float *q_norm, *kv_norm; // [q_rank], [kv_rank]
};

/* What lies between the products, of the layer that is being run; [tokens_max] rows each. */
struct cpu_latent_rows {
    struct cpu_input q, kv; // [q_rank], [kv_rank]: the inputs of q_b and kv_b
    float *narrow;          // [kv_rank + rope_dims]: kv_a's output
    float *wide;            // [heads * (head_dim - rope_dims + value_dim)]: kv_b's
};

struct backend;

/* The products of the qkv slot: queries to b->q, the rest to `narrow` and `wide`. */
void cpu_latent_project(struct backend *b, int layer);
/* A token's keys as one row per head, [heads][head_dim] in b->k, not rotated yet, and its values,
 * [heads][value_dim] in b->v. */
void cpu_latent_expand(struct backend *b, int token);

#endif
