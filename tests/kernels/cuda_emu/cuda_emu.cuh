/* cuda_emu.cuh - CUDA kernels on a CPU: the language, for .cu files compiled by a C++20 compiler.
 *
 * One OS thread runs one block at a time; each CUDA thread is a fiber that runs until it has to wait
 * for others (barrier, shuffle, mma), or polls what another device writes. What real hardware leaves open, the emulator decides badly on
 * purpose: order of threads and blocks is forward, reverse or random, cp.async lands as late as it
 * may, shared memory is full of NaN, streams run when something waits for them.
 *
 * What it finds                              | how it says so (and aborts)
 * -------------------------------------------|---------------------------------------------------
 * a barrier or shuffle not all reach         | "deadlock", with the source line where each waits
 * lanes of a warp in different operations    | "meet"
 * a shuffle from a lane outside the mask     | "outside the mask"
 * shared memory out of bounds                | ASan (poisoned gaps) or, in race builds, a message
 * shared memory read before it is written    | NaN in the result
 * cp.async not waited for                    | NaN in the result
 * host code in device memory                 | "is touched by the host", then the signal
 * a kernel's argument leads to host memory   | "memory of the host"
 * or to a device's without peer access to it | "has no access to"
 * memory or waiting while a graph is captured| the errors that CUDA gives; so does a foreign device's stream
 * data races (race build, emu_race.cc)       | "race", counted: emu::race_count()
 * a thread of LM_LAUNCH_PDL never waits      | "without pdl_wait"
 * memory touched too early for it (race b.)  | "race", "before pdl_wait"
 *
 * What it can't: registers, bank conflicts, speed, memory order finer than barriers.
 *
 * Settings, from the environment or by emu::configure():
 *     LM_CUDA_EMU_ORDER=forward|reverse|random   which of the threads that can run runs next
 *     LM_CUDA_EMU_SEED=N                         of the random order
 *
 * Kernels don't include this file but kernels/cuda/cuda_device.cuh. */
#ifndef LM_CUDA_EMU_CUH
#define LM_CUDA_EMU_CUH

#include <functional>
#include <memory>
#include <source_location>
#include <stddef.h>
#include <stdint.h>
#include <thread>
#include <vector>

#include "tests/kernels/cuda_emu/cuda_emu_types.cuh"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __align__(n)    alignas(n)
#define __shared__      static_assert(false, "declare shared memory by LM_SHARED or LM_SHARED_DYNAMIC");

namespace emu
{

using place = std::source_location;

struct thread_context { // the public head of a fiber
    uint3 index;
    unsigned lane, warp;
    bool waited; // false: an earlier launch may still run (pdl_wait)
};

extern constinit thread_local thread_context *current; // NULL: not inside a kernel
extern constinit thread_local uint3 block_index;
extern constinit thread_local dim3 block_size, grid_size;

enum thread_order { ORDER_FORWARD, ORDER_REVERSE, ORDER_RANDOM };

/* For all later launches of the process; overrides the environment. */
void configure(thread_order order, uint64_t seed);

struct block_runner;

/* A launch. It begins with the first go_on(), on the calling thread, which stays its thread; false: its threads
 * poll what others write (poll), and it wants to be called again, by that thread: to others it only says false. Behind true the next call begins it anew, as
 * replayed graphs do. pdl: its threads have to wait for what runs before them, by pdl_wait(). */
class grid
{
  public:
    grid(const char *kernel, dim3 blocks, dim3 threads, size_t dynamic_bytes, bool pdl,
         std::function<void()> body);
    ~grid();
    grid(const grid &) = delete;
    bool go_on();
    bool has_begun() const
    {
        return begun_;
    }

  private:
    void begin();
    void begin_next();
    void enter(block_runner *r) const;
    void leave(size_t standing);

    const char *kernel_;
    dim3 blocks_, threads_;
    size_t dynamic_bytes_;
    bool pdl_, begun_ = false;
    std::thread::id begun_by_;
    std::function<void()> body_;
    uint64_t count_ = 0, next_ = 0, shift_ = 0, random_ = 0; // blocks; of the random order
    size_t resident_max_ = 0;
    std::vector<std::unique_ptr<block_runner>> standing_;
};

/* The running thread has looked at what another device, or the host, writes, and will look again. */
void poll(place where);
/* 0, 1, 2, ...: what the hardware may do in any way is done differently each time. */
unsigned next_turn(void);
void pdl_wait(void);
/* The grids so far have ended before whatever comes next begins. */
void end_of_overlap(void);

/* Prints where in the grid it happened, and aborts. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* `threads` 0: all of the block that have not returned. `wait` false: arrive only. */
void barrier(unsigned id, unsigned threads, bool wait, place where);

/* All lanes of `mask` that have not returned meet here, then `apply` runs once with their arguments
 * (NULL for others). aligned: all 32 lanes must take part, as .aligned instructions want. */
struct warp_operation {
    const char *name;
    void (*apply)(void **arguments, unsigned mask);
    bool aligned;
    bool orders_memory; // __syncwarp does; shuffles and votes don't
};
void warp_meet(unsigned mask, void *argument, const warp_operation *operation, place where);

void *shared_static(const void *tag, size_t bytes, size_t align);
void *shared_dynamic(void);
/* Fails unless all bytes belong to one declared piece of the block's shared memory. */
void shared_check(const void *at, size_t bytes, place where);

void cp_async(void *to_shared, const void *from, unsigned bytes, unsigned valid, place where);
void cp_async_commit(void);
void cp_async_wait(unsigned pending_groups);

/* 0 without the race hooks. A process that ends with races that nobody forgave exits with 66. */
long race_count(void);
void forgive_races(void);

/* What the race hooks hear of, when they are linked in. */
struct race_hooks {
    void (*access)(const void *at, size_t bytes, bool write);
    void (*barrier)(const uint32_t *participants_of_warp, unsigned warps);
    void (*syncwarp)(unsigned warp);
    void (*fence)(void);
    void (*atomic)(void *at, size_t bytes);
    void (*begin_grid)(const char *kernel, bool pdl);
    void (*end_of_overlap)(void);
    void (*begin_block)(uint64_t block, const char *shared, size_t bytes);
    void (*resume_block)(uint64_t block); // that stood
    void (*end_block)(uint64_t block);
};
extern const race_hooks *hooks;
bool on_fiber_stack(const void *at); // of the block that runs on this OS thread

} // namespace emu

#define threadIdx (emu::current->index)
#define blockIdx  (emu::block_index)
#define blockDim  (emu::block_size)
#define gridDim   (emu::grid_size)
static constexpr int warpSize = 32;

/* ---- barriers ---- */

inline void __syncthreads(emu::place where = emu::place::current())
{
    emu::barrier(0, 0, true, where);
}

int __syncthreads_or(int predicate, emu::place where = emu::place::current());
int __syncthreads_and(int predicate, emu::place where = emu::place::current());
int __syncthreads_count(int predicate, emu::place where = emu::place::current());
void __syncwarp(unsigned mask = ~0u, emu::place where = emu::place::current());
void __threadfence(void);
void __threadfence_block(void);
void __threadfence_system(void);

/* ---- votes and shuffles ---- */

unsigned __ballot_sync(unsigned mask, int predicate, emu::place where = emu::place::current());
unsigned __activemask(void); // all lanes that have not returned: kernels should not rely on less

inline int __any_sync(unsigned mask, int predicate, emu::place where = emu::place::current())
{
    return __ballot_sync(mask, predicate, where) != 0;
}

inline int __all_sync(unsigned mask, int predicate, emu::place where = emu::place::current())
{
    return __ballot_sync(mask, !predicate, where) == 0;
}

namespace emu
{

template <class T> struct shuffle_argument {
    T value, result;
    unsigned source;
};

template <class T> void shuffle_apply(void **arguments, unsigned mask)
{
    for (unsigned lane = 0; lane < 32; lane++) {
        auto *a = (shuffle_argument<T> *)arguments[lane];
        if (!a) continue;
        auto *from = (shuffle_argument<T> *)arguments[a->source];
        if (!from)
            fail("shuffle: lane %u reads lane %u, which is outside the mask %08x or has returned",
                 lane, a->source, mask);
        a->result = from->value;
    }
}

template <class T> T shuffle(unsigned mask, T value, unsigned source, place where)
{
    static const warp_operation operation = {"shuffle", shuffle_apply<T>, false, false};
    shuffle_argument<T> a = {value, value, source};
    warp_meet(mask, &a, &operation, where);
    return a.result;
}

} // namespace emu

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              emu::place where = emu::place::current())
{
    unsigned lane = emu::current->lane, segment = lane & ~(unsigned)(width - 1);
    return emu::shuffle(mask, value, segment | ((unsigned)source & (unsigned)(width - 1)), where);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  emu::place where = emu::place::current())
{
    unsigned lane = emu::current->lane, source = lane ^ (unsigned)lane_mask;
    unsigned end = (lane & ~(unsigned)(width - 1)) + (unsigned)width;
    return emu::shuffle(mask, value, source < end ? source : lane, where);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   emu::place where = emu::place::current())
{
    unsigned lane = emu::current->lane, within = lane & (unsigned)(width - 1);
    return emu::shuffle(mask, value, within + delta < (unsigned)width ? lane + delta : lane, where);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 emu::place where = emu::place::current())
{
    unsigned lane = emu::current->lane, within = lane & (unsigned)(width - 1);
    return emu::shuffle(mask, value, within >= delta ? lane - delta : lane, where);
}

/* ---- atomics: across blocks and devices, so real ones ---- */

namespace emu
{
inline void atomic_seen(void *at, size_t bytes)
{
    if (hooks) hooks->atomic(at, bytes);
}
template <class T> struct as_given {
    using type = T;
};
} // namespace emu

#define CUDA_EMU_ATOMIC(name, expression)                                           \
    template <class T> T name(T *at, typename emu::as_given<T>::type value)         \
    {                                                                               \
        emu::atomic_seen(at, sizeof *at);                                           \
        T old, next;                                                                \
        __atomic_load(at, &old, __ATOMIC_SEQ_CST);                                  \
        do                                                                          \
            next = (expression);                                                    \
        while (!__atomic_compare_exchange(at, &old, &next, false, __ATOMIC_SEQ_CST, \
                                          __ATOMIC_SEQ_CST));                       \
        return old;                                                                 \
    }
CUDA_EMU_ATOMIC(atomicAdd, (T)(old + value))
CUDA_EMU_ATOMIC(atomicSub, (T)(old - value))
CUDA_EMU_ATOMIC(atomicMax, old > value ? old : value)
CUDA_EMU_ATOMIC(atomicMin, old < value ? old : value)
CUDA_EMU_ATOMIC(atomicExch, value)
CUDA_EMU_ATOMIC(atomicOr, (T)(old | value))
CUDA_EMU_ATOMIC(atomicAnd, (T)(old &value))
CUDA_EMU_ATOMIC(atomicInc, (T)(old >= value ? 0 : old + 1))
#undef CUDA_EMU_ATOMIC

template <class T>
T atomicCAS(T *at, typename emu::as_given<T>::type compare, typename emu::as_given<T>::type value)
{
    emu::atomic_seen(at, sizeof *at);
    __atomic_compare_exchange(at, &compare, &value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return compare;
}

/* ---- arithmetic intrinsics: the exact function where hardware approximates ---- */

template <class T> inline T __ldg(const T *at)
{
    return *at;
}
template <class T> inline T __ldcs(const T *at)
{
    return *at;
}
template <class T> inline T __ldcg(const T *at)
{
    return *at;
}
template <class T> inline void __stcs(T *at, T value)
{
    *at = value;
}
inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
inline float __frsqrt_rn(float x)
{
    return (float)(1.0 / sqrt((double)x));
}
inline float __expf(float x)
{
    return expf(x);
}
inline float __logf(float x)
{
    return logf(x);
}
inline float __fdividef(float a, float b)
{
    return a / b;
}
inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
inline float __fadd_rn(float a, float b)
{
    return a + b;
}
inline float __fmul_rn(float a, float b)
{
    return a * b;
}
inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
inline float __saturatef(float x)
{
    return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}
inline int __float2int_rn(float x)
{
    return (int)nearbyintf(x);
}
inline float __int2float_rn(int x)
{
    return (float)x;
}
inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector)
{
    uint64_t bytes = (uint64_t)high << 32 | low;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; i++) {
        unsigned pick = selector >> 4 * i;
        unsigned byte = (unsigned)(bytes >> 8 * (pick & 7u)) & 0xffu;
        if (pick & 8u) byte = byte & 0x80u ? 0xffu : 0u;
        result |= byte << 8 * i;
    }
    return result;
}
inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++)
        c += (int8_t)((unsigned)a >> 8 * i) * (int8_t)((unsigned)b >> 8 * i);
    return c;
}

/* CUDA's min and max mix integer types as the usual arithmetic conversions do. */
template <class A, class B> constexpr auto min(A a, B b)
{
    return a < b ? a : b;
}
template <class A, class B> constexpr auto max(A a, B b)
{
    return a > b ? a : b;
}

#endif
