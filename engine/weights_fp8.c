/* weights_fp8.c - block-scaled FP8 (DeepSeek-V3, Qwen3 ...-FP8).
 *
 *     weight           [outputs][inputs] F8_E4M3: sign, 4 bits of exponent (bias 7), 3 of mantissa;
 *                      no infinities, all ones is NaN
 *     weight_scale_inv [outputs / block][inputs / block], rounded up
 *                      W[o][i] = weight * scale (in spite of the name)
 *
 * Source: transformers, integrations/finegrained_fp8.py; OCP 8-bit floating point, E4M3. */
#include "engine/weights_quantized.h"
#include "kernels/quant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static float e4m3(uint8_t bits)
{
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float magnitude =
        exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
    if (exponent == 15 && mantissa == 7) magnitude = NAN;
    return bits & 0x80 ? -magnitude : magnitude;
}

static void put_row(const uint8_t *from, const float table[256], const float *scales, int block,
                    int64_t cols, bool exact, void *to)
{
    float *floats = to;
    uint16_t *halves = to;
    for (int64_t i = 0; i < cols; i++) {
        float value = table[from[i]] * scales[i / block];
        if (exact)
            floats[i] = value;
        else
            halves[i] = quant_float_to_bf16(value);
    }
}

static bool read_linear(struct mapper *m, const struct linear_format *f, const char *module,
                        int64_t rows, int64_t cols, struct matrix *out)
{
    char name[TENSOR_NAME_MAX];
    struct tensor_view t;
    int64_t across = weights_quantized_groups(f->block_cols, cols);
    snprintf(name, sizeof name, "%s.weight_scale_inv", module);
    if (!mapper_find(m, name, OPTIONAL, &t)) return m->rc < 0;
    float *scales = weights_quantized_scales(m, module, ".weight_scale_inv",
                                             weights_quantized_groups(f->block_rows, rows), across);
    if (!scales) return true;
    snprintf(name, sizeof name, "%s.weight", module);
    if (mapper_find_typed(m, name, REQUIRED, "F8_E4M3", rows, cols, &t)) {
        enum dtype type = m->exact ? DTYPE_F32 : DTYPE_BF16;
        uint8_t *to = mapper_make_matrix(m, type, rows, cols, out);
        const uint8_t *from = t.data;
        float table[256];
        for (int i = 0; i < 256; i++)
            table[i] = e4m3((uint8_t)i);
        for (int64_t o = 0; o < rows; o++, from += cols, to += matrix_row_bytes(type, cols))
            put_row(from, table, scales + o / f->block_rows * across, f->block_cols, cols, m->exact,
                    to);
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
