#include "engine/grammar_number.h"
#include "engine/grammar_regex.h"
#include "engine/grammar_schema_internal.h"
#include "shared/base/check.h"

#include <stdio.h>
#include <string.h>

#define PATTERNS_MAX 8
#define ITEMS_MAX    10000 // elements that are told apart
#define UNIQUE_MAX   8     // values of an enum whose sets are told apart

/* ---- numbers ---- */

static struct str number_text(struct schema_compiler *c, const struct json *v)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_print(v, &text, false);
    struct str copy = {arena_strndup(&c->arena, text.data, text.len), text.len};
    buf_deinit(&text);
    return copy;
}

/* The tightest of a bound's two keywords over all items. sign 1: a lower bound, -1: an upper one. */
static int read_bound(struct schema_compiler *c, const struct conjunction *k, const char *inclusive,
                      const char *exclusive, int sign, struct number_bound *out)
{
    double best = 0;
    *out = (struct number_bound){0};
    for (int i = 0; i < k->count; i++)
        for (int is_exclusive = 0; is_exclusive < 2; is_exclusive++) {
            const char *keyword = is_exclusive ? exclusive : inclusive;
            const struct json *v = json_get(k->item[i].node, keyword);
            const struct json *flag = json_get(k->item[i].node, exclusive);
            if (!v || (is_exclusive && json_type(v) == JSON_BOOL)) continue;
            if (json_type(v) != JSON_NUMBER) return schema_invalid(c, keyword, "a number");
            /* In draft 4 the exclusive keyword says how the other one is meant. */
            bool excludes =
                is_exclusive || (flag && json_type(flag) == JSON_BOOL && json_is_true(flag));
            double value = json_number(v) * sign;
            if (out->value.data && (value < best || (value == best && !excludes))) continue;
            best = value;
            *out = (struct number_bound){number_text(c, v), excludes};
        }
    return 0;
}

static int common_multiple(int a, int b)
{
    int x = a, y = b;
    while (y) {
        int rest = x % y;
        x = y;
        y = rest;
    }
    return a / x > NUMBER_MULTIPLE_MAX / b ? -1 : a / x * b;
}

static int read_multiple(struct schema_compiler *c, const struct conjunction *k, int *multiple)
{
    *multiple = 0;
    for (int i = 0; i < k->count; i++) {
        const struct json *v = json_get(k->item[i].node, "multipleOf");
        if (!v) continue;
        if (json_type(v) != JSON_NUMBER || json_number(v) <= 0)
            return schema_invalid(c, "multipleOf", "a number above 0");
        if (!json_is_integer(v) || json_number(v) > NUMBER_MULTIPLE_MAX)
            return schema_refuse(c, "multipleOf");
        *multiple = common_multiple(*multiple ? *multiple : 1, (int)json_number(v));
        if (*multiple < 0) return schema_refuse(c, "multipleOf");
    }
    return 0;
}

int schema_emit_number(struct schema_compiler *c, const struct conjunction *k, bool is_integer,
                       int from, int to)
{
    struct number_range range = {.is_integer = is_integer};
    int end, rc;
    if ((rc = read_bound(c, k, "minimum", "exclusiveMinimum", 1, &range.min)) < 0 ||
        (rc = read_bound(c, k, "maximum", "exclusiveMaximum", -1, &range.max)) < 0 ||
        (rc = read_multiple(c, k, &range.multiple_of)) < 0)
        return rc;
    range.is_integer |= range.multiple_of > 0;
    if ((rc = number_emit(c->n, from, &range, &end, c->err)) < 0) return rc;
    nfa_add_epsilon(c->n, end, to);
    return 0;
}

/* ---- strings ---- */

#define MONTH_DAY                                                                                  \
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-" \
    "9]|2[0-8]))"
#define DATE "[12][0-9]{3}-" MONTH_DAY
#define CLOCK                                                                                      \
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]" \
    ")"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define OCTET "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"

/* Of each format a part that every checker takes for one (RFC 3339, 5321, 1123, 2673, 4291, 4122, 3986,
 * 6901). */
static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", DATE},
    {"time", CLOCK},
    {"date-time", DATE "T" CLOCK},
    {"duration", "P([0-9]{1,4}D|([0-9]{1,4}D)?T([0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?|[0-9]{1,4}"
                 "M([0-9]{1,4}S)?|"
                 "[0-9]{1,4}S)|[0-9]{1,4}W)"},
    {"email", "[A-Za-z0-9_+-]{1,30}(\\.[A-Za-z0-9_+-]{1,30})?@(" LABEL "\\.){1,3}[A-Za-z]{2,6}"},
    {"hostname", LABEL "(\\." LABEL "){0,3}"},
    {"ipv4", OCTET "(\\." OCTET "){3}"},
    {"ipv6", "([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}"},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"uri",
     "[a-z][a-z0-9+.-]{0,15}://(" LABEL "\\.){0,3}" LABEL "(:[1-9][0-9]{0,3})?(/[A-Za-z0-9._~-]*)*"
     "(\\?[A-Za-z0-9._~=&-]*)?(#[A-Za-z0-9._~-]*)?"},
    {"json-pointer", "(/[A-Za-z0-9._-]*)*"},
};

struct pattern_source {
    struct str text;
    enum regex_scope scope;
};

static int collect_patterns(struct schema_compiler *c, const struct conjunction *k,
                            struct pattern_source out[PATTERNS_MAX], int *count)
{
    *count = 0;
    for (int i = 0; i < k->count; i++) {
        const struct json *pattern = json_get(k->item[i].node, "pattern");
        const struct json *format = json_get(k->item[i].node, "format");
        if (*count + 2 > PATTERNS_MAX)
            return error_set(c->err, E_LIMIT, "more than %d patterns for one string",
                             PATTERNS_MAX - 2);
        if (pattern) {
            struct pattern_source *p = &out[(*count)++];
            if (json_type(pattern) != JSON_STRING) return schema_invalid(c, "pattern", "a string");
            p->text.data = json_string(pattern, &p->text.len);
            p->scope = REGEX_SEARCH;
        }
        for (size_t j = 0; format && json_type(format) == JSON_STRING && j < ARRAY_LEN(formats);
             j++)
            if (!strcmp(json_string(format, NULL), formats[j].name))
                out[(*count)++] = (struct pattern_source){str_of(formats[j].pattern), REGEX_WHOLE};
    }
    return 0;
}

/* A JSON string of min to max characters (max -1: any number), from behind the quote to before the
 * other. */
static int emit_characters(struct schema_compiler *c, int from, int64_t min, int64_t max)
{
    struct grammar_nfa *n = c->n;
    int end = nfa_add_state(n), at = from;
    if (min < 0) min = 0;
    for (int64_t i = 0; (max < 0 ? i < min : i < max) && !n->overflow; i++) {
        n->state[at].roles |= NFA_PLAIN;
        n->state[at].plain_left = max < 0 ? INT32_MAX : (int32_t)(max - i);
        if (i >= min) nfa_add_epsilon(n, at, end);
        at = nfa_emit_call(n, at, c->character_rule);
    }
    if (max < 0 && !n->overflow) {
        n->state[at].roles |= NFA_PLAIN;
        n->state[at].plain_left = INT32_MAX;
        nfa_add_call(n, at, c->character_rule, at);
    }
    nfa_add_epsilon(n, at, end);
    return end;
}

static int add_length(struct grammar_nfa *n, int64_t min, int64_t max, struct error *err)
{
    char text[64];
    int end;
    if (min < 0) min = 0;
    if (max > 65535 || min > 65535)
        return error_set(err, E_LIMIT, "minLength or maxLength is above 65535");
    if (max < 0)
        snprintf(text, sizeof text, "[^]{%d,}", (int)min);
    else
        snprintf(text, sizeof text, "[^]{%d,%d}", (int)min, (int)max);
    int rule = nfa_add_rule(n);
    int rc =
        regex_emit(n, n->rule[rule].start, str_of(text), REGEX_WHOLE, SPELLING_JSON, &end, err);
    if (rc == 0) nfa_add_epsilon(n, end, n->rule[rule].accept);
    return rc;
}

/* All patterns and the bounds at once, in *out. */
static int intersect_patterns(const struct pattern_source *patterns, int count, int64_t min,
                              int64_t max, struct grammar_nfa *out, struct error *err)
{
    int rc = add_length(out, min, max, err);
    for (int i = 0; i < count && rc == 0; i++) {
        struct grammar_nfa one, both;
        int end;
        nfa_init(&one);
        nfa_init(&both);
        int rule = nfa_add_rule(&one);
        rc = regex_emit(&one, one.rule[rule].start, patterns[i].text, patterns[i].scope,
                        SPELLING_JSON, &end, err);
        if (rc == 0) nfa_add_epsilon(&one, end, one.rule[rule].accept);
        if (rc == 0) rc = nfa_intersect(out, &one, &both, err);
        nfa_deinit(&one);
        nfa_deinit(out);
        *out = both;
    }
    return rc;
}

int schema_emit_string(struct schema_compiler *c, const struct conjunction *k, int from, int to)
{
    struct pattern_source patterns[PATTERNS_MAX];
    int count, rc, end = 0;
    int64_t min, max;
    if ((rc = collect_patterns(c, k, patterns, &count)) < 0 ||
        (rc = schema_count(c, k, "minLength", true, &min)) < 0 ||
        (rc = schema_count(c, k, "maxLength", false, &max)) < 0)
        return rc;
    if (max >= 0 && min > max) return 0;
    int open = nfa_emit_text(c->n, from, STR("\""));
    if (count == 0) {
        if (min > 65535) return error_set(c->err, E_LIMIT, "minLength is above 65535");
        end = emit_characters(c, open, min, max);
    } else if (count == 1 && min <= 0 && max < 0) {
        rc = regex_emit(c->n, open, patterns[0].text, patterns[0].scope, SPELLING_JSON, &end,
                        c->err);
    } else {
        struct grammar_nfa all;
        nfa_init(&all);
        rc = intersect_patterns(patterns, count, min, max, &all, c->err);
        if (rc == 0) rc = schema_spend(c, 16 * (size_t)all.edges);
        if (rc == 0) end = nfa_emit_copy(c->n, open, &all);
        nfa_deinit(&all);
    }
    if (rc < 0) return rc;
    nfa_add_epsilon(c->n, nfa_emit_text(c->n, end, STR("\"")), to);
    return 0;
}

/* ---- arrays ---- */

/* What item i says of the elements from `index` on, in either draft's words; NULL: nothing. */
static const struct json *element_schema(const struct json *node, size_t index)
{
    const struct json *items = json_get(node, "items"), *prefix = json_get(node, "prefixItems");
    const struct json *rest = items;
    if (items && json_type(items) == JSON_ARRAY) {
        prefix = items;
        rest = json_get(node, "additionalItems");
    }
    const struct json *s = json_first(prefix);
    for (size_t i = 0; s && i < index; i++)
        s = json_next(s);
    return s ? s : rest;
}

static int element(struct schema_compiler *c, const struct conjunction *k, size_t index,
                   struct conjunction *out)
{
    *out = (struct conjunction){0};
    for (int i = 0; i < k->count; i++) {
        const struct json *s = element_schema(k->item[i].node, index);
        int rc = s ? conjunction_add(c, out, s, -1) : 0;
        if (rc < 0) return rc;
    }
    return 0;
}

static int prefix_len(struct schema_compiler *c, const struct conjunction *k, size_t *len)
{
    static const char *const lists[] = {"prefixItems", "items"};
    *len = 0;
    for (int i = 0; i < k->count; i++)
        for (size_t j = 0; j < ARRAY_LEN(lists); j++) {
            const struct json *list = json_get(k->item[i].node, lists[j]);
            if (list && j == 0 && json_type(list) != JSON_ARRAY)
                return schema_invalid(c, "prefixItems", "an array of schemas");
            if (list && json_type(list) == JSON_ARRAY && json_len(list) > *len)
                *len = json_len(list);
        }
    return 0;
}

/* Whether two elements could be the same, and mustn't. */
static bool must_differ(const struct conjunction *k, int64_t max)
{
    for (int i = 0; i < k->count; i++)
        if (json_is_true(json_get(k->item[i].node, "uniqueItems")) && (max < 0 || max > 1))
            return true;
    return false;
}

/* Elements of an enum, each at most once: a state for every set of them that was written. */
static int emit_unique(struct schema_compiler *c, const struct conjunction *k, int64_t min,
                       int64_t max, int from, int close)
{
    const struct json *list[UNIQUE_MAX];
    struct grammar_nfa *n = c->n;
    struct conjunction own;
    size_t told_apart;
    int behind[1 << UNIQUE_MAX], rule[UNIQUE_MAX], count, rc;
    if ((rc = prefix_len(c, k, &told_apart)) < 0 || (rc = element(c, k, 0, &own)) < 0 ||
        (rc = schema_list_values(c, &own, list, UNIQUE_MAX, &count)) < 0)
        return rc;
    if (told_apart > 0 || count < 0) return schema_refuse(c, "uniqueItems");
    for (int i = 0; i < count; i++) {
        rule[i] = nfa_add_rule(n);
        schema_emit_one(c, list[i], n->rule[rule[i]].start, n->rule[rule[i]].accept);
    }
    for (int set = 0; set < 1 << count; set++)
        behind[set] = set ? nfa_add_state(n) : from;
    for (int set = 0; set < 1 << count && !n->overflow; set++) {
        int written = __builtin_popcount((unsigned)set), next = behind[set];
        if (written >= min && set) nfa_add_call(n, next, c->space_rule, close);
        if (written >= min && !set) nfa_add_epsilon(n, next, close);
        if (max >= 0 && written >= max) continue;
        if (set) next = nfa_emit_call(n, nfa_emit_text(n, next, STR(",")), c->space_rule);
        for (int i = 0; i < count; i++)
            if (!(set >> i & 1)) nfa_add_call(n, next, rule[i], behind[set | 1 << i]);
    }
    return 0;
}

int schema_emit_array(struct schema_compiler *c, const struct conjunction *k, int from, int to)
{
    struct grammar_nfa *n = c->n;
    struct conjunction own;
    int64_t min, max;
    size_t told_apart;
    int rc;
    if ((rc = schema_count(c, k, "minItems", true, &min)) < 0 ||
        (rc = schema_count(c, k, "maxItems", false, &max)) < 0 ||
        (rc = prefix_len(c, k, &told_apart)) < 0)
        return rc;
    if ((int64_t)told_apart < min) told_apart = (size_t)min;
    if (max >= 0 && (int64_t)told_apart < max) told_apart = (size_t)max;
    if (told_apart > ITEMS_MAX)
        return error_set(c->err, E_LIMIT, "minItems or maxItems is above %d", ITEMS_MAX);
    int close = nfa_add_state(n), at = nfa_emit_text(n, from, STR("["));
    nfa_add_bytes(n, close, ']', ']', to);
    at = nfa_emit_call(n, at, c->space_rule);
    if (must_differ(k, max)) return emit_unique(c, k, min, max, at, close);
    if (min <= 0) nfa_add_epsilon(n, at, close);
    for (size_t i = 0; i <= told_apart && (max < 0 || (int64_t)i < max) && !n->overflow; i++) {
        if ((rc = element(c, k, i, &own)) < 0) return rc;
        int before = nfa_add_state(n);
        nfa_add_epsilon(n, at, before);
        int behind = nfa_emit_call(n, before, schema_rule(c, &own));
        if ((int64_t)i + 1 >= min) nfa_add_call(n, behind, c->space_rule, close);
        at = nfa_emit_call(n, nfa_emit_text(n, behind, STR(",")), c->space_rule);
        if (i == told_apart) nfa_add_epsilon(n, at, before); // it stands for all that follow
    }
    return 0;
}
