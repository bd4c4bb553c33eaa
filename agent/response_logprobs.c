#include "agent/response_logprobs.h"

#include "engine/tokenizer.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <math.h>
#include <string.h>

#define VERY_UNLIKELY (-9999.0) // OpenAI's number for what JSON has none for

static double finite_logprob(const struct token_logprob *t)
{
    return (double)t->logprob > VERY_UNLIKELY ? (double)t->logprob : VERY_UNLIKELY;
}

/* A token's name: its text, or "bytes:\xf0\x9f" where that is no text, as OpenAI writes it. */
static void token_name(const struct response_head *head, int32_t token, struct buf *out)
{
    struct str bytes = tokenizer_token_bytes(head->tokenizer, token, true);
    buf_clear(out);
    if (utf8_is_valid(bytes.data, bytes.len) && !memchr(bytes.data, 0, bytes.len)) {
        buf_append(out, bytes.data, bytes.len);
        return;
    }
    buf_append_str(out, "bytes:");
    for (size_t i = 0; i < bytes.len; i++)
        buf_printf(out, "\\x%02x", (unsigned char)bytes.data[i]);
}

/* The bytes that a token adds to the text. */
static struct str token_text(const struct response_head *head, const struct response_scores *s,
                             size_t index)
{
    if (index < s->invisible) return STR("");
    return tokenizer_token_bytes(head->tokenizer, s->rows[index * (size_t)s->width].token,
                                 s->keep_special);
}

int64_t response_count_characters(struct str text)
{
    int64_t count = 0;
    for (size_t i = 0; i < text.len; i++)
        count += ((unsigned char)text.data[i] & 0xc0) != 0x80;
    return count;
}

int64_t response_scores_characters(const struct response_head *head,
                                   const struct response_scores *scores)
{
    int64_t count = 0;
    for (size_t i = 0; i < scores->count; i++)
        count += response_count_characters(token_text(head, scores, i));
    return count;
}

/* ---- chat: an object for each token ---- */

static void put_chat_members(struct json_writer *w, const struct response_head *head,
                             const struct response_scores *s, const struct token_logprob *t,
                             struct buf *scratch)
{
    struct str bytes = tokenizer_token_bytes(head->tokenizer, t->token, s->keep_special);
    token_name(head, t->token, scratch);
    json_field_str(w, "token", buf_str(scratch));
    json_field_double(w, "logprob", finite_logprob(t));
    json_key(w, "bytes");
    json_array_begin(w);
    for (size_t i = 0; i < bytes.len; i++)
        json_put_int(w, (unsigned char)bytes.data[i]);
    json_array_end(w);
}

static void put_chat(struct json_writer *w, const struct response_head *head,
                     const struct response_scores *s, struct buf *scratch)
{
    json_key(w, "content");
    json_array_begin(w);
    for (size_t i = 0; i < s->count; i++) {
        const struct token_logprob *row = s->rows + i * (size_t)s->width;
        json_object_begin(w);
        put_chat_members(w, head, s, row, scratch);
        json_key(w, "top_logprobs");
        json_array_begin(w);
        for (int k = 1; k < s->width && row[k].token >= 0; k++) {
            json_object_begin(w);
            put_chat_members(w, head, s, &row[k], scratch);
            json_object_end(w);
        }
        json_array_end(w);
        json_object_end(w);
    }
    json_array_end(w);
    json_field_null(w, "refusal");
}

/* ---- completions: four lists ---- */

enum text_list { LIST_TOKENS, LIST_LOGPROBS, LIST_TOP, LIST_OFFSETS };

/* The likeliest tokens, and the one that stands there, as an object of names. Of tokens with equal
 * names the likeliest stays. */
static void put_top(struct json_writer *w, const struct response_head *head,
                    const struct token_logprob *row, int width, struct buf *scratch)
{
    struct buf names;
    buf_init(&names, BUF_MAX_INTERNAL);
    json_object_begin(w);
    for (int k = 1; k <= width; k++) {
        const struct token_logprob *t = k < width ? &row[k] : &row[0];
        if (t->token < 0) continue;
        token_name(head, t->token, scratch);
        buf_append_char(scratch, 0);
        bool is_new = true;
        for (size_t at = 0; at < names.len && is_new; at += strlen(names.data + at) + 1)
            is_new = strcmp(names.data + at, scratch->data) != 0;
        if (!is_new) continue;
        buf_append(&names, scratch->data, scratch->len);
        json_field_double(w, scratch->data, finite_logprob(t));
    }
    json_object_end(w);
    buf_deinit(&names);
}

static void put_list(struct json_writer *w, const struct response_head *head,
                     const struct response_scores *s, enum text_list list, struct buf *scratch)
{
    int64_t offset = s->offset;
    for (size_t i = 0; i < s->count; i++) {
        const struct token_logprob *row = s->rows + i * (size_t)s->width;
        bool is_known = !isnan(row->logprob); // nothing stands before a prompt's first token
        switch (list) {
        case LIST_TOKENS:
            token_name(head, row->token, scratch);
            json_put_str(w, buf_str(scratch));
            break;
        case LIST_LOGPROBS:
            if (is_known)
                json_put_double(w, finite_logprob(row));
            else
                json_put_null(w);
            break;
        case LIST_TOP:
            if (is_known)
                put_top(w, head, row, s->width, scratch);
            else
                json_put_null(w);
            break;
        case LIST_OFFSETS:
            json_put_int(w, offset);
            offset += response_count_characters(token_text(head, s, i));
            break;
        }
    }
}

static void put_text(struct json_writer *w, const struct response_head *head,
                     const struct response_choice *choice, struct buf *scratch)
{
    static const char *const names[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    for (enum text_list list = LIST_TOKENS; list <= LIST_OFFSETS; list++) {
        json_key(w, names[list]);
        json_array_begin(w);
        put_list(w, head, &choice->echoed, list, scratch);
        put_list(w, head, &choice->scores, list, scratch);
        json_array_end(w);
    }
}

void response_logprobs_put(struct json_writer *w, const struct response_head *head,
                           const struct response_choice *choice)
{
    struct buf scratch;
    if (head->is_stream && choice->echoed.count + choice->scores.count == 0) {
        json_field_null(w, "logprobs");
        return;
    }
    buf_init(&scratch, BUF_MAX_INTERNAL);
    json_key(w, "logprobs");
    json_object_begin(w);
    if (head->kind == COMPLETION_CHAT)
        put_chat(w, head, &choice->scores, &scratch);
    else
        put_text(w, head, choice, &scratch);
    json_object_end(w);
    buf_deinit(&scratch);
}
