/* response_format.h - the field of that name: what a chat's answer has to look like.
 *
 *     {"type": "text"}                                          anything
 *     {"type": "json_object"}                                   any JSON object
 *     {"type": "json_schema", "json_schema": {"name", "schema"}}  JSON that the schema accepts
 *     {"type": "regex_schema", "regex_schema": "..."}           LMDeploy's: a text that matches as a whole
 *
 * A schema is enforced whether `strict` is set or not. */
#ifndef LM_AGENT_RESPONSE_FORMAT_H
#define LM_AGENT_RESPONSE_FORMAT_H

#include "engine/grammar_cache.h"
#include "shared/base/json.h"
#include "shared/net/api_error.h"

struct response_format {
    bool is_set; // else text
    enum grammar_kind kind;
    const struct json *schema; // of GRAMMAR_JSON_SCHEMA; borrowed from the body, like the next
    struct str regex;
};

FALLIBLE int response_format_parse(const struct json *body, struct response_format *out,
                                   struct api_error *e);
/* A reference of the caller's, NULL where any text will do. Slow where the grammar is new: for worker
 * threads. since_ms: when the wait for it began. -1 and *e: the schema is none, or asks for what can't be enforced. */
FALLIBLE int response_format_compile(const struct response_format *f, struct grammar_cache *cache,
                                     uint64_t since_ms, struct grammar **out, struct api_error *e);
/* What errors of its grammar call it. */
const char *response_format_param(const struct response_format *f);

#endif
