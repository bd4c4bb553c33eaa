/* fake_backend.h - a backend whose "model" is a hash, for tests of everything above the backend
 * line.
 *
 * Each position's page slot holds a hash of (token, position, set of rope tables); a row of logits is a function of all
 * slots that the sequence's block table leads to. So a wrong id, position, page or order changes
 * the tokens, while a right one gives the same whatever the batch or the chunking. It also checks
 * what a step promises: ids, blocks and rows in range, no page written by two sequences.
 *
 * One process-wide script (fake_backend) says what it does; set it before opening. */
#ifndef LM_TESTS_FAKE_BACKEND_H
#define LM_TESTS_FAKE_BACKEND_H

#include "kernels/backend.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/hash.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FAKE_VOCAB 64

/* What the fake does, and what it saw. */
struct fake_backend_script {
    atomic_bool is_held;     // no step ends: what is submitted meanwhile comes together
    atomic_int step_us;      // a step takes that long
    atomic_int fail_at_step; // sync fails from this step on (1 = first); 0: never
    atomic_int nan_token;    // a row whose last token is this has a NaN logit; -1: none
    atomic_int steps, rows, tokens_max_seen, sequences_max_seen;
    atomic_int kv_blocks, kv_copies, kv_saves, kv_restores;
};
static struct fake_backend_script fake_backend = {.nan_token = -1};

struct backend {
    struct step_limits limits;
    uint64_t *pages; // [blocks][KV_BLOCK_TOKENS]
    int blocks;
    struct step step;
    bool in_step, attended;
    float *logits;                   // [rows_max][FAKE_VOCAB]
    int32_t *sampled[2];             // [rows_max]; steps take turns
    struct sample_report *report[2]; // [rows_max]
    struct sample_scratch scratch;
    int steps;
    int turn, read_turn; // of the last step, of the one that was synced last
    bool is_ahead;       // the step before the last isn't synced
    bool is_open;        // the host has to look at the last one's rows
    uint64_t begun_ns;   // the last one
};

static int fake_open(const struct backend_options *options, struct backend **out, struct error *err)
{
    (void)options;
    (void)err;
    *out = xcalloc(1, sizeof **out);
    return 0;
}

static void fake_close(struct backend *b)
{
    if (!b) return;
    free(b->pages);
    free(b->logits);
    for (int i = 0; i < 2; i++) {
        free(b->sampled[i]);
        free(b->report[i]);
    }
    sample_scratch_deinit(&b->scratch);
    free(b);
}

static const char *fake_describe(const struct backend *b)
{
    (void)b;
    return "fake";
}

static int fake_load(struct backend *b, const struct model_params *params,
                     const struct step_limits *limits, struct error *err)
{
    if (params->vocab != FAKE_VOCAB) return error_set(err, E_UNSUPPORTED, "vocabulary");
    b->limits = *limits;
    b->logits = xcalloc((size_t)limits->rows_max * FAKE_VOCAB, sizeof *b->logits);
    for (int i = 0; i < 2; i++) {
        b->sampled[i] = xcalloc((size_t)limits->rows_max, sizeof *b->sampled[i]);
        b->report[i] = xcalloc((size_t)limits->rows_max, sizeof *b->report[i]);
    }
    return 0;
}

static size_t fake_kv_block_bytes(const struct backend *b, enum kv_type type)
{
    (void)b;
    (void)type;
    return KV_BLOCK_TOKENS * sizeof(uint64_t);
}

static int fake_kv_open(struct backend *b, enum kv_type type, int blocks, struct error *err)
{
    (void)type;
    (void)err;
    b->blocks = blocks;
    fake_backend.kv_blocks = blocks;
    b->pages = xcalloc((size_t)blocks * KV_BLOCK_TOKENS, sizeof *b->pages);
    return 0;
}

static uint64_t *fake_page(struct backend *b, int block, int tokens)
{
    CHECK(!b->in_step);
    CHECK(block >= 0 && block < b->blocks);
    CHECK(tokens >= 0 && tokens <= KV_BLOCK_TOKENS);
    return b->pages + (size_t)block * KV_BLOCK_TOKENS;
}

/* Positions behind `tokens` get a value that no hash has: reading them changes the answer. */
static void fake_move(uint64_t *to, const uint64_t *from, int tokens)
{
    memcpy(to, from, (size_t)tokens * sizeof *to);
    memset(to + tokens, 0xee, (size_t)(KV_BLOCK_TOKENS - tokens) * sizeof *to);
}

static void fake_kv_copy(struct backend *b, int from, int to, int tokens)
{
    CHECK(from != to);
    fake_move(fake_page(b, to, tokens), fake_page(b, from, tokens), tokens);
    fake_backend.kv_copies++;
}

static void fake_kv_save(struct backend *b, int block, int tokens, void *host)
{
    fake_move(host, fake_page(b, block, tokens), tokens);
    fake_backend.kv_saves++;
}

static void fake_kv_restore(struct backend *b, int block, int tokens, const void *host)
{
    fake_move(fake_page(b, block, tokens), host, tokens);
    fake_backend.kv_restores++;
}

static inline uint64_t fake_hash(int32_t token, int position, int rope_set)
{
    return hash_mix((uint64_t)token << 32 | (uint64_t)position | (uint64_t)rope_set << 48);
}

static uint64_t *fake_slot(struct backend *b, const struct step_sequence *s, int position)
{
    int32_t block = s->blocks[position / KV_BLOCK_TOKENS];
    CHECK(block >= 0 && block < b->blocks);
    return &b->pages[(size_t)block * KV_BLOCK_TOKENS + (size_t)(position % KV_BLOCK_TOKENS)];
}

static void fake_check_step(struct backend *b)
{
    const struct step *step = &b->step;
    bool *written = xcalloc((size_t)b->blocks, sizeof *written);
    int tokens = 0, last_row = -1;
    CHECK(step->tokens > 0 && step->tokens <= b->limits.tokens_max);
    CHECK(step->sequences > 0 && step->sequences <= b->limits.sequences_max);
    CHECK(step->rows >= 0 && step->rows <= b->limits.rows_max);
    for (int i = 0; i < step->sequences; i++) {
        const struct step_sequence *s = &step->sequence[i];
        CHECK(s->first == tokens && s->count > 0 && s->past >= 0);
        CHECK(s->past + s->count <= b->limits.context_max);
        tokens += s->count;
        for (int at = s->past / KV_BLOCK_TOKENS; at <= (s->past + s->count - 1) / KV_BLOCK_TOKENS;
             at++) {
            CHECK(!written[s->blocks[at]]);
            written[s->blocks[at]] = true;
        }
    }
    CHECK(tokens == step->tokens);
    for (int i = 0; i < step->tokens; i++)
        CHECK(step->ids[i] >= 0 && step->ids[i] < FAKE_VOCAB);
    for (int i = 0; i < step->rows; i++) {
        CHECK(step->row[i] > last_row && step->row[i] < step->tokens);
        last_row = step->row[i];
    }
    free(written);
}

static void fake_step_begin(struct backend *b, const struct step *step)
{
    CHECK(!b->in_step);
    if (step->is_ahead) CHECK(!b->is_ahead && !b->is_open);
    if (step->links > 0) CHECK(!b->is_open && b->step.is_sampled);
    for (int i = 0; i < step->links; i++)
        CHECK(step->link[i].row < b->step.rows && step->link[i].token < step->tokens);
    b->in_step = true;
    b->step = *step;
    b->turn = !b->turn;
    b->is_ahead = step->is_ahead;
    b->begun_ns = clock_ns();
    fake_check_step(b);
    if (step->tokens > fake_backend.tokens_max_seen) fake_backend.tokens_max_seen = step->tokens;
    if (step->sequences > fake_backend.sequences_max_seen)
        fake_backend.sequences_max_seen = step->sequences;
}

static void fake_embed(struct backend *b)
{
    CHECK(b->in_step);
}

/* Known, or drawn by the step before. */
static int32_t fake_id(const struct backend *b, int token)
{
    for (int i = 0; i < b->step.links; i++) {
        if (b->step.link[i].token != token) continue;
        int drawn = b->sampled[!b->turn][b->step.link[i].row];
        return drawn < 0 ? 0 : drawn;
    }
    return b->step.ids[token];
}

static void fake_qkv(struct backend *b, int layer)
{
    CHECK(b->in_step && layer == 0);
    for (int i = 0; i < b->step.sequences; i++) {
        const struct step_sequence *s = &b->step.sequence[i];
        for (int j = 0; j < s->count; j++)
            *fake_slot(b, s, s->past + j) =
                fake_hash(fake_id(b, s->first + j), s->past + j, s->rope_set);
    }
}

static void fake_attend(struct backend *b, int layer)
{
    (void)layer;
    b->attended = true;
}

static void fake_stage(struct backend *b, int layer)
{
    (void)layer;
    CHECK(b->in_step && b->attended);
}

static void fake_all_reduce(struct backend *b)
{
    CHECK(b->in_step);
}

static void fake_residual(struct backend *b, enum residual_site site, int layer)
{
    (void)site;
    (void)layer;
    CHECK(b->in_step);
}

static void fake_row(struct backend *b, int row)
{
    int token = b->step.row[row], i = 0;
    while (token >= b->step.sequence[i].first + b->step.sequence[i].count)
        i++;
    const struct step_sequence *s = &b->step.sequence[i];
    uint64_t state = 0;
    for (int position = 0; position <= s->past + token - s->first; position++)
        state = hash_mix(state ^ *fake_slot(b, s, position));
    float *logits = b->logits + (size_t)row * FAKE_VOCAB;
    for (int j = 0; j < FAKE_VOCAB; j++)
        logits[j] = (float)(hash_mix(state + (uint64_t)j) % 1000) / 100;
    if (fake_id(b, token) == fake_backend.nan_token) logits[17] = NAN;
}

static void fake_logits(struct backend *b)
{
    for (int row = 0; row < b->step.rows; row++)
        fake_row(b, row);
}

static void fake_step_end(struct backend *b)
{
    CHECK(b->in_step);
    b->in_step = b->attended = false;
    b->steps++;
    fake_backend.steps++;
    fake_backend.rows += b->step.rows;
    b->is_open = b->step.rows > 0 && !b->step.is_sampled;
}

static int fake_sync(struct backend *b, struct error *err)
{
    while (fake_backend.is_held)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    if (fake_backend.step_us > 0)
        nanosleep(&(struct timespec){.tv_nsec = fake_backend.step_us * 1000L}, NULL);
    b->read_turn = b->is_ahead ? !b->turn : b->turn;
    b->is_ahead = false;
    if (fake_backend.fail_at_step && b->steps >= fake_backend.fail_at_step)
        return error_set(err, E_DEVICE, "fake device lost");
    return 0;
}

static const float *fake_logits_host(struct backend *b)
{
    return b->logits;
}

static void fake_run_parallel(struct backend *b, void (*fn)(void *arg, int part, int parts),
                              void *arg)
{
    (void)b;
    for (int part = 0; part < 3; part++)
        fn(arg, part, 3);
}

static void fake_memory(const struct backend *b, size_t *weights, size_t *activations)
{
    (void)b;
    *weights = *activations = 0;
}

/* Ranks of the fake never meet: each has the whole model. */
static int fake_group_create(const struct backend_options *options, struct comm_group **out,
                             struct error *err)
{
    (void)options;
    (void)err;
    *out = NULL;
    return 0;
}

static void fake_group_destroy(struct comm_group *group)
{
    (void)group;
}

static void fake_group_abort(struct comm_group *group, const char *why)
{
    (void)group;
    (void)why;
}

static const struct backend_ops fake_backend_ops = {
    .name = "fake",
    .split = TP_SPLIT_OUTPUTS,
    .group_create = fake_group_create,
    .group_destroy = fake_group_destroy,
    .group_abort = fake_group_abort,
    .open = fake_open,
    .close = fake_close,
    .describe = fake_describe,
    .load = fake_load,
    .kv_block_bytes = fake_kv_block_bytes,
    .kv_open = fake_kv_open,
    .kv_copy = fake_kv_copy,
    .kv_save = fake_kv_save,
    .kv_restore = fake_kv_restore,
    .step_begin = fake_step_begin,
    .embed = fake_embed,
    .qkv = fake_qkv,
    .attend = fake_attend,
    .out = fake_stage,
    .gate_up = fake_stage,
    .down = fake_stage,
    .all_reduce = fake_all_reduce,
    .residual = fake_residual,
    .logits = fake_logits,
    .step_end = fake_step_end,
    .sync = fake_sync,
    .logits_host = fake_logits_host,
    .run_parallel = fake_run_parallel,
    .memory = fake_memory,
};

static inline void fake_check_lists(const struct sample_row *row)
{
    for (int i = 0; i < row->bias_count; i++)
        for (int j = 0; j < i; j++)
            CHECK(row->bias[i].token != row->bias[j].token);
    for (int i = 0; i < row->seen_count; i++)
        for (int j = 0; j < i; j++)
            CHECK(row->seen[i].token != row->seen[j].token);
}

static inline int fake_sample_row(struct backend *b, const struct sample_row *row,
                                  const float *logits, int vocab, struct sample_report *report)
{
    bool draws = row->kind == SAMPLE_DRAW;
    if (draws) fake_check_lists(row);
    int rc = draws ? sample_draw(row, logits, vocab, &b->scratch)
                   : sample_look(logits, vocab, &b->scratch);
    if (rc >= 0 && row->logprobs > 0)
        sample_report(&b->scratch, vocab, draws ? rc : row->scored, row->logprobs, report);
    return rc;
}

/* A row whose lists are not short may be left; some are. */
static inline bool fake_leaves(const struct sample_row *row, int index)
{
    int listed = row->bias_count + row->seen_count + row->banned_count;
    return row->kind == SAMPLE_DRAW && listed > SAMPLE_LISTS_SHORT && index % 2 == 0;
}

static inline void fake_draw(struct backend *b, const struct sample_row *row, int index, int vocab)
{
    float *logits = b->logits + (size_t)index * FAKE_VOCAB;
    int32_t *token = &b->sampled[b->turn][index];
    *token = 0;
    if (row->kind != SAMPLE_NOTHING)
        *token = fake_sample_row(b, row, logits, vocab, &b->report[b->turn][index]);
    for (int j = 0; j < FAKE_VOCAB; j++)
        logits[j] = NAN;
}

static inline void fake_sample(struct backend *b, const struct sample_row *row, int vocab)
{
    CHECK(!b->in_step && b->step.is_sampled && vocab <= FAKE_VOCAB);
    for (int i = 0; i < b->step.rows; i++) {
        bool is_left = fake_leaves(&row[i], i);
        b->is_open |= is_left;
        if (is_left)
            b->sampled[b->turn][i] = E_UNSUPPORTED;
        else
            fake_draw(b, &row[i], i, vocab);
    }
}

/* All rows but each fifth, which is left; of the others there are no logits. */
static inline void fake_sample_some(struct backend *b, const struct sample_row *row, int vocab)
{
    CHECK(!b->in_step && b->step.is_sampled && vocab <= FAKE_VOCAB);
    for (int i = 0; i < b->step.rows; i++) {
        if (i % 5 == 4)
            b->sampled[b->turn][i] = E_UNSUPPORTED;
        else
            fake_draw(b, &row[i], i, vocab);
    }
}

static inline const int32_t *fake_sampled(struct backend *b)
{
    return b->sampled[b->read_turn];
}

static inline const struct sample_report *fake_reported(struct backend *b, int row)
{
    return &b->report[b->read_turn][row];
}

static inline bool fake_has_ended(struct backend *b)
{
    uint64_t us = (clock_ns() - b->begun_ns) / 1000;
    return !fake_backend.is_held && us >= (uint64_t)fake_backend.step_us;
}

/* The fake with the slots that draw. */
static inline const struct backend_ops *fake_drawing_ops(void)
{
    static struct backend_ops ops;
    ops = fake_backend_ops;
    ops.sample = fake_sample_some;
    ops.sampled = fake_sampled;
    ops.reported = fake_reported;
    return &ops;
}

/* That can begin a step while another one runs. One rank only: no other knows what was drawn. */
static inline const struct backend_ops *fake_ahead_ops(void)
{
    static struct backend_ops ops;
    ops = *fake_drawing_ops();
    ops.sample = fake_sample;
    ops.has_ended = fake_has_ended;
    return &ops;
}

static const struct layer_params fake_layer;
static const struct model_params fake_params = {.layers = 1,
                                                .layer = &fake_layer,
                                                .hidden = 8,
                                                .heads = 4,
                                                .kv_heads = 4,
                                                .head_dim = 2,
                                                .ffn = 8,
                                                .vocab = FAKE_VOCAB};

/* The token that a greedy run of the fake gives after these. */
static inline int32_t fake_next_token_in(int rope_set, const int32_t *tokens, int count)
{
    uint64_t state = 0;
    int32_t best = 0;
    uint64_t best_logit = 0;
    for (int i = 0; i < count; i++)
        state = hash_mix(state ^ fake_hash(tokens[i], i, rope_set));
    for (int32_t j = 0; j < FAKE_VOCAB; j++) {
        uint64_t logit = hash_mix(state + (uint64_t)j) % 1000;
        if (j == 0 || logit > best_logit) {
            best = j;
            best_logit = logit;
        }
    }
    return best;
}

static inline int32_t fake_next_token(const int32_t *tokens, int count)
{
    return fake_next_token_in(0, tokens, count);
}

#endif
