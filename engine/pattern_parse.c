/* pattern_parse.c - from the text of a pattern to its nodes: recursive descent, one function per
 * level of the grammar.
 *
 *     alternatives := sequence { '|' sequence }
 *     sequence     := { atom [ '?' | '*' | '+' | '{' n [ ',' [ m ] ] '}' ] [ '+' ] }
 *     atom         := '(' ... ')' | '[' ... ']' | escape | character
 *
 * A sequence is linked from its end: each parse function gets no successor but returns the first
 * node and a last one, whose `next` its caller sets. */
#include "engine/pattern.h"
#include "engine/pattern_internal.h"
#include "engine/unicode.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <stdlib.h>

#define NODES_MAX   4096
#define SETS_MAX    2048
#define DEPTH_MAX   16
#define REPEAT_MAX  UINT32_MAX
#define SOURCE_SHOW 100

struct parser {
    struct str source;
    size_t at;
    struct pattern *p;
    bool nocase;
    int depth, choices;
    struct error *err;
};

struct part { // of the graph: entered at first, left from last
    int first, last;
};

static int refuse(struct parser *s, const char *what)
{
    return error_set(s->err, E_UNSUPPORTED, "pattern '%.*s': %s at %zu",
                     (int)(s->source.len < SOURCE_SHOW ? s->source.len : SOURCE_SHOW),
                     s->source.data, what, s->at);
}

static bool next_is(const struct parser *s, const char *text)
{
    return str_starts_with((struct str){s->source.data + s->at, s->source.len - s->at},
                           str_of(text));
}

static bool take(struct parser *s, const char *text)
{
    if (!next_is(s, text)) return false;
    s->at += strlen(text);
    return true;
}

static int add_node(struct parser *s, enum pattern_node_kind kind)
{
    struct pattern *p = s->p;
    p->nodes = xrealloc_array(p->nodes, (size_t)p->node_count + 1, sizeof *p->nodes);
    p->nodes[p->node_count] = (struct pattern_node){.kind = kind, .next = -1, .branch = -1};
    return p->node_count++;
}

/* ---- sets ---- */

static int add_range(struct parser *s, struct pattern_set *set, uint32_t low, uint32_t high)
{
    if (low > high) return refuse(s, "a range that ends before it begins");
    for (; low <= high && low < 0x80; low++)
        set->letters[low / 64] |= 1ull << (low % 64);
    if (low > high) return 0;
    if (set->range_count == PATTERN_RANGES_MAX) return refuse(s, "a class of too many ranges");
    set->ranges[set->range_count][0] = low;
    set->ranges[set->range_count++][1] = high;
    return 0;
}

/* A letter, without regard to case its counterparts too (simple case folding of ASCII). */
static int add_letter(struct parser *s, struct pattern_set *set, uint32_t c)
{
    int rc = add_range(s, set, c, c);
    bool ascii_letter = (c | 32) >= 'a' && (c | 32) <= 'z';
    if (rc || !s->nocase) return rc;
    if (c >= 0x80) return refuse(s, "a letter beyond ASCII without regard to case");
    if (!ascii_letter) return 0;
    rc = add_range(s, set, c ^ 32, c ^ 32);
    if (!rc && (c | 32) == 's') rc = add_range(s, set, 0x17f, 0x17f);   // long s
    if (!rc && (c | 32) == 'k') rc = add_range(s, set, 0x212a, 0x212a); // Kelvin sign
    return rc;
}

static int parse_category(struct parser *s, struct pattern_set *set, bool not )
{
    const char *from = s->source.data + s->at;
    const char *close = take(s, "{") ? memchr(from, '}', s->source.len - (s->at - 1)) : NULL;
    if (!close) return refuse(s, "a property without braces");
    struct str name = {from + 1, (size_t)(close - from) - 1};
    if (name.len && *name.data == '^') not = !not, name.data++, name.len--;
    uint32_t mask = unicode_category_mask(name);
    if (str_equal(name, STR("White_Space"))) {
        if (not )
            set->not_spaces = true;
        else
            set->spaces = true;
    } else if (!mask) {
        return refuse(s, "a property that isn't a general category");
    }
    if (mask) set->categories |= not ? ~mask & ((1u << UNICODE_CATEGORIES) - 1) : mask;
    s->at = (size_t)(close - s->source.data) + 1;
    return 0;
}

static int parse_hex(struct parser *s, int digits_min, int digits_max, uint32_t *c)
{
    int digits = 0;
    *c = 0;
    for (; digits < digits_max && s->at < s->source.len; digits++, s->at++) {
        char d = s->source.data[s->at];
        if (d >= '0' && d <= '9')
            *c = *c * 16 + (uint32_t)(d - '0');
        else if ((d | 32) >= 'a' && (d | 32) <= 'f')
            *c = *c * 16 + (uint32_t)((d | 32) - 'a' + 10);
        else
            break;
    }
    if (digits < digits_min || *c >= UNICODE_COUNT) return refuse(s, "a code point that isn't one");
    return 0;
}

/* Behind a backslash. *single: the escape is one character, in *c; else it went into the set. */
static int parse_escape(struct parser *s, struct pattern_set *set, bool *single, uint32_t *c)
{
    static const char letters[] = "rntfvae0", values[] = "\r\n\t\f\v\a\x1b";
    if (s->at == s->source.len) return refuse(s, "a backslash at the end");
    char letter = s->source.data[s->at++];
    *single = false;
    switch (letter) {
    case 'p':
    case 'P':
        return parse_category(s, set, letter == 'P');
    case 's':
        set->spaces = true;
        return 0;
    case 'S':
        set->not_spaces = true;
        return 0;
    case 'd':
        set->categories |= 1u << UNICODE_ND;
        return 0;
    case 'D':
        set->categories |= ~(1u << UNICODE_ND) & ((1u << UNICODE_CATEGORIES) - 1);
        return 0;
    case 'w':
        set->words = true;
        return 0;
    case 'W':
        set->not_words = true;
        return 0;
    default:
        break;
    }
    *single = true;
    const char *known = letter ? strchr(letters, letter) : NULL;
    if (letter == 'x' && take(s, "{")) {
        int rc = parse_hex(s, 1, 6, c);
        return rc ? rc : take(s, "}") ? 0 : refuse(s, "an open brace");
    }
    if (letter == 'x') return parse_hex(s, 2, 2, c);
    if (letter == 'u') return parse_hex(s, 4, 4, c);
    if (known)
        *c = (unsigned char)values[known - letters];
    else if ((letter | 32) >= 'a' && (letter | 32) <= 'z')
        return refuse(s, "an escape that isn't known");
    else if (letter >= '0' && letter <= '9')
        return refuse(s, "a back reference");
    else if ((unsigned char)letter >= 0x80)
        return refuse(s, "an escape of a letter beyond ASCII");
    else
        *c = (unsigned char)letter;
    return 0;
}

static int parse_letter(struct parser *s, struct pattern_set *set, bool *single, uint32_t *c)
{
    if (take(s, "\\")) return parse_escape(s, set, single, c);
    size_t n = utf8_decode(s->source.data + s->at, s->source.len - s->at, c);
    if (!n) return refuse(s, "invalid UTF-8");
    s->at += n;
    *single = true;
    return 0;
}

static int parse_class(struct parser *s, struct pattern_set *set)
{
    bool first = true, single;
    uint32_t low, high;
    set->negated = take(s, "^");
    for (; s->at < s->source.len && (first || !next_is(s, "]")); first = false) {
        if (next_is(s, "[") || next_is(s, "&&")) return refuse(s, "a class inside a class");
        int rc = parse_letter(s, set, &single, &low);
        if (rc) return rc;
        if (!single) continue;
        if (!next_is(s, "-") || next_is(s, "-]")) {
            if ((rc = add_letter(s, set, low)) != 0) return rc;
            continue;
        }
        s->at++;
        rc = parse_letter(s, set, &single, &high);
        if (!rc && !single) rc = refuse(s, "a range to a class");
        if (!rc && s->nocase) rc = refuse(s, "a range without regard to case");
        if (!rc) rc = add_range(s, set, low, high);
        if (rc) return rc;
    }
    return take(s, "]") ? 0 : refuse(s, "an open class");
}

/* White space beyond ASCII is U+0085 and the three categories of separators. */
static void finish_set(struct pattern_set *set)
{
    const uint32_t separators = 1u << UNICODE_ZS | 1u << UNICODE_ZL | 1u << UNICODE_ZP;
    set->beyond = set->categories | (set->spaces ? separators : 0);
    if (set->not_spaces) set->beyond |= ~separators;
    set->plain = !set->words && !set->not_words;
    for (int i = 0; i < set->range_count; i++)
        if (set->ranges[i][1] >= 0x80) set->plain = false;
    for (uint32_t c = 0; c < 0x80; c++)
        if (pattern_set_has(set, c)) set->ascii[c / 64] |= 1ull << (c % 64);
}

static int parse_set(struct parser *s, struct part *out)
{
    struct pattern_set set = {0};
    bool single = false;
    uint32_t c;
    int rc;
    if (take(s, "["))
        rc = parse_class(s, &set);
    else if (take(s, "."))
        rc = add_range(s, &set, '\n', '\n'), set.negated = true;
    else {
        rc = parse_letter(s, &set, &single, &c);
        if (!rc && single) rc = add_letter(s, &set, c);
    }
    if (rc) return rc;
    finish_set(&set);
    struct pattern *p = s->p;
    p->sets = xrealloc_array(p->sets, (size_t)p->set_count + 1, sizeof *p->sets);
    p->sets[p->set_count] = set;
    out->first = out->last = add_node(s, NODE_SET);
    p->nodes[out->first].set = p->set_count++;
    p->nodes[out->first].min = p->nodes[out->first].max = 1;
    return 0;
}

/* ---- groups and sequences ---- */

static int parse_alternatives(struct parser *s, struct part *out);

static int parse_group(struct parser *s, struct part *out)
{
    enum pattern_node_kind look = NODE_JUMP;
    bool nocase = s->nocase;
    if (take(s, "?i:"))
        s->nocase = true;
    else if (take(s, "?="))
        look = NODE_AHEAD;
    else if (take(s, "?!"))
        look = NODE_NOT_AHEAD;
    else if (!take(s, "?:") && next_is(s, "?"))
        return refuse(s, "a kind of group that isn't known");
    int rc = parse_alternatives(s, out);
    s->nocase = nocase;
    if (rc) return rc;
    if (!take(s, ")")) return refuse(s, "an open group");
    if (look == NODE_JUMP) return 0;
    int end = add_node(s, NODE_END), node = add_node(s, look);
    s->p->nodes[out->last].next = end;
    s->p->nodes[node].branch = out->first;
    out->first = out->last = node;
    return 0;
}

static int parse_count(struct parser *s, uint32_t *count)
{
    size_t from = s->at;
    *count = 0;
    while (s->at < s->source.len && s->source.data[s->at] >= '0' && s->source.data[s->at] <= '9') {
        *count = *count * 10 + (uint32_t)(s->source.data[s->at++] - '0');
        if (*count > 1000) return refuse(s, "a count beyond 1000");
    }
    return s->at > from ? 0 : refuse(s, "no count");
}

/* *min and *max stay 1 where nothing repeats. */
static int parse_quantifier(struct parser *s, uint32_t *min, uint32_t *max)
{
    int rc = 0;
    if (take(s, "?")) {
        *min = 0;
    } else if (take(s, "*")) {
        *min = 0, *max = REPEAT_MAX;
    } else if (take(s, "+")) {
        *max = REPEAT_MAX;
    } else if (take(s, "{")) {
        rc = parse_count(s, min);
        *max = *min;
        if (!rc && take(s, ",")) {
            *max = REPEAT_MAX;
            if (!next_is(s, "}")) rc = parse_count(s, max);
        }
        if (!rc && (!take(s, "}") || *max < *min)) rc = refuse(s, "a count that isn't one");
    }
    return rc;
}

static int parse_repeated(struct parser *s, struct part *out)
{
    bool group = take(s, "(");
    uint32_t min = 1, max = 1;
    int rc = group ? parse_group(s, out) : parse_set(s, out);
    size_t before = s->at;
    if (!rc) rc = parse_quantifier(s, &min, &max);
    if (rc || s->at == before) return rc;
    bool possessive = take(s, "+");
    if (next_is(s, "?")) return refuse(s, "a lazy quantifier");
    struct pattern_node *node = &s->p->nodes[out->first];
    if (!group) {
        node->min = min, node->max = max, node->possessive = possessive;
        return 0;
    }
    if (min != 0 || max != 1 || possessive) return refuse(s, "a repeated group");
    if (++s->choices > PATTERN_CHOICES_MAX) return refuse(s, "too many choices");
    int either = add_node(s, NODE_EITHER), end = add_node(s, NODE_JUMP);
    s->p->nodes[either].branch = out->first;
    s->p->nodes[either].next = end;
    s->p->nodes[out->last].next = end;
    *out = (struct part){either, end};
    return 0;
}

static int parse_sequence(struct parser *s, struct part *out)
{
    out->first = out->last = add_node(s, NODE_JUMP);
    while (s->at < s->source.len && !next_is(s, "|") && !next_is(s, ")")) {
        if (strchr("^$*+?{", s->source.data[s->at]))
            return refuse(s, "an anchor, or a quantifier of nothing");
        if (s->p->node_count > NODES_MAX || s->p->set_count > SETS_MAX)
            return refuse(s, "a pattern that is too long");
        struct part atom;
        int rc = parse_repeated(s, &atom);
        if (rc) return rc;
        s->p->nodes[out->last].next = atom.first;
        out->last = atom.last;
    }
    return 0;
}

/* first -> branch, else -> the next alternative; all of them lead to one last node. */
static int parse_alternatives(struct parser *s, struct part *out)
{
    int end = add_node(s, NODE_JUMP), previous = -1, count = 0;
    bool top = s->depth == 0;
    if (++s->depth > DEPTH_MAX) return refuse(s, "groups too deep");
    do {
        struct part branch;
        int either = add_node(s, NODE_EITHER), rc = parse_sequence(s, &branch);
        if (rc) return rc;
        s->p->nodes[branch.last].next = end;
        s->p->nodes[either].branch = branch.first;
        if (previous >= 0)
            s->p->nodes[previous].next = either;
        else
            out->first = either;
        previous = either;
        if (top && count == PATTERN_STARTS_MAX) return refuse(s, "too many alternatives");
        if (top) s->p->starts[count] = branch.first;
        if (!top && count && ++s->choices > PATTERN_CHOICES_MAX)
            return refuse(s, "too many choices");
        count++;
    } while (take(s, "|"));
    s->p->nodes[previous] = (struct pattern_node){
        .kind = NODE_JUMP, .next = s->p->nodes[previous].branch, .branch = -1};
    if (top) s->p->start_count = count;
    out->last = end;
    s->depth--;
    return 0;
}

/* ---- first characters ---- */

/* Add what a walk from `index` may take first; true: it may take nothing. */
static bool add_first(const struct pattern *p, int index, uint64_t ascii[2], bool *beyond)
{
    for (;;) {
        const struct pattern_node *n = &p->nodes[index];
        switch (n->kind) {
        case NODE_END:
            return true;
        case NODE_SET:
            ascii[0] |= p->sets[n->set].ascii[0];
            ascii[1] |= p->sets[n->set].ascii[1];
            *beyond = true;
            if (n->min > 0) return false;
            break;
        case NODE_EITHER:
            add_first(p, n->branch, ascii, beyond);
            break;
        case NODE_AHEAD:
        case NODE_NOT_AHEAD:
        case NODE_JUMP:
            break;
        }
        index = n->next;
    }
}

static void index_starts(struct pattern *p)
{
    for (int i = 0; i < p->start_count; i++) {
        uint64_t ascii[2] = {0, 0};
        bool beyond = false;
        if (add_first(p, p->starts[i], ascii, &beyond)) ascii[0] = ascii[1] = UINT64_MAX;
        for (int c = 0; c < 128; c++)
            if (ascii[c / 64] >> (c % 64) & 1) p->may_begin[c] |= 1u << i;
        p->may_begin[128] |= 1u << i;
    }
}

int pattern_create(struct str source, struct pattern **out, struct error *err)
{
    struct pattern *p = xcalloc(1, sizeof *p);
    struct parser s = {.source = source, .p = p, .err = err};
    struct part whole;
    p->categories = unicode_categories();
    int rc = parse_alternatives(&s, &whole);
    if (!rc && s.at < source.len) rc = refuse(&s, "a bracket that closes nothing");
    if (rc) {
        pattern_destroy(p);
        return rc;
    }
    int end = add_node(&s, NODE_END);
    p->nodes[whole.last].next = end;
    index_starts(p);
    *out = p;
    return 0;
}
