/* test_cuda_heads.cu - norm and rotation of heads, and the pages that keys and values go to, bit for bit: against the
 * same sums in the same order on the host, and what the CPU backend stores of them. */
#include "kernels/cuda/cuda_pointwise.h"
#include "tests/kernels/cuda_attention_scene.cuh"
extern "C" {
#include "kernels/cpu/cpu_isa.h"
}

enum norm_kind { NORM_NONE, NORM_EACH, NORM_ALL }; // NORM_ALL: one over all heads

struct heads_case {
    int heads, kv_heads, head_dim, value_dim;
    int half, rotate_from;
    enum rope_style style;
    enum norm_kind norm;
};

static const struct heads_case cases[] = {
    {4, 2, 64, 64, 32, 0, ROPE_HALF_SPLIT, NORM_NONE},
    {32, 8, 64, 64, 32, 0, ROPE_INTERLEAVED, NORM_NONE},
    {6, 2, 128, 128, 64, 0, ROPE_HALF_SPLIT, NORM_EACH},
    {5, 5, 16, 16, 8, 0, ROPE_HALF_SPLIT, NORM_EACH},
    {3, 1, 24, 16, 5, 0, ROPE_INTERLEAVED, NORM_EACH}, // some of a head rotates, values are shorter
    {3, 3, 18, 34, 9, 0, ROPE_HALF_SPLIT, NORM_NONE},  // values are longer
    {4, 4, 192, 128, 32, 128, ROPE_INTERLEAVED, NORM_NONE}, // latents: the last ones rotate
    {2, 1, 80, 80, 40, 0, ROPE_HALF_SPLIT, NORM_ALL},
    {7, 7, 96, 64, 0, 0, ROPE_HALF_SPLIT, NORM_ALL}, // no rotation
    {4, 1, 256, 256, 128, 0, ROPE_HALF_SPLIT, NORM_EACH},
    {3, 1, 256, 256, 128, 0, ROPE_INTERLEAVED, NORM_NONE},
    {4, 2, 32, 32, 0, 0, ROPE_HALF_SPLIT, NORM_NONE}, // queries stay as they are
};

#define PAGES  3
#define LAYERS 2
#define SPAN   1000 // of NORM_ALL
#define EPS    1e-5f

static const std::vector<int32_t> slots = {130, -1, 7, 64, -1, 63};
static const int tokens = 6;

/* ---- on the host ---- */

/* Lane l adds elements l, l + 32, ..., lanes meet in a butterfly. */
static float sum_of_squares(const float *x, int dim)
{
    float lane[32] = {};

    for (int i = 0; i < dim; i++)
        lane[i % 32] = fmaf(x[i], x[i], lane[i % 32]);
    for (int other = 16; other > 0; other /= 2) {
        float sum[32];
        for (int l = 0; l < 32; l++)
            sum[l] = lane[l] + lane[l ^ other];
        memcpy(lane, sum, sizeof lane);
    }
    return lane[0];
}

/* norm: NULL or of this head. angle: cosines, then sines. */
static void finish(const heads_case &c, float *x, const float *norm, float squares,
                   const float *angle)
{
    int span = c.norm == NORM_ALL ? SPAN : c.head_dim;
    bool pairs = c.style == ROPE_INTERLEAVED;

    if (c.norm == NORM_EACH) squares = sum_of_squares(x, c.head_dim);
    float scale = 1.0f / sqrtf(squares / (float)span + EPS);
    for (int i = 0; norm && i < c.head_dim; i++)
        x[i] = x[i] * scale * norm[i];
    for (int i = 0; i < c.half; i++) {
        float *a = x + c.rotate_from + (pairs ? 2 * i : i), *b = a + (pairs ? 1 : c.half);
        float cosine = angle[i], sine = angle[c.half + i], u = *a, v = *b;
        *a = u * cosine - v * sine;
        *b = v * cosine + u * sine;
    }
}

/* A row of `dim` elements, zeros up to `stride`, in a part of a page; its scale. */
static void store(enum kv_type type, uint8_t *rows, uint8_t *scales, int position, const float *x,
                  int dim, int stride)
{
    const struct cpu_pointwise *ops = cpu_isa_scalar.pointwise;
    const size_t bytes[KV_TYPES] = {4, 2, 2, 1};
    std::vector<float> row(x, x + dim);
    std::vector<uint8_t> out((size_t)stride * 4);

    row.resize((size_t)stride);
    if (type == KV_F32) memcpy(out.data(), row.data(), out.size());
    if (type == KV_F16) ops->to_half((uint16_t *)out.data(), row.data(), stride);
    if (type == KV_BF16) ops->to_bf16((uint16_t *)out.data(), row.data(), stride);
    if (type == KV_INT8) {
        float scale = ops->quantize_head((int8_t *)out.data(), row.data(), stride);
        memcpy(scales + 4 * position, &scale, sizeof scale);
    }
    size_t row_bytes = (size_t)stride * bytes[type];
    memcpy(rows + (size_t)position * row_bytes, out.data(), row_bytes);
}

/* ---- one case ---- */

struct inputs {
    std::vector<float> x;       // [tokens][stride]: heads of q, k and v
    std::vector<float> norm;    // of q's heads, then of k's
    std::vector<float> squares; // [2][tokens]
    std::vector<float> angle;   // [tokens][2 * half]
    int k, v, stride;           // where a token's keys and values begin
};

static inputs inputs_of(const heads_case &c, uint64_t seed)
{
    struct rng r;
    inputs in;

    rng_init(&r, seed);
    in.k = c.heads * c.head_dim;
    in.v = in.k + c.kv_heads * c.head_dim;
    in.stride = in.v + c.kv_heads * c.value_dim;
    in.x = random_vector(&r, (size_t)(tokens * in.stride), 3.0f);
    in.norm = random_vector(&r, (size_t)in.v, 2.0f);
    in.squares = random_vector(&r, (size_t)(2 * tokens), 500.0f);
    in.angle = random_vector(&r, (size_t)(tokens * 2 * c.half + 1), 1.0f);
    for (float &s : in.squares)
        s = fabsf(s);
    for (int i = 0; i < c.value_dim; i++) // too small for a scale
        in.x[(size_t)(2 * in.stride + in.v + i)] = 1e-35f;
    return in;
}

static const float *norm_of(const heads_case &c, const inputs &in, int first, int head)
{
    if (c.norm == NORM_NONE) return NULL;
    return &in.norm[(size_t)(first + (c.norm == NORM_ALL ? head * c.head_dim : 0))];
}

/* What becomes of x, and of the pages. */
static void expect(const heads_case &c, const inputs &in, const struct cuda_kv_layout &l,
                   std::vector<float> *x, std::vector<uint8_t> *pages)
{
    for (int t = 0; t < tokens; t++) {
        float *row = &(*x)[(size_t)(t * in.stride)];
        const float *angle = &in.angle[(size_t)(t * 2 * c.half)];
        int slot = slots[(size_t)t], position = slot % KV_BLOCK_TOKENS;
        for (int h = 0; h < c.heads; h++)
            finish(c, row + h * c.head_dim, norm_of(c, in, 0, h), in.squares[(size_t)t], angle);
        for (int h = 0; slot >= 0 && h < c.kv_heads; h++) {
            const float *from = row + in.k + h * c.head_dim;
            std::vector<float> key(from, from + c.head_dim);
            uint8_t *part = pages->data() + (size_t)(slot / KV_BLOCK_TOKENS) * l.page_bytes +
                            (size_t)((LAYERS - 1) * c.kv_heads + h) * l.part_bytes;
            finish(c, key.data(), norm_of(c, in, in.k, h), in.squares[(size_t)(tokens + t)], angle);
            store(l.type, part, part + l.key_scales, position, key.data(), c.head_dim,
                  l.key_stride);
            store(l.type, part + l.values, part + l.value_scales, position,
                  row + in.v + h * c.value_dim, c.value_dim, l.value_stride);
        }
    }
}

static struct cuda_heads_job job_of(const heads_case &c, float *x, const inputs &in, int heads)
{
    struct cuda_heads_job job = {};

    job.x = x;
    job.tokens = tokens;
    job.stride = in.stride;
    job.heads = heads;
    job.head_dim = c.head_dim;
    job.norm_spans_heads = c.norm == NORM_ALL;
    job.span = SPAN;
    job.eps = EPS;
    job.half = c.half;
    job.rotate_from = c.rotate_from;
    job.style = c.style;
    return job;
}

/* The device's x and pages. */
static void run(const heads_case &c, const inputs &in, const struct cuda_kv_layout &l,
                std::vector<float> *x, std::vector<uint8_t> *pages)
{
    float *x_device = device_copy_of(*x), *angle = device_copy_of(in.angle);
    float *norm = device_copy_of(in.norm), *squares = device_copy_of(in.squares);
    uint8_t *pages_device = device_copy_of(*pages);
    int32_t *slot = device_copy_of(slots);
    struct cuda_heads_job q = job_of(c, x_device, in, c.heads);
    struct cuda_heads_job k = job_of(c, x_device + in.k, in, c.kv_heads);
    struct cuda_heads_job v = {};
    struct cuda_kv_rows keys = cuda_kv_keys(&l, pages_device, LAYERS - 1, slot);
    struct cuda_kv_rows values = cuda_kv_values(&l, pages_device, LAYERS - 1, slot);

    v.x = x_device + in.v;
    v.tokens = tokens;
    v.stride = in.stride;
    v.heads = c.kv_heads;
    v.head_dim = c.value_dim;
    if (c.norm != NORM_NONE) q.norm = norm, k.norm = norm + in.k;
    if (c.norm == NORM_ALL) q.squares = squares, k.squares = squares + tokens;
    if (c.half > 0) q.rotation = k.rotation = angle;
    cuda_heads(&q, &k, &keys, &v, &values, NULL);
    device_read(x->data(), x_device, x->size() * sizeof(float));
    device_read(pages->data(), pages_device, pages->size());
    for (void *at : {(void *)x_device, (void *)angle, (void *)norm, (void *)squares,
                     (void *)pages_device, (void *)slot})
        NEED(cudaFree(at) == cudaSuccess);
}

static void check_case(const heads_case &c, enum kv_type type, uint64_t seed)
{
    struct cuda_kv_layout l;
    inputs in = inputs_of(c, seed);
    size_t wrong_rows = 0, wrong_pages = 0;

    NEED(cuda_kv_layout_init(&l, type, LAYERS, c.kv_heads, c.head_dim, c.value_dim, NULL) == 0);
    std::vector<uint8_t> want_pages(PAGES * l.page_bytes, 0xa5), got_pages = want_pages;
    std::vector<float> want_x = in.x, got_x = in.x;
    expect(c, in, l, &want_x, &want_pages);
    run(c, in, l, &got_x, &got_pages);
    for (size_t i = 0; i < want_x.size(); i++)
        wrong_rows += memcmp(&want_x[i], &got_x[i], sizeof want_x[i]) != 0;
    for (size_t i = 0; i < want_pages.size(); i++)
        wrong_pages += want_pages[i] != got_pages[i];
    if (wrong_rows + wrong_pages > 0)
        printf("heads %d/%d of %d and %d, pages %d: %zu floats and %zu bytes of pages differ\n",
               c.heads, c.kv_heads, c.head_dim, c.value_dim, type, wrong_rows, wrong_pages);
    EXPECT(wrong_rows == 0 && wrong_pages == 0);
}

static void test_bits(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int type = 0; type < KV_TYPES; type++)
            check_case(cases[i], (enum kv_type)type, 1 + i);
}

int main(void)
{
    RUN(test_bits);
    return TEST_END();
}
