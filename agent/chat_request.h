/* chat_request.h - the body of POST /v1/chat/completions or /v1/completions as checked parameters.
 *
 * Ranges, defaults and error texts are OpenAI's, with LMDeploy's extra fields; docs/api.md lists
 * them. Unknown members are ignored. A known field whose feature is not built is refused only when
 * it asks for something. Pure: no clock, no I/O; any thread. */
#ifndef LM_AGENT_CHAT_REQUEST_H
#define LM_AGENT_CHAT_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/response_format.h"
#include "agent/sampling_fields.h"
#include "agent/template_fields.h"
#include "agent/tool_request.h"
#include "shared/base/json.h"
#include "shared/base/str.h"
#include "shared/net/api_error.h"

enum completion_kind { COMPLETION_CHAT, COMPLETION_TEXT };

#define PROMPTS_MAX FIELD_PROMPTS_MAX // in one completions request
#define CHOICES_MAX FIELD_CHOICES_MAX // n

/* What a request is checked against. */
struct request_limits {
    const char *model; // the served name
    int vocab_size;
    const struct sampling_params *sampling; // where a request says nothing; NULL: OpenAI's
    size_t prompts_max;                     // <= PROMPTS_MAX
    size_t choices_max; // answers in the making for one request: what the engine takes at once
};

/* How the prompt was given. */
enum prompt_form {
    PROMPT_MESSAGES, // chat: rendered by the template
    PROMPT_TEXT,     // a string: chat without template, or completions; data NULL: none was given
    PROMPT_TEXTS,    // completions: array of strings
    PROMPT_TOKENS,   // completions: array of token ids
    PROMPT_TOKEN_LISTS, // completions: array of arrays of token ids
};

struct chat_request {
    enum completion_kind kind;
    struct json *document;  // owned; what is borrowed below points into it
    struct json *rewritten; // owned; the messages in the templates' shape, or NULL: as sent

    struct str model;
    enum prompt_form form;
    struct str text;             // PROMPT_TEXT
    const struct json *messages; // PROMPT_MESSAGES
    struct template_fields template_fields;
    struct tool_request tools;  // chat
    const struct json *prompts; // PROMPT_TEXTS, _TOKENS, _TOKEN_LISTS
    size_t prompt_count;
    int n;          // choices for each prompt
    int candidates; // >= n: answers of which the n best become choices
    bool echo;      // completions: choices begin with their prompt
    bool logprobs;
    int top_logprobs; // how many of the likeliest tokens beside the drawn one

    int64_t session_id; // -1: none. LMDeploy's; these routes keep no history
    bool stream, include_usage, return_token_ids;
    bool service_tier; // was set, so that the answer names it
    char *repeats;     // of a body in another shape, what its answer repeats; owned, NULL: nothing

    struct response_format response_format; // chat
    struct sampling_fields fields;
    bool has_max_tokens;
    int max_tokens; // 0 with has_max_tokens: nothing is generated (completions only)
};

/* 0 and *out (chat_request_deinit it), or -1 and *e; nothing to free then. */
FALLIBLE int chat_request_parse(enum completion_kind kind, struct str body,
                                const struct request_limits *limits, struct chat_request *out,
                                struct api_error *e);
void chat_request_deinit(struct chat_request *r); // zeroed is fine

#endif
