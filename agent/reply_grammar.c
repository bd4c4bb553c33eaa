#include "agent/reply_grammar.h"

#include "shared/base/check.h"

#include <stdio.h>
#include <stdlib.h>

struct composer {
    const struct chat_request *request;
    const struct reply_formats *formats;
    const struct reply_plan *plan;
    struct grammar_cache *cache;
    uint64_t since_ms;
    struct tool *tools; // owned: as struct tool_list has them, with what is enforced of each
    struct tool_list list;
    int thinking;
};

/* ---- parts (engine/grammar.h) ---- */

static void part_begin(struct json_writer *w, const char *kind)
{
    json_object_begin(w);
    json_key(w, kind);
    json_array_begin(w);
}

static void part_end(struct json_writer *w)
{
    json_array_end(w);
    json_object_end(w);
}

static void put_part(struct json_writer *w, const char *kind, const char *text)
{
    json_object_begin(w);
    json_field_text(w, kind, text);
    json_object_end(w);
}

static void put_form(struct json_writer *w, const struct response_format *f)
{
    struct buf schema;
    json_object_begin(w);
    switch (f->kind) {
    case GRAMMAR_REGEX:
        json_field_str(w, "regex", f->regex);
        break;
    case GRAMMAR_JSON_SCHEMA:
        buf_init(&schema, BUF_MAX_INTERNAL);
        json_print(f->schema, &schema, false);
        json_field_raw(w, "schema", buf_str(&schema));
        buf_deinit(&schema);
        break;
    case GRAMMAR_JSON_OBJECT:
        json_field_raw(w, "schema", STR("{\"type\":\"object\"}"));
        break;
    case GRAMMAR_PARTS: // never asked for
        UNREACHABLE();
    }
    json_object_end(w);
}

/* Content of the form that is asked for; without one any, but no calls. False: then anything will do. */
static bool put_content(const struct composer *c, struct json_writer *w)
{
    const struct response_format *form = &c->request->response_format;
    const struct reasoning_format *reasoning = c->plan->options.reasoning;
    const struct tool_format *whole = reasoning ? reasoning->whole : NULL;
    if (!form->is_set) {
        bool is_barred = c->request->tools.offered != NULL;
        return is_barred && tool_format_write_content(c->formats->tools, (struct str){0}, w);
    }
    struct buf part;
    struct json_writer writer;
    buf_init(&part, BUF_MAX_INTERNAL);
    json_writer_init(&writer, &part);
    put_form(&writer, form);
    bool is_written =
        tool_format_write_content(whole ? whole : c->plan->options.tools, buf_str(&part), w);
    buf_deinit(&part);
    return is_written;
}

/* The answer behind its reasoning. False: it may be anything. */
static bool put_answer(const struct composer *c, struct json_writer *w)
{
    bool has_form = c->request->response_format.is_set;
    const struct tool_format *tools = c->plan->options.tools;
    if (!tools) return put_content(c, w);
    if (!has_form || c->list.choice == TOOL_CHOICE_REQUIRED)
        return tool_format_write_grammar(tools, &c->list, w);
    struct tool_list calls = c->list; // either calls, or an answer in its form
    calls.choice = TOOL_CHOICE_REQUIRED;
    part_begin(w, "any");
    CHECK(tool_format_write_grammar(tools, &calls, w) && put_content(c, w));
    part_end(w);
    return true;
}

/* Thoughts have no calls either, which are read there, too: they'd be as the model likes. */
static void put_thought(const struct composer *c, struct json_writer *w)
{
    const struct reasoning_format *f = c->plan->options.reasoning;
    const struct tool_format *tools = c->plan->options.tools;
    bool is_open = c->plan->options.starts_in_reasoning;
    if (!is_open) {
        put_part(w, "regex", "\\s{0,8}");
        put_part(w, "token", f->open);
    }
    part_begin(w, "until");
    json_put_text(w, f->close);
    for (size_t i = 0; tools && tools->opens[i]; i++)
        json_put_text(w, tools->opens[i]);
    part_end(w);
    put_part(w, "token", f->close);
    put_part(w, "regex", "\\s{0,8}");
}

static void put_reply(const struct composer *c, struct str answer, struct json_writer *w)
{
    const struct reasoning_format *f = c->plan->options.reasoning;
    bool is_open = c->plan->options.starts_in_reasoning;
    if (!f || !f->close || (!is_open && c->thinking == 0)) {
        json_put_raw(w, answer);
        return;
    }
    if (!is_open) part_begin(w, "any"); // it may think, or not
    part_begin(w, "all");
    put_thought(c, w);
    json_put_raw(w, answer);
    part_end(w);
    if (!is_open) {
        json_put_raw(w, answer);
        part_end(w);
    }
}

/* ---- compiling ---- */

/* 0 and *out, NULL where nothing is to be enforced, or grammar_compile's codes. */
static int compile(const struct composer *c, struct grammar **out, struct error *err)
{
    struct buf answer, source;
    struct json_writer w;
    int rc = 0;
    buf_init(&answer, GRAMMAR_SOURCE_MAX); // formats write more than was sent
    buf_init(&source, GRAMMAR_SOURCE_MAX);
    json_writer_init(&w, &answer);
    if (put_answer(c, &w)) {
        json_writer_init(&w, &source);
        put_reply(c, buf_str(&answer), &w);
        if (answer.overflow || source.overflow)
            rc = error_set(err, E_LIMIT, "the grammar's source has more than %zu bytes",
                           GRAMMAR_SOURCE_MAX);
        else
            rc = grammar_cache_get(
                c->cache, &(struct grammar_wish){GRAMMAR_PARTS, buf_str(&source), c->since_ms}, out,
                err);
    }
    buf_deinit(&answer);
    buf_deinit(&source);
    return rc;
}

static int check_schema(const struct composer *c, const struct json *schema, struct error *err)
{
    struct buf text;
    if (!schema) return 0;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_print(schema, &text, false);
    struct grammar_wish wish = {GRAMMAR_JSON_SCHEMA, buf_str(&text), c->since_ms};
    int rc = grammar_cache_check(c->cache, &wish, err);
    buf_deinit(&text);
    return rc;
}

/* The list has its own order where only some are allowed. */
static size_t index_of(const struct composer *c, size_t item)
{
    size_t index = 0;
    for (const struct json *t = json_first(c->request->tools.offered); t;
         t = json_next(t), index++) {
        const char *name = json_string(json_get(json_get(t, "function"), "name"), NULL);
        if (str_equal(str_of(name), c->tools[item].name)) break;
    }
    return index;
}

static int refuse_schema(int code, const char *param, const struct error *err, struct api_error *e)
{
    const char *name = code == E_UNSUPPORTED ? "unsupported_value" : "invalid_value";
    return api_error_set(e, 400, name, param, "Invalid '%s': %s.", param, err->text);
}

/* A schema has something that can't be enforced. Where nobody asked for strictness, its arguments are any
 * object then; *is_relaxed: that helps. -1 and *e: else. */
static int relax(struct composer *c, bool *is_relaxed, struct api_error *e)
{
    *is_relaxed = false;
    for (size_t i = 0; i < c->list.count; i++) {
        struct tool *tool = &c->tools[i];
        struct error err = {0};
        if (!tool->is_strict) continue;
        int rc = check_schema(c, tool->parameters, &err);
        if (rc == 0) continue;
        if (c->request->tools.list.items[i].is_strict) {
            char param[64];
            snprintf(param, sizeof param, "tools[%zu].function.parameters", index_of(c, i));
            return refuse_schema(rc, param, &err, e);
        }
        tool->is_strict = false;
        *is_relaxed = true;
    }
    return 0;
}

/* Together they are too large: likewise. False: none can give way. */
static bool relax_all(struct composer *c)
{
    bool is_relaxed = false;
    for (size_t i = 0; i < c->list.count; i++) {
        struct tool *tool = &c->tools[i];
        if (!tool->is_strict || c->request->tools.list.items[i].is_strict) continue;
        tool->is_strict = false;
        is_relaxed = true;
    }
    return is_relaxed;
}

static int compile_any(struct composer *c, struct grammar **out, struct api_error *e)
{
    struct error err = {0};
    bool is_relaxed = false;
    int rc = compile(c, out, &err);
    if (rc == 0) return 0;
    if (relax(c, &is_relaxed, e) != 0) return -1;
    if (is_relaxed && (rc = compile(c, out, &err)) == 0) return 0;
    if (rc == E_LIMIT && relax_all(c) && (rc = compile(c, out, &err)) == 0) return 0;
    const struct response_format *format = &c->request->response_format;
    return refuse_schema(rc, format->is_set ? response_format_param(format) : "tools", &err, e);
}

int reply_grammar_compile(const struct chat_request *r, const struct reply_formats *formats,
                          const struct reply_plan *plan, struct grammar_cache *cache,
                          uint64_t since_ms, struct grammar **out, struct api_error *e)
{
    const struct tool_list *list = &r->tools.list;
    *out = NULL;
    if (list->choice == TOOL_CHOICE_REQUIRED && !plan->options.tools) {
        return api_error_set(
            e, 400, "unsupported_value", "tool_choice",
            "This server does not look for calls of tools, so it can't demand one: "
            "it was started with --tool-call-parser none.");
    }
    if (!r->tools.offered && !plan->options.reasoning) // the grammar of a form alone, most of all
        return response_format_compile(&r->response_format, cache, since_ms, out, e);
    struct composer c = {
        .request = r,
        .formats = formats,
        .plan = plan,
        .cache = cache,
        .since_ms = since_ms,
        .tools = list->count > 0 ? xmemdup(list->items, list->count * sizeof *list->items) : NULL,
        .list = *list,
        .thinking = r->template_fields.thinking,
    };
    c.list.items = c.tools;
    /* Calls that are demanded are valid ones. */
    bool is_forced = list->choice == TOOL_CHOICE_REQUIRED || r->response_format.is_set;
    for (size_t i = 0; i < list->count && is_forced; i++)
        c.tools[i].is_strict = true;
    int rc = compile_any(&c, out, e);
    free(c.tools);
    return rc;
}
