/* cpu_isa_avx2.c - AVX2, FMA and F16C: every x86-64 server since 2013 (Haswell, Excavator). */
#include "kernels/cpu/cpu_isa.h"

#include "kernels/cpu/cpu_attention_body.h"
#include "kernels/cpu/cpu_gemm_float_body.h"
#include "kernels/cpu/cpu_gemm_kernels.h"
#include "kernels/cpu/cpu_pointwise_body.h"

#include <cpuid.h>

/* The builtin also asks the operating system (xgetbv) whether it saves the registers. clang 14
 * doesn't know F16C by name; its registers are AVX's. */
static bool available(void)
{
    unsigned eax, ebx, ecx = 0, edx;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

const struct cpu_isa cpu_isa_avx2 = {
    .name = "avx2",
    .description = "avx2",
    .available = available,
    .gemm =
        {
            [PACK_F32] = {gemm_f32, ACT_F32},
            [PACK_F16] = {gemm_f16, ACT_F32},
            [PACK_BF16] = {gemm_bf16, ACT_F32},
            [PACK_Q4_0] = {gemm_q4_0_avx2, ACT_INT8},
            [PACK_Q4_1] = {gemm_q4_1_avx2, ACT_INT8},
            [PACK_Q4_K] = {gemm_q4_k_avx2, ACT_INT8},
            [PACK_Q5_0] = {gemm_q5_0_avx2, ACT_INT8},
            [PACK_Q5_1] = {gemm_q5_1_avx2, ACT_INT8},
            [PACK_Q5_K] = {gemm_q5_k_avx2, ACT_INT8},
            [PACK_Q8_0] = {gemm_q8_0_avx2, ACT_INT16},
            [PACK_Q2_K] = {gemm_q2_k_avx2, ACT_INT8},
            [PACK_Q6_K] = {gemm_q6_k_avx2, ACT_INT8},
            [PACK_CODES] = {gemm_codes_avx2, ACT_INT8},
            [PACK_CODES_FINE] = {gemm_codes_fine_avx2, ACT_INT8},
        },
    .pointwise = &pointwise,
    .attend = attend,
};
