/* pattern.c - matching: a backtracking walk over nodes, each of which knows its successor.
 *
 * Only single characters repeat, so a walk is at most as deep as the pattern has nodes. What a
 * match may begin with is known per branch for ASCII: most branches are never entered. */
#include "engine/pattern.h"

#include "engine/pattern_internal.h"
#include "engine/unicode.h"
#include "shared/base/check.h"

#include <stdlib.h>

#define FAIL SIZE_MAX

/* Valid UTF-8 only. */
static inline size_t read_char(const unsigned char *s, uint32_t *c)
{
    if (s[0] < 0x80) {
        *c = s[0];
        return 1;
    }
    if (s[0] < 0xe0) {
        *c = (s[0] & 0x1fu) << 6 | (s[1] & 0x3fu);
        return 2;
    }
    if (s[0] < 0xf0) {
        *c = (s[0] & 0xfu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
        return 3;
    }
    *c = (s[0] & 7u) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu);
    return 4;
}

bool pattern_set_has(const struct pattern_set *s, uint32_t c)
{
    bool in = s->categories >> unicode_categories()[c] & 1;
    if (c < 0x80 && (s->letters[c / 64] >> (c % 64) & 1)) in = true;
    if (s->spaces && unicode_is_space(c)) in = true;
    if (s->not_spaces && !unicode_is_space(c)) in = true;
    if (s->words && unicode_is_word(c)) in = true;
    if (s->not_words && !unicode_is_word(c)) in = true;
    for (int i = 0; i < s->range_count && !in; i++)
        in = c >= s->ranges[i][0] && c <= s->ranges[i][1];
    return in != s->negated;
}

struct matching {
    const struct pattern *p;
    const uint8_t *categories;
    const unsigned char *text;
    size_t len;
};

/* Length of the character at `at` if it is in the set, else 0. */
static inline size_t accept(const struct matching *m, const struct pattern_set *s, size_t at)
{
    if (at >= m->len) return 0;
    unsigned char byte = m->text[at];
    if (byte < 0x80) return s->ascii[byte / 64] >> (byte % 64) & 1;
    uint32_t c;
    size_t n = read_char(m->text + at, &c);
    if (s->plain && c != 0x85) return (s->beyond >> m->categories[c] & 1) != s->negated ? n : 0;
    return pattern_set_has(s, c) ? n : 0;
}

static size_t walk(const struct matching *m, int index, size_t at);

static size_t walk_set(const struct matching *m, const struct pattern_node *node, size_t at)
{
    const struct pattern_set *s = &m->p->sets[node->set];
    uint32_t count = 0;
    size_t first = at, n;
    while (count < node->max && (n = accept(m, s, at)) != 0) {
        at += n;
        count++;
    }
    if (count < node->min) return FAIL;
    if (node->possessive || m->p->nodes[node->next].kind == NODE_END)
        return walk(m, node->next, at);
    for (;; count--) {
        size_t end = walk(m, node->next, at);
        if (end != FAIL || count == node->min || at == first) return end;
        do
            at--;
        while ((m->text[at] & 0xc0) == 0x80);
    }
}

static size_t walk(const struct matching *m, int index, size_t at)
{
    for (;;) {
        const struct pattern_node *node = &m->p->nodes[index];
        size_t n;
        switch (node->kind) {
        case NODE_END:
            return at;
        case NODE_JUMP:
            break;
        case NODE_SET:
            if (node->min != 1 || node->max != 1) return walk_set(m, node, at);
            n = accept(m, &m->p->sets[node->set], at);
            if (!n) return FAIL;
            at += n;
            break;
        case NODE_EITHER:
            if ((n = walk(m, node->branch, at)) != FAIL) return n;
            break;
        case NODE_AHEAD:
        case NODE_NOT_AHEAD:
            n = walk(m, node->branch, at);
            if ((n == FAIL) == (node->kind == NODE_AHEAD)) return FAIL;
            break;
        }
        index = node->next;
    }
}

/* The top alternatives one by one, those that can't begin with the next byte left out. */
static size_t match_at(const struct matching *m, size_t at)
{
    unsigned char byte = m->text[at];
    uint32_t may = m->p->may_begin[byte < 0x80 ? byte : 0x80];
    for (; may; may &= may - 1) {
        size_t end = walk(m, m->p->starts[__builtin_ctz(may)], at);
        if (end != FAIL) return end;
    }
    return FAIL;
}

bool pattern_find(const struct pattern *p, struct str text, size_t from, size_t *begin, size_t *end)
{
    struct matching m = {p, p->categories, (const unsigned char *)text.data, text.len};
    for (size_t at = from; at < text.len;) {
        size_t found = match_at(&m, at);
        if (found != FAIL && found > at) {
            *begin = at;
            *end = found;
            return true;
        }
        at++;
        while (at < text.len && (m.text[at] & 0xc0) == 0x80)
            at++;
    }
    return false;
}

void pattern_destroy(struct pattern *p)
{
    if (!p) return;
    free(p->sets);
    free(p->nodes);
    free(p);
}
