/* cuda_emu_runtime.cuh - the part of <cuda_runtime.h> that the backend uses, on host memory.
 *
 * Streams are lazy: an operation runs when something waits for it (synchronise, a query, a wait of another
 * stream, a pageable copy; a query says "not ready" once, and the next one runs it), so what the host does too
 * early is seen: a pinned buffer written again before its copy, results read before sync, work on two streams with
 * no event between them. An operation runs on the thread that waits. A kernel whose threads poll what another device
 * or the host writes stands meanwhile: a query says "not ready", what waits comes back to it.
 *
 * Device memory is full of 0xff (NaN), ends at a page that nobody may touch, and is closed to the host
 * (emu_memory.cuh).
 *
 *     LM_CUDA_EMU_DEVICES=N    devices (default 1); 0: cudaErrorNoDevice, as without a GPU
 *     LM_CUDA_EMU_MEMORY=MIB   memory of each (default 4096); LM_CUDA_EMU_MEMORY_1=MIB: of the second one
 *     LM_CUDA_EMU_SM=N         multiprocessors (default 8)
 *     LM_CUDA_EMU_HANGS=N      the device that never answers who chooses it
 *     LM_CUDA_EMU_NO_PEER=N    the device that reaches no other's memory, nor they its
 *     LM_CUDA_EMU_PCIE=1       devices are joined by PCIe: no atomics between them
 *     LM_CUDA_EMU_NO_PDL_GRAPH=1   a launch with PDL isn't captured: cudaErrorInvalidResourceHandle
 *     LM_CUDA_EMU_BUSY_US=N    for that long behind its recording an event that isn't ready yet says so (default 0) */
#ifndef LM_CUDA_EMU_RUNTIME_CUH
#define LM_CUDA_EMU_RUNTIME_CUH

#include <functional>
#include <stddef.h>

#include "tests/kernels/cuda_emu/cuda_emu_types.cuh"

#define CUDA_EMU_ERRORS(X)                                                                        \
    X(cudaSuccess, 0, "no error")                                                                 \
    X(cudaErrorInvalidValue, 1, "invalid argument")                                               \
    X(cudaErrorMemoryAllocation, 2, "out of memory")                                              \
    X(cudaErrorInitializationError, 3, "initialization error")                                    \
    X(cudaErrorInvalidConfiguration, 9, "invalid configuration argument")                         \
    X(cudaErrorInvalidMemcpyDirection, 21, "invalid copy direction for memcpy")                   \
    X(cudaErrorInsufficientDriver, 35,                                                            \
      "CUDA driver version is insufficient for CUDA runtime version")                             \
    X(cudaErrorNoDevice, 100, "no CUDA-capable device is detected")                               \
    X(cudaErrorInvalidDevice, 101, "invalid device ordinal")                                      \
    X(cudaErrorInvalidResourceHandle, 400, "invalid resource handle")                             \
    X(cudaErrorNotReady, 600, "device not ready")                                                 \
    X(cudaErrorPeerAccessAlreadyEnabled, 704, "peer access is already enabled")                   \
    X(cudaErrorLaunchFailure, 719, "unspecified launch failure")                                  \
    X(cudaErrorNotSupported, 801, "operation not supported")                                      \
    X(cudaErrorStreamCaptureUnsupported, 900, "operation not permitted when stream is capturing") \
    X(cudaErrorStreamCaptureInvalidated, 901,                                                     \
      "operation failed due to a previous error during capture")                                  \
    X(cudaErrorStreamCaptureWrongThread, 908,                                                     \
      "attempt to terminate a thread-local capture sequence from another thread")                 \
    X(cudaErrorUnknown, 999, "unknown error")

enum cudaError {
#define X(name, value, text) name = value,
    CUDA_EMU_ERRORS(X)
#undef X
};
using cudaError_t = cudaError;

using cudaStream_t = struct CUstream_st *;
using cudaEvent_t = struct CUevent_st *;
using cudaGraph_t = struct CUgraph_st *;
using cudaGraphExec_t = struct CUgraphExec_st *;
using cudaHostFn_t = void (*)(void *);

#define cudaStreamLegacy    ((cudaStream_t)0x1)
#define cudaStreamPerThread ((cudaStream_t)0x2)

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0, cudaHostAllocPortable = 1, cudaHostAllocMapped = 2 };
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed
};
enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone,
    cudaStreamCaptureStatusActive,
    cudaStreamCaptureStatusInvalidated
};
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

enum cudaDeviceP2PAttr { cudaDevP2PAttrNativeAtomicSupported = 3 };

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
    int major, minor, multiProcessorCount, warpSize, maxThreadsPerBlock, regsPerBlock, l2CacheSize;
    int maxThreadsPerMultiProcessor, memoryBusWidth, canMapHostMemory, unifiedAddressing;
    int pciDomainID, pciBusID, pciDeviceID;
};

struct cudaFuncAttributes {
    size_t sharedSizeBytes, localSizeBytes;
    int numRegs, maxThreadsPerBlock;
};

const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError(); // of the calling thread, which forgets it
cudaError_t cudaPeekAtLastError();

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device); // of the calling thread
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaDeviceReset();
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer);
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags); // of the current device
cudaError_t cudaDeviceGetP2PAttribute(int *value, cudaDeviceP2PAttr attribute, int device,
                                      int peer);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);

cudaError_t cudaMalloc(void **at, size_t bytes);
cudaError_t cudaFree(void *at); // waits for the device
cudaError_t cudaMallocHost(void **at, size_t bytes);
cudaError_t cudaHostAlloc(void **at, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *at);

template <class T> cudaError_t cudaMalloc(T **at, size_t bytes)
{
    return cudaMalloc((void **)at, bytes);
}
template <class T> cudaError_t cudaMallocHost(T **at, size_t bytes)
{
    return cudaMallocHost((void **)at, bytes);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                                size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream = nullptr);
cudaError_t cudaMemset(void *at, int value, size_t bytes); // on the default stream: asynchronous
cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream = nullptr);

cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t stream); // its work still runs
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument);

cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t
cudaEventQuery(cudaEvent_t event); // the second call runs what it waits for: polling ends
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end);

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags = 0);
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);

template <class Kernel> cudaError_t cudaFuncSetAttribute(Kernel *, cudaFuncAttribute, int value)
{
    return value >= 0 && value <= (227 << 10) ? cudaSuccess : cudaErrorInvalidValue;
}

/* On the device this brings the kernel there. */
template <class Kernel> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, Kernel *)
{
    *out = cudaFuncAttributes{};
    return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, Kernel *, int threads,
                                                          size_t dynamic_bytes)
{
    int by_threads = 2048 / threads, by_shared = (int)((228u << 10) / (dynamic_bytes + 1024));
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    return cudaSuccess;
}

namespace emu
{

using stream_work = std::function<void()>;

/* Puts an operation behind a stream's others, or into the graph that it records. */
cudaError_t enqueue(cudaStream_t stream, stream_work run);
/* What is behind it waits until ready(), which is asked by the thread that runs the stream. */
cudaError_t enqueue_wait(cudaStream_t stream, std::function<bool()> ready);
/* From now on an enqueue is an error that names `call`; NULL: it is allowed again. */
void hold_stream(cudaStream_t stream, const char *call);
cudaError_t enqueue_launch(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                           cudaStream_t stream, bool pdl, stream_work body);

/* Fails if a pointer of this argument leads to memory of the host that a device can't read. */
void check_argument(const char *kernel, const void *value, size_t bytes);

/* Kernels that have run, by name ("gemv", "(gemv<8>)"), since the process began: for tests that a path
 * was taken. NULL: all. */
long launch_count(const char *kernel);

} // namespace emu

#endif
