#include "engine/batch.h"

#include "engine/request.h"
#include "shared/base/check.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

void batch_init(struct batch *b, const struct step_limits *limits)
{
    *b = (struct batch){.limits = *limits};
    size_t sequences = (size_t)limits->sequences_max, rows = (size_t)limits->rows_max;
    b->ids = xcalloc((size_t)limits->tokens_max, sizeof *b->ids);
    b->sequence = xcalloc(sequences, sizeof *b->sequence);
    b->entry = xcalloc(sequences, sizeof *b->entry);
    b->link = xcalloc(sequences, sizeof *b->link);
    b->row = xcalloc(rows, sizeof *b->row);
    b->row_info = xcalloc(rows, sizeof *b->row_info);
    b->logprobs = xcalloc(rows * LOGPROBS_MAX, sizeof *b->logprobs);
}

void batch_deinit(struct batch *b)
{
    free(b->ids);
    free(b->sequence);
    free(b->entry);
    free(b->link);
    free(b->row);
    free(b->row_info);
    free(b->logprobs);
    free(b->hidden);
    free(b->blocks);
    kv_moves_deinit(&b->moves);
    *b = (struct batch){0};
}

void batch_clear(struct batch *b, const struct batch *previous)
{
    b->tokens = b->sequences = b->rows = b->links = b->scored_rows = 0;
    b->answers = b->prefill_tokens = b->pooled_rows = b->host_rows = 0;
    b->blocks_len = 0;
    kv_moves_clear(&b->moves);
    b->previous = previous;
    b->status = 0;
    b->sampled = b->taken = false;
    b->was_ahead = b->draws_late = false;
    b->error = (struct error){0};
    b->begun_ns = b->done_ns = 0;
}

static void add_blocks(struct batch *b, const struct block_table *table, int count)
{
    CHECK(count <= table->count);
    if (b->blocks_len + (size_t)count > b->blocks_cap) {
        b->blocks_cap = 2 * (b->blocks_len + (size_t)count);
        b->blocks = xrealloc_array(b->blocks, b->blocks_cap, sizeof *b->blocks);
    }
    memcpy(b->blocks + b->blocks_len, table->blocks, (size_t)count * sizeof *b->blocks);
    b->blocks_len += (size_t)count;
}

static float *hidden_row(struct batch *b, int row)
{
    CHECK(b->hidden_len > 0);
    size_t len = (size_t)b->hidden_len;
    if (!b->hidden) b->hidden = xcalloc((size_t)b->limits.rows_max * len, sizeof *b->hidden);
    b->pooled_rows++;
    b->host_rows++;
    return b->hidden + (size_t)row * len;
}

/* The row of logits after the step's token at `index`. */
static struct batch_row *add_row(struct batch *b, const struct request *r, int index)
{
    CHECK(b->rows < b->limits.rows_max);
    struct batch_row *row = &b->row_info[b->rows];
    *row = (struct batch_row){.input = {.params = &r->sampling}, .scored = -1};
    if (r->sampling.logprobs > 0) row->logprobs = &b->logprobs[b->rows * LOGPROBS_MAX];
    if (r->pool != ENGINE_POOL_NONE) row->hidden = hidden_row(b, b->rows);
    b->row[b->rows++] = index;
    return row;
}

static void add_sampled_row(struct batch *b, struct request *r)
{
    struct sampler_input *in = &add_row(b, r, b->tokens - 1)->input;
    in->position = r->count + r->pending;
    if (r->pending > 0 && request_draws_in_turn(r)) b->draws_late = true;
    if (penalties_are_on(&r->sampling)) in->history = &r->history;
    if (r->grammar.grammar) in->grammar = &r->grammar;
    if (request_generated(r) + r->pending < r->min_tokens) {
        in->banned = r->stop_ids;
        in->banned_count = r->stop_id_count;
    }
    int seen = in->history ? in->history->count + r->pending : 0; // at most
    if (r->sampling.bias_count + in->banned_count + seen > SAMPLE_LISTS_SHORT) b->host_rows++;
}

/* Prompt tokens that the next positions predict, each once: a preempted prompt goes on where it
 * was. */
static void add_scored_rows(struct batch *b, struct batch_entry *e, struct request *r)
{
    int end = r->computed + e->count;
    if (end > r->prompt_count - 1) end = r->prompt_count - 1;
    e->scored_row = b->rows;
    for (int at = r->scored > r->computed ? r->scored : r->computed; at < end; at++) {
        struct batch_row *row = add_row(b, r, b->tokens + at - r->computed);
        row->input.position = at + 1;
        row->scored = r->tokens[at + 1];
        e->scored_rows++;
        r->scored = at + 1;
    }
    b->scored_rows += e->scored_rows;
}

int batch_room(const struct batch *b, const struct request *r)
{
    if (!request_reads_prompt(r)) return INT_MAX;
    int next = r->scored > r->computed ? r->scored : r->computed;
    int rows = b->limits.rows_max - b->limits.sequences_max - b->scored_rows;
    if (r->prompt_count - 1 - next <= rows) return INT_MAX;
    return next - r->computed + rows;
}

void batch_add(struct batch *b, struct request *r, int count, bool sample)
{
    CHECK(count > 0 && b->tokens + count <= b->limits.tokens_max);
    CHECK(b->sequences < b->limits.sequences_max);
    struct step_sequence *s = &b->sequence[b->sequences];
    struct batch_entry *e = &b->entry[b->sequences++];
    *s = (struct step_sequence){
        .first = b->tokens, .count = count, .past = r->computed, .rope_set = r->rope_set};
    *e = (struct batch_entry){.request = r, .count = count, .row = -1};
    add_blocks(b, &r->table, blocks_for(r->computed + count));
    if (request_reads_prompt(r)) add_scored_rows(b, e, r);
    for (int i = 0; i < count; i++) {
        int position = r->computed + i;
        if (position < r->count) {
            b->ids[b->tokens++] = r->tokens[position];
            continue;
        }
        /* Only the newest token can be unknown, and it is the previous step's. */
        CHECK(position == r->count + r->pending - 1 && b->previous);
        b->link[b->links++] = (struct step_link){b->tokens, r->pending_row};
        b->ids[b->tokens++] = 0;
    }
    if (count == 1 && sample)
        b->answers++;
    else
        b->prefill_tokens += count;
    if (!sample) return;
    e->row = b->rows;
    add_sampled_row(b, r);
}

void batch_seal(struct batch *b)
{
    const int32_t *at = b->blocks;
    for (int i = 0; i < b->sequences; i++) {
        b->sequence[i].blocks = at;
        at += blocks_for(b->sequence[i].past + b->sequence[i].count);
    }
}

struct step batch_step(const struct batch *b, const int32_t *ids)
{
    return (struct step){.tokens = b->tokens,
                         .ids = ids,
                         .sequences = b->sequences,
                         .sequence = b->sequence,
                         .rows = b->rows,
                         .row = b->row,
                         .hidden_only = b->pooled_rows == b->rows};
}
