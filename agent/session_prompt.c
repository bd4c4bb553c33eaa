#include "agent/session_prompt.h"

#include "agent/request_field.h"
#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

/* Placeholders: plain words, so that no template has a reason to change them, and unlikely ones. */
#define PAST_USER   "lm7placeholder7question"
#define PAST_ANSWER "lm7placeholder7answer"
#define NEXT_USER   "lm7placeholder7next"

#define PAST                                             \
    "{\"role\":\"user\",\"content\":\"" PAST_USER "\"}," \
    "{\"role\":\"assistant\",\"content\":\"" PAST_ANSWER "\"}"
#define NEXT "{\"role\":\"user\",\"content\":\"" NEXT_USER "\"}"

/* ---- rendering ---- */

/* `parts` are joined with commas; empty ones are left out. */
static int render(const struct prompt_context *c, const char *const parts[], size_t count,
                  bool with_answer, int64_t now, struct buf *out, struct error *err)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_append_char(&text, '[');
    for (size_t i = 0; i < count; i++) {
        if (!parts[i] || !parts[i][0]) continue;
        if (text.len > 1) buf_append_char(&text, ',');
        buf_append_str(&text, parts[i]);
    }
    buf_append_char(&text, ']');
    struct json *messages = json_parse(text.data, text.len, err);
    buf_deinit(&text);
    if (!messages) return err->code;
    struct chat_template_input input = {
        .messages = messages, .add_generation_prompt = with_answer, .now = now};
    int rc = prompt_context_render(c, &input, out, err);
    json_destroy(messages);
    return rc;
}

/* What stands behind the only occurrence of `word`; data NULL: it isn't there, or twice. */
static struct str behind(const struct buf *text, const char *word)
{
    size_t len = strlen(word);
    const char *end = text->data + text->len;
    const char *at = text->len ? memmem(text->data, text->len, word, len) : NULL;
    if (!at || memmem(at + len, (size_t)(end - at) - len, word, len)) return (struct str){0};
    return (struct str){at + len, (size_t)(end - at) - len};
}

/* With a new turn behind it the conversation must read as before, and the turn must not repeat
 * anything of it. */
static bool is_stable(const struct prompt_context *c, const char *past)
{
    struct buf without, with;
    struct error err = {0};
    buf_init(&without, BUF_MAX_INTERNAL);
    buf_init(&with, BUF_MAX_INTERNAL);
    bool stable = render(c, (const char *[]){past}, 1, false, 0, &without, &err) == 0 &&
                  render(c, (const char *[]){past, NEXT}, 2, true, 0, &with, &err) == 0 &&
                  without.len > 0 && str_starts_with(buf_str(&with), buf_str(&without));
    if (stable) {
        struct str tail = behind(&with, PAST_ANSWER);
        stable = tail.data && behind(&with, PAST_USER).data && behind(&with, NEXT_USER).data &&
                 memmem(tail.data, tail.len, NEXT_USER, strlen(NEXT_USER));
    }
    buf_deinit(&without);
    buf_deinit(&with);
    return stable;
}

void session_template_init(struct session_template *t, const struct prompt_context *context)
{
    static const char system[] =
        "{\"role\":\"system\",\"content\":\"lm7placeholder7system\"}," PAST;
    t->context = context;
    struct buf text;
    struct error err = {0};
    buf_init(&text, BUF_MAX_INTERNAL);
    // A template may refuse system messages (Gemma's does); then none can be in a conversation.
    bool takes_system = render(context, (const char *[]){system}, 1, false, 0, &text, &err) == 0;
    buf_deinit(&text);
    t->is_continued = is_stable(context, PAST) && (!takes_system || is_stable(context, system));
}

/* ---- tokens ---- */

static int encode(const struct prompt_context *c, struct str text, struct token_list *out,
                  struct api_error *e)
{
    struct error err = {0};
    if (prompt_context_encode(c, text, TOKENIZER_SPECIAL, out, &err) == 0) return 0;
    return api_error_set(e, 400, NULL, "prompt", "The text cannot be tokenised: %s.", err.text);
}

/* Whether the text can't fit whatever its tokens are: then it isn't worth seconds of a worker. */
static bool is_hopeless(const struct prompt_context *c, struct str text, struct session_prompt *out)
{
    size_t tokens_min = text.len / c->token_bytes_max;
    if (tokens_min <= (size_t)c->context_len) return false;
    out->is_full = true;
    out->input_tokens = (int64_t)tokens_min;
    return true;
}

static void check_room(const struct prompt_context *c, struct session_prompt *out)
{
    out->input_tokens = (int64_t)out->ids.count - out->base;
    out->is_full = out->ids.count >= (size_t)c->context_len; // one token of answer must fit
}

static int refused(struct api_error *e, const struct error *err)
{
    return api_error_set(e, 400, NULL, "prompt",
                         "The model's chat template refused the messages: %s.", err->text);
}

static int build_whole(const struct prompt_context *c, const char *const parts[], size_t count,
                       int64_t now, struct session_prompt *out, struct api_error *e)
{
    struct buf text;
    struct error err = {0};
    buf_init(&text, BUF_MAX_INTERNAL);
    int rc = render(c, parts, count, true, now, &text, &err) != 0 ? refused(e, &err) : 0;
    if (rc == 0 && !is_hopeless(c, buf_str(&text), out)) {
        rc = encode(c, buf_str(&text), &out->ids, e);
    }
    buf_deinit(&text);
    return rc;
}

/* The closing token of the answer before is part of the template's text, but stands in the history
 * already if the model sampled it. Some templates put a space before it (Llama 2's). */
static struct str skip_closing(const struct prompt_context *c, const struct session_history *h,
                               int base, struct str tail)
{
    int32_t last = h->ids.ids[base - 1];
    if (!tokenizer_is_stop(c->tokenizer, last)) return tail;
    struct str closing = tokenizer_token_bytes(c->tokenizer, last, true), rest = tail;
    while (rest.len > 0 && (*rest.data == ' ' || *rest.data == '\n')) {
        rest.data++;
        rest.len--;
    }
    if (closing.len == 0 || !str_starts_with(rest, closing)) return tail;
    return (struct str){rest.data + closing.len, rest.len - closing.len};
}

static int build_continued(const struct prompt_context *c, const struct session_history *h,
                           int base, const char *messages, int64_t now, struct session_prompt *out,
                           struct api_error *e)
{
    struct buf text;
    struct error err = {0};
    buf_init(&text, BUF_MAX_INTERNAL);
    int rc = render(c, (const char *[]){PAST, messages}, 2, true, now, &text, &err) != 0
                 ? refused(e, &err)
                 : 0;
    /* The first occurrence: the new messages may say anything. */
    const char *at = rc == 0 ? memmem(text.data, text.len, PAST_ANSWER, strlen(PAST_ANSWER)) : NULL;
    if (rc == 0 && !at) {
        rc = api_error_set(e, 400, NULL, "prompt",
                           "The model's chat template can't continue a conversation with these "
                           "messages.");
    }
    if (rc == 0) {
        at += strlen(PAST_ANSWER);
        struct str tail = {at, (size_t)(text.data + text.len - at)};
        tail = skip_closing(c, h, base, tail);
        if (!is_hopeless(c, tail, out)) {
            for (int i = 0; i < base; i++)
                token_list_push(&out->ids, h->ids.ids[i]);
            rc = encode(c, tail, &out->ids, e);
        }
    }
    buf_deinit(&text);
    return rc;
}

/* All turns before `base` and the new one; what the ids have in common with those kept stays. */
static int build_again(const struct prompt_context *c, const struct session_history *h,
                       const char *messages, int64_t now, struct session_prompt *out,
                       struct api_error *e)
{
    int keep = out->keep_turns;
    const char **parts = xcalloc((size_t)keep + 1, sizeof *parts);
    for (int i = 0; i < keep; i++)
        parts[i] = h->turns[i].messages;
    parts[keep] = messages;
    int rc = build_whole(c, parts, (size_t)keep + 1, now, out, e);
    free(parts);
    if (rc != 0 || out->is_full) return rc;
    int common = 0;
    while (common < out->base && (size_t)common < out->ids.count &&
           out->ids.ids[common] == h->ids.ids[common])
        common++;
    out->base = common;
    return 0;
}

int session_prompt_build(const struct session_template *t, const struct session_history *h,
                         int base, const char *messages, int64_t now, struct session_prompt *out,
                         struct api_error *e)
{
    const struct prompt_context *c = t->context;
    CHECK(base >= 0 && (size_t)base <= h->ids.count);
    *out =
        (struct session_prompt){.base = base, .keep_turns = session_history_turns_within(h, base)};
    int rc;
    if (base == 0) {
        rc = build_whole(c, &messages, 1, now, out, e);
    } else if (t->is_continued) {
        rc = build_continued(c, h, base, messages, now, out, e);
    } else if (!session_history_is_boundary(h, base)) {
        rc = api_error_set(e, 400, "invalid_value", "rewind_to",
                           "Invalid 'rewind_to': this model's conversations can be rewound to the "
                           "end of a turn only.");
    } else {
        rc = build_again(c, h, messages, now, out, e);
    }
    if (rc == 0 && !out->is_full) check_room(c, out);
    return rc;
}

void session_prompt_deinit(struct session_prompt *p)
{
    token_list_deinit(&p->ids);
    *p = (struct session_prompt){0};
}

void session_prompt_print_turn(struct buf *out, const char *messages, struct str answer)
{
    struct json_writer w;
    buf_append_str(out, messages);
    buf_append_char(out, ',');
    json_writer_init(&w, out);
    json_object_begin(&w);
    json_field_text(&w, "role", "assistant");
    json_field_str(&w, "content", answer);
    json_object_end(&w);
}
