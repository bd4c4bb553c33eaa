/* bench_kernels.c - products of every weight format in every instruction set of this machine, for
 * one token, sixteen and a prefill tile, beside what the machine can do in the same minute: bytes
 * read from memory, and the same kernel on weights that stay in the first cache. The share of a
 * limit is what to look at. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"
#include "tests/kernels/random_weights.h"

#include "kernels/cpu/cpu_gemm.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"

#define ROWS        4096
#define COLS        4096
#define TOKENS_MAX  64
#define ROUNDS      5
#define READ_BYTES  ((size_t)16 << 20) // beyond private caches, as packed weights are
#define READ_PASSES 8

struct kernel_bench {
    struct cpu_pool *pool;
    const struct cpu_isa *isa;
    struct cpu_packed weights;
    struct cpu_input input;
    float *out;
    double read_gb_s;
};

static double seconds_of(struct cpu_pool *pool, void (*fn)(void *arg, int part, int parts),
                         void *arg)
{
    struct bench_samples samples = {0};

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t start = clock_ns();
        cpu_pool_run(pool, fn, arg);
        bench_samples_add(&samples, (double)(clock_ns() - start) * 1e-9);
    }
    return bench_samples_median(&samples);
}

/* ---- limits ---- */

struct read_job {
    const uint64_t *data;
    uint64_t sum[CPU_POOL_THREADS_MAX];
};

/* One cache line. */
typedef uint64_t read_lanes __attribute__((vector_size(64)));

static void read_part(void *arg, int part, int parts)
{
    struct read_job *job = arg;
    int first, last;
    read_lanes sum[4] = {0};

    cpu_pool_share((int)(READ_BYTES / sizeof sum), part, parts, &first, &last);
    for (int pass = 0; pass < READ_PASSES; pass++) {
        const read_lanes *data = (const read_lanes *)(const void *)job->data;
        for (int i = first; i < last; i++) {
            for (int k = 0; k < 4; k++)
                sum[k] += data[i * 4 + k];
        }
    }
    job->sum[part] = sum[0][0] + sum[1][1] + sum[2][2] + sum[3][3];
}

static double measure_read(struct cpu_pool *pool)
{
    struct read_job job = {.data = xaligned(READ_BYTES)};

    memset((void *)job.data, 1, READ_BYTES);
    double seconds = seconds_of(pool, read_part, &job);
    CHECK(job.sum[0] != 0);
    free((void *)job.data);
    return (double)READ_BYTES * READ_PASSES / seconds * 1e-9;
}

/* A panel that stays in the first cache, times tokens that do too: the kernel's own peak. */
struct peak_job {
    const struct kernel_bench *bench;
    float *out[CPU_POOL_THREADS_MAX];
    int repeats;
};

static void peak_part(void *arg, int part, int parts)
{
    struct peak_job *job = arg;
    const struct kernel_bench *k = job->bench;
    enum act_layout layout = k->isa->gemm[k->weights.form].layout;

    (void)parts;
    for (int i = 0; i < job->repeats; i++)
        k->isa->gemm[k->weights.form].kernel(&k->weights, 0, 1, k->input.data[layout],
                                             k->input.row_bytes[layout], TOKENS_MAX, job->out[part],
                                             PANEL_ROWS);
}

static double measure_peak(const struct kernel_bench *k)
{
    struct peak_job job = {.bench = k, .repeats = 8};
    int threads = cpu_pool_threads(k->pool);

    for (int i = 0; i < threads; i++)
        job.out[i] = xaligned(sizeof(float) * PANEL_ROWS * TOKENS_MAX);
    double seconds = seconds_of(k->pool, peak_part, &job);
    for (int i = 0; i < threads; i++)
        free(job.out[i]);
    double products = (double)PANEL_ROWS * k->weights.cols * TOKENS_MAX * job.repeats * threads;
    return 2 * products / seconds * 1e-9;
}

/* ---- products ---- */

static void fill_weights(struct kernel_bench *k, enum dtype type, struct rng *rng)
{
    struct matrix m = random_matrix(rng, type, ROWS, COLS);
    uint8_t *data = xaligned(cpu_pack_bytes(type, ROWS, COLS));
    cpu_pack_init(&k->weights, &m, type, data);
    cpu_pack_panels(&k->weights, &m, 0, k->weights.panels);
    free((void *)(uintptr_t)m.data);
}

static void fill_input(struct kernel_bench *k, struct rng *rng)
{
    k->input = (struct cpu_input){.cols = COLS, .layouts = 1u << ACT_F32};
    k->input.layouts |= cpu_gemm_layouts(k->isa, &k->weights);
    for (int l = 0; l < ACT_LAYOUTS; l++) {
        if (!(k->input.layouts & 1u << l)) continue;
        k->input.row_bytes[l] = (cpu_act_bytes((enum act_layout)l, COLS) + 63) / 64 * 64;
        k->input.data[l] = xaligned(k->input.row_bytes[l] * TOKENS_MAX);
    }
    for (int t = 0; t < TOKENS_MAX; t++) {
        float *row = cpu_input_row(&k->input, t);
        for (int i = 0; i < COLS; i++)
            row[i] = (float)(rng_unit(rng) * 2 - 1);
        cpu_input_quantize(k->isa, &k->input, t, NULL);
    }
}

static double measure_product(const struct kernel_bench *k, int tokens)
{
    struct bench_samples samples = {0};

    for (int i = 0; i < ROUNDS + 1; i++) {
        struct cpu_gemm_job job = {
            .isa = k->isa,
            .pool = k->pool,
            .in = &k->input,
            .tokens = tokens,
            .parts = 1,
        };
        job.part[0] = (struct cpu_gemm_part){&k->weights, k->out, ROWS, NULL};
        uint64_t start = clock_ns();
        cpu_gemm_run(&job);
        if (i > 0) bench_samples_add(&samples, (double)(clock_ns() - start) * 1e-9);
    }
    return bench_samples_median(&samples);
}

static void bench_format(struct kernel_bench *k, enum dtype type, struct rng *rng)
{
    static const int counts[] = {1, 16, TOKENS_MAX};

    fill_weights(k, type, rng);
    fill_input(k, rng);
    double peak = measure_peak(k);
    double bytes = (double)k->weights.panel_bytes * k->weights.panels;
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        double seconds = measure_product(k, counts[i]);
        double gops = 2.0 * ROWS * COLS * counts[i] / seconds * 1e-9;
        double gb_s = bytes / seconds * 1e-9;
        printf("%-7s %-7s %6d %10.1f %8.2f %10.1f %8.2f\n", k->isa->name, dtype_name(type),
               counts[i], gb_s, gb_s / k->read_gb_s, gops, gops / peak);
        fflush(stdout);
    }
    for (int l = 0; l < ACT_LAYOUTS; l++)
        free(k->input.data[l]);
    free(k->weights.data);
}

int bench_kernels(int threads, const char *isa)
{
    struct kernel_bench bench = {0};
    struct error err;
    struct rng rng;

    if (cpu_pool_create(threads, NULL, &bench.pool, &err) < 0) {
        fprintf(stderr, "lm-bench: %s\n", err.text);
        return 1;
    }
    rng_init(&rng, 1);
    bench.out = xaligned(sizeof(float) * (size_t)ROWS * TOKENS_MAX);
    bench.read_gb_s = measure_read(bench.pool);
    printf(
        "%d x %d, %d threads; memory reads %.1f GB/s; `of peak` is against the same kernel on one\n"
        "panel that stays in the first cache\n",
        ROWS, COLS, threads, bench.read_gb_s);
    printf("%-7s %-7s %6s %10s %8s %10s %8s\n", "isa", "format", "tokens", "GB/s", "of read",
           "GOP/s", "of peak");
    for (int i = 0; (bench.isa = cpu_isa_at(i)); i++) {
        if (!bench.isa->available()) continue;
        if (strcmp(isa, "auto") != 0 && strcmp(isa, bench.isa->name) != 0) continue;
        for (int type = 0; type < DTYPE_COUNT; type++)
            if (type != DTYPE_F8_E4M3) bench_format(&bench, (enum dtype)type, &rng);
    }
    free(bench.out);
    cpu_pool_destroy(bench.pool);
    return 0;
}
