/* bench_perplexity.c - what a KV type costs in likelihood and gains in speed: the same text under
 * each type, straight over the backend line. Mean NLL is per token, of every token but the first
 * given all before it; delta is its difference to the first row, which is f32, |delta| the mean of
 * the tokens' absolute differences: likelihood may stay by luck, tokens can't. Then single tokens are decoded
 * behind a short and a long context, the types in turns within a round. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"

#include "engine/decoder.h"
#include "engine/model_text.h"
#include "engine/tokenizer.h"
#include "engine/weights.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"

#define STEP_TOKENS    128
#define DECODE_TOKENS  32
#define SHORT_CONTEXT  32
#define TEXT_BYTES_MAX (16 << 20)

static const char *const type_names[KV_TYPES] = {
    [KV_F32] = "f32", [KV_F16] = "f16", [KV_BF16] = "bf16", [KV_INT8] = "int8"};

struct subject {
    enum kv_type type;
    struct backend *backend;
    double *nll; // of each token, given those before it
    struct bench_samples near, far;
};

struct trial {
    const struct bench_options *options;
    const struct backend_ops *ops;
    struct weights *weights;
    struct token_list text;
    int tokens;      // of the text that are scored
    int far;         // positions of the long context
    int32_t *blocks; // 0, 1, 2, ...
    struct subject subject[KV_TYPES];
    int subjects;
};

static int read_text(const char *path, struct buf *text, struct error *err)
{
    char chunk[65536];
    size_t n;
    FILE *file = fopen(path, "rb");

    if (!file) return error_set(err, -errno, "cannot read '%s': %s", path, strerror(errno));
    while ((n = fread(chunk, 1, sizeof chunk, file)) > 0)
        buf_append(text, chunk, n);
    bool bad = ferror(file) != 0 || text->overflow;
    fclose(file);
    return bad ? error_set(err, E_LIMIT, "'%s' is unreadable or too long", path) : 0;
}

static int encode_text(struct trial *t, const char *path, struct error *err)
{
    struct tokenizer *tokenizer = NULL;
    struct buf text;

    buf_init(&text, TEXT_BYTES_MAX);
    int rc = read_text(path, &text, err);
    if (rc == 0) rc = model_text_tokenizer(t->weights, &tokenizer, err);
    if (rc == 0) rc = tokenizer_encode(tokenizer, text.data, text.len, 0, &t->text, err);
    tokenizer_destroy(tokenizer);
    buf_deinit(&text);
    if (rc == 0 && t->text.count < 2)
        rc = error_set(err, E_INVALID, "'%s' has %zu tokens; likelihood needs two", path,
                       t->text.count);
    return rc;
}

/* What fits the model's context is scored; the long context is filled with the text, repeated. */
static void plan(struct trial *t)
{
    int context = t->weights->config.context_len;

    t->tokens = t->text.count < (size_t)context ? (int)t->text.count : context;
    t->far = (int)t->options->context;
    if (t->far > context - DECODE_TOKENS) t->far = context - DECODE_TOKENS;
    int positions = t->tokens > t->far + DECODE_TOKENS ? t->tokens : t->far + DECODE_TOKENS;
    int blocks = (positions + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    t->blocks = xcalloc((size_t)blocks, sizeof *t->blocks);
    for (int i = 0; i < blocks; i++)
        t->blocks[i] = i;
    for (int i = 0; i < KV_TYPES; i++) {
        int only = t->options->kv_type;
        if (i == KV_F32 || only == 0 || only == i + 1)
            t->subject[t->subjects++].type = (enum kv_type)i;
    }
}

static int open_subject(struct trial *t, struct subject *s, struct error *err)
{
    const struct backend_options options = {.threads = (int)t->options->threads,
                                            .cpu_list = t->options->cpu_list,
                                            .isa = t->options->isa,
                                            .compute = (enum compute_type)t->options->dtype,
                                            .world = 1};
    int positions = t->tokens > t->far + DECODE_TOKENS ? t->tokens : t->far + DECODE_TOKENS;
    const struct step_limits limits = {STEP_TOKENS, 1, STEP_TOKENS, positions};
    weights_fit_rope(t->weights, positions); // the last set is the one for that many
    struct model_params params = t->weights->params;

    params.on_source_done = NULL; // the next subject reads the same pages
    int rc = t->ops->open(&options, &s->backend, err);
    if (rc == 0) rc = t->ops->load(s->backend, &params, &limits, err);
    if (rc == 0)
        rc = t->ops->kv_open(s->backend, s->type,
                             (positions + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS, err);
    return rc;
}

/* `count` tokens of the text behind `past` positions; logits of all of them, or of none. */
static int run_step(struct trial *t, struct subject *s, int past, int count, bool rows,
                    struct error *err)
{
    int32_t ids[STEP_TOKENS], row[STEP_TOKENS];
    const struct step_sequence sequence = {0, count, past, t->blocks,
                                           t->weights->params.rope_sets - 1};
    const struct step step = {.tokens = count,
                              .ids = ids,
                              .sequences = 1,
                              .sequence = &sequence,
                              .rows = rows ? count : 0,
                              .row = row};

    for (int i = 0; i < count; i++) {
        ids[i] = t->text.ids[(size_t)(past + i) % t->text.count];
        row[i] = i;
    }
    decoder_forward(t->ops, s->backend, t->weights->params.layers, &step);
    return t->ops->sync(s->backend, err);
}

static double negative_log_likelihood(const float *logits, int vocab, int32_t id)
{
    double sum = 0;
    float max = logits[0];

    for (int i = 1; i < vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    for (int i = 0; i < vocab; i++)
        sum += (double)expf(logits[i] - max);
    return (double)max + log(sum) - (double)logits[id];
}

static int score(struct trial *t, struct subject *s, struct error *err)
{
    int vocab = t->weights->params.vocab;

    s->nll = xcalloc((size_t)t->tokens, sizeof *s->nll);
    for (int past = 0, count; past < t->tokens; past += count) {
        count = t->tokens - past < STEP_TOKENS ? t->tokens - past : STEP_TOKENS;
        int rc = run_step(t, s, past, count, true, err);
        if (rc < 0) return rc;
        const float *logits = t->ops->logits_host(s->backend);
        for (int i = past; i < past + count && i + 1 < t->tokens; i++, logits += vocab)
            s->nll[i] = negative_log_likelihood(logits, vocab, t->text.ids[i + 1]);
    }
    return 0;
}

static int fill(struct trial *t, struct subject *s, struct error *err)
{
    for (int past = 0, count; past < t->far; past += count) {
        count = t->far - past < STEP_TOKENS ? t->far - past : STEP_TOKENS;
        int rc = run_step(t, s, past, count, false, err);
        if (rc < 0) return rc;
    }
    return 0;
}

/* The same positions each time: whatever they held is written again. */
static int decode(struct trial *t, struct subject *s, int past, struct bench_samples *rate,
                  struct error *err)
{
    uint64_t start = clock_ns();

    for (int i = 0; i < DECODE_TOKENS; i++) {
        int rc = run_step(t, s, past + i, 1, true, err);
        if (rc < 0) return rc;
    }
    bench_samples_add(rate, DECODE_TOKENS / ((double)(clock_ns() - start) * 1e-9));
    return 0;
}

static int measure(struct trial *t, struct error *err)
{
    int rc = 0;

    for (int i = 0; i < t->subjects && rc == 0; i++) {
        rc = open_subject(t, &t->subject[i], err);
        if (rc == 0) rc = score(t, &t->subject[i], err);
        if (rc == 0) rc = fill(t, &t->subject[i], err);
    }
    for (int64_t round = 0; round < t->options->rounds; round++) {
        for (int i = 0; i < t->subjects && rc == 0; i++)
            rc = decode(t, &t->subject[i], t->far, &t->subject[i].far, err);
        for (int i = 0; i < t->subjects && rc == 0; i++)
            rc = decode(t, &t->subject[i], SHORT_CONTEXT, &t->subject[i].near, err);
    }
    return rc;
}

static void print_subject(const struct trial *t, const struct subject *s)
{
    size_t bytes = t->ops->kv_block_bytes(s->backend, s->type) / KV_BLOCK_TOKENS;
    double sum = 0, first = 0, moved = 0;
    int count = t->tokens - 1;

    for (int i = 0; i < count; i++) {
        sum += s->nll[i];
        first += t->subject[0].nll[i];
        moved += fabs(s->nll[i] - t->subject[0].nll[i]);
    }
    printf("%-5s %11zu %9.5f %+9.5f %9.5f %10.4f %+7.3f%%   %.0f (%.0f..%.0f)  %.0f (%.0f..%.0f)\n",
           type_names[s->type], bytes, sum / count, (sum - first) / count, moved / count,
           exp(sum / count), 100 * (exp((sum - first) / count) - 1), bench_samples_median(&s->near),
           bench_samples_at(&s->near, 0), bench_samples_at(&s->near, 1),
           bench_samples_median(&s->far), bench_samples_at(&s->far, 0),
           bench_samples_at(&s->far, 1));
}

static void print_trial(const struct trial *t, const char *path)
{
    printf("%s, %s; %s: %d tokens; decode: median of %lld rounds (lowest..highest)\n",
           t->options->model, t->ops->describe(t->subject[0].backend), path, t->tokens,
           (long long)t->options->rounds);
    printf("%-5s %11s %9s %9s %9s %10s %8s   tok/s behind %d and %d positions\n", "pages",
           "bytes/token", "mean NLL", "delta", "|delta|", "perplexity", "delta", SHORT_CONTEXT,
           t->far);
    for (int i = 0; i < t->subjects; i++)
        print_subject(t, &t->subject[i]);
}

int bench_perplexity(const struct bench_options *o, const char *path)
{
    struct trial t = {.options = o, .ops = backend_find("cpu")};
    struct error err = {0};

    int rc = weights_open(o->model, &t.weights, &err);
    if (rc == 0) rc = encode_text(&t, path, &err);
    if (rc == 0) {
        plan(&t);
        rc = measure(&t, &err);
    }
    if (rc == 0)
        print_trial(&t, path);
    else
        fprintf(stderr, "lm-bench: %s\n", err.text);
    for (int i = 0; i < t.subjects; i++) {
        t.ops->close(t.subject[i].backend);
        free(t.subject[i].nll);
    }
    weights_close(t.weights);
    token_list_deinit(&t.text);
    free(t.blocks);
    return rc == 0 ? 0 : 1;
}
