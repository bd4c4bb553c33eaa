/* tiny_runner.h - a tiny model through all slots of the CPU backend. Right: float32 within rounding
 * of a forward pass in float64. Equal: however a prompt is cut into steps, whatever shares the step,
 * with any number of threads and in every instruction set, a row of logits has the same bits. */
#ifndef LM_TESTS_TINY_RUNNER_H
#define LM_TESTS_TINY_RUNNER_H

#include "tests/kernels/tiny_reference.h"

#define TOKENS    150
#define SEQUENCES 5
#define PAGES     40

typedef void build_fn(struct tiny_model *t, struct rng *r);

static inline struct model_params scalars(int hidden, int heads, int kv_heads, int head_dim,
                                          int ffn, int vocab)
{
    return (struct model_params){
        .layers = 2,
        .hidden = hidden,
        .heads = heads,
        .kv_heads = kv_heads,
        .head_dim = head_dim,
        .ffn = ffn,
        .vocab = vocab,
        .rope_dims = head_dim,
        .rope_style = ROPE_INTERLEAVED,
        .activation = FFN_SILU,
        .norm_eps = 1e-5f,
        .attention_scale = 1.0f / sqrtf((float)head_dim),
        .embedding_scale = 1,
        .residual_scale = 1,
        .logit_scale = 1,
        .rope_table_count = 1,
    };
}

/* ---- running steps ---- */

/* A test of another backend sets it. */
static const struct backend_ops *runner_ops; // NULL: the CPU's
static bool runner_deterministic;

struct runner {
    const struct backend_ops *ops;
    struct backend *b;
    const struct model_params *p;
    enum kv_type kv_type;
    int sources_done;
    int32_t blocks[SEQUENCES][4]; // page tables: scattered, no page twice
    int past[SEQUENCES], rope_set[SEQUENCES];
};

static inline void on_source_done(void *arg, const struct matrix *m)
{
    struct runner *r = arg;
    EXPECT(m->data != NULL);
    r->sources_done++;
}

static inline void runner_open(struct runner *r, struct tiny_model *t, const char *isa, int threads,
                               enum compute_type compute, enum kv_type kv_type)
{
    struct backend_options options = {.threads = threads,
                                      .isa = isa,
                                      .compute = compute,
                                      .world = 1,
                                      .deterministic = runner_deterministic};
    struct step_limits limits = {SEQUENCES * TOKENS, SEQUENCES, SEQUENCES * TOKENS,
                                 4 * KV_BLOCK_TOKENS};
    struct error err = {0};

    memset(r, 0, sizeof *r);
    r->ops = runner_ops ? runner_ops : backend_find("cpu");
    r->p = &t->params;
    r->kv_type = kv_type;
    NEED(r->ops);
    t->params.on_source_done = on_source_done;
    t->params.on_source_done_arg = r;
    if (r->ops->open(&options, &r->b, &err) < 0 ||
        r->ops->load(r->b, &t->params, &limits, &err) < 0 ||
        r->ops->kv_open(r->b, kv_type, PAGES, &err) < 0) {
        printf("%s\n", err.text);
        NEED(0);
    }
    EXPECT_INT(r->sources_done, t->matrices);
    for (int s = 0; s < SEQUENCES; s++)
        for (int i = 0; i < 4; i++)
            r->blocks[s][i] = (7 * (4 * s + i) + 3) % PAGES;
}

static inline void runner_close(struct runner *r)
{
    r->ops->close(r->b);
}

/* All slots of a step; results are there behind sync. */
static inline void forward_step(const struct runner *r, const struct step *step)
{
    r->ops->step_begin(r->b, step);
    r->ops->embed(r->b);
    r->ops->residual(r->b, RESIDUAL_BEGIN, 0);
    for (int l = 0; l < r->p->layers; l++) {
        r->ops->qkv(r->b, l);
        r->ops->attend(r->b, l);
        r->ops->out(r->b, l);
        r->ops->all_reduce(r->b);
        r->ops->residual(r->b, RESIDUAL_ATTENTION, l);
        r->ops->gate_up(r->b, l);
        r->ops->down(r->b, l);
        r->ops->all_reduce(r->b);
        r->ops->residual(r->b, RESIDUAL_FFN, l);
    }
    r->ops->logits(r->b);
    r->ops->step_end(r->b);
}

/* One step that advances sequence s by count[s] tokens of ids; all rows of it go to logits[s],
 * which hold [TOKENS][vocab]. */
static inline void run_step(struct runner *r, const int32_t ids[SEQUENCES][TOKENS],
                            const int count[SEQUENCES], float *const logits[SEQUENCES])
{
    static int32_t flat[SEQUENCES * TOKENS], rows[SEQUENCES * TOKENS];
    struct step_sequence sequence[SEQUENCES];
    struct step step = {.ids = flat, .sequence = sequence, .row = rows};
    struct error err;

    for (int s = 0; s < SEQUENCES; s++) {
        if (count[s] == 0) continue;
        sequence[step.sequences++] =
            (struct step_sequence){step.tokens, count[s], r->past[s], r->blocks[s], r->rope_set[s]};
        memcpy(flat + step.tokens, ids[s] + r->past[s], (size_t)count[s] * sizeof *flat);
        step.tokens += count[s];
    }
    for (; step.rows < step.tokens; step.rows++)
        rows[step.rows] = step.rows;
    forward_step(r, &step);
    NEED(r->ops->sync(r->b, &err) == 0);
    const float *got = r->ops->logits_host(r->b);
    for (int s = 0; s < SEQUENCES; s++) {
        size_t size = (size_t)count[s] * (size_t)r->p->vocab;
        if (logits[s])
            memcpy(logits[s] + (size_t)r->past[s] * (size_t)r->p->vocab, got, size * sizeof *got);
        got += size;
        r->past[s] += count[s];
    }
}

static inline void random_ids(struct rng *r, int vocab, int32_t ids[SEQUENCES][TOKENS])
{
    for (int s = 0; s < SEQUENCES; s++)
        for (int i = 0; i < TOKENS; i++)
            ids[s][i] = (int32_t)rng_below(r, (uint32_t)vocab);
}

/* What loading the model gives. */
static inline int tiny_load_code(struct tiny_model *t, struct error *err)
{
    struct backend_options options = {.threads = 1, .world = 1};
    struct step_limits limits = {8, 2, 2, 64};
    const struct backend_ops *ops = backend_find("cpu");
    struct backend *b;

    NEED(ops->open(&options, &b, err) == 0);
    t->params.on_source_done = NULL;
    int rc = ops->load(b, &t->params, &limits, err);
    ops->close(b);
    return rc;
}

/* ---- right ---- */

static inline void check_values(build_fn *build, const char *name)
{
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    const struct cpu_isa *isa;
    struct rng rng;

    rng_init(&rng, 5);
    build(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    size_t count = (size_t)TOKENS * (size_t)t.params.vocab;
    double *want = ref_logits(&t, ids[0], TOKENS), scale = 0;
    float *got = xcalloc(count, sizeof *got);
    for (size_t i = 0; i < count; i++)
        scale += want[i] * want[i] / (double)count;
    scale = sqrt(scale);
    for (int i = 0; (isa = test_isa(i)) != NULL; i++) {
        struct runner r;
        double worst = 0;
        runner_open(&r, &t, isa->name, 2, COMPUTE_F32, KV_F32);
        run_step(&r, ids, (int[SEQUENCES]){TOKENS}, (float *[SEQUENCES]){got});
        runner_close(&r);
        for (size_t k = 0; k < count; k++)
            worst = fmax(worst, fabs((double)got[k] - want[k]));
        if (!(worst <= 2e-4 * scale))
            printf("%s %s: error %g of %g\n", name, isa->name, worst, scale);
        EXPECT(worst <= 2e-4 * scale);
    }
    free(want);
    free(got);
    tiny_free(&t);
}

/* Activations in few bits and pages of half precision: the mean over all logits is bounded. */
static inline void check_rounded(build_fn *build, const char *name)
{
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    struct runner r;
    struct rng rng;

    rng_init(&rng, 7);
    build(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    size_t count = (size_t)TOKENS * (size_t)t.params.vocab;
    double *want = ref_logits(&t, ids[0], TOKENS), error = 0, scale = 0;
    float *got = xcalloc(count, sizeof *got);
    runner_open(&r, &t, NULL, 2, COMPUTE_AUTO, KV_F16);
    run_step(&r, ids, (int[SEQUENCES]){TOKENS}, (float *[SEQUENCES]){got});
    runner_close(&r);
    for (size_t i = 0; i < count; i++) {
        error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        scale += want[i] * want[i];
    }
    if (!(error < 0.01 * scale)) printf("%s: squared error %g of %g\n", name, error, scale);
    EXPECT(error < 0.01 * scale);
    free(want);
    free(got);
    tiny_free(&t);
}

/* ---- equal ---- */

/* Sequence 0 in steps of `chunk` tokens, alone or with the others advancing at their own pace. */
static inline void run_all(struct runner *r, const int32_t ids[SEQUENCES][TOKENS], int chunk,
                           bool together, float *logits)
{
    static const int pace[SEQUENCES] = {0, 1, 3, 64, 17};
    memset(r->past, 0, sizeof r->past);
    while (r->past[0] < TOKENS) {
        int count[SEQUENCES] = {TOKENS - r->past[0] < chunk ? TOKENS - r->past[0] : chunk};
        for (int s = 1; s < SEQUENCES && together; s++) {
            int left = TOKENS - r->past[s];
            count[s] = left < pace[s] ? left : pace[s];
        }
        run_step(r, ids, count, (float *[SEQUENCES]){logits});
    }
}

static inline void check_bits(build_fn *build, enum compute_type compute, enum kv_type kv_type)
{
    static const int chunks[] = {TOKENS, 1, 7, 64};
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    const struct cpu_isa *isa;
    struct rng rng;

    rng_init(&rng, 6);
    build(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    size_t count = (size_t)TOKENS * (size_t)t.params.vocab;
    float *want = NULL, *got = xcalloc(count, sizeof *got);
    for (int i = 0; (isa = test_isa(i)) != NULL; i++) {
        for (size_t j = 0; j < ARRAY_LEN(chunks); j++) {
            for (int together = 0; together < 2; together++) {
                struct runner r;
                // Slow, and with one path for any number of rows: all at once, and by sevens in company.
                bool scalar_runs = chunks[j] == (together ? 7 : TOKENS);
                if (isa == &cpu_isa_scalar && !scalar_runs) continue;
                runner_open(&r, &t, isa->name, together ? 3 : 1, compute, kv_type);
                memset(got, 0, count * sizeof *got);
                run_all(&r, ids, chunks[j], together, got);
                runner_close(&r);
                if (!want) want = xmemdup(got, count * sizeof *got);
                if (!same_bits(got, want, count))
                    printf("%s, chunks of %d, together %d: bits differ\n", isa->name, chunks[j],
                           together);
                EXPECT(same_bits(got, want, count));
            }
        }
    }
    free(want);
    free(got);
    tiny_free(&t);
}

#endif
