/* cpu_pack.c - into and out of the layouts of cpu_pack.h. Both directions work on whole words, so a
 * load of the default model repacks at the speed of memory. */
#include "kernels/cpu/cpu_pack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quant.h"
#include "kernels/quant_codes.h"
#include "kernels/quant_k.h"
#include "shared/base/check.h"

/* The rows of a matrix that go into one panel. */
struct pack_source {
    enum dtype type;
    const uint8_t *data;
    size_t row_bytes;
    int rows, cols;
    bool *fits; // turns false where a weight is too large for the packed type
};

typedef void pack_fn(uint8_t *panel, const struct pack_source *s);
/* One lane back as float32. */
typedef void read_fn(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst);

/* Block `block` (of block_bytes) of a row. */
static const uint8_t *source_block(const struct pack_source *s, int row, int block, int block_bytes)
{
    return s->data + (size_t)row * s->row_bytes + (size_t)block * (size_t)block_bytes;
}

static uint32_t load_word(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void store_word(void *p, uint32_t v)
{
    memcpy(p, &v, sizeof v);
}

static uint16_t load_half(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* ---- float formats: [cols][16] ---- */

static void pack_16bit(uint8_t *panel, const struct pack_source *s)
{
    uint16_t *out = (uint16_t *)(void *)panel;
    for (int lane = 0; lane < s->rows; lane++)
        for (int k = 0; k < s->cols; k++)
            out[k * PANEL_ROWS + lane] = load_half(source_block(s, lane, k, 2));
}

/* From another type of floats, rounded to nearest even. */
static void pack_rounded(uint8_t *panel, const struct pack_source *s, uint16_t (*round)(float),
                         uint16_t infinity)
{
    float *row = xmalloc((size_t)s->cols * sizeof *row);
    uint16_t *out = (uint16_t *)(void *)panel;

    for (int lane = 0; lane < s->rows; lane++) {
        quant_dequantize_row(s->type, source_block(s, lane, 0, 0), row, s->cols);
        for (int k = 0; k < s->cols; k++) {
            uint16_t bits = round(row[k]);
            if ((bits & 0x7fff) == infinity && isfinite(row[k])) *s->fits = false;
            out[k * PANEL_ROWS + lane] = bits;
        }
    }
    free(row);
}

static void pack_f16(uint8_t *panel, const struct pack_source *s)
{
    if (s->type == DTYPE_F16)
        pack_16bit(panel, s);
    else
        pack_rounded(panel, s, quant_float_to_half, 0x7c00);
}

static void pack_bf16(uint8_t *panel, const struct pack_source *s)
{
    if (s->type == DTYPE_BF16)
        pack_16bit(panel, s);
    else
        pack_rounded(panel, s, quant_float_to_bf16, 0x7f80);
}

/* From any type. */
static void pack_f32(uint8_t *panel, const struct pack_source *s)
{
    float *row = xmalloc((size_t)s->cols * sizeof *row);
    float *out = (float *)(void *)panel;

    for (int lane = 0; lane < s->rows; lane++) {
        quant_dequantize_row(s->type, source_block(s, lane, 0, 0), row, s->cols);
        for (int k = 0; k < s->cols; k++)
            out[k * PANEL_ROWS + lane] = row[k];
    }
    free(row);
}

static void read_f32(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const float *in = (const float *)(const void *)panel;
    for (int k = 0; k < p->cols; k++)
        dst[k] = in[k * PANEL_ROWS + lane];
}

static void read_f16(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const uint16_t *in = (const uint16_t *)(const void *)panel;
    for (int k = 0; k < p->cols; k++)
        dst[k] = quant_half_to_float(in[k * PANEL_ROWS + lane]);
}

static void read_bf16(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const uint16_t *in = (const uint16_t *)(const void *)panel;
    for (int k = 0; k < p->cols; k++)
        dst[k] = quant_bf16_to_float(in[k * PANEL_ROWS + lane]);
}

/* ---- Q4_0, Q4_1, Q8_0: the file's nibble order is ours already, word by word ---- */

static void pack_q4_0(uint8_t *panel, const struct pack_source *s)
{
    struct pack_q4_0 *out = (void *)panel;
    for (int b = 0; b < s->cols / 32; b++) {
        for (int lane = 0; lane < s->rows; lane++) {
            const uint8_t *in = source_block(s, lane, b, 18);
            out[b].d[lane] = load_half(in);
            for (int g = 0; g < 4; g++)
                store_word(out[b].q[g][lane], load_word(in + 2 + 4 * g));
        }
    }
}

static void pack_q4_1(uint8_t *panel, const struct pack_source *s)
{
    struct pack_q4_1 *out = (void *)panel;
    for (int b = 0; b < s->cols / 32; b++) {
        for (int lane = 0; lane < s->rows; lane++) {
            const uint8_t *in = source_block(s, lane, b, 20);
            out[b].d[lane] = load_half(in);
            out[b].m[lane] = load_half(in + 2);
            for (int g = 0; g < 4; g++)
                store_word(out[b].q[g][lane], load_word(in + 4 + 4 * g));
        }
    }
}

static void pack_q8_0(uint8_t *panel, const struct pack_source *s)
{
    struct pack_q8_0 *out = (void *)panel;
    for (int b = 0; b < s->cols / 32; b++) {
        for (int lane = 0; lane < s->rows; lane++) {
            const uint8_t *in = source_block(s, lane, b, 34);
            out[b].d[lane] = load_half(in);
            for (int w = 0; w < 8; w++)
                store_word(out[b].q[w][lane], load_word(in + 2 + 4 * w) ^ 0x80808080u);
        }
    }
}

/* Element k (0..31) of a block of nibble words. */
static int nibble(const uint8_t q[4][PANEL_ROWS][4], int lane, int k)
{
    int byte = q[k / 4 % 4][lane][k % 4];
    return k < 16 ? byte & 15 : byte >> 4;
}

static void read_q4_0(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const struct pack_q4_0 *in = (const void *)panel;
    for (int b = 0; b < p->cols / 32; b++) {
        float d = quant_half_to_float(in[b].d[lane]);
        for (int k = 0; k < 32; k++)
            dst[32 * b + k] = d * (float)(nibble(in[b].q, lane, k) - 8);
    }
}

static void read_q4_1(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const struct pack_q4_1 *in = (const void *)panel;
    for (int b = 0; b < p->cols / 32; b++) {
        float d = quant_half_to_float(in[b].d[lane]), m = quant_half_to_float(in[b].m[lane]);
        for (int k = 0; k < 32; k++)
            dst[32 * b + k] = d * (float)nibble(in[b].q, lane, k) + m;
    }
}

static void read_q8_0(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const struct pack_q8_0 *in = (const void *)panel;
    for (int b = 0; b < p->cols / 32; b++) {
        float d = quant_half_to_float(in[b].d[lane]);
        for (int k = 0; k < 32; k++)
            dst[32 * b + k] = d * (float)(in[b].q[k / 4][lane][k % 4] - 128);
    }
}

/* ---- Q5_0, Q5_1: as Q4, and a word of fifth bits ---- */

/* Bit k of the file belongs to element k; ours to byte k % 4, bit k / 4. */
static uint32_t scatter_bits(uint32_t bits)
{
    uint32_t out = 0;
    for (int w = 0; w < 8; w++, bits >>= 4)
        for (int i = 0; i < 4; i++)
            out |= (bits >> i & 1) << (8 * i + w);
    return out;
}

static int five_bits(const uint8_t low[4][PANEL_ROWS][4], const uint8_t top[PANEL_ROWS][4],
                     int lane, int k)
{
    return nibble(low, lane, k) | (top[lane][k % 4] >> k / 4 & 1) << 4;
}

static void pack_q5_0(uint8_t *panel, const struct pack_source *s)
{
    struct pack_q5_0 *out = (void *)panel;
    for (int b = 0; b < s->cols / 32; b++) {
        for (int lane = 0; lane < s->rows; lane++) {
            const uint8_t *in = source_block(s, lane, b, 22);
            out[b].d[lane] = load_half(in);
            store_word(out[b].top[lane], scatter_bits(load_word(in + 2)));
            for (int g = 0; g < 4; g++)
                store_word(out[b].low[g][lane], load_word(in + 6 + 4 * g));
        }
    }
}

static void pack_q5_1(uint8_t *panel, const struct pack_source *s)
{
    struct pack_q5_1 *out = (void *)panel;
    for (int b = 0; b < s->cols / 32; b++) {
        for (int lane = 0; lane < s->rows; lane++) {
            const uint8_t *in = source_block(s, lane, b, 24);
            out[b].d[lane] = load_half(in);
            out[b].m[lane] = load_half(in + 2);
            store_word(out[b].top[lane], scatter_bits(load_word(in + 4)));
            for (int g = 0; g < 4; g++)
                store_word(out[b].low[g][lane], load_word(in + 8 + 4 * g));
        }
    }
}

static void read_q5_0(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const struct pack_q5_0 *in = (const void *)panel;
    for (int k = 0; k < p->cols; k++) {
        const struct pack_q5_0 *block = &in[k / 32];
        float d = quant_half_to_float(block->d[lane]);
        dst[k] = d * (float)(five_bits(block->low, block->top, lane, k % 32) - 16);
    }
}

static void read_q5_1(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const struct pack_q5_1 *in = (const void *)panel;
    for (int k = 0; k < p->cols; k++) {
        const struct pack_q5_1 *block = &in[k / 32];
        float d = quant_half_to_float(block->d[lane]), m = quant_half_to_float(block->m[lane]);
        dst[k] = d * (float)five_bits(block->low, block->top, lane, k % 32) + m;
    }
}

/* ---- K-quants ---- */

#define LOW_NIBBLES 0x0f0f0f0fu
#define LOW_PAIRS   0x03030303u
#define LOW_BITS    0x01010101u

/* In the file 32 bytes hold two 32-blocks, one in each nibble; here each block has its own 16
 * bytes. */
static void split_nibbles(uint8_t out[4][PANEL_ROWS][4], int lane, const uint8_t *in, int shift)
{
    for (int g = 0; g < 4; g++) {
        uint32_t first = load_word(in + 4 * g) >> shift & LOW_NIBBLES;
        uint32_t second = load_word(in + 16 + 4 * g) >> shift & LOW_NIBBLES;
        store_word(out[g][lane], first | second << 4);
    }
}

static void pack_q4_k_row(struct pack_q4_k *out, const uint8_t *in, int lane)
{
    uint8_t scale[8], min[8];

    out->d[lane] = load_half(in);
    out->dmin[lane] = load_half(in + 2);
    quant_k_scales(in + 4, scale, min);
    for (int b = 0; b < 8; b++) {
        out->block[b].scale[lane] = scale[b];
        out->block[b].min[lane] = min[b];
        split_nibbles(out->block[b].q, lane, in + 16 + 32 * (b / 2), 4 * (b & 1));
    }
}

static void pack_q4_k(uint8_t *panel, const struct pack_source *s)
{
    struct pack_q4_k *out = (void *)panel;
    for (int b = 0; b < s->cols / 256; b++)
        for (int lane = 0; lane < s->rows; lane++)
            pack_q4_k_row(&out[b], source_block(s, lane, b, 144), lane);
}

static void read_q4_k(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const struct pack_q4_k *in = (const void *)panel;
    for (int b = 0; b < p->cols / 32; b++) {
        const struct pack_q4_k *super = &in[b / 8];
        const struct pack_q4_k_block *block = &super->block[b % 8];
        float d = quant_half_to_float(super->d[lane]) * (float)block->scale[lane];
        float m = quant_half_to_float(super->dmin[lane]) * (float)block->min[lane];
        for (int k = 0; k < 32; k++)
            dst[32 * b + k] = d * (float)nibble(block->q, lane, k) - m;
    }
}

static void pack_q5_k_row(struct pack_q5_k *out, const uint8_t *in, int lane)
{
    uint8_t scale[8], min[8];

    out->d[lane] = load_half(in);
    out->dmin[lane] = load_half(in + 2);
    quant_k_scales(in + 4, scale, min);
    for (int b = 0; b < 8; b++) {
        struct pack_q5_k_block *block = &out->block[b];
        uint32_t top = 0;
        block->scale[lane] = scale[b];
        block->min[lane] = min[b];
        split_nibbles(block->low, lane, in + 48 + 32 * (b / 2), 4 * (b & 1));
        for (int w = 0; w < 8; w++)
            top |= (load_word(in + 16 + 4 * w) >> b & LOW_BITS) << w;
        store_word(block->top[lane], top);
    }
}

static void pack_q5_k(uint8_t *panel, const struct pack_source *s)
{
    struct pack_q5_k *out = (void *)panel;
    for (int b = 0; b < s->cols / 256; b++)
        for (int lane = 0; lane < s->rows; lane++)
            pack_q5_k_row(&out[b], source_block(s, lane, b, 176), lane);
}

static void read_q5_k(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const struct pack_q5_k *in = (const void *)panel;
    for (int k = 0; k < p->cols; k++) {
        const struct pack_q5_k *super = &in[k / 256];
        const struct pack_q5_k_block *block = &super->block[k / 32 % 8];
        float d = quant_half_to_float(super->d[lane]) * (float)block->scale[lane];
        float m = quant_half_to_float(super->dmin[lane]) * (float)block->min[lane];
        dst[k] = d * (float)five_bits(block->low, block->top, lane, k % 32) - m;
    }
}

/* The two-bit fields at `shift` in 16 bytes: one word, in which field g is from word g. */
static uint32_t gather_pairs(const uint8_t *in, int shift)
{
    uint32_t fields = 0;
    for (int g = 0; g < 4; g++)
        fields |= (load_word(in + 4 * g) >> shift & LOW_PAIRS) << 2 * g;
    return fields;
}

/* Block b of the file's super-block: 32 consecutive elements share a nibble half and a 2-bit field.
 */
static void pack_q6_k_row(struct pack_q6_k *out, const uint8_t *in, int lane)
{
    out->d[lane] = load_half(in + 208);
    for (int b = 0; b < 8; b++) {
        const uint8_t *low = in + 64 * (b / 4) + 32 * (b & 1);
        const uint8_t *top = in + 128 + 32 * (b / 4);
        int low_shift = 4 * (b % 4 / 2), top_shift = 2 * (b % 4);
        struct pack_q6_k_block *block = &out->block[b];
        split_nibbles(block->low, lane, low, low_shift);
        for (int h = 0; h < 2; h++) {
            store_word(block->top[h][lane], gather_pairs(top + 16 * h, top_shift));
            block->scale[h][lane] = (int8_t)in[192 + 2 * b + h];
        }
    }
}

static void pack_q6_k(uint8_t *panel, const struct pack_source *s)
{
    struct pack_q6_k *out = (void *)panel;
    for (int b = 0; b < s->cols / 256; b++)
        for (int lane = 0; lane < s->rows; lane++)
            pack_q6_k_row(&out[b], source_block(s, lane, b, 210), lane);
}

static void read_q6_k(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const struct pack_q6_k *in = (const void *)panel;
    for (int k = 0; k < p->cols; k++) {
        const struct pack_q6_k *super = &in[k / 256];
        const struct pack_q6_k_block *block = &super->block[k / 32 % 8];
        int h = k / 16 % 2, g = k / 4 % 4;
        int low = nibble(block->low, lane, k % 32);
        int top = block->top[h][lane][k % 4] >> 2 * g & 3;
        float d = quant_half_to_float(super->d[lane]) * (float)block->scale[h][lane];
        dst[k] = d * (float)((low | top << 4) - 32);
    }
}

static void pack_q2_k_row(struct pack_q2_k *out, const uint8_t *in, int lane)
{
    out->d[lane] = load_half(in + 80);
    out->dmin[lane] = load_half(in + 82);
    for (int b = 0; b < 8; b++) {
        const uint8_t *q = in + 16 + 32 * (b / 4);
        for (int h = 0; h < 2; h++) {
            store_word(out->block[b].q[h][lane], gather_pairs(q + 16 * h, 2 * (b % 4)));
            out->block[b].scale[h][lane] = in[2 * b + h];
        }
    }
}

static void pack_q2_k(uint8_t *panel, const struct pack_source *s)
{
    struct pack_q2_k *out = (void *)panel;
    for (int b = 0; b < s->cols / 256; b++)
        for (int lane = 0; lane < s->rows; lane++)
            pack_q2_k_row(&out[b], source_block(s, lane, b, 84), lane);
}

static void read_q2_k(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const struct pack_q2_k *in = (const void *)panel;
    for (int k = 0; k < p->cols; k++) {
        const struct pack_q2_k *super = &in[k / 256];
        const struct pack_q2_k_block *block = &super->block[k / 32 % 8];
        int h = k / 16 % 2, scale = block->scale[h][lane];
        float d = quant_half_to_float(super->d[lane]) * (float)(scale & 15);
        float m = quant_half_to_float(super->dmin[lane]) * (float)(scale >> 4);
        dst[k] = d * (float)(block->q[h][lane][k % 4] >> 2 * (k / 4 % 4) & 3) - m;
    }
}

/* ---- sixteen integers times a scale ---- */

/* 32 indexes to nibble words. */
static void put_nibbles(uint8_t q[4][PANEL_ROWS][4], int lane, const uint8_t index[32])
{
    for (int g = 0; g < 4; g++)
        store_word(q[g][lane], load_word(index + 4 * g) | load_word(index + 16 + 4 * g) << 4);
}

static void pack_codes(uint8_t *panel, const struct pack_source *s)
{
    struct pack_codes *out = (void *)panel;
    int elements = dtype_block_elements(s->type), bytes = dtype_block_bytes(s->type);
    struct quant_codes_block block;

    for (int k = 0; k < s->cols; k += elements) {
        for (int lane = 0; lane < s->rows; lane++) {
            quant_codes_decode(s->type, source_block(s, lane, k / elements, bytes), &block);
            for (int b = 0; b < elements / 32; b++) {
                struct pack_codes *to = &out[k / 32 + b];
                to->d[lane] = block.d * (float)block.scale[2 * b];
                put_nibbles(to->q, lane, block.index + 32 * b);
            }
        }
    }
}

static void pack_codes_fine(uint8_t *panel, const struct pack_source *s)
{
    struct pack_codes_fine *out = (void *)panel;
    struct quant_codes_block block;

    for (int i = 0; i < s->cols / 256; i++) {
        for (int lane = 0; lane < s->rows; lane++) {
            const uint8_t *in = source_block(s, lane, i, dtype_block_bytes(s->type));
            quant_codes_decode(s->type, in, &block);
            out[i].d[lane] = block.d;
            for (int b = 0; b < 8; b++) {
                out[i].block[b].scale[0][lane] = block.scale[2 * b];
                out[i].block[b].scale[1][lane] = block.scale[2 * b + 1];
                put_nibbles(out[i].block[b].q, lane, block.index + 32 * b);
            }
        }
    }
}

static void read_codes(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const struct pack_codes *in = (const void *)panel;
    for (int k = 0; k < p->cols; k++)
        dst[k] = in[k / 32].d[lane] * (float)p->codes[nibble(in[k / 32].q, lane, k % 32)];
}

static void read_codes_fine(const struct cpu_packed *p, const uint8_t *panel, int lane, float *dst)
{
    const struct pack_codes_fine *in = (const void *)panel;
    for (int k = 0; k < p->cols; k++) {
        const struct pack_codes_fine *super = &in[k / 256];
        const struct pack_codes_fine_block *block = &super->block[k / 32 % 8];
        float d = super->d[lane] * (float)block->scale[k / 16 % 2][lane];
        dst[k] = d * (float)p->codes[nibble(block->q, lane, k % 32)];
    }
}

static const struct form_row {
    int block_elements; // K per packed block
    size_t block_bytes;
    pack_fn *pack;
    read_fn *read;
} forms[PACK_FORMS] = {
    [PACK_F32] = {1, 4 * PANEL_ROWS, pack_f32, read_f32},
    [PACK_F16] = {1, 2 * PANEL_ROWS, pack_f16, read_f16},
    [PACK_BF16] = {1, 2 * PANEL_ROWS, pack_bf16, read_bf16},
    [PACK_Q4_0] = {32, sizeof(struct pack_q4_0), pack_q4_0, read_q4_0},
    [PACK_Q4_1] = {32, sizeof(struct pack_q4_1), pack_q4_1, read_q4_1},
    [PACK_Q4_K] = {256, sizeof(struct pack_q4_k), pack_q4_k, read_q4_k},
    [PACK_Q5_0] = {32, sizeof(struct pack_q5_0), pack_q5_0, read_q5_0},
    [PACK_Q5_1] = {32, sizeof(struct pack_q5_1), pack_q5_1, read_q5_1},
    [PACK_Q5_K] = {256, sizeof(struct pack_q5_k), pack_q5_k, read_q5_k},
    [PACK_Q8_0] = {32, sizeof(struct pack_q8_0), pack_q8_0, read_q8_0},
    [PACK_Q2_K] = {256, sizeof(struct pack_q2_k), pack_q2_k, read_q2_k},
    [PACK_Q6_K] = {256, sizeof(struct pack_q6_k), pack_q6_k, read_q6_k},
    [PACK_CODES] = {32, sizeof(struct pack_codes), pack_codes, read_codes},
    [PACK_CODES_FINE] = {256, sizeof(struct pack_codes_fine), pack_codes_fine, read_codes_fine},
};

static enum pack_form form_of(enum dtype type)
{
    switch (type) {
    case DTYPE_F32:
        return PACK_F32;
    case DTYPE_F16:
        return PACK_F16;
    case DTYPE_BF16:
        return PACK_BF16;
    case DTYPE_Q4_0:
        return PACK_Q4_0;
    case DTYPE_Q4_1:
        return PACK_Q4_1;
    case DTYPE_Q5_0:
        return PACK_Q5_0;
    case DTYPE_Q5_1:
        return PACK_Q5_1;
    case DTYPE_Q8_0:
        return PACK_Q8_0;
    case DTYPE_Q2_K:
        return PACK_Q2_K;
    case DTYPE_Q4_K:
        return PACK_Q4_K;
    case DTYPE_Q5_K:
        return PACK_Q5_K;
    case DTYPE_Q6_K:
        return PACK_Q6_K;
    default:
        return quant_codes_fine_scales(type) ? PACK_CODES_FINE : PACK_CODES;
    }
}

static size_t panel_bytes(enum pack_form form, int64_t cols)
{
    const struct form_row *f = &forms[form];
    CHECK(cols % f->block_elements == 0);
    return ((size_t)(cols / f->block_elements) * f->block_bytes + 63) & ~(size_t)63;
}

size_t cpu_pack_bytes(enum dtype type, int64_t rows, int64_t cols)
{
    return (size_t)((rows + PANEL_ROWS - 1) / PANEL_ROWS) * panel_bytes(form_of(type), cols);
}

void cpu_pack_init(struct cpu_packed *p, const struct matrix *m, enum dtype type, uint8_t *data)
{
    CHECK(type == m->type || type == DTYPE_F32 ||
          (dtype_block_elements(type) == 1 && dtype_block_elements(m->type) == 1));
    *p = (struct cpu_packed){
        .form = form_of(type),
        .codes = quant_codes_of(type),
        .rows = (int)m->rows,
        .cols = (int)m->cols,
        .panels = (int)((m->rows + PANEL_ROWS - 1) / PANEL_ROWS),
        .panel_bytes = panel_bytes(form_of(type), m->cols),
        .data = data,
    };
}

bool cpu_pack_panels(const struct cpu_packed *p, const struct matrix *m, int first, int last)
{
    bool fits = true;
    struct pack_source source = {
        .type = m->type, .row_bytes = matrix_stride(m), .cols = p->cols, .fits = &fits};

    for (int i = first; i < last; i++) {
        uint8_t *panel = p->data + (size_t)i * p->panel_bytes;
        source.data = (const uint8_t *)m->data + (size_t)i * PANEL_ROWS * source.row_bytes;
        source.rows = p->rows - i * PANEL_ROWS;
        if (source.rows > PANEL_ROWS) source.rows = PANEL_ROWS;
        if (source.rows < PANEL_ROWS) memset(panel, 0, p->panel_bytes); // scales of 0: rows of 0
        forms[p->form].pack(panel, &source);
    }
    return fits;
}

void cpu_pack_read_row(const struct cpu_packed *p, int row, float *dst)
{
    CHECK(row >= 0 && row < p->rows);
    const uint8_t *panel = p->data + (size_t)(row / PANEL_ROWS) * p->panel_bytes;
    forms[p->form].read(p, panel, row % PANEL_ROWS, dst);
}
