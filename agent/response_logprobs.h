/* response_logprobs.h - the "logprobs" member of a choice, in chat's form and in completions'. Pure
 * printing. */
#ifndef LM_AGENT_RESPONSE_LOGPROBS_H
#define LM_AGENT_RESPONSE_LOGPROBS_H

#include "agent/response.h"
#include "shared/base/json.h"

/* The member with its name; null where the piece covers no token of a stream. */
void response_logprobs_put(struct json_writer *w, const struct response_head *head,
                           const struct response_choice *choice);

/* Characters (not bytes) of a text, as completions' text_offset counts them. */
int64_t response_count_characters(struct str text);
/* Of the text of these tokens. */
int64_t response_scores_characters(const struct response_head *head,
                                   const struct response_scores *scores);

#endif
