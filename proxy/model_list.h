/* model_list.h - GET /v1/models and /v1/models/{id}: every model that some agent serves, once. */
#ifndef LM_PROXY_MODEL_LIST_H
#define LM_PROXY_MODEL_LIST_H

#include "shared/net/http_server.h"

void model_list_handle(struct http_exchange *x, struct str param, void *proxy);
void model_list_handle_one(struct http_exchange *x, struct str id, void *proxy);

#endif
