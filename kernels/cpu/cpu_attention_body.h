/* cpu_attention_body.h - softmax(q K^T) V over KV pages, included by each cpu_isa_NAME.c (README
 * rules T1-T5).
 *
 * Both products have one shape: C[row][lane] (+)= sum over n of A[row][n] * B[n][lane]. For the
 * scores a lane is a position (K is stored [head_dim][64]) and n an element of the head; for the
 * output a lane is an element and n a position. So every sum belongs to one lane, goes in order and
 * never crosses lanes, however many rows share a tile. */
#ifndef LM_KERNELS_CPU_ATTENTION_BODY_H
#define LM_KERNELS_CPU_ATTENTION_BODY_H

#include "kernels/cpu/cpu_pointwise_body.h"

#if VF_REGISTERS >= 32
#define PRODUCT_ROWS   6
#define PRODUCT_GROUPS 4 // of 16 lanes
#else
#define PRODUCT_ROWS   6
#define PRODUCT_GROUPS 1
#endif

/* The running softmax of a tile; arrays are in the tile's scratch. */
struct attention_state {
    float *scores; // [rows][64], then probabilities
    float *sums;   // [rows][value_stride], not divided yet
    float max[ATTENTION_ROWS_MAX], total[ATTENTION_ROWS_MAX];
    int from[ATTENTION_ROWS_MAX], to[ATTENTION_ROWS_MAX]; // visible positions within the block
};

SIMD struct vf kv_load(const enum kv_type type, const uint8_t *p, size_t element)
{
    if (type == KV_INT8) return vf_load_int8((const int8_t *)p + element);
    if (type == KV_F16) return vf_load_f16((const uint16_t *)(const void *)p + element);
    if (type == KV_BF16) return vf_load_bf16((const uint16_t *)(const void *)p + element);
    return vf_load((const float *)(const void *)p + element);
}

/* c[row] [16 * groups lanes] = (accumulate ? c : 0) + sum over i < n of a[row][i] * b[i * stride
 * ...] */
SIMD void product_tile(const enum kv_type type, const int rows, const int groups,
                       const bool accumulate, const float *const *a, size_t a_offset,
                       const uint8_t *b, size_t stride, int n, float *c, size_t c_stride)
{
    struct vf acc[PRODUCT_ROWS][PRODUCT_GROUPS];

    SIMD_UNROLL
    for (int r = 0; r < rows; r++)
        SIMD_UNROLL
    for (int g = 0; g < groups; g++)
        acc[r][g] = accumulate ? vf_load(c + (size_t)r * c_stride + 16 * g) : vf_zero();
    for (int i = 0; i < n; i++) {
        struct vf v[PRODUCT_GROUPS];
        SIMD_UNROLL
        for (int g = 0; g < groups; g++)
            v[g] = kv_load(type, b, (size_t)i * stride + 16 * (size_t)g);
        SIMD_UNROLL
        for (int r = 0; r < rows; r++) {
            struct vf s = vf_set1(a[r][a_offset + (size_t)i]);
            SIMD_UNROLL
            for (int g = 0; g < groups; g++)
                acc[r][g] = vf_fma(s, v[g], acc[r][g]);
        }
    }
    SIMD_UNROLL
    for (int r = 0; r < rows; r++)
        SIMD_UNROLL
    for (int g = 0; g < groups; g++)
        vf_store(c + (size_t)r * c_stride + 16 * g, acc[r][g]);
}

/* Tiles are functions of their own: small functions keep the compiler quick. */
typedef void product_fn(bool accumulate, const float *const *a, size_t a_offset, const uint8_t *b,
                        size_t stride, int n, float *c, size_t c_stride);

#define PRODUCT(name, type, rows, groups)                                                        \
    static __attribute__((noinline)) void name(bool accumulate, const float *const *a,           \
                                               size_t a_offset, const uint8_t *b, size_t stride, \
                                               int n, float *c, size_t c_stride)                 \
    {                                                                                            \
        product_tile(type, rows, groups, accumulate, a, a_offset, b, stride, n, c, c_stride);    \
    }
#define PRODUCTS(name, type)                               \
    PRODUCT(name##_1x1, type, 1, 1)                        \
    PRODUCT(name##_2x1, type, 2, 1)                        \
    PRODUCT(name##_3x1, type, 3, 1)                        \
    PRODUCT(name##_4x1, type, 4, 1)                        \
    PRODUCT(name##_6x1, type, 6, 1)                        \
    PRODUCT(name##_1xn, type, 1, PRODUCT_GROUPS)           \
    PRODUCT(name##_2xn, type, 2, PRODUCT_GROUPS)           \
    PRODUCT(name##_3xn, type, 3, PRODUCT_GROUPS)           \
    PRODUCT(name##_4xn, type, 4, PRODUCT_GROUPS)           \
    PRODUCT(name##_6xn, type, 6, PRODUCT_GROUPS)           \
    static product_fn *const name[PRODUCT_ROWS + 1][2] = { \
        {NULL, NULL},                                      \
        {name##_1x1, name##_1xn},                          \
        {name##_2x1, name##_2xn},                          \
        {name##_3x1, name##_3xn},                          \
        {name##_4x1, name##_4xn},                          \
        {NULL, NULL}, /* five rows go as four and one */   \
        {name##_6x1, name##_6xn},                          \
    };

PRODUCTS(product_f32, KV_F32)
PRODUCTS(product_f16, KV_F16)
PRODUCTS(product_bf16, KV_BF16)
PRODUCTS(product_int8, KV_INT8)

/* All lanes of up to PRODUCT_ROWS rows (not 5). */
static void product(const struct kv_layout *layout, int rows, bool accumulate,
                    const float *const *a, size_t a_offset, const uint8_t *b, size_t stride, int n,
                    float *c, size_t c_stride, int lanes)
{
    static product_fn *const(*const products[KV_TYPES])[2] = {[KV_F32] = product_f32,
                                                              [KV_F16] = product_f16,
                                                              [KV_BF16] = product_bf16,
                                                              [KV_INT8] = product_int8};
    product_fn *const *tiles = products[layout->type][rows];

    for (int lane = 0, step; lane < lanes; lane += step) {
        const uint8_t *from = b + (size_t)lane * layout->element_bytes;
        bool wide = lanes - lane >= 16 * PRODUCT_GROUPS;
        step = wide ? 16 * PRODUCT_GROUPS : 16;
        tiles[wide](accumulate, a, a_offset, from, stride, n, c + lane, c_stride);
    }
}

SIMD void scale_lanes(float *x, const float *scales, int begin, int end)
{
    for (int i = begin; i < end; i += 16)
        vf_store(x + i, vf_mul(vf_load(x + i), vf_load(scales + i)));
}

/* One row's scores of a block into probabilities; rescales what was summed before (rules T2-T4).
 * Scales of K go to the scores and those of V to the probabilities (rules K3, K4). */
static void attention_softmax(const struct attention_tile *tile, struct attention_state *s, int row,
                              const uint8_t *page)
{
    const struct kv_layout *layout = tile->layout;
    float *p = s->scores + KV_BLOCK_TOKENS * row;
    float *sums = s->sums + (size_t)layout->value_stride * (size_t)row;
    int from = s->from[row], to = s->to[row];
    int begin = from & ~15, end = (to + 15) & ~15;

    if (layout->type == KV_INT8)
        scale_lanes(p, (const float *)(const void *)(page + layout->key_scales), begin, end);
    if (tile->softcap != 0) pointwise_softcap(p + begin, end - begin, tile->softcap);
    for (int i = begin; i < from; i++)
        p[i] = -INFINITY;
    for (int i = to; i < end; i++)
        p[i] = -INFINITY;

    struct vf top = vf_set1(s->max[row]);
    for (int i = begin; i < end; i += 16)
        top = vf_max(top, vf_load(p + i));
    float max = vf_max_lane(top);
    struct vf total = vf_zero();
    for (int i = begin; i < end; i += 16) {
        struct vf e = vf_exp(vf_sub(vf_load(p + i), vf_set1(max)));
        vf_store(p + i, e);
        total = vf_add(total, e);
    }
    float fade = simd_exp1(s->max[row] - max);
    if (fade != 1.0f)
        for (int i = 0; i < layout->value_stride; i += 16)
            vf_store(sums + i, vf_mul(vf_load(sums + i), vf_set1(fade)));
    s->total[row] = fmaf(s->total[row], fade, vf_sum(total));
    s->max[row] = max;
    if (layout->type == KV_INT8)
        scale_lanes(p, (const float *)(const void *)(page + layout->value_scales), begin, end);
}

/* sums += p V for `rows` rows from `row`: positions that all of them see in one go, the others
 * singly, in order for each row. */
static void attention_values(const struct attention_tile *tile, struct attention_state *s, int row,
                             int rows, const uint8_t *v)
{
    const struct kv_layout *layout = tile->layout;
    const float *p[PRODUCT_ROWS];
    size_t stride = (size_t)layout->value_stride;
    float *sums = s->sums + stride * (size_t)row;
    int common_from = 0, common_to = KV_BLOCK_TOKENS;

    for (int r = 0; r < rows; r++) {
        p[r] = s->scores + KV_BLOCK_TOKENS * (row + r);
        if (s->from[row + r] > common_from) common_from = s->from[row + r];
        if (s->to[row + r] < common_to) common_to = s->to[row + r];
    }
    if (common_to < common_from) common_to = common_from;
    for (int pass = 0; pass < 3; pass++) {
        if (pass == 1) {
            const uint8_t *from = v + (size_t)common_from * stride * layout->element_bytes;
            product(layout, rows, true, p, (size_t)common_from, from, stride,
                    common_to - common_from, sums, stride, layout->value_stride);
            continue;
        }
        for (int r = 0; r < rows; r++) {
            int from = s->from[row + r], to = s->to[row + r];
            if (pass == 0 && to > common_from) to = common_from;
            if (pass == 2 && from < common_to) from = common_to;
            if (from >= to) continue;
            product(layout, 1, true, p + r, (size_t)from,
                    v + (size_t)from * stride * layout->element_bytes, stride, to - from,
                    sums + stride * (size_t)r, stride, layout->value_stride);
        }
    }
}

/* Which positions of the block that starts at `base` each row sees; false: none sees any. */
static bool attention_ranges(const struct attention_tile *tile, struct attention_state *s, int row,
                             int rows, int base, int *from, int *to)
{
    *from = KV_BLOCK_TOKENS;
    *to = 0;
    for (int r = row; r < row + rows; r++) {
        int first = tile->first[r] - base, end = tile->last[r] + 1 - base;
        s->from[r] = first < 0 ? 0 : first;
        s->to[r] = end > KV_BLOCK_TOKENS ? KV_BLOCK_TOKENS : end;
        if (s->from[r] >= s->to[r]) {
            s->from[r] = s->to[r] = 0;
            continue;
        }
        if (s->from[r] < *from) *from = s->from[r];
        if (s->to[r] > *to) *to = s->to[r];
    }
    return *from < *to;
}

static void attention_block(const struct attention_tile *tile, struct attention_state *s, int block)
{
    const struct kv_layout *layout = tile->layout;
    const uint8_t *page = tile->pages + (size_t)tile->blocks[block] * tile->page_bytes;
    int rows, from, to;

    for (int row = 0; row < tile->rows; row += rows) {
        int left = tile->rows - row;
        rows = left >= 6 ? 6 : left == 5 ? 4 : left;
        if (!attention_ranges(tile, s, row, rows, block * KV_BLOCK_TOKENS, &from, &to)) continue;
        from &= ~15;
        to = (to + 15) & ~15;
        product(layout, rows, false, tile->q + row, 0, page + (size_t)from * layout->element_bytes,
                KV_BLOCK_TOKENS, layout->head_dim, s->scores + KV_BLOCK_TOKENS * row + from,
                KV_BLOCK_TOKENS, to - from);
        for (int r = row; r < row + rows; r++)
            if (s->from[r] < s->to[r]) attention_softmax(tile, s, r, page);
        attention_values(tile, s, row, rows, page + layout->values);
    }
}

static void attend(const struct attention_tile *tile)
{
    const struct kv_layout *layout = tile->layout;
    struct attention_state s = {.scores = tile->scratch};
    int first = tile->first[0], last = tile->last[0];

    s.sums = s.scores + (size_t)tile->rows * KV_BLOCK_TOKENS;
    memset(s.sums, 0, (size_t)tile->rows * (size_t)layout->value_stride * sizeof(float));
    for (int r = 0; r < tile->rows; r++) {
        s.max[r] = tile->sink[r];
        s.total[r] = tile->sink[r] > -INFINITY ? 1.0f : 0.0f; // the sink's e^0
        if (tile->first[r] < first) first = tile->first[r];
        if (tile->last[r] > last) last = tile->last[r];
    }
    for (int block = first / KV_BLOCK_TOKENS; block <= last / KV_BLOCK_TOKENS; block++)
        attention_block(tile, &s, block);
    for (int r = 0; r < tile->rows; r++) {
        struct vf inverse = vf_set1(1.0f / s.total[r]);
        const float *sums = s.sums + (size_t)layout->value_stride * (size_t)r;
        for (int i = 0; i < layout->value_dim; i += 16)
            vf_store_n(tile->o[r] + i, vf_mul(vf_load(sums + i), inverse), layout->value_dim - i);
    }
}

#endif
