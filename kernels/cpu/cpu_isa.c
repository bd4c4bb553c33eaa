#include "kernels/cpu/cpu_isa.h"

#include <string.h>

#include "shared/base/check.h"

static const struct cpu_isa *const isa_table[] = {
#if defined(__x86_64__)
    &cpu_isa_avx512,
    &cpu_isa_avx2,
#endif
    &cpu_isa_scalar,
};

size_t cpu_act_bytes(enum act_layout layout, int cols)
{
    switch (layout) {
    case ACT_F32:
        return (size_t)cols * sizeof(float);
    case ACT_INT8:
        return (size_t)(cols / 32) * sizeof(struct act_int8);
    case ACT_INT16:
        return (size_t)(cols / 32) * sizeof(struct act_int16);
    case ACT_LAYOUTS:
        break;
    }
    UNREACHABLE();
}

void cpu_kv_layout_init(struct kv_layout *l, enum kv_type type, int head_dim, int value_dim)
{
    static const size_t element_bytes[KV_TYPES] = {
        [KV_F32] = 4, [KV_F16] = 2, [KV_BF16] = 2, [KV_INT8] = 1};
    CHECK((unsigned)type < KV_TYPES);
    size_t element = element_bytes[type];
    size_t scales = type == KV_INT8 ? KV_BLOCK_TOKENS * sizeof(float) : 0;

    l->type = type;
    l->head_dim = head_dim;
    l->value_dim = value_dim;
    l->value_stride = (value_dim + 15) & ~15;
    l->element_bytes = element;
    l->key_scales = (size_t)head_dim * KV_BLOCK_TOKENS * element;
    l->value_scales = l->key_scales + scales;
    l->values = l->value_scales + scales;
    l->bytes = l->values + (size_t)l->value_stride * KV_BLOCK_TOKENS * element;
}

const struct cpu_isa *cpu_isa_at(int index)
{
    return index >= 0 && (size_t)index < ARRAY_LEN(isa_table) ? isa_table[index] : NULL;
}

int cpu_isa_choose(const char *name, const struct cpu_isa **isa, struct error *err)
{
    bool automatic = !name || !strcmp(name, "auto");

    for (size_t i = 0; i < ARRAY_LEN(isa_table); i++) {
        bool wanted = automatic || !strcmp(name, isa_table[i]->name);
        if (wanted && isa_table[i]->available()) {
            *isa = isa_table[i];
            return 0;
        }
        if (wanted && !automatic) {
            return error_set(err, E_UNSUPPORTED, "this machine can't run instruction set '%s'",
                             name);
        }
    }
    return error_set(err, E_INVALID,
                     "unknown instruction set '%s'; use auto, avx512, avx2 or scalar", name);
}
