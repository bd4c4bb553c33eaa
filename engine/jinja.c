#include "engine/jinja.h"

#include "engine/jinja_parser.h"
#include "engine/jinja_run.h"
#include "shared/base/check.h"
#include "shared/base/rng.h"

#include <stdlib.h>

struct jinja {
    struct arena arena; // of everything parsed
    struct jinja_nodes body;
};

/* What jinja_open hands out; the template stands beside the run, which needn't know it. */
struct rendering {
    struct jinja_run run; // first: jinja_close casts back
    const struct jinja *template;
};

int jinja_create(struct str source, struct jinja **out, struct error *err)
{
    if (source.len > JINJA_SOURCE_MAX)
        return error_set(err, E_LIMIT, "chat template is longer than %zu MiB",
                         JINJA_SOURCE_MAX >> 20);
    struct jinja *t = xcalloc(1, sizeof *t);
    arena_init(&t->arena);
    int rc = jinja_parse_source(source, &t->arena, &t->body, err);
    if (rc) {
        jinja_destroy(t);
        return rc;
    }
    *out = t;
    return 0;
}

void jinja_destroy(struct jinja *t)
{
    if (!t) return;
    arena_deinit(&t->arena);
    free(t);
}

struct jinja_run *jinja_open(const struct jinja *t, int64_t now, struct error *err)
{
    struct rendering *r = xcalloc(1, sizeof *r);
    r->template = t;
    r->run.err = err;
    r->run.now = now;
    arena_init(&r->run.arena);
    random_bytes(r->run.hash_key, sizeof r->run.hash_key);
    r->run.scope = jinja_scope_push(&r->run, NULL);
    return &r->run;
}

void jinja_close(struct jinja_run *run)
{
    arena_deinit(&run->arena);
    free((struct rendering *)run);
}

void jinja_set(struct jinja_run *run, struct str name, struct jinja_value value)
{
    jinja_assign(run, run->scope, name, value);
}

int jinja_render(struct jinja_run *run, struct buf *out)
{
    run->out = out;
    if (!run->code) jinja_exec(run, &((struct rendering *)run)->template->body);
    return run->code;
}

static struct jinja_value from_object(struct jinja_run *run, const struct json *v)
{
    struct jinja_value dict = jinja_new_dict(run, JINJA_DICT);
    for (const struct json *m = json_first(v); m && jinja_step(run, 1); m = json_next(m))
        jinja_dict_put(run, dict.dict, jinja_str(str_of(json_name(m))), jinja_from_json(run, m));
    return dict;
}

static struct jinja_value from_array(struct jinja_run *run, const struct json *v)
{
    struct jinja_value list = jinja_new_list(run, (uint32_t)json_len(v), JINJA_KIND_LIST);
    const struct json *element = json_first(v);
    for (uint32_t i = 0; i < list.list->count && jinja_step(run, 1); i++) {
        list.list->items[i] = jinja_from_json(run, element);
        element = json_next(element);
    }
    return list;
}

struct jinja_value jinja_from_json(struct jinja_run *run, const struct json *v)
{
    struct str text;
    if (!v || run->code) return jinja_none();
    switch (json_type(v)) {
    case JSON_NULL:
        return jinja_none();
    case JSON_BOOL:
        return jinja_bool(json_is_true(v));
    case JSON_NUMBER:
        return json_is_integer(v) ? jinja_int((int64_t)json_number(v))
                                  : jinja_float(json_number(v));
    case JSON_STRING:
        text.data = json_string(v, &text.len);
        return jinja_str(text);
    case JSON_ARRAY:
        return from_array(run, v);
    case JSON_OBJECT:
        return from_object(run, v);
    }
    return jinja_none();
}
