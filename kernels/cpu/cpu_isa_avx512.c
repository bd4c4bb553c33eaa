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
            [DTYPE_F32] = {gemm_f32, ACT_F32},
            [DTYPE_F16] = {gemm_f16, ACT_F32},
            [DTYPE_BF16] = {gemm_bf16, ACT_F32},
            [DTYPE_Q8_0] = {gemm_q8_0_avx512, ACT_INT16},
            [DTYPE_Q4_0] = {gemm_q4_0_avx512, ACT_INT8},
            [DTYPE_Q4_1] = {gemm_q4_1_avx512, ACT_INT8},
            [DTYPE_Q4_K] = {gemm_q4_k_avx512, ACT_INT8},
            [DTYPE_Q6_K] = {gemm_q6_k_avx512, ACT_INT8},
        },
    .pointwise = &pointwise,
    .attend = attend,
};
