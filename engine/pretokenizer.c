#include "engine/pretokenizer.h"

#include "shared/base/check.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>

#define STAGES_MAX 16

struct pretokenizer {
    pcre2_code *stages[STAGES_MAX];
    int count;
};

/* The reference's \s is the White_Space property; PCRE2's \s adds U+180E under UCP, hence \p{...}.
 */
#define SPACE         "\\p{White_Space}"
#define NOT_SPACE     "\\P{White_Space}"

#define PATTERN_DIGIT "\\p{N}"

#define PATTERN_GPT2                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+|" SPACE \
    "+(?!" NOT_SPACE ")|" SPACE "+"

#define PATTERN_CL100K(digits)                                                         \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" SPACE \
    "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" SPACE "+(?!" NOT_SPACE ")|" SPACE "+"

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

int pretokenizer_create(const char *const *patterns, struct pretokenizer **out, struct error *err)
{
    struct pretokenizer *p = xcalloc(1, sizeof *p);
    for (; *patterns; patterns++) {
        int code = 0;
        PCRE2_SIZE offset = 0;
        if (p->count == STAGES_MAX) {
            pretokenizer_destroy(p);
            return error_set(err, E_LIMIT, "more than %d pre-tokenizer patterns", STAGES_MAX);
        }
        pcre2_code *stage = pcre2_compile((PCRE2_SPTR)*patterns, PCRE2_ZERO_TERMINATED,
                                          PCRE2_UTF | PCRE2_UCP, &code, &offset, NULL);
        if (!stage) {
            PCRE2_UCHAR text[128] = "";
            pcre2_get_error_message(code, text, sizeof text);
            pretokenizer_destroy(p);
            return error_set(err, E_FORMAT, "pre-tokenizer pattern '%.100s': %s at %zu", *patterns,
                             (const char *)text, (size_t)offset);
        }
        /* Without a JIT (another machine, hardened kernels) matching is slower and equal. */
        (void)pcre2_jit_compile(stage, PCRE2_JIT_COMPLETE);
        p->stages[p->count++] = stage;
    }
    *out = p;
    return 0;
}

void pretokenizer_destroy(struct pretokenizer *p)
{
    if (!p) return;
    for (int i = 0; i < p->count; i++)
        pcre2_code_free(p->stages[i]);
    free(p);
}

struct split {
    const struct pretokenizer *p;
    pcre2_match_data *match[STAGES_MAX];
    int (*on_piece)(void *arg, struct str piece);
    void *arg;
    struct error *err;
};

static int split_piece(struct split *s, int stage, struct str text)
{
    if (!text.len) return 0;
    if (stage == s->p->count) return s->on_piece(s->arg, text);
    size_t at = 0, gap = 0; // gap: end of the last match
    while (at < text.len) {
        int rc = pcre2_match(s->p->stages[stage], (PCRE2_SPTR)text.data, text.len, at,
                             PCRE2_NO_UTF_CHECK, s->match[stage], NULL);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) return error_set(s->err, E_LIMIT, "pre-tokenizer: matching failed (%d)", rc);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(s->match[stage]);
        size_t begin = span[0], end = span[1];
        if (end <= begin) { // empty: step over one character, which stays in the gap
            at = end + 1;
            while (at < text.len && ((unsigned char)text.data[at] & 0xc0) == 0x80)
                at++;
            continue;
        }
        rc = split_piece(s, stage + 1, (struct str){text.data + gap, begin - gap});
        if (!rc) rc = split_piece(s, stage + 1, (struct str){text.data + begin, end - begin});
        if (rc) return rc;
        at = gap = end;
    }
    return split_piece(s, stage + 1, (struct str){text.data + gap, text.len - gap});
}

int pretokenizer_split(const struct pretokenizer *p, struct str text,
                       int (*on_piece)(void *arg, struct str piece), void *arg, struct error *err)
{
    struct split s = {.p = p, .on_piece = on_piece, .arg = arg, .err = err};
    for (int i = 0; i < p->count; i++)
        s.match[i] = pcre2_match_data_create(1, NULL);
    int rc = split_piece(&s, 0, text);
    for (int i = 0; i < p->count; i++)
        pcre2_match_data_free(s.match[i]);
    return rc;
}
