/* cuda_product_scene.cuh - matrices of every type in a file's form and the device's, inputs, outputs, and how far
 * a product's outputs are from float64: for the tests of products. */
#ifndef LM_TESTS_KERNELS_CUDA_PRODUCT_SCENE_CUH
#define LM_TESTS_KERNELS_CUDA_PRODUCT_SCENE_CUH

#include <math.h>

#include "kernels/cuda/cuda_pack.h"
#include "kernels/cuda/cuda_product.h"
#include "kernels/quant.h"
#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

struct source { // a matrix as a file has it
    struct matrix m;
    uint8_t *bytes;
    struct grid *grid;
};

#define GRID_ROWS 4  // of a block of scales
#define GRID_COLS 64 // likewise

struct grid {
    struct scale_grid g;
    float scale[];
};

inline float unit(struct rng *r)
{
    return (float)(rng_unit(r) * 2 - 1);
}

inline void put_half(uint8_t *at, float f)
{
    uint16_t h = quant_float_to_half(f);
    memcpy(at, &h, sizeof h);
}

/* Scales for bytes that make weights up to one, of a larger matrix that begins before this one. */
inline struct grid *random_grid(struct rng *r, const struct matrix *m)
{
    int down = (int)(m->grid_row + m->rows) / GRID_ROWS + 1;
    int across = (int)(m->grid_col + m->cols) / GRID_COLS + 1;
    size_t count = (size_t)down * (size_t)across;
    struct grid *grid = (struct grid *)xmalloc(sizeof *grid + count * sizeof(float));

    grid->g = {grid->scale, across, GRID_ROWS, GRID_COLS};
    for (size_t i = 0; i < count; i++)
        grid->scale[i] = unit(r) / 448;
    return grid;
}

/* Random blocks with scales that make weights up to about one. */
inline struct source random_source(struct rng *r, enum dtype type, int rows, int cols, int grid_col)
{
    struct source s = {};
    s.m.type = type;
    s.m.rows = rows;
    s.m.cols = cols;
    size_t bytes = matrix_bytes(&s.m), block = (size_t)dtype_block_bytes(type);
    s.bytes = (uint8_t *)xmalloc(bytes);
    for (size_t at = 0; at < bytes; at += block) {
        for (size_t i = 0; i < block; i++)
            s.bytes[at + i] = (uint8_t)rng_u64(r);
        float f = unit(r);
        uint16_t half = quant_float_to_bf16(f);
        if (type == DTYPE_F32) memcpy(s.bytes + at, &f, sizeof f);
        if (type == DTYPE_BF16) memcpy(s.bytes + at, &half, sizeof half);
        if (type == DTYPE_F16) put_half(s.bytes + at, f);
        if (type == DTYPE_Q8_0) put_half(s.bytes + at, f / 127);
        if (type == DTYPE_Q4_0 || type == DTYPE_Q4_1) put_half(s.bytes + at, f / 8);
        if (type == DTYPE_Q4_1) put_half(s.bytes + at + 2, unit(r));
        if (type == DTYPE_Q4_K) put_half(s.bytes + at, f / 500), put_half(s.bytes + at + 2, f / 60);
        if (type == DTYPE_F8_E4M3 && (s.bytes[at] & 0x7f) == 0x7f) s.bytes[at] ^= 1; // no NaN
    }
    if (type == DTYPE_F8_E4M3) {
        s.m.grid_row = GRID_ROWS - 1;
        s.m.grid_col = grid_col;
        s.grid = random_grid(r, &s.m);
        s.m.grid = &s.grid->g;
    }
    s.m.data = s.bytes;
    return s;
}

inline void *to_device(const void *host, size_t bytes)
{
    void *p = NULL;
    NEED(cudaMalloc(&p, bytes + 256) == cudaSuccess);
    NEED(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice) == cudaSuccess);
    return p;
}

inline struct cuda_weight upload(const struct source *s, enum cuda_real real)
{
    struct cuda_weight w = cuda_pack_shape(&s->m, 1, real);
    size_t row = cuda_row_bytes(&w), scale = cuda_row_scale_bytes(&w);
    uint8_t *data = (uint8_t *)xmalloc(row * (size_t)w.rows);
    uint8_t *scales = (uint8_t *)xcalloc(scale * (size_t)w.rows + 1, 1);
    float *floats = (float *)xmalloc((size_t)w.cols * sizeof *floats);
    for (int i = 0; i < w.rows; i++)
        EXPECT(cuda_pack_row(&w, &s->m, i, data + (size_t)i * row, scales + (size_t)i * scale,
                             floats));
    w.data = to_device(data, row * (size_t)w.rows);
    if (scale) w.scales = to_device(scales, scale * (size_t)w.rows);
    free(data);
    free(scales);
    free(floats);
    return w;
}

/* ---- one case ---- */

struct product_case {
    enum dtype type;
    int rows, cols, inputs; // of the weights; rows of the input
    int parts, experts = 0; // experts 0: none
    bool in_is_float = false, mma = false;
    bool same_rows = false;  // of all parts; else each has three more
    int grid_col = 0;        // F8_E4M3: where in blocks of GRID_COLS the columns begin
    bool in_is_half = false; // inputs of float16; neither: of bfloat16
};

#define EXPERTS_MAX 80
#define ROUTES_MAX  512

inline enum cuda_real real_of(const struct product_case *c)
{
    return c->in_is_float ? CUDA_REAL_F32 : c->in_is_half ? CUDA_REAL_F16 : CUDA_REAL_BF16;
}

inline uint16_t to_16(enum cuda_real real, float v)
{
    return real == CUDA_REAL_F16 ? quant_float_to_half(v) : quant_float_to_bf16(v);
}

inline float from_16(enum cuda_real real, uint16_t v)
{
    return real == CUDA_REAL_F16 ? quant_half_to_float(v) : quant_bf16_to_float(v);
}

struct product_scene {
    struct source source[CUDA_PARTS_MAX];
    struct cuda_product p;
    float *x; // [inputs][cols], as the device reads it
    float *out[CUDA_PARTS_MAX], *bias[CUDA_PARTS_MAX];
    int first[EXPERTS_MAX + 1], in_row[ROUTES_MAX];
};

/* Expert e has rows[e] of the rows, which come from others in reverse. */
inline void set_expert_rows(const struct product_case *c, struct product_scene *a, const int *rows)
{
    for (int e = 0; e < c->experts; e++)
        a->first[e + 1] = a->first[e] + rows[e];
    NEED(c->experts <= EXPERTS_MAX && a->first[c->experts] == c->inputs && c->inputs <= ROUTES_MAX);
    for (int i = 0; i < c->inputs; i++)
        a->in_row[i] = c->inputs - 1 - i;
    a->p.experts = c->experts;
    a->p.all_rows = c->inputs;
    a->p.first = (const int *)to_device(a->first, sizeof a->first);
    a->p.in_row = (const int *)to_device(a->in_row, sizeof a->in_row);
}

/* Three experts, of which one has none. */
inline void set_experts(const struct product_case *c, struct product_scene *a)
{
    const int rows[3] = {0, c->inputs / 3, c->inputs - c->inputs / 3};
    set_expert_rows(c, a, rows);
}

inline void set_inputs(const struct product_case *c, struct product_scene *a, struct rng *r)
{
    int stride = (c->cols + 7) / 8 * 8;
    size_t count = (size_t)c->inputs * (size_t)stride;
    float *floats = (float *)xcalloc(count, sizeof *floats);
    uint16_t *halves = (uint16_t *)xcalloc(count, sizeof *halves);

    a->x = (float *)xcalloc((size_t)c->inputs * (size_t)c->cols, sizeof *a->x);
    for (int i = 0; i < c->inputs; i++)
        for (int k = 0; k < c->cols; k++) {
            uint16_t half = to_16(real_of(c), unit(r));
            a->x[i * c->cols + k] = floats[i * stride + k] = from_16(real_of(c), half);
            halves[i * stride + k] = half;
        }
    a->p.in = c->in_is_float ? to_device(floats, count * sizeof *floats)
                             : to_device(halves, count * sizeof *halves);
    a->p.in_stride = stride;
    a->p.in_real = real_of(c);
    a->p.rows = c->inputs;
    free(floats);
    free(halves);
}

inline void set_parts(const struct product_case *c, struct product_scene *a, struct rng *r)
{
    int stack = c->experts ? c->experts : 1;

    a->p.parts = c->parts;
    for (int i = 0; i < c->parts; i++) {
        struct cuda_part *part = &a->p.part[i];
        int rows = c->rows + (c->same_rows ? 0 : 3 * i);
        a->source[i] = random_source(r, c->type, rows * stack, c->cols, c->grid_col);
        part->w = upload(&a->source[i], real_of(c));
        part->w.rows = rows;
        a->bias[i] = (float *)xmalloc((size_t)(rows * stack) * sizeof(float));
        for (int j = 0; j < rows * stack; j++)
            a->bias[i][j] = unit(r);
        part->bias = i == 1 ? NULL : (float *)to_device(a->bias[i], (size_t)(rows * stack) * 4);
        part->out_stride = rows + 1;
        a->out[i] = (float *)xcalloc((size_t)c->inputs * (size_t)part->out_stride, sizeof(float));
        part->out = (float *)to_device(a->out[i], (size_t)c->inputs * (size_t)part->out_stride * 4);
    }
}

inline int expert_of(const struct product_scene *a, int row)
{
    int e = 0;
    while (a->p.experts && row >= a->first[e + 1])
        e++;
    return e;
}

/* The largest error as a share of the sum of magnitudes. */
inline double error_of(const struct product_case *c, const struct product_scene *a, int part)
{
    const struct cuda_part *p = &a->p.part[part];
    float *w = (float *)xmalloc((size_t)c->cols * sizeof *w);
    double worst = 0;

    for (int in = 0; in < c->inputs; in++) {
        const float *x = a->x + (a->p.experts ? a->in_row[in] : in) * c->cols;
        for (int row = 0; row < p->w.rows; row++) {
            int at = expert_of(a, in) * p->w.rows + row;
            double want = p->bias ? (double)a->bias[part][at] : 0, size = 1e-30 + fabs(want);
            quant_dequantize_matrix_row(&a->source[part].m, at, w);
            for (int k = 0; k < c->cols; k++) {
                want += (double)w[k] * (double)x[k];
                size += fabs((double)w[k] * (double)x[k]);
            }
            double got = (double)a->out[part][in * p->out_stride + row];
            worst = fmax(worst, fabs(got - want) / size);
        }
    }
    free(w);
    return worst;
}

inline void scene_free(const struct product_case *c, struct product_scene *a)
{
    cudaFree((void *)a->p.in);
    cudaFree((void *)a->p.first);
    cudaFree((void *)a->p.in_row);
    for (int i = 0; i < c->parts; i++) {
        cudaFree((void *)a->p.part[i].w.data);
        cudaFree((void *)a->p.part[i].w.scales);
        cudaFree((void *)a->p.part[i].bias);
        cudaFree(a->p.part[i].out);
        free(a->source[i].bytes);
        free(a->source[i].grid);
        free(a->bias[i]);
        free(a->out[i]);
    }
    free(a->x);
}

inline bool is_wide(enum dtype type) // columns are whole blocks
{
    return dtype_block_elements(type) > 1 || type == DTYPE_F8_E4M3;
}

/* What is allowed of that. Rounding of 4- and 8-bit weights to bfloat16 on tensor cores, and of Q4_K's scales, is 2^-9 of a weight,
 * which may be a small difference of larger parts; so is that of scaled bytes without a form of their own. Those with
 * one are exact on tensor cores. Float16 has an eighth of it, which is what becomes of float32, too; numbers of
 * bfloat16 below 2^-14 are cut at 2^-25. */
inline double allowed(const struct product_case *c, const struct product_scene *a)
{
    const double rounded = c->in_is_half ? 0.003 / 8 : 0.003;
    enum cuda_form form = a->p.part[0].w.form;

    if (c->type == DTYPE_Q4_K) return 0.01;
    if (c->type == DTYPE_F8_E4M3) return cuda_form_is_in_blocks(form) ? 2e-6 : rounded;
    if (c->type == DTYPE_F32 && form != CUDA_F32) return rounded;
    return c->mma && is_wide(c->type) ? rounded : 2e-6;
}

#endif
