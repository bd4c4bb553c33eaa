/* session_prompt.h - what a turn adds to a conversation, as token ids.
 *
 * The ids that were prompt or sampled stay as they are; the model's own template says what comes
 * between them and the next answer. It renders a placeholder conversation with the new messages
 * behind it, and what follows the placeholder's answer is the turn's part. A template that writes
 * earlier turns differently once a new one follows (one that drops their reasoning, or counts
 * them) can't be continued like that: session_template_probe finds it, and every turn is rendered
 * whole from the messages kept for it.
 *
 * Text workers; reads only immutable objects and its arguments. */
#ifndef LM_AGENT_SESSION_PROMPT_H
#define LM_AGENT_SESSION_PROMPT_H

#include <stdbool.h>

#include "agent/prompt_build.h"
#include "agent/session_history.h"

/* What is known of a model's template; made once. */
struct session_template {
    const struct prompt_context *context;
    bool is_continued; // else rendered whole
};
/* Quick: three small renderings. */
void session_template_init(struct session_template *t, const struct prompt_context *context);

struct session_prompt {
    struct token_list ids; // the whole prompt: what stays, then what is new
    int base, keep_turns;  // as in struct session_step
    bool is_full;          // there is no room for it; ids are empty, input_tokens says how many
    int64_t input_tokens;
};

/* The prompt of a turn behind the first `base` tokens of `h`. messages: the members of a JSON
 * array. -1 and *e: the template refuses them, or `base` cuts a turn of a conversation that is
 * rendered whole. session_prompt_deinit in every case. */
FALLIBLE int session_prompt_build(const struct session_template *t, const struct session_history *h,
                                  int base, const char *messages, int64_t now,
                                  struct session_prompt *out, struct api_error *e);
void session_prompt_deinit(struct session_prompt *p);

/* What a template that is rendered whole will need of a turn: its messages and its answer.
 * Appends the members of a JSON array. */
void session_prompt_print_turn(struct buf *out, const char *messages, struct str answer);

#endif
