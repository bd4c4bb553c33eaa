#include "engine/sampling.h"

#include "engine/sampler.h"
#include "shared/base/check.h"

#include <stdlib.h>

#define PARTS_MAX         64 // threads that draw at once
#define PARALLEL_ROWS_MIN 3  // fewer rows are drawn faster than a pool wakes up

struct sampling {
    const struct backend_ops *ops;
    int rows_max, vocab, row_len;
    struct sample_row *row;    // [rows_max], what the backend is asked for
    struct sampler_mask *mask; // [rows_max], of those rows
    struct sampler_scratch scratch[PARTS_MAX];
};

struct sampling *sampling_create(const struct backend_ops *ops, int rows_max, int vocab,
                                 int row_len)
{
    struct sampling *s = xcalloc(1, sizeof *s);
    s->ops = ops;
    s->rows_max = rows_max;
    s->vocab = vocab;
    s->row_len = row_len;
    s->row = xcalloc((size_t)rows_max, sizeof *s->row);
    s->mask = xcalloc((size_t)rows_max, sizeof *s->mask);
    return s;
}

void sampling_destroy(struct sampling *s)
{
    if (!s) return;
    for (int i = 0; i < s->rows_max; i++)
        sampler_mask_deinit(&s->mask[i]);
    for (int i = 0; i < PARTS_MAX; i++)
        sampler_scratch_deinit(&s->scratch[i]);
    free(s->row);
    free(s->mask);
    free(s);
}

/* ---- on the device ---- */

bool sampling_is_on_device(const struct sampling *s, const struct batch *b)
{
    return s->ops->sample && b->rows > b->pooled_rows;
}

static void ask_for(struct sampling *s, struct batch_row *info, int index)
{
    struct sample_row *row = &s->row[index];
    *row = (struct sample_row){.kind = SAMPLE_NOTHING};
    if (info->hidden) return;
    if (info->scored >= 0) {
        row->kind = SAMPLE_SCORE;
        row->scored = info->scored;
        row->logprobs = info->input.params->logprobs;
        return;
    }
    info->status = sampler_row(&info->input, &s->mask[index], row);
    if (info->status < 0) row->kind = SAMPLE_NOTHING;
}

void sampling_begin(struct sampling *s, struct backend *backend, struct batch *b)
{
    CHECK(b->rows <= s->rows_max);
    for (int i = 0; i < b->rows; i++)
        ask_for(s, &b->row_info[i], i);
    s->ops->sample(backend, s->row, s->vocab);
}

/* ---- on the host ---- */

struct host_rows {
    struct sampling *sampling;
    struct backend *backend;
    struct batch *batch;
    const float *logits;    // [rows][row_len]
    const int32_t *sampled; // [rows]; NULL: the backend drew nothing
};

/* What the backend has of a row. */
static int take(const struct host_rows *h, int index)
{
    struct batch_row *info = &h->batch->row_info[index];
    int token = h->sampled[index];
    if (token >= 0 && info->logprobs)
        sampler_logprobs(h->sampling->ops->reported(h->backend, index),
                         info->scored >= 0 ? info->scored : token, info->logprobs,
                         info->input.params->logprobs);
    return token;
}

static int draw(const struct host_rows *h, int index, struct sampler_scratch *scratch)
{
    const struct sampling *s = h->sampling;
    struct batch_row *info = &h->batch->row_info[index];
    const float *logits = h->logits + (size_t)index * (size_t)s->row_len;
    if (h->sampled && h->sampled[index] != E_UNSUPPORTED) return take(h, index);
    if (info->scored >= 0)
        return sampler_score(info->scored, logits, s->vocab, scratch, info->logprobs,
                             info->input.params->logprobs);
    return sampler_draw(&info->input, logits, s->vocab, scratch, info->logprobs);
}

static void finish_row(const struct host_rows *h, int index, struct sampler_scratch *scratch)
{
    struct batch_row *info = &h->batch->row_info[index];
    if (info->status < 0) return; // it couldn't be asked for
    if (info->hidden) {
        h->sampling->ops->hidden_row(h->backend, index, info->hidden);
        return; // token 0 and status 0, as executor_submit set them
    }
    int token = draw(h, index, scratch);
    info->status = token < 0 ? token : 0;
    info->token = token < 0 ? 0 : token;
}

static void finish_part(void *arg, int part, int parts)
{
    const struct host_rows *h = arg;
    if (parts > PARTS_MAX) parts = PARTS_MAX;
    if (part >= parts) return;
    for (int row = part; row < h->batch->rows; row += parts)
        finish_row(h, row, &h->sampling->scratch[part]);
}

void sampling_end(struct sampling *s, struct backend *backend, struct batch *b)
{
    if (b->rows == 0) return;
    struct host_rows h = {s, backend, b, s->ops->logits_host(backend), NULL};
    if (sampling_is_on_device(s, b)) h.sampled = s->ops->sampled(backend);
    if (s->ops->run_parallel && b->rows >= PARALLEL_ROWS_MIN)
        s->ops->run_parallel(backend, finish_part, &h);
    else
        finish_part(&h, 0, 1);
}
