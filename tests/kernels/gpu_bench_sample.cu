/* gpu_bench_sample.cu - drawing tokens on a real GPU: the time of a batch with the host's part and both copies, and
 * the bandwidth if each logit were read once. Built and run by scripts/gpu-check. */
#include "kernels/cuda/cuda_sample.h"
#include "shared/base/rng.h"
#include "tests/kernels/gpu_bench.cuh"

#define VOCAB    128256
#define ROWS_MAX 256

struct bench_case {
    const char *what;
    float temperature, top_p, min_p;
    int top_k;
    int seen; // tokens with penalties
    int logprobs;
};

static const struct bench_case cases[] = {
    {"greedy", 0, 1, 0, 0, 0, 0},
    {"temperature 1", 1, 1, 0, 0, 0, 0},
    {"top_p 0.95", 0.8f, 0.95f, 0, 0, 0, 0},
    {"top_k 40, top_p 0.95", 0.8f, 0.95f, 0, 40, 0, 0},
    {"min_p 0.05", 1, 1, 0.05f, 0, 0, 0},
    {"top_p 0.95, 1000 tokens penalised", 0.8f, 0.95f, 0, 0, 1000, 0},
    {"top_p 0.9 of a flat row", 1000, 0.9f, 0, 0, 0, 0},
    {"greedy, 20 log-probabilities", 0, 1, 0, 0, 0, SAMPLE_LOGPROBS_MAX},
};

/* Rows like a model's: a bell, and a few tokens far above it. */
static void fill_logits(float *logits)
{
    struct rng r;

    rng_init(&r, 1);
    for (size_t i = 0; i < (size_t)ROWS_MAX * VOCAB; i++)
        logits[i] = (float)(rng_unit(&r) + rng_unit(&r) + rng_unit(&r) - 1.5) * 5;
    for (size_t row = 0; row < ROWS_MAX; row++)
        for (int j = 0; j < 20; j++)
            logits[row * VOCAB + (size_t)rng_below(&r, VOCAB)] = 8 + 0.3f * (float)j;
}

static void bench_case(struct cuda_sampler *s, const struct bench_case *c, int rows, float *logits,
                       cudaStream_t stream)
{
    static struct token_count seen[1000];
    static struct sample_row row[ROWS_MAX];

    for (int i = 0; i < 1000; i++)
        seen[i] = (struct token_count){i * 97, i % 3};
    for (int i = 0; i < rows; i++) {
        row[i] = (struct sample_row){};
        row[i].temperature = c->temperature, row[i].top_p = c->top_p, row[i].min_p = c->min_p;
        row[i].top_k = c->top_k, row[i].repetition = 1;
        row[i].random = (uint64_t)i * 0x9e3779b97f4a7c15u;
        row[i].seen = seen, row[i].seen_count = c->seen;
        row[i].logprobs = c->logprobs;
    }
    double seconds = time_of(50, stream, [&] {
        NEED_CUDA(cudaStreamSynchronize(stream)); // the image is free
        NEED_CUDA(cuda_sample_run(s, 0, row, rows, logits, VOCAB, stream));
    });
    printf("| %3d x %d, %-34s | %8.1f us | %5.2f TB/s |\n", rows, VOCAB, c->what, 1e6 * seconds,
           1e-12 * (double)rows * VOCAB * sizeof(float) / seconds);
    fflush(stdout);
}

int main(void)
{
    static const int batches[] = {1, 64, 256};
    size_t bytes = (size_t)ROWS_MAX * VOCAB * sizeof(float);
    float *host = (float *)xmalloc(bytes), *logits = NULL;
    struct cuda_arena arena = {};
    struct cuda_sampler s = {};
    cudaStream_t stream;
    struct error err;

    NEED_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    NEED_CUDA(cudaMalloc((void **)&logits, bytes));
    fill_logits(host);
    NEED_CUDA(cudaMemcpy(logits, host, bytes, cudaMemcpyHostToDevice));
    cuda_sample_lay(&s, &arena, ROWS_MAX, VOCAB);
    if (cuda_arena_open(&arena, "sampling", &err) < 0 || cuda_sample_open(&s, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    cuda_sample_lay(&s, &arena, ROWS_MAX, VOCAB);
    printf("| drawing tokens | time | logits read once |\n|---|---|---|\n");
    for (size_t b = 0; b < ARRAY_LEN(batches); b++)
        for (size_t i = 0; i < ARRAY_LEN(cases); i++)
            bench_case(&s, &cases[i], batches[b], logits, stream);
    cuda_sample_close(&s);
    cuda_arena_close(&arena);
    cudaFree(logits);
    free(host);
    return 0;
}
