/* test_cuda_device.cu - cuda_device.cuh: layouts of mma and ldmatrix, asynchronous copies, barriers of part
 * of a block, reductions. The same source runs on a GPU when nvcc compiles it. */
#include <math.h>
#include <string.h>
#include <vector>

#include "kernels/cuda/cuda_device.cuh"
#include "tests/test.h"

/* Memory of the device with a copy on the host. */
template <class T> struct both {
    std::vector<T> host;
    T *device = nullptr;

    explicit both(size_t count) : host(count)
    {
        NEED(cudaMalloc(&device, count * sizeof(T)) == cudaSuccess);
    }
    ~both()
    {
        cudaFree(device);
    }
    void send()
    {
        NEED(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice) ==
             cudaSuccess);
    }
    void receive()
    {
        NEED(cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost) ==
             cudaSuccess);
    }
    T &operator[](size_t i)
    {
        return host[i];
    }
};

/* ---- reductions ---- */

__global__ void reduce_rows(const float *x, float *sums, float *maxima, int columns)
{
    LM_SHARED(float, scratch, 32);
    const float *row = x + (size_t)blockIdx.x * (size_t)columns;
    float sum = 0.0f, most = -INFINITY;
    for (int i = (int)threadIdx.x; i < columns; i += (int)blockDim.x) {
        sum += row[i];
        most = fmaxf(most, row[i]);
    }
    sum = block_sum(sum, scratch);
    most = block_max(most, scratch);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
        maxima[blockIdx.x] = most;
    }
}

static void test_reductions()
{
    const int rows = 3, columns = 100;
    for (unsigned threads : {32u, 64u, 128u, 1024u}) {
        both<float> x((size_t)rows * columns), sums(rows), maxima(rows);
        for (size_t i = 0; i < x.host.size(); i++)
            x[i] = (float)i - 250.0f;
        x.send();
        EXPECT(LM_LAUNCH(reduce_rows, rows, threads, 0, nullptr, x.device, sums.device,
                         maxima.device, columns) == cudaSuccess);
        sums.receive();
        maxima.receive();
        for (int r = 0; r < rows; r++) {
            int first = columns * r - 250;
            EXPECT(sums[(size_t)r] == (float)(columns * first + columns * (columns - 1) / 2));
            EXPECT(maxima[(size_t)r] == (float)(first + columns - 1));
        }
    }
}

/* ---- a tile product, through everything on its way: cp.async, ldmatrix, mma ---- */

__device__ __forceinline__ void mma(float d[4], const uint32_t a[4], const uint32_t b[2],
                                    const __nv_bfloat16 *)
{
    mma_bf16(d, a, b);
}
__device__ __forceinline__ void mma(float d[4], const uint32_t a[4], const uint32_t b[2],
                                    const __half *)
{
    mma_f16(d, a, b);
}

#define TILE_K     64
#define TILE_PITCH (TILE_K + 8) // elements: rows start in different banks

/* d[16][8] = a[16][TILE_K] * b, b as [8][TILE_K] (rows are columns of B) or, TRANS, as [TILE_K][8]. */
template <class T, bool TRANS> __global__ void tile_product(const T *a, const T *b, float *d)
{
    LM_SHARED_DYNAMIC(T, tiles);
    T *tile_a = tiles, *tile_b = tiles + 16 * TILE_PITCH;
    int b_columns = TRANS ? 8 : TILE_K, b_pitch = TRANS ? 8 : TILE_PITCH;
    int lane = lane_id();
    for (int i = lane; i < 16 * TILE_K / 8; i += WARP_LANES) {
        int row = i / (TILE_K / 8), column = i % (TILE_K / 8) * 8;
        cp_async16(tile_a + row * TILE_PITCH + column, a + row * TILE_K + column);
    }
    cp_async_commit();
    for (int i = lane; i < 8 * TILE_K / 8; i += WARP_LANES) {
        int row = i * 8 / b_columns, column = i * 8 % b_columns;
        cp_async16(tile_b + row * b_pitch + column, b + row * b_columns + column);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    float sum[4] = {};
    for (int k = 0; k < TILE_K; k += 16) {
        uint32_t fa[4], fb[2];
        ldmatrix_x4(fa, tile_a + lane % 16 * TILE_PITCH + k + lane / 16 * 8);
        if (TRANS)
            ldmatrix_x2_trans(fb, tile_b + (k + lane % 16) * b_pitch);
        else
            ldmatrix_x2(fb, tile_b + lane % 8 * b_pitch + k + lane / 8 % 2 * 8);
        mma(sum, fa, fb, a);
    }
    for (int i = 0; i < 4; i++)
        d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

/* Small integers, so every order of summing is exact. */
static float value_at(size_t i)
{
    return (float)((int)(i * 7 % 13) - 6);
}

template <class T> static T rounded(float x);
template <> __nv_bfloat16 rounded<__nv_bfloat16>(float x)
{
    return __float2bfloat16(x);
}
template <> __half rounded<__half>(float x)
{
    return __float2half(x);
}

template <class T, bool TRANS> static void check_tile_product()
{
    both<T> a(16 * TILE_K), b(8 * TILE_K);
    both<float> d(16 * 8);
    for (size_t i = 0; i < a.host.size(); i++)
        a[i] = rounded<T>(value_at(i));
    for (size_t n = 0; n < 8; n++)
        for (size_t k = 0; k < TILE_K; k++)
            b[TRANS ? k * 8 + n : n * TILE_K + k] = rounded<T>(value_at(n * 31 + k * 3));
    a.send();
    b.send();
    size_t shared = (16 + 8) * TILE_PITCH * sizeof(T);
    EXPECT(LM_LAUNCH((tile_product<T, TRANS>), 1, 32, shared, nullptr, a.device, b.device,
                     d.device) == cudaSuccess);
    d.receive();
    for (size_t m = 0; m < 16; m++)
        for (size_t n = 0; n < 8; n++) {
            float want = 0.0f;
            for (size_t k = 0; k < TILE_K; k++)
                want += value_at(m * TILE_K + k) * value_at(n * 31 + k * 3);
            EXPECT(d[m * 8 + n] == want);
        }
}

static void test_tile_product()
{
    check_tile_product<__nv_bfloat16, false>();
    check_tile_product<__nv_bfloat16, true>();
    check_tile_product<__half, false>();
    check_tile_product<__half, true>();
}

/* ---- the other forms of ldmatrix: each register's two elements name where they came from ---- */

__global__ void load_matrices(uint32_t *out)
{
    LM_SHARED(uint16_t, tile, 32 * 8); // four matrices, element = its index
    for (int i = lane_id(); i < 32 * 8; i += WARP_LANES)
        tile[i] = (uint16_t)i;
    __syncwarp();
    uint32_t r[4], t[4];
    ldmatrix_x4(r, tile + lane_id() * 8);
    ldmatrix_x4_trans(t, tile + lane_id() * 8);
    for (int i = 0; i < 4; i++) {
        out[lane_id() * 8 + i] = r[i];
        out[lane_id() * 8 + 4 + i] = t[i];
    }
}

static void test_ldmatrix()
{
    both<uint32_t> out(32 * 8);
    EXPECT(LM_LAUNCH(load_matrices, 1, 32, 0, nullptr, out.device) == cudaSuccess);
    out.receive();
    for (uint32_t lane = 0; lane < 32; lane++)
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t g = lane / 4, t = lane % 4 * 2, base = i * 64;
            EXPECT(out[lane * 8 + i] == ((base + g * 8 + t) | (base + g * 8 + t + 1) << 16));
            EXPECT(out[lane * 8 + 4 + i] == ((base + t * 8 + g) | (base + (t + 1) * 8 + g) << 16));
        }
}

/* ---- copies of every size ---- */

__global__ void copy_through_shared(const uint32_t *from, uint32_t *to)
{
    LM_SHARED(uint4, buffer, 3 * 32);
    int lane = lane_id();
    uint32_t *fours = (uint32_t *)buffer, *eights = fours + 32, *sixteens = fours + 128;
    cp_async4(fours + lane, from + lane);
    cp_async8(eights + 2 * lane, from + 32 + 2 * lane);
    cp_async_commit();
    cp_async_zero16(sixteens + 4 * lane, from + 128 + 4 * lane, lane < 16 ? 16 : 4);
    cp_async_commit();
    cp_async_wait<1>();
    to[lane] = fours[lane];
    to[32 + 2 * lane] = eights[2 * lane];
    to[33 + 2 * lane] = eights[2 * lane + 1];
    cp_async_wait<0>();
    for (int i = 0; i < 4; i++)
        to[128 + 4 * lane + i] = sixteens[4 * lane + i];
}

static void test_copies()
{
    both<uint32_t> from(256), to(256);
    for (uint32_t i = 0; i < 256; i++)
        from[i] = i + 1;
    from.send();
    EXPECT(LM_LAUNCH(copy_through_shared, 1, 32, 0, nullptr, from.device, to.device) ==
           cudaSuccess);
    to.receive();
    for (uint32_t i = 0; i < 96; i++)
        EXPECT(to[i] == i + 1);
    for (uint32_t i = 128; i < 256; i++)
        EXPECT(to[i] == (i < 192 || i % 4 == 0 ? i + 1 : 0));
}

/* ---- a producer warp and a consumer warp ---- */

__global__ void hand_over(uint32_t *out, int rounds)
{
    LM_SHARED(uint32_t, slot, 32);
    for (int i = 0; i < rounds; i++) {
        if (warp_id() == 0) {
            if (i) barrier_sync(2, 64); // the slot is free
            slot[lane_id()] = (uint32_t)(i * 32 + lane_id());
            barrier_arrive(1, 64); // the slot is full
        } else {
            barrier_sync(1, 64);
            out[i * 32 + lane_id()] = slot[31 - lane_id()];
            if (i + 1 < rounds) barrier_arrive(2, 64);
        }
    }
}

static void test_named_barriers()
{
    const int rounds = 5;
    both<uint32_t> out(rounds * 32);
    EXPECT(LM_LAUNCH(hand_over, 1, 64, 0, nullptr, out.device, rounds) == cudaSuccess);
    out.receive();
    for (uint32_t i = 0; i < rounds * 32; i++)
        EXPECT(out[i] == i / 32 * 32 + 31 - i % 32);
}

/* ---- small ones ---- */

__global__ void small_ones(const uint4 *in, float *f, uint32_t *u)
{
    float eighth = warp_sum<8>((float)lane_id());
    if (lane_id() != 8) return;
    f[0] = exp2_approx(3.0f);
    f[1] = exp2_approx(-200.0f);
    f[2] = rcp_approx(4.0f);
    f[3] = tanh_approx(0.5f);
    uint4 v = load_nc(in);
    store_stream(u, v.w);
    store_release(u + 1, load_acquire(u) + load_stream(&in->x));
    u[2] = pack2<__nv_bfloat16>(1.0f, -2.0f);
    u[3] = pack2<__half>(1.0f, -2.0f);
    f[4] = unpack2<__nv_bfloat16>(u[2]).y;
    f[5] = unpack2<__half>(u[3]).x;
    f[6] = eighth;
    pdl_trigger();
}

static void test_small_ones()
{
    both<uint4> in(1);
    both<float> f(7);
    both<uint32_t> u(4);
    in[0] = make_uint4(1, 2, 3, 4);
    in.send();
    EXPECT(LM_LAUNCH(small_ones, 1, 32, 0, nullptr, in.device, f.device, u.device) == cudaSuccess);
    f.receive();
    u.receive();
    EXPECT(fabsf(f[0] - 8.0f) < 1e-5f && f[1] == 0.0f && fabsf(f[2] - 0.25f) < 1e-6f);
    EXPECT(fabsf(f[3] - tanhf(0.5f)) < 1e-3f);
    EXPECT(u[0] == 4 && u[1] == 5);
    EXPECT(u[2] == 0xc0003f80u && u[3] == 0xc0003c00u);
    EXPECT(f[4] == -2.0f && f[5] == 1.0f);
    EXPECT(f[6] == 8 + 9 + 10 + 11 + 12 + 13 + 14 + 15);
}

int main(void)
{
    RUN(test_reductions);
    RUN(test_tile_product);
    RUN(test_ldmatrix);
    RUN(test_copies);
    RUN(test_named_barriers);
    RUN(test_small_ones);
    return TEST_END();
}
