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

/* *method: what the linear layers are stored by; "": they aren't quantised. */
static int choose_method(struct config_reader *r, const char *asked, const char **method)
{
    const char *said = "";
    *method = "";
    if (!asked && !r->object) return 0;
    if (!asked) config_require(r, "quant_method");
    config_string(r, "quant_method", &said);
    if (r->rc < 0) return r->rc;
    bool is_plain = asked && strcmp(asked, "hf") == 0;
    if (asked && r->object && (is_plain || (said[0] && strcmp(asked, said) != 0)))
        config_fail(r, E_INVALID, "model format '%s' was asked for, but quant_method is '%.40s'",
                    asked, said);
    if (!is_plain) *method = asked ? asked : said;
    return r->rc;
}

int weights_quantized_format(const struct json *config, const char *asked,
                             struct linear_format *out, bool *found, struct error *err)
{
    struct config_reader r = {json_get_set(config, "quantization_config"), err, 0};
    const char *method;
    *found = false;
    if (choose_method(&r, asked, &method) < 0)
        return error_prefix(err, r.rc, "'quantization_config'");
    if (!method[0] && !(r.object && !asked)) return 0;
    *found = true;
    for (size_t i = 0; r.rc == 0 && i < ARRAY_LEN(methods); i++) {
        if (strcmp(methods[i].method, method) != 0) continue;
        *out = (struct linear_format){.name = methods[i].method, .is_asked = asked != NULL};
        methods[i].fill(&r, out);
        return r.rc < 0 ? error_prefix(err, r.rc, "'quantization_config'") : 0;
    }
    config_fail(&r, E_UNSUPPORTED,
                "quantisation '%.40s' is not supported (awq, gptq, fp8, mxfp4 are)", method);
    return error_prefix(err, r.rc, "'quantization_config'");
}

int weights_quantized_group_size(struct mapper *m, const struct linear_format *f,
                                 const char *module, int64_t cols)
{
    char name[TENSOR_NAME_MAX];
    struct tensor_view t;
    if (f->group != 0) return f->group;
    snprintf(name, sizeof name, "%s.scales", module);
    if (!mapper_find(m, name, REQUIRED, &t)) return 0;
    if (t.dims == 2 && t.dim[0] > 0 && cols % t.dim[0] == 0) return (int)(cols / t.dim[0]);
    mapper_fail(m, E_FORMAT, "tensor '%s' doesn't say how %lld inputs are grouped", name,
                (long long)cols);
    return 0;
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
