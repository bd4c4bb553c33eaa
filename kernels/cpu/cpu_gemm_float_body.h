/* cpu_gemm_float_body.h - GEMM with float weights, included by each cpu_isa_NAME.c (README rules
 * F1-F2).
 *
 * A lane owns an output row and adds w[k] * x[k] for k = 0, 1, 2, ... with one fma each. The chain
 * of one accumulator is as long as K, so a tile holds enough (panels x tokens) accumulators to hide
 * the latency of the fma. */
#ifndef LM_KERNELS_CPU_GEMM_FLOAT_BODY_H
#define LM_KERNELS_CPU_GEMM_FLOAT_BODY_H

#include "kernels/cpu/cpu_isa.h"
#include "kernels/cpu/cpu_simd.h"

#define FLOAT_TILE_PANELS 4
#define FLOAT_TILE_TOKENS 8

SIMD struct vf float_load(const enum dtype type, const uint8_t *panel, int k)
{
    if (type == DTYPE_F16) return vf_load_f16((const uint16_t *)(const void *)panel + 16 * k);
    if (type == DTYPE_BF16) return vf_load_bf16((const uint16_t *)(const void *)panel + 16 * k);
    return vf_load((const float *)(const void *)panel + 16 * k);
}

SIMD void float_tile(const enum dtype type, const int panels, const int tokens, const uint8_t *data,
                     size_t panel_bytes, int cols, const uint8_t *x, size_t x_bytes, float *out,
                     size_t out_stride)
{
    struct vf acc[FLOAT_TILE_TOKENS][FLOAT_TILE_PANELS];
    const float *row[FLOAT_TILE_TOKENS];

    SIMD_UNROLL
    for (int t = 0; t < tokens; t++) {
        row[t] = (const float *)(const void *)(x + (size_t)t * x_bytes);
        SIMD_UNROLL
        for (int p = 0; p < panels; p++)
            acc[t][p] = vf_zero();
    }
    for (int k = 0; k < cols; k++) {
        struct vf w[FLOAT_TILE_PANELS];
        SIMD_UNROLL
        for (int p = 0; p < panels; p++)
            w[p] = float_load(type, data + (size_t)p * panel_bytes, k);
        SIMD_UNROLL
        for (int t = 0; t < tokens; t++) {
            struct vf a = vf_set1(row[t][k]);
            SIMD_UNROLL
            for (int p = 0; p < panels; p++)
                acc[t][p] = vf_fma(w[p], a, acc[t][p]);
        }
    }
    SIMD_UNROLL
    for (int t = 0; t < tokens; t++)
        SIMD_UNROLL
    for (int p = 0; p < panels; p++)
        vf_store(out + (size_t)t * out_stride + PANEL_ROWS * p, acc[t][p]);
}

/* How many tokens and panels a tile takes, given what is left of either and the register file. */
SIMD int float_tile_tokens(int left)
{
    if (VF_REGISTERS >= 32 && left >= 8) return 8;
    return left >= 4 ? 4 : 1;
}

SIMD int float_tile_panels(int left, int tokens)
{
    int panels = tokens == 8 ? 2 : tokens == 4 && VF_REGISTERS < 32 ? 1 : 4;
    return panels <= left ? panels : 1;
}

typedef void float_tile_fn(const uint8_t *data, size_t panel_bytes, int cols, const uint8_t *x,
                           size_t x_bytes, float *out, size_t out_stride);

/* Tiles are functions of their own: small functions keep the compiler quick. */
#define FLOAT_TILE(name, type, panels, tokens)                                                    \
    static __attribute__((noinline)) void name(const uint8_t *data, size_t panel_bytes, int cols, \
                                               const uint8_t *x, size_t x_bytes, float *out,      \
                                               size_t out_stride)                                 \
    {                                                                                             \
        float_tile(type, panels, tokens, data, panel_bytes, cols, x, x_bytes, out, out_stride);   \
    }

#if VF_REGISTERS >= 32
#define FLOAT_WIDE_TILES(name, type)   \
    FLOAT_TILE(name##_2x8, type, 2, 8) \
    FLOAT_TILE(name##_1x8, type, 1, 8)
#define FLOAT_WIDE(name, panels) (panels == 2 ? name##_2x8 : name##_1x8)
#else
#define FLOAT_WIDE_TILES(name, type)
#define FLOAT_WIDE(name, panels) NULL // float_tile_tokens never gives 8
#endif

#define FLOAT_KERNEL(name, type)                                                        \
    FLOAT_WIDE_TILES(name, type)                                                        \
    FLOAT_TILE(name##_4x4, type, 4, 4)                                                  \
    FLOAT_TILE(name##_1x4, type, 1, 4)                                                  \
    FLOAT_TILE(name##_4x1, type, 4, 1)                                                  \
    FLOAT_TILE(name##_1x1, type, 1, 1)                                                  \
    static float_tile_fn *name##_tile(int panels, int tokens)                           \
    {                                                                                   \
        if (tokens == 8) return FLOAT_WIDE(name, panels);                               \
        if (tokens == 4) return panels == 4 ? name##_4x4 : name##_1x4;                  \
        return panels == 4 ? name##_4x1 : name##_1x1;                                   \
    }                                                                                   \
    static void name(const struct cpu_packed *w, int panel, int panels, const void *x,  \
                     size_t x_bytes, int tokens, float *out, size_t out_stride)         \
    {                                                                                   \
        float_gemm(name##_tile, w, panel, panels, x, x_bytes, tokens, out, out_stride); \
    }

static void float_gemm(float_tile_fn *(*tile)(int panels, int tokens), const struct cpu_packed *w,
                       int panel, int panels, const void *x, size_t x_bytes, int tokens, float *out,
                       size_t out_stride)
{
    for (int t = 0, tile_tokens; t < tokens; t += tile_tokens) {
        const uint8_t *act = (const uint8_t *)x + (size_t)t * x_bytes;
        tile_tokens = float_tile_tokens(tokens - t);
        for (int p = 0, tile_panels; p < panels; p += tile_panels) {
            const uint8_t *data = w->data + (size_t)(panel + p) * w->panel_bytes;
            float *y = out + (size_t)t * out_stride + PANEL_ROWS * p;
            tile_panels = float_tile_panels(panels - p, tile_tokens);
            tile(tile_panels, tile_tokens)(data, w->panel_bytes, w->cols, act, x_bytes, y,
                                           out_stride);
        }
    }
}

FLOAT_KERNEL(gemm_f32, DTYPE_F32)
FLOAT_KERNEL(gemm_f16, DTYPE_F16)
FLOAT_KERNEL(gemm_bf16, DTYPE_BF16)

#endif
