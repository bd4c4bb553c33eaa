#include "kernels/cuda/cuda_comm.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cuda/cuda_pointwise.h"
#include "shared/base/check.h"

#define TIMEOUT_MS_DEFAULT 30000
#define JOIN_PATIENCE      4    // times the limit
#define QUIET_MS           1000 // in which a device ends what an aborted communicator left on it
#define EAGER_POLLS        500  // before sleeping: a call takes some ten microseconds
#define GATHER_FLOATS      ((size_t)1 << 18) // of each rank at once

/* Channels of a communicator, and so its memory: as many as NCCL itself takes for NVLS on devices 9.0. */
#define NCCL_CHANNELS      16
#define MIB                ((size_t)1 << 20)

/* ---- NCCL ---- */

#define NCCL_FUNCTIONS(X)     \
    X(ncclGetErrorString)     \
    X(ncclGetLastError)       \
    X(ncclGetUniqueId)        \
    X(ncclCommInitRankConfig) \
    X(ncclCommGetAsyncError)  \
    X(ncclCommFinalize)       \
    X(ncclCommDestroy)        \
    X(ncclCommAbort)          \
    X(ncclAllReduce)          \
    X(ncclAllGather)

struct nccl {
#define X(name) decltype(&::name) name;
    NCCL_FUNCTIONS(X)
#undef X
};

static int check_version(decltype(&::ncclGetVersion) get_version, struct error *err)
{
    int v = 0, scale = 10000; // of 2.9 and later

    if (get_version) get_version(&v);
    if (v >= CUDA_COMM_NCCL_MIN) return 0;
    if (v < 20900) scale = 1000;
    return error_set(err, E_UNSUPPORTED,
                     "several GPUs need NCCL %d.%d or later; libnccl.so.2 is %d.%d.%d",
                     CUDA_COMM_NCCL_MIN / 10000, CUDA_COMM_NCCL_MIN / 100 % 100, v / scale,
                     v % scale / 100, v % 100);
}

#ifdef LM_CUDA_EMULATED
static int load_nccl(struct nccl *n, struct error *err)
{
#define X(name) n->name = ::name;
    NCCL_FUNCTIONS(X)
#undef X
    return check_version(::ncclGetVersion, err);
}
#else
static int load_nccl(struct nccl *n, struct error *err)
{
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL); // stays loaded

    if (!library) return error_set(err, E_UNSUPPORTED, "several GPUs need NCCL: %s", dlerror());
    int rc = check_version((decltype(&::ncclGetVersion))dlsym(library, "ncclGetVersion"), err);
    if (rc < 0) return rc;
#define X(name)                                         \
    n->name = (decltype(&::name))dlsym(library, #name); \
    if (!n->name) return error_set(err, E_UNSUPPORTED, "libnccl.so.2 has no " #name);
    NCCL_FUNCTIONS(X)
#undef X
    return 0;
}
#endif

/* ---- the group ---- */

struct comm_group {
    struct nccl nccl;
    ncclUniqueId id;
    int world;
    pthread_mutex_t lock; // of what follows
    bool failed;
    char why[256];
    uint64_t meetings[CUDA_COMM_WORLD_MAX]; // that a rank has come to: its joining, then its waits
    struct cuda_peer offer[CUDA_COMM_WORLD_MAX];
    int inside;   // ranks whose devices may write into mailboxes
    bool is_kept; // one of them left without having become idle: mailboxes stay
};

int cuda_comm_create(const struct backend_options *options, struct comm_group **out,
                     struct error *err)
{
    if (options->world > CUDA_COMM_WORLD_MAX)
        return error_set(err, E_LIMIT, "%d ranks, but %d GPUs are the most", options->world,
                         CUDA_COMM_WORLD_MAX);
    struct comm_group *g = (struct comm_group *)xcalloc(1, sizeof *g);
    g->world = options->world;
    pthread_mutex_init(&g->lock, NULL);
    int rc = load_nccl(&g->nccl, err);
    if (rc == 0) {
        ncclResult_t got = g->nccl.ncclGetUniqueId(&g->id);
        if (got != ncclSuccess)
            rc = error_set(err, E_DEVICE, "NCCL: %s", g->nccl.ncclGetErrorString(got));
    }
    if (rc < 0) {
        cuda_comm_destroy(g);
        return rc;
    }
    *out = g;
    return 0;
}

void cuda_comm_destroy(struct comm_group *g)
{
    if (!g) return;
    pthread_mutex_destroy(&g->lock);
    free(g);
}

void cuda_comm_abort(struct comm_group *g, const char *why)
{
    pthread_mutex_lock(&g->lock);
    if (!g->failed) snprintf(g->why, sizeof g->why, "%s", why);
    g->failed = true;
    for (int r = 0; r < g->world; r++)
        cuda_peer_stop(&g->offer[r]);
    pthread_mutex_unlock(&g->lock);
}

static bool has_failed(struct comm_group *g, struct error *err)
{
    pthread_mutex_lock(&g->lock);
    bool failed = g->failed;
    if (failed) error_set(err, E_DEVICE, "%s", g->why);
    pthread_mutex_unlock(&g->lock);
    return failed;
}

static void come_to_meeting(const struct cuda_comm *c)
{
    pthread_mutex_lock(&c->group->lock);
    c->group->meetings[c->rank]++;
    pthread_mutex_unlock(&c->group->lock);
}

/* This rank has waited too long: for those that aren't where it is, or for a device. */
static void give_up(const struct cuda_comm *c, int waited_ms)
{
    struct comm_group *g = c->group;
    char who[96] = "", why[160];
    int at = 0, room = (int)sizeof who;

    pthread_mutex_lock(&g->lock);
    for (int r = 0; r < g->world && at < room; r++)
        if (g->meetings[r] < g->meetings[c->rank])
            at += snprintf(who + at, (size_t)(room - at), "%s %d", at ? "," : "rank", r);
    pthread_mutex_unlock(&g->lock);
    if (at > 0)
        snprintf(why, sizeof why, "%s did not answer the other ranks for %g s", who,
                 waited_ms / 1000.0);
    else
        snprintf(why, sizeof why, "rank %d waited %g s for its device, though all ranks had come",
                 c->rank, waited_ms / 1000.0);
    cuda_comm_abort(g, why);
}

/* ---- calls of NCCL ---- */

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void pause_poll(int polls)
{
    const struct timespec pause = {0, 20000};

    if (polls < EAGER_POLLS)
        sched_yield();
    else
        nanosleep(&pause, NULL);
}

static ncclResult_t ask_state(const struct cuda_comm *c)
{
    ncclResult_t state = ncclSuccess;
    ncclResult_t rc = c->group->nccl.ncclCommGetAsyncError(c->comm, &state);

    return rc == ncclSuccess ? state : rc;
}

/* Not done means that nobody may wait for it any longer: the group has failed, or the time is over. */
static ncclResult_t finish_call(const struct cuda_comm *c, ncclResult_t rc, int limit_ms)
{
    int64_t deadline = now_ms() + limit_ms;

    for (int i = 0; rc == ncclInProgress && now_ms() <= deadline; i++) {
        if (has_failed(c->group, NULL)) break;
        pause_poll(i);
        rc = ask_state(c);
    }
    return rc;
}

static void fail_call(const struct cuda_comm *c, ncclResult_t rc)
{
    const struct nccl *n = &c->group->nccl;
    char why[256];

    snprintf(why, sizeof why, "NCCL, rank %d of %d: %s (%s)", c->rank, c->world,
             n->ncclGetErrorString(rc), n->ncclGetLastError(c->comm));
    cuda_comm_abort(c->group, why);
}

/* Ends what waits on this rank's device too. Whatever it gives, the communicator is gone. */
static void tear_down(struct cuda_comm *c)
{
    if (c->comm) c->group->nccl.ncclCommAbort(c->comm);
    c->comm = NULL;
}

/* True: done. Else the group has failed. */
static bool complete(struct cuda_comm *c, ncclResult_t rc, int limit_ms)
{
    rc = finish_call(c, rc, limit_ms);
    if (rc == ncclSuccess) return true;
    if (rc != ncclInProgress)
        fail_call(c, rc);
    else if (!has_failed(c->group, NULL))
        give_up(c, limit_ms);
    tear_down(c);
    return false;
}

/* ---- memory that ranks share ---- */

static void offer_mailbox(struct cuda_comm *c)
{
    struct comm_group *g = c->group;
    struct cuda_peer offer;

    cuda_peer_offer(&offer, c->rank, c->world);
    pthread_mutex_lock(&g->lock);
    g->offer[c->rank] = offer;
    g->inside++;
    if (g->failed) cuda_peer_stop(&offer);
    pthread_mutex_unlock(&g->lock);
    c->peer = offer;
}

/* Behind NCCL's joining, which none passes before all have come to it, so all have offered. */
static void accept_mailboxes(struct cuda_comm *c)
{
    pthread_mutex_lock(&c->group->lock);
    cuda_peer_accept(&c->peer, c->group->offer);
    pthread_mutex_unlock(&c->group->lock);
}

/* The last one frees all of them, when no device can write into any. */
static void leave_mailboxes(struct cuda_comm *c)
{
    struct cuda_peer offer[CUDA_COMM_WORLD_MAX] = {};
    struct comm_group *g = c->group;

    if (c->peer.world == 0) return; // has offered nothing
    pthread_mutex_lock(&g->lock);
    if (!c->is_idle) g->is_kept = true;
    if (--g->inside == 0 && !g->is_kept) {
        memcpy(offer, g->offer, sizeof offer);
        memset(g->offer, 0, sizeof g->offer);
    }
    pthread_mutex_unlock(&g->lock);
    for (int r = 0; r < c->world; r++)
        cuda_peer_free(&offer[r]);
}

/* ---- a rank ---- */

int cuda_comm_join(struct cuda_comm *c, const struct backend_options *options, struct error *err)
{
    struct comm_group *g = options->group;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;

    *c = (struct cuda_comm){};
    if (options->world <= 1) return 0;
    c->rank = options->rank;
    c->world = options->world;
    c->deterministic = options->deterministic;
    if (!g) return 0; // measure_only: sizes are those of a rank
    c->group = g;
    c->timeout_ms = options->peer_timeout_ms > 0 ? options->peer_timeout_ms : TIMEOUT_MS_DEFAULT;
    config.blocking = 0;
    config.maxCTAs = NCCL_CHANNELS;
    come_to_meeting(c);
    if (has_failed(g, err)) return E_DEVICE;
    offer_mailbox(c);
    ncclResult_t rc = g->nccl.ncclCommInitRankConfig(&c->comm, c->world, g->id, c->rank, &config);
    if (!complete(c, rc, JOIN_PATIENCE * c->timeout_ms)) return cuda_comm_check(c, err);
    accept_mailboxes(c);
    return 0;
}

/* Finalizing waits for the other ranks; destroying a communicator that isn't finalized would too. */
void cuda_comm_leave(struct cuda_comm *c)
{
    if (!c->group) return;
    if (c->comm && !has_failed(c->group, NULL)) {
        const struct nccl *n = &c->group->nccl;
        ncclResult_t rc = finish_call(c, n->ncclCommFinalize(c->comm), c->timeout_ms);
        if (rc == ncclSuccess) {
            n->ncclCommDestroy(c->comm);
            c->comm = NULL;
        }
    }
    tear_down(c);
    leave_mailboxes(c);
    *c = (struct cuda_comm){};
}

int cuda_comm_check(const struct cuda_comm *c, struct error *err)
{
    return c->group && has_failed(c->group, err) ? E_DEVICE : 0;
}

size_t cuda_comm_gathered_bytes(const struct cuda_comm *c)
{
    return c->deterministic ? (size_t)c->world * GATHER_FLOATS * sizeof(float) : 0;
}

size_t cuda_comm_peer_bytes(const struct cuda_comm *c)
{
    if (c->group) return c->peer.mailbox[c->rank] ? cuda_peer_bytes(c->world) : 0;
    return cuda_peer_bytes(c->world);
}

/* From the source of NCCL 2.28.9, for one node. A channel has a connection from and to each neighbour, in whole 2 MiB
 * (transport/p2p.cc): the receiver's buffers of 0.5, 4.7 and 4 MiB (LL, LL128, Simple: init.cc) are 10, the sender's
 * 2. Of more than two ranks the ring has two neighbours, and uses one connection of each; the tree is taken to have
 * the same ones, and uses the rest. NVLS (transport/nvls.cc) has 2 MiB for each rank. */
size_t cuda_comm_nccl_bytes(int world)
{
    size_t neighbours = world > 2 ? 2 : 1;

    if (world <= 1) return 0;
    return NCCL_CHANNELS * (neighbours * 12 + 2 * (size_t)world) * MIB;
}

size_t cuda_comm_peer_most(const struct cuda_comm *c)
{
    return c->peer.most;
}

static bool can_call(struct cuda_comm *c)
{
    if (c->comm && has_failed(c->group, NULL)) tear_down(c);
    return c->comm != NULL;
}

static void sum_by_nccl(struct cuda_comm *c, float *x, size_t count, cudaStream_t stream)
{
    complete(c, c->group->nccl.ncclAllReduce(x, x, count, ncclFloat32, ncclSum, c->comm, stream),
             c->timeout_ms);
}

/* In the order of ranks. A launch that fails is CUDA's last error. */
static void sum_gathered(struct cuda_comm *c, float *x, size_t count, cudaStream_t stream)
{
    for (size_t some; count > 0 && can_call(c); x += some, count -= some) {
        some = count < GATHER_FLOATS ? count : GATHER_FLOATS;
        ncclResult_t rc =
            c->group->nccl.ncclAllGather(x, c->gathered, some, ncclFloat32, c->comm, stream);
        if (complete(c, rc, c->timeout_ms)) cuda_sum_ranks(x, c->gathered, some, c->world, stream);
    }
}

static void sum(struct cuda_comm *c, float *x, size_t count, bool in_order, cudaStream_t stream)
{
    if (count == 0 || !can_call(c)) return;
    if (count <= c->peer.most)
        cuda_peer_sum(&c->peer, x, count, stream);
    else if (in_order)
        sum_gathered(c, x, count, stream);
    else
        sum_by_nccl(c, x, count, stream);
}

void cuda_comm_merge(struct cuda_comm *c, float *x, size_t count, cudaStream_t stream)
{
    sum(c, x, count, false, stream);
}

void cuda_comm_sum(struct cuda_comm *c, float *x, size_t count, cudaStream_t stream)
{
    sum(c, x, count, c->deterministic, stream);
}

/* ---- waiting ---- */

/* Asks instead of waiting: a device that waits for another one's kernel can't be interrupted else. Behind the
 * abort it gets a moment, and no more: it may hang. */
static cudaError_t query(cudaStream_t stream, cudaEvent_t until)
{
    return until ? cudaEventQuery(until) : cudaStreamQuery(stream);
}

static cudaError_t poll_stream(struct cuda_comm *c, cudaStream_t stream, cudaEvent_t until)
{
    int64_t deadline = now_ms() + c->timeout_ms;
    cudaError_t rc;

    for (int i = 0; (rc = query(stream, until)) == cudaErrorNotReady; i++) {
        bool late = now_ms() > deadline;
        cudaGetLastError(); // CUDA keeps "not ready" like an error
        if (!c->comm) {
            if (late) break;
        } else if (has_failed(c->group, NULL)) {
            tear_down(c);
            deadline = now_ms() + QUIET_MS;
        } else if (ask_state(c) != ncclSuccess) {
            fail_call(c, ask_state(c));
        } else if (late) {
            give_up(c, c->timeout_ms);
        }
        pause_poll(i);
    }
    return rc;
}

int cuda_comm_wait(struct cuda_comm *c, cudaStream_t stream, cudaEvent_t until, cudaError_t *rc,
                   struct error *err)
{
    if (!c->group) {
        *rc = until ? cudaEventSynchronize(until) : cudaStreamSynchronize(stream);
        return 0;
    }
    come_to_meeting(c);
    *rc = poll_stream(c, stream, until);
    return cuda_comm_check(c, err);
}

void cuda_comm_drain(struct cuda_comm *c, cudaStream_t stream)
{
    if (c->group)
        c->is_idle = poll_stream(c, stream, NULL) != cudaErrorNotReady;
    else
        cudaStreamSynchronize(stream);
}
