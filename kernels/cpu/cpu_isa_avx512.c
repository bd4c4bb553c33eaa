/* cpu_isa_avx512.c - AVX-512 F, BW, DQ, VL and VNNI: Ice Lake and later servers, Zen 4 and later.
 */
#include "kernels/cpu/cpu_isa.h"

#include "kernels/cpu/cpu_attention_body.h"
#include "kernels/cpu/cpu_gemm_float_body.h"
#include "kernels/cpu/cpu_gemm_kernels.h"
#include "kernels/cpu/cpu_pointwise_body.h"

/* F16C comes with them; clang 14 has no name for it. */
static bool available(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

const struct cpu_isa cpu_isa_avx512 = {
    .name = "avx512",
    .description = "avx512+vnni",
    .available = available,
    .gemm =
        {
            [PACK_F32] = {gemm_f32, ACT_F32},
            [PACK_F16] = {gemm_f16, ACT_F32},
            [PACK_BF16] = {gemm_bf16, ACT_F32},
            [PACK_Q4_0] = {gemm_q4_0_avx512, ACT_INT8},
            [PACK_Q4_1] = {gemm_q4_1_avx512, ACT_INT8},
            [PACK_Q4_K] = {gemm_q4_k_avx512, ACT_INT8},
            [PACK_Q5_0] = {gemm_q5_0_avx512, ACT_INT8},
            [PACK_Q5_1] = {gemm_q5_1_avx512, ACT_INT8},
            [PACK_Q5_K] = {gemm_q5_k_avx512, ACT_INT8},
            [PACK_Q8_0] = {gemm_q8_0_avx512, ACT_INT16},
            [PACK_Q2_K] = {gemm_q2_k_avx512, ACT_INT8},
            [PACK_Q6_K] = {gemm_q6_k_avx512, ACT_INT8},
            [PACK_CODES] = {gemm_codes_avx512, ACT_INT8},
            [PACK_CODES_FINE] = {gemm_codes_fine_avx512, ACT_INT8},
        },
    .pointwise = &pointwise,
    .attend = attend,
};
