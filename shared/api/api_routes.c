#include "shared/api/api_routes.h"

#include "shared/base/check.h"

#define JSON    "application/json"
#define EVENTS  "text/event-stream"
#define TEXT    "text/plain"
#define HTML    "text/html"
#define BOTH    (API_AGENT | API_PROXY)
#define FOREIGN "passed to a node that has it; lm-agent has not"

const struct api_tag api_tags[] = {
    {"chat", "Conversations that the client keeps"},
    {"completions", "Text that goes on from a prompt"},
    {"dialects", "Chats in the shapes of other APIs"},
    {"conversations", "Conversations that the server keeps (LMDeploy)"},
    {"text", "Text to tokens and back; nothing is generated"},
    {"models", "What is served"},
    {"server", "Probes and figures"},
    {"fleet", "The nodes behind a proxy"},
    {"others", "Routes that a proxy passes to nodes that have them"},
    {"pages", "For people"},
};
const size_t api_tag_count = ARRAY_LEN(api_tags);

#define ANSWER(schema, doc)    \
    {                          \
        200, JSON, schema, doc \
    }
#define MODEL_ID                                                                         \
    {                                                                                    \
        {                                                                                \
            "path",                                                                      \
            {                                                                            \
                "id", API_STRING, .required = true, .doc = "may hold `/`, sent as `%2F`" \
            }                                                                            \
        }                                                                                \
    }
#define SESSION_ID                                                                        \
    {                                                                                     \
        {                                                                                 \
            "path",                                                                       \
            {                                                                             \
                "id", API_INTEGER, .range = &field_range_named_session, .required = true, \
                                   .doc = "the session's number"                          \
            }                                                                             \
        }                                                                                 \
    }
#define NODE_URL                                                                  \
    {                                                                             \
        {                                                                         \
            "query",                                                              \
            {                                                                     \
                "node_url", API_STRING, .doc = "the node, where there is no body" \
            }                                                                     \
        }                                                                         \
    }
#define FOREIGN_ROUTE(url, name, what)                                                       \
    {                                                                                        \
        "POST", url, name, "others", what,                                                   \
            .doc = FOREIGN, .daemons = API_PROXY, .request = "ForeignRequest",               \
            .answers = {ANSWER("ForeignResponse", "the node's")}, .errors = {400, 404, 413}, \
            .is_relayed = true                                                               \
    }

const struct api_route api_routes[] = {
    {"POST", "/v1/chat/completions", "create_chat_completion", "chat",
     "A chat, whole or as a stream", .daemons = BOTH, .request = "ChatCompletionRequest",
     .answers = {ANSWER("ChatCompletionResponse", "the answer"),
                 {200, EVENTS, "ChatCompletionEvent", "with `stream`"}},
     .errors = {400, 404, 409, 413, 422, 429, 499, 500, 503}, .is_relayed = true},
    {"POST", "/v1/completions", "create_completion", "completions",
     "Text that goes on from one or many prompts", .daemons = BOTH, .request = "CompletionRequest",
     .answers = {ANSWER("CompletionResponse", "the text"),
                 {200, EVENTS, "CompletionEvent", "with `stream`"}},
     .errors = {400, 404, 409, 413, 422, 429, 499, 500, 503}, .is_relayed = true},

    {"POST", "/v1/responses", "create_response", "dialects", "A chat, by OpenAI's Responses API",
     .daemons = BOTH, .request = "ResponseRequest",
     .answers = {ANSWER("Response", "the answer"), {200, EVENTS, "ResponseEvent", "with `stream`"}},
     .errors = {400, 404, 409, 413, 422, 429, 499, 500, 503}, .is_relayed = true},
    {"POST", "/v1/messages", "create_message", "dialects", "A chat, by Anthropic's Messages API",
     .daemons = BOTH, .request = "MessageRequest",
     .answers = {ANSWER("Message", "the answer"), {200, EVENTS, "MessageEvent", "with `stream`"}},
     .errors = {400, 404, 409, 413, 422, 429, 499, 500, 503}, .error = "AnthropicError",
     .is_relayed = true},
    {"POST", "/v1/messages/count_tokens", "count_message_tokens", "dialects",
     "How long a prompt is, by Anthropic's Messages API", .daemons = BOTH,
     .request = "CountTokensRequest", .answers = {ANSWER("CountTokensResponse", "its length")},
     .errors = {400, 404, 413, 429, 503}, .error = "AnthropicError", .is_relayed = true},
    {"POST", "/v1/embeddings", "create_embedding", "text", "Vectors of texts", .daemons = BOTH,
     .request = "EmbeddingsRequest", .answers = {ANSWER("EmbeddingsResponse", "the vectors")},
     .errors = {400, 404, 409, 413, 429, 499, 500, 503}, .is_relayed = true},

    {"POST", "/v1/chat/interactive", "create_turn", "conversations",
     "A turn of a conversation that the server keeps", .daemons = BOTH,
     .request = "GenerateRequest",
     .answers = {ANSWER("GenerateResponse", "the turn's answer"),
                 {200, EVENTS, NULL, "with `stream`: a [GenerateResponse] in each line"}},
     .errors = {400, 404, 409, 410, 413, 422, 429, 500, 503}, .is_relayed = true},
    {"GET", "/v1/sessions", "list_sessions", "conversations", "The conversations of whoever asks",
     .daemons = BOTH, .answers = {ANSWER("SessionList", "those that have had a turn")},
     .errors = {503}},
    {"GET", "/v1/sessions/{id}", "get_session", "conversations", "One of them", .daemons = BOTH,
     .parameters = SESSION_ID, .answers = {ANSWER("Session", "it")}, .errors = {400, 404, 503}},
    {"DELETE", "/v1/sessions/{id}", "end_session", "conversations", "End one", .daemons = BOTH,
     .parameters = SESSION_ID, .answers = {ANSWER("SessionDeleted", "it has ended")},
     .errors = {400, 404, 409, 410, 429, 500, 503, 504}},

    {"POST", "/v1/encode", "encode", "text", "Text to token ids (LMDeploy)", .daemons = BOTH,
     .request = "EncodeRequest", .answers = {ANSWER("EncodeResponse", "the ids")},
     .errors = {400, 404, 413, 429, 503}, .is_relayed = true},
    {"POST", "/tokenize", "tokenize", "text", "Text or messages to token ids (vLLM)",
     .daemons = BOTH, .request = "TokenizeRequest",
     .answers = {ANSWER("TokenizeResponse", "the ids")}, .errors = {400, 404, 413, 429, 503},
     .is_relayed = true},
    {"POST", "/detokenize", "detokenize", "text", "Token ids to text (vLLM)", .daemons = BOTH,
     .request = "DetokenizeRequest", .answers = {ANSWER("PromptResponse", "the text")},
     .errors = {400, 404, 413, 429, 503}, .is_relayed = true},
    {"POST", "/apply-template", "apply_template", "text", "Messages to a prompt (llama.cpp)",
     .daemons = BOTH, .request = "ApplyTemplateRequest",
     .answers = {ANSWER("PromptResponse", "the prompt")}, .errors = {400, 404, 413, 429, 503},
     .is_relayed = true},

    {"GET", "/v1/models", "list_models", "models", "The served models", .daemons = BOTH,
     .answers = {ANSWER("ModelList", "those that the key may use")}},
    {"GET", "/v1/models/{id}", "get_model", "models", "One of them", .daemons = BOTH,
     .parameters = MODEL_ID, .answers = {ANSWER("Model", "it")}, .errors = {400, 404}},

    {"GET", "/health", "get_health", "server", "Is the process worth keeping?", .daemons = BOTH,
     .answers = {ANSWER("Status", "it is"), {503, JSON, "Status", "it is not"}}, .is_open = true},
    {"GET", "/ready", "get_ready", "server", "Are requests taken?", .daemons = BOTH,
     .answers = {ANSWER("Status", "they are"), {503, JSON, "Status", "they are not"}},
     .is_open = true},
    {"GET", "/metrics", "get_metrics", "server", "Figures for Prometheus", .daemons = BOTH,
     .answers = {{200, TEXT, NULL, "Prometheus text, version 0.0.4"}}, .is_open = true},

    {"POST", "/abort_request", "abort_request", "server", "End requests that run (LMDeploy)",
     .doc = "With `--enable-abort-handling`.", .daemons = BOTH, .request = "AbortRequest",
     .answers = {{200, NULL, NULL, "they end"},
                 {501, TEXT, NULL, "this server was started without the option"}},
     .errors = {400, 404, 413, 503}},
    {"GET", "/terminate", "get_terminate", "server", "End the agent (LMDeploy)",
     .doc = "With `--allow-terminate-by-client`.", .daemons = API_AGENT,
     .answers = {{200, NULL, NULL, "it drains, then it ends"}}, .errors = {400, 403, 503}},
    {"POST", "/terminate", "terminate", "server", "End the agent (LMDeploy)",
     .doc = "With `--allow-terminate-by-client`.", .daemons = API_AGENT,
     .answers = {{200, NULL, NULL, "it drains, then it ends"}}, .errors = {400, 403, 503}},

    {"GET", "/lm/status", "get_fleet_status", "fleet", "The proxy, its counters and its agents",
     .daemons = API_PROXY, .answers = {ANSWER("FleetStatus", "the moment")}, .is_open = true},
    {"GET", "/lm/recent", "get_recent", "fleet", "Figures of the last ten minutes",
     .doc = "For the dashboard; any version may change it.", .daemons = API_PROXY,
     .answers = {ANSWER("RecentFigures", "oldest first")}, .is_open = true},
    {"GET", "/lm/prefixes", "list_prefixes", "fleet", "Which beginnings of prompts are cached",
     .doc = "For the proxies of the fleet; any version may change it.", .daemons = API_AGENT,
     .parameters = {{"query",
                     {"since", API_INTEGER, .range = &field_range_count, .def = "0",
                      .doc = "the version that the proxy has"}}},
     .answers = {{200, TEXT, NULL, "a line with versions, then a line for each change"}},
     .errors = {400, 403, 503}, .is_open = true},
    {"GET", "/nodes/status", "list_nodes", "fleet", "The nodes of a proxy (LMDeploy)",
     .daemons = API_PROXY, .answers = {ANSWER("NodeList", "by URL")}, .is_open = true},
    {"POST", "/nodes/add", "add_node", "fleet", "Add a node (LMDeploy)",
     .doc = "With `--join-key` it is wanted in `x-lm-join-key`.", .daemons = API_PROXY,
     .request = "AddNodeRequest",
     .answers = {ANSWER("TextMessage", "it was added"),
                 {502, JSON, "ForeignResponse", "the node doesn't say what it serves"}},
     .errors = {400, 401, 403, 409, 413, 503}, .is_open = true},
    {"POST", "/nodes/remove", "remove_node", "fleet", "Forget a node (LMDeploy)",
     .doc = "For who has the admin key, or asks from the proxy's machine.", .daemons = API_PROXY,
     .parameters = NODE_URL, .request = "NodeUrlRequest", .body_optional = true,
     .answers = {ANSWER("TextMessage", "it was removed"),
                 {404, JSON, "TextMessage", "there is none"}},
     .errors = {400, 403}, .is_open = true},
    {"POST", "/nodes/terminate", "terminate_node", "fleet", "End a node's process (LMDeploy)",
     .doc = "For who has the admin key, or asks from the proxy's machine.", .daemons = API_PROXY,
     .parameters = NODE_URL, .request = "NodeUrlRequest", .body_optional = true,
     .answers = {ANSWER("TextMessage", "it ends"), {502, JSON, "TextMessage", "it doesn't"}},
     .errors = {400, 403}, .is_open = true},
    {"POST", "/nodes/terminate_all", "terminate_all_nodes", "fleet",
     "End the processes of all nodes (LMDeploy)",
     .doc = "For who has the admin key, or asks from the proxy's machine.", .daemons = API_PROXY,
     .answers = {ANSWER("TextMessage", "they end"), {502, JSON, "TextMessage", "some don't"}},
     .errors = {403}, .is_open = true},
    {"GET", "/nodes/terminate_all", "get_terminate_all_nodes", "fleet",
     "The same, as older clients ask (LMDeploy)",
     .doc = "For who has the admin key, or asks from the proxy's machine.", .daemons = API_PROXY,
     .answers = {ANSWER("TextMessage", "they end"), {502, JSON, "TextMessage", "some don't"}},
     .errors = {403}, .is_open = true},

    FOREIGN_ROUTE("/v1/rerank", "create_rerank", "Reranking (Jina, vLLM)"),
    FOREIGN_ROUTE("/v1/score", "create_score", "Scores (vLLM)"),
    FOREIGN_ROUTE("/pooling", "create_pooling", "Pooling (vLLM, LMDeploy)"),

    {"GET", "/chat", "get_chat_page", "pages", "Talk to a model", .daemons = BOTH,
     .answers = {{200, HTML, NULL, "a page"}}, .is_open = true, .is_page = true},
    {"GET", "/dashboard", "get_dashboard", "pages", "The fleet, live", .daemons = API_PROXY,
     .answers = {{200, HTML, NULL, "a page"}}, .is_open = true, .is_page = true},
    {"GET", "/web/{file}", "get_web_file", "pages", "What pages load", .daemons = BOTH,
     .answers = {{200, HTML, NULL, "a file"}}, .errors = {404}, .is_open = true, .is_page = true},
    {"GET", "/", "get_explorer", "pages", "Every route, to read and to try out", .daemons = BOTH,
     .answers = {{200, HTML, NULL, "Swagger UI"}}, .is_open = true, .is_page = true},
    {"GET", "/explorer/{file}", "get_explorer_file", "pages", "What that page loads",
     .daemons = BOTH, .answers = {{200, HTML, NULL, "a file"}}, .errors = {404}, .is_open = true,
     .is_page = true},
    {"GET", "/redoc", "get_reference", "pages", "This reference", .daemons = BOTH,
     .answers = {{200, HTML, NULL, "a page"}}, .is_open = true, .is_page = true},
    {"GET", "/openapi.json", "get_openapi", "pages", "This reference for programs: OpenAPI 3.1",
     .daemons = BOTH, .answers = {{200, JSON, NULL, "OpenAPI 3.1"}}, .is_open = true,
     .is_page = true},
};
const size_t api_route_count = ARRAY_LEN(api_routes);

/* Ascending. */
static const struct {
    int status;
    const char *meaning;
} statuses[] = {
    {400, "the request is wrong: no JSON, or a member that can't be"},
    {401, "the server has keys, and the request shows none of them"},
    {403, "only the fleet, or an administrator, may"},
    {404, "no such model, session or route"},
    {409, "another attempt or turn is in the way"},
    {410, "the session was here and is gone"},
    {413, "the body is too large"},
    {414, "the URL is longer than 8 KiB"},
    {422, "this answer can't go on at another agent"},
    {429, "too many requests at once, or within a minute"},
    {431, "the headers are larger than 32 KiB, or more than 100"},
    {499, "ended by /abort_request before there was an answer"},
    {500, "the server failed on this request"},
    {502, "the agent was lost"},
    {503, "not now: loading, draining, or nobody had room in time"},
    {504, "the agent didn't answer in time"},
};

const char *api_status_find(int status)
{
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        if (statuses[i].status == status) return statuses[i].meaning;
    }
    return NULL;
}

static bool gives(const struct api_route *r, enum api_daemon daemon, int status)
{
    for (int i = 0; i < API_ERRORS_MAX && r->errors[i]; i++) {
        if (r->errors[i] == status) return true;
    }
    switch (status) {
    case 414:
    case 431:
        return true;
    case 401:
        return !r->is_open;
    case 503:
        return daemon == API_PROXY && !r->is_open; // keys that haven't been read yet
    case 429:
    case 502:
    case 504:
        return daemon == API_PROXY && r->is_relayed;
    default:
        return false;
    }
}

int api_route_errors(const struct api_route *r, enum api_daemon daemon,
                     int out[API_ROUTE_ERRORS_MAX])
{
    int count = 0;
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        if (gives(r, daemon, statuses[i].status)) out[count++] = statuses[i].status;
    }
    return count;
}
