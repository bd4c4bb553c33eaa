#include "kernels/cuda/cuda_pack.h"

#include <string.h>

#include "kernels/quant.h"
#include "kernels/quant_bytes.h"
#include "kernels/quant_k.h"
#include "shared/base/check.h"

enum cuda_form cuda_pack_form(enum dtype type, bool float32)
{
    if (float32) return CUDA_F32;
    if (type == DTYPE_Q4_0 || type == DTYPE_Q4_1 || type == DTYPE_Q4_K) return CUDA_Q4;
    return type == DTYPE_Q8_0 ? CUDA_Q8 : CUDA_BF16;
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

static void pack_bf16_row(const struct matrix *m, const void *src, int stride, uint16_t *out,
                          float *floats)
{
    if (m->type == DTYPE_BF16) {
        memcpy(out, src, (size_t)m->cols * sizeof *out);
    } else {
        quant_dequantize_row(m->type, src, floats, m->cols);
        for (int64_t i = 0; i < m->cols; i++)
            out[i] = quant_float_to_bf16(floats[i]);
    }
    memset(out + m->cols, 0, (size_t)(stride - m->cols) * sizeof *out);
}

void cuda_pack_row(enum cuda_form form, int stride, const struct matrix *m, const void *src,
                   void *data, void *scales, float *floats)
{
    switch (form) {
    case CUDA_F32:
        quant_dequantize_row(m->type, src, (float *)data, m->cols);
        memset((float *)data + m->cols, 0, (size_t)(stride - m->cols) * sizeof(float));
        return;
    case CUDA_BF16:
        pack_bf16_row(m, src, stride, (uint16_t *)data, floats);
        return;
    case CUDA_Q4: // cols are whole blocks: stride = cols
        pack_q4_row(m, (const uint8_t *)src, (uint32_t *)data, (uint32_t *)scales);
        return;
    case CUDA_Q8:
        pack_q8_row(m, (const uint8_t *)src, (int8_t *)data, (uint16_t *)scales);
        return;
    case CUDA_FORMS:
        break;
    }
    UNREACHABLE();
}
