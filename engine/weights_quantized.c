#include "engine/weights_quantized.h"

#include "kernels/quant.h"
#include "shared/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *method;
    void (*fill)(struct config_reader *r, struct linear_format *out);
} methods[] = {
    {"awq", weights_awq_format},
    {"gptq", weights_gptq_format},
    {"fp8", weights_fp8_format},
    {"mxfp4", weights_mxfp4_format},
};

int weights_quantized_format(const struct json *config, struct linear_format *out, bool *found,
                             struct error *err)
{
    struct config_reader r = {json_get_set(config, "quantization_config"), err, 0};
    const char *method = "";
    *found = r.object != NULL;
    if (!*found) return 0;
    config_require(&r, "quant_method");
    config_string(&r, "quant_method", &method);
    for (size_t i = 0; r.rc == 0 && i < ARRAY_LEN(methods); i++) {
        if (strcmp(methods[i].method, method) != 0) continue;
        *out = (struct linear_format){.name = methods[i].method, .group = -1};
        methods[i].fill(&r, out);
        return r.rc < 0 ? error_prefix(err, r.rc, "'quantization_config'") : 0;
    }
    config_fail(&r, E_UNSUPPORTED,
                "quantisation '%.40s' is not supported (awq, gptq, fp8, mxfp4 are)", method);
    return error_prefix(err, r.rc, "'quantization_config'");
}

int32_t *weights_quantized_in_order(int group, int64_t cols)
{
    int32_t *of = xmalloc((size_t)cols * sizeof *of);
    for (int64_t i = 0; i < cols; i++)
        of[i] = group < 0 ? 0 : (int32_t)(i / group);
    return of;
}

float *weights_quantized_scales(struct mapper *m, const char *module, const char *suffix,
                                int64_t rows, int64_t cols)
{
    char name[TENSOR_NAME_MAX];
    struct tensor_view t;
    snprintf(name, sizeof name, "%s%s", module, suffix);
    if (!mapper_find(m, name, REQUIRED, &t)) return NULL;
    if (!t.readable || t.dims != 2 || t.dim[0] != rows || t.dim[1] != cols) {
        mapper_fail(m, E_FORMAT, "tensor '%s' is not [%lld, %lld] of a float type", name,
                    (long long)rows, (long long)cols);
        return NULL;
    }
    float *scales = xmalloc((size_t)(rows * cols) * sizeof *scales);
    quant_dequantize_row(t.type, t.data, scales, rows * cols);
    return scales;
}
