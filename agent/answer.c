/* answer.c - from engine events to choices.
 *
 *     prompt p ─┬─ candidate p * per_prompt + 0 ─┐
 *               ├─ ...                           ├─ choices p * n + 0 .. p * n + n - 1
 *               └─ candidate p * per_prompt + k ─┘  all of them; or the n best when complete
 *
 * Rules:
 *  1. Candidate k of a prompt draws with choice k of the same seed, so the first is what the prompt
 *     gets alone. Further prompts have seeds of their own: equal prompts give different answers.
 *  2. A prompt that is echoed with log-probabilities is scored by its first candidate; a stream's
 *     other choices wait for that with their first event.
 *  3. A chat stream's choices begin in the order of their indexes, whoever has text first: the
 *     official Python client appends them to a list.
 *  4. Each token's log-probabilities go out with its text, not before; what a stop string took away
 *     has none. So the bytes of the tokens are the text.
 *  5. An answer that began elsewhere gets its first tokens from the engine again: what the client has
 *     had of their text, ids and log-probabilities is passed over. What it has had is counted in bytes
 *     of parts of the reply, whatever their kind.
 *  6. Of an answer that is taken apart, log-probabilities and ids are of all tokens that the model
 *     said, tags and calls too. They go out with the first part that their text makes, or with the
 *     next one where it makes none. */
#include "agent/answer.h"

#include "agent/response_logprobs.h"
#include "shared/base/check.h"
#include "shared/base/hash.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- lists of rows ---- */

static void score_list_push(struct score_list *l, int width, const struct token_logprob *row)
{
    size_t row_bytes = (size_t)width * sizeof *l->rows;
    if (l->count == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 16;
        l->rows = xrealloc_array(l->rows, l->cap, row_bytes);
    }
    memcpy(l->rows + l->count++ * (size_t)width, row, row_bytes);
}

static void score_list_consume(struct score_list *l, int width, size_t count)
{
    size_t row_bytes = (size_t)width * sizeof *l->rows;
    l->count -= count;
    memmove(l->rows, l->rows + count * (size_t)width, l->count * row_bytes);
}

/* ---- life ---- */

/* Nothing stands before a prompt's first token that could say how likely it was. */
static void push_first_score(struct answer *a, size_t prompt)
{
    struct token_logprob row[LOGPROBS_MAX];
    for (int i = 0; i < a->width; i++)
        row[i] = (struct token_logprob){-1, -INFINITY};
    row[0] = (struct token_logprob){a->prompts->items[prompt].ids[0], NAN};
    score_list_push(&a->prompt_scores[prompt], a->width, row);
}

static void init_candidate(struct answer *a, struct candidate *c, size_t prompt)
{
    reply_init(&c->reply, &a->prompts->plan);
    if (!a->prompts->texts) return;
    struct str text = buf_str(&a->prompts->texts[prompt].text);
    c->offset = response_count_characters(text);
    if (a->echo) reply_append_content(&c->reply, text);
}

static void init_head(struct answer *a, const struct chat_request *r,
                      const struct tokenizer *tokenizer)
{
    struct response_head *head = &a->head;
    head->kind = r->kind;
    head->include_usage = r->include_usage;
    head->is_stream = r->stream;
    head->return_token_ids = r->return_token_ids;
    head->service_tier = r->service_tier;
    head->logprobs = r->logprobs;
    head->tokenizer = tokenizer;
    head->must_call = a->prompts->plan.must_call;
    head->is_named = a->prompts->plan.is_named;
    size_t state_size = head->printer->state_size;
    if (state_size > 0) head->state = xcalloc(1, state_size);
}

void answer_init(struct answer *a, const struct response_head *head, const struct chat_request *r,
                 const struct prompt_set *prompts, const struct tokenizer *tokenizer)
{
    *a = (struct answer){
        .head = *head,
        .prompts = prompts,
        .n = r->n,
        .per_prompt = r->candidates,
        .echo = r->echo,
        .scores_prompt = r->echo && r->logprobs,
        .is_empty = r->has_max_tokens && r->max_tokens == 0,
        .width = r->logprobs ? 1 + r->top_logprobs : 0,
        .max_tokens = r->max_tokens,
        .seed = r->fields.sampling.seed,
        .keep_special = !r->fields.skip_special,
        .count = prompts->count * (size_t)r->candidates,
    };
    init_head(a, r, tokenizer);
    a->candidates = xcalloc(a->count, sizeof *a->candidates);
    for (size_t i = 0; i < a->count; i++)
        init_candidate(a, &a->candidates[i], i / (size_t)a->per_prompt);
    if (!a->scores_prompt) return;
    a->prompt_scores = xcalloc(prompts->count, sizeof *a->prompt_scores);
    for (size_t i = 0; i < prompts->count; i++)
        push_first_score(a, i);
}

void answer_deinit(struct answer *a)
{
    for (size_t i = 0; i < a->count; i++) {
        reply_deinit(&a->candidates[i].reply);
        token_list_deinit(&a->candidates[i].tokens);
        free(a->candidates[i].scores.rows);
    }
    for (size_t i = 0; a->prompt_scores && i < a->prompts->count; i++)
        free(a->prompt_scores[i].rows);
    free(a->prompt_scores);
    free(a->candidates);
    stream_marks_deinit(&a->marks);
    if (a->head.state && a->head.printer->state_deinit)
        a->head.printer->state_deinit(a->head.state);
    free(a->head.state);
    free(a->head.repeats);
    *a = (struct answer){0};
}

/* ---- streams that may change their agent ---- */

bool answer_is_resumable(const struct answer *a)
{
    bool is_one = a->count == 1 && !a->echo && !a->is_empty;
    return a->head.is_stream && is_one && a->head.printer->is_resumable;
}

void answer_mark(struct answer *a, int64_t now_s, bool rope_by_length)
{
    struct stream_marks *m = &a->marks;
    m->is_on = true;
    m->is_resumable = answer_is_resumable(a);
    m->seed = a->seed;
    m->now_s = now_s;
    m->created_s = a->head.created;
    m->rope = rope_by_length ? (int)a->prompts->items[0].count : 0;
    snprintf(m->id, sizeof m->id, "%s", a->head.id);
}

void answer_resume(struct answer *a, const struct resume_record *record)
{
    CHECK(answer_is_resumable(a));
    struct candidate *c = &a->candidates[0];
    a->resumed = record;
    c->reply.skip_bytes = record->bytes;
    if (record->rope > 0) a->marks.rope = record->rope;
    a->marks.known = record->ids.count;
    a->marks.bytes = record->bytes;
    a->marks.phase = record->phase;
    c->has_begun = record->phase >= RESUME_BEGUN;
    c->has_finished = record->phase >= RESUME_FINISHED;
}

/* The log-probabilities of the tokens that the engine didn't draw anew went out with their text. */
static void skip_scores(struct answer *a, struct candidate *c, const struct engine_event *event)
{
    for (int i = 0; i < event->resumed_tokens; i++) {
        struct str text =
            tokenizer_token_bytes(a->head.tokenizer, event->tokens[i], a->keep_special);
        c->offset += response_count_characters(text);
    }
    c->released = c->printed_scores = (size_t)event->resumed_tokens;
}

/* All that the client has had was told again by now: is it that? */
static void check_resumed(struct answer *a, const struct candidate *c)
{
    size_t count = (size_t)c->completion_tokens;
    bool is_finished = c->finish != FINISH_NONE;
    if (count < a->resumed->ids.count && !is_finished) return;
    bool is_early = a->resumed->phase >= RESUME_FINISHED && !is_finished;
    bool is_short = c->reply.skip_bytes > reply_held(&c->reply);
    if (is_short || is_early || count < a->resumed->ids.count) a->is_contradicted = true;
}

/* ---- the engine's side ---- */

static bool is_first(const struct answer *a, size_t index)
{
    return index % (size_t)a->per_prompt == 0;
}

bool answer_request(struct answer *a, size_t index, struct engine_request *out)
{
    size_t prompt = index / (size_t)a->per_prompt;
    const struct token_list *ids = &a->prompts->items[prompt];
    bool scores = a->scores_prompt && is_first(a, index) && ids->count > 1;
    if (a->is_empty && !scores) {
        a->candidates[index].finish = FINISH_LENGTH;
        return false;
    }
    out->prompt = ids->ids;
    out->prompt_count = ids->count;
    out->sampling.choice = (uint32_t)(index % (size_t)a->per_prompt);
    if (prompt > 0) out->sampling.seed = hash_mix(a->seed + prompt); // rule 1
    out->sampling.logprobs = a->width;
    if (a->per_prompt > a->n && a->width == 0) out->sampling.logprobs = 1; // to know the best
    out->prompt_logprobs = scores;
    out->max_tokens = a->is_empty ? 1 : a->max_tokens; // one is drawn where the scores end
    if (a->resumed) {
        out->resumed = a->resumed->ids.ids;
        out->resumed_count = a->resumed->ids.count;
        out->rope_positions = a->resumed->rope;
        if (a->resumed->phase >= RESUME_FINISHED) out->sampling.logprobs = 0; // none is missing
    }
    a->open++;
    return true;
}

/* What a token adds to the text that the reply is fed. */
static struct str token_text(const struct answer *a, int32_t id)
{
    const struct reply_plan *plan = &a->prompts->plan;
    bool is_shown = a->keep_special;
    for (int i = 0; i < plan->shown_count && !is_shown; i++)
        is_shown = plan->shown[i] == id;
    return tokenizer_token_bytes(a->head.tokenizer, id, is_shown);
}

static void record_tokens(struct answer *a, struct candidate *c, const struct engine_event *event,
                          int width)
{
    size_t first = (size_t)(event->completion_tokens - event->token_count);
    stream_marks_sampled(&a->marks, first, event->tokens, (size_t)event->token_count);
    for (int i = 0; i < event->token_count; i++) {
        if (c->reply.counter) reply_count_token(&c->reply, token_text(a, event->tokens[i]));
        bool is_known = first + (size_t)i < a->marks.known;
        if (a->head.return_token_ids && !is_known) token_list_push(&c->tokens, event->tokens[i]);
        if (!event->logprobs || first + (size_t)i < (size_t)event->resumed_tokens) continue;
        c->logprob_sum += (double)event->logprobs[i * width].logprob;
        if (a->width > 0) score_list_push(&c->scores, width, event->logprobs + i * width);
    }
}

void answer_record(struct answer *a, size_t index, const struct engine_event *event)
{
    struct candidate *c = &a->candidates[index];
    size_t prompt = index / (size_t)a->per_prompt;
    int width = a->width > 0 ? a->width : 1;
    for (int i = 0; i < event->prompt_logprob_count; i++)
        score_list_push(&a->prompt_scores[prompt], width, event->prompt_logprobs + i * width);
    c->cached_tokens = event->cached_tokens;
    if (event->kind == ENGINE_EVENT_DONE) {
        c->finish = event->finish;
        a->open--;
    }
    if (a->is_empty) {
        if (c->finish != FINISH_NONE) c->finish = FINISH_LENGTH;
        return;
    }
    reply_feed(&c->reply, (struct str){event->text, event->text_len});
    if (c->finish != FINISH_NONE) reply_finish(&c->reply);
    if (c->reply.is_contradicted) a->is_contradicted = true;
    if (event->resumed_tokens > 0 && c->completion_tokens == 0) skip_scores(a, c, event);
    record_tokens(a, c, event, width);
    c->completion_tokens = event->completion_tokens;
    /* Where U+FFFD stands for bytes that may begin a stop string, the engine counts a little short. */
    if ((size_t)event->released_tokens > c->released) c->released = (size_t)event->released_tokens;
    if (a->resumed) check_resumed(a, c);
}

struct response_usage answer_usage(const struct answer *a)
{
    struct response_usage usage = {0};
    for (size_t i = 0; i < a->prompts->count; i++)
        usage.prompt_tokens += (int64_t)a->prompts->items[i].count;
    for (size_t i = 0; i < a->count; i++) {
        usage.completion_tokens += a->candidates[i].completion_tokens;
        usage.reasoning_tokens += a->candidates[i].reply.reasoning_tokens;
        if (is_first(a, i)) usage.cached_tokens += a->candidates[i].cached_tokens;
    }
    return usage;
}

/* ---- printing ---- */

/* Of the log-probabilities of c, `count` from the first that are still here. */
static struct response_scores view_scores(const struct answer *a, const struct candidate *c,
                                          size_t count)
{
    return (struct response_scores){.rows = c->scores.rows,
                                    .count = count,
                                    .width = a->width,
                                    .keep_special = a->keep_special,
                                    .offset = c->offset};
}

/* All that is here of a candidate, as choice number `number` of its prompt. */
static struct response_choice view(const struct answer *a, size_t index, int number)
{
    const struct candidate *c = &a->candidates[index];
    size_t prompt = index / (size_t)a->per_prompt;
    struct response_choice choice = {
        .index = (int)prompt * a->n + number,
        .reply = &c->reply,
        .finish = c->finish,
        .tokens = c->tokens.ids,
        .token_count = c->tokens.count,
        .prompt = a->prompts->items[prompt].ids,
        .prompt_count = a->prompts->items[prompt].count,
    };
    if (a->width > 0) choice.scores = view_scores(a, c, c->released - c->printed_scores);
    if (!a->scores_prompt || c->has_begun) return choice;
    choice.echoed = (struct response_scores){.rows = a->prompt_scores[prompt].rows,
                                             .count = a->prompt_scores[prompt].count,
                                             .width = a->width,
                                             .keep_special = true,
                                             .invisible = a->prompts->texts[prompt].invisible};
    return choice;
}

static double mean_logprob(const struct candidate *c)
{
    return c->completion_tokens > 0 ? c->logprob_sum / c->completion_tokens : 0;
}

/* The candidate that comes next after `taken` ones: the likeliest a token, then the earlier. */
static int take_best(const struct answer *a, size_t first, bool *is_taken)
{
    int best = -1;
    for (int k = 0; k < a->per_prompt; k++) {
        const struct candidate *c = &a->candidates[first + (size_t)k];
        if (is_taken[k]) continue;
        if (best < 0 || mean_logprob(c) > mean_logprob(&a->candidates[first + (size_t)best]))
            best = k;
    }
    is_taken[best] = true;
    return best;
}

void answer_print_whole(struct answer *a, struct buf *out)
{
    size_t count = a->prompts->count * (size_t)a->n, at = 0;
    struct response_choice *choices = xcalloc(count, sizeof *choices);
    for (size_t first = 0; first < a->count; first += (size_t)a->per_prompt) {
        bool is_taken[CHOICES_MAX] = {false};
        for (int k = 0; k < a->n; k++) {
            int number = a->per_prompt > a->n ? take_best(a, first, is_taken) : k;
            choices[at++] = view(a, first + (size_t)number, k);
        }
    }
    struct response_usage usage = answer_usage(a);
    a->head.printer->whole(out, &a->head, choices, count, &usage);
    free(choices);
}

/* Rule 3. */
static void begin_choices(struct answer *a, size_t last, struct buf *out)
{
    struct response_usage usage = answer_usage(a);
    for (size_t i = 0; i <= last; i++) {
        struct candidate *c = &a->candidates[i];
        if (c->has_begun) continue;
        struct response_choice choice = view(a, i, (int)i);
        choice.finish = FINISH_NONE;
        if (i > 0) choice.prompt = NULL; // it is the same
        choice.token_count = choice.scores.count = 0;
        stream_marks_event(&a->marks, out, RESUME_BEGUN);
        a->head.printer->begin(out, &a->head, &choice, &usage);
        c->has_begun = true;
    }
}

/* What choice `v` has beside its parts goes out with the first one. */
static void print_piece(struct answer *a, struct candidate *c, struct response_choice *v,
                        const struct reply_piece *piece, struct buf *out)
{
    stream_marks_announce(&a->marks, out, piece->text.len, RESUME_BEGUN);
    a->head.printer->piece(out, &a->head, v, piece);
    v->token_count = v->echoed.count = 0;
    v->prompt = NULL;
    c->tokens.count = 0;
    c->has_begun = true;
    if (v->scores.count == 0) return;
    c->offset += response_scores_characters(&a->head, &v->scores);
    score_list_consume(&c->scores, a->width, v->scores.count);
    c->printed_scores += v->scores.count;
    v->scores.count = 0;
}

static void print_pieces(struct answer *a, struct candidate *c, struct response_choice *v,
                         struct buf *out)
{
    static const struct reply_piece nothing = {.kind = REPLY_CONTENT, .text = {"", 0}};
    enum finish_reason finish = v->finish;
    bool scores_wait = v->echoed.count > 0 || (finish != FINISH_NONE && v->scores.count > 0);
    v->finish = FINISH_NONE;
    if (c->reply.count == 0 && scores_wait) print_piece(a, c, v, &nothing, out);
    for (size_t i = 0; i < c->reply.count; i++) {
        struct reply_piece piece = reply_piece_at(&c->reply, i);
        print_piece(a, c, v, &piece, out);
    }
    v->finish = finish;
}

static void mark_usage(struct answer *a, struct buf *out)
{
    struct response_usage u = answer_usage(a);
    stream_marks_usage(&a->marks, out, u.prompt_tokens, u.completion_tokens, u.cached_tokens);
}

/* What a choice has to say now: that it begins, its parts, its end, each in its own event. */
static void print_choice(struct answer *a, size_t index, struct buf *out)
{
    struct candidate *c = &a->candidates[index];
    size_t prompt = index / (size_t)a->per_prompt;
    if (c->has_finished) return;
    if (a->scores_prompt && a->prompt_scores[prompt].count < a->prompts->items[prompt].count)
        return; // rule 2
    bool is_finished = c->finish != FINISH_NONE;
    bool has_news = c->reply.count > 0 || is_finished || c->completion_tokens > 0;
    if (a->head.printer->begin && has_news && !c->has_begun) begin_choices(a, index, out);
    struct response_choice v = view(a, index, (int)(index % (size_t)a->per_prompt));
    if (c->has_begun) v.prompt = NULL; // said once, in the first event
    print_pieces(a, c, &v, out);
    if (is_finished) {
        struct response_usage usage = answer_usage(a);
        if (a->open == 0) mark_usage(a, out);
        stream_marks_announce(&a->marks, out, 0, RESUME_FINISHED);
        a->head.printer->finish(out, &a->head, &v, &usage);
        c->has_begun = c->has_finished = true;
        c->tokens.count = 0;
    }
    reply_clear(&c->reply);
}

void answer_print_events(struct answer *a, struct buf *out)
{
    for (size_t i = 0; i < a->count; i++)
        print_choice(a, i, out);
    if (a->open > 0) return;
    mark_usage(a, out); // where the finish event went out elsewhere
    if (a->head.include_usage && a->head.printer->usage && a->marks.phase < RESUME_USAGE) {
        struct response_usage usage = answer_usage(a);
        stream_marks_event(&a->marks, out, RESUME_USAGE);
        a->head.printer->usage(out, &a->head, &usage);
    }
    if (!a->head.printer->done) return;
    stream_marks_event(&a->marks, out, RESUME_COMPLETE);
    a->head.printer->done(out, &a->head);
}
