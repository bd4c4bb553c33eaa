/* gpu_bench_attention.cu - one layer's attention on a real GPU. Built and run by scripts/gpu-check.
 *
 * Decode reads every K and V once: its result is the bytes of KV pages over the time, as a share of what a copy
 * reaches. Prefill computes: its result is 4 * head size * pairs of (query, visible position) over the time. */
#include <vector>

#include "kernels/cuda/cuda_attention.h"
#include "tests/kernels/gpu_bench.cuh"
#include "tests/test.h"

#define ROUNDS          20
#define BYTES_IN_FLIGHT ((size_t)400 << 20) // of KV, over all layers: more than a cache holds
#define LAYERS_MAX      16

struct heads {
    const char *name;
    int heads, kv_heads, head_dim, value_dim, window;
};

static const struct heads llama_8b = {"32/8 of 128", 32, 8, 128, 128, 0};
static const struct heads llama_1b = {"32/8 of 64", 32, 8, 64, 64, 0};
static const struct heads qwen_7b = {"28/4 of 128", 28, 4, 128, 128, 0};
static const struct heads llama2_7b = {"32/32 of 128", 32, 32, 128, 128, 0};
static const struct heads gemma = {"8/4 of 256", 8, 4, 256, 256, 0};
static const struct heads deepseek = {"16/16 of 192, 128", 16, 16, 192, 128, 0};
static const struct heads gpt_oss = {"64/8 of 64, window 128", 64, 8, 64, 64, 128};

struct attention_case {
    const struct heads *heads;
    enum kv_type type;
    int sequences, count, past;
    const char *target; // of its share; NULL: not in the table of targets
};

static const struct attention_case cases[] = {
    {&llama_8b, KV_BF16, 1, 1, 511},    {&llama_8b, KV_BF16, 1, 1, 8191},
    {&llama_8b, KV_BF16, 1, 1, 65535},  {&llama_8b, KV_BF16, 32, 1, 8191, "80 %"},
    {&llama_8b, KV_F16, 32, 1, 8191},   {&llama_8b, KV_INT8, 32, 1, 8191},
    {&llama_8b, KV_BF16, 64, 1, 511},   {&llama_8b, KV_BF16, 256, 1, 511},
    {&llama_8b, KV_INT8, 256, 1, 511},  {&llama_8b, KV_BF16, 32, 4, 8188},
    {&llama_1b, KV_BF16, 32, 1, 8191},  {&qwen_7b, KV_BF16, 32, 1, 8191},
    {&llama2_7b, KV_BF16, 32, 1, 2047}, {&gemma, KV_BF16, 32, 1, 8191},
    {&deepseek, KV_BF16, 32, 1, 4095},  {&gpt_oss, KV_BF16, 32, 1, 8191},
    {&llama_8b, KV_BF16, 1, 2048, 0},   {&llama_8b, KV_BF16, 1, 8192, 0},
    {&llama_8b, KV_INT8, 1, 2048, 0},   {&llama_8b, KV_BF16, 16, 512, 0},
    {&llama_8b, KV_BF16, 1, 512, 7680}, {&llama_1b, KV_BF16, 1, 2048, 0},
    {&gemma, KV_BF16, 1, 2048, 0},      {&deepseek, KV_BF16, 1, 2048, 0},
    {&gpt_oss, KV_BF16, 1, 8192, 0},
};

/* Positions that the case's queries see: of each sequence once, and pairs of query and position. */
static void count_positions(const struct attention_case *c, double *read, double *pairs)
{
    int window = c->heads->window, end = c->past + c->count;
    int first = window > 0 && c->past >= window ? c->past - window + 1 : 0;

    *read = (double)c->sequences * (end - first);
    *pairs = 0;
    for (int p = c->past; p < end; p++)
        *pairs += (double)c->sequences * (window > 0 && p >= window ? window : p + 1);
}

static void print_case_target(const struct attention_case *c, double seconds, double share)
{
    char what[96], measured[64];
    snprintf(what, sizeof what, "attention of heads %s, decode, batch %d behind %d", c->heads->name,
             c->sequences, c->past);
    snprintf(measured, sizeof measured, "%.1f us a layer", 1e6 * seconds);
    print_target(what, measured, share, "the copy", c->target);
}

static void run_case(const struct attention_case *c, double roof)
{
    const struct heads *h = c->heads;
    int tokens = c->sequences * c->count,
        pages = (c->past + c->count + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    struct cuda_attention a = {};
    struct error err;

    NEED(cuda_kv_layout_init(&a.kv, c->type, 1, h->kv_heads, h->head_dim, h->value_dim, &err) == 0);
    size_t layer_bytes = a.kv.page_bytes * (size_t)(pages * c->sequences);
    int layers = (int)(BYTES_IN_FLIGHT / layer_bytes) + 1;
    layers = layers > LAYERS_MAX ? LAYERS_MAX : layers;
    NEED(cuda_kv_layout_init(&a.kv, c->type, layers, h->kv_heads, h->head_dim, h->value_dim,
                             &err) == 0);
    a.heads = h->heads, a.o_real = CUDA_REAL_BF16;
    a.scale = 0.1f;

    std::vector<int32_t> blocks((size_t)(pages * c->sequences));
    std::vector<struct step_sequence> sequences((size_t)c->sequences);
    for (size_t i = 0; i < blocks.size(); i++)
        blocks[i] = (int32_t)i;
    for (int i = 0; i < c->sequences; i++) {
        sequences[(size_t)i] = {};
        sequences[(size_t)i].first = i * c->count;
        sequences[(size_t)i].count = c->count;
        sequences[(size_t)i].past = c->past;
        sequences[(size_t)i].blocks = blocks.data() + i * pages;
    }
    struct step step = {};
    step.tokens = tokens, step.sequences = c->sequences, step.sequence = sequences.data();
    struct step_limits limits = {tokens, c->sequences, 1, c->past + c->count};
    std::vector<uint8_t> image(cuda_attention_plan_bytes_max(&a, &limits));
    size_t workspace_bytes = cuda_attention_workspace_bytes(&a, &limits);
    struct cuda_attention_plan plan;
    cuda_attention_plan_step(&a, &step, tokens, workspace_bytes, image.data(), &plan);

    struct cuda_attention_layer x = {};
    void *image_device = device_random(plan.bytes),
         *q = device_random((size_t)(tokens * h->heads * h->head_dim) * 4);
    NEED(cudaMemcpy(image_device, image.data(), plan.bytes, cudaMemcpyHostToDevice) == cudaSuccess);
    x.window = h->window;
    x.pages = (const uint8_t *)device_random(layer_bytes * (size_t)layers);
    x.image = image_device;
    x.workspace = device_random(workspace_bytes + 256);
    x.workspace_bytes = workspace_bytes;
    x.q = (const float *)q;
    x.q_stride = h->heads * h->head_dim;
    x.o = device_random((size_t)(tokens * h->heads * h->value_dim) * 2);
    x.o_stride = h->heads * h->value_dim;
    double seconds = time_of(ROUNDS, NULL, [&] {
        for (x.layer = 0; x.layer < layers; x.layer++)
            cuda_attention_run(&a, &plan, &x, NULL);
    });
    seconds /= layers;

    static const char *const names[KV_TYPES] = {"f32", "f16", "bf16", "int8"};
    double read, pairs, part = (double)a.kv.part_bytes / KV_BLOCK_TOKENS * h->kv_heads;
    count_positions(c, &read, &pairs);
    double flop = 2 * pairs * h->heads * (h->head_dim + h->value_dim);
    printf("| %-22s | %-4s | %3d x %4d behind %5d | %9.1f us | %6.0f GB/s | %5.1f %% | %6.1f "
           "TFLOP/s |\n",
           h->name, names[c->type], c->sequences, c->count, c->past, 1e6 * seconds,
           1e-9 * read * part / seconds, 100 * read * part / seconds / roof,
           1e-12 * flop / seconds);
    fflush(stdout);
    if (c->target) print_case_target(c, seconds, read * part / seconds / roof);
    for (const void *at : {(const void *)x.pages, x.image, (const void *)x.workspace,
                           (const void *)x.q, (const void *)x.o})
        NEED(cudaFree((void *)at) == cudaSuccess);
}

int main(void)
{
    double roof = measure_copy(NULL);

    printf("copy %.2f TB/s\n\n", 1e-12 * roof);
    printf("| heads | pages | step | time of a layer | KV read | of the copy | computed "
           "|\n|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        run_case(&cases[i], roof);
    return 0;
}
