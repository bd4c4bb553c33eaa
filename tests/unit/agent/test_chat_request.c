/* Requests as clients send them, right and wrong: one row each. */
#include "agent/chat_request.h"

#include "tests/test.h"

static const struct request_limits limits = {
    .model = "m", .vocab_size = 100, .prompts_max = 3, .choices_max = 40};

struct bad {
    const char *body;
    int status;
    const char *code;  // NULL: null
    const char *param; // "": null
    const char *text;  // part of the message
};

static void expect_bad(enum completion_kind kind, const struct bad *row)
{
    struct chat_request r;
    struct api_error e = {0};
    int rc = chat_request_parse(kind, str_of(row->body), &limits, &r, &e);
    bool ok = rc == -1 && e.status == row->status && strcmp(e.param, row->param) == 0 &&
              strstr(e.message, row->text) &&
              (row->code ? e.code && strcmp(e.code, row->code) == 0 : e.code == NULL);
    EXPECT(ok);
    if (!ok) {
        printf("  body:    %s\n  got:     %d %d %s '%s' %s\n", row->body, rc, e.status,
               e.code ? e.code : "(null)", e.param, e.message);
    }
    if (rc == 0) chat_request_deinit(&r);
}

#define HI             "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define CHAT(more)     "{\"model\":\"m\"," HI "," more "}"
#define MESSAGES(list) "{\"model\":\"m\",\"messages\":" list "}"
#define TEXT(more)     "{\"model\":\"m\",\"prompt\":\"x\"," more "}"

static const struct bad bad_chats[] = {
    // the body
    {"", 400, NULL, "", "could not parse"},
    {"{", 400, NULL, "", "could not parse"},
    {"{\"model\":\"m\"} x", 400, NULL, "", "could not parse"},
    {"{\"model\":\"a\\u0000b\"}", 400, NULL, "", "could not parse"},
    {"{\"model\":\"\xff\"}", 400, NULL, "", "could not parse"},
    {"{\"model\":\"m\",\"model\":\"m\"}", 400, NULL, "", "could not parse"},
    {"[]", 400, "invalid_type", "", "expected an object, but got an array"},
    {"null", 400, "invalid_type", "", "expected an object, but got null"},
    // the model
    {"{" HI "}", 400, "missing_required_parameter", "model", "you must provide a model parameter"},
    {"{\"model\":null," HI "}", 400, "missing_required_parameter", "model", "model"},
    {"{\"model\":7," HI "}", 400, "invalid_type", "model", "expected a string, but got a number"},
    {"{\"model\":\"x\"," HI "}", 404, "model_not_found", "model", "The model `x` does not exist."},
    {"{\"model\":\"x\"}", 404, "model_not_found", "model", "`x`"},
    // messages
    {"{\"model\":\"m\"}", 400, "missing_required_parameter", "messages",
     "Missing required parameter: 'messages'."},
    {MESSAGES("7"), 400, "invalid_type", "messages", "expected an array of objects"},
    {MESSAGES("[]"), 400, "empty_array", "messages", "empty array"},
    {MESSAGES("[7]"), 400, "invalid_type", "messages[0]", "expected an object, but got a number"},
    {MESSAGES("[{}]"), 400, "missing_required_parameter", "messages[0].role", "messages[0].role"},
    {MESSAGES("[{\"role\":1}]"), 400, "invalid_type", "messages[0].role", "a string"},
    {MESSAGES("[{\"role\":\"king\",\"content\":\"\"}]"), 400, "invalid_value", "messages[0].role",
     "Invalid value: 'king'. Supported values are: "},
    {MESSAGES("[{\"role\":\"user\"}]"), 400, "missing_required_parameter", "messages[0].content",
     ""},
    {MESSAGES("[{\"role\":\"user\",\"content\":5}]"), 400, "invalid_type", "messages[0].content",
     "a string or an array of content parts"},
    {MESSAGES("[{\"role\":\"user\",\"content\":[]}]"), 400, "empty_array", "messages[0].content",
     ""},
    {MESSAGES("[{\"role\":\"user\",\"content\":[\"x\"]}]"), 400, "invalid_type",
     "messages[0].content[0]", "an object"},
    {MESSAGES("[{\"role\":\"user\",\"content\":[{\"text\":\"x\"}]}]"), 400,
     "missing_required_parameter", "messages[0].content[0].type", ""},
    {MESSAGES("[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]"), 400,
     "missing_required_parameter", "messages[0].content[0].text", ""},
    {MESSAGES("[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":1}]}]"), 400,
     "invalid_type", "messages[0].content[0].text", "a string"},
    {MESSAGES("[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]"), 400,
     "unsupported_parameter", "messages[0].content[0].type", "text only"},
    {MESSAGES("[{\"role\":\"user\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"\"}]}]"), 400,
     "invalid_value", "messages[0].content[0].type", "'refusal'"},
    {MESSAGES("[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"tool\",\"tool_call_id\":\"1\","
              "\"content\":\"x\"}]"),
     400, NULL, "messages[1].role", "preceding message with 'tool_calls'"},
    {MESSAGES(
         "[{\"role\":\"assistant\",\"tool_calls\":[{}]},{\"role\":\"tool\",\"content\":\"x\"}]"),
     400, "missing_required_parameter", "messages[1].tool_call_id", ""},
    {MESSAGES("[{\"role\":\"assistant\",\"tool_calls\":[{},{\"function\":{\"arguments\":\"{"
              "\\\"a\\\":\"}}]}]"),
     400, "invalid_value", "messages[0].tool_calls[1].function.arguments",
     "must be JSON in a string"},
    {CHAT("\"chat_template_kwargs\":[]"), 400, "invalid_type", "chat_template_kwargs", "an object"},
    // numbers
    {CHAT("\"temperature\":\"0.7\""), 400, "invalid_type", "temperature",
     "Invalid type for 'temperature': expected a decimal, but got a string instead."},
    {CHAT("\"temperature\":3"), 400, "decimal_above_max_value", "temperature",
     "The temperature `3.0` must be in [0, 2]"},
    {CHAT("\"temperature\":-0.5"), 400, "decimal_below_min_value", "temperature",
     "The temperature `-0.5` must be in [0, 2]"},
    {CHAT("\"top_p\":1.01"), 400, "decimal_above_max_value", "top_p",
     "The top_p `1.01` must be in (0, 1]."},
    {CHAT("\"top_k\":-1"), 400, "integer_below_min_value", "top_k",
     "The top_k `-1` cannot be a negative integer."},
    {CHAT("\"top_k\":1.5"), 400, "invalid_type", "top_k", "an integer, but got a decimal"},
    {CHAT("\"min_p\":2"), 400, "decimal_above_max_value", "min_p",
     "Invalid 'min_p': decimal above maximum value. Expected a value <= 1, but got 2 instead."},
    {CHAT("\"seed\":\"1\""), 400, "invalid_type", "seed", "an integer"},
    {CHAT("\"seed\":1.5"), 400, "invalid_type", "seed", "an integer, but got a decimal"},
    {CHAT("\"seed\":99999999999999999999"), 400, "integer_above_max_value", "seed", "64 bits"},
    {CHAT("\"seed\":-9999999999999999999"), 400, "integer_below_min_value", "seed", "64 bits"},
    {CHAT("\"max_tokens\":0"), 400, "integer_below_min_value", "max_tokens", ">= 1, but got 0"},
    {CHAT("\"max_tokens\":2.5"), 400, "invalid_type", "max_tokens", "an integer"},
    {CHAT("\"max_tokens\":1e300"), 400, "integer_above_max_value", "max_tokens", "<= 2147483647"},
    {CHAT("\"max_completion_tokens\":-1"), 400, "integer_below_min_value", "max_completion_tokens",
     ">= 1"},
    {CHAT("\"min_new_tokens\":-1"), 400, "integer_below_min_value", "min_new_tokens", ">= 0"},
    {CHAT("\"n\":0"), 400, "integer_below_min_value", "n", "The n `0` must be a positive int."},
    {CHAT("\"n\":200"), 400, "integer_above_max_value", "n", "(128)."},
    {CHAT("\"top_logprobs\":21"), 400, "integer_above_max_value", "top_logprobs", "<= 20"},
    {CHAT("\"presence_penalty\":2.5"), 400, "decimal_above_max_value", "presence_penalty", "<= 2"},
    {CHAT("\"frequency_penalty\":-3"), 400, "decimal_below_min_value", "frequency_penalty",
     ">= -2"},
    {CHAT("\"repetition_penalty\":0"), 400, "decimal_below_min_value", "repetition_penalty", ""},
    {CHAT("\"priority\":\"high\""), 400, "invalid_type", "priority", "an integer"},
    {CHAT("\"priority\":1e10"), 400, "integer_above_max_value", "priority", "<= 2147483647"},
    {CHAT("\"n\":41"), 400, "integer_above_max_value", "n", "41 answers at once are asked for"},
    // bias
    {CHAT("\"logit_bias\":[]"), 400, "invalid_type", "logit_bias", "an object"},
    {CHAT("\"logit_bias\":{\"x\":1}"), 400, "invalid_value", "logit_bias.x", "a token id"},
    {CHAT("\"logit_bias\":{\"\":1}"), 400, "invalid_value", "logit_bias.", "a token id"},
    {CHAT("\"logit_bias\":{\"-1\":1}"), 400, "invalid_value", "logit_bias.-1", "a token id"},
    {CHAT("\"logit_bias\":{\"5\":1,\"05\":1}"), 400, "invalid_value", "logit_bias.05", ""},
    {CHAT("\"logit_bias\":{\"100\":1}"), 400, "invalid_value", "logit_bias.100", "[0, 100)"},
    {CHAT("\"logit_bias\":{\"5\":101}"), 400, "decimal_above_max_value", "logit_bias.5", "<= 100"},
    {CHAT("\"logit_bias\":{\"5\":\"1\"}"), 400, "invalid_type", "logit_bias.5", "a decimal"},
    // stop
    {CHAT("\"stop\":\"\""), 400, "invalid_value", "stop", "must not be empty"},
    {CHAT("\"stop\":7"), 400, "invalid_type", "stop", "a string or an array of strings"},
    {CHAT("\"stop\":[]"), 400, "empty_array", "stop", "empty array"},
    {CHAT("\"stop\":[\"a\",\"\"]"), 400, "invalid_value", "stop[1]", "must not be empty"},
    {CHAT("\"stop\":[\"a\",null]"), 400, "invalid_type", "stop[1]", "a string, but got null"},
    {CHAT("\"stop_token_ids\":5"), 400, "invalid_type", "stop_token_ids", "an array"},
    {CHAT("\"stop_token_ids\":[5,100]"), 400, "invalid_value", "stop_token_ids[1]", "range"},
    {CHAT("\"stop_token_ids\":[\"a\"]"), 400, "invalid_type", "stop_token_ids[0]", "token id"},
    // output
    {CHAT("\"stream\":1"), 400, "invalid_type", "stream", "a boolean, but got a number"},
    {CHAT("\"stream\":\"yes\""), 400, "invalid_type", "stream", "a boolean"},
    {CHAT("\"stream_options\":{}"), 400, NULL, "stream_options", "only allowed when 'stream'"},
    {CHAT("\"stream\":true,\"stream_options\":[]"), 400, "invalid_type", "stream_options", ""},
    {CHAT("\"stream\":true,\"stream_options\":{\"include_usage\":3}"), 400, "invalid_type",
     "stream_options.include_usage", "a boolean"},
    {CHAT("\"return_token_ids\":\"x\""), 400, "invalid_type", "return_token_ids", ""},
    {CHAT("\"session_id\":\"1\""), 400, "invalid_type", "session_id", "an integer"},
    {CHAT("\"session_id\":-2"), 400, "integer_below_min_value", "session_id", ">= -1"},
    // features that are not built
    {CHAT("\"include_stop_str_in_output\":true"), 400, "unsupported_parameter",
     "include_stop_str_in_output", ""},
    {CHAT("\"top_logprobs\":2"), 400, NULL, "top_logprobs", "only allowed when 'logprobs'"},
    {CHAT("\"tools\":{}"), 400, "invalid_type", "tools", "an array"},
    {CHAT("\"tools\":[7]"), 400, "invalid_type", "tools[0]", "an object"},
    {CHAT("\"tools\":[{\"type\":\"function\"}]"), 400, "missing_required_parameter",
     "tools[0].function", ""},
    {CHAT("\"tools\":[{\"type\":\"custom\",\"custom\":{\"name\":\"x\"}}]"), 400,
     "unsupported_parameter", "tools[0].type", "'custom'"},
    {CHAT("\"tools\":[{\"type\":\"retrieval\"}]"), 400, "invalid_value", "tools[0].type",
     "'retrieval'"},
    {CHAT("\"tools\":[{\"type\":1}]"), 400, "invalid_type", "tools[0].type", "a string"},
    {CHAT("\"tools\":[{\"function\":[]}]"), 400, "invalid_type", "tools[0].function", "an object"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{}}]"), 400, "missing_required_parameter",
     "tools[0].function.name", ""},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":5}}]"), 400, "invalid_type",
     "tools[0].function.name", "a string"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"\"}}]"), 400, "invalid_value",
     "tools[0].function.name", "1 to 64"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]"), 400,
     "invalid_value", "tools[0].function.name", "1 to 64"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\\u0007\"}}]"), 400,
     "invalid_value", "tools[0].function.name", "1 to 64"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":"
          "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}}]"),
     400, "invalid_value", "tools[0].function.name", "1 to 64"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"type\":\"function\","
          "\"function\":{\"name\":\"f\"}}]"),
     400, "invalid_value", "tools[1].function.name", "two tools of the name"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":3}}]"),
     400, "invalid_type", "tools[0].function.description", "a string"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":3}}]"), 400,
     "invalid_type", "tools[0].function.strict", "a boolean"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":[]}}]"),
     400, "invalid_type", "tools[0].function.parameters", "an object"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"
          "\"string\"}}}]"),
     400, "invalid_function_parameters", "tools[0].function.parameters",
     "must be of 'type: \"object\"'"},
    {CHAT("\"functions\":[{}]"), 400, "unsupported_parameter", "functions", "Send 'tools'"},
    {CHAT("\"function_call\":{\"name\":\"f\"}"), 400, "unsupported_parameter", "function_call",
     "Send 'tools'"},
    {CHAT("\"function_call\":3"), 400, "invalid_type", "function_call", "a string or an object"},
    {CHAT("\"tool_choice\":\"required\""), 400, "invalid_value", "tool_choice",
     "only allowed when 'tools'"},
    {CHAT("\"tool_choice\":{}"), 400, "invalid_value", "tool_choice", "only allowed when 'tools'"},
    {CHAT("\"tool_choice\":\"maybe\""), 400, "invalid_value", "tool_choice", "'maybe'"},
    {CHAT("\"tool_choice\":7"), 400, "invalid_type", "tool_choice", "a string or an object"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{}"),
     400, "missing_required_parameter", "tool_choice.function", ""},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{"
          "\"type\":\"custom\"}"),
     400, "unsupported_parameter", "tool_choice.type", ""},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{"
          "\"type\":\"any\"}"),
     400, "invalid_value", "tool_choice.type", "'allowed_tools'"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{"
          "\"type\":\"function\",\"function\":1}"),
     400, "invalid_type", "tool_choice.function", "an object"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{"
          "\"type\":\"function\",\"function\":{\"name\":\"g\"}}"),
     400, "invalid_value", "tool_choice.function.name", "no function 'g'"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{"
          "\"type\":\"allowed_tools\"}"),
     400, "missing_required_parameter", "tool_choice.allowed_tools", ""},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{"
          "\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"none\"}}"),
     400, "invalid_value", "tool_choice.allowed_tools.mode", "'auto' and 'required'"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{"
          "\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"auto\",\"tools\":[]}}"),
     400, "empty_array", "tool_choice.allowed_tools.tools", ""},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{"
          "\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"auto\",\"tools\":[{"
          "\"function\":{\"name\":\"g\"}}]}}"),
     400, "invalid_value", "tool_choice.allowed_tools.tools[0].function.name", "no function 'g'"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"parallel_tool_"
          "calls\":2"),
     400, "invalid_type", "parallel_tool_calls", "a boolean"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"reasoning_effort\":"
          "\"huge\""),
     400, "invalid_value", "reasoning_effort", "'huge'"},
    {CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"reasoning_effort\":"
          "3"),
     400, "invalid_type", "reasoning_effort", "a string"},
    {CHAT(
         "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"enable_thinking\":3"),
     400, "invalid_type", "enable_thinking", "a boolean"},
    {CHAT("\"response_format\":{}"), 400, "missing_required_parameter", "response_format.type", ""},
    {CHAT("\"response_format\":{\"type\":\"json_schema\"}"), 400, "missing_required_parameter",
     "response_format.json_schema", ""},
    {CHAT("\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a b\"}}"), 400,
     "invalid_value", "response_format.json_schema.name", "1 to 64"},
    {CHAT("\"response_format\":{\"type\":\"regex_schema\",\"regex_schema\":1}"), 400,
     "invalid_type", "response_format.regex_schema", "a string"},
    {CHAT("\"response_format\":{\"type\":\"xml\"}"), 400, "invalid_value", "response_format.type",
     "'xml'"},
    {CHAT("\"modalities\":[\"text\",\"audio\"]"), 400, "unsupported_parameter", "modalities", ""},
    {CHAT("\"audio\":{\"voice\":\"x\"}"), 400, "unsupported_parameter", "audio", ""},
};

static void test_bad_chats(void)
{
    for (size_t i = 0; i < sizeof bad_chats / sizeof *bad_chats; i++) {
        expect_bad(COMPLETION_CHAT, &bad_chats[i]);
    }
}

static const struct bad bad_texts[] = {
    {"{\"model\":\"m\"}", 400, "missing_required_parameter", "prompt", "'prompt'"},
    {"{\"model\":\"m\",\"prompt\":5}", 400, "invalid_type", "prompt", "a string or an array"},
    {"{\"model\":\"m\",\"prompt\":{}}", 400, "invalid_type", "prompt", "an object"},
    {"{\"model\":\"m\",\"prompt\":[]}", 400, "empty_array", "prompt", "empty array"},
    {"{\"model\":\"m\",\"prompt\":[[]]}", 400, "empty_array", "prompt[0]", "empty array"},
    {"{\"model\":\"m\",\"prompt\":[\"a\",1]}", 400, "invalid_type", "prompt[1]", "a string"},
    {"{\"model\":\"m\",\"prompt\":[1,\"a\"]}", 400, "invalid_type", "prompt[1]", "a token id"},
    {"{\"model\":\"m\",\"prompt\":[[1],2]}", 400, "invalid_type", "prompt[1]", "an array"},
    {"{\"model\":\"m\",\"prompt\":[1,1.5]}", 400, "invalid_type", "prompt[1]", "a decimal"},
    {"{\"model\":\"m\",\"prompt\":[null]}", 400, "invalid_type", "prompt[0]", "a token id"},
    {"{\"model\":\"m\",\"prompt\":[0,100]}", 400, "invalid_value", "prompt[1]", "[0, 100)"},
    {"{\"model\":\"m\",\"prompt\":[-1]}", 400, "invalid_value", "prompt[0]", "-1"},
    {"{\"model\":\"m\",\"prompt\":[[1],[2,1e15]]}", 400, "invalid_value", "prompt[1][1]", "range"},
    {"{\"model\":\"m\",\"prompt\":[\"a\",\"b\",\"c\",\"d\"]}", 400, "array_above_max_length",
     "prompt", "maximum length 3"},
    {TEXT("\"max_tokens\":-1"), 400, "integer_below_min_value", "max_tokens", ">= 0"},
    {TEXT("\"echo\":1"), 400, "invalid_type", "echo", "a boolean"},
    {TEXT("\"suffix\":\"x\""), 400, "unsupported_parameter", "suffix", "fill in the middle"},
    {TEXT("\"best_of\":2,\"n\":3"), 400, "invalid_value", "best_of", "less than 'n', which is 3"},
    {TEXT("\"best_of\":2,\"stream\":true"), 400, "invalid_value", "best_of", "'stream'"},
    {TEXT("\"best_of\":21"), 400, "integer_above_max_value", "best_of", "<= 20"},
    {"{\"model\":\"m\",\"prompt\":[\"a\",\"b\",\"c\"],\"best_of\":14}", 400,
     "integer_above_max_value", "best_of", "42 answers at once"},
    {TEXT("\"logprobs\":6"), 400, "integer_above_max_value", "logprobs", "<= 5"},
    {TEXT("\"logprobs\":true"), 400, "invalid_type", "logprobs", "an integer"},
    {TEXT("\"temperature\":2.5"), 400, "decimal_above_max_value", "temperature", "`2.5`"},
};

static void test_bad_texts(void)
{
    for (size_t i = 0; i < sizeof bad_texts / sizeof *bad_texts; i++) {
        expect_bad(COMPLETION_TEXT, &bad_texts[i]);
    }
}

static struct chat_request need(enum completion_kind kind, const char *body)
{
    struct chat_request r;
    struct api_error e = {0};
    if (chat_request_parse(kind, str_of(body), &limits, &r, &e) != 0) {
        printf("refused: %s\n  %s\n", body, e.message);
        exit(1);
    }
    return r;
}

static void test_defaults(void)
{
    struct chat_request r = need(COMPLETION_CHAT, "{\"model\":\"m\"," HI "}");
    EXPECT(r.form == PROMPT_MESSAGES && r.prompt_count == 1 && !r.rewritten);
    EXPECT(r.fields.sampling.temperature == 1 && r.fields.sampling.top_p == 1 &&
           r.fields.sampling.min_p == 0);
    EXPECT_INT(r.fields.sampling.top_k, 0);
    EXPECT(!r.fields.has_seed && !r.has_max_tokens && !r.stream && !r.fields.ignore_eos &&
           r.fields.skip_special);
    EXPECT_INT(r.max_tokens, 0); // the engine's "until the context is full"
    EXPECT_INT(r.fields.stop_count, 0);
    chat_request_deinit(&r);

    r = need(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":\"x\"}");
    EXPECT(r.form == PROMPT_TEXT && r.has_max_tokens);
    EXPECT_INT(r.max_tokens, 16);
    chat_request_deinit(&r);
}

/* null means the default; what asks for nothing passes; unknown keys are ignored. */
static void test_neutral_values(void)
{
    static const char *const neutral[] = {
        CHAT(
            "\"temperature\":null,\"top_p\":null,\"n\":null,\"stop\":null,\"stream\":null,"
            "\"stream_options\":null,\"seed\":null,\"max_tokens\":null,\"tools\":null,"
            "\"response_format\":null,\"logit_bias\":null,\"logprobs\":null,\"top_logprobs\":null"),
        CHAT("\"n\":1,\"presence_penalty\":0,\"frequency_penalty\":0.0,\"logit_bias\":{},"
             "\"logprobs\":false,\"top_logprobs\":0,\"tools\":[],\"tool_choice\":\"auto\","
             "\"response_format\":{\"type\":\"text\"},\"modalities\":[\"text\"]"),
        // what LMDeploy's client adds
        CHAT("\"repetition_penalty\":1.0,\"session_id\":-1,\"ignore_eos\":false,"
             "\"skip_special_tokens\":true,\"kwargs\":{},\"adapter_name\":null"),
        CHAT(
            "\"user\":\"u\",\"metadata\":{\"a\":\"b\"},\"store\":true,\"parallel_tool_calls\":true,"
            "\"reasoning_effort\":\"low\",\"verbosity\":\"low\",\"never_heard_of\":[1,{\"a\":2}]"),
    };
    for (size_t i = 0; i < sizeof neutral / sizeof *neutral; i++) {
        struct chat_request r = need(COMPLETION_CHAT, neutral[i]);
        chat_request_deinit(&r);
    }
    struct chat_request r =
        need(COMPLETION_TEXT, TEXT("\"best_of\":1,\"echo\":false,\"suffix\":null,"
                                   "\"logprobs\":null,\"stream\":true,\"n\":1"));
    chat_request_deinit(&r);
    r = need(COMPLETION_TEXT, TEXT("\"suffix\":\"\",\"logprobs\":false,\"max_tokens\":0"));
    EXPECT(r.has_max_tokens && r.max_tokens == 0);
    chat_request_deinit(&r);
}

static void test_values(void)
{
    struct chat_request r =
        need(COMPLETION_CHAT,
             CHAT("\"temperature\":0.25,\"top_p\":0.5,\"top_k\":40.0,\"min_p\":0.125,\"seed\":-3,"
                  "\"max_tokens\":5,\"max_completion_tokens\":7,\"min_new_tokens\":2,\"stop\":["
                  "\"a\",\"bc\"],"
                  "\"stream\":\"true\",\"stream_options\":{\"include_usage\":true,\"other\":1},"
                  "\"ignore_eos\":true,\"skip_special_tokens\":false,\"return_token_ids\":true,"
                  "\"service_tier\":\"auto\",\"chat_template_kwargs\":{\"x\":1}"));
    EXPECT(r.fields.sampling.temperature == 0.25f && r.fields.sampling.top_p == 0.5f);
    EXPECT(r.fields.sampling.min_p == 0.125f && r.fields.sampling.top_k == 40);
    EXPECT(r.fields.has_seed && r.fields.sampling.seed == (uint64_t)-3);
    EXPECT_INT(r.max_tokens, 7); // the newer name wins
    EXPECT_INT(r.fields.min_tokens, 2);
    EXPECT(r.fields.stop_count == 2 && strcmp(r.fields.stop[1], "bc") == 0 &&
           r.fields.stop_len[1] == 2);
    EXPECT(r.stream && r.include_usage && r.fields.ignore_eos && !r.fields.skip_special &&
           r.return_token_ids);
    EXPECT(r.service_tier && json_len(r.template_fields.kwargs) == 1);
    chat_request_deinit(&r);
}

static void test_sampling_values(void)
{
    struct chat_request r = need(
        COMPLETION_CHAT,
        CHAT(
            "\"n\":5,\"presence_penalty\":-2,\"frequency_penalty\":1.5,\"repetition_penalty\":1.25,"
            "\"logit_bias\":{\"5\":-100,\"99\":0.5,\"0\":null},\"logprobs\":true,\"top_logprobs\":"
            "20,"
            "\"stop_token_ids\":[3,7],\"priority\":-4"));
    const struct sampling_params *s = &r.fields.sampling;
    EXPECT(r.n == 5 && r.candidates == 5 && r.logprobs && r.top_logprobs == 20 && !r.echo);
    EXPECT(s->presence_penalty == -2 && s->frequency_penalty == 1.5f);
    EXPECT(s->repetition_penalty == 1.25f);
    EXPECT(s->bias_count == 3 && s->bias[0].token == 5 && s->bias[0].bias == -100);
    EXPECT(s->bias[1].token == 99 && s->bias[1].bias == 0.5f && s->bias[2].bias == 0);
    EXPECT(r.fields.stop_id_count == 2 && r.fields.stop_ids[1] == 7 && r.fields.priority == -4);
    struct engine_request out = {0};
    sampling_fields_apply(&r.fields, &out);
    EXPECT(out.sampling.bias == s->bias && out.stop_id_count == 2 && out.priority == -4);
    chat_request_deinit(&r);

    r = need(COMPLETION_CHAT, CHAT("\"logprobs\":true"));
    EXPECT(r.logprobs && r.top_logprobs == 0);
    chat_request_deinit(&r);
    r = need(COMPLETION_TEXT, TEXT("\"n\":2,\"best_of\":4,\"echo\":true,\"logprobs\":0"));
    EXPECT(r.n == 2 && r.candidates == 4 && r.echo && r.logprobs && r.top_logprobs == 0);
    chat_request_deinit(&r);
    r = need(COMPLETION_TEXT, TEXT("\"n\":3,\"best_of\":3,\"stream\":true"));
    EXPECT(r.n == 3 && r.candidates == 3 && !r.logprobs);
    chat_request_deinit(&r);
}

/* As many stop strings as there may be, and one more. */
static void test_many_stops(void)
{
    struct buf body;
    buf_init(&body, 1024);
    buf_append_str(&body, "{\"model\":\"m\",\"prompt\":\"x\",\"stop\":[\"a\"");
    for (int i = 1; i < REQUEST_STOPS_MAX; i++)
        buf_append_str(&body, ",\"b\"");
    size_t len = body.len;
    buf_append_str(&body, "]}");
    struct chat_request r = need(COMPLETION_TEXT, body.data);
    EXPECT_INT(r.fields.stop_count, REQUEST_STOPS_MAX);
    chat_request_deinit(&r);
    body.len = len;
    buf_append_str(&body, ",\"c\"]}");
    expect_bad(COMPLETION_TEXT,
               &(struct bad){body.data, 400, "array_above_max_length", "stop",
                             "maximum length 32, but got an array with length 33"});
    buf_deinit(&body);
}

static void test_seeds(void)
{
    static const struct {
        const char *text;
        uint64_t seed;
    } rows[] = {
        {"0", 0},
        {"9007199254740993", 9007199254740993u}, // 2^53 + 1: no double holds it
        {"9223372036854775807", INT64_MAX},
        {"18446744073709551615", UINT64_MAX},
        {"-9223372036854775808", (uint64_t)INT64_MIN},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char body[256];
        snprintf(body, sizeof body, CHAT("\"seed\":%s"), rows[i].text);
        struct chat_request r = need(COMPLETION_CHAT, body);
        EXPECT(r.fields.has_seed && r.fields.sampling.seed == rows[i].seed);
        chat_request_deinit(&r);
    }
}

/* OpenAI allows top_p 0; the engine wants a positive share, of which the first token is always in.
 */
static void test_top_p_zero(void)
{
    struct chat_request r = need(COMPLETION_CHAT, CHAT("\"top_p\":0"));
    EXPECT(r.fields.sampling.top_p > 0 && r.fields.sampling.top_p < 1e-30f);
    chat_request_deinit(&r);
}

static void test_prompt_forms(void)
{
    struct chat_request r = need(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"]}");
    EXPECT(r.form == PROMPT_TEXTS && r.prompt_count == 2);
    chat_request_deinit(&r);
    r = need(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":[0,99,5.0]}");
    EXPECT(r.form == PROMPT_TOKENS && r.prompt_count == 1 && json_len(r.prompts) == 3);
    chat_request_deinit(&r);
    r = need(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":[[1],[2,3]]}");
    EXPECT(r.form == PROMPT_TOKEN_LISTS && r.prompt_count == 2);
    chat_request_deinit(&r);
    r = need(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":null}");
    EXPECT(r.form == PROMPT_TEXT && r.text.len == 0);
    chat_request_deinit(&r);
    r = need(COMPLETION_CHAT, MESSAGES("\"raw\""));
    EXPECT(r.form == PROMPT_TEXT && str_equal(r.text, STR("raw")));
    chat_request_deinit(&r);
}

static void expect_messages(const char *sent, const char *want)
{
    char body[1024];
    snprintf(body, sizeof body, "{\"model\":\"m\",\"messages\":%s}", sent);
    struct chat_request r = need(COMPLETION_CHAT, body);
    struct buf got;
    buf_init(&got, 4096);
    json_print(r.messages, &got, false);
    EXPECT_STR(got.data, want);
    buf_deinit(&got);
    chat_request_deinit(&r);
}

static void test_messages(void)
{
    // nothing to do: as sent, unknown keys and null included
    expect_messages("[{\"role\":\"user\",\"content\":null,\"x\":[1]}]",
                    "[{\"role\":\"user\",\"content\":null,\"x\":[1]}]");
    // parts are joined, other arrays stay
    expect_messages(
        "[{\"content\":[{\"type\":\"text\",\"text\":\"a\\n\"},{\"type\":\"text\",\"text\":"
        "\"\\u00e9\"}],\"role\":\"user\",\"tags\":[{\"type\":\"text\"}]}]",
        "[{\"content\":\"a\\né\",\"role\":\"user\",\"tags\":[{\"type\":\"text\"}]}]");
    expect_messages("[{\"role\":\"developer\",\"content\":\"d\"}]",
                    "[{\"role\":\"system\",\"content\":\"d\"}]");
    // what the official clients send back of an answer
    expect_messages(
        "[{\"role\":\"assistant\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"no\"}],"
        "\"refusal\":null,\"audio\":null}]",
        "[{\"role\":\"assistant\",\"content\":\"no\",\"refusal\":null,\"audio\":null}]");
    expect_messages("[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"1\"}]},"
                    "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"r\"},"
                    "{\"role\":\"tool\",\"tool_call_id\":\"2\",\"content\":\"s\"}]",
                    "[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"1\"}],\"content\":null},"
                    "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"r\"},"
                    "{\"role\":\"tool\",\"tool_call_id\":\"2\",\"content\":\"s\"}]");
}

/* Every prefix of a valid body, and every one-byte change of it: an answer, never a crash. */
static void test_mutations(void)
{
    static const char body[] = CHAT(
        "\"stop\":[\"a\"],\"seed\":12345678901234567,\"logit_bias\":{\"7\":1.5},\"max_tokens\":3,"
        "\"stream\":true,\"stream_options\":{\"include_usage\":true},\"temperature\":0.5");
    static const char bytes[] = {'"', '{', ']', ',', '9', '-', '\\', ' ', 'n', (char)0xff, 0};
    size_t refused = 0, total = 0;
    char copy[sizeof body];
    for (size_t i = 0; i < sizeof body; i++) {
        for (size_t k = 0; k <= sizeof bytes; k++) {
            memcpy(copy, body, sizeof body);
            struct str text = {copy, sizeof body - 1};
            if (k < sizeof bytes) {
                copy[i] = bytes[k];
            } else {
                text.len = i;
            }
            struct chat_request r;
            struct api_error e = {0};
            int rc = chat_request_parse(COMPLETION_CHAT, text, &limits, &r, &e);
            total++;
            if (rc == 0) {
                chat_request_deinit(&r);
                continue;
            }
            refused++;
            EXPECT(e.status >= 400 && e.status < 500 && e.message[0]);
        }
    }
    EXPECT(refused > total / 2 && refused < total);
}

int main(void)
{
    RUN(test_bad_chats);
    RUN(test_bad_texts);
    RUN(test_defaults);
    RUN(test_neutral_values);
    RUN(test_values);
    RUN(test_sampling_values);
    RUN(test_many_stops);
    RUN(test_seeds);
    RUN(test_top_p_zero);
    RUN(test_prompt_forms);
    RUN(test_messages);
    RUN(test_mutations);
    return TEST_END();
}
