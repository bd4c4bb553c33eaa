/* cuda_mma_weights.cuh - forms of weights for cuda_mma: how 8 elements of a row come to shared memory. */
#ifndef LM_KERNELS_CUDA_MMA_WEIGHTS_CUH
#define LM_KERNELS_CUDA_MMA_WEIGHTS_CUH

#include "kernels/cuda/cuda_values.cuh"

/* `piece_bytes`: of 8 elements; `scale_bytes`: of CUDA_BLOCK elements, where load() brings those too. `in_blocks`: load()
 * brings the elements to registers as they lie in memory, and cell_of() makes 16 bytes of them; else load() does all.
 * `scales_sums`: cells are without scales. `real`: of the inputs, and of cells. */
template <typename T> struct mma_weights_real {
    typedef T real;
    static const bool in_blocks = false, scales_sums = false;
    static const int piece_bytes = 16, scale_bytes = 0;
    struct raw { // none
    };
    __device__ static void load(const uint8_t *data, uint16_t *cell)
    {
        cp_async16(cell, data);
    }
};

template <typename T> struct mma_weights_q4 {
    typedef T real;
    using raw = struct q4_raw8;
    static const bool in_blocks = true, scales_sums = false;
    static const int piece_bytes = 4, scale_bytes = 4;
    __device__ static raw load(const uint8_t *data, const uint8_t *scale)
    {
        return q4_load8(data, scale);
    }
    __device__ static uint4 cell_of(const raw &from)
    {
        return q4_to_real8<T>(from);
    }
};

template <typename T> struct mma_weights_q8 {
    typedef T real;
    using raw = struct q8_raw8;
    static const bool in_blocks = true, scales_sums = false;
    static const int piece_bytes = 8, scale_bytes = 2;
    __device__ static raw load(const uint8_t *data, const uint8_t *scale)
    {
        return q8_load8(data, scale);
    }
    __device__ static uint4 cell_of(const raw &from)
    {
        return q8_to_real8<T>(from);
    }
};

template <typename T> struct mma_weights_f8 {
    typedef T real;
    using raw = struct f8_raw8;
    static const bool in_blocks = true, scales_sums = true;
    static const int piece_bytes = 8, scale_bytes = 0;
    __device__ static raw load(const uint8_t *data, const uint8_t *scale)
    {
        (void)scale;
        return f8_load8(data);
    }
    __device__ static uint4 cell_of(const raw &from)
    {
        return f8_to_real8<T>(from, 1.0f);
    }
};

#endif
