/* A model cut over two ranks of the CUDA backend, each with a thread and a device of its own: the logits of
 * one rank within rounding, and an aborted group makes a rank that waits fail. */
#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/tiny_models.h"

#include <pthread.h>

#define RANKS  2
#define LENGTH 7

/* ---- cutting ---- */

static const struct rank_share shares[RANKS] = {
    {.heads = {0, 3, 6},
     .kv_heads = {0, 1, 2},
     .ffn = {0, 96, 160},
     .vocab = {0, 70, 131},
     .hidden = {0, 96, 96}},
    {.heads = {3, 3, 6},
     .kv_heads = {1, 1, 2},
     .ffn = {96, 64, 160},
     .vocab = {70, 61, 131},
     .hidden = {0, 96, 96}},
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

static struct model_params cut(const struct tiny_model *t, int rank,
                               struct layer_params layer[TINY_LAYERS_MAX])
{
    const struct rank_share *s = &shares[rank];
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
    t->params = scalars(96, 6, 2, 16, 160, 131);
    t->params.qk_norm_spans_heads = true; // of all ranks' heads
    tiny_fill(t, r, types, 2, true);
    for (int i = 0; i < t->params.layers; i++) {
        t->layer[i].q_norm = tiny_floats(t, r, 96, 1, 0.3f);
        t->layer[i].k_norm = tiny_floats(t, r, 32, 1, 0.3f);
    }
    t->params.on_source_done = NULL;
}

/* ---- ranks ---- */

struct rank {
    const struct tiny_model *model;
    const int32_t *ids;
    struct comm_group *group;
    int index, steps, steps_to_run;
    float *logits; // [LENGTH][vocab], of rank 0
    struct error err;
    int rc;
};

/* A prompt of LENGTH - 1 tokens, then one that decodes. */
static int run_steps(struct rank *x, struct backend *b, const struct model_params *p)
{
    static const int counts[] = {LENGTH - 1, 1};
    const struct backend_ops *ops = &cuda_backend_ops;
    const int32_t block = 3, rows[LENGTH] = {0, 1, 2, 3, 4, 5, 6};
    int past = 0;

    for (x->steps = 0; x->steps < x->steps_to_run; x->steps++) {
        int count = counts[x->steps];
        struct step_sequence sequence = {.count = count, .past = past, .blocks = &block};
        struct step step = {.tokens = count,
                            .ids = x->ids + past,
                            .sequences = 1,
                            .sequence = &sequence,
                            .rows = count,
                            .row = rows};
        struct runner r = {.ops = ops, .b = b, .p = p};
        forward_step(&r, &step);
        int rc = ops->sync(b, &x->err);
        if (rc < 0) return rc;
        size_t size = (size_t)count * (size_t)p->vocab;
        if (x->index == 0)
            memcpy(x->logits + (size_t)past * (size_t)p->vocab, ops->logits_host(b),
                   size * sizeof *x->logits);
        past += count;
    }
    return 0;
}

static void *run_rank(void *arg)
{
    struct rank *x = arg;
    struct layer_params layer[TINY_LAYERS_MAX];
    struct model_params p = x->group ? cut(x->model, x->index, layer) : x->model->params;
    struct backend_options options = {.compute = COMPUTE_F32,
                                      .rank = x->index,
                                      .world = x->group ? RANKS : 1,
                                      .group = x->group,
                                      .peer_timeout_ms = 2000};
    struct step_limits limits = {LENGTH, 1, LENGTH, KV_BLOCK_TOKENS};
    const struct backend_ops *ops = &cuda_backend_ops;
    struct backend *b = NULL;

    x->rc = ops->open(&options, &b, &x->err);
    if (x->rc == 0) x->rc = ops->load(b, &p, &limits, &x->err);
    if (x->rc == 0) x->rc = ops->kv_open(b, KV_F32, 4, &x->err);
    if (x->rc == 0) x->rc = run_steps(x, b, &p);
    ops->close(b);
    return NULL;
}

static void run_ranks(struct rank rank[RANKS])
{
    pthread_t thread[RANKS];

    for (int i = 0; i < RANKS; i++)
        NEED(pthread_create(&thread[i], NULL, run_rank, &rank[i]) == 0);
    for (int i = 0; i < RANKS; i++)
        pthread_join(thread[i], NULL);
}

struct scene {
    struct tiny_model model;
    int32_t ids[LENGTH];
    struct comm_group *group;
    struct rank rank[RANKS];
};

static void scene_init(struct scene *s)
{
    struct backend_options options = {.world = RANKS};
    struct error err = {0};
    struct rng rng;

    memset(s, 0, sizeof *s);
    rng_init(&rng, 11);
    model_cut(&s->model, &rng);
    for (int i = 0; i < LENGTH; i++)
        s->ids[i] = (int32_t)rng_below(&rng, 131);
    NEED(cuda_backend_ops.group_create(&options, &s->group, &err) == 0);
    for (int i = 0; i < RANKS; i++)
        s->rank[i] = (struct rank){.model = &s->model,
                                   .ids = s->ids,
                                   .group = s->group,
                                   .index = i,
                                   .steps_to_run = 2,
                                   .logits = xcalloc(LENGTH * 131, sizeof(float))};
}

static void scene_deinit(struct scene *s)
{
    cuda_backend_ops.group_destroy(s->group);
    for (int i = 0; i < RANKS; i++)
        free(s->rank[i].logits);
    tiny_free(&s->model);
}

static void test_two_ranks(void)
{
    static struct scene s;
    struct rank alone;
    double error = 0, scale = 0;

    scene_init(&s);
    alone = s.rank[0];
    alone.group = NULL;
    alone.logits = xcalloc(LENGTH * 131, sizeof(float));
    run_rank(&alone);
    run_ranks(s.rank);
    for (int i = 0; i < RANKS; i++) {
        if (s.rank[i].rc < 0) printf("rank %d: %s\n", i, s.rank[i].err.text);
        EXPECT_INT(s.rank[i].rc, 0);
    }
    for (int i = 0; i < LENGTH * 131; i++) {
        double difference = (double)s.rank[0].logits[i] - (double)alone.logits[i];
        error += difference * difference;
        scale += (double)alone.logits[i] * (double)alone.logits[i];
    }
    printf("  difference %.1e\n", sqrt(error / scale));
    EXPECT(scale > 0 && sqrt(error / scale) < 2e-6);
    free(alone.logits);
    scene_deinit(&s);
}

/* Who waits on a device learns it from the group. (The time limit can't be seen here: the emulator runs a
 * stream when it is asked about.) */
static void test_missing_rank(void)
{
    static struct scene s;
    pthread_t thread[RANKS];

    scene_init(&s);
    s.rank[1].steps_to_run = 1; // leaves behind the first step
    for (int i = 0; i < RANKS; i++)
        NEED(pthread_create(&thread[i], NULL, run_rank, &s.rank[i]) == 0);
    pthread_join(thread[1], NULL);
    cuda_backend_ops.group_abort(s.group, "rank 1 has left");
    pthread_join(thread[0], NULL);
    EXPECT_INT(s.rank[1].rc, 0);
    EXPECT_INT(s.rank[0].rc, E_DEVICE);
    EXPECT_STR(s.rank[0].err.text, "rank 1 has left");
    scene_deinit(&s);
}

int main(void)
{
    setenv("LM_CUDA_EMU_DEVICES", "2", 1); // of the emulator; real ones are as many as there are
    RUN(test_two_ranks);
    RUN(test_missing_rank);
    return TEST_END();
}
