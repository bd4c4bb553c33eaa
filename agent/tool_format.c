#include "agent/tool_format.h"

#include "agent/tool_formats.h"
#include "agent/tool_reader.h"
#include "shared/base/check.h"

/* In the order in which a template is asked about. */
static const struct tool_format *const formats[] = {
    &tool_format_gpt_oss,      &tool_format_kimi,         &tool_format_deepseek_v4,
    &tool_format_deepseek_v32, &tool_format_deepseek_v31, &tool_format_deepseek_v3,
    &tool_format_mistral,      &tool_format_mistral_list, &tool_format_internlm,
    &tool_format_seed,         &tool_format_qwen3coder,   &tool_format_glm,
    &tool_format_hermes,       &tool_format_llama3,
};

static bool is_named(const struct tool_format *f, const char *name)
{
    if (strcmp(f->name, name) == 0) return true;
    for (size_t i = 0; f->aliases[i]; i++)
        if (strcmp(f->aliases[i], name) == 0) return true;
    return false;
}

const struct tool_format *tool_format_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (is_named(formats[i], name)) return formats[i];
    return NULL;
}

const struct tool_format *tool_format_of_template(struct str chat_template)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (formats[i]->is_of_template(chat_template)) return formats[i];
    return NULL;
}

const char *tool_format_names(void)
{
    return "hermes, qwen2d5, qwen3, qwen3coder, llama3, internlm, intern-s1, mistral, "
           "mistral-list, "
           "glm, glm47, deepseek-v3, deepseek-v3.1, deepseek-v3.2, deepseek-v4, seed-oss, kimi-k2, "
           "gpt-oss";
}

static void write_all_begin(struct json_writer *w)
{
    json_object_begin(w);
    json_key(w, "all");
    json_array_begin(w);
}

static void write_all_end(struct json_writer *w)
{
    json_array_end(w);
    json_object_end(w);
}

static void write_text(struct json_writer *w, const struct tool_format *f, const char *text)
{
    if (text) tool_write_text(w, f->tokens, text);
}

/* One of the calls that there can be. */
static void write_any_call(struct json_writer *w, const struct tool_format *f,
                           const struct tool_list *list)
{
    json_object_begin(w);
    json_key(w, "any");
    json_array_begin(w);
    for (size_t i = 0; i < list->count; i++) {
        write_all_begin(w);
        f->write_call(w, &list->items[i]);
        write_all_end(w);
    }
    json_array_end(w);
    json_object_end(w);
}

/* At least one call, with what stands around all of them. */
static void write_block(struct json_writer *w, const struct tool_format *f,
                        const struct tool_list *list)
{
    write_all_begin(w);
    write_text(w, f, f->before);
    json_object_begin(w);
    json_key(w, "repeat");
    write_any_call(w, f, list);
    json_field_int(w, "min", 1);
    int most = list->choice == TOOL_CHOICE_REQUIRED ? TOOL_CALLS_MAX : 0;
    if (list->calls_max > 0) most = list->calls_max;
    if (most > 0)
        json_field_int(w, "max", most); // told apart: states that know the number aren't shared
    if (f->between) {
        json_key(w, "between");
        write_all_begin(w);
        write_text(w, f, f->between);
        write_all_end(w);
    }
    json_object_end(w);
    write_text(w, f, f->after);
    write_all_end(w);
}

/* Text that no reader takes for a call's beginning. */
static void write_free_text(struct json_writer *w, const struct tool_format *f)
{
    json_object_begin(w);
    json_key(w, "until");
    json_array_begin(w);
    for (size_t i = 0; f->opens[i]; i++)
        json_put_text(w, f->opens[i]);
    json_array_end(w);
    json_object_end(w);
}

/* Any text, blocks of calls between. */
static void write_mixed(struct json_writer *w, const struct tool_format *f,
                        const struct tool_list *list)
{
    write_all_begin(w);
    write_free_text(w, f);
    json_object_begin(w);
    json_key(w, "repeat");
    write_all_begin(w);
    write_block(w, f, list);
    write_free_text(w, f);
    write_all_end(w);
    json_field_int(w, "min", 0);
    if (list->calls_max > 0) json_field_int(w, "max", 1);
    json_object_end(w);
    write_all_end(w);
}

/* Where a call may come without a tag, it is all that is said: or a text that can't be taken for one. */
static void write_call_or_text(struct json_writer *w, const struct tool_format *f,
                               const struct tool_list *list)
{
    json_object_begin(w);
    json_key(w, "any");
    json_array_begin(w);
    write_block(w, f, list);
    json_object_begin(w);
    json_field_text(w, "text", "");
    json_object_end(w);
    write_all_begin(w);
    json_object_begin(w);
    json_field_text(w, "regex", f->text_begin);
    json_object_end(w);
    write_free_text(w, f);
    write_all_end(w);
    json_array_end(w);
    json_object_end(w);
}

static bool is_any_strict(const struct tool_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].is_strict) return true;
    return false;
}

bool tool_format_write_grammar(const struct tool_format *f, const struct tool_list *list,
                               struct json_writer *w)
{
    if (list->choice == TOOL_CHOICE_NONE) return false;
    if (list->choice == TOOL_CHOICE_AUTO && !is_any_strict(list)) return false;
    if (f->write_grammar) {
        f->write_grammar(w, list);
        return true;
    }
    if (list->choice == TOOL_CHOICE_REQUIRED)
        write_block(w, f, list);
    else if (f->opens_at_start)
        write_call_or_text(w, f, list);
    else
        write_mixed(w, f, list);
    return true;
}

bool tool_format_write_content(const struct tool_format *f, struct str part, struct json_writer *w)
{
    if (!part.data && !f) return false; // calls are content then
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    if (!part.data) {
        struct json_writer writer;
        json_writer_init(&writer, &text);
        write_free_text(&writer, f);
        part = buf_str(&text);
    }
    if (f && f->write_content)
        f->write_content(w, part);
    else
        json_put_raw(w, part);
    buf_deinit(&text);
    return true;
}

bool tool_template_has(struct str chat_template, const char *text)
{
    return memmem(chat_template.data, chat_template.len, text, strlen(text)) != NULL;
}
