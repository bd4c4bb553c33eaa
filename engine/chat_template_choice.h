/* chat_template_choice.h - which chat template a model is served with: the one that was asked for,
 * else the model's own, else LMDeploy's for a model of that name, else none. */
#ifndef LM_ENGINE_CHAT_TEMPLATE_CHOICE_H
#define LM_ENGINE_CHAT_TEMPLATE_CHOICE_H

#include "engine/chat_template.h"
#include "engine/tokenizer.h"

/* `option`: --chat-template, a file of Jinja or of LMDeploy's JSON, or the name of one of LMDeploy's
 * templates; NULL: none asked for. `own`: Jinja of the model; len 0: it has none. The template's stop
 * words become stops of the tokenizer where they are tokens. Logs a warning where roles and contents
 * are only joined. -errno, E_NOT_FOUND, E_FORMAT, E_UNSUPPORTED: *err names file, line and column. */
FALLIBLE int chat_template_choose(const char *option, struct str own, const char *model_name,
                                  struct tokenizer *tokenizer, struct chat_template **out,
                                  struct error *err);

#endif
