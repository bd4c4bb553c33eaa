/* kernel_test.h - what the kernel tests share: random data, every instruction set, bit compares. */
#ifndef LM_TESTS_KERNEL_TEST_H
#define LM_TESTS_KERNEL_TEST_H

#include <math.h>

#include "kernels/cpu/cpu_isa.h"
#include "kernels/quant.h"
#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

static inline float random_float(struct rng *r, float scale)
{
    return (float)(rng_unit(r) * 2 - 1) * scale;
}

static inline void random_floats(struct rng *r, float *out, size_t count, float scale)
{
    for (size_t i = 0; i < count; i++)
        out[i] = random_float(r, scale);
}

static inline void put_half(uint8_t *p, float f)
{
    uint16_t h = quant_float_to_half(f);
    memcpy(p, &h, sizeof h);
}

/* Any bytes are valid quants; scales must be sane numbers. */
static inline void random_block(struct rng *r, enum dtype type, uint8_t *block)
{
    int bytes = dtype_block_bytes(type);

    for (int i = 0; i < bytes; i++)
        block[i] = (uint8_t)rng_u64(r);
    switch (type) {
    case DTYPE_F32: {
        float f = random_float(r, 0.2f);
        memcpy(block, &f, sizeof f);
        break;
    }
    case DTYPE_F16:
        put_half(block, random_float(r, 0.2f));
        break;
    case DTYPE_BF16: {
        uint16_t h = quant_float_to_bf16(random_float(r, 0.2f));
        memcpy(block, &h, sizeof h);
        break;
    }
    case DTYPE_Q8_0:
        put_half(block, random_float(r, 0.002f));
        break;
    case DTYPE_Q4_0:
        put_half(block, random_float(r, 0.03f));
        break;
    case DTYPE_Q4_1:
        put_half(block, random_float(r, 0.03f));
        put_half(block + 2, random_float(r, 0.2f));
        break;
    case DTYPE_Q4_K:
        put_half(block, random_float(r, 0.001f));
        put_half(block + 2, random_float(r, 0.005f));
        break;
    case DTYPE_Q6_K:
        put_half(block + 208, random_float(r, 0.0001f));
        break;
    case DTYPE_COUNT:
        UNREACHABLE();
    }
}

/* A matrix of random weights; free m.data. */
static inline struct matrix random_matrix(struct rng *r, enum dtype type, int rows, int cols)
{
    struct matrix m = {type, rows, cols, NULL};
    size_t bytes = matrix_bytes(&m);
    uint8_t *data = xmalloc(bytes);

    for (size_t at = 0; at < bytes; at += (size_t)dtype_block_bytes(type))
        random_block(r, type, data + at);
    m.data = data;
    return m;
}

static inline int same_bits(const float *a, const float *b, size_t count)
{
    return memcmp(a, b, count * sizeof *a) == 0;
}

/* For every instruction set that this machine has; the others are named once as skipped. */
static inline const struct cpu_isa *test_isa(int index)
{
    static int told;
    const struct cpu_isa *isa;

    for (int i = 0; (isa = cpu_isa_at(i)) != NULL; i++) {
        if (!isa->available()) {
            if (!(told & 1 << i)) printf("skipped: %s is not on this machine\n", isa->name);
            told |= 1 << i;
            continue;
        }
        if (index-- == 0) return isa;
    }
    return NULL;
}

#endif
