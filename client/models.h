/* models.h - what GET /v1/models tells. */
#ifndef LM_CLIENT_MODELS_H
#define LM_CLIENT_MODELS_H

#include <stddef.h>

#include "client/api_client.h"
#include "shared/base/error.h"

struct model_list {
    char **names; // owned; in the server's order
    size_t count;
};

FALLIBLE int models_fetch(struct api_client *api, struct model_list *out, struct error *err);
FALLIBLE int models_parse(const char *text, size_t len, struct model_list *out, struct error *err);
void models_deinit(struct model_list *list);

/* The listed name that `word` means: equal to it, or the only one that begins with it. NULL: none,
 * or several. Borrowed from the list. */
const char *models_find(const struct model_list *list, const char *word);

/* `lm-client models`: one name a line on stdout. */
FALLIBLE int models_command(struct api_client *api, struct error *err);

#endif
