/* cpu_experts.h - a mixture of experts in the place of a dense layer's gate, up and down. For the
 * files of kernels/cpu only; README rules E1-E7 are the arithmetic. */
#ifndef LM_KERNELS_CPU_EXPERTS_H
#define LM_KERNELS_CPU_EXPERTS_H

#include "kernels/cpu/cpu_gemm.h"

/* One layer's weights. */
struct cpu_experts {
    struct cpu_packed *gate, *up, *down;                   // [experts] each
    float *gate_bias, *up_bias;                            // [experts][ffn], NULL: none
    float *down_bias;                                      // [experts][hidden], NULL: none
    struct cpu_packed router;                              // always F32
    float *router_bias, *correction;                       // [experts], NULL: none
    struct cpu_packed shared_gate, shared_up, shared_down; // data NULL: none
    struct cpu_packed shared_scale;                        // one row, F32; data NULL: none
};

/* One of the experts that a token goes through. */
struct cpu_route {
    int expert;
    int row; // of the token in cpu_routes.in, g and y
    float weight;
};

/* Where the step's tokens go in the layer that is being run, and what is computed there. A row is
 * one token at one expert; rows are grouped by expert, and by token within one. */
struct cpu_routes {
    float *score;            // [tokens_max][experts]: router products, then scores
    float *shared_scale;     // [tokens_max]
    struct cpu_route *route; // [tokens_max][used], by ascending expert
    int *first;              // [experts + 1]: expert e has the rows first[e] .. first[e + 1] - 1
    struct cpu_input in, g;  // [tokens_max * used][hidden], [ffn]; `in` has the layouts needed only
    struct cpu_input shared_g; // [tokens_max][shared_ffn]
    float *y;                  // [tokens_max * used][hidden]
    struct cpu_gemm_job *job;  // [experts + 1]
};

struct backend;

/* The gate_up and down slots of a layer that has experts. */
void cpu_experts_gate_up(struct backend *b, int layer);
void cpu_experts_down(struct backend *b, int layer);

#endif
