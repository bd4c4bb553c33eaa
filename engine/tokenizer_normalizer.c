#include "engine/tokenizer_normalizer.h"

#include "engine/pattern.h"
#include "engine/spm_charsmap.h"
#include "engine/unicode.h"
#include "shared/base/check.h"

#include <stdlib.h>

#define STEPS_MAX 16

enum step_kind { STEP_NFC, STEP_PREPEND, STEP_REPLACE, STEP_REPLACE_PATTERN, STEP_SENTENCEPIECE };

struct step {
    enum step_kind kind;
    struct str from, to; // owned
    struct pattern *pattern;
    struct sentencepiece_rules rules; // charsmap owned
};

struct normalizer {
    struct step steps[STEPS_MAX];
    int count;
};

struct normalizer *normalizer_create(void)
{
    return xcalloc(1, sizeof(struct normalizer));
}

void normalizer_destroy(struct normalizer *n)
{
    if (!n) return;
    for (int i = 0; i < n->count; i++) {
        free((char *)n->steps[i].from.data);
        free((char *)n->steps[i].to.data);
        free((char *)n->steps[i].rules.charsmap.data);
        pattern_destroy(n->steps[i].pattern);
    }
    free(n);
}

static struct str copy(struct str s)
{
    char *data = xmalloc(s.len + 1);
    if (s.len) memcpy(data, s.data, s.len);
    data[s.len] = 0;
    return (struct str){data, s.len};
}

static struct step *add_step(struct normalizer *n, enum step_kind kind, struct error *err)
{
    if (n->count == STEPS_MAX) {
        (void)error_set(err, E_LIMIT, "more than %d normalizers", STEPS_MAX);
        return NULL;
    }
    n->steps[n->count].kind = kind;
    return &n->steps[n->count++];
}

int normalizer_add_nfc(struct normalizer *n, struct error *err)
{
    return add_step(n, STEP_NFC, err) ? 0 : E_LIMIT;
}

int normalizer_add_prepend(struct normalizer *n, struct str text, struct error *err)
{
    struct step *step = add_step(n, STEP_PREPEND, err);
    if (!step) return E_LIMIT;
    step->to = copy(text);
    return 0;
}

int normalizer_add_replace(struct normalizer *n, struct str from, struct str to, struct error *err)
{
    if (!from.len) return error_set(err, E_FORMAT, "a normalizer replaces nothing");
    struct step *step = add_step(n, STEP_REPLACE, err);
    if (!step) return E_LIMIT;
    step->from = copy(from);
    step->to = copy(to);
    return 0;
}

int normalizer_add_replace_pattern(struct normalizer *n, struct str pattern, struct str to,
                                   struct error *err)
{
    struct step *step = add_step(n, STEP_REPLACE_PATTERN, err);
    if (!step) return E_LIMIT;
    step->to = copy(to);
    return pattern_create(pattern, &step->pattern, err);
}

int normalizer_add_sentencepiece(struct normalizer *n, const struct sentencepiece_rules *rules,
                                 struct error *err)
{
    if (rules->charsmap.len) {
        int rc = spm_charsmap_check(rules->charsmap, err);
        if (rc) return rc;
    }
    struct step *step = add_step(n, STEP_SENTENCEPIECE, err);
    if (!step) return E_LIMIT;
    step->rules = *rules;
    step->rules.charsmap = copy(rules->charsmap);
    return 0;
}

/* ---- applying ---- */

static void replace(const struct step *step, struct str text, struct buf *out)
{
    while (text.len) {
        const char *found = memmem(text.data, text.len, step->from.data, step->from.len);
        size_t plain = found ? (size_t)(found - text.data) : text.len;
        buf_append(out, text.data, plain);
        if (found) {
            buf_append(out, step->to.data, step->to.len);
            plain += step->from.len;
        }
        text.data += plain;
        text.len -= plain;
    }
}

static void replace_pattern(const struct step *step, struct str text, struct buf *out)
{
    size_t at = 0, begin, end;
    while (pattern_find(step->pattern, text, at, &begin, &end)) {
        buf_append(out, text.data + at, begin - at);
        buf_append(out, step->to.data, step->to.len);
        at = end;
    }
    buf_append(out, text.data + at, text.len - at);
}

static size_t char_len(struct str text)
{
    size_t n = 1;
    while (n < text.len && ((unsigned char)text.data[n] & 0xc0) == 0x80)
        n++;
    return n;
}

/* What the beginning of the text becomes, and how much of it that stands for. */
static struct str next_part(const struct step *step, struct str text,
                            const struct added_tokens *kept, size_t *taken)
{
    struct str part;
    *taken = kept ? added_tokens_longest(kept, text) : 0;
    if (*taken) return (struct str){text.data, *taken};
    if (step->rules.charsmap.len && spm_charsmap_find(step->rules.charsmap, text, &part, taken))
        return part;
    *taken = char_len(text);
    return (struct str){text.data, *taken};
}

static void sentencepiece(const struct step *step, struct str text, const struct added_tokens *kept,
                          struct buf *out)
{
    bool single = step->rules.single_spaces, after_space = single, begun = false;
    size_t begin = out->len, taken;
    for (; text.len; text.data += taken, text.len -= taken) {
        struct str part = next_part(step, text, kept, &taken);
        if (!begun && single && str_equal(part, STR(" "))) continue; // at the very front
        if (!begun && step->rules.space_prefix) buf_append_char(out, ' ');
        begun = true;
        while (after_space && part.len && *part.data == ' ')
            part.data++, part.len--;
        if (!part.len) continue;
        buf_append(out, part.data, part.len);
        after_space = single && part.data[part.len - 1] == ' ';
    }
    while (single && out->len > begin && out->data[out->len - 1] == ' ')
        out->data[--out->len] = 0;
}

static void apply_step(const struct step *step, struct str text, const struct added_tokens *kept,
                       struct buf *out)
{
    switch (step->kind) {
    case STEP_NFC:
        unicode_nfc(text, out);
        break;
    case STEP_PREPEND:
        if (text.len) buf_append(out, step->to.data, step->to.len);
        buf_append(out, text.data, text.len);
        break;
    case STEP_REPLACE:
        replace(step, text, out);
        break;
    case STEP_REPLACE_PATTERN:
        replace_pattern(step, text, out);
        break;
    case STEP_SENTENCEPIECE:
        sentencepiece(step, text, kept, out);
        break;
    }
}

void normalizer_apply(const struct normalizer *n, struct str text, const struct added_tokens *kept,
                      struct buf *out)
{
    struct buf now, then;
    buf_init(&now, BUF_MAX_INTERNAL);
    buf_init(&then, BUF_MAX_INTERNAL);
    for (int i = 0; i < n->count; i++) {
        bool last = i == n->count - 1;
        buf_clear(&then);
        apply_step(&n->steps[i], text, kept, last ? out : &then);
        struct buf swap = now;
        now = then, then = swap;
        text = buf_str(&now);
    }
    if (!n->count) buf_append(out, text.data, text.len);
    buf_deinit(&now);
    buf_deinit(&then);
}
