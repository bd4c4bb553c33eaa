/* The exact bytes of answers: key order and nulls included, since clients are strict in places. */
#include "agent/chat_response.h"

#include "tests/test.h"

#define TAIL                                           \
    "\"prompt_tokens_details\":{\"cached_tokens\":2}," \
    "\"completion_tokens_details\":{\"reasoning_tokens\":0}}"
#define USAGE "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"total_tokens\":12," TAIL

static const struct response_usage usage = {
    .prompt_tokens = 9, .cached_tokens = 2, .completion_tokens = 3};

static const int32_t prompt_ids[] = {1, 2}, token_ids[] = {7, 8};

static struct response_head head_of(enum completion_kind kind)
{
    return (struct response_head){
        .kind = kind, .id = "id-1", .created = 5, .model = STR("m"), .fingerprint = "fp_0"};
}

static struct response_choice choice_of(const char *text, enum finish_reason finish)
{
    return (struct response_choice){.text = str_of(text),
                                    .finish = finish,
                                    .tokens = token_ids,
                                    .token_count = 2,
                                    .prompt = prompt_ids,
                                    .prompt_count = 2};
}

static struct buf out;

static void expect_out(const char *want)
{
    EXPECT_STR(out.data, want);
    buf_clear(&out);
}

static void test_chat_body(void)
{
    struct response_head head = head_of(COMPLETION_CHAT);
    struct response_choice choice = choice_of("a \"b\"\n\xc3\xa9", FINISH_STOP);
    chat_response_print(&out, &head, &choice, 1, &usage);
    expect_out("{\"id\":\"id-1\",\"object\":\"chat.completion\",\"created\":5,\"model\":\"m\","
               "\"system_fingerprint\":\"fp_0\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
               "\"assistant\",\"content\":\"a \\\"b\\\"\\n\xc3\xa9\",\"refusal\":null},"
               "\"logprobs\":null,\"finish_reason\":\"stop\"}]," USAGE "}");
    head.return_token_ids = head.service_tier = true;
    chat_response_print(&out, &head, &choice, 1, &usage);
    expect_out("{\"id\":\"id-1\",\"object\":\"chat.completion\",\"created\":5,\"model\":\"m\","
               "\"system_fingerprint\":\"fp_0\",\"service_tier\":\"default\",\"choices\":[{"
               "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"a "
               "\\\"b\\\"\\n\xc3\xa9\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":"
               "\"stop\",\"token_ids\":[7,8]}]," USAGE ",\"prompt_token_ids\":[1,2]}");
}

static void test_text_body(void)
{
    struct response_head head = head_of(COMPLETION_TEXT);
    struct response_choice choices[2] = {choice_of("x", FINISH_LENGTH), choice_of("", FINISH_STOP)};
    choices[1].index = 1;
    choices[1].token_count = 0;
    head.return_token_ids = true;
    chat_response_print(&out, &head, choices, 2, &usage);
    expect_out("{\"id\":\"id-1\",\"object\":\"text_completion\",\"created\":5,\"model\":\"m\","
               "\"system_fingerprint\":\"fp_0\",\"choices\":["
               "{\"index\":0,\"text\":\"x\",\"logprobs\":null,\"finish_reason\":\"length\","
               "\"token_ids\":[7,8],\"prompt_token_ids\":[1,2]},"
               "{\"index\":1,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\","
               "\"token_ids\":[],\"prompt_token_ids\":[1,2]}]," USAGE "}");
}

#define CHUNK                                                                                    \
    "data: {\"id\":\"id-1\",\"object\":\"chat.completion.chunk\",\"created\":5,\"model\":\"m\"," \
    "\"system_fingerprint\":\"fp_0\",\"choices\":["

static void test_chat_stream(void)
{
    struct response_head head = head_of(COMPLETION_CHAT);
    struct response_choice choice = choice_of("", FINISH_NONE);
    chat_response_event_role(&out, &head, &choice);
    expect_out(CHUNK "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":"
                     "null},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    choice = choice_of("Hel", FINISH_NONE);
    chat_response_event_text(&out, &head, &choice);
    expect_out(CHUNK "{\"index\":0,\"delta\":{\"content\":\"Hel\"},\"logprobs\":null,"
                     "\"finish_reason\":null}]}\n\n");
    choice = choice_of("", FINISH_LENGTH);
    chat_response_event_finish(&out, &head, &choice);
    expect_out(CHUNK "{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,"
                     "\"finish_reason\":\"length\"}]}\n\n");
    chat_response_event_done(&out);
    expect_out("data: [DONE]\n\n");
}

static void test_stream_usage(void)
{
    struct response_head head = head_of(COMPLETION_CHAT);
    struct response_choice choice = choice_of("H", FINISH_NONE);
    head.include_usage = true;
    chat_response_event_text(&out, &head, &choice);
    expect_out(CHUNK "{\"index\":0,\"delta\":{\"content\":\"H\"},\"logprobs\":null,"
                     "\"finish_reason\":null}],\"usage\":null}\n\n");
    chat_response_event_usage(&out, &head, &usage);
    expect_out(CHUNK "]," USAGE "}\n\n");
}

static void test_stream_ids(void)
{
    struct response_head head = head_of(COMPLETION_CHAT);
    struct response_choice choice = choice_of("H", FINISH_NONE);
    head.return_token_ids = true;
    chat_response_event_text(&out, &head, &choice);
    expect_out(CHUNK
               "{\"index\":0,\"delta\":{\"content\":\"H\"},\"logprobs\":null,"
               "\"finish_reason\":null,\"token_ids\":[7,8]}],\"prompt_token_ids\":[1,2]}\n\n");
    head.kind = COMPLETION_TEXT;
    choice.prompt = NULL; // said before
    chat_response_event_text(&out, &head, &choice);
    expect_out(
        "data: {\"id\":\"id-1\",\"object\":\"text_completion\",\"created\":5,\"model\":\"m\","
        "\"system_fingerprint\":\"fp_0\",\"choices\":[{\"index\":0,\"text\":\"H\","
        "\"logprobs\":null,\"finish_reason\":null,\"token_ids\":[7,8]}]}\n\n");
}

int main(void)
{
    buf_init(&out, 1 << 16);
    RUN(test_chat_body);
    RUN(test_text_body);
    RUN(test_chat_stream);
    RUN(test_stream_usage);
    RUN(test_stream_ids);
    buf_deinit(&out);
    return TEST_END();
}
