/* Bad values and their errors are tests/integration/test_sessions.py's; here is what good ones mean. */
#include "agent/interactive_request.h"

#include "tests/test.h"

static const struct request_limits limits = {.model = "m", .vocab_size = 100, .prompts_max = 1};
static struct interactive_request r;
static struct api_error e;

static int parse(const char *body)
{
    e = (struct api_error){0};
    return interactive_request_parse(str_of(body), &limits, &r, &e);
}

static void test_defaults(void)
{
    EXPECT_INT(parse("{\"prompt\":\"Hi \\\"you\\\"\"}"), 0);
    EXPECT_STR(r.messages, "{\"role\":\"user\",\"content\":\"Hi \\\"you\\\"\"}");
    EXPECT(r.session_id == -1 && r.fork_of == -1 && r.rewind_to == -1);
    EXPECT(!r.interactive_mode && !r.stream && !r.cancel && !r.wants_nothing);
    EXPECT_INT(r.max_tokens, 0);
    EXPECT(r.fields.sampling.temperature == 0.8f && r.fields.sampling.top_p == 0.8f);
    EXPECT_INT(r.fields.sampling.top_k, 40);
    EXPECT(!r.fields.has_seed && r.fields.skip_special && !r.fields.ignore_eos);
    EXPECT(!interactive_request_is_end(&r));
    interactive_request_deinit(&r);
}

static void test_all_fields(void)
{
    EXPECT_INT(parse("{\"prompt\":\"x\",\"session_id\":9007199254740991,\"interactive_mode\":true,"
                     "\"stream\":true,\"request_output_len\":7,\"top_p\":0.5,\"top_k\":0,"
                     "\"temperature\":0,\"seed\":-1,\"stop\":[\"a\",\"b\"],\"rewind_to\":3,"
                     "\"fork_of\":0,\"model\":\"m\",\"cancel\":false}"),
               0);
    EXPECT(r.session_id == SESSION_ID_MAX && r.interactive_mode && r.stream);
    EXPECT_INT(r.max_tokens, 7);
    EXPECT(r.fields.sampling.top_p == 0.5f && r.fields.sampling.temperature == 0);
    EXPECT_INT(r.fields.sampling.top_k, 0);
    EXPECT(r.fields.has_seed && r.fields.sampling.seed == UINT64_MAX);
    EXPECT_INT(r.fields.stop_count, 2);
    EXPECT(r.rewind_to == 3 && r.fork_of == 0);
    interactive_request_deinit(&r);
}

static void test_list(void)
{
    EXPECT_INT(parse("{\"prompt\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\","
                     "\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},"
                     "{\"role\":\"user\",\"content\":\"c\"}]}"),
               0);
    EXPECT_STR(r.messages, "{\"role\":\"system\",\"content\":\"ab\"},"
                           "{\"role\":\"user\",\"content\":\"c\"}");
    interactive_request_deinit(&r);
}

static void test_ends(void)
{
    static const char *const ends[] = {
        "{\"prompt\":\"\",\"session_id\":4,\"request_output_len\":0,\"interactive_mode\":false}",
        "{\"prompt\":[],\"session_id\":4}",
        "{\"prompt\":\"\"}",
    };
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        EXPECT_INT(parse(ends[i]), 0);
        EXPECT(interactive_request_is_end(&r));
        interactive_request_deinit(&r);
    }
    EXPECT_INT(parse("{\"prompt\":\"\",\"interactive_mode\":true}"), -1);
    EXPECT_INT(e.status, 400);
}

/* Looked at before everything else: a cancel with values that would be refused is a cancel. */
static void test_cancel(void)
{
    EXPECT_INT(parse("{\"prompt\":\"\",\"session_id\":4,\"cancel\":true,\"top_p\":9}"), 0);
    EXPECT(r.cancel && !interactive_request_is_end(&r));
    interactive_request_deinit(&r);
    EXPECT_INT(parse("{\"session_id\":4,\"cancel\":true}"),
               -1); // the prompt is required all the same
    EXPECT_STR(e.param, "prompt");
    EXPECT_INT(parse("{\"prompt\":\"\",\"cancel\":true}"), -1);
    EXPECT_STR(e.message, "please set a session_id to cancel a request");
}

static void test_refused(void)
{
    static const char *const bodies[] = {
        "",
        "[]",
        "null",
        "{",
        "{\"prompt\":{}}",
        "{\"prompt\":\"x\",\"top_p\":0}",
        "{\"prompt\":\"x\",\"session_id\":3,\"fork_of\":3}",
        "{\"prompt\":\"x\",\"session_id\":9007199254740992}",
        "{\"prompt\":\"x\",\"rewind_to\":2}",
        "{\"prompt\":\"x\",\"image_url\":[\"y\"]}",
        "{\"prompt\":[{\"role\":\"user\"}]}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        EXPECT_INT(parse(bodies[i]), -1);
        EXPECT_INT(e.status, 400);
        EXPECT(e.message[0] && r.document == NULL && r.messages == NULL);
    }
    EXPECT_INT(parse("{\"prompt\":\"x\",\"model\":\"n\"}"), -1);
    EXPECT_INT(e.status, 404);
    EXPECT_INT(parse("{\"prompt\":\"x\",\"image_url\":[],\"adapter_name\":\"\"}"), 0);
    interactive_request_deinit(&r);
}

/* Before anything is parsed: such a request mustn't wait behind the turn that it stops. */
static void test_is_cancel(void)
{
    static const struct {
        const char *body;
        bool is_cancel;
    } rows[] = {
        {"{\"cancel\":true,\"session_id\":1}", true},
        {"{\"prompt\":\"\",\"cancel\": 1}", true},
        {"{\"cancel\":false}", false},
        {"{\"cancel\":null,\"prompt\":\"x\"}", false},
        {"{\"prompt\":{\"cancel\":true}}", false},
        {"{\"prompt\":\"\\\"cancel\\\":true\"}", false},
        {"{\"cancel\":true", false},
        {"[\"cancel\"]", false},
        {"", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        EXPECT(interactive_request_is_cancel(str_of(rows[i].body)) == rows[i].is_cancel);
}

int main(void)
{
    RUN(test_defaults);
    RUN(test_all_fields);
    RUN(test_list);
    RUN(test_ends);
    RUN(test_cancel);
    RUN(test_refused);
    RUN(test_is_cancel);
    return TEST_END();
}
