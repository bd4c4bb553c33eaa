/* test_cuda_peer.cu - sums over peer memory have the bits of a sum in the order of ranks, on every rank: of all worlds
 * that the machine has devices for, sizes in any order, late ranks, replayed graphs, and numbers that begin again.
 * With one device there is nothing to see: exit status 77. */
#include "kernels/cuda/cuda_peer.h"

#include <atomic>
#include <functional>
#include <pthread.h>
#include <stdlib.h>
#include <thread>
#include <vector>

#include "shared/base/rng.h"
#include "tests/test.h"

#ifdef LM_CUDA_EMU_RACE // some ten times as slow
#define LARGE 3000
#else
#define LARGE 1000000
#endif
#define WAIT_S 60

static int worlds; // that there are devices for

/* ---- ranks ---- */

struct rank {
    int index, world;
    struct cuda_peer peer;
    cudaStream_t stream;
    pthread_barrier_t *all; // ranks
    std::atomic<int> *wrong;
};

static void meet(const struct rank *r)
{
    pthread_barrier_wait(r->all);
}

/* Each rank in a thread and with a device of its own; how many things were wrong. */
static int with_ranks(int world, const std::function<void(struct rank *)> &body)
{
    std::vector<struct cuda_peer> offers((size_t)world);
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    pthread_barrier_t all;

    pthread_barrier_init(&all, NULL, (unsigned)world);
    for (int i = 0; i < world; i++)
        threads.emplace_back([&, i] {
            struct rank r = {i, world, {}, NULL, &all, &wrong};
            NEED(cudaSetDevice(i) == cudaSuccess);
            NEED(cudaStreamCreateWithFlags(&r.stream, cudaStreamNonBlocking) == cudaSuccess);
            cuda_peer_offer(&offers[(size_t)i], i, world);
            meet(&r);
            r.peer = offers[(size_t)i];
            cuda_peer_accept(&r.peer, offers.data());
            meet(&r);
            body(&r);
            meet(&r);
            NEED(cudaStreamDestroy(r.stream) == cudaSuccess);
        });
    for (std::thread &t : threads)
        t.join();
    for (struct cuda_peer &offer : offers)
        cuda_peer_free(&offer);
    pthread_barrier_destroy(&all);
    return wrong;
}

static void wait_for(const struct rank *r)
{
    for (int i = 0; cudaStreamQuery(r->stream) == cudaErrorNotReady; i++) {
        cudaGetLastError();
        NEED(i < WAIT_S * 1000);
        std::this_thread::sleep_for(std::chrono::microseconds(i < 1000 ? 10 : 1000));
    }
}

/* ---- sums ---- */

/* Of one sum by one rank, of such sizes that another order gives other bits. */
static std::vector<float> part_of(int rank, int sum, size_t count)
{
    std::vector<float> x(count);
    struct rng r;

    rng_init(&r, (uint64_t)(1000 * sum + rank));
    for (float &v : x)
        v = (float)(rng_unit(&r) - 0.5) * (rng_unit(&r) < 0.5 ? 1.0f : 1000.0f);
    return x;
}

static std::vector<float> sum_of(int world, int sum, size_t count, bool backwards = false)
{
    std::vector<float> all = part_of(backwards ? world - 1 : 0, sum, count);

    for (int r = 1; r < world; r++) {
        std::vector<float> next = part_of(backwards ? world - 1 - r : r, sum, count);
        for (size_t i = 0; i < count; i++)
            all[i] += next[i];
    }
    return all;
}

static bool same(const std::vector<float> &a, const std::vector<float> &b)
{
    return memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

static void copy(const struct rank *r, void *to, const void *from, size_t count,
                 cudaMemcpyKind kind)
{
    NEED(cudaMemcpyAsync(to, from, count * sizeof(float), kind, r->stream) == cudaSuccess);
}

static void check(const struct rank *r, const float *x, int sum, size_t count)
{
    std::vector<float> got(count);

    wait_for(r);
    copy(r, got.data(), x, count, cudaMemcpyDeviceToHost);
    NEED(cudaStreamSynchronize(r->stream) == cudaSuccess);
    *r->wrong += !same(got, sum_of(r->world, sum, count));
}

/* One after the other without waiting, each in memory of its own; then all are looked at. */
static void run_sums(const struct rank *r, const std::vector<size_t> &counts, int delay_us)
{
    std::vector<float *> x(counts.size());
    struct rng delays;

    rng_init(&delays, (uint64_t)r->index);
    for (size_t i = 0; i < counts.size(); i++) {
        std::vector<float> own = part_of(r->index, (int)i, counts[i]);
        NEED(cudaMalloc((void **)&x[i], counts[i] * sizeof(float)) == cudaSuccess);
        copy(r, x[i], own.data(), counts[i], cudaMemcpyHostToDevice);
        NEED(cudaStreamSynchronize(r->stream) == cudaSuccess);
    }
    for (size_t i = 0; i < counts.size(); i++) {
        if (delay_us > 0 && rng_below(&delays, 3) == 0) {
            wait_for(r);
            std::this_thread::sleep_for(
                std::chrono::microseconds(rng_below(&delays, (uint32_t)delay_us)));
        }
        NEED(cuda_peer_sum(&r->peer, x[i], counts[i], r->stream) == cudaSuccess);
    }
    for (size_t i = 0; i < counts.size(); i++)
        check(r, x[i], (int)i, counts[i]);
    for (float *at : x)
        cudaFree(at);
}

static void test_order_matters(void)
{
    EXPECT(!same(sum_of(3, 0, 1000), sum_of(3, 0, 1000, true)));
}

/* Also the largest: most, and most - 1, which ends in half a line. */
static void test_sizes(void)
{
    for (int world = 2; world <= worlds; world++)
        EXPECT_INT(
            with_ranks(world,
                       [](struct rank *r) {
                           size_t most = r->peer.most < LARGE ? r->peer.most : LARGE;
                           NEED(most > 0);
                           run_sums(r, {1, 2, 3, 5, most, 511, 512, 513, 1, most - 1, 4099}, 0);
                       }),
            0);
}

static std::vector<size_t> many(int sums, uint32_t most)
{
    std::vector<size_t> counts;
    struct rng r;

    rng_init(&r, 5);
    for (int i = 0; i < sums; i++)
        counts.push_back(1 + (size_t)rng_below(&r, i % 4 ? 40 : most));
    return counts;
}

static void test_late_ranks(void)
{
    for (int world : {2, 3, worlds}) {
        if (world > worlds) continue;
        EXPECT_INT(with_ranks(world, [](struct rank *r) { run_sums(r, many(60, 3000), 3000); }), 0);
    }
}

/* As with GPUs of different kinds. */
static void test_grids_of_different_sizes(void)
{
    EXPECT_INT(with_ranks(worlds < 4 ? 2 : 4,
                          [](struct rank *r) {
                              r->peer.blocks_max = 1 + (unsigned)r->index;
                              run_sums(r, many(60, 3000), 500);
                          }),
               0);
}

/* Numbers begin again: 2^32 - 1 comes before 2, and the slots still take turns. */
static void test_numbers_begin_again(void)
{
    for (uint32_t last : {0xfffffff9u, 0xfffffffau})
        EXPECT_INT(with_ranks(worlds < 3 ? 2 : 3,
                              [=](struct rank *r) {
                                  NEED(cuda_peer_count_from(&r->peer, last) == cudaSuccess);
                                  NEED(cudaStreamSynchronize(NULL) == cudaSuccess);
                                  meet(r);
                                  run_sums(r, many(16, 2000), 500);
                              }),
                   0);
}

/* A number comes again, behind others that used few lines: the lines of the first time don't count for the second. */
static void test_old_lines_are_swept(void)
{
    EXPECT_INT(with_ranks(worlds,
                          [](struct rank *r) {
                              const size_t large = 1500, small = 1;
                              size_t sums = 2 * (r->peer.most / 2 / 256 + 2);
                              std::vector<float> own = part_of(r->index, 1, large);
                              float *x = NULL;
                              NEED(cudaMalloc((void **)&x, large * sizeof(float)) == cudaSuccess);
                              NEED(cudaMemset(x, 0, large * sizeof(float)) == cudaSuccess);
                              NEED(cudaStreamSynchronize(NULL) == cudaSuccess);
                              NEED(cuda_peer_sum(&r->peer, x, large, r->stream) ==
                                   cudaSuccess); // number 2
                              for (size_t i = 0; i < sums; i++) {
                                  NEED(cuda_peer_sum(&r->peer, x, small, r->stream) == cudaSuccess);
                                  if (i % 16 == 0) wait_for(r);
                              }
                              wait_for(r);
                              copy(r, x, own.data(), large, cudaMemcpyHostToDevice);
                              NEED(cudaStreamSynchronize(r->stream) == cudaSuccess);
                              NEED(cuda_peer_count_from(&r->peer, 1) == cudaSuccess);
                              NEED(cudaStreamSynchronize(NULL) == cudaSuccess);
                              meet(r);
                              if (r->index == 1)
                                  std::this_thread::sleep_for(std::chrono::milliseconds(20));
                              NEED(cuda_peer_sum(&r->peer, x, large, r->stream) == cudaSuccess);
                              check(r, x, 1, large);
                              cudaFree(x);
                          }),
               0);
}

/* Recorded sums of several sizes, replayed, with one between that isn't recorded. */
static void replay(struct rank *r)
{
    const std::vector<size_t> counts = {700, 3, 2049};
    const size_t stride = 2304;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    float *pristine = NULL, *x = NULL;

    NEED(cudaMalloc((void **)&pristine, 3 * stride * sizeof(float)) == cudaSuccess);
    NEED(cudaMalloc((void **)&x, 3 * stride * sizeof(float)) == cudaSuccess);
    for (size_t i = 0; i < counts.size(); i++) {
        std::vector<float> own = part_of(r->index, (int)i, counts[i]);
        copy(r, pristine + i * stride, own.data(), counts[i], cudaMemcpyHostToDevice);
    }
    NEED(cudaStreamSynchronize(r->stream) == cudaSuccess);
    NEED(cudaStreamBeginCapture(r->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    copy(r, x, pristine, 3 * stride, cudaMemcpyDeviceToDevice);
    for (size_t i = 0; i < counts.size(); i++)
        NEED(cuda_peer_sum(&r->peer, x + i * stride, counts[i], r->stream) == cudaSuccess);
    NEED(cudaStreamEndCapture(r->stream, &graph) == cudaSuccess);
    NEED(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    for (int round = 0; round < 8; round++) {
        NEED(cudaGraphLaunch(exec, r->stream) == cudaSuccess);
        for (size_t i = 0; i < counts.size(); i++)
            check(r, x + i * stride, (int)i, counts[i]);
        copy(r, x, pristine, counts[0], cudaMemcpyDeviceToDevice);
        NEED(cuda_peer_sum(&r->peer, x, counts[0], r->stream) == cudaSuccess);
        check(r, x, 0, counts[0]);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaFree(pristine);
    cudaFree(x);
}

static void test_graphs(void)
{
    EXPECT_INT(with_ranks(worlds < 3 ? 2 : 3, replay), 0);
}

/* ---- ranks that don't come ---- */

/* What waits ends, and so does what stands behind it, a thousand times faster than it would by itself. */
static void test_stop(void)
{
    EXPECT_INT(with_ranks(2,
                          [](struct rank *r) {
                              float *x = NULL;
                              if (r->index == 1) { // doesn't come
                                  meet(r);
                                  return;
                              }
                              NEED(cudaMalloc((void **)&x, 2000 * sizeof(float)) == cudaSuccess);
                              for (int i = 0; i < 100; i++)
                                  NEED(cuda_peer_sum(&r->peer, x, 2000, r->stream) == cudaSuccess);
                              for (int i = 0; i < 20; i++)
                                  *r->wrong += cudaStreamQuery(r->stream) != cudaErrorNotReady;
                              cudaGetLastError();
                              cuda_peer_stop(&r->peer);
                              wait_for(r);
                              meet(r);
                              cudaFree(x);
                          }),
               0);
}

/* ---- without peers ---- */

#ifdef LM_CUDA_EMULATED
static size_t free_bytes(void)
{
    size_t bytes = 0, total = 0;

    NEED(cudaSetDevice(1) == cudaSuccess && cudaMemGetInfo(&bytes, &total) == cudaSuccess);
    return bytes;
}
#endif

/* The largest sum on every rank of three with this setting. */
static size_t most_with(const char *setting, const char *value)
{
    std::atomic<size_t> sum{0};

    setenv(setting, value, 1);
    int wrong = with_ranks(3, [&](struct rank *r) { sum += r->peer.most; });
    unsetenv(setting);
    return wrong ? 0 : sum / 3;
}

static void test_no_peers(void)
{
    EXPECT(cuda_peer_bytes(1) == 0 && cuda_peer_bytes(9) == 0);
    EXPECT(cuda_peer_bytes(2) > 8 << 20);
    setenv("LM_CUDA_PEER", "0", 1);
    EXPECT(cuda_peer_bytes(2) == 0);
    unsetenv("LM_CUDA_PEER");
    if (worlds < 3) return;
    size_t most = most_with("LM_CUDA_PEER", "1");
    EXPECT(most > 0);
    EXPECT(most_with("LM_CUDA_PEER", "0") == 0);
#ifdef LM_CUDA_EMULATED
    size_t before = free_bytes();
    EXPECT(most_with("LM_CUDA_EMU_NO_PEER", "1") == 0);
    EXPECT(most_with("LM_CUDA_EMU_MEMORY_2", "1") == 0);
    EXPECT(most_with("LM_CUDA_EMU_PCIE", "1") == most / 8);
    EXPECT(free_bytes() == before);
#endif
}

int main(void)
{
    setenv("LM_CUDA_EMU_DEVICES", "8", 1);
    if (cudaGetDeviceCount(&worlds) != cudaSuccess || worlds < 2) {
        printf("one GPU only\n");
        return 77;
    }
    if (worlds > CUDA_PEER_WORLD_MAX) worlds = CUDA_PEER_WORLD_MAX;
    RUN(test_order_matters);
    RUN(test_sizes);
    RUN(test_late_ranks);
    RUN(test_grids_of_different_sizes);
    RUN(test_numbers_begin_again);
    RUN(test_old_lines_are_swept);
    RUN(test_graphs);
    RUN(test_stop);
    RUN(test_no_peers);
    return TEST_END();
}
