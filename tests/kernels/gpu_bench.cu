/* gpu_bench.cu - the CUDA backend on a real GPU: what the device can do, then how much of it products and whole
 * steps reach. Built and run by scripts/gpu-check; random weights in real shapes.
 *
 * The share is the result: of the bandwidth that a copy reaches for steps that read weights, of the bfloat16
 * rate that a large cuBLASLt product reaches for the others. All of it twice, with kernels that begin before their
 * predecessor has ended (programmatic dependent launch) and without. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_gemm.h"
#include "kernels/quant.h"
#include "shared/base/check.h"
#include "shared/base/rng.h"

#define NEED_CUDA(call)                                                                  \
    do {                                                                                 \
        cudaError_t rc_ = (call);                                                        \
        if (rc_ != cudaSuccess) {                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(rc_)); \
            exit(1);                                                                     \
        }                                                                                \
    } while (0)

struct roof {
    double bytes_per_s, flop_per_s;
    const char *setting; // behind the names of its rows
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void print_row(const char *what, double seconds, double bytes, double flop,
                      const struct roof *roof)
{
    double bandwidth = bytes / seconds / roof->bytes_per_s,
           rate = flop / seconds / roof->flop_per_s;
    printf("| %-44s%s | %9.1f us | %5.1f %% | %5.1f %% |\n", what, roof->setting, 1e6 * seconds,
           100 * bandwidth, 100 * rate);
    fflush(stdout);
}

/* ---- products ---- */

struct product_case {
    const char *what;
    int rows, cols; // of the weights
};

static const struct product_case product_cases[] = {
    {"8B qkv", 6144, 4096},   {"8B o", 4096, 4096},      {"8B gate, up", 28672, 4096},
    {"8B down", 4096, 14336}, {"8B head", 128256, 4096}, {"1B down", 2048, 8192},
};

static void *device_random(size_t bytes)
{
    void *p = NULL;
    NEED_CUDA(cudaMalloc(&p, bytes));
    NEED_CUDA(cudaMemset(p, 0x3c, bytes)); // 0x3c3c is a small bfloat16, and a half of about one
    return p;
}

/* Copies of the weights, so that no run finds them in the cache. */
#define COPIES 4

static double time_product(struct cuda_gemm *g, const struct cuda_product *p, size_t matrix_bytes,
                           cudaStream_t stream)
{
    const int rounds = 40;
    cudaEvent_t begin, end;
    float ms = 0;

    NEED_CUDA(cudaEventCreate(&begin));
    NEED_CUDA(cudaEventCreate(&end));
    for (int i = -COPIES; i < rounds; i++) {
        struct cuda_product one = *p;
        one.part[0].w.data =
            (const uint8_t *)p->part[0].w.data + (size_t)((i + COPIES) % COPIES) * matrix_bytes;
        if (i == 0) NEED_CUDA(cudaEventRecord(begin, stream));
        NEED_CUDA(cuda_gemm_run(g, &one, stream));
    }
    NEED_CUDA(cudaEventRecord(end, stream));
    NEED_CUDA(cudaEventSynchronize(end));
    NEED_CUDA(cudaEventElapsedTime(&ms, begin, end));
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return 1e-3 * (double)ms / rounds;
}

static double run_product(struct cuda_gemm *g, const struct product_case *c, enum cuda_form form,
                          int rows, double *bytes, cudaStream_t stream)
{
    size_t data = (size_t)c->rows * cuda_form_row_bytes(form, c->cols);
    size_t scales = (size_t)c->rows * cuda_form_scale_bytes(form, c->cols);
    struct cuda_product p = {};

    p.in = device_random((size_t)rows * (size_t)c->cols * sizeof(bf16));
    p.in_stride = c->cols;
    p.rows = rows;
    p.parts = 1;
    p.part[0].w.form = form;
    p.part[0].w.rows = c->rows;
    p.part[0].w.cols = p.part[0].w.stride = c->cols;
    p.part[0].w.data = device_random(COPIES * data);
    p.part[0].w.scales = scales ? device_random(scales) : NULL;
    p.part[0].out = (float *)device_random((size_t)rows * (size_t)c->rows * sizeof(float));
    p.part[0].out_stride = c->rows;
    double seconds = time_product(g, &p, data, stream);
    *bytes = (double)(data + scales);
    cudaFree((void *)p.in);
    cudaFree((void *)p.part[0].w.data);
    if (p.part[0].w.scales) cudaFree((void *)p.part[0].w.scales);
    cudaFree(p.part[0].out);
    return seconds;
}

static void bench_products(const struct roof *roof, bool deterministic, cudaStream_t stream)
{
    static const int rows[] = {1, 4, 8, 32, 64, 256, 2048};
    static const char *const names[CUDA_FORMS] = {"float32", "bfloat16", "4 bits", "8 bits"};
    struct cuda_gemm g;
    struct error err;

    if (cuda_gemm_open(&g, deterministic, &err) < 0) exit(1);
    for (size_t c = 0; c < ARRAY_LEN(product_cases); c++) {
        const struct cuda_weight w = {CUDA_Q4, product_cases[c].rows, product_cases[c].cols,
                                      product_cases[c].cols};
        cuda_gemm_expect(&g, &w, rows[ARRAY_LEN(rows) - 1]);
    }
    if (cuda_gemm_workspace_bytes(&g) > 0)
        g.workspace = device_random(cuda_gemm_workspace_bytes(&g));
    for (size_t c = 0; c < ARRAY_LEN(product_cases); c++)
        for (int form = CUDA_BF16; form < CUDA_FORMS; form++)
            for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
                const struct product_case *p = &product_cases[c];
                char what[96];
                double bytes, flop = 2.0 * p->rows * p->cols * rows[r];
                double seconds = run_product(&g, p, (enum cuda_form)form, rows[r], &bytes, stream);
                snprintf(what, sizeof what, "%s %s, %d rows%s", p->what, names[form], rows[r],
                         deterministic ? ", own" : "");
                print_row(what, seconds, bytes, flop, roof);
            }
    if (g.workspace) cudaFree(g.workspace);
    cuda_gemm_close(&g);
}

/* ---- whole steps ---- */

struct shape {
    const char *name;
    int layers, hidden, heads, kv_heads, head_dim, ffn, vocab;
    bool tied;
};

static const struct shape shapes[] = {
    {"Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128256, true},
    {"Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256, false},
};

/* One host buffer is every matrix: small random numbers, read from its start. */
static struct matrix matrix_of(enum dtype type, int rows, int cols, const void *data)
{
    struct matrix m = {};
    m.type = type;
    m.rows = rows;
    m.cols = cols;
    m.data = data;
    return m;
}

static void fill_layer(struct layer_params *l, const struct shape *s, enum dtype type,
                       const void *data, const float *ones)
{
    int q = s->heads * s->head_dim, k = s->kv_heads * s->head_dim;

    *l = (struct layer_params){};
    l->q = matrix_of(type, q, s->hidden, data);
    l->k = l->v = matrix_of(type, k, s->hidden, data);
    l->o = matrix_of(type, s->hidden, q, data);
    l->gate = l->up = matrix_of(type, s->ffn, s->hidden, data);
    l->down = matrix_of(type, s->hidden, s->ffn, data);
    l->attn_norm = l->ffn_norm = ones;
}

static struct model_params model_of(const struct shape *s, enum dtype type, const void *data,
                                    const void *head, const float *ones,
                                    const struct rope_table *rope, struct layer_params *layer)
{
    struct model_params p = {};

    p.layers = s->layers, p.hidden = s->hidden, p.heads = s->heads, p.kv_heads = s->kv_heads;
    p.head_dim = p.rope_dims = s->head_dim, p.ffn = s->ffn, p.vocab = s->vocab;
    p.norm_eps = 1e-5f;
    p.attention_scale = 0.1f;
    p.embedding_scale = p.residual_scale = p.logit_scale = 1;
    p.rope_tables = rope;
    p.rope_table_count = 1;
    p.final_norm = ones;
    for (int i = 0; i < s->layers; i++)
        fill_layer(&layer[i], s, type, data, ones);
    p.layer = layer;
    p.embedding = matrix_of(DTYPE_BF16, s->vocab, s->hidden, head);
    if (!s->tied) p.head = p.embedding;
    return p;
}

static void forward(struct backend *b, int layers, const struct step *step)
{
    const struct backend_ops *ops = &cuda_backend_ops;

    ops->step_begin(b, step);
    ops->embed(b);
    ops->residual(b, RESIDUAL_BEGIN, 0);
    for (int l = 0; l < layers; l++) {
        ops->qkv(b, l);
        ops->attend(b, l);
        ops->out(b, l);
        ops->residual(b, RESIDUAL_ATTENTION, l);
        ops->gate_up(b, l);
        ops->down(b, l);
        ops->residual(b, RESIDUAL_FFN, l);
    }
    ops->logits(b);
    ops->step_end(b);
}

/* Seconds of one step: `sequences` of `count` tokens each behind `past`. */
static double time_step(struct backend *b, const struct shape *s, int sequences, int count,
                        int past)
{
    const int warm = 3, rounds = count > 1 ? 5 : 30;
    int pages = (past + count + 63) / 64, tokens = sequences * count;
    struct step_sequence *sequence =
        (struct step_sequence *)xcalloc((size_t)sequences, sizeof *sequence);
    int32_t *ids = (int32_t *)xcalloc((size_t)tokens, sizeof *ids);
    int32_t *blocks = (int32_t *)xcalloc((size_t)(sequences * pages), sizeof *blocks);
    int32_t *rows = (int32_t *)xcalloc((size_t)sequences, sizeof *rows);
    struct step step = {};
    struct error err;
    double begin = 0;

    for (int i = 0; i < sequences * pages; i++)
        blocks[i] = i;
    for (int i = 0; i < sequences; i++) {
        sequence[i] = (struct step_sequence){};
        sequence[i].first = i * count, sequence[i].count = count, sequence[i].past = past;
        sequence[i].blocks = blocks + i * pages;
        rows[i] = i * count + count - 1;
    }
    step.tokens = tokens, step.ids = ids, step.sequences = sequences, step.sequence = sequence;
    step.rows = sequences, step.row = rows;
    for (int i = -warm; i < rounds; i++) {
        if (i == 0) begin = now_s();
        forward(b, s->layers, &step);
        if (cuda_backend_ops.sync(b, &err) < 0) {
            fprintf(stderr, "%s\n", err.text);
            exit(1);
        }
    }
    double seconds = (now_s() - begin) / rounds;
    free(sequence), free(ids), free(blocks), free(rows);
    return seconds;
}

static void bench_shape(const struct shape *s, enum dtype type, const void *data, const void *head,
                        const struct roof *roof)
{
    static const int batches[][3] = {{1, 1, 128},   {8, 1, 512},   {64, 1, 512},
                                     {256, 1, 512}, {32, 1, 8000}, {1, 2048, 0}};
    struct layer_params layer[64];
    float *ones = (float *)xcalloc((size_t)s->hidden, sizeof *ones), inv_freq[128];
    struct rope_table rope = {inv_freq, 1};
    struct backend_options options = {};
    struct step_limits limits = {2048, 256, 256, 8192};
    struct backend *b = NULL;
    struct error err = {};
    size_t weights, activations;

    for (int i = 0; i < s->hidden; i++)
        ones[i] = 1;
    for (int i = 0; i < s->head_dim / 2; i++)
        inv_freq[i] = 1.0f / (1.0f + (float)i);
    struct model_params p = model_of(s, type, data, head, ones, &rope, layer);
    options.world = 1;
    if (cuda_backend_ops.open(&options, &b, &err) < 0 ||
        cuda_backend_ops.load(b, &p, &limits, &err) < 0 ||
        cuda_backend_ops.kv_open(b, KV_F16, 32 * 126, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    cuda_backend_ops.memory(b, &weights, &activations);
    double page = (double)cuda_backend_ops.kv_block_bytes(b, KV_F16) / 64;
    for (size_t i = 0; i < ARRAY_LEN(batches); i++) {
        int sequences = batches[i][0], count = batches[i][1], past = batches[i][2];
        double embedding = s->tied ? 0 : 2.0 * s->vocab * s->hidden;
        double bytes = (double)weights - embedding + page * sequences * (past + count);
        double matrices = (double)weights / (type == DTYPE_BF16 ? 2 : 0.625);
        char what[96];
        double seconds = time_step(b, s, sequences, count, past);
        snprintf(what, sizeof what, "%s %s, %d x %d behind %d: %.0f tok/s", s->name,
                 dtype_name(type), sequences, count, past, sequences * count / seconds);
        print_row(what, seconds, bytes, 2 * matrices * sequences * count, roof);
    }
    cuda_backend_ops.close(b);
    free(ones);
}

/* ---- what the device can do ---- */

static double measure_copy(cudaStream_t stream)
{
    size_t bytes = (size_t)2 << 30;
    void *from = device_random(bytes), *to = device_random(bytes);
    const int rounds = 10;

    NEED_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
    NEED_CUDA(cudaStreamSynchronize(stream));
    double begin = now_s();
    for (int i = 0; i < rounds; i++)
        NEED_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
    NEED_CUDA(cudaStreamSynchronize(stream));
    double seconds = (now_s() - begin) / rounds;
    cudaFree(from);
    cudaFree(to);
    return 2.0 * (double)bytes / seconds;
}

static double measure_rate(cudaStream_t stream)
{
    const struct product_case c = {"peak", 8192, 8192};
    struct cuda_gemm g;
    struct error err;
    double bytes;

    if (cuda_gemm_open(&g, false, &err) < 0) exit(1);
    g.workspace = device_random(cuda_gemm_workspace_bytes(&g));
    double seconds = run_product(&g, &c, CUDA_BF16, 8192, &bytes, stream);
    cudaFree(g.workspace);
    cuda_gemm_close(&g);
    return 2.0 * 8192 * 8192 * 8192 / seconds;
}

static int bench(bool pdl)
{
    size_t elements = (size_t)128256 * 4096;
    uint16_t *numbers = (uint16_t *)xmalloc(elements * sizeof *numbers);
    struct rng rng;
    struct roof roof;
    cudaStream_t stream;

    NEED_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    roof.bytes_per_s = measure_copy(stream);
    roof.flop_per_s = measure_rate(stream);
    roof.setting = pdl ? "" : ", no PDL";
    if (pdl && !cuda_pdl_is_on()) printf("no programmatic dependent launch on this device\n");
    printf("copy %.2f TB/s, cuBLASLt bfloat16 %.0f TFLOP/s\n\n", 1e-12 * roof.bytes_per_s,
           1e-12 * roof.flop_per_s);
    printf("| what | time | of the bandwidth | of the rate |\n|---|---|---|---|\n");
    bench_products(&roof, false, stream);
    bench_products(&roof, true, stream);
    rng_init(&rng, 1);
    for (size_t i = 0; i < elements; i++)
        numbers[i] = quant_float_to_bf16((float)(rng_unit(&rng) - 0.5) * 0.02f);
    uint8_t *blocks =
        (uint8_t *)xcalloc((size_t)14336 * 4096 / 32, 20); // Q4_1 zeros: a time, no text
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        bench_shape(&shapes[i], DTYPE_BF16, numbers, numbers, &roof);
        bench_shape(&shapes[i], DTYPE_Q4_1, blocks, numbers, &roof);
    }
    free(blocks);
    free(numbers);
    return 0;
}

/* A process each: the setting is read once. */
int main(void)
{
    int failed = 0;

    for (int pdl = 1; pdl >= 0; pdl--) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            setenv("LM_CUDA_PDL", pdl ? "1" : "0", 1);
            exit(bench(pdl));
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) failed = 1;
        printf("\n");
        fflush(stdout);
    }
    return failed;
}
