/* emu_nccl.cc - collectives between threads. Each is one rendezvous: all ranks put down where their data
 * is, the last one computes all results, all go on. A rank that doesn't come within a minute ends the process
 * with a message, and an aborted communicator lets everyone go with an error. */
#include "tests/kernels/cuda_emu/cuda_emu_nccl.cuh"

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <stdio.h>
#include <string.h>
#include <string>
#include <vector>

#include "tests/kernels/cuda_emu/cuda_emu.cuh"

namespace
{

struct collective {
    const char *name;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t op;
    int root;
    bool operator==(const collective &o) const
    {
        return !strcmp(name, o.name) && count == o.count && type == o.type && op == o.op &&
               root == o.root;
    }
};

struct clique {
    std::mutex lock;
    std::condition_variable changed;
    int ranks = 0, arrived = 0;
    unsigned round = 0;
    bool aborted = false;
    collective what = {};
    std::vector<const void *> from;
    std::vector<void *> to;
};

std::mutex cliques_lock;
std::map<std::string, std::shared_ptr<clique>> cliques;
int next_id;

size_t type_bytes(ncclDataType_t type)
{
    switch (type) {
    case ncclInt8:
    case ncclUint8:
        return 1;
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    case ncclInt32:
    case ncclFloat32:
        return 4;
    }
    emu::fail("nccl: data type %d", (int)type);
}

template <class T> T combine(T a, T b, ncclRedOp_t op)
{
    return op == ncclSum ? (T)(a + b) : (a > b ? a : b);
}

void reduce_one(void *to, const std::vector<const void *> &from, size_t i, const collective &c)
{
    if (c.type == ncclInt32) {
        int sum = ((const int *)from[0])[i];
        for (size_t r = 1; r < from.size(); r++)
            sum = combine(sum, ((const int *)from[r])[i], c.op);
        ((int *)to)[i] = sum;
        return;
    }
    auto load = [&](size_t r) -> float {
        if (c.type == ncclFloat32) return ((const float *)from[r])[i];
        if (c.type == ncclFloat16) return __half2float(((const __half *)from[r])[i]);
        if (c.type == ncclBfloat16) return __bfloat162float(((const __nv_bfloat16 *)from[r])[i]);
        emu::fail("nccl: a reduction of data type %d", (int)c.type);
    };
    float sum = load(0);
    for (size_t r = 1; r < from.size(); r++)
        sum = combine(sum, load(r), c.op);
    if (c.type == ncclFloat32)
        ((float *)to)[i] = sum;
    else if (c.type == ncclFloat16)
        ((__half *)to)[i] = __float2half(sum);
    else
        ((__nv_bfloat16 *)to)[i] = __float2bfloat16(sum);
}

void compute(clique *q)
{
    const collective &c = q->what;
    size_t bytes = type_bytes(c.type) * c.count;
    if (!strcmp(c.name, "ncclAllReduce")) {
        std::vector<char> sum(bytes);
        for (size_t i = 0; i < c.count; i++)
            reduce_one(sum.data(), q->from, i, c);
        for (void *to : q->to)
            memcpy(to, sum.data(), bytes);
    } else if (!strcmp(c.name, "ncclAllGather")) {
        std::vector<char> all(bytes * q->from.size());
        for (size_t r = 0; r < q->from.size(); r++)
            memcpy(all.data() + r * bytes, q->from[r], bytes);
        for (void *to : q->to)
            memcpy(to, all.data(), all.size());
    } else {
        std::vector<char> one(bytes);
        memcpy(one.data(), q->from[(size_t)c.root], bytes);
        for (void *to : q->to)
            memcpy(to, one.data(), bytes);
    }
}

void meet(clique *q, int rank, const void *from, void *to, const collective &what)
{
    std::unique_lock<std::mutex> hold(q->lock);
    if (q->aborted) return;
    if (q->arrived && !(q->what == what))
        emu::fail("nccl: rank %d calls %s of %zu elements, another %s of %zu", rank, what.name,
                  what.count, q->what.name, q->what.count);
    q->what = what;
    q->from[(size_t)rank] = from;
    q->to[(size_t)rank] = to;
    if (++q->arrived == q->ranks) {
        if (what.count) compute(q);
        q->arrived = 0;
        q->round++;
        q->changed.notify_all();
        return;
    }
    unsigned round = q->round;
    if (!q->changed.wait_for(hold, std::chrono::seconds(60),
                             [&] { return q->round != round || q->aborted; }))
        emu::fail("nccl: rank %d has waited a minute for others in %s", rank, what.name);
}

} // namespace

struct ncclComm {
    std::shared_ptr<clique> members;
    int rank;
};

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "NCCL operation in progress"};
    return (size_t)result < sizeof texts / sizeof *texts ? texts[result] : "unknown result code";
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = 22800;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    std::lock_guard<std::mutex> hold(cliques_lock);
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "emulated %d", ++next_id);
    cliques[id->internal] = std::make_shared<clique>();
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank)
{
    if (rank < 0 || rank >= ranks) return ncclInvalidArgument;
    std::shared_ptr<clique> q;
    {
        std::lock_guard<std::mutex> hold(cliques_lock);
        auto found = cliques.find(id.internal);
        if (found == cliques.end()) return ncclInvalidArgument;
        q = found->second;
    }
    {
        std::lock_guard<std::mutex> hold(q->lock);
        if (q->ranks && q->ranks != ranks) return ncclInvalidArgument;
        q->ranks = ranks;
        q->from.resize((size_t)ranks);
        q->to.resize((size_t)ranks);
    }
    *comm = new ncclComm{q, rank};
    meet(q.get(), rank, nullptr, nullptr, {"ncclCommInitRank", 0, ncclInt8, ncclSum, 0});
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    delete comm;
    return ncclSuccess;
}

/* What was aborted stays where it is: another thread may be in a call with it. */
static std::vector<ncclComm_t> &aborted_comms = *new std::vector<ncclComm_t>;

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    {
        std::lock_guard<std::mutex> hold(cliques_lock);
        aborted_comms.push_back(comm);
    }
    std::lock_guard<std::mutex> hold(comm->members->lock);
    comm->members->aborted = true;
    comm->members->changed.notify_all();
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    std::lock_guard<std::mutex> hold(comm->members->lock);
    *error = comm->members->aborted ? ncclRemoteError : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart()
{
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd()
{
    return ncclSuccess;
}

static ncclResult_t enqueue(ncclComm_t comm, const void *from, void *to, const collective &what,
                            cudaStream_t stream)
{
    std::shared_ptr<clique> q = comm->members;
    int rank = comm->rank;
    {
        std::lock_guard<std::mutex> hold(q->lock);
        if (q->aborted) return ncclRemoteError;
    }
    cudaError_t error =
        emu::enqueue(stream, [q, rank, from, to, what] { meet(q.get(), rank, from, to, what); });
    return error == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    return enqueue(comm, from, to, {"ncclAllReduce", count, type, op, 0}, stream);
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count_of_one, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    return enqueue(comm, from, to, {"ncclAllGather", count_of_one, type, ncclSum, 0}, stream);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    return enqueue(comm, from, to, {"ncclBroadcast", count, type, ncclSum, root}, stream);
}
