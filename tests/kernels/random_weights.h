/* random_weights.h - random matrices of every weight type, for tests and benchmarks. */
#ifndef LM_TESTS_RANDOM_WEIGHTS_H
#define LM_TESTS_RANDOM_WEIGHTS_H

#include <math.h>
#include <string.h>

#include "kernels/quant.h"
#include "shared/base/check.h"
#include "shared/base/rng.h"

static inline float random_float(struct rng *r, float scale)
{
    return (float)(rng_unit(r) * 2 - 1) * scale;
}

static inline void put_half(uint8_t *p, float f)
{
    uint16_t h = quant_float_to_half(f);
    memcpy(p, &h, sizeof h);
}

/* Any bytes are valid quants, only the numbers among them must be sane. Where a block of a type has
 * its scale and its minimum (-1: none), and sizes of theirs that make weights up to about 0.3. */
static const struct block_scales {
    int d_at, m_at;
    float d, m;
} block_scales[DTYPE_COUNT] = {
    [DTYPE_F16] = {0, -1, 0.2f, 0},         [DTYPE_Q4_0] = {0, -1, 0.03f, 0},
    [DTYPE_Q4_1] = {0, 2, 0.03f, 0.2f},     [DTYPE_Q5_0] = {0, -1, 0.015f, 0},
    [DTYPE_Q5_1] = {0, 2, 0.015f, 0.2f},    [DTYPE_Q8_0] = {0, -1, 0.002f, 0},
    [DTYPE_Q2_K] = {80, 82, 0.007f, 0.01f}, [DTYPE_Q3_K] = {108, -1, 0.003f, 0},
    [DTYPE_Q4_K] = {0, 2, 0.001f, 0.005f},  [DTYPE_Q5_K] = {0, 2, 0.0005f, 0.005f},
    [DTYPE_Q6_K] = {208, -1, 0.0001f, 0},   [DTYPE_IQ1_S] = {0, -1, 0.02f, 0},
    [DTYPE_IQ2_XXS] = {0, -1, 0.002f, 0},   [DTYPE_IQ2_XS] = {0, -1, 0.002f, 0},
    [DTYPE_IQ2_S] = {0, -1, 0.002f, 0},     [DTYPE_IQ3_XXS] = {0, -1, 0.0006f, 0},
    [DTYPE_IQ3_S] = {0, -1, 0.0006f, 0},    [DTYPE_IQ4_NL] = {0, -1, 0.002f, 0},
    [DTYPE_IQ4_XS] = {0, -1, 0.0001f, 0},   [DTYPE_TQ1_0] = {52, -1, 0.2f, 0},
    [DTYPE_TQ2_0] = {64, -1, 0.2f, 0},      [DTYPE_F32] = {-1, -1, 0.2f, 0},
    [DTYPE_BF16] = {-1, -1, 0.2f, 0},       [DTYPE_IQ1_M] = {-1, -1, 0.02f, 0},
    [DTYPE_MXFP4] = {-1, -1, 0.03f, 0},     [DTYPE_F8_E4M3] = {-1, -1, 0.2f, 0},
};

/* The types whose scale isn't a half in one place. */
static inline void put_odd_scale(enum dtype type, uint8_t *block, float d)
{
    uint16_t half = type == DTYPE_BF16 ? quant_float_to_bf16(d) : quant_float_to_half(d);

    if (type == DTYPE_F32) memcpy(block, &d, sizeof d);
    if (type == DTYPE_BF16) memcpy(block, &half, sizeof half);
    if (type == DTYPE_F8_E4M3 && (*block & 0x7f) == 0x7f) *block ^= 1; // no NaN
    if (type == DTYPE_MXFP4) block[0] = (uint8_t)(128 + (d != 0 ? ilogbf(d) : -128));
    for (int i = 0; type == DTYPE_IQ1_M && i < 4; i++)
        block[49 + 2 * i] = (uint8_t)((block[49 + 2 * i] & 15) | (half >> 4 * i & 15) << 4);
}

static inline void put_scales(enum dtype type, uint8_t *block, float d, float m)
{
    const struct block_scales *s = &block_scales[type];

    CHECK(s->d > 0); // a new type: add its row
    if (s->d_at >= 0)
        put_half(block + s->d_at, d);
    else
        put_odd_scale(type, block, d);
    if (s->m_at >= 0) put_half(block + s->m_at, m);
}

static inline void random_block(struct rng *r, enum dtype type, uint8_t *block)
{
    const struct block_scales *s = &block_scales[type];

    for (int i = 0; i < dtype_block_bytes(type); i++)
        block[i] = (uint8_t)rng_u64(r);
    put_scales(type, block, random_float(r, s->d), random_float(r, s->m));
}

/* A grid at `to`, which has random_grid_bytes of zeros: elements of a byte become weights up to about 0.3. */
#define RANDOM_GRID_ROWS 24
#define RANDOM_GRID_COLS 32

static inline int random_grid_blocks(int size, int block)
{
    return (size + block - 1) / block;
}

static inline size_t random_grid_bytes(int rows, int cols)
{
    return sizeof(struct scale_grid) + sizeof(float) *
                                           (size_t)random_grid_blocks(rows, RANDOM_GRID_ROWS) *
                                           (size_t)random_grid_blocks(cols, RANDOM_GRID_COLS);
}

static inline const struct scale_grid *random_grid(struct rng *r, int rows, int cols, void *to)
{
    int across = random_grid_blocks(cols, RANDOM_GRID_COLS);
    struct scale_grid *grid = (struct scale_grid *)to;
    float *scale = (float *)(grid + 1);

    grid->scale = scale;
    grid->across = across;
    grid->block_rows = RANDOM_GRID_ROWS;
    grid->block_cols = RANDOM_GRID_COLS;
    for (int i = 0; i < across * random_grid_blocks(rows, RANDOM_GRID_ROWS); i++)
        scale[i] = random_float(r, 0.3f / 448);
    return grid;
}

/* A matrix of random weights; free m.data. */
static inline struct matrix random_matrix(struct rng *r, enum dtype type, int rows, int cols)
{
    struct matrix m = {.type = type, .rows = rows, .cols = cols};
    size_t bytes = matrix_bytes(&m), aligned = (bytes + 15) / 16 * 16;
    bool has_grid = type == DTYPE_F8_E4M3;
    uint8_t *data = xmalloc(aligned + (has_grid ? random_grid_bytes(rows, cols) : 0));

    for (size_t at = 0; at < bytes; at += (size_t)dtype_block_bytes(type))
        random_block(r, type, data + at);
    m.data = data;
    if (has_grid) m.grid = random_grid(r, rows, cols, data + aligned);
    return m;
}

#endif
