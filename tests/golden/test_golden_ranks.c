/* Every model of the fixtures on several ranks: logits bit for bit those of one rank, which
 * test_golden_models compares with the reference. So the margin rule of the fixtures holds for any number
 * of ranks as it does for one. A family that appears as a folder or file is tested without a new line
 * here. */
#include "engine/weights.h"
#include "shared/base/json.h"
#include "tests/golden/fixtures.h"
#include "tests/rank_runner.h"

#include <stdlib.h>
#include <string.h>

#define CONTEXT    192
#define PROMPT_MAX 130
#define STEPS      3 // greedy ids behind the prompt, one step each
#define MODELS_MAX 64

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

/* Logits of the longest prompt; NULL: refused, or the model can't be run. */
static float *run_model(const char *label, const char *path, int world, enum compute_type compute,
                        const struct json *ref, size_t *floats, int *heads)
{
    struct weights *w;
    struct error err = {0};
    if (weights_open_with(path, &(struct weights_options){.compute = compute}, &w, &err) < 0) {
        printf("%s\n", err.text);
        NEED(0);
    }
    *heads = w->params.heads;
    struct rank_runner r = {.whole = &w->params,
                            .limits = {PROMPT_MAX, 1, PROMPT_MAX, CONTEXT},
                            .compute = compute,
                            .kv_type = compute == COMPUTE_F32 ? KV_F32 : KV_F16,
                            .world = world,
                            .pages = 3};
    const struct json *prompt = json_first(json_get(ref, "prompts"));
    while (json_next(prompt))
        prompt = json_next(prompt);
    float *logits = NULL;
    if (rank_runner_open(&r, &err)) {
        logits = run_prompt(&r, prompt, floats);
        rank_runner_close(&r);
    } else {
        printf("%s on %d ranks: %s\n", label, world, err.text);
    }
    weights_close(w); // what ranks packed they have, and what they read they have packed
    return logits;
}

static void check_path(const char *label, const char *path, const struct json *ref)
{
    static const int worlds[] = {2, 3, 4};
    static const enum compute_type types[] = {COMPUTE_F32, COMPUTE_AUTO};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        size_t floats, count;
        int heads;
        float *want = run_model(label, path, 1, types[i], ref, &count, &heads);
        NEED(want);
        for (size_t j = 0; j < ARRAY_LEN(worlds); j++) {
            float *got = run_model(label, path, worlds[j], types[i], ref, &floats, &heads);
            if (worlds[j] > heads) { // a rank without a head
                EXPECT(!got);
                free(got);
                continue;
            }
            NEED(got);
            EXPECT_INT(floats, count);
            bool equal = !memcmp(got, want, count * sizeof *got);
            if (!equal) printf("%s: other bits on %d ranks\n", label, worlds[j]);
            EXPECT(equal);
            compared++;
            free(got);
        }
        free(want);
    }
}

static void test_ranks(void)
{
    static char names[MODELS_MAX][64];
    const char *only = getenv("LM_ONLY");
    int count = fixture_names("models", names, MODELS_MAX);
    for (int i = 0; i < count; i++) {
        char relative[160], label[80], folder[1200];
        if (only && strcmp(only, names[i]) != 0) continue;
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
        if (fixture_path(relative)) check_path(label, fixture_path(relative), ref);
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
