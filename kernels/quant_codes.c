#include "kernels/quant_codes.h"

#include "kernels/quant_bytes.h"
#include "kernels/quant_iq_grids.h"
#include "shared/base/check.h"

/* Where a code has a sign of its own, index bit 3 is it. */
#define MINUS 8

static void one_scale(struct quant_codes_block *out)
{
    memset(out->scale, 1, sizeof out->scale);
}

/* 64 bytes of pairs: element 32 s + i of a half (128 elements, s = 0..3) is field s of byte i of that
 * half's 32. */
static void decode_pairs(const uint8_t *in, uint8_t index[256])
{
    for (int b = 0; b < 8; b++)
        for (int i = 0; i < 32; i++)
            index[32 * b + i] = in[32 * (b / 4) + i] >> 2 * (b % 4) & 3;
}

/* ---- Q3_K ---- */

/* 110 bytes: 32 bytes of third bits (bit b of T[i] belongs to element 32 b + i), 64 bytes of pairs, 12
 * bytes of 6-bit scales, half d. Scales: low four bits are the nibbles of bytes 0..7 (low ones
 * first), the top two are fields of bytes 8..11. w = d * (scale - 32) * (q - 4) */
static void decode_q3_k(const uint8_t *in, struct quant_codes_block *out)
{
    const uint8_t *top = in, *scale = in + 96;

    out->d = quant_load_half(in + 108);
    for (int i = 0; i < 16; i++) {
        int low = scale[i % 8] >> 4 * (i / 8) & 15, high = scale[8 + i % 4] >> 2 * (i / 4) & 3;
        out->scale[i] = (int8_t)((low | high << 4) - 32);
    }
    decode_pairs(in + 32, out->index);
    for (int b = 0; b < 8; b++)
        for (int i = 0; i < 32; i++)
            out->index[32 * b + i] |= (uint8_t)((top[i] >> b & 1) << 2);
}

/* ---- IQ4 and MXFP4: nibbles as in Q4_0, looked up ---- */

static void decode_nibbles(const uint8_t *in, uint8_t index[32])
{
    for (int i = 0; i < 16; i++) {
        index[i] = in[i] & 15;
        index[i + 16] = in[i] >> 4;
    }
}

/* 18 bytes: half d, 16 bytes of nibbles. */
static void decode_iq4_nl(const uint8_t *in, struct quant_codes_block *out)
{
    out->d = quant_load_half(in);
    one_scale(out);
    decode_nibbles(in + 2, out->index);
}

/* 136 bytes: half d, 2 bytes of the scales' top pairs, 4 bytes of their low nibbles, eight times 16
 * bytes of nibbles. w = d * (scale - 32) * code */
static void decode_iq4_xs(const uint8_t *in, struct quant_codes_block *out)
{
    uint32_t top = quant_load16(in + 2);

    out->d = quant_load_half(in);
    for (int b = 0; b < 8; b++) {
        int low = in[4 + b / 2] >> 4 * (b & 1) & 15, high = (int)(top >> 2 * b & 3);
        out->scale[2 * b] = out->scale[2 * b + 1] = (int8_t)((low | high << 4) - 32);
        decode_nibbles(in + 8 + 16 * b, out->index + 32 * b);
    }
}

/* 17 bytes: the exponent of a power of two (bias 127), 16 bytes of nibbles. Codes are twice the
 * values of E2M1 (OCP Microscaling Formats 1.0), so d is half of that power. */
static void decode_mxfp4(const uint8_t *in, struct quant_codes_block *out)
{
    uint32_t bits = in[0] < 2 ? 0x200000u << in[0] : (uint32_t)(in[0] - 1) << 23;

    memcpy(&out->d, &bits, sizeof bits);
    one_scale(out);
    decode_nibbles(in + 1, out->index);
}

/* ---- ternary ---- */

/* Digits of `count` bytes in `digits` planes: plane p, byte i is element count * p + i. A byte is a
 * fraction of 256 whose first base-3 digit is floor(3 x / 256); times 3^p the next ones follow. */
static uint8_t *decode_trits(const uint8_t *in, int count, int digits, uint8_t *index)
{
    for (int p = 0, power = 1; p < digits; p++, power *= 3)
        for (int i = 0; i < count; i++)
            *index++ = (uint8_t)((in[i] * power & 255) * 3 >> 8);
    return index;
}

/* 54 bytes: 32 bytes of five digits, 16 bytes of five, 4 bytes of four, half d. */
static void decode_tq1_0(const uint8_t *in, struct quant_codes_block *out)
{
    out->d = quant_load_half(in + 52);
    one_scale(out);
    uint8_t *at = decode_trits(in, 32, 5, out->index);
    at = decode_trits(in + 32, 16, 5, at);
    decode_trits(in + 48, 4, 4, at);
}

/* 66 bytes: 64 bytes of pairs, half d. */
static void decode_tq2_0(const uint8_t *in, struct quant_codes_block *out)
{
    out->d = quant_load_half(in + 64);
    one_scale(out);
    decode_pairs(in, out->index);
}

/* ---- IQ2, IQ3: a point of a grid gives the sizes, bits give the signs ---- */

/* Seven signs are stored; the eighth makes their number even. */
static unsigned even_signs(uint32_t seven)
{
    return seven | (unsigned)__builtin_parity(seven) << 7;
}

static void put_point(uint8_t *index, const uint8_t *point, int dims, unsigned signs)
{
    for (int i = 0; i < dims; i++)
        index[i] = (uint8_t)(point[i] | (signs >> i & 1 ? MINUS : 0));
}

/* 66 bytes: half d, then for each 32: four points of 8, a word of four sign sevens and a 4-bit
 * scale. w = d / 8 * (2 scale + 1) * code */
static void decode_iq2_xxs(const uint8_t *in, struct quant_codes_block *out)
{
    const uint8_t *grid = quant_iq_grid(QUANT_IQ2_XXS);

    out->d = quant_load_half(in) / 8;
    for (int b = 0; b < 8; b++) {
        const uint8_t *points = in + 2 + 8 * b;
        uint32_t rest = quant_load32(points + 4);
        out->scale[2 * b] = out->scale[2 * b + 1] = (int8_t)(2 * (rest >> 28) + 1);
        for (int j = 0; j < 4; j++)
            put_point(out->index + 32 * b + 8 * j, grid + 8 * points[j], 8,
                      even_signs(rest >> 7 * j & 127));
    }
}

/* 4-bit scales of 16 elements, as 2 scale + 1 */
static void decode_fine_scales(const uint8_t *in, struct quant_codes_block *out)
{
    for (int i = 0; i < 16; i++)
        out->scale[i] = (int8_t)(2 * (in[i / 2] >> 4 * (i & 1) & 15) + 1);
}

/* 74 bytes: half d, 32 words of a point (9 bits) and a sign seven, 8 bytes of scales. Value as in
 * IQ2_XXS. */
static void decode_iq2_xs(const uint8_t *in, struct quant_codes_block *out)
{
    const uint8_t *grid = quant_iq_grid(QUANT_IQ2_XS);

    out->d = quant_load_half(in) / 8;
    decode_fine_scales(in + 66, out);
    for (int i = 0; i < 32; i++) {
        uint32_t word = quant_load16(in + 2 + 2 * i);
        put_point(out->index + 8 * i, grid + 8 * (word & 511), 8, even_signs(word >> 9));
    }
}

/* 82 bytes: half d, 32 low bytes of points, 32 bytes of signs, 8 bytes of the points' top pairs, 8
 * bytes of scales. Value as in IQ2_XXS. */
static void decode_iq2_s(const uint8_t *in, struct quant_codes_block *out)
{
    const uint8_t *grid = quant_iq_grid(QUANT_IQ2_S);

    out->d = quant_load_half(in) / 8;
    decode_fine_scales(in + 74, out);
    for (int i = 0; i < 32; i++) {
        int point = in[2 + i] | (in[66 + i / 4] >> 2 * (i % 4) & 3) << 8;
        put_point(out->index + 8 * i, grid + 8 * point, 8, in[34 + i]);
    }
}

/* 98 bytes: half d, 64 points of 4, eight words of four sign sevens and a 4-bit scale. w = d / 4 *
 * (2 scale + 1) * code */
static void decode_iq3_xxs(const uint8_t *in, struct quant_codes_block *out)
{
    const uint8_t *grid = quant_iq_grid(QUANT_IQ3_XXS);

    out->d = quant_load_half(in) / 4;
    for (int b = 0; b < 8; b++) {
        uint32_t rest = quant_load32(in + 66 + 4 * b);
        out->scale[2 * b] = out->scale[2 * b + 1] = (int8_t)(2 * (rest >> 28) + 1);
        for (int j = 0; j < 8; j++)
            put_point(out->index + 32 * b + 4 * j, grid + 4 * in[2 + 8 * b + j], 4,
                      even_signs(rest >> 7 * (j / 2) & 127) >> 4 * (j & 1));
    }
}

/* 110 bytes: half d, 64 low bytes of points, 8 bytes of their ninth bits, 32 bytes of signs, 4 bytes
 * of scales. w = d * (2 scale + 1) * code */
static void decode_iq3_s(const uint8_t *in, struct quant_codes_block *out)
{
    const uint8_t *grid = quant_iq_grid(QUANT_IQ3_S), *top = in + 66, *signs = in + 74;

    out->d = quant_load_half(in);
    for (int b = 0; b < 8; b++) {
        int scale = in[106 + b / 2] >> 4 * (b & 1) & 15;
        out->scale[2 * b] = out->scale[2 * b + 1] = (int8_t)(2 * scale + 1);
    }
    for (int i = 0; i < 64; i++) {
        int point = in[2 + i] | (top[i / 8] >> i % 8 & 1) << 8;
        put_point(out->index + 4 * i, grid + 4 * point, 4, signs[i / 2] >> 4 * (i & 1));
    }
}

/* ---- IQ1: a point of -1, 0, 1, and an eighth added to or taken from all of it ---- */

/* Codes are eighths: 8 * (digit - 1) + 1, or - 1 where `minus`. */
static void put_ternary(uint8_t *index, const uint8_t *point, bool minus)
{
    for (int i = 0; i < 8; i++)
        index[i] = (uint8_t)(point[i] | (minus ? MINUS : 0));
}

/* 50 bytes: half d, 32 low bytes of points, and for each 32 elements a word: four times three top
 * bits, a 3-bit scale, the sign of the eighth. w = d / 8 * (2 scale + 1) * code */
static void decode_iq1_s(const uint8_t *in, struct quant_codes_block *out)
{
    const uint8_t *grid = quant_iq_grid(QUANT_IQ1);

    out->d = quant_load_half(in) / 8;
    for (int b = 0; b < 8; b++) {
        int word = quant_load16(in + 34 + 2 * b);
        out->scale[2 * b] = out->scale[2 * b + 1] = (int8_t)(2 * (word >> 12 & 7) + 1);
        for (int j = 0; j < 4; j++) {
            int point = in[2 + 4 * b + j] | (word >> 3 * j & 7) << 8;
            put_ternary(out->index + 32 * b + 8 * j, grid + 8 * point, word >> 15);
        }
    }
}

/* 56 bytes: 32 low bytes of points; 32 nibbles, each three top bits and the sign of the eighth; four
 * words of four 3-bit scales, whose top nibbles are the half d. Value as in IQ1_S. */
static void decode_iq1_m(const uint8_t *in, struct quant_codes_block *out)
{
    const uint8_t *grid = quant_iq_grid(QUANT_IQ1);
    uint16_t d = 0;

    for (int i = 0; i < 16; i++) {
        uint16_t word = quant_load16(in + 48 + 2 * (i / 4));
        if (i % 4 == 0) d = (uint16_t)(d >> 4 | (word & 0xf000));
        out->scale[i] = (int8_t)(2 * (word >> 3 * (i % 4) & 7) + 1);
    }
    out->d = quant_half_to_float(d) / 8;
    for (int i = 0; i < 32; i++) {
        int high = in[32 + i / 2] >> 4 * (i & 1) & 15;
        put_ternary(out->index + 8 * i, grid + 8 * (in[i] | (high & 7) << 8), high >> 3);
    }
}

/* ---- the types ---- */

#define IQ1_CODES                          \
    {                                      \
        -7, 1, 9, 0, 0, 0, 0, 0, -9, -1, 7 \
    }
#define IQ2_CODES                              \
    {                                          \
        8, 25, 43, 0, 0, 0, 0, 0, -8, -25, -43 \
    }
#define IQ4_CODES                                                                \
    {                                                                            \
        -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 \
    }

static const struct coded_type {
    void (*decode)(const uint8_t *in, struct quant_codes_block *out);
    bool fine_scales;
    int8_t codes[QUANT_CODES];
} types[DTYPE_COUNT] = {
    [DTYPE_Q3_K] = {decode_q3_k, true, {-4, -3, -2, -1, 0, 1, 2, 3}},
    [DTYPE_IQ1_S] = {decode_iq1_s, false, IQ1_CODES},
    [DTYPE_IQ1_M] = {decode_iq1_m, true, IQ1_CODES},
    [DTYPE_IQ2_XXS] = {decode_iq2_xxs, false, IQ2_CODES},
    [DTYPE_IQ2_XS] = {decode_iq2_xs, true, IQ2_CODES},
    [DTYPE_IQ2_S] = {decode_iq2_s, true, IQ2_CODES},
    [DTYPE_IQ3_XXS] = {decode_iq3_xxs,
                       false,
                       {4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62}},
    [DTYPE_IQ3_S] = {decode_iq3_s,
                     false,
                     {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15}},
    [DTYPE_IQ4_NL] = {decode_iq4_nl, false, IQ4_CODES},
    [DTYPE_IQ4_XS] = {decode_iq4_xs, false, IQ4_CODES},
    [DTYPE_TQ1_0] = {decode_tq1_0, false, {-1, 0, 1}},
    [DTYPE_TQ2_0] = {decode_tq2_0, false, {-1, 0, 1, 2}},
    [DTYPE_MXFP4] = {decode_mxfp4,
                     false,
                     {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}},
};

const int8_t *quant_codes_of(enum dtype type)
{
    CHECK((unsigned)type < DTYPE_COUNT);
    return types[type].decode ? types[type].codes : NULL;
}

bool quant_codes_fine_scales(enum dtype type)
{
    CHECK(quant_codes_of(type));
    return types[type].fine_scales;
}

void quant_codes_decode(enum dtype type, const uint8_t *src, struct quant_codes_block *out)
{
    CHECK(quant_codes_of(type));
    types[type].decode(src, out);
}

void quant_codes_dequantize(enum dtype type, const uint8_t *src, float *dst, int64_t n)
{
    const int8_t *codes = quant_codes_of(type);
    int elements = dtype_block_elements(type);
    struct quant_codes_block block;

    for (; n > 0; n -= elements, src += dtype_block_bytes(type), dst += elements) {
        quant_codes_decode(type, src, &block);
        for (int k = 0; k < elements; k++) {
            float scale = block.d * (float)block.scale[k / QUANT_CODES_GROUP];
            dst[k] = scale * (float)codes[block.index[k]];
        }
    }
}
