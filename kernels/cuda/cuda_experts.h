/* cuda_experts.h - a mixture of experts in the place of a layer's gate, up and down (backend.h:
 * expert_params). kernels/cpu/README.md rules E1-E4 and E6 hold here too; scores are float32 in every
 * compute type, softmax and sigmoid of them are CUDA's. */
#ifndef LM_KERNELS_CUDA_EXPERTS_H
#define LM_KERNELS_CUDA_EXPERTS_H

#include "kernels/cuda/cuda_pointwise.h"

/* One layer's weights. Of gate, up and down the first expert's; the others follow behind it. */
struct cuda_experts {
    struct cuda_weight gate, up, down;
    const float *gate_bias, *up_bias;                       // [experts][ffn], NULL: none
    const float *down_bias;                                 // [experts][hidden], NULL: none
    struct cuda_weight router, shared_scale;                // CUDA_F32; data NULL: none
    const float *router_bias, *correction;                  // [experts], NULL: none
    struct cuda_weight shared_gate, shared_up, shared_down; // data NULL: none
};

/* Where the step's tokens go in the layer that is being run. A row is one token at one expert; rows
 * are grouped by expert, and by token within one. Everything is on the device. */
struct cuda_routes {
    float *score;                 // [tokens][experts]
    float *shared_scale;          // [tokens]
    int *expert;                  // [tokens][used], ascending
    float *weight;                // [tokens][used]
    int *row;                     // [tokens][used]
    int *first;                   // [experts + 1]: expert e has rows first[e] .. first[e + 1] - 1
    int *token;                   // [tokens * used]: of a row
    struct cuda_rows g, shared_g; // [tokens * used][ffn], [tokens][shared_ffn]
    float *y;                     // [tokens * used][hidden]
};

/* Scores to routes: choice and weights of each token. Softmax or sigmoid of `score` and of shared_scale
 * (if has_shared_scale) are taken in place. */
void cuda_experts_route(const struct cuda_routes *r, const struct expert_shape *shape,
                        const float *correction, bool has_shared_scale, int tokens,
                        cudaStream_t stream);
/* Routes to rows: r->row, r->first and r->token. */
void cuda_experts_group(const struct cuda_routes *r, const struct expert_shape *shape, int tokens,
                        cudaStream_t stream);
/* y = y times its scale (shared expert; without one 0), then the rows of each token by weight, in order. */
void cuda_experts_add_up(const struct cuda_routes *r, const struct expert_shape *shape, float *y,
                         bool has_shared, bool has_shared_scale, int tokens, int hidden,
                         cudaStream_t stream);

#endif
