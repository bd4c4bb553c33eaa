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
            [DTYPE_F32] = {gemm_f32, ACT_F32},
            [DTYPE_F16] = {gemm_f16, ACT_F32},
            [DTYPE_BF16] = {gemm_bf16, ACT_F32},
            [DTYPE_Q8_0] = {gemm_q8_0_scalar, ACT_INT16},
            [DTYPE_Q4_0] = {gemm_q4_0_scalar, ACT_INT8},
            [DTYPE_Q4_1] = {gemm_q4_1_scalar, ACT_INT8},
            [DTYPE_Q4_K] = {gemm_q4_k_scalar, ACT_INT8},
            [DTYPE_Q6_K] = {gemm_q6_k_scalar, ACT_INT8},
        },
    .pointwise = &pointwise,
    .attend = attend,
};
