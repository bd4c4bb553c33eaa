/* cpu_pack.c - into and out of the layouts of cpu_pack.h. Both directions work on whole words, so a
 * load of the default model repacks at the speed of memory. */
#include "kernels/cpu/cpu_pack.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/quant.h"
#include "kernels/quant_k.h"
#include "shared/base/check.h"

/* How one format is laid out. pack() fills one panel from `count` rows that start at src and are
 * row_bytes apart; read() gives one lane back as float32. */
struct pack_format {
    int block_elements; // K per packed block
    size_t block_bytes;
    void (*pack)(uint8_t *panel, const uint8_t *src, size_t row_bytes, int count, int cols);
    void (*read)(const uint8_t *panel, int lane, float *dst, int cols);
};

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

static void pack_16bit(uint8_t *panel, const uint8_t *src, size_t row_bytes, int count, int cols)
{
    uint16_t *out = (uint16_t *)(void *)panel;
    for (int lane = 0; lane < count; lane++, src += row_bytes)
        for (int k = 0; k < cols; k++)
            out[k * PANEL_ROWS + lane] = load_half(src + 2 * k);
}

static void pack_f32(uint8_t *panel, const uint8_t *src, size_t row_bytes, int count, int cols)
{
    for (int lane = 0; lane < count; lane++, src += row_bytes)
        for (int k = 0; k < cols; k++)
            store_word(panel + 4 * (k * PANEL_ROWS + lane), load_word(src + 4 * k));
}

static void read_f32(const uint8_t *panel, int lane, float *dst, int cols)
{
    const float *in = (const float *)(const void *)panel;
    for (int k = 0; k < cols; k++)
        dst[k] = in[k * PANEL_ROWS + lane];
}

static void read_f16(const uint8_t *panel, int lane, float *dst, int cols)
{
    const uint16_t *in = (const uint16_t *)(const void *)panel;
    for (int k = 0; k < cols; k++)
        dst[k] = quant_half_to_float(in[k * PANEL_ROWS + lane]);
}

static void read_bf16(const uint8_t *panel, int lane, float *dst, int cols)
{
    const uint16_t *in = (const uint16_t *)(const void *)panel;
    for (int k = 0; k < cols; k++)
        dst[k] = quant_bf16_to_float(in[k * PANEL_ROWS + lane]);
}

/* ---- Q4_0, Q4_1, Q8_0: the file's nibble order is ours already, word by word ---- */

static void pack_q4_0(uint8_t *panel, const uint8_t *src, size_t row_bytes, int count, int cols)
{
    struct pack_q4_0 *out = (void *)panel;
    for (int b = 0; b < cols / 32; b++) {
        for (int lane = 0; lane < count; lane++) {
            const uint8_t *in = src + (size_t)lane * row_bytes + (size_t)b * 18;
            out[b].d[lane] = load_half(in);
            for (int g = 0; g < 4; g++)
                store_word(out[b].q[g][lane], load_word(in + 2 + 4 * g));
        }
    }
}

static void pack_q4_1(uint8_t *panel, const uint8_t *src, size_t row_bytes, int count, int cols)
{
    struct pack_q4_1 *out = (void *)panel;
    for (int b = 0; b < cols / 32; b++) {
        for (int lane = 0; lane < count; lane++) {
            const uint8_t *in = src + (size_t)lane * row_bytes + (size_t)b * 20;
            out[b].d[lane] = load_half(in);
            out[b].m[lane] = load_half(in + 2);
            for (int g = 0; g < 4; g++)
                store_word(out[b].q[g][lane], load_word(in + 4 + 4 * g));
        }
    }
}

static void pack_q8_0(uint8_t *panel, const uint8_t *src, size_t row_bytes, int count, int cols)
{
    struct pack_q8_0 *out = (void *)panel;
    for (int b = 0; b < cols / 32; b++) {
        for (int lane = 0; lane < count; lane++) {
            const uint8_t *in = src + (size_t)lane * row_bytes + (size_t)b * 34;
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

static void read_q4_0(const uint8_t *panel, int lane, float *dst, int cols)
{
    const struct pack_q4_0 *in = (const void *)panel;
    for (int b = 0; b < cols / 32; b++) {
        float d = quant_half_to_float(in[b].d[lane]);
        for (int k = 0; k < 32; k++)
            dst[32 * b + k] = d * (float)(nibble(in[b].q, lane, k) - 8);
    }
}

static void read_q4_1(const uint8_t *panel, int lane, float *dst, int cols)
{
    const struct pack_q4_1 *in = (const void *)panel;
    for (int b = 0; b < cols / 32; b++) {
        float d = quant_half_to_float(in[b].d[lane]), m = quant_half_to_float(in[b].m[lane]);
        for (int k = 0; k < 32; k++)
            dst[32 * b + k] = d * (float)nibble(in[b].q, lane, k) + m;
    }
}

static void read_q8_0(const uint8_t *panel, int lane, float *dst, int cols)
{
    const struct pack_q8_0 *in = (const void *)panel;
    for (int b = 0; b < cols / 32; b++) {
        float d = quant_half_to_float(in[b].d[lane]);
        for (int k = 0; k < 32; k++)
            dst[32 * b + k] = d * (float)(in[b].q[k / 4][lane][k % 4] - 128);
    }
}

/* ---- K-quants ---- */

#define LOW_NIBBLES 0x0f0f0f0fu
#define LOW_PAIRS   0x03030303u

/* In the file 32 bytes hold two 32-blocks, one in each nibble; here each block has its own 16
 * bytes. */
static void pack_q4_k_row(struct pack_q4_k *out, const uint8_t *in, int lane)
{
    uint8_t scale[8], min[8];

    out->d[lane] = load_half(in);
    out->dmin[lane] = load_half(in + 2);
    quant_k_scales(in + 4, scale, min);
    for (int b = 0; b < 8; b++) {
        const uint8_t *q = in + 16 + 32 * (b / 2);
        int shift = 4 * (b & 1);
        out->block[b].scale[lane] = scale[b];
        out->block[b].min[lane] = min[b];
        for (int g = 0; g < 4; g++) {
            uint32_t low = load_word(q + 4 * g) >> shift & LOW_NIBBLES;
            uint32_t high = load_word(q + 16 + 4 * g) >> shift & LOW_NIBBLES;
            store_word(out->block[b].q[g][lane], low | high << 4);
        }
    }
}

static void pack_q4_k(uint8_t *panel, const uint8_t *src, size_t row_bytes, int count, int cols)
{
    struct pack_q4_k *out = (void *)panel;
    for (int s = 0; s < cols / 256; s++)
        for (int lane = 0; lane < count; lane++)
            pack_q4_k_row(&out[s], src + (size_t)lane * row_bytes + (size_t)s * 144, lane);
}

static void read_q4_k(const uint8_t *panel, int lane, float *dst, int cols)
{
    const struct pack_q4_k *in = (const void *)panel;
    for (int b = 0; b < cols / 32; b++) {
        const struct pack_q4_k *super = &in[b / 8];
        const struct pack_q4_k_block *block = &super->block[b % 8];
        float d = quant_half_to_float(super->d[lane]) * (float)block->scale[lane];
        float m = quant_half_to_float(super->dmin[lane]) * (float)block->min[lane];
        for (int k = 0; k < 32; k++)
            dst[32 * b + k] = d * (float)nibble(block->q, lane, k) - m;
    }
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
        for (int g = 0; g < 4; g++) {
            uint32_t first = load_word(low + 4 * g) >> low_shift & LOW_NIBBLES;
            uint32_t second = load_word(low + 16 + 4 * g) >> low_shift & LOW_NIBBLES;
            store_word(block->low[g][lane], first | second << 4);
        }
        for (int h = 0; h < 2; h++) {
            uint32_t fields = 0;
            for (int g = 0; g < 4; g++)
                fields |= (load_word(top + 16 * h + 4 * g) >> top_shift & LOW_PAIRS) << 2 * g;
            store_word(block->top[h][lane], fields);
            block->scale[h][lane] = (int8_t)in[192 + 2 * b + h];
        }
    }
}

static void pack_q6_k(uint8_t *panel, const uint8_t *src, size_t row_bytes, int count, int cols)
{
    struct pack_q6_k *out = (void *)panel;
    for (int s = 0; s < cols / 256; s++)
        for (int lane = 0; lane < count; lane++)
            pack_q6_k_row(&out[s], src + (size_t)lane * row_bytes + (size_t)s * 210, lane);
}

static void read_q6_k(const uint8_t *panel, int lane, float *dst, int cols)
{
    const struct pack_q6_k *in = (const void *)panel;
    for (int k = 0; k < cols; k++) {
        const struct pack_q6_k *super = &in[k / 256];
        const struct pack_q6_k_block *block = &super->block[k / 32 % 8];
        int h = k / 16 % 2, g = k / 4 % 4;
        int low = nibble(block->low, lane, k % 32);
        int top = block->top[h][lane][k % 4] >> 2 * g & 3;
        float d = quant_half_to_float(super->d[lane]) * (float)block->scale[h][lane];
        dst[k] = d * (float)((low | top << 4) - 32);
    }
}

static const struct pack_format formats[DTYPE_COUNT] = {
    [DTYPE_F32] = {1, 4 * PANEL_ROWS, pack_f32, read_f32},
    [DTYPE_F16] = {1, 2 * PANEL_ROWS, pack_16bit, read_f16},
    [DTYPE_BF16] = {1, 2 * PANEL_ROWS, pack_16bit, read_bf16},
    [DTYPE_Q8_0] = {32, sizeof(struct pack_q8_0), pack_q8_0, read_q8_0},
    [DTYPE_Q4_0] = {32, sizeof(struct pack_q4_0), pack_q4_0, read_q4_0},
    [DTYPE_Q4_1] = {32, sizeof(struct pack_q4_1), pack_q4_1, read_q4_1},
    [DTYPE_Q4_K] = {256, sizeof(struct pack_q4_k), pack_q4_k, read_q4_k},
    [DTYPE_Q6_K] = {256, sizeof(struct pack_q6_k), pack_q6_k, read_q6_k},
};

static size_t panel_bytes(enum dtype type, int64_t cols)
{
    const struct pack_format *f = &formats[type];
    CHECK(cols % f->block_elements == 0);
    return ((size_t)(cols / f->block_elements) * f->block_bytes + 63) & ~(size_t)63;
}

size_t cpu_pack_bytes(enum dtype type, int64_t rows, int64_t cols)
{
    return (size_t)((rows + PANEL_ROWS - 1) / PANEL_ROWS) * panel_bytes(type, cols);
}

void cpu_pack_init(struct cpu_packed *p, const struct matrix *m, enum dtype type, uint8_t *data)
{
    CHECK(type == m->type || type == DTYPE_F32);
    *p = (struct cpu_packed){
        .type = type,
        .rows = (int)m->rows,
        .cols = (int)m->cols,
        .panels = (int)((m->rows + PANEL_ROWS - 1) / PANEL_ROWS),
        .panel_bytes = panel_bytes(type, m->cols),
        .data = data,
    };
}

/* COMPUTE_F32: dequantised row by row on the way in. */
static void pack_dequantized(uint8_t *panel, const struct matrix *m, const uint8_t *src, int count)
{
    size_t row_bytes = matrix_row_bytes(m->type, m->cols);
    float *row = xmalloc((size_t)m->cols * sizeof *row);
    float *out = (float *)(void *)panel;

    for (int lane = 0; lane < count; lane++) {
        quant_dequantize_row(m->type, src + (size_t)lane * row_bytes, row, m->cols);
        for (int64_t k = 0; k < m->cols; k++)
            out[k * PANEL_ROWS + lane] = row[k];
    }
    free(row);
}

void cpu_pack_panels(const struct cpu_packed *p, const struct matrix *m, int first, int last)
{
    size_t row_bytes = matrix_row_bytes(m->type, m->cols);

    for (int i = first; i < last; i++) {
        const uint8_t *src = (const uint8_t *)m->data + (size_t)i * PANEL_ROWS * row_bytes;
        uint8_t *panel = p->data + (size_t)i * p->panel_bytes;
        int count = p->rows - i * PANEL_ROWS;
        if (count > PANEL_ROWS) count = PANEL_ROWS;
        if (count < PANEL_ROWS) memset(panel, 0, p->panel_bytes); // scales of 0: rows of 0
        if (p->type != m->type)
            pack_dequantized(panel, m, src, count);
        else
            formats[p->type].pack(panel, src, row_bytes, count, p->cols);
    }
}

void cpu_pack_read_row(const struct cpu_packed *p, int row, float *dst)
{
    CHECK(row >= 0 && row < p->rows);
    const uint8_t *panel = p->data + (size_t)(row / PANEL_ROWS) * p->panel_bytes;
    formats[p->type].read(panel, row % PANEL_ROWS, dst, p->cols);
}
