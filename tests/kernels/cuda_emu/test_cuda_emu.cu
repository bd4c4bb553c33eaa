/* test_cuda_emu.cu - the emulator finds what it promises to (cuda_emu.cuh): one planted bug a check, and the
 * same kernel without it. A check that ends the process runs in a child. */
#include <atomic>
#include <math.h>
#include <thread>
#include <vector>

#include "kernels/cuda/cuda_device.cuh"
#include "tests/kernels/cuda_emu/cuda_emu_death.cuh"

static float *floats(size_t count)
{
    float *at = nullptr;
    NEED(cudaMalloc(&at, count * sizeof *at) == cudaSuccess);
    NEED(cudaMemset(at, 0, count * sizeof *at) == cudaSuccess);
    return at;
}

#define RUN_KERNEL(kernel, grid, block, shared, ...)                                       \
    do {                                                                                   \
        NEED(LM_LAUNCH(kernel, grid, block, shared, nullptr, __VA_ARGS__) == cudaSuccess); \
        NEED(cudaDeviceSynchronize() == cudaSuccess);                                      \
    } while (0)

/* ---- meetings ---- */

__global__ void barrier_of_some(int at_barrier)
{
    if ((int)threadIdx.x < at_barrier)
        __syncthreads();
    else
        __shfl_xor_sync(WARP_ALL, 1, 1);
}

__global__ void shuffle_of_some()
{
    if (threadIdx.x < 16) __shfl_xor_sync(WARP_ALL, 1, 1);
    if (threadIdx.x >= 16) __syncthreads();
}

__global__ void different_operations()
{
    if (threadIdx.x & 1u)
        __ballot_sync(WARP_ALL, 1);
    else
        __shfl_xor_sync(WARP_ALL, 1, 1);
}

__global__ void outside_mask()
{
    if (threadIdx.x < 16) __shfl_sync(0xffffu, 1, 20, 32);
}

__global__ void not_in_own_mask()
{
    __shfl_xor_sync(0xffffu, 1, 1);
}

__global__ void two_places()
{
    if (threadIdx.x & 1u)
        __syncthreads();
    else
        __syncthreads();
}

__global__ void mma_of_some()
{
    float d[4] = {};
    uint32_t a[4] = {}, b[2] = {};
    if (threadIdx.x == 0) return;
    mma_bf16(d, a, b);
}

__global__ void returned_early(float *out)
{
    if (threadIdx.x >= 40) return; // whole and half a warp: the others still meet
    __syncthreads();
    unsigned votes = __ballot_sync(WARP_ALL, 1);
    out[threadIdx.x] = (float)__popc(votes);
}

static void test_meetings()
{
    EXPECT_DEATH("deadlock", RUN_KERNEL(barrier_of_some, 1, 32, 0, 7));
    EXPECT_DEATH("deadlock", RUN_KERNEL(shuffle_of_some, 1, 32, 0));
    EXPECT_DEATH("meet in", RUN_KERNEL(different_operations, 1, 32, 0));
    EXPECT_DEATH("outside the mask", RUN_KERNEL(outside_mask, 1, 32, 0));
    EXPECT_DEATH("not in its own mask", RUN_KERNEL(not_in_own_mask, 1, 32, 0));
    EXPECT_DEATH("from", RUN_KERNEL(two_places, 1, 32, 0));
    EXPECT_DEATH("wants all 32 lanes", RUN_KERNEL(mma_of_some, 1, 32, 0));
    EXPECT_DEATH("bad launch", RUN_KERNEL(barrier_of_some, 1, 1025, 0, 2000));
    std::vector<float> got(40);
    float *out = floats(64);
    RUN_KERNEL(returned_early, 1, 64, 0, out);
    NEED(cudaMemcpy(got.data(), out, 40 * sizeof(float), cudaMemcpyDeviceToHost) == cudaSuccess);
    EXPECT(got[0] == 32 && got[39] == 8);
    cudaFree(out);
}

/* ---- shared memory ---- */

__global__ void shared_reads(float *out, int index, int write)
{
    LM_SHARED(float, before, 33);
    LM_SHARED(float, after, 7);
    if (threadIdx.x == 0 && write) before[index] = 1.0f;
    __syncthreads();
    if (threadIdx.x == 31) out[0] = before[index];
    if (threadIdx.x == 31) out[1] = after[0];
}

__global__ void dynamic_reads(float *out, int index)
{
    LM_SHARED_DYNAMIC(float, tile);
    out[0] = tile[index];
}

static void test_shared_memory()
{
    float *out = floats(2), got[2];
    RUN_KERNEL(shared_reads, 1, 32, 0, out, 32, 1);
    NEED(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost) == cudaSuccess);
    EXPECT(got[0] == 1.0f);
    EXPECT(isnan(got[1])); // never written
#if defined(__SANITIZE_ADDRESS__) || defined(LM_CUDA_EMU_RACE)
    static float *at = out;
    const char *words = "shared memory";
#ifdef __SANITIZE_ADDRESS__
    words = "AddressSanitizer";
#endif
    EXPECT_DEATH(words, RUN_KERNEL(shared_reads, 1, 32, 0, at, 33, 1));
    EXPECT_DEATH(words, RUN_KERNEL(shared_reads, 1, 32, 0, at, -1, 0));
    EXPECT_DEATH(words, RUN_KERNEL(dynamic_reads, 1, 1, 100, at, 25));
#endif
    EXPECT_DEATH("a block may have", RUN_KERNEL(dynamic_reads, 1, 1, 228 << 10, nullptr, 0));
    emu::forgive_races();
    cudaFree(out);
}

/* ---- asynchronous copies ---- */

__global__ void copy_late(const float *from, float *to, int wait)
{
    LM_SHARED(float, buffer, 8);
    buffer[threadIdx.x] = 5.0f;
    __syncthreads();
    if (threadIdx.x < 2) cp_async16(buffer + 4 * threadIdx.x, from + 4 * threadIdx.x);
    cp_async_commit();
    if (wait) cp_async_wait<0>();
    __syncthreads();
    to[threadIdx.x] = buffer[threadIdx.x];
}

__global__ void copy_unaligned(const float *from)
{
    LM_SHARED(float, buffer, 8);
    cp_async16(buffer, from + 1);
}

static void test_copies_land_late()
{
    static float *at = floats(8);
    float got[8];
    for (int wait = 0; wait < 2; wait++) {
        float *to = floats(8);
        RUN_KERNEL(copy_late, 1, 8, 0, at, to, wait);
        NEED(cudaMemcpy(got, to, sizeof got, cudaMemcpyDeviceToHost) == cudaSuccess);
        for (float v : got)
            EXPECT(wait ? v == 0.0f : isnan(v));
        cudaFree(to);
    }
    emu::forgive_races();
    EXPECT_DEATH("multiples of it", RUN_KERNEL(copy_unaligned, 1, 1, 0, at));
}

/* ---- order ---- */

__global__ void missing_barrier(float *out)
{
    LM_SHARED(float, slots, 64);
    slots[threadIdx.x] = (float)threadIdx.x;
    out[threadIdx.x] = slots[63 - threadIdx.x];
}

static void test_order_shows_missing_barriers()
{
    float *out = floats(64), got[64];
    for (auto order : {emu::ORDER_FORWARD, emu::ORDER_REVERSE, emu::ORDER_RANDOM}) {
        emu::configure(order, 3);
        RUN_KERNEL(missing_barrier, 1, 64, 0, out);
        NEED(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost) == cudaSuccess);
        int wrong = 0;
        for (int i = 0; i < 64; i++)
            wrong += got[i] != (float)(63 - i);
        EXPECT(wrong > 0);
        EXPECT(order == emu::ORDER_REVERSE ? isnan(got[63]) && got[0] == 63.0f
                                           : order == emu::ORDER_RANDOM || isnan(got[0]));
    }
    emu::configure(emu::ORDER_FORWARD, 1);
    emu::forgive_races();
    cudaFree(out);
}

/* ---- the host's side ---- */

static void test_streams_are_lazy()
{
    cudaStream_t stream, other;
    cudaEvent_t event;
    float *device = floats(1), *pinned, got = 0;
    NEED(cudaDeviceSynchronize() == cudaSuccess);
    NEED(cudaMallocHost(&pinned, sizeof *pinned) == cudaSuccess);
    NEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    NEED(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking) == cudaSuccess);
    NEED(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
    *pinned = 1.0f;
    EXPECT(cudaMemcpyAsync(device, pinned, sizeof(float), cudaMemcpyHostToDevice, stream) ==
           cudaSuccess);
    *pinned = 2.0f; // too early: the copy has not run
    EXPECT(cudaStreamSynchronize(stream) == cudaSuccess);
    EXPECT(cudaMemcpy(&got, device, sizeof got, cudaMemcpyDeviceToHost) == cudaSuccess);
    EXPECT(got == 2.0f);
    *pinned = 3.0f;
    EXPECT(cudaMemcpyAsync(device, pinned, sizeof(float), cudaMemcpyHostToDevice, stream) ==
           cudaSuccess);
    EXPECT(cudaEventRecord(event, stream) == cudaSuccess);
    EXPECT(cudaMemcpyAsync(&got, device, sizeof got, cudaMemcpyDeviceToHost, other) == cudaSuccess);
    EXPECT(got == 2.0f); // nothing orders the streams
    EXPECT(cudaStreamWaitEvent(other, event) == cudaSuccess);
    EXPECT(cudaMemcpyAsync(&got, device, sizeof got, cudaMemcpyDeviceToHost, other) == cudaSuccess);
    EXPECT(got == 3.0f);
    EXPECT(cudaMemcpyAsync(device, &got, sizeof got, cudaMemcpyHostToDevice, stream) ==
           cudaSuccess);
    got = 9.0f; // pageable memory was read when the call was made
    EXPECT(cudaStreamSynchronize(stream) == cudaSuccess);
    EXPECT(cudaMemcpy(&got, device, sizeof got, cudaMemcpyDeviceToHost) == cudaSuccess);
    EXPECT(got == 3.0f);
    static float *at = device;
    EXPECT_DEATH("end beyond", float x[2] = {};
                 cudaMemcpy(at, x, sizeof x, cudaMemcpyHostToDevice));
    EXPECT_DEATH("is not device memory", float x[2] = {};
                 cudaMemcpy(x, x + 1, 4, cudaMemcpyDeviceToHost));
    cudaEventDestroy(event);
    cudaStreamDestroy(stream);
    cudaStreamDestroy(other);
    cudaFreeHost(pinned);
    cudaFree(device);
}

__global__ void add(float *x, float value)
{
    pdl_wait();
    x[0] += value;
}

/* ---- what only a device may touch, and what it can't ---- */

struct hidden_pointer {
    int count;
    float *at;
};

__global__ void read_hidden(hidden_pointer from, float *to)
{
    to[0] = from.at[0];
}

__global__ void write_at(float *out, int index)
{
    out[index] = 1.0f;
}

__global__ void static_and_dynamic(float *out)
{
    LM_SHARED(float, part, 2048);
    LM_SHARED_DYNAMIC(float, tile);
    part[0] = tile[0] = 1.0f;
    out[0] = part[0];
}

static void test_host_and_device_memory()
{
    static float *at = floats(64), host[2];
    float *pinned;
    NEED(cudaMallocHost(&pinned, sizeof *pinned) == cudaSuccess);
    *pinned = 4.0f;
    EXPECT_DEATH("touched by the host", *(volatile float *)at = 1.0f);
    EXPECT_DEATH("touched by the host", host[0] = *(volatile float *)at);
    EXPECT_DEATH("behind its end", RUN_KERNEL(write_at, 1, 1, 0, at, 64));
    EXPECT_DEATH("memory of the host", RUN_KERNEL(add, 1, 1, 0, host, 1.0f));
    EXPECT_DEATH("8 bytes into it",
                 RUN_KERNEL(read_hidden, 1, 1, 0, (hidden_pointer{1, host}), at));
    RUN_KERNEL(read_hidden, 1, 1, 0, (hidden_pointer{1, pinned}), at);
    RUN_KERNEL(read_hidden, 1, 1, 0, (hidden_pointer{1, at}), at);
    NEED(cudaMemcpy(host, at, sizeof *host, cudaMemcpyDeviceToHost) == cudaSuccess);
    EXPECT(host[0] == 4.0f);
    EXPECT_DEATH("raises the limit", RUN_KERNEL(static_and_dynamic, 1, 1, 45 << 10, at));
    RUN_KERNEL(static_and_dynamic, 1, 1, 40 << 10, at);
    RUN_KERNEL(static_and_dynamic, 1, 1, 60 << 10, at);
    cudaFreeHost(pinned);
    cudaFree(at);
}

/* A thread's current device is the one it launches on. */
static void test_foreign_device()
{
    cudaStream_t stream;
    cudaEvent_t event;
    float *x = floats(1);
    NEED(cudaEventCreate(&event) == cudaSuccess);
    NEED(cudaSetDevice(1) == cudaSuccess);
    NEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    EXPECT(cudaEventRecord(event, stream) == cudaErrorInvalidResourceHandle);
    NEED(cudaSetDevice(0) == cudaSuccess);
    EXPECT(LM_LAUNCH(add, 1, 1, 0, stream, x, 1.0f) == cudaErrorInvalidResourceHandle);
    cudaEventDestroy(event);
    cudaStreamDestroy(stream);
    cudaFree(x);
    cudaGetLastError();
}

__global__ void count_up(float *x)
{
    x[0] += 1.0f;
}

/* Who frees memory waits for the whole device, and so runs what another thread is just about to enqueue, and to
 * wait for. */
static void test_threads_of_one_device()
{
    enum { ROUNDS = 100, LAUNCHES = 20 };
    std::atomic<int> wrong{0};
    std::atomic<bool> done{false};
    std::thread frees([&] {
        while (!done)
            cudaFree(floats(1));
    });
    std::thread launches([&] {
        cudaStream_t stream;
        float *x = floats(1), got, zero = 0.0f;
        wrong += cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess;
        cudaStreamSynchronize(NULL); // x is cleared there
        for (int round = 0; round < ROUNDS; round++) {
            cudaMemcpyAsync(x, &zero, sizeof zero, cudaMemcpyHostToDevice, stream);
            for (int i = 0; i < LAUNCHES; i++)
                wrong += LM_LAUNCH(count_up, 1, 1, 0, stream, x) != cudaSuccess;
            cudaMemcpyAsync(&got, x, sizeof got, cudaMemcpyDeviceToHost, stream);
            wrong += got != (float)LAUNCHES;
        }
        cudaStreamDestroy(stream);
        cudaFree(x);
    });
    launches.join();
    done = true;
    frees.join();
    EXPECT_INT(wrong, 0);
}

/* "Not ready" is an answer, and yet what cudaGetLastError tells next. */
static void test_queries()
{
    cudaStream_t stream;
    cudaEvent_t event;
    float *x = floats(1);
    NEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    NEED(cudaEventCreate(&event) == cudaSuccess);
    EXPECT(cudaStreamQuery(stream) == cudaSuccess);
    EXPECT(LM_LAUNCH(write_at, 1, 1, 0, stream, x, 0) == cudaSuccess);
    EXPECT(cudaEventRecord(event, stream) == cudaSuccess);
    EXPECT(cudaStreamQuery(stream) == cudaErrorNotReady);
    EXPECT(cudaGetLastError() == cudaErrorNotReady && cudaGetLastError() == cudaSuccess);
    EXPECT(cudaEventQuery(event) == cudaErrorNotReady);
    cudaGetLastError();
    EXPECT(cudaStreamQuery(stream) == cudaSuccess && cudaEventQuery(event) == cudaSuccess);
    cudaEventDestroy(event);
    cudaStreamDestroy(stream);
    cudaFree(x);
}

/* An algorithm chosen for a whole row of matrices isn't one for a matrix inside. */
static void test_library_alignment()
{
    static float *x = floats(256);
    static cublasLtMatmulDesc_t desc;
    static cublasLtMatrixLayout_t m;
    static cublasLtMatmulHeuristicResult_t chosen[2];
    cublasLtMatmulPreference_t preference;
    uint32_t four = 4;
    int found;
    NEED(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
    NEED(cublasLtMatrixLayoutCreate(&m, CUDA_R_32F, 4, 4, 4) == CUBLAS_STATUS_SUCCESS);
    NEED(cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS);
    for (auto &result : chosen) {
        NEED(cublasLtMatmulAlgoGetHeuristic(nullptr, desc, m, m, m, m, preference, 1, &result,
                                            &found) == CUBLAS_STATUS_SUCCESS);
        for (auto side : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
            cublasLtMatmulPreferenceSetAttribute(preference, side, &four, sizeof four);
    }
    static auto multiply = [](float *out, const cublasLtMatmulHeuristicResult_t &by) {
        float one = 1, zero = 0;
        return cublasLtMatmul(nullptr, desc, &one, x, m, x + 64, m, &zero, out, m, out, m, &by.algo,
                              nullptr, 0, nullptr);
    };
    EXPECT(multiply(x + 128, chosen[0]) == CUBLAS_STATUS_SUCCESS);
    EXPECT(multiply(x + 129, chosen[1]) == CUBLAS_STATUS_SUCCESS);
    EXPECT_DEATH("alignment", multiply(x + 129, chosen[0]));
    NEED(cudaDeviceSynchronize() == cudaSuccess);
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatrixLayoutDestroy(m);
    cublasLtMatmulDescDestroy(desc);
    cudaFree(x);
}

/* What waits, or takes memory, breaks the capture of the thread that calls it. */
static void test_refused_while_capturing()
{
    cudaStream_t stream;
    cudaEvent_t event;
    cudaGraph_t graph;
    void *at = nullptr, *device = floats(1), *pinned;
    NEED(cudaMallocHost(&pinned, 4) == cudaSuccess);
    NEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    NEED(cudaEventCreate(&event) == cudaSuccess);
    for (int call = 0; call < 9; call++) {
        EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
        cudaError_t got = call == 0   ? cudaMalloc(&at, 4)
                          : call == 1 ? cudaFree(device)
                          : call == 2 ? cudaMallocHost(&at, 4)
                          : call == 3 ? cudaFreeHost(pinned)
                          : call == 4 ? cudaMemcpy(device, pinned, 4, cudaMemcpyHostToDevice)
                          : call == 5 ? cudaDeviceSynchronize()
                          : call == 6 ? cudaStreamSynchronize(stream)
                          : call == 7 ? cudaEventSynchronize(event)
                                      : cudaStreamQuery(stream);
        EXPECT(got == cudaErrorStreamCaptureUnsupported);
        EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated && !graph);
    }
    static cudaStream_t captured = stream;
    static void *to = device;
    EXPECT_DEATH("pageable", cudaStreamBeginCapture(captured, cudaStreamCaptureModeThreadLocal);
                 float x = 0; cudaMemcpyAsync(to, &x, 4, cudaMemcpyHostToDevice, captured));
    cudaEventDestroy(event);
    cudaStreamDestroy(stream);
    cudaFreeHost(pinned);
    cudaFree(device);
    cudaGetLastError();
}

static void test_graphs()
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    float *x = floats(1), got = -1;
    NEED(cudaDeviceSynchronize() == cudaSuccess);
    NEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    EXPECT(LM_LAUNCH(add, 1, 1, 0, stream, x, 1) == cudaSuccess);
    EXPECT(LM_LAUNCH_PDL(add, 1, 1, 0, stream, x, 10.0f) == cudaSuccess);
    EXPECT(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    EXPECT(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    EXPECT(cudaGraphDestroy(graph) == cudaSuccess);
    for (int i = 0; i < 3; i++)
        EXPECT(cudaGraphLaunch(exec, stream) == cudaSuccess);
    EXPECT(cudaMemcpyAsync(&got, x, sizeof got, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
    EXPECT(got == 33.0f);
    EXPECT_INT(emu::launch_count("add"), 6);
    cudaGraphExecDestroy(exec);
    cudaStreamDestroy(stream);
    cudaFree(x);
    cudaGetLastError();
}

/* ---- races: only where the hooks are linked in ---- */

__global__ void last_block_adds(float *parts, float *out, unsigned *done, int fence)
{
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = (float)blockIdx.x;
        if (fence) __threadfence();
        if (atomicAdd(done, 1u) == gridDim.x - 1) {
            out[0] = 0.0f;
            for (unsigned i = 0; i < gridDim.x; i++)
                out[0] += parts[i];
        }
    }
}

__global__ void within_a_warp(float *out, int sync)
{
    LM_SHARED(float, slots, 32);
    slots[threadIdx.x] = 1.0f;
    if (sync)
        __syncwarp();
    else
        __shfl_xor_sync(WARP_ALL, 1, 1); // meets, but orders no memory
    out[threadIdx.x] = slots[31 - threadIdx.x];
}

__global__ void between_warps(float *out, int barrier)
{
    LM_SHARED(float, slots, 64);
    slots[threadIdx.x] = 1.0f;
    if (barrier)
        __syncthreads();
    else
        __syncwarp();
    out[threadIdx.x] = slots[63 - threadIdx.x];
}

__global__ void all_write_one(float *out, int)
{
    out[0] = 1.0f;
}

template <class Body> static long races_of(Body body)
{
    long before = emu::race_count();
    body();
    long found = emu::race_count() - before;
    emu::forgive_races();
    return found;
}

/* ---- launches that begin early ---- */

__global__ void some_wait(unsigned waiting)
{
    if (threadIdx.x < waiting) pdl_wait();
}

/* The setting is read once, so before any other such launch, by a child. */
static void test_setting()
{
    bool died = true;
    last_words(
        [] {
            setenv("LM_CUDA_PDL", "0", 1);
            LM_LAUNCH_PDL(some_wait, 1, 1, 0, nullptr, 0u);
            cudaDeviceSynchronize();
        },
        &died);
    EXPECT(!died);
    EXPECT(cuda_pdl_is_on());
}

static void test_all_wait()
{
    LM_LAUNCH_PDL(some_wait, 2, 64, 0, nullptr, 64u);
    NEED(cudaDeviceSynchronize() == cudaSuccess);
    EXPECT_DEATH("without pdl_wait", LM_LAUNCH_PDL(some_wait, 1, 64, 0, nullptr, 63u);
                 cudaDeviceSynchronize());
    EXPECT_DEATH("without pdl_wait", LM_LAUNCH_PDL(some_wait, 1, 1, 0, nullptr, 0u);
                 cudaDeviceSynchronize());
}

#ifdef LM_CUDA_EMU_RACE
__global__ void copy_one(float *to, const float *from)
{
    pdl_wait();
    to[0] = from[0];
}

enum early { READS, WRITES, COPIES, WAITS };

__global__ void begins_early(float *to, float *at, enum early does)
{
    LM_SHARED(float, buffer, 4);
    float v = does == READS ? at[0] : 0.0f;
    if (does == WRITES) at[0] = 1.0f;
    if (does == COPIES) cp_async16(buffer, at);
    pdl_wait();
    cp_async_commit();
    cp_async_wait<0>();
    to[0] = does == WAITS ? at[0] : v;
}

/* x to y with an ordinary launch, z to w, and one that begins before either may have ended. */
static long races_behind(float *x, float *early, enum early does, bool copy_between)
{
    float *y = x + 16, *z = x + 32, *w = x + 48, *out = x + 60;
    return races_of([&] {
        LM_LAUNCH(copy_one, 1, 1, 0, nullptr, y, x);
        if (copy_between)
            NEED(cudaMemcpyAsync(w, z, 4, cudaMemcpyDeviceToDevice, nullptr) == cudaSuccess);
        LM_LAUNCH_PDL(copy_one, 1, 1, 0, nullptr, w, z);
        LM_LAUNCH_PDL(begins_early, 1, 1, 0, nullptr, out, early, does);
        NEED(cudaDeviceSynchronize() == cudaSuccess);
    });
}
#endif

static void test_early_access()
{
#ifdef LM_CUDA_EMU_RACE
    float *x = floats(64), *y = x + 16, *z = x + 32, *w = x + 48, *weights = floats(4);
    for (enum early does : {READS, WRITES, COPIES}) {
        bool writes = does == WRITES;
        EXPECT(races_behind(x, w, does, false) > 0); // what the one before wrote
        EXPECT(races_behind(x, y, does, false) > 0); // what an earlier one wrote
        EXPECT((races_behind(x, z, does, false) > 0) == writes);
        EXPECT((races_behind(x, x, does, false) > 0) == writes);
        EXPECT(races_behind(x, y, does, true) == 0); // the copy came behind it
        EXPECT(races_behind(x, weights, does, false) == 0);
    }
    for (float *at : {x, y, z, w})
        EXPECT(races_behind(x, at, WAITS, false) == 0);
    cudaFree(x);
    cudaFree(weights);
#endif
}

/* ---- kernels that wait for others ---- */

__global__ void waits_for(const uint32_t *flag)
{
    while (load_acquire(flag) == 0)
        ;
}

/* The second block ends the first one's waiting, thread 32 that of thread 0. */
__global__ void wait_within(uint32_t *flags)
{
    if (threadIdx.x == 0 && blockIdx.x == 0)
        while (load_acquire(flags) == 0 || load_acquire(flags + 1) == 0)
            ;
    if (threadIdx.x == 32) store_release(flags + blockIdx.x, 1);
}

/* Every block but the last waits for the last one. */
__global__ void wait_for_last(uint32_t *flag)
{
    if (blockIdx.x == gridDim.x - 1)
        store_release(flag, 1);
    else
        while (load_acquire(flag) == 0)
            ;
}

static uint32_t *flags()
{
    uint32_t *at = nullptr;
    NEED(cudaMalloc(&at, 2 * sizeof *at) == cudaSuccess);
    NEED(cudaMemset(at, 0, 2 * sizeof *at) == cudaSuccess);
    NEED(cudaDeviceSynchronize() == cudaSuccess);
    return at;
}

static cudaError_t ask_often(cudaStream_t stream)
{
    cudaError_t rc = cudaErrorNotReady;
    for (int i = 0; i < 100 && rc == cudaErrorNotReady; i++)
        rc = cudaStreamQuery(stream);
    return rc;
}

static void test_polling()
{
    uint32_t *flag = nullptr, *at = flags();
    cudaStream_t stream;

    NEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    for (emu::thread_order order : {emu::ORDER_FORWARD, emu::ORDER_REVERSE, emu::ORDER_RANDOM}) {
        emu::configure(order, 3);
        NEED(cudaMemset(at, 0, 2 * sizeof *at) == cudaSuccess);
        RUN_KERNEL(wait_within, 2, 64, 0, at);
    }
    emu::configure(emu::ORDER_FORWARD, 1);

    /* the host's flag, in pinned memory */
    NEED(cudaMallocHost(&flag, sizeof *flag) == cudaSuccess);
    *flag = 0;
    LM_LAUNCH(waits_for, 2, 32, 0, stream, flag);
    EXPECT_INT(ask_often(stream), cudaErrorNotReady);
    EXPECT_DEATH("is to begin, while waits_for stands", {
        uint32_t *flag = nullptr;
        cudaMallocHost(&flag, sizeof *flag);
        *flag = 0;
        cudaStream_t stream;
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
        LM_LAUNCH(waits_for, 1, 1, 0, stream, flag);
        ask_often(stream);
        LM_LAUNCH(waits_for, 1, 1, 0, nullptr, flag);
        cudaStreamQuery(nullptr);
        cudaStreamQuery(nullptr);
    });
    __atomic_store_n(flag, 1, __ATOMIC_RELEASE);
    EXPECT_INT(ask_often(stream), cudaSuccess);

    /* as many blocks as multiprocessors run at a time, and the ninth never */
    NEED(cudaMemset(at, 0, 2 * sizeof *at) == cudaSuccess);
    RUN_KERNEL(wait_for_last, 8, 1, 0, at);
    NEED(cudaMemset(at, 0, 2 * sizeof *at) == cudaSuccess);
    NEED(cudaDeviceSynchronize() == cudaSuccess);
    LM_LAUNCH(wait_for_last, 9, 1, 0, stream, at);
    EXPECT_INT(ask_often(stream), cudaErrorNotReady);
    emu::configure(emu::ORDER_FORWARD, 1);
    NEED(cudaMemset(at, 1, 4) == cudaSuccess);
    NEED(cudaStreamSynchronize(nullptr) == cudaSuccess);
    EXPECT_INT(ask_often(stream), cudaSuccess);
    cudaStreamDestroy(stream);
    cudaFreeHost(flag);
    cudaFree(at);
}

__global__ void set_one(uint32_t *at)
{
    *at = 1;
}

static void test_peers()
{
    int can = 0;

    NEED(cudaDeviceCanAccessPeer(&can, 0, 1) == cudaSuccess && can == 1);
    NEED(cudaDeviceCanAccessPeer(&can, 1, 1) == cudaSuccess && can == 0);
    EXPECT_INT(cudaDeviceEnablePeerAccess(0, 0), cudaErrorInvalidDevice);
    EXPECT_DEATH("leads to device 0, which device 1 has no access to", {
        uint32_t *at = flags();
        cudaDeviceEnablePeerAccess(1, 0); // the other way
        cudaSetDevice(1);
        LM_LAUNCH(set_one, 1, 1, 0, nullptr, at);
    });
    uint32_t *at = flags(), got = 0;
    NEED(cudaSetDevice(1) == cudaSuccess);
    EXPECT_INT(cudaDeviceEnablePeerAccess(0, 0), cudaSuccess);
    EXPECT_INT(cudaDeviceEnablePeerAccess(0, 0), cudaErrorPeerAccessAlreadyEnabled);
    RUN_KERNEL(set_one, 1, 1, 0, at);
    NEED(cudaSetDevice(0) == cudaSuccess);
    NEED(cudaMemcpy(&got, at, sizeof got, cudaMemcpyDeviceToHost) == cudaSuccess);
    EXPECT_INT(got, 1);
    setenv("LM_CUDA_EMU_NO_PEER", "1", 1);
    NEED(cudaDeviceCanAccessPeer(&can, 0, 1) == cudaSuccess && can == 0);
    EXPECT_INT(cudaDeviceEnablePeerAccess(1, 0), cudaErrorInvalidDevice);
    unsetenv("LM_CUDA_EMU_NO_PEER");
    cudaGetLastError();
    cudaFree(at);
}

static void test_races()
{
#ifdef LM_CUDA_EMU_RACE
    float *x = floats(64), *y = floats(64);
    unsigned *done = (unsigned *)floats(1);
    EXPECT(races_of([&] { RUN_KERNEL(between_warps, 1, 64, 0, x, 0); }) > 0);
    EXPECT(races_of([&] { RUN_KERNEL(between_warps, 1, 64, 0, x, 1); }) == 0);
    EXPECT(races_of([&] { RUN_KERNEL(within_a_warp, 1, 32, 0, x, 0); }) > 0);
    EXPECT(races_of([&] { RUN_KERNEL(within_a_warp, 1, 32, 0, x, 1); }) == 0);
    EXPECT(races_of([&] { RUN_KERNEL(all_write_one, 2, 1, 0, x, 0); }) > 0);
    EXPECT(races_of([&] { RUN_KERNEL(all_write_one, 1, 1, 0, x, 0); }) == 0);
    EXPECT(races_of([&] { RUN_KERNEL(last_block_adds, 4, 32, 0, x, y, done, 0); }) > 0);
    NEED(cudaMemset(done, 0, sizeof *done) == cudaSuccess);
    EXPECT(races_of([&] { RUN_KERNEL(last_block_adds, 4, 32, 0, x, y, done, 1); }) == 0);
    cudaFree(x);
    cudaFree(y);
    cudaFree(done);
#else
    EXPECT(races_of([] {}) == 0);
#endif
}

int main(void)
{
    setenv("LM_CUDA_EMU_DEVICES", "2", 1);
    RUN(test_setting);
    RUN(test_meetings);
    RUN(test_shared_memory);
    RUN(test_copies_land_late);
    RUN(test_order_shows_missing_barriers);
    RUN(test_streams_are_lazy);
    RUN(test_host_and_device_memory);
    RUN(test_foreign_device);
    RUN(test_threads_of_one_device);
    RUN(test_queries);
    RUN(test_library_alignment);
    RUN(test_refused_while_capturing);
    RUN(test_graphs);
    RUN(test_polling);
    RUN(test_peers);
    RUN(test_races);
    RUN(test_all_wait);
    RUN(test_early_access);
    return TEST_END();
}
