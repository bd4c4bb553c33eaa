/* api_requests.c - what requests hold. Rows stand in the order in which people look for them. */
#include "shared/api/api_tables.h"

/* ---- what all routes that generate share ---- */

/* Where it says "the model", that is its generation_config.json; a value here would be sent by generated
 * clients whether their user wants it or not. */
static const struct api_field sampling_rows[] = {
    {"temperature", API_NUMBER, .range = &field_range_temperature, .def = "the model's, or 1",
     .doc = "0 takes the most likely token, ties to the lowest id"},
    {"top_p", API_NUMBER, .range = &field_range_top_p, .def = "the model's, or 1",
     .doc = "the most likely tokens that have this share together; at least one is kept, so 0 is "
            "greedy too"},
    {"top_k", API_INTEGER, .range = &field_range_top_k, .def = "the model's, or 0",
     .doc = "so many of the most likely tokens; 0 is off"},
    {"min_p", API_NUMBER, .range = &field_range_share, .def = "the model's, or 0",
     .doc = "tokens that have at least this share of the most likely one's probability"},
};

static const struct api_field drawing_rows[] = {
    {"seed", API_INTEGER, .schema = "{'format':'int64'}", .shown = "64-bit integer",
     .def = "random",
     .doc = "the same request with the same seed gives the same text, whatever runs beside it"},
    {"presence_penalty", API_NUMBER, .range = &field_range_penalty, .def = "0",
     .doc = "taken off the logit of each token that the answer has already"},
    {"frequency_penalty", API_NUMBER, .range = &field_range_penalty, .def = "0",
     .doc = "the same, times how often the answer has it"},
    {"repetition_penalty", API_NUMBER, .range = &field_range_repetition_penalty,
     .def = "the model's, or 1",
     .doc = "divides positive logits of all tokens that prompt or answer have, multiplies negative "
            "ones"},
    {"logit_bias", API_OBJECT,
     .schema = "{'additionalProperties':{'type':'number','minimum':-100,'maximum':100},"
               "'maxProperties':" TEXT(FIELD_LOGIT_BIAS_MAX) "}",
     .shown = "object: token id to -100..100, at most " TEXT(FIELD_LOGIT_BIAS_MAX),
     .doc = "added to the token's logit before all else; -100 bans, 100 forces"},
    {"min_new_tokens", API_INTEGER, .range = &field_range_count, .def = "0",
     .doc = "no stop of any kind before"},
    {"stop", API_UNION,
     .schema = UNION("{'type':'string','minLength':1}," LIST(
         "Stops", "{'type':'string','minLength':1}",
         ",'minItems':1,'maxItems':" TEXT(FIELD_STOPS_MAX)) "," NULL_TYPE),
     .shown = "string, or 1.." TEXT(FIELD_STOPS_MAX) " of them, each 1.." TEXT(
         FIELD_STOP_BYTES_MAX) " bytes",
     .doc = "matched in the text, across tokens; never part of the answer"},
    {"stop_token_ids", API_ARRAY,
     .schema = "{'items':{'type':'integer','minimum':0},'maxItems':" TEXT(FIELD_STOP_IDS_MAX) "}",
     .shown = "at most " TEXT(FIELD_STOP_IDS_MAX) " token ids",
     .doc = "more tokens that end the answer"},
    {"ignore_eos", API_BOOLEAN, .def = "false", .doc = "run to the length limit"},
    {"skip_special_tokens", API_BOOLEAN, .def = "true",
     .doc = "leave special tokens out of the text"},
    {"priority", API_INTEGER, .range = &field_range_priority, .def = "0",
     .doc = "among requests that wait, lower ones go first"},
};

static const struct api_field output_rows[] = {
    {"n", API_INTEGER, .range = &field_range_n, .def = "1",
     .doc = "independent answers to one prompt, which is computed once"},
    {"stream", API_BOOLEAN, .def = "false", .doc = "server-sent events instead of one object"},
    {"stream_options", API_REF, .of = "StreamOptions", .doc = "only with `stream`"},
    {"return_token_ids", API_BOOLEAN, .def = "false",
     .doc = "`token_ids` in each choice, and `prompt_token_ids`"},
    {"session_id", API_INTEGER, .range = &field_range_session_id, .def = "-1",
     .doc = "LMDeploy's; these routes keep no history, but an id that a conversation has open is "
            "refused"},
    {"user", API_STRING, .doc = "taken and ignored"},
};

static const struct api_fields sampling = FIELDS(sampling_rows);
static const struct api_fields drawing = FIELDS(drawing_rows);
static const struct api_fields output = FIELDS(output_rows);

/* ---- chats ---- */

static const struct api_field chat_rows[] = {
    {"model", API_STRING, .required = true, .doc = "the served model's name"},
    {"messages", API_UNION, .required = true,
     .schema = UNION(LIST("Messages", REFERENCE("ChatMessage"), ",'minItems':1") "," STRING_TYPE),
     .shown = "array of at least 1 [ChatMessage], or a string",
     .doc = "a string is a raw prompt that no template touches (LMDeploy)"},
    {"max_completion_tokens", API_INTEGER, .range = &field_range_positive,
     .def = "what the context leaves", .doc = "more than the context leaves is cut"},
    {"max_tokens", API_INTEGER, .range = &field_range_positive, .def = "what the context leaves",
     .doc = "the older name; `max_completion_tokens` wins"},
    {"logprobs", API_BOOLEAN, .def = "false",
     .doc = "an entry in `logprobs.content` for each token of the text"},
    {"top_logprobs", API_INTEGER, .range = &field_range_top_logprobs, .def = "0",
     .doc = "with `logprobs`: the likeliest tokens beside"},
    {"response_format", API_REF, .of = "ResponseFormat",
     .doc = "what the text must be, enforced token by token"},
    {"tools", API_ARRAY, .of = "Tool", .schema = "{'maxItems':" TEXT(FIELD_TOOLS_MAX) "}",
     .doc = "functions that the model may call"},
    {"tool_choice", API_UNION,
     .schema = UNION("{'type':'string','enum':['none','auto','required']}," REFERENCE(
         "ToolChoice") "," REFERENCE("AllowedToolsChoice") "," NULL_TYPE),
     .shown = "`none`, `auto`, `required`, a [ToolChoice], or an [AllowedToolsChoice]",
     .def = "`auto` with tools, else `none`", .doc = "whether it may, must or must not call one"},
    {"parallel_tool_calls", API_BOOLEAN, .def = "true", .doc = "false: at most one call"},
    {"reasoning_effort", API_STRING,
     .schema = "{'enum':['none','minimal','low','medium','high','xhigh','max']}",
     .doc = "passed to the chat templates that know it; `none` turns thinking off"},
    {"enable_thinking", API_BOOLEAN, .doc = "passed to the chat templates that know it"},
    {"chat_template_kwargs", API_OBJECT,
     .doc = "its members become variables of the chat template"},
};

static const struct api_field message_rows[] = {
    {"role", API_STRING, .required = true,
     .schema = "{'enum':['system','developer','user','assistant','tool','function',"
               "'environment']}",
     .doc = "`developer` is treated as `system`"},
    {"content", API_UNION,
     .schema = UNION(STRING_TYPE
                     "," LIST("Parts", REFERENCE("ContentPart"), ",'minItems':1") "," NULL_TYPE),
     .shown = "string, array of [ContentPart], or null",
     .doc = "only an assistant's may be absent; parts are joined with nothing between them"},
    {"reasoning_content", API_STRING, .doc = "what an assistant thought before it answered"},
    {"tool_calls", API_ARRAY, .of = "ToolCall", .doc = "what an assistant called"},
    {"tool_call_id", API_STRING, .doc = "required with the role `tool`"},
    {"name", API_STRING, .doc = "required with the role `function`"},
};

static const struct api_field part_rows[] = {
    {"type", API_STRING, .required = true, .schema = "{'enum':['text','refusal']}",
     .doc = "`refusal` is for assistants. The models take text: images, audio and files are "
            "refused"},
    {"text", API_STRING, .doc = "of a `text` part"},
    {"refusal", API_STRING, .doc = "of a `refusal` part"},
};

static const struct api_field tool_rows[] = {
    {"type", API_STRING, .required = true, .schema = "{'enum':['function']}"},
    {"function", API_REF, .of = "Function", .required = true},
};

static const struct api_field function_rows[] = {
    {"name", API_STRING, .required = true, .schema = "{'pattern':'^[a-zA-Z0-9_-]{1,64}$'}"},
    {"description", API_STRING, .doc = "what it is for, in words for the model"},
    {"parameters", API_OBJECT, .doc = "a JSON Schema of its arguments"},
    {"strict", API_BOOLEAN, .def = "false", .doc = "arguments follow the schema to the letter"},
};

static const struct api_field choice_rows[] = {
    {"type", API_STRING, .required = true, .schema = "{'enum':['function']}"},
    {"function", API_REF, .of = "ToolChoiceFuncName", .required = true},
};

static const struct api_field allowed_choice_rows[] = {
    {"type", API_STRING, .required = true, .schema = "{'enum':['allowed_tools']}"},
    {"allowed_tools", API_REF, .of = "AllowedTools", .required = true},
};

static const struct api_field allowed_rows[] = {
    {"mode", API_STRING, .required = true, .schema = "{'enum':['auto','required']}"},
    {"tools", API_ARRAY, .of = "ToolChoice", .schema = "{'minItems':1}", .required = true},
};

static const struct api_field choice_name_rows[] = {
    {"name", API_STRING, .required = true, .doc = "the one that has to be called"},
};

static const struct api_field stream_rows[] = {
    {"include_usage", API_BOOLEAN, .def = "false",
     .doc = "one more chunk at the end, with `usage`"},
};

static const struct api_field format_rows[] = {
    {"type", API_STRING, .required = true,
     .schema = "{'enum':['text','json_object','json_schema','regex_schema']}"},
    {"json_schema", API_REF, .of = "JsonSchema", .doc = "with `json_schema`"},
    {"regex_schema", API_STRING,
     .doc = "with `regex_schema` (LMDeploy): a regular expression that the whole answer matches"},
};

static const struct api_field json_schema_rows[] = {
    {"name", API_STRING, .required = true, .schema = "{'pattern':'^[a-zA-Z0-9_-]{1,64}$'}"},
    {"description", API_STRING, .doc = "taken and ignored"},
    {"schema", API_OBJECT, .doc = "JSON Schema, drafts 4 to 2020-12; without it any JSON object"},
    {"strict", API_BOOLEAN, .doc = "schemas are enforced either way"},
};

static const struct api_fields chat = FIELDS(chat_rows);
static const struct api_fields message = FIELDS(message_rows);
static const struct api_fields part = FIELDS(part_rows);
static const struct api_fields tool = FIELDS(tool_rows);
static const struct api_fields function = FIELDS(function_rows);
static const struct api_fields choice = FIELDS(choice_rows);
static const struct api_fields allowed_choice = FIELDS(allowed_choice_rows);
static const struct api_fields allowed = FIELDS(allowed_rows);
static const struct api_fields choice_name = FIELDS(choice_name_rows);
static const struct api_fields stream = FIELDS(stream_rows);
static const struct api_fields format = FIELDS(format_rows);
static const struct api_fields json_schema = FIELDS(json_schema_rows);

static const struct api_schema chat_request = {
    .name = "ChatCompletionRequest",
    .doc = "A conversation to go on with. Members that aren't listed are ignored.",
    .parts = {&chat, &sampling, &drawing, &output},
    .example = "{'model':'$MODEL','messages':[{'role':'user','content':'Hello! How are you?'}],"
               "'max_tokens':32}",
    .null_is_absent = true,
};
static const struct api_schema message_schema = {
    .name = "ChatMessage", .doc = "One message of a conversation.", .parts = {&message}};
static const struct api_schema part_schema = {
    .name = "ContentPart", .doc = "A part of a message.", .parts = {&part}};
static const struct api_schema tool_schema = {
    .name = "Tool", .doc = "A function that the model may call.", .parts = {&tool}};
static const struct api_schema function_schema = {.name = "Function",
                                                  .doc = "Its name and arguments.",
                                                  .parts = {&function},
                                                  .null_is_absent = true};
static const struct api_schema choice_schema = {
    .name = "ToolChoice", .doc = "The one tool that has to be called.", .parts = {&choice}};
static const struct api_schema allowed_choice_schema = {
    .name = "AllowedToolsChoice", .doc = "Some of the tools alone.", .parts = {&allowed_choice}};
static const struct api_schema allowed_schema = {
    .name = "AllowedTools", .doc = "Which ones.", .parts = {&allowed}};
static const struct api_schema choice_name_schema = {
    .name = "ToolChoiceFuncName", .doc = "Names a function.", .parts = {&choice_name}};
static const struct api_schema stream_schema = {.name = "StreamOptions",
                                                .doc = "What a stream shows beside the text.",
                                                .parts = {&stream},
                                                .null_is_absent = true};
static const struct api_schema format_schema = {.name = "ResponseFormat",
                                                .doc = "What the text must be.",
                                                .parts = {&format},
                                                .null_is_absent = true};
static const struct api_schema json_schema_schema = {.name = "JsonSchema",
                                                     .doc = "A schema with its name.",
                                                     .parts = {&json_schema},
                                                     .null_is_absent = true};

/* ---- completions ---- */

static const struct api_field text_rows[] = {
    {"model", API_STRING, .required = true, .doc = "the served model's name"},
    {"prompt", API_UNION, .required = true,
     .schema = UNION(
         STRING_TYPE
         "," LIST("Texts", STRING_TYPE, ",'minItems':1,'maxItems':" TEXT(FIELD_PROMPTS_MAX)) "," LIST(
             "Tokens", TOKEN_TYPE,
             ",'minItems':1") "," LIST("TokenLists", LIST("Tokens", TOKEN_TYPE, ",'minItems':1"),
                                       ",'minItems':1,'maxItems':" TEXT(
                                           FIELD_PROMPTS_MAX)) "," NULL_TYPE),
     .shown = "string, token ids, or up to " TEXT(FIELD_PROMPTS_MAX) " of either in an array",
     .doc = "null or an empty string begins a document"},
    {"max_tokens", API_INTEGER, .range = &field_range_count, .def = "16",
     .doc = "0 generates nothing: with `echo` and `logprobs` it scores the prompt"},
    {"logprobs", API_INTEGER, .range = &field_range_text_logprobs,
     .doc = "log-probabilities of the tokens, and of that many of the likeliest ones"},
    {"echo", API_BOOLEAN, .def = "false", .doc = "the text begins with the prompt"},
    {"best_of", API_INTEGER, .range = &field_range_best_of, .def = "as many as `n`",
     .doc = "so many answers are made, and the `n` likeliest a token are given"},
    {"suffix", API_STRING, .schema = "{'maxLength':0}", .shown = "empty string",
     .doc = "no model here fills in the middle"},
};

static const struct api_fields text = FIELDS(text_rows);

static const struct api_schema text_request = {
    .name = "CompletionRequest",
    .doc = "Text to go on with, or several of them.",
    .parts = {&text, &sampling, &drawing, &output},
    .example = "{'model':'$MODEL','prompt':'two steps to build a house:','max_tokens':32}",
    .null_is_absent = true,
};

/* ---- conversations ---- */

static const struct api_field interactive_rows[] = {
    {"prompt", API_UNION, .required = true,
     .schema = UNION(STRING_TYPE "," LIST("Messages", REFERENCE("ChatMessage"), "")),
     .shown = "string, or array of [ChatMessage]",
     .doc = "a user's turn. A list begins a session with that history, or adds those messages"},
    {"session_id", API_INTEGER, .range = &field_range_session_id, .def = "-1",
     .doc = "-1 makes one up that nobody has; it is in the header `x-lm-session-id`"},
    {"interactive_mode", API_BOOLEAN, .def = "false",
     .doc = "true keeps the turn; false answers with the history there is, then ends the session"},
    {"stream", API_BOOLEAN, .def = "false", .doc = "lines of JSON instead of one object"},
    {"request_output_len", API_INTEGER, .range = &field_range_count,
     .def = "what the context leaves",
     .doc = "most tokens of the answer; 0 samples nothing: the prompt alone becomes history"},
    {"cancel", API_BOOLEAN, .def = "false",
     .doc = "stops the turn that runs on `session_id`; answers zeros"},
    {"rewind_to", API_INTEGER, .range = &field_range_count,
     .doc = "first forget what is behind that many tokens"},
    {"fork_of", API_INTEGER, .range = &field_range_named_session,
     .doc = "a session without history begins as a copy of that one"},
    {"model", API_STRING, .def = "the only one",
     .doc = "may be left out where one model is served"},
    {"adapter_name", API_STRING, .schema = "{'maxLength':0}", .shown = "empty string",
     .doc = "LMDeploy's; there are no adapters here"},
};

static const struct api_field interactive_sampling_rows[] = {
    {"temperature", API_NUMBER, .range = &field_range_temperature, .def = "0.8",
     .doc = "0 takes the most likely token"},
    {"top_p", API_NUMBER, .range = &field_range_top_p_positive, .def = "0.8",
     .doc = "the most likely tokens that have this share together"},
    {"top_k", API_INTEGER, .range = &field_range_top_k, .def = "40",
     .doc = "so many of the most likely tokens; 0 is off"},
    {"min_p", API_NUMBER, .range = &field_range_share, .def = "0",
     .doc = "tokens that have at least this share of the most likely one's probability"},
};

static const struct api_fields interactive = FIELDS(interactive_rows);
static const struct api_fields interactive_sampling = FIELDS(interactive_sampling_rows);

static const struct api_schema interactive_request = {
    .name = "GenerateRequest",
    .doc = "A turn of a conversation that the server keeps (LMDeploy).",
    .parts = {&interactive, &interactive_sampling, &drawing},
    .example = "{'prompt':'Hello! How are you?','session_id':1,'interactive_mode':true,"
               "'request_output_len':32}",
    .null_is_absent = true,
};

/* ---- text and tokens ---- */

static const struct api_field model_rows[] = {
    {"model", API_STRING, .def = "the only one",
     .doc = "may be left out at an agent; a proxy routes by it"},
};

static const struct api_field encode_rows[] = {
    {"input", API_UNION, .required = true,
     .schema = UNION(STRING_TYPE "," LIST("Texts", STRING_TYPE, "")),
     .shown = "string or array of strings"},
    {"do_preprocess", API_BOOLEAN, .def = "false",
     .doc = "the string is a user's turn, rendered by the chat template"},
    {"add_bos", API_BOOLEAN, .def = "true",
     .doc = "what the model's files put before and behind a text"},
};

static const struct api_field render_rows[] = {
    {"tools", API_ARRAY, .of = "Tool", .doc = "what the template shows to the model"},
    {"add_generation_prompt", API_BOOLEAN, .def = "true",
     .doc = "end with the header of a new assistant's turn"},
    {"chat_template_kwargs", API_OBJECT, .doc = "its members become variables of the template"},
};

static const struct api_field tokenize_rows[] = {
    {"prompt", API_STRING, .doc = "a text; or give `messages`"},
    {"messages", API_ARRAY, .of = "ChatMessage", .schema = "{'minItems':1}",
     .doc = "rendered by the chat template"},
    {"add_special_tokens", API_BOOLEAN, .def = "true for a prompt, false for messages",
     .doc = "what the model's files put before and behind a text"},
    {"return_token_strs", API_BOOLEAN, .def = "false", .doc = "the tokens' texts beside their ids"},
};

static const struct api_field detokenize_rows[] = {
    {"tokens", API_ARRAY, .required = true, .schema = "{'items':{'type':'integer','minimum':0}}",
     .shown = "array of token ids"},
};

static const struct api_field template_rows[] = {
    {"messages", API_ARRAY, .of = "ChatMessage", .required = true, .schema = "{'minItems':1}"},
};

static const struct api_fields model = FIELDS(model_rows);
static const struct api_fields encode = FIELDS(encode_rows);
static const struct api_fields render = FIELDS(render_rows);
static const struct api_fields tokenize = FIELDS(tokenize_rows);
static const struct api_fields detokenize = FIELDS(detokenize_rows);
static const struct api_fields template_fields = FIELDS(template_rows);

static const struct api_schema encode_request = {
    .name = "EncodeRequest",
    .doc = "Text to turn into token ids (LMDeploy).",
    .parts = {&encode, &model},
    .example = "{'model':'$MODEL','input':'Hello! How are you?'}",
    .null_is_absent = true};
static const struct api_schema tokenize_request = {
    .name = "TokenizeRequest",
    .doc = "Text or messages to turn into token ids (vLLM): one of `prompt` and `messages`.",
    .parts = {&tokenize, &render, &model},
    .example = "{'model':'$MODEL','prompt':'Hello! How are you?'}",
    .null_is_absent = true};
static const struct api_schema detokenize_request = {.name = "DetokenizeRequest",
                                                     .doc = "Token ids to turn into text (vLLM).",
                                                     .parts = {&detokenize, &model},
                                                     .example =
                                                         "{'model':'$MODEL','tokens':[1,2,3]}",
                                                     .null_is_absent = true};
static const struct api_schema template_request = {
    .name = "ApplyTemplateRequest",
    .doc = "Messages to render as a prompt (llama.cpp).",
    .parts = {&template_fields, &render, &model},
    .example = "{'model':'$MODEL','messages':[{'role':'user','content':'Hello!'}]}",
    .null_is_absent = true};

/* ---- what our own agents don't answer, and a proxy passes to nodes that do ---- */

static const struct api_field foreign_rows[] = {
    {"model", API_STRING, .required = true, .doc = "what the request is routed by"},
};

static const struct api_fields foreign = FIELDS(foreign_rows);

static const struct api_schema foreign_request = {
    .name = "ForeignRequest",
    .doc = "A request for a node that has the route; all members but `model` are the node's.",
    .parts = {&foreign},
    .example = "{'model':'$MODEL','input':'Hello!'}"};

/* ---- the fleet ---- */

static const struct api_field node_rows[] = {
    {"url", API_STRING, .required = true, .doc = "where the node answers"},
    {"status", API_REF, .of = "NodeModels",
     .doc = "without it the node is asked for its models first"},
    {"lm", API_OBJECT, .doc = "an agent's own record of itself, which makes this a lease"},
};

static const struct api_field node_model_rows[] = {
    {"models", API_ARRAY, .schema = "{'items':{'type':'string'}}", .shown = "array of strings"},
    {"speed", API_NUMBER, .doc = "relative to other nodes; above 0"},
};

static const struct api_field node_url_rows[] = {
    {"url", API_STRING, .required = true, .doc = "as it was added"},
};

static const struct api_fields node = FIELDS(node_rows);
static const struct api_fields node_models = FIELDS(node_model_rows);
static const struct api_fields node_url = FIELDS(node_url_rows);

static const struct api_schema node_request = {.name = "AddNodeRequest",
                                               .doc = "A server that takes requests (LMDeploy).",
                                               .parts = {&node},
                                               .example = "{'url':'http://127.0.0.1:23333'}",
                                               .null_is_absent = true};
static const struct api_schema node_models_schema = {.name = "NodeModels",
                                                     .doc = "What a node serves.",
                                                     .parts = {&node_models},
                                                     .null_is_absent = true};
static const struct api_schema node_url_request = {.name = "NodeUrlRequest",
                                                   .doc = "Names a node.",
                                                   .parts = {&node_url},
                                                   .example = "{'url':'http://127.0.0.1:23333'}"};

const struct api_schema *const api_request_schemas[] = {
    &chat_request,       &message_schema,      &part_schema,           &tool_schema,
    &function_schema,    &choice_schema,       &allowed_choice_schema, &allowed_schema,
    &choice_name_schema, &stream_schema,       &format_schema,         &json_schema_schema,
    &text_request,       &interactive_request, &encode_request,        &tokenize_request,
    &detokenize_request, &template_request,    &foreign_request,       &node_request,
    &node_models_schema, &node_url_request,
};
const size_t api_request_schema_count = ARRAY_LEN(api_request_schemas);
