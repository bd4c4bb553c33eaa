/* template_fields.h - the members of a chat request that become variables of its chat template:
 * chat_template_kwargs, and those that stand for some of them. Pure; any thread. */
#ifndef LM_AGENT_TEMPLATE_FIELDS_H
#define LM_AGENT_TEMPLATE_FIELDS_H

#include "shared/base/json.h"
#include "shared/net/api_error.h"

struct template_fields {
    const struct json *kwargs; // an object, or NULL; borrowed from the body, or `merged`
    struct json *merged;       // owned
    int thinking;              // 1, 0: turned on or off; -1: nothing is said
};

/* enable_thinking and reasoning_effort become variables of their names, `thinking` what enable_thinking
 * is (templates use either); an effort of "none" turns thinking off. Where chat_template_kwargs says
 * one of them, that counts. 0, or -1 and *e; template_fields_deinit in any case. */
FALLIBLE int template_fields_parse(const struct json *body, struct template_fields *out,
                                   struct api_error *e);
void template_fields_deinit(struct template_fields *f); // zeroed is fine

#endif
