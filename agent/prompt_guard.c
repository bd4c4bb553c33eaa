#include "agent/prompt_guard.h"

#include "shared/base/check.h"

#include <stdlib.h>

#define MARK     "\xf4\x8f\xbf\xbe" // U+10FFFE
#define MARK_LEN 4

/* Where the next mark is, or the end. */
static size_t next_mark(struct str text, size_t from)
{
    const char *found = memmem(text.data + from, text.len - from, MARK, MARK_LEN);
    return found ? (size_t)(found - text.data) : text.len;
}

static void append_unmarked(struct str text, struct buf *out)
{
    for (size_t at = 0, mark; at < text.len; at = mark + MARK_LEN) {
        mark = next_mark(text, at);
        buf_append(out, text.data + at, mark - at);
        if (mark == text.len) return;
    }
}

void prompt_guard_mark(const struct tokenizer *t, struct str json, struct buf *out)
{
    struct buf plain;
    buf_init(&plain, BUF_MAX_INTERNAL);
    append_unmarked(json, &plain);
    struct str text = buf_str(&plain);
    size_t special = text.len ? tokenizer_next_special(t, text, 0) : SIZE_MAX, from = 0;
    bool in_string = false;
    for (size_t at = 0; at < text.len && special != SIZE_MAX; at++) {
        char c = text.data[at];
        if (at == special) {
            if (in_string) {
                buf_append(out, text.data + from, at - from);
                buf_append(out, MARK, MARK_LEN);
                from = at;
            }
            special = tokenizer_next_special(t, text, at + 1);
        }
        if (c == '"') in_string = !in_string;
        if (c != '\\' || !in_string) continue;
        at++; // an escape: the character behind it is no quote, and no text by itself
        while (special <= at)
            special = tokenizer_next_special(t, text, special + 1);
    }
    buf_append(out, text.data + from, text.len - from);
    buf_deinit(&plain);
}

struct json *prompt_guard_mark_json(const struct tokenizer *t, const struct json *value,
                                    struct error *err)
{
    struct buf text, marked;
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_init(&marked, BUF_MAX_INTERNAL);
    json_print(value, &text, false);
    prompt_guard_mark(t, buf_str(&text), &marked);
    struct json *out = json_parse(marked.data, marked.len, err);
    buf_deinit(&text);
    buf_deinit(&marked);
    return out;
}

int prompt_guard_encode(const struct tokenizer *t, struct str text, unsigned flags,
                        struct token_list *out, struct error *err)
{
    size_t *places = NULL, count = 0, cap = 0;
    struct buf plain;
    buf_init(&plain, BUF_MAX_INTERNAL);
    for (size_t at = 0, mark; at < text.len; at = mark + MARK_LEN) {
        mark = next_mark(text, at);
        buf_append(&plain, text.data + at, mark - at);
        if (mark == text.len) break;
        if (count == cap) {
            cap = cap ? 2 * cap : 64;
            places = xrealloc_array(places, cap, sizeof *places);
        }
        places[count++] = plain.len;
    }
    int rc = tokenizer_encode_guarded(t, plain.len ? plain.data : "", plain.len,
                                      flags | TOKENIZER_SPECIAL,
                                      &(struct token_guard){places, count}, out, err);
    buf_deinit(&plain);
    free(places);
    return rc;
}

void prompt_guard_unmark(struct buf *text)
{
    struct buf plain;
    buf_init(&plain, text->max);
    append_unmarked(buf_str(text), &plain);
    buf_deinit(text);
    *text = plain;
}
