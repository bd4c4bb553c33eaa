/* The models of the CPU backend's tests through the CUDA backend. Right: float32 within rounding of a forward
 * pass in float64, bfloat16 within its own. Equal: in float32, and in bfloat16 with own kernels only,
 * a row of logits has the same bits however a prompt is cut into steps and whatever shares them. */
#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/tiny_models.h"

#ifdef LM_CUDA_EMU_RACE
#define HAS_RACE_HOOKS 1
#else
#define HAS_RACE_HOOKS 0
#endif
#ifdef LM_CUDA_EMULATED
#define IS_EMULATED 1
#else
#define IS_EMULATED 0
#endif

/* Weights of a byte with scales beside them, the embedding too. */
static void model_f8(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F8_E4M3, DTYPE_BF16, DTYPE_F8_E4M3};
    t->params = scalars(96, 6, 2, 16, 160, 131);
    tiny_fill(t, r, types, 3, false);
}

/* DeepSeek-V3's; all experts are used, so that no route flips. */
static void model_f8_experts(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F8_E4M3};
    t->params = scalars(64, 4, 4, 16, 96, 50);
    t->params.expert_shape = (struct expert_shape){.experts = 3,
                                                   .used = 3,
                                                   .ffn = 48,
                                                   .shared_ffn = 80,
                                                   .scoring = EXPERTS_SIGMOID,
                                                   .normalise = true,
                                                   .scale = 2.5f};
    tiny_fill(t, r, types, 1, false);
    for (int i = 0; i < 2; i++)
        tiny_add_experts(t, r, i, types, 1);
}

static const struct subject {
    const char *name;
    build_fn *build;
} subjects[] = {
    {"plain", model_plain},
    {"extras", model_extras},
    {"k-quants", model_k_quants},
    {"small weights", model_small_weights},
    {"experts, selected", model_selected},
    {"experts, softmax", model_softmax},
    {"experts, normalised", model_normalised},
    {"experts, groups", model_groups},
    {"experts, softmax groups", model_softmax_groups},
    {"experts, biases", model_biases},
    {"norms over all heads", model_spans},
    {"latent", model_latent},
    {"latent, plain q", model_plain_q},
    {"8-bit floats", model_f8},
    {"8-bit floats, experts", model_f8_experts},
    {"value size", model_value_dim},
};

/* ---- right ---- */

/* Tokens of a prompt: an emulated device is slow. The last page has few of them. */
#define PROMPT 9
#define LONG   70

/* Root mean square of the difference to float64, as a share of the logits'. */
static void check_error(const struct subject *s, enum compute_type compute, enum kv_type kv_type,
                        int tokens, double allowed)
{
    const char *type = compute == COMPUTE_F32   ? "float32"
                       : compute == COMPUTE_F16 ? "float16"
                                                : "bfloat16";
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    double scale = 0, error = 0;
    struct runner r;
    struct rng rng;

    rng_init(&rng, 5);
    s->build(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    size_t count = (size_t)tokens * (size_t)t.params.vocab;
    double *want = ref_logits(&t, ids[0], tokens);
    float *got = xcalloc(count, sizeof *got);
    runner_open(&r, &t, NULL, 1, compute, kv_type);
    run_step(&r, ids, (int[SEQUENCES]){tokens}, (float *[SEQUENCES]){got});
    EXPECT(strstr(r.ops->describe(r.b), type));
    runner_close(&r);
    for (size_t i = 0; i < count; i++) {
        scale += want[i] * want[i];
        error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    }
    printf("  %-24s %s error %.1e\n", s->name, type, sqrt(error / scale));
    EXPECT(sqrt(error / scale) <= allowed);
    free(want);
    free(got);
    tiny_free(&t);
}

static void test_float32(void)
{
    for (size_t i = 0; i < ARRAY_LEN(subjects); i++)
        check_error(&subjects[i], COMPUTE_F32, KV_F32, PROMPT, 5e-6);
    check_error(&subjects[0], COMPUTE_F32, KV_F32, LONG, 5e-6);
}

/* Where a route flips a logit can be anything, so experts are tested in float32 only. */
static void test_bfloat16(void)
{
    static const enum kv_type types[] = {KV_F16, KV_BF16, KV_INT8};
    for (size_t i = 0; i < 4; i++)
        check_error(&subjects[i], COMPUTE_AUTO, types[i % 3], PROMPT, 0.03);
    for (size_t i = ARRAY_LEN(subjects) - 3; i < ARRAY_LEN(subjects); i++)
        check_error(&subjects[i], COMPUTE_AUTO, KV_F16, PROMPT, 0.03);
    check_error(&subjects[0], COMPUTE_AUTO, KV_F16, LONG, 0.03); // through cuBLASLt
}

/* The same in float16, which has an eighth of the rounding. */
static void test_float16(void)
{
    for (size_t i = 0; i < 4; i++)
        check_error(&subjects[i], COMPUTE_F16, KV_F16, PROMPT, 0.0025);
    for (size_t i = ARRAY_LEN(subjects) - 4; i < ARRAY_LEN(subjects); i++)
        check_error(&subjects[i], COMPUTE_F16, KV_F16, PROMPT, 0.0025);
    check_error(&subjects[0], COMPUTE_F16, KV_F16, LONG, 0.0025); // through cuBLASLt
}

/* A hidden row comes as float32 of the model's type: times the head it is the row's logits. */
static void check_hidden_row(enum compute_type compute)
{
    static float hidden[96], weight[96];
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    struct runner r;
    struct rng rng;

    rng_init(&rng, 5);
    model_plain(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    NEED(t.params.hidden == ARRAY_LEN(hidden));
    runner_open(&r, &t, NULL, 1, compute, KV_F16);
    run_step(&r, ids, (int[SEQUENCES]){3}, (float *[SEQUENCES]){NULL});
    const float *logits = r.ops->logits_host(r.b) + 2 * t.params.vocab;
    r.ops->hidden_row(r.b, 2, hidden);
    for (int v = 0; v < t.params.vocab; v++) {
        double sum = 0, size = 0;
        quant_dequantize_matrix_row(&t.params.embedding, v, weight);
        for (size_t i = 0; i < ARRAY_LEN(hidden); i++) {
            sum += (double)weight[i] * (double)hidden[i];
            size += fabs((double)weight[i] * (double)hidden[i]);
        }
        EXPECT(fabs(sum - (double)logits[v]) <= 1e-5 * size);
    }
    runner_close(&r);
    tiny_free(&t);
}

static void test_hidden_row(void)
{
    check_hidden_row(COMPUTE_F32);
    check_hidden_row(COMPUTE_BF16);
    check_hidden_row(COMPUTE_F16);
}

/* ---- sampled ---- */

/* A step in which every sequence decodes token `at`. With `row` it is sampled. */
static void decode(struct runner *r, const int32_t ids[SEQUENCES][TOKENS], int at,
                   const struct sample_row *row)
{
    int32_t flat[SEQUENCES], rows[SEQUENCES];
    struct step_sequence sequence[SEQUENCES];
    struct step step = {.tokens = SEQUENCES,
                        .ids = flat,
                        .sequences = SEQUENCES,
                        .sequence = sequence,
                        .rows = SEQUENCES,
                        .row = rows,
                        .is_sampled = row != NULL};
    struct error err;

    for (int s = 0; s < SEQUENCES; s++) {
        sequence[s] = (struct step_sequence){s, 1, at, r->blocks[s], 0};
        flat[s] = ids[s][at];
        rows[s] = s;
    }
    forward_step(r, &step);
    if (row) r->ops->sample(r->b, row, r->p->vocab);
    NEED(r->ops->sync(r->b, &err) == 0);
}

static void check_report(struct sample_scratch *scratch, int vocab, int token, int logprobs,
                         const struct sample_report *got)
{
    struct sample_report want;
    sample_report(scratch, vocab, token, logprobs, &want);
    EXPECT(got->max == want.max && got->own == want.own && got->sum == want.sum);
    EXPECT(memcmp(got->likeliest, want.likeliest,
                  (size_t)(logprobs - 1) * sizeof *want.likeliest) == 0);
}

/* Eager, recorded and replayed steps: tokens and reports are those of the logits that a twin gives, and of the rows
 * only the one whose list is too long comes to the host. */
static void test_sampled(void)
{
    static int32_t many[1 << 22]; // more than an image has room for
    struct sample_row row[SEQUENCES] = {{0}};
    struct sample_scratch scratch = {0};
    struct tiny_model t = {0};
    struct runner sampled, plain;
    int32_t ids[SEQUENCES][TOKENS];
    struct rng rng;

    rng_init(&rng, 8);
    model_plain(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    runner_open(&sampled, &t, NULL, 1, COMPUTE_F32, KV_F32);
    runner_open(&plain, &t, NULL, 1, COMPUTE_F32, KV_F32);
    size_t vocab = (size_t)t.params.vocab;
    for (int at = 0; at < 5; at++) {
        for (int i = 0; i < SEQUENCES; i++)
            row[i] = (struct sample_row){.temperature = i == 1 ? 0 : 2,
                                         .top_p = i == 2 ? 0.5f : 1,
                                         .repetition = 1,
                                         .random = rng_u64(&rng),
                                         .logprobs = i};
        int wanted = at % SEQUENCES;
        row[wanted].banned = many;
        row[wanted].banned_count = ARRAY_LEN(many);
        decode(&plain, ids, at, NULL);
        float *got = (float *)sampled.ops->logits_host(sampled.b);
        for (size_t i = 0; i < SEQUENCES * vocab; i++)
            got[i] = -77;
        decode(&sampled, ids, at, row);
        for (int i = 0; i < SEQUENCES; i++) {
            const float *logits = plain.ops->logits_host(plain.b) + (size_t)i * vocab;
            int token = sampled.ops->sampled(sampled.b)[i];
            if (i == wanted) {
                EXPECT_INT(token, E_UNSUPPORTED);
                EXPECT(same_bits(got + (size_t)i * vocab, logits, vocab));
            } else {
                EXPECT_INT(token, sample_draw(&row[i], logits, t.params.vocab, &scratch));
                if (i > 0)
                    check_report(&scratch, t.params.vocab, token, i,
                                 sampled.ops->reported(sampled.b, i));
                EXPECT(got[(size_t)i * vocab] == -77);
            }
        }
    }
    runner_close(&sampled);
    runner_close(&plain);
    sample_scratch_deinit(&scratch);
    tiny_free(&t);
}

/* ---- equal ---- */

/* Sequence 0 in steps of `chunk` tokens, alone or with others that advance at their own pace. */
static void run_chunks(struct runner *r, const int32_t ids[SEQUENCES][TOKENS], int tokens,
                       int chunk, bool together, float *logits)
{
    static const int pace[SEQUENCES] = {0, 1, 3, 1, 2};
    memset(r->past, 0, sizeof r->past);
    while (r->past[0] < tokens) {
        int count[SEQUENCES] = {tokens - r->past[0] < chunk ? tokens - r->past[0] : chunk};
        for (int s = 1; s < SEQUENCES && together; s++)
            count[s] = chunk == 1 ? 1 : pace[s]; // all decode: the steps that graphs are for
        run_step(r, ids, count, (float *[SEQUENCES]){logits});
    }
}

static void check_equal(const struct subject *s, enum compute_type compute, enum kv_type kv_type)
{
    static const int chunks[] = {PROMPT, 1, 4};
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    struct rng rng;

    rng_init(&rng, 6);
    s->build(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    size_t count = (size_t)PROMPT * (size_t)t.params.vocab;
    float *want = NULL, *got = xcalloc(count, sizeof *got);
    for (int i = 0; i < 2 * (int)ARRAY_LEN(chunks); i++) {
        struct runner r;
        runner_open(&r, &t, NULL, 1, compute, kv_type);
        run_chunks(&r, ids, PROMPT, chunks[i / 2], i % 2, got);
        runner_close(&r);
        if (!want) want = xmemdup(got, count * sizeof *got);
        if (!same_bits(got, want, count))
            printf("  %s: chunks of %d, %s: bits differ\n", s->name, chunks[i / 2],
                   i % 2 ? "together" : "alone");
        EXPECT(same_bits(got, want, count));
    }
    free(want);
    free(got);
    tiny_free(&t);
}

/* A prompt through cuda_wide in every product has the bits that cuda_mma gives it. */
static void check_wide(const struct subject *s)
{
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    float *logits[2];
    struct rng rng;

    rng_init(&rng, 6);
    s->build(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    size_t count = (size_t)PROMPT * (size_t)t.params.vocab;
    for (int i = 0; i < 2; i++) {
        struct runner r;
        if (i == 1) setenv("LM_CUDA_WIDE_ROWS", "1", 1);
        logits[i] = xcalloc(count, sizeof *logits[i]);
        runner_open(&r, &t, NULL, 1, COMPUTE_AUTO, KV_F16);
        run_chunks(&r, ids, PROMPT, PROMPT, false, logits[i]);
        runner_close(&r);
        unsetenv("LM_CUDA_WIDE_ROWS");
    }
    if (!same_bits(logits[0], logits[1], count)) printf("  %s: bits differ\n", s->name);
    EXPECT(same_bits(logits[0], logits[1], count));
    free(logits[0]);
    free(logits[1]);
    tiny_free(&t);
}

static void test_wide_bits(void)
{
    runner_deterministic = true;
    check_wide(&subjects[2]);  // k-quants
    check_wide(&subjects[9]);  // experts, biases
    check_wide(&subjects[14]); // 8-bit floats, experts
    runner_deterministic = false;
}

static void test_equal_bits(void)
{
    check_equal(&subjects[1], COMPUTE_F32, KV_F32);  // extras
    check_equal(&subjects[7], COMPUTE_F32, KV_BF16); // experts, groups
    runner_deterministic = true;
    check_equal(&subjects[0], COMPUTE_AUTO, KV_F16);  // 4 and 8 bits
    check_equal(&subjects[5], COMPUTE_AUTO, KV_INT8); // experts, bfloat16
    runner_deterministic = false;
}

/* A graph that three sequences recorded serves a fourth, which comes in its first step of the bucket. */
static void check_graph_grows(enum compute_type compute, enum kv_type kv_type)
{
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    struct runner r;
    struct rng rng;

    rng_init(&rng, 7);
    model_plain(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    memcpy(ids[3], ids[0], sizeof ids[0]);
    size_t row = (size_t)t.params.vocab;
    float *first = xcalloc(4 * row, sizeof *first), *late = xcalloc(row, sizeof *late);
    runner_open(&r, &t, NULL, 1, compute, kv_type);
    for (int i = 0; i < 3; i++)
        run_step(&r, ids, (int[SEQUENCES]){1, 1, 1}, (float *[SEQUENCES]){first});
    run_step(&r, ids, (int[SEQUENCES]){1, 1, 1, 1}, (float *[SEQUENCES]){first, NULL, NULL, late});
    EXPECT(same_bits(first, late, row));
    runner_close(&r);
    free(first);
    free(late);
    tiny_free(&t);
}

static void test_graph_grows(void)
{
    runner_deterministic = true;
    check_graph_grows(COMPUTE_F32, KV_F32);
    check_graph_grows(COMPUTE_AUTO, KV_F16);
    check_graph_grows(COMPUTE_AUTO, KV_F32);
    runner_deterministic = false;
}

/* ---- pages, refusals ---- */

static void test_pages_move(void)
{
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    struct runner r;
    struct error err;
    struct rng rng;

    rng_init(&rng, 8);
    model_plain(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    memcpy(ids[1], ids[0], sizeof ids[0]);
    memcpy(ids[2], ids[0], sizeof ids[0]);
    size_t count = (size_t)PROMPT * (size_t)t.params.vocab;
    float *a = xcalloc(3 * count, sizeof *a), *b = a + count, *c = b + count;
    runner_open(&r, &t, NULL, 1, COMPUTE_F32, KV_F16);
    run_step(&r, ids, (int[SEQUENCES]){5}, (float *[SEQUENCES]){a});
    size_t bytes = r.ops->kv_block_bytes(r.b, KV_F16);
    uint8_t *host = xmalloc(bytes);
    r.ops->kv_copy(r.b, r.blocks[0][0], r.blocks[1][0], 5);
    r.ops->kv_save(r.b, r.blocks[0][0], 5, host);
    NEED(r.ops->sync(r.b, &err) == 0);
    r.ops->kv_restore(r.b, r.blocks[2][0], 5, host);
    r.past[1] = r.past[2] = 5;
    run_step(&r, ids, (int[SEQUENCES]){4, 4, 4}, (float *[SEQUENCES]){a, b, c});
    size_t from = 5 * (size_t)t.params.vocab, rest = 4 * (size_t)t.params.vocab;
    EXPECT(same_bits(a + from, b + from, rest));
    EXPECT(same_bits(a + from, c + from, rest));
    runner_close(&r);
    free(host);
    free(a);
    tiny_free(&t);
}

static void test_refusals(void)
{
    const struct backend_ops *ops = &cuda_backend_ops;
    struct backend_options options = {.world = 1};
    struct step_limits limits = {8, 2, 2, 64};
    struct tiny_model t = {0};
    struct error err = {0};
    struct backend *b;
    struct rng rng;

    rng_init(&rng, 9);
    model_plain(&t, &rng);
    t.layer[1].down.cols = 32;
    NEED(ops->open(&options, &b, &err) == 0);
    EXPECT_INT(ops->load(b, &t.params, &limits, &err), E_INVALID);
    EXPECT(strstr(err.text, "layer 1: matrix down is 96 x 32"));
    ops->close(b);
    t.layer[1].down.cols = 160;
    t.layer[1].down.type = DTYPE_F8_E4M3;
    NEED(ops->open(&options, &b, &err) == 0);
    EXPECT_INT(ops->load(b, &t.params, &limits, &err), E_INVALID);
    EXPECT(strstr(err.text, "layer 1: matrix down of F8_E4M3 has no scales beside it"));
    ops->close(b);
    t.params.head_dim = 512;
    NEED(ops->open(&options, &b, &err) == 0);
    EXPECT_INT(ops->load(b, &t.params, &limits, &err), E_UNSUPPORTED);
    EXPECT(strstr(err.text, "head size 512; the cuda backend takes 2 to 256"));
    ops->close(b);
    tiny_free(&t);
}

/* Matrices of floats that are to be kept as float16 and can't be: of a layer, an expert, and outside of them. */
static void check_beyond(struct tiny_model *t, struct matrix *m, const char *reason)
{
    const struct backend_ops *ops = &cuda_backend_ops;
    struct backend_options options = {.world = 1, .compute = COMPUTE_F16};
    struct step_limits limits = {8, 2, 2, 64};
    float *data = (float *)(uintptr_t)m->data, kept = data[5];
    struct error err = {0};
    struct backend *b;

    data[5] = -7e4f;
    NEED(ops->open(&options, &b, &err) == 0);
    EXPECT_INT(ops->load(b, &t->params, &limits, &err), E_UNSUPPORTED);
    EXPECT(strstr(err.text, reason));
    ops->close(b);
    options.compute = COMPUTE_AUTO;
    NEED(ops->open(&options, &b, &err) == 0);
    EXPECT_INT(ops->load(b, &t->params, &limits, &err), 0);
    ops->close(b);
    data[5] = kept;
}

static void test_beyond_float16(void)
{
    struct tiny_model t = {0};
    struct rng rng;

    rng_init(&rng, 9);
    model_softmax_groups(&t, &rng);
    check_beyond(&t, &t.layer[1].k, "layer 1: a weight of k is beyond float16 (65504)");
    check_beyond(&t, (struct matrix *)(uintptr_t)&t.experts[0].down[2],
                 "layer 0: a weight of an expert is beyond float16");
    check_beyond(&t, &t.params.embedding, "a weight of the embedding is beyond float16");
    tiny_free(&t);
}

/* AUTO is what the embedding is, if that has 16 bits. */
static void test_auto(void)
{
    static const struct {
        enum dtype type;
        const char *name;
    } cases[] = {{DTYPE_F16, ", float16"},
                 {DTYPE_BF16, ", bfloat16"},
                 {DTYPE_F32, ", bfloat16"},
                 {DTYPE_Q8_0, ", bfloat16"}};
    const struct backend_ops *ops = &cuda_backend_ops;
    struct backend_options options = {.world = 1, .measure_only = true};
    struct step_limits limits = {8, 2, 2, 64};
    struct error err = {0};
    struct rng rng;

    rng_init(&rng, 9);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const enum dtype types[] = {cases[i].type, DTYPE_Q4_0};
        struct tiny_model t = {.params = scalars(64, 4, 2, 16, 96, 80)};
        struct backend *b;
        tiny_fill(&t, &rng, types, 2, false);
        NEED(ops->open(&options, &b, &err) == 0);
        NEED(ops->load(b, &t.params, &limits, &err) == 0);
        EXPECT(strstr(ops->describe(b), cases[i].name));
        ops->close(b);
        tiny_free(&t);
    }
}

/* Sizes without memory are those with it. */
static void test_measure_only(void)
{
    const struct backend_ops *ops = &cuda_backend_ops;
    struct step_limits limits = {8, 2, 2, 64};
    size_t weights[2], activations[2];
    struct tiny_model t = {0};
    struct error err = {0};
    struct rng rng;

    rng_init(&rng, 9);
    model_groups(&t, &rng);
    for (int i = 0; i < 2; i++) {
        struct backend_options options = {.world = 1, .measure_only = i == 0};
        struct backend *b;
        NEED(ops->open(&options, &b, &err) == 0);
        NEED(ops->load(b, &t.params, &limits, &err) == 0);
        ops->memory(b, &weights[i], &activations[i]);
        EXPECT(ops->kv_block_bytes(b, KV_F16) > 0);
        ops->close(b);
    }
    EXPECT(weights[0] > 0 && weights[0] == weights[1]);
    EXPECT(activations[0] > 0 && activations[0] == activations[1]);
    tiny_free(&t);
}

static size_t measured_weights(const struct model_params *p, enum compute_type compute)
{
    const struct backend_ops *ops = &cuda_backend_ops;
    struct backend_options options = {.world = 1, .measure_only = true, .compute = compute};
    struct step_limits limits = {8, 2, 2, 64};
    size_t weights, activations;
    struct error err = {0};
    struct backend *b;

    NEED(ops->open(&options, &b, &err) == 0);
    NEED(ops->load(b, p, &limits, &err) == 0);
    ops->memory(b, &weights, &activations);
    ops->close(b);
    return weights;
}

/* A byte each and a float for a block of the columns that lies in one of the grid's; where that is too short they
 * are bfloat16. */
static void test_f8_memory(void)
{
    static const struct {
        int block_cols, grid_col, bits;
    } cases[] = {
        {128, 0, 1056}, {128, 128, 1056}, {128, 32, 1152}, {128, 16, 1280}, {1000, 0, 2048}};
    static const enum dtype types[] = {DTYPE_BF16};
    struct tiny_model t = {.params = scalars(128, 2, 2, 64, 1024, 32)};
    float scale[64] = {0};
    struct rng rng;

    rng_init(&rng, 9);
    tiny_fill(&t, &rng, types, 1, false);
    size_t floats = measured_weights(&t.params, COMPUTE_AUTO);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct scale_grid grid = {scale, 8, 128, cases[i].block_cols};
        struct matrix *up = &t.layer[0].up; // 1024 x 128
        up->type = DTYPE_F8_E4M3;
        up->grid = &grid;
        up->grid_col = cases[i].grid_col;
        EXPECT_INT(floats - measured_weights(&t.params, COMPUTE_AUTO),
                   (2048 - cases[i].bits) / 8 * 1024);
        EXPECT(measured_weights(&t.params, COMPUTE_F32) > floats);
    }
    tiny_free(&t);
}

static size_t measured_activations(int tokens, int world, bool deterministic)
{
    const struct backend_ops *ops = &cuda_backend_ops;
    struct backend_options options = {
        .world = world, .measure_only = true, .deterministic = deterministic};
    struct step_limits limits = {tokens, 2, 2, 64};
    size_t weights, activations;
    struct tiny_model t = {0};
    struct error err = {0};
    struct backend *b;
    struct rng rng;

    rng_init(&rng, 9);
    model_plain(&t, &rng);
    NEED(ops->open(&options, &b, &err) == 0);
    NEED(ops->load(b, &t.params, &limits, &err) == 0);
    ops->memory(b, &weights, &activations);
    ops->close(b);
    tiny_free(&t);
    return activations;
}

/* What a library needs: its own workspace, and bfloat16 of weights in blocks where a step has rows enough. */
static void test_library_memory(void)
{
    size_t few = measured_activations(32, 1, false) - measured_activations(32, 1, true);
    size_t many = measured_activations(33, 1, false) - measured_activations(33, 1, true);
    EXPECT(few > 0 && many > few && many < 2 * few);
}

/* Ordered sums gather a piece of every rank; measuring joins no group. What NCCL takes is planned with either, and a
 * place for the ids of a step that ranks share. */
static void test_gathered_memory(void)
{
    setenv("LM_CUDA_PEER", "0", 1);
    size_t plain = measured_activations(8, 1, false);
    size_t nccl_of_2 = measured_activations(8, 2, false) - plain;
    size_t nccl_of_4 = measured_activations(8, 4, false) - plain;
    size_t ids = nccl_of_2 - ((size_t)256 << 20);
    EXPECT(ids >= 8 * sizeof(float) && ids <= 1024 && nccl_of_4 - ids == (size_t)512 << 20);
    size_t of_1 = measured_activations(8, 1, true), of_2 = measured_activations(8, 2, true);
    size_t gathered_of_2 = of_2 - of_1 - nccl_of_2;
    EXPECT(gathered_of_2 > 0 && gathered_of_2 < (size_t)64 << 20);
    EXPECT(measured_activations(8, 4, true) - of_1 - nccl_of_4 == 2 * gathered_of_2);
    unsetenv("LM_CUDA_PEER");
    EXPECT(measured_activations(8, 2, true) > of_2); // mailboxes
}

/* A driver that doesn't record early launches: found at open, and steps are recorded without. */
static void test_early_launches_refused(void)
{
    struct backend_options options = {.world = 1};
    struct backend *b;
    struct error err;

    setenv("LM_CUDA_EMU_NO_PDL_GRAPH", "1", 1);
    NEED(cuda_backend_ops.open(&options, &b, &err) == 0);
    EXPECT_INT(strstr(cuda_backend_ops.describe(b), "refuses early launches") != NULL, IS_EMULATED);
    cuda_backend_ops.close(b);
    runner_deterministic = true;
    check_graph_grows(COMPUTE_AUTO, KV_F16);
    runner_deterministic = false;
    unsetenv("LM_CUDA_EMU_NO_PDL_GRAPH");
}

int main(void)
{
    runner_ops = &cuda_backend_ops;
    RUN(test_float32);
    RUN(test_bfloat16);
    RUN(test_float16);
    RUN(test_hidden_row);
    RUN(test_sampled);
    if (!HAS_RACE_HOOKS) RUN(test_equal_bits); // the same kernels again, at a tenth of the speed
    if (!HAS_RACE_HOOKS) RUN(test_wide_bits);
    if (!HAS_RACE_HOOKS) RUN(test_graph_grows);
    RUN(test_pages_move);
    RUN(test_refusals);
    RUN(test_beyond_float16);
    RUN(test_auto);
    RUN(test_measure_only);
    RUN(test_f8_memory);
    RUN(test_library_memory);
    RUN(test_gathered_memory);
    if (!HAS_RACE_HOOKS) RUN(test_early_launches_refused); // for the rest of the process
    return TEST_END();
}
