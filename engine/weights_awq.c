/* weights_awq.c - AWQ's GEMM layout, 4 bits.
 *
 *     qweight [inputs][outputs / 8] int32   eight outputs in a word, in the order below
 *     qzeros  [groups][outputs / 8] int32   the same
 *     scales  [groups][outputs]             W[o][i] = (q - zero) * scale, group = i / group_size
 *
 * Source: AutoAWQ, awq/modules/linear/gemm.py and awq/utils/packing_utils.py. */
#include "engine/weights_quantized.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Nibble of a word that holds its output 0, 1, ... 7. */
static const int nibble_of[8] = {0, 4, 1, 5, 2, 6, 3, 7};

struct awq_tensors {
    struct tensor_view weight, zeros;
    const float *scales;
};

/* Eight rows of the matrix: what one column of words holds. */
static void unpack_column(const struct awq_tensors *t, int group, int64_t word, int64_t rows,
                          int64_t cols, float *out)
{
    int64_t words = rows / 8;
    for (int64_t i = 0; i < cols; i++) {
        int64_t g = group < 0 ? 0 : i / group;
        const float *scale = t->scales + g * rows + 8 * word;
        for (int o = 0; o < 8; o++) {
            int q = weights_quantized_nibble(t->weight.data, i * words + word, nibble_of[o]);
            int zero = weights_quantized_nibble(t->zeros.data, g * words + word, nibble_of[o]);
            out[(8 * word + o) * cols + i] = (float)(q - zero) * scale[o];
        }
    }
}

static bool read_linear(struct mapper *m, const struct linear_format *f, const char *module,
                        int64_t rows, int64_t cols, struct matrix *out)
{
    char name[TENSOR_NAME_MAX];
    struct awq_tensors t;
    int64_t groups = weights_quantized_groups(f->group, cols);
    snprintf(name, sizeof name, "%s.qweight", module);
    if (!mapper_find(m, name, OPTIONAL, &t.weight)) return m->rc < 0;
    if (rows % 8) {
        mapper_fail(m, E_FORMAT, "tensor '%s': %lld outputs don't fill words", name,
                    (long long)rows);
        return true;
    }
    if (!mapper_find_typed(m, name, REQUIRED, "I32", cols, rows / 8, &t.weight)) return true;
    snprintf(name, sizeof name, "%s.qzeros", module);
    if (!mapper_find_typed(m, name, REQUIRED, "I32", groups, rows / 8, &t.zeros)) return true;
    float *scales = weights_quantized_scales(m, module, ".scales", groups, rows);
    if (!scales) return true;
    t.scales = scales;
    float *values = mapper_make_matrix(m, DTYPE_F32, rows, cols, out);
    for (int64_t word = 0; word < rows / 8; word++)
        unpack_column(&t, f->group, word, rows, cols, values);
    free(scales);
    return true;
}

void weights_awq_format(struct config_reader *r, struct linear_format *out)
{
    const char *version = "gemm";
    int bits = 0;
    bool zero_point = true;
    config_require(r, "bits");
    config_int(r, "bits", 1, 16, &bits);
    config_int(r, "group_size", -1, MODEL_WIDTH_MAX, &out->group);
    config_bool(r, "zero_point", &zero_point);
    config_string(r, "version", &version);
    if (r->rc == 0 && (bits != 4 || !zero_point || out->group == 0 || strcmp(version, "gemm") != 0))
        config_fail(
            r, E_UNSUPPORTED,
            "awq with bits %d, version '%.20s', zero_point %d, group_size %d (4 bits, gemm, "
            "with zero points are supported)",
            bits, version, zero_point, out->group);
    out->read = read_linear;
}
