/* text_log.h - prompts and outputs in the log: at trace level only, each line with the ids of its
 * request, cut where --max-log-len says. Long texts take several lines, cut between characters. */
#ifndef LM_AGENT_TEXT_LOG_H
#define LM_AGENT_TEXT_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/tokenizer.h"
#include "shared/base/str.h"

/* What may still be logged of one text. */
struct text_log {
    const char *id; // of the answer; borrowed
    int64_t left;   // characters; below 0: no bound
    int part;       // lines so far
    bool has_been_cut;
};

bool text_log_is_on(void);
/* event is a constant; request: the x-request-id. Invalid bytes count as characters. */
void text_log_write(struct text_log *l, const char *event, struct str request, struct str text);
/* Special tokens as their text. */
void text_log_tokens(struct text_log *l, const char *event, struct str request,
                     const struct tokenizer *t, const int32_t *ids, size_t count);

#endif
