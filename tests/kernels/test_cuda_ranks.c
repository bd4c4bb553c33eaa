/* A model cut over two and four ranks of the CUDA backend, each with a thread and a device of its own: the
 * logits of one rank within rounding, with equal bits where those are asked for, and what becomes of
 * the others when a rank fails, leaves or never comes. */
#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/tiny_models.h"

#include <pthread.h>
#include <semaphore.h>

#ifdef LM_CUDA_EMU_RACE
#define HAS_RACE_HOOKS 1
#else
#define HAS_RACE_HOOKS 0
#endif

#define RANKS_MAX 4
#define LENGTH    7
#define VOCAB     131

/* ---- cutting ---- */

#define SHARE(h, k, f, v)                                                          \
    {                                                                              \
        .heads = {h, 6}, .kv_heads = {k, 2}, .ffn = {f, 160}, .vocab = {v, VOCAB}, \
        .hidden = {0, 96, 96},                                                     \
    }
#define RANGE(first, count) first, count

/* With four ranks each KV head is on two of them. */
static const struct rank_share shares_of_2[] = {
    SHARE(RANGE(0, 3), RANGE(0, 1), RANGE(0, 96), RANGE(0, 70)),
    SHARE(RANGE(3, 3), RANGE(1, 1), RANGE(96, 64), RANGE(70, 61)),
};
static const struct rank_share shares_of_4[] = {
    SHARE(RANGE(0, 2), RANGE(0, 1), RANGE(0, 64), RANGE(0, 40)),
    SHARE(RANGE(2, 1), RANGE(0, 1), RANGE(64, 32), RANGE(40, 40)),
    SHARE(RANGE(3, 2), RANGE(1, 1), RANGE(96, 32), RANGE(80, 30)),
    SHARE(RANGE(5, 1), RANGE(1, 1), RANGE(128, 32), RANGE(110, 21)),
};

static struct matrix rows_of(const struct matrix *m, int first, int count)
{
    struct matrix out = *m;
    out.data = (const uint8_t *)m->data + (size_t)first * matrix_stride(m);
    out.rows = count;
    return out;
}

static struct matrix cols_of(const struct matrix *m, int first, int count)
{
    struct matrix out = *m;
    out.row_stride = matrix_stride(m);
    out.data = (const uint8_t *)m->data + matrix_row_bytes(m->type, first);
    out.cols = count;
    return out;
}

/* Biases of sums are the first rank's. */
static void cut_layer(struct layer_params *l, const struct rank_share *s, int head_dim, bool first)
{
    int q = s->heads.first * head_dim, k = s->kv_heads.first * head_dim;
    int q_count = s->heads.count * head_dim, k_count = s->kv_heads.count * head_dim;

    l->q = rows_of(&l->q, q, q_count);
    l->k = rows_of(&l->k, k, k_count);
    l->v = rows_of(&l->v, k, k_count);
    l->o = cols_of(&l->o, q, q_count);
    l->gate = rows_of(&l->gate, s->ffn.first, s->ffn.count);
    l->up = rows_of(&l->up, s->ffn.first, s->ffn.count);
    l->down = cols_of(&l->down, s->ffn.first, s->ffn.count);
    l->q_bias += q;
    l->k_bias += k;
    l->v_bias += k;
    if (!first) l->o_bias = NULL;
}

static struct model_params cut(const struct tiny_model *t, int rank, int world,
                               struct layer_params layer[TINY_LAYERS_MAX])
{
    const struct rank_share *s = world == 2 ? &shares_of_2[rank] : &shares_of_4[rank];
    struct model_params p = t->params;

    p.share = s;
    p.heads = s->heads.count;
    p.kv_heads = s->kv_heads.count;
    p.ffn = s->ffn.count;
    p.embedding = rows_of(&p.embedding, s->vocab.first, s->vocab.count);
    p.head = rows_of(&p.head, s->vocab.first, s->vocab.count);
    memcpy(layer, t->layer, sizeof t->layer);
    for (int i = 0; i < p.layers; i++)
        cut_layer(&layer[i], s, p.head_dim, rank == 0);
    p.layer = layer;
    return p;
}

static void model_cut(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16};
    t->params = scalars(96, 6, 2, 16, 160, VOCAB);
    t->params.qk_norm_spans_heads = true; // of all ranks' heads
    tiny_fill(t, r, types, 2, true);
    for (int i = 0; i < t->params.layers; i++) {
        t->layer[i].q_norm = tiny_floats(t, r, 96, 1, 0.3f);
        t->layer[i].k_norm = tiny_floats(t, r, 32, 1, 0.3f);
    }
    t->params.on_source_done = NULL;
}

/* ---- ranks ---- */

/* How the tokens come: a prompt, then decode steps of which the third replays a graph. */
static const int whole_prompt[] = {4, 1, 1, 1, 0}, cut_prompt[] = {1, 3, 1, 1, 1, 0};

struct rank {
    const struct tiny_model *model;
    const int32_t *ids;
    struct comm_group *group; // NULL: one rank
    int index, world, peer_timeout_ms;
    enum compute_type compute;
    bool deterministic;
    const int *counts; // tokens of the steps, behind them 0
    sem_t *stays;      // behind its steps it waits for this; NULL: it leaves
    float *logits;     // [LENGTH][VOCAB], of rank 0
    struct error err;
    int rc;
};

static int run_steps(struct rank *x, struct backend *b, const struct model_params *p)
{
    const struct backend_ops *ops = &cuda_backend_ops;
    const int32_t block = 3, rows[LENGTH] = {0, 1, 2, 3, 4, 5, 6};
    int past = 0;

    for (const int *count = x->counts; *count; past += *count++) {
        struct step_sequence sequence = {.count = *count, .past = past, .blocks = &block};
        struct step step = {.tokens = *count,
                            .ids = x->ids + past,
                            .sequences = 1,
                            .sequence = &sequence,
                            .rows = *count,
                            .row = rows};
        struct runner r = {.ops = ops, .b = b, .p = p};
        forward_step(&r, &step);
        int rc = ops->sync(b, &x->err);
        if (rc < 0) return rc;
        size_t size = (size_t)*count * VOCAB;
        if (x->index == 0)
            memcpy(x->logits + (size_t)past * VOCAB, ops->logits_host(b), size * sizeof *x->logits);
    }
    return 0;
}

/* As the executor does it: who fails aborts the group. */
static void *run_rank(void *arg)
{
    struct rank *x = arg;
    struct layer_params layer[TINY_LAYERS_MAX];
    struct model_params p = x->group ? cut(x->model, x->index, x->world, layer) : x->model->params;
    struct backend_options options = {.compute = x->compute,
                                      .rank = x->index,
                                      .world = x->world,
                                      .group = x->group,
                                      .deterministic = x->deterministic,
                                      .peer_timeout_ms = x->peer_timeout_ms};
    struct step_limits limits = {LENGTH, 1, LENGTH, KV_BLOCK_TOKENS};
    const struct backend_ops *ops = &cuda_backend_ops;
    struct backend *b = NULL;

    x->rc = ops->open(&options, &b, &x->err);
    if (x->rc == 0) x->rc = ops->load(b, &p, &limits, &x->err);
    if (x->rc == 0) x->rc = ops->kv_open(b, KV_F32, 4, &x->err);
    if (x->rc == 0) x->rc = run_steps(x, b, &p);
    if (x->rc < 0 && x->group) ops->group_abort(x->group, x->err.text);
    if (x->rc == 0 && x->stays) sem_wait(x->stays);
    ops->close(b);
    return NULL;
}

struct scene {
    struct tiny_model model;
    int32_t ids[LENGTH];
    struct comm_group *group;
    struct rank rank[RANKS_MAX];
    pthread_t thread[RANKS_MAX];
    sem_t stays;
};

/* The same model and ids each time. */
static struct scene *scene_open(int world)
{
    struct scene *s = xcalloc(1, sizeof *s);
    struct backend_options options = {.world = world};
    struct error err = {0};
    struct rng rng;

    rng_init(&rng, 11);
    model_cut(&s->model, &rng);
    sem_init(&s->stays, 0, 0);
    for (int i = 0; i < LENGTH; i++)
        s->ids[i] = (int32_t)rng_below(&rng, VOCAB);
    if (world > 1) NEED(cuda_backend_ops.group_create(&options, &s->group, &err) == 0);
    for (int i = 0; i < world; i++)
        s->rank[i] = (struct rank){.model = &s->model,
                                   .ids = s->ids,
                                   .group = s->group,
                                   .index = i,
                                   .world = world,
                                   .peer_timeout_ms = 60000,
                                   .compute = COMPUTE_F32,
                                   .counts = whole_prompt,
                                   .logits = xcalloc(LENGTH * VOCAB, sizeof(float))};
    return s;
}

static void scene_close(struct scene *s)
{
    cuda_backend_ops.group_destroy(s->group);
    for (int i = 0; i < RANKS_MAX; i++)
        free(s->rank[i].logits);
    tiny_free(&s->model);
    sem_destroy(&s->stays);
    free(s);
}

static void start(struct scene *s, int rank)
{
    NEED(pthread_create(&s->thread[rank], NULL, run_rank, &s->rank[rank]) == 0);
}

static void expect_end(struct scene *s, int rank, int rc, const char *text)
{
    pthread_join(s->thread[rank], NULL);
    if (s->rank[rank].rc < 0 && rc == 0) printf("rank %d: %s\n", rank, s->rank[rank].err.text);
    EXPECT_INT(s->rank[rank].rc, rc);
    if (rc < 0) EXPECT_STR(s->rank[rank].err.text, text);
}

/* ---- right ---- */

/* Logits of `world` ranks, [LENGTH][VOCAB]; to be freed. */
static float *logits_of(int world, enum compute_type compute, bool deterministic, const int *counts)
{
    struct scene *s = scene_open(world);

    for (int i = 0; i < world; i++) {
        s->rank[i].compute = compute;
        s->rank[i].deterministic = deterministic;
        s->rank[i].counts = counts;
        start(s, i);
    }
    for (int i = 0; i < world; i++)
        expect_end(s, i, 0, NULL);
    float *logits = s->rank[0].logits;
    s->rank[0].logits = NULL;
    scene_close(s);
    return logits;
}

static void check_difference(const char *name, const float *got, const float *want)
{
    double error = 0, scale = 0;

    for (int i = 0; i < LENGTH * VOCAB; i++) {
        double difference = (double)got[i] - (double)want[i];
        error += difference * difference;
        scale += (double)want[i] * (double)want[i];
    }
    printf("  %s: difference %.1e\n", name, sqrt(error / scale));
    EXPECT(scale > 0 && sqrt(error / scale) < 2e-6);
}

static void test_logits_of_one_rank(void)
{
    float *want = logits_of(1, COMPUTE_F32, false, whole_prompt);
    float *of_2 = logits_of(2, COMPUTE_F32, false, whole_prompt);
    float *of_4 = logits_of(4, COMPUTE_F32, false, whole_prompt);
    float *in_order = logits_of(4, COMPUTE_F32, true, whole_prompt);

    check_difference("2 ranks", of_2, want);
    check_difference("4 ranks", of_4, want);
    check_difference("4 ranks, deterministic", in_order, want);
    free(want);
    free(of_2);
    free(of_4);
    free(in_order);
}

static bool same_bits_if_cut(int world, enum compute_type compute, bool deterministic)
{
    float *a = logits_of(world, compute, deterministic, whole_prompt);
    float *b = logits_of(world, compute, deterministic, cut_prompt);
    bool same = !memcmp(a, b, LENGTH * VOCAB * sizeof *a);

    free(a);
    free(b);
    return same;
}

/* backend.h rule 3. Sums over peer memory are in order; NCCL's have an order that depends on the number of elements; of
 * two ranks there is only one. */
static void test_equal_bits(void)
{
    EXPECT(same_bits_if_cut(4, COMPUTE_F32, true));
    EXPECT(same_bits_if_cut(4, COMPUTE_AUTO, true));
    EXPECT(same_bits_if_cut(4, COMPUTE_F32, false));
}

/* As where LM_CUDA_PEER=0, or with a GPU that others don't reach. Gathered sums are those of peers, bit by bit. */
static void test_equal_bits_without_peers(void)
{
    static const char *const settings[][2] = {{"LM_CUDA_PEER", "0"}, {"LM_CUDA_EMU_NO_PEER", "2"}};
    float *want = logits_of(4, COMPUTE_F32, true, whole_prompt);

    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        setenv(settings[i][0], settings[i][1], 1);
        float *got = logits_of(4, COMPUTE_F32, true, cut_prompt);
        EXPECT(!memcmp(got, want, LENGTH * VOCAB * sizeof *got));
        EXPECT(!same_bits_if_cut(4, COMPUTE_F32, false));
        unsetenv(settings[i][0]);
        free(got);
    }
    free(want);
}

/* Of a rank that is only measured. */
static size_t planned_activations(void)
{
    struct backend_options options = {
        .compute = COMPUTE_F32, .rank = 1, .world = 2, .measure_only = true};
    struct scene *s = scene_open(1);
    struct step_limits limits = {LENGTH, 1, LENGTH, KV_BLOCK_TOKENS};
    struct layer_params layer[TINY_LAYERS_MAX];
    struct model_params p = cut(&s->model, 1, 2, layer);
    const struct backend_ops *ops = &cuda_backend_ops;
    struct backend *b = NULL;
    struct error err = {0};
    size_t weights, activations;

    NEED(ops->open(&options, &b, &err) == 0 && ops->load(b, &p, &limits, &err) == 0);
    ops->memory(b, &weights, &activations);
    ops->close(b);
    scene_close(s);
    return activations;
}

static void test_mailboxes_are_planned(void)
{
    size_t with = planned_activations();

    setenv("LM_CUDA_PEER", "0", 1);
    size_t without = planned_activations();
    unsetenv("LM_CUDA_PEER");
    EXPECT(without > 0);
    EXPECT_INT(with - without, (8 << 20) + 256);
}

/* ---- ranks that fail ---- */

static void test_abort(void)
{
    struct scene *s = scene_open(2);

    s->rank[1].counts = whole_prompt + 4; // joins, and runs no step
    s->rank[1].stays = &s->stays;
    start(s, 0);
    start(s, 1);
    cuda_backend_ops.group_abort(s->group, "rank 1 is on fire");
    cuda_backend_ops.group_abort(s->group, "and so on");
    expect_end(s, 0, E_DEVICE, "rank 1 is on fire");
    sem_post(&s->stays);
    pthread_join(s->thread[1], NULL); // it may have joined before or not
    EXPECT(s->rank[1].rc == 0 || !strcmp(s->rank[1].err.text, "rank 1 is on fire"));
    scene_close(s);
}

/* It has joined, loads, and then doesn't come. */
static void test_a_rank_that_does_not_answer(void)
{
    struct scene *s = scene_open(2);

    s->rank[0].peer_timeout_ms = s->rank[1].peer_timeout_ms = 2000;
    s->rank[1].counts = whole_prompt + 4;
    s->rank[1].stays = &s->stays;
    start(s, 0);
    start(s, 1);
    expect_end(s, 0, E_DEVICE, "rank 1 did not answer the other ranks for 2 s");
    sem_post(&s->stays);
    expect_end(s, 1, 0, NULL);
    scene_close(s);
}

static void test_ranks_that_never_join(void)
{
    struct scene *s = scene_open(4);

    s->rank[0].peer_timeout_ms = s->rank[2].peer_timeout_ms = 500;
    start(s, 0);
    start(s, 2);
    expect_end(s, 0, E_DEVICE, "rank 1, 3 did not answer the other ranks for 2 s");
    expect_end(s, 2, E_DEVICE, "rank 1, 3 did not answer the other ranks for 2 s");
    start(s, 3); // too late
    expect_end(s, 3, E_DEVICE, "rank 1, 3 did not answer the other ranks for 2 s");
    scene_close(s);
}

/* Two ranks, of which one meets what the setting makes: both end with `why`. */
static void expect_both_end(const char *setting, const char *value, const char *why)
{
    struct scene *s = scene_open(2);

    setenv(setting, value, 1);
    start(s, 0);
    start(s, 1);
    expect_end(s, 0, E_DEVICE, why);
    expect_end(s, 1, E_DEVICE, why);
    unsetenv(setting);
    scene_close(s);
}

/* The others may be joining, loading or in a step. */
static void test_a_rank_without_memory(void)
{
    expect_both_end("LM_CUDA_EMU_MEMORY_1", "0", "can't get 0 MiB for weights: out of memory");
}

static void test_nccl_fails(void)
{
    expect_both_end("LM_CUDA_EMU_NCCL_FAILS", "1",
                    "NCCL, rank 1 of 2: unhandled system error (emulated)");
}

static void test_an_old_nccl(void)
{
    static const char *const cases[][2] = {
        {"21805", "several GPUs need NCCL 2.19 or later; libnccl.so.2 is 2.18.5"},
        {"2804", "several GPUs need NCCL 2.19 or later; libnccl.so.2 is 2.8.4"},
    };
    struct backend_options options = {.world = 2};
    struct comm_group *group;
    struct error err;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        setenv("LM_CUDA_EMU_NCCL", cases[i][0], 1);
        EXPECT_INT(cuda_backend_ops.group_create(&options, &group, &err), E_UNSUPPORTED);
        EXPECT_STR(err.text, cases[i][1]);
    }
    setenv("LM_CUDA_EMU_NCCL", "21900", 1);
    NEED(cuda_backend_ops.group_create(&options, &group, &err) == 0);
    cuda_backend_ops.group_destroy(group);
    unsetenv("LM_CUDA_EMU_NCCL");
    options.world = 9;
    EXPECT_INT(cuda_backend_ops.group_create(&options, &group, &err), E_LIMIT);
}

int main(void)
{
    setenv("LM_CUDA_EMU_DEVICES", "4", 1); // of the emulator; real ones are as many as there are
    RUN(test_logits_of_one_rank);
    if (!HAS_RACE_HOOKS) { // the same kernels again, at a tenth of the speed
        RUN(test_equal_bits);
        RUN(test_equal_bits_without_peers);
    }
    RUN(test_mailboxes_are_planned);
    RUN(test_abort);
    RUN(test_a_rank_that_does_not_answer);
    RUN(test_ranks_that_never_join);
    RUN(test_a_rank_without_memory);
    RUN(test_nccl_fails);
    RUN(test_an_old_nccl);
    return TEST_END();
}
