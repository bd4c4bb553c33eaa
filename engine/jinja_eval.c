/* jinja_eval.c - what expressions mean: names, members, calls and boolean logic; arithmetic is in
 * jinja_arith.c. */
#include "engine/jinja_run.h"

#include "engine/jinja_arith.h"
#include "engine/jinja_text.h"

#define PARAMS_MAX 8

/* ---- members ---- */

static struct jinja_value lacks(struct jinja_value object, struct str name)
{
    struct jinja_value v = jinja_undefined(JINJA_UNDEFINED_MEMBER, name);
    v.owner = object.type;
    return v;
}

static struct jinja_value new_function(struct jinja_run *run, const struct jinja_builtin *builtin,
                                       struct jinja_value self)
{
    struct jinja_function *function = jinja_alloc(run, 1, sizeof *function);
    if (!function) return jinja_none();
    *function = (struct jinja_function){builtin, self};
    return (struct jinja_value){.type = JINJA_FUNCTION, .function = function};
}

/* A method as a value, or undefined. */
static struct jinja_value method(struct jinja_run *run, struct jinja_value object, struct str name)
{
    const struct jinja_builtin *builtin = jinja_method(object, name);
    if (builtin) return new_function(run, builtin, object);
    struct jinja_value v = lacks(object, name);
    if (jinja_method_is_unsafe(object, name)) v.why = JINJA_UNDEFINED_UNSAFE;
    return v;
}

static struct jinja_value loop_attribute(struct jinja_run *run, struct jinja_value object,
                                         struct str name)
{
    const struct jinja_loop *loop = object.loop;
    int64_t index = loop->index, count = loop->items->count;
    if (str_equal(name, STR("index"))) return jinja_int(index + 1);
    if (str_equal(name, STR("index0"))) return jinja_int(index);
    if (str_equal(name, STR("first"))) return jinja_bool(index == 0);
    if (str_equal(name, STR("last"))) return jinja_bool(index + 1 == count);
    if (str_equal(name, STR("length"))) return jinja_int(count);
    if (str_equal(name, STR("revindex"))) return jinja_int(count - index);
    if (str_equal(name, STR("revindex0"))) return jinja_int(count - index - 1);
    if (str_equal(name, STR("depth"))) return jinja_int(1); // of recursion, not of nesting
    if (str_equal(name, STR("depth0"))) return jinja_int(0);
    if (str_equal(name, STR("previtem")))
        return index > 0 ? loop->items->items[index - 1] : lacks(object, name);
    if (str_equal(name, STR("nextitem")))
        return index + 1 < count ? loop->items->items[index + 1] : lacks(object, name);
    return method(run, object, name);
}

/* object.name: methods come before a dict's keys. */
struct jinja_value jinja_attribute(struct jinja_run *run, struct jinja_value object,
                                   struct str name)
{
    const struct jinja_value *found = NULL;
    if (object.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, object);
    if (object.type == JINJA_LOOP) return loop_attribute(run, object, name);
    if (object.type == JINJA_NAMESPACE) {
        found = jinja_dict_get(run, object.dict, jinja_str(name));
        return found ? *found : lacks(object, name);
    }
    if (object.type == JINJA_DICT && !jinja_method(object, name) &&
        !jinja_method_is_unsafe(object, name))
        found = jinja_dict_get(run, object.dict, jinja_str(name));
    return found ? *found : method(run, object, name);
}

/* object[key]: a dict's keys come before methods. */
struct jinja_value jinja_item(struct jinja_run *run, struct jinja_value object,
                              struct jinja_value key)
{
    if (object.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, object);
    if (object.type == JINJA_DICT) {
        const struct jinja_value *found = jinja_dict_get(run, object.dict, key);
        if (found) return *found;
    }
    if (key.type == JINJA_STRING) return jinja_attribute(run, object, jinja_text(key));
    bool indexed = (object.type == JINJA_LIST && object.list->kind <= JINJA_KIND_RANGE) ||
                   object.type == JINJA_STRING;
    if (indexed && jinja_is_integral(key)) {
        int64_t index = jinja_integer(key), length = jinja_length(object);
        if (index < 0) index += length;
        if (object.type == JINJA_STRING) jinja_step(run, object.len / JINJA_TEXT_STEP);
        if (index >= 0 && index < length)
            return object.type == JINJA_LIST
                       ? object.list->items[index]
                       : jinja_str(jinja_char_at(jinja_text(object), (size_t)index));
    }
    return lacks(object, key.type == JINJA_INT ? STR("element") : STR("item"));
}

/* ---- slices ---- */

/* One bound of a slice; absent ones keep `value`. False: not a number. */
static bool slice_bound(struct jinja_run *run, const struct jinja_node *node, int64_t *value)
{
    if (!node) return true;
    struct jinja_value v = jinja_eval(run, node);
    if (v.type == JINJA_NONE) return true;
    if (!jinja_is_integral(v)) {
        jinja_fail(run, E_INVALID, "slice indices must be integers, not '%s'", jinja_type_name(v));
        return false;
    }
    *value = jinja_integer(v);
    return true;
}

static int64_t clamp(int64_t value, int64_t length, int64_t low, int64_t high)
{
    if (value < 0) value = value < -length ? low : value + length;
    return value < low ? low : value > high ? high : value;
}

struct slice {
    int64_t start, step, count;
};

/* Python's slice.indices(). */
static bool slice_indices(struct jinja_run *run, const struct jinja_node *node, int64_t length,
                          struct slice *s)
{
    int64_t step = 1;
    if (!slice_bound(run, node->d, &step)) return false;
    if (step == 0) {
        jinja_fail(run, E_INVALID, "slice step can't be zero");
        return false;
    }
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? length - 1 : length;
    int64_t start = step < 0 ? INT64_MAX : 0, stop = step < 0 ? INT64_MIN : INT64_MAX;
    if (!slice_bound(run, node->b, &start) || !slice_bound(run, node->c, &stop)) return false;
    start = clamp(start, length, low, high);
    stop = stop == INT64_MIN ? low : clamp(stop, length, low, high);
    if (step < -length - 1) step = -length - 1; // one element either way; keeps sums in range
    if (step > length + 1) step = length + 1;
    int64_t span = step > 0 ? stop - start + step - 1 : start - stop - step - 1;
    *s = (struct slice){start, step, span / (step > 0 ? step : -step)};
    if (s->count < 0) s->count = 0;
    return true;
}

static struct jinja_value slice_text(struct jinja_run *run, struct str text, const struct slice *s)
{
    struct buf out;
    if (s->step == 1) { // the common case borrows
        size_t from = jinja_char_offset(text, (size_t)s->start);
        struct str rest = {text.data + from, text.len - from};
        rest.len = jinja_char_offset(rest, (size_t)s->count);
        return jinja_str(rest);
    }
    jinja_buf_init(&out);
    const struct jinja_list *chars = jinja_iterate(run, jinja_str(text));
    for (int64_t i = 0; i < s->count && !run->code; i++) {
        struct jinja_value c = chars->items[s->start + i * s->step];
        buf_append(&out, c.text, c.len);
    }
    return jinja_buf_take(run, &out);
}

static struct jinja_value eval_slice(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value object = jinja_eval(run, node->a);
    struct slice s;
    if (object.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, object);
    bool list = object.type == JINJA_LIST && object.list->kind <= JINJA_KIND_RANGE;
    if (!list && object.type != JINJA_STRING) return lacks(object, STR("slice"));
    if (!slice_indices(run, node, jinja_length(object), &s)) return jinja_none();
    if (!list) {
        jinja_step(run, object.len / JINJA_TEXT_STEP);
        return slice_text(run, jinja_text(object), &s);
    }
    struct jinja_value out = jinja_new_list(run, (uint32_t)s.count, object.list->kind);
    jinja_step(run, out.list->count);
    for (uint32_t i = 0; i < out.list->count; i++)
        out.list->items[i] = object.list->items[s.start + (int64_t)i * s.step];
    return out;
}

/* ---- calls ---- */

struct arguments { // growing
    struct jinja_value *list;
    struct jinja_named *named;
    uint32_t count, cap, named_count, named_cap;
};

static void add_positional(struct jinja_run *run, struct arguments *a, struct jinja_value v)
{
    if (a->count == a->cap) {
        uint32_t cap = a->cap ? a->cap * 2 : 4;
        struct jinja_value *list = jinja_alloc(run, cap, sizeof *list);
        if (!list) return;
        if (a->count) memcpy(list, a->list, a->count * sizeof *list);
        a->list = list;
        a->cap = cap;
    }
    a->list[a->count++] = v;
}

static void add_named(struct jinja_run *run, struct arguments *a, struct str name,
                      struct jinja_value v)
{
    if (a->named_count == a->named_cap) {
        uint32_t cap = a->named_cap ? a->named_cap * 2 : 4;
        struct jinja_named *named = jinja_alloc(run, cap, sizeof *named);
        if (!named) return;
        if (a->named_count) memcpy(named, a->named, a->named_count * sizeof *named);
        a->named = named;
        a->named_cap = cap;
    }
    a->named[a->named_count++] = (struct jinja_named){name, v};
}

static void add_star(struct jinja_run *run, struct arguments *a, const struct jinja_node *node)
{
    struct jinja_value v = jinja_eval(run, node->a);
    if (run->code) return;
    if (node->kind == JINJA_STAR) {
        const struct jinja_list *list = jinja_iterate(run, v);
        for (uint32_t i = 0; i < list->count && !run->code; i++)
            add_positional(run, a, list->items[i]);
        return;
    }
    if (v.type != JINJA_DICT) {
        jinja_fail(run, E_INVALID, "argument after ** must be a mapping");
        return;
    }
    for (uint32_t i = 0; i < v.dict->count && !run->code; i++)
        add_named(run, a, jinja_text(jinja_to_str(run, v.dict->pairs[i].key)),
                  v.dict->pairs[i].value);
}

struct jinja_args jinja_eval_args(struct jinja_run *run, const struct jinja_node *node)
{
    struct arguments a = {0};
    for (uint32_t i = 0; i < node->list.count && !run->code; i++) {
        const struct jinja_node *argument = node->list.items[i];
        if (argument->kind == JINJA_STAR || argument->kind == JINJA_STAR_STAR)
            add_star(run, &a, argument);
        else
            add_positional(run, &a, jinja_eval(run, argument));
    }
    for (uint32_t i = 0; i < node->keyword_count && !run->code; i++)
        add_named(run, &a, node->keywords[i].name, jinja_eval(run, node->keywords[i].node));
    return (struct jinja_args){a.list, a.count, a.named, a.named_count};
}

/* Position of a name in "old new count", or -1. */
static int parameter_index(const char *params, struct str name)
{
    struct str rest = str_of(params), word;
    for (int i = 0; str_split(&rest, ' ', &word); i++)
        if (str_equal(word, name)) return i;
    return -1;
}

static uint32_t parameter_count(const char *params)
{
    struct str rest = str_of(params), word;
    uint32_t count = 0;
    while (str_split(&rest, ' ', &word))
        count++;
    return count;
}

struct jinja_value jinja_call_builtin(struct jinja_run *run, const struct jinja_builtin *builtin,
                                      struct jinja_value self, const struct jinja_args *args)
{
    if (run->code) return jinja_none();
    if (!builtin->params) return builtin->call(run, self, args);
    struct jinja_value slots[PARAMS_MAX];
    uint32_t count = parameter_count(builtin->params);
    if (args->count > count)
        return jinja_fail(run, E_INVALID, "%s() takes at most %u arguments", builtin->name, count);
    for (uint32_t i = 0; i < count; i++)
        slots[i] =
            i < args->count ? args->list[i] : jinja_undefined(JINJA_UNDEFINED_ABSENT, STR(""));
    for (uint32_t i = 0; i < args->named_count; i++) {
        struct str name = args->named[i].name;
        int at = parameter_index(builtin->params, name);
        if (at < 0 || jinja_given(slots[at]))
            return jinja_fail(run, E_INVALID, "%s() can't take the argument '%.*s'", builtin->name,
                              (int)(name.len < 40 ? name.len : 40), name.data);
        slots[at] = args->named[i].value;
    }
    for (int i = 0; i < builtin->required; i++)
        if (!jinja_given(slots[i]))
            return jinja_fail(run, E_INVALID, "%s() lacks an argument", builtin->name);
    struct jinja_args bound = {slots, count, NULL, 0};
    return builtin->call(run, self, &bound);
}

struct jinja_value jinja_call(struct jinja_run *run, struct jinja_value callee,
                              const struct jinja_args *args)
{
    if (callee.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, callee);
    if (callee.type == JINJA_FUNCTION)
        return jinja_call_builtin(run, callee.function->builtin, callee.function->self, args);
    if (callee.type == JINJA_MACRO) return jinja_call_macro(run, callee.macro, args);
    return jinja_fail(run, E_INVALID, "'%s' object is not callable", jinja_type_name(callee));
}

static struct jinja_value eval_call(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value callee = jinja_eval(run, node->a);
    struct jinja_args args = jinja_eval_args(run, node);
    return run->code ? callee : jinja_call(run, callee, &args);
}

/* Filters and tests. */
static struct jinja_value eval_named(struct jinja_run *run, const struct jinja_node *node,
                                     const char *what)
{
    if (!node->builtin)
        return jinja_fail(run, E_UNSUPPORTED, "no %s named '%.*s'", what,
                          (int)(node->name.len < 60 ? node->name.len : 60), node->name.data);
    struct jinja_value subject = jinja_eval(run, node->a);
    struct jinja_args args = jinja_eval_args(run, node);
    return jinja_call_builtin(run, node->builtin, subject, &args);
}

/* ---- the rest ---- */

static struct jinja_value eval_name(struct jinja_run *run, const struct jinja_node *node)
{
    const struct jinja_value *variable = jinja_lookup(run, node->name);
    if (variable) return *variable;
    const struct jinja_builtin *global = jinja_global(node->name);
    struct jinja_value nothing = jinja_undefined(JINJA_UNDEFINED_NAME, node->name);
    return global ? new_function(run, global, nothing) : nothing;
}

static struct jinja_value eval_items(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value v = jinja_new_list(run, node->list.count, (enum jinja_list_kind)node->op);
    for (uint32_t i = 0; i < v.list->count && !run->code; i++)
        v.list->items[i] = jinja_eval(run, node->list.items[i]);
    return v;
}

static struct jinja_value eval_mapping(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value v = jinja_new_dict(run, JINJA_DICT);
    for (uint32_t i = 0; i + 1 < node->list.count && !run->code; i += 2) {
        struct jinja_value key = jinja_eval(run, node->list.items[i]);
        struct jinja_value value = jinja_eval(run, node->list.items[i + 1]);
        if (!run->code) jinja_dict_put(run, v.dict, key, value);
    }
    return v;
}

static struct jinja_value eval_concat(struct jinja_run *run, const struct jinja_node *node)
{
    struct buf text;
    jinja_buf_init(&text);
    for (uint32_t i = 0; i < node->list.count && !run->code; i++)
        jinja_print(run, jinja_eval(run, node->list.items[i]), &text);
    return jinja_buf_take(run, &text);
}

static struct jinja_value eval_compare(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value left = jinja_eval(run, node->a);
    for (uint32_t i = 0; i < node->list.count && !run->code; i++) {
        const struct jinja_node *operand = node->list.items[i];
        struct jinja_value right = jinja_eval(run, operand->a);
        if (run->code || !jinja_compare_op(run, (enum jinja_op)operand->op, left, right))
            return jinja_bool(false);
        left = right;
    }
    return jinja_bool(true);
}

static struct jinja_value eval_if_else(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value condition = jinja_eval(run, node->b);
    if (run->code) return condition;
    if (jinja_truth(condition)) return jinja_eval(run, node->a);
    return node->c ? jinja_eval(run, node->c) : jinja_undefined(JINJA_UNDEFINED_NAME, STR(""));
}

static struct jinja_value eval_node(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value a, b;
    switch ((enum jinja_node_kind)node->kind) {
    case JINJA_CONST:
        return node->value;
    case JINJA_NAME:
        return eval_name(run, node);
    case JINJA_ITEMS:
        return eval_items(run, node);
    case JINJA_MAPPING:
        return eval_mapping(run, node);
    case JINJA_ATTR:
        a = jinja_eval(run, node->a);
        return run->code ? a : jinja_attribute(run, a, node->name);
    case JINJA_ITEM:
        a = jinja_eval(run, node->a);
        b = jinja_eval(run, node->b);
        return run->code ? a : jinja_item(run, a, b);
    case JINJA_SLICE:
        return eval_slice(run, node);
    case JINJA_CALL:
        return eval_call(run, node);
    case JINJA_FILTER:
        return eval_named(run, node, "filter");
    case JINJA_TEST:
        return eval_named(run, node, "test");
    case JINJA_NOT:
        return jinja_bool(!jinja_truth(jinja_eval(run, node->a)));
    case JINJA_NEGATE:
    case JINJA_PLUS:
        a = jinja_eval(run, node->a);
        return run->code ? a : jinja_sign(run, a, node->kind == JINJA_NEGATE);
    case JINJA_BINARY:
        a = jinja_eval(run, node->a);
        b = jinja_eval(run, node->b);
        return run->code ? a : jinja_binary_op(run, (enum jinja_op)node->op, a, b);
    case JINJA_CONCAT:
        return eval_concat(run, node);
    case JINJA_COMPARE:
        return eval_compare(run, node);
    case JINJA_AND:
        a = jinja_eval(run, node->a);
        return run->code || !jinja_truth(a) ? a : jinja_eval(run, node->b);
    case JINJA_OR:
        a = jinja_eval(run, node->a);
        return run->code || jinja_truth(a) ? a : jinja_eval(run, node->b);
    case JINJA_IF_ELSE:
        return eval_if_else(run, node);
    default:
        return jinja_fail(run, E_FORMAT, "not an expression");
    }
}

struct jinja_value jinja_eval(struct jinja_run *run, const struct jinja_node *node)
{
    const struct jinja_node *outer = run->at;
    struct jinja_value v = jinja_none();
    run->at = node;
    if (jinja_enter(run) && jinja_step(run, 1)) v = eval_node(run, node);
    jinja_leave(run);
    run->at = outer;
    return v;
}
