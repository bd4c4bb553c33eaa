#include "engine/lmdeploy_template.h"

#include "shared/base/check.h"

#include <stddef.h>
#include <string.h>

/* ---- built-in ---- */

#define CHATML                                                                               \
    .system = "<|im_start|>system\n", .eosys = "<|im_end|>\n", .user = "<|im_start|>user\n", \
    .eoh = "<|im_end|>\n", .assistant = "<|im_start|>assistant\n", .eoa = "<|im_end|>",      \
    .separator = "\n"

#define LLAMA3                                                                                \
    .begin = "<|begin_of_text|>", .system = "<|start_header_id|>system<|end_header_id|>\n\n", \
    .eosys = "<|eot_id|>", .user = "<|start_header_id|>user<|end_header_id|>\n\n",            \
    .eoh = "<|eot_id|>", .assistant = "<|start_header_id|>assistant<|end_header_id|>\n\n",    \
    .eoa = "<|eot_id|>"

#define LLAMA3_1                                                                               \
    LLAMA3, .tool = "<|start_header_id|>ipython<|end_header_id|>\n\n", .eotool = "<|eot_id|>", \
            .meta = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"       \
                    "You are a helpful assistant.",                                            \
            .stops = {"<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"}

#define PHI                                                                                   \
    .system = "<|system|>\n", .eosys = "<|end|>\n", .user = "<|user|>\n", .eoh = "<|end|>\n", \
    .assistant = "<|assistant|>\n", .eoa = "<|end|>\n",                                       \
    .stops = {"<|end|>", "<|endoftext|>", "<|assistant|>"}

#define QWEN    CHATML, .meta = "You are a helpful assistant.", .stops = {"<|im_end|>"}
#define MISTRAL .user = "[INST] ", .eoh = " [/INST]", .eoa = "</s>", .meta = ""

static const struct lmdeploy_template builtin[] = {
    {.name = "base", .is_completion = true},
    {.name = "vicuna",
     .meta =
         "A chat between a curious user and an artificial intelligence assistant. The assistant "
         "gives helpful, detailed, and polite answers to the user's questions.",
     .eosys = " ",
     .user = "USER: ",
     .eoh = " ",
     .assistant = "ASSISTANT: ",
     .eoa = "</s>",
     .stops = {"</s>"}},
    {.name = "internlm2",
     CHATML,
     .meta = "You are an AI assistant whose name is InternLM (\xe4\xb9\xa6\xe7\x94\x9f\xc2\xb7\xe6"
             "\xb5\xa6\xe8\xaf\xad).\n- InternLM (\xe4\xb9\xa6\xe7\x94\x9f\xc2\xb7\xe6\xb5\xa6\xe8"
             "\xaf\xad) is a conversational language model that is developed by Shanghai AI "
             "Laboratory (\xe4\xb8\x8a\xe6\xb5\xb7\xe4\xba\xba\xe5\xb7\xa5\xe6\x99\xba\xe8\x83\xbd"
             "\xe5\xae\x9e\xe9\xaa\x8c\xe5\xae\xa4). It is designed to be helpful, honest, and "
             "harmless.\n- InternLM (\xe4\xb9\xa6\xe7\x94\x9f\xc2\xb7\xe6\xb5\xa6\xe8\xaf\xad) can "
             "understand and communicate fluently in the language chosen by the user such as "
             "English and \xe4\xb8\xad\xe6\x96\x87.\n",
     .tool = "<|im_start|>environment\n",
     .eotool = "<|im_end|>\n",
     .stops = {"<|im_end|>", "<|action_end|>"}},
    {.name = "llama2",
     .system = "[INST] <<SYS>>\n",
     .meta = "You are a helpful, respectful and honest assistant. Always answer as helpfully as "
             "possible, while being safe. Your answers should not include any harmful, unethical, "
             "racist, sexist, toxic, dangerous, or illegal content. Please ensure that your "
             "responses are socially unbiased and positive in nature.\n\nIf a question does not "
             "make any sense, or is not factually coherent, explain why instead of answering "
             "something not correct. If you don't know the answer to a question, please don't "
             "share false information.",
     .eosys = "\n<</SYS>>\n\n",
     .assistant = " [/INST] ",
     .eoa = "</s>",
     .separator = "<s>[INST] "},
    {.name = "llama3", LLAMA3, .stops = {"<|eot_id|>", "<|end_of_text|>"}},
    {.name = "llama3_1", LLAMA3_1},
    {.name = "llama3_2", LLAMA3_1},
    {.name = "qwen", QWEN},
    {.name = "minicpm3", QWEN},
    {.name = "minicpmv-2d6", QWEN},
    {.name = "qwen2d5",
     CHATML,
     .meta = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
     .stops = {"<|im_end|>"}},
    {.name = "qwen3", CHATML, .stops = {"<|im_end|>"}},
    {.name = "yi", CHATML, .stops = {"<|im_end|>", "<|endoftext|>"}},
    {.name = "mistral", MISTRAL},
    {.name = "mixtral", MISTRAL},
    {.name = "gemma",
     .meta = "",
     .user = "<start_of_turn>user\n",
     .eoh = "<end_of_turn>\n",
     .assistant = "<start_of_turn>model\n",
     .eoa = "<end_of_turn>\n",
     .stops = {"<end_of_turn>"}},
    {.name = "deepseek",
     .meta = "",
     .user = "User: ",
     .eoh = "\n\n",
     .assistant = "Assistant: ",
     .generation = "Assistant:",
     .eoa = "<\xef\xbd\x9c"
            "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"},
    {.name = "deepseek-coder",
     .meta =
         "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by "
         "Deepseek Company, and you only answer questions related to computer science. For "
         "politically sensitive questions, security and privacy issues, and other "
         "non-computer science questions, you will refuse to answer\n",
     .user = "### Instruction:\n",
     .eoh = "\n",
     .assistant = "### Response:\n",
     .eoa = "\n<|EOT|>",
     .separator = "\n",
     .stops = {"<|EOT|>"}},
    {.name = "llava-chatml",
     .system = "<|im_start|>system\n",
     .meta = "Answer the questions.",
     .eosys = "<|im_end|>",
     .user = "<|im_start|>user\n",
     .eoh = "<|im_end|>",
     .assistant = "<|im_start|>assistant\n",
     .eoa = "<|im_end|>"},
    {.name = "phi-3", PHI},
    {.name = "phi-4", PHI},
    {.name = "chatglm3",
     .begin = "[gMASK]sop",
     .system = "<|system|>\n ",
     .user = "<|user|>\n ",
     .assistant = "<|assistant|>\n ",
     .stops = {"<eos>"}},
    {.name = "glm4",
     .begin = "[gMASK]<sop>",
     .system = "<|system|>\n",
     .user = "<|user|>\n",
     .assistant = "<|assistant|>\n",
     .stops = {"<|user|>", "<|endoftext|>", "<|observation|>"}},
};

/* In LMDeploy's order: the first row of which all of `all` and one of `any` (if there is one) are
 * in the model's name, and none of `none`. */
static const struct {
    const char *name, *all[2], *any[2], *none[2];
} matches[] = {
    {"vicuna", {"vicuna"}, {0}, {"llava"}},
    {"vicuna", {"wizardlm"}, {0}, {0}},
    {"internlm2", {"internlm2"}, {"chat", "math"}, {0}},
    {"llama2", {0}, {"llama-2", "llama2"}, {0}},
    {"llama3", {0}, {"llama-3-", "llama3-"}, {"internvl2"}},
    {"llama3_1", {0}, {"llama-3.1-", "llama3.1-"}, {0}},
    {"llama3_1", {0}, {"llama-3.2-", "llama3.2-"}, {0}},
    {"qwen3", {"qwen3"}, {0}, {0}},
    {"qwen2d5", {0}, {"qwen2.5", "qwen2_5"}, {0}},
    {"qwen", {"qwen"}, {0}, {0}},
    {"minicpmv-2d6", {"minicpm-v-2_6"}, {0}, {0}},
    {"minicpm3", {"minicpm3-"}, {0}, {0}},
    {"yi", {"yi-"}, {0}, {"vl"}}, // LMDeploy's "yi" would take every name with these letters
    {"mistral", {"mistral"}, {"instruct", "llava"}, {0}},
    {"mixtral", {"mixtral"}, {"instruct", "llava"}, {0}},
    {"gemma", {"gemma"}, {0}, {0}},
    {"deepseek-coder", {"deepseek-coder"}, {0}, {0}},
    {"deepseek", {"deepseek", "chat"}, {0}, {"vl"}},
    {"llava-chatml", {"llava", "v1.6-34b"}, {0}, {0}},
    {"phi-3", {"phi-3", "instruct"}, {0}, {0}},
    {"phi-4", {"phi-4"}, {0}, {0}},
    {"chatglm3", {"chatglm3"}, {0}, {0}},
    {"glm4", {"glm-4"}, {0}, {0}},
};

const struct lmdeploy_template *lmdeploy_template_find(struct str name)
{
    for (size_t i = 0; i < ARRAY_LEN(builtin); i++)
        if (str_equal(name, str_of(builtin[i].name))) return &builtin[i];
    return NULL;
}

static bool has(const char *model, const char *part)
{
    return part && strcasestr(model, part) != NULL;
}

const struct lmdeploy_template *lmdeploy_template_match(const char *model)
{
    for (size_t i = 0; i < ARRAY_LEN(matches); i++) {
        bool fits = !matches[i].any[0];
        for (int k = 0; k < 2; k++)
            fits |= has(model, matches[i].any[k]);
        for (int k = 0; k < 2; k++)
            fits = fits && (!matches[i].all[k] || has(model, matches[i].all[k])) &&
                   !has(model, matches[i].none[k]);
        if (fits) return lmdeploy_template_find(str_of(matches[i].name));
    }
    return NULL;
}

void lmdeploy_template_list(struct buf *out)
{
    for (size_t i = 0; i < ARRAY_LEN(builtin); i++)
        buf_printf(out, "%s%s", i ? ", " : "", builtin[i].name);
}

/* ---- JSON ---- */

#define MEMBER(name) offsetof(struct lmdeploy_template, name)

static const struct {
    const char *name;
    size_t at; // of a const char * in the struct
} members[] = {
    {"system", MEMBER(system)}, {"meta_instruction", MEMBER(meta)},
    {"eosys", MEMBER(eosys)},   {"user", MEMBER(user)},
    {"eoh", MEMBER(eoh)},       {"assistant", MEMBER(assistant)},
    {"eoa", MEMBER(eoa)},       {"separator", MEMBER(separator)},
    {"tool", MEMBER(tool)},     {"eotool", MEMBER(eotool)},
};

static int wrong_type(const struct json *v, const char *wanted, struct error *err)
{
    return error_set(err, E_FORMAT, "'%s' is %s, expected %s", json_name(v),
                     json_type_name(json_type(v)), wanted);
}

static int read_stops(const struct json *v, struct lmdeploy_template *out, struct error *err)
{
    int count = 0;
    memset(out->stops, 0, sizeof out->stops);
    if (json_type(v) != JSON_ARRAY) return wrong_type(v, "a list of strings", err);
    for (const struct json *item = json_first(v); item; item = json_next(item)) {
        if (json_type(item) != JSON_STRING) return wrong_type(v, "a list of strings", err);
        if (count == LMDEPLOY_STOPS_MAX - 1)
            return error_set(err, E_LIMIT, "'stop_words' has more than %d entries",
                             LMDEPLOY_STOPS_MAX - 1);
        out->stops[count++] = json_string(item, NULL);
    }
    return 0;
}

static int read_member(const struct json *v, struct lmdeploy_template *out, struct error *err)
{
    const char *name = json_name(v);
    if (json_type(v) == JSON_NULL || !strcmp(name, "model_path")) return 0;
    if (!strcmp(name, "stop_words")) return read_stops(v, out, err);
    if (json_type(v) != JSON_STRING) return wrong_type(v, "a string", err);
    const char *text = json_string(v, NULL);
    if (!strcmp(name, "model_name")) return 0;
    if (!strcmp(name, "capability")) {
        out->is_completion = !strcmp(text, "completion");
        if (out->is_completion || !strcmp(text, "chat")) return 0;
        return error_set(err, E_UNSUPPORTED,
                         "capability '%.64s' is not supported (there is: chat, "
                         "completion)",
                         text);
    }
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        if (strcmp(name, members[i].name) != 0) continue;
        memcpy((char *)out + members[i].at, &text, sizeof text);
        if (members[i].at == MEMBER(assistant)) out->generation = NULL;
        return 0;
    }
    return error_set(err, E_FORMAT, "'%.64s' is not a member of a chat template", name);
}

int lmdeploy_template_read(const struct json *json, struct lmdeploy_template *out,
                           struct error *err)
{
    if (json_type(json) != JSON_OBJECT)
        return error_set(err, E_FORMAT, "a chat template in JSON is an object, not %s",
                         json_type_name(json_type(json)));
    const struct json *name = json_get(json, "model_name");
    const struct lmdeploy_template *base = NULL;
    if (name && json_type(name) == JSON_STRING)
        base = lmdeploy_template_find(str_of(json_string(name, NULL)));
    /* Where nothing is said, meta_instruction is "" and so a system message without text. */
    *out = base ? *base : (struct lmdeploy_template){.name = "json", .meta = ""};
    int rc = 0;
    for (const struct json *v = json_first(json); v && !rc; v = json_next(v))
        rc = read_member(v, out, err);
    return rc;
}

/* ---- Jinja ---- */

/* As a literal between quotes; NULL is "". Line ends are escaped: in a source they all mean "\n". */
static void print_text(struct buf *out, const char *text)
{
    buf_append_char(out, '\'');
    for (; text && *text; text++) {
        if (*text == '\n' || *text == '\r')
            buf_append_str(out, *text == '\n' ? "\\n" : "\\r");
        else {
            if (*text == '\'' || *text == '\\') buf_append_char(out, '\\');
            buf_append_char(out, *text);
        }
    }
    buf_append_char(out, '\'');
}

/* {% elif m.role == ROLE %}{{ before + content + after }} */
static void print_role(struct buf *out, const char *role, const char *before, const char *after)
{
    buf_printf(out, "{%%- elif m.role == '%s' -%%}{{- ", role);
    print_text(out, before);
    buf_append_str(out, " ~ m.content ~ ");
    print_text(out, after);
    buf_append_str(out, " -}}");
}

static void print_assistant(const struct lmdeploy_template *t, struct buf *out)
{
    buf_append_str(out, "{%- elif m.role == 'assistant' -%}{{- ");
    print_text(out, t->assistant);
    buf_append_str(out, " ~ m.content -}}{%- if not (loop.last and add_generation_prompt) -%}{{- ");
    print_text(out, t->eoa);
    buf_append_str(out, " ~ ");
    print_text(out, t->separator);
    buf_append_str(out, " -}}{%- endif -%}");
}

void lmdeploy_template_print(const struct lmdeploy_template *t, bool adds_bos, struct buf *out)
{
    if (adds_bos) {
        buf_append_str(out, "{%- if bos_token != ");
        print_text(out, t->begin);
        buf_append_str(out, " -%}{{- bos_token -}}{%- endif -%}");
    }
    buf_append_str(out, "{{- ");
    print_text(out, t->begin);
    buf_append_str(out, " -}}");
    if (t->is_completion) {
        buf_append_str(out, "{%- for m in messages -%}{{- m.content -}}{%- endfor -%}");
        return;
    }
    if (t->meta) {
        buf_append_str(out, "{%- if messages and messages[0].role != 'system' -%}{{- ");
        print_text(out, t->system);
        buf_append_str(out, " ~ ");
        print_text(out, t->meta);
        buf_append_str(out, " ~ ");
        print_text(out, t->eosys);
        buf_append_str(out, " -}}{%- endif -%}");
    }
    buf_append_str(out, "{%- for m in messages -%}{%- if false -%}");
    print_role(out, "system", t->system, t->eosys);
    print_role(out, "user", t->user, t->eoh);
    print_assistant(t, out);
    if (t->tool || t->eotool) {
        print_role(out, "tool", t->tool, t->eotool);
        print_role(out, "environment", t->tool, t->eotool);
    }
    buf_append_str(out, "{%- else -%}{{- raise_exception('this template has no role \"' ~ m.role ~ "
                        "'\"') -}}{%- endif -%}{%- endfor -%}"
                        "{%- if add_generation_prompt and (not messages or messages[-1].role != "
                        "'assistant') -%}{{- ");
    print_text(out, t->generation ? t->generation : t->assistant);
    buf_append_str(out, " -}}{%- endif -%}");
}
