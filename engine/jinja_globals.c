/* jinja_globals.c - functions that templates find without importing anything. */
#include "engine/jinja_filters.h"
#include "engine/jinja_run.h"

#include "shared/base/check.h"

#include <time.h>

static struct jinja_value global_raise(struct jinja_run *run, struct jinja_value self,
                                       const struct jinja_args *args)
{
    (void)self;
    struct jinja_value text = jinja_to_str(run, args->list[0]);
    if (!run->code) // the template speaks to the client: no place in front of its words
        run->code = error_set(run->err, E_INVALID, "%.*s", (int)(text.len < 400 ? text.len : 400),
                              text.text);
    return text;
}

static struct jinja_value global_range(struct jinja_run *run, struct jinja_value self,
                                       const struct jinja_args *args)
{
    (void)self;
    int64_t start = 0, stop, step = jinja_int_arg(run, args->list[2], 1), span;
    if (jinja_given(args->list[1])) {
        start = jinja_int_arg(run, args->list[0], 0);
        stop = jinja_int_arg(run, args->list[1], 0);
    } else {
        stop = jinja_int_arg(run, args->list[0], 0);
    }
    if (run->code) return jinja_none();
    if (!step) return jinja_fail(run, E_INVALID, "range() needs a step that isn't zero");
    if (__builtin_sub_overflow(stop, start, &span))
        return jinja_fail(run, E_LIMIT, "range is too big");
    uint64_t width = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    uint64_t way =
        (span > 0) == (step > 0) && span ? (span > 0 ? (uint64_t)span : 0 - (uint64_t)span) : 0;
    uint64_t count = way ? (way - 1) / width + 1 : 0;
    if (count > JINJA_RANGE_MAX)
        return jinja_fail(run, E_LIMIT, "range is too big: more than %d elements", JINJA_RANGE_MAX);
    struct jinja_value list = jinja_new_list(run, (uint32_t)count, JINJA_KIND_RANGE);
    for (uint32_t i = 0; i < list.list->count; i++)
        list.list->items[i] = jinja_int(start + (int64_t)i * step);
    return list;
}

/* dict(a=1), dict(other), dict(pairs), and the same for namespace(). */
static struct jinja_value mapping(struct jinja_run *run, const struct jinja_args *args,
                                  enum jinja_type type)
{
    struct jinja_value out = jinja_new_dict(run, type);
    if (args->count > 1) return jinja_fail(run, E_INVALID, "more than one positional argument");
    if (args->count && args->list[0].type == JINJA_DICT) {
        const struct jinja_dict *from = args->list[0].dict;
        for (uint32_t i = 0; i < from->count && jinja_step(run, 1); i++)
            jinja_dict_put(run, out.dict, from->pairs[i].key, from->pairs[i].value);
    } else if (args->count) {
        const struct jinja_list *pairs = jinja_iterate(run, args->list[0]);
        for (uint32_t i = 0; i < pairs->count && jinja_step(run, 1); i++) {
            const struct jinja_list *pair = jinja_iterate(run, pairs->items[i]);
            if (pair->count != 2)
                return jinja_fail(run, E_INVALID, "element %u isn't a pair of key and value", i);
            jinja_dict_put(run, out.dict, pair->items[0], pair->items[1]);
        }
    }
    for (uint32_t i = 0; i < args->named_count && !run->code; i++)
        jinja_dict_put(run, out.dict, jinja_str(args->named[i].name), args->named[i].value);
    return out;
}

static struct jinja_value global_dict(struct jinja_run *run, struct jinja_value self,
                                      const struct jinja_args *args)
{
    (void)self;
    return mapping(run, args, JINJA_DICT);
}

static struct jinja_value global_namespace(struct jinja_run *run, struct jinja_value self,
                                           const struct jinja_args *args)
{
    (void)self;
    return mapping(run, args, JINJA_NAMESPACE);
}

static struct jinja_value global_strftime(struct jinja_run *run, struct jinja_value self,
                                          const struct jinja_args *args)
{
    (void)self;
    struct jinja_value format = args->list[0];
    char pattern[256], text[1024];
    time_t now = (time_t)run->now;
    struct tm local;
    if (format.type != JINJA_STRING)
        return jinja_fail(run, E_INVALID, "strftime_now needs a format string");
    if (format.len >= sizeof pattern || memchr(format.text, 0, format.len))
        return jinja_fail(run, E_LIMIT, "strftime_now's format is too long");
    memcpy(pattern, format.text, format.len);
    pattern[format.len] = 0;
    if (!localtime_r(&now, &local)) return jinja_fail(run, E_INVALID, "the time is out of range");
    size_t len = strftime(text, sizeof text, pattern, &local);
    return jinja_new_str(run, (struct str){text, len});
}

static const struct jinja_builtin globals[] = {
    {"dict", global_dict, NULL, 0},
    {"namespace", global_namespace, NULL, 0},
    {"raise_exception", global_raise, "message", 1},
    {"range", global_range, "start stop step", 1},
    {"strftime_now", global_strftime, "format", 1},
};

const struct jinja_builtin *jinja_global(struct str name)
{
    return jinja_builtin_find(globals, ARRAY_LEN(globals), name);
}
