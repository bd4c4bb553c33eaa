#include "engine/weights_int4.h"

#include "kernels/quant.h"
#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK       32
#define BLOCK_BYTES 20 // Q4_1: half d, half m, 16 bytes with element j low and j + 16 high

static bool is_half(float value)
{
    return quant_half_to_float(quant_float_to_half(value)) == value;
}

/* Column c of the matrix is input order[c], or c without an order. */
static int64_t input_at(const int32_t *order, int64_t c)
{
    return order ? order[c] : c;
}

static bool fits_blocks(const struct int4_layer *l, const int32_t *order)
{
    if (l->cols % BLOCK) return false;
    for (int64_t c = 0; c < l->cols; c++)
        if (l->group[input_at(order, c)] != l->group[input_at(order, c / BLOCK * BLOCK)])
            return false;
    for (int64_t i = 0; i < l->groups * l->rows; i++)
        if (!is_half(l->scales[i])) return false;
    return true;
}

/* Inputs by group, and within a group as they came. */
static const int32_t *order_of(struct mapper *m, const struct int4_layer *l)
{
    int32_t *order = arena_alloc(&m->weights->arena, (size_t)l->cols * sizeof *order);
    int64_t *next = xcalloc((size_t)l->groups + 1, sizeof *next);
    for (int64_t i = 0; i < l->cols; i++)
        next[l->group[i] + 1]++;
    for (int64_t g = 0; g < l->groups; g++)
        next[g + 1] += next[g];
    for (int64_t i = 0; i < l->cols; i++)
        order[next[l->group[i]]++] = (int32_t)i;
    free(next);
    return order;
}

/* Whether it becomes blocks, and in which order of its input. */
static bool choose_order(struct mapper *m, const struct int4_layer *l, const int32_t **order)
{
    struct input_order *input = m->input;
    *order = input ? input->order : NULL;
    if (fits_blocks(l, *order)) {
        if (input) input->is_decided = true;
        return true;
    }
    if (!input || m->plain_inputs || input->is_decided || l->cols % BLOCK) return false;
    *order = order_of(m, l);
    if (!fits_blocks(l, *order)) return false;
    *input = (struct input_order){true, *order};
    return true;
}

/* One output: its integers, and by group its zero as stored and its scale. */
struct row {
    const uint8_t *q, *zero;
    const float *scale; // stride l->rows
};

static float scale_of(const struct int4_layer *l, const struct row *r, int64_t i)
{
    return r->scale[l->group[i] * l->rows];
}

static int zero_of(const struct int4_layer *l, const struct row *r, int64_t i)
{
    return r->zero[l->group[i]] + l->zero_offset;
}

static void put_floats(const struct int4_layer *l, const struct row *r, void *to)
{
    float *out = to;
    for (int64_t i = 0; i < l->cols; i++)
        out[i] = (float)(r->q[i] - zero_of(l, r, i)) * scale_of(l, r, i);
}

static void put_blocks(const struct int4_layer *l, const struct row *r, const int32_t *order,
                       void *to)
{
    uint8_t *out = to;
    for (int64_t c = 0; c < l->cols; c += BLOCK, out += BLOCK_BYTES) {
        int64_t i = input_at(order, c);
        float scale = scale_of(l, r, i);
        uint16_t d = quant_float_to_half(scale);
        uint16_t m = quant_float_to_half((float)-zero_of(l, r, i) * scale);
        memcpy(out, &d, sizeof d);
        memcpy(out + 2, &m, sizeof m);
        for (int j = 0; j < BLOCK / 2; j++)
            out[4 + j] = (uint8_t)(r->q[input_at(order, c + j)] |
                                   r->q[input_at(order, c + j + BLOCK / 2)] << 4);
    }
}

void weights_int4_make(struct mapper *m, const struct int4_layer *l, struct matrix *out)
{
    const int32_t *order = NULL;
    bool as_blocks = !m->exact && choose_order(m, l, &order);
    enum dtype type = as_blocks ? DTYPE_Q4_1 : DTYPE_F32;
    uint8_t *to = mapper_make_matrix(m, type, l->rows, l->cols, out);
    size_t row_bytes = matrix_row_bytes(type, l->cols);
    uint8_t *q = xmalloc(INT4_ROWS * (size_t)l->cols);
    uint8_t *zero = xmalloc(INT4_ROWS * (size_t)l->groups);
    CHECK(l->rows % INT4_ROWS == 0);
    for (int64_t first = 0; first < l->rows; first += INT4_ROWS) {
        l->unpack(l, first, q, zero);
        for (int o = 0; o < INT4_ROWS; o++, to += row_bytes) {
            struct row r = {q + o * l->cols, zero + o * l->groups, l->scales + first + o};
            if (as_blocks)
                put_blocks(l, &r, order, to);
            else
                put_floats(l, &r, to);
        }
    }
    free(q);
    free(zero);
}
