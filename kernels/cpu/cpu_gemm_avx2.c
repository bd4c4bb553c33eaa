/* cpu_gemm_avx2.c - integer GEMMs for AVX2 without VNNI: half a panel (8 rows) against up to 4
 * tokens.
 *
 * A 256-bit vector holds one word (four k) of eight rows; a token's word is broadcast. Where no
 * overflow can happen, products of words are added in 16 bits and widened once: 4-bit weights:
 * |sum| <= 8 maddubs * 2 * 15 * 127 = 30,480 over a whole 32-block; 5-bit weights: 4 maddubs * 2 *
 * 31 * 127 = 31,496 over a 16-group; 6-bit weights: 2 maddubs * 2 * 63 * 127 = 32,004 over two
 * words; codes: 2 * 127 * 127 = 32,258, each by itself; 8-bit weights don't fit even once (2 * 255 *
 * 127), so they use 16-bit activations (struct act_int16) and madd_epi16 on the even and odd bytes.
 */
#include "kernels/cpu/cpu_gemm_kernels.h"

#include <immintrin.h>
#include <string.h>

#define INLINE     static inline __attribute__((always_inline))
#define TOKENS_MAX 4
#define UNROLL     _Pragma("GCC unroll 8")
/* Loops over words stay loops: unrolled whole, gcc makes trees of the sums and runs out of
 * registers. */
#define KEEP_LOOP  _Pragma("GCC unroll 2")

struct half_panel {
    const uint8_t *data; // the panel
    int half;            // rows 8 * half .. 8 * half + 7
    int blocks;          // of 32 k
    const int8_t *codes; // [16], for the forms that have them
};

INLINE __m256i broadcast_word(const void *p)
{
    int32_t word;
    memcpy(&word, p, sizeof word);
    return _mm256_set1_epi32(word);
}

INLINE __m256i load_words(const uint8_t words[PANEL_ROWS][4], int half)
{
    return _mm256_loadu_si256((const void *)words[8 * half]);
}

INLINE __m256 load_halves(const uint16_t values[PANEL_ROWS], int half)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)(values + 8 * half)));
}

INLINE __m256 load_bytes(const uint8_t values[PANEL_ROWS], int half)
{
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(values + 8 * half))));
}

INLINE __m256 load_signed_bytes(const int8_t values[PANEL_ROWS], int half)
{
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(values + 8 * half))));
}

INLINE const struct act_int8 *token_block(const uint8_t *x, size_t x_bytes, int token, int block)
{
    const void *row = x + (size_t)token * x_bytes;
    return (const struct act_int8 *)row + block;
}

/* acc += d * scale * dot, as one product and one fma (README rule G3). */
INLINE __m256 add_scaled(__m256 acc, __m256 d, float scale, __m256i dot)
{
    return _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(scale)), _mm256_cvtepi32_ps(dot), acc);
}

INLINE void dot_nibbles(const int tokens, const uint8_t q[4][PANEL_ROWS][4], int half,
                        const uint8_t *x, size_t x_bytes, int block, __m256i dot[TOKENS_MAX])
{
    const __m256i mask = _mm256_set1_epi8(15);

    UNROLL for (int t = 0; t < tokens; t++) dot[t] = _mm256_setzero_si256();
    KEEP_LOOP for (int g = 0; g < 4; g++)
    {
        __m256i v = load_words(q[g], half);
        __m256i low = _mm256_and_si256(v, mask);
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
        UNROLL for (int t = 0; t < tokens; t++)
        {
            const int8_t *a = token_block(x, x_bytes, t, block)->q;
            __m256i l = _mm256_maddubs_epi16(low, broadcast_word(a + 4 * g));
            __m256i h = _mm256_maddubs_epi16(high, broadcast_word(a + 16 + 4 * g));
            dot[t] = _mm256_add_epi16(dot[t], _mm256_add_epi16(l, h));
        }
    }
    UNROLL for (int t = 0; t < tokens; t++) dot[t] =
        _mm256_madd_epi16(dot[t], _mm256_set1_epi16(1));
}

INLINE void zero(const int tokens, __m256 acc[TOKENS_MAX])
{
    UNROLL for (int t = 0; t < tokens; t++) acc[t] = _mm256_setzero_ps();
}

INLINE void tile_q4_0(const int tokens, struct half_panel p, const uint8_t *x, size_t x_bytes,
                      __m256 acc[TOKENS_MAX])
{
    const struct pack_q4_0 *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        __m256i dot[TOKENS_MAX];
        dot_nibbles(tokens, w[b].q, p.half, x, x_bytes, b, dot);
        __m256 d = load_halves(w[b].d, p.half);
        UNROLL for (int t = 0; t < tokens; t++)
        {
            const struct act_int8 *a = token_block(x, x_bytes, t, b);
            __m256i signed_dot = _mm256_add_epi32(dot[t], _mm256_set1_epi32(a->offset8));
            acc[t] = add_scaled(acc[t], d, a->scale, signed_dot);
        }
    }
}

INLINE void tile_q4_1(const int tokens, struct half_panel p, const uint8_t *x, size_t x_bytes,
                      __m256 acc[TOKENS_MAX])
{
    const struct pack_q4_1 *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        __m256i dot[TOKENS_MAX];
        dot_nibbles(tokens, w[b].q, p.half, x, x_bytes, b, dot);
        __m256 d = load_halves(w[b].d, p.half), m = load_halves(w[b].m, p.half);
        UNROLL for (int t = 0; t < tokens; t++)
        {
            const struct act_int8 *a = token_block(x, x_bytes, t, b);
            acc[t] = add_scaled(acc[t], d, a->scale, dot[t]);
            acc[t] = _mm256_fmadd_ps(m, _mm256_set1_ps(a->scaled_sum), acc[t]);
        }
    }
}

INLINE void tile_q4_k(const int tokens, struct half_panel p, const uint8_t *x, size_t x_bytes,
                      __m256 acc[TOKENS_MAX])
{
    const struct pack_q4_k *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        const struct pack_q4_k *super = &w[b / 8];
        const struct pack_q4_k_block *block = &super->block[b % 8];
        __m256i dot[TOKENS_MAX];
        dot_nibbles(tokens, block->q, p.half, x, x_bytes, b, dot);
        __m256 d = _mm256_mul_ps(load_halves(super->d, p.half), load_bytes(block->scale, p.half));
        __m256 m = _mm256_mul_ps(load_halves(super->dmin, p.half), load_bytes(block->min, p.half));
        UNROLL for (int t = 0; t < tokens; t++)
        {
            const struct act_int8 *a = token_block(x, x_bytes, t, b);
            acc[t] = add_scaled(acc[t], d, a->scale, dot[t]);
            acc[t] = _mm256_fnmadd_ps(m, _mm256_set1_ps(a->scaled_sum), acc[t]);
        }
    }
}

/* One 16-group: words 4 h .. 4 h + 3 of a block. */
INLINE void group_q6_k(const int tokens, const struct pack_q6_k_block *block, int half, const int h,
                       const uint8_t *x, size_t x_bytes, int b, __m256i dot[TOKENS_MAX])
{
    const __m256i mask = _mm256_set1_epi8(15), top_mask = _mm256_set1_epi8(0x30);
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i top = load_words(block->top[h], half);

    UNROLL for (int t = 0; t < tokens; t++) dot[t] =
        _mm256_set1_epi32(token_block(x, x_bytes, t, b)->offset32[h]);
    UNROLL for (int pair = 0; pair < 2; pair++)
    {
        __m256i q[2];
        UNROLL for (int i = 0; i < 2; i++)
        {
            int g = 2 * pair + i;
            __m256i v = load_words(block->low[g], half);
            __m256i low = _mm256_and_si256(h ? _mm256_srli_epi16(v, 4) : v, mask);
            __m256i high =
                g < 2 ? _mm256_slli_epi16(top, 4 - 2 * g) : _mm256_srli_epi16(top, 2 * g - 4);
            q[i] = _mm256_or_si256(low, _mm256_and_si256(high, top_mask));
        }
        UNROLL for (int t = 0; t < tokens; t++)
        {
            const int8_t *a = token_block(x, x_bytes, t, b)->q + 16 * h + 8 * pair;
            __m256i sum = _mm256_add_epi16(_mm256_maddubs_epi16(q[0], broadcast_word(a)),
                                           _mm256_maddubs_epi16(q[1], broadcast_word(a + 4)));
            dot[t] = _mm256_add_epi32(dot[t], _mm256_madd_epi16(sum, ones));
        }
    }
}

INLINE void tile_q6_k(const int tokens, struct half_panel p, const uint8_t *x, size_t x_bytes,
                      __m256 acc[TOKENS_MAX])
{
    const struct pack_q6_k *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        const struct pack_q6_k *super = &w[b / 8];
        const struct pack_q6_k_block *block = &super->block[b % 8];
        UNROLL for (int h = 0; h < 2; h++)
        {
            __m256i dot[TOKENS_MAX];
            group_q6_k(tokens, block, p.half, h, x, x_bytes, b, dot);
            __m256 d = _mm256_mul_ps(load_halves(super->d, p.half),
                                     load_signed_bytes(block->scale[h], p.half));
            UNROLL for (int t = 0; t < tokens; t++) acc[t] =
                add_scaled(acc[t], d, token_block(x, x_bytes, t, b)->scale, dot[t]);
        }
    }
}

INLINE void tile_q8_0(const int tokens, struct half_panel p, const uint8_t *x, size_t x_bytes,
                      __m256 acc[TOKENS_MAX])
{
    const struct pack_q8_0 *w = (const void *)p.data;
    const __m256i even_mask = _mm256_set1_epi16(255);
    for (int b = 0; b < p.blocks; b++) {
        const struct act_int16 *a[TOKENS_MAX];
        __m256i dot[TOKENS_MAX];
        UNROLL for (int t = 0; t < tokens; t++)
        {
            a[t] = (const struct act_int16 *)(const void *)(x + (size_t)t * x_bytes) + b;
            dot[t] = _mm256_set1_epi32(a[t]->offset128);
        }
        KEEP_LOOP for (int g = 0; g < 8; g++)
        {
            __m256i v = load_words(w[b].q[g], p.half);
            __m256i even = _mm256_and_si256(v, even_mask), odd = _mm256_srli_epi16(v, 8);
            UNROLL for (int t = 0; t < tokens; t++)
            {
                __m256i e = _mm256_madd_epi16(even, broadcast_word(a[t]->q[g][0]));
                __m256i o = _mm256_madd_epi16(odd, broadcast_word(a[t]->q[g][1]));
                dot[t] = _mm256_add_epi32(dot[t], _mm256_add_epi32(e, o));
            }
        }
        __m256 d = load_halves(w[b].d, p.half);
        UNROLL for (int t = 0; t < tokens; t++) acc[t] = add_scaled(acc[t], d, a[t]->scale, dot[t]);
    }
}

/* dot[t] += words 4 h .. 4 h + 3 of a block, of weights within 0..31. */
INLINE void add_group(const int tokens, const __m256i w[4], const int h, const uint8_t *x,
                      size_t x_bytes, int b, __m256i dot[TOKENS_MAX])
{
    UNROLL for (int t = 0; t < tokens; t++)
    {
        const int8_t *a = token_block(x, x_bytes, t, b)->q + 16 * h;
        __m256i first = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], broadcast_word(a)),
                                         _mm256_maddubs_epi16(w[1], broadcast_word(a + 4)));
        __m256i second = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], broadcast_word(a + 8)),
                                          _mm256_maddubs_epi16(w[3], broadcast_word(a + 12)));
        __m256i sum = _mm256_add_epi16(first, second);
        dot[t] = _mm256_add_epi32(dot[t], _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
    }
}

INLINE void dot_fives(const int tokens, const uint8_t low[4][PANEL_ROWS][4],
                      const uint8_t top[PANEL_ROWS][4], int half, const uint8_t *x, size_t x_bytes,
                      int b, __m256i dot[TOKENS_MAX])
{
    const __m256i mask = _mm256_set1_epi8(15), bit = _mm256_set1_epi8(16);
    __m256i fifth = load_words(top, half);

    UNROLL for (int t = 0; t < tokens; t++) dot[t] = _mm256_setzero_si256();
    UNROLL for (int h = 0; h < 2; h++)
    {
        __m256i w[4];
        UNROLL for (int g = 0; g < 4; g++)
        {
            __m256i v = load_words(low[g], half);
            __m256i f = h ? _mm256_srli_epi16(fifth, g) : _mm256_slli_epi16(fifth, 4 - g);
            v = _mm256_and_si256(h ? _mm256_srli_epi16(v, 4) : v, mask);
            w[g] = _mm256_or_si256(v, _mm256_and_si256(f, bit));
        }
        add_group(tokens, w, h, x, x_bytes, b, dot);
    }
}

INLINE void tile_q5_0(const int tokens, struct half_panel p, const uint8_t *x, size_t x_bytes,
                      __m256 acc[TOKENS_MAX])
{
    const struct pack_q5_0 *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        __m256i dot[TOKENS_MAX];
        dot_fives(tokens, w[b].low, w[b].top, p.half, x, x_bytes, b, dot);
        __m256 d = load_halves(w[b].d, p.half);
        UNROLL for (int t = 0; t < tokens; t++)
        {
            const struct act_int8 *a = token_block(x, x_bytes, t, b);
            __m256i signed_dot = _mm256_add_epi32(dot[t], _mm256_set1_epi32(2 * a->offset8));
            acc[t] = add_scaled(acc[t], d, a->scale, signed_dot);
        }
    }
}

INLINE void tile_q5_1(const int tokens, struct half_panel p, const uint8_t *x, size_t x_bytes,
                      __m256 acc[TOKENS_MAX])
{
    const struct pack_q5_1 *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        __m256i dot[TOKENS_MAX];
        dot_fives(tokens, w[b].low, w[b].top, p.half, x, x_bytes, b, dot);
        __m256 d = load_halves(w[b].d, p.half), m = load_halves(w[b].m, p.half);
        UNROLL for (int t = 0; t < tokens; t++)
        {
            const struct act_int8 *a = token_block(x, x_bytes, t, b);
            acc[t] = add_scaled(acc[t], d, a->scale, dot[t]);
            acc[t] = _mm256_fmadd_ps(m, _mm256_set1_ps(a->scaled_sum), acc[t]);
        }
    }
}

INLINE void tile_q5_k(const int tokens, struct half_panel p, const uint8_t *x, size_t x_bytes,
                      __m256 acc[TOKENS_MAX])
{
    const struct pack_q5_k *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        const struct pack_q5_k *super = &w[b / 8];
        const struct pack_q5_k_block *block = &super->block[b % 8];
        __m256i dot[TOKENS_MAX];
        dot_fives(tokens, block->low, block->top, p.half, x, x_bytes, b, dot);
        __m256 d = _mm256_mul_ps(load_halves(super->d, p.half), load_bytes(block->scale, p.half));
        __m256 m = _mm256_mul_ps(load_halves(super->dmin, p.half), load_bytes(block->min, p.half));
        UNROLL for (int t = 0; t < tokens; t++)
        {
            const struct act_int8 *a = token_block(x, x_bytes, t, b);
            acc[t] = add_scaled(acc[t], d, a->scale, dot[t]);
            acc[t] = _mm256_fnmadd_ps(m, _mm256_set1_ps(a->scaled_sum), acc[t]);
        }
    }
}

INLINE void tile_q2_k(const int tokens, struct half_panel p, const uint8_t *x, size_t x_bytes,
                      __m256 acc[TOKENS_MAX])
{
    const struct pack_q2_k *w = (const void *)p.data;
    const __m256i mask = _mm256_set1_epi8(3), nibble = _mm256_set1_epi32(15);
    for (int b = 0; b < p.blocks; b++) {
        const struct pack_q2_k *super = &w[b / 8];
        const struct pack_q2_k_block *block = &super->block[b % 8];
        UNROLL for (int h = 0; h < 2; h++)
        {
            __m256i q[4], dot[TOKENS_MAX], v = load_words(block->q[h], p.half);
            UNROLL for (int g = 0; g < 4; g++) q[g] =
                _mm256_and_si256(_mm256_srli_epi16(v, 2 * g), mask);
            UNROLL for (int t = 0; t < tokens; t++) dot[t] = _mm256_setzero_si256();
            add_group(tokens, q, h, x, x_bytes, b, dot);
            __m256i both =
                _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(block->scale[h] + 8 * p.half)));
            __m256 scale = _mm256_cvtepi32_ps(_mm256_and_si256(both, nibble));
            __m256 min = _mm256_cvtepi32_ps(_mm256_srli_epi32(both, 4));
            __m256 d = _mm256_mul_ps(load_halves(super->d, p.half), scale);
            __m256 m = _mm256_mul_ps(load_halves(super->dmin, p.half), min);
            UNROLL for (int t = 0; t < tokens; t++)
            {
                const struct act_int8 *a = token_block(x, x_bytes, t, b);
                acc[t] = add_scaled(acc[t], d, a->scale, dot[t]);
                acc[t] = _mm256_fnmadd_ps(m, _mm256_set1_ps(act_scaled_sum16(a, h)), acc[t]);
            }
        }
    }
}

/* dot[t] += 16-group h of a block of codes. maddubs wants an unsigned factor: the size of the code,
 * with its sign moved to the activation. */
INLINE void add_codes(const int tokens, __m256i codes, const uint8_t q[4][PANEL_ROWS][4], int half,
                      const int h, const uint8_t *x, size_t x_bytes, int b, __m256i dot[TOKENS_MAX])
{
    const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);

    KEEP_LOOP for (int g = 0; g < 4; g++)
    {
        __m256i v = load_words(q[g], half);
        __m256i index = _mm256_and_si256(h ? _mm256_srli_epi16(v, 4) : v, mask);
        __m256i code = _mm256_shuffle_epi8(codes, index), size = _mm256_abs_epi8(code);
        UNROLL for (int t = 0; t < tokens; t++)
        {
            const int8_t *a = token_block(x, x_bytes, t, b)->q + 16 * h + 4 * g;
            __m256i signed_a = _mm256_sign_epi8(broadcast_word(a), code);
            __m256i sum = _mm256_madd_epi16(_mm256_maddubs_epi16(size, signed_a), ones);
            dot[t] = _mm256_add_epi32(dot[t], sum);
        }
    }
}

INLINE __m256i load_codes(const int8_t codes[16])
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)codes));
}

INLINE void tile_codes(const int tokens, struct half_panel p, const uint8_t *x, size_t x_bytes,
                       __m256 acc[TOKENS_MAX])
{
    const struct pack_codes *w = (const void *)p.data;
    const __m256i codes = load_codes(p.codes);
    for (int b = 0; b < p.blocks; b++) {
        __m256i dot[TOKENS_MAX];
        UNROLL for (int t = 0; t < tokens; t++) dot[t] = _mm256_setzero_si256();
        add_codes(tokens, codes, w[b].q, p.half, 0, x, x_bytes, b, dot);
        add_codes(tokens, codes, w[b].q, p.half, 1, x, x_bytes, b, dot);
        __m256 d = _mm256_loadu_ps(w[b].d + 8 * p.half);
        UNROLL for (int t = 0; t < tokens; t++) acc[t] =
            add_scaled(acc[t], d, token_block(x, x_bytes, t, b)->scale, dot[t]);
    }
}

INLINE void tile_codes_fine(const int tokens, struct half_panel p, const uint8_t *x, size_t x_bytes,
                            __m256 acc[TOKENS_MAX])
{
    const struct pack_codes_fine *w = (const void *)p.data;
    const __m256i codes = load_codes(p.codes);
    for (int b = 0; b < p.blocks; b++) {
        const struct pack_codes_fine *super = &w[b / 8];
        const struct pack_codes_fine_block *block = &super->block[b % 8];
        UNROLL for (int h = 0; h < 2; h++)
        {
            __m256i dot[TOKENS_MAX];
            UNROLL for (int t = 0; t < tokens; t++) dot[t] = _mm256_setzero_si256();
            add_codes(tokens, codes, block->q, p.half, h, x, x_bytes, b, dot);
            __m256 d = _mm256_mul_ps(_mm256_loadu_ps(super->d + 8 * p.half),
                                     load_signed_bytes(block->scale[h], p.half));
            UNROLL for (int t = 0; t < tokens; t++) acc[t] =
                add_scaled(acc[t], d, token_block(x, x_bytes, t, b)->scale, dot[t]);
        }
    }
}

/* A tile of each size is a function of its own: small functions keep the compiler quick. */
typedef void tile_fn(struct half_panel p, const uint8_t *x, size_t x_bytes, float *out,
                     size_t out_stride);

#define TILE(name, tile, count)                                                               \
    static __attribute__((noinline)) void name(struct half_panel p, const uint8_t *x,         \
                                               size_t x_bytes, float *out, size_t out_stride) \
    {                                                                                         \
        __m256 acc[TOKENS_MAX];                                                               \
        zero(count, acc);                                                                     \
        tile(count, p, x, x_bytes, acc);                                                      \
        UNROLL for (int t = 0; t < count; t++)                                                \
            _mm256_storeu_ps(out + (size_t)t * out_stride, acc[t]);                           \
    }

/* tiles[] by tokens. Token tiles outside, panels inside: a tile's activations stay in the first
 * cache. */
static void run_tiles(tile_fn *const tiles[TOKENS_MAX + 1], const struct cpu_packed *w, int panel,
                      int panels, const void *x, size_t x_bytes, int tokens, float *out,
                      size_t out_stride)
{
    for (int t = 0, count; t < tokens; t += count) {
        const uint8_t *act = (const uint8_t *)x + (size_t)t * x_bytes;
        count = tokens - t >= 4 ? 4 : tokens - t >= 2 ? 2 : 1;
        for (int i = 0; i < 2 * panels; i++) {
            const uint8_t *data = w->data + (size_t)(panel + i / 2) * w->panel_bytes;
            struct half_panel p = {data, i & 1, w->cols / 32, w->codes};
            tiles[count](p, act, x_bytes, out + (size_t)t * out_stride + 8 * i, out_stride);
        }
    }
}

#define KERNEL(name, tile)                                                                      \
    TILE(name##_4, tile, 4)                                                                     \
    TILE(name##_2, tile, 2)                                                                     \
    TILE(name##_1, tile, 1)                                                                     \
    void name(const struct cpu_packed *w, int panel, int panels, const void *x, size_t x_bytes, \
              int tokens, float *out, size_t out_stride)                                        \
    {                                                                                           \
        static tile_fn *const tiles[] = {[1] = name##_1, [2] = name##_2, [4] = name##_4};       \
        run_tiles(tiles, w, panel, panels, x, x_bytes, tokens, out, out_stride);                \
    }

KERNEL(gemm_q4_0_avx2, tile_q4_0)
KERNEL(gemm_q4_1_avx2, tile_q4_1)
KERNEL(gemm_q4_k_avx2, tile_q4_k)
KERNEL(gemm_q6_k_avx2, tile_q6_k)
KERNEL(gemm_q8_0_avx2, tile_q8_0)
KERNEL(gemm_q5_0_avx2, tile_q5_0)
KERNEL(gemm_q5_1_avx2, tile_q5_1)
KERNEL(gemm_q5_k_avx2, tile_q5_k)
KERNEL(gemm_q2_k_avx2, tile_q2_k)
KERNEL(gemm_codes_avx2, tile_codes)
KERNEL(gemm_codes_fine_avx2, tile_codes_fine)
