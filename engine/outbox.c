#include "engine/outbox.h"

#include "shared/base/buf.h"
#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

/* All fields under the outbox's lock once it was posted to. */
struct output {
    struct list link; // in outbox.ready, or by itself
    struct engine_event event;
    int token_cap, prompt_cap;
    int logprobs; // a token
    struct buf text;
    bool last; // event.kind is final
};

void outbox_init(struct outbox *o)
{
    pthread_mutex_init(&o->lock, NULL);
    list_init(&o->ready);
}

struct output *output_create(uint64_t id, int prompt_tokens, int logprobs)
{
    struct output *out = xcalloc(1, sizeof *out);
    list_init(&out->link);
    buf_init(&out->text, BUF_MAX_INTERNAL);
    out->event.id = id;
    out->event.prompt_tokens = prompt_tokens;
    out->logprobs = logprobs;
    return out;
}

void output_destroy(struct output *out)
{
    if (!out) return;
    list_remove(&out->link);
    buf_deinit(&out->text);
    free(out->event.tokens);
    free(out->event.logprobs);
    free(out->event.prompt_logprobs);
    free(out->event.embedding);
    free(out);
}

void outbox_deinit(struct outbox *o)
{
    list_each_safe (out, &o->ready, struct output, link)
        output_destroy(out);
    pthread_mutex_destroy(&o->lock);
}

/* Row `index` of [cap][width]; where cap is the same as before, realloc does nothing. */
static void put_logprobs(struct token_logprob **rows, int cap, int index, int width,
                         const struct token_logprob *logprobs)
{
    *rows = xrealloc_array(*rows, (size_t)cap, (size_t)width * sizeof **rows);
    memcpy(*rows + index * width, logprobs, (size_t)width * sizeof **rows);
}

static void push_token(struct output *out, int32_t token, const struct token_logprob *logprobs)
{
    struct engine_event *e = &out->event;
    if (e->token_count == out->token_cap) {
        out->token_cap = out->token_cap ? 2 * out->token_cap : 8;
        e->tokens = xrealloc_array(e->tokens, (size_t)out->token_cap, sizeof *e->tokens);
    }
    if (logprobs)
        put_logprobs(&e->logprobs, out->token_cap, e->token_count, out->logprobs, logprobs);
    e->tokens[e->token_count++] = token;
}

void outbox_add_prompt_logprobs(struct outbox *o, struct output *out,
                                const struct token_logprob *logprobs)
{
    pthread_mutex_lock(&o->lock);
    struct engine_event *e = &out->event;
    if (e->prompt_logprob_count == out->prompt_cap)
        out->prompt_cap = out->prompt_cap ? 2 * out->prompt_cap : 64;
    put_logprobs(&e->prompt_logprobs, out->prompt_cap, e->prompt_logprob_count++, out->logprobs,
                 logprobs);
    pthread_mutex_unlock(&o->lock);
}

bool outbox_post(struct outbox *o, struct output *out, const struct output_update *update)
{
    pthread_mutex_lock(&o->lock);
    CHECK(!out->last);
    struct engine_event *e = &out->event;
    e->kind = update->kind;
    e->finish = update->finish;
    e->cached_tokens = update->cached_tokens;
    e->completion_tokens = update->completion_tokens;
    e->error_code = update->error_code;
    e->embedding = update->embedding; // of the last event only
    out->last = update->kind != ENGINE_EVENT_TOKENS;
    e->released_tokens = update->released_tokens;
    e->resumed_tokens = update->resumed_tokens;
    for (int i = 0; i < update->token_count; i++)
        push_token(out, update->tokens[i], update->logprobs);
    if (update->kind == ENGINE_EVENT_FAILED) buf_clear(&out->text); // text says what went wrong
    buf_append(&out->text, update->text.data, update->text.len);
    bool was_empty = list_is_empty(&o->ready);
    if (list_is_empty(&out->link)) list_push_back(&o->ready, &out->link);
    pthread_mutex_unlock(&o->lock);
    return was_empty;
}

bool outbox_take(struct outbox *o, struct engine_event *event)
{
    pthread_mutex_lock(&o->lock);
    if (list_is_empty(&o->ready)) {
        pthread_mutex_unlock(&o->lock);
        return false;
    }
    struct output *out = list_first(&o->ready, struct output, link);
    list_remove(&out->link);
    *event = out->event;
    event->text = buf_detach(&out->text, &event->text_len);
    out->event.tokens = NULL;
    out->event.logprobs = out->event.prompt_logprobs = NULL;
    out->event.embedding = NULL;
    out->event.token_count = out->token_cap = 0;
    out->event.prompt_logprob_count = out->prompt_cap = 0;
    bool last = out->last;
    pthread_mutex_unlock(&o->lock);
    if (last) output_destroy(out);
    return true;
}
