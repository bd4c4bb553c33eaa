/* gpu_bench_peer.cu - sums over ranks on real GPUs, one-shot over peer memory against NCCL, recorded and replayed as
 * decode steps do it: of two GPUs, and of all. Built and run by scripts/gpu-check; with one GPU exit status 77. "dry" goes
 * through the same code with few rounds. */
#include <pthread.h>

#include "kernels/cuda/cuda_comm.h"
#include "tests/kernels/gpu_bench.cuh"

#define SUMS 50 // in a graph

struct scene {
    int world, rounds;
    size_t count;
    struct comm_group *group;
    pthread_barrier_t begin;
};

struct rank {
    struct scene *s;
    int index;
    double seconds; // of one sum
    size_t peer_most;
};

static void need(int rc, const struct error *err)
{
    if (rc >= 0) return;
    fprintf(stderr, "%s\n", err->text);
    exit(1);
}

static void wait(struct cuda_comm *c, cudaStream_t stream)
{
    struct error err;
    cudaError_t rc;

    need(cuda_comm_wait(c, stream, NULL, &rc, &err), &err);
    NEED_CUDA(rc);
}

static void replay(struct rank *r, struct cuda_comm *c, cudaStream_t stream)
{
    struct scene *s = r->s;
    float *x = (float *)device_random(s->count * sizeof *x);
    cudaGraph_t graph;
    cudaGraphExec_t exec;

    cuda_comm_sum(c, x, s->count, stream); // libraries choose, kernels are loaded
    wait(c, stream);
    NEED_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < SUMS; i++)
        cuda_comm_sum(c, x, s->count, stream);
    NEED_CUDA(cudaStreamEndCapture(stream, &graph));
    NEED_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    NEED_CUDA(cudaGraphLaunch(exec, stream));
    wait(c, stream);
    pthread_barrier_wait(&s->begin);
    double began = now_s();
    for (int i = 0; i < s->rounds; i++)
        NEED_CUDA(cudaGraphLaunch(exec, stream));
    wait(c, stream);
    r->seconds = (now_s() - began) / (s->rounds * SUMS);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaFree(x);
}

static void *run_rank(void *arg)
{
    struct rank *r = (struct rank *)arg;
    struct backend_options options = {};
    struct cuda_comm c;
    cudaStream_t stream;
    struct error err;

    options.rank = r->index;
    options.world = r->s->world;
    options.group = r->s->group;
    NEED_CUDA(cudaSetDevice(r->index));
    NEED_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    need(cuda_comm_join(&c, &options, &err), &err);
    r->peer_most = cuda_comm_peer_most(&c);
    replay(r, &c, stream);
    cuda_comm_drain(&c, stream);
    cuda_comm_leave(&c);
    NEED_CUDA(cudaStreamDestroy(stream));
    return NULL;
}

/* Of the slowest rank. *one_shot: peers made the sums. */
static double seconds_of(int world, size_t count, int rounds, bool *one_shot)
{
    struct rank rank[CUDA_COMM_WORLD_MAX];
    pthread_t thread[CUDA_COMM_WORLD_MAX];
    struct backend_options options = {};
    struct scene s = {};
    struct error err;
    double slowest = 0;

    s.world = options.world = world;
    s.rounds = rounds;
    s.count = count;
    need(cuda_comm_create(&options, &s.group, &err), &err);
    pthread_barrier_init(&s.begin, NULL, (unsigned)world);
    for (int i = 0; i < world; i++) {
        rank[i] = (struct rank){&s, i, 0, 0};
        if (pthread_create(&thread[i], NULL, run_rank, &rank[i])) exit(1);
    }
    for (int i = 0; i < world; i++) {
        pthread_join(thread[i], NULL);
        if (rank[i].seconds > slowest) slowest = rank[i].seconds;
    }
    *one_shot = count <= rank[0].peer_most;
    pthread_barrier_destroy(&s.begin);
    cuda_comm_destroy(s.group);
    return slowest;
}

static void compare(int world, size_t bytes, int rounds)
{
    char what[64], measured[96], of[64];
    bool one_shot, other;

    double peer = seconds_of(world, bytes / sizeof(float), rounds, &one_shot);
    setenv("LM_CUDA_PEER", "0", 1);
    double nccl = seconds_of(world, bytes / sizeof(float), rounds, &other);
    unsetenv("LM_CUDA_PEER");
    snprintf(what, sizeof what, "all-reduce of %zu KiB, %d GPUs", bytes >> 10, world);
    snprintf(measured, sizeof measured, "%.1f us %s", 1e6 * peer,
             one_shot ? "one-shot" : "(by NCCL: too large for peers, or there are none)");
    snprintf(of, sizeof of, "NCCL's %.1f us", 1e6 * nccl);
    print_target(what, measured, peer / nccl, of, "less than 100 %");
}

int main(int argc, char **argv)
{
    bool dry = argc > 1 && strcmp(argv[1], "dry") == 0;
    int devices = 0;

    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 2) {
        printf("one GPU\n");
        return 77;
    }
    if (devices > CUDA_COMM_WORLD_MAX) devices = CUDA_COMM_WORLD_MAX;
    for (int world = 2; world <= devices; world += devices > 2 ? devices - 2 : 1)
        for (size_t kib :
             {16, 128, 1024}) // the last one on the dear side of the limit, but for two
            if (!dry || kib < 1024) compare(world, kib << 10, dry ? 1 : 50);
    return 0;
}
