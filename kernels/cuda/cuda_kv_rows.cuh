/* cuda_kv_rows.cuh - a row of K or V to its page, rounded or made of integers on the way. */
#ifndef LM_KERNELS_CUDA_KV_ROWS_CUH
#define LM_KERNELS_CUDA_KV_ROWS_CUH

#include "kernels/cuda/cuda_kv.h"

/* Elements d and d + 1 of a row; what lies behind its `dim` elements is 0. */
__device__ __forceinline__ float2 row_pair(const float *row, int d, int dim)
{
    return d < dim ? *(const float2 *)(row + d) : make_float2(0, 0);
}

/* kernels/cpu/README.md A2, A3: `scale`, and the factor that makes integers. */
__device__ __forceinline__ float quantize_scale(float top, bool finite, float *inverse)
{
    *inverse = 0;
    if (!finite) return NAN;
    if (top < 0x1p-100f) return 0;
    *inverse = 127.0f / top;
    return top / 127.0f;
}

/* By a warp, two elements a lane and turn. `row` is aligned to 8. */
__device__ __forceinline__ void write_row(const struct cuda_kv_rows &rows, int slot, int head,
                                          const float *row)
{
    uint8_t *part = rows.first + (size_t)(slot / KV_BLOCK_TOKENS) * rows.page_bytes +
                    (size_t)head * rows.part_bytes;
    size_t position = slot % KV_BLOCK_TOKENS;
    uint8_t *to = part + position * rows.row_bytes;
    int begin = 2 * lane_id(), step = 2 * WARP_LANES;
    float inverse = 0;

    if (rows.type == KV_INT8) {
        float top = 0;
        int finite = 1;
        for (int d = begin; d < rows.dim; d += step) {
            float2 x = row_pair(row, d, rows.dim);
            top = fmaxf(top, fmaxf(fabsf(x.x), fabsf(x.y)));
            finite &= isfinite(x.x) && isfinite(x.y);
        }
        top = warp_max(top);
        float scale = quantize_scale(top, __all_sync(WARP_ALL, finite), &inverse);
        if (lane_id() == 0) ((float *)(part + rows.scales))[position] = scale;
    }
    for (int d = begin; d < rows.stride; d += step) {
        float2 x = row_pair(row, d, rows.dim);
        if (rows.type == KV_F32)
            *(float2 *)(to + 4 * d) = x;
        else if (rows.type == KV_F16)
            *(uint32_t *)(to + 2 * d) = pack2<__half>(x.x, x.y);
        else if (rows.type == KV_BF16)
            *(uint32_t *)(to + 2 * d) = pack2<__nv_bfloat16>(x.x, x.y);
        else if (inverse == 0)
            *(uint16_t *)(to + d) = 0;
        else
            *(uint16_t *)(to + d) = (uint16_t)((uint8_t)(int8_t)rintf(x.x * inverse) |
                                               (uint8_t)(int8_t)rintf(x.y * inverse) << 8);
    }
}

#endif
