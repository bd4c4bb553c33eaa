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

static enum cuda_form form_of(const struct matrix *m, enum cuda_real real)
{
    if (real == CUDA_REAL_F32) return CUDA_F32;
    if (m->type == DTYPE_Q4_0 || m->type == DTYPE_Q4_1 || m->type == DTYPE_Q4_K) return CUDA_Q4;
    if (m->type == DTYPE_F8_E4M3 && scale_shift_of(m) >= F8_SHIFT_MIN) return CUDA_F8;
    return m->type == DTYPE_Q8_0 ? CUDA_Q8 : cuda_form_of_real(real);
}

struct cuda_weight cuda_pack_shape(const struct matrix *m, int count, enum cuda_real real)
{
    struct cuda_weight w = {};

    w.form = form_of(m, real);
    if (w.form == CUDA_F8) w.scale_shift = scale_shift_of(m);
    for (int i = 1; i < count; i++)
        if (form_of(&m[i], real) != w.form ||
            (w.form == CUDA_F8 && scale_shift_of(&m[i]) != w.scale_shift))
            w.form = cuda_form_of_real(real);
    w.rows = (int)m->rows;
    w.cols = (int)m->cols;
    w.stride = cuda_form_stride(w.form, w.cols);
    return w;
}

/* Rounded to float16 it would be infinite, and isn't. */
static bool is_beyond_f16(float weight)
{
    return isfinite(weight) && fabsf(weight) >= 65520;
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

/* Hardly any block's ends are beyond, so that its elements are looked at one by one. */
static bool q4_block_fits(const struct q4_block *block)
{
    float d = quant_half_to_float(block->d), m = quant_half_to_float(block->m);
    bool fits = true;

    if (!is_beyond_f16(m) && !is_beyond_f16(fmaf(d, 15, m))) return true;
    for (int i = 0; i < CUDA_BLOCK; i++)
        fits &= !is_beyond_f16(fmaf(d, (float)block->q[i], m));
    return fits;
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

static bool pack_q4_row(const struct matrix *m, const uint8_t *src, uint32_t *words,
                        uint32_t *scales)
{
    int elements = dtype_block_elements(m->type), bytes = dtype_block_bytes(m->type);
    struct q4_block block[8];
    bool fits = true;

    for (int64_t at = 0; at < m->cols; at += elements, src += bytes) {
        if (m->type == DTYPE_Q4_K)
            read_k_blocks(src, block);
        else
            read_plain_block(m->type, src, block);
        for (int b = 0; b < elements / CUDA_BLOCK; b++, words += 4, scales++) {
            pack_q4_block(&block[b], words, scales);
            fits &= q4_block_fits(&block[b]);
        }
    }
    return fits;
}

/* ---- the others ---- */

static bool pack_q8_row(const struct matrix *m, const uint8_t *src, int8_t *bytes, uint16_t *scales)
{
    bool fits = true;

    for (int64_t at = 0; at < m->cols; at += CUDA_BLOCK, src += 34, bytes += CUDA_BLOCK) {
        float d = quant_load_half(src);
        *scales++ = quant_load16(src);
        memcpy(bytes, src + 2, CUDA_BLOCK);
        for (int i = 0; is_beyond_f16(128 * d) && i < CUDA_BLOCK; i++)
            fits &= !is_beyond_f16(d * (float)bytes[i]);
    }
    return fits;
}

/* cuda_product.h has no E4M3 that is NaN: its block's scale is, and with it what the block is summed into. */
static bool pack_f8_row(const struct cuda_weight *w, const struct matrix *m, int64_t row,
                        const uint8_t *src, uint8_t *bytes, float *scales)
{
    int block = 1 << w->scale_shift;
    bool fits = true;

    memcpy(bytes, src, (size_t)m->cols);
    for (int64_t at = 0; at < m->cols; at += block, src += block) {
        bool is_nan = false;
        uint8_t largest = 0; // magnitudes are in the order of their bits
        float magnitude;
        for (int i = 0; i < block; i++) {
            is_nan |= (src[i] & 0x7f) == 0x7f;
            if ((src[i] & 0x7f) > largest) largest = src[i] & 0x7f;
        }
        *scales = is_nan ? NAN : matrix_scale(m, row, at);
        quant_dequantize_row(DTYPE_F8_E4M3, &largest, &magnitude, 1);
        fits &= !is_beyond_f16(*scales++ * magnitude);
    }
    return fits;
}

/* CUDA_BF16, CUDA_F16 */
static bool pack_real_row(enum cuda_form form, const struct matrix *m, int64_t row, const void *src,
                          int stride, uint16_t *out, float *floats)
{
    bool fits = true;

    memset(out + m->cols, 0, (size_t)(stride - m->cols) * sizeof *out);
    if (m->type == (form == CUDA_F16 ? DTYPE_F16 : DTYPE_BF16)) {
        memcpy(out, src, (size_t)m->cols * sizeof *out);
        return true;
    }
    quant_dequantize_matrix_row(m, row, floats);
    for (int64_t i = 0; i < m->cols; i++) {
        out[i] = form == CUDA_F16 ? quant_float_to_half(floats[i]) : quant_float_to_bf16(floats[i]);
        fits &= form != CUDA_F16 || !is_beyond_f16(floats[i]);
    }
    return fits;
}

bool cuda_pack_row(const struct cuda_weight *w, const struct matrix *m, int64_t row, void *data,
                   void *scales, float *floats)
{
    const uint8_t *src = (const uint8_t *)m->data + (size_t)row * matrix_stride(m);

    switch (w->form) {
    case CUDA_F32:
        quant_dequantize_matrix_row(m, row, (float *)data);
        memset((float *)data + m->cols, 0, (size_t)(w->stride - m->cols) * sizeof(float));
        return true;
    case CUDA_BF16:
    case CUDA_F16:
        return pack_real_row(w->form, m, row, src, w->stride, (uint16_t *)data, floats);
    case CUDA_Q4: // cols are whole blocks: stride = cols; so they are of the next two
        return pack_q4_row(m, src, (uint32_t *)data, (uint32_t *)scales);
    case CUDA_Q8:
        return pack_q8_row(m, src, (int8_t *)data, (uint16_t *)scales);
    case CUDA_F8:
        return pack_f8_row(w, m, row, src, (uint8_t *)data, (float *)scales);
    case CUDA_FORMS:
        break;
    }
    UNREACHABLE();
}
