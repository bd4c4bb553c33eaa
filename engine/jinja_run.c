#include "engine/jinja_run.h"

#include <stdarg.h>
#include <stdio.h>

/* ---- errors and limits ---- */

struct jinja_value jinja_fail(struct jinja_run *run, int code, const char *fmt, ...)
{
    struct jinja_value nothing = jinja_undefined(JINJA_UNDEFINED_NAME, STR(""));
    if (run->code) return nothing;
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    run->code = run->at ? error_set(run->err, code, "chat template %u:%u: %s", run->at->line,
                                    run->at->column, text)
                        : error_set(run->err, code, "chat template: %s", text);
    return nothing;
}

static int cut(uint32_t len)
{
    return len < 80 ? (int)len : 80;
}

struct jinja_value jinja_fail_undefined(struct jinja_run *run, struct jinja_value v)
{
    struct jinja_value owner = {.type = v.owner};
    struct jinja_list list = {NULL, 0, JINJA_KIND_LIST, false};
    if (v.owner == JINJA_LIST) owner.list = &list;
    if (v.why == JINJA_UNDEFINED_UNSAFE)
        return jinja_fail(run, E_INVALID, "access to '%.*s' of a %s is not allowed", cut(v.len),
                          v.text, jinja_type_name(owner));
    if (v.why == JINJA_UNDEFINED_MEMBER)
        return jinja_fail(run, E_INVALID, "'%s' object has no attribute '%.*s'",
                          jinja_type_name(owner), cut(v.len), v.text);
    return jinja_fail(run, E_INVALID, "'%.*s' is undefined", cut(v.len), v.text);
}

bool jinja_step(struct jinja_run *run, uint64_t count)
{
    run->steps += count;
    if (run->steps > JINJA_STEPS_MAX)
        jinja_fail(run, E_LIMIT, "rendering takes more than %llu steps",
                   (unsigned long long)JINJA_STEPS_MAX);
    return !run->code;
}

bool jinja_enter(struct jinja_run *run)
{
    if (++run->depth > JINJA_DEPTH_MAX)
        jinja_fail(run, E_LIMIT, "more than %d levels deep", JINJA_DEPTH_MAX);
    return !run->code;
}

void jinja_leave(struct jinja_run *run)
{
    run->depth--;
}

void *jinja_alloc(struct jinja_run *run, size_t count, size_t size)
{
    if (run->code) return NULL;
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > JINJA_MEMORY_MAX ||
        run->arena.bytes + bytes > JINJA_MEMORY_MAX) {
        jinja_fail(run, E_LIMIT, "rendering takes more than %zu MiB", JINJA_MEMORY_MAX >> 20);
        return NULL;
    }
    /* Zeroing and copying cost time too. */
    if (!jinja_step(run, bytes / (JINJA_TEXT_STEP * 16))) return NULL;
    return arena_alloc(&run->arena, bytes ? bytes : 1);
}

/* ---- buffers that become values ---- */

void jinja_buf_init(struct buf *b)
{
    buf_init(b, JINJA_MEMORY_MAX);
}

struct jinja_value jinja_buf_take(struct jinja_run *run, struct buf *b)
{
    if (b->overflow)
        jinja_fail(run, E_LIMIT, "a text is longer than %zu MiB", JINJA_MEMORY_MAX >> 20);
    struct jinja_value v = jinja_new_str(run, buf_str(b));
    buf_deinit(b);
    return v;
}

/* ---- variables ---- */

struct jinja_scope *jinja_scope_push(struct jinja_run *run, struct jinja_scope *parent)
{
    struct jinja_scope *scope = jinja_alloc(run, 1, sizeof *scope);
    if (scope) scope->parent = parent;
    return scope;
}

void jinja_assign(struct jinja_run *run, struct jinja_scope *scope, struct str name,
                  struct jinja_value value)
{
    if (scope) // else memory was spent when it should have been made
        jinja_dict_put(run, &scope->variables, jinja_str(name), value);
}

const struct jinja_value *jinja_lookup(struct jinja_run *run, struct str name)
{
    for (const struct jinja_scope *scope = run->scope; scope; scope = scope->parent) {
        const struct jinja_value *found = jinja_dict_get(run, &scope->variables, jinja_str(name));
        if (found) return found;
    }
    return NULL;
}

/* ---- builtins ---- */

const struct jinja_builtin *jinja_builtin_find(const struct jinja_builtin *table, size_t count,
                                               struct str name)
{
    for (size_t i = 0; i < count; i++)
        if (str_equal(name, str_of(table[i].name))) return &table[i];
    return NULL;
}
