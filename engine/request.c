#include "engine/request.h"

#include "shared/base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STOP_IDS_MAX 1024
#define BIAS_LIMIT   100.0f // enough to ban or to force a token, and no row overflows

static int validate_sampling(const struct sampling_params *s, struct error *err)
{
    if (!(s->temperature >= 0) || !isfinite(s->temperature))
        return error_set(err, E_INVALID, "temperature must be a number from 0 up");
    if (!(s->top_p > 0 && s->top_p <= 1))
        return error_set(err, E_INVALID, "top_p must be above 0 and at most 1");
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return error_set(err, E_INVALID, "min_p must be from 0 to 1");
    if (s->top_k < 0) return error_set(err, E_INVALID, "top_k must not be negative");
    if (!(s->repetition_penalty >= 0) || !isfinite(s->repetition_penalty))
        return error_set(err, E_INVALID, "repetition_penalty must be a number above 0");
    if (!isfinite(s->presence_penalty) || !isfinite(s->frequency_penalty))
        return error_set(err, E_INVALID, "a penalty must be a finite number");
    if (s->logprobs < 0 || s->logprobs > LOGPROBS_MAX)
        return error_set(err, E_INVALID, "at most %d log-probabilities a token", LOGPROBS_MAX);
    return 0;
}

static int validate_bias(const struct sampling_params *s, int vocab, struct error *err)
{
    if (s->bias_count < 0 || s->bias_count > LOGIT_BIAS_MAX)
        return error_set(err, E_INVALID, "at most %d tokens may have a logit_bias", LOGIT_BIAS_MAX);
    for (int i = 0; i < s->bias_count; i++) {
        if (s->bias[i].token < 0 || s->bias[i].token >= vocab)
            return error_set(err, E_INVALID,
                             "logit_bias token %d is not in the vocabulary of %d tokens",
                             s->bias[i].token, vocab);
        if (!(s->bias[i].bias >= -BIAS_LIMIT && s->bias[i].bias <= BIAS_LIMIT))
            return error_set(err, E_INVALID, "a logit_bias must be from -100 to 100");
    }
    return 0;
}

static int validate_stops(const struct engine_request *in, int vocab, struct error *err)
{
    if (in->stop_count < 0 || in->stop_count > STOP_STRINGS_MAX)
        return error_set(err, E_INVALID, "at most %d stop strings", STOP_STRINGS_MAX);
    for (int i = 0; i < in->stop_count; i++)
        if (in->stop_len[i] < 1 || in->stop_len[i] > STOP_STRING_BYTES_MAX)
            return error_set(err, E_INVALID, "a stop string must have 1 to %d bytes",
                             STOP_STRING_BYTES_MAX);
    if (in->stop_id_count < 0 || in->stop_id_count > STOP_IDS_MAX)
        return error_set(err, E_INVALID, "at most %d stop tokens", STOP_IDS_MAX);
    for (int i = 0; i < in->stop_id_count; i++)
        if (in->stop_ids[i] < 0 || in->stop_ids[i] >= vocab)
            return error_set(err, E_INVALID, "stop token %d is not in the vocabulary of %d tokens",
                             in->stop_ids[i], vocab);
    return 0;
}

/* Tokens of the answer that the context and max_tokens allow. */
static int allowed_tokens(const struct engine_request *in, int context_len)
{
    int room = context_len - (int)in->prompt_count;
    return in->max_tokens > 0 && in->max_tokens < room ? in->max_tokens : room;
}

static int validate_resumed(const struct engine_request *in, int vocab, int context_len,
                            struct error *err)
{
    int allowed = allowed_tokens(in, context_len);
    if (in->resumed_count == 0) return 0;
    if (in->prompt_logprobs)
        return error_set(err, E_INVALID, "an answer with prompt_logprobs can't be resumed");
    if (in->resumed_count > (size_t)allowed)
        return error_set(err, E_INVALID, "%zu resumed tokens, and the answer may have %d",
                         in->resumed_count, allowed);
    for (size_t i = 0; i < in->resumed_count; i++)
        if (in->resumed[i] < 0 || in->resumed[i] >= vocab)
            return error_set(err, E_INVALID,
                             "resumed token %d at %zu is not in the vocabulary of %d tokens",
                             in->resumed[i], i, vocab);
    return 0;
}

static int validate_marks(const struct engine_request *in, struct error *err)
{
    if (in->mark_count < 0 || in->mark_count > ENGINE_MARKS_MAX)
        return error_set(err, E_INVALID, "at most %d marks", ENGINE_MARKS_MAX);
    int before = 1;
    for (int i = 0; i < in->mark_count; i++) {
        int tokens = in->marks[i].tokens;
        if (tokens < before || (size_t)tokens > in->prompt_count || tokens % ENGINE_BLOCK_TOKENS)
            return error_set(err, E_INVALID,
                             "marks must be at whole blocks of the prompt, in order");
        before = tokens;
    }
    return 0;
}

int request_validate(const struct engine_request *in, int vocab, int context_len, struct error *err)
{
    int rc;
    if (in->id == 0) return error_set(err, E_INVALID, "request id must not be 0");
    if (in->prompt_count < 1) return error_set(err, E_INVALID, "the prompt has no tokens");
    if (in->prompt_count >= (size_t)context_len)
        return error_set(err, E_CONTEXT_LENGTH,
                         "the prompt has %zu tokens, which leaves no room for a completion in the "
                         "model's context of %d tokens",
                         in->prompt_count, context_len);
    for (size_t i = 0; i < in->prompt_count; i++)
        if (in->prompt[i] < 0 || in->prompt[i] >= vocab)
            return error_set(err, E_INVALID,
                             "prompt token %d at %zu is not in the vocabulary of %d tokens",
                             in->prompt[i], i, vocab);
    if (in->rope_positions < 0 || in->rope_positions >= context_len)
        return error_set(err, E_INVALID,
                         "rope tables for a prompt of %d tokens, in the model's context of %d",
                         in->rope_positions, context_len);
    if (in->max_tokens < 0) return error_set(err, E_INVALID, "max_tokens must not be negative");
    if (in->min_tokens < 0) return error_set(err, E_INVALID, "min_tokens must not be negative");
    if ((rc = validate_sampling(&in->sampling, err)) < 0) return rc;
    if ((rc = validate_bias(&in->sampling, vocab, err)) < 0) return rc;
    if (in->pool != ENGINE_POOL_NONE && (in->prompt_logprobs || in->resumed_count > 0))
        return error_set(err, E_INVALID, "an embedding has no answer");
    if (in->prompt_logprobs && in->sampling.logprobs == 0)
        return error_set(err, E_INVALID, "prompt_logprobs needs logprobs");
    if ((rc = validate_resumed(in, vocab, context_len, err)) < 0) return rc;
    if ((rc = validate_marks(in, err)) < 0) return rc;
    return validate_stops(in, vocab, err);
}

static void unite_stop_ids(struct request *r, const struct engine_request *in,
                           const int32_t *model_stops, int model_stop_count)
{
    if (in->ignore_eos) model_stop_count = 0;
    r->stop_id_count = model_stop_count + in->stop_id_count;
    if (r->stop_id_count == 0) return;
    r->stop_ids = xcalloc((size_t)r->stop_id_count, sizeof *r->stop_ids);
    for (int i = 0; i < model_stop_count; i++)
        r->stop_ids[i] = model_stops[i];
    for (int i = 0; i < in->stop_id_count; i++)
        r->stop_ids[model_stop_count + i] = in->stop_ids[i];
}

static int compare_bias(const void *a, const void *b)
{
    const struct logit_bias *x = a, *y = b;
    if (x->token != y->token) return x->token < y->token ? -1 : 1;
    return (x->bias > y->bias) - (x->bias < y->bias);
}

/* A token that came twice gets the sum: sample_row wants each once. */
static int merge_bias(struct logit_bias *bias, int count)
{
    int kept = 0;
    qsort(bias, (size_t)count, sizeof *bias, compare_bias);
    for (int i = 0; i < count; i++) {
        if (kept > 0 && bias[kept - 1].token == bias[i].token)
            bias[kept - 1].bias += bias[i].bias;
        else
            bias[kept++] = bias[i];
    }
    return kept;
}

static void copy_sampling(struct request *r, const struct engine_request *in)
{
    struct sampling_params *s = &r->sampling;
    *s = in->sampling;
    s->bias = NULL;
    if (s->bias_count > 0) {
        s->bias = r->bias = xmemdup(in->sampling.bias, (size_t)s->bias_count * sizeof *r->bias);
        s->bias_count = merge_bias(r->bias, s->bias_count);
    }
    r->prompt_logprobs = in->prompt_logprobs;
}

static void begin_history(struct request *r)
{
    const struct sampling_params *s = &r->sampling;
    if (s->repetition_penalty != 0 && s->repetition_penalty != 1)
        token_history_add_prompt(&r->history, r->tokens, r->prompt_count);
}

void request_restart(struct request *r)
{
    CHECK(r->computed == 0 && r->pending == 0);
    r->count = r->prompt_count;
    token_history_deinit(&r->history);
    begin_history(r);
    grammar_matcher_restart(&r->grammar);
    stopping_restart(&r->stopping);
}

struct request *request_create(const struct engine_request *in, int context_len,
                               const int32_t *model_stops, int model_stop_count)
{
    struct request *r = xcalloc(1, sizeof *r);
    list_init(&r->link);
    list_init(&r->flow_link);
    r->id = in->id;
    r->prompt_count = r->count = (int)in->prompt_count;
    r->cap = r->count + (int)in->resumed_count + 64;
    r->tokens = xcalloc((size_t)r->cap, sizeof *r->tokens);
    memcpy(r->tokens, in->prompt, in->prompt_count * sizeof *r->tokens);
    r->resumed_count = (int)in->resumed_count;
    if (r->resumed_count > 0)
        r->resumed = xmemdup(in->resumed, in->resumed_count * sizeof *r->resumed);
    r->pool = in->pool;
    r->max_tokens = r->pool == ENGINE_POOL_NONE ? allowed_tokens(in, context_len) : 1;
    r->min_tokens = in->min_tokens < r->max_tokens ? in->min_tokens : r->max_tokens;
    r->tenant = in->tenant;
    r->priority = in->priority;
    r->deadline_ms = in->deadline_ms;
    r->group = in->group;
    r->session = in->session;
    r->skip_special = in->skip_special;
    CHECK(in->shown_count <= SHOWN_TOKENS_MAX);
    for (; r->shown_count < in->shown_count; r->shown_count++)
        r->shown[r->shown_count] = in->shown[r->shown_count];
    copy_sampling(r, in);
    begin_history(r);
    grammar_matcher_init(&r->grammar, in->grammar);
    unite_stop_ids(r, in, model_stops, model_stop_count);
    r->mark_count = in->mark_count;
    if (in->mark_count > 0)
        r->marks = xmemdup(in->marks, (size_t)in->mark_count * sizeof *r->marks);
    struct str stops[STOP_STRINGS_MAX];
    for (int i = 0; i < in->stop_count; i++)
        stops[i] = (struct str){in->stop[i], in->stop_len[i]};
    stopping_init(&r->stopping, stops, in->stop_count);
    return r;
}

void request_destroy(struct request *r)
{
    if (!r) return;
    CHECK(r->table.count == 0 && r->in_flight == 0);
    stopping_deinit(&r->stopping);
    token_history_deinit(&r->history);
    grammar_matcher_deinit(&r->grammar);
    free(r->bias);
    free(r->marks);
    free(r->stop_ids);
    free(r->resumed);
    free(r->pooled);
    free(r->tokens);
    free(r);
}

void request_push_token(struct request *r, int32_t token)
{
    if (r->count == r->cap) {
        r->cap *= 2;
        r->tokens = xrealloc_array(r->tokens, (size_t)r->cap, sizeof *r->tokens);
    }
    r->tokens[r->count++] = token;
    if (penalties_are_on(&r->sampling)) token_history_add(&r->history, token);
}

bool request_draws_in_turn(const struct request *r)
{
    return r->grammar.grammar || penalties_are_on(&r->sampling);
}

int request_generated(const struct request *r)
{
    return r->count - r->prompt_count;
}

bool request_is_stop(const struct request *r, int32_t token)
{
    for (int i = 0; i < r->stop_id_count; i++)
        if (r->stop_ids[i] == token) return true;
    return false;
}

bool request_shows(const struct request *r, int32_t token)
{
    for (int i = 0; i < r->shown_count; i++)
        if (r->shown[i] == token) return true;
    return !r->skip_special;
}

int request_need(const struct request *r)
{
    /* The last token that max_tokens allows is only answered, never fed back. */
    if (request_generated(r) + r->pending >= r->max_tokens) return 0;
    return r->count + r->pending - r->computed;
}
