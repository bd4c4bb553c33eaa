#include "kernels/cuda/cuda_comm.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "shared/base/check.h"

#define TIMEOUT_MS_DEFAULT 30000

/* ---- NCCL ---- */

#define NCCL_FUNCTIONS(X) \
    X(ncclGetErrorString) \
    X(ncclGetUniqueId)    \
    X(ncclCommInitRank)   \
    X(ncclCommDestroy)    \
    X(ncclCommAbort)      \
    X(ncclAllReduce)

struct nccl {
#define X(name) decltype(&::name) name;
    NCCL_FUNCTIONS(X)
#undef X
};

#ifdef LM_CUDA_EMULATED
static int load_nccl(struct nccl *n, struct error *err)
{
    (void)err;
#define X(name) n->name = ::name;
    NCCL_FUNCTIONS(X)
#undef X
    return 0;
}
#else
static int load_nccl(struct nccl *n, struct error *err)
{
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL); // stays loaded

    if (!library) return error_set(err, E_UNSUPPORTED, "several GPUs need NCCL: %s", dlerror());
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
    pthread_mutex_t lock; // of what follows; never held across a call of NCCL that waits for others
    bool failed;
    char why[256];
    ncclComm_t comm[CUDA_COMM_WORLD_MAX]; // NULL: not joined, left, or torn down
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

/* The first reason counts. Tearing down ends what waits on a device, and what comes later. */
void cuda_comm_abort(struct comm_group *g, const char *why)
{
    ncclComm_t torn[CUDA_COMM_WORLD_MAX] = {};

    pthread_mutex_lock(&g->lock);
    if (!g->failed) snprintf(g->why, sizeof g->why, "%s", why);
    g->failed = true;
    for (int i = 0; i < g->world; i++) {
        torn[i] = g->comm[i];
        g->comm[i] = NULL;
    }
    pthread_mutex_unlock(&g->lock);
    for (int i = 0; i < g->world; i++)
        if (torn[i]) g->nccl.ncclCommAbort(torn[i]);
}

static ncclComm_t comm_of(const struct cuda_comm *c)
{
    pthread_mutex_lock(&c->group->lock);
    ncclComm_t comm = c->group->comm[c->rank];
    pthread_mutex_unlock(&c->group->lock);
    return comm;
}

static bool has_failed(struct comm_group *g, struct error *err)
{
    pthread_mutex_lock(&g->lock);
    bool failed = g->failed;
    if (failed) error_set(err, E_DEVICE, "%s", g->why);
    pthread_mutex_unlock(&g->lock);
    return failed;
}

/* ---- a rank ---- */

int cuda_comm_join(struct cuda_comm *c, const struct backend_options *options, struct error *err)
{
    struct comm_group *g = options->group;
    ncclComm_t comm = NULL;

    *c = (struct cuda_comm){};
    if (options->world <= 1 || !g) return 0;
    c->rank = options->rank;
    c->world = options->world;
    c->timeout_ms = options->peer_timeout_ms > 0 ? options->peer_timeout_ms : TIMEOUT_MS_DEFAULT;
    ncclResult_t rc = g->nccl.ncclCommInitRank(&comm, c->world, g->id, c->rank);
    if (rc != ncclSuccess)
        return error_set(err, E_DEVICE, "NCCL, rank %d of %d: %s", c->rank, c->world,
                         g->nccl.ncclGetErrorString(rc));
    pthread_mutex_lock(&g->lock);
    g->comm[c->rank] = comm;
    pthread_mutex_unlock(&g->lock);
    c->group = g;
    return 0;
}

void cuda_comm_leave(struct cuda_comm *c)
{
    if (!c->group) return;
    pthread_mutex_lock(&c->group->lock);
    ncclComm_t comm = c->group->comm[c->rank];
    c->group->comm[c->rank] = NULL;
    pthread_mutex_unlock(&c->group->lock);
    if (comm) c->group->nccl.ncclCommDestroy(comm);
    *c = (struct cuda_comm){};
}

void cuda_comm_sum(const struct cuda_comm *c, float *x, size_t count, cudaStream_t stream)
{
    if (!c->group || count == 0) return;
    ncclComm_t comm = comm_of(c);
    if (!comm) return; // the group has failed, and wait says so
    ncclResult_t rc = c->group->nccl.ncclAllReduce(x, x, count, ncclFloat32, ncclSum, comm, stream);
    if (rc != ncclSuccess) cuda_comm_abort(c->group, c->group->nccl.ncclGetErrorString(rc));
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Asks instead of waiting: a device that waits for another one's kernel can't be interrupted else. */
static cudaError_t poll_stream(const struct cuda_comm *c, cudaStream_t stream)
{
    const struct timespec pause = {0, 20000};
    int64_t deadline = now_ms() + c->timeout_ms;
    char why[96];
    cudaError_t rc;

    while ((rc = cudaStreamQuery(stream)) == cudaErrorNotReady) {
        cudaGetLastError(); // CUDA keeps "not ready" like an error
        if (has_failed(c->group, NULL)) return cudaStreamSynchronize(stream);
        if (now_ms() > deadline) {
            snprintf(why, sizeof why, "rank %d waited %d ms for the others", c->rank,
                     c->timeout_ms);
            cuda_comm_abort(c->group, why);
        }
        nanosleep(&pause, NULL);
    }
    return rc;
}

int cuda_comm_wait(const struct cuda_comm *c, cudaStream_t stream, cudaError_t *rc,
                   struct error *err)
{
    if (!c->group) {
        *rc = cudaStreamSynchronize(stream);
        return 0;
    }
    *rc = poll_stream(c, stream);
    return has_failed(c->group, err) ? E_DEVICE : 0;
}
