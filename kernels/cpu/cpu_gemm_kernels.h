/* cpu_gemm_kernels.h - integer GEMM kernels by instruction set, for the tables in cpu_isa_*.c. */
#ifndef LM_KERNELS_CPU_GEMM_KERNELS_H
#define LM_KERNELS_CPU_GEMM_KERNELS_H

#include "kernels/cpu/cpu_isa.h"

/* Q8_0 takes ACT_INT16, the others ACT_INT8. */
cpu_gemm_kernel gemm_q4_0_scalar, gemm_q4_1_scalar, gemm_q4_k_scalar, gemm_q5_0_scalar,
    gemm_q5_1_scalar, gemm_q5_k_scalar, gemm_q8_0_scalar, gemm_q2_k_scalar, gemm_q6_k_scalar,
    gemm_codes_scalar, gemm_codes_fine_scalar;

#if defined(__x86_64__)
cpu_gemm_kernel gemm_q4_0_avx2, gemm_q4_1_avx2, gemm_q4_k_avx2, gemm_q5_0_avx2, gemm_q5_1_avx2,
    gemm_q5_k_avx2, gemm_q8_0_avx2, gemm_q2_k_avx2, gemm_q6_k_avx2, gemm_codes_avx2,
    gemm_codes_fine_avx2;
cpu_gemm_kernel gemm_q4_0_avx512, gemm_q4_1_avx512, gemm_q4_k_avx512, gemm_q5_0_avx512,
    gemm_q5_1_avx512, gemm_q5_k_avx512, gemm_q8_0_avx512, gemm_q2_k_avx512, gemm_q6_k_avx512,
    gemm_codes_avx512, gemm_codes_fine_avx512;
#endif

#endif
