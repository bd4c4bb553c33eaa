/* cuda_api.cuh - the host side of CUDA: runtime, cuBLASLt and NCCL types, and launches.
 *
 * Real headers, or those of tests/kernels/cuda_emu with the same names and the part of their meaning
 * that this backend uses (LM_CUDA_EMULATED). NCCL's header gives types only; its functions are found
 * by dlopen at run time, since machines with one GPU need no NCCL. */
#ifndef LM_KERNELS_CUDA_API_CUH
#define LM_KERNELS_CUDA_API_CUH

#include <atomic>
#include <stdlib.h>
#include <string.h>

#ifdef LM_CUDA_EMULATED
#include <cuda_emu_api.cuh>
#else
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <nccl.h>
#endif

/* Puts a kernel behind the work of `stream`; cudaError_t. More than 48 KiB of dynamic shared memory
 * are asked for by themselves. LM_LAUNCH_PDL lets it start before its predecessor has ended: every
 * thread of the kernel must call pdl_wait() (cuda_device.cuh). Between other operations of a stream, and at
 * the head of a graph, it is an ordinary launch; capture makes programmatic edges of it (CUDA 12.3). */
#define LM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)   \
    cuda_launch(#kernel, kernel, grid, block, shared_bytes, stream, \
                false __VA_OPT__(, ) __VA_ARGS__)
#define LM_LAUNCH_PDL(kernel, grid, block, shared_bytes, stream, ...) \
    cuda_launch(#kernel, kernel, grid, block, shared_bytes, stream,   \
                cuda_pdl_is_on() __VA_OPT__(, ) __VA_ARGS__)

#define PDL_DRIVER_MIN 12030 // older ones can't capture such launches

inline std::atomic<bool> cuda_pdl_is_refused{false}; // cuda_pdl.h

/* LM_CUDA_PDL=0 in the environment turns it off; so does an old driver, and a device for which there is no
 * code that waits: one before 9.0, or one that would translate older code for itself. Found out once. And a device
 * that was tried and didn't do it. */
inline bool cuda_pdl_is_on()
{
    static const bool is_on = [] {
        const int built_for[] = {__CUDA_ARCH_LIST__};
        const char *setting = getenv("LM_CUDA_PDL");
        int devices = 0, major = 0, minor = 0, driver = 0;
        if ((setting && strcmp(setting, "0") == 0) || cudaGetDeviceCount(&devices) != cudaSuccess ||
            cudaDriverGetVersion(&driver) != cudaSuccess || driver < PDL_DRIVER_MIN)
            return false;
        for (int i = 0; i < devices; i++) {
            bool waits = false;
            if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i) !=
                    cudaSuccess ||
                cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i) != cudaSuccess)
                return false;
            for (int arch : built_for)
                waits |= arch >= 900 && arch <= 100 * major + 10 * minor;
            if (!waits) return false;
        }
        return true;
    }();
    return is_on && !cuda_pdl_is_refused.load(std::memory_order_relaxed);
}

#ifndef LM_CUDA_EMULATED
template <class... Parameters, class... Arguments>
cudaError_t cuda_launch(const char *, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                        size_t shared_bytes, cudaStream_t stream, bool pdl, Arguments... arguments)
{
    if (shared_bytes > 48u << 10) {
        cudaError_t error = cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
        if (error != cudaSuccess) return error;
    }
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = pdl ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}
#endif

#endif
