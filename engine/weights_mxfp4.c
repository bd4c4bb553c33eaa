/* weights_mxfp4.c - gpt-oss' experts: E2M1 elements, 32 of them under one power of two.
 *
 *     <module>_blocks [experts][rows][cols / 32][16] U8   element 2 j is the low nibble of byte j,
 *                                                         2 j + 1 the high one
 *     <module>_scales [experts][rows][cols / 32] U8       W = E2M1 * 2^(scale - 127)
 *
 * Kernels read the same in GGUF's order (DTYPE_MXFP4: the scale, then 16 bytes with element j low and
 * j + 16 high), so blocks are only regrouped. Source: transformers, integrations/mxfp4.py. */
#include "engine/weights_quantized.h"

#include <stdio.h>
#include <string.h>

#define BLOCK 32

struct blocks {
    const uint8_t *elements, *scales; // of one expert
    int64_t per_row;
};

static int element(const uint8_t bytes[BLOCK / 2], int i)
{
    return bytes[i / 2] >> 4 * (i % 2) & 15;
}

static uint8_t *regroup_row(const struct blocks *b, int64_t row, uint8_t *out)
{
    for (int64_t i = row * b->per_row; i < (row + 1) * b->per_row; i++) {
        const uint8_t *from = b->elements + i * (BLOCK / 2);
        *out++ = b->scales[i];
        for (int j = 0; j < BLOCK / 2; j++)
            *out++ = (uint8_t)(element(from, j) | element(from, j + BLOCK / 2) << 4);
    }
    return out;
}

static bool find_bytes(struct mapper *m, const char *module, const char *suffix,
                       enum presence presence, int dims, const int64_t *dim,
                       struct tensor_view *out)
{
    char name[TENSOR_NAME_MAX];
    mapper_name(m, module, suffix, name);
    if (!mapper_find(m, name, presence, out)) return false;
    bool fits = strcmp(out->type_name, "U8") == 0 && out->dims == dims;
    for (int i = 0; fits && i < dims; i++)
        fits = out->dim[i] == dim[i];
    if (!fits)
        mapper_fail(m, E_FORMAT, "tensor '%s' is not U8 of [%lld, %lld, %lld%s]", name,
                    (long long)dim[0], (long long)dim[1], (long long)dim[2],
                    dims == 4 ? ", 16" : "");
    return true;
}

bool weights_mxfp4_experts(struct mapper *m, const char *module, int64_t rows, int64_t cols,
                           int turns, struct matrix *const *out)
{
    int experts = m->weights->config.experts.experts;
    int64_t dim[] = {experts, rows * turns, cols / BLOCK, BLOCK / 2};
    struct tensor_view elements, scales;
    if (!find_bytes(m, module, "_blocks", OPTIONAL, 4, dim, &elements)) return false;
    if (m->rc < 0 || !find_bytes(m, module, "_scales", REQUIRED, 3, dim, &scales)) return true;
    if (cols % BLOCK) mapper_fail(m, E_FORMAT, "rows of %lld elements in mxfp4", (long long)cols);
    if (m->rc < 0) return true;
    struct blocks b = {elements.data, scales.data, cols / BLOCK};
    for (int e = 0; e < experts; e++) {
        for (int turn = 0; turn < turns; turn++) {
            uint8_t *to = mapper_make_matrix(m, DTYPE_MXFP4, rows, cols, &out[turn][e]);
            for (int64_t row = 0; row < rows; row++)
                to = regroup_row(&b, row * turns + turn, to);
        }
        b.elements += rows * turns * b.per_row * (BLOCK / 2);
        b.scales += rows * turns * b.per_row;
    }
    m->weights->parameters += experts * rows * turns * cols;
    if (m->format && !m->format->read) m->format_found = true; // the row of mxfp4
    return true;
}

void weights_mxfp4_format(struct config_reader *r, struct linear_format *out)
{
    (void)r;
    out->read = NULL; // only experts are stored so
}
