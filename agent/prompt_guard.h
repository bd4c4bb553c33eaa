/* prompt_guard.h - text that clients put into messages can't become control tokens.
 *
 * Before a template renders messages, a mark is put in front of every special token's text that
 * stands in them (a noncharacter of Unicode, which nothing else uses); what was rendered is encoded
 * without the marks, and no special token begins where one stood. A special token that only arises
 * when a template puts two of the client's texts side by side is not seen. Any thread. */
#ifndef LM_AGENT_PROMPT_GUARD_H
#define LM_AGENT_PROMPT_GUARD_H

#include "engine/tokenizer.h"
#include "shared/base/json.h"

/* JSON text with marks in its strings; marks that were there already are taken out. */
void prompt_guard_mark(const struct tokenizer *t, struct str json, struct buf *out);
/* The same of a document: a new one, which the caller destroys. NULL and *err: too many values. */
struct json *prompt_guard_mark_json(const struct tokenizer *t, const struct json *value,
                                    struct error *err);

/* tokenizer_encode with TOKENIZER_SPECIAL and `flags` of a rendered text that may have marks. */
FALLIBLE int prompt_guard_encode(const struct tokenizer *t, struct str text, unsigned flags,
                                 struct token_list *out, struct error *err);
/* The rendered text as people may see it. */
void prompt_guard_unmark(struct buf *text);

#endif
