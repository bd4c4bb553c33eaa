/* weights_latent.c - latent attention's kv_b out of two tensors.
 *
 *     k_b  [heads][kv_rank][key]     a head's rows of keys, transposed
 *     v_b  [heads][value][kv_rank]   its rows of values
 *     kv_b [heads][key + value][kv_rank]
 *
 * llama.cpp's converter splits it so that queries can be multiplied by k_b in the place of keys (conversion/
 * deepseek.py). Here K and V are made whole, by kv_b. */
#include "engine/weights_latent.h"

#include "engine/tensor_names.h"
#include "kernels/quant.h"
#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

struct split_kv {
    struct tensor_view k, v; // [heads][cols][key], [heads][value][cols]
    int64_t heads, key, value, cols;
};

/* Elements of one type of floats: only their places change. */
static void join_kv_as_stored(const struct split_kv *s, uint8_t *to)
{
    const size_t element = (size_t)dtype_block_bytes(s->k.type);
    const size_t values = (size_t)(s->value * s->cols) * element;
    for (int64_t h = 0; h < s->heads; h++, to += values) {
        const uint8_t *k = (const uint8_t *)s->k.data + (size_t)(h * s->cols * s->key) * element;
        for (int64_t row = 0; row < s->key; row++)
            for (int64_t i = 0; i < s->cols; i++, to += element)
                memcpy(to, k + (size_t)(i * s->key + row) * element, element);
        memcpy(to, (const uint8_t *)s->v.data + (size_t)h * values, values);
    }
}

/* Quantised ones have their blocks along the other side: as float32, or rounded to float16. */
static void join_kv_as_floats(const struct split_kv *s, bool exact, uint8_t *to)
{
    int64_t keys = s->key * s->cols, values = s->value * s->cols;
    float *k = xmalloc((size_t)keys * sizeof *k),
          *rows = xmalloc((size_t)(keys + values) * sizeof *k);
    size_t k_bytes = (size_t)s->cols * matrix_row_bytes(s->k.type, s->key);
    size_t v_bytes = (size_t)s->value * matrix_row_bytes(s->v.type, s->cols);
    for (int64_t h = 0; h < s->heads; h++) {
        quant_dequantize_row(s->k.type, (const uint8_t *)s->k.data + (size_t)h * k_bytes, k, keys);
        for (int64_t i = 0; i < keys; i++)
            rows[i % s->key * s->cols + i / s->key] = k[i];
        quant_dequantize_row(s->v.type, (const uint8_t *)s->v.data + (size_t)h * v_bytes,
                             rows + keys, values);
        for (int64_t i = 0; i < keys + values; i++) {
            uint16_t half = quant_float_to_half(rows[i]);
            memcpy(to, exact ? (void *)&rows[i] : (void *)&half,
                   exact ? sizeof *rows : sizeof half);
            to += exact ? sizeof *rows : sizeof half;
        }
    }
    free(k);
    free(rows);
}

struct matrix weights_latent_join(struct mapper *m)
{
    const struct model_config *c = &m->weights->config;
    const struct latent_config *a = &c->latent;
    struct split_kv s = {.heads = c->heads,
                         .key = c->head_dim - a->rope_dims,
                         .value = a->value_dim,
                         .cols = a->kv_rank};
    struct matrix out = {0};
    char name[TENSOR_NAME_MAX];
    mapper_name(m, c->names->k_b, ".weight", name);
    if (!mapper_find_stacked(m, name, s.heads, s.cols, s.key, &s.k)) return out;
    mapper_name(m, c->names->v_b, ".weight", name);
    if (!mapper_find_stacked(m, name, s.heads, s.value, s.cols, &s.v)) return out;
    bool as_stored = s.k.type == s.v.type && dtype_block_elements(s.k.type) == 1;
    enum dtype type = as_stored ? s.k.type : m->exact ? DTYPE_F32 : DTYPE_F16;
    uint8_t *to = mapper_make_matrix(m, type, s.heads * (s.key + s.value), s.cols, &out);
    if (as_stored)
        join_kv_as_stored(&s, to);
    else
        join_kv_as_floats(&s, m->exact, to);
    return out;
}
