/* Every model of the fixtures on several ranks: logits bit for bit those of one rank, which
 * test_golden_models compares with the reference. So the margin rule of the fixtures holds for any number
 * of ranks as it does for one. A family that appears as a folder or file is tested without a new line
 * here.
 *
 * Another backend (LM_TEST_BACKEND) is compared with the CPU's one rank: the same ids, logits within the
 * reference's tolerance, FP8 in 16 bits too. It may refuse what can't be cut, and nothing else. */
#include "engine/weights.h"
#include "shared/base/json.h"
#include "tests/golden/fixtures.h"
#include "tests/rank_runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT          192
#define PROMPT_MAX       130
#define STEPS            3 // greedy ids behind the prompt, one step each
#define MODELS_MAX       64

#define QUICK_PROMPT_MAX 40 // of an emulated device, on which a step takes a hundred times as long

static int compared;

static int argmax(const float *logits, int vocab)
{
    int best = 0;
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* A prompt in two steps and some greedy ids: logits of all, [count + STEPS][vocab]. */
static float *run_prompt(struct rank_runner *r, const struct json *prompt, size_t *floats)
{
    static const int32_t pages[] = {2, 0, 1};
    int32_t ids[PROMPT_MAX + STEPS], rows[PROMPT_MAX];
    int vocab = r->whole->vocab, count = 0, past = 0;
    for (const struct json *id = json_first(prompt); id; id = json_next(id))
        ids[count++] = (int32_t)json_number(id);
    float *logits = xcalloc((size_t)(count + STEPS) * (size_t)vocab, sizeof *logits);
    for (int i = 0; i < PROMPT_MAX; i++)
        rows[i] = i;
    while (past < count + STEPS) {
        int tokens = past == 0 && count > 1 ? count / 2 : past < count ? count - past : 1;
        struct step_sequence sequence = {.count = tokens, .past = past, .blocks = pages};
        struct step step = {.tokens = tokens,
                            .ids = ids + past,
                            .sequences = 1,
                            .sequence = &sequence,
                            .rows = tokens,
                            .row = rows};
        float *to = logits + (size_t)past * (size_t)vocab;
        memcpy(to, rank_runner_step(r, &step), (size_t)tokens * (size_t)vocab * sizeof *to);
        past += tokens;
        if (past >= count && past < count + STEPS)
            ids[past] = argmax(logits + (size_t)(past - 1) * (size_t)vocab, vocab);
    }
    *floats = (size_t)(count + STEPS) * (size_t)vocab;
    return logits;
}

static const struct json *longest_prompt(const struct json *ref, size_t most)
{
    const struct json *found = NULL;
    for (const struct json *p = json_first(json_get(ref, "prompts")); p; p = json_next(p))
        if (json_len(p) <= most && (!found || json_len(p) >= json_len(found))) found = p;
    NEED(found);
    return found;
}

struct subject {
    const char *label, *path;
    const struct json *prompt;
};

struct outcome {
    float *logits; // NULL: the model can't be cut so
    size_t floats;
    int heads, vocab;
    const char *format; // struct weights.format
};

static struct outcome run_model(const struct subject *s, const struct backend_ops *ops, int world,
                                enum compute_type compute)
{
    struct weights *w;
    struct error err = {0};
    struct weights_options options = {
        .compute = compute, .plain_inputs = !ops->input_orders, .scale_grids = ops->scale_grids};
    if (weights_open_with(s->path, &options, &w, &err) < 0) {
        printf("%s\n", err.text);
        NEED(0);
    }
    struct rank_runner r = {.ops = ops,
                            .whole = &w->params,
                            .limits = {PROMPT_MAX, 1, PROMPT_MAX, CONTEXT},
                            .compute = compute,
                            .kv_type = compute == COMPUTE_F32 ? KV_F32 : KV_F16,
                            .world = world,
                            .pages = 3};
    struct outcome o = {.heads = w->params.heads, .vocab = w->params.vocab, .format = w->format};
    if (rank_runner_open(&r, &err)) {
        o.logits = run_prompt(&r, s->prompt, &o.floats);
        rank_runner_close(&r);
    } else {
        printf("%s on %d ranks: %s\n", s->label, world, err.text);
    }
    weights_close(w); // what ranks packed they have, and what they read they have packed
    return o;
}

static void check_bits(const struct subject *s)
{
    static const int worlds[] = {2, 3, 4};
    static const enum compute_type types[] = {COMPUTE_F32, COMPUTE_AUTO};
    const struct backend_ops *cpu = backend_find("cpu");
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct outcome want = run_model(s, cpu, 1, types[i]);
        NEED(want.logits);
        for (size_t j = 0; j < ARRAY_LEN(worlds); j++) {
            struct outcome got = run_model(s, cpu, worlds[j], types[i]);
            if (worlds[j] > got.heads) { // a rank without a head
                EXPECT(!got.logits);
                free(got.logits);
                continue;
            }
            NEED(got.logits);
            EXPECT_INT(got.floats, want.floats);
            bool equal = !memcmp(got.logits, want.logits, want.floats * sizeof *got.logits);
            if (!equal) printf("%s: other bits on %d ranks\n", s->label, worlds[j]);
            EXPECT(equal);
            compared++;
            free(got.logits);
        }
        free(want.logits);
    }
}

static void compare_near(const struct subject *s, int world, const struct outcome *got,
                         const struct outcome *want, double tolerance, bool is_rounded)
{
    size_t vocab = (size_t)want->vocab;
    double error = 0;
    int wrong = 0;
    EXPECT_INT(got->floats, want->floats);
    for (size_t i = 0; i < want->floats; i++)
        error = fmax(error, fabs((double)got->logits[i] - (double)want->logits[i]));
    for (size_t i = 0; i < want->floats; i += vocab)
        wrong += argmax(got->logits + i, want->vocab) != argmax(want->logits + i, want->vocab);
    printf("  %-16s %d ranks: error %.6f (%.4f allowed), %d ids wrong\n", s->label, world, error,
           tolerance, wrong);
    EXPECT(error <= tolerance);
    if (!is_rounded) EXPECT_INT(wrong, 0);
    compared++;
}

/* What tp_shard_plan refuses is test_tp_shard's; the backend takes all of the rest. Scales beside weights are cut
 * with them where they aren't dequantised before. */
static void check_near(const struct subject *s, const struct backend_ops *ops, double tolerance,
                       double rounded)
{
    static const int worlds[] = {2, 4};
    static const enum compute_type types[] = {COMPUTE_AUTO, COMPUTE_F16}; // on two ranks
    struct outcome want = run_model(s, backend_find("cpu"), 1, COMPUTE_F32);
    NEED(want.logits);
    for (size_t j = 0; j < ARRAY_LEN(worlds); j++) {
        struct outcome got = run_model(s, ops, worlds[j], COMPUTE_F32);
        if (got.logits) compare_near(s, worlds[j], &got, &want, tolerance, false);
        free(got.logits);
        if (!ops->scale_grids || strcmp(want.format, "fp8") != 0) continue;
        for (size_t k = 0; k < (worlds[j] == 2 ? ARRAY_LEN(types) : 1); k++) {
            got = run_model(s, ops, worlds[j], types[k]);
            NEED(got.logits);
            compare_near(s, worlds[j], &got, &want, types[k] == COMPUTE_F16 ? rounded / 8 : rounded,
                         true);
            free(got.logits);
        }
    }
    free(want.logits);
}

static void check_path(const char *label, const char *path, const struct json *ref)
{
    const char *other = getenv("LM_TEST_BACKEND");
    struct subject s = {label, path, longest_prompt(ref, other ? QUICK_PROMPT_MAX : PROMPT_MAX)};
    if (!other) {
        check_bits(&s);
        return;
    }
    NEED(backend_find(other));
    check_near(&s, backend_find(other), json_number(json_get(ref, "f32_tolerance")),
               2 * json_number(json_get(ref, "bf16_deviation")));
}

static void test_ranks(void)
{
    static char names[MODELS_MAX][64];
    const char *only = getenv("LM_ONLY"); // names, separated by commas
    int count = fixture_names("models", names, MODELS_MAX);
    for (int i = 0; i < count; i++) {
        char relative[160], label[80], folder[1200];
        if (only && !fixture_is_listed(only, names[i])) continue;
        snprintf(relative, sizeof relative, "models/%s/reference.json", names[i]);
        struct json *ref = fixture_json(relative);
        NEED(ref);
        snprintf(relative, sizeof relative, "models/%s/config.json", names[i]);
        const char *config = fixture_path(relative);
        if (config) {
            snprintf(folder, sizeof folder, "%.*s", (int)(strlen(config) - strlen("/config.json")),
                     config);
            check_path(names[i], folder, ref);
        }
        snprintf(relative, sizeof relative, "gguf/%s.gguf", names[i]);
        snprintf(label, sizeof label, "%s.gguf", names[i]);
        if (fixture_path(relative) && !getenv("LM_TEST_BACKEND"))
            check_path(label, fixture_path(relative), ref);
        json_destroy(ref);
    }
    printf("%d compared\n", compared);
    EXPECT(only || compared >= 30); // of the small copies in the tree
}

int main(void)
{
    RUN(test_ranks);
    return TEST_END();
}
