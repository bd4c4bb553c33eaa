/* kernel_test.h - what the kernel tests share: random data, every instruction set, bit compares. */
#ifndef LM_TESTS_KERNEL_TEST_H
#define LM_TESTS_KERNEL_TEST_H

#include "kernels/cpu/cpu_isa.h"
#include "tests/kernels/random_weights.h"
#include "tests/test.h"

static inline void random_floats(struct rng *r, float *out, size_t count, float scale)
{
    for (size_t i = 0; i < count; i++)
        out[i] = random_float(r, scale);
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
