#include "engine/pretokenizer.h"

#include "engine/pattern.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>

#define STAGES_MAX 16

enum stage_kind { STAGE_PATTERN, STAGE_MARK, STAGE_SPACE };

struct stage {
    enum stage_kind kind;
    enum split_behavior behavior;
    bool invert;
    struct pattern *pattern; // NULL: code
    pcre2_code *code;
    enum space_scheme scheme;
    struct str mark; // owned
};

struct pretokenizer {
    struct stage stages[STAGES_MAX];
    int count;
};

#define PATTERN_DIGIT "\\p{N}"

#define PATTERN_GPT2 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

#define PATTERN_CL100K(digits)                                           \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const char pretokenizer_gpt2_pattern[] = PATTERN_GPT2;

static const char *const gpt2_patterns[] = {PATTERN_GPT2, NULL};
static const char *const starcoder_patterns[] = {PATTERN_DIGIT, PATTERN_GPT2, NULL};
static const char *const llama3_patterns[] = {PATTERN_CL100K("\\p{N}{1,3}"), NULL};
static const char *const qwen2_patterns[] = {PATTERN_CL100K("\\p{N}"), NULL};

/* One row a name; names that share patterns are one group in the converters that write these files.
 */
static const struct pretokenizer_preset presets[] = {
    {"gpt-2", gpt2_patterns, false, false},
    {"phi-2", gpt2_patterns, false, false},
    {"mpt", gpt2_patterns, false, false},
    {"olmo", gpt2_patterns, false, false},
    {"jais", gpt2_patterns, false, false},
    {"smollm", starcoder_patterns, false, false},
    {"starcoder", starcoder_patterns, false, false},
    {"refact", starcoder_patterns, false, false},
    {"command-r", starcoder_patterns, false, false},
    {"codeshell", starcoder_patterns, false, false},
    {"exaone", starcoder_patterns, false, false},
    {"minerva-7b", starcoder_patterns, false, false},
    {"llama-bpe", llama3_patterns, true, true},
    {"llama3", llama3_patterns, true, true},
    {"llama-v3", llama3_patterns, true, true},
    {"falcon3", llama3_patterns, true, true},
    {"qwen2", qwen2_patterns, false, false},
    {"deepseek-r1-qwen", qwen2_patterns, false, false},
    {"megrez", qwen2_patterns, false, false},
    {"stablelm2", qwen2_patterns, false, false},
};

const struct pretokenizer_preset *pretokenizer_preset_find(struct str name)
{
    for (size_t i = 0; i < ARRAY_LEN(presets); i++)
        if (str_equal(name, str_of(presets[i].name))) return &presets[i];
    return NULL;
}

/* ---- stages ---- */

struct pretokenizer *pretokenizer_create(void)
{
    return xcalloc(1, sizeof(struct pretokenizer));
}

static struct stage *add_stage(struct pretokenizer *p, enum stage_kind kind, struct error *err)
{
    if (p->count == STAGES_MAX) {
        (void)error_set(err, E_LIMIT, "more than %d pre-tokenizer stages", STAGES_MAX);
        return NULL;
    }
    p->stages[p->count].kind = kind;
    return &p->stages[p->count++];
}

static int compile(struct str pattern, pcre2_code **out, struct error *err)
{
    int code = 0;
    PCRE2_SIZE offset = 0;
    *out = pcre2_compile((PCRE2_SPTR)pattern.data, pattern.len, PCRE2_UTF | PCRE2_UCP, &code,
                         &offset, NULL);
    if (!*out) {
        PCRE2_UCHAR text[128] = "";
        pcre2_get_error_message(code, text, sizeof text);
        return error_set(err, E_FORMAT, "pre-tokenizer pattern '%.*s': %s at %zu",
                         (int)(pattern.len < 100 ? pattern.len : 100), pattern.data,
                         (const char *)text, (size_t)offset);
    }
    /* Without a JIT (another machine, hardened kernels) matching is slower and equal. */
    (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return 0;
}

int pretokenizer_add_pattern(struct pretokenizer *p, struct str pattern,
                             enum split_behavior behavior, bool invert, struct error *err)
{
    struct stage *stage = add_stage(p, STAGE_PATTERN, err);
    if (!stage) return E_LIMIT;
    stage->behavior = behavior;
    stage->invert = invert;
    if (pattern_create(pattern, &stage->pattern, NULL) == 0) return 0;
    return compile(pattern, &stage->code, err);
}

int pretokenizer_add_literal(struct pretokenizer *p, struct str literal,
                             enum split_behavior behavior, bool invert, struct error *err)
{
    struct buf quoted;
    buf_init(&quoted, BUF_MAX_INTERNAL);
    for (size_t i = 0; i < literal.len; i++) {
        char c = literal.data[i];
        bool special = strchr("\\^$.|?*+()[]{}-# ", c) != NULL && c;
        if (special) buf_append_char(&quoted, '\\');
        buf_append_char(&quoted, c);
    }
    int rc = pretokenizer_add_pattern(p, buf_str(&quoted), behavior, invert, err);
    buf_deinit(&quoted);
    return rc;
}

int pretokenizer_add_mark(struct pretokenizer *p, struct str mark, enum space_scheme scheme,
                          struct error *err)
{
    struct stage *stage = add_stage(p, STAGE_MARK, err);
    if (!stage) return E_LIMIT;
    stage->scheme = scheme;
    stage->mark = (struct str){xstrndup(mark.data, mark.len), mark.len};
    return 0;
}

int pretokenizer_add_space(struct pretokenizer *p, struct error *err)
{
    return add_stage(p, STAGE_SPACE, err) ? 0 : E_LIMIT;
}

void pretokenizer_destroy(struct pretokenizer *p)
{
    if (!p) return;
    for (int i = 0; i < p->count; i++) {
        pattern_destroy(p->stages[i].pattern);
        pcre2_code_free(p->stages[i].code);
        free((char *)p->stages[i].mark.data);
    }
    free(p);
}

/* ---- splitting ---- */

struct split {
    const struct pretokenizer *p;
    pcre2_match_data *match[STAGES_MAX];
    pcre2_match_context *limits;    // NULL until a stage needs PCRE2
    struct buf changed[STAGES_MAX]; // what a stage made of its text
    bool at_start;
    int (*on_piece)(void *arg, struct str piece);
    void *arg;
    struct error *err;
};

static int split_stage(struct split *s, int index, struct str text);

/* 1: a match that isn't empty; 0: none. */
static int find_match(struct split *s, int index, struct str text, size_t at, size_t *begin,
                      size_t *end)
{
    const struct stage *stage = &s->p->stages[index];
    if (stage->pattern) return pattern_find(stage->pattern, text, at, begin, end);
    if (!s->match[index]) s->match[index] = pcre2_match_data_create(1, NULL);
    if (!s->limits) {
        s->limits = pcre2_match_context_create(NULL);
        pcre2_set_match_limit(s->limits, UINT32_MAX); // a long run is no reason to refuse a text
        pcre2_set_depth_limit(s->limits, UINT32_MAX);
        pcre2_set_heap_limit(s->limits, UINT32_MAX);
    }
    while (at < text.len) {
        int rc = pcre2_match(stage->code, (PCRE2_SPTR)text.data, text.len, at, PCRE2_NO_UTF_CHECK,
                             s->match[index], s->limits);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT) // a long match: the interpreter has the heap
            rc = pcre2_match(stage->code, (PCRE2_SPTR)text.data, text.len, at,
                             PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match[index], s->limits);
        if (rc == PCRE2_ERROR_NOMATCH) return 0;
        if (rc < 0) return error_set(s->err, E_LIMIT, "pre-tokenizer: matching failed (%d)", rc);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(s->match[index]);
        *begin = span[0], *end = span[1];
        if (*end > *begin) return 1;
        at = *end + 1; // empty: step over one character, which stays in the gap
        while (at < text.len && ((unsigned char)text.data[at] & 0xc0) == 0x80)
            at++;
    }
    return 0;
}

static int isolate(struct split *s, int index, struct str text)
{
    size_t at = 0, begin, end;
    int rc;
    while ((rc = find_match(s, index, text, at, &begin, &end)) > 0) {
        if (begin > at) rc = split_stage(s, index + 1, (struct str){text.data + at, begin - at});
        if (rc >= 0) rc = split_stage(s, index + 1, (struct str){text.data + begin, end - begin});
        if (rc) return rc;
        at = end;
    }
    return rc || at == text.len
               ? rc
               : split_stage(s, index + 1, (struct str){text.data + at, text.len - at});
}

/* The other behaviours see matches and gaps alike, one after the other, and hold one piece back. */
struct joining {
    struct split *s;
    int index;
    struct str held;
    bool held_match; // and the other one, of the last span, whether it was a match
    bool previous_match;
};

static int flush_held(struct joining *j)
{
    struct str piece = j->held;
    j->held.len = 0;
    return piece.len ? split_stage(j->s, j->index + 1, piece) : 0;
}

static int join_span(struct joining *j, struct str span, bool match)
{
    const struct stage *stage = &j->s->p->stages[j->index];
    bool joins = false;
    int rc = 0;
    if (!span.len) return 0;
    if (stage->invert) match = !match;
    switch (stage->behavior) {
    case SPLIT_ISOLATED:
        break;
    case SPLIT_REMOVED:
        break;
    case SPLIT_MERGED_WITH_PREVIOUS:
        joins = match && !j->previous_match;
        break;
    case SPLIT_MERGED_WITH_NEXT:
        joins = !match && j->previous_match;
        break;
    case SPLIT_CONTIGUOUS:
        joins = match == j->previous_match;
        break;
    }
    if (joins && j->held.len) {
        j->held.len += span.len;
    } else {
        rc = flush_held(j);
        j->held = stage->behavior == SPLIT_REMOVED && match ? (struct str){"", 0} : span;
    }
    j->previous_match = match;
    return rc;
}

static int join(struct split *s, int index, struct str text)
{
    struct joining j = {.s = s, .index = index};
    size_t at = 0, begin, end;
    int rc;
    while ((rc = find_match(s, index, text, at, &begin, &end)) > 0) {
        rc = join_span(&j, (struct str){text.data + at, begin - at}, false);
        if (!rc) rc = join_span(&j, (struct str){text.data + begin, end - begin}, true);
        if (rc) return rc;
        at = end;
    }
    if (!rc) rc = join_span(&j, (struct str){text.data + at, text.len - at}, false);
    return rc ? rc : flush_held(&j);
}

static int mark_spaces(struct split *s, int index, struct str text)
{
    const struct stage *stage = &s->p->stages[index];
    struct buf *out = &s->changed[index];
    struct str mark = stage->kind == STAGE_SPACE ? STR(" ") : stage->mark;
    bool wanted = stage->scheme == SPACE_ALWAYS || (stage->scheme == SPACE_FIRST && s->at_start);
    if (stage->kind == STAGE_SPACE) wanted = true;
    buf_clear(out);
    if (wanted && *text.data != ' ' && !str_starts_with(text, mark))
        buf_append(out, mark.data, mark.len);
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] == ' ')
            buf_append(out, mark.data, mark.len);
        else
            buf_append_char(out, text.data[i]);
    }
    return split_stage(s, index + 1, buf_str(out));
}

static int split_stage(struct split *s, int index, struct str text)
{
    if (index == s->p->count) return s->on_piece(s->arg, text);
    const struct stage *stage = &s->p->stages[index];
    if (stage->kind != STAGE_PATTERN) {
        int rc = mark_spaces(s, index, text);
        s->at_start = false;
        return rc;
    }
    bool isolated = stage->behavior == SPLIT_ISOLATED;
    return isolated ? isolate(s, index, text) : join(s, index, text);
}

int pretokenizer_split(const struct pretokenizer *p, struct str text, bool at_start,
                       int (*on_piece)(void *arg, struct str piece), void *arg, struct error *err)
{
    struct split s = {.p = p, .at_start = at_start, .on_piece = on_piece, .arg = arg, .err = err};
    if (!text.len) return 0;
    for (int i = 0; i < p->count; i++)
        buf_init(&s.changed[i], BUF_MAX_INTERNAL);
    int rc = split_stage(&s, 0, text);
    pcre2_match_context_free(s.limits);
    for (int i = 0; i < p->count; i++) {
        buf_deinit(&s.changed[i]);
        pcre2_match_data_free(s.match[i]);
    }
    return rc;
}
