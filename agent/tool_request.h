/* tool_request.h - the members of a chat request that say which tools the model may or must call: `tools`,
 * `tool_choice`, `parallel_tool_calls`. Pure; any thread. */
#ifndef LM_AGENT_TOOL_REQUEST_H
#define LM_AGENT_TOOL_REQUEST_H

#include "agent/tool_list.h"
#include "shared/base/json.h"
#include "shared/net/api_error.h"

#define TOOLS_BYTES_MAX ((size_t)1 << 20) // of all of them as JSON

struct tool_request {
    const struct json *offered; // what the template shows, borrowed from the body; NULL: none
    struct tool *items;         // owned; list's
    struct tool_list list;      // of those that may be called
    struct json **typed; // owned: schemas that didn't say themselves that they are of an object
    size_t typed_count;
};

/* 0 and *out (tool_request_deinit it), or -1 and *e; then deinit all the same. */
FALLIBLE int tool_request_parse(const struct json *body, struct tool_request *out,
                                struct api_error *e);
void tool_request_deinit(struct tool_request *r); // zeroed is fine

#endif
