/* api_answers.c - what answers hold. Members that aren't marked as required come with something that
 * the request asked for. */
#include "shared/api/api_tables.h"

/* ---- what many have ---- */

static const struct api_field head_rows[] = {
    {"id", API_STRING, .required = true},
    {"object", API_STRING, .required = true, .doc = "what this is"},
    {"created", API_INTEGER, .required = true, .schema = "{'format':'int64'}",
     .doc = "seconds since 1970"},
    {"model", API_STRING, .required = true},
    {"system_fingerprint", API_STRING, .required = true, .doc = "names build and weights"},
    {"service_tier", API_STRING, .doc = "when the request had one"},
};

static const struct api_field usage_rows[] = {
    {"prompt_tokens", API_INTEGER, .required = true, .doc = "each prompt once"},
    {"completion_tokens", API_INTEGER, .required = true, .doc = "every sampled token"},
    {"total_tokens", API_INTEGER, .required = true},
    {"prompt_tokens_details", API_REF, .of = "PromptTokensDetails", .required = true},
    {"completion_tokens_details", API_REF, .of = "CompletionTokensDetails", .required = true},
};

static const struct api_field prompt_details_rows[] = {
    {"cached_tokens", API_INTEGER, .required = true, .doc = "that a prefix cache saved"},
};

static const struct api_field completion_details_rows[] = {
    {"reasoning_tokens", API_INTEGER, .required = true},
};

static const struct api_field call_rows[] = {
    {"id", API_STRING, .required = true},
    {"type", API_STRING, .required = true, .schema = "{'enum':['function']}"},
    {"function", API_REF, .of = "FunctionCall", .required = true},
};

static const struct api_field function_call_rows[] = {
    {"name", API_STRING, .required = true},
    {"arguments", API_STRING, .required = true, .doc = "a JSON object, as text"},
};

static const struct api_fields head = FIELDS(head_rows);
static const struct api_fields usage_fields = FIELDS(usage_rows);
static const struct api_fields prompt_details_fields = FIELDS(prompt_details_rows);
static const struct api_fields completion_details_fields = FIELDS(completion_details_rows);
static const struct api_fields call_fields = FIELDS(call_rows);
static const struct api_fields function_call_fields = FIELDS(function_call_rows);

static const struct api_schema usage = {
    .name = "Usage", .doc = "Tokens of a request.", .parts = {&usage_fields}};
static const struct api_schema prompt_details = {.name = "PromptTokensDetails",
                                                 .doc = "Of the prompt's tokens.",
                                                 .parts = {&prompt_details_fields}};
static const struct api_schema completion_details = {.name = "CompletionTokensDetails",
                                                     .doc = "Of the answer's tokens.",
                                                     .parts = {&completion_details_fields}};
static const struct api_schema call = {
    .name = "ToolCall", .doc = "A function that the model calls.", .parts = {&call_fields}};
static const struct api_schema function_call = {
    .name = "FunctionCall", .doc = "Which one, and with what.", .parts = {&function_call_fields}};

/* ---- chats ---- */

#define FINISH_REASONS "'enum':['stop','length','tool_calls','abort']"

static const struct api_field chat_rows[] = {
    {"choices", API_ARRAY, .of = "ChatChoice", .required = true},
    {"usage", API_REF, .of = "Usage", .required = true},
    {"prompt_token_ids", API_ARRAY, .schema = "{'items':{'type':'integer'}}",
     .shown = "array of token ids", .doc = "with `return_token_ids`"},
};

static const struct api_field chat_choice_rows[] = {
    {"index", API_INTEGER, .required = true},
    {"message", API_REF, .of = "AssistantMessage", .required = true},
    {"logprobs", API_REF, .of = "ChatLogprobs", .required = true, .nullable = true},
    {"finish_reason", API_STRING, .required = true, .schema = "{" FINISH_REASONS "}",
     .doc = "`length`: cut by a limit"},
    {"token_ids", API_ARRAY, .schema = "{'items':{'type':'integer'}}",
     .shown = "array of token ids", .doc = "with `return_token_ids`"},
};

static const struct api_field assistant_rows[] = {
    {"role", API_STRING, .required = true, .schema = "{'enum':['assistant']}"},
    {"content", API_STRING, .required = true, .nullable = true, .doc = "null beside tool calls"},
    {"refusal", API_STRING, .nullable = true, .doc = "always null"},
    {"reasoning_content", API_STRING, .nullable = true,
     .doc = "what it thought before, with models that mark it"},
    {"tool_calls", API_ARRAY, .of = "ToolCall", .nullable = true},
};

static const struct api_field chat_logprobs_rows[] = {
    {"content", API_ARRAY, .of = "TokenLogprob", .required = true},
    {"refusal", API_ARRAY, .of = "TokenLogprob", .nullable = true, .doc = "always null"},
};

static const struct api_field token_logprob_rows[] = {
    {"token", API_STRING, .required = true, .doc = "its text, or `bytes:` and hexadecimal bytes"},
    {"logprob", API_NUMBER, .required = true, .doc = "-9999 stands for what can't be drawn"},
    {"bytes", API_ARRAY, .required = true, .schema = "{'items':{'type':'integer'}}",
     .shown = "array of integers"},
};

static const struct api_field with_top_rows[] = {
    {"top_logprobs", API_ARRAY, .of = "TopLogprob", .required = true,
     .doc = "the likeliest tokens there"},
};

static const struct api_field chunk_rows[] = {
    {"choices", API_ARRAY, .of = "ChatChunkChoice", .required = true,
     .doc = "empty in the chunk that has the usage"},
    {"usage", API_REF, .of = "Usage", .nullable = true, .doc = "with `stream_options`"},
    {"prompt_token_ids", API_ARRAY, .schema = "{'items':{'type':'integer'}}",
     .shown = "array of token ids", .doc = "with `return_token_ids`, in the first chunk"},
};

static const struct api_field chunk_choice_rows[] = {
    {"index", API_INTEGER, .required = true},
    {"delta", API_REF, .of = "ChatDelta", .required = true},
    {"logprobs", API_REF, .of = "ChatLogprobs", .nullable = true},
    {"finish_reason", API_STRING, .required = true, .nullable = true,
     .schema = "{" FINISH_REASONS "}", .doc = "null in all chunks but a choice's last"},
    {"token_ids", API_ARRAY, .schema = "{'items':{'type':'integer'}}",
     .shown = "array of token ids", .doc = "that this chunk covers"},
};

static const struct api_field delta_rows[] = {
    {"role", API_STRING, .schema = "{'enum':['assistant']}", .doc = "in the first chunk"},
    {"content", API_STRING, .nullable = true, .doc = "more of the text"},
    {"refusal", API_STRING, .nullable = true, .doc = "always null"},
    {"reasoning_content", API_STRING, .nullable = true, .doc = "more of the reasoning"},
    {"tool_calls", API_ARRAY, .of = "ToolCallDelta", .doc = "more of the calls"},
};

static const struct api_field call_delta_rows[] = {
    {"index", API_INTEGER, .required = true, .doc = "of the call in the answer"},
    {"id", API_STRING, .doc = "in the first piece of a call"},
    {"type", API_STRING, .schema = "{'enum':['function']}", .doc = "in the first piece of a call"},
    {"function", API_REF, .of = "FunctionCallDelta"},
};

static const struct api_field function_delta_rows[] = {
    {"name", API_STRING, .doc = "in the first piece of a call"},
    {"arguments", API_STRING, .doc = "more of the text"},
};

static const struct api_fields chat = FIELDS(chat_rows);
static const struct api_fields chat_choice = FIELDS(chat_choice_rows);
static const struct api_fields assistant = FIELDS(assistant_rows);
static const struct api_fields chat_logprobs = FIELDS(chat_logprobs_rows);
static const struct api_fields token_logprob = FIELDS(token_logprob_rows);
static const struct api_fields with_top = FIELDS(with_top_rows);
static const struct api_fields chunk = FIELDS(chunk_rows);
static const struct api_fields chunk_choice = FIELDS(chunk_choice_rows);
static const struct api_fields delta = FIELDS(delta_rows);
static const struct api_fields call_delta = FIELDS(call_delta_rows);
static const struct api_fields function_delta = FIELDS(function_delta_rows);

static const struct api_schema chat_answer = {
    .name = "ChatCompletionResponse", .doc = "A chat's answer.", .parts = {&head, &chat}};
static const struct api_schema chat_choice_schema = {
    .name = "ChatChoice", .doc = "One of `n` answers.", .parts = {&chat_choice}};
static const struct api_schema assistant_schema = {
    .name = "AssistantMessage", .doc = "What the model says.", .parts = {&assistant}};
static const struct api_schema chat_logprobs_schema = {
    .name = "ChatLogprobs",
    .doc = "Log-probabilities of the text's tokens, before temperature.",
    .parts = {&chat_logprobs}};
static const struct api_schema token_logprob_schema = {
    .name = "TokenLogprob", .doc = "One token of the text.", .parts = {&token_logprob, &with_top}};
static const struct api_schema top_logprob_schema = {
    .name = "TopLogprob", .doc = "A token that could have stood there.", .parts = {&token_logprob}};
static const struct api_schema chat_chunk = {.name = "ChatCompletionChunk",
                                             .doc = "What an event of a chat's stream holds.",
                                             .parts = {&head, &chunk}};
static const struct api_schema chunk_choice_schema = {
    .name = "ChatChunkChoice", .doc = "More of one choice.", .parts = {&chunk_choice}};
static const struct api_schema delta_schema = {
    .name = "ChatDelta", .doc = "What is new.", .parts = {&delta}};
static const struct api_schema call_delta_schema = {
    .name = "ToolCallDelta", .doc = "More of a call.", .parts = {&call_delta}};
static const struct api_schema function_delta_schema = {.name = "FunctionCallDelta",
                                                        .doc = "More of its name or arguments.",
                                                        .parts = {&function_delta}};

/* What an event-stream's parser makes of it. The last event is no JSON. */
#define EVENT(chunk)                                                                              \
    "{'type':'object','required':['data'],'properties':{'data':{'type':'string','if':{'pattern':" \
    "'^[{]'},'then':{'contentMediaType':'application/json','contentSchema':"                      \
    "{'$ref':'#/components/schemas/" chunk "'}}}}}"

static const struct api_schema chat_event = {
    .name = "ChatCompletionEvent",
    .doc = "One event of a chat's stream: its data is a [ChatCompletionChunk], and `[DONE]` in the "
           "last one.",
    .schema = EVENT("ChatCompletionChunk")};
static const struct api_schema text_event = {
    .name = "CompletionEvent",
    .doc = "One event of a stream: its data is a [CompletionResponse], and `[DONE]` in the last "
           "one.",
    .schema = EVENT("CompletionResponse")};

/* ---- completions: a stream's chunks have the same form ---- */

static const struct api_field text_rows[] = {
    {"choices", API_ARRAY, .of = "CompletionChoice", .required = true},
    {"usage", API_REF, .of = "Usage", .nullable = true, .doc = "not in the chunks of a stream"},
};

static const struct api_field text_choice_rows[] = {
    {"index", API_INTEGER, .required = true, .doc = "prompt times `n`, plus choice"},
    {"text", API_STRING, .required = true},
    {"logprobs", API_REF, .of = "CompletionLogprobs", .required = true, .nullable = true},
    {"finish_reason", API_STRING, .required = true, .nullable = true,
     .schema = "{'enum':['stop','length','abort']}",
     .doc = "null in all chunks but a choice's last"},
    {"token_ids", API_ARRAY, .schema = "{'items':{'type':'integer'}}",
     .shown = "array of token ids", .doc = "with `return_token_ids`"},
    {"prompt_token_ids", API_ARRAY, .schema = "{'items':{'type':'integer'}}",
     .shown = "array of token ids", .doc = "with `return_token_ids`"},
};

static const struct api_field text_logprobs_rows[] = {
    {"tokens", API_ARRAY, .required = true, .schema = "{'items':{'type':'string'}}",
     .shown = "array of strings"},
    {"token_logprobs", API_ARRAY, .required = true,
     .schema = "{'items':{'type':['number','null']}}", .shown = "array of numbers or null",
     .doc = "null for a prompt's first token"},
    {"top_logprobs", API_ARRAY, .required = true,
     .schema = "{'items':{'type':['object','null'],'additionalProperties':{'type':'number'}}}",
     .shown = "array of objects: token to number"},
    {"text_offset", API_ARRAY, .required = true, .schema = "{'items':{'type':'integer'}}",
     .shown = "array of integers", .doc = "in characters from the beginning of the prompt"},
};

static const struct api_fields text = FIELDS(text_rows);
static const struct api_fields text_choice = FIELDS(text_choice_rows);
static const struct api_fields text_logprobs = FIELDS(text_logprobs_rows);

static const struct api_schema text_answer = {
    .name = "CompletionResponse",
    .doc = "Text that goes on from a prompt; in a stream more of it.",
    .parts = {&head, &text}};
static const struct api_schema text_choice_schema = {
    .name = "CompletionChoice", .doc = "One answer to one prompt.", .parts = {&text_choice}};
static const struct api_schema text_logprobs_schema = {.name = "CompletionLogprobs",
                                                       .doc =
                                                           "Four lists, of a row for each token.",
                                                       .parts = {&text_logprobs}};

/* ---- conversations ---- */

static const struct api_field turn_rows[] = {
    {"text", API_STRING, .required = true, .doc = "in a stream: what is new"},
    {"tokens", API_INTEGER, .required = true, .doc = "sampled in this turn so far"},
    {"input_tokens", API_INTEGER, .required = true, .doc = "what the turn's prompt added"},
    {"history_tokens", API_INTEGER, .required = true, .doc = "the conversation before it"},
    {"finish_reason", API_STRING, .required = true, .nullable = true,
     .schema = "{'enum':['stop','length','error']}",
     .doc = "null in all lines of a stream but the last"},
    {"error", API_REF, .of = "ApiError", .doc = "with the finish reason `error`, in streams"},
};

static const struct api_field session_rows[] = {
    {"session_id", API_INTEGER, .required = true, .schema = "{'format':'int64'}"},
    {"state", API_STRING, .required = true,
     .schema = "{'enum':['hot','cached','host','tokens','running']}",
     .doc = "what the next turn finds"},
    {"history_tokens", API_INTEGER, .required = true},
    {"turns", API_INTEGER, .required = true},
    {"turn", API_INTEGER, .required = true, .doc = "counts rewound turns, too"},
    {"last_used", API_INTEGER, .required = true, .schema = "{'format':'int64'}",
     .doc = "seconds since 1970"},
    {"agent", API_STRING, .doc = "from a proxy: where it is"},
};

static const struct api_field session_list_rows[] = {
    {"object", API_STRING, .required = true, .schema = "{'enum':['list']}"},
    {"data", API_ARRAY, .of = "Session", .required = true},
    {"complete", API_BOOLEAN, .doc = "from a proxy: false when some agent didn't answer"},
};

static const struct api_field ended_rows[] = {
    {"session_id", API_INTEGER, .required = true, .schema = "{'format':'int64'}"},
    {"object", API_STRING, .required = true, .schema = "{'enum':['session.deleted']}"},
    {"deleted", API_BOOLEAN, .required = true, .doc = "true"},
};

static const struct api_fields turn = FIELDS(turn_rows);
static const struct api_fields ended = FIELDS(ended_rows);
static const struct api_fields session = FIELDS(session_rows);
static const struct api_fields session_list = FIELDS(session_list_rows);

static const struct api_schema turn_answer = {
    .name = "GenerateResponse",
    .doc = "A turn's answer; in a stream one such object a line, without `data: `.",
    .parts = {&turn}};
static const struct api_schema session_answer = {
    .name = "Session", .doc = "A conversation that the server keeps.", .parts = {&session}};
static const struct api_schema ended_answer = {
    .name = "SessionDeleted", .doc = "It has ended.", .parts = {&ended}};
static const struct api_schema session_list_answer = {
    .name = "SessionList", .doc = "The conversations of whoever asks.", .parts = {&session_list}};

/* ---- text and tokens ---- */

static const struct api_field encode_rows[] = {
    {"input_ids", API_ARRAY, .required = true,
     .schema =
         "{'items':{'oneOf':[{'type':'integer','title':'Id'},{'type':'array','title':'Ids','items':"
         "{'type':'integer'}}]}}",
     .shown = "array of token ids, or of such arrays"},
    {"length", API_UNION, .required = true,
     .schema = "{'oneOf':[{'type':'integer','title':'Length'},{'type':'array','title':'Lengths','"
               "items':{'type':'"
               "integer'}}]}",
     .shown = "integer or array of integers"},
};

static const struct api_field tokenize_rows[] = {
    {"count", API_INTEGER, .required = true},
    {"max_model_len", API_INTEGER, .required = true, .doc = "tokens of the context"},
    {"tokens", API_ARRAY, .required = true, .schema = "{'items':{'type':'integer'}}",
     .shown = "array of token ids"},
    {"token_strs", API_ARRAY, .required = true, .nullable = true,
     .schema = "{'items':{'type':'string'}}", .shown = "array of strings",
     .doc = "with `return_token_strs`"},
};

static const struct api_field prompt_rows[] = {
    {"prompt", API_STRING, .required = true},
};

static const struct api_fields encode = FIELDS(encode_rows);
static const struct api_fields tokenize = FIELDS(tokenize_rows);
static const struct api_fields prompt = FIELDS(prompt_rows);

static const struct api_schema encode_answer = {
    .name = "EncodeResponse", .doc = "Token ids; lists of both for a list.", .parts = {&encode}};
static const struct api_schema tokenize_answer = {
    .name = "TokenizeResponse", .doc = "Token ids.", .parts = {&tokenize}};
static const struct api_schema prompt_answer = {
    .name = "PromptResponse", .doc = "Text.", .parts = {&prompt}};

/* ---- models ---- */

static const struct api_field model_rows[] = {
    {"id", API_STRING, .required = true},
    {"object", API_STRING, .required = true, .schema = "{'enum':['model']}"},
    {"created", API_INTEGER, .required = true, .schema = "{'format':'int64'}",
     .doc = "when it was loaded, in seconds since 1970"},
    {"owned_by", API_STRING, .required = true},
    {"root", API_STRING, .required = true},
    {"parent", API_STRING, .nullable = true, .doc = "always null"},
    {"max_model_len", API_INTEGER, .doc = "tokens of its context; from an agent that is ready"},
    {"permission", API_ARRAY, .required = true,
     .schema = "{'items':{'type':'object','additionalProperties':true}}",
     .shown = "array of objects", .doc = "LMDeploy's"},
};

static const struct api_field model_list_rows[] = {
    {"object", API_STRING, .required = true, .schema = "{'enum':['list']}"},
    {"data", API_ARRAY, .of = "Model", .required = true},
};

static const struct api_fields model = FIELDS(model_rows);
static const struct api_fields model_list = FIELDS(model_list_rows);

static const struct api_schema model_answer = {
    .name = "Model", .doc = "A served model.", .parts = {&model}};
static const struct api_schema model_list_answer = {
    .name = "ModelList", .doc = "The served models.", .parts = {&model_list}};

/* ---- the server and its fleet ---- */

static const struct api_field status_rows[] = {
    {"status", API_STRING, .required = true},
    {"agents", API_INTEGER, .doc = "from a proxy: how many it knows"},
};

static const struct api_field node_rows[] = {
    {"models", API_ARRAY, .required = true, .schema = "{'items':{'type':'string'}}",
     .shown = "array of strings"},
    {"unfinished", API_INTEGER, .required = true, .doc = "requests of this proxy that it has"},
    {"latency", API_ARRAY, .required = true, .schema = "{'items':{'type':'number'}}",
     .shown = "array of numbers", .doc = "of its last answers, in seconds"},
    {"speed", API_NUMBER, .required = true, .nullable = true, .doc = "as it was added"},
    {"id", API_STRING, .required = true},
    {"state", API_STRING, .required = true},
    {"foreign", API_BOOLEAN, .required = true, .doc = "a node that isn't one of our agents"},
    {"running", API_INTEGER, .doc = "requests in its batch"},
    {"waiting", API_INTEGER, .doc = "requests in its queue"},
    {"capacity", API_INTEGER, .doc = "requests that it runs at once"},
    {"context_len", API_INTEGER, .doc = "tokens"},
    {"kv_used_share", API_NUMBER, .doc = "of its KV cache"},
    {"prefill_tokens_per_s", API_NUMBER, .doc = "how fast it reads prompts"},
    {"inter_token_s", API_NUMBER, .doc = "between two tokens of an answer"},
};

static const struct api_field fleet_rows[] = {
    {"id", API_STRING, .required = true},
    {"version", API_STRING, .required = true},
    {"phase", API_STRING, .required = true},
    {"agents", API_ARRAY, .required = true,
     .schema = "{'items':{'type':'object','additionalProperties':true}}",
     .shown = "array of objects"},
};

static const struct api_field recent_rows[] = {
    {"id", API_STRING, .required = true, .doc = "of the proxy"},
    {"step_s", API_NUMBER, .required = true, .doc = "between two samples"},
    {"first_byte_le", API_ARRAY, .required = true, .schema = "{'items':{'type':['number','null']}}",
     .shown = "array of numbers or null",
     .doc = "upper bounds of a sample's `first_byte`, in seconds; null: none"},
    {"samples", API_ARRAY, .of = "RecentSample", .required = true, .doc = "oldest first"},
};

static const struct api_field recent_sample_rows[] = {
    {"age_s", API_NUMBER, .required = true, .doc = "before now"},
    {"requests", API_INTEGER, .required = true, .doc = "since the process began, as the next four"},
    {"failed", API_INTEGER, .required = true, .doc = "requests"},
    {"prompt", API_INTEGER, .required = true, .doc = "tokens"},
    {"completion", API_INTEGER, .required = true, .doc = "tokens"},
    {"cached", API_INTEGER, .required = true, .doc = "tokens"},
    {"running", API_INTEGER, .required = true, .doc = "requests, at that moment"},
    {"waiting", API_INTEGER, .required = true, .doc = "requests, at that moment"},
    {"inter_token_s", API_NUMBER, .doc = "between two tokens of an answer"},
    {"first_byte", API_ARRAY, .required = true, .schema = "{'items':{'type':'integer'}}",
     .shown = "array of integers", .doc = "requests by their time to the first byte"},
};

static const struct api_field api_error_rows[] = {
    {"message", API_STRING, .required = true, .doc = "what was wrong, and what to do"},
    {"type", API_STRING, .required = true},
    {"param", API_STRING, .required = true, .nullable = true,
     .doc = "the path of what is wrong: `messages[0].role`"},
    {"code", API_STRING, .required = true, .nullable = true},
};

static const struct api_field error_rows[] = {
    {"error", API_REF, .of = "ApiError", .required = true, .doc = "OpenAI's"},
    {"object", API_STRING, .required = true, .schema = "{'enum':['error']}",
     .doc = "from here on LMDeploy's"},
    {"message", API_STRING, .required = true},
    {"type", API_STRING, .required = true},
    {"param", API_STRING, .required = true, .nullable = true},
    {"code", API_INTEGER, .required = true, .doc = "the status"},
};

static const struct api_fields status = FIELDS(status_rows);
static const struct api_fields node = FIELDS(node_rows);
static const struct api_fields fleet = FIELDS(fleet_rows);
static const struct api_fields recent = FIELDS(recent_rows);
static const struct api_fields recent_sample = FIELDS(recent_sample_rows);
static const struct api_fields api_error = FIELDS(api_error_rows);
static const struct api_fields error = FIELDS(error_rows);

static const struct api_schema status_answer = {
    .name = "Status", .doc = "How the server is.", .parts = {&status}};
static const struct api_schema node_answer = {
    .name = "NodeStatus", .doc = "A node, as the proxy sees it.", .parts = {&node}};
static const struct api_schema nodes_answer = {
    .name = "NodeList",
    .doc = "The nodes by URL.",
    .schema = "{'type':'object','additionalProperties':{'$ref':"
              "'#/components/schemas/NodeStatus'}}"};
static const struct api_schema fleet_answer = {
    .name = "FleetStatus", .doc = "The proxy, its counters and its agents.", .parts = {&fleet}};
static const struct api_schema recent_answer = {.name = "RecentFigures",
                                                .doc = "What a proxy counted in the last minutes.",
                                                .parts = {&recent}};
static const struct api_schema recent_sample_schema = {
    .name = "RecentSample", .doc = "Its counters at one moment.", .parts = {&recent_sample}};
static const struct api_schema text_message = {
    .name = "TextMessage", .doc = "A sentence (LMDeploy).", .schema = "{'type':'string'}"};
static const struct api_schema any_object = {
    .name = "ForeignResponse", .doc = "What the node answers.", .schema = "{'type':'object'}"};
static const struct api_schema api_error_schema = {
    .name = "ApiError", .doc = "An error.", .parts = {&api_error}};
static const struct api_schema error_answer = {
    .name = "ErrorResponse", .doc = "Why there is no answer.", .parts = {&error}};

const struct api_schema *const api_answer_schemas[] = {
    &chat_answer,
    &chat_choice_schema,
    &assistant_schema,
    &chat_logprobs_schema,
    &token_logprob_schema,
    &top_logprob_schema,
    &chat_event,
    &chat_chunk,
    &chunk_choice_schema,
    &delta_schema,
    &call_delta_schema,
    &function_delta_schema,
    &call,
    &function_call,
    &text_answer,
    &text_event,
    &text_choice_schema,
    &text_logprobs_schema,
    &usage,
    &prompt_details,
    &completion_details,
    &turn_answer,
    &session_answer,
    &session_list_answer,
    &ended_answer,
    &encode_answer,
    &tokenize_answer,
    &prompt_answer,
    &model_answer,
    &model_list_answer,
    &status_answer,
    &node_answer,
    &nodes_answer,
    &fleet_answer,
    &recent_answer,
    &recent_sample_schema,
    &text_message,
    &any_object,
    &api_error_schema,
    &error_answer,
};
const size_t api_answer_schema_count = ARRAY_LEN(api_answer_schemas);
