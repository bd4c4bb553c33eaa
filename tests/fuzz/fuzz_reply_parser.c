/* Answers in every format: what they say is the same whole, by the byte, and cut anywhere. The first
 * line says which: the tools' format, reasoning's, or -, and options: s(tarts in reasoning), o(ne call),
 * a(ny name). */
#include "agent/reasoning_format.h"
#include "agent/reply_parser.h"
#include "agent/tool_format.h"
#include "shared/base/check.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

#define INPUT_MAX 20000

struct told {
    struct buf text;
    int kind, call;
};

static void take(void *arg, const struct reply_piece *piece)
{
    struct told *t = arg;
    bool is_call = piece->kind == REPLY_CALL || piece->kind == REPLY_ARGUMENTS;
    CHECK(piece->text.len > 0 && piece->kind <= REPLY_ARGUMENTS);
    CHECK(is_call ? piece->call >= 0 : piece->call == 0);
    if (piece->kind == REPLY_ARGUMENTS) CHECK(piece->call == t->call);
    bool goes_on = piece->kind == (enum reply_piece_kind)t->kind && piece->kind != REPLY_CALL;
    if (!goes_on) buf_printf(&t->text, "\n\n%d %d\n", piece->kind, piece->call);
    buf_append(&t->text, piece->text.data, piece->text.len);
    t->kind = (int)piece->kind;
    if (is_call) t->call = piece->call;
}

/* In steps: 0: whole; else by up to that many bytes, as a hash says. */
static void parse(const struct reply_options *o, struct str text, size_t step, struct told *t)
{
    *t = (struct told){.kind = -1, .call = -1};
    buf_init(&t->text, BUF_MAX_INTERNAL);
    buf_append_str(&t->text, "");
    struct reply_sink sink = {take, t};
    struct reply_parser *p = reply_parser_create(o);
    for (size_t at = 0; at < text.len;) {
        size_t len = step == 0 ? text.len : 1 + (at * 2654435761u >> 9) % step;
        if (len > text.len - at) len = text.len - at;
        reply_parser_feed(p, (struct str){text.data + at, len}, &sink);
        at += len;
        CHECK(reply_parser_held(p) <= at);
    }
    reply_parser_finish(p, &sink);
    CHECK(reply_parser_held(p) == 0 && reply_parser_calls(p) == t->call + 1);
    reply_parser_destroy(p);
}

/* A word of the first line. */
static const char *word_of(struct str *line, char out[64])
{
    struct str word = STR("");
    str_split(line, ' ', &word);
    str_copy(out, word.len < 63 ? word.len + 1 : 64, word.len ? word.data : "");
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char schema_text[] =
        "{\"properties\":{\"s\":{\"type\":\"string\"},\"i\":{\"type\":\"integer\"},\"o\":{\"type\":"
        "[\"object\",\"null\"]},\"b\":{\"anyOf\":[{\"type\":\"boolean\"},{\"$ref\":\"#\"}]}}}";
    struct str text = {(const char *)data, size}, line = STR("");
    if (size == 0 || size > INPUT_MAX || !str_split(&text, '\n', &line)) return 0;
    char tools_name[64], reasoning_name[64];
    struct reply_options o = {
        .tools = tool_format_find(word_of(&line, tools_name)),
        .reasoning = reasoning_format_find(word_of(&line, reasoning_name)),
    };
    bool is_one = line.len && memchr(line.data, 'o', line.len);
    bool is_any = line.len && memchr(line.data, 'a', line.len);
    o.starts_in_reasoning = o.reasoning && line.len && memchr(line.data, 's', line.len);
    struct json *schema = json_parse(schema_text, sizeof schema_text - 1, NULL);
    struct tool tools[] = {{.name = STR("f"), .parameters = schema}, {.name = STR("get_weather")}};
    struct tool_list list = {.items = tools, .count = 2, .calls_max = is_one};
    o.list = is_any ? NULL : &list;
    struct told whole;
    parse(&o, text, 0, &whole);
    static const size_t steps[] = {1, 3, 40};
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        struct told cut;
        parse(&o, text, steps[i], &cut);
        CHECK(cut.text.len == whole.text.len);
        CHECK(memcmp(cut.text.data, whole.text.data, cut.text.len) == 0);
        buf_deinit(&cut.text);
    }
    buf_deinit(&whole.text);
    json_destroy(schema);
    return 0;
}
