/* completion_dialects.c - routes of other APIs than OpenAI's chat, whose requests become a chat's. */
#include "agent/anthropic_request.h"
#include "agent/anthropic_response.h"
#include "agent/completion.h"
#include "agent/responses_request.h"
#include "agent/responses_response.h"
#include "shared/base/check.h"

#include <stdlib.h>

typedef int convert_fn(const struct json *body, struct buf *chat, struct buf *repeats,
                       struct api_error *e);

static int parse(struct str body, const struct request_limits *limits, convert_fn *convert,
                 struct chat_request *out, struct api_error *e)
{
    struct error err = {0};
    struct buf chat, repeats;
    struct json *document = json_parse(body.data, body.len, &err);
    if (!document)
        return api_error_set(e, err.code == E_LIMIT ? 413 : 400, NULL, NULL,
                             "We could not parse the JSON body of your request: %s.", err.text);
    buf_init(&chat, BUF_MAX_INTERNAL);
    buf_init(&repeats, BUF_MAX_INTERNAL);
    int rc = convert(document, &chat, &repeats, e);
    json_destroy(document);
    if (rc == 0) rc = chat_request_parse(COMPLETION_CHAT, buf_str(&chat), limits, out, e);
    if (rc == 0 && repeats.len > 0) out->repeats = buf_detach(&repeats, NULL);
    buf_deinit(&chat);
    buf_deinit(&repeats);
    return rc;
}

static int convert_messages(const struct json *body, struct buf *chat, struct buf *repeats,
                            struct api_error *e)
{
    (void)repeats;
    return anthropic_request_to_chat(body, false, chat, e);
}

static int parse_responses(struct str body, const struct request_limits *limits,
                           struct chat_request *out, struct api_error *e)
{
    return parse(body, limits, responses_request_to_chat, out, e);
}

static int parse_messages(struct str body, const struct request_limits *limits,
                          struct chat_request *out, struct api_error *e)
{
    return parse(body, limits, convert_messages, out, e);
}

const struct completion_route completion_responses = {
    .kind = COMPLETION_CHAT,
    .id_prefix = "resp_",
    .parse = parse_responses,
    .printer = &responses_printer,
};
const struct completion_route completion_messages = {
    .kind = COMPLETION_CHAT,
    .id_prefix = "msg_",
    .parse = parse_messages,
    .printer = &anthropic_printer,
};
