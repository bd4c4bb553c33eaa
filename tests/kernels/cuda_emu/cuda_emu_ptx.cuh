/* cuda_emu_ptx.cuh - the emulated side of kernels/cuda/cuda_device.cuh, which documents each function. */
#ifndef LM_CUDA_EMU_PTX_CUH
#define LM_CUDA_EMU_PTX_CUH

#include "tests/kernels/cuda_emu/cuda_emu.cuh"

#define LM_SHARED(type, name, count)   \
    static const char name##_tag_ = 0; \
    type *name = static_cast<type *>(  \
        emu::shared_static(&name##_tag_, sizeof(type) * (count), alignof(type)))
#define LM_SHARED_DYNAMIC(type, name) type *name = static_cast<type *>(emu::shared_dynamic())
#define LM_UNROLL
#define LM_UNROLL_BY(n)

void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2],
              emu::place where = emu::place::current());
void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2],
             emu::place where = emu::place::current());

void ldmatrix_x4(uint32_t r[4], const void *row, emu::place where = emu::place::current());
void ldmatrix_x4_trans(uint32_t r[4], const void *row, emu::place where = emu::place::current());
void ldmatrix_x2(uint32_t r[2], const void *row, emu::place where = emu::place::current());
void ldmatrix_x2_trans(uint32_t r[2], const void *row, emu::place where = emu::place::current());

inline void cp_async4(void *to, const void *from, emu::place where = emu::place::current())
{
    emu::cp_async(to, from, 4, 4, where);
}

inline void cp_async8(void *to, const void *from, emu::place where = emu::place::current())
{
    emu::cp_async(to, from, 8, 8, where);
}

inline void cp_async16(void *to, const void *from, emu::place where = emu::place::current())
{
    emu::cp_async(to, from, 16, 16, where);
}

inline void cp_async_zero16(void *to, const void *from, int valid,
                            emu::place where = emu::place::current())
{
    emu::cp_async(to, from, 16, (unsigned)valid, where);
}

inline void cp_async_commit()
{
    emu::cp_async_commit();
}

template <int Pending> inline void cp_async_wait()
{
    emu::cp_async_wait(Pending);
}

inline void barrier_sync(int id, int threads, emu::place where = emu::place::current())
{
    emu::barrier((unsigned)id, (unsigned)threads, true, where);
}

inline void barrier_arrive(int id, int threads, emu::place where = emu::place::current())
{
    emu::barrier((unsigned)id, (unsigned)threads, false, where);
}

inline void pdl_wait()
{
    emu::pdl_wait();
}

inline void pdl_trigger()
{
}

template <class T> inline T load_nc(const T *at)
{
    return *at;
}

template <class T> inline T load_stream(const T *at)
{
    return *at;
}

template <class T> inline void store_stream(T *at, T value)
{
    *at = value;
}

/* A thread that polls lets others run, of its device and of those it waits for. */
inline uint32_t load_acquire(const uint32_t *flag, emu::place where = emu::place::current())
{
    emu::poll(where);
    emu::atomic_seen(const_cast<uint32_t *>(flag), sizeof *flag);
    return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}

inline void store_release(uint32_t *flag, uint32_t value)
{
    emu::atomic_seen(flag, sizeof *flag);
    __atomic_store_n(flag, value, __ATOMIC_RELEASE);
}

/* One half is read before the other, in turn the first and the second, now and then with others running between. */
inline uint4 load_halves(const uint4 *at, emu::place where = emu::place::current())
{
    const uint64_t *from = reinterpret_cast<const uint64_t *>(at);
    const unsigned now = emu::next_turn(), first = now % 2;
    uint64_t half[2];
    if (emu::hooks) emu::hooks->access(at, sizeof *at, false);
    half[first] = __atomic_load_n(from + first, __ATOMIC_RELAXED);
    if (now % 16 < 2) emu::poll(where);
    half[1 - first] = __atomic_load_n(from + 1 - first, __ATOMIC_RELAXED);
    return make_uint4((uint32_t)half[0], (uint32_t)(half[0] >> 32), (uint32_t)half[1],
                      (uint32_t)(half[1] >> 32));
}

inline void store_halves(uint4 *at, uint4 v)
{
    uint64_t *half = reinterpret_cast<uint64_t *>(at);
    if (emu::hooks) emu::hooks->access(at, sizeof *at, true);
    __atomic_store_n(half + 1, (uint64_t)v.w << 32 | v.z, __ATOMIC_RELAXED);
    __atomic_store_n(half, (uint64_t)v.y << 32 | v.x, __ATOMIC_RELAXED);
}

inline void poll_pause(emu::place where = emu::place::current())
{
    emu::poll(where);
}

inline float exp2_approx(float x)
{
    float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y; // .ftz
}

inline float rcp_approx(float x)
{
    return 1.0f / x;
}

inline float tanh_approx(float x)
{
    return tanhf(x);
}

#endif
