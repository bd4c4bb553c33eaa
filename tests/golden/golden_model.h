/* golden_model.h - a model run straight over the backend line, for comparing logits: no scheduler,
 * no sampler, no threads of the engine. */
#ifndef LM_TESTS_GOLDEN_MODEL_H
#define LM_TESTS_GOLDEN_MODEL_H

#include "engine/decoder.h"
#include "engine/kv_cache.h"
#include "engine/weights.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "tests/golden/fixtures.h"

#include <math.h>

struct golden_model {
    struct weights *weights;
    const struct backend_ops *ops;
    struct backend *backend;
    struct step_limits limits;
    struct kv_cache kv;
    int vocab, layers;
};

struct golden_sequence {
    int32_t *ids;
    int count, computed;
    int rope_set;
    struct block_table table;
};

#define GOLDEN_SEQUENCES 16

/* Before golden_open: sets of rope tables for exactly these lengths, unlike the engine's, which are
 * for the next step up (engine/rope_set.h). */
static inline void golden_set_lengths(struct weights *w, const int *positions, int sets)
{
    struct model_params *p = &w->params;
    int half = p->rope_dims / 2, kinds = p->rope_table_count;
    struct rope_table *t = arena_alloc(&w->arena, (size_t)(sets * kinds) * sizeof *t);
    for (int i = 0; i < sets * kinds; i++) {
        float *inv_freq = arena_alloc(&w->arena, (size_t)half * sizeof *inv_freq);
        t[i].attention_factor =
            rope_build(&w->config.rope[i % kinds], positions[i / kinds], inv_freq);
        t[i].inv_freq = inv_freq;
    }
    p->rope_tables = t;
    p->rope_sets = sets;
}

/* The backend under test: LM_TEST_BACKEND, else the CPU's. */
static inline const struct backend_ops *golden_backend(void)
{
    const char *name = getenv("LM_TEST_BACKEND");
    const struct backend_ops *ops = backend_find(name ? name : "cpu");
    NEED(ops);
    return ops;
}

static inline void golden_open(struct golden_model *m, struct weights *w, enum compute_type compute,
                               enum kv_type kv_type, int tokens_max, int context)
{
    struct error err = {0};
    struct backend_options options = {.compute = compute, .world = 1};
    *m = (struct golden_model){.weights = w, .ops = golden_backend()};
    m->vocab = w->params.vocab;
    m->layers = w->params.layers;
    m->limits = (struct step_limits){tokens_max, GOLDEN_SEQUENCES, tokens_max, context};
    kv_cache_init(&m->kv, GOLDEN_SEQUENCES * blocks_for(context));
    if (m->ops->open(&options, &m->backend, &err) < 0 ||
        m->ops->load(m->backend, &w->params, &m->limits, &err) < 0 ||
        m->ops->kv_open(m->backend, kv_type, m->kv.total, &err) < 0) {
        printf("backend: %s\n", err.text);
        exit(1);
    }
}

static inline void golden_close(struct golden_model *m)
{
    m->ops->close(m->backend);
    kv_cache_deinit(&m->kv);
}

/* One step: `count[i]` more tokens of each sequence. Logits of the last token of each, or of all
 * tokens. */
static inline const float *golden_step(struct golden_model *m, struct golden_sequence **seq,
                                       const int *count, int n, bool all_rows)
{
    struct step_sequence s[GOLDEN_SEQUENCES];
    struct step step = {.sequence = s, .sequences = n};
    int32_t *ids = xcalloc((size_t)m->limits.tokens_max, sizeof *ids);
    int32_t *rows = xcalloc((size_t)m->limits.tokens_max, sizeof *rows);
    struct error err = {0};
    for (int i = 0; i < n; i++) {
        NEED(block_table_reserve(&seq[i]->table, &m->kv, seq[i]->computed + count[i]));
        s[i] = (struct step_sequence){.first = step.tokens,
                                      .count = count[i],
                                      .past = seq[i]->computed,
                                      .blocks = seq[i]->table.blocks,
                                      .rope_set = seq[i]->rope_set};
        memcpy(ids + step.tokens, seq[i]->ids + seq[i]->computed, (size_t)count[i] * sizeof *ids);
        seq[i]->computed += count[i];
        for (int j = 0; j < count[i]; j++, step.tokens++)
            if (all_rows || j == count[i] - 1) rows[step.rows++] = step.tokens;
    }
    step.ids = ids;
    step.row = rows;
    decoder_forward(m->ops, m->backend, m->layers, &step);
    if (m->ops->sync(m->backend, &err) < 0) {
        printf("sync: %s\n", err.text);
        exit(1);
    }
    free(ids);
    free(rows);
    return m->ops->logits_host(m->backend);
}

/* Prefill what isn't computed yet in chunks; logits of the last token. */
static inline const float *golden_prefill(struct golden_model *m, struct golden_sequence *s)
{
    const float *logits = NULL;
    while (s->computed < s->count) {
        int left = s->count - s->computed;
        int chunk = left < m->limits.tokens_max ? left : m->limits.tokens_max;
        logits = golden_step(m, &s, &chunk, 1, false);
    }
    return logits;
}

static inline void golden_sequence_init(struct golden_sequence *s, const struct json *ids, int room)
{
    *s = (struct golden_sequence){0};
    s->ids = xcalloc(json_len(ids) + (size_t)room, sizeof *s->ids);
    for (const struct json *id = json_first(ids); id; id = json_next(id))
        s->ids[s->count++] = (int32_t)json_number(id);
}

static inline void golden_sequence_deinit(struct golden_model *m, struct golden_sequence *s)
{
    block_table_release(&s->table, &m->kv);
    free(s->ids);
}

static inline int golden_argmax(const float *logits, int vocab)
{
    int best = 0;
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

#endif
