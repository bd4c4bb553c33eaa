#include "agent/reasoning_format.h"

#include "agent/tool_formats.h"
#include "shared/base/check.h"

static bool has(struct str text, const char *part)
{
    return memmem(text.data, text.len, part, strlen(part)) != NULL;
}

static bool is_gpt_oss(struct str t)
{
    return tool_format_gpt_oss.is_of_template(t);
}

static bool is_seed(struct str t)
{
    return has(t, "<seed:think>");
}

static bool is_mistral(struct str t)
{
    return has(t, "[THINK]") && has(t, "[/THINK]");
}

static bool is_deepseek_v3(struct str t)
{
    return has(t, "<｜Assistant｜>") && has(t, "thinking is defined") && has(t, "</think>");
}

/* R1's first template takes out what was thought, and the model writes the opening tag or doesn't. */
static bool is_closed_only(struct str t)
{
    return has(t, "</think>") && !has(t, "<think>");
}

static bool is_think(struct str t)
{
    return has(t, "<think>") && has(t, "</think>");
}

/* In the order in which a template is asked about. */
static const struct reasoning_format formats[] = {
    {.name = "gpt-oss",
     .aliases = {"gpt_oss", "openai_gptoss", "openai", "harmony"},
     .whole = &tool_format_gpt_oss,
     .is_of_template = is_gpt_oss},
    {.name = "seed-oss",
     .aliases = {"seed_oss"},
     .open = "<seed:think>",
     .close = "</seed:think>",
     .is_of_template = is_seed},
    {.name = "mistral", .open = "[THINK]", .close = "[/THINK]", .is_of_template = is_mistral},
    {.name = "deepseek-v3",
     .aliases = {"deepseek_v3", "deepseek-v3.1", "deepseek-v32", "deepseek-v3.2", "deepseek-v4"},
     .open = "<think>",
     .close = "</think>",
     .start = REASONING_IF_ASKED,
     .is_of_template = is_deepseek_v3},
    {.name = "default",
     .aliases = {"deepseek-r1", "deepseek_r1", "qwen-qwq"},
     .open = "<think>",
     .close = "</think>",
     .start = REASONING_ALWAYS,
     .is_of_template = is_closed_only},
    {.name = "qwen3",
     .aliases = {"intern-s1", "glm45", "glm47", "kimi_k2", "nemotron_v3", "step3"},
     .open = "<think>",
     .close = "</think>",
     .start = REASONING_BY_PROMPT,
     .is_of_template = is_think},
};

static bool is_named(const struct reasoning_format *f, const char *name)
{
    if (strcmp(f->name, name) == 0) return true;
    for (size_t i = 0; f->aliases[i]; i++)
        if (strcmp(f->aliases[i], name) == 0) return true;
    return false;
}

const struct reasoning_format *reasoning_format_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (is_named(&formats[i], name)) return &formats[i];
    return NULL;
}

const struct reasoning_format *reasoning_format_of_template(struct str chat_template)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (formats[i].is_of_template(chat_template)) return &formats[i];
    return NULL;
}

const char *reasoning_format_names(void)
{
    return "default, deepseek-r1, qwen-qwq, qwen3, intern-s1, deepseek-v3, glm45, seed-oss, "
           "mistral, gpt-oss";
}

bool reasoning_format_starts_in(const struct reasoning_format *f, struct str prompt, int thinking)
{
    if (!f->open) return false;
    struct str end = str_trim(prompt);
    if (str_ends_with(end, str_of(f->open))) return true;
    if (thinking == 0 || str_ends_with(end, str_of(f->close))) return false;
    return f->start == REASONING_ALWAYS || (f->start == REASONING_IF_ASKED && thinking == 1);
}
