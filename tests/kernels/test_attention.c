/* Attention tiles: the same bits in every instruction set and however rows share a tile, within
 * rounding of softmax in float64, and blind to what lies in a page outside the visible positions.
 */
#include "tests/kernels/kernel_test.h"

#define PAGES   12
#define CONTEXT 330 // positions stored, in scattered pages

struct cache {
    int head_dim, value_stride;
    enum dtype type;
    size_t element, page_bytes;
    uint8_t *pages;
    int32_t blocks[PAGES];
};

static float stored(const struct cache *c, const uint8_t *page, size_t at)
{
    uint16_t h;
    float f;
    if (c->type == DTYPE_F32) {
        memcpy(&f, page + 4 * at, sizeof f);
        return f;
    }
    memcpy(&h, page + 2 * at, sizeof h);
    return c->type == DTYPE_F16 ? quant_half_to_float(h) : quant_bf16_to_float(h);
}

static void store(const struct cache *c, uint8_t *page, size_t at, float f)
{
    if (c->type == DTYPE_F32) {
        memcpy(page + 4 * at, &f, sizeof f);
        return;
    }
    uint16_t h = c->type == DTYPE_F16 ? quant_float_to_half(f) : quant_float_to_bf16(f);
    memcpy(page + 2 * at, &h, sizeof h);
}

static size_t key_at(const struct cache *c, int position, int d)
{
    (void)c;
    return (size_t)d * KV_BLOCK_TOKENS + (size_t)(position % KV_BLOCK_TOKENS);
}

static size_t value_at(const struct cache *c, int position, int d)
{
    return (size_t)c->head_dim * KV_BLOCK_TOKENS +
           (size_t)(position % KV_BLOCK_TOKENS) * (size_t)c->value_stride + (size_t)d;
}

static uint8_t *page_of(const struct cache *c, int position)
{
    return c->pages + (size_t)c->blocks[position / KV_BLOCK_TOKENS] * c->page_bytes;
}

static void cache_init(struct cache *c, struct rng *r, int head_dim, enum dtype type)
{
    c->head_dim = head_dim;
    c->value_stride = (head_dim + 15) & ~15;
    c->type = type;
    c->element = type == DTYPE_F32 ? 4 : 2;
    c->page_bytes = c->element * KV_BLOCK_TOKENS * (size_t)(head_dim + c->value_stride);
    c->pages = xaligned(PAGES * c->page_bytes);
    memset(c->pages, 0xff, PAGES * c->page_bytes); // NaN in every type
    for (int i = 0; i < PAGES; i++)
        c->blocks[i] = (5 * i + 3) % PAGES;
    for (int p = 0; p < CONTEXT; p++) {
        for (int d = 0; d < head_dim; d++) {
            store(c, page_of(c, p), key_at(c, p, d), random_float(r, 2.0f));
            store(c, page_of(c, p), value_at(c, p, d), random_float(r, 1.0f));
        }
    }
}

static struct attention_tile tile_of(const struct cache *c, float softcap, float *scratch)
{
    struct attention_tile t = {.rows = 0, .head_dim = c->head_dim, .value_stride = c->value_stride};
    t.softcap = softcap;
    t.blocks = c->blocks;
    t.keys = c->pages;
    t.values = c->pages + c->element * KV_BLOCK_TOKENS * (size_t)c->head_dim;
    t.page_bytes = c->page_bytes;
    t.kv_type = c->type;
    t.scratch = scratch;
    return t;
}

static void add_row(struct attention_tile *t, const float *q, float *o, int first, int last)
{
    t->q[t->rows] = q;
    t->o[t->rows] = o;
    t->first[t->rows] = first;
    t->last[t->rows++] = last;
}

/* The largest error of one row against softmax in float64. */
static double error_of(const struct cache *c, float softcap, const float *q, const float *o,
                       int first, int last)
{
    double score[CONTEXT], max = -1e300, total = 0, worst = 0;

    for (int p = first; p <= last; p++) {
        double s = 0;
        for (int d = 0; d < c->head_dim; d++)
            s += (double)q[d] * (double)stored(c, page_of(c, p), key_at(c, p, d));
        if (softcap > 0) s = (double)softcap * tanh(s / (double)softcap);
        score[p] = s;
        max = s > max ? s : max;
    }
    for (int p = first; p <= last; p++)
        total += exp(score[p] - max);
    for (int d = 0; d < c->head_dim; d++) {
        double sum = 0;
        for (int p = first; p <= last; p++)
            sum += exp(score[p] - max) * (double)stored(c, page_of(c, p), value_at(c, p, d));
        double error = fabs(sum / total - (double)o[d]);
        worst = error > worst || isnan(error) ? error : worst;
    }
    return worst;
}

struct rows {
    int count, first[ATTENTION_ROWS_MAX], last[ATTENTION_ROWS_MAX];
};

/* `heads` heads for each of `tokens` tokens behind `past`, as cpu_attention.c makes tiles. */
static struct rows rows_of(int heads, int tokens, int past, int window)
{
    struct rows r = {0};
    for (int t = 0; t < tokens; t++) {
        for (int h = 0; h < heads; h++, r.count++) {
            r.last[r.count] = past + t;
            r.first[r.count] = window > 0 && past + t >= window ? past + t - window + 1 : 0;
        }
    }
    return r;
}

static void check_tile(struct rng *r, int head_dim, enum dtype type, const struct rows *rows,
                       float softcap)
{
    size_t count = (size_t)rows->count * (size_t)head_dim;
    struct cache c;
    cache_init(&c, r, head_dim, type);
    float *q = xmalloc(count * sizeof *q), *want = xcalloc(count, sizeof *want);
    float *got = xcalloc(count, sizeof *got);
    float *scratch = xaligned(cpu_attention_scratch_floats(c.value_stride) * sizeof *scratch);
    const struct cpu_isa *isa;

    random_floats(r, q, count, 0.6f);
    for (int i = 0; i < rows->count; i++) {
        struct attention_tile t = tile_of(&c, softcap, scratch);
        float *o = want + (size_t)i * (size_t)head_dim;
        add_row(&t, q + (size_t)i * (size_t)head_dim, o, rows->first[i], rows->last[i]);
        cpu_isa_scalar.attend(&t);
        double error = error_of(&c, softcap, t.q[0], o, rows->first[i], rows->last[i]);
        double bound = 2e-6 + 2e-8 * head_dim; // scores are sums of head_dim terms
        if (!(error < bound)) printf("dim %d row %d: error %g\n", head_dim, i, error);
        EXPECT(error < bound);
    }
    for (int n = 0; (isa = test_isa(n)) != NULL; n++) {
        for (int step = 1; step <= rows->count; step += step < 4 ? 1 : 5) {
            memset(got, 0, count * sizeof *got);
            for (int i = 0; i < rows->count; i += step) {
                struct attention_tile t = tile_of(&c, softcap, scratch);
                for (int j = i; j < i + step && j < rows->count; j++) {
                    size_t at = (size_t)j * (size_t)head_dim;
                    add_row(&t, q + at, got + at, rows->first[j], rows->last[j]);
                }
                isa->attend(&t);
            }
            if (!same_bits(got, want, count))
                printf("%s %s dim %d, %d rows by %d: bits differ\n", isa->name, dtype_name(type),
                       head_dim, rows->count, step);
            EXPECT(same_bits(got, want, count));
        }
    }
    free(q);
    free(want);
    free(got);
    free(scratch);
    free(c.pages);
}

static void test_shapes(void)
{
    static const int dims[] = {2, 16, 18, 32, 64, 80, 96, 128, 256};
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    struct rng r;

    rng_init(&r, 1);
    for (size_t i = 0; i < ARRAY_LEN(dims); i++) {
        for (size_t j = 0; j < ARRAY_LEN(types); j++) {
            struct rows decode = rows_of(3, 1, 200, 0), prefill = rows_of(4, 7, 60, 0);
            check_tile(&r, dims[i], types[j], &decode, 0);
            check_tile(&r, dims[i], types[j], &prefill, 0);
        }
    }
}

static void test_positions(void)
{
    static const int past[] = {0, 1, 15, 16, 62, 63, 64, 127, 300};
    struct rng r;

    rng_init(&r, 2);
    for (size_t i = 0; i < ARRAY_LEN(past); i++) {
        for (int heads = 1; heads <= 8; heads += heads == 1 ? 2 : 5) {
            struct rows rows = rows_of(heads, 24 / heads, past[i], 0);
            check_tile(&r, 64, DTYPE_F16, &rows, 0);
        }
    }
}

/* Windows start inside blocks; in a tile that crosses a border some rows see nothing of a block. */
static void test_windows(void)
{
    static const int windows[] = {1, 5, 16, 63, 64, 65, 100};
    struct rng r;

    rng_init(&r, 3);
    for (size_t i = 0; i < ARRAY_LEN(windows); i++) {
        struct rows a = rows_of(2, 12, 122, windows[i]), b = rows_of(1, 30, 0, windows[i]);
        check_tile(&r, 32, DTYPE_F16, &a, 0);
        check_tile(&r, 32, DTYPE_F32, &b, 0);
    }
}

static void test_softcap(void)
{
    struct rng r;
    struct rows rows = rows_of(2, 8, 100, 40);

    rng_init(&r, 4);
    check_tile(&r, 64, DTYPE_F16, &rows, 3.0f);
    check_tile(&r, 64, DTYPE_F32, &rows, 50.0f);
}

int main(void)
{
    RUN(test_shapes);
    RUN(test_positions);
    RUN(test_windows);
    RUN(test_softcap);
    return TEST_END();
}
