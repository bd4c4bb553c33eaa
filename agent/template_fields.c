#include "agent/template_fields.h"

#include "agent/request_field.h"
#include "shared/base/check.h"

static int check_effort(struct str effort, struct api_error *e)
{
    static const char *const names[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    if (!effort.data) return 0;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (str_equal(effort, str_of(names[i]))) return 0;
    return api_error_set(e, 400, "invalid_value", "reasoning_effort",
                         "Invalid value: '%.64s'. Supported values are: 'none', 'minimal', 'low', "
                         "'medium', 'high', 'xhigh', and 'max'.",
                         effort.data);
}

/* NULL, or what these kwargs say of it. */
static const struct json *said_thinking(const struct json *kwargs)
{
    const struct json *v = json_get_set(kwargs, "enable_thinking");
    if (!v) v = json_get_set(kwargs, "thinking");
    return v && json_type(v) == JSON_BOOL ? v : NULL;
}

static void put_as_sent(struct json_writer *w, const struct json *member)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_print(member, &text, false);
    json_field_raw(w, json_name(member), buf_str(&text));
    buf_deinit(&text);
}

static struct json *merge(const struct json *kwargs, struct str effort, int thinking)
{
    struct buf text;
    struct json_writer w;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_writer_init(&w, &text);
    json_object_begin(&w);
    if (effort.data && !json_get(kwargs, "reasoning_effort"))
        json_field_str(&w, "reasoning_effort", effort);
    if (thinking >= 0 && !json_get(kwargs, "enable_thinking"))
        json_field_bool(&w, "enable_thinking", thinking == 1);
    if (thinking >= 0 && !json_get(kwargs, "thinking"))
        json_field_bool(&w, "thinking", thinking == 1);
    for (const struct json *m = json_first(kwargs); m; m = json_next(m))
        put_as_sent(&w, m);
    json_object_end(&w);
    struct json *merged = json_parse(text.data, text.len, NULL);
    buf_deinit(&text);
    CHECK(merged); // of a document that was parsed, with three values more
    return merged;
}

int template_fields_parse(const struct json *body, struct template_fields *out, struct api_error *e)
{
    struct str effort = {0};
    bool enable = false;
    *out = (struct template_fields){.thinking = -1};
    if (field_typed(body, "chat_template_kwargs", JSON_OBJECT, &out->kwargs, e) != 0 ||
        field_string(body, "reasoning_effort", NULL, &effort, e) != 0 ||
        check_effort(effort, e) != 0 || field_bool(body, "enable_thinking", &enable, e) != 0) {
        return -1;
    }
    const struct json *said = said_thinking(out->kwargs);
    bool is_set = json_get_set(body, "enable_thinking") != NULL;
    if (said)
        out->thinking = json_is_true(said);
    else if (is_set)
        out->thinking = enable;
    else if (str_equal(effort, STR("none")))
        out->thinking = 0;
    if (!is_set && !effort.data) return 0;
    out->kwargs = out->merged = merge(out->kwargs, effort, out->thinking);
    return 0;
}

void template_fields_deinit(struct template_fields *f)
{
    json_destroy(f->merged);
    *f = (struct template_fields){.thinking = -1};
}
