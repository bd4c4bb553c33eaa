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

static struct reply replies[2];

static struct response_choice choice_of(struct reply *reply, const char *text,
                                        enum finish_reason finish)
{
    reply_deinit(reply);
    reply_init(reply, NULL);
    reply_append_content(reply, str_of(text));
    return (struct response_choice){.reply = reply,
                                    .finish = finish,
                                    .tokens = token_ids,
                                    .token_count = 2,
                                    .prompt = prompt_ids,
                                    .prompt_count = 2};
}

static struct buf out;

static void print_piece(const struct response_head *head, const struct response_choice *choice,
                        enum reply_piece_kind kind, const char *text)
{
    const struct response_printer *printer =
        head->kind == COMPLETION_CHAT ? &chat_response_printer : &text_response_printer;
    printer->piece(&out, head, choice, &(struct reply_piece){.kind = kind, .text = str_of(text)});
}

static void expect_out(const char *want)
{
    EXPECT_STR(out.data, want);
    buf_clear(&out);
}

static void test_chat_body(void)
{
    struct response_head head = head_of(COMPLETION_CHAT);
    struct response_choice choice = choice_of(&replies[0], "a \"b\"\n\xc3\xa9", FINISH_STOP);
    chat_response_printer.whole(&out, &head, &choice, 1, &usage);
    expect_out("{\"id\":\"id-1\",\"object\":\"chat.completion\",\"created\":5,\"model\":\"m\","
               "\"system_fingerprint\":\"fp_0\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
               "\"assistant\",\"content\":\"a \\\"b\\\"\\n\xc3\xa9\",\"refusal\":null},"
               "\"logprobs\":null,\"finish_reason\":\"stop\"}]," USAGE "}");
    head.return_token_ids = head.service_tier = true;
    chat_response_printer.whole(&out, &head, &choice, 1, &usage);
    expect_out("{\"id\":\"id-1\",\"object\":\"chat.completion\",\"created\":5,\"model\":\"m\","
               "\"system_fingerprint\":\"fp_0\",\"service_tier\":\"default\",\"choices\":[{"
               "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"a "
               "\\\"b\\\"\\n\xc3\xa9\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":"
               "\"stop\",\"token_ids\":[7,8]}]," USAGE ",\"prompt_token_ids\":[1,2]}");
}

static void test_text_body(void)
{
    struct response_head head = head_of(COMPLETION_TEXT);
    struct response_choice choices[2] = {choice_of(&replies[0], "x", FINISH_LENGTH),
                                         choice_of(&replies[1], "", FINISH_STOP)};
    choices[1].index = 1;
    choices[1].token_count = 0;
    head.return_token_ids = true;
    text_response_printer.whole(&out, &head, choices, 2, &usage);
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
    struct response_choice choice = choice_of(&replies[0], "", FINISH_NONE);
    chat_response_printer.begin(&out, &head, &choice, &usage);
    expect_out(CHUNK "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":"
                     "null},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    print_piece(&head, &choice, REPLY_CONTENT, "Hel");
    expect_out(CHUNK "{\"index\":0,\"delta\":{\"content\":\"Hel\"},\"logprobs\":null,"
                     "\"finish_reason\":null}]}\n\n");
    choice = choice_of(&replies[0], "", FINISH_LENGTH);
    chat_response_printer.finish(&out, &head, &choice, &usage);
    expect_out(CHUNK "{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,"
                     "\"finish_reason\":\"length\"}]}\n\n");
    chat_response_printer.done(&out, &head);
    expect_out("data: [DONE]\n\n");
}

static void test_stream_usage(void)
{
    struct response_head head = head_of(COMPLETION_CHAT);
    struct response_choice choice = choice_of(&replies[0], "H", FINISH_NONE);
    head.include_usage = true;
    print_piece(&head, &choice, REPLY_CONTENT, "H");
    expect_out(CHUNK "{\"index\":0,\"delta\":{\"content\":\"H\"},\"logprobs\":null,"
                     "\"finish_reason\":null}],\"usage\":null}\n\n");
    chat_response_printer.usage(&out, &head, &usage);
    expect_out(CHUNK "]," USAGE "}\n\n");
}

static void test_stream_ids(void)
{
    struct response_head head = head_of(COMPLETION_CHAT);
    struct response_choice choice = choice_of(&replies[0], "H", FINISH_NONE);
    head.return_token_ids = true;
    print_piece(&head, &choice, REPLY_CONTENT, "H");
    expect_out(CHUNK
               "{\"index\":0,\"delta\":{\"content\":\"H\"},\"logprobs\":null,"
               "\"finish_reason\":null,\"token_ids\":[7,8]}],\"prompt_token_ids\":[1,2]}\n\n");
    head.kind = COMPLETION_TEXT;
    choice.prompt = NULL; // said before
    print_piece(&head, &choice, REPLY_CONTENT, "H");
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
    reply_deinit(&replies[0]);
    reply_deinit(&replies[1]);
    return TEST_END();
}
