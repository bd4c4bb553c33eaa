/* jinja_methods.c - methods of dict, list and loop, and the lookup of all. Those that would change
 * their object don't exist: the reference's sandbox refuses them. */
#include "engine/jinja_methods.h"

#include "engine/jinja_run.h"
#include "shared/base/check.h"

#define METHOD(name)                                                               \
    static struct jinja_value name(struct jinja_run *run, struct jinja_value self, \
                                   const struct jinja_args *args)

/* ---- dict ---- */

METHOD(dict_get)
{
    const struct jinja_value *found = jinja_dict_get(run, self.dict, args->list[0]);
    if (found) return *found;
    return jinja_given(args->list[1]) ? args->list[1] : jinja_none();
}

METHOD(dict_items)
{
    (void)args;
    struct jinja_value out = jinja_new_list(run, self.dict->count, JINJA_KIND_VIEW);
    for (uint32_t i = 0; i < out.list->count && jinja_step(run, 1); i++)
        out.list->items[i] =
            jinja_new_pair(run, self.dict->pairs[i].key, self.dict->pairs[i].value);
    return out;
}

METHOD(dict_keys)
{
    (void)args;
    struct jinja_value out = jinja_new_list(run, self.dict->count, JINJA_KIND_VIEW);
    for (uint32_t i = 0; i < out.list->count; i++)
        out.list->items[i] = self.dict->pairs[i].key;
    return out;
}

METHOD(dict_values)
{
    (void)args;
    struct jinja_value out = jinja_new_list(run, self.dict->count, JINJA_KIND_VIEW);
    for (uint32_t i = 0; i < out.list->count; i++)
        out.list->items[i] = self.dict->pairs[i].value;
    return out;
}

METHOD(any_copy) // nothing changes, so the original will do
{
    (void)run, (void)args;
    return self;
}

static const struct jinja_builtin dict_methods[] = {
    {"copy", any_copy, "", 0},  {"get", dict_get, "key default", 1}, {"items", dict_items, "", 0},
    {"keys", dict_keys, "", 0}, {"values", dict_values, "", 0},
};

/* ---- list ---- */

METHOD(list_count)
{
    int64_t count = 0;
    for (uint32_t i = 0; i < self.list->count && !run->code; i++)
        count += jinja_equal(run, self.list->items[i], args->list[0]);
    return jinja_int(count);
}

METHOD(list_index)
{
    for (uint32_t i = 0; i < self.list->count && !run->code; i++)
        if (jinja_equal(run, self.list->items[i], args->list[0])) return jinja_int(i);
    return jinja_fail(run, E_INVALID, "value is not in the list");
}

static const struct jinja_builtin list_methods[] = {
    {"copy", any_copy, "", 0},
    {"count", list_count, "value", 1},
    {"index", list_index, "value", 1},
};

/* ---- loop ---- */

METHOD(loop_cycle)
{
    if (!args->count) return jinja_fail(run, E_INVALID, "no items for cycling given");
    return args->list[self.loop->index % args->count];
}

/* Whether the arguments differ from those of the last call. */
METHOD(loop_changed)
{
    struct jinja_value now = jinja_new_list(run, args->count, JINJA_KIND_TUPLE);
    for (uint32_t i = 0; i < now.list->count; i++)
        now.list->items[i] = args->list[i];
    struct jinja_value *last = self.loop->last_change;
    bool changed = !last || !jinja_equal(run, *last, now);
    if (!last) last = self.loop->last_change = jinja_alloc(run, 1, sizeof *last);
    if (last) *last = now;
    return jinja_bool(changed);
}

static const struct jinja_builtin loop_methods[] = {
    {"changed", loop_changed, NULL, 0},
    {"cycle", loop_cycle, NULL, 0},
};

/* ---- lookup ---- */

const struct jinja_builtin *jinja_method(struct jinja_value object, struct str name)
{
    switch ((enum jinja_type)object.type) {
    case JINJA_STRING:
        return jinja_builtin_find(jinja_str_methods, jinja_str_method_count, name);
    case JINJA_DICT:
        return jinja_builtin_find(dict_methods, ARRAY_LEN(dict_methods), name);
    case JINJA_LIST:
        if (object.list->kind > JINJA_KIND_TUPLE) return NULL;
        return jinja_builtin_find(list_methods, ARRAY_LEN(list_methods), name);
    case JINJA_LOOP:
        return jinja_builtin_find(loop_methods, ARRAY_LEN(loop_methods), name);
    default:
        return NULL;
    }
}

bool jinja_method_is_unsafe(struct jinja_value object, struct str name)
{
    static const char *const of_list[] = {"append", "clear", "pop",    "reverse",
                                          "insert", "sort",  "extend", "remove"};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    bool list = object.type == JINJA_LIST && object.list->kind == JINJA_KIND_LIST;
    const char *const *names = list ? of_list : of_dict;
    size_t count = list ? ARRAY_LEN(of_list) : ARRAY_LEN(of_dict);
    if (!list && object.type != JINJA_DICT) return false;
    for (size_t i = 0; i < count; i++)
        if (str_equal(name, str_of(names[i]))) return true;
    return false;
}
