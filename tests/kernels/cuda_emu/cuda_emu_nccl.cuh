/* cuda_emu_nccl.cuh - the part of <nccl.h> that the backend uses: ranks are threads of one process, sums
 * are taken in the order of a ring, in float32 for the 16-bit types.
 *
 * Communicators are non-blocking ones, and as slow as they may be: every call that the library may do in
 * the background gives ncclInProgress, and is done when ncclCommGetAsyncError has said so. Ranks that wait on
 * their devices for one that doesn't come, wait until they abort their own communicators.
 *
 * Ends the process: a blocking communicator; a call before the last one was done, and work on its stream; a
 * call after abort or destroy, or by another thread than the one that made the communicator (NCCL allows
 * other threads, but not at the same time); destroy before finalize was done; ranks that don't call the
 * same.
 *
 *     LM_CUDA_EMU_NCCL=CODE    what ncclGetVersion says (default 22800: 2.28.0)
 *     LM_CUDA_EMU_NCCL_FAILS=N rank N's joining fails, with ncclSystemError behind the call */
#ifndef LM_CUDA_EMU_NCCL_CUH
#define LM_CUDA_EMU_NCCL_CUH

#include <stddef.h>

#include "tests/kernels/cuda_emu/cuda_emu_runtime.cuh"

#define NCCL_UNIQUE_ID_BYTES 128
struct ncclUniqueId {
    char internal[NCCL_UNIQUE_ID_BYTES];
};
using ncclComm_t = struct ncclComm *;

enum ncclResult_t {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclSystemError = 2,
    ncclInternalError = 3,
    ncclInvalidArgument = 4,
    ncclInvalidUsage = 5,
    ncclRemoteError = 6,
    ncclInProgress = 7
};
enum ncclDataType_t {
    ncclInt8 = 0,
    ncclUint8 = 1,
    ncclInt32 = 2,
    ncclFloat16 = 6,
    ncclFloat32 = 7,
    ncclBfloat16 = 9
};
enum ncclRedOp_t { ncclSum = 0, ncclMax = 2 };

struct ncclConfig_t {
    size_t size;
    unsigned magic, version;
    int blocking, maxCTAs;
};
#define NCCL_CONFIG_INITIALIZER                          \
    {                                                    \
        sizeof(ncclConfig_t), 0xcafebeef, 22800, -1, -1, \
    }

const char *ncclGetErrorString(ncclResult_t result);
const char *ncclGetLastError(ncclComm_t comm);
ncclResult_t ncclGetVersion(int *version);
ncclResult_t ncclGetUniqueId(ncclUniqueId *id);
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config);
ncclResult_t ncclCommFinalize(ncclComm_t comm); // done when all ranks have called it
ncclResult_t ncclCommDestroy(ncclComm_t comm);
ncclResult_t ncclCommAbort(ncclComm_t comm); // at any time
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error);
ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclAllGather(const void *from, void *to, size_t count_of_one, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream);

#endif
