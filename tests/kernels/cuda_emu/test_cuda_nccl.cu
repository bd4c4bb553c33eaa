/* test_cuda_nccl.cu - the emulated NCCL does what ranks rely on, and finds what NCCL forbids: one planted
 * misuse a check, and the same calls without it. */
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "kernels/cuda/cuda_api.cuh"
#include "tests/kernels/cuda_emu/cuda_emu_death.cuh"

#define COUNT 5

/* ---- a rank ---- */

struct rank {
    int index, ranks;
    ncclComm_t comm;
    cudaStream_t stream;
    float *x;
};

static ncclResult_t state_of(const struct rank *r)
{
    ncclResult_t state = ncclInternalError;
    NEED(ncclCommGetAsyncError(r->comm, &state) == ncclSuccess);
    return state;
}

static void finish(const struct rank *r)
{
    ncclResult_t state;
    while ((state = state_of(r)) == ncclInProgress)
        std::this_thread::yield();
    NEED(state == ncclSuccess);
}

static ncclResult_t begin_join(struct rank *r, const ncclUniqueId &id)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.maxCTAs = 16;
    NEED(cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking) == cudaSuccess);
    NEED(cudaMalloc(&r->x, 4 * COUNT * sizeof *r->x) == cudaSuccess);
    return ncclCommInitRankConfig(&r->comm, r->ranks, id, r->index, &config);
}

static ncclResult_t begin_sum(const struct rank *r)
{
    return ncclAllReduce(r->x, r->x, COUNT, ncclFloat32, ncclSum, r->comm, r->stream);
}

static void forget(struct rank *r)
{
    cudaStreamDestroy(r->stream);
    cudaFree(r->x);
}

static void leave(struct rank *r)
{
    NEED(ncclCommFinalize(r->comm) == ncclInProgress);
    finish(r);
    NEED(ncclCommDestroy(r->comm) == ncclSuccess);
    forget(r);
}

/* Each rank in a thread of its own, joined. */
static void with_ranks(int ranks, const std::function<void(struct rank *)> &body)
{
    std::vector<std::thread> threads;
    ncclUniqueId id;

    NEED(ncclGetUniqueId(&id) == ncclSuccess);
    for (int i = 0; i < ranks; i++)
        threads.emplace_back([&, i] {
            struct rank r = {i, ranks, nullptr, nullptr, nullptr};
            NEED(begin_join(&r, id) == ncclInProgress);
            finish(&r);
            body(&r);
        });
    for (std::thread &t : threads)
        t.join();
}

/* ---- what it does ---- */

/* On the rank's own stream: the device's default stream would be used by several threads at once. */
static void copy(struct rank *r, void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    NEED(cudaMemcpyAsync(to, from, bytes, kind, r->stream) == cudaSuccess);
    NEED(cudaStreamSynchronize(r->stream) == cudaSuccess);
}

static void test_collectives()
{
    std::atomic<int> wrong{0};

    with_ranks(3, [&](struct rank *r) {
        float own[COUNT], sums[COUNT], all[3 * COUNT];
        for (int i = 0; i < COUNT; i++)
            own[i] = (float)(10 * r->index + i);
        copy(r, r->x, own, sizeof own, cudaMemcpyHostToDevice);
        NEED(ncclAllGather(r->x, r->x + COUNT, COUNT, ncclFloat32, r->comm, r->stream) ==
             ncclInProgress);
        finish(r);
        NEED(begin_sum(r) == ncclInProgress);
        finish(r);
        copy(r, sums, r->x, sizeof sums, cudaMemcpyDeviceToHost);
        copy(r, all, r->x + COUNT, sizeof all, cudaMemcpyDeviceToHost);
        for (int i = 0; i < 3 * COUNT; i++)
            wrong += all[i] != (float)(10 * (i / COUNT) + i % COUNT);
        for (int i = 0; i < COUNT; i++)
            wrong += sums[i] != (float)(30 + 3 * i);
        leave(r);
    });
    EXPECT_INT(wrong, 0);
}

/* Nobody is told that it has joined before all have, and who waits may abort. */
static void test_abort_while_joining()
{
    struct rank r = {0, 2, nullptr, nullptr, nullptr};
    ncclUniqueId id;

    NEED(ncclGetUniqueId(&id) == ncclSuccess);
    EXPECT_INT(begin_join(&r, id), ncclInProgress);
    for (int i = 0; i < 10; i++)
        EXPECT_INT(state_of(&r), ncclInProgress);
    EXPECT_INT(ncclCommAbort(r.comm), ncclInProgress);
    forget(&r);
}

/* A stream stands where another rank doesn't come, until its own communicator is aborted. */
static void test_abort_while_waiting()
{
    std::atomic<int> wrong{0}, aborted{0};

    with_ranks(2, [&](struct rank *r) {
        if (r->index == 0) {
            NEED(begin_sum(r) == ncclInProgress);
            finish(r);
            wrong += cudaStreamQuery(r->stream) != cudaErrorNotReady;
            while (aborted == 0) // the other's abort doesn't let this one go
                std::this_thread::yield();
            wrong += cudaStreamQuery(r->stream) != cudaErrorNotReady;
        }
        ncclCommAbort(r->comm);
        aborted++;
        wrong += cudaStreamSynchronize(r->stream) != cudaSuccess;
        forget(r);
    });
    EXPECT_INT(wrong, 0);
}

/* ---- what it finds ---- */

static void alone(const std::function<void(struct rank *)> &body)
{
    with_ranks(1, body);
}

static void test_misuse()
{
    EXPECT_DEATH("ncclAllReduce of rank 0 after ncclCommAbort", alone([](struct rank *r) {
                     ncclCommAbort(r->comm);
                     begin_sum(r);
                 }));
    EXPECT_DEATH("ncclCommAbort of rank 0 after ncclCommDestroy", alone([](struct rank *r) {
                     leave(r);
                     ncclCommAbort(r->comm);
                 }));
    EXPECT_DEATH("ncclCommAbort of rank 0 by a thread that isn't the rank's",
                 alone([](struct rank *r) {
                     std::thread other([&] { ncclCommAbort(r->comm); });
                     other.join();
                 }));
    EXPECT_DEATH("ncclCommGetAsyncError of rank 0 by a thread", alone([](struct rank *r) {
                     std::thread other([&] { state_of(r); });
                     other.join();
                 }));
    EXPECT_DEATH("ncclAllReduce of rank 0 before ncclAllReduce was done", alone([](struct rank *r) {
                     begin_sum(r);
                     begin_sum(r);
                 }));
    EXPECT_DEATH("enqueued on a stream before ncclAllReduce was done", alone([](struct rank *r) {
                     begin_sum(r);
                     cudaMemsetAsync(r->x, 0, 4, r->stream);
                 }));
    EXPECT_DEATH("waited for before ncclAllReduce was done", alone([](struct rank *r) {
                     begin_sum(r);
                     cudaStreamSynchronize(r->stream);
                 }));
    EXPECT_DEATH("ncclCommDestroy of rank 0 before ncclCommFinalize",
                 alone([](struct rank *r) { ncclCommDestroy(r->comm); }));
    EXPECT_DEATH("ncclAllReduce of rank 0 is late", alone([](struct rank *r) {
                     ncclCommFinalize(r->comm);
                     finish(r);
                     begin_sum(r);
                 }));
    EXPECT_DEATH("elements, another ncclAllReduce of ", with_ranks(2, [](struct rank *r) {
                     ncclAllReduce(r->x, r->x, r->index ? 5 : 4, ncclFloat32, ncclSum, r->comm,
                                   r->stream);
                     finish(r);
                     cudaStreamSynchronize(r->stream);
                 }));
    EXPECT_DEATH("a blocking communicator", {
        ncclUniqueId id;
        ncclComm_t comm;
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        ncclGetUniqueId(&id);
        ncclCommInitRankConfig(&comm, 1, id, 0, &config);
    });
}

int main()
{
    RUN(test_collectives);
    RUN(test_abort_while_joining);
    RUN(test_abort_while_waiting);
    RUN(test_misuse);
    return TEST_END();
}
