/* cuda_emu_api.cuh - the host side of the emulator: cudart, cuBLASLt and NCCL, as far as used. */
#ifndef LM_CUDA_EMU_API_CUH
#define LM_CUDA_EMU_API_CUH

#include "tests/kernels/cuda_emu/cuda_emu.cuh"

enum cudaError_t { cudaSuccess = 0 };
struct CUstream_st;
using cudaStream_t = CUstream_st *;

template <class... Parameters, class... Arguments>
cudaError_t cuda_launch(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                        size_t shared_bytes, cudaStream_t, bool, Arguments... arguments)
{
    emu::run_grid(name, grid, block, shared_bytes,
                  [=] { kernel(static_cast<Parameters>(arguments)...); });
    return cudaSuccess;
}

#endif
