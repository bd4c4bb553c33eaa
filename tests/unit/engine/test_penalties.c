/* Histories against counting everything again. */
#include "engine/penalties.h"

#include "engine/sampler.h"
#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

#include <math.h>

#define VOCAB 500

static void test_switches(void)
{
    static const struct {
        struct sampling_params params;
        bool on;
    } cases[] = {
        {{.repetition_penalty = 0}, false},   {{.repetition_penalty = 1}, false},
        {{.repetition_penalty = 1.1f}, true}, {{.repetition_penalty = 0.5f}, true},
        {{.presence_penalty = -1}, true},     {{.frequency_penalty = 0.1f}, true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        EXPECT(penalties_are_on(&cases[i].params) == cases[i].on);
}

static void test_counts(void)
{
    struct token_history h = {0};
    int in_prompt[VOCAB] = {0}, in_answer[VOCAB] = {0}, distinct = 0;
    struct rng rng;
    rng_init(&rng, 4);
    for (int i = 0; i < 2000; i++) {
        int32_t token = (int32_t)rng_below(&rng, i < 1000 ? 40 : VOCAB);
        bool is_prompt = i < 100;
        if (!in_prompt[token] && !in_answer[token]) distinct++;
        if (is_prompt) {
            in_prompt[token]++;
            token_history_add_prompt(&h, &token, 1);
        } else {
            in_answer[token]++;
            token_history_add(&h, token);
        }
        EXPECT_INT(h.count, distinct);
    }
    for (int i = 0; i < h.count; i++)
        EXPECT_INT(h.item[i].answer, in_answer[h.item[i].token]);
    token_history_deinit(&h);
    EXPECT_INT(h.count, 0);
}

static void test_apply(void)
{
    static const int32_t prompt[] = {0, 1, 9, 50};
    struct token_history h = {0};
    static const float x[10] = {2, -2, 2, -2, 1, 1, 1, 1, 1, 0};
    token_history_add_prompt(&h, prompt, ARRAY_LEN(prompt));
    token_history_add(&h, 2);
    token_history_add(&h, 3);
    token_history_add(&h, 3);
    token_history_add(&h, 0);
    struct sampling_params s = {
        .top_p = 1, .repetition_penalty = 2, .presence_penalty = 0.25f, .frequency_penalty = 0.5f};
    struct sampler_scratch scratch = {0};
    struct sampler_input in = {.params = &s, .history = &h};
    EXPECT_INT(sampler_draw(&in, x, 10, &scratch, NULL), 4); // token 50 has no logit
    static const float want[10] = {0.25f, -4, 0.25f, -5.25f, 1, 1, 1, 1, 1, 0};
    for (int i = 0; i < 10; i++)
        EXPECT(scratch.draw.adjusted[i] == want[i]);
    sampler_scratch_deinit(&scratch);
    token_history_deinit(&h);
}

/* Nothing that the numbers can do hangs a draw. */
static void test_overflow(void)
{
    float x[4] = {3e38f, 1, 2, 3};
    struct token_history h = {0};
    struct sampler_scratch scratch = {0};
    struct sampling_params s = {.temperature = 1, .top_p = 1, .repetition_penalty = 1e-30f};
    struct sampler_input in = {.params = &s, .history = &h};
    token_history_add(&h, 0);
    EXPECT_INT(sampler_draw(&in, x, 4, &scratch, NULL), E_DEVICE);
    x[0] = -3e38f;
    s.repetition_penalty = 1e30f; // -infinity: it is only never drawn
    for (int i = 0; i < 50; i++) {
        in.position = i;
        EXPECT(sampler_draw(&in, x, 4, &scratch, NULL) > 0);
    }
    sampler_scratch_deinit(&scratch);
    token_history_deinit(&h);
}

int main(void)
{
    RUN(test_switches);
    RUN(test_counts);
    RUN(test_apply);
    RUN(test_overflow);
    return TEST_END();
}
