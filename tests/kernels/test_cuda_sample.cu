/* test_cuda_sample.cu - tokens drawn on the device are those of sample_draw, and reports have the bits of sample_report:
 * over vocabularies, filters, adjustments, and rows that can't be drawn. */
#include "kernels/cuda/cuda_sample.h"

#include <math.h>

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

#ifdef LM_CUDA_EMU_RACE // some ten times as slow
#define LARGE  20001
#define SCORED 9001
#define SHARES 8 // of rounds
#else
#define LARGE  151665
#define SCORED 49152
#define SHARES 2 // the run in reverse order has other ones
#endif
#define ROWS    48
#define LISTED  40 // entries of a list, at most
#define UNKNOWN 3  // ids behind the vocabulary that lists may name

/* A batch of rows and what they point at. */
struct scene {
    int rows, vocab, stride;
    struct sample_row row[ROWS];
    struct logit_bias bias[ROWS][LISTED];
    struct token_count seen[ROWS][LISTED];
    int32_t banned[ROWS][LISTED];
    uint32_t *mask[ROWS];
    float *logits; // [rows][stride]
};

struct device {
    struct cuda_arena arena;
    struct cuda_sampler sampler;
    float *logits;
    cudaStream_t stream;
};

static struct sample_scratch scratch;

/* ---- scenes ---- */

static void open_scene(struct scene *s, int rows, int vocab, int stride)
{
    *s = (struct scene){};
    s->rows = rows;
    s->vocab = vocab;
    s->stride = stride;
    s->logits = (float *)xcalloc((size_t)rows * (size_t)stride, sizeof(float));
    for (int i = 0; i < rows; i++) {
        s->row[i].temperature = s->row[i].top_p = s->row[i].repetition = 1;
        s->mask[i] = (uint32_t *)xcalloc((size_t)vocab / 32 + 2, sizeof(uint32_t));
    }
}

static void close_scene(struct scene *s)
{
    for (int i = 0; i < s->rows; i++)
        free(s->mask[i]);
    free(s->logits);
}

static float *row_of(const struct scene *s, int row)
{
    return s->logits + (size_t)row * (size_t)s->stride;
}

/* Sums of three uniform numbers; in every fourth row rounded, so that there are many ties. */
static void fill_logits(struct scene *s, struct rng *r, float width)
{
    for (int i = 0; i < s->rows; i++)
        for (int j = 0; j < s->stride; j++) {
            double v = (rng_unit(r) + rng_unit(r) + rng_unit(r) - 1.5) * (double)width;
            row_of(s, i)[j] = (float)(i % 4 == 3 ? rint(v) : v);
        }
}

static bool is_listed(const int32_t *ids, int count, int stride, int32_t id)
{
    for (int i = 0; i < count; i++)
        if (ids[i * stride] == id) return true;
    return false;
}

/* Ids that aren't there yet, at every `stride` of 32-bit words; returns how many. */
static int distinct_ids(const struct scene *s, struct rng *r, int32_t *ids, int stride)
{
    int wanted = (int)rng_below(r, LISTED), count = 0;

    for (int i = 0; i < wanted; i++) {
        int32_t id = (int32_t)rng_below(r, (uint64_t)(s->vocab + UNKNOWN));
        if (!is_listed(ids, count, stride, id)) ids[count++ * stride] = id;
    }
    return count;
}

static void add_bias(struct scene *s, int i, struct rng *r)
{
    struct sample_row *row = &s->row[i];
    row->bias = s->bias[i];
    row->bias_count = distinct_ids(s, r, &s->bias[i][0].token, 2);
    for (int j = 0; j < row->bias_count; j++)
        s->bias[i][j].bias = (float)(rng_unit(r) * 8 - 4);
}

static void add_penalties(struct scene *s, int i, struct rng *r)
{
    struct sample_row *row = &s->row[i];
    row->repetition = 0.7f + (float)rng_unit(r);
    row->frequency = (float)rng_unit(r) - 0.3f;
    row->presence = (float)rng_unit(r) - 0.3f;
    row->seen = s->seen[i];
    row->seen_count = distinct_ids(s, r, &s->seen[i][0].token, 2);
    for (int j = 0; j < row->seen_count; j++)
        s->seen[i][j].answer = (int)rng_below(r, 4);
}

static void add_bans(struct scene *s, int i, struct rng *r)
{
    struct sample_row *row = &s->row[i];
    row->banned = s->banned[i];
    row->banned_count = (int)rng_below(r, LISTED); // twins too
    for (int j = 0; j < row->banned_count; j++)
        s->banned[i][j] = (int32_t)rng_below(r, (uint64_t)(s->vocab + UNKNOWN));
}

/* One token in `of` may come, and the last one of what the mask has words for. */
static void add_mask(struct scene *s, int i, struct rng *r, int of)
{
    struct sample_row *row = &s->row[i];
    int words = (s->vocab + 31) / 32;
    row->mask = s->mask[i];
    row->mask_words = rng_below(r, 4) == 0 ? (words + 1) / 2 : words + (int)rng_below(r, 2);
    for (int j = 0; j < s->vocab; j++)
        if (rng_below(r, (uint64_t)of) == 0) s->mask[i][j / 32] |= 1u << (j % 32);
    int last = row->mask_words * 32 < s->vocab ? row->mask_words * 32 - 1 : s->vocab - 1;
    s->mask[i][last / 32] |= 1u << (last % 32);
}

static void choose_filters(struct sample_row *row, struct rng *r)
{
    static const float temperatures[] = {0, 1e-5f, 0.1f, 0.7f, 1, 1, 1.3f, 5, 1000},
                       top_ps[] = {1e-6f, 0.1f, 0.5f, 0.9f, 0.95f, 0.999f, 0.99999994f},
                       min_ps[] = {1e-9f, 0.01f, 0.3f, 1};
    static const int top_ks[] = {1, 2, 5, 40, 300, 5000, 1 << 20};
    row->temperature = temperatures[rng_below(r, ARRAY_LEN(temperatures))];
    if (rng_below(r, 2)) row->top_p = top_ps[rng_below(r, ARRAY_LEN(top_ps))];
    if (rng_below(r, 2)) row->top_k = top_ks[rng_below(r, ARRAY_LEN(top_ks))];
    if (rng_below(r, 3) == 0) row->min_p = min_ps[rng_below(r, ARRAY_LEN(min_ps))];
    row->random = rng_u64(r);
    if (rng_below(r, 50) == 0) row->random = rng_below(r, 2) ? 0 : UINT64_MAX;
}

static void choose_row(struct scene *s, int i, struct rng *r)
{
    struct sample_row *row = &s->row[i];
    row->logprobs = rng_below(r, 3) ? 0 : 1 + (int)rng_below(r, SAMPLE_LOGPROBS_MAX);
    row->kind = rng_below(r, 6) ? SAMPLE_DRAW : SAMPLE_SCORE;
    row->scored = (int32_t)rng_below(r, (uint64_t)(s->vocab + UNKNOWN));
    choose_filters(row, r);
    if (rng_below(r, 4) == 0) add_bias(s, i, r);
    if (rng_below(r, 4) == 0) add_penalties(s, i, r);
    if (rng_below(r, 4) == 0) add_mask(s, i, r, rng_below(r, 2) ? 2 : 50);
    if (rng_below(r, 4) == 0) add_bans(s, i, r);
}

/* ---- the device ---- */

static void open_device(struct device *d, int rows_max, int stride)
{
    struct error err;

    *d = (struct device){};
    cuda_sample_lay(&d->sampler, &d->arena, rows_max, stride);
    NEED(cuda_arena_open(&d->arena, "a test", &err) == 0);
    cuda_sample_lay(&d->sampler, &d->arena, rows_max, stride);
    NEED(cuda_sample_open(&d->sampler, &err) == 0);
    NEED(cudaMalloc((void **)&d->logits, (size_t)rows_max * (size_t)stride * sizeof(float)) ==
         cudaSuccess);
    NEED(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking) == cudaSuccess);
}

static void close_device(struct device *d)
{
    cudaStreamDestroy(d->stream);
    cudaFree(d->logits);
    cuda_sample_close(&d->sampler);
    cuda_arena_close(&d->arena);
}

static int host_row(const struct sample_row *r, const float *logits, int vocab)
{
    if (r->kind == SAMPLE_DRAW) return sample_draw(r, logits, vocab, &scratch);
    return sample_look(logits, vocab, &scratch);
}

/* Of the row that the scratch has looked at. */
static void check_report(const struct sample_row *r, int token, int vocab,
                         const struct sample_report *got)
{
    struct sample_report want;
    sample_report(&scratch, vocab, r->kind == SAMPLE_SCORE ? r->scored : token, r->logprobs, &want);
    EXPECT(memcmp(&got->max, &want.max, sizeof want.max) == 0);
    EXPECT(memcmp(&got->own, &want.own, sizeof want.own) == 0);
    EXPECT(got->sum == want.sum);
    EXPECT(memcmp(got->likeliest, want.likeliest,
                  (size_t)(r->logprobs - 1) * sizeof *want.likeliest) == 0);
}

/* Rows get the CPU's tokens and reports; the logits of those that aren't looked at stay. */
static void check_scene(struct device *d, const struct scene *s)
{
    size_t bytes = (size_t)s->rows * (size_t)s->stride * sizeof(float);
    float *after = (float *)xmalloc(bytes);

    NEED(cudaMemcpy(d->logits, s->logits, bytes, cudaMemcpyHostToDevice) == cudaSuccess);
    NEED(cuda_sample_run(&d->sampler, !d->sampler.turn, s->row, s->rows, d->logits, s->vocab,
                         d->stream) == cudaSuccess);
    NEED(cudaStreamSynchronize(d->stream) == cudaSuccess && cudaGetLastError() == cudaSuccess);
    NEED(cudaMemcpy(after, d->logits, bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
    for (int i = 0; i < s->rows; i++) {
        const struct sample_row *r = &s->row[i];
        EXPECT(!cuda_sample_leaves(&d->sampler, i));
        if (r->kind != SAMPLE_DRAW) {
            size_t at = (size_t)i * (size_t)s->stride;
            EXPECT(memcmp(after + at, s->logits + at, (size_t)s->stride * sizeof *after) == 0);
        }
        if (r->kind == SAMPLE_NOTHING) continue;
        int want = host_row(r, row_of(s, i), s->vocab), failed = test_failures;
        EXPECT_INT(d->sampler.token[d->sampler.turn][i], want);
        if (want >= 0 && r->logprobs > 0)
            check_report(r, want, s->vocab, &d->sampler.report[d->sampler.turn][i]);
        if (test_failures != failed)
            printf("  row %d of %d, vocabulary %d, kind %d: logprobs %d, temperature %g, top_k %d, "
                   "top_p "
                   "%.9g, min_p %g, bias %d, seen %d, banned %d, mask %d\n",
                   i, s->rows, s->vocab, (int)r->kind, r->logprobs, (double)r->temperature,
                   r->top_k, (double)r->top_p, (double)r->min_p, r->bias_count, r->seen_count,
                   r->banned_count, r->mask != NULL);
    }
    free(after);
}

/* ---- tests ---- */

/* Sizes around tiles and words of masks; strides that leave rows unaligned. */
static void test_all_together(void)
{
    static const struct {
        int vocab, stride, rounds;
    } cases[] = {{1, 1, 1},        {2, 3, 1},       {31, 31, 4},     {33, 40, 8},    {300, 300, 30},
                 {1000, 1001, 10}, {4096, 4096, 2}, {4097, 4100, 2}, {9001, 9007, 2}};
    struct rng r;
    struct scene s;
    struct device d;

    const char *order = getenv("LM_CUDA_EMU_ORDER");
    rng_init(&r, order && strcmp(order, "reverse") == 0 ? 18 : 11);
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        open_device(&d, ROWS, cases[c].stride);
        for (int round = 0; round * SHARES < cases[c].rounds; round++) {
            int rows = round == 0 ? ROWS : 1 + (int)rng_below(&r, ROWS);
            open_scene(&s, rows, cases[c].vocab, cases[c].stride);
            fill_logits(&s, &r, round % 2 ? 6 : 14);
            for (int i = 0; i < rows; i++) {
                choose_row(&s, i, &r);
                if (rng_below(&r, 8) == 0) s.row[i].kind = SAMPLE_NOTHING;
            }
            check_scene(&d, &s);
            close_scene(&s);
        }
        close_device(&d);
    }
}

/* Each filter alone, in a vocabulary of usual size; the flat one overflows the list. */
static void test_large(void)
{
    static const struct {
        float temperature, top_p, min_p, width;
        int top_k;
    } cases[] = {{0, 1, 0, 8, 0},           {1, 1, 0, 8, 0},
                 {0.8f, 0.95f, 0, 14, 0},   {1, 1, 0, 8, 50},
                 {1, 0.9f, 0, 8, 500},      {1, 1, 0.05f, 8, 0},
                 {1000, 0.7f, 0, 0.01f, 0}, {1, 0.5f, 0, 0, LARGE - 999}};
    const int vocab = LARGE;
    struct rng r;
    struct scene s;
    struct device d;

    rng_init(&r, 12);
    open_device(&d, ARRAY_LEN(cases), vocab);
    open_scene(&s, ARRAY_LEN(cases), vocab, vocab);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        s.row[i].temperature = cases[i].temperature;
        s.row[i].top_p = cases[i].top_p;
        s.row[i].min_p = cases[i].min_p;
        s.row[i].top_k = cases[i].top_k;
        s.row[i].random = rng_u64(&r);
        if (i % 3 == 0) s.row[i].logprobs = SAMPLE_LOGPROBS_MAX;
        for (int j = 0; j < vocab; j++)
            row_of(&s, (int)i)[j] = (float)(rng_unit(&r) + rng_unit(&r) - 1) * cases[i].width;
    }
    check_scene(&d, &s);
    close_scene(&s);
    close_device(&d);
}

/* The bound of kernels/sample.h. */
static void check_softmax(const struct scene *s, int row, const struct sample_report *r)
{
    const float *x = row_of(s, row);
    double sum = 0, want;

    for (int i = 0; i < s->vocab; i++)
        sum += exp((double)x[i] - (double)r->max);
    want = (double)x[s->row[row].scored] - (double)r->max - log(sum);
    EXPECT(fabs((double)sample_logprob(r, r->own) - want) < 1.2e-6 - 0x1p-23 * want);
}

/* Rows of a prompt among drawn ones: all of the likeliest in one group, a row that has only some that can be drawn,
 * equal logits, and a token without a logit. */
static void test_scores(void)
{
    const int vocab = SCORED;
    struct rng r;
    struct scene s;
    struct device d;

    rng_init(&r, 17);
    open_device(&d, 5, vocab);
    open_scene(&s, 5, vocab, vocab);
    fill_logits(&s, &r, 14);
    for (int i = 0; i < 5; i++) {
        s.row[i].kind = i == 2 ? SAMPLE_DRAW : SAMPLE_SCORE;
        s.row[i].scored = i == 4 ? vocab : vocab / (i + 1) - 1;
        s.row[i].logprobs = SAMPLE_LOGPROBS_MAX - i % 3;
    }
    for (int j = 0; j < 32; j++)
        row_of(&s, 0)[4096 + 32 + j] = 20 + (float)(j * 7 % 32);
    add_mask(&s, 2, &r, vocab / 8);
    for (int j = 0; j < vocab; j++)
        row_of(&s, 3)[j] = -0.0f;
    check_scene(&d, &s);
    check_softmax(&s, 0, &d.sampler.report[d.sampler.turn][0]);
    check_softmax(&s, 1, &d.sampler.report[d.sampler.turn][1]);
    check_softmax(&s, 3, &d.sampler.report[d.sampler.turn][3]);
    EXPECT_INT(d.sampler.report[d.sampler.turn][3].likeliest[19].id, 19);
    EXPECT(isinf(d.sampler.report[d.sampler.turn][4].own) &&
           d.sampler.report[d.sampler.turn][4].likeliest[0].id >= 0);
    close_scene(&s);
    close_device(&d);
}

/* All logits equal: only ids tell tokens apart. */
static void test_ties(void)
{
    const int vocab = 5000;
    struct rng r;
    struct scene s;
    struct device d;

    rng_init(&r, 13);
    open_device(&d, ROWS, vocab);
    open_scene(&s, ROWS, vocab, vocab);
    for (int i = 0; i < ROWS; i++) {
        s.row[i].random = rng_u64(&r);
        s.row[i].temperature = i % 8 ? 1 : 0;
        s.row[i].kind = i % 12 ? SAMPLE_DRAW : SAMPLE_SCORE;
        s.row[i].scored = 4000 + i;
        if (i % 2 == 0) s.row[i].logprobs = SAMPLE_LOGPROBS_MAX - i / 4;
        if (i % 3 != 0) s.row[i].top_k = 1 + (int)rng_below(&r, 5000);
        if (i % 3 != 1) s.row[i].top_p = 0.01f + 0.99f * (float)rng_unit(&r);
        for (int j = i % 5; j < vocab; j += 5)
            row_of(&s, i)[j] = i % 2 ? -3 : -0.0f; // two values, or two zeros, which are equal
    }
    check_scene(&d, &s);
    close_scene(&s);
    close_device(&d);
}

static void test_not_finite(void)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    const int vocab = 4200;
    struct rng r;
    struct scene s;
    struct device d;

    rng_init(&r, 14);
    open_device(&d, ROWS, vocab + 1);
    open_scene(&s, ROWS, vocab, vocab + 1);
    fill_logits(&s, &r, 6);
    for (int i = 0; i < ROWS; i++) {
        choose_row(&s, i, &r);
        row_of(&s, i)[i % 8 == 0 ? vocab : (int)rng_below(&r, vocab)] = bad[i % 3];
    }
    /* Penalties that overflow, and those that only make a token impossible. */
    for (int i = 40; i < 44; i++) {
        s.row[i] = (struct sample_row){};
        s.row[i].temperature = s.row[i].top_p = 1;
        s.row[i].repetition = i % 2 ? 1e-30f : 1e30f;
        s.row[i].seen = s.seen[i];
        s.row[i].seen_count = 1;
        s.seen[i][0].token = 4100;
        for (int j = 0; j < vocab; j++)
            row_of(&s, i)[j] = 1;
        row_of(&s, i)[4100] = i < 42 ? 3e38f : -3e38f;
    }
    check_scene(&d, &s);
    EXPECT_INT(d.sampler.token[d.sampler.turn][41], E_DEVICE);
    EXPECT(d.sampler.token[d.sampler.turn][42] >= 0 && d.sampler.token[d.sampler.turn][8] >= 0);
    close_scene(&s);
    close_device(&d);
}

/* Where nothing else is left, banned tokens may come; where nothing at all is, none. */
static void test_all_banned(void)
{
    const int vocab = 20;
    struct rng r;
    struct scene s;
    struct device d;

    rng_init(&r, 15);
    open_device(&d, ROWS, vocab);
    open_scene(&s, ROWS, vocab, vocab);
    fill_logits(&s, &r, 6);
    for (int i = 0; i < ROWS; i++) {
        choose_filters(&s.row[i], &r);
        s.row[i].logprobs = 1 + (int)rng_below(&r, SAMPLE_LOGPROBS_MAX);
        s.row[i].banned = s.banned[i];
        for (int j = 0; j < vocab + 5; j++)
            s.banned[i][j] = j % (vocab + 1); // some twice
        s.row[i].banned_count = i % 4 == 0 ? 8 : vocab + 5;
        if (i % 4 < 2) s.row[i].mask = s.mask[i];
        if (i % 4 < 2) s.row[i].mask_words = 1;
        s.mask[i][0] = i == 1 ? 0 : 0xa4; // of those that are always banned
        if (i % 4 == 3) add_bias(&s, i, &r);
    }
    check_scene(&d, &s);
    EXPECT_INT(d.sampler.token[d.sampler.turn][1], E_DEVICE);
    EXPECT(d.sampler.token[d.sampler.turn][4] >= 0 && d.sampler.token[d.sampler.turn][6] >= 0);
    close_scene(&s);
    close_device(&d);
}

/* Lists that are too long for the image: the row is left, those around it are drawn. */
static void test_too_much(void)
{
    const int vocab = 300, seen = 20000;
    struct token_count *many = (struct token_count *)xcalloc((size_t)seen, sizeof *many);
    struct rng r;
    struct scene s;
    struct device d;

    rng_init(&r, 16);
    open_device(&d, 3, vocab);
    open_scene(&s, 3, vocab, vocab);
    fill_logits(&s, &r, 6);
    for (int i = 0; i < seen; i++)
        many[i].token = i;
    s.row[1].seen = many;
    s.row[1].seen_count = seen;
    NEED(cudaMemcpy(d.logits, s.logits, 3 * (size_t)vocab * sizeof(float),
                    cudaMemcpyHostToDevice) == cudaSuccess);
    NEED(cuda_sample_run(&d.sampler, !d.sampler.turn, s.row, 3, d.logits, vocab, d.stream) ==
         cudaSuccess);
    NEED(cudaStreamSynchronize(d.stream) == cudaSuccess);
    for (int i = 0; i < 3; i++) {
        EXPECT(cuda_sample_leaves(&d.sampler, i) == (i == 1));
        int want = i == 1 ? E_UNSUPPORTED : sample_draw(&s.row[i], row_of(&s, i), vocab, &scratch);
        EXPECT_INT(d.sampler.token[d.sampler.turn][i], want);
    }
    free(many);
    close_scene(&s);
    close_device(&d);
}

int main(void)
{
    RUN(test_all_together);
    RUN(test_large);
    RUN(test_scores);
    RUN(test_ties);
    RUN(test_not_finite);
    RUN(test_all_banned);
    RUN(test_too_much);
    sample_scratch_deinit(&scratch);
    return TEST_END();
}
