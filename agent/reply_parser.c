/* reply_parser.c - where the parts of an answer begin and end.
 *
 *     FRESH ──text──► CONTENT ──opening──► BLOCK ──over──► FRESH
 *       │ ▲ opening ─────────────────────►  ▲ └─none─► CONTENT, or back to REASONING
 *       │ └──closing tag── REASONING ─opening─┘
 *       └──opening tag──► THINKING ──text──► REASONING
 *
 * FRESH: nothing but white space so far, at the answer's beginning, after reasoning, after calls.
 * THINKING: reasoning of which nothing but white space is there.
 *
 * Rules:
 *  1. `held` is what went in and hasn't been told; `at` is how much of it has been told during a call.
 *  2. A step looks at held text from `at` on, and moves `at` over what it told. What it does depends on
 *     the text alone: a step that can't know yet waits, so that cuts make no difference.
 *  3. White space around calls is theirs: it is told only if text comes beside it. Beyond SPACE_MAX it
 *     is text.
 *  4. A block's reader decides (agent/tool_format.h); what stands before its opening (white space, the
 *     newline that ends reasoning) is told only if it says that it is none. */
#include "agent/reply_parser.h"

#include "agent/json_stream.h"
#include "agent/reasoning_format.h"
#include "agent/reply_tag.h"
#include "agent/tool_format.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <stdlib.h>

#define SPACE_MAX 64

enum mode { MODE_FRESH, MODE_CONTENT, MODE_THINKING, MODE_REASONING, MODE_BLOCK };

struct reply_parser {
    const struct reasoning_format *reasoning;
    const struct tool_format *tools;
    const struct tool_list *list; // borrowed; NULL: any name
    int calls_max;                // 0: any number
    bool hides_reasoning;         // it is content

    enum mode mode;
    bool is_start;        // nothing was told, or only reasoning
    bool strips;          // of FRESH: newlines aren't content, reasoning has just ended
    bool was_cut;         // of FRESH: reasoning was, by a call: its closing tag may follow
    bool from_reasoning;  // of BLOCK
    size_t before;        // of BLOCK: bytes in front of the opening that are held
    size_t opening;       // of BLOCK: bytes
    void *state;          // of BLOCK: the reader's
    bool tells_reasoning; // of BLOCK: its last piece was
    int calls;            // begun, beyond calls_max too

    struct buf held; // rule 1
    size_t at;
    const char *tags[TOOL_FORMAT_OPENS_MAX + 2]; // that end reasoning: closing, then opens
};

/* Of one call of feed or finish. */
struct step {
    struct reply_parser *p;
    const struct reply_sink *sink;
    struct str text; // from p->at on
    bool is_last;
};

struct reply_parser *reply_parser_create(const struct reply_options *o)
{
    struct reply_parser *p = xcalloc(1, sizeof *p);
    buf_init(&p->held, BUF_MAX_INTERNAL);
    p->reasoning = o->reasoning;
    p->tools = o->tools;
    static const struct tool_list no_tools = {0};
    const struct tool_list *list = o->list;
    if (o->reasoning && o->reasoning->whole) {
        if (!p->tools) list = &no_tools;
        p->tools = o->reasoning->whole;
        p->reasoning = NULL;
    }
    p->hides_reasoning = !o->reasoning;
    p->list = list;
    if (list) p->calls_max = list->calls_max;
    if (p->tools) p->state = xcalloc(1, p->tools->state_size);
    size_t count = 0;
    if (p->reasoning) p->tags[count++] = p->reasoning->close;
    for (size_t i = 0; p->tools && p->tools->opens[i]; i++)
        p->tags[count++] = p->tools->opens[i];
    p->mode = p->reasoning && o->starts_in_reasoning ? MODE_THINKING : MODE_FRESH;
    p->is_start = true;
    return p;
}

void reply_parser_destroy(struct reply_parser *p)
{
    if (!p) return;
    buf_deinit(&p->held);
    free(p->state);
    free(p);
}

static void put(struct step *s, enum reply_piece_kind kind, size_t len)
{
    struct reply_parser *p = s->p;
    if (len > 0) {
        if (kind == REPLY_CONTENT) p->is_start = false;
        struct reply_piece piece = {.kind = kind, .text = {s->text.data, len}};
        s->sink->take(s->sink->arg, &piece);
    }
    p->at += len;
}

static void drop(struct step *s, size_t len)
{
    s->p->at += len;
}

static size_t count_leading(struct str text, const char *bytes)
{
    size_t count = 0;
    while (count < text.len && text.data[count] && strchr(bytes, text.data[count]))
        count++;
    return count;
}

static const char *const *opens_of(const struct reply_parser *p)
{
    static const char *const none[] = {NULL};
    return p->tools ? p->tools->opens : none;
}

static void begin_block(struct step *s, size_t before, size_t opening)
{
    struct reply_parser *p = s->p;
    p->from_reasoning = p->mode == MODE_REASONING;
    p->mode = MODE_BLOCK;
    p->tells_reasoning = false;
    p->before = before;
    p->opening = opening;
    memset(p->state, 0, p->tools->state_size);
}

/* What a fresh answer goes on with behind white space. BEGUN: that isn't known yet. */
static enum reply_tag begin_by_tag(struct step *s, size_t space)
{
    struct reply_parser *p = s->p;
    struct str rest = str_from(s->text, space);
    enum reply_tag found = REPLY_TAG_NONE, tag;
    int which = 0;
    if (p->reasoning) {
        found = reply_tag_at(rest, p->reasoning->open);
        if (found == REPLY_TAG_WHOLE) {
            drop(s, space + strlen(p->reasoning->open));
            p->mode = MODE_THINKING;
            return found;
        }
        tag = p->was_cut ? reply_tag_at(rest, p->reasoning->close) : REPLY_TAG_NONE;
        if (tag == REPLY_TAG_WHOLE) {
            drop(s, space + strlen(p->reasoning->close));
            p->was_cut = false;
            p->strips = true;
            return tag;
        }
        if (tag > found) found = tag;
    }
    tag = reply_tag_at_any(rest, opens_of(p), &which);
    if (tag == REPLY_TAG_WHOLE) begin_block(s, space, strlen(p->tools->opens[which]));
    if (tag > found) found = tag;
    return found;
}

/* False: wait. */
static bool step_fresh(struct step *s)
{
    struct reply_parser *p = s->p;
    if (p->strips) {
        size_t newlines = count_leading(s->text, "\n");
        drop(s, newlines);
        s->text = str_from(s->text, newlines);
        if (s->text.len == 0) return false;
        p->strips = false;
    }
    size_t space = count_leading(s->text, " \t\r\n");
    bool looks = (p->reasoning || p->tools) && space <= SPACE_MAX;
    if (looks && space == s->text.len) {
        if (!s->is_last) return false;
        if (p->calls > 0) drop(s, space); // rule 3
        p->mode = MODE_CONTENT;
        return p->calls == 0;
    }
    if (looks) {
        enum reply_tag found = begin_by_tag(s, space);
        if (found == REPLY_TAG_WHOLE) return true;
        if (found == REPLY_TAG_BEGUN && !s->is_last) return false;
        if (p->tools && p->is_start && p->tools->opens_at_start &&
            s->text.data[space] == p->tools->opens_at_start) {
            begin_block(s, space, 1);
            return true;
        }
    }
    p->mode = MODE_CONTENT;
    return true;
}

static bool step_content(struct step *s)
{
    enum reply_tag found;
    int which = 0;
    size_t at = reply_tag_find(s->text, opens_of(s->p), &found, &which);
    if (s->is_last && found == REPLY_TAG_BEGUN) at = s->text.len;
    put(s, REPLY_CONTENT, at);
    if (found != REPLY_TAG_WHOLE) return false;
    begin_block(s, 0, strlen(s->p->tools->opens[which]));
    return true;
}

/* The model may write the opening tag though the prompt has; then one newline is the tag's. */
static bool step_thinking(struct step *s)
{
    struct reply_parser *p = s->p;
    size_t space = count_leading(s->text, " \t\r\n");
    if (space <= SPACE_MAX) {
        struct str rest = str_from(s->text, space);
        enum reply_tag found = reply_tag_at(rest, p->reasoning->open);
        if (found == REPLY_TAG_BEGUN && !s->is_last) return false;
        if (found == REPLY_TAG_WHOLE) {
            drop(s, space + strlen(p->reasoning->open));
            return true;
        }
    }
    if (s->text.len > 0 && s->text.data[0] == '\n') drop(s, 1);
    p->mode = MODE_REASONING;
    return true;
}

static bool step_reasoning(struct step *s)
{
    struct reply_parser *p = s->p;
    enum reply_tag found;
    int which = 0;
    size_t at = reply_tag_find(s->text, p->tags, &found, &which);
    if (s->is_last && found != REPLY_TAG_WHOLE) {
        put(s, REPLY_REASONING, s->text.len);
        return false;
    }
    size_t newline = at > 0 && s->text.data[at - 1] == '\n';
    put(s, REPLY_REASONING, at - newline);
    if (found != REPLY_TAG_WHOLE) return false;
    if (which > 0) {
        begin_block(s, newline, strlen(p->tags[which]));
        return true;
    }
    drop(s, newline + strlen(p->reasoning->close));
    p->mode = MODE_FRESH;
    p->strips = true;
    p->was_cut = false;
    return true;
}

/* The reader's pieces, as the options want them. */
static void take_piece(void *arg, const struct reply_piece *piece)
{
    struct step *s = arg;
    struct reply_parser *p = s->p;
    p->tells_reasoning = piece->kind == REPLY_REASONING;
    bool is_call = piece->kind == REPLY_CALL || piece->kind == REPLY_ARGUMENTS;
    if (is_call && p->calls_max > 0 && piece->call >= p->calls_max) return;
    struct reply_piece told = *piece;
    if (!is_call) told.call = 0;
    if (told.kind == REPLY_REASONING && p->hides_reasoning) told.kind = REPLY_CONTENT;
    s->sink->take(s->sink->arg, &told);
}

static void end_block(struct step *s, bool is_none)
{
    struct reply_parser *p = s->p;
    if (is_none) {
        p->mode = p->from_reasoning ? MODE_REASONING : MODE_CONTENT;
        put(s, p->from_reasoning ? REPLY_REASONING : REPLY_CONTENT, p->before + p->opening);
        return;
    }
    p->mode = MODE_FRESH;
}

static bool step_block(struct step *s)
{
    struct reply_parser *p = s->p;
    struct reply_sink sink = {take_piece, s};
    struct tool_input in = {str_from(s->text, p->before), s->is_last, p->list};
    struct tool_output out = {.sink = &sink, .calls = p->calls};
    size_t consumed = p->tools->read(p->state, &in, &out);
    CHECK(consumed <= in.text.len);
    p->calls = out.calls;
    if (consumed > 0) { // rule 4
        drop(s, p->before + consumed);
        p->before = 0;
        p->is_start = p->strips = false;
        p->was_cut = p->from_reasoning;
    } else if (s->is_last && !out.is_over)
        out.is_none = true;
    if (out.is_none || out.is_over) end_block(s, out.is_none && consumed == 0);
    return out.is_none || out.is_over;
}

static bool step(struct step *s)
{
    struct reply_parser *p = s->p;
    s->text = str_from(buf_str(&p->held), p->at);
    /* A character that is cut waits for its rest. */
    if (!s->is_last) s->text.len -= utf8_incomplete_tail(s->text.data, s->text.len);
    if (s->text.len == 0) return false;
    switch (p->mode) {
    case MODE_FRESH:
        return step_fresh(s);
    case MODE_CONTENT:
        return step_content(s);
    case MODE_THINKING:
        return step_thinking(s);
    case MODE_REASONING:
        return step_reasoning(s);
    case MODE_BLOCK:
        return step_block(s);
    }
    UNREACHABLE();
}

static void advance(struct reply_parser *p, bool is_last, const struct reply_sink *sink)
{
    struct step s = {.p = p, .sink = sink, .is_last = is_last};
    while (step(&s))
        continue;
    buf_consume(&p->held, p->at);
    p->at = 0;
}

void reply_parser_feed(struct reply_parser *p, struct str text, const struct reply_sink *sink)
{
    buf_append(&p->held, text.data, text.len);
    advance(p, false, sink);
}

void reply_parser_finish(struct reply_parser *p, const struct reply_sink *sink)
{
    advance(p, true, sink);
}

size_t reply_parser_held(const struct reply_parser *p)
{
    return p->held.len;
}

bool reply_parser_in_reasoning(const struct reply_parser *p)
{
    return p->mode == MODE_THINKING || p->mode == MODE_REASONING ||
           (p->mode == MODE_BLOCK && (p->from_reasoning || p->tells_reasoning));
}

int reply_parser_calls(const struct reply_parser *p)
{
    return p->calls_max > 0 && p->calls > p->calls_max ? p->calls_max : p->calls;
}
