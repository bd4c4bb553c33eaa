/* cuda_peer.cu - the protocol, which is NCCL's "LL" with one step.
 *
 * A line is two floats, each in 8 bytes together with the number of the sum: {data, sum, data, sum}. Each half
 * arrives whole (load_halves), so who sees the right number has the data that belongs to it: no fences, no order
 * between lines, no atomicity of 16 bytes. A mailbox has two slots of [world][lines]; sum n goes to slot n % 2.
 *
 *     rank r, sum n:  push     own lines into row r of slot n % 2 of every other rank's mailbox
 *                     receive  poll the other rows of the own mailbox, line by line, add in the order of ranks
 *
 * A thread pushes all of its lines before it polls the first: what a rank waits for depends on nothing but that the
 * other rank's threads run. So all blocks of a grid must run at the same time, whatever ranks the others are: there
 * are at most as many as multiprocessors, each has room for one (PEER_THREADS, no shared memory), and the grid begins
 * when what was before it in its stream has ended. What other streams or processes run ends or is switched.
 *
 * Two slots are enough. Rank a writes into b's slot n % 2 in its kernel n: is b done with what it read there in sum
 * n - 2? a's kernel n began when a's kernel n - 1 had ended, all blocks of it (rule 1 of cuda_peer.h: one stream, no
 * PDL; kernels between them that do begin early wait for their predecessors' end before they end themselves, README
 * P1). It ended only because b's part of n - 1 had come, at least a line (count >= 1). b's kernel n - 1 pushed that,
 * so it had begun, so b's kernel n - 2 had ended, all blocks: each had seen the lines that it polled. Which blocks
 * have which lines doesn't matter, nor whether a's grid is as large as b's.
 *
 * The number of a sum is in device memory, so that recorded launches count too: one counter for each block that may
 * be, all equal between kernels. A block reads and advances its own, block 0 those of blocks that this grid doesn't
 * have. Numbers begin with 2, and begin again with 2 behind 2^32 - 1: slots take turns, 0 is what new memory has, and
 * a counter of 0 says that the block was told to stop, so that it doesn't even begin in the kernels behind.
 *
 * A line that was last used exactly 2^32 - 2 sums (days) ago would look fresh. So each sum also clears some lines
 * behind its own end in the slot it uses, a part of the rows in turn (sweep): nobody writes there before sum n + 2,
 * which, as above, begins behind this kernel's end.
 *
 * What this takes for granted beyond the memory model of PTX, and no test without GPUs can show: that between devices,
 * too, a kernel's end puts its stores, and its loads, before what the stream does next. README has more. */
#include "kernels/cuda/cuda_peer.h"

#include <stdlib.h>
#include <string.h>

#include "shared/base/check.h"

#define PEER_THREADS     256
#define PEER_BLOCKS_MAX  64  // 8 lines a thread of the largest sum of two ranks
#define STOP_POLLS       256 // some 0.1 ms: the stop word is behind the bus
#define SWEEP_LINES      256 // of each row, in one sum

/* The largest sum follows from a mailbox of 8 MiB: 1 MiB with 2 ranks, 256 KiB with 8. A device sends 2 (world - 1)
 * times the bytes of a sum, about 4 MiB then for any world, which are 8 us of NVLink at 450 GB/s; NCCL needs 10 to 20
 * for such sums, by others' measurements, and less time for each byte. Over PCIe, an eighth: bytes are dearer. */
#define PEER_SLOTS_BYTES ((size_t)8 << 20)
#define PCIE_SHARE       8

static size_t lines_of(int world)
{
    return PEER_SLOTS_BYTES / sizeof(uint4) / 2 / (size_t)world;
}

struct peer_job {
    uint4 *mailbox[CUDA_PEER_WORLD_MAX];
    uint4 *own;           // mailbox[rank]
    uint32_t *counter;    // [PEER_BLOCKS_MAX]: the number of the last sum; 0: stopped
    const uint32_t *stop; // of the host
    float *x;
    uint32_t count, lines_max;
    int rank;
};

/* ---- the kernel ---- */

__device__ __forceinline__ uint32_t number_after(uint32_t last)
{
    return last == 0xffffffffu ? 2 : last + 1;
}

/* Of this sum. The block's counter advances. */
__device__ __forceinline__ uint32_t take_number(uint32_t *counter, uint32_t last)
{
    uint32_t number = number_after(last);

    __syncthreads(); // all have read it
    if (threadIdx.x == 0) counter[blockIdx.x] = number;
    if (blockIdx.x == 0)
        for (unsigned b = gridDim.x + threadIdx.x; b < PEER_BLOCKS_MAX; b += PEER_THREADS)
            counter[b] = number;
    return number;
}

/* Floats of a line; behind the end 0. */
__device__ __forceinline__ float2 own_line(const peer_job &job, uint32_t line)
{
    uint32_t i = 2 * line;
    return make_float2(job.x[i], i + 1 < job.count ? job.x[i + 1] : 0.0f);
}

template <int World>
__device__ __forceinline__ void push(const peer_job &job, size_t row, uint32_t line,
                                     uint32_t number)
{
    float2 v = own_line(job, line);
    uint4 packed = make_uint4(__float_as_uint(v.x), number, __float_as_uint(v.y), number);

    LM_UNROLL
    for (int r = 0; r < World; r++)
        if (r != job.rank) store_halves(job.mailbox[r] + row + line, packed);
}

/* All ranks' parts of a line; row r's stands r * lines_max behind the first one's. False: it was told to stop. */
template <int World>
__device__ __forceinline__ bool receive(const peer_job &job, const uint4 *first, uint32_t number,
                                        float2 own, float2 part[World])
{
    for (unsigned polls = 1;; polls++) {
        bool all = true;
        LM_UNROLL
        for (int r = 0; r < World; r++) {
            part[r] = own;
            if (r == job.rank) continue;
            uint4 v = load_halves(first + (size_t)r * job.lines_max);
            all &= v.y == number && v.w == number;
            part[r] = make_float2(__uint_as_float(v.x), __uint_as_float(v.z));
        }
        if (all) return true;
        if (polls % STOP_POLLS == 0 && load_acquire(job.stop) != 0) return false;
        poll_pause();
    }
}

/* Lines [behind, lines_max) of the slot are not used by this sum. */
template <int World>
__device__ __forceinline__ void sweep(const peer_job &job, uint4 *slot, uint32_t behind,
                                      uint32_t number)
{
    uint32_t parts = job.lines_max / SWEEP_LINES + 1;
    uint32_t line = number / 2 % parts * SWEEP_LINES + threadIdx.x;

    if (line < behind || line >= job.lines_max) return;
    LM_UNROLL
    for (int r = 0; r < World; r++)
        slot[(size_t)r * job.lines_max + line] = make_uint4(0, 0, 0, 0);
}

template <int World>
__global__ void __launch_bounds__(PEER_THREADS) peer_sum_kernel(const peer_job job)
{
    const uint32_t last = job.counter[blockIdx.x];
    if (last == 0) return; // all threads of the block
    const uint32_t number = take_number(job.counter, last);
    const uint32_t lines = (job.count + 1) / 2, step = gridDim.x * PEER_THREADS;
    const uint32_t from = blockIdx.x * PEER_THREADS + threadIdx.x;
    const size_t slot = (size_t)(number % 2) * World * job.lines_max;
    bool stopped = false;

    for (uint32_t line = from; line < lines; line += step)
        push<World>(job, slot + (size_t)job.rank * job.lines_max, line, number);
    if (blockIdx.x == 0) sweep<World>(job, job.own + slot, lines, number); // nobody waits for it
    for (uint32_t line = from; line < lines && !stopped; line += step) {
        float2 part[World];
        stopped = !receive<World>(job, job.own + slot + line, number, own_line(job, line), part);
        float2 sum = part[0];
        LM_UNROLL
        for (int r = 1; r < World; r++)
            sum = make_float2(sum.x + part[r].x, sum.y + part[r].y);
        job.x[2 * line] = sum.x;
        if (2 * line + 1 < job.count) job.x[2 * line + 1] = sum.y;
    }
    if (__syncthreads_or(stopped) && threadIdx.x == 0) job.counter[blockIdx.x] = 0;
}

/* ---- the host ---- */

#define WORLDS(X) X(2) X(3) X(4) X(5) X(6) X(7) X(8)

static uint32_t *counters(const struct cuda_peer *p)
{
    return (uint32_t *)(p->mailbox[p->rank] + PEER_SLOTS_BYTES / sizeof(uint4));
}

cudaError_t cuda_peer_sum(const struct cuda_peer *p, float *x, size_t count, cudaStream_t stream)
{
    struct peer_job job = {};

    CHECK(count >= 1 && count <= p->most);
    memcpy(job.mailbox, p->mailbox, sizeof job.mailbox);
    job.own = p->mailbox[p->rank];
    job.counter = counters(p);
    job.stop = p->stop;
    job.x = x;
    job.count = (uint32_t)count;
    job.lines_max = (uint32_t)lines_of(p->world);
    job.rank = p->rank;
    unsigned blocks = (unsigned)(((count + 1) / 2 + PEER_THREADS - 1) / PEER_THREADS);
    if (blocks > p->blocks_max) blocks = p->blocks_max;
    switch (p->world) {
#define X(n) \
    case n:  \
        return LM_LAUNCH((peer_sum_kernel<n>), blocks, PEER_THREADS, 0, stream, job);
        WORLDS(X)
#undef X
    default:
        return cudaErrorInvalidValue;
    }
}

size_t cuda_peer_bytes(int world)
{
    const char *setting = getenv("LM_CUDA_PEER");

    if (world <= 1 || world > CUDA_PEER_WORLD_MAX || (setting && strcmp(setting, "0") == 0))
        return 0;
    return PEER_SLOTS_BYTES + PEER_BLOCKS_MAX * sizeof(uint32_t);
}

/* *native: over NVLink, which has atomics; PCIe has none. */
static cudaError_t reach(int rank, int world, bool *native)
{
    *native = true;
    for (int r = 0; r < world; r++) {
        int can = 0, atomics = 0;
        if (r == rank) continue;
        cudaError_t rc = cudaDeviceCanAccessPeer(&can, rank, r);
        if (rc == cudaSuccess && !can) rc = cudaErrorNotSupported;
        if (rc == cudaSuccess) rc = cudaDeviceEnablePeerAccess(r, 0);
        if (rc == cudaErrorPeerAccessAlreadyEnabled) rc = cudaSuccess;
        if (rc == cudaSuccess)
            rc = cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, rank, r);
        if (rc != cudaSuccess) return rc;
        *native &= atomics != 0;
    }
    return cudaSuccess;
}

/* So that no later launch waits for the device to bring it there, while others poll. */
static cudaError_t load_kernel(int world)
{
    cudaFuncAttributes attributes;

    switch (world) {
#define X(n) \
    case n:  \
        return cudaFuncGetAttributes(&attributes, peer_sum_kernel<n>);
        WORLDS(X)
#undef X
    default:
        return cudaErrorInvalidValue;
    }
}

static cudaError_t take(struct cuda_peer *p, size_t bytes)
{
    int processors = 0;

    cudaError_t rc = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, p->rank);
    if (rc == cudaSuccess) rc = load_kernel(p->world);
    if (rc == cudaSuccess) rc = cudaMalloc((void **)&p->mailbox[p->rank], bytes);
    if (rc == cudaSuccess) rc = cudaMemset(p->mailbox[p->rank], 0, bytes);
    if (rc == cudaSuccess) rc = cuda_peer_count_from(p, 1);
    if (rc == cudaSuccess)
        rc = cudaHostAlloc((void **)&p->stop, sizeof *p->stop,
                           cudaHostAllocPortable | cudaHostAllocMapped);
    if (rc == cudaSuccess) rc = cudaStreamSynchronize(NULL); // others write as soon as they know it
    if (p->stop) *p->stop = 0;
    p->blocks_max = processors < PEER_BLOCKS_MAX ? (unsigned)processors : PEER_BLOCKS_MAX;
    return rc;
}

void cuda_peer_offer(struct cuda_peer *p, int rank, int world)
{
    size_t bytes = cuda_peer_bytes(world);
    bool native = false;

    *p = (struct cuda_peer){};
    p->rank = rank;
    p->world = world;
    if (bytes == 0) return;
    cudaError_t rc = reach(rank, world, &native);
    if (rc == cudaSuccess) rc = take(p, bytes);
    cudaGetLastError(); // of what this rank does without
    if (rc == cudaSuccess)
        p->most = 2 * lines_of(world) / (native ? 1 : PCIE_SHARE);
    else
        cuda_peer_free(p);
}

void cuda_peer_accept(struct cuda_peer *p, const struct cuda_peer *offers)
{
    for (int r = 0; r < p->world; r++) {
        p->mailbox[r] = offers[r].mailbox[r];
        if (offers[r].most < p->most) p->most = offers[r].most;
    }
}

void cuda_peer_stop(const struct cuda_peer *offer)
{
    if (offer->stop) __atomic_store_n(offer->stop, 1, __ATOMIC_RELEASE);
}

void cuda_peer_free(struct cuda_peer *offer)
{
    if (offer->mailbox[offer->rank]) cudaFree(offer->mailbox[offer->rank]);
    if (offer->stop) cudaFreeHost(offer->stop);
    offer->mailbox[offer->rank] = NULL;
    offer->stop = NULL;
    offer->most = 0;
}

cudaError_t cuda_peer_count_from(const struct cuda_peer *p, uint32_t last)
{
    uint32_t counts[PEER_BLOCKS_MAX];

    for (int b = 0; b < PEER_BLOCKS_MAX; b++)
        counts[b] = last;
    return cudaMemcpy(counters(p), counts, sizeof counts, cudaMemcpyHostToDevice);
}
