/* The default model against transformers in float32: logits, greedy texts, likelihood, a long
 * context. Bounds are those of the fixtures' README; what is measured is printed. */
#include "engine/tokenizer.h"
#include "tests/golden/golden_model.h"

#define GREEDY_MAX 96
#define LONG       2500
#define TOP        20

struct bounds {
    const char *name;
    enum compute_type compute;
    enum kv_type kv_type;
    double logit;   // top-20 logits after removing their common offset
    double margin;  // greedy must agree up to the first margin below it
    double nll;     // of the mean
    int top1_wrong; // positions of the text whose argmax may differ
    int steps;      // greedy steps to compare at most: the float path is slow under sanitizers
};

static const struct bounds float_path = {"float", COMPUTE_F32, KV_F32, 0.02, 0.02, 0.002, 2, 32};
static const struct bounds int8_path = {"int8", COMPUTE_AUTO, KV_F16, 0.35,
                                        0.35,   0.02,         46,     GREEDY_MAX};
static const struct bounds int8_pages = {
    "int8, int8 pages", COMPUTE_AUTO, KV_INT8, 0.45, 0.35, 0.02, 46, GREEDY_MAX};

static struct json *reference;
static struct weights *weights;
static struct tokenizer *tokenizer;
static const struct bounds *bounds;
static struct golden_model model;

/* Largest difference of the reference's top logits from ours, less the mean difference. */
static double top_error(const float *logits, const struct json *top)
{
    double difference[TOP], mean = 0, worst = 0;
    int n = 0;
    for (const struct json *pair = json_first(top); pair && n < TOP; pair = json_next(pair), n++) {
        const struct json *id = json_first(pair);
        difference[n] = (double)logits[(int)json_number(id)] - json_number(json_next(id));
        mean += difference[n];
    }
    NEED(n == TOP);
    for (int i = 0; i < n; i++) {
        double error = fabs(difference[i] - mean / n);
        if (error > worst) worst = error;
    }
    return worst;
}

/* ---- greedy continuations: all prompts at once, one batch per step ---- */

struct continuation {
    struct golden_sequence sequence;
    const struct json *want, *margin;
    bool open; // still clear enough to compare
};

static int collect(const char *list, struct continuation *out, int n, double *worst)
{
    for (const struct json *c = json_first(json_get(reference, list)); c; c = json_next(c), n++) {
        NEED(n < GOLDEN_SEQUENCES);
        out[n].want = json_first(json_get(c, "greedy"));
        out[n].margin = json_first(json_get(c, "margin"));
        out[n].open = true;
        golden_sequence_init(&out[n].sequence, json_get(c, "ids"), GREEDY_MAX);
        const float *logits = golden_prefill(&model, &out[n].sequence);
        double error = top_error(logits, json_get(c, "logit_top20"));
        if (error > *worst) *worst = error;
        int id = golden_argmax(logits, model.vocab);
        out[n].sequence.ids[out[n].sequence.count++] = id;
    }
    return n;
}

/* Compare the newest id of each; true while any is worth going on. */
static bool compare_step(struct continuation *c, int n, int *compared, int *wrong)
{
    bool any = false;
    for (int i = 0; i < n; i++) {
        if (!c[i].open) continue;
        int id = c[i].sequence.ids[c[i].sequence.count - 1];
        if (json_number(c[i].margin) < bounds->margin) {
            c[i].open = false;
            continue;
        }
        ++*compared;
        if (id != (int)json_number(c[i].want)) {
            ++*wrong;
            c[i].open = false;
            continue;
        }
        c[i].want = json_next(c[i].want);
        c[i].margin = json_next(c[i].margin);
        c[i].open = c[i].want != NULL;
        any |= c[i].open;
    }
    return any;
}

static void test_prompts_and_greedy(void)
{
    static struct continuation c[GOLDEN_SEQUENCES];
    struct golden_sequence *open[GOLDEN_SEQUENCES];
    struct continuation *owner[GOLDEN_SEQUENCES];
    int counts[GOLDEN_SEQUENCES], compared = 0, wrong = 0;
    double worst = 0;
    int n = collect("completions", c, collect("conversations", c, 0, &worst), &worst);
    for (int step = 0; compare_step(c, n, &compared, &wrong) && step < bounds->steps; step++) {
        int active = 0;
        for (int i = 0; i < n; i++) {
            if (!c[i].open) continue;
            owner[active] = &c[i];
            counts[active] = 1;
            open[active++] = &c[i].sequence;
        }
        const float *logits = golden_step(&model, open, counts, active, false);
        for (int i = 0; i < active; i++) {
            struct golden_sequence *s = &owner[i]->sequence;
            s->ids[s->count++] =
                golden_argmax(logits + (size_t)i * (size_t)model.vocab, model.vocab);
        }
    }
    printf("  %s: %d prompts, logits within %.4f (%.2f allowed), greedy: %d steps compared, %d "
           "wrong\n",
           bounds->name, n, worst, bounds->logit, compared, wrong);
    EXPECT_INT(n, 13);
    EXPECT(worst <= bounds->logit);
    EXPECT_INT(wrong, 0);
    EXPECT(compared >= n);
    for (int i = 0; i < n; i++)
        golden_sequence_deinit(&model, &c[i].sequence);
}

/* ---- a text: likelihood and argmax at every position ---- */

static double log_likelihood(const float *logits, int vocab, int id)
{
    double max = (double)logits[golden_argmax(logits, vocab)], sum = 0;
    for (int i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - max);
    return (double)logits[id] - max - log(sum);
}

static void encode_text(struct token_list *ids)
{
    struct error err;
    size_t len;
    const struct json *p = json_get(reference, "perplexity");
    const char *text = json_string(json_get(p, "text"), &len);
    NEED(tokenizer_encode(tokenizer, text, len, 0, ids, &err) == 0);
    EXPECT_INT(ids->count, json_number(json_get(p, "ids")));
}

static void test_likelihood(void)
{
    const struct json *p = json_get(reference, "perplexity");
    const struct json *top1 = json_first(json_get(p, "top1"));
    struct token_list ids = {0};
    encode_text(&ids);
    struct golden_sequence s = {.ids = ids.ids, .count = (int)ids.count}, *one = &s;
    double nll = 0;
    int wrong = 0;
    for (int first = 0; first < s.count;) {
        int chunk = s.count - first < 64 ? s.count - first : 64;
        const float *logits = golden_step(&model, &one, &chunk, 1, true);
        for (int i = 0; i < chunk; i++, logits += model.vocab, top1 = json_next(top1)) {
            wrong += golden_argmax(logits, model.vocab) != (int)json_number(top1);
            if (first + i + 1 < s.count)
                nll -= log_likelihood(logits, model.vocab, s.ids[first + i + 1]);
        }
        first += chunk;
    }
    double mean = nll / (s.count - 1), want = json_number(json_get(p, "mean_nll"));
    printf("  %s: mean NLL %.5f, reference %.4f (%.3f apart allowed), argmax differs at %d of %d\n",
           bounds->name, mean, want, bounds->nll, wrong, s.count);
    EXPECT(fabs(mean - want) <= bounds->nll);
    EXPECT(wrong <= bounds->top1_wrong);
    block_table_release(&s.table, &model.kv);
    token_list_deinit(&ids);
}

static void test_long_context(void)
{
    struct token_list ids = {0};
    struct golden_sequence s = {.count = LONG};
    encode_text(&ids);
    s.ids = xcalloc(LONG, sizeof *s.ids);
    for (size_t i = 0; i < LONG; i++)
        s.ids[i] = ids.ids[i % ids.count];
    const float *logits = golden_prefill(&model, &s);
    double error = top_error(logits, json_get(json_get(reference, "long"), "logit_top20"));
    printf("  %s: logits at position %d within %.4f (%.2f allowed)\n", bounds->name, LONG, error,
           bounds->logit);
    EXPECT(error <= bounds->logit);
    golden_sequence_deinit(&model, &s);
    token_list_deinit(&ids);
}

static void run(const struct bounds *b)
{
    bounds = b;
    golden_open(&model, weights, b->compute, b->kv_type, 256, LONG);
    RUN(test_prompts_and_greedy);
    RUN(test_likelihood);
    RUN(test_long_context);
    golden_close(&model);
}

int main(void)
{
    const char *path = fixture_model();
    struct error err;
    if (!path) test_skip("the default model isn't here: scripts/fetch-model, or LM_MODEL=FILE");
    reference = fixture_json("smollm2/reference.json");
    NEED(reference != NULL);
    NEED(weights_open(path, &weights, &err) == 0);
    NEED(tokenizer_load_gguf(weights->gguf, &tokenizer, &err) == 0);
    run(&int8_path);
    run(&int8_pages);
    run(&float_path);
    tokenizer_destroy(tokenizer);
    weights_close(weights);
    json_destroy(reference);
    return TEST_END();
}
