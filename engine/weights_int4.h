/* weights_int4.h - linear layers of 4-bit integers with a scale and a zero for each group of inputs
 * (AWQ, GPTQ), as a backend takes them:
 *
 *     exact   float32 (m->exact), (q - zero) * scale
 *     else    Q4_1 where a group is whole blocks of 32: d = scale, m = -zero * scale rounded to half
 *             precision, at most 2^-11 of a weight's offset away; float32 where it isn't
 *
 * With act order a group's inputs are scattered. They are brought together by an order of the input, which
 * all quantised matrices of that input share; what has another one, or experts, becomes float32. */
#ifndef LM_ENGINE_WEIGHTS_INT4_H
#define LM_ENGINE_WEIGHTS_INT4_H

#include "engine/mapper.h"

#define INT4_ROWS 8 // outputs that are unpacked at a time: those of one word

struct int4_layer {
    int64_t rows, cols, groups; // rows: a multiple of INT4_ROWS
    const void *weight, *zeros; // packed words, any alignment
    const float *scales;        // [groups][rows]
    const int32_t *group;       // [cols]
    int zero_offset;            // what was taken off the zeros
    /* Outputs first .. first + 7: q [INT4_ROWS][cols], zero [INT4_ROWS][groups] as stored. */
    void (*unpack)(const struct int4_layer *layer, int64_t first, uint8_t *q, uint8_t *zero);
};

void weights_int4_make(struct mapper *m, const struct int4_layer *layer, struct matrix *out);

#endif
