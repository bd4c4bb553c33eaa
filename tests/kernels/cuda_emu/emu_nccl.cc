/* emu_nccl.cc - collectives between threads. Each is one rendezvous on the streams of its ranks: an operation
 * puts down where the rank's data is, the last one computes all results, and each stream stands until that has
 * happened, or until its own communicator is aborted.
 *
 *     JOINING ──all have joined──► READY ◄──asked twice── ENQUEUING
 *                                    │ └──a collective───────▲
 *                                    └──finalize──► FINALIZING ──all have finalized──► FINALIZED ──destroy──► ended
 *     any of them ──abort──► ended */
#include "tests/kernels/cuda_emu/cuda_emu_nccl.cuh"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <thread>
#include <vector>

#include "tests/kernels/cuda_emu/cuda_emu.cuh"

namespace
{

struct collective {
    const char *name;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t op;
    bool operator==(const collective &o) const
    {
        return !strcmp(name, o.name) && count == o.count && type == o.type && op == o.op;
    }
};

/* All of it under the lock. */
struct clique {
    std::mutex lock;
    int ranks = 0, joined = 0, finalized = 0, arrived = 0;
    unsigned round = 0;
    bool broken = false; // one has aborted, and its data may be gone: nobody meets any more
    collective what = {};
    std::vector<const void *> from;
    std::vector<void *> to;
    std::vector<unsigned> round_of; // [rank]: the one that it has come to
};

enum comm_state { JOINING, READY, ENQUEUING, FINALIZING, FINALIZED };

std::mutex cliques_lock;
std::map<std::string, std::shared_ptr<clique>> cliques;
int next_id;

int setting(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text ? (int)strtol(text, nullptr, 10) : otherwise;
}

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

/* As in a ring: a piece of the elements begins at each rank, so the order of a sum depends on their number. */
size_t first_rank(size_t i, size_t count, size_t ranks)
{
    return (i * ranks / count + 1) % ranks;
}

template <class T> T combine(T a, T b, ncclRedOp_t op)
{
    return op == ncclSum ? (T)(a + b) : (a > b ? a : b);
}

void reduce_one(void *to, const std::vector<const void *> &from, size_t i, const collective &c)
{
    size_t ranks = from.size(), first = first_rank(i, c.count, ranks);
    if (c.type == ncclInt32) {
        int sum = ((const int *)from[0])[i];
        for (size_t r = 1; r < ranks; r++)
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
    float sum = load(first);
    for (size_t r = 1; r < ranks; r++)
        sum = combine(sum, load((first + r) % ranks), c.op);
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
    } else {
        std::vector<char> all(bytes * q->from.size());
        for (size_t r = 0; r < q->from.size(); r++)
            memcpy(all.data() + r * bytes, q->from[r], bytes);
        for (void *to : q->to)
            memcpy(to, all.data(), all.size());
    }
}

void arrive(clique *q, int rank, const void *from, void *to, const collective &what)
{
    std::lock_guard<std::mutex> hold(q->lock);
    if (q->arrived && !(q->what == what))
        emu::fail("nccl: rank %d calls %s of %zu elements, another %s of %zu", rank, what.name,
                  what.count, q->what.name, q->what.count);
    q->what = what;
    q->from[(size_t)rank] = from;
    q->to[(size_t)rank] = to;
    q->round_of[(size_t)rank] = q->round;
    if (++q->arrived < q->ranks || q->broken) return;
    if (what.count) compute(q);
    q->arrived = 0;
    q->round++;
}

} // namespace

/* It stays where it is when it has ended, so that a later use of it is seen. */
struct ncclComm {
    std::shared_ptr<clique> members;
    int rank;
    std::thread::id owner;
    comm_state state;
    const char *call; // that is not done; NULL: none
    bool asked;       // about it
    cudaStream_t stream;
    std::function<cudaError_t()> enqueue;
    std::atomic<const char *> ended; // by this call; NULL: it lives
};

static std::vector<ncclComm_t> &comms = *new std::vector<ncclComm_t>; // under cliques_lock

/* Every call with a communicator begins here. */
static void enter(ncclComm_t comm, const char *call, bool may_be_in_progress)
{
    if (const char *ended = comm->ended)
        emu::fail("nccl: %s of rank %d after %s", call, comm->rank, ended);
    if (comm->owner != std::this_thread::get_id())
        emu::fail("nccl: %s of rank %d by a thread that isn't the rank's", call, comm->rank);
    if (comm->call && !may_be_in_progress)
        emu::fail("nccl: %s of rank %d before %s was done", call, comm->rank, comm->call);
}

static ncclResult_t begin(ncclComm_t comm, const char *call, comm_state state)
{
    comm->call = call;
    comm->state = state;
    comm->asked = false;
    return ncclInProgress;
}

static void end(ncclComm_t comm, const char *call)
{
    if (comm->stream) emu::hold_stream(comm->stream, nullptr);
    comm->ended = call;
}

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

const char *ncclGetLastError(ncclComm_t)
{
    return "emulated";
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = setting("LM_CUDA_EMU_NCCL", 22800);
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

static std::shared_ptr<clique> find_clique(const ncclUniqueId &id)
{
    std::lock_guard<std::mutex> hold(cliques_lock);
    auto found = cliques.find(id.internal);
    return found == cliques.end() ? nullptr : found->second;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    std::shared_ptr<clique> q = find_clique(id);
    if (rank < 0 || rank >= ranks || !q) return ncclInvalidArgument;
    if (!config || config->magic != 0xcafebeef || config->blocking != 0)
        emu::fail("nccl: rank %d asks for a blocking communicator", rank);
    if (config->maxCTAs < 1) emu::fail("nccl: rank %d has no bound on its channels", rank);
    *comm = new ncclComm{q, rank, std::this_thread::get_id(), JOINING, NULL, false, NULL, {}, NULL};
    {
        std::lock_guard<std::mutex> hold(cliques_lock);
        comms.push_back(*comm);
    }
    std::lock_guard<std::mutex> hold(q->lock);
    if (q->ranks && q->ranks != ranks) return ncclInvalidArgument;
    q->ranks = ranks;
    q->from.resize((size_t)ranks);
    q->to.resize((size_t)ranks);
    q->round_of.resize((size_t)ranks);
    if (setting("LM_CUDA_EMU_NCCL_FAILS", -1) != rank) q->joined++;
    return begin(*comm, "ncclCommInitRankConfig", JOINING);
}

/* What the library would have done in the background by now. */
static ncclResult_t progress(ncclComm_t comm)
{
    clique *q = comm->members.get();
    std::lock_guard<std::mutex> hold(q->lock);
    switch (comm->state) {
    case JOINING:
        if (setting("LM_CUDA_EMU_NCCL_FAILS", -1) == comm->rank) return ncclSystemError;
        if (q->joined < q->ranks) return ncclInProgress;
        break;
    case ENQUEUING:
        emu::hold_stream(comm->stream, nullptr);
        comm->stream = NULL;
        if (comm->enqueue() != cudaSuccess) return ncclUnhandledCudaError;
        break;
    case FINALIZING:
        if (q->finalized < q->ranks) return ncclInProgress;
        break;
    case READY:
    case FINALIZED:
        break;
    }
    comm->state = comm->state == FINALIZING ? FINALIZED : READY;
    comm->call = NULL;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    enter(comm, "ncclCommGetAsyncError", true);
    *error = !comm->call ? ncclSuccess : comm->asked ? progress(comm) : ncclInProgress;
    comm->asked = true;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    enter(comm, "ncclCommFinalize", false);
    std::lock_guard<std::mutex> hold(comm->members->lock);
    comm->members->finalized++;
    return begin(comm, "ncclCommFinalize", FINALIZING);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    enter(comm, "ncclCommDestroy", false);
    if (comm->state != FINALIZED)
        emu::fail("nccl: ncclCommDestroy of rank %d before ncclCommFinalize", comm->rank);
    end(comm, "ncclCommDestroy");
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    enter(comm, "ncclCommAbort", true);
    end(comm, "ncclCommAbort");
    std::lock_guard<std::mutex> hold(comm->members->lock);
    comm->members->broken = true;
    return ncclInProgress; // of what can't be asked about
}

static bool has_passed(ncclComm_t comm)
{
    if (comm->ended) return true;
    clique *q = comm->members.get();
    std::lock_guard<std::mutex> hold(q->lock);
    return q->round != q->round_of[(size_t)comm->rank];
}

static ncclResult_t start(ncclComm_t comm, const void *from, void *to, const collective &what,
                          cudaStream_t stream)
{
    enter(comm, what.name, false);
    if (comm->state != READY) emu::fail("nccl: %s of rank %d is late", what.name, comm->rank);
    emu::hold_stream(stream, what.name);
    comm->stream = stream;
    comm->enqueue = [=] {
        cudaError_t error = emu::enqueue(stream, [=] {
            if (!comm->ended) arrive(comm->members.get(), comm->rank, from, to, what);
        });
        return error == cudaSuccess ? emu::enqueue_wait(stream, [=] { return has_passed(comm); })
                                    : error;
    };
    return begin(comm, what.name, ENQUEUING);
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    return start(comm, from, to, {"ncclAllReduce", count, type, op}, stream);
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count_of_one, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    return start(comm, from, to, {"ncclAllGather", count_of_one, type, ncclSum}, stream);
}
