#include "engine/sampler.h"

#include "shared/base/check.h"
#include "shared/base/error.h"
#include "shared/base/rng.h"
#include "tests/test.h"

#include <math.h>

#define VOCAB_MAX 3000

static struct sampler_scratch scratch;

static int draw(struct sampling_params params, int64_t position, const float *logits, int vocab)
{
    return sampler_draw(&params, position, logits, vocab, NULL, 0, &scratch);
}

static struct sampling_params plain(float temperature)
{
    return (struct sampling_params){.temperature = temperature, .top_p = 1};
}

/* Known answers of the Random123 library, philox4x32 with 10 rounds. */
static void test_philox_known_answers(void)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint32_t out[4];
        sampler_philox(cases[i].counter, cases[i].key, out);
        EXPECT(memcmp(out, cases[i].out, sizeof out) == 0);
    }
}

static void test_uniform(void)
{
    double sum = 0, squares = 0;
    int n = 20000;
    for (int i = 0; i < n; i++) {
        double u = sampler_uniform(42, 0, (uint64_t)i);
        EXPECT(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    EXPECT(fabs(sum / n - 0.5) < 0.01);
    EXPECT(fabs(squares / n - 1.0 / 3) < 0.01);
    EXPECT(sampler_uniform(1, 0, 7) != sampler_uniform(2, 0, 7));
    EXPECT(sampler_uniform(1, 0, 7) != sampler_uniform(1, 1, 7));
    EXPECT(sampler_uniform(1, 0, 7) != sampler_uniform(1, 0, 8));
}

static void test_greedy(void)
{
    float x[100];
    for (int i = 0; i < 100; i++)
        x[i] = (float)-i;
    x[37] = x[81] = 5; // a tie goes to the lowest id
    EXPECT_INT(draw(plain(0), 0, x, 100), 37);
    EXPECT_INT(draw(plain(1e-6f), 0, x, 100), 37);
    x[99] = 5.5f;
    EXPECT_INT(draw(plain(0), 0, x, 100), 99);
    EXPECT_INT(draw(plain(0), 0, x, 1), 0);
}

static void test_not_finite_is_an_error(void)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float x[70] = {0};
    for (int where = 0; where < 70; where++) {
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
            x[where] = bad[i];
            EXPECT_INT(draw(plain(0), 0, x, 70), E_DEVICE);
            EXPECT_INT(draw(plain(1), 0, x, 70), E_DEVICE);
        }
        x[where] = 0;
    }
    EXPECT_INT(draw(plain(0), 0, x, 70), 0);
}

static void test_banned(void)
{
    float x[10] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
    int32_t banned[] = {0, 1, 1, 999}, all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    struct sampling_params greedy = plain(0), warm = plain(0.7f);
    EXPECT_INT(sampler_draw(&greedy, 0, x, 10, banned, 4, &scratch), 2);
    for (int i = 0; i < 500; i++)
        EXPECT(sampler_draw(&warm, i, x, 10, banned, 4, &scratch) >= 2);
    EXPECT_INT(sampler_draw(&greedy, 0, x, 10, all, 10, &scratch), 0);
}

/* ---- the filters against sorting everything ---- */

struct entry {
    double p;
    int id;
};

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return x->id - y->id;
}

/* Distribution after the filters, by id, from full sorts in double. */
static void reference(struct sampling_params s, const float *x, int n, double *out)
{
    static struct entry e[VOCAB_MAX];
    double sum = 0, max = (double)x[0];
    for (int i = 1; i < n; i++)
        max = (double)x[i] > max ? (double)x[i] : max;
    for (int i = 0; i < n; i++)
        e[i] = (struct entry){exp(((double)x[i] - max) / (double)s.temperature), i};
    qsort(e, (size_t)n, sizeof *e, compare_entries);
    int kept = s.top_k > 0 && s.top_k < n ? s.top_k : n;
    for (int i = 0; i < kept; i++)
        sum += e[i].p;
    double reached = 0;
    for (int i = 0; i < kept && s.top_p < 1; i++) {
        reached += e[i].p;
        if (reached >= (double)s.top_p * sum) kept = i + 1;
    }
    while (kept > 1 && e[kept - 1].p < (double)s.min_p)
        kept--;
    sum = 0;
    for (int i = 0; i < kept; i++)
        sum += e[i].p;
    for (int i = 0; i < n; i++)
        out[e[i].id] = i < kept ? e[i].p / sum : 0;
}

static void check_against_reference(struct sampling_params s, const float *x, int n, int draws)
{
    static double want[VOCAB_MAX];
    static int got[VOCAB_MAX];
    double distance = 0, support = 0;
    reference(s, x, n, want);
    memset(got, 0, sizeof got);
    for (int i = 0; i < draws; i++) {
        int id = draw(s, i, x, n);
        NEED(id >= 0 && id < n);
        got[id]++;
    }
    for (int i = 0; i < n; i++) {
        /* Outside the kept set nothing is ever drawn; a hair's breadth at the cut is rounding. */
        if (want[i] == 0) EXPECT_INT(got[i], 0);
        support += want[i] > 0;
        distance += fabs((double)got[i] / draws - want[i]);
    }
    /* Expected total variation of an empirical distribution: about sqrt(2 k / (pi draws)). */
    EXPECT(distance < 1.5 * sqrt(support / draws) + 0.005);
}

static void test_distributions(void)
{
    static float x[VOCAB_MAX];
    struct rng rng;
    rng_init(&rng, 99);
    for (int i = 0; i < VOCAB_MAX; i++)
        x[i] = (float)(rng_unit(&rng) + rng_unit(&rng) + rng_unit(&rng) - 1.5) * 6;
    static const struct {
        float temperature, top_p, min_p;
        int top_k;
    } cases[] = {
        {1, 1, 0, 0},        {0.7f, 1, 0, 0},     {1, 0.9f, 0, 0},      {1, 1, 0, 40},
        {1, 1, 0.1f, 0},     {0.8f, 0.8f, 0, 40}, {2, 0.95f, 0.02f, 0}, {1, 1, 0, 1},
        {1, 1e-6f, 0, 0},    {1, 0.5f, 0.3f, 10}, {1, 0.999f, 0, 2999}, {1, 1, 1, 0},
        {0.01f, 0.9f, 0, 0}, {1, 1, 0, 100000},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (int n = 1; n <= VOCAB_MAX; n = n * 7 + 3)
            check_against_reference((struct sampling_params){.temperature = cases[i].temperature,
                                                             .top_p = cases[i].top_p,
                                                             .min_p = cases[i].min_p,
                                                             .top_k = cases[i].top_k,
                                                             .seed = i + 1},
                                    x, n, 4000);
}

/* Equal logits: ties are kept by the lower id. */
static void test_ties(void)
{
    float x[64] = {0};
    int seen = 0;
    struct sampling_params s = {.temperature = 1, .top_p = 1, .top_k = 5};
    for (int i = 0; i < 400; i++) {
        int id = draw(s, i, x, 64);
        EXPECT(id < 5);
        seen |= 1 << id;
    }
    EXPECT_INT(seen, 31);
    s = (struct sampling_params){.temperature = 1, .top_p = 0.25f};
    for (int i = 0; i < 400; i++)
        EXPECT(draw(s, i, x, 64) < 16);
}

/* The draw depends on (seed, position) and the row, nothing else: not on what the scratch held. */
static void test_draws_repeat(void)
{
    static float x[VOCAB_MAX];
    struct rng rng;
    rng_init(&rng, 5);
    for (int i = 0; i < VOCAB_MAX; i++)
        x[i] = (float)rng_unit(&rng) * 8;
    struct sampling_params s = {.temperature = 0.9f, .top_p = 0.9f, .top_k = 100, .seed = 77};
    int first[50];
    for (int i = 0; i < 50; i++)
        first[i] = draw(s, i, x, VOCAB_MAX);
    struct sampler_scratch fresh = {0};
    for (int i = 49; i >= 0; i--)
        EXPECT_INT(sampler_draw(&s, i, x, VOCAB_MAX, NULL, 0, &fresh), first[i]);
    sampler_scratch_deinit(&fresh);
}

int main(void)
{
    RUN(test_philox_known_answers);
    RUN(test_uniform);
    RUN(test_greedy);
    RUN(test_not_finite_is_an_error);
    RUN(test_banned);
    RUN(test_distributions);
    RUN(test_ties);
    RUN(test_draws_repeat);
    sampler_scratch_deinit(&scratch);
    return TEST_END();
}
