/* model_card.h - an entry of GET /v1/models, the same from agents and proxies. */
#ifndef LM_NET_MODEL_CARD_H
#define LM_NET_MODEL_CARD_H

#include "shared/base/json.h"
#include "shared/base/str.h"

/* OpenAI's four members, LMDeploy's three (old tools look into `permission`), and vLLM's
 * max_model_len unless it is 0. created_s: Unix time. */
void model_card_print(struct json_writer *w, struct str name, int64_t created_s, int max_model_len);

#endif
