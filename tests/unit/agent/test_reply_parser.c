/* What answers say, cut at any place: tests/fixtures/replies/ has a file for each format. */
#include "agent/reasoning_format.h"
#include "agent/reply_parser.h"
#include "agent/tool_format.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"
#include "tests/test.h"

#include <dirent.h>

#define ITEMS_MAX 16

/* Pieces as lines of "kind call: text", those of a kind joined. */
struct told {
    struct buf text;
    enum reply_piece_kind kind;
    int call;
    bool has_any, is_cut_inside;
    size_t pieces;
};

static const char *const kinds[] = {"content", "reasoning", "call", "arguments"};

static void take(void *arg, const struct reply_piece *piece)
{
    struct told *t = arg;
    if (piece->text.len == 0 || !utf8_is_valid(piece->text.data, piece->text.len))
        t->is_cut_inside = true;
    bool goes_on =
        t->has_any && t->kind == piece->kind && t->call == piece->call && piece->kind != REPLY_CALL;
    if (!goes_on) buf_printf(&t->text, "\n%s %d: ", kinds[piece->kind], piece->call);
    buf_append(&t->text, piece->text.data, piece->text.len);
    t->has_any = true;
    t->kind = piece->kind;
    t->call = piece->call;
    t->pieces++;
}

static void told_init(struct told *t)
{
    *t = (struct told){0};
    buf_init(&t->text, (size_t)1 << 24);
    buf_append_str(&t->text, "");
}

/* Parts of the text that end at those places. */
static void parse(const struct reply_options *o, struct str text, const size_t *cuts, size_t count,
                  struct told *t)
{
    told_init(t);
    struct reply_sink sink = {take, t};
    struct reply_parser *p = reply_parser_create(o);
    size_t at = 0;
    for (size_t i = 0; i < count; at = cuts[i++])
        reply_parser_feed(p, (struct str){text.data + at, cuts[i] - at}, &sink);
    reply_parser_feed(p, (struct str){text.data + at, text.len - at}, &sink);
    reply_parser_finish(p, &sink);
    EXPECT_INT(reply_parser_held(p), 0);
    reply_parser_destroy(p);
    EXPECT(!t->is_cut_inside);
}

static void parse_bytes(const struct reply_options *o, struct str text, struct told *t)
{
    size_t *cuts = xcalloc(text.len + 1, sizeof *cuts);
    for (size_t i = 0; i < text.len; i++)
        cuts[i] = i;
    parse(o, text, cuts, text.len, t);
    free(cuts);
}

struct tools {
    struct tool items[ITEMS_MAX];
    struct tool_list list;
};

static struct str json_str(const struct json *v)
{
    struct str s = {0};
    if (v) s.data = json_string(v, &s.len);
    return s;
}

static void read_tools(const struct json *v, struct tools *tools)
{
    *tools = (struct tools){.list = {.items = tools->items}};
    for (const struct json *t = json_first(v); t; t = json_next(t)) {
        NEED(tools->list.count < ITEMS_MAX);
        tools->items[tools->list.count++] = (struct tool){.name = json_str(json_get(t, "name")),
                                                          .parameters = json_get(t, "parameters")};
    }
}

static void read_options(const struct json *c, const struct tools *tools, struct reply_options *o)
{
    *o = (struct reply_options){.starts_in_reasoning = json_is_true(json_get(c, "starts"))};
    if (json_get(c, "reasoning"))
        NEED(o->reasoning = reasoning_format_find(json_string(json_get(c, "reasoning"), NULL)));
    if (json_get(c, "format"))
        NEED(o->tools = tool_format_find(json_string(json_get(c, "format"), NULL)));
    if (!json_is_true(json_get(c, "any_name"))) o->list = &tools->list;
}

static void print_want(const struct json *want, struct buf *out)
{
    int call = -1;
    buf_append_str(out, "");
    for (const struct json *w = json_first(want); w; w = json_next(w)) {
        const struct json *kind = json_first(w), *text = json_next(kind);
        bool is_call = str_equal(json_str(kind), STR("call"));
        call += is_call;
        bool has_call = is_call || str_equal(json_str(kind), STR("arguments"));
        buf_printf(out, "\n%s %d: " STR_FMT, json_string(kind, NULL), has_call ? call : 0,
                   STR_ARG(json_str(text)));
    }
}

static bool expect_same(const char *where, struct str text, const struct told *got,
                        const char *want)
{
    if (strcmp(got->text.data, want) == 0) return true;
    test_failures++;
    printf("%s: " STR_FMT "\n---- got:%s\n---- expected:%s\n", where, STR_ARG(text), got->text.data,
           want);
    return false;
}

static void run_case(const char *where, const struct json *c, struct tools *tools)
{
    struct reply_options o;
    read_options(c, tools, &o);
    tools->list.calls_max =
        json_get(c, "calls_max") ? (int)json_number(json_get(c, "calls_max")) : 0;
    struct str text = json_str(json_get(c, "text"));
    struct buf want;
    buf_init(&want, (size_t)1 << 20);
    print_want(json_get(c, "want"), &want);
    struct told t;
    parse(&o, text, NULL, 0, &t);
    expect_same(where, text, &t, want.data);
    buf_deinit(&t.text);
    parse_bytes(&o, text, &t);
    expect_same(where, text, &t, want.data);
    buf_deinit(&t.text);
    bool is_same = true;
    for (size_t cut = 0; cut <= text.len && is_same; cut++) {
        parse(&o, text, &cut, 1, &t);
        is_same = expect_same(where, text, &t, want.data);
        buf_deinit(&t.text);
    }
    buf_deinit(&want);
}

static size_t run_file(const char *path)
{
    FILE *f = fopen(path, "r");
    NEED(f);
    char *line = NULL;
    size_t cap = 0, cases = 0;
    int number = 0;
    struct json *tools_doc = NULL;
    struct tools tools = {0};
    for (ssize_t len; (len = getline(&line, &cap, f)) > 0;) {
        char where[2200];
        snprintf(where, sizeof where, "%s:%d", path, ++number);
        struct error err = {0};
        struct json *c = json_parse(line, (size_t)len, &err);
        if (!c) printf("%s: %s\n", where, err.text);
        NEED(c);
        if (json_get(c, "tools")) {
            json_destroy(tools_doc);
            tools_doc = c;
            read_tools(json_get(c, "tools"), &tools);
            continue;
        }
        run_case(where, c, &tools);
        cases++;
        json_destroy(c);
    }
    json_destroy(tools_doc);
    free(line);
    fclose(f);
    return cases;
}

static void test_files(void)
{
    char folder[1024], path[2048];
    snprintf(folder, sizeof folder, "%s", test_data("fixtures/replies"));
    DIR *d = opendir(folder);
    NEED(d);
    size_t files = 0, cases = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strstr(e->d_name, ".jsonl")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        cases += run_file(path);
        files++;
    }
    closedir(d);
    printf("%zu cases in %zu files\n", cases, files);
    EXPECT(files > 0 && cases > files);
}

/* Fed by the byte, what has been told lags by no more than a tag. */
static void expect_streams(const char *format, const char *head, const char *more, const char *tail)
{
    struct reply_options o = {.tools = tool_format_find(format)};
    NEED(o.tools);
    struct told t;
    told_init(&t);
    struct reply_sink sink = {take, &t};
    struct reply_parser *p = reply_parser_create(&o);
    reply_parser_feed(p, str_of(head), &sink);
    for (int i = 0; i < 3000; i++)
        for (const char *c = more; *c; c++) {
            reply_parser_feed(p, (struct str){c, 1}, &sink);
            EXPECT(reply_parser_held(p) < 40);
        }
    EXPECT(t.text.len > 3000 && t.pieces > 1500);
    reply_parser_feed(p, str_of(tail), &sink);
    reply_parser_finish(p, &sink);
    EXPECT_INT(reply_parser_calls(p), 1);
    reply_parser_destroy(p);
    buf_deinit(&t.text);
}

static void test_arguments_stream(void)
{
    expect_streams("hermes", "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"",
                   "ab</tool_call>", "\"}}\n</tool_call>");
    expect_streams("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": \"[", "1, ",
                   "2]\"}</tool_call>");
    expect_streams("qwen3coder", "<tool_call><function=f><parameter=a>\nx", "y\n</param ",
                   "</parameter>");
    expect_streams("mistral", "[TOOL_CALLS]f[ARGS]{\"a\": [", "[1, 2], ", "0]}");
    expect_streams("gpt-oss", "<|channel|>commentary to=functions.f<|message|>", "{\"a\": 1}<|en ",
                   "<|call|>");
    expect_streams("llama3", "{\"name\": \"f\", \"parameters\": [", "[{\"x\": 1}], ", "{}]}");
}

/* Arguments before the name wait for it, up to a megabyte. */
static void expect_early(size_t len, const char *want)
{
    struct reply_options o = {.tools = tool_format_find("hermes")};
    struct buf text;
    buf_init(&text, (size_t)1 << 24);
    buf_append_str(&text, "<tool_call>{\"arguments\": [\"");
    size_t begin = text.len;
    while (text.len < begin + len)
        buf_append_char(&text, 'x');
    buf_append_str(&text, "\"], \"name\": \"f\"}</tool_call>");
    struct told whole, bytes;
    parse(&o, buf_str(&text), NULL, 0, &whole);
    parse_bytes(&o, buf_str(&text), &bytes);
    EXPECT(strcmp(whole.text.data, bytes.text.data) == 0);
    EXPECT(strncmp(whole.text.data, want, strlen(want)) == 0);
    buf_deinit(&text);
    buf_deinit(&whole.text);
    buf_deinit(&bytes.text);
}

static void test_arguments_before_the_name(void)
{
    expect_early(1000, "\ncall 0: f\narguments 0: [\"xxx");
    expect_early(TOOL_HELD_MAX - 100, "\ncall 0: f\narguments 0: [\"xxx");
    expect_early(TOOL_HELD_MAX + 1, "\ncontent 0: <tool_call>{\"arguments\": [\"xxx");
}

/* A value that isn't a string waits for its end, up to a megabyte; then it is one. */
static void expect_long_value(size_t len, const char *want)
{
    struct reply_options o = {.tools = tool_format_find("qwen3coder")};
    struct buf text;
    buf_init(&text, (size_t)1 << 24);
    buf_append_str(&text, "<tool_call><function=f><parameter=a>[");
    for (size_t i = 0; i < len; i++)
        buf_append_char(&text, i % 2 ? ',' : '1');
    buf_append_str(&text, "1]</parameter></function></tool_call>");
    size_t *cuts = xcalloc(text.len / 1000 + 1, sizeof *cuts), count = 0;
    for (size_t at = 999; at < text.len; at += 1000)
        cuts[count++] = at;
    struct told whole, parts;
    parse(&o, buf_str(&text), NULL, 0, &whole);
    parse(&o, buf_str(&text), cuts, count, &parts);
    EXPECT(strcmp(whole.text.data, parts.text.data) == 0);
    EXPECT(strncmp(whole.text.data, want, strlen(want)) == 0);
    free(cuts);
    buf_deinit(&text);
    buf_deinit(&whole.text);
    buf_deinit(&parts.text);
}

static void test_long_values(void)
{
    expect_long_value(1000, "\ncall 0: f\narguments 0: {\"a\": [1,1,1");
    expect_long_value(TOOL_HELD_MAX - 100, "\ncall 0: f\narguments 0: {\"a\": [1,1,1");
    expect_long_value(TOOL_HELD_MAX + 100, "\ncall 0: f\narguments 0: {\"a\": \"[1,1,1");
}

static void test_in_reasoning(void)
{
    struct reply_options o = {.reasoning = reasoning_format_find("default"),
                              .starts_in_reasoning = true,
                              .tools = tool_format_find("hermes")};
    struct told t;
    told_init(&t);
    struct reply_sink sink = {take, &t};
    struct reply_parser *p = reply_parser_create(&o);
    EXPECT(reply_parser_in_reasoning(p));
    reply_parser_feed(p, STR("so\n</thi"), &sink);
    EXPECT(reply_parser_in_reasoning(p));
    EXPECT_INT(reply_parser_held(p), 6);
    reply_parser_feed(p, STR("nk>"), &sink);
    EXPECT(!reply_parser_in_reasoning(p));
    reply_parser_feed(p, STR("\n\nyes"), &sink);
    EXPECT_STR(t.text.data, "\nreasoning 0: so\ncontent 0: yes");
    reply_parser_destroy(p);
    reply_parser_destroy(NULL);
    buf_deinit(&t.text);
}

int main(void)
{
    RUN(test_files);
    RUN(test_arguments_stream);
    RUN(test_arguments_before_the_name);
    RUN(test_long_values);
    RUN(test_in_reasoning);
    return TEST_END();
}
