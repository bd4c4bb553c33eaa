/* Answers in the making: which engine requests they take, what is printed when. The tokenizer is this
 * file's: a token per byte, 300 is a special one, 256.. are halves of characters. */
#include "agent/answer.h"

#include "agent/chat_response.h"
#include "agent/reasoning_format.h"
#include "agent/response_logprobs.h"
#include "agent/resume_record.h"
#include "agent/tool_format.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "tests/test.h"

#include <math.h>

struct str tokenizer_token_bytes(const struct tokenizer *t, int32_t id, bool keep_special)
{
    static char letters[256];
    (void)t;
    if (id == 300) return keep_special ? STR("<s>") : STR("");
    if (id == 256) return STR("\xf0\x9f");
    if (id == 257) return STR("\x98\x80");
    letters[id] = (char)id;
    return (struct str){&letters[id], 1};
}

void token_list_push(struct token_list *l, int32_t id)
{
    l->ids = xrealloc_array(l->ids, ++l->count, sizeof *l->ids);
    l->ids[l->count - 1] = id;
}

void token_list_deinit(struct token_list *l)
{
    free(l->ids);
    *l = (struct token_list){0};
}

/* ---- the stage ---- */

static struct answer answer;
static struct prompt_set prompts;
static struct prompt_text texts[2];
static struct buf out;

/* Prompts "ab" and "cd", each with a special token in front that nobody wrote. */
static void begin(const struct chat_request *r, size_t prompt_count)
{
    static int32_t ids[2][3] = {{300, 'a', 'b'}, {300, 'c', 'd'}};
    static struct token_list items[2];
    struct response_head head = {.printer = r->kind == COMPLETION_CHAT ? &chat_response_printer
                                                                       : &text_response_printer,
                                 .id = "i",
                                 .created = 5,
                                 .model = STR("m"),
                                 .fingerprint = "fp"};
    for (size_t i = 0; i < prompt_count; i++) {
        items[i] = (struct token_list){ids[i], 3, 3};
        buf_deinit(&texts[i].text);
        buf_init(&texts[i].text, 100);
        buf_append_str(&texts[i].text, i ? "cd" : "ab");
        texts[i].invisible = 1;
    }
    prompts = (struct prompt_set){.items = items, .texts = texts, .count = prompt_count};
    buf_deinit(&out);
    buf_init(&out, 1 << 20);
    answer_init(&answer, &head, r, &prompts, NULL);
}

static struct chat_request request_of(enum completion_kind kind, int n)
{
    struct chat_request r = {.kind = kind, .n = n, .candidates = n, .max_tokens = 9};
    sampling_fields_init(&r.fields);
    r.fields.sampling.seed = 77;
    return r;
}

static struct engine_request ask(size_t index, bool is_computed)
{
    struct engine_request request = {.sampling = {.seed = 77}};
    EXPECT(answer_request(&answer, index, &request) == is_computed);
    return request;
}

/* A token and its log-probabilities: of itself, of 'y' and of nothing. */
static void record(size_t index, int32_t token, float logprob, const char *text, int released,
                   enum finish_reason finish)
{
    struct token_logprob rows[] = {{token, logprob}, {'y', -0.25f}, {-1, -INFINITY}};
    struct engine_event event = {
        .kind = finish == FINISH_NONE ? ENGINE_EVENT_TOKENS : ENGINE_EVENT_DONE,
        .tokens = &token,
        .token_count = 1,
        .logprobs = rows,
        .text = (char *)text,
        .text_len = strlen(text),
        .finish = finish,
        .completion_tokens = answer.candidates[index].completion_tokens + 1,
        .cached_tokens = 2,
        .released_tokens = released,
    };
    answer_record(&answer, index, &event);
}

static bool has(const char *text)
{
    bool found = out.data && strstr(out.data, text);
    if (!found) printf("  not in: %s\n  is: %s\n", out.data ? out.data : "", text);
    return found;
}

static void print_events(void)
{
    buf_clear(&out);
    answer_print_events(&answer, &out);
}

/* ---- engine requests ---- */

static void test_requests(void)
{
    struct chat_request r = request_of(COMPLETION_TEXT, 3);
    begin(&r, 2);
    EXPECT_INT(answer.count, 6);
    uint64_t seeds[6];
    for (size_t i = 0; i < 6; i++) {
        struct engine_request request = ask(i, true);
        seeds[i] = request.sampling.seed;
        EXPECT_INT(request.sampling.choice, i % 3);
        EXPECT_INT(request.prompt[1], i < 3 ? 'a' : 'c');
        EXPECT(request.max_tokens == 9 && request.sampling.logprobs == 0);
        EXPECT(!request.prompt_logprobs);
    }
    EXPECT(seeds[0] == 77 && seeds[2] == 77 && seeds[3] != 77 && seeds[3] == seeds[5]);
    EXPECT_INT(answer.open, 6);
    answer_deinit(&answer);

    r.candidates = 5; // best_of: the likeliest must be known
    begin(&r, 1);
    EXPECT_INT(ask(4, true).sampling.logprobs, 1);
    answer_deinit(&answer);

    r = request_of(COMPLETION_TEXT, 2);
    r.echo = r.logprobs = r.has_max_tokens = true;
    r.top_logprobs = 2;
    begin(&r, 1);
    struct engine_request first = ask(0, true);
    EXPECT(first.prompt_logprobs && first.sampling.logprobs == 3);
    EXPECT(!ask(1, true).prompt_logprobs); // one of them is enough
    answer_deinit(&answer);
}

static void test_nothing_to_generate(void)
{
    struct chat_request r = request_of(COMPLETION_TEXT, 2);
    r.has_max_tokens = r.echo = true;
    r.max_tokens = 0;
    begin(&r, 1);
    ask(0, false);
    ask(1, false);
    EXPECT_INT(answer.open, 0);
    answer_print_whole(&answer, &out);
    EXPECT(has("{\"index\":1,\"text\":\"ab\",\"logprobs\":null,\"finish_reason\":\"length\"}"));
    EXPECT(has("\"prompt_tokens\":3,\"completion_tokens\":0"));
    answer_deinit(&answer);

    r.logprobs = true; // scoring a prompt: a token is drawn, and dropped
    begin(&r, 1);
    EXPECT_INT(ask(0, true).max_tokens, 1);
    ask(1, false);
    struct token_logprob scores[] = {{'a', -1}, {'b', -2}};
    struct engine_event event = {
        .kind = ENGINE_EVENT_TOKENS, .prompt_logprobs = scores, .prompt_logprob_count = 2};
    answer_record(&answer, 0, &event);
    record(0, 'z', -1, "z", 1, FINISH_STOP);
    answer_print_whole(&answer, &out);
    EXPECT(has("\"text\":\"ab\",\"logprobs\":{\"tokens\":[\"<s>\",\"a\",\"b\"],"
               "\"token_logprobs\":[null,-1,-2],\"top_logprobs\":[null,{\"a\":-1},{\"b\":-2}],"
               "\"text_offset\":[0,0,1]},\"finish_reason\":\"length\""));
    EXPECT(has("\"completion_tokens\":0"));
    answer_deinit(&answer);
}

/* ---- choices ---- */

static void test_best_of(void)
{
    struct chat_request r = request_of(COMPLETION_TEXT, 2);
    r.candidates = 4;
    begin(&r, 1);
    for (size_t i = 0; i < 4; i++)
        ask(i, true);
    record(0, 'p', -3, "p", 1, FINISH_STOP);
    record(1, 'q', -1, "q", 1, FINISH_NONE);
    record(1, 'q', -2, "q", 2, FINISH_STOP); // -1.5 a token, though -3 in all
    record(2, 'r', -2, "r", 1, FINISH_STOP);
    record(3, 's', -1.5f, "s", 1, FINISH_LENGTH);
    answer_print_whole(&answer, &out);
    EXPECT(has("{\"index\":0,\"text\":\"qq\",\"logprobs\":null,\"finish_reason\":\"stop\"},"
               "{\"index\":1,\"text\":\"s\",\"logprobs\":null,\"finish_reason\":\"length\"}]"));
    EXPECT(has("\"prompt_tokens\":3,\"completion_tokens\":5,\"total_tokens\":8,"
               "\"prompt_tokens_details\":{\"cached_tokens\":2}"));
    answer_deinit(&answer);
}

/* A chat stream's choices begin in order, and each ends once. */
static void test_stream_of_choices(void)
{
    struct chat_request r = request_of(COMPLETION_CHAT, 3);
    r.stream = true;
    begin(&r, 1);
    answer.head.include_usage = true;
    for (size_t i = 0; i < 3; i++)
        ask(i, true);
    print_events();
    EXPECT_INT(out.len, 0);
    record(2, 'x', -1, "x", 1, FINISH_NONE);
    print_events();
    const char *zero = strstr(out.data, "{\"index\":0,\"delta\":{\"role\""),
               *one = strstr(out.data, "{\"index\":1,\"delta\":{\"role\""),
               *two = strstr(out.data, "{\"index\":2,\"delta\":{\"role\""),
               *text = strstr(out.data, "{\"index\":2,\"delta\":{\"content\":\"x\"}");
    EXPECT(zero && zero < one && one < two && two < text);
    record(1, 'y', -1, "y", 1, FINISH_STOP);
    print_events();
    EXPECT(!strstr(out.data, "role") && has("{\"index\":1,\"delta\":{\"content\":\"y\"}"));
    EXPECT(has("{\"index\":1,\"delta\":{\"content\":\"\"},\"logprobs\":null,"
               "\"finish_reason\":\"stop\"}"));
    record(0, 'z', -1, "", 1, FINISH_LENGTH);
    record(2, 'z', -1, "z", 2, FINISH_STOP);
    print_events();
    EXPECT(!strstr(out.data, "\"index\":1") && has("\"finish_reason\":\"length\""));
    EXPECT(has("\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4"));
    EXPECT(out.len > 14 && strcmp(out.data + out.len - 14, "data: [DONE]\n\n") == 0);
    answer_deinit(&answer);
}

/* ---- log-probabilities ---- */

static void test_chat_logprobs(void)
{
    struct chat_request r = request_of(COMPLETION_CHAT, 1);
    r.logprobs = true;
    r.top_logprobs = 2;
    begin(&r, 1);
    ask(0, true);
    record(0, 256, -0.5f, "", 0, FINISH_NONE);
    record(0, 257, -1, "\xf0\x9f\x98\x80", 2, FINISH_NONE);
    record(0, 300, -2, "", 3, FINISH_NONE);
    record(0, 'S', -4, "", 3, FINISH_STOP); // a stop string's: it has no text
    answer_print_whole(&answer, &out);
    EXPECT(has("\"logprobs\":{\"content\":["
               "{\"token\":\"bytes:\\\\xf0\\\\x9f\",\"logprob\":-0.5,\"bytes\":[240,159],"
               "\"top_logprobs\":[{\"token\":\"y\",\"logprob\":-0.25,\"bytes\":[121]}]},"));
    EXPECT(has("{\"token\":\"<s>\",\"logprob\":-2,\"bytes\":[],"));
    EXPECT(!strstr(out.data, "\"S\""));
    EXPECT(has("]}],\"refusal\":null},\"finish_reason\":\"stop\""));
    answer_deinit(&answer);

    r.top_logprobs = 0;
    begin(&r, 1);
    ask(0, true);
    record(0, 'k', -INFINITY, "k", 1, FINISH_STOP);
    answer_print_whole(&answer, &out);
    EXPECT(has("\"content\":[{\"token\":\"k\",\"logprob\":-9999,\"bytes\":[107],"
               "\"top_logprobs\":[]}],"));
    answer_deinit(&answer);
}

/* What a stream says token by token is what the whole says. Its tokens wait for their text. */
static void test_streamed_logprobs(void)
{
    struct chat_request r = request_of(COMPLETION_TEXT, 1);
    r.stream = r.logprobs = true;
    r.top_logprobs = 1;
    begin(&r, 1);
    ask(0, true);
    record(0, 'u', -1, "u", 1, FINISH_NONE);
    record(0, 'v', -2, "", 1, FINISH_NONE); // held back
    print_events();
    answer_record(&answer, 0, &(struct engine_event){.completion_tokens = 2}); // no way back
    EXPECT_INT(answer.candidates[0].released, 1);
    EXPECT(has("\"text\":\"u\",\"logprobs\":{\"tokens\":[\"u\"],\"token_logprobs\":[-1],"
               "\"top_logprobs\":[{\"y\":-0.25,\"u\":-1}],\"text_offset\":[2]}"));
    record(0, 'y', -0.25f, "vy", 3, FINISH_NONE);
    print_events();
    EXPECT(
        has("\"text\":\"vy\",\"logprobs\":{\"tokens\":[\"v\",\"y\"],\"token_logprobs\":[-2,-0.25],"
            "\"top_logprobs\":[{\"y\":-0.25,\"v\":-2},{\"y\":-0.25}],\"text_offset\":[3,4]}"));
    record(0, 300, -1, "", 4, FINISH_LENGTH);
    print_events();
    EXPECT(has("\"text\":\"\",\"logprobs\":{\"tokens\":[\"<s>\"]"));
    EXPECT(has("\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\""));
    answer_deinit(&answer);
}

/* All choices of a scored prompt begin with it, when it is scored. */
static void test_streamed_echo(void)
{
    struct chat_request r = request_of(COMPLETION_TEXT, 2);
    r.stream = r.logprobs = r.echo = true;
    begin(&r, 1);
    ask(0, true);
    ask(1, true);
    record(1, 'x', -1, "x", 1, FINISH_NONE);
    print_events();
    EXPECT_INT(out.len, 0);
    struct token_logprob scores[] = {{'a', -1}, {'b', -2}};
    struct engine_event event = {
        .kind = ENGINE_EVENT_TOKENS, .prompt_logprobs = scores, .prompt_logprob_count = 2};
    answer_record(&answer, 0, &event);
    print_events();
    EXPECT(has("\"index\":0,\"text\":\"ab\",\"logprobs\":{\"tokens\":[\"<s>\",\"a\",\"b\"]"));
    EXPECT(
        has("\"index\":1,\"text\":\"abx\",\"logprobs\":{\"tokens\":[\"<s>\",\"a\",\"b\",\"x\"]"));
    EXPECT(has("\"text_offset\":[0,0,1,2]"));
    record(0, 'w', -1, "w", 1, FINISH_STOP);
    record(1, 'z', -1, "z", 2, FINISH_STOP);
    print_events();
    EXPECT(has("\"index\":0,\"text\":\"w\",\"logprobs\":{\"tokens\":[\"w\"]"));
    EXPECT(!strstr(out.data, "<s>") && has("\"text_offset\":[3]"));
    answer_deinit(&answer);
}

/* ---- answers that are taken apart ---- */

static const struct tool two_tools[] = {{.name = {"get_weather", 11}}, {.name = {"add", 3}}};
static struct tool_list tool_list;

/* As a request with both tools has it, for models of those forms; NULL: none. */
static struct reply_plan plan_of(const char *tools, const char *reasoning)
{
    tool_list = (struct tool_list){.items = two_tools, .count = 2, .choice = TOOL_CHOICE_AUTO};
    struct reply_plan plan = {.is_parsed = true, .options = {.list = &tool_list}};
    if (tools) plan.options.tools = tool_format_find(tools);
    if (reasoning) plan.options.reasoning = reasoning_format_find(reasoning);
    NEED((!tools || plan.options.tools) && (!reasoning || plan.options.reasoning));
    return plan;
}

static void begin_planned(const struct chat_request *r, const struct reply_plan *plan)
{
    begin(r, 1);
    prompts.plan = *plan;
    answer_deinit(&answer);
    struct response_head head = {.printer = &chat_response_printer,
                                 .id = "i",
                                 .created = 5,
                                 .model = STR("m"),
                                 .fingerprint = "fp"};
    answer_init(&answer, &head, r, &prompts, NULL);
}

/* A text, a token for each byte, so many of them in each event. */
static void say(size_t index, const char *text, size_t step, enum finish_reason finish)
{
    size_t len = strlen(text);
    for (size_t at = 0; at < len; at += step) {
        int32_t ids[512];
        size_t count = len - at < step ? len - at : step;
        NEED(count <= ARRAY_LEN(ids));
        for (size_t i = 0; i < count; i++)
            ids[i] = (unsigned char)text[at + i];
        bool is_last = at + count == len && finish != FINISH_NONE;
        struct engine_event event = {
            .kind = is_last ? ENGINE_EVENT_DONE : ENGINE_EVENT_TOKENS,
            .tokens = ids,
            .token_count = (int)count,
            .text = (char *)text + at,
            .text_len = count,
            .finish = is_last ? finish : FINISH_NONE,
            .completion_tokens = answer.candidates[index].completion_tokens + (int)count,
        };
        answer_record(&answer, index, &event);
        if (answer.head.is_stream) answer_print_events(&answer, &out);
    }
}

#define HERMES_CALLS                                                                             \
    "Let me see.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Bonn\"}}" \
    "\n</tool_call>\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": [1, "               \
    "2]}}\n</tool_call>"

static void test_calls(void)
{
    struct chat_request r = request_of(COMPLETION_CHAT, 2);
    struct reply_plan plan = plan_of("hermes", NULL);
    begin_planned(&r, &plan);
    ask(0, true);
    ask(1, true);
    say(0, HERMES_CALLS, 7, FINISH_STOP);
    say(1, strstr(HERMES_CALLS, "<tool_call>"), 200, FINISH_STOP);
    answer_print_whole(&answer, &out);
    char ids[4][REPLY_CALL_ID_BYTES], text[600];
    for (int i = 0; i < 4; i++)
        reply_call_id("i", i / 2, i % 2, ids[i]);
    snprintf(
        text, sizeof text,
        "{\"role\":\"assistant\",\"content\":\"Let me see.\\n\",\"refusal\":null,\"tool_calls\":["
        "{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":\"get_weather\","
        "\"arguments\":\"{\\\"city\\\": \\\"Bonn\\\"}\"}},"
        "{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":\"add\","
        "\"arguments\":\"{\\\"a\\\": [1, 2]}\"}}]},\"logprobs\":null,"
        "\"finish_reason\":\"tool_calls\"}",
        ids[0], ids[1]);
    EXPECT(has(text));
    snprintf(text, sizeof text, "\"content\":null,\"refusal\":null,\"tool_calls\":[{\"id\":\"%s\"",
             ids[2]);
    EXPECT(has(text));
    for (int i = 0; i < 4; i++) {
        EXPECT(strlen(ids[i]) == 29 && memcmp(ids[i], "call_", 5) == 0);
        for (int k = 0; k < i; k++)
            EXPECT(strcmp(ids[i], ids[k]) != 0);
    }
    answer_deinit(&answer);
}

/* Printing them takes a step for each, not one for each pair. */
static void test_many_calls(void)
{
    enum { CALLS = 60000 };
    static const char call[] = "<tool_call>{\"name\":\"add\"}</tool_call>";
    struct chat_request r = request_of(COMPLETION_CHAT, 1);
    struct reply_plan plan = plan_of("hermes", NULL);
    struct buf text, printed;
    begin_planned(&r, &plan);
    ask(0, true);
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_init(&printed, BUF_MAX_INTERNAL);
    for (int i = 0; i < CALLS; i++)
        buf_append_str(&text, call);
    say(0, text.data, 500, FINISH_STOP);
    answer_print_whole(&answer, &printed);
    struct json *body = json_parse(printed.data, printed.len, NULL);
    const struct json *choice = json_first(json_get(body, "choices"));
    EXPECT_INT(json_len(json_get(json_get(choice, "message"), "tool_calls")), CALLS);
    json_destroy(body);
    buf_deinit(&text);
    buf_deinit(&printed);
    answer_deinit(&answer);
}

/* How the choice ends, and what of it comes out, depends on what was asked for. */
static void test_choices_of_tools(void)
{
    struct chat_request r = request_of(COMPLETION_CHAT, 1);
    struct reply_plan plan = plan_of("hermes", NULL);
    plan.calls_max = 1;
    begin_planned(&r, &plan);
    ask(0, true);
    say(0, HERMES_CALLS, 9, FINISH_STOP);
    answer_print_whole(&answer, &out);
    EXPECT(has("get_weather") && !strstr(out.data, "\"add\""));
    answer_deinit(&answer);

    plan.must_call = plan.is_named = true; // OpenAI: then it ends with "stop"
    begin_planned(&r, &plan);
    ask(0, true);
    say(0, strstr(HERMES_CALLS, "<tool_call>"), 9, FINISH_STOP);
    answer_print_whole(&answer, &out);
    EXPECT(has("\"content\":null") && has("\"finish_reason\":\"stop\""));
    answer_deinit(&answer);

    plan = plan_of("hermes", NULL); // cut: the arguments so far, but no beginning of a call
    plan.must_call = true;
    begin_planned(&r, &plan);
    ask(0, true);
    say(0, "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\"", 9, FINISH_LENGTH);
    answer_print_whole(&answer, &out);
    EXPECT(has("\"content\":null") && has("\"arguments\":\"{\\\"a\\\"\""));
    EXPECT(has("\"finish_reason\":\"length\""));
    answer_deinit(&answer);
    begin_planned(&r, &plan);
    ask(0, true);
    say(0, "<tool_call>\n{\"na", 9, FINISH_LENGTH);
    answer_print_whole(&answer, &out);
    EXPECT(has("\"content\":\"\",\"refusal\":null},") && has("\"finish_reason\":\"length\""));
    answer_deinit(&answer);
}

/* ---- streams of parts ---- */

/* What clients make of a stream's deltas. */
struct gathered {
    struct buf content, reasoning, calls; // calls: "id name(arguments)" each
    int roles, finishes, events;
    bool is_open; // the last call
};

static void gather_text(struct buf *to, const struct json *v)
{
    if (!v || json_type(v) != JSON_STRING) return;
    size_t len;
    const char *text = json_string(v, &len);
    buf_append(to, text, len);
}

static void gather_delta(struct gathered *g, const struct json *delta)
{
    if (json_get(delta, "role")) g->roles++;
    gather_text(&g->content, json_get(delta, "content"));
    gather_text(&g->reasoning, json_get(delta, "reasoning_content"));
    for (const struct json *c = json_first(json_get(delta, "tool_calls")); c; c = json_next(c)) {
        const struct json *function = json_get(c, "function");
        EXPECT(json_get(c, "index") && function);
        bool begins = json_get(c, "id") != NULL;
        EXPECT(begins == (json_get(c, "type") != NULL));
        EXPECT(begins == (json_get(function, "name") != NULL));
        if (begins) {
            buf_printf(&g->calls, "%s%d ", g->calls.len ? "\n" : "",
                       (int)json_number(json_get(c, "index")));
            gather_text(&g->calls, json_get(c, "id"));
            buf_append_char(&g->calls, ' ');
            gather_text(&g->calls, json_get(function, "name"));
            buf_append_char(&g->calls, ' ');
        }
        gather_text(&g->calls, json_get(function, "arguments"));
    }
}

/* All events of `text`, which may have marks. */
static void gather(struct gathered *g, struct str text)
{
    struct str line;
    while (str_split(&text, '\n', &line)) {
        if (!str_starts_with(line, STR("data: {"))) continue;
        struct json *event = json_parse(line.data + 6, line.len - 6, NULL);
        NEED(event);
        const struct json *choice = json_first(json_get(event, "choices"));
        g->events++;
        gather_delta(g, json_get(choice, "delta"));
        if (json_get_set(choice, "finish_reason")) g->finishes++;
        json_destroy(event);
    }
}

static struct gathered gathered_new(void)
{
    struct gathered g = {0};
    buf_init(&g.content, 1 << 16);
    buf_init(&g.reasoning, 1 << 16);
    buf_init(&g.calls, 1 << 16);
    return g;
}

static void gathered_deinit(struct gathered *g)
{
    buf_deinit(&g->content);
    buf_deinit(&g->reasoning);
    buf_deinit(&g->calls);
}

/* What models of several forms say, with what it is. */
static const struct {
    const char *tools, *reasoning;
    bool starts_in;
    const char *text, *thought, *content;
    const char *calls[2]; // behind their ids
    int thought_tokens;
} sayings[] = {
    {"hermes",
     NULL,
     false,
     HERMES_CALLS,
     "",
     "Let me see.\n",
     {"get_weather {\"city\": \"Bonn\"}", "add {\"a\": [1, 2]}"},
     0},
    {"hermes",
     "qwen3",
     false,
     "<think>\nIt asks\nfor Bonn.\n</think>\n\n<tool_call>\n{\"name\": \"add\", \"arguments\": "
     "{}}\n"
     "</tool_call>",
     "It asks\nfor Bonn.",
     "",
     {"add {}", NULL},
     28}, // of the opening tag, the last byte
    {"hermes",
     "default",
     true,
     "Hm \xc3\xa9.\n</think>\n\nGr\xc3\xbc\xc3\x9f dich.",
     "Hm \xc3\xa9.",
     "Gr\xc3\xbc\xc3\x9f dich.",
     {NULL, NULL},
     15},
    {"hermes", NULL, false, "a < b <tool_cal> c", "", "a < b <tool_cal> c", {NULL, NULL}, 0},
    {"llama3",
     NULL,
     false,
     "{\"name\": \"add\", \"parameters\": {\"a\": 1}}",
     "",
     "",
     {"add {\"a\": 1}", NULL},
     0},
    {"gpt-oss",
     "gpt-oss",
     false,
     "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
     "to=functions.add <|constrain|>json<|message|>{\"a\":1}",
     "Hm.",
     "",
     {"add {\"a\":1}", NULL},
     95}, // up to the next message's text
    {"mistral",
     NULL,
     false,
     "Ok.[TOOL_CALLS]add[ARGS]{\"a\": 2}[TOOL_CALLS]get_weather[ARGS]{}",
     "",
     "Ok.",
     {"add {\"a\": 2}", "get_weather {}"},
     0},
    {"qwen3-coder",
     NULL,
     false,
     "<tool_call>\n<function=get_weather>\n<parameter=city>\nBonn\n</parameter>\n</function>\n"
     "</tool_call>",
     "",
     "",
     {"get_weather {\"city\": \"Bonn\"}", NULL},
     0},
    {NULL, "default", true, "no end", "no end", "", {NULL, NULL}, 6},
};

static void expect_saying(size_t row, const struct gathered *g)
{
    struct buf calls;
    char id[REPLY_CALL_ID_BYTES];
    buf_init(&calls, 1 << 16);
    buf_append_str(&calls, "");
    for (int i = 0; i < 2 && sayings[row].calls[i]; i++) {
        reply_call_id("i", 0, i, id);
        buf_printf(&calls, "%s%d %s %s", i ? "\n" : "", i, id, sayings[row].calls[i]);
    }
    EXPECT_STR(g->content.data ? g->content.data : "", sayings[row].content);
    EXPECT_STR(g->reasoning.data ? g->reasoning.data : "", sayings[row].thought);
    EXPECT_STR(g->calls.data ? g->calls.data : "", calls.data ? calls.data : "");
    buf_deinit(&calls);
}

static struct reply_plan plan_of_saying(size_t row)
{
    struct reply_plan plan = plan_of(sayings[row].tools, sayings[row].reasoning);
    plan.options.starts_in_reasoning = sayings[row].starts_in;
    return plan;
}

/* However it is cut, clients put the same message together. */
static void test_streamed_parts(void)
{
    static const size_t steps[] = {1, 2, 3, 7, 50, 500};
    struct chat_request r = request_of(COMPLETION_CHAT, 1);
    r.stream = true;
    for (size_t i = 0; i < ARRAY_LEN(sayings) * ARRAY_LEN(steps); i++) {
        size_t row = i / ARRAY_LEN(steps);
        struct reply_plan plan = plan_of_saying(row);
        struct gathered g = gathered_new();
        begin_planned(&r, &plan);
        ask(0, true);
        say(0, sayings[row].text, steps[i % ARRAY_LEN(steps)], FINISH_STOP);
        gather(&g, buf_str(&out));
        expect_saying(row, &g);
        EXPECT(g.roles == 1 && g.finishes == 1);
        EXPECT_INT(answer_usage(&answer).reasoning_tokens, sayings[row].thought_tokens);
        EXPECT(has(sayings[row].calls[0] ? "\"delta\":{},\"logprobs\":null,\"finish_reason\":"
                                           "\"tool_calls\""
                                         : "\"delta\":{\"content\":\"\"},\"logprobs\":null,"
                                           "\"finish_reason\":\"stop\""));
        gathered_deinit(&g);
        answer_deinit(&answer);
    }
}

/* Choices side by side: each has its own calls, with ids of its own. */
static void test_streamed_choices_with_calls(void)
{
    struct chat_request r = request_of(COMPLETION_CHAT, 2);
    struct reply_plan plan = plan_of("hermes", NULL);
    r.stream = true;
    begin_planned(&r, &plan);
    ask(0, true);
    ask(1, true);
    say(1, strstr(HERMES_CALLS, "<tool_call>"), 40, FINISH_STOP);
    say(0, HERMES_CALLS, 11, FINISH_STOP);
    for (int i = 0; i < 4; i++) {
        char id[REPLY_CALL_ID_BYTES], text[200];
        reply_call_id("i", i / 2, i % 2, id);
        snprintf(text, sizeof text,
                 "{\"index\":%d,\"delta\":{\"tool_calls\":[{\"index\":%d,\"id\":\"%s\",", i / 2,
                 i % 2, id);
        EXPECT(has(text));
    }
    const char *first = strstr(out.data, "\"role\"");
    EXPECT(first && first > strstr(out.data, "{\"index\":0,"));
    EXPECT(has("{\"index\":1,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"tool_calls\"}"));
    answer_deinit(&answer);
}

/* A mark before an event: ids announced so far, bytes and phase with it. */
static bool read_mark(struct str line, struct resume_record *record)
{
    if (!str_starts_with(line, STR(": lm t="))) return false;
    struct str rest = {line.data + 7, line.len - 7}, word, id;
    NEED(str_split(&rest, ' ', &word));
    while (str_split(&word, ',', &id)) {
        int64_t value;
        if (id.len == 0) continue;
        NEED(str_to_int(id, &value) == 0);
        token_list_push(&record->ids, (int32_t)value);
    }
    char text[64];
    unsigned long bytes, phase;
    snprintf(text, sizeof text, STR_FMT, STR_ARG(rest));
    NEED(sscanf(text, "b=%lu p=%lu", &bytes, &phase) == 2);
    record->bytes = bytes;
    record->phase = (enum resume_phase)phase;
    return true;
}

/* The rest of the answer as another agent tells it, into g. */
static void resume(size_t row, const struct chat_request *r, const struct resume_record *record,
                   size_t step, struct gathered *g)
{
    struct reply_plan plan = plan_of_saying(row);
    const char *text = sayings[row].text;
    size_t len = strlen(text), known = record->ids.count;
    begin_planned(r, &plan);
    answer_mark(&answer, 1, false);
    answer_resume(&answer, record);
    ask(0, true);
    if (known > 0) {
        bool is_whole = known == len;
        struct engine_event event = {.kind = is_whole ? ENGINE_EVENT_DONE : ENGINE_EVENT_TOKENS,
                                     .tokens = record->ids.ids,
                                     .token_count = (int)known,
                                     .text = (char *)text,
                                     .text_len = known,
                                     .finish = is_whole ? FINISH_STOP : FINISH_NONE,
                                     .completion_tokens = (int)known,
                                     .resumed_tokens = (int)known};
        answer_record(&answer, 0, &event);
        answer_print_events(&answer, &out);
    }
    say(0, text + known, step, FINISH_STOP);
    EXPECT(!answer.is_contradicted);
    gather(g, buf_str(&out));
    EXPECT_INT(answer_usage(&answer).reasoning_tokens, sayings[row].thought_tokens);
    answer_deinit(&answer);
}

/* Cut before any event, the stream goes on elsewhere: the client can't tell. */
static void test_resumed_parts(void)
{
    struct chat_request r = request_of(COMPLETION_CHAT, 1);
    r.stream = true;
    for (size_t i = 0; i < ARRAY_LEN(sayings) * 2; i++) {
        size_t row = i / 2;
        struct reply_plan plan = plan_of_saying(row);
        begin_planned(&r, &plan);
        answer_mark(&answer, 1, false);
        ask(0, true);
        say(0, sayings[row].text, i % 2 ? 5 : 1, FINISH_STOP);
        answer_deinit(&answer);
        struct buf whole = out;
        out = (struct buf){0};
        struct resume_record record = {.now_s = 1}, next = {.now_s = 1};
        struct str rest = buf_str(&whole), line;
        int cuts = 0;
        while (str_split(&rest, '\n', &line)) {
            size_t before = record.ids.count;
            if (!read_mark(line, &next)) continue;
            if (record.phase >= RESUME_FINISHED) break;
            struct gathered g = gathered_new();
            gather(&g, (struct str){whole.data, (size_t)(line.data - whole.data)});
            resume(row, &r, &record, cuts % 2 ? 3 : 200, &g);
            expect_saying(row, &g);
            EXPECT(g.roles == 1 && g.finishes == 1);
            gathered_deinit(&g);
            for (size_t k = before; k < next.ids.count; k++)
                token_list_push(&record.ids, next.ids.ids[k]);
            record.bytes = next.bytes;
            record.phase = next.phase;
            cuts++;
        }
        EXPECT(cuts >= 3);
        token_list_deinit(&record.ids);
        token_list_deinit(&next.ids);
        buf_deinit(&whole);
    }
    /* A record that isn't of this answer: more than the tokens make. */
    struct resume_record record = {.now_s = 1, .phase = RESUME_BEGUN, .bytes = 100};
    int32_t id = 'L';
    token_list_push(&record.ids, id);
    struct reply_plan plan = plan_of_saying(0);
    begin_planned(&r, &plan);
    answer_resume(&answer, &record);
    ask(0, true);
    answer_record(&answer, 0,
                  &(struct engine_event){.kind = ENGINE_EVENT_TOKENS,
                                         .tokens = &id,
                                         .token_count = 1,
                                         .text = (char[]){"L"},
                                         .text_len = 1,
                                         .completion_tokens = 1,
                                         .resumed_tokens = 1});
    EXPECT(answer.is_contradicted);
    answer_deinit(&answer);
    token_list_deinit(&record.ids);
}

/* Log-probabilities are of all that the model said, once. */
static void test_parts_with_logprobs(void)
{
    struct chat_request r = request_of(COMPLETION_CHAT, 1);
    struct reply_plan plan = plan_of("hermes", "default");
    plan.options.starts_in_reasoning = true;
    r.stream = r.logprobs = true;
    begin_planned(&r, &plan);
    ask(0, true);
    static const char text[] = "ok</think>yes";
    size_t entries = 0;
    for (size_t i = 0; text[i]; i++) {
        record(0, text[i], -1, (char[]){text[i], 0}, (int)i + 1,
               text[i + 1] ? FINISH_NONE : FINISH_STOP);
        answer_print_events(&answer, &out);
    }
    for (const char *at = out.data; (at = strstr(at, "{\"token\":\"")) != NULL; at++)
        entries++;
    EXPECT_INT(entries, strlen(text));
    EXPECT(has("\"delta\":{\"reasoning_content\":\"o\"}") && has("\"delta\":{\"content\":\"y\"}"));
    answer_deinit(&answer);
}

static void test_characters(void)
{
    EXPECT_INT(response_count_characters(STR("")), 0);
    EXPECT_INT(response_count_characters(STR("a\xc3\xa9\xf0\x9f\x98\x80")), 3);
}

int main(void)
{
    RUN(test_requests);
    RUN(test_nothing_to_generate);
    RUN(test_best_of);
    RUN(test_stream_of_choices);
    RUN(test_chat_logprobs);
    RUN(test_streamed_logprobs);
    RUN(test_streamed_echo);
    RUN(test_calls);
    RUN(test_many_calls);
    RUN(test_choices_of_tools);
    RUN(test_streamed_parts);
    RUN(test_streamed_choices_with_calls);
    RUN(test_resumed_parts);
    RUN(test_parts_with_logprobs);
    RUN(test_characters);
    for (int i = 0; i < 2; i++)
        buf_deinit(&texts[i].text);
    buf_deinit(&out);
    return TEST_END();
}
