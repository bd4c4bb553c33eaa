/* Steps that begin before the one before them is synced, with tokens that only the device knows: what each gives is
 * what it gives when the host has seen those, eager, recorded and replayed, while sequences come, rest and go on. */
#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/tiny_models.h"

#define STEPS 10
#define LATE \
    (SEQUENCES - 1) // the sequence that comes late, with a prompt beside the others' answers
#define RESTS  1    // the one that isn't in every step
#define PROMPT 3
#define LONG   11

struct plan {
    struct step step;
    struct step_sequence sequence[SEQUENCES];
    int32_t ids[TOKENS], row[SEQUENCES];
    struct step_link link[SEQUENCES];
    int who[SEQUENCES]; // of a row
};

struct run {
    struct runner r;
    int32_t ids[SEQUENCES][TOKENS];
    int row_of[SEQUENCES]; // in the step that was planned last; -1: none
    struct plan plan[2];   // steps take turns
    /* What steps gave, by sequence. */
    int32_t drawn[STEPS][SEQUENCES]; // -1: nothing
    int32_t max[STEPS][SEQUENCES];   // bits of a report's; of row 0
};

static int count_of(int sequence, int step)
{
    if (sequence == LATE) return step < 3 ? 0 : step == 3 ? LONG : 1;
    if (step == 0) return PROMPT;
    return sequence == RESTS && step % 3 == 2 ? 0 : 1;
}

static void plan_sequence(struct run *x, struct plan *p, int s, int count, bool is_ahead)
{
    int past = x->r.past[s], first = p->step.tokens, row = x->row_of[s];

    p->sequence[p->step.sequences++] =
        (struct step_sequence){first, count, past, x->r.blocks[s], 0};
    memcpy(p->ids + first, x->ids[s] + past, (size_t)count * sizeof *p->ids);
    if (is_ahead && past > 0 && row >= 0) { // not known yet
        p->ids[first] = 0;
        p->link[p->step.links++] = (struct step_link){first, row};
    }
    p->step.tokens += count;
    x->r.past[s] += count;
    x->row_of[s] = p->step.rows;
    p->who[p->step.rows] = s;
    p->row[p->step.rows++] = p->step.tokens - 1;
}

static const struct step *plan(struct run *x, int step, bool is_ahead)
{
    struct plan *p = &x->plan[step % 2];

    p->step = (struct step){.ids = p->ids,
                            .sequence = p->sequence,
                            .row = p->row,
                            .is_sampled = true,
                            .is_ahead = is_ahead,
                            .link = p->link};
    for (int s = 0; s < SEQUENCES; s++) {
        int count = count_of(s, step);
        if (count > 0)
            plan_sequence(x, p, s, count, is_ahead);
        else
            x->row_of[s] = -1;
    }
    return &p->step;
}

static void begin(struct run *x, int step, bool is_ahead)
{
    const struct step *s = plan(x, step, is_ahead);
    struct sample_row row[SEQUENCES];

    for (int i = 0; i < s->rows; i++)
        row[i] =
            (struct sample_row){.temperature = i == 2 ? 0 : 3,
                                .top_p = 1,
                                .repetition = 1,
                                .random = 0x9e3779b97f4a7c15u * (uint64_t)(SEQUENCES * step + i),
                                .logprobs = i == 0 ? 1 : 0};
    forward_step(&x->r, s);
    x->r.ops->sample(x->r.b, row, x->r.p->vocab);
}

static void end(struct run *x, int step)
{
    const struct plan *p = &x->plan[step % 2];
    struct error err;

    while (!x->r.ops->has_ended(x->r.b))
        ;
    NEED(x->r.ops->sync(x->r.b, &err) == 0);
    for (int s = 0; s < SEQUENCES; s++)
        x->drawn[step][s] = -1;
    for (int i = 0; i < p->step.rows; i++) {
        int token = x->r.ops->sampled(x->r.b)[i], s = p->who[i];
        EXPECT(token >= 0 && token < x->r.p->vocab);
        x->drawn[step][s] = token;
        x->ids[s][p->sequence[i].past + p->sequence[i].count] = token;
    }
    memcpy(&x->max[step][p->who[0]], &x->r.ops->reported(x->r.b, 0)->max, sizeof(int32_t));
}

static struct run *run_all_steps(struct tiny_model *t, enum compute_type compute, bool is_ahead)
{
    struct run *x = xcalloc(1, sizeof *x);
    struct rng rng;

    rng_init(&rng, 13);
    runner_open(&x->r, t, NULL, 1, compute, KV_F32);
    random_ids(&rng, t->params.vocab, x->ids);
    for (int i = 0; i < STEPS; i++) {
        begin(x, i, is_ahead && i > 0);
        if (!is_ahead) end(x, i);
        if (is_ahead && i > 0) end(x, i - 1);
    }
    if (is_ahead) end(x, STEPS - 1);
    runner_close(&x->r);
    return x;
}

static void check_ahead(enum compute_type compute)
{
    struct tiny_model t = {0};
    struct rng rng;

    rng_init(&rng, 12);
    model_plain(&t, &rng);
    struct run *want = run_all_steps(&t, compute, false);
    struct run *got = run_all_steps(&t, compute, true);
    for (int i = 0; i < STEPS; i++) {
        EXPECT(memcmp(got->drawn[i], want->drawn[i], sizeof want->drawn[i]) == 0);
        EXPECT(memcmp(got->max[i], want->max[i], sizeof want->max[i]) == 0);
    }
    free(want);
    free(got);
    tiny_free(&t);
}

static void test_ahead_float32(void)
{
    check_ahead(COMPUTE_F32);
}

static void test_ahead_bfloat16(void)
{
    runner_deterministic = true; // a library takes other algorithms for other numbers of rows
    check_ahead(COMPUTE_BF16);
    runner_deterministic = false;
}

/* A row that gives no token: what is linked to it reads token 0. */
static void test_no_token(void)
{
    struct tiny_model t = {0};
    struct runner r;
    struct rng rng;
    struct error err;
    int32_t ids[2] = {5, 0}, rows[1] = {0};
    struct step_sequence sequence = {.count = 1};
    struct sample_row row = {.temperature = NAN, .top_p = 1, .repetition = 1};
    struct step_link link = {0, 0};
    struct step step = {.tokens = 1,
                        .ids = ids,
                        .sequences = 1,
                        .sequence = &sequence,
                        .rows = 1,
                        .row = rows,
                        .is_sampled = true};

    rng_init(&rng, 12);
    model_plain(&t, &rng);
    runner_open(&r, &t, NULL, 1, COMPUTE_F32, KV_F32);
    sequence.blocks = r.blocks[0];
    size_t vocab = (size_t)t.params.vocab;
    float *logits[2] = {xcalloc(vocab, sizeof(float)), xcalloc(vocab, sizeof(float))};
    for (int linked = 0; linked < 2; linked++) {
        struct step first = step, second = step;
        sequence.past = 0;
        first.ids = ids;
        forward_step(&r, &first);
        row.kind = SAMPLE_NOTHING; // gives 0
        r.ops->sample(r.b, &row, t.params.vocab);
        if (!linked) NEED(r.ops->sync(r.b, &err) == 0);
        sequence.past = 1;
        second.ids = ids + 1;
        second.is_ahead = linked;
        second.is_sampled = false;
        second.links = linked;
        second.link = &link;
        forward_step(&r, &second);
        if (linked) NEED(r.ops->sync(r.b, &err) == 0);
        NEED(r.ops->sync(r.b, &err) == 0);
        memcpy(logits[linked], r.ops->logits_host(r.b), vocab * sizeof(float));
    }
    EXPECT(same_bits(logits[0], logits[1], vocab));
    free(logits[0]);
    free(logits[1]);
    runner_close(&r);
    tiny_free(&t);
}

int main(void)
{
    runner_ops = &cuda_backend_ops;
    RUN(test_ahead_float32);
    RUN(test_ahead_bfloat16);
    RUN(test_no_token);
    return TEST_END();
}
