/* cuda_attention_plan.cu - how a step is cut into tiles. Only speed depends on it (cuda_attention.h A4). */
#include <string.h>

#include "kernels/cuda/cuda_attention_parts.h"
#include "shared/base/check.h"

#define DECODE_TOKENS_MAX 8 // of a sequence in a step; more go to prefill tiles
#define WORKSPACE_MAX     ((size_t)256 << 20)

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* A tile is `heads` of a group's query heads for some tokens. */
static int heads_of_tile(const struct cuda_attention *a, int rows)
{
    return min_int(a->heads / a->kv.kv_heads, rows);
}

static int prefill_rows(const struct cuda_attention *a)
{
    return attention_is_scalar(a) ? ATTENTION_TILE_ROWS : attention_prefill_rows(a->kv.shape);
}

static size_t partial_row_bytes(const struct cuda_attention *a)
{
    return ((size_t)a->kv.value_dim + 2) * sizeof(float);
}

/* The most splits that a row of a context of so many positions has: counts fall where splits grow. */
static int splits_max(int context)
{
    static const int borders[] = {1024, 4096, 16384};
    int most = attention_split_count(context - 1);

    for (int border : borders)
        if (border < context && attention_split_count(border - 1) > most)
            most = attention_split_count(border - 1);
    return most;
}

static int merged_rows_max(const struct step_limits *limits)
{
    return min_int(limits->tokens_max, DECODE_TOKENS_MAX * limits->sequences_max);
}

size_t cuda_attention_workspace_bytes(const struct cuda_attention *a,
                                      const struct step_limits *limits)
{
    int splits = splits_max(limits->context_max);
    size_t one = (size_t)splits * (size_t)a->heads * partial_row_bytes(a);
    size_t all = (size_t)limits->sequences_max * one;

    if (a->o_real == CUDA_REAL_F32) return 0;
    return all < WORKSPACE_MAX ? all : one > WORKSPACE_MAX ? one : WORKSPACE_MAX;
}

/* For pages of any type: with the smallest tiles. */
size_t cuda_attention_plan_bytes_max(const struct cuda_attention *a,
                                     const struct step_limits *limits)
{
    int group = a->heads / a->kv.kv_heads, heads = heads_of_tile(a, ATTENTION_TILE_ROWS);
    size_t pages = (size_t)ceil_div(limits->context_max, KV_BLOCK_TOKENS);
    size_t merged = (size_t)merged_rows_max(limits);
    size_t head_tiles = (size_t)ceil_div(group, heads);
    size_t decode = merged * (size_t)splits_max(limits->context_max) * head_tiles;
    size_t prefill = head_tiles * (size_t)(limits->tokens_max / (ATTENTION_TILE_ROWS / heads) +
                                           limits->sequences_max);

    return sizeof(struct attention_image) + (size_t)limits->tokens_max * sizeof(int32_t) +
           (size_t)limits->sequences_max *
               (sizeof(struct attention_sequence) + pages * sizeof(int32_t)) +
           (decode + prefill) * sizeof(struct attention_tile) +
           merged * sizeof(struct attention_merge);
}

/* ---- writing an image, front to back ---- */

struct image_writer {
    const struct cuda_attention *a;
    const struct step *step;
    int32_t *words;
    int32_t used;          // words
    int32_t partial_rows;  // given away
    int32_t partial_limit; // that the workspace has
};

static struct attention_image *image_of(struct image_writer *w)
{
    return (struct attention_image *)w->words;
}

static void *take(struct image_writer *w, size_t bytes)
{
    void *at = w->words + w->used;
    w->used += (int32_t)(bytes / sizeof(int32_t));
    return at;
}

static void write_slots(struct image_writer *w, int tokens_padded)
{
    image_of(w)->slots = w->used;
    int32_t *slot = (int32_t *)take(w, (size_t)tokens_padded * sizeof(int32_t));

    for (int t = 0; t < tokens_padded; t++)
        slot[t] = -1;
    for (int i = 0; i < w->step->sequences; i++) {
        const struct step_sequence *s = &w->step->sequence[i];
        for (int t = 0; t < s->count; t++) {
            int position = s->past + t;
            slot[s->first + t] = s->blocks[position / KV_BLOCK_TOKENS] * KV_BLOCK_TOKENS +
                                 position % KV_BLOCK_TOKENS;
        }
    }
}

static void write_sequences(struct image_writer *w)
{
    size_t bytes = (size_t)w->step->sequences * sizeof(struct attention_sequence);
    image_of(w)->sequences = w->used;
    struct attention_sequence *out = (struct attention_sequence *)take(w, bytes);

    for (int i = 0; i < w->step->sequences; i++) {
        const struct step_sequence *s = &w->step->sequence[i];
        size_t pages = (size_t)ceil_div(s->past + s->count, KV_BLOCK_TOKENS);
        out[i] = {s->first, s->count, s->past, w->used};
        memcpy(take(w, pages * sizeof(int32_t)), s->blocks, pages * sizeof(int32_t));
    }
}

/* The most partial rows that a sequence's tokens need if decode tiles take it. */
static int64_t partial_rows_of(const struct image_writer *w, const struct step_sequence *s)
{
    int first = attention_split_count(s->past),
        last = attention_split_count(s->past + s->count - 1);
    return (int64_t)s->count * (first > last ? first : last) * w->a->heads;
}

/* The first tile that begins with this token: its tokens have pages per split in common. */
static int decode_tile_tokens(const struct step_sequence *s, int token, int heads)
{
    int count = min_int(ATTENTION_TILE_ROWS / heads, s->count - token);
    int pages = attention_split_pages(s->past + token);

    while (attention_split_pages(s->past + token + count - 1) != pages)
        count--;
    return count;
}

/* All splits of some tokens; the rows of a token's splits and heads are its own. */
static void write_decode_tiles(struct image_writer *w, int sequence, int token, int tokens,
                               int heads)
{
    const struct step_sequence *s = &w->step->sequence[sequence];
    int group = w->a->heads / w->a->kv.kv_heads,
        splits = attention_split_count(s->past + token + tokens - 1);

    for (int split = 0; split < splits; split++) {
        for (int head = 0; head < group; head += heads) {
            struct attention_tile *t = (struct attention_tile *)take(w, sizeof *t);
            *t = {sequence, token,  tokens,         head, min_int(heads, group - head),
                  split,    splits, w->partial_rows};
            image_of(w)->decode_tiles++;
        }
    }
    if (splits > 1) w->partial_rows += tokens * splits * w->a->heads;
}

static bool is_decode(const struct image_writer *w, const struct step_sequence *s,
                      int64_t *partial_rows)
{
    if (attention_is_scalar(w->a) || s->count > DECODE_TOKENS_MAX || s->count == 0) return false;
    int64_t rows = *partial_rows + partial_rows_of(w, s);
    if (rows > w->partial_limit) return false;
    *partial_rows = rows;
    return true;
}

static void write_decode(struct image_writer *w)
{
    int heads = heads_of_tile(w->a, ATTENTION_TILE_ROWS);
    int64_t partial_rows = 0;

    image_of(w)->decode = w->used;
    for (int i = 0; i < w->step->sequences; i++) {
        const struct step_sequence *s = &w->step->sequence[i];
        if (!is_decode(w, s, &partial_rows)) continue;
        for (int token = 0, tokens; token < s->count; token += tokens) {
            tokens = decode_tile_tokens(s, token, heads);
            write_decode_tiles(w, i, token, tokens, heads);
        }
    }
}

/* The same walk again, for the tokens whose splits have to meet. */
static void write_merges(struct image_writer *w)
{
    int heads = heads_of_tile(w->a, ATTENTION_TILE_ROWS), partial = 0;
    int64_t partial_rows = 0;

    image_of(w)->merges = w->used;
    for (int i = 0; i < w->step->sequences; i++) {
        const struct step_sequence *s = &w->step->sequence[i];
        if (!is_decode(w, s, &partial_rows)) continue;
        for (int token = 0, tokens; token < s->count; token += tokens) {
            tokens = decode_tile_tokens(s, token, heads);
            int splits = attention_split_count(s->past + token + tokens - 1);
            for (int t = token; splits > 1 && t < token + tokens;
                 t++, partial += splits * w->a->heads) {
                struct attention_merge *m = (struct attention_merge *)take(w, sizeof *m);
                *m = {s->first + t, s->past + t, partial};
                image_of(w)->merged_rows++;
            }
        }
    }
}

/* Late tokens, which see most positions, come first. */
static void write_prefill(struct image_writer *w)
{
    int rows = prefill_rows(w->a), heads = heads_of_tile(w->a, rows), tokens = rows / heads;
    int group = w->a->heads / w->a->kv.kv_heads;
    int64_t partial_rows = 0;

    image_of(w)->prefill = w->used;
    for (int i = 0; i < w->step->sequences; i++) {
        const struct step_sequence *s = &w->step->sequence[i];
        if (is_decode(w, s, &partial_rows)) continue;
        for (int token = (ceil_div(s->count, tokens) - 1) * tokens; token >= 0; token -= tokens) {
            for (int head = 0; head < group; head += heads) {
                struct attention_tile *t = (struct attention_tile *)take(w, sizeof *t);
                *t = {i,
                      token,
                      min_int(tokens, s->count - token),
                      head,
                      min_int(heads, group - head),
                      0,
                      1,
                      0};
                image_of(w)->prefill_tiles++;
            }
        }
    }
}

void cuda_attention_plan_step(const struct cuda_attention *a, const struct step *step,
                              int tokens_padded, size_t workspace_bytes, void *image,
                              struct cuda_attention_plan *out)
{
    struct image_writer w = {a, step, (int32_t *)image, 0, 0, 0};
    size_t partial_limit = workspace_bytes / partial_row_bytes(a);

    CHECK(tokens_padded >= step->tokens && a->heads % a->kv.kv_heads == 0);
    w.partial_limit = partial_limit > INT32_MAX ? INT32_MAX : (int32_t)partial_limit;
    memset(take(&w, sizeof(struct attention_image)), 0, sizeof(struct attention_image));
    write_slots(&w, tokens_padded);
    write_sequences(&w);
    write_decode(&w);
    write_merges(&w);
    write_prefill(&w);
    out->bytes = (size_t)w.used * sizeof(int32_t);
    out->tokens = tokens_padded;
    out->decode_tiles = image_of(&w)->decode_tiles;
    out->prefill_tiles = image_of(&w)->prefill_tiles;
    out->merged_rows = image_of(&w)->merged_rows;
}
