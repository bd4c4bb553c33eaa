/* cuda_device.cuh - the device side of the CUDA backend: all PTX, shared memory and launch macros.
 *
 * Every .cu file includes this (host code that launches nothing: cuda_api.cuh) and keeps to what
 * stands here, so that it also compiles with g++ against tests/kernels/cuda_emu, where kernels run
 * on the CPU, checked (LM_CUDA_EMULATED). The dialect:
 *
 *   - no asm, no <<<>>>, no cooperative groups, no CUB outside this file
 *   - shared memory: LM_SHARED(float, sums, 32); or LM_SHARED_DYNAMIC(float, tile);
 *     both give a pointer (no 2-dimensional arrays); bare __shared__ doesn't compile in the emulator
 *   - launches: LM_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...);
 *     a template instance in parentheses: LM_LAUNCH((gemv<8, 4>), ...)
 *   - bf16 and f16 by functions (__bfloat162float, __floats2bfloat162_rn, __hfma2, ...), not by the
 *     classes' operators and implicit conversions
 *   - CUDA's own names for the rest: threadIdx, __syncthreads, __shfl_xor_sync, atomicAdd, __ldg, ...
 *     (tests/kernels/cuda_emu/cuda_emu.cuh has the list)
 *   - multiply-adds that shall be fused are written fmaf(): nvcc runs with -fmad=false, as the CPU
 *     code is compiled with -ffp-contract=off
 *
 * Names of this file (section of the PTX ISA, release 9.0):
 *
 *   mma_bf16, mma_f16                      9.7.14.5.8   m16n8k16, float32 accumulators
 *   ldmatrix_x2, _x4, _x2_trans, _x4_trans 9.7.14.5.15  8x8 matrices of 16-bit elements
 *   cp_async4, 8, 16, cp_async_zero16      9.7.9.25     global to shared, asynchronous
 *   cp_async_commit, cp_async_wait<N>      9.7.9.25.3
 *   barrier_sync, barrier_arrive           9.7.13.1     named barriers 1..15
 *   pdl_wait, pdl_trigger, pdl_begin       9.7.13.13    griddepcontrol
 *   load_nc, load_stream, store_stream     9.7.9.8, 11  vector loads past L1, read once
 *   load_acquire, store_release            9.7.9.8, 11  flags between devices
 *   load_halves, store_halves, poll_pause  9.7.9.8, 11  data with its flag, between devices
 *   exp2_approx, rcp_approx, tanh_approx   9.7.3        one instruction, 2 ulp or so
 *   pack2, unpack2                                      two 16-bit elements and a register
 *   warp_sum, warp_max, block_sum, block_max            fixed order: equal bits for equal input */
#ifndef LM_KERNELS_CUDA_DEVICE_CUH
#define LM_KERNELS_CUDA_DEVICE_CUH

#include <stdint.h>

#include "kernels/cuda/cuda_api.cuh"

#define WARP_LANES 32
#define WARP_ALL   0xffffffffu

#ifdef LM_CUDA_EMULATED
#include <cuda_emu_ptx.cuh>
#else

/* `name`: a pointer to `count` elements, shared by the block; their contents are undefined. */
#define LM_SHARED(type, name, count)          \
    __shared__ type name##_storage_[(count)]; \
    type *name = name##_storage_

/* `name`: a pointer to the shared_bytes that the launch asked for, aligned to 1024. */
#define LM_SHARED_DYNAMIC(type, name)                                     \
    extern __shared__ __align__(1024) unsigned char lm_shared_dynamic_[]; \
    type *name = reinterpret_cast<type *>(lm_shared_dynamic_)

/* ---- tensor cores ----
 *
 * d[16][8] += a[16][16] * b[16][8], by one warp. A register holds two 16-bit elements, the lower
 * index in the lower half. With g = lane / 4 and t = lane % 4 a lane holds
 *
 *   a[0] = A[g][2t..]  a[1] = A[g + 8][2t..]  a[2] = A[g][2t + 8..]  a[3] = A[g + 8][2t + 8..]
 *   b[0] = B[2t..][g]  b[1] = B[2t + 8..][g]
 *   d[0..1] = D[g][2t..2t + 1]               d[2..3] = D[g + 8][2t..2t + 1]
 */
__device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* ---- shared memory to fragments ----
 *
 * r[i] becomes elements [lane / 4][2 (lane % 4)..] of 8x8 matrix i, whose rows of 16 bytes are where
 * lanes 8i..8i + 7 point (aligned to 16). _trans transposes each matrix on the way. An A fragment
 * of mma is one _x4 of rows [lane % 16], columns [lane / 16 * 8]. */
__device__ __forceinline__ uint32_t shared_address(const void *at)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t r[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t r[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

/* ---- asynchronous copies, global to shared ----
 *
 * A thread waits for its own copies only: wait, then __syncthreads(), then read what others copied.
 * Both addresses are multiples of the size. 16 bytes go past L1 (.cg), fewer through it. */
__device__ __forceinline__ void cp_async4(void *to_shared, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to_shared)),
                 "l"(from)
                 : "memory");
}

__device__ __forceinline__ void cp_async8(void *to_shared, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(to_shared)),
                 "l"(from)
                 : "memory");
}

__device__ __forceinline__ void cp_async16(void *to_shared, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to_shared)),
                 "l"(from)
                 : "memory");
}

/* `valid` (0 to 16) bytes are read, the rest of the 16 become 0. With 0 `from` need only be aligned. */
__device__ __forceinline__ void cp_async_zero16(void *to_shared, const void *from, int valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)),
                 "l"(from), "r"(valid)
                 : "memory");
}

/* The copies since the last commit become a group; an empty one counts too. */
__device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most `Pending` of this thread's groups, the youngest, are in flight. */
template <int Pending> __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/* ---- barriers of part of a block ----
 *
 * ids 1 to 15 (0 is __syncthreads); `threads` counts those that sync and those that arrive, in whole
 * warps. Arriving orders what was written before it and doesn't wait. */
__device__ __forceinline__ void barrier_sync(int id, int threads)
{
    asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void barrier_arrive(int id, int threads)
{
    asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* ---- programmatic dependent launch (sm_90 and later; before it a launch waits by itself) ----
 *
 * A kernel started by LM_LAUNCH_PDL may begin while its predecessor still runs. Before pdl_wait() it
 * may read weights and its parameters, but touch nothing that an earlier kernel writes or reads.
 * Every thread waits, also one that has nothing to do: a grid then ends behind all before it, and who
 * waits for it has waited for them. (Emulated, a thread that doesn't ends the program.)
 *
 * pdl_trigger() says that the next kernel may start once all blocks have said so or ended; it promises
 * nothing about memory. As every kernel waits it can come first: blocks of the next kernel then fill what
 * the last ones of this one leave free, and may be fetching weights while small kernels between run. */
__device__ __forceinline__ void pdl_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void pdl_trigger()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- global memory ----
 *
 * load_nc: read-only for the whole kernel, not kept in L1 (weights, each read once per launch).
 * load_stream, store_stream: touched once, evicted first. */
__device__ __forceinline__ uint4 load_nc(const uint4 *at)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
}

__device__ __forceinline__ uint2 load_nc(const uint2 *at)
{
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0,%1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(at));
    return v;
}

__device__ __forceinline__ uint32_t load_nc(const uint32_t *at)
{
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.u32 %0, [%1];" : "=r"(v) : "l"(at));
    return v;
}

template <class T> __device__ __forceinline__ T load_stream(const T *at)
{
    return __ldcs(at);
}

template <class T> __device__ __forceinline__ void store_stream(T *at, T value)
{
    __stcs(at, value);
}

/* A flag that another device may write, or read: what was written before the release is seen
 * behind the acquire that reads its value. */
__device__ __forceinline__ uint32_t load_acquire(const uint32_t *flag)
{
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(flag) : "memory");
    return v;
}

__device__ __forceinline__ void store_release(uint32_t *flag, uint32_t value)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

/* Between devices, 8 bytes at a time: each half (x and y, z and w) arrives whole or not at all, since it is one
 * access of the memory model (PTX ISA, 8: the elements of a vector are accesses of their own, in no order).
 * Nothing else is ordered by it. Between two looks at one that hasn't come: poll_pause(). */
__device__ __forceinline__ uint4 load_halves(const uint4 *at)
{
    uint64_t a, b;
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0,%1}, [%2];"
                 : "=l"(a), "=l"(b)
                 : "l"(at)
                 : "memory");
    return make_uint4((uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32));
}

__device__ __forceinline__ void store_halves(uint4 *at, uint4 v)
{
    uint64_t a = (uint64_t)v.y << 32 | v.x, b = (uint64_t)v.w << 32 | v.z;
    asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1,%2};" ::"l"(at), "l"(a), "l"(b)
                 : "memory");
}

__device__ __forceinline__ void poll_pause()
{
    /* The hardware's scheduler lets others run by itself; emulated, this does. */
}

/* ---- approximations ---- */

__device__ __forceinline__ float exp2_approx(float x) // 2^x; 2^-127 and less: 0
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float rcp_approx(float x) // 1 / x
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float tanh_approx(float x) // relative error 2^-11: not for float32 paths
{
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#define LM_UNROLL       _Pragma("unroll")
#define LM_PRAGMA(text) _Pragma(#text)
#define LM_UNROLL_BY(n) LM_PRAGMA(unroll n) // a constant expression, also of a template's arguments

#endif // the hardware

/* ---- the same on both ---- */

/* The first line of a kernel that has nothing to do before it may touch what others made. */
__device__ __forceinline__ void pdl_begin()
{
    pdl_trigger();
    pdl_wait();
}

__device__ __forceinline__ int lane_id()
{
    return (int)(threadIdx.x & 31u); // blocks are a multiple of 32 wide
}

__device__ __forceinline__ int warp_id()
{
    return (int)(threadIdx.x >> 5);
}

/* Two 16-bit elements in a register, `low` in the lower half. */
template <class T> __device__ __forceinline__ uint32_t pack2(float low, float high);
template <class T> __device__ __forceinline__ float2 unpack2(uint32_t pair);

template <> __device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return (uint32_t)__bfloat16_as_ushort(pair.x) | (uint32_t)__bfloat16_as_ushort(pair.y) << 16;
}

template <> __device__ __forceinline__ uint32_t pack2<__half>(float low, float high)
{
    __half2 pair = __floats2half2_rn(low, high);
    return (uint32_t)__half_as_ushort(pair.x) | (uint32_t)__half_as_ushort(pair.y) << 16;
}

template <> __device__ __forceinline__ float2 unpack2<__nv_bfloat16>(uint32_t pair)
{
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

template <> __device__ __forceinline__ float2 unpack2<__half>(uint32_t pair)
{
    return make_float2(__half2float(__ushort_as_half((unsigned short)(pair & 0xffffu))),
                       __half2float(__ushort_as_half((unsigned short)(pair >> 16))));
}

/* One element of any of the three storage types. */
__device__ __forceinline__ float to_float(float x)
{
    return x;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(__half x)
{
    return __half2float(x);
}

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x)
{
    return x;
}
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}
template <> __device__ __forceinline__ __half from_float<__half>(float x)
{
    return __float2half_rn(x);
}

/* Sums and maxima that every lane, or thread, receives. Lanes are added i + (i ^ 16), 8, 4, 2, 1: by
 * commutativity the same bits in each. `Lanes`: of groups of so many neighbours. */
template <int Lanes = WARP_LANES> __device__ __forceinline__ float warp_sum(float v)
{
    for (int other = Lanes / 2; other > 0; other /= 2)
        v += __shfl_xor_sync(WARP_ALL, v, other);
    return v;
}

template <int Lanes = WARP_LANES> __device__ __forceinline__ float warp_max(float v)
{
    for (int other = Lanes / 2; other > 0; other /= 2)
        v = fmaxf(v, __shfl_xor_sync(WARP_ALL, v, other));
    return v;
}

/* Of a block of whole warps, 1024 threads at most, one-dimensional; all threads call. `scratch`: 32
 * floats of shared memory; all threads are behind it when it returns, so it may be used again. */
__device__ __forceinline__ float block_sum(float v, float *scratch)
{
    int warps = (int)(blockDim.x / WARP_LANES);
    v = warp_sum(v);
    if (lane_id() == 0) scratch[warp_id()] = v;
    __syncthreads();
    v = warp_sum(lane_id() < warps ? scratch[lane_id()] : 0.0f);
    __syncthreads();
    return v;
}

__device__ __forceinline__ float block_max(float v, float *scratch)
{
    int warps = (int)(blockDim.x / WARP_LANES);
    v = warp_max(v);
    if (lane_id() == 0) scratch[warp_id()] = v;
    __syncthreads();
    v = warp_max(scratch[lane_id() < warps ? lane_id() : 0]);
    __syncthreads();
    return v;
}

#endif
