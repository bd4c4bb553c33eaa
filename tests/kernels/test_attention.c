/* Attention tiles: the same bits in every instruction set and however rows share a tile, within
 * rounding of softmax in float64, and blind to what lies in a page outside the visible positions.
 */
#include "tests/kernels/kernel_test.h"

#define PAGES   12
#define CONTEXT 330 // positions stored, in scattered pages

struct cache {
    struct kv_layout layout;
    uint8_t *pages;
    int32_t blocks[PAGES];
};

static const char *const type_names[KV_TYPES] = {
    [KV_F32] = "f32", [KV_F16] = "f16", [KV_BF16] = "bf16", [KV_INT8] = "int8"};

static float float_at(const uint8_t *p)
{
    float f;
    memcpy(&f, p, sizeof f);
    return f;
}

/* Element `at` of K or V, whose scale (where the type has one) is at `scale`. */
static float stored(enum kv_type type, const uint8_t *p, size_t at, const uint8_t *scale)
{
    uint16_t h;
    if (type == KV_F32) return float_at(p + 4 * at);
    if (type == KV_INT8) return float_at(scale) * (float)(int8_t)p[at];
    memcpy(&h, p + 2 * at, sizeof h);
    return type == KV_F16 ? quant_half_to_float(h) : quant_bf16_to_float(h);
}

/* A random value in [-spread, spread]; integers have that spread by their scale. */
static void store(struct rng *r, enum kv_type type, uint8_t *p, size_t at, float spread)
{
    float f = random_float(r, spread);
    uint16_t h = type == KV_F16 ? quant_float_to_half(f) : quant_float_to_bf16(f);
    if (type == KV_F32)
        memcpy(p + 4 * at, &f, sizeof f);
    else if (type == KV_INT8)
        p[at] = (uint8_t)(int8_t)lrintf(random_float(r, 127));
    else
        memcpy(p + 2 * at, &h, sizeof h);
}

static uint8_t *page_of(const struct cache *c, int position)
{
    return c->pages + (size_t)c->blocks[position / KV_BLOCK_TOKENS] * c->layout.bytes;
}

static size_t key_at(int position, int d)
{
    return (size_t)d * KV_BLOCK_TOKENS + (size_t)(position % KV_BLOCK_TOKENS);
}

static size_t value_at(const struct cache *c, int position, int d)
{
    return (size_t)(position % KV_BLOCK_TOKENS) * (size_t)c->layout.value_stride + (size_t)d;
}

static size_t scale_at(size_t scales, int position)
{
    return scales + 4 * (size_t)(position % KV_BLOCK_TOKENS);
}

static double key(const struct cache *c, int position, int d)
{
    const uint8_t *page = page_of(c, position);
    return (double)stored(c->layout.type, page, key_at(position, d),
                          page + scale_at(c->layout.key_scales, position));
}

static double value(const struct cache *c, int position, int d)
{
    const uint8_t *page = page_of(c, position);
    return (double)stored(c->layout.type, page + c->layout.values, value_at(c, position, d),
                          page + scale_at(c->layout.value_scales, position));
}

static void cache_init(struct cache *c, struct rng *r, int head_dim, int value_dim,
                       enum kv_type type)
{
    const struct kv_layout *l = &c->layout;
    cpu_kv_layout_init(&c->layout, type, head_dim, value_dim);
    c->pages = xaligned(PAGES * l->bytes);
    memset(c->pages, 0xff, PAGES * l->bytes); // NaN in every type
    for (int i = 0; i < PAGES; i++)
        c->blocks[i] = (5 * i + 3) % PAGES;
    for (int p = 0; p < CONTEXT; p++) {
        uint8_t *page = page_of(c, p);
        for (int d = 0; d < head_dim; d++)
            store(r, type, page, key_at(p, d), 2.0f);
        for (int d = 0; d < value_dim; d++)
            store(r, type, page + l->values, value_at(c, p, d), 1.0f);
        if (type != KV_INT8) continue;
        float scale[2] = {2.0f / 127, 1.0f / (127 + random_float(r, 60))};
        memcpy(page + scale_at(l->key_scales, p), &scale[0], sizeof scale[0]);
        memcpy(page + scale_at(l->value_scales, p), &scale[1], sizeof scale[1]);
    }
}

static struct attention_tile tile_of(const struct cache *c, float softcap, float *scratch)
{
    return (struct attention_tile){.softcap = softcap,
                                   .blocks = c->blocks,
                                   .layout = &c->layout,
                                   .pages = c->pages,
                                   .page_bytes = c->layout.bytes,
                                   .scratch = scratch};
}

static void add_row(struct attention_tile *t, const float *q, float *o, float sink, int first,
                    int last)
{
    t->q[t->rows] = q;
    t->o[t->rows] = o;
    t->sink[t->rows] = sink;
    t->first[t->rows] = first;
    t->last[t->rows++] = last;
}

/* The largest error of one row against softmax in float64. */
static double error_of(const struct cache *c, float softcap, const float *q, const float *o,
                       float sink, int first, int last)
{
    double score[CONTEXT], max = (double)sink, worst = 0;

    for (int p = first; p <= last; p++) {
        double s = 0;
        for (int d = 0; d < c->layout.head_dim; d++)
            s += (double)q[d] * key(c, p, d);
        if (softcap > 0) s = (double)softcap * tanh(s / (double)softcap);
        score[p] = s;
        max = s > max ? s : max;
    }
    double total = exp((double)sink - max);
    for (int p = first; p <= last; p++)
        total += exp(score[p] - max);
    for (int d = 0; d < c->layout.value_dim; d++) {
        double sum = 0;
        for (int p = first; p <= last; p++)
            sum += exp(score[p] - max) * value(c, p, d);
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

/* Each row's sink is `sink` and a bit; -INFINITY: none. */
static void check_rows(struct rng *r, int head_dim, int value_dim, enum kv_type type,
                       const struct rows *rows, float softcap, float sink)
{
    size_t q_count = (size_t)rows->count * (size_t)head_dim;
    size_t count = (size_t)rows->count * (size_t)value_dim;
    struct cache c;
    cache_init(&c, r, head_dim, value_dim, type);
    float *q = xmalloc(q_count * sizeof *q), *want = xcalloc(count, sizeof *want);
    float *got = xcalloc(count, sizeof *got);
    float *scratch = xaligned(cpu_attention_scratch_floats(value_dim) * sizeof *scratch);
    const struct cpu_isa *isa;

    random_floats(r, q, q_count, 0.6f);
    for (int i = 0; i < rows->count; i++) {
        struct attention_tile t = tile_of(&c, softcap, scratch);
        float *o = want + (size_t)i * (size_t)value_dim;
        float s = sink + 0.3f * (float)i;
        add_row(&t, q + (size_t)i * (size_t)head_dim, o, s, rows->first[i], rows->last[i]);
        cpu_isa_scalar.attend(&t);
        double error = error_of(&c, softcap, t.q[0], o, s, rows->first[i], rows->last[i]);
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
                    const float *row = q + (size_t)j * (size_t)head_dim;
                    float *o = got + (size_t)j * (size_t)value_dim;
                    add_row(&t, row, o, sink + 0.3f * (float)j, rows->first[j], rows->last[j]);
                }
                isa->attend(&t);
            }
            if (!same_bits(got, want, count))
                printf("%s %s dim %d, %d rows by %d: bits differ\n", isa->name, type_names[type],
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

static void check_tile(struct rng *r, int head_dim, enum kv_type type, const struct rows *rows,
                       float softcap)
{
    check_rows(r, head_dim, head_dim, type, rows, softcap, -INFINITY);
}

static void test_shapes(void)
{
    static const int dims[] = {2, 16, 18, 32, 64, 80, 96, 128, 256};
    struct rng r;

    rng_init(&r, 1);
    for (size_t i = 0; i < ARRAY_LEN(dims); i++) {
        for (int type = 0; type < KV_TYPES; type++) {
            struct rows decode = rows_of(3, 1, 200, 0), prefill = rows_of(4, 7, 60, 0);
            check_tile(&r, dims[i], (enum kv_type)type, &decode, 0);
            check_tile(&r, dims[i], (enum kv_type)type, &prefill, 0);
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
            check_tile(&r, 64, KV_F16, &rows, 0);
            check_tile(&r, 64, KV_INT8, &rows, 0);
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
        check_tile(&r, 32, KV_F16, &a, 0);
        check_tile(&r, 32, KV_INT8, &a, 0);
        check_tile(&r, 32, KV_F32, &b, 0);
        check_tile(&r, 32, KV_INT8, &b, 0);
    }
}

static void test_softcap(void)
{
    struct rng r;
    struct rows rows = rows_of(2, 8, 100, 40);

    rng_init(&r, 4);
    check_tile(&r, 64, KV_F16, &rows, 3.0f);
    check_tile(&r, 64, KV_INT8, &rows, 3.0f);
    check_tile(&r, 64, KV_F32, &rows, 50.0f);
}

/* Sinks far below the scores, among them and far above, where next to nothing is left for V. */
static void test_sinks(void)
{
    static const float sinks[] = {-60, -2, 1, 40};
    struct rng r;

    rng_init(&r, 5);
    for (size_t i = 0; i < ARRAY_LEN(sinks); i++) {
        for (int type = 0; type < KV_TYPES; type++) {
            struct rows decode = rows_of(8, 1, 200, 0), prefill = rows_of(4, 7, 120, 16);
            check_rows(&r, 64, 64, (enum kv_type)type, &decode, 0, sinks[i]);
            check_rows(&r, 64, 64, (enum kv_type)type, &prefill, 0, sinks[i]);
        }
    }
    struct rows first = rows_of(3, 1, 0, 0);
    check_rows(&r, 18, 18, KV_F32, &first, 0, 0);
    check_rows(&r, 18, 18, KV_F32, &first, 3.0f, 0);
}

/* Heads of V narrower and wider than those of K. */
static void test_value_sizes(void)
{
    static const int dims[][2] = {{24, 16}, {192, 128}, {16, 24}, {18, 34}};
    struct rng r;

    rng_init(&r, 6);
    for (size_t i = 0; i < ARRAY_LEN(dims); i++) {
        for (int type = 0; type < KV_TYPES; type++) {
            struct rows decode = rows_of(1, 1, 200, 0), prefill = rows_of(1, 17, 60, 0);
            check_rows(&r, dims[i][0], dims[i][1], (enum kv_type)type, &decode, 0, -INFINITY);
            check_rows(&r, dims[i][0], dims[i][1], (enum kv_type)type, &prefill, 0, 1);
        }
    }
}

int main(void)
{
    RUN(test_shapes);
    RUN(test_positions);
    RUN(test_windows);
    RUN(test_softcap);
    RUN(test_sinks);
    RUN(test_value_sizes);
    return TEST_END();
}
