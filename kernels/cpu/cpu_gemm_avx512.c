/* cpu_gemm_avx512.c - integer GEMMs for AVX-512 VNNI: a panel (16 rows) against up to 16 tokens.
 *
 * The words of a 32-block are unpacked once into eight registers (unsigned bytes) and stay there
 * while the tokens go by: per token eight vpdpbusd with the token's word broadcast from memory,
 * then the scales. Offsets (q - 8, q - 16, q - 32, q - 128) are folded into the start value of the integer
 * sum. */
#include "kernels/cpu/cpu_gemm_kernels.h"

#include <immintrin.h>
#include <string.h>

#define INLINE     static inline __attribute__((always_inline))
#define TOKENS_MAX 16
#define GROUP      4 // tokens whose integer sums are made side by side
#define UNROLL     _Pragma("GCC unroll 16")

struct panel {
    const uint8_t *data;
    int blocks;          // of 32 k
    const int8_t *codes; // [16], for the forms that have them
};

INLINE __m512i broadcast_word(const void *p)
{
    int32_t word;
    memcpy(&word, p, sizeof word);
    return _mm512_set1_epi32(word);
}

INLINE __m512i load_words(const uint8_t words[PANEL_ROWS][4])
{
    return _mm512_loadu_si512((const void *)words);
}

INLINE __m512 load_halves(const uint16_t values[PANEL_ROWS])
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)values));
}

INLINE __m512 load_bytes(const uint8_t values[PANEL_ROWS])
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)values)));
}

INLINE __m512 load_signed_bytes(const int8_t values[PANEL_ROWS])
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)values)));
}

INLINE const struct act_int8 *token_block(const uint8_t *x, size_t x_bytes, int token, int block)
{
    const void *row = x + (size_t)token * x_bytes;
    return (const struct act_int8 *)row + block;
}

/* Where the integer sum starts: what turns a dot product with unsigned q + offset into one with q.
 */
enum start {
    START_0,
    START_8,
    START_16,
    START_128,
    START_32_FIRST, // of either 16
    START_32_SECOND,
    START_128_FIRST,
    START_128_SECOND,
};

INLINE __m512i start_of(const enum start start, const struct act_int8 *a)
{
    switch (start) {
    case START_8:
        return _mm512_set1_epi32(a->offset8);
    case START_16:
        return _mm512_set1_epi32(2 * a->offset8);
    case START_128:
        return _mm512_set1_epi32(16 * a->offset8);
    case START_32_FIRST:
    case START_32_SECOND:
        return _mm512_set1_epi32(a->offset32[start - START_32_FIRST]);
    case START_128_FIRST:
    case START_128_SECOND:
        return _mm512_set1_epi32(4 * a->offset32[start - START_128_FIRST]);
    case START_0:
        break;
    }
    return _mm512_setzero_si512();
}

/* acc[t] += d * scale * (w . x) over `count` words from `word`, as one product and one fma (README
 * rule G3). GROUP tokens take turns: a single chain of vpdpbusd is all latency. */
INLINE void add_products(const int tokens, __m512 acc[TOKENS_MAX], const __m512i *w, const int word,
                         const int count, const enum start start, __m512 d, const uint8_t *x,
                         size_t x_bytes, int block)
{
    UNROLL for (int t = 0; t < tokens; t += GROUP)
    {
        const int group = tokens - t < GROUP ? tokens - t : GROUP;
        __m512i dot[GROUP];
        UNROLL for (int j = 0; j < group; j++) dot[j] =
            start_of(start, token_block(x, x_bytes, t + j, block));
        UNROLL for (int i = 0; i < count; i++) UNROLL for (int j = 0; j < group; j++)
        {
            const int8_t *q = token_block(x, x_bytes, t + j, block)->q + 4 * (word + i);
            dot[j] = _mm512_dpbusd_epi32(dot[j], w[i], broadcast_word(q));
        }
        UNROLL for (int j = 0; j < group; j++)
        {
            __m512 scale = _mm512_set1_ps(token_block(x, x_bytes, t + j, block)->scale);
            acc[t + j] =
                _mm512_fmadd_ps(_mm512_mul_ps(d, scale), _mm512_cvtepi32_ps(dot[j]), acc[t + j]);
        }
    }
}

/* acc[t] += m * scaled_sum, and the same over 16-group h */
INLINE void add_mins(const int tokens, __m512 acc[TOKENS_MAX], __m512 m, const uint8_t *x,
                     size_t x_bytes, int block)
{
    UNROLL for (int t = 0; t < tokens; t++)
    {
        __m512 sum = _mm512_set1_ps(token_block(x, x_bytes, t, block)->scaled_sum);
        acc[t] = _mm512_fmadd_ps(m, sum, acc[t]);
    }
}

INLINE void add_group_mins(const int tokens, __m512 acc[TOKENS_MAX], __m512 m, const int h,
                           const uint8_t *x, size_t x_bytes, int block)
{
    UNROLL for (int t = 0; t < tokens; t++)
    {
        __m512 sum = _mm512_set1_ps(act_scaled_sum16(token_block(x, x_bytes, t, block), h));
        acc[t] = _mm512_fmadd_ps(m, sum, acc[t]);
    }
}

INLINE __m512 negate(__m512 v)
{
    return _mm512_sub_ps(_mm512_set1_ps(-0.0f), v);
}

INLINE void unpack_nibbles(const uint8_t q[4][PANEL_ROWS][4], __m512i w[8])
{
    const __m512i mask = _mm512_set1_epi8(15);
    UNROLL for (int g = 0; g < 4; g++)
    {
        __m512i v = load_words(q[g]);
        w[g] = _mm512_and_si512(v, mask);
        w[g + 4] = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
    }
}

INLINE void tile_q4_0(const int tokens, struct panel p, const uint8_t *x, size_t x_bytes,
                      __m512 acc[TOKENS_MAX])
{
    const struct pack_q4_0 *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        __m512i q[8];
        unpack_nibbles(w[b].q, q);
        add_products(tokens, acc, q, 0, 8, START_8, load_halves(w[b].d), x, x_bytes, b);
    }
}

INLINE void tile_q4_1(const int tokens, struct panel p, const uint8_t *x, size_t x_bytes,
                      __m512 acc[TOKENS_MAX])
{
    const struct pack_q4_1 *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        __m512i q[8];
        unpack_nibbles(w[b].q, q);
        add_products(tokens, acc, q, 0, 8, START_0, load_halves(w[b].d), x, x_bytes, b);
        add_mins(tokens, acc, load_halves(w[b].m), x, x_bytes, b);
    }
}

INLINE void tile_q4_k(const int tokens, struct panel p, const uint8_t *x, size_t x_bytes,
                      __m512 acc[TOKENS_MAX])
{
    const struct pack_q4_k *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        const struct pack_q4_k *super = &w[b / 8];
        const struct pack_q4_k_block *block = &super->block[b % 8];
        __m512i q[8];
        unpack_nibbles(block->q, q);
        __m512 d = _mm512_mul_ps(load_halves(super->d), load_bytes(block->scale));
        __m512 m = _mm512_mul_ps(load_halves(super->dmin), load_bytes(block->min));
        add_products(tokens, acc, q, 0, 8, START_0, d, x, x_bytes, b);
        add_mins(tokens, acc, negate(m), x, x_bytes, b);
    }
}

/* Even and odd bytes apart, as unsigned 16-bit pairs for vpdpwssd. */
INLINE void tile_q8_0(const int tokens, struct panel p, const uint8_t *x, size_t x_bytes,
                      __m512 acc[TOKENS_MAX])
{
    const struct pack_q8_0 *w = (const void *)p.data;
    const __m512i even_mask = _mm512_set1_epi16(255);
    for (int b = 0; b < p.blocks; b++) {
        const struct act_int16 *a[TOKENS_MAX];
        __m512i dot[TOKENS_MAX];
        UNROLL for (int t = 0; t < tokens; t++)
        {
            a[t] = (const struct act_int16 *)(const void *)(x + (size_t)t * x_bytes) + b;
            dot[t] = _mm512_set1_epi32(a[t]->offset128);
        }
        UNROLL for (int g = 0; g < 8; g++)
        {
            __m512i v = load_words(w[b].q[g]);
            __m512i even = _mm512_and_si512(v, even_mask), odd = _mm512_srli_epi16(v, 8);
            UNROLL for (int t = 0; t < tokens; t++)
            {
                dot[t] = _mm512_dpwssd_epi32(dot[t], even, broadcast_word(a[t]->q[g][0]));
                dot[t] = _mm512_dpwssd_epi32(dot[t], odd, broadcast_word(a[t]->q[g][1]));
            }
        }
        __m512 d = load_halves(w[b].d);
        UNROLL for (int t = 0; t < tokens; t++)
        {
            __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(a[t]->scale));
            acc[t] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot[t]), acc[t]);
        }
    }
}

/* The four words of 16-group h: low nibbles of the words hold group 0, high nibbles group 1. */
INLINE void unpack_q6_k(const struct pack_q6_k_block *block, const int h, __m512i w[4])
{
    const __m512i mask = _mm512_set1_epi8(15), top_mask = _mm512_set1_epi8(0x30);
    __m512i top = load_words(block->top[h]);
    UNROLL for (int g = 0; g < 4; g++)
    {
        __m512i v = load_words(block->low[g]);
        __m512i low = _mm512_and_si512(h ? _mm512_srli_epi16(v, 4) : v, mask);
        __m512i high =
            g < 2 ? _mm512_slli_epi16(top, 4 - 2 * g) : _mm512_srli_epi16(top, 2 * g - 4);
        w[g] = _mm512_or_si512(low, _mm512_and_si512(high, top_mask));
    }
}

INLINE void tile_q6_k(const int tokens, struct panel p, const uint8_t *x, size_t x_bytes,
                      __m512 acc[TOKENS_MAX])
{
    const struct pack_q6_k *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        const struct pack_q6_k *super = &w[b / 8];
        const struct pack_q6_k_block *block = &super->block[b % 8];
        __m512 d = load_halves(super->d);
        UNROLL for (int h = 0; h < 2; h++)
        {
            const enum start start = h ? START_32_SECOND : START_32_FIRST;
            __m512i q[4];
            unpack_q6_k(block, h, q);
            __m512 scale = _mm512_mul_ps(d, load_signed_bytes(block->scale[h]));
            add_products(tokens, acc, q, 4 * h, 4, start, scale, x, x_bytes, b);
        }
    }
}

INLINE void unpack_fives(const uint8_t low[4][PANEL_ROWS][4], const uint8_t top[PANEL_ROWS][4],
                         __m512i w[8])
{
    const __m512i bit = _mm512_set1_epi8(16);
    __m512i fifth = load_words(top);
    unpack_nibbles(low, w);
    UNROLL for (int i = 0; i < 8; i++)
    {
        __m512i v = i < 4 ? _mm512_slli_epi16(fifth, 4 - i) : _mm512_srli_epi16(fifth, i - 4);
        w[i] = _mm512_or_si512(w[i], _mm512_and_si512(v, bit));
    }
}

INLINE void tile_q5_0(const int tokens, struct panel p, const uint8_t *x, size_t x_bytes,
                      __m512 acc[TOKENS_MAX])
{
    const struct pack_q5_0 *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        __m512i q[8];
        unpack_fives(w[b].low, w[b].top, q);
        add_products(tokens, acc, q, 0, 8, START_16, load_halves(w[b].d), x, x_bytes, b);
    }
}

INLINE void tile_q5_1(const int tokens, struct panel p, const uint8_t *x, size_t x_bytes,
                      __m512 acc[TOKENS_MAX])
{
    const struct pack_q5_1 *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        __m512i q[8];
        unpack_fives(w[b].low, w[b].top, q);
        add_products(tokens, acc, q, 0, 8, START_0, load_halves(w[b].d), x, x_bytes, b);
        add_mins(tokens, acc, load_halves(w[b].m), x, x_bytes, b);
    }
}

INLINE void tile_q5_k(const int tokens, struct panel p, const uint8_t *x, size_t x_bytes,
                      __m512 acc[TOKENS_MAX])
{
    const struct pack_q5_k *w = (const void *)p.data;
    for (int b = 0; b < p.blocks; b++) {
        const struct pack_q5_k *super = &w[b / 8];
        const struct pack_q5_k_block *block = &super->block[b % 8];
        __m512i q[8];
        unpack_fives(block->low, block->top, q);
        __m512 d = _mm512_mul_ps(load_halves(super->d), load_bytes(block->scale));
        __m512 m = _mm512_mul_ps(load_halves(super->dmin), load_bytes(block->min));
        add_products(tokens, acc, q, 0, 8, START_0, d, x, x_bytes, b);
        add_mins(tokens, acc, negate(m), x, x_bytes, b);
    }
}

INLINE void tile_q2_k(const int tokens, struct panel p, const uint8_t *x, size_t x_bytes,
                      __m512 acc[TOKENS_MAX])
{
    const struct pack_q2_k *w = (const void *)p.data;
    const __m512i mask = _mm512_set1_epi8(3), nibble = _mm512_set1_epi32(15);
    for (int b = 0; b < p.blocks; b++) {
        const struct pack_q2_k *super = &w[b / 8];
        const struct pack_q2_k_block *block = &super->block[b % 8];
        __m512 d = load_halves(super->d), dmin = load_halves(super->dmin);
        UNROLL for (int h = 0; h < 2; h++)
        {
            __m512i q[4], v = load_words(block->q[h]);
            UNROLL for (int g = 0; g < 4; g++) q[g] =
                _mm512_and_si512(_mm512_srli_epi16(v, 2 * g), mask);
            __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)block->scale[h]));
            __m512 scale = _mm512_cvtepi32_ps(_mm512_and_si512(both, nibble));
            __m512 min = _mm512_cvtepi32_ps(_mm512_srli_epi32(both, 4));
            add_products(tokens, acc, q, 4 * h, 4, START_0, _mm512_mul_ps(d, scale), x, x_bytes, b);
            add_group_mins(tokens, acc, negate(_mm512_mul_ps(dmin, min)), h, x, x_bytes, b);
        }
    }
}

/* Codes + 128, for vpdpbusd: a table that a nibble looks up in. */
INLINE __m512i load_codes(const int8_t codes[16])
{
    __m128i offset = _mm_set1_epi8((char)0x80);
    return _mm512_broadcast_i32x4(_mm_xor_si128(_mm_loadu_si128((const void *)codes), offset));
}

INLINE void unpack_codes(__m512i codes, const uint8_t q[4][PANEL_ROWS][4], __m512i w[8])
{
    unpack_nibbles(q, w);
    UNROLL for (int i = 0; i < 8; i++) w[i] = _mm512_shuffle_epi8(codes, w[i]);
}

INLINE void tile_codes(const int tokens, struct panel p, const uint8_t *x, size_t x_bytes,
                       __m512 acc[TOKENS_MAX])
{
    const struct pack_codes *w = (const void *)p.data;
    const __m512i codes = load_codes(p.codes);
    for (int b = 0; b < p.blocks; b++) {
        __m512i q[8];
        unpack_codes(codes, w[b].q, q);
        add_products(tokens, acc, q, 0, 8, START_128, _mm512_loadu_ps(w[b].d), x, x_bytes, b);
    }
}

INLINE void tile_codes_fine(const int tokens, struct panel p, const uint8_t *x, size_t x_bytes,
                            __m512 acc[TOKENS_MAX])
{
    const struct pack_codes_fine *w = (const void *)p.data;
    const __m512i codes = load_codes(p.codes);
    for (int b = 0; b < p.blocks; b++) {
        const struct pack_codes_fine *super = &w[b / 8];
        const struct pack_codes_fine_block *block = &super->block[b % 8];
        __m512 d = _mm512_loadu_ps(super->d);
        __m512i q[8];
        unpack_codes(codes, block->q, q);
        UNROLL for (int h = 0; h < 2; h++)
        {
            const enum start start = h ? START_128_SECOND : START_128_FIRST;
            __m512 scale = _mm512_mul_ps(d, load_signed_bytes(block->scale[h]));
            add_products(tokens, acc, q + 4 * h, 4 * h, 4, start, scale, x, x_bytes, b);
        }
    }
}

/* A tile of each size is a function of its own: small functions keep the compiler quick. */
typedef void tile_fn(struct panel p, const uint8_t *x, size_t x_bytes, float *out,
                     size_t out_stride);

#define TILE(name, tile, count)                                                                  \
    static __attribute__((noinline)) void name(struct panel p, const uint8_t *x, size_t x_bytes, \
                                               float *out, size_t out_stride)                    \
    {                                                                                            \
        __m512 acc[TOKENS_MAX];                                                                  \
        UNROLL for (int t = 0; t < count; t++) acc[t] = _mm512_setzero_ps();                     \
        tile(count, p, x, x_bytes, acc);                                                         \
        UNROLL for (int t = 0; t < count; t++)                                                   \
            _mm512_storeu_ps(out + (size_t)t * out_stride, acc[t]);                              \
    }

static int tile_tokens(int left, int max)
{
    int tokens = max;
    while (tokens > left)
        tokens /= 2;
    return tokens;
}

/* tiles[] by tokens, up to `max`. Token tiles outside, panels inside: a tile's activations stay in
 * the first cache. */
static void run_tiles(tile_fn *const tiles[TOKENS_MAX + 1], int max, const struct cpu_packed *w,
                      int panel, int panels, const void *x, size_t x_bytes, int tokens, float *out,
                      size_t out_stride)
{
    for (int t = 0, count; t < tokens; t += count) {
        const uint8_t *act = (const uint8_t *)x + (size_t)t * x_bytes;
        count = tile_tokens(tokens - t, max);
        for (int i = 0; i < panels; i++) {
            const uint8_t *data = w->data + (size_t)(panel + i) * w->panel_bytes;
            struct panel p = {data, w->cols / 32, w->codes};
            float *y = out + (size_t)t * out_stride + PANEL_ROWS * i;
            tiles[count](p, act, x_bytes, y, out_stride);
        }
    }
}

#define KERNEL(name, tile)                                                                      \
    TILE(name##_16, tile, 16)                                                                   \
    TILE(name##_8, tile, 8)                                                                     \
    TILE(name##_4, tile, 4)                                                                     \
    TILE(name##_2, tile, 2)                                                                     \
    TILE(name##_1, tile, 1)                                                                     \
    void name(const struct cpu_packed *w, int panel, int panels, const void *x, size_t x_bytes, \
              int tokens, float *out, size_t out_stride)                                        \
    {                                                                                           \
        static tile_fn *const tiles[] = {                                                       \
            [1] = name##_1, [2] = name##_2, [4] = name##_4, [8] = name##_8, [16] = name##_16};  \
        run_tiles(tiles, TOKENS_MAX, w, panel, panels, x, x_bytes, tokens, out, out_stride);    \
    }

KERNEL(gemm_q4_0_avx512, tile_q4_0)
KERNEL(gemm_q4_1_avx512, tile_q4_1)
KERNEL(gemm_q4_k_avx512, tile_q4_k)
KERNEL(gemm_q6_k_avx512, tile_q6_k)
KERNEL(gemm_q8_0_avx512, tile_q8_0)
KERNEL(gemm_q5_0_avx512, tile_q5_0)
KERNEL(gemm_q5_1_avx512, tile_q5_1)
KERNEL(gemm_q5_k_avx512, tile_q5_k)
KERNEL(gemm_q2_k_avx512, tile_q2_k)
KERNEL(gemm_codes_avx512, tile_codes)
KERNEL(gemm_codes_fine_avx512, tile_codes_fine)
