/* weights_gptq.c - GPTQ, 4 bits, with and without act order.
 *
 *     qweight [inputs / 8][outputs] int32   eight inputs in a word, lowest nibble first
 *     qzeros  [groups][outputs / 8] int32   eight outputs in a word; format v1 stores zero - 1
 *     scales  [groups][outputs]             W[o][i] = (q - zero) * scale, group = g_idx[i]
 *     g_idx   [inputs] int32                absent: i / group_size
 *
 * Source: AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py (v1); GPTQModel for v2, which
 * stores the zeros as they are. */
#include "engine/weights_int4.h"
#include "engine/weights_quantized.h"
#include "shared/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void unpack(const struct int4_layer *l, int64_t first, uint8_t *q, uint8_t *zero)
{
    for (int64_t i = 0; i < l->cols; i++)
        for (int o = 0; o < INT4_ROWS; o++)
            q[o * l->cols + i] =
                weights_quantized_nibble(l->weight, i / 8 * l->rows + first + o, (int)(i % 8));
    for (int64_t g = 0; g < l->groups; g++)
        for (int o = 0; o < INT4_ROWS; o++)
            zero[o * l->groups + g] =
                weights_quantized_nibble(l->zeros, g * (l->rows / 8) + first / 8, o);
}

/* malloc'ed; NULL: a failure in m. */
static int32_t *read_groups(struct mapper *m, const char *module, int group_size, int64_t cols,
                            int64_t groups)
{
    char name[TENSOR_NAME_MAX];
    struct tensor_view t;
    int32_t *group = weights_quantized_in_order(group_size, cols);
    snprintf(name, sizeof name, "%s.g_idx", module);
    if (!mapper_find(m, name, OPTIONAL, &t)) return group;
    if (strcmp(t.type_name, "I32") != 0 || t.dims != 1 || t.dim[0] != cols) {
        mapper_fail(m, E_FORMAT, "tensor '%s' is not [%lld] of I32", name, (long long)cols);
    } else {
        memcpy(group, t.data, (size_t)cols * sizeof *group);
        for (int64_t i = 0; i < cols; i++)
            if (group[i] < 0 || group[i] >= groups)
                mapper_fail(m, E_FORMAT, "tensor '%s' names group %d of %lld", name, group[i],
                            (long long)groups);
    }
    if (m->rc == 0) return group;
    free(group);
    return NULL;
}

static bool read_linear(struct mapper *m, const struct linear_format *f, const char *module,
                        int64_t rows, int64_t cols, struct matrix *out)
{
    char name[TENSOR_NAME_MAX];
    struct tensor_view weight, zeros;
    snprintf(name, sizeof name, "%s.qweight", module);
    if (!mapper_find(m, name, OPTIONAL, &weight)) return m->rc < 0;
    if (rows % 8 || cols % 8) {
        mapper_fail(m, E_FORMAT, "tensor '%s': %lld x %lld elements don't fill words", name,
                    (long long)rows, (long long)cols);
        return true;
    }
    if (!mapper_find_typed(m, name, REQUIRED, "I32", cols / 8, rows, &weight)) return true;
    int group_size = weights_quantized_group_size(m, f, module, cols);
    if (group_size == 0) return true;
    int64_t groups = weights_quantized_groups(group_size, cols);
    snprintf(name, sizeof name, "%s.qzeros", module);
    if (!mapper_find_typed(m, name, REQUIRED, "I32", groups, rows / 8, &zeros)) return true;
    float *scales = weights_quantized_scales(m, module, ".scales", groups, rows);
    int32_t *group = scales ? read_groups(m, module, group_size, cols, groups) : NULL;
    if (group) {
        struct int4_layer layer = {rows,   cols,  groups,         weight.data, zeros.data,
                                   scales, group, f->zero_offset, unpack};
        weights_int4_make(m, &layer, out);
    }
    free(group);
    free(scales);
    return true;
}

void weights_gptq_format(struct config_reader *r, struct linear_format *out)
{
    const char *version = "gptq";
    int bits = 4;
    if (!out->is_asked) config_require(r, "bits");
    config_int(r, "bits", 1, 16, &bits);
    config_int(r, "group_size", -1, MODEL_WIDTH_MAX, &out->group);
    config_string(r, "checkpoint_format", &version);
    bool is_v1 = strcmp(version, "gptq") == 0;
    if (r->rc == 0 && (bits != 4 || (!is_v1 && strcmp(version, "gptq_v2") != 0)))
        config_fail(r, E_UNSUPPORTED,
                    "gptq with bits %d, checkpoint_format '%.20s' (4 bits, gptq and gptq_v2 are "
                    "supported)",
                    bits, version);
    out->zero_offset = is_v1;
    out->read = read_linear;
}
