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
    struct sampler_input in = {.params = &params, .position = position};
    return sampler_draw(&in, logits, vocab, &scratch, NULL);
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
        double u = (double)(sampler_random(42, 0, (uint64_t)i) >> 11) * 0x1p-53;
        EXPECT(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    EXPECT(fabs(sum / n - 0.5) < 0.01);
    EXPECT(fabs(squares / n - 1.0 / 3) < 0.01);
    EXPECT(sampler_random(1, 0, 7) != sampler_random(2, 0, 7));
    EXPECT(sampler_random(1, 0, 7) != sampler_random(1, 1, 7));
    EXPECT(sampler_random(1, 0, 7) != sampler_random(1, 0, 8));
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

static int draw_banned(struct sampling_params params, int64_t position, const float *logits,
                       const int32_t *banned, int count)
{
    struct sampler_input in = {
        .params = &params, .position = position, .banned = banned, .banned_count = count};
    return sampler_draw(&in, logits, 10, &scratch, NULL);
}

static void test_banned(void)
{
    float x[10] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
    int32_t banned[] = {0, 1, 1, 999}, all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    EXPECT_INT(draw_banned(plain(0), 0, x, banned, 4), 2);
    for (int i = 0; i < 500; i++)
        EXPECT(draw_banned(plain(0.7f), i, x, banned, 4) >= 2);
    EXPECT_INT(draw_banned(plain(0), 0, x, all, 10), 0);
    /* What is left when all are banned still has its bias. */
    struct logit_bias bias = {5, 50};
    struct sampling_params biased = plain(0);
    biased.bias = &bias;
    biased.bias_count = 1;
    EXPECT_INT(draw_banned(biased, 0, x, all, 10), 5);
}

/* ---- what is drawn against the analytic distribution ---- */

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

static double adjusted_logit(const struct sampler_input *in, const float *x, int id)
{
    const struct sampling_params *s = in->params;
    double logit = (double)x[id];
    for (int i = 0; i < s->bias_count; i++)
        if (s->bias[i].token == id) logit += (double)s->bias[i].bias;
    for (int i = 0; in->history && i < in->history->count; i++) {
        const struct token_count *t = &in->history->item[i];
        if (t->token != id) continue;
        double repetition = s->repetition_penalty > 0 ? (double)s->repetition_penalty : 1;
        logit = logit > 0 ? logit / repetition : logit * repetition;
        logit -= (double)s->frequency_penalty * t->answer;
        if (t->answer > 0) logit -= (double)s->presence_penalty;
    }
    for (int i = 0; i < in->banned_count; i++)
        if (in->banned[i] == id) logit = (double)-INFINITY;
    return logit;
}

/* Distribution by id, from the definitions: full sorts, in double. */
static void reference(const struct sampler_input *in, const float *x, int n, double *out)
{
    static struct entry e[VOCAB_MAX];
    const struct sampling_params *s = in->params;
    double sum = 0, max = (double)-INFINITY;
    for (int i = 0; i < n; i++) {
        e[i] = (struct entry){adjusted_logit(in, x, i), i};
        max = e[i].p > max ? e[i].p : max;
    }
    for (int i = 0; i < n; i++)
        e[i].p = exp((e[i].p - max) / (double)s->temperature);
    qsort(e, (size_t)n, sizeof *e, compare_entries);
    int kept = s->top_k > 0 && s->top_k < n ? s->top_k : n;
    for (int i = 0; i < kept; i++)
        sum += e[i].p;
    double reached = 0;
    for (int i = 0; i < kept && s->top_p < 1; i++) {
        reached += e[i].p;
        if (reached >= (double)s->top_p * sum) kept = i + 1;
    }
    while (kept > 1 && e[kept - 1].p < (double)s->min_p)
        kept--;
    sum = 0;
    for (int i = 0; i < kept; i++)
        sum += e[i].p;
    for (int i = 0; i < n; i++)
        out[e[i].id] = i < kept ? e[i].p / sum : 0;
}

/* The value that chi-square with `df` degrees of freedom exceeds once in 10,000 times, by E. Wilson
 * and M. Hilferty (1931). */
static double chi_square_limit(int df)
{
    double a = 2.0 / (9.0 * df);
    double cube = 1 - a + 3.719 * sqrt(a);
    return df * cube * cube * cube;
}

/* Seeds are fixed: a correct sampler passes always, a wrong one never gets luckier. */
static void check_against_reference(struct sampler_input in, const float *x, int n, int draws)
{
    static double want[VOCAB_MAX];
    static int got[VOCAB_MAX];
    reference(&in, x, n, want);
    memset(got, 0, sizeof got);
    for (int i = 0; i < draws; i++) {
        in.position = i;
        int id = sampler_draw(&in, x, n, &scratch, NULL);
        NEED(id >= 0 && id < n);
        got[id]++;
    }
    double statistic = 0, rare_want = 0, rare_got = 0;
    int bins = 0;
    for (int i = 0; i < n; i++) {
        double expected = want[i] * draws;
        if (want[i] == 0) EXPECT_INT(got[i], 0); // outside the kept set nothing is ever drawn
        if (expected < 5) {                      // too rare for a bin of its own
            rare_want += expected;
            rare_got += got[i];
            continue;
        }
        statistic += (got[i] - expected) * (got[i] - expected) / expected;
        bins++;
    }
    if (rare_want >= 5) {
        statistic += (rare_got - rare_want) * (rare_got - rare_want) / rare_want;
        bins++;
    }
    if (bins > 1) EXPECT(statistic < chi_square_limit(bins - 1));
}

static void fill_logits(float *x, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed);
    for (int i = 0; i < VOCAB_MAX; i++)
        x[i] = (float)(rng_unit(&rng) + rng_unit(&rng) + rng_unit(&rng) - 1.5) * 6;
}

static void test_filters(void)
{
    static float x[VOCAB_MAX];
    fill_logits(x, 99);
    static const struct {
        float temperature, top_p, min_p;
        int top_k;
    } cases[] = {
        {1, 1, 0, 0},        {0.7f, 1, 0, 0},     {1, 0.9f, 0, 0},      {1, 1, 0, 40},
        {1, 1, 0.1f, 0},     {0.8f, 0.8f, 0, 40}, {2, 0.95f, 0.02f, 0}, {1, 1, 0, 1},
        {1, 1e-6f, 0, 0},    {1, 0.5f, 0.3f, 10}, {1, 0.999f, 0, 2999}, {1, 1, 1, 0},
        {0.01f, 0.9f, 0, 0}, {1, 1, 0, 100000},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct sampling_params s = {.temperature = cases[i].temperature,
                                    .top_p = cases[i].top_p,
                                    .min_p = cases[i].min_p,
                                    .top_k = cases[i].top_k,
                                    .seed = i + 1,
                                    .choice = (uint32_t)i % 3};
        struct sampler_input in = {.params = &s};
        for (int n = 1; n <= VOCAB_MAX; n = n * 7 + 3)
            check_against_reference(in, x, n, 4000);
        check_against_reference(in, x, 24, 40000);
    }
}

/* Bias and penalties, alone, together, and under the filters. */
static void test_adjustments(void)
{
    static float x[VOCAB_MAX];
    static const int32_t prompt[] = {0, 3, 3, 7, 11, 2999}, answer[] = {3, 5, 5, 5, 9, 11},
                         banned[] = {1, 9, 2000};
    static const struct logit_bias bias[] = {{2, 3}, {4, -3}, {5, 1.5f}, {8, -100}, {2500, 9}};
    static const struct {
        float repetition, presence, frequency;
        int bias_count, banned_count;
        float top_p, min_p;
        int top_k;
    } cases[] = {
        {1.5f, 0, 0, 0, 0, 1, 0, 0},       {0.6f, 0, 0, 0, 0, 1, 0, 0},
        {0, 1.2f, 0, 0, 0, 1, 0, 0},       {0, -2, 0, 0, 0, 1, 0, 0},
        {0, 0, 0.7f, 0, 0, 1, 0, 0},       {0, 0, -1, 0, 0, 1, 0, 0},
        {0, 0, 0, 5, 0, 1, 0, 0},          {0, 0, 0, 0, 3, 1, 0, 0},
        {1.3f, 0.5f, 0.4f, 5, 3, 1, 0, 0}, {1.3f, 0.5f, 0.4f, 5, 3, 0.8f, 0.05f, 12},
    };
    fill_logits(x, 7);
    struct token_history history = {0};
    token_history_add_prompt(&history, prompt, ARRAY_LEN(prompt));
    for (size_t i = 0; i < ARRAY_LEN(answer); i++)
        token_history_add(&history, answer[i]);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct sampling_params s = {.temperature = 1,
                                    .top_p = cases[i].top_p,
                                    .min_p = cases[i].min_p,
                                    .top_k = cases[i].top_k,
                                    .seed = 50 + i,
                                    .repetition_penalty = cases[i].repetition,
                                    .presence_penalty = cases[i].presence,
                                    .frequency_penalty = cases[i].frequency,
                                    .bias = bias,
                                    .bias_count = cases[i].bias_count};
        struct sampler_input in = {.params = &s,
                                   .history = penalties_are_on(&s) ? &history : NULL,
                                   .banned = banned,
                                   .banned_count = cases[i].banned_count};
        check_against_reference(in, x, 16, 40000);
        check_against_reference(in, x, 24, 40000);
        check_against_reference(in, x, VOCAB_MAX, 4000);
    }
    token_history_deinit(&history);
}

/* +100 forces, -100 bans, whatever the temperature. */
static void test_bias_forces_and_bans(void)
{
    float x[40];
    for (int i = 0; i < 40; i++)
        x[i] = (float)i;
    struct logit_bias bias[] = {{2, 100}, {999, 100}};
    struct sampling_params s = {.temperature = 2, .top_p = 1, .bias = bias, .bias_count = 2};
    for (int i = 0; i < 300; i++)
        EXPECT_INT(draw(s, i, x, 40), 2);
    bias[0] = (struct logit_bias){39, -100};
    for (int i = 0; i < 300; i++)
        EXPECT(draw(s, i, x, 40) != 39);
}

/* Choices of one prompt are independent draws: no pair of streams agrees more than chance lets it. */
static void test_choices_are_independent(void)
{
    float x[4] = {0, 0, 0, 0};
    int equal = 0, n = 4000;
    struct sampling_params a = {.temperature = 1, .top_p = 1, .seed = 9}, b = a;
    for (uint32_t choice = 1; choice < 6; choice++) {
        b.choice = choice;
        for (int i = 0; i < n; i++)
            equal += draw(a, i, x, 4) == draw(b, i, x, 4);
    }
    /* 20,000 trials at 1/4: the standard deviation is 61. */
    EXPECT(abs(equal - 5 * n / 4) < 4 * 61);
}

/* ---- log-probabilities ---- */

static void check_logprobs(const struct sampler_input *in, const float *x, int n, int token,
                           const struct token_logprob *got, int count)
{
    static double want[VOCAB_MAX];
    static bool seen[VOCAB_MAX];
    int drawable = 0;
    struct sampling_params bare = *in->params;
    struct sampler_input unfiltered = *in;
    bare.temperature = bare.top_p = 1;
    bare.min_p = 0;
    bare.top_k = 0;
    unfiltered.params = &bare;
    reference(&unfiltered, x, n, want);
    memset(seen, 0, sizeof seen);
    for (int id = 0; id < n; id++)
        drawable += want[id] > 0;
    EXPECT_INT(got[0].token, token);
    EXPECT(fabs(exp((double)got[0].logprob) - want[token]) < 1e-6);
    for (int i = 1; i < count; i++) {
        if (got[i].token < 0) {
            EXPECT(i > drawable);
            continue;
        }
        EXPECT(!seen[got[i].token]);
        seen[got[i].token] = true;
        double logprob = log(want[got[i].token]); // kernels/sample.h has the bound
        EXPECT(fabs((double)got[i].logprob - logprob) < 1.2e-6 - 0x1p-23 * logprob);
        if (i > 1) EXPECT(got[i].logprob <= got[i - 1].logprob);
        int higher = 0;
        for (int id = 0; id < n; id++)
            higher += want[id] > want[got[i].token] * (1 + 1e-9);
        EXPECT(higher < i);
    }
}

static void test_logprobs(void)
{
    static float x[VOCAB_MAX];
    static const int32_t banned[] = {1, 2};
    static const int sizes[] = {1, 5, 20, 333, VOCAB_MAX};
    struct token_logprob got[LOGPROBS_MAX];
    struct logit_bias bias = {0, 4};
    fill_logits(x, 3);
    for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
        for (int count = 1; count <= LOGPROBS_MAX; count++) {
            struct sampling_params s = {.temperature = count % 2 ? 0.6f : 0,
                                        .top_p = 0.9f,
                                        .top_k = 50,
                                        .logprobs = count,
                                        .bias = &bias,
                                        .bias_count = count % 3 == 0};
            struct sampler_input in = {.params = &s,
                                       .position = count,
                                       .banned = banned,
                                       .banned_count = sizes[k] > 2 && count > 15 ? 2 : 0};
            int token = sampler_draw(&in, x, sizes[k], &scratch, got);
            check_logprobs(&in, x, sizes[k], token, got, count);
            if (count > 1 && s.temperature == 0) EXPECT_INT(got[1].token, token);
            EXPECT_INT(sampler_draw(&in, x, sizes[k], &scratch, NULL), token);

            struct sampling_params none = {0};
            EXPECT_INT(sampler_score(sizes[k] / 2, x, sizes[k], &scratch, got, count), 0);
            check_logprobs(&(struct sampler_input){.params = &none}, x, sizes[k], sizes[k] / 2, got,
                           count);
        }
    }
    /* A token of the prompt that has no logit, and a row that is broken. */
    EXPECT_INT(sampler_score(5, x, 5, &scratch, got, 2), 0);
    EXPECT(got[0].token == 5 && isinf(got[0].logprob) && got[1].token >= 0);
    x[1] = NAN;
    EXPECT_INT(sampler_score(0, x, 5, &scratch, got, 2), E_DEVICE);
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
        EXPECT_INT(sampler_draw(&(struct sampler_input){.params = &s, .position = i}, x, VOCAB_MAX,
                                &fresh, NULL),
                   first[i]);
    sampler_scratch_deinit(&fresh);
}

int main(void)
{
    RUN(test_philox_known_answers);
    RUN(test_uniform);
    RUN(test_greedy);
    RUN(test_not_finite_is_an_error);
    RUN(test_banned);
    RUN(test_filters);
    RUN(test_adjustments);
    RUN(test_bias_forces_and_bans);
    RUN(test_choices_are_independent);
    RUN(test_logprobs);
    RUN(test_ties);
    RUN(test_draws_repeat);
    sampler_scratch_deinit(&scratch);
    return TEST_END();
}
