/* cuda_emu_api.cuh - the host side of the emulator, in the names of the real headers:
 *
 *     cudart      cuda_emu_runtime.cuh   memory, streams, events, graphs, device properties
 *     launches    here
 *     cuBLASLt    cuda_emu_blas.cuh      matmul with its descriptors; bf16, f16 and f32
 *     NCCL        cuda_emu_nccl.cuh      collectives between threads
 *
 * A name that is missing here is one that the backend hadn't used yet: add it with its real meaning. */
#ifndef LM_CUDA_EMU_API_CUH
#define LM_CUDA_EMU_API_CUH

#include "tests/kernels/cuda_emu/cuda_emu.cuh"
#include "tests/kernels/cuda_emu/cuda_emu_blas.cuh"
#include "tests/kernels/cuda_emu/cuda_emu_nccl.cuh"
#include "tests/kernels/cuda_emu/cuda_emu_runtime.cuh"

#define __CUDA_ARCH_LIST__ 900

template <class... Parameters, class... Arguments>
cudaError_t cuda_launch(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                        size_t shared_bytes, cudaStream_t stream, bool pdl, Arguments... arguments)
{
    (emu::check_argument(name, &arguments, sizeof arguments), ...);
    return emu::enqueue_launch(name, grid, block, shared_bytes, stream, pdl,
                               [=] { kernel(static_cast<Parameters>(arguments)...); });
}

#endif
