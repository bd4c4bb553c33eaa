/* Every GGUF of the fixtures whose family we have, against the reference: all logits, all greedy
 * ids. */
#include "tests/golden/golden_model.h"

#include <dirent.h>
#include <libgen.h>

#define PROMPT_MAX 130
#define GREEDY     24

static int families, skipped;

/* The converter stored llama2's float32 weights as float16. A float64 forward over the rounded
 * weights, written independently in numpy, is that far from the reference. All other files are
 * lossless. */
static double rounding_of_file(const char *family)
{
    return strcmp(family, "llama2") == 0 ? 0.00855 : 0;
}

struct comparison {
    double max_error, mean_error;
    int wrong_top;    // positions whose argmax differs
    int wrong_greedy; // steps before the first one too close to call
    int positions, greedy;
};

static void compare_row(struct comparison *c, const float *logits, const struct json *want)
{
    int i = 0;
    for (const struct json *v = json_first(want); v; v = json_next(v), i++) {
        double error = fabs((double)logits[i] - json_number(v));
        if (error > c->max_error) c->max_error = error;
        c->mean_error += error;
    }
}

static void compare_prompt(struct golden_model *m, struct comparison *c, const struct json *prompt,
                           const struct json *top, const struct json *rows)
{
    struct golden_sequence s, *one = &s;
    golden_sequence_init(&s, prompt, 0);
    const float *logits = golden_step(m, &one, &s.count, 1, true);
    int i = 0;
    for (const struct json *v = json_first(top); v; v = json_next(v), i++, c->positions++)
        c->wrong_top +=
            golden_argmax(logits + (size_t)i * (size_t)m->vocab, m->vocab) != (int)json_number(v);
    int at = s.count - (int)json_len(rows);
    for (const struct json *row = json_first(rows); row; row = json_next(row), at++) {
        EXPECT_INT(json_len(row), m->vocab);
        compare_row(c, logits + (size_t)at * (size_t)m->vocab, row);
    }
    golden_sequence_deinit(m, &s);
}

/* Greedy ids up to the first step whose margin is below `close`. */
static void compare_greedy(struct golden_model *m, struct comparison *c, const struct json *prompt,
                           const struct json *greedy, const struct json *margins, double close)
{
    struct golden_sequence s;
    golden_sequence_init(&s, prompt, GREEDY);
    const struct json *want = json_first(greedy), *margin = json_first(margins);
    for (; want && json_number(margin) >= close;
         want = json_next(want), margin = json_next(margin)) {
        int id = golden_argmax(golden_prefill(m, &s), m->vocab);
        c->greedy++;
        c->wrong_greedy += id != (int)json_number(want);
        s.ids[s.count++] = (int32_t)json_number(want);
    }
    golden_sequence_deinit(m, &s);
}

static struct comparison compare(struct weights *w, const struct json *ref,
                                 enum compute_type compute, double close)
{
    struct golden_model m;
    struct comparison c = {0};
    golden_open(&m, w, compute, compute == COMPUTE_F32 ? KV_F32 : KV_F16, PROMPT_MAX,
                PROMPT_MAX + GREEDY);
    const struct json *prompt = json_first(json_get(ref, "prompts"));
    const struct json *top = json_first(json_get(ref, "top"));
    const struct json *rows = json_first(json_get(ref, "logits"));
    const struct json *greedy = json_first(json_get(ref, "greedy"));
    const struct json *margin = json_first(json_get(ref, "margin"));
    for (; prompt; prompt = json_next(prompt), top = json_next(top), rows = json_next(rows),
                   greedy = json_next(greedy), margin = json_next(margin)) {
        compare_prompt(&m, &c, prompt, top, rows);
        compare_greedy(&m, &c, prompt, greedy, margin, close);
    }
    golden_close(&m);
    return c;
}

static void check_family(const char *name, const char *path)
{
    struct weights *w;
    struct error err = {0};
    char relative[256];
    int rc = weights_open(path, &w, &err);
    if (rc < 0) {
        EXPECT_INT(rc, E_UNSUPPORTED);
        printf("  %-14s skipped: %s\n", name, err.text);
        skipped++;
        return;
    }
    snprintf(relative, sizeof relative, "models/%s/reference.json", name);
    struct json *ref = fixture_json(relative);
    NEED(ref != NULL);
    double tolerance = json_number(json_get(ref, "f32_tolerance")) + rounding_of_file(name);
    double reduced = 2 * json_number(json_get(ref, "bf16_deviation"));

    struct comparison f = compare(w, ref, COMPUTE_F32, 0);
    printf("  %-14s float:   error %.6f (%.4f allowed), argmax %d/%d, greedy %d/%d wrong\n", name,
           f.max_error, tolerance, f.wrong_top, f.positions, f.wrong_greedy, f.greedy);
    EXPECT(f.max_error <= tolerance);
    EXPECT_INT(f.wrong_top, 0);
    EXPECT_INT(f.wrong_greedy, 0);
    EXPECT(f.greedy == 4 * GREEDY);

    struct comparison r = compare(w, ref, COMPUTE_AUTO, reduced);
    printf("  %-14s reduced: error %.6f (%.4f allowed), argmax %d/%d, greedy %d/%d wrong\n", name,
           r.max_error, reduced, r.wrong_top, r.positions, r.wrong_greedy, r.greedy);
    EXPECT(r.max_error <= reduced);
    EXPECT_INT(r.wrong_greedy, 0);
    EXPECT(r.greedy > 0);
    json_destroy(ref);
    weights_close(w);
    families++;
}

static void test_families(void)
{
    const char *one = fixture_path("gguf/llama2.gguf");
    NEED(one != NULL);
    char copy[1024], path[2048], name[128];
    snprintf(copy, sizeof copy, "%s", one);
    const char *folder = dirname(copy);
    DIR *dir = opendir(folder);
    NEED(dir != NULL);
    for (struct dirent *entry; (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".gguf") != 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        snprintf(name, sizeof name, "%.*s", (int)(dot - entry->d_name), entry->d_name);
        check_family(name, path);
    }
    closedir(dir);
    printf("%d families compared, %d skipped\n", families, skipped);
    EXPECT(families >= 3); // llama2, llama3_rope, llama_linear are in the tree
}

int main(void)
{
    RUN(test_families);
    return TEST_END();
}
