/* grammar_parts.c - each kind of part is a row of the table and an emitter. Nesting is bounded by that of
 * JSON. What is repeated is a rule of its own, so that it is emitted once. */
#include "engine/grammar_parts.h"

#include "engine/grammar_regex.h"
#include "engine/grammar_schema.h"
#include "engine/grammar_until.h"
#include "shared/base/check.h"

#include <string.h>

/* Where a part stands in the one around it. */
struct place {
    const struct place *outer; // NULL: it is the whole
    const char *member;
    size_t index; // in a list
    bool is_listed;
    const char *name; // that the source gives it; NULL: none
};

struct parts {
    struct grammar_nfa *n;
    const struct grammar_vocab *vocab;
    struct schema_budget budget; // of all schemas together
    const struct place *place;   // of the part that is read
    bool is_located;             // the error says where
    struct error *err;
};

struct part_kind {
    const char *name; // of the member that makes it one
    /* From a state to a new one, *end. */
    int (*emit)(struct parts *p, const struct json *part, const struct json *value, int from,
                int *end);
    const char *options[4]; // other members that it may have
};

static int emit_part(struct parts *p, const struct json *part, struct place place, int from,
                     int *end);

/* ---- values ---- */

static int want(struct parts *p, const struct json *v, enum json_type type)
{
    if (json_type(v) == type) return 0;
    return error_set(p->err, E_INVALID, "a part's value must be %s, not %s", json_type_name(type),
                     json_type_name(json_type(v)));
}

static struct str string_of(const struct json *v)
{
    struct str s;
    s.data = json_string(v, &s.len);
    return s;
}

/* ---- texts ---- */

static int emit_text(struct parts *p, const struct json *part, const struct json *value, int from,
                     int *end)
{
    int rc = want(p, value, JSON_STRING);
    (void)part;
    if (rc == 0) *end = nfa_emit_text(p->n, from, string_of(value));
    return rc;
}

static int emit_token(struct parts *p, const struct json *part, const struct json *value, int from,
                      int *end)
{
    static const char mark = (char)GRAMMAR_SPECIAL_MARK;
    int rc = want(p, value, JSON_STRING);
    (void)part;
    if (rc < 0) return rc;
    struct str text = string_of(value);
    bool is_special = p->vocab && grammar_vocab_has_special(p->vocab, text);
    if (text.len == 0) return error_set(p->err, E_INVALID, "it must not be empty");
    if (is_special) from = nfa_emit_text(p->n, from, (struct str){&mark, 1});
    *end = nfa_emit_text(p->n, from, text);
    if (is_special) *end = nfa_emit_text(p->n, *end, (struct str){&mark, 1});
    return 0;
}

static int emit_regex(struct parts *p, const struct json *part, const struct json *value, int from,
                      int *end)
{
    int rc = want(p, value, JSON_STRING);
    (void)part;
    if (rc < 0) return rc;
    return regex_emit(p->n, from, string_of(value), REGEX_WHOLE, SPELLING_UTF8, end, p->err);
}

static int emit_schema(struct parts *p, const struct json *part, const struct json *value, int from,
                       int *end)
{
    (void)part;
    *end = nfa_add_state(p->n);
    return schema_emit(p->n, value, from, *end, &p->budget, p->err);
}

static int emit_until(struct parts *p, const struct json *part, const struct json *value, int from,
                      int *end)
{
    struct str strings[UNTIL_STRINGS_MAX + 1]; // one too many shows that they are
    int count = 0, rc = want(p, value, JSON_ARRAY);
    (void)part;
    if (rc < 0) return rc;
    for (const struct json *v = json_first(value); v && count <= UNTIL_STRINGS_MAX;
         v = json_next(v)) {
        if (json_type(v) != JSON_STRING || string_of(v).len == 0)
            return error_set(p->err, E_INVALID, "it must be an array of strings, none empty");
        strings[count++] = string_of(v);
    }
    return until_emit(p->n, from, strings, count, end, p->err);
}

/* ---- lists ---- */

static struct place element(const char *list, size_t index)
{
    return (struct place){.member = list, .index = index, .is_listed = true};
}

static int emit_all(struct parts *p, const struct json *part, const struct json *value, int from,
                    int *end)
{
    size_t index = 0;
    int rc = want(p, value, JSON_ARRAY);
    (void)part;
    *end = from;
    for (const struct json *v = json_first(value); v && rc == 0; v = json_next(v))
        rc = emit_part(p, v, element("all", index++), *end, end);
    return rc;
}

static int emit_any(struct parts *p, const struct json *part, const struct json *value, int from,
                    int *end)
{
    size_t index = 0;
    int last, rc = want(p, value, JSON_ARRAY);
    (void)part;
    if (rc == 0 && json_len(value) == 0)
        rc = error_set(p->err, E_INVALID, "it must have at least one part");
    *end = nfa_add_state(p->n);
    for (const struct json *v = json_first(value); v && rc == 0; v = json_next(v)) {
        rc = emit_part(p, v, element("any", index++), from, &last);
        if (rc == 0) nfa_add_epsilon(p->n, last, *end);
    }
    return rc;
}

/* ---- repeats ---- */

static int read_count(struct parts *p, const struct json *part, const char *name, int absent,
                      int *count)
{
    const struct json *v = json_get(part, name);
    *count = absent;
    if (!v) return 0;
    if (json_type(v) != JSON_NUMBER || !json_is_integer(v) || json_number(v) < 0)
        return error_set(p->err, E_INVALID, "'%s' must be an integer of at least 0", name);
    if (json_number(v) > PARTS_REPEAT_MAX)
        return error_set(p->err, E_LIMIT, "'%s' is above %d", name, PARTS_REPEAT_MAX);
    *count = (int)json_number(v);
    return 0;
}

static int emit_rule(struct parts *p, const struct json *part, const char *member, int *rule)
{
    int end;
    *rule = nfa_add_rule(p->n);
    int rc = emit_part(p, part, (struct place){.member = member}, p->n->rule[*rule].start, &end);
    if (rc == 0) nfa_add_epsilon(p->n, end, p->n->rule[*rule].accept);
    return rc;
}

/* The part once more behind the state, which is one of its ends already. */
static int emit_again(struct parts *p, int from, int rule, int between)
{
    if (between >= 0) from = nfa_emit_call(p->n, from, between);
    return nfa_emit_call(p->n, from, rule);
}

static int emit_repeat(struct parts *p, const struct json *part, const struct json *value, int from,
                       int *end)
{
    const struct json *separator = json_get(part, "between");
    int min, max, rule, rc, between = -1;
    if ((rc = read_count(p, part, "min", 0, &min)) < 0 ||
        (rc = read_count(p, part, "max", -1, &max)) < 0)
        return rc;
    if (max >= 0 && min > max) return error_set(p->err, E_INVALID, "'min' is above 'max'");
    if ((rc = emit_rule(p, value, "repeat", &rule)) < 0 ||
        (separator && (rc = emit_rule(p, separator, "between", &between)) < 0))
        return rc;
    *end = nfa_add_state(p->n);
    if (min == 0) nfa_add_epsilon(p->n, from, *end);
    int told_apart = max >= 0 ? max : min > 0 ? min : 1, at = from;
    for (int i = 1; i <= told_apart; i++) {
        at = emit_again(p, at, rule, i > 1 ? between : -1);
        if (i >= min) nfa_add_epsilon(p->n, at, *end);
    }
    if (max < 0) nfa_add_epsilon(p->n, emit_again(p, at, rule, between), at);
    return 0;
}

/* ---- any part ---- */

static const struct part_kind kinds[] = {
    {"text", emit_text, {0}},     {"token", emit_token, {0}},
    {"schema", emit_schema, {0}}, {"regex", emit_regex, {0}},
    {"until", emit_until, {0}},   {"all", emit_all, {0}},
    {"any", emit_any, {0}},       {"repeat", emit_repeat, {"min", "max", "between"}},
};

static int find_kind(struct parts *p, const struct json *part, const struct part_kind **kind)
{
    *kind = NULL;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (json_get(part, kinds[i].name)) {
            if (*kind)
                return error_set(p->err, E_INVALID, "it has both '%s' and '%s'", (*kind)->name,
                                 kinds[i].name);
            *kind = &kinds[i];
        }
    if (*kind) return 0;
    return error_set(p->err, E_INVALID,
                     "a part has one of text, token, schema, regex, until, all, any and repeat");
}

static int check_members(struct parts *p, const struct json *part, const struct part_kind *kind)
{
    for (const struct json *m = json_first(part); m; m = json_next(m)) {
        const char *name = json_name(m);
        bool is_known = !strcmp(name, kind->name) || !strcmp(name, "name");
        for (size_t i = 0; i < ARRAY_LEN(kind->options) && kind->options[i]; i++)
            is_known |= !strcmp(name, kind->options[i]);
        if (!is_known)
            return error_set(p->err, E_INVALID, "a part with '%s' has no '%.100s'", kind->name,
                             name);
    }
    return 0;
}

/* Puts the part's name, or that of the nearest one around it, in front of the error; without one, the
 * way to it. */
static int locate(struct parts *p, int rc)
{
    if (p->is_located) return rc;
    p->is_located = true;
    for (const struct place *at = p->place; at; at = at->outer)
        if (at->name) return error_prefix(p->err, rc, "%.100s", at->name);
    for (const struct place *at = p->place; at; at = at->outer)
        if (at->is_listed)
            error_prefix(p->err, rc, "%s[%zu]", at->member, at->index);
        else if (at->member)
            error_prefix(p->err, rc, "%s", at->member);
    return rc;
}

static int emit_kind(struct parts *p, const struct json *part, struct place *place, int from,
                     int *end)
{
    const struct json *name = json_get(part, "name");
    const struct part_kind *kind;
    int rc;
    if (p->n->overflow) return error_set(p->err, E_LIMIT, "the grammar is too large");
    if ((rc = want(p, part, JSON_OBJECT)) < 0 || (rc = find_kind(p, part, &kind)) < 0 ||
        (rc = check_members(p, part, kind)) < 0)
        return rc;
    if (name && json_type(name) != JSON_STRING)
        return error_set(p->err, E_INVALID, "'name' must be a string");
    if (name) place->name = json_string(name, NULL);
    return kind->emit(p, part, json_get(part, kind->name), from, end);
}

static int emit_part(struct parts *p, const struct json *part, struct place place, int from,
                     int *end)
{
    place.outer = p->place;
    p->place = &place;
    int rc = emit_kind(p, part, &place, from, end);
    if (rc < 0) rc = locate(p, rc);
    p->place = place.outer;
    return rc;
}

int parts_emit(struct grammar_nfa *n, const struct json *part, const struct grammar_vocab *vocab,
               int from, int to, struct error *err)
{
    struct error own = {0};
    struct parts p = {.n = n, .vocab = vocab, .err = err ? err : &own};
    int end, rc = emit_part(&p, part, (struct place){0}, from, &end);
    if (rc == 0) nfa_add_epsilon(n, end, to);
    return rc;
}
