#include "agent/reply.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"

#include <stdlib.h>
#include <string.h>

void reply_init(struct reply *r, const struct reply_plan *plan)
{
    *r = (struct reply){0};
    buf_init(&r->text, BUF_MAX_INTERNAL);
    if (!plan || !plan->is_parsed) return;
    r->parser = reply_parser_create(&plan->options);
    if (plan->options.reasoning) r->counter = reply_parser_create(&plan->options);
    r->calls_max = plan->calls_max;
    r->drops_content = plan->must_call;
}

void reply_deinit(struct reply *r)
{
    reply_parser_destroy(r->parser);
    reply_parser_destroy(r->counter);
    buf_deinit(&r->text);
    free(r->parts);
    *r = (struct reply){0};
}

/* ---- parts ---- */

/* What the client has had already isn't new: any piece can be cut there, but a name comes whole. */
static struct str skip(struct reply *r, const struct reply_piece *piece)
{
    struct str text = piece->text;
    size_t had = text.len < r->skip_bytes ? text.len : r->skip_bytes;
    r->skip_bytes -= had;
    text.data += had;
    text.len -= had;
    if (had == 0 || text.len == 0) return text;
    if (piece->kind == REPLY_CALL || (*text.data & 0xc0) == 0x80) r->is_contradicted = true;
    return text;
}

static void push(struct reply *r, enum reply_piece_kind kind, int call, struct str text)
{
    struct reply_part *last = r->count > 0 ? &r->parts[r->count - 1] : NULL;
    size_t at = r->text.len;
    if (text.len == 0) return;
    buf_append(&r->text, text.data, text.len);
    if (last && last->kind == kind && last->call == call) {
        last->len += text.len;
        return;
    }
    if (r->count == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 4;
        r->parts = xrealloc_array(r->parts, r->cap, sizeof *r->parts);
    }
    r->parts[r->count++] = (struct reply_part){kind, call, at, text.len};
}

static void take(struct reply *r, const struct reply_piece *piece)
{
    bool is_of_call = piece->kind == REPLY_CALL || piece->kind == REPLY_ARGUMENTS;
    if (is_of_call && r->calls_max > 0 && piece->call >= r->calls_max) return;
    if (piece->kind == REPLY_CONTENT && r->drops_content) return;
    if (piece->kind == REPLY_CALL) r->calls = piece->call + 1;
    if (piece->kind == REPLY_CONTENT && piece->text.len > 0) r->has_content = true;
    if (piece->kind == REPLY_REASONING && piece->text.len > 0) r->has_reasoning = true;
    push(r, piece->kind, is_of_call ? piece->call : 0, skip(r, piece));
}

static void take_piece(void *arg, const struct reply_piece *piece)
{
    take(arg, piece);
}

void reply_append_content(struct reply *r, struct str text)
{
    take(r, &(struct reply_piece){.kind = REPLY_CONTENT, .text = text});
}

void reply_feed(struct reply *r, struct str text)
{
    if (r->parser)
        reply_parser_feed(r->parser, text, &(struct reply_sink){take_piece, r});
    else
        reply_append_content(r, text);
}

void reply_finish(struct reply *r)
{
    if (r->parser) reply_parser_finish(r->parser, &(struct reply_sink){take_piece, r});
}

void reply_clear(struct reply *r)
{
    buf_clear(&r->text);
    r->count = 0;
}

size_t reply_held(const struct reply *r)
{
    return r->parser ? reply_parser_held(r->parser) : 0;
}

struct reply_piece reply_piece_at(const struct reply *r, size_t part)
{
    CHECK(part < r->count);
    const struct reply_part *p = &r->parts[part];
    return (struct reply_piece){p->kind, p->call, {r->text.data + p->at, p->len}};
}

static void append_part(const struct reply *r, size_t part, struct buf *out)
{
    buf_append(out, r->text.data + r->parts[part].at, r->parts[part].len);
}

void reply_join(const struct reply *r, enum reply_piece_kind kind, struct buf *out)
{
    for (size_t i = 0; i < r->count; i++)
        if (r->parts[i].kind == kind) append_part(r, i, out);
}

/* They come before the next call does. */
void reply_join_arguments(const struct reply *r, size_t part, struct buf *out)
{
    for (size_t i = part + 1; i < r->count && r->parts[i].kind != REPLY_CALL; i++)
        if (r->parts[i].kind == REPLY_ARGUMENTS) append_part(r, i, out);
}

/* ---- counting ---- */

static void ignore_piece(void *arg, const struct reply_piece *piece)
{
    (void)arg, (void)piece;
}

/* Tokens of the tags count as what they enclose. Text can't tell: several tokens come at once. */
void reply_count_token(struct reply *r, struct str bytes)
{
    if (!r->counter) return;
    bool was_inside = reply_parser_in_reasoning(r->counter);
    reply_parser_feed(r->counter, bytes, &(struct reply_sink){ignore_piece, NULL});
    if (was_inside || reply_parser_in_reasoning(r->counter)) r->reasoning_tokens++;
}

/* ---- ids ---- */

void reply_call_id(const char *answer_id, int choice, int call, char out[REPLY_CALL_ID_BYTES])
{
    static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    uint64_t place = (uint64_t)(uint32_t)choice << 32 | (uint32_t)call;
    uint64_t hash = hash_text(place, answer_id, strlen(answer_id));
    char *at = str_put(out, STR("call_"));
    for (int i = 0; i < 3; i++) { // 8 digits of each of three hashes
        hash = hash_mix(hash + place + 1);
        for (uint64_t rest = hash, k = 0; k < 8; k++, rest /= 62)
            *at++ = digits[rest % 62];
    }
    *at = 0;
}
