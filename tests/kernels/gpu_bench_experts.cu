/* gpu_bench_experts.cu - the products of a layer's experts with a long prompt on a real GPU: cuda_wide and cuda_mma in
 * shapes of real models with random weights and routes, against the bfloat16 rate that a large cuBLASLt product reaches. Built
 * and run by scripts/gpu-check; "dry" goes through the same code with a tiny shape, on the emulator too. */
#include "kernels/cuda/cuda_experts.h"
#include "shared/base/rng.h"
#include "tests/kernels/gpu_bench.cuh"

struct shape {
    const char *name;
    int experts, used, hidden, ffn, tokens;
};

static const struct shape shapes[] = {
    {"Mixtral-8x7B", 8, 2, 4096, 14336, 2048},
    {"Qwen3-30B-A3B", 128, 8, 2048, 768, 2048},
    {"gpt-oss-20b", 32, 4, 2880, 2880, 2048},
};

static const struct shape tiny = {"tiny", 4, 2, 64, 32, 40};

static const char *const form_names[CUDA_FORMS] = {"float32", "bfloat16", "float16",
                                                   "4 bits",  "8 bits",   "E4M3"};

/* One layer's matrices and rows. */
struct scene {
    struct cuda_product gate_up, down;
    struct cuda_routes routes;
    double flop;
};

static struct cuda_weight stack_of(enum cuda_form form, int experts, int rows, int cols)
{
    int shift = form != CUDA_F8 ? 0 : cols % 128 == 0 ? 7 : 5;
    struct cuda_weight w = {form, rows, cols, cuda_form_stride(form, cols), NULL, NULL, shift};

    size_t all = (size_t)experts * (size_t)rows;
    w.data = device_random(all * cuda_row_bytes(&w));
    if (cuda_row_scale_bytes(&w)) w.scales = device_random(all * cuda_row_scale_bytes(&w));
    return w;
}

/* Each token's experts, ascending: any choice is as likely as another, so that experts have different numbers of rows. */
static void draw_routes(const struct shape *s, struct cuda_routes *r, cudaStream_t stream)
{
    size_t routes = (size_t)s->tokens * (size_t)s->used;
    int *expert = (int *)xmalloc(routes * sizeof *expert);
    struct expert_shape shape = {};
    struct rng rng;

    rng_init(&rng, 3);
    for (int t = 0; t < s->tokens; t++)
        for (int e = 0, left = s->used; left > 0; e++)
            if ((int)rng_below(&rng, (uint32_t)(s->experts - e)) < left)
                expert[t * s->used + s->used - left--] = e;
    r->expert = (int *)device_random(routes * sizeof(int));
    r->row = (int *)device_random(routes * sizeof(int));
    r->token = (int *)device_random(routes * sizeof(int));
    r->first = (int *)device_random(((size_t)s->experts + 1) * sizeof(int));
    NEED_CUDA(cudaMemcpy(r->expert, expert, routes * sizeof(int), cudaMemcpyHostToDevice));
    free(expert);
    shape.experts = s->experts;
    shape.used = s->used;
    double seconds = time_of(5, stream, [&] { cuda_experts_group(r, &shape, s->tokens, stream); });
    printf("| %-14s grouping of %zu rows               | %9.1f us |         |\n", s->name, routes,
           1e6 * seconds);
}

static void open_scene(const struct shape *s, enum cuda_form form, cudaStream_t stream,
                       struct scene *x)
{
    int routes = s->tokens * s->used;

    *x = {};
    draw_routes(s, &x->routes, stream);
    struct cuda_product *up = &x->gate_up, *down = &x->down;
    up->in = device_random((size_t)s->tokens * (size_t)s->hidden * sizeof(bf16));
    up->in_real = down->in_real = form == CUDA_F16 ? CUDA_REAL_F16 : CUDA_REAL_BF16;
    up->in_stride = s->hidden;
    up->rows = down->rows = s->tokens;
    up->experts = down->experts = s->experts;
    up->all_rows = down->all_rows = routes;
    up->first = down->first = x->routes.first;
    up->in_row = x->routes.token;
    up->parts = 2;
    for (int i = 0; i < 2; i++) {
        up->part[i].w = stack_of(form, s->experts, s->ffn, s->hidden);
        up->part[i].out = (float *)device_random((size_t)routes * (size_t)s->ffn * sizeof(float));
        up->part[i].out_stride = s->ffn;
    }
    up->gated = {device_random((size_t)routes * (size_t)s->ffn * sizeof(bf16)), routes, s->ffn,
                 FFN_SILU};
    down->in = device_random((size_t)routes * (size_t)s->ffn * sizeof(bf16));
    down->in_stride = s->ffn;
    down->parts = 1;
    down->part[0].w = stack_of(form, s->experts, s->hidden, s->ffn);
    down->part[0].out = (float *)device_random((size_t)routes * (size_t)s->hidden * sizeof(float));
    down->part[0].out_stride = s->hidden;
    x->flop = 2.0 * 3 * routes * s->hidden * s->ffn;
}

static void close_scene(struct scene *x)
{
    const struct cuda_routes *r = &x->routes;
    const struct cuda_part *part[] = {&x->gate_up.part[0], &x->gate_up.part[1], &x->down.part[0]};

    for (const struct cuda_part *p : part) {
        cudaFree((void *)p->w.data);
        if (p->w.scales) cudaFree((void *)p->w.scales);
        cudaFree(p->out);
    }
    for (const void *at :
         {(const void *)r->expert, (const void *)r->row, (const void *)r->token,
          (const void *)r->first, x->gate_up.in, x->down.in, (const void *)x->gate_up.gated.out})
        cudaFree((void *)at);
}

/* gate, up, their product and down, as a step does it: cuda_mma doesn't gate that many rows. */
static void run_layer(const struct scene *x, bool wide, cudaStream_t stream)
{
    const struct cuda_product *up = &x->gate_up;
    struct cuda_product apart = *up;

    if (wide) {
        cuda_wide(up, stream);
        cuda_wide(&x->down, stream);
        return;
    }
    struct cuda_rows out = {up->gated.out, up->part[0].w.rows, up->gated.stride, up->in_real};
    apart.gated.out = NULL;
    cuda_mma(&apart, stream);
    cuda_activate(&out, up->gated.kind, apart.part[0].out, apart.part[1].out, CUDA_REAL_F32,
                  apart.part[0].out_stride, up->gated.rows, stream);
    cuda_mma(&x->down, stream);
}

static void bench_shape(const struct shape *s, enum cuda_form form, const struct roof *roof,
                        cudaStream_t stream)
{
    struct scene x;
    double seconds[2];
    char what[96], measured[64];

    open_scene(s, form, stream, &x);
    for (int wide = 0; wide < 2; wide++) {
        seconds[wide] =
            time_of(s == &tiny ? 1 : 10, stream, [&] { run_layer(&x, wide == 1, stream); });
        printf("| %-14s %-8s %d tokens, %-9s | %9.1f us | %5.1f %% |\n", s->name, form_names[form],
               s->tokens, wide ? "cuda_wide" : "cuda_mma", 1e6 * seconds[wide],
               100 * x.flop / seconds[wide] / roof->flop_per_s);
    }
    snprintf(what, sizeof what, "experts of %s, %s, prompt of %d", s->name, form_names[form],
             s->tokens);
    snprintf(measured, sizeof measured, "%.0f us, cuda_mma %.0f us", 1e6 * seconds[1],
             1e6 * seconds[0]);
    print_target(what, measured, x.flop / seconds[1] / roof->flop_per_s, "the peak",
                 form == CUDA_F8 ? "35 %" : "45 %");
    close_scene(&x);
}

int main(int argc, char **argv)
{
    bool is_dry = argc == 2 && strcmp(argv[1], "dry") == 0;
    struct roof roof = {1, 1};
    cudaStream_t stream;

    NEED_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    if (!is_dry) roof = measure_roof(stream);
    printf("| experts | time | of the rate |\n|---|---|---|\n");
    for (size_t i = 0; i < (is_dry ? 1 : ARRAY_LEN(shapes)); i++)
        for (int form = CUDA_BF16; form < CUDA_FORMS; form++)
            bench_shape(is_dry ? &tiny : &shapes[i], (enum cuda_form)form, &roof, stream);
    return 0;
}
