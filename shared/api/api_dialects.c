/* api_dialects.c - what requests of other APIs than OpenAI's chat hold, and their answers: Responses,
 * Anthropic's Messages, embeddings, ending what runs. */
#include "shared/api/api_tables.h"

#define EVENT                                                                                      \
    "{'type':'object','required':['event','data'],'properties':{'event':{'type':'string'},'data':" \
    "{'type':'string','contentMediaType':'application/json'}}}"

/* ---- /v1/responses ---- */

static const struct api_field response_request_rows[] = {
    {"model", API_STRING, .required = true, .doc = "the served model's name"},
    {"input", API_UNION, .required = true,
     .schema = UNION(STRING_TYPE "," LIST("Items", REFERENCE("ResponseItem"), ",'minItems':1")),
     .shown = "string, or array of [ResponseItem]",
     .doc = "what the user says, or all that was said"},
    {"instructions", API_STRING, .doc = "the system message"},
    {"max_output_tokens", API_INTEGER, .range = &field_range_positive,
     .def = "what the context leaves", .doc = "most tokens of the answer, reasoning among them"},
    {"temperature", API_NUMBER, .range = &field_range_temperature, .def = "the model's, or 1",
     .doc = "0 takes the most likely token"},
    {"top_p", API_NUMBER, .range = &field_range_top_p, .def = "the model's, or 1",
     .doc = "the most likely tokens that have this share together"},
    {"stream", API_BOOLEAN, .def = "false", .doc = "named events instead of one object"},
    {"tools", API_ARRAY,
     .schema = "{'items':" REFERENCE("ResponseTool") ",'maxItems':" TEXT(FIELD_TOOLS_MAX) "}",
     .shown = "array of [ResponseTool]", .doc = "functions that the model may call"},
    {"tool_choice", API_UNION,
     .schema = UNION("{'type':'string','enum':['none','auto','required']}," REFERENCE(
         "ResponseToolChoice") "," NULL_TYPE),
     .shown = "`none`, `auto`, `required`, or a [ResponseToolChoice]",
     .doc = "whether it may, must or must not call one"},
    {"parallel_tool_calls", API_BOOLEAN, .def = "true", .doc = "false: at most one call"},
    {"text", API_OBJECT,
     .doc = "`format` is what the text must be: `text`, `json_object`, or "
            "`json_schema` with `name` and `schema`"},
    {"reasoning", API_OBJECT, .doc = "`effort` goes to the chat templates that know it"},
    {"metadata", API_OBJECT, .doc = "comes back as it is"},
    {"user", API_STRING, .doc = "taken and ignored"},
};

static const struct api_field item_rows[] = {
    {"type", API_STRING, .def = "\"message\"",
     .schema = "{'enum':['message','function_call','function_call_output','reasoning']}"},
    {"id", API_STRING, .doc = "of an item that was answered"},
    {"status", API_STRING, .doc = "of an item that was answered"},
    {"role", API_STRING, .doc = "of a message: `user`, `assistant`, `system`, `developer`"},
    {"content", API_UNION,
     .schema = UNION(STRING_TYPE "," LIST("Parts", OBJECT_TYPE, "") "," NULL_TYPE),
     .shown = "string, or array of parts", .doc = "of a message or of reasoning; parts of text"},
    {"summary", API_ARRAY, .schema = "{'items':" OBJECT_TYPE "}", .shown = "array",
     .doc = "of reasoning"},
    {"call_id", API_STRING, .doc = "of a call, and of what it gave"},
    {"name", API_STRING, .doc = "of a call: the function's"},
    {"arguments", API_STRING, .doc = "of a call: a JSON object, as text"},
    {"output", API_UNION,
     .schema = UNION(STRING_TYPE "," LIST("Parts", OBJECT_TYPE, "") "," NULL_TYPE),
     .shown = "string, or array of parts", .doc = "what a call gave"},
};

static const struct api_field response_tool_rows[] = {
    {"type", API_STRING, .required = true, .schema = "{'enum':['function']}"},
    {"name", API_STRING, .required = true, .schema = "{'pattern':'^[a-zA-Z0-9_-]{1,64}$'}"},
    {"description", API_STRING, .doc = "what it is for, in words for the model"},
    {"parameters", API_OBJECT, .doc = "a JSON Schema of its arguments"},
    {"strict", API_BOOLEAN, .doc = "arguments follow the schema to the letter"},
};

static const struct api_field response_choice_rows[] = {
    {"type", API_STRING, .required = true, .schema = "{'enum':['function']}"},
    {"name", API_STRING, .required = true, .doc = "the one that has to be called"},
};

static const struct api_field response_rows[] = {
    {"id", API_STRING, .required = true},
    {"object", API_STRING, .required = true, .schema = "{'enum':['response']}"},
    {"created_at", API_INTEGER, .required = true, .schema = "{'format':'int64'}",
     .doc = "seconds since 1970"},
    {"status", API_STRING, .required = true,
     .schema = "{'enum':['in_progress','completed','incomplete']}"},
    {"incomplete_details", API_OBJECT, .required = true, .nullable = true,
     .doc = "`reason`: `max_output_tokens` or `aborted`"},
    {"model", API_STRING, .required = true},
    {"output", API_ARRAY, .of = "ResponseItem", .required = true,
     .doc = "reasoning, messages, calls"},
    {"usage", API_OBJECT, .required = true, .nullable = true,
     .doc = "`input_tokens`, `output_tokens`, `total_tokens` and their details"},
    {"store", API_BOOLEAN, .required = true, .doc = "always false"},
};

static const struct api_fields response_request_fields = FIELDS(response_request_rows);
static const struct api_fields item_fields = FIELDS(item_rows);
static const struct api_fields response_tool_fields = FIELDS(response_tool_rows);
static const struct api_fields response_choice_fields = FIELDS(response_choice_rows);
static const struct api_fields response_fields = FIELDS(response_rows);

static const struct api_schema response_request = {
    .name = "ResponseRequest",
    .doc = "A conversation to go on with (OpenAI's Responses API). Nothing is stored.",
    .parts = {&response_request_fields},
    .example = "{'model':'$MODEL','input':'Hello! How are you?','max_output_tokens':32}",
    .null_is_absent = true,
};
static const struct api_schema item = {.name = "ResponseItem",
                                       .doc = "Something that was said, called or thought.",
                                       .parts = {&item_fields},
                                       .null_is_absent = true};
static const struct api_schema response_tool = {.name = "ResponseTool",
                                                .doc = "A function that the model may call.",
                                                .parts = {&response_tool_fields},
                                                .null_is_absent = true};
static const struct api_schema response_choice = {.name = "ResponseToolChoice",
                                                  .doc = "The one tool that has to be called.",
                                                  .parts = {&response_choice_fields}};
static const struct api_schema response = {
    .name = "Response",
    .doc = "The answer, with what the request asked for beside.",
    .parts = {&response_fields}};
static const struct api_schema response_event = {
    .name = "ResponseEvent",
    .doc = "An event of a response's stream, from `response.created` to `response.completed`: its "
           "data is an object with its `type` and `sequence_number`.",
    .schema = EVENT};

/* ---- /v1/messages ---- */

static const struct api_field message_request_rows[] = {
    {"model", API_STRING, .required = true, .doc = "the served model's name"},
    {"messages", API_ARRAY, .of = "AnthropicMessage", .required = true, .schema = "{'minItems':1}"},
    {"system", API_UNION,
     .schema = UNION(STRING_TYPE "," LIST("Blocks", OBJECT_TYPE, "") "," NULL_TYPE),
     .shown = "string, or array of blocks of text", .doc = "the system message"},
    {"tools", API_ARRAY,
     .schema = "{'items':" REFERENCE("AnthropicTool") ",'maxItems':" TEXT(FIELD_TOOLS_MAX) "}",
     .shown = "array of [AnthropicTool]", .doc = "functions that the model may call"},
    {"tool_choice", API_OBJECT,
     .doc = "`type`: `auto`, `any`, `none`, or `tool` with a `name`; "
            "`disable_parallel_tool_use`: at most one call"},
    {"thinking", API_OBJECT, .doc = "`type`: `enabled` or `disabled`, for templates that know it"},
};

static const struct api_field message_sampling_rows[] = {
    {"max_tokens", API_INTEGER, .range = &field_range_positive, .required = true,
     .doc = "most tokens of the answer"},
    {"stream", API_BOOLEAN, .def = "false", .doc = "named events instead of one object"},
    {"temperature", API_NUMBER, .range = &field_range_temperature, .def = "the model's, or 1",
     .doc = "0 takes the most likely token"},
    {"top_p", API_NUMBER, .range = &field_range_top_p, .def = "the model's, or 1",
     .doc = "the most likely tokens that have this share together"},
    {"top_k", API_INTEGER, .range = &field_range_top_k, .def = "the model's, or 0",
     .doc = "so many of the most likely tokens; 0 is off"},
    {"stop_sequences", API_ARRAY,
     .schema = "{'items':{'type':'string','minLength':1},'minItems':1,'maxItems':" TEXT(
         FIELD_STOPS_MAX) "}",
     .shown = "array of strings", .doc = "matched in the text; never part of the answer"},
    {"metadata", API_OBJECT, .doc = "taken and ignored"},
};

static const struct api_field anthropic_message_rows[] = {
    {"role", API_STRING, .required = true, .schema = "{'enum':['user','assistant']}"},
    {"content", API_UNION, .required = true,
     .schema = UNION(STRING_TYPE "," LIST("Blocks", REFERENCE("AnthropicBlock"), "")),
     .shown = "string, or array of [AnthropicBlock]"},
};

static const struct api_field block_rows[] = {
    {"type", API_STRING, .required = true,
     .schema = "{'enum':['text','thinking','redacted_thinking','tool_use','tool_result']}"},
    {"text", API_STRING, .doc = "of text"},
    {"thinking", API_STRING, .doc = "of thinking"},
    {"id", API_STRING, .doc = "of a call"},
    {"name", API_STRING, .doc = "of a call: the function's"},
    {"input", API_OBJECT, .doc = "of a call: its arguments"},
    {"tool_use_id", API_STRING, .doc = "of what a call gave: which one"},
    {"content", API_UNION,
     .schema = UNION(STRING_TYPE "," LIST("Blocks", OBJECT_TYPE, "") "," NULL_TYPE),
     .shown = "string, or array of blocks of text", .doc = "what a call gave"},
};

static const struct api_field anthropic_tool_rows[] = {
    {"name", API_STRING, .required = true, .schema = "{'pattern':'^[a-zA-Z0-9_-]{1,64}$'}"},
    {"description", API_STRING, .doc = "what it is for, in words for the model"},
    {"input_schema", API_OBJECT, .required = true, .doc = "a JSON Schema of its arguments"},
};

static const struct api_field message_rows[] = {
    {"id", API_STRING, .required = true},
    {"type", API_STRING, .required = true, .schema = "{'enum':['message']}"},
    {"role", API_STRING, .required = true, .schema = "{'enum':['assistant']}"},
    {"model", API_STRING, .required = true},
    {"content", API_ARRAY, .of = "AnthropicBlock", .required = true},
    {"stop_reason", API_STRING, .required = true,
     .schema = "{'enum':['end_turn','max_tokens','tool_use']}"},
    {"stop_sequence", API_STRING, .required = true, .nullable = true, .doc = "always null"},
    {"usage", API_OBJECT, .required = true,
     .doc = "`input_tokens` without `cache_read_input_tokens`, and `output_tokens`"},
};

static const struct api_field count_rows[] = {
    {"input_tokens", API_INTEGER, .required = true, .doc = "of the prompt"},
};

static const struct api_field anthropic_error_rows[] = {
    {"type", API_STRING, .doc = "`error`"},
    {"error", API_OBJECT, .required = true, .doc = "`type` and `message`"},
};

static const struct api_fields message_request_fields = FIELDS(message_request_rows);
static const struct api_fields message_sampling_fields = FIELDS(message_sampling_rows);
static const struct api_fields anthropic_message_fields = FIELDS(anthropic_message_rows);
static const struct api_fields block_fields = FIELDS(block_rows);
static const struct api_fields anthropic_tool_fields = FIELDS(anthropic_tool_rows);
static const struct api_fields message_fields = FIELDS(message_rows);
static const struct api_fields count_fields = FIELDS(count_rows);
static const struct api_fields anthropic_error_fields = FIELDS(anthropic_error_rows);

static const struct api_schema message_request = {
    .name = "MessageRequest",
    .doc = "A conversation to go on with (Anthropic's Messages API).",
    .parts = {&message_request_fields, &message_sampling_fields},
    .example = "{'model':'$MODEL','messages':[{'role':'user','content':'Hello! How are you?'}],"
               "'max_tokens':32}",
    .null_is_absent = true,
};
static const struct api_schema count_request = {
    .name = "CountTokensRequest",
    .doc = "A conversation to count.",
    .parts = {&message_request_fields},
    .example = "{'model':'$MODEL','messages':[{'role':'user','content':'Hello! How are you?'}]}",
    .null_is_absent = true,
};
static const struct api_schema anthropic_message = {.name = "AnthropicMessage",
                                                    .doc = "One message of a conversation.",
                                                    .parts = {&anthropic_message_fields}};
static const struct api_schema block = {.name = "AnthropicBlock",
                                        .doc = "A part of a message.",
                                        .parts = {&block_fields},
                                        .null_is_absent = true};
static const struct api_schema anthropic_tool = {.name = "AnthropicTool",
                                                 .doc = "A function that the model may call.",
                                                 .parts = {&anthropic_tool_fields},
                                                 .null_is_absent = true};
static const struct api_schema message = {
    .name = "Message", .doc = "What the model says.", .parts = {&message_fields}};
static const struct api_schema message_event = {
    .name = "MessageEvent",
    .doc = "An event of a message's stream, from `message_start` to `message_stop`.",
    .schema = EVENT};
static const struct api_schema count_answer = {
    .name = "CountTokensResponse", .doc = "How long a prompt is.", .parts = {&count_fields}};
static const struct api_schema anthropic_error = {.name = "AnthropicError",
                                                  .doc = "Why there is no answer (Anthropic).",
                                                  .parts = {&anthropic_error_fields}};

/* ---- /v1/embeddings ---- */

static const struct api_field embedding_request_rows[] = {
    {"input", API_UNION, .required = true,
     .schema = UNION(STRING_TYPE "," LIST("Texts", STRING_TYPE, ",'minItems':1") "," LIST(
         "Tokens", TOKEN_TYPE,
         ",'minItems':1") "," LIST("TokenLists", LIST("Tokens", TOKEN_TYPE, ",'minItems':1"),
                                   ",'minItems':1")),
     .shown = "string, token ids, or either in an array"},
    {"model", API_STRING, .def = "the only one",
     .doc = "may be left out at an agent; a proxy routes by it"},
    {"encoding_format", API_STRING, .def = "\"float\"", .schema = "{'enum':['float','base64']}",
     .doc = "base64: little-endian float32"},
    {"dimensions", API_INTEGER, .range = &field_range_positive, .def = "the model's",
     .doc = "the first ones, made length 1 again"},
    {"user", API_STRING, .doc = "taken and ignored"},
};

static const struct api_field embeddings_rows[] = {
    {"object", API_STRING, .required = true, .schema = "{'enum':['list']}"},
    {"model", API_STRING, .required = true},
    {"data", API_ARRAY, .of = "Embedding", .required = true, .doc = "one for each input"},
    {"usage", API_OBJECT, .required = true, .doc = "`prompt_tokens` and `total_tokens`"},
};

static const struct api_field embedding_rows[] = {
    {"object", API_STRING, .required = true, .schema = "{'enum':['embedding']}"},
    {"index", API_INTEGER, .required = true, .doc = "of the input"},
    {"embedding", API_UNION, .required = true,
     .schema = UNION(STRING_TYPE "," LIST("Vector", "{'type':'number'}", "")),
     .shown = "array of numbers, or base64", .doc = "a vector of length 1"},
};

static const struct api_fields embedding_request_fields = FIELDS(embedding_request_rows);
static const struct api_fields embeddings_fields = FIELDS(embeddings_rows);
static const struct api_fields embedding_fields = FIELDS(embedding_rows);

static const struct api_schema embedding_request = {
    .name = "EmbeddingsRequest",
    .doc = "Texts to turn into vectors.",
    .parts = {&embedding_request_fields},
    .example = "{'model':'$MODEL','input':'Hello! How are you?'}",
    .null_is_absent = true,
};
static const struct api_schema embeddings = {
    .name = "EmbeddingsResponse", .doc = "The vectors.", .parts = {&embeddings_fields}};
static const struct api_schema embedding = {
    .name = "Embedding", .doc = "One of them.", .parts = {&embedding_fields}};

/* ---- ending what runs ---- */

static const struct api_field abort_rows[] = {
    {"request_id", API_STRING, .doc = "an answer's `id`, or its `x-request-id`"},
    {"session_id", API_INTEGER, .range = &field_range_session_id, .def = "-1",
     .doc = "LMDeploy's: what was sent with that one"},
    {"abort_all", API_BOOLEAN, .def = "false", .doc = "all that run"},
};

static const struct api_fields abort_fields = FIELDS(abort_rows);

static const struct api_schema abort_request = {.name = "AbortRequest",
                                                .doc = "Which requests are to end.",
                                                .parts = {&abort_fields},
                                                .example = "{'request_id':'chatcmpl-123'}",
                                                .null_is_absent = true};

const struct api_schema *const api_dialect_requests[] = {
    &response_request,  &item,
    &response_tool,     &response_choice,
    &message_request,   &count_request,
    &anthropic_message, &block,
    &anthropic_tool,    &embedding_request,
    &abort_request,
};
const size_t api_dialect_request_count = ARRAY_LEN(api_dialect_requests);
const struct api_schema *const api_dialect_answers[] = {
    &response,     &response_event,  &message,    &message_event,
    &count_answer, &anthropic_error, &embeddings, &embedding,
};
const size_t api_dialect_answer_count = ARRAY_LEN(api_dialect_answers);
