/* jinja_sequences.c - filters on sequences and mappings. What is a generator in the reference is
 * one here: it has no length and gives its elements once. */
#include "engine/jinja_filters.h"

#include "engine/jinja_arith.h"
#include "engine/jinja_run.h"
#include "engine/jinja_text.h"
#include "shared/base/check.h"

/* ---- helpers ---- */

struct jinja_value jinja_path(struct jinja_run *run, struct jinja_value v, struct jinja_value path)
{
    struct str rest, part;
    if (path.type != JINJA_STRING) return jinja_item(run, v, path);
    rest = jinja_text(path);
    while (!run->code && str_split(&rest, '.', &part)) {
        int64_t index;
        bool number =
            part.len && part.data[0] >= '0' && part.data[0] <= '9' && str_to_int(part, &index) == 0;
        v = jinja_item(run, v, number ? jinja_int(index) : jinja_str(part));
    }
    return v;
}

/* What elements are compared by: their attribute if one is named, small letters unless case
 * matters. */
static struct jinja_value sort_key(struct jinja_run *run, struct jinja_value v,
                                   struct jinja_value attribute, bool case_sensitive)
{
    struct buf text;
    if (jinja_given(attribute) && attribute.type != JINJA_NONE) v = jinja_path(run, v, attribute);
    if (case_sensitive || v.type != JINJA_STRING) return v;
    if (!jinja_step(run, v.len / JINJA_CHAR_STEP)) return v;
    jinja_buf_init(&text);
    jinja_change_case(jinja_text(v), JINJA_LOWER, &text);
    return jinja_buf_take(run, &text);
}

/* Stable merge sort of pairs by key. */
static void sort_pairs(struct jinja_run *run, struct jinja_pair *pairs, struct jinja_pair *spare,
                       uint32_t count, bool reverse)
{
    if (count < 2 || run->code) return;
    uint32_t half = count / 2, left = 0, right = half;
    sort_pairs(run, pairs, spare, half, reverse);
    sort_pairs(run, pairs + half, spare, count - half, reverse);
    for (uint32_t i = 0; i < count && jinja_step(run, 1); i++) {
        bool take_right = left == half;
        if (!take_right && right < count) {
            int order = jinja_compare(run, pairs[right].key, pairs[left].key);
            take_right = reverse ? order > 0 : order < 0;
        }
        spare[i] = take_right ? pairs[right++] : pairs[left++];
    }
    if (!run->code) memcpy(pairs, spare, count * sizeof *pairs);
}

/* The elements of `list` in order of their keys. */
static struct jinja_value sorted(struct jinja_run *run, const struct jinja_list *list,
                                 struct jinja_value attribute, bool case_sensitive, bool reverse)
{
    struct jinja_value out = jinja_new_list(run, list->count, JINJA_KIND_LIST);
    struct jinja_pair *pairs = jinja_alloc(run, (size_t)list->count * 2, sizeof *pairs);
    if (!pairs) return out;
    for (uint32_t i = 0; i < list->count && !run->code; i++)
        pairs[i] = (struct jinja_pair){sort_key(run, list->items[i], attribute, case_sensitive),
                                       list->items[i]};
    sort_pairs(run, pairs, pairs + list->count, list->count, reverse);
    for (uint32_t i = 0; i < out.list->count; i++)
        out.list->items[i] = pairs[i].value;
    return out;
}

/* ---- whole sequences ---- */

static struct jinja_value filter_list(struct jinja_run *run, struct jinja_value self,
                                      const struct jinja_args *args)
{
    (void)args;
    const struct jinja_list *items = jinja_iterate(run, self);
    struct jinja_value out = jinja_new_list(run, items->count, JINJA_KIND_LIST);
    if (out.list->count && jinja_step(run, items->count / 8))
        memcpy(out.list->items, items->items, items->count * sizeof *items->items);
    return out;
}

static struct jinja_value filter_first(struct jinja_run *run, struct jinja_value self,
                                       const struct jinja_args *args)
{
    (void)args;
    const struct jinja_list *items = jinja_iterate(run, self);
    return items->count ? items->items[0] : jinja_undefined(JINJA_UNDEFINED_MEMBER, STR("first"));
}

static struct jinja_value filter_last(struct jinja_run *run, struct jinja_value self,
                                      const struct jinja_args *args)
{
    (void)args;
    const struct jinja_list *items = jinja_iterate(run, self);
    return items->count ? items->items[items->count - 1]
                        : jinja_undefined(JINJA_UNDEFINED_MEMBER, STR("last"));
}

static struct jinja_value filter_join(struct jinja_run *run, struct jinja_value self,
                                      const struct jinja_args *args)
{
    struct jinja_value between = jinja_given(args->list[0]) ? args->list[0] : jinja_str(STR(""));
    struct jinja_value attribute = args->list[1];
    const struct jinja_list *items = jinja_iterate(run, self);
    struct buf text;
    jinja_buf_init(&text);
    for (uint32_t i = 0; i < items->count && jinja_step(run, 1); i++) {
        struct jinja_value v = items->items[i];
        if (jinja_given(attribute) && attribute.type != JINJA_NONE)
            v = jinja_path(run, v, attribute);
        if (i) jinja_print(run, between, &text);
        if (!run->code) jinja_print(run, v, &text);
    }
    return jinja_buf_take(run, &text);
}

static struct jinja_value filter_reverse(struct jinja_run *run, struct jinja_value self,
                                         const struct jinja_args *args)
{
    (void)args;
    const struct jinja_list *items = jinja_iterate(run, self);
    struct jinja_value out = jinja_new_list(run, items->count, JINJA_KIND_GENERATOR);
    for (uint32_t i = 0; i < out.list->count && jinja_step(run, 1); i++)
        out.list->items[i] = items->items[items->count - 1 - i];
    if (self.type != JINJA_STRING) return out;
    struct buf text;
    jinja_buf_init(&text);
    for (uint32_t i = 0; i < out.list->count && !run->code; i++)
        jinja_print(run, out.list->items[i], &text);
    return jinja_buf_take(run, &text);
}

static struct jinja_value filter_sort(struct jinja_run *run, struct jinja_value self,
                                      const struct jinja_args *args)
{
    const struct jinja_list *items = jinja_iterate(run, self);
    return sorted(run, items, args->list[2], jinja_truth(args->list[1]),
                  jinja_truth(args->list[0]));
}

static struct jinja_value filter_unique(struct jinja_run *run, struct jinja_value self,
                                        const struct jinja_args *args)
{
    const struct jinja_list *items = jinja_iterate(run, self);
    struct jinja_value seen = jinja_new_dict(run, JINJA_DICT);
    struct jinja_value out = jinja_new_list(run, items->count, JINJA_KIND_GENERATOR);
    uint32_t count = 0;
    for (uint32_t i = 0; i < out.list->count && jinja_step(run, 1); i++) {
        struct jinja_value key =
            sort_key(run, items->items[i], args->list[1], jinja_truth(args->list[0]));
        uint32_t before = seen.dict->count;
        jinja_dict_put(run, seen.dict, key, jinja_none());
        if (seen.dict->count > before) out.list->items[count++] = items->items[i];
    }
    out.list->count = count;
    return out;
}

static struct jinja_value extreme(struct jinja_run *run, struct jinja_value self,
                                  const struct jinja_args *args, int sign)
{
    const struct jinja_list *items = jinja_iterate(run, self);
    bool case_sensitive = jinja_truth(args->list[0]);
    struct jinja_value best = jinja_undefined(JINJA_UNDEFINED_MEMBER, STR("item")), best_key = best;
    for (uint32_t i = 0; i < items->count && jinja_step(run, 1); i++) {
        struct jinja_value key = sort_key(run, items->items[i], args->list[1], case_sensitive);
        if (i && jinja_compare(run, key, best_key) * sign <= 0) continue;
        best = items->items[i];
        best_key = key;
    }
    return best;
}

static struct jinja_value filter_max(struct jinja_run *run, struct jinja_value self,
                                     const struct jinja_args *args)
{
    return extreme(run, self, args, 1);
}

static struct jinja_value filter_min(struct jinja_run *run, struct jinja_value self,
                                     const struct jinja_args *args)
{
    return extreme(run, self, args, -1);
}

static struct jinja_value filter_sum(struct jinja_run *run, struct jinja_value self,
                                     const struct jinja_args *args)
{
    const struct jinja_list *items = jinja_iterate(run, self);
    struct jinja_value attribute = args->list[0];
    struct jinja_value sum = jinja_given(args->list[1]) ? args->list[1] : jinja_int(0);
    for (uint32_t i = 0; i < items->count && jinja_step(run, 1); i++) {
        struct jinja_value v = items->items[i];
        if (jinja_given(attribute) && attribute.type != JINJA_NONE)
            v = jinja_path(run, v, attribute);
        if (!run->code) sum = jinja_binary_op(run, JINJA_OP_ADD, sum, v);
    }
    return sum;
}

/* ---- mappings ---- */

static struct jinja_value filter_items(struct jinja_run *run, struct jinja_value self,
                                       const struct jinja_args *args)
{
    (void)args;
    if (self.type != JINJA_DICT && self.type != JINJA_UNDEFINED)
        return jinja_fail(run, E_INVALID, "can only get item pairs from a mapping");
    uint32_t count = self.type == JINJA_DICT ? self.dict->count : 0;
    struct jinja_value out = jinja_new_list(run, count, JINJA_KIND_GENERATOR);
    for (uint32_t i = 0; i < out.list->count && jinja_step(run, 1); i++)
        out.list->items[i] =
            jinja_new_pair(run, self.dict->pairs[i].key, self.dict->pairs[i].value);
    return out;
}

static struct jinja_value filter_dictsort(struct jinja_run *run, struct jinja_value self,
                                          const struct jinja_args *args)
{
    struct jinja_value by = args->list[1];
    bool by_value = by.type == JINJA_STRING && str_equal(jinja_text(by), STR("value"));
    if (self.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, self);
    if (self.type != JINJA_DICT)
        return jinja_fail(run, E_INVALID, "dictsort needs a mapping, not '%s'",
                          jinja_type_name(self));
    const struct jinja_list *pairs = jinja_iterate(run, filter_items(run, self, args));
    return sorted(run, pairs, jinja_int(by_value), jinja_truth(args->list[0]),
                  jinja_truth(args->list[2]));
}

/* ---- map, select and their kin ---- */

static const struct jinja_value *named_arg(const struct jinja_args *args, const char *name)
{
    for (uint32_t i = 0; i < args->named_count; i++)
        if (str_equal(args->named[i].name, str_of(name))) return &args->named[i].value;
    return NULL;
}

/* map('filter', arguments...) or map(attribute='name', default=...) */
static struct jinja_value filter_map(struct jinja_run *run, struct jinja_value self,
                                     const struct jinja_args *args)
{
    const struct jinja_value *attribute = named_arg(args, "attribute");
    const struct jinja_value *otherwise = named_arg(args, "default");
    const struct jinja_builtin *filter = NULL;
    struct jinja_args rest = {NULL, 0, args->named, args->named_count};
    if (args->count && args->list[0].type == JINJA_STRING)
        filter = jinja_filter(jinja_text(args->list[0]));
    if (filter) {
        rest.list = args->list + 1;
        rest.count = args->count - 1;
    }
    if (!filter && (args->count || !attribute))
        return jinja_fail(run, E_UNSUPPORTED, "map needs the name of a filter or an attribute");
    const struct jinja_list *items = jinja_iterate(run, self);
    struct jinja_value out = jinja_new_list(run, items->count, JINJA_KIND_GENERATOR);
    for (uint32_t i = 0; i < out.list->count && jinja_step(run, 1); i++) {
        struct jinja_value v = items->items[i];
        v = filter ? jinja_call_builtin(run, filter, v, &rest) : jinja_path(run, v, *attribute);
        if (!filter && otherwise && v.type == JINJA_UNDEFINED) v = *otherwise;
        out.list->items[i] = v;
    }
    return out;
}

/* Elements (or those whose attribute) pass the test in args[first..]; without one, the true ones.
 */
static struct jinja_value choose(struct jinja_run *run, struct jinja_value self,
                                 const struct jinja_args *args, bool by_attribute, bool wanted)
{
    uint32_t first = by_attribute ? 1 : 0;
    const struct jinja_builtin *test = NULL;
    struct jinja_args rest = {NULL, 0, args->named, args->named_count};
    if (args->count < first) return jinja_fail(run, E_INVALID, "the attribute's name is missing");
    if (args->count > first) {
        if (args->list[first].type == JINJA_STRING)
            test = jinja_test(jinja_text(args->list[first]));
        if (!test) return jinja_fail(run, E_UNSUPPORTED, "no such test");
        rest.list = args->list + first + 1;
        rest.count = args->count - first - 1;
    }
    const struct jinja_list *items = jinja_iterate(run, self);
    struct jinja_value out = jinja_new_list(run, items->count, JINJA_KIND_GENERATOR);
    uint32_t count = 0;
    for (uint32_t i = 0; i < out.list->count && jinja_step(run, 1); i++) {
        struct jinja_value v = items->items[i];
        if (by_attribute) v = jinja_path(run, v, args->list[0]);
        if (test) v = jinja_call_builtin(run, test, v, &rest);
        if (jinja_truth(v) == wanted) out.list->items[count++] = items->items[i];
    }
    out.list->count = count;
    return out;
}

static struct jinja_value filter_select(struct jinja_run *run, struct jinja_value self,
                                        const struct jinja_args *args)
{
    return choose(run, self, args, false, true);
}

static struct jinja_value filter_reject(struct jinja_run *run, struct jinja_value self,
                                        const struct jinja_args *args)
{
    return choose(run, self, args, false, false);
}

static struct jinja_value filter_selectattr(struct jinja_run *run, struct jinja_value self,
                                            const struct jinja_args *args)
{
    return choose(run, self, args, true, true);
}

static struct jinja_value filter_rejectattr(struct jinja_run *run, struct jinja_value self,
                                            const struct jinja_args *args)
{
    return choose(run, self, args, true, false);
}

const struct jinja_builtin jinja_sequence_filters[] = {
    {"dictsort", filter_dictsort, "case_sensitive by reverse", 0},
    {"first", filter_first, "", 0},
    {"items", filter_items, "", 0},
    {"join", filter_join, "d attribute", 0},
    {"last", filter_last, "", 0},
    {"list", filter_list, "", 0},
    {"map", filter_map, NULL, 0},
    {"max", filter_max, "case_sensitive attribute", 0},
    {"min", filter_min, "case_sensitive attribute", 0},
    {"reject", filter_reject, NULL, 0},
    {"rejectattr", filter_rejectattr, NULL, 0},
    {"reverse", filter_reverse, "", 0},
    {"select", filter_select, NULL, 0},
    {"selectattr", filter_selectattr, NULL, 0},
    {"sort", filter_sort, "reverse case_sensitive attribute", 0},
    {"sum", filter_sum, "attribute start", 0},
    {"unique", filter_unique, "case_sensitive attribute", 0},
};
const size_t jinja_sequence_filter_count = ARRAY_LEN(jinja_sequence_filters);
