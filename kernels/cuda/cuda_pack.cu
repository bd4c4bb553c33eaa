#include "kernels/cuda/cuda_pack.h"

#include <math.h>
#include <string.h>

#include "kernels/quant.h"
#include "kernels/quant_bytes.h"
#include "kernels/quant_k.h"
#include "shared/base/check.h"

#define F8_SHIFT_MIN 4 // what a lane of cuda_gemv reads at a time

/* Of CUDA_F8: blocks of a power of two that fill the columns and lie in one of the grid's each. */
static int scale_shift_of(const struct matrix *m)
{
    int64_t bits = m->grid->block_cols | m->grid_col | m->cols;
    int shift = 0;

    while (!(bits >> shift & 1))
        shift++;
    return shift;
}

static enum cuda_form form_of(const struct matrix *m, bool float32)
{
    if (float32) return CUDA_F32;
    if (m->type == DTYPE_Q4_0 || m->type == DTYPE_Q4_1 || m->type == DTYPE_Q4_K) return CUDA_Q4;
    if (m->type == DTYPE_F8_E4M3 && scale_shift_of(m) >= F8_SHIFT_MIN) return CUDA_F8;
    return m->type == DTYPE_Q8_0 ? CUDA_Q8 : CUDA_BF16;
}

struct cuda_weight cuda_pack_shape(const struct matrix *m, int count, bool float32)
{
    struct cuda_weight w = {};

    w.form = form_of(m, float32);
    if (w.form == CUDA_F8) w.scale_shift = scale_shift_of(m);
    for (int i = 1; i < count; i++)
        if (form_of(&m[i], float32) != w.form ||
            (w.form == CUDA_F8 && scale_shift_of(&m[i]) != w.scale_shift))
            w.form = CUDA_BF16;
    w.rows = (int)m->rows;
    w.cols = (int)m->cols;
    w.stride = cuda_form_stride(w.form, w.cols);
    return w;
}

/* ---- CUDA_Q4 ---- */

struct q4_block {
    uint8_t q[CUDA_BLOCK];
    uint16_t d, m; // halves
};

static void pack_q4_block(const struct q4_block *block, uint32_t words[4], uint32_t *scale)
{
    for (int w = 0; w < 4; w++) {
        words[w] = 0;
        for (int i = 0; i < 8; i++)
            words[w] |= (uint32_t)block->q[8 * w + i] << (4 * (i / 2) + 16 * (i % 2));
    }
    *scale = (uint32_t)block->d | (uint32_t)block->m << 16;
}

/* Q4_0: w = d (q - 8); Q4_1: w = d q + m. */
static void read_plain_block(enum dtype type, const uint8_t *src, struct q4_block *out)
{
    const uint8_t *nibbles = src + (type == DTYPE_Q4_1 ? 4 : 2);

    for (int i = 0; i < CUDA_BLOCK; i++)
        out->q[i] = (uint8_t)quant_nibble(nibbles, i);
    out->d = quant_load16(src);
    out->m = type == DTYPE_Q4_1 ? quant_load16(src + 2)
                                : quant_float_to_half(-8.0f * quant_half_to_float(out->d));
}

/* Q4_K: 256 elements in eight blocks, w = (d * scale) q - (dmin * min); layout beside
 * quant_k_dequantize_4. The products are rounded to halves. */
static void read_k_blocks(const uint8_t *src, struct q4_block out[8])
{
    uint8_t scale[8], min[8];
    float d = quant_load_half(src), dmin = quant_load_half(src + 2);

    quant_k_scales(src + 4, scale, min);
    for (int b = 0; b < 8; b++) {
        const uint8_t *q = src + 16 + CUDA_BLOCK * (b / 2);
        for (int i = 0; i < CUDA_BLOCK; i++)
            out[b].q[i] = q[i] >> (4 * (b & 1)) & 15;
        out[b].d = quant_float_to_half(d * (float)scale[b]);
        out[b].m = quant_float_to_half(-dmin * (float)min[b]);
    }
}

static void pack_q4_row(const struct matrix *m, const uint8_t *src, uint32_t *words,
                        uint32_t *scales)
{
    int elements = dtype_block_elements(m->type), bytes = dtype_block_bytes(m->type);
    struct q4_block block[8];

    for (int64_t at = 0; at < m->cols; at += elements, src += bytes) {
        if (m->type == DTYPE_Q4_K)
            read_k_blocks(src, block);
        else
            read_plain_block(m->type, src, block);
        for (int b = 0; b < elements / CUDA_BLOCK; b++, words += 4, scales++)
            pack_q4_block(&block[b], words, scales);
    }
}

/* ---- the others ---- */

static void pack_q8_row(const struct matrix *m, const uint8_t *src, int8_t *bytes, uint16_t *scales)
{
    for (int64_t at = 0; at < m->cols; at += CUDA_BLOCK, src += 34, bytes += CUDA_BLOCK) {
        *scales++ = quant_load16(src);
        memcpy(bytes, src + 2, CUDA_BLOCK);
    }
}

/* cuda_product.h has no E4M3 that is NaN: its block's scale is, and with it what the block is summed into. */
static void pack_f8_row(const struct cuda_weight *w, const struct matrix *m, int64_t row,
                        const uint8_t *src, uint8_t *bytes, float *scales)
{
    int block = 1 << w->scale_shift;

    memcpy(bytes, src, (size_t)m->cols);
    for (int64_t at = 0; at < m->cols; at += block, src += block) {
        bool is_nan = false;
        for (int i = 0; i < block; i++)
            is_nan |= (src[i] & 0x7f) == 0x7f;
        *scales++ = is_nan ? NAN : matrix_scale(m, row, at);
    }
}

static void pack_bf16_row(const struct matrix *m, int64_t row, const void *src, int stride,
                          uint16_t *out, float *floats)
{
    if (m->type == DTYPE_BF16) {
        memcpy(out, src, (size_t)m->cols * sizeof *out);
    } else {
        quant_dequantize_matrix_row(m, row, floats);
        for (int64_t i = 0; i < m->cols; i++)
            out[i] = quant_float_to_bf16(floats[i]);
    }
    memset(out + m->cols, 0, (size_t)(stride - m->cols) * sizeof *out);
}

void cuda_pack_row(const struct cuda_weight *w, const struct matrix *m, int64_t row, void *data,
                   void *scales, float *floats)
{
    const uint8_t *src = (const uint8_t *)m->data + (size_t)row * matrix_stride(m);

    switch (w->form) {
    case CUDA_F32:
        quant_dequantize_matrix_row(m, row, (float *)data);
        memset((float *)data + m->cols, 0, (size_t)(w->stride - m->cols) * sizeof(float));
        return;
    case CUDA_BF16:
        pack_bf16_row(m, row, src, w->stride, (uint16_t *)data, floats);
        return;
    case CUDA_Q4: // cols are whole blocks: stride = cols; so they are of the next two
        pack_q4_row(m, src, (uint32_t *)data, (uint32_t *)scales);
        return;
    case CUDA_Q8:
        pack_q8_row(m, src, (int8_t *)data, (uint16_t *)scales);
        return;
    case CUDA_F8:
        pack_f8_row(w, m, row, src, (uint8_t *)data, (float *)scales);
        return;
    case CUDA_FORMS:
        break;
    }
    UNREACHABLE();
}
