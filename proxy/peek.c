/* peek.c - a loop, not a recursion: nesting costs a bit and a byte a level.
 *
 *     value ──scalar──────────────► after ──','──► value (in an object: name ':' first)
 *       │ '{' or '[' (one level down)   │ '}' or ']' (one level up): after again
 *       └──► value, or after if empty   └ at level 0: only blanks may follow
 *
 * Every open level has a place, which says what its values are to us:
 *
 *     TOP ─ messages ─► LIST ─► MESSAGE ─ content ─► PARTS ─► PART     text, to the canonical stream
 *      │ prompt, input ─► LIST (texts, token ids)      │ images, calls of tools
 *      └ tools, options ─► SIDE ◄──────────────────────┘               whole values, to a digest
 *
 * Only members of the outermost object are options: a "model" inside "metadata" is not the model.
 * A name that is spelled with escapes ("\u006dodel") counts as what it spells, and a member that we
 * read may stand there once only, since the agent might take the other one. Types are the agent's to
 * refuse: a member of another type than ours is as if it weren't there. */
#include "proxy/peek.h"

#include <inttypes.h>
#include <stdio.h>

#include "proxy/peek_fields.h"
#include "proxy/peek_scan.h"

#define DEPTH_MAX 64

struct scan {
    struct peek_scan lex;
    uint64_t objects; // bit depth-1: that level is an object
    int depth;
    unsigned char place[DEPTH_MAX]; // enum peek_place of each open level
    enum peek_field field;          // of the value that comes next, if it is a member that we read
    uint64_t seen, message_seen;    // bit per enum peek_field
    enum peek_field conversation;   // which member holds it on this route

    enum peek_field side; // whose value goes to the digest; PEEK_FIELD_OTHER: none does
    int side_depth;       // of the level that it stands in
    int side_texts;       // strings directly in it: images given as a list
    struct text_digest digest;

    struct canonical canonical;
    int64_t n, best_of;
    struct arena *arena;
    struct peek *out;
};

enum step { STEP_FAILED = -1, STEP_DONE, STEP_VALUE, STEP_AFTER };

static enum step fail(struct scan *s, const char *what)
{
    return (enum step)peek_scan_fail(&s->lex, what);
}

static enum peek_place place_of(const struct scan *s)
{
    return s->depth > 0 ? (enum peek_place)s->place[s->depth - 1] : PEEK_PLACE_SKIP;
}

/* ---- values that are hashed whole ---- */

/* Bytes that no text of ours holds keep the pieces apart. */
static void side_put(struct scan *s, struct str text, char kind)
{
    text_digest_write(&s->digest, &kind, 1);
    text_digest_write(&s->digest, text.data, text.len);
    text_digest_write(&s->digest, "", 1);
}

/* 1, 1.0 and 1e0 are the same; fractions count as they are written. */
static void side_put_number(struct scan *s, struct str raw)
{
    int64_t value;
    char text[24];
    if (peek_number_is_integer(raw, &value)) {
        snprintf(text, sizeof text, "%" PRId64, value);
        raw = str_of(text);
    }
    side_put(s, raw, 'n');
}

static void side_begin(struct scan *s, enum peek_field field)
{
    s->side = field;
    s->side_depth = s->depth;
    s->side_texts = 0;
    text_digest_init(&s->digest);
}

static void side_end(struct scan *s)
{
    enum peek_field field = s->side;
    uint64_t digest = text_digest_value(&s->digest), bytes = s->digest.bytes;
    s->side = PEEK_FIELD_OTHER;
    if (peek_field_is_media(field)) {
        canonical_write_digest(&s->canonical, digest);
        s->out->images += field != PEEK_FIELD_OTHER_MEDIA;
    } else if (peek_field_is_option(field)) {
        if (bytes == 2) return; // nothing between the brackets: as if it weren't there
        if (field == PEEK_FIELD_IMAGE_URLS) s->out->images += s->side_texts;
        canonical_add_option(&s->canonical, field, digest, peek_field_is_read(field) ? bytes : 0);
    } else {
        canonical_add_member(&s->canonical, field, digest, bytes);
    }
}

/* True: this value goes to the digest, which it may just have begun. */
static bool to_side(struct scan *s, enum peek_place place, enum peek_field field)
{
    if (s->side != PEEK_FIELD_OTHER) return true;
    if (place == PEEK_PLACE_TOP       ? !peek_field_is_option(field)
        : place == PEEK_PLACE_MESSAGE ? !peek_field_is_member(field)
                                      : place != PEEK_PLACE_PART || !peek_field_is_media(field)) {
        return false;
    }
    side_begin(s, field);
    return true;
}

static void side_scalar_ended(struct scan *s)
{
    if (s->depth == s->side_depth) side_end(s);
}

/* ---- names ---- */

static enum step scan_name(struct scan *s)
{
    struct str name;
    bool escaped;
    enum peek_place place = place_of(s);
    peek_skip_blanks(&s->lex);
    if (peek_next_char(&s->lex) != '"') return fail(s, "expected a member name in quotes");
    if (peek_scan_string(&s->lex, &name, &escaped) < 0) return STEP_FAILED;
    char text[PEEK_NAME_BYTES * 6]; // if every character is an escape
    if (escaped && name.len <= sizeof text) name = (struct str){text, peek_decode(name, text)};
    s->field = PEEK_FIELD_OTHER;
    if (place == PEEK_PLACE_SIDE) {
        side_put(s, name, 'k'); // one that is longer than any of ours stays as it is spelled
    } else if (place != PEEK_PLACE_SKIP) {
        s->field = peek_field_find(place, name);
        uint64_t bit = (uint64_t)1 << s->field, *seen = NULL;
        if (place == PEEK_PLACE_TOP) seen = &s->seen;
        if (place == PEEK_PLACE_MESSAGE) seen = &s->message_seen;
        if (seen && s->field != PEEK_FIELD_OTHER) {
            if (*seen & bit) return fail(s, "a member stands there twice");
            *seen |= bit;
        }
    }
    peek_skip_blanks(&s->lex);
    if (peek_next_char(&s->lex) != ':') return fail(s, "expected ':'");
    s->lex.at++;
    return STEP_VALUE;
}

static enum step refuse_model(struct scan *s, const char *got)
{
    return (enum step)api_error_set(s->lex.error, 400, "invalid_type", "model",
                                    "Invalid type for 'model': expected a string, but got %s "
                                    "instead.",
                                    got);
}

/* ---- strings ---- */

static struct str decoded(struct scan *s, struct str raw, bool escaped)
{
    if (!escaped) return raw;
    char *text = arena_alloc(s->arena, raw.len + 1);
    return (struct str){text, peek_decode(raw, text)};
}

/* Where a member's text is kept; NULL: it isn't one that we keep. */
static struct str *text_slot(struct scan *s, enum peek_place place, enum peek_field field)
{
    struct peek *out = s->out;
    if (place == PEEK_PLACE_CONVERSATION) {
        return field == PEEK_FIELD_ID ? &out->conversation : NULL;
    }
    if (place != PEEK_PLACE_TOP) return NULL;
    switch (field) {
    case PEEK_FIELD_MODEL:
        return &out->model;
    case PEEK_FIELD_SESSION_ID:
        return &out->session_text;
    case PEEK_FIELD_CONVERSATION:
        return &out->conversation;
    case PEEK_FIELD_PREVIOUS_RESPONSE_ID:
        return &out->previous_response_id;
    case PEEK_FIELD_PROMPT_CACHE_KEY:
        return &out->prompt_cache_key;
    case PEEK_FIELD_USER:
        return &out->user;
    default:
        return NULL;
    }
}

/* Is a string here text of the conversation? */
static bool is_text(const struct scan *s, enum peek_place place, enum peek_field field)
{
    switch (place) {
    case PEEK_PLACE_TOP:
        return field == s->conversation;
    case PEEK_PLACE_LIST:
    case PEEK_PLACE_PARTS:
        return true;
    case PEEK_PLACE_MESSAGE:
        return field == PEEK_FIELD_CONTENT;
    case PEEK_PLACE_PART:
        return field == PEEK_FIELD_TEXT || field == PEEK_FIELD_CONTENT;
    default:
        return false;
    }
}

/* A prompt as one text, or one of several: those behind the first continue nothing. */
static void end_prompt(struct scan *s, enum peek_place place)
{
    canonical_end_message(&s->canonical);
    if (place == PEEK_PLACE_LIST) s->canonical.marks_wanted = false;
}

static enum step scan_side_text(struct scan *s)
{
    struct peek_sink sink = {NULL, &s->digest};
    text_digest_write(&s->digest, "s", 1);
    if (peek_scan_text(&s->lex, &sink) < 0) return STEP_FAILED;
    text_digest_write(&s->digest, "", 1);
    s->side_texts += s->depth <= s->side_depth + 1;
    side_scalar_ended(s);
    return STEP_AFTER;
}

static enum step scan_text(struct scan *s, enum peek_place place, enum peek_field field)
{
    struct str raw;
    bool escaped;
    if (to_side(s, place, field)) return scan_side_text(s);
    if (is_text(s, place, field)) {
        struct peek_sink sink = {&s->canonical, NULL};
        if (peek_scan_text(&s->lex, &sink) < 0) return STEP_FAILED;
        if (place == PEEK_PLACE_TOP || place == PEEK_PLACE_LIST) end_prompt(s, place);
        return STEP_AFTER;
    }
    if (peek_scan_string(&s->lex, &raw, &escaped) < 0) return STEP_FAILED;
    if (place == PEEK_PLACE_MESSAGE && field == PEEK_FIELD_ROLE) {
        struct str role = decoded(s, raw, escaped);
        canonical_add_role(&s->canonical, role);
        if (str_equal(role, STR("assistant"))) s->out->has_answer = true;
    }
    struct str *slot = text_slot(s, place, field);
    if (slot) *slot = decoded(s, raw, escaped);
    if (slot == &s->out->session_text) s->out->session_raw = raw;
    return STEP_AFTER;
}

/* ---- numbers, words ---- */

static void take_number(struct scan *s, enum peek_field field, struct str raw)
{
    int64_t value, *slot = NULL;
    struct peek *out = s->out;
    switch (field) {
    case PEEK_FIELD_N:
        slot = &s->n;
        break;
    case PEEK_FIELD_BEST_OF:
        slot = &s->best_of;
        break;
    case PEEK_FIELD_MAX_TOKENS:
    case PEEK_FIELD_MAX_COMPLETION_TOKENS:
    case PEEK_FIELD_REQUEST_OUTPUT_LEN:
    case PEEK_FIELD_MAX_OUTPUT_TOKENS:
        slot = &out->max_tokens;
        break;
    case PEEK_FIELD_SESSION_ID:
        out->session_raw = raw;
        slot = &out->session_id;
        break;
    case PEEK_FIELD_PRIORITY:
        slot = &out->priority;
        break;
    default:
        return;
    }
    if (!peek_number_is_integer(raw, &value)) return;
    *slot = value;
    if (field == PEEK_FIELD_SESSION_ID) out->has_session_id = true;
    if (field == PEEK_FIELD_PRIORITY) out->has_priority = true;
}

static enum step scan_number(struct scan *s, enum peek_place place, enum peek_field field)
{
    struct str raw;
    bool is_side = to_side(s, place, field);
    if (peek_scan_number(&s->lex, &raw) < 0) return STEP_FAILED;
    if (is_side) {
        side_put_number(s, raw);
        side_scalar_ended(s);
        return STEP_AFTER;
    }
    if (place == PEEK_PLACE_LIST || place == PEEK_PLACE_TOKENS) s->out->tokens_given++;
    if (place != PEEK_PLACE_TOP) return STEP_AFTER;
    if (field == PEEK_FIELD_MODEL) return refuse_model(s, "a number");
    take_number(s, field, raw);
    return STEP_AFTER;
}

static enum step scan_word(struct scan *s, enum peek_place place, enum peek_field field,
                           struct str word)
{
    bool is_null = word.data[0] == 'n', is_true = word.data[0] == 't';
    if (peek_scan_word(&s->lex, word) < 0) return STEP_FAILED;
    if (place == PEEK_PLACE_TOP && field == PEEK_FIELD_SESSION_ID) {
        s->out->session_raw = (struct str){s->lex.at - word.len, word.len};
    }
    if (is_null && s->side == PEEK_FIELD_OTHER) return STEP_AFTER; // as if it weren't there
    if (to_side(s, place, field)) {
        side_put(s, word, 'w');
        side_scalar_ended(s);
        return STEP_AFTER;
    }
    if (place != PEEK_PLACE_TOP) return STEP_AFTER;
    if (field == PEEK_FIELD_MODEL) return refuse_model(s, "a boolean");
    if (field == PEEK_FIELD_STREAM) s->out->stream = is_true;
    if (field == PEEK_FIELD_INTERACTIVE_MODE) s->out->interactive_mode = is_true;
    if (field == PEEK_FIELD_CANCEL) s->out->cancel = is_true;
    return STEP_AFTER;
}

/* ---- levels ---- */

/* What the values inside are, of an object or array that is not the digest's. */
static enum peek_place inner_place(const struct scan *s, enum peek_place place,
                                   enum peek_field field, bool is_object)
{
    switch (place) {
    case PEEK_PLACE_TOP:
        if (field == s->conversation && !is_object) return PEEK_PLACE_LIST;
        return field == PEEK_FIELD_CONVERSATION && is_object ? PEEK_PLACE_CONVERSATION
                                                             : PEEK_PLACE_SKIP;
    case PEEK_PLACE_LIST:
        return is_object ? PEEK_PLACE_MESSAGE : PEEK_PLACE_TOKENS;
    case PEEK_PLACE_MESSAGE:
    case PEEK_PLACE_PART:
        return field == PEEK_FIELD_CONTENT && !is_object ? PEEK_PLACE_PARTS : PEEK_PLACE_SKIP;
    case PEEK_PLACE_PARTS:
        return is_object ? PEEK_PLACE_PART : PEEK_PLACE_SKIP;
    default:
        return PEEK_PLACE_SKIP;
    }
}

static enum step open_level(struct scan *s, enum peek_place place, enum peek_field field,
                            bool is_object)
{
    if (s->depth == DEPTH_MAX) return fail(s, "nesting of more than 64 levels");
    enum peek_place inner = s->depth == 0 ? PEEK_PLACE_TOP : PEEK_PLACE_SIDE;
    if (s->depth > 0 && !to_side(s, place, field)) {
        inner = inner_place(s, place, field, is_object);
    }
    if (inner == PEEK_PLACE_SIDE) text_digest_write(&s->digest, is_object ? "{" : "[", 1);
    if (inner == PEEK_PLACE_MESSAGE) s->message_seen = 0;
    uint64_t bit = (uint64_t)1 << s->depth;
    s->objects = is_object ? s->objects | bit : s->objects & ~bit;
    s->place[s->depth++] = (unsigned char)inner;
    s->lex.at++;
    peek_skip_blanks(&s->lex);
    if (peek_next_char(&s->lex) == (is_object ? '}' : ']')) {
        return STEP_AFTER; // which closes the level
    }
    return is_object ? scan_name(s) : STEP_VALUE;
}

static void close_level(struct scan *s, bool is_object)
{
    enum peek_place place = place_of(s);
    s->depth--;
    if (place == PEEK_PLACE_MESSAGE) canonical_end_message(&s->canonical);
    if (place == PEEK_PLACE_SIDE) {
        text_digest_write(&s->digest, is_object ? "}" : "]", 1);
        side_scalar_ended(s);
    }
}

/* ---- the loop ---- */

static enum step scan_value(struct scan *s)
{
    enum peek_field field = s->field;
    enum peek_place place = place_of(s);
    s->field = PEEK_FIELD_OTHER;
    peek_skip_blanks(&s->lex);
    int c = peek_next_char(&s->lex);
    switch (c) {
    case '"':
        return scan_text(s, place, field);
    case '{':
    case '[':
        if (field == PEEK_FIELD_MODEL) {
            return refuse_model(s, c == '{' ? "an object" : "an array");
        }
        if (place == PEEK_PLACE_TOP && field == PEEK_FIELD_SESSION_ID) {
            s->out->session_raw = (struct str){s->lex.at, 1}; // there is one, if not of a good type
        }
        return open_level(s, place, field, c == '{');
    case 't':
        return scan_word(s, place, field, STR("true"));
    case 'f':
        return scan_word(s, place, field, STR("false"));
    case 'n':
        return scan_word(s, place, field, STR("null"));
    default:
        if (c == '-' || (c >= '0' && c <= '9')) return scan_number(s, place, field);
        return fail(s, "expected a value");
    }
}

static enum step scan_after(struct scan *s)
{
    peek_skip_blanks(&s->lex);
    int c = peek_next_char(&s->lex);
    if (s->depth == 0) return c < 0 ? STEP_DONE : fail(s, "text behind the object");
    bool is_object = s->objects >> (s->depth - 1) & 1;
    if (c == ',') {
        s->lex.at++;
        return is_object ? scan_name(s) : STEP_VALUE;
    }
    if (c == (is_object ? '}' : ']')) {
        s->lex.at++;
        close_level(s, is_object);
        return STEP_AFTER;
    }
    return fail(s, is_object ? "expected ',' or '}'" : "expected ',' or ']'");
}

/* ---- the whole ---- */

enum peek_route peek_route_of(struct str path)
{
    if (str_equal(path, STR("/v1/chat/completions"))) return PEEK_CHAT;
    if (str_equal(path, STR("/v1/completions"))) return PEEK_COMPLETIONS;
    if (str_equal(path, STR("/v1/chat/interactive"))) return PEEK_INTERACTIVE;
    if (str_equal(path, STR("/v1/messages"))) return PEEK_MESSAGES;
    if (str_equal(path, STR("/v1/responses"))) return PEEK_RESPONSES;
    return PEEK_OTHER;
}

/* Member by member: the buffers inside need no zeros. */
static void scan_init(struct scan *s, struct arena *a, struct str body, enum peek_route route,
                      struct peek *out, struct api_error *error)
{
    static const enum peek_field conversations[] = {
        [PEEK_CHAT] = PEEK_FIELD_MESSAGES,      [PEEK_COMPLETIONS] = PEEK_FIELD_PROMPT,
        [PEEK_INTERACTIVE] = PEEK_FIELD_PROMPT, [PEEK_MESSAGES] = PEEK_FIELD_MESSAGES,
        [PEEK_RESPONSES] = PEEK_FIELD_INPUT,    [PEEK_OTHER] = PEEK_FIELD_INPUT,
    };
    s->lex = (struct peek_scan){body.data, body.data + body.len, body.data, error};
    s->objects = s->seen = s->message_seen = 0;
    s->depth = 0;
    s->field = s->side = PEEK_FIELD_OTHER;
    s->conversation = conversations[route];
    s->n = s->best_of = 1;
    s->arena = a;
    s->out = out;
    canonical_init(&s->canonical);
    if (route == PEEK_OTHER) s->canonical.marks_wanted = false;
}

static void finish(struct scan *s, const struct peek_options *options)
{
    struct peek *out = s->out;
    struct canonical_result result;
    canonical_finish(&s->canonical, out->model.data ? out->model : options->default_model,
                     options->tenant, s->arena, &result);
    out->bytes = result.bytes;
    out->fingerprint = result.fingerprint;
    out->marks = result.marks;
    out->mark_count = result.mark_count;
    out->choices = s->best_of > s->n ? s->best_of : s->n;
    if (out->choices < 1) out->choices = 1;
    if (out->max_tokens < 0) out->max_tokens = -1;
}

int peek_body(struct arena *a, struct str body, const struct peek_options *options,
              struct peek *out, struct api_error *error)
{
    *out = (struct peek){.choices = 1, .max_tokens = -1, .session_id = -1};
    if (!body.data) body = STR("");
    struct scan s;
    scan_init(&s, a, body, options->route, out, error);
    peek_skip_blanks(&s.lex);
    bool is_object = peek_next_char(&s.lex) == '{';
    enum step step = STEP_VALUE;
    while (step > STEP_DONE)
        step = step == STEP_VALUE ? scan_value(&s) : scan_after(&s);
    if (step == STEP_FAILED) return -1;
    if (!is_object) {
        return api_error_set(error, 400, "invalid_type", NULL,
                             "The request body must be a JSON object.");
    }
    if (!out->model.data && options->route != PEEK_INTERACTIVE) {
        return api_error_set(error, 400, NULL, NULL, "you must provide a model parameter");
    }
    finish(&s, options);
    return 0;
}
