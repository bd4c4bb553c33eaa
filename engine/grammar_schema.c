/* grammar_schema.c - a schema is compiled as the conjunction of all schemas that a value must satisfy.
 *
 *     $ref, allOf      add to the conjunction
 *     anyOf, oneOf     make one conjunction per branch, and their union
 *     the rest         is read by type, from all items of the conjunction at once
 *
 * Each conjunction is one rule, found again by its items, so that a schema which refers to itself ends
 * in a rule that calls itself. Rules are emitted from a queue: nesting costs no stack. */
#include "engine/grammar_schema.h"

#include "engine/grammar_schema_internal.h"
#include "engine/grammar_text.h"
#include "shared/base/check.h"

#include <string.h>

#define CHOICES_DEPTH_MAX 24
#define STEPS_MAX         20000
#define WORK_MAX          4000000 // some hundred milliseconds
#define REFERENCES_MAX    64
#define INDENT_MAX        20

struct schema_task {
    struct conjunction conjunction;
    int rule;
    struct schema_task *next;
};

/* ---- errors ---- */

int schema_spend(struct schema_compiler *c, size_t looks)
{
    c->work += (int64_t)looks;
    return c->work <= WORK_MAX ? 0 : error_set(c->err, E_LIMIT, "the schema is too large");
}

int schema_refuse(struct schema_compiler *c, const char *keyword)
{
    return error_set(c->err, E_UNSUPPORTED, "the schema uses '%s' in a way that can't be enforced",
                     keyword);
}

int schema_invalid(struct schema_compiler *c, const char *keyword, const char *what)
{
    return error_set(c->err, E_INVALID, "the schema's '%s' must be %s", keyword, what);
}

int schema_count(struct schema_compiler *c, const struct conjunction *k, const char *keyword,
                 bool largest, int64_t *value)
{
    *value = -1;
    for (int i = 0; i < k->count; i++) {
        const struct json *v = json_get(k->item[i].node, keyword);
        if (!v) continue;
        if (json_type(v) != JSON_NUMBER || !json_is_integer(v) || json_number(v) < 0)
            return schema_invalid(c, keyword, "an integer of at least 0");
        int64_t count = (int64_t)json_number(v);
        if (*value < 0 || (largest ? count > *value : count < *value)) *value = count;
    }
    return 0;
}

/* ---- references ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* One step of a JSON pointer in a URI's fragment, unescaped (RFC 6901, sections 3 and 6). */
static void unescape(struct str token, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < token.len; i++) {
        char c = token.data[i];
        if (c == '%' && i + 2 < token.len && hex_digit(token.data[i + 1]) >= 0 &&
            hex_digit(token.data[i + 2]) >= 0) {
            c = (char)(hex_digit(token.data[i + 1]) << 4 | hex_digit(token.data[i + 2]));
            i += 2;
        }
        if (c == '~' && i + 1 < token.len && (token.data[i + 1] == '0' || token.data[i + 1] == '1'))
            c = token.data[++i] == '0' ? '~' : '/';
        out[n++] = c;
    }
    out[n] = 0;
}

static const struct json *step_into(const struct json *v, const char *name)
{
    int64_t index;
    if (json_type(v) == JSON_OBJECT) return json_get(v, name);
    if (json_type(v) != JSON_ARRAY || str_to_int(str_of(name), &index) < 0) return NULL;
    v = json_first(v);
    while (v && index-- > 0)
        v = json_next(v);
    return v;
}

static const struct json *follow_pointer(struct schema_compiler *c, struct str pointer)
{
    const struct json *v = c->root;
    struct str token;
    pointer = (struct str){pointer.data + 1, pointer.len - 1};
    if (pointer.len == 0) return json_get(v, "");
    while (v && str_split(&pointer, '/', &token)) {
        char *name = arena_alloc(&c->arena, token.len + 1);
        unescape(token, name);
        c->work += (int64_t)json_len(v);
        v = step_into(v, name);
    }
    return v;
}

/* The schema anywhere in the document that has the string under the keyword. */
static const struct json *find_named(struct schema_compiler *c, const struct json *v,
                                     const char *keyword, struct str name)
{
    if (++c->work > WORK_MAX) return NULL;
    const struct json *own = json_type(v) == JSON_OBJECT ? json_get(v, keyword) : NULL;
    if (own && json_type(own) == JSON_STRING) {
        struct str s;
        s.data = json_string(own, &s.len);
        if (str_equal(s, name)) return v;
    }
    for (const struct json *child = json_first(v); child; child = json_next(child)) {
        const struct json *found = find_named(c, child, keyword, name);
        if (found) return found;
    }
    return NULL;
}

static const struct json *resolve(struct schema_compiler *c, struct str reference)
{
    if (str_equal(reference, STR("#"))) return c->root;
    if (str_starts_with(reference, STR("#/")))
        return follow_pointer(c, (struct str){reference.data + 1, reference.len - 1});
    if (str_starts_with(reference, STR("#")))
        return find_named(c, c->root, "$anchor",
                          (struct str){reference.data + 1, reference.len - 1});
    return find_named(c, c->root, "$id", reference);
}

/* ---- conjunctions ---- */

bool conjunction_descends(const struct conjunction *k, int i, int ancestor)
{
    for (; i >= 0; i = k->item[i].via)
        if (i == ancestor) return true;
    return false;
}

static int find_reference(struct schema_compiler *c, const struct json *schema,
                          const struct json **target)
{
    const struct json *ref = json_get(schema, "$ref");
    if (json_type(ref) != JSON_STRING) return schema_invalid(c, "$ref", "a string");
    struct str text;
    text.data = json_string(ref, &text.len);
    *target = resolve(c, text);
    if (c->work > WORK_MAX) return schema_spend(c, 0);
    if (*target) return 0;
    return error_set(c->err, E_INVALID, "the schema has nothing that its $ref '%.100s' means",
                     text.data);
}

/* A schema that is nothing but a reference is what it refers to: so that two references to one schema
 * are the same rule. */
static int skip_references(struct schema_compiler *c, const struct json **schema)
{
    for (int hops = 0; json_len(*schema) == 1 && json_get(*schema, "$ref"); hops++) {
        int rc = find_reference(c, *schema, schema);
        if (rc < 0) return rc;
        if (hops == REFERENCES_MAX)
            return error_set(c->err, E_INVALID, "the schema refers to itself without end");
    }
    return 0;
}

static int add_reference(struct schema_compiler *c, struct conjunction *k, int item)
{
    const struct json *node = k->item[item].node, *target;
    if (json_get(node, "$dynamicRef")) return schema_refuse(c, "$dynamicRef");
    if (json_get(node, "$recursiveRef")) return schema_refuse(c, "$recursiveRef");
    if (!json_get(node, "$ref")) return 0;
    int rc = find_reference(c, node, &target);
    return rc < 0 ? rc : conjunction_add(c, k, target, item);
}

static int add_all_of(struct schema_compiler *c, struct conjunction *k, int item)
{
    const struct json *list = json_get(k->item[item].node, "allOf");
    if (!list) return 0;
    if (json_type(list) != JSON_ARRAY || json_len(list) == 0)
        return schema_invalid(c, "allOf", "an array with at least one schema");
    for (const struct json *s = json_first(list); s; s = json_next(s)) {
        int rc = conjunction_add(c, k, s, item);
        if (rc < 0) return rc;
    }
    return 0;
}

int conjunction_add(struct schema_compiler *c, struct conjunction *k, const struct json *schema,
                    int via)
{
    int rc = schema_spend(c, 8);
    if (rc == 0) rc = skip_references(c, &schema);
    if (rc < 0) return rc;
    if (json_type(schema) == JSON_BOOL) {
        k->is_false |= !json_is_true(schema);
        return 0;
    }
    if (json_type(schema) != JSON_OBJECT)
        return error_set(c->err, E_INVALID, "a schema must be an object or a boolean, not %s",
                         json_type_name(json_type(schema)));
    for (int i = via; i >= 0; i = k->item[i].via)
        if (k->item[i].node == schema)
            return error_set(c->err, E_INVALID, "the schema refers to itself without end");
    for (int i = 0; i < k->count; i++)
        if (k->item[i].node == schema) return 0;
    if (k->count == CONJUNCTS_MAX)
        return error_set(c->err, E_LIMIT, "more than %d schemas must hold for one value",
                         CONJUNCTS_MAX);
    int item = k->count++;
    k->item[item] = (struct conjunct){.node = schema, .via = (int16_t)via};
    rc = add_reference(c, k, item);
    return rc < 0 ? rc : add_all_of(c, k, item);
}

const struct json *conjunction_take_choice(struct conjunction *k, int *item, bool *is_exclusive)
{
    for (int i = 0; i < k->count; i++) {
        const struct json *any = json_get(k->item[i].node, "anyOf");
        const struct json *one = json_get(k->item[i].node, "oneOf");
        *item = i;
        *is_exclusive = !any || k->item[i].any_of_done;
        if (any && !k->item[i].any_of_done) {
            k->item[i].any_of_done = true;
            return any;
        }
        if (one && !k->item[i].one_of_done) {
            k->item[i].one_of_done = true;
            return one;
        }
    }
    return NULL;
}

/* ---- types ---- */

static unsigned type_of_name(const char *name)
{
    static const struct {
        const char *name;
        unsigned types;
    } names[] = {{"null", TYPE_NULL},       {"boolean", TYPE_BOOL},
                 {"integer", TYPE_INTEGER}, {"number", TYPE_INTEGER | TYPE_FRACTION},
                 {"string", TYPE_STRING},   {"array", TYPE_ARRAY},
                 {"object", TYPE_OBJECT}};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!strcmp(name, names[i].name)) return names[i].types;
    return 0;
}

static int add_type(struct schema_compiler *c, const struct json *type, unsigned *types)
{
    unsigned known = json_type(type) == JSON_STRING ? type_of_name(json_string(type, NULL)) : 0;
    *types |= known;
    return known ? 0
                 : schema_invalid(
                       c, "type",
                       "null, boolean, integer, number, string, array, object, or a list of "
                       "those");
}

int schema_types(struct schema_compiler *c, const struct conjunction *k, unsigned *types)
{
    *types = k->is_false ? 0 : TYPE_ANY;
    for (int i = 0; i < k->count; i++) {
        const struct json *type = json_get(k->item[i].node, "type");
        unsigned own = 0;
        int rc = 0;
        if (!type) continue;
        if (json_type(type) != JSON_ARRAY) rc = add_type(c, type, &own);
        for (const struct json *t = json_first(type); t && rc == 0; t = json_next(t))
            rc = add_type(c, t, &own);
        if (rc < 0) return rc;
        *types &= own;
    }
    return 0;
}

/* ---- what can't be enforced ---- */

static int check_keywords(struct schema_compiler *c, const struct conjunction *k, unsigned types)
{
    static const struct {
        const char *name;
        unsigned types; // of which a value must be for the keyword to count
    } keywords[] = {
        {"contains", TYPE_ARRAY},          {"unevaluatedItems", TYPE_ARRAY},
        {"propertyNames", TYPE_OBJECT},    {"dependentRequired", TYPE_OBJECT},
        {"dependentSchemas", TYPE_OBJECT}, {"dependencies", TYPE_OBJECT},
    };
    for (int i = 0; i < k->count; i++) {
        const struct json *node = k->item[i].node;
        if (json_get(node, "if") && (json_get(node, "then") || json_get(node, "else")))
            return schema_refuse(c, "if");
        for (size_t j = 0; j < ARRAY_LEN(keywords); j++)
            if (keywords[j].types & types && json_get(node, keywords[j].name))
                return schema_refuse(c, keywords[j].name);
    }
    return 0;
}

/* Take away the types of values that `not` forbids as a whole. Beside that it is enforced only where the
 * value couldn't be what it forbids anyway. */
static int apply_not(struct schema_compiler *c, const struct conjunction *k,
                     const struct json *forbidden, unsigned *types)
{
    struct conjunction other = {0};
    unsigned of_other;
    int rc = conjunction_add(c, &other, forbidden, -1);
    if (rc == 0) rc = schema_types(c, &other, &of_other);
    if (rc < 0) return rc;
    bool is_only_type = json_len(forbidden) == (json_get(forbidden, "type") != NULL);
    /* Numbers that aren't integers are not told from others: none is left, if there is something else. */
    if (of_other & TYPE_INTEGER && *types & ~(of_other | TYPE_FRACTION)) of_other |= TYPE_FRACTION;
    bool splits_numbers =
        of_other & TYPE_INTEGER && !(of_other & TYPE_FRACTION) && *types & TYPE_FRACTION;
    if (!other.is_false && is_only_type && !splits_numbers) {
        *types &= ~of_other;
        return 0;
    }
    rc = schema_disjoint(c, k, &other, 0);
    return rc == 0 ? schema_refuse(c, "not") : rc < 0 ? rc : 0;
}

/* The types of values that k accepts. */
static int find_types(struct schema_compiler *c, const struct conjunction *k, unsigned *types)
{
    int rc = schema_types(c, k, types);
    for (int i = 0; i < k->count && rc == 0; i++) {
        const struct json *forbidden = json_get(k->item[i].node, "not");
        if (forbidden) rc = apply_not(c, k, forbidden, types);
    }
    return rc < 0 ? rc : check_keywords(c, k, *types);
}

/* ---- emitting ---- */

static int emit_types(struct schema_compiler *c, const struct conjunction *k, unsigned types,
                      int from, int to)
{
    int rc = 0;
    if (types & TYPE_NULL) nfa_add_epsilon(c->n, nfa_emit_text(c->n, from, STR("null")), to);
    if (types & TYPE_BOOL) {
        nfa_add_epsilon(c->n, nfa_emit_text(c->n, from, STR("true")), to);
        nfa_add_epsilon(c->n, nfa_emit_text(c->n, from, STR("false")), to);
    }
    if (types & TYPE_INTEGER) rc = schema_emit_number(c, k, !(types & TYPE_FRACTION), from, to);
    if (rc == 0 && types & TYPE_STRING) rc = schema_emit_string(c, k, from, to);
    if (rc == 0 && types & TYPE_ARRAY) rc = schema_emit_array(c, k, from, to);
    if (rc == 0 && types & TYPE_OBJECT) rc = schema_emit_object(c, k, from, to);
    return rc;
}

static int check_exclusive(struct schema_compiler *c, const struct conjunction *k,
                           const struct json *list, int item)
{
    for (const struct json *s = json_first(list); s; s = json_next(s))
        for (const struct json *t = json_next(s); t; t = json_next(t)) {
            struct conjunction a = *k, b = *k;
            int rc = conjunction_add(c, &a, s, item);
            if (rc == 0) rc = conjunction_add(c, &b, t, item);
            if (rc == 0) rc = schema_disjoint(c, &a, &b, 0);
            if (rc < 0) return rc;
            if (rc == 0)
                return error_set(
                    c->err, E_UNSUPPORTED,
                    "the schema uses 'oneOf' with branches that one value might satisfy "
                    "together; use 'anyOf'");
        }
    return 0;
}

static int emit_choice(struct schema_compiler *c, const struct conjunction *k,
                       const struct json *list, int item, int from, int to, int depth)
{
    if (json_type(list) != JSON_ARRAY || json_len(list) == 0)
        return schema_invalid(c, "anyOf", "an array with at least one schema, like oneOf");
    for (const struct json *s = json_first(list); s; s = json_next(s)) {
        struct conjunction branch = *k;
        int rc = conjunction_add(c, &branch, s, item);
        if (rc == 0) rc = schema_emit_value(c, &branch, from, to, depth + 1);
        if (rc < 0) return rc;
    }
    return 0;
}

int schema_emit_value(struct schema_compiler *c, const struct conjunction *k, int from, int to,
                      int depth)
{
    struct conjunction rest = *k;
    bool is_exclusive, is_list;
    unsigned types;
    int item, rc;
    if (k->is_false) return 0;
    if (depth > CHOICES_DEPTH_MAX || ++c->steps > STEPS_MAX || c->n->overflow)
        return error_set(c->err, E_LIMIT, "the schema is too large");
    const struct json *list = conjunction_take_choice(&rest, &item, &is_exclusive);
    if (list) {
        if (is_exclusive && (rc = check_exclusive(c, &rest, list, item)) < 0) return rc;
        return emit_choice(c, &rest, list, item, from, to, depth);
    }
    if (schema_values(k, &is_list)) {
        if ((rc = schema_types(c, k, &types)) < 0 || (rc = check_keywords(c, k, types)) < 0)
            return rc;
        return schema_emit_values(c, k, from, to);
    }
    rc = find_types(c, k, &types);
    return rc < 0 ? rc : emit_types(c, k, types, from, to);
}

/* What two conjunctions that mean the same have in common. */
static struct str rule_key(struct schema_compiler *c, const struct conjunction *k)
{
    size_t size = sizeof(void *) + 1;
    char *key = arena_alloc(&c->arena, (size_t)k->count * size + 1);
    for (int i = 0; i < k->count; i++) {
        const struct conjunct *item = &k->item[i];
        memcpy(key + (size_t)i * size, &item->node, sizeof(void *));
        key[(size_t)i * size + sizeof(void *)] = (char)(item->any_of_done << 1 | item->one_of_done);
    }
    key[(size_t)k->count * size] = (char)k->is_false;
    return (struct str){key, (size_t)k->count * size + 1};
}

int schema_rule(struct schema_compiler *c, const struct conjunction *k)
{
    struct str key = rule_key(c, k);
    struct schema_task *task = hash_map_get(&c->rules, key);
    if (task) return task->rule;
    task = arena_alloc(&c->arena, sizeof *task);
    task->conjunction = *k;
    task->rule = nfa_add_rule(c->n);
    hash_map_put(&c->rules, key, task);
    if (c->last)
        c->last->next = task;
    else
        c->first = task;
    c->last = task;
    return task->rule;
}

/* Nothing, a space, or a new line and its indentation: what printers of JSON write. More would let a
 * model write white space for ever. */
static int add_space_rule(struct grammar_nfa *n)
{
    int rule = nfa_add_rule(n), start = n->rule[rule].start, end = n->rule[rule].accept;
    nfa_add_epsilon(n, start, end);
    nfa_add_bytes(n, start, ' ', ' ', end);
    int at = nfa_emit_text(n, start, STR("\n"));
    for (int i = 0; i < INDENT_MAX; i++) {
        nfa_add_epsilon(n, at, end);
        int next = nfa_add_state(n);
        nfa_add_bytes(n, at, ' ', ' ', next);
        nfa_add_bytes(n, at, '\t', '\t', next);
        at = next;
    }
    nfa_add_epsilon(n, at, end);
    return rule;
}

static int add_character_rule(struct grammar_nfa *n)
{
    int rule = nfa_add_rule(n), start = n->rule[rule].start;
    if (n->overflow) return rule;
    n->state[start].roles = NFA_CHARACTER;
    nfa_add_json_character(n, start, n->rule[rule].accept);
    return rule;
}

int schema_emit(struct grammar_nfa *n, const struct json *schema, int from, int to,
                struct schema_budget *budget, struct error *err)
{
    struct error own;
    struct schema_compiler c = {.n = n, .root = schema, .err = err ? err : &own};
    if (budget) c.steps = budget->steps;
    if (budget) c.work = budget->work;
    struct conjunction whole = {0};
    arena_init(&c.arena);
    hash_map_init(&c.rules);
    c.character_rule = add_character_rule(n);
    c.space_rule = add_space_rule(n);
    int rc = conjunction_add(&c, &whole, schema, -1);
    if (rc == 0) nfa_add_call(n, from, schema_rule(&c, &whole), to);
    while (rc == 0 && c.first) {
        struct schema_task *task = c.first;
        c.first = task->next;
        if (!c.first) c.last = NULL;
        struct nfa_rule rule = n->rule[task->rule];
        rc = schema_emit_value(&c, &task->conjunction, rule.start, rule.accept, 0);
    }
    hash_map_deinit(&c.rules);
    arena_deinit(&c.arena);
    if (budget) *budget = (struct schema_budget){c.steps, c.work};
    if (rc == 0 && n->overflow) return error_set(err, E_LIMIT, "the schema is too large");
    return rc;
}
