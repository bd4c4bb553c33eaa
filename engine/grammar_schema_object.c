/* grammar_schema_object.c - members in the order in which the schema names them:
 *
 *     none(0) -name 0-> some(1) -, name 1-> some(2) ... -, name n-1-> some(n) -other members-> '}'
 *        \                /^
 *      not required      /         none(i), some(i): before name i, and no or some member was written
 *        v              /
 *     none(1) ---name 1'
 *
 * Other members come last, their names being none of those before, so that no name is there twice. */
#include "engine/grammar_regex.h"
#include "engine/grammar_schema_internal.h"
#include "engine/grammar_text.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 2000

struct member {
    struct str name;
    bool required;
};

struct members {
    struct member *list; // in the arena
    int count;
    bool is_open;               // there may be others
    const struct json *pattern; // whose names match this member's name, alone; NULL: any
    struct conjunction other;   // their values
};

/* ---- what the schemas say ---- */

static int add_name(struct schema_compiler *c, struct members *m, struct hash_map *seen,
                    struct str name, bool required)
{
    struct member *known = hash_map_get(seen, name);
    if (known) {
        known->required |= required;
        return 0;
    }
    if (m->count == NAMES_MAX)
        return error_set(c->err, E_LIMIT, "an object of the schema has more than %d members",
                         NAMES_MAX);
    m->list[m->count] = (struct member){name, required};
    hash_map_put(seen, name, &m->list[m->count++]);
    return 0;
}

static int add_properties(struct schema_compiler *c, struct members *m, struct hash_map *seen,
                          const struct json *node)
{
    const struct json *list = json_get(node, "properties");
    if (list && json_type(list) != JSON_OBJECT) return schema_invalid(c, "properties", "an object");
    for (const struct json *p = json_first(list); p; p = json_next(p)) {
        int rc = add_name(c, m, seen, str_of(json_name(p)), false);
        if (rc < 0) return rc;
    }
    return 0;
}

static int add_required(struct schema_compiler *c, struct members *m, struct hash_map *seen,
                        const struct json *node)
{
    const struct json *list = json_get(node, "required");
    if (!list || json_type(list) == JSON_BOOL) return 0; // draft 3's, of a member
    if (json_type(list) != JSON_ARRAY) return schema_invalid(c, "required", "an array of names");
    for (const struct json *p = json_first(list); p; p = json_next(p)) {
        struct str name;
        if (json_type(p) != JSON_STRING) return schema_invalid(c, "required", "an array of names");
        name.data = json_string(p, &name.len);
        int rc = add_name(c, m, seen, name, true);
        if (rc < 0) return rc;
    }
    return 0;
}

static int find_names(struct schema_compiler *c, const struct conjunction *k, struct members *m)
{
    struct hash_map seen;
    size_t most = 0;
    int rc = 0;
    for (int i = 0; i < k->count; i++)
        most += json_len(json_get(k->item[i].node, "properties")) +
                json_len(json_get(k->item[i].node, "required"));
    if (most > NAMES_MAX) most = NAMES_MAX;
    m->list = arena_alloc(&c->arena, (most + 1) * sizeof *m->list);
    hash_map_init(&seen);
    for (int i = 0; i < k->count && rc == 0; i++)
        rc = add_properties(c, m, &seen, k->item[i].node);
    for (int i = 0; i < k->count && rc == 0; i++)
        rc = add_required(c, m, &seen, k->item[i].node);
    hash_map_deinit(&seen);
    return rc;
}

static const struct json *declared(const struct json *node, const char *name)
{
    return json_get(json_get(node, "properties"), name);
}

static int matches(struct schema_compiler *c, const struct json *pattern, const char *name,
                   bool *yes)
{
    struct grammar_nfa n;
    int end;
    nfa_init(&n);
    int rule = nfa_add_rule(&n);
    int rc = regex_emit(&n, n.rule[rule].start, str_of(json_name(pattern)), REGEX_SEARCH,
                        SPELLING_UTF8, &end, c->err);
    if (rc == 0) nfa_add_epsilon(&n, end, n.rule[rule].accept);
    if (rc == 0) rc = schema_spend(c, (size_t)n.edges);
    *yes = rc == 0 && nfa_matches(&n, str_of(name));
    nfa_deinit(&n);
    return rc;
}

/* Whether the item's unevaluatedProperties is about the name: nothing that belongs to the item names it. */
static bool is_unevaluated(const struct conjunction *k, int item, const char *name)
{
    for (int i = 0; i < k->count; i++)
        if (conjunction_descends(k, i, item) && declared(k->item[i].node, name)) return false;
    return true;
}

/* What item i says of a member; name NULL: of one whose name no schema has. */
static int add_member(struct schema_compiler *c, const struct conjunction *k, int i,
                      const char *name, struct conjunction *out)
{
    const struct json *node = k->item[i].node;
    const struct json *own = name ? declared(node, name) : NULL;
    const struct json *rest = json_get(node, "additionalProperties");
    const struct json *unevaluated = json_get(node, "unevaluatedProperties");
    bool is_named = own != NULL;
    int rc = own ? conjunction_add(c, out, own, -1) : 0;
    for (const struct json *p = json_first(json_get(node, "patternProperties")); p && rc == 0;
         p = json_next(p)) {
        bool yes = !name; // others are written with names that match
        if (name) rc = matches(c, p, name, &yes);
        if (rc == 0 && yes) rc = conjunction_add(c, out, p, -1);
        is_named |= yes;
    }
    if (rc == 0 && rest && !is_named) rc = conjunction_add(c, out, rest, -1);
    if (rc == 0 && unevaluated && !is_named && !rest && (!name || is_unevaluated(k, i, name)))
        rc = conjunction_add(c, out, unevaluated, -1);
    return rc;
}

int schema_member(struct schema_compiler *c, const struct conjunction *k, const char *name,
                  struct conjunction *out)
{
    int rc = 0;
    *out = (struct conjunction){0};
    for (int i = 0; i < k->count && rc == 0; i++)
        rc = add_member(c, k, i, name, out);
    return rc;
}

/* Other members are written where the schema speaks of them, and where it names none. */
static int find_others(struct schema_compiler *c, const struct conjunction *k, struct members *m)
{
    static const char *const keywords[] = {"additionalProperties", "unevaluatedProperties",
                                           "patternProperties"};
    m->is_open = m->count == 0;
    for (int i = 0; i < k->count; i++) {
        const struct json *node = k->item[i].node, *patterns = json_get(node, "patternProperties");
        for (size_t j = 0; j < ARRAY_LEN(keywords); j++)
            m->is_open |= json_get(node, keywords[j]) != NULL;
        if (patterns && json_type(patterns) != JSON_OBJECT)
            return schema_invalid(c, "patternProperties", "an object");
        if (json_len(patterns) + (m->pattern != NULL) > 1)
            return schema_refuse(c, "patternProperties");
        if (json_len(patterns) == 1) m->pattern = json_first(patterns);
    }
    int rc = schema_member(c, k, NULL, &m->other);
    m->is_open &= !m->other.is_false;
    return rc;
}

/* ---- names that are none of the schema's ---- */

/* Names that begin with the first `depth` characters of list[first..last) and are none of them, up to
 * the closing quote, between two states. They are written without escapes. */
static void emit_other_from(struct grammar_nfa *n, int from, const struct str *list, int first,
                            int last, size_t depth, int free_state, int to)
{
    struct char_set others = {0};
    bool is_name = false;
    char_set_add(&others, 0, 0x1f);
    char_set_add(&others, '"', '"');
    char_set_add(&others, '\\', '\\');
    for (int i = first, next; i < last && !n->overflow; i = next) {
        uint32_t c, same;
        next = i + 1;
        if (list[i].len == depth) { // sorted: the shortest is the first
            is_name = true;
            continue;
        }
        size_t len = utf8_decode(list[i].data + depth, list[i].len - depth, &c);
        while (next < last && utf8_decode(list[next].data + depth, list[next].len - depth, &same) &&
               same == c)
            next++;
        char_set_add(&others, c, c);
        int child = nfa_emit_text(n, from, (struct str){list[i].data + depth, len});
        emit_other_from(n, child, list, i, next, depth + len, free_state, to);
    }
    if (!is_name) nfa_add_bytes(n, from, '"', '"', to);
    char_set_negate(&others);
    nfa_add_chars(n, from, &others, SPELLING_UTF8, free_state);
    char_set_deinit(&others);
}

static int compare_names(const void *a, const void *b)
{
    const struct str *x = a, *y = b;
    size_t shorter = x->len < y->len ? x->len : y->len;
    int order = memcmp(x->data, y->data, shorter);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

static bool needs_escape(struct str name)
{
    for (size_t i = 0; i < name.len; i++)
        if ((uint8_t)name.data[i] < 0x20 || name.data[i] == '"' || name.data[i] == '\\')
            return true;
    return false;
}

/* From behind the opening quote to behind the closing one. */
static void emit_other_name(struct schema_compiler *c, struct grammar_nfa *n,
                            const struct members *m, int from, int to)
{
    struct str *list = arena_alloc(&c->arena, (size_t)(m->count + 1) * sizeof *list);
    struct char_set plain = {0};
    int count = 0, free_state = nfa_add_state(n), start = nfa_add_state(n);
    for (int i = 0; i < m->count; i++)
        if (!needs_escape(m->list[i].name)) list[count++] = m->list[i].name;
    qsort(list, (size_t)count, sizeof *list, compare_names);
    nfa_add_epsilon(n, from, start);
    emit_other_from(n, start, list, 0, count, 0, free_state, to);
    char_set_add(&plain, 0, 0x1f);
    char_set_add(&plain, '"', '"');
    char_set_add(&plain, '\\', '\\');
    char_set_negate(&plain);
    nfa_add_chars(n, free_state, &plain, SPELLING_UTF8, free_state);
    nfa_add_bytes(n, free_state, '"', '"', to);
    if (!n->overflow) {
        n->state[free_state].roles = NFA_PLAIN;
        n->state[free_state].plain_left = INT32_MAX;
    }
    char_set_deinit(&plain);
}

/* Those of them that match the pattern. */
static int emit_matching_name(struct schema_compiler *c, const struct members *m, int from, int to)
{
    struct grammar_nfa pattern, other, both;
    int end;
    nfa_init(&pattern);
    nfa_init(&other);
    nfa_init(&both);
    int p = nfa_add_rule(&pattern), o = nfa_add_rule(&other);
    int rc = regex_emit(&pattern, pattern.rule[p].start, str_of(json_name(m->pattern)),
                        REGEX_SEARCH, SPELLING_JSON, &end, c->err);
    if (rc == 0) {
        nfa_add_bytes(&pattern, end, '"', '"', pattern.rule[p].accept);
        emit_other_name(c, &other, m, other.rule[o].start, other.rule[o].accept);
        rc = nfa_intersect(&pattern, &other, &both, c->err);
    }
    if (rc == 0) nfa_add_epsilon(c->n, nfa_emit_copy(c->n, from, &both), to);
    nfa_deinit(&pattern);
    nfa_deinit(&other);
    nfa_deinit(&both);
    return rc;
}

/* ---- emitting ---- */

static int emit_colon(struct schema_compiler *c, int from)
{
    return nfa_emit_call(c->n, nfa_emit_text(c->n, from, STR(":")), c->space_rule);
}

static int emit_comma(struct schema_compiler *c, int from)
{
    return nfa_emit_call(c->n, nfa_emit_text(c->n, from, STR(",")), c->space_rule);
}

/* The members that have names, from `none` (where no member is before) on. *none and *some are where they
 * end; *some -1: there is none. */
static int emit_named(struct schema_compiler *c, const struct conjunction *k,
                      const struct members *m, int *none, int *some)
{
    struct grammar_nfa *n = c->n;
    *some = -1;
    for (int i = 0; i < m->count && !n->overflow; i++) {
        const struct member *member = &m->list[i];
        struct conjunction value;
        int rc = schema_member(c, k, member->name.data, &value);
        if (rc < 0) return rc;
        int key = nfa_add_state(n), behind = nfa_add_state(n);
        if (*none >= 0) nfa_add_epsilon(n, *none, key);
        if (*some >= 0) nfa_add_epsilon(n, emit_comma(c, *some), key);
        int at = nfa_emit_spelled(n, nfa_emit_text(n, key, STR("\"")), member->name, SPELLING_JSON);
        at = emit_colon(c, nfa_emit_text(n, at, STR("\"")));
        nfa_add_call(n, at, schema_rule(c, &value), behind);
        if (member->required)
            *none = -1;
        else if (*some >= 0)
            nfa_add_epsilon(n, *some, behind);
        *some = behind;
    }
    return 0;
}

struct member_count {
    int64_t min, max; // -1: no bound
};

/* Others behind the named ones, as many as `count` says; with a bound on them there are no named ones. */
static int emit_others(struct schema_compiler *c, const struct members *m,
                       struct member_count count, int none, int some, int close)
{
    struct grammar_nfa *n = c->n;
    int rule = schema_rule(c, &m->other), names = nfa_add_rule(n), rc = 0;
    struct nfa_rule name = n->rule[names];
    if (m->pattern)
        rc = emit_matching_name(c, m, name.start, name.accept);
    else
        emit_other_name(c, n, m, name.start, name.accept);
    if (rc < 0) return rc;
    int64_t told_apart = count.max > count.min ? count.max : count.min;
    for (int64_t i = 0; (count.max < 0 || i < count.max) && !n->overflow; i++) {
        int key = nfa_add_state(n), behind = nfa_add_state(n);
        if (none >= 0) nfa_add_epsilon(n, none, key);
        if (some >= 0) nfa_add_epsilon(n, emit_comma(c, some), key);
        none = -1;
        int at = nfa_emit_call(n, nfa_emit_text(n, key, STR("\"")), names);
        nfa_add_call(n, emit_colon(c, at), rule, behind);
        if (i + 1 >= count.min) nfa_add_call(n, behind, c->space_rule, close);
        some = behind;
        if (i < told_apart) continue;
        nfa_add_epsilon(n, emit_comma(c, behind), key);
        break;
    }
    return 0;
}

/* Bounds on the number of members are enforced where there are only unnamed ones, and taken as they are
 * where the others' bounds imply them. */
static int check_count(struct schema_compiler *c, const struct conjunction *k,
                       const struct members *m, struct member_count *count)
{
    int rc, required = 0;
    if ((rc = schema_count(c, k, "minProperties", true, &count->min)) < 0 ||
        (rc = schema_count(c, k, "maxProperties", false, &count->max)) < 0)
        return rc;
    if (m->count == 0) {
        if (count->min > NAMES_MAX || count->max > NAMES_MAX)
            return error_set(c->err, E_LIMIT, "minProperties or maxProperties is above %d",
                             NAMES_MAX);
        return 0;
    }
    for (int i = 0; i < m->count; i++)
        required += m->list[i].required;
    if (count->min > required) return schema_refuse(c, "minProperties");
    if (count->max >= 0 && (m->is_open || count->max < m->count))
        return schema_refuse(c, "maxProperties");
    *count = (struct member_count){-1, -1};
    return 0;
}

int schema_emit_object(struct schema_compiler *c, const struct conjunction *k, int from, int to)
{
    struct grammar_nfa *n = c->n;
    struct members m = {0};
    struct member_count count;
    int some, rc;
    if ((rc = find_names(c, k, &m)) < 0 || (rc = find_others(c, k, &m)) < 0 ||
        (rc = check_count(c, k, &m, &count)) < 0)
        return rc;
    int close = nfa_add_state(n);
    nfa_add_bytes(n, close, '}', '}', to);
    int none = nfa_emit_call(n, nfa_emit_text(n, from, STR("{")), c->space_rule);
    if ((rc = emit_named(c, k, &m, &none, &some)) < 0) return rc;
    if (none >= 0 && count.min <= 0) nfa_add_epsilon(n, none, close);
    if (some >= 0) nfa_add_call(n, some, c->space_rule, close);
    return m.is_open ? emit_others(c, &m, count, none, some, close) : 0;
}
