/* gpu_bench.cu - products on a real GPU, of each kind, in real shapes with random weights. Built and run by
 * scripts/gpu-check.
 *
 * The share is the result: of the bandwidth that a copy reaches where few rows read the weights, of the bfloat16
 * rate that a large cuBLASLt product reaches for the others. */
#include "tests/kernels/gpu_bench.cuh"

static void print_row(const char *what, double seconds, double bytes, double flop,
                      const struct roof *roof)
{
    double bandwidth = bytes / seconds / roof->bytes_per_s,
           rate = flop / seconds / roof->flop_per_s;
    printf("| %-44s | %9.1f us | %5.1f %% | %5.1f %% |\n", what, 1e6 * seconds, 100 * bandwidth,
           100 * rate);
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

/* Copies of the weights, so that no run finds them in the cache. */
#define COPIES 4

static double time_product(struct cuda_gemm *g, const struct cuda_product *p, size_t matrix_bytes,
                           cudaStream_t stream)
{
    int next = 0;

    return time_of(40, stream, [&] {
        struct cuda_product one = *p;
        one.part[0].w.data =
            (const uint8_t *)p->part[0].w.data + (size_t)(next++ % COPIES) * matrix_bytes;
        NEED_CUDA(cuda_gemm_run(g, &one, stream));
    });
}

static double run_product(struct cuda_gemm *g, const struct product_case *c, enum cuda_form form,
                          int rows, double *bytes, cudaStream_t stream)
{
    struct cuda_product p = {};

    p.part[0].w.form = form;
    p.part[0].w.rows = c->rows;
    p.part[0].w.cols = p.part[0].w.stride = c->cols;
    p.part[0].w.scale_shift = 7; // blocks of 128
    size_t data = (size_t)c->rows * cuda_row_bytes(&p.part[0].w);
    size_t scales = (size_t)c->rows * cuda_row_scale_bytes(&p.part[0].w);
    p.in = device_random((size_t)rows * (size_t)c->cols * sizeof(bf16));
    p.in_stride = c->cols;
    p.in_real = form == CUDA_F16 ? CUDA_REAL_F16 : CUDA_REAL_BF16;
    p.rows = rows;
    p.parts = 1;
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

/* Who multiplies: as cuda_gemm.h chooses, own kernels whatever the rows, the library whatever the rows. */
enum who { CHOSEN, OWN, LIBRARY };

static void bench_products(const struct roof *roof, enum who who, cudaStream_t stream)
{
    static const int rows[] = {1, 4, 8, 16, 32, 64, 256, 2048};
    static const char *const suffix[] = {"", ", own", ", library"};
    static const char *const names[CUDA_FORMS] = {"float32", "bfloat16", "float16",
                                                  "4 bits",  "8 bits",   "E4M3"};
    struct cuda_gemm g;
    struct error err;

    if (cuda_gemm_open(&g, who == OWN, &err) < 0) exit(1);
    if (who == LIBRARY) g.library_rows_min = 1;
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
                if (who != CHOSEN && (rows[r] < 8 || rows[r] > 256)) continue; // not in question
                const struct product_case *p = &product_cases[c];
                char what[96];
                double bytes, flop = 2.0 * p->rows * p->cols * rows[r];
                double seconds = run_product(&g, p, (enum cuda_form)form, rows[r], &bytes, stream);
                snprintf(what, sizeof what, "%s %s, %d rows%s", p->what, names[form], rows[r],
                         suffix[who]);
                print_row(what, seconds, bytes, flop, roof);
            }
    if (g.workspace) cudaFree(g.workspace);
    cuda_gemm_close(&g);
}

int main(void)
{
    struct roof roof;
    cudaStream_t stream;

    NEED_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    roof = measure_roof(stream);
    printf("| what | time | of the bandwidth | of the rate |\n|---|---|---|---|\n");
    for (int who = CHOSEN; who <= LIBRARY; who++)
        bench_products(&roof, (enum who)who, stream);
    return 0;
}
