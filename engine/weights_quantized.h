/* weights_quantized.h - the quantised formats of Hugging Face folders, by config.json's
 * quantization_config. A format is a file that fills one row of the table in weights_quantized.c.
 *
 * MXFP4 is a type of the kernels. The others are turned into one as they are mapped: float32 and
 * exactly the values of the format's definition with m->exact, otherwise what is small and
 * fast: AWQ and GPTQ become Q4_1 (weights_int4.h), FP8 stays as it is with m->keeps_grids and else becomes
 * bfloat16. */
#ifndef LM_ENGINE_WEIGHTS_QUANTIZED_H
#define LM_ENGINE_WEIGHTS_QUANTIZED_H

#include "engine/config_reader.h"
#include "engine/mapper.h"

/* *found false: matrices are stored as such. `asked` is a name of struct weights_options, or NULL; what it
 * leaves open is as most files of the format have it. E_UNSUPPORTED: a method or variant by name.
 * E_INVALID: `asked` contradicts the configuration. */
FALLIBLE int weights_quantized_format(const struct json *config, const char *asked,
                                      struct linear_format *out, bool *found, struct error *err);

/* Each reads its own keys of quantization_config; failures go to r. */
void weights_awq_format(struct config_reader *r, struct linear_format *out);
void weights_gptq_format(struct config_reader *r, struct linear_format *out);
void weights_fp8_format(struct config_reader *r, struct linear_format *out);
void weights_mxfp4_format(struct config_reader *r, struct linear_format *out);

/* The experts' matrices of `module`, if they are stored as MXFP4; false: they aren't. `turns`
 * matrices share its rows by turns: out[turn][expert] are made, rows x cols each. Failures go to
 * m->rc. */
bool weights_mxfp4_experts(struct mapper *m, const char *module, int64_t rows, int64_t cols,
                           int turns, struct matrix *const *out);

/* ---- for formats ---- */

/* <module><suffix> of any float type as float32; free() it. NULL: a failure in m. */
float *weights_quantized_scales(struct mapper *m, const char *module, const char *suffix,
                                int64_t rows, int64_t cols);

/* Elements of a row of `module` that share a scale, or -1: by the format, or else by the shape of its
 * scales. 0: a failure in m. */
int weights_quantized_group_size(struct mapper *m, const struct linear_format *f,
                                 const char *module, int64_t cols);

/* The group of each input when they follow each other; free() it. */
int32_t *weights_quantized_in_order(int group, int64_t cols);

/* Groups of rows with one scale each: `group` elements, or all of them when it is -1. */
static inline int64_t weights_quantized_groups(int group, int64_t elements)
{
    return group < 0 ? 1 : (elements + group - 1) / group;
}

/* Nibble `index` (0 lowest) of the little-endian 32-bit word `word` of a packed tensor. */
static inline uint8_t weights_quantized_nibble(const void *packed, int64_t word, int index)
{
    const uint8_t *bytes = (const uint8_t *)packed + 4 * word;
    return bytes[index / 2] >> 4 * (index % 2) & 15;
}

#endif
