#include "proxy/model_stats.h"

#include "shared/base/check.h"
#include "tests/test.h"

#include <math.h>

static struct model_stats s;

static bool is_near(double got, double want, double share)
{
    return fabs(got - want) <= want * share;
}

static void test_starts_with_a_guess_and_learns(void)
{
    model_stats_init(&s);
    struct model_estimate e = model_stats_get(&s, STR("m"));
    EXPECT(e.bytes_per_token == 4 && e.output_tokens == 128);
    EXPECT(model_estimate_prompt(&e, 400, 0) == 100);
    EXPECT(model_estimate_prompt(&e, 400, 2) == 100 + 2 * MODEL_STATS_IMAGE_TOKENS);
    EXPECT(model_estimate_prompt(&e, 0, 0) == 1);
    for (int i = 0; i < 100; i++)
        model_stats_note(&s, STR("m"), 1500, 1000, 700); // Chinese, say
    e = model_stats_get(&s, STR("m"));
    EXPECT(is_near(e.bytes_per_token, 1.5, 0.01));
    EXPECT(is_near(e.output_tokens, 700, 0.01));
    EXPECT(model_stats_get(&s, STR("other")).output_tokens == 128);
    for (int i = 0; i < 100; i++)
        model_stats_note(&s, STR("m"), 5000, 1000, 10);
    e = model_stats_get(&s, STR("m"));
    EXPECT(is_near(e.bytes_per_token, 5, 0.01));
    EXPECT(is_near(e.output_tokens, 10, 0.2));
    model_stats_deinit(&s);
}

/* Of "hi" most tokens are the template's: it says little about the tokenizer. */
static void test_long_prompts_weigh_more(void)
{
    model_stats_init(&s);
    for (int i = 0; i < 200; i++) {
        model_stats_note(&s, STR("m"), 15, 30, 0);
        model_stats_note(&s, STR("m"), 40000, 10000, 0);
    }
    EXPECT(is_near(model_stats_get(&s, STR("m")).bytes_per_token, 4, 0.02));
    model_stats_deinit(&s);
}

static void test_nonsense_is_not_learned(void)
{
    model_stats_init(&s);
    model_stats_note(&s, STR("m"), 0, 100, 0);
    model_stats_note(&s, STR("m"), 100, 0, -4);
    model_stats_note(&s, STR("m"), 1e9, 1, 0);
    model_stats_note(&s, STR("m"), 1, 1e9, 0);
    model_stats_note(&s, STR("m"), (double)__builtin_nanf(""), 10, (double)__builtin_nanf(""));
    struct model_estimate e = model_stats_get(&s, STR("m"));
    EXPECT(e.bytes_per_token == 4 && e.output_tokens == 128);
    model_stats_note(&s, STR("m"), 0, 0, 1e300);
    EXPECT(model_stats_get(&s, STR("m")).output_tokens < 1e6);
    model_stats_deinit(&s);
}

static void test_limit_of_the_request(void)
{
    struct model_estimate e = {.bytes_per_token = 4, .output_tokens = 100};
    EXPECT(model_estimate_output(&e, 0) == 100);
    EXPECT(model_estimate_output(&e, 20) == 20);
    EXPECT(model_estimate_output(&e, 5000) == 100);
}

/* Any number of names; those in use are kept. */
static void test_bounded(void)
{
    model_stats_init(&s);
    for (int i = 0; i < 40; i++)
        model_stats_note(&s, STR("kept"), 2000, 1000, 50);
    for (int i = 0; i < 20000; i++) {
        char name[32];
        int len = snprintf(name, sizeof name, "model-%d", i);
        model_stats_note(&s, (struct str){name, (size_t)len}, 900, 1000, 3);
        (void)model_stats_get(&s, STR("kept"));
    }
    EXPECT(is_near(model_stats_get(&s, STR("kept")).bytes_per_token, 2, 0.05));
    EXPECT(model_stats_get(&s, STR("model-0")).bytes_per_token == 4); // made room
    model_stats_deinit(&s);
}

int main(void)
{
    RUN(test_starts_with_a_guess_and_learns);
    RUN(test_long_prompts_weigh_more);
    RUN(test_nonsense_is_not_learned);
    RUN(test_limit_of_the_request);
    RUN(test_bounded);
    return TEST_END();
}
