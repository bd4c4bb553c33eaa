/* cpu_isa_scalar.c - runs anywhere, slowly, and is what the others must equal. */
#include "kernels/cpu/cpu_isa.h"

#include "kernels/cpu/cpu_attention_body.h"
#include "kernels/cpu/cpu_gemm_float_body.h"
#include "kernels/cpu/cpu_gemm_kernels.h"
#include "kernels/cpu/cpu_pointwise_body.h"

static bool available(void)
{
    return true;
}

const struct cpu_isa cpu_isa_scalar = {
    .name = "scalar",
    .description = "scalar",
    .available = available,
    .gemm =
        {
            [PACK_F32] = {gemm_f32, ACT_F32},
            [PACK_F16] = {gemm_f16, ACT_F32},
            [PACK_BF16] = {gemm_bf16, ACT_F32},
            [PACK_Q4_0] = {gemm_q4_0_scalar, ACT_INT8},
            [PACK_Q4_1] = {gemm_q4_1_scalar, ACT_INT8},
            [PACK_Q4_K] = {gemm_q4_k_scalar, ACT_INT8},
            [PACK_Q5_0] = {gemm_q5_0_scalar, ACT_INT8},
            [PACK_Q5_1] = {gemm_q5_1_scalar, ACT_INT8},
            [PACK_Q5_K] = {gemm_q5_k_scalar, ACT_INT8},
            [PACK_Q8_0] = {gemm_q8_0_scalar, ACT_INT16},
            [PACK_Q2_K] = {gemm_q2_k_scalar, ACT_INT8},
            [PACK_Q6_K] = {gemm_q6_k_scalar, ACT_INT8},
            [PACK_CODES] = {gemm_codes_scalar, ACT_INT8},
            [PACK_CODES_FINE] = {gemm_codes_fine_scalar, ACT_INT8},
        },
    .pointwise = &pointwise,
    .attend = attend,
};
