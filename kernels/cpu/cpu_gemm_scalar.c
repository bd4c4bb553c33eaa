/* cpu_gemm_scalar.c - the definition of the integer GEMMs (README rules G1-G5), one lane at a time.
 */
#include "kernels/cpu/cpu_gemm_kernels.h"

#include <math.h>

#include "kernels/quant.h"

/* sum of q[k] * x[k] over the 32 k of a block, q unsigned nibbles */
static int32_t dot_nibbles(const uint8_t q[4][PANEL_ROWS][4], int lane, const struct act_int8 *x)
{
    int32_t sum = 0;
    for (int g = 0; g < 4; g++) {
        for (int i = 0; i < 4; i++) {
            sum += (q[g][lane][i] & 15) * x->q[4 * g + i];
            sum += (q[g][lane][i] >> 4) * x->q[16 + 4 * g + i];
        }
    }
    return sum;
}

static float lane_q4_0(const void *panel, int lane, const struct act_int8 *x,
                       const struct cpu_packed *p)
{
    const struct pack_q4_0 *w = panel;
    float acc = 0;
    for (int b = 0; b < p->cols / 32; b++) {
        int32_t dot = dot_nibbles(w[b].q, lane, &x[b]) + x[b].offset8;
        float d = quant_half_to_float(w[b].d[lane]);
        acc = fmaf(d * x[b].scale, (float)dot, acc);
    }
    return acc;
}

static float lane_q4_1(const void *panel, int lane, const struct act_int8 *x,
                       const struct cpu_packed *p)
{
    const struct pack_q4_1 *w = panel;
    float acc = 0;
    for (int b = 0; b < p->cols / 32; b++) {
        int32_t dot = dot_nibbles(w[b].q, lane, &x[b]);
        float d = quant_half_to_float(w[b].d[lane]), m = quant_half_to_float(w[b].m[lane]);
        acc = fmaf(d * x[b].scale, (float)dot, acc);
        acc = fmaf(m, x[b].scaled_sum, acc);
    }
    return acc;
}

static float lane_q4_k(const void *panel, int lane, const struct act_int8 *x,
                       const struct cpu_packed *p)
{
    const struct pack_q4_k *w = panel;
    float acc = 0;
    for (int b = 0; b < p->cols / 32; b++) {
        const struct pack_q4_k *super = &w[b / 8];
        const struct pack_q4_k_block *block = &super->block[b % 8];
        int32_t dot = dot_nibbles(block->q, lane, &x[b]);
        float d = quant_half_to_float(super->d[lane]) * (float)block->scale[lane];
        float m = quant_half_to_float(super->dmin[lane]) * (float)block->min[lane];
        acc = fmaf(d * x[b].scale, (float)dot, acc);
        acc = fmaf(-m, x[b].scaled_sum, acc);
    }
    return acc;
}

static float lane_q8_0(const void *panel, int lane, const struct act_int16 *x,
                       const struct cpu_packed *p)
{
    const struct pack_q8_0 *w = panel;
    float acc = 0;
    for (int b = 0; b < p->cols / 32; b++) {
        int32_t dot = 0;
        for (int k = 0; k < 32; k++)
            dot += (w[b].q[k / 4][lane][k % 4] - 128) * x[b].q[k / 4][k & 1][k % 4 / 2];
        acc = fmaf(quant_half_to_float(w[b].d[lane]) * x[b].scale, (float)dot, acc);
    }
    return acc;
}

static float lane_q6_k(const void *panel, int lane, const struct act_int8 *x,
                       const struct cpu_packed *p)
{
    const struct pack_q6_k *w = panel;
    float acc = 0;
    for (int b = 0; b < p->cols / 32; b++) {
        const struct pack_q6_k *super = &w[b / 8];
        const struct pack_q6_k_block *block = &super->block[b % 8];
        for (int h = 0; h < 2; h++) {
            int32_t dot = x[b].offset32[h];
            for (int i = 0; i < 16; i++) {
                int low = block->low[i / 4][lane][i % 4] >> 4 * h & 15;
                int top = block->top[h][lane][i % 4] >> 2 * (i / 4) & 3;
                dot += (low | top << 4) * x[b].q[16 * h + i];
            }
            float d = quant_half_to_float(super->d[lane]) * (float)block->scale[h][lane];
            acc = fmaf(d * x[b].scale, (float)dot, acc);
        }
    }
    return acc;
}

/* sum of q[k] * x[k] over the 32 k of a block, q of five bits */
static int32_t dot_fives(const uint8_t low[4][PANEL_ROWS][4], const uint8_t top[PANEL_ROWS][4],
                         int lane, const struct act_int8 *x)
{
    int32_t sum = dot_nibbles(low, lane, x);
    for (int k = 0; k < 32; k++)
        sum += (top[lane][k % 4] >> k / 4 & 1) * 16 * x->q[k];
    return sum;
}

static float lane_q5_0(const void *panel, int lane, const struct act_int8 *x,
                       const struct cpu_packed *p)
{
    const struct pack_q5_0 *w = panel;
    float acc = 0;
    for (int b = 0; b < p->cols / 32; b++) {
        int32_t dot = dot_fives(w[b].low, w[b].top, lane, &x[b]) + 2 * x[b].offset8;
        float d = quant_half_to_float(w[b].d[lane]);
        acc = fmaf(d * x[b].scale, (float)dot, acc);
    }
    return acc;
}

static float lane_q5_1(const void *panel, int lane, const struct act_int8 *x,
                       const struct cpu_packed *p)
{
    const struct pack_q5_1 *w = panel;
    float acc = 0;
    for (int b = 0; b < p->cols / 32; b++) {
        int32_t dot = dot_fives(w[b].low, w[b].top, lane, &x[b]);
        float d = quant_half_to_float(w[b].d[lane]), m = quant_half_to_float(w[b].m[lane]);
        acc = fmaf(d * x[b].scale, (float)dot, acc);
        acc = fmaf(m, x[b].scaled_sum, acc);
    }
    return acc;
}

static float lane_q5_k(const void *panel, int lane, const struct act_int8 *x,
                       const struct cpu_packed *p)
{
    const struct pack_q5_k *w = panel;
    float acc = 0;
    for (int b = 0; b < p->cols / 32; b++) {
        const struct pack_q5_k *super = &w[b / 8];
        const struct pack_q5_k_block *block = &super->block[b % 8];
        int32_t dot = dot_fives(block->low, block->top, lane, &x[b]);
        float d = quant_half_to_float(super->d[lane]) * (float)block->scale[lane];
        float m = quant_half_to_float(super->dmin[lane]) * (float)block->min[lane];
        acc = fmaf(d * x[b].scale, (float)dot, acc);
        acc = fmaf(-m, x[b].scaled_sum, acc);
    }
    return acc;
}

static float lane_q2_k(const void *panel, int lane, const struct act_int8 *x,
                       const struct cpu_packed *p)
{
    const struct pack_q2_k *w = panel;
    float acc = 0;
    for (int b = 0; b < p->cols / 32; b++) {
        const struct pack_q2_k *super = &w[b / 8];
        const struct pack_q2_k_block *block = &super->block[b % 8];
        for (int h = 0; h < 2; h++) {
            int32_t dot = 0;
            for (int i = 0; i < 16; i++)
                dot += (block->q[h][lane][i % 4] >> 2 * (i / 4) & 3) * x[b].q[16 * h + i];
            float d = quant_half_to_float(super->d[lane]) * (float)(block->scale[h][lane] & 15);
            float m = quant_half_to_float(super->dmin[lane]) * (float)(block->scale[h][lane] >> 4);
            acc = fmaf(d * x[b].scale, (float)dot, acc);
            acc = fmaf(-m, act_scaled_sum16(&x[b], h), acc);
        }
    }
    return acc;
}

/* sum of codes[q[k]] * x[k] over 16-group h */
static int32_t dot_codes(const uint8_t q[4][PANEL_ROWS][4], int lane, int h,
                         const struct act_int8 *x, const int8_t *codes)
{
    int32_t sum = 0;
    for (int i = 0; i < 16; i++)
        sum += codes[q[i / 4][lane][i % 4] >> 4 * h & 15] * x->q[16 * h + i];
    return sum;
}

static float lane_codes(const void *panel, int lane, const struct act_int8 *x,
                        const struct cpu_packed *p)
{
    const struct pack_codes *w = panel;
    float acc = 0;
    for (int b = 0; b < p->cols / 32; b++) {
        int32_t dot = dot_codes(w[b].q, lane, 0, &x[b], p->codes) +
                      dot_codes(w[b].q, lane, 1, &x[b], p->codes);
        acc = fmaf(w[b].d[lane] * x[b].scale, (float)dot, acc);
    }
    return acc;
}

static float lane_codes_fine(const void *panel, int lane, const struct act_int8 *x,
                             const struct cpu_packed *p)
{
    const struct pack_codes_fine *w = panel;
    float acc = 0;
    for (int b = 0; b < p->cols / 32; b++) {
        const struct pack_codes_fine *super = &w[b / 8];
        const struct pack_codes_fine_block *block = &super->block[b % 8];
        for (int h = 0; h < 2; h++) {
            float d = super->d[lane] * (float)block->scale[h][lane];
            int32_t dot = dot_codes(block->q, lane, h, &x[b], p->codes);
            acc = fmaf(d * x[b].scale, (float)dot, acc);
        }
    }
    return acc;
}

#define SCALAR_KERNEL(name, lane_function)                                                      \
    void name(const struct cpu_packed *w, int panel, int panels, const void *x, size_t x_bytes, \
              int tokens, float *out, size_t out_stride)                                        \
    {                                                                                           \
        for (int p = 0; p < panels; p++) {                                                      \
            const uint8_t *data = w->data + (size_t)(panel + p) * w->panel_bytes;               \
            for (int t = 0; t < tokens; t++) {                                                  \
                const void *act = (const uint8_t *)x + (size_t)t * x_bytes;                     \
                float *y = out + (size_t)t * out_stride + PANEL_ROWS * p;                       \
                for (int lane = 0; lane < PANEL_ROWS; lane++)                                   \
                    y[lane] = lane_function(data, lane, act, w);                                \
            }                                                                                   \
        }                                                                                       \
    }

SCALAR_KERNEL(gemm_q4_0_scalar, lane_q4_0)
SCALAR_KERNEL(gemm_q4_1_scalar, lane_q4_1)
SCALAR_KERNEL(gemm_q8_0_scalar, lane_q8_0)
SCALAR_KERNEL(gemm_q4_k_scalar, lane_q4_k)
SCALAR_KERNEL(gemm_q6_k_scalar, lane_q6_k)
SCALAR_KERNEL(gemm_q5_0_scalar, lane_q5_0)
SCALAR_KERNEL(gemm_q5_1_scalar, lane_q5_1)
SCALAR_KERNEL(gemm_q5_k_scalar, lane_q5_k)
SCALAR_KERNEL(gemm_q2_k_scalar, lane_q2_k)
SCALAR_KERNEL(gemm_codes_scalar, lane_codes)
SCALAR_KERNEL(gemm_codes_fine_scalar, lane_codes_fine)
