/* Every model of the fixtures against its reference: a Hugging Face folder with its config.json in
 * both styles, and the GGUF file of the same name if there is one. A family that appears as a folder
 * is tested without a new line here; one that we refuse has to be in the list of refusals.
 *
 * Float path: every logit within f32_tolerance, all argmaxes and greedy ids equal. Reduced path: every
 * logit within 2 x bf16_deviation, greedy ids equal up to the first step whose margin is below that;
 * not for mixtures of experts, whose routes may flip. A device has an eighth of that in float16, in which its
 * activations are too; experts keep the bound, since their deviation has flips in it. */
#include "tests/golden/golden_model.h"

#include <dirent.h>
#include <unistd.h>

#define PROMPT_MAX 130
#define GREEDY     24
#define MODELS_MAX 128

/* What we don't serve, and the words that the refusal has to hold. */
static const struct {
    const char *model, *reason;
} refusals[] = {
    {NULL, NULL}, // none at present
};

/* GGUF files that say less than the folder that they were made from. */
struct conversion {
    const char *model;
    double rounding;        // added to the tolerance of logits
    double attention_scale; // 0: the file's
};

static const struct conversion conversions[] = {
    /* Float32 weights were stored as float16. A float64 forward over the rounded weights, written
     * independently in numpy, is that far off. */
    {.model = "llama2", .rounding = 0.00855},
    /* query_pre_attn_scalar is 24; the format has no key for it and readers take head_dim, 32. */
    {.model = "gemma3", .attention_scale = 0.20412414523193154},
};

/* On an emulated device (LM_TEST_BACKEND) a step takes a hundred times as long: prompts of up to 40
 * tokens, fewer steps, and one file of each model. */
#define QUICK_PROMPT_MAX 40
#define QUICK_GREEDY     6

static bool quick(void)
{
    return getenv("LM_TEST_BACKEND") != NULL;
}

struct subject {
    const char *label, *model, *path;
    const struct conversion *conversion;
};

static int compared, refused;

struct comparison {
    double error;     // largest of a logit
    int wrong_top;    // positions whose argmax differs
    int wrong_greedy; // steps before the first one too close to call
    int positions, greedy, prompts;
};

struct expected {
    const struct json *prompt, *top, *rows, *greedy, *margin;
};

static void compare_row(struct comparison *c, const float *logits, const struct json *want)
{
    int i = 0;
    for (const struct json *v = json_first(want); v; v = json_next(v), i++)
        c->error = fmax(c->error, fabs((double)logits[i] - json_number(v)));
}

static void compare_prompt(struct golden_model *m, struct comparison *c, const struct expected *e)
{
    struct golden_sequence s, *one = &s;
    golden_sequence_init(&s, e->prompt, 0);
    const float *logits = golden_step(m, &one, &s.count, 1, true);
    int i = 0;
    for (const struct json *v = json_first(e->top); v; v = json_next(v), i++, c->positions++)
        c->wrong_top +=
            golden_argmax(logits + (size_t)i * (size_t)m->vocab, m->vocab) != (int)json_number(v);
    int at = s.count - (int)json_len(e->rows);
    for (const struct json *row = json_first(e->rows); row; row = json_next(row), at++) {
        EXPECT_INT(json_len(row), m->vocab);
        compare_row(c, logits + (size_t)at * (size_t)m->vocab, row);
    }
    golden_sequence_deinit(m, &s);
}

/* Greedy ids up to the first step whose margin is below `close`, and at most `steps`. */
static void compare_greedy(struct golden_model *m, struct comparison *c, const struct expected *e,
                           double close, int steps)
{
    struct golden_sequence s;
    golden_sequence_init(&s, e->prompt, GREEDY);
    const struct json *want = json_first(e->greedy), *margin = json_first(e->margin);
    for (; want && steps-- > 0 && json_number(margin) >= close;
         want = json_next(want), margin = json_next(margin)) {
        int id = golden_argmax(golden_prefill(m, &s), m->vocab);
        c->greedy++;
        c->wrong_greedy += id != (int)json_number(want);
        s.ids[s.count++] = (int32_t)json_number(want);
    }
    golden_sequence_deinit(m, &s);
}

static struct weights *open_subject(const struct subject *s, enum compute_type compute)
{
    struct weights *w;
    struct error err = {0};
    struct weights_options options = {.compute = compute,
                                      .plain_inputs = !golden_backend()->input_orders,
                                      .scale_grids = golden_backend()->scale_grids};
    NEED(weights_open_with(s->path, &options, &w, &err) == 0);
    if (s->conversion->attention_scale > 0)
        w->params.attention_scale = (float)s->conversion->attention_scale;
    return w;
}

static bool grows_with_length(const struct weights *w)
{
    return w->config.rope[0].scaling == ROPE_SCALING_DYNAMIC;
}

static enum kv_type kv_type_of(enum compute_type compute)
{
    return compute == COMPUTE_F32 ? KV_F32 : compute == COMPUTE_BF16 ? KV_BF16 : KV_F16;
}

/* A model of its own for each prompt: where the rope table depends on length it is chosen from the
 * prompt's, as for a request. Where the reference computes the table anew at every step, and the
 * prompt is beyond what the plain one is for, only the first step is comparable. */
static void compare_one(const struct subject *s, struct comparison *c, const struct expected *e,
                        enum compute_type compute, double close)
{
    struct golden_model m;
    struct weights *w = open_subject(s, compute);
    int length = (int)json_len(e->prompt), steps = quick() ? QUICK_GREEDY : GREEDY;
    golden_set_lengths(w, &length, 1);
    golden_open(&m, w, compute, kv_type_of(compute), PROMPT_MAX, PROMPT_MAX + GREEDY);
    if (grows_with_length(w) && length > w->config.rope[0].original_len) steps = 1;
    compare_prompt(&m, c, e);
    compare_greedy(&m, c, e, close, steps);
    golden_close(&m);
    weights_close(w);
    c->prompts++;
}

static struct comparison compare(const struct subject *s, const struct json *ref,
                                 enum compute_type compute, double close)
{
    struct comparison c = {0};
    struct expected e = {
        json_first(json_get(ref, "prompts")), json_first(json_get(ref, "top")),
        json_first(json_get(ref, "logits")),  json_first(json_get(ref, "greedy")),
        json_first(json_get(ref, "margin")),
    };
    while (e.prompt) {
        if (quick() && json_len(e.prompt) > QUICK_PROMPT_MAX)
            c.prompts++;
        else
            compare_one(s, &c, &e, compute, close);
        e = (struct expected){json_next(e.prompt), json_next(e.top), json_next(e.rows),
                              json_next(e.greedy), json_next(e.margin)};
    }
    return c;
}

static void show(const char *label, const char *path, const struct comparison *c, double allowed)
{
    printf("  %-24s %-8s error %.6f (%.4f allowed), argmax %d/%d, greedy %d/%d wrong\n", label,
           path, c->error, allowed, c->wrong_top, c->positions, c->wrong_greedy, c->greedy);
}

static void check_reduced(const struct subject *s, const struct json *ref, const char *path,
                          enum compute_type compute, double allowed)
{
    struct comparison c = compare(s, ref, compute, allowed);
    show(s->label, path, &c, allowed);
    EXPECT(c.error <= allowed);
    EXPECT_INT(c.wrong_greedy, 0);
    EXPECT(c.positions > 0);
}

static void check_answers(const struct subject *s, const struct json *ref, bool has_experts)
{
    double tolerance = json_number(json_get(ref, "f32_tolerance")) + s->conversion->rounding;
    double reduced = 2 * json_number(json_get(ref, "bf16_deviation"));
    struct comparison c = compare(s, ref, COMPUTE_F32, 0);
    show(s->label, "float", &c, tolerance);
    EXPECT(c.error <= tolerance);
    EXPECT_INT(c.wrong_top, 0);
    EXPECT_INT(c.wrong_greedy, 0);
    EXPECT_INT(c.prompts, json_len(json_get(ref, "prompts")));
    EXPECT(c.positions > 0 && c.greedy > (quick() ? QUICK_GREEDY : GREEDY));
    compared++;
    if (quick() && fixture_is_float16(s->model))
        check_reduced(s, ref, "float16", COMPUTE_F16, has_experts ? reduced : reduced / 8);
    if (has_experts) return;
    check_reduced(s, ref, "reduced", COMPUTE_AUTO, reduced);
    if (quick()) return;
    check_reduced(s, ref, "float16", COMPUTE_F16, reduced);
    check_reduced(s, ref, "bfloat16", COMPUTE_BF16, reduced);
}

static const char *refusal_of(const char *model)
{
    for (size_t i = 0; i < ARRAY_LEN(refusals); i++)
        if (refusals[i].model && strcmp(refusals[i].model, model) == 0) return refusals[i].reason;
    return NULL;
}

static void check_subject(const struct subject *s, const struct json *ref)
{
    struct weights *w;
    struct error err = {0};
    const char *reason = refusal_of(s->model);
    if (weights_open(s->path, &w, &err) < 0) {
        printf("  %-24s refused: %s\n", s->label, err.text);
        EXPECT(reason && strstr(err.text, reason));
        refused++;
        return;
    }
    EXPECT(!reason); // it is served now: take it off the list
    bool has_experts = w->config.experts.experts > 0;
    weights_close(w);
    check_answers(s, ref, has_experts);
}

/* ---- folders ---- */

static void link_file(const char *from, const char *folder, const char *name)
{
    char path[2048];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    NEED(symlink(from, path) == 0);
}

/* A folder with the same files, but config.v5.json for config.json. */
static void make_newer(const char *folder, const char *copy)
{
    DIR *dir = opendir(folder);
    char path[2048];
    NEED(dir != NULL);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "config.json") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        char *real = realpath(path, NULL);
        bool is_config = strcmp(entry->d_name, "config.v5.json") == 0;
        link_file(real, copy, is_config ? "config.json" : entry->d_name);
        free(real);
    }
    closedir(dir);
}

static void remove_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    char path[2048];
    NEED(dir != NULL);
    for (struct dirent *entry; (entry = readdir(dir));) {
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        unlink(path);
    }
    closedir(dir);
    rmdir(folder);
}

static void check_newer(const char *model, const char *folder, const struct json *ref)
{
    char path[2048], label[300], copy[] = "/tmp/lm_golden_XXXXXX";
    snprintf(path, sizeof path, "%s/config.v5.json", folder);
    if (!fixture_is_file(path)) return;
    NEED(mkdtemp(copy) != NULL);
    make_newer(folder, copy);
    snprintf(label, sizeof label, "%s (v5)", model);
    check_subject(&(struct subject){label, model, copy, &(struct conversion){0}}, ref);
    remove_folder(copy);
}

static void check_gguf(const char *model, const struct json *ref)
{
    char relative[300], label[300];
    const struct conversion *conversion = &(struct conversion){0};
    snprintf(relative, sizeof relative, "gguf/%s.gguf", model);
    snprintf(label, sizeof label, "%s.gguf", model);
    const char *path = fixture_path(relative);
    for (size_t i = 0; i < ARRAY_LEN(conversions); i++)
        if (strcmp(conversions[i].model, model) == 0) conversion = &conversions[i];
    if (path) check_subject(&(struct subject){label, model, path, conversion}, ref);
}

static void check_model(const char *model)
{
    char relative[300], folder[1024];
    snprintf(relative, sizeof relative, "models/%s/reference.json", model);
    struct json *ref = fixture_json(relative);
    NEED(ref != NULL);
    snprintf(relative, sizeof relative, "models/%s/config.json", model);
    const char *config = fixture_path(relative);
    if (config) {
        snprintf(folder, sizeof folder, "%.*s", (int)(strlen(config) - strlen("/config.json")),
                 config);
        check_subject(&(struct subject){model, model, folder, &(struct conversion){0}}, ref);
        if (!quick()) check_newer(model, folder, ref);
    }
    if (!quick()) check_gguf(model, ref);
    json_destroy(ref);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void test_models(void)
{
    static char names[MODELS_MAX][64];
    const char *only = getenv("LM_ONLY"); // names, separated by commas
    int count = fixture_names("models", names, MODELS_MAX);
    NEED(count > 0 && count < MODELS_MAX);
    qsort(names, (size_t)count, sizeof names[0], compare_names);
    for (int i = 0; i < count; i++)
        if (!only || fixture_is_listed(only, names[i])) check_model(names[i]);
    printf("%d compared, %d refused\n", compared, refused);
    EXPECT(only || compared >= 10); // of the small copies in the tree
}

int main(void)
{
    RUN(test_models);
    return TEST_END();
}
