#include "engine/grammar_regex.h"
#include "engine/grammar_schema_internal.h"
#include "shared/base/check.h"

#include <math.h>
#include <string.h>

#define DISJOINT_DEPTH_MAX 4
#define BRANCHES_MAX       64

/* ---- values ---- */

static bool values_equal(const struct json *a, const struct json *b)
{
    if (json_type(a) != json_type(b)) return false;
    switch (json_type(a)) {
    case JSON_NULL:
        return true;
    case JSON_BOOL:
        return json_is_true(a) == json_is_true(b);
    case JSON_NUMBER:
        return json_number(a) == json_number(b);
    case JSON_STRING:
        return !strcmp(json_string(a, NULL), json_string(b, NULL));
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    if (json_len(a) != json_len(b)) return false;
    const struct json *y = json_first(b);
    for (const struct json *x = json_first(a); x; x = json_next(x)) {
        if (json_type(a) == JSON_OBJECT) y = json_get(b, json_name(x));
        if (!y || !values_equal(x, y)) return false;
        y = json_next(y);
    }
    return true;
}

static unsigned type_of_value(const struct json *v)
{
    switch (json_type(v)) {
    case JSON_NULL:
        return TYPE_NULL;
    case JSON_BOOL:
        return TYPE_BOOL;
    case JSON_NUMBER:
        return json_number(v) == floor(json_number(v)) ? TYPE_INTEGER : TYPE_FRACTION;
    case JSON_STRING:
        return TYPE_STRING;
    case JSON_ARRAY:
        return TYPE_ARRAY;
    case JSON_OBJECT:
        return TYPE_OBJECT;
    }
    UNREACHABLE();
}

const struct json *schema_values(const struct conjunction *k, bool *is_list)
{
    const struct json *best = NULL;
    for (int i = 0; i < k->count; i++) {
        const struct json *one = json_get(k->item[i].node, "const");
        const struct json *list = json_get(k->item[i].node, "enum");
        if (one) {
            *is_list = false;
            return one;
        }
        if (list && (!best || json_len(list) < json_len(best))) best = list;
    }
    *is_list = true;
    return best;
}

/* ---- does a schema accept a value ---- */

static bool in_list(const struct json *list, const struct json *v)
{
    for (const struct json *x = json_first(list); x; x = json_next(x))
        if (values_equal(x, v)) return true;
    return false;
}

static bool admits_number(const struct json *node, double v)
{
    const struct json *min = json_get(node, "minimum"), *max = json_get(node, "maximum");
    const struct json *above = json_get(node, "exclusiveMinimum"),
                      *below = json_get(node, "exclusiveMaximum");
    const struct json *multiple = json_get(node, "multipleOf");
    if (min && json_type(min) == JSON_NUMBER && v < json_number(min)) return false;
    if (max && json_type(max) == JSON_NUMBER && v > json_number(max)) return false;
    if (above && json_type(above) == JSON_NUMBER && v <= json_number(above)) return false;
    if (below && json_type(below) == JSON_NUMBER && v >= json_number(below)) return false;
    if (above && json_is_true(above) && min && v <= json_number(min)) return false;
    if (below && json_is_true(below) && max && v >= json_number(max)) return false;
    return !multiple || json_type(multiple) != JSON_NUMBER || fmod(v, json_number(multiple)) == 0;
}

static int admits_string(struct schema_compiler *c, const struct conjunction *k, int item,
                         const struct json *v, bool *yes)
{
    const struct json *pattern = json_get(k->item[item].node, "pattern");
    struct str text;
    int64_t min, max, length = 0;
    int rc, end;
    text.data = json_string(v, &text.len);
    for (size_t i = 0; i < text.len; i++)
        length += ((uint8_t)text.data[i] & 0xc0) != 0x80;
    if ((rc = schema_count(c, k, "minLength", true, &min)) < 0 ||
        (rc = schema_count(c, k, "maxLength", false, &max)) < 0)
        return rc;
    *yes = length >= min && (max < 0 || length <= max);
    if (!*yes || !pattern) return 0;
    if (json_type(pattern) != JSON_STRING) return schema_invalid(c, "pattern", "a string");
    struct grammar_nfa n;
    nfa_init(&n);
    int rule = nfa_add_rule(&n);
    rc = regex_emit(&n, n.rule[rule].start, str_of(json_string(pattern, NULL)), REGEX_SEARCH,
                    SPELLING_UTF8, &end, c->err);
    if (rc == 0) nfa_add_epsilon(&n, end, n.rule[rule].accept);
    if (rc == 0) rc = schema_spend(c, (size_t)n.edges + text.len);
    *yes = rc == 0 && nfa_matches(&n, text);
    nfa_deinit(&n);
    return rc;
}

/* Of arrays and objects beside an enum only the type is looked at. */
static int check_compound(struct schema_compiler *c, const struct json *node)
{
    static const char *const keywords[] = {
        "items",         "prefixItems",      "minItems",
        "maxItems",      "uniqueItems",      "properties",
        "required",      "minProperties",    "additionalProperties",
        "maxProperties", "patternProperties"};
    for (size_t i = 0; i < ARRAY_LEN(keywords); i++)
        if (json_get(node, keywords[i])) return schema_refuse(c, "enum");
    return 0;
}

/* No item of k has a choice left. own: the list that the value comes from, or NULL. */
static int admits(struct schema_compiler *c, const struct conjunction *k, const struct json *v,
                  const struct json *own, bool *yes)
{
    unsigned types, type = type_of_value(v);
    int rc = schema_types(c, k, &types);
    *yes = rc == 0 && types & type;
    for (int i = 0; i < k->count && rc == 0 && *yes; i++) {
        const struct json *node = k->item[i].node;
        const struct json *list = json_get(node, "enum"), *one = json_get(node, "const");
        if (list == own) list = NULL;
        rc = schema_spend(c, 1 + json_len(list));
        *yes = rc == 0 && (!list || in_list(list, v)) && (!one || values_equal(one, v));
        if (*yes && type & (TYPE_INTEGER | TYPE_FRACTION))
            *yes = admits_number(node, json_number(v));
        if (*yes && type == TYPE_STRING) rc = admits_string(c, k, i, v, yes);
        if (*yes && type & (TYPE_ARRAY | TYPE_OBJECT)) rc = check_compound(c, node);
    }
    return rc;
}

/* Whether admits() is right about the schema when it says yes, and when it says no. */
static bool is_decided(const struct json *schema)
{
    static const char *const keywords[] = {
        "type",      "const",     "enum",  "minimum",     "maximum",  "exclusiveMinimum",
        "minLength", "maxLength", "title", "description", "$comment", "exclusiveMaximum"};
    for (const struct json *m = json_first(schema); m; m = json_next(m)) {
        bool is_known = false;
        for (size_t i = 0; i < ARRAY_LEN(keywords); i++)
            is_known |= !strcmp(json_name(m), keywords[i]);
        if (!is_known) return false;
    }
    return true;
}

/* A `not` of k's takes the value away. */
static int forbids(struct schema_compiler *c, const struct conjunction *k, const struct json *v,
                   bool *yes)
{
    *yes = false;
    for (int i = 0; i < k->count && !*yes; i++) {
        const struct json *forbidden = json_get(k->item[i].node, "not");
        struct conjunction other = {0};
        if (!forbidden) continue;
        if (!is_decided(forbidden)) return schema_refuse(c, "not");
        int rc = conjunction_add(c, &other, forbidden, -1);
        if (rc == 0) rc = admits(c, &other, v, NULL, yes);
        if (rc < 0) return rc;
        *yes &= !other.is_false;
    }
    return 0;
}

/* The state that the byte leads to from a state of a trie; made if there is none. */
static int trie_step(struct grammar_nfa *n, int from, uint8_t byte)
{
    for (int e = n->state[from].first; e >= 0; e = n->edge[e].next)
        if (n->edge[e].kind == NFA_BYTES && n->edge[e].low == byte) return n->edge[e].target;
    int to = nfa_add_state(n);
    nfa_add_bytes(n, from, byte, byte, to);
    return to;
}

/* Values that begin alike share states: many of them take no more threads than they have next bytes. */
static void add_value(struct grammar_nfa *n, int root, const struct json *v, int to)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_print(v, &text, true);
    for (size_t i = 0; i < text.len && !n->overflow; i++)
        root = trie_step(n, root, (uint8_t)text.data[i]);
    nfa_add_epsilon(n, root, to);
    buf_deinit(&text);
}

void schema_emit_one(struct schema_compiler *c, const struct json *v, int from, int to)
{
    int root = nfa_add_state(c->n);
    nfa_add_epsilon(c->n, from, root);
    add_value(c->n, root, v, to);
}

/* The value satisfies k. */
static int is_value(struct schema_compiler *c, const struct conjunction *k, const struct json *v,
                    const struct json *own, bool *yes)
{
    bool no = false;
    int rc = admits(c, k, v, own, yes);
    if (rc == 0 && *yes) rc = forbids(c, k, v, &no);
    *yes &= !no;
    return rc;
}

int schema_list_values(struct schema_compiler *c, const struct conjunction *k,
                       const struct json **list, int most, int *count)
{
    struct conjunction rest = *k;
    bool is_list, is_exclusive, yes;
    int item;
    const struct json *values = schema_values(k, &is_list);
    *count = -1;
    if (!values || !is_list || json_type(values) != JSON_ARRAY ||
        json_len(values) > 4 * (size_t)most)
        return 0;
    if (conjunction_take_choice(&rest, &item, &is_exclusive)) return 0;
    int found = 0;
    for (const struct json *v = json_first(values); v; v = json_next(v)) {
        int rc = is_value(c, k, v, values, &yes);
        if (rc < 0) return rc;
        for (int i = 0; i < found && yes; i++)
            yes = !values_equal(list[i], v);
        if (yes && found == most) return 0;
        if (yes) list[found++] = v;
    }
    *count = found;
    return 0;
}

int schema_emit_values(struct schema_compiler *c, const struct conjunction *k, int from, int to)
{
    bool is_list, yes;
    const struct json *values = schema_values(k, &is_list);
    if (is_list && json_type(values) != JSON_ARRAY) return schema_invalid(c, "enum", "an array");
    int root = nfa_add_state(c->n);
    nfa_add_epsilon(c->n, from, root);
    for (const struct json *v = is_list ? json_first(values) : values; v;
         v = is_list ? json_next(v) : NULL) {
        int rc = is_value(c, k, v, values, &yes);
        if (rc < 0) return rc;
        if (yes) add_value(c->n, root, v, to);
        if (c->n->overflow) break;
    }
    return 0;
}

/* ---- can two schemas accept the same value ---- */

static int branches_disjoint(struct schema_compiler *c, const struct conjunction *rest,
                             const struct json *list, int item, const struct conjunction *other,
                             int depth)
{
    int count = 0;
    for (const struct json *s = json_first(list); s; s = json_next(s)) {
        struct conjunction branch = *rest;
        if (++count > BRANCHES_MAX) return 0;
        int rc = conjunction_add(c, &branch, s, item);
        if (rc == 0) rc = schema_disjoint(c, &branch, other, depth + 1);
        if (rc <= 0) return rc;
    }
    return 1;
}

/* None of a's values is accepted by b. */
static int values_disjoint(struct schema_compiler *c, const struct conjunction *a,
                           const struct conjunction *b)
{
    bool is_list, yes;
    const struct json *values = schema_values(a, &is_list);
    if (!values) return 0;
    for (const struct json *v = is_list ? json_first(values) : values; v;
         v = is_list ? json_next(v) : NULL) {
        if (type_of_value(v) & (TYPE_ARRAY | TYPE_OBJECT)) return 0;
        int rc = admits(c, b, v, NULL, &yes);
        if (rc < 0 || yes) return rc < 0 ? rc : 0;
    }
    return 1;
}

static bool requires(const struct conjunction *k, const char *name)
{
    for (int i = 0; i < k->count; i++) {
        const struct json *list = json_get(k->item[i].node, "required");
        if (!list || json_type(list) != JSON_ARRAY) continue;
        for (const struct json *n = json_first(list); n; n = json_next(n))
            if (json_type(n) == JSON_STRING && !strcmp(json_string(n, NULL), name)) return true;
    }
    return false;
}

/* A member that a requires can't be what b says of it. */
static int members_disjoint(struct schema_compiler *c, const struct conjunction *a,
                            const struct conjunction *b, int depth)
{
    for (int i = 0; i < a->count; i++) {
        const struct json *list = json_get(a->item[i].node, "required");
        if (!list || json_type(list) != JSON_ARRAY) continue;
        for (const struct json *n = json_first(list); n; n = json_next(n)) {
            struct conjunction x, y;
            if (json_type(n) != JSON_STRING) continue;
            const char *name = json_string(n, NULL);
            int rc = schema_member(c, a, name, &x);
            if (rc == 0) rc = schema_member(c, b, name, &y);
            if (rc < 0) return rc;
            if (y.is_false) return 1;
            if (!requires(b, name)) continue;
            if ((rc = schema_disjoint(c, &x, &y, depth + 1)) != 0) return rc;
        }
    }
    return 0;
}

int schema_disjoint(struct schema_compiler *c, const struct conjunction *a,
                    const struct conjunction *b, int depth)
{
    struct conjunction rest_a = *a, rest_b = *b;
    bool is_exclusive;
    unsigned types_a, types_b;
    int item, rc;
    if (a->is_false || b->is_false) return 1;
    if (depth > DISJOINT_DEPTH_MAX) return 0;
    if ((rc = schema_types(c, a, &types_a)) < 0 || (rc = schema_types(c, b, &types_b)) < 0)
        return rc;
    unsigned types = types_a & types_b;
    if (types == 0) return 1;
    const struct json *list = conjunction_take_choice(&rest_a, &item, &is_exclusive);
    if (list) return branches_disjoint(c, &rest_a, list, item, b, depth);
    list = conjunction_take_choice(&rest_b, &item, &is_exclusive);
    if (list) return branches_disjoint(c, &rest_b, list, item, a, depth);
    if ((rc = values_disjoint(c, a, b)) != 0 || (rc = values_disjoint(c, b, a)) != 0) return rc;
    if (types != TYPE_OBJECT) return 0;
    rc = members_disjoint(c, a, b, depth);
    return rc ? rc : members_disjoint(c, b, a, depth);
}
