/* reply_formats.h - in which forms this model thinks and calls tools: chosen once, at start. Immutable
 * afterwards: any thread. */
#ifndef LM_AGENT_REPLY_FORMATS_H
#define LM_AGENT_REPLY_FORMATS_H

#include "agent/reasoning_format.h"
#include "agent/tool_format.h"
#include "engine/chat_template.h"
#include "engine/engine.h"
#include "engine/tokenizer.h"

#define REPLY_PARSER_NONE    "none" // of --tool-call-parser and --reasoning-parser: turned off
#define REPLY_GENERIC_FORMAT "hermes"

struct reply_formats {
    const struct tool_format *tools;          // NULL: calls aren't looked for
    const struct reasoning_format *reasoning; // NULL: nor is reasoning
    /* The chat template shows tools; calls that were made. Else messages have to (tool_prompt.h). */
    bool template_has_tools, template_has_calls;
    /* Special tokens that the parsers have to see, reasoning's first. */
    int32_t shown[SHOWN_TOKENS_MAX];
    int shown_count, shown_reasoning;
};

/* Parsers by name, known ones (or REPLY_PARSER_NONE); NULL: by the template. Calls of models whose
 * format is unknown are written and read as Hermes' are: what most are trained on, one way or other. */
void reply_formats_init(struct reply_formats *f, const char *tool_parser,
                        const char *reasoning_parser, const struct chat_template *chat_template,
                        const struct tokenizer *tokenizer);

#endif
