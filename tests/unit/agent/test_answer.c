/* Answers in the making: which engine requests they take, what is printed when. The tokenizer is this
 * file's: a token per byte, 300 is a special one, 256.. are halves of characters. */
#include "agent/answer.h"

#include "agent/chat_response.h"
#include "agent/response_logprobs.h"
#include "shared/base/check.h"
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
    RUN(test_characters);
    for (int i = 0; i < 2; i++)
        buf_deinit(&texts[i].text);
    buf_deinit(&out);
    return TEST_END();
}
