/* weights_awq.c - AWQ's GEMM layout, 4 bits.
 *
 *     qweight [inputs][outputs / 8] int32   eight outputs in a word, in the order below
 *     qzeros  [groups][outputs / 8] int32   the same
 *     scales  [groups][outputs]             W[o][i] = (q - zero) * scale, group = i / group_size
 *
 * Source: AutoAWQ, awq/modules/linear/gemm.py and awq/utils/packing_utils.py. */
#include "engine/weights_int4.h"
#include "engine/weights_quantized.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Nibble of a word that holds its output 0, 1, ... 7. */
static const int nibble_of[8] = {0, 4, 1, 5, 2, 6, 3, 7};

static void unpack(const struct int4_layer *l, int64_t first, uint8_t *q, uint8_t *zero)
{
    int64_t words = l->rows / 8, word = first / 8;
    for (int64_t i = 0; i < l->cols; i++)
        for (int o = 0; o < INT4_ROWS; o++)
            q[o * l->cols + i] =
                weights_quantized_nibble(l->weight, i * words + word, nibble_of[o]);
    for (int64_t g = 0; g < l->groups; g++)
        for (int o = 0; o < INT4_ROWS; o++)
            zero[o * l->groups + g] =
                weights_quantized_nibble(l->zeros, g * words + word, nibble_of[o]);
}

static bool read_linear(struct mapper *m, const struct linear_format *f, const char *module,
                        int64_t rows, int64_t cols, struct matrix *out)
{
    char name[TENSOR_NAME_MAX];
    struct tensor_view weight, zeros;
    snprintf(name, sizeof name, "%s.qweight", module);
    if (!mapper_find(m, name, OPTIONAL, &weight)) return m->rc < 0;
    if (rows % 8) {
        mapper_fail(m, E_FORMAT, "tensor '%s': %lld outputs don't fill words", name,
                    (long long)rows);
        return true;
    }
    if (!mapper_find_typed(m, name, REQUIRED, "I32", cols, rows / 8, &weight)) return true;
    int group_size = weights_quantized_group_size(m, f, module, cols);
    if (group_size == 0) return true;
    int64_t groups = weights_quantized_groups(group_size, cols);
    snprintf(name, sizeof name, "%s.qzeros", module);
    if (!mapper_find_typed(m, name, REQUIRED, "I32", groups, rows / 8, &zeros)) return true;
    float *scales = weights_quantized_scales(m, module, ".scales", groups, rows);
    if (!scales) return true;
    int32_t *group = weights_quantized_in_order(group_size, cols);
    struct int4_layer layer = {rows,   cols,  groups, weight.data, zeros.data,
                               scales, group, 0,      unpack};
    weights_int4_make(m, &layer, out);
    free(group);
    free(scales);
    return true;
}

void weights_awq_format(struct config_reader *r, struct linear_format *out)
{
    const char *version = "gemm";
    int bits = 4;
    bool zero_point = true;
    if (!out->is_asked) config_require(r, "bits");
    config_int(r, "bits", 1, 16, &bits);
    config_int(r, "group_size", -1, MODEL_WIDTH_MAX, &out->group);
    config_bool(r, "zero_point", &zero_point);
    config_string(r, "version", &version);
    if (r->rc == 0 && (bits != 4 || !zero_point || strcmp(version, "gemm") != 0))
        config_fail(
            r, E_UNSUPPORTED,
            "awq with bits %d, version '%.20s', zero_point %d (4 bits, gemm, with zero points are "
            "supported)",
            bits, version, zero_point);
    out->read = read_linear;
}
