/* weights_fp8.c - block-scaled FP8 (DeepSeek-V3, Qwen3 ...-FP8).
 *
 *     weight           [outputs][inputs] F8_E4M3
 *     weight_scale_inv [outputs / block][inputs / block], rounded up
 *                      W[o][i] = weight * scale (in spite of the name)
 *
 * Source: transformers, integrations/finegrained_fp8.py. */
#include "engine/weights_quantized.h"
#include "kernels/quant.h"
#include "shared/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The values, rounded unless m->exact. */
static void make_floats(struct mapper *m, const struct matrix *stored, struct matrix *out)
{
    enum dtype type = m->exact ? DTYPE_F32 : DTYPE_BF16;
    uint8_t *to = mapper_make_matrix(m, type, stored->rows, stored->cols, out);
    float *floats = xmalloc((size_t)stored->cols * sizeof *floats);
    for (int64_t o = 0; o < stored->rows; o++, to += matrix_row_bytes(type, stored->cols)) {
        quant_dequantize_matrix_row(stored, o, m->exact ? (float *)(void *)to : floats);
        for (int64_t i = 0; !m->exact && i < stored->cols; i++)
            ((uint16_t *)(void *)to)[i] = quant_float_to_bf16(floats[i]);
    }
    free(floats);
}

static const struct scale_grid *keep_grid(struct mapper *m, const struct scale_grid *grid,
                                          int64_t down)
{
    size_t bytes = (size_t)(down * grid->across) * sizeof *grid->scale;
    float *scale = arena_alloc(&m->weights->arena, bytes);
    struct scale_grid *kept = arena_alloc(&m->weights->arena, sizeof *kept);
    memcpy(scale, grid->scale, bytes);
    *kept = *grid;
    kept->scale = scale;
    return kept;
}

static bool read_linear(struct mapper *m, const struct linear_format *f, const char *module,
                        int64_t rows, int64_t cols, struct matrix *out)
{
    char name[TENSOR_NAME_MAX];
    struct tensor_view t;
    struct scale_grid grid = {.across = weights_quantized_groups(f->block_cols, cols),
                              .block_rows = f->block_rows,
                              .block_cols = f->block_cols};
    int64_t down = weights_quantized_groups(f->block_rows, rows);
    snprintf(name, sizeof name, "%s.weight_scale_inv", module);
    if (!mapper_find(m, name, OPTIONAL, &t)) return m->rc < 0;
    float *scales = weights_quantized_scales(m, module, ".weight_scale_inv", down, grid.across);
    if (!scales) return true;
    grid.scale = scales;
    snprintf(name, sizeof name, "%s.weight", module);
    if (mapper_find_typed(m, name, REQUIRED, "F8_E4M3", rows, cols, &t)) {
        struct matrix stored = {.type = DTYPE_F8_E4M3, .rows = rows, .cols = cols, .data = t.data};
        stored.grid = &grid;
        if (m->keeps_grids && !m->exact) {
            *out = stored;
            out->grid = keep_grid(m, &grid, down);
        } else {
            make_floats(m, &stored, out);
        }
    }
    free(scales);
    return true;
}

void weights_fp8_format(struct config_reader *r, struct linear_format *out)
{
    const struct json *block = config_get(r, "weight_block_size"), *first = json_first(block);
    const char *scheme = "dynamic", *fmt = "e4m3";
    config_string(r, "activation_scheme", &scheme);
    config_string(r, "fmt", &fmt);
    if (r->rc == 0 && (strcmp(scheme, "dynamic") != 0 || strcmp(fmt, "e4m3") != 0))
        config_fail(r, E_UNSUPPORTED,
                    "fp8 with activation_scheme '%.20s', fmt '%.20s' (dynamic and "
                    "e4m3 are supported)",
                    scheme, fmt);
    if (r->rc == 0 && !block && out->is_asked) {
        out->block_rows = out->block_cols = 128; // DeepSeek-V3's, which everybody took over
        out->read = read_linear;
        return;
    }
    if (r->rc == 0 && (!block || json_len(block) != 2 || json_type(first) != JSON_NUMBER ||
                       json_type(json_next(first)) != JSON_NUMBER))
        config_fail(r, E_UNSUPPORTED, "fp8 without weight_block_size [rows, columns]");
    if (r->rc < 0) return;
    double rows = json_number(first), cols = json_number(json_next(first));
    if (!(rows >= 1 && rows <= MODEL_WIDTH_MAX && cols >= 1 && cols <= MODEL_WIDTH_MAX))
        config_fail(r, E_FORMAT, "weight_block_size is %g x %g", rows, cols);
    else {
        out->block_rows = (int)rows;
        out->block_cols = (int)cols;
    }
    out->read = read_linear;
}
