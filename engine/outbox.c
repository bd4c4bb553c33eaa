#include "engine/outbox.h"

#include "shared/base/buf.h"
#include "shared/base/check.h"

#include <stdlib.h>

/* All fields under the outbox's lock once it was posted to. */
struct output {
    struct list link; // in outbox.ready, or by itself
    struct engine_event event;
    int token_cap;
    struct buf text;
    bool last; // event.kind is final
};

void outbox_init(struct outbox *o)
{
    pthread_mutex_init(&o->lock, NULL);
    list_init(&o->ready);
}

struct output *output_create(uint64_t id, int prompt_tokens)
{
    struct output *out = xcalloc(1, sizeof *out);
    list_init(&out->link);
    buf_init(&out->text, BUF_MAX_INTERNAL);
    out->event.id = id;
    out->event.prompt_tokens = prompt_tokens;
    return out;
}

void output_destroy(struct output *out)
{
    if (!out) return;
    list_remove(&out->link);
    buf_deinit(&out->text);
    free(out->event.tokens);
    free(out);
}

void outbox_deinit(struct outbox *o)
{
    list_each_safe (out, &o->ready, struct output, link)
        output_destroy(out);
    pthread_mutex_destroy(&o->lock);
}

static void push_token(struct output *out, int32_t token)
{
    struct engine_event *e = &out->event;
    if (e->token_count == out->token_cap) {
        out->token_cap = out->token_cap ? 2 * out->token_cap : 8;
        e->tokens = xrealloc_array(e->tokens, (size_t)out->token_cap, sizeof *e->tokens);
    }
    e->tokens[e->token_count++] = token;
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
    out->last = update->kind != ENGINE_EVENT_TOKENS;
    if (update->token) push_token(out, *update->token);
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
    out->event.token_count = out->token_cap = 0;
    bool last = out->last;
    pthread_mutex_unlock(&o->lock);
    if (last) output_destroy(out);
    return true;
}
