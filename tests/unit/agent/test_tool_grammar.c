/* What grammars of calls allow, readers read: texts are drawn from the grammar of each format and taken
 * apart again. */
#include "agent/reasoning_format.h"
#include "agent/reply_parser.h"
#include "agent/tool_format.h"
#include "agent/tool_values.h"
#include "engine/grammar_automaton.h"
#include "engine/grammar_parts.h"
#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

#define TEXTS      60
#define FREE_BYTES 150 // of a text, before it goes straight for its end
#define TEXT_MAX   4096

static const char tools_text[] =
    "[{\"name\":\"get_weather\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":"
    "{"
    "\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\"},\"unit\":{\"enum\":[\"c\","
    "\"f\"]},"
    "\"parts\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/part\"}},"
    "\"level\":{\"anyOf\":[{\"$ref\":\"#/$defs/level\"},{\"type\":\"null\"}]},"
    "\"note\":{\"type\":[\"string\",\"null\"]}},"
    "\"required\":[\"city\",\"parts\"],\"additionalProperties\":false,"
    "\"$defs\":{\"level\":{\"enum\":[\"low\",7,true]},\"part\":{\"type\":\"object\",\"properties\":"
    "{\"x\":{\"type\":\"boolean\"}},"
    "\"required\":[\"x\"],\"additionalProperties\":false}}}},"
    "{\"name\":\"now\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{},"
    "\"additionalProperties\":false}},"
    "{\"name\":\"any-thing\",\"strict\":false}]";

static struct tool tools[3];
static struct tool_list list = {.items = tools, .count = 3};

static void read_tools(const struct json *v)
{
    size_t count = 0;
    for (const struct json *t = json_first(v); t; t = json_next(t), count++) {
        tools[count].name.data = json_string(json_get(t, "name"), &tools[count].name.len);
        tools[count].parameters = json_get(t, "parameters");
        tools[count].is_strict = json_is_true(json_get(t, "strict"));
    }
    NEED(count == list.count);
}

/* ---- texts of a grammar ---- */

struct way {
    int32_t from, byte;
};

static bool leads_on(struct automaton *a, int state, int byte)
{
    return automaton_next(a, state, (uint8_t)byte) != AUTOMATON_DEAD;
}

/* What a way to the end may take: nothing that leads deeper, if there is anything else. */
static void choose_bytes(struct automaton *a, int state, bool takes[256])
{
    bool has_any = false;
    for (int byte = 0; byte < 256; byte++) {
        takes[byte] = byte > 0 && !strchr("{[,", byte) && leads_on(a, state, byte);
        has_any = has_any || takes[byte];
    }
    for (int byte = 0; byte < 256 && !has_any; byte++)
        takes[byte] = leads_on(a, state, byte);
}

/* A short way from the state to one that accepts, appended. */
static void append_end(struct automaton *a, int state, struct buf *text)
{
    static struct way ways[AUTOMATON_STATES_MAX + 1];
    static int queue[AUTOMATON_STATES_MAX + 1];
    char reversed[TEXT_MAX];
    size_t head = 0, tail = 0, len = 0;
    memset(ways, -1, sizeof ways);
    queue[tail++] = state;
    ways[state].from = state;
    while (head < tail && !automaton_state(a, queue[head])->accepts) {
        int at = queue[head++];
        bool takes[256];
        choose_bytes(a, at, takes);
        for (int byte = 0; byte < 256; byte++) {
            int next = takes[byte] ? automaton_next(a, at, (uint8_t)byte) : AUTOMATON_DEAD;
            if (next == AUTOMATON_DEAD || ways[next].from >= 0) continue;
            ways[next] = (struct way){at, byte};
            queue[tail++] = next;
        }
    }
    if (head == tail) printf("%zu states, no end: %s\n", tail, text->data);
    NEED(head < tail);
    for (int at = queue[head]; at != state; at = ways[at].from) {
        NEED(len < sizeof reversed);
        reversed[len++] = (char)ways[at].byte;
    }
    while (len > 0)
        buf_append_char(text, reversed[--len]);
}

/* Bytes that begin or end something are as likely as all others together. No NUL, which json_parse
 * refuses in strings. */
static int draw_byte(struct automaton *a, int state, struct rng *rng)
{
    uint8_t marks[256], others[256];
    uint32_t mark_count = 0, other_count = 0;
    for (int byte = 1; byte < 256; byte++) {
        if (!leads_on(a, state, byte)) continue;
        if (strchr("<>{}[]\",:|\n", byte))
            marks[mark_count++] = (uint8_t)byte;
        else
            others[other_count++] = (uint8_t)byte;
    }
    if (mark_count + other_count == 0) return -1;
    bool is_mark = other_count == 0 || (mark_count > 0 && rng_below(rng, 2) == 0);
    return is_mark ? marks[rng_below(rng, mark_count)] : others[rng_below(rng, other_count)];
}

static void draw(struct automaton *a, struct rng *rng, struct buf *text)
{
    automaton_reserve(a);
    buf_clear(text);
    buf_append_str(text, "");
    int state = AUTOMATON_START;
    uint32_t len = rng_below(rng, FREE_BYTES);
    for (uint32_t i = 0; i < len; i++) {
        int byte = draw_byte(a, state, rng);
        if (byte < 0) break;
        buf_append_char(text, (char)byte);
        state = automaton_next(a, state, (uint8_t)byte);
    }
    append_end(a, state, text);
}

/* ---- what they say ---- */

struct call {
    char name[80];
    struct buf arguments;
};

struct told {
    struct call calls[64];
    int count;
    size_t content;
};

static void take(void *arg, const struct reply_piece *piece)
{
    struct told *t = arg;
    if (piece->kind == REPLY_CALL) {
        NEED(t->count < 64 && piece->call == t->count);
        snprintf(t->calls[t->count].name, sizeof t->calls[0].name, STR_FMT, STR_ARG(piece->text));
        buf_init(&t->calls[t->count++].arguments, TEXT_MAX * 8);
    } else if (piece->kind == REPLY_ARGUMENTS)
        buf_append(&t->calls[piece->call].arguments, piece->text.data, piece->text.len);
    else if (piece->kind == REPLY_CONTENT)
        t->content += piece->text.len;
}

static unsigned type_bit(const struct json *v)
{
    static const unsigned bits[] = {
        [JSON_NULL] = TOOL_NULL,     [JSON_BOOL] = TOOL_BOOL,   [JSON_NUMBER] = TOOL_NUMBER,
        [JSON_STRING] = TOOL_STRING, [JSON_ARRAY] = TOOL_ARRAY, [JSON_OBJECT] = TOOL_OBJECT};
    return bits[json_type(v)];
}

/* Only what these schemas say. */
static bool fits(const struct tool *tool, const struct json *v)
{
    if (!v || json_type(v) != JSON_OBJECT) return false;
    if (!tool->is_strict) return true;
    const struct json *properties = json_get(tool->parameters, "properties");
    for (const struct json *m = json_first(v); m; m = json_next(m))
        if (!json_get(properties, json_name(m)) ||
            !(tool_types_of(tool, str_of(json_name(m))) & type_bit(m)))
            return false;
    for (const struct json *p = json_first(json_get(v, "parts")); p; p = json_next(p))
        if (json_type(p) != JSON_OBJECT || json_len(p) != 1 || !json_get(p, "x")) return false;
    const struct json *unit = json_get(v, "unit");
    if (unit && strcmp(json_string(unit, NULL), "c") != 0 && strcmp(json_string(unit, NULL), "f"))
        return false;
    const struct json *level = json_get(v, "level");
    if (level && json_type(level) == JSON_STRING && strcmp(json_string(level, NULL), "low") != 0)
        return false;
    if (level && json_type(level) == JSON_NUMBER && json_number(level) != 7) return false;
    const struct json *required = json_get(tool->parameters, "required");
    for (const struct json *r = json_first(required); r; r = json_next(r))
        if (!json_get(v, json_string(r, NULL))) return false;
    return true;
}

static bool check_calls(const struct told *t)
{
    bool ok = true;
    for (int i = 0; i < t->count; i++) {
        struct error err = {0};
        const struct buf *arguments = &t->calls[i].arguments;
        struct json *v = json_parse(arguments->data, arguments->len, &err);
        const struct tool *tool = tool_list_find(&list, str_of(t->calls[i].name));
        ok = ok && tool && fits(tool, v);
        json_destroy(v);
    }
    return ok;
}

/* -1: what it says is wrong; else how many calls there are. */
static int parse(const struct tool_format *f, struct str text, bool is_required)
{
    struct reply_options o = {.tools = f, .list = &list};
    struct told *t = xcalloc(1, sizeof *t);
    struct reply_sink sink = {take, t};
    struct reply_parser *p = reply_parser_create(&o);
    reply_parser_feed(p, text, &sink);
    reply_parser_finish(p, &sink);
    reply_parser_destroy(p);
    bool ok = check_calls(t);
    if (list.calls_max == 1) ok = ok && t->count <= 1;
    /* gpt-oss thinks before it calls, and without a format of reasoning that is content. */
    if (is_required) ok = ok && t->count > 0 && (t->content == 0 || f->write_grammar);
    int count = ok ? t->count : -1;
    if (!ok) {
        printf("%s: " STR_FMT "\n", f->name, STR_ARG(text));
        for (int i = 0; i < t->count; i++)
            printf("  %s: %s\n", t->calls[i].name,
                   t->calls[i].arguments.data ? t->calls[i].arguments.data : "");
    }
    for (int i = 0; i < t->count; i++)
        buf_deinit(&t->calls[i].arguments);
    free(t);
    return count;
}

/* content: a part; its data NULL: calls, as the list says. */
static struct automaton *compile(const struct tool_format *f, struct str content,
                                 struct grammar_nfa *n)
{
    struct buf source;
    struct json_writer w;
    struct error err = {0};
    buf_init(&source, (size_t)1 << 20);
    json_writer_init(&w, &source);
    NEED(content.data ? tool_format_write_content(f, content, &w)
                      : tool_format_write_grammar(f, &list, &w));
    struct json *part = json_parse(source.data, source.len, &err);
    if (!part) printf("%s: %s\n%s\n", f->name, err.text, source.data);
    NEED(part);
    nfa_init(n);
    nfa_add_rule(n);
    int rc = parts_emit(n, part, NULL, n->rule[0].start, n->rule[0].accept, &err);
    if (rc == 0) rc = nfa_finish(n, &err);
    if (rc != 0) printf("%s: %s\n%s\n", f->name, err.text, source.data);
    NEED(rc == 0);
    json_destroy(part);
    buf_deinit(&source);
    return automaton_create(n);
}

static void check_format(const struct tool_format *f, struct rng *rng)
{
    struct grammar_nfa n;
    struct automaton *a = compile(f, (struct str){0}, &n);
    struct buf text;
    int calls = 0;
    buf_init(&text, (size_t)1 << 20);
    for (int i = 0; i < TEXTS; i++) {
        draw(a, rng, &text);
        int count = parse(f, buf_str(&text), list.choice == TOOL_CHOICE_REQUIRED);
        if (count < 0) test_failures++;
        calls += count > 0 ? count : 0;
    }
    EXPECT(list.choice == TOOL_CHOICE_AUTO || calls >= TEXTS);
    buf_deinit(&text);
    automaton_destroy(a);
    nfa_deinit(&n);
}

static void check_formats(enum tool_choice choice, int calls_max, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed);
    list.choice = choice;
    list.calls_max = calls_max;
    struct str rest = str_of(tool_format_names()), name;
    const struct tool_format *last = NULL;
    while (str_split(&rest, ',', &name)) {
        char text[64];
        name = str_trim(name);
        snprintf(text, sizeof text, STR_FMT, STR_ARG(name));
        const struct tool_format *f = tool_format_find(text);
        NEED(f);
        if (f != last) check_format(f, &rng);
        last = f;
    }
}

static void test_required(void)
{
    check_formats(TOOL_CHOICE_REQUIRED, 0, 1);
}

static void test_one_required(void)
{
    check_formats(TOOL_CHOICE_REQUIRED, 1, 2);
}

static void test_auto(void)
{
    check_formats(TOOL_CHOICE_AUTO, 0, 3);
}

static int go_on(struct automaton *a, int state, struct str bytes)
{
    for (size_t i = 0; i < bytes.len && state != AUTOMATON_DEAD; i++)
        state = automaton_next(a, state, (uint8_t)bytes.data[i]);
    return state;
}

/* A model that never stops calling has to, where it is made to call; where it isn't, text is as long. */
static void test_calls_come_to_an_end(void)
{
    static const struct str call =
        STR("<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>");
    const struct tool_format *f = tool_format_find("hermes");
    for (int required = 0; required < 2; required++) {
        struct grammar_nfa n;
        list.choice = required ? TOOL_CHOICE_REQUIRED : TOOL_CHOICE_AUTO;
        list.calls_max = 0;
        struct automaton *a = compile(f, (struct str){0}, &n);
        int state = AUTOMATON_START, count = 0;
        for (; count < 2 * TOOL_CALLS_MAX; count++) {
            int next = go_on(a, state, count > 0 ? STR("\n") : STR(""));
            next = go_on(a, next, call);
            if (next == AUTOMATON_DEAD) break;
            state = next;
        }
        EXPECT_INT(count, required ? TOOL_CALLS_MAX : 2 * TOOL_CALLS_MAX);
        EXPECT(automaton_state(a, state)->accepts);
        automaton_destroy(a);
        nfa_deinit(&n);
    }
}

/* A content in its form is all that there is beside what gpt-oss thinks. */
static void test_content(void)
{
    struct rng rng;
    rng_init(&rng, 4);
    const char *const names[] = {"hermes", "gpt-oss"};
    for (int i = 0; i < 2; i++) {
        const struct tool_format *f = tool_format_find(names[i]);
        struct grammar_nfa n;
        struct automaton *a = compile(f, STR("{\"regex\": \"[0-9]{3}\"}"), &n);
        struct buf text;
        buf_init(&text, (size_t)1 << 20);
        for (int k = 0; k < TEXTS; k++) {
            draw(a, &rng, &text);
            struct reply_options o = {.tools = f, .reasoning = reasoning_format_find("gpt-oss")};
            if (i == 0) o.reasoning = NULL;
            struct told t = {0};
            struct reply_sink sink = {take, &t};
            struct reply_parser *p = reply_parser_create(&o);
            reply_parser_feed(p, buf_str(&text), &sink);
            reply_parser_finish(p, &sink);
            reply_parser_destroy(p);
            EXPECT(t.content == 3 && t.count == 0);
        }
        buf_deinit(&text);
        automaton_destroy(a);
        nfa_deinit(&n);
    }
    struct buf out;
    struct json_writer w;
    buf_init(&out, 1000);
    json_writer_init(&w, &out);
    EXPECT(!tool_format_write_content(NULL, (struct str){0}, &w));
    EXPECT(tool_format_write_content(tool_format_find("gpt-oss"), (struct str){0}, &w));
    buf_clear(&out);
    json_writer_init(&w, &out);
    EXPECT(tool_format_write_content(tool_format_find("hermes"), (struct str){0}, &w));
    EXPECT_STR(out.data, "{\"until\":[\"<tool_call>\"]}");
    buf_deinit(&out);
}

static void test_nothing_to_enforce(void)
{
    struct tool loose[] = {{.name = STR("f")}};
    struct tool_list l = {.items = loose, .count = 1, .choice = TOOL_CHOICE_AUTO};
    struct buf out;
    struct json_writer w;
    buf_init(&out, 1000);
    json_writer_init(&w, &out);
    EXPECT(!tool_format_write_grammar(tool_format_find("hermes"), &l, &w));
    l.choice = TOOL_CHOICE_NONE;
    loose[0].is_strict = true;
    EXPECT(!tool_format_write_grammar(tool_format_find("hermes"), &l, &w));
    EXPECT_INT(out.len, 0);
    buf_deinit(&out);
}

int main(void)
{
    struct error err = {0};
    struct json *v = json_parse(tools_text, sizeof tools_text - 1, &err);
    if (!v) printf("%s\n", err.text);
    NEED(v);
    read_tools(v);
    RUN(test_required);
    RUN(test_one_required);
    RUN(test_auto);
    RUN(test_calls_come_to_an_end);
    RUN(test_content);
    RUN(test_nothing_to_enforce);
    json_destroy(v);
    return TEST_END();
}
