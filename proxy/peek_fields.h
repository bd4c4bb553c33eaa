/* peek_fields.h - the members of a request body that the router reads, by where they stand. Pure. */
#ifndef LM_PROXY_PEEK_FIELDS_H
#define LM_PROXY_PEEK_FIELDS_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/str.h"

#define PEEK_NAME_BYTES 24 // of the longest name

/* What an open level of the JSON is to us. */
enum peek_place {
    PEEK_PLACE_SKIP,
    PEEK_PLACE_TOP,          // the outermost object
    PEEK_PLACE_LIST,         // messages, prompts or token ids
    PEEK_PLACE_MESSAGE,      // an object in LIST
    PEEK_PLACE_PARTS,        // its content as an array
    PEEK_PLACE_PART,         // an object in PARTS
    PEEK_PLACE_TOKENS,       // an array in LIST
    PEEK_PLACE_CONVERSATION, // the object of that name
    PEEK_PLACE_SIDE,         // inside a value that is hashed whole
};

/* At most 64: their bits stand in one word. The numbers of options and members of messages are part
 * of the hashes that all proxies of a fleet must agree on: new ones go to the end of their group. */
enum peek_field {
    PEEK_FIELD_OTHER,

    PEEK_FIELD_MODEL,
    PEEK_FIELD_STREAM,
    PEEK_FIELD_N,
    PEEK_FIELD_BEST_OF,
    PEEK_FIELD_MAX_TOKENS, // four names for it, of which more than one may stand there
    PEEK_FIELD_MAX_COMPLETION_TOKENS,
    PEEK_FIELD_REQUEST_OUTPUT_LEN,
    PEEK_FIELD_SESSION_ID,
    PEEK_FIELD_CONVERSATION,
    PEEK_FIELD_PREVIOUS_RESPONSE_ID,
    PEEK_FIELD_PROMPT_CACHE_KEY,
    PEEK_FIELD_USER,
    PEEK_FIELD_INTERACTIVE_MODE,
    PEEK_FIELD_CANCEL,
    PEEK_FIELD_PRIORITY,
    PEEK_FIELD_MESSAGES,
    PEEK_FIELD_PROMPT,
    PEEK_FIELD_INPUT,
    PEEK_FIELD_MAX_OUTPUT_TOKENS,

    /* options: they change what the model reads before the conversation, or whose it is */
    PEEK_FIELD_TOOLS = 20,
    PEEK_FIELD_FUNCTIONS,
    PEEK_FIELD_DOCUMENTS,
    PEEK_FIELD_IMAGE_URLS, // LMDeploy's, beside the prompt
    PEEK_FIELD_CHAT_TEMPLATE,
    PEEK_FIELD_CHAT_TEMPLATE_KWARGS,
    PEEK_FIELD_REASONING_EFFORT,
    PEEK_FIELD_ENABLE_THINKING,
    PEEK_FIELD_ADAPTER_NAME,
    PEEK_FIELD_CACHE_SALT,
    PEEK_FIELD_INSTRUCTIONS, // Responses: what the system says
    PEEK_FIELD_SYSTEM,       // Messages: likewise

    /* of a message */
    PEEK_FIELD_ROLE = 36,
    PEEK_FIELD_CONTENT, // and of a part
    PEEK_FIELD_NAME,
    PEEK_FIELD_TOOL_CALLS,
    PEEK_FIELD_TOOL_CALL_ID,
    PEEK_FIELD_FUNCTION_CALL,
    PEEK_FIELD_REASONING,
    PEEK_FIELD_CALL_ID, // of an item of Responses, like the next
    PEEK_FIELD_ARGUMENTS,
    PEEK_FIELD_OUTPUT,

    /* of a part */
    PEEK_FIELD_TEXT = 48,
    PEEK_FIELD_IMAGE,
    PEEK_FIELD_OTHER_MEDIA,

    PEEK_FIELD_ID = 56, // of a conversation
};

enum peek_field peek_field_find(enum peek_place place, struct str name);

static inline bool peek_field_is_option(enum peek_field f)
{
    return f >= PEEK_FIELD_TOOLS && f <= PEEK_FIELD_SYSTEM;
}

/* An option whose text the model reads. */
static inline bool peek_field_is_read(enum peek_field f)
{
    return (f >= PEEK_FIELD_TOOLS && f <= PEEK_FIELD_DOCUMENTS) || f == PEEK_FIELD_INSTRUCTIONS ||
           f == PEEK_FIELD_SYSTEM;
}

/* Of a message, and hashed whole. */
static inline bool peek_field_is_member(enum peek_field f)
{
    return f >= PEEK_FIELD_NAME && f <= PEEK_FIELD_OUTPUT;
}

static inline bool peek_field_is_media(enum peek_field f)
{
    return f == PEEK_FIELD_IMAGE || f == PEEK_FIELD_OTHER_MEDIA;
}

/* A JSON number that is a whole one of at most 53 bits, however it is written (5, 5.0, 5e0). */
bool peek_number_is_integer(struct str raw, int64_t *value);

#endif
