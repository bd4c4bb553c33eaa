/* cuda_load.h - laying out a model's weights on the device, shared by cuda_load.cu and
 * cuda_load_experts.cu. The layout runs twice: without memory to add up sizes, then for real, with
 * uploads on the way, so a lay function must not depend on which pass it is. */
#ifndef LM_KERNELS_CUDA_LOAD_H
#define LM_KERNELS_CUDA_LOAD_H

#include "kernels/cuda/cuda_state.h"

struct cuda_loader {
    struct backend *b;
    const struct model_params *params;
    struct cuda_staging staging; // open in the second pass
    int threads;                 // that pack
    float *floats;               // [threads][the longest row], scratch
    bool beyond_f16;             // a weight since the last check (cuda_pack_row)
    struct error *err;
    int rc; // the first error: nothing is uploaded behind it
};

/* `count` matrices of one shape behind each other, in one form that takes all of them, or in float32
 * where `float32` or the model's type asks for it. Sources are done with when it returns. */
struct cuda_weight cuda_load_stack(struct cuda_loader *l, const struct matrix *m, int count,
                                   bool float32);
const float *cuda_load_floats(struct cuda_loader *l, const float *source,
                              int64_t count); // NULL of NULL

/* Activations, zeroed: rows of the model's type, and floats. */
struct cuda_rows cuda_load_rows(struct backend *b, int cols, int rows);
void *cuda_load_bytes(struct backend *b, size_t count, size_t size);

/* cuda_load_experts.cu: weights of one layer, and what lies between the products. */
void cuda_load_experts(struct cuda_loader *l, int layer);
void cuda_load_routes(struct backend *b);

#endif
